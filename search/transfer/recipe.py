"""What the recipes of all transfer tasks have in common: length, batch, learning rate and its schedule, SGD.

A training is as long as so many epochs or so many iterations; milestones count in the same unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from bpnas.base.errors import UsageError
from bpnas.search.presets import check_rate

Shape = Literal["steps", "cosine", "constant"]

_LONGEST = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained by SGD; a step is an iteration, over all processes.

    Attributes:
        batch: images of an iteration, over all processes.
        learning_rate: for the whole batch, the highest one.
        epochs, iterations: how long; one of them is None. 0 evaluates the network as it is.
        schedule: "steps" (a tenth after each milestone), "cosine" (to 0 at the end) or "constant".
        milestones: of "steps", increasing, in the unit of the length.
        warmup_epochs, warmup_iterations: first ones, in which the rate rises evenly; at most one of them is not 0.
        momentum, weight_decay: of SGD.
        sync_bn: batch normalisation that is trained takes its statistics over the images of all processes.
    """

    batch: int
    learning_rate: float
    epochs: int | None = None
    iterations: int | None = None
    schedule: Shape = "steps"
    milestones: tuple[float, ...] = ()
    warmup_epochs: float = 0.0
    warmup_iterations: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    sync_bn: bool = True

    @property
    def length(self) -> int:
        """Epochs or iterations in all."""
        length = self.iterations if self.epochs is None else self.epochs
        assert length is not None
        return length

    @property
    def unit(self) -> str:
        """`epochs` or `iterations`."""
        return "iterations" if self.epochs is None else "epochs"

    @property
    def length_text(self) -> str:
        """The length in words."""
        return f"{self.length:,} {self.unit if self.length != 1 else self.unit[:-1]}"

    def notes(self) -> tuple[str, ...]:
        """What has no effect, in words."""
        late = [f"{value:,g}" for value in self.milestones if value >= self.length > 0]
        what = ("milestones", "are") if len(late) > 1 else ("milestone", "is")
        text = f"the {what[0]} {' and '.join(late)} {what[1]} not before the end of {self.length_text} and"
        return (f"{text} {'have' if len(late) > 1 else 'has'} no effect",) if late else ()


AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


def overridden(recipe: AnyRecipe, values: Mapping[str, Any]) -> AnyRecipe:
    """A copy with single values changed.

    With another length, milestones and a warm-up that are not given keep their share of it.

    Raises:
        UsageError: values exclude each other, or one is out of range.
    """
    for one, other in (("epochs", "iterations"), ("warmup_epochs", "warmup_iterations")):
        if one in values and other in values:
            raise UsageError(f"{_option(one)} and {_option(other)} exclude each other")
    given, values = values, dict(values)
    if {"epochs", "iterations"} & values.keys():
        values = _with_length(recipe, values)
    if "warmup_epochs" in values or "warmup_iterations" in values:
        values = {"warmup_epochs": 0.0, "warmup_iterations": 0, **values}
    if values.get("schedule", recipe.schedule) != "steps":
        if given.get("milestones") and "schedule" in given:
            raise UsageError("--milestones belongs to --schedule steps")
        # Milestones of their own ask for steps.
        values |= {"schedule": "steps"} if given.get("milestones") else {"milestones": ()}
    changed = replace(recipe, **values)
    _check(changed)
    return changed


def _with_length(recipe: Recipe, values: dict[str, Any]) -> dict[str, Any]:
    unit = "epochs" if "epochs" in values else "iterations"
    length = values[unit]
    if not 0 <= length <= _LONGEST:
        raise UsageError(f"{unit} must be from 0 to {_LONGEST:,}, not {length:,}")
    values = {"epochs": None, "iterations": None, **values}
    share = length / recipe.length if recipe.length else 0.0

    def scaled(value: float) -> float:
        return round(value * share, 6) if unit == "epochs" else round(value * share)

    if "milestones" not in values:
        kept = dict.fromkeys(scaled(value) for value in recipe.milestones)
        values["milestones"] = tuple(value for value in kept if 0 < value < length)
    warmup = recipe.warmup_epochs if recipe.epochs is not None else recipe.warmup_iterations
    if warmup and "warmup_epochs" not in values and "warmup_iterations" not in values:
        values[f"warmup_{unit}"] = scaled(warmup)
    return values


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check(recipe: Recipe) -> None:
    if not 1 <= recipe.batch <= _LONGEST:
        raise UsageError(f"batch must be at least 1 and at most {_LONGEST:,}, not {recipe.batch:,}")
    check_rate(recipe.learning_rate)
    if recipe.schedule not in get_args(Shape):
        raise UsageError(f"schedule must be one of {', '.join(get_args(Shape))}, not {recipe.schedule}")
    previous = 0.0
    for value in recipe.milestones:
        if not previous < value < math.inf or (recipe.epochs is None and value != int(value)):
            whole = " whole" if recipe.epochs is None else ""
            written = ",".join(f"{each:g}" for each in recipe.milestones)
            raise UsageError(f"milestones must be{whole} numbers of {recipe.unit} above 0 that increase, not {written}")
        previous = value
    for name in ("warmup_epochs", "warmup_iterations"):
        if not 0 <= getattr(recipe, name) <= _LONGEST:
            raise UsageError(f"the warm-up must be from 0 to {_LONGEST:,} {name.removeprefix('warmup_')}")
    if not 0 <= recipe.momentum < 1:
        raise UsageError(f"momentum must be from 0 to less than 1, not {recipe.momentum:g}")
    if not 0 <= recipe.weight_decay <= 1:
        raise UsageError(f"weight decay must be from 0 to 1, not {recipe.weight_decay:g}")


def check_share(recipe: Recipe, processes: int, *, trains_norms: bool = True) -> None:
    """Refuse a batch that so many processes cannot share evenly.

    Args:
        trains_norms: whether batch normalisation takes its statistics from the batch.

    Raises:
        UsageError: they cannot.
    """
    if recipe.batch % processes:
        raise UsageError(
            f"a batch of {recipe.batch} images cannot be shared evenly by {processes} processes: choose a --batch that "
            f"is a multiple of {processes}, or start another number of processes"
        )
    if trains_norms and not recipe.sync_bn and recipe.batch // processes < 2 <= processes:
        raise UsageError(
            f"with --no-sync-bn each process normalises its own images, and a batch of {recipe.batch} gives each of "
            f"{processes} processes only one: choose a larger --batch, or --sync-bn"
        )


class Course:
    """A recipe on images: how many iterations each epoch has, and the learning rate of each.

    Args:
        recipe: see there.
        steps: iterations of a whole epoch, at least 1; where epochs differ, of each by its number from 0.
    """

    def __init__(self, recipe: Recipe, steps: int | Callable[[int], int]) -> None:
        self._recipe, self._steps, self._before = recipe, steps, [0]

    def before(self, epoch: int) -> int:
        """Iterations of all epochs in front of this one, as if none was cut short."""
        if isinstance(self._steps, int):
            return epoch * self._steps
        while len(self._before) <= epoch:
            self._before.append(self._before[-1] + self._steps(len(self._before) - 1))
        return self._before[epoch]

    @property
    def epochs(self) -> int:
        """How many there are, by the first one where they differ; the last one may be cut short."""
        recipe = self._recipe
        return recipe.length if recipe.epochs is not None else -(-recipe.length // self.before(1))

    def ends_before(self, epoch: int) -> bool:
        """Whether the training is over at the beginning of this epoch."""
        done = epoch if self._recipe.epochs is not None else self.before(epoch)
        return done >= self._recipe.length

    def steps(self, epoch: int) -> int:
        """Iterations of an epoch, which ends where the training does."""
        whole = self.before(epoch + 1) - self.before(epoch)
        return whole if self._recipe.epochs is not None else min(whole, self._recipe.length - self.before(epoch))

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of an iteration, from 0, of an epoch."""
        recipe, whole = self._recipe, self.before(epoch + 1) - self.before(epoch)
        iteration, epochs = self.before(epoch) + step, epoch + step / whole
        done = epochs if recipe.epochs is not None else float(iteration)
        rate = recipe.learning_rate
        if recipe.warmup_iterations:
            rate *= min(1.0, (iteration + 1) / (recipe.warmup_iterations + 1))
        elif recipe.warmup_epochs:
            rate *= min(1.0, (epochs + 1 / whole) / recipe.warmup_epochs)
        if recipe.schedule == "cosine":
            return rate * (1 + math.cos(math.pi * done / recipe.length)) / 2
        return float(rate * 0.1 ** sum(done >= milestone for milestone in recipe.milestones))
