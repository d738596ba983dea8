"""All candidates of one site, mixed. BP-NAS, Eq. 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bpnas.profiler.backbone import Site
from bpnas.profiler.block import Block
from bpnas.profiler.models.modules import BlockModule, ConvUnit, build_module
from bpnas.search.connections.fused_paths import complex_path, rectified, useful_moments

Candidates = tuple[Block | None, ...]


class SuperBlock(nn.Module):
    """All candidates of one site on one input: B(x) = sum_i g_i b_i(x) (Eq. 2, where g = P).

    Attributes:
        candidates: blocks, and None for Skip.
        modules_by_candidate: one module each, which hold the weights. Their own `forward` computes the same, slower.
        alpha: architecture parameters, shape (candidates,), 0 at the start.
    """

    def __init__(
        self, candidates: Candidates, site: Site, channel_shuffle: bool = False, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        self.candidates = candidates
        self.modules_by_candidate = nn.ModuleList(
            nn.Identity() if block is None else build_module(block, site, channel_shuffle) for block in candidates
        )
        self.alpha = nn.Parameter(torch.zeros(len(candidates)))
        self._is_residual = site.is_residual
        self._checkpoints = checkpoint_activations
        self._repeats = False

    def forward(self, x: Tensor, gates: Tensor, computed: Sequence[int] | None = None) -> Tensor:
        """(N, c_in, H, W) and (candidates,) -> (N, c_out, H', W').

        Args:
            gates: g, not negative.
            computed: the candidates whose gates are not 0; None for all.
        """
        numbers = tuple(range(len(self.candidates)) if computed is None else computed)
        if not (self._checkpoints and self.training and torch.is_grad_enabled()):
            return self._mixed(x, gates, numbers)
        output: Tensor = checkpoint(
            self._mixed, x, gates, numbers, use_reentrant=False, context_fn=self._contexts, preserve_rng_state=False
        )
        return output

    def _mixed(self, x: Tensor, gates: Tensor, computed: Sequence[int]) -> Tensor:
        # Every candidate of such a site has an identity in it.
        total = x * gates.sum() if self._is_residual else None
        moments = useful_moments(x) if self.training else None
        paths = [(gates[i], path) for i in computed for path in self._paths(i)]
        # What ends without a ReLU comes first: others can be added to it in place, since its gradient needs no output.
        for gate, path in paths:
            if isinstance(path, nn.Sequential):
                term = complex_path(x, path, moments, gate, self._repeats)
                total = term if total is None else total.add_(term)
        for gate, path in paths:
            if isinstance(path, ConvUnit):
                is_pointwise = path.conv.kernel_size[0] == 1 and path.conv.stride[0] == 1
                term = rectified(x, path, moments if is_pointwise else None, gate, keep=self._repeats)
                total = term.clone() if total is None else total.add_(term)
        assert total is not None
        return total

    def _paths(self, number: int) -> list[nn.Module]:
        module = self.modules_by_candidate[number]
        return list(module.paths) if isinstance(module, BlockModule) else []

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._repeating()

    @contextmanager
    def _repeating(self) -> Iterator[None]:
        """A forward pass done again for its gradient, which must not move the running statistics once more."""
        self._repeats = True
        try:
            yield
        finally:
            self._repeats = False
