"""The work of a study of connections: supernet searches and trainings, each done once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.block import Block
from bpnas.profiler.models.modules import build_module
from bpnas.search.connections.choose_network import choose_network
from bpnas.search.connections.connect import candidate_latencies, connect, new_supernet
from bpnas.search.data.dataset import Dataset
from bpnas.search.data.evaluation_images import EvaluationImages
from bpnas.search.errors import DivergedError
from bpnas.search.fields import SEEDS, FieldError, Fields
from bpnas.search.networks.network_file import block_texts, check_sites, parse_blocks
from bpnas.search.presets import Preset
from bpnas.search.run_directory import RunDirectory
from bpnas.search.studies.connections.terms import StudyNetwork, StudyTerms
from bpnas.search.studies.journal import Journal
from bpnas.search.training.seeded import seeded
from bpnas.search.training.train import accuracy, train


@dataclass(frozen=True, slots=True)
class Searched:
    """What one supernet came to.

    Attributes:
        lambda_below: of the latency loss, below the target.
        network: the one within the target: the most probable, or the best of the `k_best` most probable.
        argmax: the paper's, the most probable candidate of every site, which may miss the target.
        expected_latency_ms: at the alphas reached (Eq. 8).
        entropy: of the candidates' probabilities, in nats, mean over sites.
    """

    lambda_below: float
    network: StudyNetwork
    argmax: StudyNetwork
    expected_latency_ms: float
    entropy: float


class Work:
    """Does what it is asked for, unless an earlier call has done it.

    Args:
        directory: holds searches.jsonl and evaluations.jsonl, a line each, and checkpoints of what is under way.
        terms: what the arms have in common.
        dataset, preset: the images, and the recipes `connections` and `retraining`.

    Raises:
        RunError: a file is damaged.
    """

    def __init__(self, directory: RunDirectory, terms: StudyTerms, dataset: Dataset, preset: Preset) -> None:
        self.terms = terms
        self._directory, self._dataset, self._preset = directory, dataset, preset
        self._searches = Journal(directory, "searches.jsonl", "search", self._read_search)
        self._scores = Journal(directory, "evaluations.jsonl", "evaluation", self._read_evaluation)

    def __len__(self) -> int:
        """How many trainings the directory holds, supernets included."""
        return len(self._searches) + len(self._scores)

    @property
    def images(self) -> EvaluationImages:
        """What `score` is of."""
        return EvaluationImages.test(self._dataset, self._preset.test_images)

    def search(self, name: str, proposals: Sequence[Block], lambda_below: float, seed: int) -> Searched:
        """Train a supernet and derive its network.

        Args:
            name: of the arm, for messages.

        Raises:
            DataError, DivergedError, InfeasibleLimitError: as of `connect` and `choose_network`.
        """
        texts = [str(block) for block in proposals]
        key = (tuple(texts), lambda_below, seed)
        if key not in self._searches:
            start, checkpoint = perf_counter(), self._checkpoint("supernet", *key)
            line: dict[str, Any] = {"proposals": texts, "lambda_below": lambda_below, "seed": seed}
            with _told(f"the supernet of {name} with seed {seed}", "--connection-rate", checkpoint):
                line |= self._search(proposals, lambda_below, seed, checkpoint)
            line["seconds"] = perf_counter() - start
            self._searches.add(key, self._searched(Fields(line)), line)
            checkpoint.unlink(missing_ok=True)
        return self._searches[key]

    def score(self, network: StudyNetwork, seed: int) -> float:
        """The accuracy on test images, 0..1, after training from scratch by the recipe `retraining`.

        Raises:
            DivergedError: as of `train` and `accuracy`.
        """
        backbone = None if network.backbone is None else network.backbone.to_dict()
        texts = block_texts(network.blocks)
        key = (tuple(texts), _frozen(backbone), seed)
        if key not in self._scores:
            start, checkpoint = perf_counter(), self._checkpoint("training", *key)
            with _told(f"the training of the network {' '.join(texts)}", "--retrain-rate", checkpoint):
                score = self._train(network, seed, checkpoint)
            line = {"blocks": texts, "backbone": backbone, "seed": seed, "score": score}
            self._scores.add(key, score, {**line, "seconds": perf_counter() - start})
            checkpoint.unlink(missing_ok=True)
        return self._scores[key]

    def _search(self, proposals: Sequence[Block], lambda_below: float, seed: int, checkpoint: Path) -> dict[str, Any]:
        terms, settings = self.terms, replace(self._preset.connections, lambda_below=lambda_below)
        latencies = candidate_latencies(terms.table, terms.backbone, proposals)
        # The same chance for all arms: their difference is surer so.
        model_seed = derived_seed(seed, "study", "supernet")
        supernet = new_supernet(terms.backbone, proposals, settings, model_seed)
        learned = connect(
            supernet,
            self._dataset,
            latencies,
            settings,
            target_ms=terms.target_ms,
            fixed_ms=terms.fixed_ms,
            seed=model_seed,
            checkpoint=checkpoint,
        )
        exact_ms = terms.exact_ms(proposals)
        choice = choose_network(
            supernet, learned, latencies, self._dataset, settings, terms.target_ms, terms.fixed_ms, exact_ms
        )
        log_p = learned.log_probabilities
        probabilities = [np.exp(row) for row in log_p]
        expected = terms.fixed_ms + sum(float(p @ ms) for p, ms in zip(probabilities, latencies, strict=True))
        entropies = [-float(p @ row) for p, row in zip(probabilities, log_p, strict=True)]
        return {
            "chosen": block_texts(terms.chosen(proposals, choice.chosen.choices)),
            "argmax": block_texts(terms.chosen(proposals, choice.argmax.choices)),
            "expected_latency_ms": expected,
            "entropy": sum(entropies) / len(entropies),
            "log_probabilities": [row.tolist() for row in log_p],
        }

    def _train(self, network: StudyNetwork, seed: int, checkpoint: Path) -> float:
        settings, dataset = self._preset.retraining, self._dataset
        backbone = network.backbone or self.terms.backbone
        model = seeded(seed, lambda: build_module(network.blocks, backbone))
        split = dataset.train.first(settings.train_images)
        train(model, dataset, split, settings, seed=seed, checkpoint=checkpoint)
        return accuracy(model, dataset, dataset.test.first(self._preset.test_images), epochs=settings.epochs)

    def _checkpoint(self, *key: object) -> Path:
        return self._directory.checkpoints / f"{derived_seed(0, *key):016x}.pt"

    def _read_search(self, line: Fields) -> tuple[tuple[Any, ...], Searched]:
        searched = self._searched(line)
        return (tuple(line.texts("proposals")), searched.lambda_below, line.whole("seed", -SEEDS, SEEDS)), searched

    def _read_evaluation(self, line: Fields) -> tuple[tuple[Any, ...], float]:
        backbone, blocks = _frozen(line.values.get("backbone")), line.texts("blocks")
        check_sites(parse_blocks(blocks), backbone or self.terms.backbone)
        return (tuple(blocks), backbone, line.whole("seed", -SEEDS, SEEDS)), line.share("score")

    def _searched(self, line: Fields) -> Searched:
        expected, entropy = line.latency("expected_latency_ms"), line.number("entropy", -1e-6, 1e6)
        chosen, argmax = self._network(line.texts("chosen")), self._network(line.texts("argmax"))
        if chosen.latency_ms > self.terms.target_ms:
            raise FieldError(
                f"'chosen' takes {chosen.latency_ms:.6g} ms, above the limit of {self.terms.target_ms:.6g} ms"
            )
        return Searched(line.share("lambda_below"), chosen, argmax, expected, entropy)

    def _network(self, texts: Sequence[str]) -> StudyNetwork:
        blocks = parse_blocks(texts)
        check_sites(blocks, self.terms.backbone)
        return StudyNetwork(blocks, self.terms.latency_ms(blocks))


@contextmanager
def _told(stage: str, option: str, checkpoint: Path) -> Iterator[None]:
    """Around a training: one that diverges says so by its name, and leaves no state."""
    try:
        yield
    except DivergedError as error:
        checkpoint.unlink(missing_ok=True)
        raise error.of(
            stage,
            "what was trained is kept, but all trainings of a study are alike: start another study with a smaller "
            f"{option} and another --out",
        ) from None


def _frozen(backbone: Any) -> Backbone | None:
    """A backbone's plain values as a part of a key."""
    return None if backbone is None else Backbone.from_dict(Fields.of(backbone, "backbone").values)
