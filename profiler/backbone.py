"""The backbone that blocks are put into: data, not code.

A backbone is a stem, stages of sites and a head. Shipped ones are in `backbones/`; a user's own is a TOML file of the
same form::

    name = "mine"
    channel_shuffle = false        # optional: shuffle after the first grouped 1x1 convolution
    stages = [{ channels = 16, blocks = 1, stride = 1 }, { channels = 24, blocks = 4, stride = 2 }]

    [stem]
    channels = 32
    stride = 2                     # optional: 1 for inputs up to 64 pixels, else 2

    [head]
    channels = 1280
    classes = 1000                 # optional: 10 for inputs up to 64 pixels, else 1000
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from bpnas.base.errors import UsageError
from bpnas.base.fields import LONGEST_TEXT, FieldError, Fields, is_utf8
from bpnas.base.plain_text import shown

CHANNEL_MULTIPLE = 8
"""Channels must be divisible by it, since paths have up to 8 groups."""

SMALL_INPUT = 64
"""Up to this input size the stem keeps the resolution and the head has 10 classes, as for CIFAR-10."""

IMAGE_CHANNELS = 3

MOST_BLOCKS = 1000


class BackboneError(UsageError, ValueError):
    """A backbone that does not exist or whose definition is wrong; the message names the field."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A place for one block.

    Attributes:
        c_in, c_out: channels.
        stride: 1 or 2.
        input_size: height and width of the feature map that enters, in pixels.
    """

    c_in: int
    c_out: int
    stride: int
    input_size: int

    def __str__(self) -> str:
        return f"{self.c_in}-{self.c_out}s{self.stride}x{self.input_size}"

    @property
    def output_size(self) -> int:
        """Height and width of the feature map that leaves (padding k // 2 on every side)."""
        return -(-self.input_size // self.stride)

    @property
    def is_residual(self) -> bool:
        """Whether input and output have one shape, so that an identity is added and Skip is a candidate."""
        return self.stride == 1 and self.c_in == self.c_out


@dataclass(frozen=True, slots=True)
class Stage:
    """`blocks` sites of `channels` output channels, the first with `stride`."""

    channels: int
    blocks: int
    stride: int


@dataclass(frozen=True, slots=True)
class Backbone:
    """Stem, stages and head at one input size.

    Attributes:
        name: what tables and reports call it.
        input_size: height and width of the image, in pixels.
        stem_channels, stem_stride: of the 3x3 convolution in front.
        stages: see `Stage`.
        head_channels: of the 1x1 convolution behind the last stage; then global average pool and a linear layer.
        classes: outputs of the linear layer.
        channel_shuffle: shuffle after the first grouped 1x1 convolution of a complex path (off in BP-NAS).
    """

    name: str
    input_size: int
    stem_channels: int
    stem_stride: int
    stages: tuple[Stage, ...]
    head_channels: int
    classes: int
    channel_shuffle: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise BackboneError(f"name: must be a non-empty text, not {shown(self.name)}")
        if len(self.name) > LONGEST_TEXT or not is_utf8(self.name):
            raise BackboneError(f"name: must be a text of at most {LONGEST_TEXT:,} characters that UTF-8 can hold")
        if not isinstance(self.channel_shuffle, bool):
            raise BackboneError(f"channel_shuffle: must be true or false, not {shown(self.channel_shuffle)}")
        _check_int("input_size", self.input_size, 8, 4096)
        _check_channels("stem.channels", self.stem_channels)
        _check_stride("stem.stride", self.stem_stride)
        if not self.stages:
            raise BackboneError("stages: at least one stage is needed")
        for number, stage in enumerate(self.stages):
            _check_channels(f"stages[{number}].channels", stage.channels)
            _check_int(f"stages[{number}].blocks", stage.blocks, 1, MOST_BLOCKS)
            _check_stride(f"stages[{number}].stride", stage.stride)
        blocks = sum(stage.blocks for stage in self.stages)
        if blocks > MOST_BLOCKS:
            raise BackboneError(f"stages: have {blocks:,} blocks together, and a backbone at most {MOST_BLOCKS:,}")
        _check_channels("head.channels", self.head_channels)
        _check_int("head.classes", self.classes, 1, 1_000_000)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The places for blocks, from the stem to the head."""
        sites: list[Site] = []
        channels, size = self.stem_channels, -(-self.input_size // self.stem_stride)
        for stage in self.stages:
            for number in range(stage.blocks):
                site = Site(channels, stage.channels, stage.stride if number == 0 else 1, size)
                sites.append(site)
                channels, size = site.c_out, site.output_size
        return tuple(sites)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The shipped backbones."""
        files = resources.files("bpnas.profiler.backbones").iterdir()
        return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))

    @classmethod
    def load(cls, name_or_file: str | Path, input_size: int = 224, classes: int | None = None) -> Backbone:
        """A shipped backbone by name, or the user's own from a TOML file.

        Args:
            name_or_file: one of `names()`, or a path that ends in `.toml`.
            input_size: height and width of the image, in pixels.
            classes: outputs of the head; default as the file says, else 10 up to 64 pixels and 1000 above.

        Raises:
            BackboneError: there is no such backbone, or a field of it is wrong.
        """
        text = str(name_or_file)
        if text.endswith(".toml"):
            try:
                content = Path(text).read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise BackboneError(f"{text}: its text is not UTF-8 ({error.reason}); save it in UTF-8") from error
            except OSError as error:
                raise BackboneError(f"{text}: the backbone cannot be read ({error.strerror})") from error
        elif text in cls.names():
            content = (resources.files("bpnas.profiler.backbones") / f"{text}.toml").read_text(encoding="utf-8")
        else:
            raise BackboneError(
                f"no backbone is called {text!r}: use one of {', '.join(cls.names())}, or the path of a .toml file"
            )
        try:
            values = tomllib.loads(content)
        except RecursionError as error:
            raise BackboneError(f"{text}: is nested too deeply for a backbone; check the name") from error
        except tomllib.TOMLDecodeError as error:
            raise BackboneError(f"{text}: not valid TOML: {str(error)[:200]}") from error
        except ValueError as error:  # Python's limit on the digits of a number
            reason = str(error).partition(";")[0]
            raise BackboneError(f"{text}: a number in it is far too large ({reason}); correct it") from error
        try:
            return _from_toml(values, input_size, classes)
        except BackboneError as error:
            raise BackboneError(f"{text}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Backbone:
        """The inverse of `to_dict`.

        Raises:
            BackboneError: a field is missing, unknown or wrong.
        """
        try:
            stored = Fields.of(values)
            names = [each.name for each in fields(cls) if each.name != "channel_shuffle"]
            stored.exactly(names, ["channel_shuffle"])
            stages = stored.parts("stages")
            for stage in stages:
                stage.exactly([each.name for each in fields(Stage)])
        except FieldError as error:
            raise BackboneError(f"not a stored backbone: {error}") from error
        return cls(**{**stored.values, "stages": tuple(Stage(**stage.values) for stage in stages)})


def _from_toml(content: dict[str, Any], input_size: int, classes: int | None) -> Backbone:
    _check_keys("", content, required={"name", "stages", "stem", "head"}, optional={"channel_shuffle"})
    _check_keys("stem.", _table("stem", content["stem"]), required={"channels"}, optional={"stride"})
    _check_keys("head.", _table("head", content["head"]), required={"channels"}, optional={"classes"})
    if not isinstance(content["stages"], list):
        raise BackboneError("stages: must be a list of { channels, blocks, stride }")
    for number, stage in enumerate(content["stages"]):
        _check_keys(f"stages[{number}].", _table(f"stages[{number}]", stage), {"channels", "blocks", "stride"}, set())
    small = isinstance(input_size, int) and input_size <= SMALL_INPUT
    return Backbone(
        name=content["name"],
        input_size=input_size,
        stem_channels=content["stem"]["channels"],
        stem_stride=content["stem"].get("stride", 1 if small else 2),
        stages=tuple(Stage(**stage) for stage in content["stages"]),
        head_channels=content["head"]["channels"],
        classes=classes if classes is not None else content["head"].get("classes", 10 if small else 1000),
        channel_shuffle=content.get("channel_shuffle", False),
    )


def _table(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BackboneError(f"{field}: must be a table of fields, not {shown(value)}")
    return value


def _check_keys(prefix: str, table: Mapping[str, Any], required: set[str], optional: set[str]) -> None:
    for key in sorted(required - table.keys()):
        raise BackboneError(f"{prefix}{key}: is missing")
    for key in sorted(table.keys() - required - optional):
        known = ", ".join(sorted(required | optional))
        raise BackboneError(f"{prefix}{key[:100]}: unknown field; known here: {known}")


def _check_int(field: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BackboneError(f"{field}: must be a whole number from {low} to {high}, not {shown(value)}")


def _check_channels(field: str, value: Any) -> None:
    _check_int(field, value, CHANNEL_MULTIPLE, 65536)
    if value % CHANNEL_MULTIPLE:
        raise BackboneError(f"{field}: {value} is not divisible by {CHANNEL_MULTIPLE}, which 8 groups need")


def _check_stride(field: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value not in (1, 2):  # 2.0 would make sizes floats
        raise BackboneError(f"{field}: must be 1 or 2, not {shown(value)}")
