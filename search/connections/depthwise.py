"""Depthwise convolution whose gradient takes no longer than it should.

On x86 CPUs oneDNN has no fast kernel for the weights' gradient of 5x5 and 7x7 depthwise convolutions: it took 2 to 11
times as long as here, and more than all else in a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def depthwise_conv(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(N, C, H, W) with weights (C, 1, k, k) and padding k // 2 -> (N, C, H / stride, W / stride), rounded up."""
    kernel, size = weight.shape[-1], min(x.shape[2:])
    extent = (-(-size // stride) - 1) * stride + 1
    # Where padding covers all that the gradient reaches, oneDNN has no fast kernel for it either.
    if kernel > 3 and extent > kernel // 2 and x.device.type == "cpu" and torch.is_grad_enabled():
        output: Tensor = _DepthwiseConv.apply(x, weight, stride)  # type: ignore[no-untyped-call]
        return output
    return F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=len(weight))


class _DepthwiseConv(torch.autograd.Function):
    """The weights' gradient as a convolution: of every image, with its output's gradient for a kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        kernel, channels, of_x, of_weight = weight.shape[-1], len(weight), None, None
        if ctx.needs_input_grad[0]:
            strides, padding = [ctx.stride] * 2, [kernel // 2] * 2
            of_x = torch.ops.aten.convolution_backward(
                gradient, x, weight.to(x.dtype), None, strides, padding, [1, 1], False, [0, 0], channels,
                [True, False, False],
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            of_weight = torch.zeros_like(weight)
            for image, its_gradient in zip(x, gradient, strict=True):
                correlation = F.conv2d(
                    image[None], its_gradient[:, None], padding=kernel // 2, dilation=ctx.stride, groups=channels
                )
                of_weight += correlation[0, :, None, :kernel, :kernel]
        return of_x, of_weight, None
