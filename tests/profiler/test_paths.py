"""What is timed: 272 paths at every distinct site and the rest of the networks, under keys that must never change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.base.errors import UsageError
from bpnas.profiler import Backbone, ComplexPath, SimplePath, Site
from bpnas.profiler.paths import (
    ContextPart,
    HeadPart,
    JoinPart,
    NeighboursPart,
    PathPart,
    StemPart,
    all_paths,
    context_parts,
    enumerate_parts,
    head_part,
    network_parts,
    select_paths,
    stem_part,
)

SITE = Site(24, 32, 2, 56)


@pytest.fixture(scope="module")
def both_sizes() -> tuple[Backbone, Backbone]:
    return Backbone.load("mobilenetv2", 32), Backbone.load("mobilenetv2", 224)


def kinds(parts) -> dict[str, int]:
    names = [part.kind for part in parts]
    return {name: names.count(name) for name in sorted(set(names))}


def test_there_are_272_paths() -> None:
    paths = all_paths()
    assert len(paths) == len(set(paths)) == 272
    assert sum(isinstance(path, SimplePath) for path in paths) == 16
    assert sum(isinstance(path, ComplexPath) for path in paths) == 256
    assert [str(path) for path in paths[:6]] == ["K1G1", "K1G2", "K1G4", "K1G8", "K3G1", "K3G2"]
    assert [str(path) for path in paths[15:18]] == ["K7G8", "K1E1G1", "K1E2G1"]
    assert str(paths[-1]) == "K7E16G8"


# The rest: one stem, one head, one join for each of the seven shapes that a site puts out.
@pytest.mark.parametrize("name", ["mobilenetv2", "fbnet"])
@pytest.mark.parametrize("input_size", [32, 224])
def test_one_resolution_has_3264_paths_and_the_rest(name: str, input_size: int) -> None:
    parts = enumerate_parts([Backbone.load(name, input_size)])
    assert kinds(parts) == {"head": 1, "join": 7, "path": 3264, "stem": 1}


def test_both_resolutions_have_6528_paths_and_the_rest(both_sizes: tuple[Backbone, Backbone]) -> None:
    parts = enumerate_parts(both_sizes)
    assert kinds(parts) == {"head": 2, "join": 14, "path": 6528, "stem": 2}
    assert len({part.key for part in parts}) == len(parts)
    assert set(parts) == set(enumerate_parts(reversed(both_sizes)))


def test_equal_geometry_is_listed_once() -> None:
    one, two = Backbone.load("mobilenetv2", 32), Backbone.load("fbnet", 32)
    assert enumerate_parts([one, one]) == enumerate_parts([one])
    shared = set(one.sites) & set(two.sites)
    # From 16-24s2x32 to 64-64s1x4 the widths are the same.
    assert len(shared) == 6
    assert kinds(enumerate_parts([one, two]))["path"] == 272 * (12 + 12 - 6)


def test_parts_of_chosen_paths_only(both_sizes: tuple[Backbone, Backbone]) -> None:
    parts = enumerate_parts(both_sizes, [SimplePath(3, 1), ComplexPath(3, 1, 6)])
    assert kinds(parts) == {"head": 2, "join": 14, "path": 48, "stem": 2}


@pytest.mark.parametrize(
    ("part", "key", "input_shapes"),
    [
        (PathPart(SimplePath(3, 1), SITE), "K3G1@24-32s2x56", ((1, 24, 56, 56),)),
        (PathPart(ComplexPath(5, 4, 16), SITE), "K5E16G4@24-32s2x56", ((1, 24, 56, 56),)),
        (PathPart(ComplexPath(5, 4, 16), SITE, True), "K5E16G4S@24-32s2x56", ((1, 24, 56, 56),)),
        (PathPart(ComplexPath(5, 1, 16), SITE, True), "K5E16G1@24-32s2x56", ((1, 24, 56, 56),)),
        (PathPart(SimplePath(3, 8), SITE, True), "K3G8@24-32s2x56", ((1, 24, 56, 56),)),
        (StemPart(32, 2, 224), "stem@3-32s2x224", ((1, 3, 224, 224),)),
        (HeadPart(320, 1280, 1000, 7), "head@320-1280-1000x7", ((1, 320, 7, 7),)),
        (JoinPart(24, 56), "join@24x56", ((1, 24, 56, 56), (1, 24, 56, 56))),
        (NeighboursPart(24, 56), "neighbours@24x56", ((1, 24, 56, 56),)),
        (ContextPart(SimplePath(3, 1), SITE), "context/K3G1@24-32s2x56", ((1, 24, 56, 56),)),
        (ContextPart(ComplexPath(5, 4, 16), SITE, True), "context/K5E16G4S@24-32s2x56", ((1, 24, 56, 56),)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_keys_and_shapes(part, key: str, input_shapes) -> None:
    assert (part.key, part.input_shapes) == (key, input_shapes)


def test_stem_and_head_of_a_backbone() -> None:
    small, large = Backbone.load("mobilenetv2", 32), Backbone.load("fbnet", 224, classes=37)
    assert (stem_part(small).key, head_part(small).key) == ("stem@3-32s1x32", "head@320-1280-10x2")
    assert (stem_part(large).key, head_part(large).key) == ("stem@3-16s2x224", "head@352-1984-37x7")
    assert [part.key for part in network_parts(small)] == [
        "stem@3-32s1x32",
        "head@320-1280-10x2",
        "join@16x32",
        "join@24x16",
        "join@32x8",
        "join@64x4",
        "join@96x4",
        "join@160x2",
        "join@320x2",
    ]


def test_paths_in_context_have_the_neighbours_of_their_shapes(both_sizes: tuple[Backbone, Backbone]) -> None:
    paths = [SimplePath(3, 1), ComplexPath(3, 1, 6)]
    parts = context_parts(both_sizes, paths)
    # 12 sites a size; between them the shapes that the stem and the 7 stages put out.
    assert kinds(parts) == {"context": 2 * 2 * 12, "neighbours": 2 * 8}
    there = {part.key for part in parts}
    assert len(there) == len(parts)
    part = ContextPart(paths[0], SITE)
    assert [each.key for each in part.neighbours] == ["neighbours@24x56", "neighbours@32x28"]
    assert all(each.key in there for part in parts if part.kind == "context" for each in part.neighbours)


def test_a_backbone_with_shuffle_shares_what_shuffling_does_not_change() -> None:
    plain = Backbone.load("mobilenetv2", 32)
    shuffled = replace(plain, channel_shuffle=True)
    plain_keys = {part.key for part in enumerate_parts([plain])}
    shuffled_keys = {part.key for part in enumerate_parts([shuffled])}
    assert len(shuffled_keys) == len(plain_keys)
    # 4 kernels x 3 numbers of groups above one x 16 expansions at 12 sites.
    new = shuffled_keys - plain_keys
    assert len(new) == 4 * 3 * 16 * 12
    assert {key.replace("S@", "@") for key in new} == plain_keys - shuffled_keys


@given(
    st.lists(
        st.builds(
            PathPart,
            st.sampled_from(all_paths()),
            st.builds(Site, st.integers(1, 512), st.integers(1, 512), st.sampled_from([1, 2]), st.integers(1, 300)),
            st.booleans(),
        )
        | st.builds(StemPart, st.integers(1, 512), st.sampled_from([1, 2]), st.integers(1, 300))
        | st.builds(HeadPart, *[st.integers(1, 300)] * 4)
        | st.builds(JoinPart, *[st.integers(1, 300)] * 2)
        | st.builds(NeighboursPart, *[st.integers(1, 300)] * 2),
        min_size=2,
        max_size=20,
    )
)
def test_equal_keys_mean_equal_geometry(parts: list) -> None:
    def geometry(part) -> object:
        if isinstance(part, PathPart) and (isinstance(part.path, SimplePath) or part.path.groups == 1):
            return replace(part, channel_shuffle=False)
        return part

    assert len({part.key for part in parts}) == len({geometry(part) for part in parts})


# --- filters


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ("K3G1", ["K3G1"]),
        ("K3E6G1, K3G1", ["K3G1", "K3E6G1"]),
        ("K3G1,K3G1", ["K3G1"]),
        ("K[35]G[18]", ["K3G1", "K3G8", "K5G1", "K5G8"]),
        ("K3E1?G8", ["K3E10G8", "K3E11G8", "K3E12G8", "K3E13G8", "K3E14G8", "K3E15G8", "K3E16G8"]),
    ],
)
def test_select_paths(patterns: str, chosen: list[str]) -> None:
    assert [str(path) for path in select_paths(patterns)] == chosen


@pytest.mark.parametrize(("patterns", "count"), [("*", 272), ("K?G?", 16), ("*E*", 256), ("K3*", 68), ("*,K3G1", 272)])
def test_select_paths_by_number(patterns: str, count: int) -> None:
    assert len(select_paths(patterns)) == count


@pytest.mark.parametrize(
    ("patterns", "named"),
    [
        ("", "''"),
        ("K2G1", "'K2G1'"),
        ("k3g1", "'k3g1'"),
        ("K3G1,K9*", "'K9*'"),
        ("K3G1,", "''"),
        ("K3G1 K5G1", "'K3G1 K5G1'"),
    ],
)
def test_a_filter_that_matches_nothing_is_named(patterns: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        select_paths(patterns)
    assert str(caught.value).startswith(f"path filter {named} matches none of the 272 paths")
