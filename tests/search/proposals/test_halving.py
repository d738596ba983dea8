import pytest

from bpnas.base.errors import UsageError
from bpnas.search.proposals.halving import SuccessiveHalving, rung_epochs


@pytest.mark.parametrize(
    ("epochs", "eta", "rungs"),
    [(30, 3, (1, 3, 10)), (30, 2, (1, 3, 7, 15)), (4, 4, (1,)), (3, 4, ()), (27, 3, (1, 3, 9)), (1, 2, ())],
)
def test_rungs(epochs, eta, rungs):
    assert rung_epochs(epochs, eta) == rungs == SuccessiveHalving(epochs, eta).rungs


@pytest.mark.parametrize(("epochs", "eta"), [(0, 3), (30, 1), (30, 0)])
def test_what_makes_no_sense(epochs, eta):
    with pytest.raises(UsageError, match="needs 1 epoch and a factor of 2"):
        SuccessiveHalving(epochs, eta)


def test_the_best_share_goes_on():
    halving = SuccessiveHalving(9, 3)
    assert halving.stop_below() == ()
    for score in (0.1, 0.5):
        halving.observe([(1, score)])
    assert halving.stop_below() == ()
    halving.observe([(1, 0.3), (2, 0.9)])  # epoch 2 is no rung
    assert halving.stop_below() == ((1, 0.5),)
    for score in (0.4, 0.2, 0.6):
        halving.observe([(1, score), (3, score + 0.1)])
    assert halving.stop_below() == ((1, 0.5), (3, pytest.approx(0.7)))


def test_the_order_of_observations_changes_nothing():
    scores = [0.3, 0.8, 0.1, 0.5, 0.5, 0.7, 0.2]
    one, other = SuccessiveHalving(4, 2), SuccessiveHalving(4, 2)
    for a, b in zip(scores, reversed(scores), strict=True):
        one.observe([(1, a)])
        other.observe([(1, b)])
    assert one.stop_below() == other.stop_below() == ((1, 0.5),)
