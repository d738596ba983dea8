"""What can go wrong everywhere; the rooms add their own errors to this tree.

BpnasError                     every error that bpnas raises on purpose
├── UsageError                 the caller asked for something that does not exist or makes no sense (exit code 2)
├── SpaceError                 no space left where something had to be written
├── DeviceError, ...           see `bpnas.android_bench.errors`
├── TableError, ...            see `bpnas.tables.errors`
├── SearchError, ...           see `bpnas.search.errors`
└── BlockError, BackboneError, RecordsError, ...

A message is one sentence that names the file, the field and the remedy; the commands print it and exit with
`exit_code`.
"""

from __future__ import annotations

from bpnas.base.plain_text import as_text


class BpnasError(Exception):
    """Base of all errors that bpnas raises on purpose. What of a message was somebody else's is shown as text."""

    exit_code = 1

    def __str__(self) -> str:
        return as_text(super().__str__())


class UsageError(BpnasError):
    """A request that cannot be carried out in any state of the device or of the files."""

    exit_code = 2


class SpaceError(BpnasError):
    """No space left where something had to be written."""
