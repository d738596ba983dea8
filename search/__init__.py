"""Block proposals (LEvoNAS), block connections (the supernet), retraining. A phone is seen only through a table.

Names load on first use, so that importing the package is cheap and pulls in neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Not on first use: a submodule of the same name would hide the function once anything had imported it. It is light.
from bpnas.search.evolution import Trial
from bpnas.search.levonas import levonas

if TYPE_CHECKING:
    from bpnas.search.data import Dataset, load_data
    from bpnas.search.derive import Assignment, argmax_blocks, k_most_probable_blocks, most_probable_blocks
    from bpnas.search.errors import DataError, DivergedError, InfeasibleLimitError, RunError, SearchError, StuckError
    from bpnas.search.evaluate import CandidateEvaluator
    from bpnas.search.evaluation import Evaluation
    from bpnas.search.feasible import FeasibleSet
    from bpnas.search.latency_loss import LatencyLoss, SupernetLatency, expected_latency
    from bpnas.search.presets import Preset
    from bpnas.search.run import SearchResult, run_search
    from bpnas.search.space import BlockSpace
    from bpnas.search.supernet import Supernet

_HOME = {
    "Assignment": "derive",
    "BlockSpace": "space",
    "CandidateEvaluator": "evaluate",
    "DataError": "errors",
    "Dataset": "data",
    "DivergedError": "errors",
    "Evaluation": "evaluation",
    "FeasibleSet": "feasible",
    "InfeasibleLimitError": "errors",
    "LatencyLoss": "latency_loss",
    "Preset": "presets",
    "RunError": "errors",
    "SearchError": "errors",
    "SearchResult": "run",
    "StuckError": "errors",
    "Supernet": "supernet",
    "SupernetLatency": "latency_loss",
    "argmax_blocks": "derive",
    "expected_latency": "latency_loss",
    "k_most_probable_blocks": "derive",
    "load_data": "data",
    "most_probable_blocks": "derive",
    "run_search": "run",
}

__all__ = [
    "Assignment",
    "BlockSpace",
    "CandidateEvaluator",
    "DataError",
    "Dataset",
    "DivergedError",
    "Evaluation",
    "FeasibleSet",
    "InfeasibleLimitError",
    "LatencyLoss",
    "Preset",
    "RunError",
    "SearchError",
    "SearchResult",
    "StuckError",
    "Supernet",
    "SupernetLatency",
    "Trial",
    "argmax_blocks",
    "expected_latency",
    "k_most_probable_blocks",
    "levonas",
    "load_data",
    "most_probable_blocks",
    "run_search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
