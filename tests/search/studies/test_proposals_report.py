"""What a study says of its numbers, and how it draws them."""

import struct

import pytest

from bpnas.profiler import Block
from bpnas.search.studies.plot import png
from bpnas.search.studies.proposals.arms import LevonasArm
from bpnas.search.studies.proposals.plot import study_figure
from bpnas.search.studies.proposals.search import StudySearch, StudyTrial
from bpnas.search.studies.proposals.summary import SearchOutcome, summarise
from bpnas.search.studies.proposals.text import summary_lines


def outcomes(seeds, differences, limits=(2.0, 4.0)):
    """Arm "b" finds 0.5, arm "a" that plus the limit's difference and a little of the seed's own."""
    found = []
    for limit, difference in zip(limits, differences, strict=True):
        for seed in range(seeds):
            for arm, score in (("a", 0.5 + difference + 0.001 * (seed % 3)), ("b", 0.5)):
                found.append(SearchOutcome(arm, limit, seed, "K3G1", limit, score, score - 0.1, score - 0.05, 8))
    return found


def text(summary):
    return "\n".join(summary_lines(summary))


def test_a_sure_difference_is_stated_with_its_size_interval_p_and_seeds():
    said = text(summarise(outcomes(8, (0.012, -0.02)), (("a", "b"),)))
    assert "limit 2 ms: a is better than b by 1.3 points (95 % CI 1.2 to 1.4, p = 0.016, 8 seeds)" in said
    assert "limit 4 ms: b is better than a by 1.9 points (95 % CI 1.8 to 2.0, p = 0.016, 8 seeds)" in said
    assert "sign-flip" not in said


def test_five_seeds_are_too_few_however_large_the_difference():
    summary = summarise(outcomes(5, (0.2, 0.2)), (("a", "b"),))
    said = text(summary)
    assert "limit 2 ms: no difference between a and b can be told with 5 seeds (+20.1 points" in said
    assert "cannot give p below 0.0625, 0.125 by Holm over 2 limits" in said and "that takes 7 seeds" in said
    assert "all limits together: a is better than b" in said
    assert all(c.result.p == 0.0625 for c in summary.comparisons if c.limit_ms)


def test_one_seed_and_one_limit():
    said = text(summarise(outcomes(1, (0.1,), (2.0,)), (("a", "b"),)))
    assert "no difference between a and b can be told with 1 seed (+10.0 points, p = 1)" in said
    assert "interval" not in said and "all limits together" not in said


def test_arms_are_summarised_per_limit():
    summary = summarise(outcomes(4, (0.1, 0.0)), (("a", "b"),))
    assert [(arm.arm, arm.limit_ms) for arm in summary.arms] == [("a", 2.0), ("b", 2.0), ("a", 4.0), ("b", 4.0)]
    assert summary.arms[0].found.mean == pytest.approx(0.60075)
    assert summary.arms[0].anytime.mean == pytest.approx(0.50075)
    assert summary.arms[0].test.mean == pytest.approx(0.55075)
    assert summary.correlation == pytest.approx(1.0)


def test_without_retraining_nothing_is_said_of_test_images():
    untested = [
        SearchOutcome(o.arm, o.limit_ms, o.seed, o.block, o.latency_ms, o.found, o.anytime, None, o.distinct)
        for o in outcomes(3, (0.1, 0.1))
    ]
    summary = summarise(untested, (("a", "b"),))
    assert summary.correlation is None
    assert "test images" not in text(summary)


def search(arm, limit, seed, scores):
    found = StudySearch(LevonasArm(arm), limit, seed, len(scores), None, None)
    for index, score in enumerate(scores):
        best = max(scores[: index + 1])
        found.trials.append(StudyTrial(index, 1, Block.parse("K3G1"), limit, score, None, best, False))
    return found


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("limits", [(2.0,), (2.0, 4.0, 8.5)])
def test_the_plot_has_a_panel_per_limit_and_all_arms_in_the_legend(seeds, limits):
    arms = ("default", "paper", "random")
    searches = [
        search(arm, limit, seed, [0.1 * seed, 0.5, 0.2 + 0.1 * number, 0.6])
        for seed in range(seeds)
        for limit in limits
        for number, arm in enumerate(arms)
    ]
    figure = study_figure(searches, "strategies (mock: computed, not measured)")
    assert [panel.get_title() for panel in figure.axes] == [f"at most {limit:g} ms" for limit in limits]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(arms)
    assert "mock" in figure.get_suptitle()
    for panel in figure.axes:
        assert len(panel.lines) == 3 and len({(line.get_color(), line.get_linestyle()) for line in panel.lines}) == 3
        assert len(panel.collections) == (3 if seeds > 1 else 0)
        assert list(panel.lines[0].get_xdata()) == [1, 2, 3, 4]
        low, high = panel.get_ylim()
        assert all(low <= value <= high for line in panel.lines for value in line.get_ydata())
    assert figure.axes[0].lines[0].get_ydata()[-1] == pytest.approx(60.0)
    image = png(figure)
    assert image.startswith(b"\x89PNG") and image == png(figure)
    width, height = struct.unpack(">II", image[16:24])
    assert 800 < width < 3000 and 400 < height < 1200
