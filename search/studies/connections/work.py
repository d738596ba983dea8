"""The work of a study of stage 2: supernet searches and trainings, each done once and on the disk before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bpnas.base.randomness import derived_seed
from bpnas.profiler.backbone import Backbone
from bpnas.profiler.models.modules import build_module
from bpnas.search.connections.connect import candidate_latencies, connect, new_supernet
from bpnas.search.connections.derive import Assignment, argmax_blocks, k_most_probable_blocks
from bpnas.search.connections.inherited_accuracy import inherited_accuracy
from bpnas.search.connections.supernet import Supernet
from bpnas.search.data.dataset import Dataset
from bpnas.search.data.judged_images import JudgedImages
from bpnas.search.errors import DivergedError
from bpnas.search.fields import SEEDS, FieldError, Fields, fields_of
from bpnas.search.networks.network_file import block_texts, check_sites, parse_blocks
from bpnas.search.presets import Preset
from bpnas.search.run_directory import RunDirectory
from bpnas.search.sealed import LINE_REMEDY
from bpnas.search.studies.connections.arms import Network, SearchedArm, Terms
from bpnas.search.training.seeded import seeded
from bpnas.search.training.train import accuracy, train

SEARCHES = "searches.jsonl"
EVALUATIONS = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class Searched:
    """What one supernet came to.

    Attributes:
        network: the one within the target: the most probable, or the best of the `k_best` most probable.
        argmax: the paper's, the most probable candidate of every site, which may miss the target.
        expected_latency_ms: at the alphas reached (Eq. 8).
        entropy: of the candidates' probabilities, in nats, mean over sites.
    """

    network: Network
    argmax: Network
    expected_latency_ms: float
    entropy: float


class Stage2Work:
    """Does what it is asked for, unless an earlier call has done it.

    Args:
        directory: holds searches.jsonl and evaluations.jsonl, a line each, and checkpoints of what is under way.
        terms: what the arms have in common.
        dataset, preset: the images, and the recipes `connections` and `retraining`.

    Raises:
        RunError: a file is damaged.
    """

    def __init__(self, directory: RunDirectory, terms: Terms, dataset: Dataset, preset: Preset) -> None:
        self._directory, self._terms, self._dataset, self._preset = directory, terms, dataset, preset
        self._searches: dict[tuple[Any, ...], Searched] = {}
        self._scores: dict[tuple[Any, ...], float] = {}
        for row, line in enumerate(directory.lines(SEARCHES), start=1):
            with fields_of(f"{directory.root / SEARCHES}: line {row} is no search", LINE_REMEDY):
                fields = Fields(line)
                key = (
                    tuple(fields.texts("proposals")),
                    fields.share("lambda_below"),
                    fields.whole("seed", -SEEDS, SEEDS),
                )
                self._searches[key] = self._searched(fields)
        for row, line in enumerate(directory.lines(EVALUATIONS), start=1):
            with fields_of(f"{directory.root / EVALUATIONS}: line {row} is no evaluation", LINE_REMEDY):
                fields = Fields(line)
                backbone = _frozen(fields.values.get("backbone"))
                blocks = fields.texts("blocks")
                check_sites(parse_blocks(blocks), backbone or terms.backbone)
                self._scores[tuple(blocks), backbone, fields.whole("seed", -SEEDS, SEEDS)] = fields.share("score")

    def __len__(self) -> int:
        """How many trainings the directory holds, supernets included."""
        return len(self._searches) + len(self._scores)

    def search(self, arm: SearchedArm, seed: int) -> Searched:
        """Train a supernet and derive its network.

        Raises:
            DataError, DivergedError, InfeasibleLimitError: as of `connect` and `most_probable_blocks`.
        """
        texts = [str(block) for block in arm.proposals]
        key = (tuple(texts), arm.lambda_below, seed)
        if key not in self._searches:
            checkpoint = self._checkpoint("supernet", *key)
            line = {"proposals": texts, "lambda_below": arm.lambda_below, "seed": seed}
            with _told(f"the supernet of {arm.name} with seed {seed}", "--connection-rate", checkpoint):
                line |= self._search(arm, seed, checkpoint)
            self._directory.append(SEARCHES, line)
            checkpoint.unlink(missing_ok=True)
            self._searches[key] = self._searched(Fields(json.loads(json.dumps(line))))
        return self._searches[key]

    def score(self, network: Network, seed: int) -> float:
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
            self._directory.append(EVALUATIONS, {**line, "seconds": perf_counter() - start})
            checkpoint.unlink(missing_ok=True)
            self._scores[key] = score
        return self._scores[key]

    def _search(self, arm: SearchedArm, seed: int, checkpoint: Path) -> dict[str, Any]:
        start, terms, settings = perf_counter(), self._terms, self._preset.connections
        latencies = candidate_latencies(terms.table, terms.backbone, arm.proposals)
        exact_ms = terms.exact_ms(arm.proposals)
        # The same chance for all arms: their difference is surer so.
        model_seed = derived_seed(seed, "study", "supernet")
        supernet = new_supernet(terms.backbone, arm.proposals, settings, model_seed)
        learned = connect(
            supernet,
            self._dataset,
            latencies,
            replace(settings, lambda_below=arm.lambda_below),
            target_ms=terms.target_ms,
            fixed_ms=terms.fixed_ms,
            seed=model_seed,
            checkpoint=checkpoint,
        )
        log_p = learned.log_probabilities
        argmax = argmax_blocks(log_p, latencies, terms.fixed_ms)
        likely = k_most_probable_blocks(log_p, latencies, terms.target_ms, settings.k_best, terms.fixed_ms, exact_ms)
        chosen = self._judged(supernet, likely) if settings.k_best > 1 else likely[0]
        probabilities = [np.exp(row) for row in log_p]
        expected = terms.fixed_ms + sum(float(p @ ms) for p, ms in zip(probabilities, latencies, strict=True))
        entropies = [-float(p @ row) for p, row in zip(probabilities, log_p, strict=True)]
        return {
            **{
                name: block_texts(terms.chosen(arm.proposals, assignment.choices))
                for name, assignment in (("chosen", chosen), ("argmax", argmax))
            },
            "expected_latency_ms": expected,
            "entropy": sum(entropies) / len(entropies),
            "log_probabilities": [row.tolist() for row in log_p],
            "seconds": perf_counter() - start,
        }

    def _judged(self, supernet: Supernet, likely: Sequence[Assignment]) -> Assignment:
        """The best by the supernet's own weights, of equals the most probable, as `run_connections` has it."""
        settings = self._preset.connections
        _, held_out = self._dataset.train.first(settings.train.train_images).parted(settings.weight_share)

        def quality(assignment: Assignment) -> float:
            return inherited_accuracy(supernet, assignment.choices, self._dataset, held_out, settings.train.batch)

        return max(likely, key=quality)

    def _train(self, network: Network, seed: int, checkpoint: Path) -> float:
        settings, dataset = self._preset.retraining, self._dataset
        backbone = network.backbone or self._terms.backbone
        model = seeded(seed, lambda: build_module(network.blocks, backbone))
        split = dataset.train.first(settings.train_images)
        train(model, dataset, split, settings, seed=seed, checkpoint=checkpoint)
        return accuracy(model, dataset, dataset.test.first(self._preset.test_images), epochs=settings.epochs)

    def _checkpoint(self, *key: object) -> Path:
        return self._directory.checkpoints / f"{derived_seed(0, *key):016x}.pt"

    def _searched(self, line: Fields) -> Searched:
        expected, entropy = line.latency("expected_latency_ms"), line.number("entropy", -1e-6, 1e6)
        chosen, argmax = self._network(line.texts("chosen")), self._network(line.texts("argmax"))
        if chosen.latency_ms > self._terms.target_ms:
            raise FieldError(
                f"'chosen' takes {chosen.latency_ms:.6g} ms, above the limit of {self._terms.target_ms:.6g} ms"
            )
        return Searched(chosen, argmax, expected, entropy)

    def _network(self, texts: Sequence[str]) -> Network:
        blocks = parse_blocks(texts)
        check_sites(blocks, self._terms.backbone)
        return Network(blocks, self._terms.latency_ms(blocks))

    @property
    def images(self) -> JudgedImages:
        """What `score` is of."""
        return JudgedImages.test(self._dataset, self._preset.test_images)


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


def _frozen(backbone: Any) -> Any:
    """A backbone's plain values as a part of a key."""
    return None if backbone is None else Backbone.from_dict(Fields.of(backbone, "backbone").values)
