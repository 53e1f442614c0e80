"""How every verb runs: options in, a result out, one clear line where something is wrong."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Protocol, cast

from undense.cli.errors import INTERRUPTED, explain
from undense.cli.options import Common, UsageError, parse
from undense.cli.screen import Screen


class Options(Protocol):
    """What the options of every verb hold."""

    @property
    def common(self) -> Common: ...


class Verb(Protocol):
    """What the file of a verb offers. `run` returns plain JSON values; `ok` false in them makes the
    command fail. `show` prints the same values for people."""

    Options: type[Options]

    def run(self, options: Any) -> dict[str, Any]: ...

    def show(self, result: dict[str, Any], screen: Screen) -> None: ...


def run(name: str, argv: Sequence[str]) -> int:
    """Run the verb `name`; returns 0, 1 for an error, 2 for wrong options, 130 for Ctrl-C.

    Whatever libraries print while it works goes to stderr: stdout carries the result alone.
    """
    debug = "--debug" in argv
    try:
        verb = cast(Verb, importlib.import_module(f"undense.cli.{name.replace(' ', '_')}"))
        options = parse(verb.Options, name, argv)
        with contextlib.redirect_stdout(sys.stderr):
            result = verb.run(options)
        _print(verb, options, result)
    except SystemExit as end:  # the help was asked for
        return int(end.code or 0)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # the reader (head, less) has seen enough; keep the interpreter from flushing into nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {explain(error)}", file=sys.stderr)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0 if result.get("ok", True) else 1


def _print(verb: Verb, options: Options, result: dict[str, Any]) -> None:
    if options.common.json:
        print(json.dumps(result))
    else:
        verb.show(result, Screen(sys.stdout))
    sys.stdout.flush()
