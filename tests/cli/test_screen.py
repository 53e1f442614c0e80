"""Tables for a terminal, plain columns for a pipe."""

from __future__ import annotations

import io

from undense.cli.screen import Screen


class Terminal(io.StringIO):
    """A stream that people look at."""

    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_aligned_text() -> None:
    stream = io.StringIO()
    Screen(stream).table(("arm", "loss"), [("dense", "2.391"), ("narrow-25", "12.4")], title="t")
    assert stream.getvalue().splitlines() == [
        "t",
        "arm         loss",
        "dense      2.391",
        "narrow-25   12.4",
    ]


def test_a_terminal_gets_a_table_and_no_markup_is_lost() -> None:
    stream = Terminal()
    screen = Screen(stream)
    screen.table(("arm", "targets"), [("dense", "h.[0-3].mlp")], words=("targets",))
    screen.line("[h.0]")
    assert "h.[0-3].mlp" in stream.getvalue()
    assert "[h.0]" in stream.getvalue()
    assert "━" in stream.getvalue() or "─" in stream.getvalue()


def test_facts_are_aligned() -> None:
    stream = io.StringIO()
    Screen(stream).facts({"loss": 1.5, "perplexity": 4})
    assert stream.getvalue().splitlines() == ["loss        1.5", "perplexity  4"]
