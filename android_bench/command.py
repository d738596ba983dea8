"""How a bpnas command ends: one clear sentence and an exit code, never a traceback for a foreseeable fault."""

from __future__ import annotations

import errno
import json
from typing import Any

import click

from bpnas.android_bench.errors import BpnasError


class Command(click.Command):
    """A click command that turns bpnas errors, a full disk and Ctrl-C into a sentence and an exit code.

    Exit codes: 0 done, 1 failure, 2 wrong usage, 130 interrupted.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BpnasError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            fail("interrupted; what was done is kept, call the same command again to go on", 130)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                place = error.filename or "a file"
                fail(f"{place}: no space left on the disk; free some and call the same command again", 1)
            if error.filename is None:
                raise
            fail(f"{error.filename}: {error.strerror}", 1)


def fail(sentence: str, exit_code: int) -> None:
    """Print `sentence` on standard error and leave with `exit_code`."""
    click.echo(f"Error: {sentence}", err=True)
    raise click.exceptions.Exit(exit_code)


def print_result(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result on standard output: `result` as one JSON object for machines, else `text`."""
    click.echo(json.dumps(result, indent=2, sort_keys=True) if as_json else text)
