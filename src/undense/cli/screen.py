"""What people see: Rich tables on a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO, final

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@final
class Screen:
    """Prints to one stream, which decides how."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.console = Console(file=stream, highlight=False) if stream.isatty() else None

    def line(self, text: str = "") -> None:
        """One line of text."""
        if self.console is not None:
            self.console.print(escape(text))
        else:
            print(text, file=self.stream)

    def facts(self, values: Mapping[str, object]) -> None:
        """Names and values, aligned."""
        width = max(map(len, values), default=0)
        for name, value in values.items():
            self.line(f"{name:<{width}}  {value}")

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        title: str = "",
        words: Sequence[str] = (),
    ) -> None:
        """A table; the first column and those named in `words` are text, the others numbers."""
        texts = [i == 0 or column in words for i, column in enumerate(columns)]
        if self.console is not None:
            table = Table(title=title or None, title_justify="left")
            for column, text in zip(columns, texts, strict=True):
                justify = "left" if text else "right"
                table.add_column(column, justify=justify, overflow="fold", no_wrap=not text)
            for row in rows:
                table.add_row(*map(escape, row))
            self.console.print(table)
            return
        if title:
            self.line(title)
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = [
                f"{cell:<{width}}" if text else f"{cell:>{width}}"
                for cell, width, text in zip(row, widths, texts, strict=True)
            ]
            self.line("  ".join(cells).rstrip())
