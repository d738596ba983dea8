"""Backbones: the two shipped ones site by site, a user's own, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bpnas.base.errors import UsageError
from bpnas.profiler import Backbone, BackboneError, Site
from bpnas.profiler.backbone import Stage

MOBILENETV2_32 = [
    (32, 16, 1, 32),
    (16, 24, 2, 32), (24, 24, 1, 16), (24, 24, 1, 16), (24, 24, 1, 16),
    (24, 32, 2, 16), (32, 32, 1, 8), (32, 32, 1, 8), (32, 32, 1, 8),
    (32, 64, 2, 8), (64, 64, 1, 4), (64, 64, 1, 4), (64, 64, 1, 4),
    (64, 96, 1, 4), (96, 96, 1, 4), (96, 96, 1, 4), (96, 96, 1, 4),
    (96, 160, 2, 4), (160, 160, 1, 2), (160, 160, 1, 2), (160, 160, 1, 2),
    (160, 320, 1, 2),
]  # fmt: skip
MOBILENETV2_224 = [
    (32, 16, 1, 112),
    (16, 24, 2, 112), (24, 24, 1, 56), (24, 24, 1, 56), (24, 24, 1, 56),
    (24, 32, 2, 56), (32, 32, 1, 28), (32, 32, 1, 28), (32, 32, 1, 28),
    (32, 64, 2, 28), (64, 64, 1, 14), (64, 64, 1, 14), (64, 64, 1, 14),
    (64, 96, 1, 14), (96, 96, 1, 14), (96, 96, 1, 14), (96, 96, 1, 14),
    (96, 160, 2, 14), (160, 160, 1, 7), (160, 160, 1, 7), (160, 160, 1, 7),
    (160, 320, 1, 7),
]  # fmt: skip
FBNET_32 = [
    (16, 16, 1, 32),
    (16, 24, 2, 32), (24, 24, 1, 16), (24, 24, 1, 16), (24, 24, 1, 16),
    (24, 32, 2, 16), (32, 32, 1, 8), (32, 32, 1, 8), (32, 32, 1, 8),
    (32, 64, 2, 8), (64, 64, 1, 4), (64, 64, 1, 4), (64, 64, 1, 4),
    (64, 112, 1, 4), (112, 112, 1, 4), (112, 112, 1, 4), (112, 112, 1, 4),
    (112, 184, 2, 4), (184, 184, 1, 2), (184, 184, 1, 2), (184, 184, 1, 2),
    (184, 352, 1, 2),
]  # fmt: skip
FBNET_224 = [
    (16, 16, 1, 112),
    (16, 24, 2, 112), (24, 24, 1, 56), (24, 24, 1, 56), (24, 24, 1, 56),
    (24, 32, 2, 56), (32, 32, 1, 28), (32, 32, 1, 28), (32, 32, 1, 28),
    (32, 64, 2, 28), (64, 64, 1, 14), (64, 64, 1, 14), (64, 64, 1, 14),
    (64, 112, 1, 14), (112, 112, 1, 14), (112, 112, 1, 14), (112, 112, 1, 14),
    (112, 184, 2, 14), (184, 184, 1, 7), (184, 184, 1, 7), (184, 184, 1, 7),
    (184, 352, 1, 7),
]  # fmt: skip

USERS_OWN = """
name = "mine"
stages = [{ channels = 16, blocks = 2, stride = 1 }, { channels = 24, blocks = 1, stride = 2 }]

[stem]
channels = 8

[head]
channels = 64
"""


@pytest.fixture
def write_toml(tmp_path: Path):
    def write(text: str) -> Path:
        file = tmp_path / "mine.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


# --- shipped


@pytest.mark.parametrize(
    ("name", "input_size", "sites"),
    [
        ("mobilenetv2", 32, MOBILENETV2_32),
        ("mobilenetv2", 224, MOBILENETV2_224),
        ("fbnet", 32, FBNET_32),
        ("fbnet", 224, FBNET_224),
    ],
)
def test_sites_of_the_shipped_backbones(name: str, input_size: int, sites: list[tuple[int, ...]]) -> None:
    backbone = Backbone.load(name, input_size=input_size)
    assert backbone.sites == tuple(Site(*site) for site in sites)
    assert len(backbone.sites) == 22
    # FBNet's first site has 16 channels on both sides.
    assert len(set(backbone.sites)) == 12
    assert backbone.name == name
    assert backbone.channel_shuffle is False


@pytest.mark.parametrize(
    ("name", "input_size", "stem", "stem_stride", "head", "classes"),
    [
        ("mobilenetv2", 32, 32, 1, 1280, 10),
        ("mobilenetv2", 224, 32, 2, 1280, 1000),
        ("fbnet", 32, 16, 1, 1984, 10),
        ("fbnet", 224, 16, 2, 1984, 1000),
    ],
)
def test_stem_and_head_of_the_shipped_backbones(
    name: str, input_size: int, stem: int, stem_stride: int, head: int, classes: int
) -> None:
    backbone = Backbone.load(name, input_size=input_size)
    assert (backbone.stem_channels, backbone.stem_stride) == (stem, stem_stride)
    assert (backbone.head_channels, backbone.classes) == (head, classes)


def test_names_and_defaults() -> None:
    assert Backbone.names() == ("fbnet", "mobilenetv2")
    assert Backbone.load("mobilenetv2") == Backbone.load("mobilenetv2", input_size=224)
    assert Backbone.load("fbnet", 32, classes=100).classes == 100


@pytest.mark.parametrize(
    ("input_size", "stem_stride", "classes", "first", "last"),
    [(64, 1, 10, 64, 4), (65, 2, 1000, 33, 3), (33, 1, 10, 33, 3), (225, 2, 1000, 113, 8), (8, 1, 10, 8, 1)],
)
def test_odd_and_other_sizes(input_size: int, stem_stride: int, classes: int, first: int, last: int) -> None:
    backbone = Backbone.load("mobilenetv2", input_size)
    assert (backbone.stem_stride, backbone.classes) == (stem_stride, classes)
    assert (backbone.sites[0].input_size, backbone.sites[-1].output_size) == (first, last)


@pytest.mark.parametrize(
    ("site", "output_size", "is_residual"),
    [
        (Site(16, 16, 1, 7), 7, True),
        (Site(16, 24, 1, 7), 7, False),
        (Site(16, 16, 2, 7), 4, False),
        (Site(16, 16, 2, 8), 4, False),
        (Site(16, 16, 2, 1), 1, False),
    ],
)
def test_what_a_site_says_of_itself(site: Site, output_size: int, is_residual: bool) -> None:
    assert (site.output_size, site.is_residual) == (output_size, is_residual)


# --- a user's own


def test_a_users_own_file(write_toml) -> None:
    file = write_toml(USERS_OWN)
    assert Backbone.load(file, 32) == Backbone("mine", 32, 8, 1, (Stage(16, 2, 1), Stage(24, 1, 2)), 64, 10)
    assert Backbone.load(str(file), 96) == Backbone("mine", 96, 8, 2, (Stage(16, 2, 1), Stage(24, 1, 2)), 64, 1000)
    assert Backbone.load(file, 32).sites == (Site(8, 16, 1, 32), Site(16, 16, 1, 32), Site(16, 24, 2, 32))


def test_the_optional_fields_of_a_users_own_file(write_toml) -> None:
    text = USERS_OWN.replace('"mine"', '"mine"\nchannel_shuffle = true')
    text = text.replace("channels = 8\n", "channels = 8\nstride = 2\n").replace("= 64", "= 64\nclasses = 37")
    backbone = Backbone.load(write_toml(text), 32)
    assert (backbone.channel_shuffle, backbone.stem_stride, backbone.classes) == (True, 2, 37)
    assert Backbone.load(write_toml(text), 32, classes=5).classes == 5


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        BackboneError, match=r"no backbone is called 'resnet': use one of fbnet, mobilenetv2, or .*\.toml"
    ):
        Backbone.load("resnet")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('name = "mine"', "", "name: is missing"),
        ('name = "mine"', "name = 3", "name: must be a non-empty text, not 3"),
        ('name = "mine"', 'name = "  "', "name: must be a non-empty text"),
        ('name = "mine"', 'name = "mine"\ncolour = 1', "colour: unknown field; known here: channel_shuffle, head"),
        ('name = "mine"', 'name = "mine"\nchannel_shuffle = 1', "channel_shuffle: must be true or false, not 1"),
        ("[stem]\nchannels = 8", "", "stem: is missing"),
        ("channels = 8", "", "stem.channels: is missing"),
        ("channels = 8", "channels = 12", "stem.channels: 12 is not divisible by 8"),
        ("channels = 8", "channels = 0", "stem.channels: must be a whole number from 8"),
        ("channels = 8", "channels = -8", "stem.channels: must be a whole number from 8"),
        ("channels = 8", "channels = 8.0", "stem.channels: must be a whole number"),
        ("channels = 8", "channels = true", "stem.channels: must be a whole number"),
        ("channels = 8", 'channels = "8"', "stem.channels: must be a whole number"),
        ("channels = 8", "channels = 8\nstride = 3", "stem.stride: must be 1 or 2, not 3"),
        ("channels = 8", "channels = 8\nstride = true", "stem.stride: must be 1 or 2"),
        ("channels = 8", "channels = 8\nstride = 2.0", "stem.stride: must be 1 or 2, not 2.0"),
        ("channels = 8", "channels = 8\nkernel = 3", "stem.kernel: unknown field; known here: channels, stride"),
        ("[head]\nchannels = 64", "", "head: is missing"),
        ("channels = 64", "", "head.channels: is missing"),
        ("channels = 64", "channels = 65", "head.channels: 65 is not divisible by 8"),
        ("channels = 64", "channels = 64\nclasses = 0", "head.classes: must be a whole number from 1"),
        ("channels = 64", "channels = 64\npool = 1", "head.pool: unknown field; known here: channels, classes"),
        ("stages = [", "stage = [", "stages: is missing"),
        ("stages = [{ channels = 16, blocks = 2, stride = 1 }, ", "stages = [7, ", r"stages[0]: must be a table"),
        ("channels = 16, ", "", "stages[0].channels: is missing"),
        ("channels = 24, ", "channels = 20, ", "stages[1].channels: 20 is not divisible by 8"),
        ("blocks = 1, ", "blocks = 0, ", "stages[1].blocks: must be a whole number from 1"),
        ("blocks = 1, ", "blocks = 1.5, ", "stages[1].blocks: must be a whole number"),
        ("stride = 1 }", "stride = 4 }", "stages[0].stride: must be 1 or 2, not 4"),
        ("stride = 1 }", "stride = 1.0 }", "stages[0].stride: must be 1 or 2, not 1.0"),
        ("stride = 1 }", "stride = 1, group = 1 }", "stages[0].group: unknown field"),
    ],
)
def test_a_wrong_field_is_named(write_toml, old: str, new: str, field: str) -> None:
    assert USERS_OWN.count(old) == 1
    file = write_toml(USERS_OWN.replace(old, new))
    with pytest.raises(BackboneError) as caught:
        Backbone.load(file, 32)
    assert str(caught.value).startswith(f"{file}: {field}")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('name = "mine"\nstages = []\n[stem]\nchannels = 8\n[head]\nchannels = 8', "stages: at least one stage"),
        ('name = "mine"\nstages = 3\n[stem]\nchannels = 8\n[head]\nchannels = 8', "stages: must be a list of"),
        ('name = "mine"\nstem = 3\nstages = []\n[head]\nchannels = 8', "stem: must be a table of fields, not 3"),
        ('name = "mine"\nhead = 3\nstages = []\n[stem]\nchannels = 8', "head: must be a table of fields, not 3"),
        ("name = ", "not valid TOML"),
        ("", "head: is missing"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(write_toml, text: str, says: str) -> None:
    file = write_toml(text)
    with pytest.raises(BackboneError) as caught:
        Backbone.load(file, 32)
    assert str(caught.value).startswith(f"{file}: {says}")


def test_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"absent\.toml: the backbone cannot be read .*No such file"):
        Backbone.load(tmp_path / "absent.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"name = '\xff\xfe'")
    with pytest.raises(BackboneError, match=r"binary\.toml: its text is not UTF-8"):
        Backbone.load(binary)
    with pytest.raises(BackboneError, match="the backbone cannot be read"):
        Backbone.load(_folder(tmp_path / "folder.toml"))


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("input_size", [0, 7, -32, 4097, 32.0, "32", True, None])
def test_a_wrong_input_size_is_named(input_size: object) -> None:
    with pytest.raises(BackboneError, match=r"mobilenetv2: input_size: must be a whole number from 8 to 4096"):
        Backbone.load("mobilenetv2", input_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [0, -1, 1.5, "10", True])
def test_a_wrong_number_of_classes_is_named(classes: object) -> None:
    with pytest.raises(BackboneError, match=r"head\.classes: must be a whole number"):
        Backbone.load("mobilenetv2", 32, classes=classes)  # type: ignore[arg-type]


# --- stored


@pytest.mark.parametrize("name", ["mobilenetv2", "fbnet"])
def test_a_stored_backbone_comes_back(name: str) -> None:
    backbone = Backbone.load(name, 32)
    assert Backbone.from_dict(json.loads(json.dumps(backbone.to_dict()))) == backbone
    assert hash(Backbone.from_dict(backbone.to_dict())) == hash(backbone)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": None}, "not a stored backbone"),
        ({"stages": ["x"]}, "not a stored backbone"),
        ({"stages": [{"channels": 8, "blocks": 1}]}, "not a stored backbone: .*stride"),
        ({"colour": "red"}, "not a stored backbone: .*colour"),
        ({"name": ""}, "name: must be a non-empty text"),
        ({"channel_shuffle": "no"}, "channel_shuffle: must be true or false"),
        ({"stem_channels": 9}, r"stem\.channels: 9 is not divisible by 8"),
        ({"stem_stride": 1.0}, r"stem\.stride: must be 1 or 2"),
        ({"head_channels": None}, r"head\.channels: must be a whole number"),
    ],
)
def test_a_damaged_stored_backbone_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(BackboneError, match=says):
        Backbone.from_dict(Backbone.load("fbnet", 32).to_dict() | change)


@pytest.mark.parametrize("values", [{}, {"stages": []}, "text", 7, [1, 2], None])
def test_what_is_no_stored_backbone_is_refused(values: object) -> None:
    with pytest.raises(BackboneError):
        Backbone.from_dict(values)  # type: ignore[arg-type]
