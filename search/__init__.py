"""Block proposals (LEvoNAS), block connections (the supernet), retraining. A phone is seen only through a table.

Names load on first use, so that importing the package is cheap and pulls in neither torch nor numpy.
"""

from typing import TYPE_CHECKING

from bpnas.base.lazy import lazy_names

if TYPE_CHECKING:
    from bpnas.search.connections.derive import Assignment, argmax_blocks, k_most_probable_blocks, most_probable_blocks
    from bpnas.search.connections.latency_loss import LatencyLoss, SupernetLatency, expected_latency
    from bpnas.search.connections.supernet import Supernet
    from bpnas.search.data.dataset import Dataset, load_data
    from bpnas.search.data.image_files import choose_classes
    from bpnas.search.errors import (
        AboveLimitError,
        DataError,
        DivergedError,
        InfeasibleLimitError,
        RunError,
        SearchError,
        StuckError,
        WorkerLostError,
    )
    from bpnas.search.execution.evaluation import Evaluation
    from bpnas.search.networks.features import FeatureMaps
    from bpnas.search.networks.network_file import NetworkFile, load_network
    from bpnas.search.networks.retrain import retrain
    from bpnas.search.presets import Preset, TrainSettings
    from bpnas.search.proposals.evaluator import CandidateEvaluator
    from bpnas.search.proposals.evolution import Trial
    from bpnas.search.proposals.feasible import FeasibleSet
    from bpnas.search.proposals.known_optima import (
        BlockProblem,
        Problem,
        cell_problem,
        fragmented_problem,
        rugged_problem,
    )
    from bpnas.search.proposals.levonas import levonas
    from bpnas.search.proposals.space import BlockSpace
    from bpnas.search.run import SearchResult, run_search
    from bpnas.search.training.train import accuracy, train
    from bpnas.search.transfer.backbones import load_features
    from bpnas.search.transfer.detection.run import run_detection
    from bpnas.search.transfer.embedding.face import run_face
    from bpnas.search.transfer.embedding.model import Embedder, embed
    from bpnas.search.transfer.embedding.reid import run_reid
    from bpnas.search.transfer.features import Features

_HOMES = {
    "AboveLimitError": "errors",
    "Assignment": "connections.derive",
    "BlockProblem": "proposals.known_optima",
    "BlockSpace": "proposals.space",
    "CandidateEvaluator": "proposals.evaluator",
    "DataError": "errors",
    "Dataset": "data.dataset",
    "DivergedError": "errors",
    "Embedder": "transfer.embedding.model",
    "Evaluation": "execution.evaluation",
    "FeasibleSet": "proposals.feasible",
    "FeatureMaps": "networks.features",
    "Features": "transfer.features",
    "InfeasibleLimitError": "errors",
    "LatencyLoss": "connections.latency_loss",
    "NetworkFile": "networks.network_file",
    "Preset": "presets",
    "Problem": "proposals.known_optima",
    "RunError": "errors",
    "SearchError": "errors",
    "SearchResult": "run",
    "StuckError": "errors",
    "Supernet": "connections.supernet",
    "SupernetLatency": "connections.latency_loss",
    "TrainSettings": "presets",
    "Trial": "proposals.evolution",
    "WorkerLostError": "errors",
    "accuracy": "training.train",
    "argmax_blocks": "connections.derive",
    "cell_problem": "proposals.known_optima",
    "choose_classes": "data.image_files",
    "embed": "transfer.embedding.model",
    "expected_latency": "connections.latency_loss",
    "fragmented_problem": "proposals.known_optima",
    "k_most_probable_blocks": "connections.derive",
    "levonas": "proposals.levonas",
    "load_data": "data.dataset",
    "load_features": "transfer.backbones",
    "load_network": "networks.network_file",
    "most_probable_blocks": "connections.derive",
    "retrain": "networks.retrain",
    "rugged_problem": "proposals.known_optima",
    "run_detection": "transfer.detection.run",
    "run_face": "transfer.embedding.face",
    "run_reid": "transfer.embedding.reid",
    "run_search": "run",
    "train": "training.train",
}

__all__ = [
    "AboveLimitError",
    "Assignment",
    "BlockProblem",
    "BlockSpace",
    "CandidateEvaluator",
    "DataError",
    "Dataset",
    "DivergedError",
    "Embedder",
    "Evaluation",
    "FeasibleSet",
    "FeatureMaps",
    "Features",
    "InfeasibleLimitError",
    "LatencyLoss",
    "NetworkFile",
    "Preset",
    "Problem",
    "RunError",
    "SearchError",
    "SearchResult",
    "StuckError",
    "Supernet",
    "SupernetLatency",
    "TrainSettings",
    "Trial",
    "WorkerLostError",
    "accuracy",
    "argmax_blocks",
    "cell_problem",
    "choose_classes",
    "embed",
    "expected_latency",
    "fragmented_problem",
    "k_most_probable_blocks",
    "levonas",
    "load_data",
    "load_features",
    "load_network",
    "most_probable_blocks",
    "retrain",
    "rugged_problem",
    "run_detection",
    "run_face",
    "run_reid",
    "run_search",
    "train",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
