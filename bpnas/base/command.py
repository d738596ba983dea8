"""How a bpnas command ends: one clear sentence and an exit code, never a traceback for a foreseeable fault."""

from __future__ import annotations

import difflib
import errno
import io
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bpnas.base.errors import BpnasError
from bpnas.base.files import NO_ROOM, allow_open_files, naming, what_to_do
from bpnas.base.interruption import Interrupted, orderly_end
from bpnas.base.plain_text import as_text

if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
    # Python writes as much of its cache of a module as it may, and takes that for all of it the next time.
    sys.dont_write_bytecode = True


class Option(click.Option):
    """An option under a heading of its own in the help.

    With `many` it takes all words up to the next option, as a shell's patterns give them: `--models *.onnx`.
    """

    def __init__(self, *args: Any, section: str = "Options", many: bool = False, **kwargs: Any) -> None:
        if many:
            kwargs["multiple"] = True
        super().__init__(*args, **kwargs)
        self.section, self.many = section, many


class _Context(click.Context):
    """Of a command without a name of its own, the hidden one of a `DefaultGroup`, the path is that of the group."""

    @property
    def command_path(self) -> str:
        return " ".join(super().command_path.split())


class _BpnasCommand(click.Command):
    """What `Command` and `Group` have in common."""

    context_class = _Context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.parent is None:
            _refuse_empty(args)
        greedy = {name for p in self.get_params(ctx) if isinstance(p, Option) and p.many for name in p.opts}
        return super().parse_args(ctx, _spread(args, greedy))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        _open_standard_streams()
        with _shown_as_text(), _told("standard output"):
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        if ctx.parent is not None and isinstance(ctx.parent.command, _BpnasCommand):
            return super().invoke(ctx)  # the command around this one does the rest
        _show_what_can_be_shown()
        try:
            with orderly_end(), _shown_as_text(), _told("a file"):
                allow_open_files()
                return super().invoke(ctx)
        except BpnasError as error:
            fail(str(error), error.exit_code)
        except KeyboardInterrupt as interrupt:
            exit_code = interrupt.exit_code if isinstance(interrupt, Interrupted) else 130
            fail("interrupted; what was done is kept, call the same command again to resume", exit_code)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):  # arguments are in the usage line
                section = parameter.section if isinstance(parameter, Option) else "Options"
                sections.setdefault(section, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Command(_BpnasCommand):
    """A click command that turns bpnas errors, a full disk and Ctrl-C into a sentence and an exit code.

    Exit codes: 0 done, 1 failure, 2 wrong usage, 128 + N ended by signal N (130 Ctrl-C, 143 SIGTERM).
    """


class Group(_BpnasCommand, click.Group):
    """A command with commands below it, all of them with the errors and exit codes of `Command`.

    Options of its own are refused before the name of another command, which would not see them.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        resolved = super().resolve_command(ctx, args)
        for parameter in self.params:
            if parameter.name and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"{parameter.opts[0]}: options of '{resolved[0]}' go after its name", ctx)
        return resolved

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


class DefaultGroup(Group):
    """A group that means one of its commands, the hidden one, where no other one is named; its help is that one's.

    A first word that is no file is taken for the mistyped name of a command where it looks like one, and always where
    the hidden command takes no words.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            self._refuse_mistyped(ctx, args)
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def _refuse_mistyped(self, ctx: click.Context, args: list[str]) -> None:
        if not args or args[0].startswith("-") or Path(args[0]).exists():
            return
        names = [name for name in self.commands if name != self._default]
        alike = difflib.get_close_matches(args[0], names, n=1)
        takes_words = any(isinstance(parameter, click.Argument) for parameter in self.commands[self._default].params)
        if alike or not takes_words:
            remedy = f"Did you mean {alike[0]!r}?" if alike else f"There are: {', '.join(sorted(names))}."
            raise click.UsageError(f"No such command {args[0]!r}. {remedy}", ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == self._default else name), command, rest

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        command = self.commands[self._default]
        with click.Context(command, info_name=ctx.info_name, parent=ctx.parent) as alone:
            command.format_help(alone, formatter)
        self.format_commands(ctx, formatter)

    @property
    def _default(self) -> str:
        (name,) = (name for name, command in self.commands.items() if command.hidden)
        return name


def _refuse_empty(args: list[str]) -> None:
    """An empty word is a variable that a script did not set: as a path it would be the current folder."""
    for before, word in zip(["", *args], args, strict=False):
        name, equals, value = word.partition("=")
        if not word or (word.startswith("--") and equals and not value):
            place = name if word else before if before.startswith("-") else "an argument"
            fail(f"{place}: the value is empty; give one, or leave it out", 2)


def _spread(args: list[str], greedy: set[str]) -> list[str]:
    """Each word behind one of these options with the option before it: `--a 1 2` becomes `--a 1 --a 2`."""
    spread: list[str] = []
    option, has_one = "", False
    for word in args:
        if word.startswith("-"):
            name, equals, _ = word.partition("=")
            option, has_one = (name, bool(equals)) if name in greedy else ("", False)
            spread.append(word)
        else:
            spread.extend([option, word] if option and has_one else [word])
            has_one = True
    return spread


@contextmanager
def _told(unnamed: str) -> Iterator[None]:
    """What the system says of a file, as a sentence; of `unnamed` where it names none, and then only of limits."""
    try:
        yield
    except OSError as error:
        if (sentence := _sentence(error, unnamed)) is None:
            raise
        fail(sentence, 1)


def _sentence(error: OSError, unnamed: str) -> str | None:
    if str(error.strerror).startswith("No usable temporary directory"):
        return "no folder for temporary files can be written; free some space, or name another one with TMPDIR"
    if error.filename is None and error.errno not in (*NO_ROOM, errno.EMFILE):
        return None
    name = error.filename or unnamed
    return what_to_do(error, os.fsdecode(name) if isinstance(name, str | bytes) else str(name))


def _open_standard_streams() -> None:
    """Of those that were closed: else the next file gets their numbers, and what libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # has the lowest number that is free
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _show_what_can_be_shown() -> None:
    """What standard output's encoding lacks, or a file name that is no text, is shown with `?`; no traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def _shown_as_text() -> Iterator[None]:
    """Click's own errors, which repeat what they were given."""
    try:
        yield
    except click.ClickException as error:
        text = as_text(error.format_message())
        error.format_message = lambda: text  # type: ignore[method-assign]
        raise


def fail(sentence: str, exit_code: int) -> None:
    """Print `sentence` on standard error and leave with `exit_code`."""
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and exit with 120
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    echo(f"Error: {sentence}", err=True)
    raise click.exceptions.Exit(exit_code)


def print_result(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result on standard output: `result` as one JSON object for machines, else `text`."""
    echo(json.dumps(result, indent=2, sort_keys=True) if as_json else text)


def echo(text: str, err: bool = False) -> None:
    """Print a text on standard output, or error; what a terminal would obey is shown instead. The only way to print."""
    with naming("standard error" if err else "standard output"):
        click.echo(as_text(text), err=err)  # noqa: TID251 - for everybody else
