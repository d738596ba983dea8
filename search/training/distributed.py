"""Several processes that train one model together, as torchrun starts them: who is who, and what they share.

Without torchrun there is one process, and everything here costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.base.errors import UsageError
from bpnas.search.errors import SearchError

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Meet the other processes of torchrun, through NCCL where each has a GPU of its own, else through Gloo.

    Does nothing where torchrun has not started this process, or the group is there already.

    Raises:
        UsageError: torchrun's variables are incomplete, or there are GPUs, but not one for each process.
        SearchError: within, another process was waited for and has ended.
    """
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is set, but {' and '.join(missing)} not: start several processes with torchrun")
    if torch.cuda.is_available():
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine has no GPU, of which there are {torch.cuda.device_count()}: start as "
                "many processes as there are GPUs"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise SearchError(
                "another process of this training has ended; what was done is kept, call the same command again to go "
                "on"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def check_batch(batch: int, option: str) -> None:
    """Refuse a batch of fewer images than there are processes; `option` is what sets it.

    Raises:
        UsageError: the option, the batch and the processes.
    """
    if batch < world_size():
        raise UsageError(
            f"{option} {batch}: torchrun started {world_size()} processes, and each needs an image of every batch; "
            f"give {world_size()} or more, or start fewer processes"
        )


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def from_main(value: T) -> T:
    """What the main process has, on all of them; plain values only."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    found: T = box[0]
    return found


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of a tensor of one shape over all processes; without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def my_share(count: int) -> slice:
    """Which of `count` images of a batch are this process's: a run of neighbours, in the order of the processes."""
    return _shares(count)[rank()]


def _shares(count: int) -> list[slice]:
    processes = world_size()
    ends = [count * number // processes for number in range(processes + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def gathered(mine: Tensor, count: int) -> Tensor:
    """The rows of all processes, in order, where each has its `my_share` of `count` rows.

    The gradient is that of this process's rows, of a loss that all processes compute alike.
    """
    if world_size() == 1:
        return mine
    result: Tensor = _Gathered.apply(mine, count)  # type: ignore[no-untyped-call]
    return result


class _Gathered(torch.autograd.Function):
    """Gloo gathers equal shapes only, so that shorter shares are filled up."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, count: int) -> Tensor:
        shares = _shares(count)
        ctx.mine = shares[rank()]
        longest = max(share.stop - share.start for share in shares)
        padded = mine.new_zeros(longest, *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(parts, padded)
        return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.mine], None


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of a tensor of one shape over all processes; without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over all processes; one that has none adds nothing."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    totals = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, total in zip(gradients, totals, strict=True):
        gradient.copy_(total.view_as(gradient))


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Give all processes the buffers of the first one, such as statistics of batches that each took alone."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def lists_of_all(mine: list[T]) -> list[list[T]]:
    """The lists of all processes, in their order; plain values only."""
    if world_size() == 1:
        return [mine]
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, mine)
    return boxes


def synced_batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation in training, over the images of all processes.

    With it several processes train as one does with the whole batch. torch has such a layer for GPUs only.

    Args:
        x: (N, C, H, W); N may differ between processes.
        weight, bias: (C,).
        running_mean, running_var: (C,), moved on in place as `torch.nn.functional.batch_norm` does.
    """
    if world_size() == 1:
        return F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
    output, mean, var, count = _SyncedBatchNorm.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        unbiased = var * count / (count - 1).clamp_min(1)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result: Tensor = output
    return result


class _SyncedBatchNorm(torch.autograd.Function):
    """Sums over all processes, in float32 at least. Gradients of weight and bias are those of this process's images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = torch.cat([wide.sum(dim=(0, 2, 3)), wide.new_tensor([x.numel() / x.shape[1]])])
        dist.all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count
        deviations = (wide - mean[:, None, None]).square().sum(dim=(0, 2, 3))
        dist.all_reduce(deviations)
        var = deviations / count
        scale = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, scale, count)
        output = (wide - mean[:, None, None]) * (scale * weight)[:, None, None] + bias[:, None, None]
        ctx.mark_non_differentiable(mean, var, count)
        return output.to(x.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        normal = (x - mean[:, None, None]) * scale[:, None, None]
        of_weight, of_bias = (gradient * normal).sum(dim=(0, 2, 3)), gradient.sum(dim=(0, 2, 3))
        sums = torch.stack([of_weight, of_bias]).to(mean.dtype)
        dist.all_reduce(sums)
        of_weight_mean, of_bias_mean = sums / count
        of_x = gradient - of_bias_mean[:, None, None] - normal * of_weight_mean[:, None, None]
        of_x = of_x * (weight * scale)[:, None, None]
        return of_x.to(x.dtype), of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, in training over the images of all processes (see `synced_batch_norm`)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return synced_batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )


class _SyncedNormAct(SyncedBatchNorm2d):
    """timm's `BatchNormAct2d`, synchronised: normalisation, dropout and activation in one module."""

    def __init__(self, source: Any) -> None:
        super().__init__(source.num_features, source.eps, source.momentum)
        self.drop, self.act = source.drop, source.act

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        result: Tensor = self.act(self.drop(super().forward(x)))
        return result


def sync_batch_norms(module: nn.Module) -> None:
    """Put `SyncedBatchNorm2d` in the place of every batch normalisation inside `module`; parameters stay the same.

    Raises:
        SearchError: there is a kind of batch normalisation that cannot be synchronised.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.modules.batchnorm._BatchNorm):
            sync_batch_norms(child)
        elif not isinstance(child, SyncedBatchNorm2d):
            synced = _synced(child)
            synced.weight, synced.bias = child.weight, child.bias
            synced.running_mean, synced.running_var = child.running_mean, child.running_var
            synced.num_batches_tracked = child.num_batches_tracked
            synced.train(child.training)
            setattr(module, name, synced)


def _synced(norm: Any) -> SyncedBatchNorm2d:
    whole = norm.affine and norm.track_running_stats and norm.momentum is not None
    if whole and type(norm) is nn.BatchNorm2d:
        return SyncedBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    if whole and type(norm).__name__ == "BatchNormAct2d":  # timm is not always there
        return _SyncedNormAct(norm)
    raise SearchError(
        f"the network's {type(norm).__name__} cannot be synchronised between processes: train it by one process, or "
        "leave each process its own statistics"
    )
