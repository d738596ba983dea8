"""The images that a network was trained on, as its own files name them."""

from __future__ import annotations

from pathlib import Path

from bpnas.base.errors import UsageError
from bpnas.search.data.sources import Source
from bpnas.search.errors import DataError, RunError
from bpnas.search.fields import Fields, fields_of
from bpnas.search.networks.network_file import NetworkFile
from bpnas.search.sealed import read_sealed

_CONFIG_FIELDS = ("connections_data", "data")
"""In config.json of a search and of a retraining: the images of the network, with an absolute path."""


def own_images(network: NetworkFile) -> str:
    """The source of a network's images (see `Source`): what its network.json says, or its run's config.json.

    Raises:
        UsageError: neither says so.
        DataError: they are not there any more.
        RunError: a file is damaged.
    """
    text = network.accuracy_on.data if network.accuracy_on else _of_run(network) or network.data
    if text is None:
        raise UsageError(f"{network.path}: does not say which images it was trained on; name them with --data")
    try:
        source = Source.parse(text)
    except UsageError as error:
        raise RunError(f"{network.path}: the images that it was trained on cannot be told ({error})") from error
    if source.directory and not Path(source.directory).expanduser().is_dir():
        raise DataError(
            f"{source.directory}: there is no such directory of images any more, which {network.path} was trained on; "
            f"name it with --data {source.kind}:DIR"
        )
    return text


def _of_run(network: NetworkFile) -> str | None:
    """What config.json of its run says, which one of several networks has two folders above it."""
    folder = network.path.absolute().parent
    path = (folder.parent.parent if folder.parent.name == "networks" else folder) / "config.json"
    if not path.is_file():
        return None
    with fields_of(f"{path}: is damaged"):
        config = Fields(read_sealed(path))
        return next((config.text(name) for name in _CONFIG_FIELDS if config.has(name)), None)
