"""The paths of a super block in training: what their modules compute, in less time and memory.

The batch statistics of a 1x1 convolution's output follow from the mean and the covariance of its input, which all paths
of a site share. So its batch normalisation is folded into its weights, and the map in front of it is never made. Of the
three wide maps that are left in a complex path, the last one is made again in the backward pass. A depthwise 1x1
convolution is a factor per channel in the batch normalisation behind it. Nothing is approximated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.profiler.models.modules import ConvUnit
from bpnas.search.connections.depthwise import depthwise_conv
from bpnas.search.training.distributed import synced_batch_norm, world_size


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean (C,) and covariance (C, C) of the channels of a feature map, over `count` pixels."""

    mean: Tensor
    covariance: Tensor
    count: int

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """The moments of an (N, C, H, W) tensor, differentiable."""
        with torch.autocast(x.device.type, enabled=False):
            pixels = _pixels(x).to(torch.promote_types(x.dtype, torch.float32))
            mean = pixels.mean(dim=0)
            pixels = pixels - mean
            return cls(mean, pixels.t() @ pixels / len(pixels), len(pixels))

    def through(self, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
        """Mean and variance, each (c_out,), of the output of a 1x1 convolution."""
        weight = conv.weight.view(conv.groups, -1, conv.weight.shape[1])
        groups, _, channels = weight.shape
        blocks = self.covariance.view(groups, channels, groups, channels).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        with torch.autocast(weight.device.type, enabled=False):
            mean = weight @ self.mean.view(groups, channels, 1)
            var = ((weight @ blocks) * weight).sum(dim=2)
        return mean.flatten(), var.flatten().clamp_min(0)


def useful_moments(x: Tensor) -> Moments | None:
    """`Moments`, where they cost less than they save.

    Not where there are few pixels for the channels; and not where several processes share a batch, since there the
    maps are needed for the statistics over all of it.
    """
    pixels, channels = x.numel() // x.shape[1], x.shape[1]
    return Moments.of(x) if pixels >= 4 * channels and world_size() == 1 else None


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, gate: Tensor | None = None, keep: bool = False) -> Tensor:
    """Batch normalisation as `norm` does it, of the images of all processes, times `gate`.

    Args:
        gate: (), not negative; it is folded into weight and bias, so that no feature map is multiplied.
        keep: leave the running statistics as they are.
    """
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if gate is not None:
        weight, bias = weight * gate, bias * gate
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None and norm.momentum is not None
    if not norm.training:
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, norm.eps)
    if keep:
        mean, var = mean.clone(), var.clone()
    else:
        _count_batch(norm)
    return synced_batch_norm(x, weight, bias, mean, var, norm.momentum, norm.eps)


def rectified(
    x: Tensor, unit: ConvUnit, moments: Moments | None, gate: Tensor | None = None, stride: int = 1, keep: bool = False
) -> Tensor:
    """Convolution, batch normalisation and ReLU of `unit`, times `gate`.

    Args:
        moments: of x, for a 1x1 convolution of stride 1 in training; None computes as usual.
        stride: compute only every `stride`-th row and column of the output; its statistics stay those of all.
        gate, keep: as of `batch_norm`.
    """
    if moments is None:
        output = F.relu_(batch_norm(unit.conv(x), unit.norm, gate, keep))
        return output[:, :, ::stride, ::stride] if stride > 1 else output
    mean, var = moments.through(unit.conv)
    if not keep:
        _track(unit.norm, mean, var, moments.count)
    scale: Tensor = unit.norm.weight * torch.rsqrt(var + unit.norm.eps)
    bias: Tensor = unit.norm.bias
    if gate is not None:
        scale, bias = scale * gate, bias * gate
    weight = unit.conv.weight * scale[:, None, None, None]
    return F.relu_(F.conv2d(x, weight, bias - mean * scale, stride, groups=unit.conv.groups))


def complex_path(x: Tensor, path: nn.Sequential, moments: Moments | None, gate: Tensor, keep: bool = False) -> Tensor:
    """A complex path, times `gate`: (N, c_in, H, W) -> (N, c_out, H', W').

    Args:
        path: made by `build_module`.
        moments, gate, keep: as of `rectified`.
    """
    first, *shuffle, middle, last = path
    assert isinstance(first, ConvUnit) and isinstance(middle, ConvUnit) and isinstance(last, ConvUnit)
    stride, is_pointwise = middle.conv.stride[0], middle.conv.kernel_size[0] == 1
    is_lean = first.norm.training and world_size() == 1
    hidden = rectified(x, first, moments, None, stride if is_pointwise else 1, keep)
    for module in shuffle:
        hidden = module(hidden)
    if not is_pointwise:
        hidden = depthwise_conv(hidden, middle.conv.weight, stride)
    elif not is_lean:
        hidden = hidden * middle.conv.weight.view(-1, 1, 1)
    if not is_lean:
        hidden = last.conv(F.relu_(batch_norm(hidden, middle.norm, None, keep)))
    else:
        weight, bias, eps = middle.norm.weight, middle.norm.bias, middle.norm.eps
        factor = middle.conv.weight.flatten() if is_pointwise else torch.ones_like(weight)
        count = hidden.numel() // hidden.shape[1]
        hidden, mean, var = _NormReluConv.apply(  # type: ignore[no-untyped-call]
            hidden, factor, weight, bias, last.conv.weight, last.conv.groups, eps
        )
        if not keep:
            _track(middle.norm, mean, var, count)
    return batch_norm(hidden, last.norm, gate, keep)


class _NormReluConv(torch.autograd.Function):
    """1x1 convolution of ReLU of batch normalisation of a feature map times a factor per channel.

    Only the map itself is kept for the backward pass. Also returns mean and variance of the map times the factor.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factor: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _channel_moments(x)
        inverse = torch.rsqrt(factor.square() * var + eps)
        scale = weight * factor * inverse
        shift = bias - mean * scale
        output = F.conv2d(_scaled_relu(x, scale, shift), kernel, groups=groups)
        ctx.save_for_backward(x, factor, weight, kernel, mean, inverse, scale, shift)
        ctx.groups, ctx.eps = groups, eps
        mean_out, var_out = mean * factor, var * factor.square()
        ctx.mark_non_differentiable(mean_out, var_out)
        return output, mean_out, var_out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, factor, weight, kernel, mean, inverse, scale, shift = ctx.saved_tensors
        hidden = _scaled_relu(x, scale, shift).to(gradient.dtype)
        of_hidden, of_kernel, _ = torch.ops.aten.convolution_backward(
            gradient, hidden, kernel.to(gradient.dtype), None, [1, 1], [0, 0], [1, 1], False, [0, 0], ctx.groups,
            [True, ctx.needs_input_grad[4], False],
        )  # fmt: skip
        torch.ops.aten.threshold_backward.grad_input(of_hidden, hidden, 0, grad_input=of_hidden)
        del hidden
        # The factor f scales x - mean and sqrt(var) alike, but not eps: as if 1 / std were |f| / sqrt(f^2 var + eps).
        sign, size = factor.sign(), factor.abs().clamp_min(1e-18)
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            of_hidden, x, weight * sign, None, None, mean, size * inverse, True, ctx.eps, [True, True, True]
        )
        of_factor = weight * of_weight * (ctx.eps * inverse.square() / size)
        if of_kernel is not None:
            of_kernel = of_kernel.to(kernel.dtype)
        return of_x, of_factor, of_weight * sign, of_bias, of_kernel, None, None


def _scaled_relu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None]).relu_()


def _channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance per channel, each (C,), in one pass over (N, C, H, W)."""
    rows = _pixels(x)
    count, channels = rows.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    pivot = rows[:64].to(wide).mean(dim=0)
    # Sums of few rows each, and then of those: thousands of values in one float32 sum would cost three digits.
    fold = 1
    while fold < 64 and count % (2 * fold) == 0 and count > 512 * fold:
        fold *= 2
    folded = rows.view(-1, fold * channels).t()[None, :, :, None]
    ones = torch.ones(fold * channels, dtype=wide, device=x.device)
    # A reduction that torch has, in all its backends: sum(x * (x - pivot)) and sum(x).
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        folded, folded, ones, None, None, pivot.repeat(fold), ones, True, 0.0, [False, True, True]
    )
    mean = sums.view(fold, channels).sum(dim=0) / count
    var = products.view(fold, channels).sum(dim=0) / count - mean * (mean - pivot)
    return mean, var.clamp_min(0)


def _pixels(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H * W, C); a view where channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


@torch.no_grad()
def _track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics on, as `torch.nn.functional.batch_norm` does."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(var * (count / max(count - 1, 1)), norm.momentum)
    _count_batch(norm)


def _count_batch(norm: nn.BatchNorm2d) -> None:
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
