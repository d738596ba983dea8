"""The latency tables of ProxylessNAS and once-for-all: one YAML mapping from layers to mean latencies in ms.

A key names a layer by its type and shapes, height x width x channels; a value holds the mean and how many measurements
it is of::

    Conv-input:224x224x3-output:112x112x32: {count: 1000, mean: 5.2}
    expanded_conv-input:56x56x24-output:28x28x40-expand:3-kernel:5-stride:2-idskip:0: {count: 1000, mean: 2.1}
    Conv_1-input:7x7x320-output:7x7x1280: {count: 1000, mean: 2.9}
    Logits-input:7x7x1280-output:1000: {count: 1000, mean: 0.8}

Source: `ProxylessNASLatencyTable` and `MBv3LatencyTable` in mit-han-lab/once-for-all,
ofa/nas/efficiency_predictor/latency_lookup_table.py, and what they were made from in mit-han-lab/proxylessnas. The
tables of MobileNetV3's space add `-se:0-hs:0` to an `expanded_conv`, and its `expand` is the number of inner channels.

Which layers are parts of ours:

- `Conv` is the 3x3 convolution in front: a stem.
- `expanded_conv` is a complex path, if it has a first 1x1 convolution (theirs has none where the expansion is 1), no
  squeeze-and-excitation, no h-swish, and `idskip:0`: with 1 the time of the identity's addition is in it. Its ReLU6 and
  our ReLU are both a clamp inside the convolution.
- `Conv_1` and `Logits` (all that follows it) are our head in two pieces. The head's entry is their sum, and says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from bpnas.base.errors import UsageError
from bpnas.base.plain_numbers import read_whole_number
from bpnas.base.plain_text import shown
from bpnas.profiler.backbone import IMAGE_CHANNELS, Site
from bpnas.profiler.block import EXPANSIONS, KERNELS, ComplexPath
from bpnas.profiler.paths import HeadPart, Part, PathPart, StemPart
from bpnas.tables.errors import TableError
from bpnas.tables.readers.reader import MOST_SAMPLES, MOST_SIZE, ReadRow, milliseconds, whole_number

_LAYER = re.compile(r"(\w+)-input:([\dx]+)-output:([\dx]+)((?:-\w+:\d{1,9})*)", re.ASCII)
_HEAD_BYTES = 4096
_STANDARD_TAG = "tag:yaml.org,2002:"
_MOST_CLASSES = 1_000_000  # as of a backbone


class ProxylessYaml:
    """See the module."""

    name = "proxyless-yaml"

    def can_read(self, path: Path) -> bool:
        """Whether a layer of such a table is in the first lines."""
        try:
            with path.open("rb") as file:
                return _LAYER.search(file.read(_HEAD_BYTES).decode("utf-8", "ignore")) is not None
        except OSError:
            return False

    def read(self, path: Path, column: str | None = None) -> Iterator[ReadRow]:
        """All layers; a head comes behind them, as one row in place of its two.

        Raises:
            TableError: the file cannot be read, a layer is there twice, or a value is no latency.
            UsageError: a column was named.
        """
        if column is not None:
            raise UsageError(f"{path}: such a table has no columns; leave --column out")
        layers = _load(path)
        mobilenet_v3 = any("-hs:" in name for name in layers)
        heads = dict(_heads(layers))
        in_heads = {name for names in heads for name in names}
        for name, layer in layers.items():
            if name not in in_heads:
                part = _part(name, mobilenet_v3)
                if isinstance(part, str):
                    yield ReadRow(name, None, layer.latency_ms(path, may_be_zero=True), part, layer.samples)
                else:
                    yield ReadRow(name, part, layer.latency_ms(path), samples=layer.samples)
        for names, head in heads.items():
            latency_ms = sum(layers[name].latency_ms(path) for name in names)
            yield ReadRow(" + ".join(names), head, latency_ms, flags="summed")


@dataclass(frozen=True, slots=True)
class _Layer:
    """What the file says of one layer.

    Attributes:
        place: line and key, for messages.
        mean: as it is written.
        samples: how many measurements it is of; None if the file does not say.
    """

    place: str
    mean: str
    samples: int | None

    def latency_ms(self, path: Path, *, may_be_zero: bool = False) -> float:
        return milliseconds(path, self.place, self.mean, may_be_zero=may_be_zero)


def _load(path: Path) -> dict[str, _Layer]:
    """The layers of a file.

    Its nodes are read, and no objects made of them: PyYAML takes the last of two equal keys, takes `1:30` and `010` for
    numbers that nobody means, and has no names for lines then. An alias costs nothing, however much it stands for.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            root = yaml.compose(file, Loader=yaml.SafeLoader)
    except RecursionError as error:
        raise TableError(f"{path}: is nested too deeply for a table of latencies; check the name") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise TableError(f"{path}: {where}no valid YAML ({error.problem}); correct that line") from error
    except yaml.YAMLError as error:
        raise TableError(f"{path}: no valid YAML ({' '.join(str(error).split())}); get the file again") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: its text is not UTF-8 ({error.reason}); save it in UTF-8") from error
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}); check the name") from error
    if not isinstance(root, yaml.MappingNode):
        raise TableError(f"{path}: no mapping from layers to latencies; check the name")
    return {name: _layer(path, name, value) for name, value in _fields(path, root).items()}


def _fields(path: Path, mapping: yaml.MappingNode) -> dict[str, yaml.Node]:
    """The fields of a mapping, each key once."""
    fields: dict[str, yaml.Node] = {}
    lines: dict[str, int] = {}
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key.value, str):
            raise TableError(f"{path}: line {line}: a key must be one word; correct it")
        if key.value in fields:
            what = f"the key {shown(key.value, 200)} is already on line {lines[key.value]}"
            raise TableError(f"{path}: line {line}: {what}; remove one of the two")
        fields[key.value], lines[key.value] = value, line
    return fields


def _layer(path: Path, name: str, node: yaml.Node) -> _Layer:
    place = f"line {node.start_mark.line + 1}, {name[:200]}"
    fields = _fields(path, node) if isinstance(node, yaml.MappingNode) else {}
    if "mean" not in fields:
        raise TableError(f"{path}: {place}: has no field 'mean'; add it, or remove that row")
    count = _written(fields["count"]) if "count" in fields else ""
    unknown = count in ("", "~", "null")
    samples = None if unknown else whole_number(path, f"{place}, count", count, 0, MOST_SAMPLES)
    return _Layer(f"{place}, mean", _written(fields["mean"]), samples)


def _written(node: yaml.Node) -> str:
    """A value as it is written, for the readers of numbers; what is in quotes, or has a tag, is none."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    if node.style is not None:
        return repr(node.value)
    return node.value if node.tag.startswith(_STANDARD_TAG) else f"{node.tag} {node.value}"


def _heads(layers: Iterable[str]) -> Iterator[tuple[tuple[str, str], HeadPart]]:
    """Pairs of layers that are one head, where both are there."""
    found = {name: match.groups() for name in layers if (match := _LAYER.fullmatch(name))}
    for last, (kind, features, classes, _) in found.items():
        number = _in_range(classes, _MOST_CLASSES)
        if kind == "Logits" and number:
            for first, (other, shape, output, _) in found.items():
                into, out = _shape(shape), _shape(output)
                if other == "Conv_1" and output == features and into and out and into[0] == out[0]:
                    yield (first, last), HeadPart(into[1], out[1], number, into[0])


def _part(name: str, mobilenet_v3: bool) -> Part | str:
    """The part of ours that a layer is, or why there is none."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return "no layer of a known form"
    kind, into, out, rest = match[1], _shape(match[2]), _shape(match[3]), match[4]
    if kind not in ("Conv", "expanded_conv"):
        return "a piece of a head whose other piece is not there" if kind in ("Conv_1", "Logits") else f"layer {kind}"
    if into is None or out is None:
        return "a feature map that is not square, or of an impossible size"
    (size, c_in), (size_out, c_out) = into, out
    strides = [stride for stride in (1, 2) if -(-size // stride) == size_out]
    if not strides:
        return "a stride other than 1 and 2"
    if kind == "Conv":
        if c_in != IMAGE_CHANNELS:
            return "a convolution that is no stem"
        if mobilenet_v3:
            return "a stem with h-swish or ReLU, and the file does not say which"
        return StemPart(c_out, strides[0], size)
    fields = {field: int(number) for field, number in re.findall(r"-(\w+):(\d+)", rest)}
    if not {"expand", "kernel", "stride", "idskip"} <= fields.keys():
        return "no layer of a known form"
    return _bottleneck(fields, c_in, c_out, size, strides)


def _bottleneck(fields: Mapping[str, int], c_in: int, c_out: int, size: int, strides: list[int]) -> PathPart | str:
    # With `hs` in the key, `expand` is the number of inner channels.
    expansion, rest = divmod(fields["expand"], c_in) if "hs" in fields else (fields["expand"], 0)
    if fields.get("se"):
        return "with squeeze-and-excitation"
    if fields.get("hs"):
        return "with h-swish"
    if fields["idskip"]:
        return "with the identity's addition in it, which a path is timed without (idskip:1)"
    if expansion == 1 and not rest:
        return "without a first 1x1 convolution, which our paths have also at expansion 1"
    if rest or expansion not in EXPANSIONS:
        return "with an expansion that no path has"
    if fields["kernel"] not in KERNELS:
        return "with a kernel that no path has"
    if fields["stride"] not in strides:
        return "with a stride that does not fit its shapes"
    return PathPart(ComplexPath(fields["kernel"], 1, expansion), Site(c_in, c_out, fields["stride"], size))


def _shape(text: str) -> tuple[int, int] | None:
    """Size and channels of a square feature map, else None."""
    numbers = text.split("x")
    if len(numbers) != 3 or numbers[0] != numbers[1]:
        return None
    size, channels = (_in_range(number, MOST_SIZE) for number in numbers[1:])
    return (size, channels) if size and channels else None


def _in_range(text: str, most: int) -> int | None:
    """A whole number from 1 on, else None."""
    with suppress(ValueError):
        if 1 <= (number := read_whole_number(text)) <= most:
            return number
    return None
