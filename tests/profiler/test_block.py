"""The block: its two 23-bit codings, its text form, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpnas.base.errors import UsageError
from bpnas.profiler import Block, BlockError, ComplexPath, SimplePath, parse_path
from bpnas.profiler.paths import all_paths

CODINGS = ["binary", "gray"]

# Written out from the paper's description, not computed as the code computes it.
KERNEL_BITS = {
    "binary": {1: "00", 3: "01", 5: "10", 7: "11"},
    "gray": {1: "00", 3: "01", 5: "11", 7: "10"},
}
GROUP_BITS = {1: "00", 2: "01", 4: "10", 8: "11"}
EXPANSION_BITS = {
    "binary": "0000 0001 0010 0011 0100 0101 0110 0111 1000 1001 1010 1011 1100 1101 1110 1111",
    "gray": "0000 0001 0011 0010 0110 0111 0101 0100 1100 1101 1111 1110 1010 1011 1001 1000",
}

simple_paths = st.builds(SimplePath, st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2, 4, 8]))
complex_paths = st.builds(ComplexPath, st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 16))
blocks = st.one_of(
    st.builds(Block, simple_paths, st.lists(complex_paths, max_size=2).map(tuple)),
    st.builds(Block, st.none(), st.lists(complex_paths, min_size=1, max_size=2).map(tuple)),
)
valid_codes = st.integers(1 << 20, (1 << 23) - 1)


def code(bits: str) -> int:
    """`bits` in the order of the paper, with spaces between the fields."""
    digits = bits.replace(" ", "").replace("|", "")
    assert len(digits) == 23
    return int(digits, 2)


# --- codes


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_the_bits_of_a_simple_path(coding: str, kernel: int, groups: int) -> None:
    bits = code(f"100 | {KERNEL_BITS[coding][kernel]} {GROUP_BITS[groups]} | 00 00 0000 | 00 00 0000")
    block = Block(SimplePath(kernel, groups))
    assert Block.from_code(bits, coding) == block
    assert block.code(coding) == bits


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("expansion", range(1, 17))
def test_the_bits_of_a_complex_path(coding: str, expansion: int) -> None:
    for kernel, kernel_bits in KERNEL_BITS[coding].items():
        for groups, group_bits in GROUP_BITS.items():
            path = f"{kernel_bits} {group_bits} {EXPANSION_BITS[coding].split()[expansion - 1]}"
            block = Block(None, (ComplexPath(kernel, groups, expansion),))
            assert Block.from_code(code(f"010 | 00 00 | {path} | 00 00 0000"), coding) == block
            assert Block.from_code(code(f"001 | 00 00 | 00 00 0000 | {path}"), coding) == block
            assert block.code(coding) == code(f"010 | 00 00 | {path} | 00 00 0000")


def test_a_code_written_out_in_both_codings() -> None:
    block = Block(SimplePath(5, 2), (ComplexPath(1, 1, 1), ComplexPath(7, 8, 6)))
    assert block.code("binary") == code("111 | 10 01 | 00 00 0000 | 11 11 0101")
    assert block.code("gray") == code("111 | 11 01 | 00 00 0000 | 10 11 0111")
    assert block.code() == block.code("binary")
    assert Block.from_code(block.code()) == block


@pytest.mark.parametrize("coding", CODINGS)
@given(valid=valid_codes)
def test_codes_round_trip(coding: str, valid: int) -> None:
    block = Block.from_code(valid, coding)
    assert Block.from_code(block.code(coding), coding) == block
    u1, u2, u3 = valid >> 22, valid >> 21 & 1, valid >> 20 & 1
    assert (block.simple is not None) == bool(u1)
    assert len(block.complex) == u2 + u3
    assert len(block.paths) == u1 + u2 + u3


@pytest.mark.parametrize("coding", CODINGS)
@given(block=blocks)
def test_blocks_round_trip(coding: str, block: Block) -> None:
    assert Block.from_code(block.code(coding), coding) == block
    assert Block.parse(str(block)) == block


@pytest.mark.parametrize("coding", CODINGS)
@given(valid=valid_codes, noise=st.integers(0, (1 << 20) - 1))
def test_bits_of_absent_paths_mean_nothing(coding: str, valid: int, noise: int) -> None:
    used = (0b1111 << 16) * (valid >> 22) | 0xFF00 * (valid >> 21 & 1) | 0xFF * (valid >> 20 & 1)
    assert Block.from_code(valid ^ (noise & ~used), coding) == Block.from_code(valid, coding)


@given(simple=st.none() | simple_paths, one=complex_paths, two=complex_paths)
def test_the_complex_paths_may_be_swapped(simple: SimplePath | None, one: ComplexPath, two: ComplexPath) -> None:
    block, swapped = Block(simple, (one, two)), Block(simple, (two, one))
    assert block == swapped
    assert hash(block) == hash(swapped)
    assert str(block) == str(swapped)
    assert all(block.code(coding) == swapped.code(coding) for coding in CODINGS)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("coding", CODINGS)
def test_every_code_round_trips_and_they_name_563600_blocks(coding: str) -> None:
    refused = 0
    for empty in range(1 << 20):
        try:
            Block.from_code(empty, coding)
        except BlockError:
            refused += 1
    assert refused == 1 << 20, "u = 000 is no block, whatever the other bits say"

    from_code = Block.from_code
    distinct = {from_code(valid, coding) for valid in range(1 << 20, 1 << 23)}
    assert len(distinct) == 563_600
    # Equal blocks have one code, so the round trip of each distinct block is that of every code that names it.
    codes = set()
    for block in distinct:
        canonical = block.code(coding)
        assert from_code(canonical, coding) == block
        codes.add(canonical)
    assert len(codes) == 563_600


def test_563600_by_counting() -> None:
    simple = sum(isinstance(path, SimplePath) for path in all_paths())
    complex_ = len(all_paths()) - simple
    pairs = complex_ * (complex_ + 1) // 2
    assert (simple + 1) * (1 + complex_ + pairs) - 1 == 563_600


# --- text


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("K3G1", Block(SimplePath(3, 1))),
        ("K3E7G1", Block(None, (ComplexPath(3, 1, 7),))),
        ("K1G1+K3E7G1", Block(SimplePath(1, 1), (ComplexPath(3, 1, 7),))),
        ("K7G8+K5E16G4+K7E1G2", Block(SimplePath(7, 8), (ComplexPath(5, 4, 16), ComplexPath(7, 2, 1)))),
        ("K1E1G1+K1E1G1", Block(None, (ComplexPath(1, 1, 1), ComplexPath(1, 1, 1)))),
    ],
)
def test_text(text: str, block: Block) -> None:
    assert str(block) == text
    assert Block.parse(text) == block
    assert Block.parse(f"  {text}\n") == block


def test_parse_takes_the_paths_in_any_order() -> None:
    assert str(Block.parse("K7E1G2+K5E16G4+K7G8")) == "K7G8+K5E16G4+K7E1G2"


def test_every_path_has_a_text_of_its_own() -> None:
    texts = {str(path): path for path in all_paths()}
    assert len(texts) == 272
    assert all(parse_path(text) == path for text, path in texts.items())


@given(st.text(alphabet="KEG+0123456789 -x\u0663", max_size=30) | st.text(max_size=20))
def test_parse_refuses_what_is_no_block_and_nothing_else_happens(text: str) -> None:
    try:
        block = Block.parse(text)
    except BlockError:
        return
    assert Block.parse(str(block)) == block


# --- errors


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Block(), "at least one path"),
        (lambda: Block(None, (ComplexPath(1, 1, 1),) * 3), "at most two complex paths, not 3"),
        (lambda: SimplePath(2, 1), "kernel 2 of a path must be one of 1, 3, 5, 7"),
        (lambda: SimplePath(3, 3), "groups 3 of a path must be one of 1, 2, 4, 8"),
        (lambda: ComplexPath(9, 1, 1), "kernel 9"),
        (lambda: ComplexPath(3, 16, 1), "groups 16"),
        (lambda: ComplexPath(3, 1, 0), "expansion 0"),
        (lambda: ComplexPath(3, 1, 17), "expansion 17"),
        (lambda: Block.from_code(0), "u.* are 000"),
        (lambda: Block.from_code((1 << 20) - 1), f"000{'1' * 20} is no block"),
        (lambda: Block.from_code(-1), "code -1 is outside 0..8388607"),
        (lambda: Block.from_code(1 << 23), "code 8388608 is outside 0..8388607"),
        (lambda: Block.from_code(1 << 22, "grey"), "coding 'grey' is unknown: use 'binary' or 'gray'"),
        (lambda: Block(SimplePath(1, 1)).code("grey"), "coding 'grey' is unknown"),
        (lambda: Block.parse(""), "'' is no path: write K3G1"),
        (lambda: Block.parse("K3"), "'K3' is no path"),
        (lambda: Block.parse("K3G1+"), "'' is no path"),
        (lambda: Block.parse("k3g1"), "'k3g1' is no path"),
        (lambda: Block.parse("K3E0G1"), "expansion 0"),
        (lambda: Block.parse("K3G1+K1G1"), "2 simple paths; at most one"),
        (lambda: Block.parse("+".join(["K3E1G1"] * 3)), "at most two complex paths, not 3"),
        (lambda: parse_path("K3G1+K3E1G1"), "is no path"),
        # Python refuses to read so long a number with an error of its own.
        (lambda: parse_path(f"K{'3' * 5000}G1"), "is no path"),
    ],
)
def test_errors_say_what_is_wrong(make, says: str) -> None:
    with pytest.raises(BlockError, match=says) as caught:
        make()
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 2


def test_blocks_and_paths_are_values() -> None:
    path = SimplePath(3, 1)
    with pytest.raises(AttributeError):
        path.kernel = 5  # type: ignore[misc]
    assert len({Block(path), Block(SimplePath(3, 1)), Block(SimplePath(3, 2))}) == 2
    assert sorted([ComplexPath(3, 2, 1), ComplexPath(3, 1, 9), ComplexPath(1, 8, 16)])[0] == ComplexPath(1, 8, 16)
