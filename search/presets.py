"""Every hyper-parameter of the search, as values: the paper's (SPEC of BP-NAS, sections on both stages) and small ones.

What the paper does not give is marked [ours].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal, get_args

from bpnas.base.errors import UsageError
from bpnas.base.plurals import counted
from bpnas.profiler.block import Coding

Schedule = Literal["cosine", "constant"]
Strategy = Literal["default", "paper", "random"]
Precision = Literal["float32", "bfloat16"]

_HIGHEST_RATE = 1e30


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """SGD on one model.

    Attributes:
        epochs, batch: passes over the images, images a step.
        learning_rate, final_learning_rate: at the first and after the last step of the schedule.
        momentum, nesterov, weight_decay: of SGD.
        schedule: "cosine" from the one rate to the other, or "constant".
        train_images: use only this many of the training images; None for all.
        precision: "bfloat16" multiplies in it (autocast), for GPUs; weights and accuracies stay in float32. On a CPU
            with AVX-512 but without AMX it was up to three times slower.
        compile: compile the model first (`torch.compile`), for GPUs. On a CPU it took 10 to 40 s a network and gained
            nothing.
        warmup_epochs: first epochs, in which the rate rises evenly from a hundredth of the first; the schedule
            follows.
        label_smoothing: share of the target that all classes get equally (Szegedy et al. 2016).
        ema_decay: evaluate and keep an exponential moving average of the weights of this decay (see `training.ema`);
            None for the last weights.
        decay_norms: whether weight decay also acts on biases and batch normalisation.
        accumulate: take a batch in this many parts, for less memory. Batch normalisation then sees the parts.
    """

    epochs: int
    batch: int
    learning_rate: float
    final_learning_rate: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    train_images: int | None = None
    precision: Precision = "float32"
    compile: bool = False
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    ema_decay: float | None = None
    decay_norms: bool = True
    accumulate: int = 1


@dataclass(frozen=True, slots=True)
class ProposalSettings:
    """Stage 1, block proposal search (LEvoNAS).

    Attributes:
        population, sample, cycles: P, S and C of Algorithm 1.
        strategy: of `levonas`, or "random" for random feasible blocks in its place, the paper's ablation.
        validation_share: part of the training images on which a candidate is evaluated; never test images.
        train: how a candidate is trained.
        subset: cheaper [ours]: train on only this many of the images that are not held out; those held out stay the
            same (with fewer `train.train_images` they would be fewer, too); None for all.
        halving: cheaper [ours]: successive halving on epochs, of which the best one in this many continues at each rung
            (see `bpnas.search.proposals.halving`); None for off.
        patience: cheaper [ours]: end a training whose accuracy on held-out images has not risen above its best for this
            many epochs; None for off.
        coding: whose bits are flipped, "binary" or "gray" (the paper's ablation).
        warm_start: the strategy "default" begins a limit with what tighter ones have evaluated [ours].
    """

    population: int
    sample: int
    cycles: int
    strategy: Strategy
    validation_share: float
    train: TrainSettings
    subset: int | None = None
    halving: int | None = None
    patience: int | None = None
    coding: Coding = "binary"
    warm_start: bool = True


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Stage 2, block connection search (the supernet).

    Attributes:
        warmup_epochs: first epochs, in which only weights are trained.
        weight_share: part of the training images that trains weights; the rest trains alpha.
        alpha_learning_rate, alpha_weight_decay: of Adam on the architecture parameters.
        tau_start, tau_decay: tau of epoch e (from 0) is tau_start * exp(-tau_decay * e).
        lambda_below: lambda of Eq. 6 where the latency is below the target.
        train: how the weights are trained.
        sampled_paths: compute only this many candidates of a site in a step, for memory and time, 1 or 2 (see
            `Supernet.draw_sampled`); None for all, as in the paper.
        checkpoint_activations: keep only the inputs of sites for the backward pass and compute the rest again there,
            for memory.
        k_best: have the supernet evaluate this many of the most probable networks within the limit, and retrain the
            best [ours] (see `bpnas.search.connections.inherited_accuracy`).
        noise_free_latency: let LAT of Eq. 5 be the expectation over softmax(alpha), as in ProxylessNAS (Cai et al.
            2019), and not over the P that was drawn for the step, as in the paper.
    """

    warmup_epochs: int
    weight_share: float
    alpha_learning_rate: float
    alpha_weight_decay: float
    tau_start: float
    tau_decay: float
    lambda_below: float
    train: TrainSettings
    sampled_paths: int | None = None
    checkpoint_activations: bool = False
    k_best: int = 1
    noise_free_latency: bool = False

    def tau(self, epoch: int) -> float:
        """Temperature of the Gumbel softmax in `epoch`, counted from 0."""
        return self.tau_start * math.exp(-self.tau_decay * epoch)


@dataclass(frozen=True, slots=True)
class Preset:
    """All settings of a run.

    Attributes:
        test_images: measure the final accuracy on this many test images; None for all.
    """

    name: str
    proposals: ProposalSettings
    connections: ConnectionSettings
    retraining: TrainSettings
    test_images: int | None = None

    @classmethod
    def load(cls, name: str) -> Preset:
        """The preset `tiny`, `small` or `paper`.

        Raises:
            UsageError: there is no such preset.
        """
        try:
            return PRESETS[name]
        except KeyError:
            raise UsageError(f"no preset is called {name!r}: use one of {', '.join(PRESETS)}") from None

    @property
    def later_images(self) -> int | None:
        """How many training images stage 2 and the retraining need at most; None for all."""
        wanted = (self.connections.train.train_images, self.retraining.train_images)
        return None if None in wanted else max(count for count in wanted if count is not None)

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)

    def override(self, values: Mapping[str, Any]) -> Preset:
        """A copy with single values changed, named by their place, as in `{"proposals.train.epochs": 2}`.

        Raises:
            UsageError: there is no such value, or it is out of range.
        """
        preset: Any = self
        for name, value in values.items():
            preset = _replaced(preset, name.split("."), value, name)
        _check(preset)
        return preset  # type: ignore[no-any-return]


def proposals_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of stage 1 as an earlier bpnas stored them, with today's names: nothing else could be chosen there."""
    found = {name: value for name, value in values.items() if name != "limit_quantiles"}
    return found if len(found) == len(values) else {**found, "coding": "binary", "warm_start": False}


def _replaced(node: Any, names: list[str], value: Any, whole: str) -> Any:
    if not is_dataclass(node) or names[0] not in {field.name for field in fields(node)}:
        raise UsageError(f"setting {whole!r} does not exist")
    if len(names) > 1:
        value = _replaced(getattr(node, names[0]), names[1:], value, whole)
    return replace(node, **{names[0]: value})  # type: ignore[type-var]


def _check(preset: Preset) -> None:
    proposals, connections = preset.proposals, preset.connections
    if not 1 <= proposals.sample <= proposals.population:
        raise UsageError(f"sample must be from 1 to the population of {proposals.population}, not {proposals.sample}")
    for name, value, known in (
        ("strategy", proposals.strategy, get_args(Strategy)),
        ("coding", proposals.coding, get_args(Coding)),
    ):
        if value not in known:
            raise UsageError(f"{name} {value!r} is unknown: use {', '.join(known[:-1])} or {known[-1]}")
    if proposals.cycles < 1:
        raise UsageError(f"cycles must be at least 1, not {proposals.cycles}")
    for field, smallest in (("subset", 2), ("halving", 2), ("patience", 1)):
        value = getattr(proposals, field)
        if value is not None and value < smallest:
            raise UsageError(f"{field} must be at least {smallest}, not {value}")
    check_lambda(connections.lambda_below)
    if connections.sampled_paths not in (None, 1, 2):
        raise UsageError(f"sampled paths must be 1 or 2, not {connections.sampled_paths}: leave them out for all")
    if connections.k_best < 1:
        raise UsageError(f"k best must be at least 1, not {connections.k_best}")
    if connections.train.epochs <= connections.warmup_epochs:
        raise UsageError(
            f"the connection search needs more than its {connections.warmup_epochs} warm-up epochs, "
            f"not {connections.train.epochs}"
        )
    trainings = {"proposals": proposals.train, "connections": connections.train, "retraining": preset.retraining}
    for name, train in trainings.items():
        for field, smallest in (("epochs", 1), ("batch", 2), ("train_images", 10)):
            value = getattr(train, field)
            if value is not None and value < smallest:
                raise UsageError(f"{field} of {name} must be at least {smallest}, not {value}")
        if train.precision not in get_args(Precision):
            raise UsageError(
                f"precision of {name} must be one of {', '.join(get_args(Precision))}, not {train.precision}"
            )
        _check_training(name, train)
    check_rate(connections.alpha_learning_rate, " of alphas")
    # The weights of a supernet are trained by a loop of its own.
    for field, off in (("label_smoothing", 0.0), ("ema_decay", None), ("accumulate", 1)):
        if getattr(connections.train, field) != off:
            raise UsageError(f"{field} is for the training of one network, not for the connection search")


def check_lambda(below: float) -> None:
    """Refuse a lambda below the target (Eq. 6) that is not in 0..1, with a UsageError."""
    if not 0 <= below <= 1:
        raise UsageError(f"lambda below the target must be from 0 to 1, not {below}")


def check_rate(rate: float, whose: str = "") -> None:
    """Refuse a learning rate that is no number, or more than an optimiser can compute with in float32.

    Raises:
        UsageError: it is not above 0 and at most `_HIGHEST_RATE`.
    """
    if not 0 < rate <= _HIGHEST_RATE:
        raise UsageError(f"the learning rate{whose} must be above 0 and at most {_HIGHEST_RATE:g}, not {rate:g}")


def _check_training(name: str, train: TrainSettings) -> None:
    check_rate(train.learning_rate, f" of {name}")
    if not 0 <= train.warmup_epochs < train.epochs:
        raise UsageError(
            f"the warm-up of {name} must be shorter than its {counted(train.epochs, 'epoch')}, and not below 0: "
            f"it is {train.warmup_epochs}"
        )
    if not 0 <= train.label_smoothing < 1:
        raise UsageError(f"label smoothing of {name} must be from 0 to less than 1, not {train.label_smoothing}")
    if train.ema_decay is not None and not 0 < train.ema_decay < 1:
        raise UsageError(f"the decay of the moving average of {name} must be between 0 and 1, not {train.ema_decay}")
    if not 1 <= train.accumulate <= train.batch // 2:
        raise UsageError(
            f"a batch of {name} has {train.batch} images and can be taken in 1 to {train.batch // 2} parts of at least "
            f"two, not in {train.accumulate}"
        )


PAPER = Preset(
    name="paper",
    proposals=ProposalSettings(
        population=100,
        sample=25,
        cycles=300,  # [ours]
        strategy="paper",  # exactly Algorithm 2
        validation_share=0.1,  # [ours] the paper does not say on which images a candidate is evaluated
        train=TrainSettings(epochs=30, batch=400, learning_rate=0.06, weight_decay=5e-4),  # [ours] cosine to 0
    ),
    connections=ConnectionSettings(
        warmup_epochs=10,
        weight_share=0.8,
        alpha_learning_rate=0.02,
        alpha_weight_decay=5e-4,
        tau_start=5.0,
        tau_decay=0.045,
        lambda_below=0.01,
        train=TrainSettings(
            epochs=120, batch=640, learning_rate=0.2, final_learning_rate=1e-4, nesterov=True, weight_decay=1e-4
        ),
    ),
    # [ours] 240 epochs from a rate of 0.8, by the linear rule from 0.1 at 256 images a step, and the 5 epochs of
    # warm-up that such a rate needs (Goyal et al. 2017).
    retraining=TrainSettings(
        epochs=240, batch=2048, learning_rate=0.8, nesterov=True, weight_decay=4e-5, warmup_epochs=5
    ),
)

TINY = Preset(
    name="tiny",
    proposals=ProposalSettings(
        population=3,
        sample=2,
        cycles=5,
        strategy="default",
        validation_share=0.25,
        train=TrainSettings(epochs=2, batch=16, learning_rate=0.05, weight_decay=5e-4, train_images=400),
    ),
    connections=ConnectionSettings(
        warmup_epochs=1,
        weight_share=0.8,
        alpha_learning_rate=0.1,
        alpha_weight_decay=5e-4,
        tau_start=5.0,
        tau_decay=1.0,
        lambda_below=0.01,
        train=TrainSettings(
            epochs=4,
            batch=16,
            learning_rate=0.05,
            final_learning_rate=1e-4,
            nesterov=True,
            weight_decay=1e-4,
            train_images=160,
        ),
    ),
    retraining=TrainSettings(
        epochs=10, batch=32, learning_rate=0.03, nesterov=True, weight_decay=4e-5, train_images=1500
    ),
    test_images=1000,
)

# [ours] For CIFAR-10 on a CPU: minutes for a narrow backbone, hours for the default one. Batches of 32, since a few
# hundred steps decide here, and as many images to evaluate a candidate on as to train it on: with fewer, their
# noise hides the difference between blocks.
SMALL = Preset(
    name="small",
    proposals=ProposalSettings(
        population=10,
        sample=4,
        cycles=40,
        strategy="default",
        validation_share=0.5,
        train=TrainSettings(epochs=3, batch=32, learning_rate=0.1, weight_decay=5e-4, train_images=4000),
    ),
    connections=replace(
        TINY.connections,
        warmup_epochs=2,
        tau_decay=0.4,
        train=replace(TINY.connections.train, epochs=12, batch=32, train_images=4000),
    ),
    retraining=replace(TINY.retraining, epochs=30, batch=64, learning_rate=0.1, train_images=20_000),
)

PRESETS = {"tiny": TINY, "small": SMALL, "paper": PAPER}

RANDOM_BLOCKS = 100
"""BP-NAS, ablation of the block proposal search: the best of this many random blocks."""
