"""The supernet: at every site all proposals and Skip, mixed by architecture parameters. BP-NAS, Eq. 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bpnas.android_bench.errors import UsageError
from bpnas.profiler.backbone import Backbone, Site
from bpnas.profiler.block import Block
from bpnas.profiler.modules import build_module
from bpnas.profiler.paths import head_part, stem_part

Candidates = tuple[Block | None, ...]


def site_candidates(proposals: Sequence[Block], site: Site) -> Candidates:
    """What competes at `site`: the distinct proposals, and Skip (None) where input and output have one shape [ours]."""
    blocks: Candidates = tuple(dict.fromkeys(proposals))
    return (*blocks, None) if site.is_residual else blocks


def gumbel_softmax(alpha: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    """P = softmax((alpha + Gumbel noise) / tau) (Eq. 3), of alpha's shape (candidates,)."""
    uniform = torch.rand(alpha.shape, generator=generator, dtype=torch.float64)
    # Away from 0, where the logarithm ends; 1 is never drawn.
    noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
    probabilities: Tensor = torch.softmax((alpha + noise.to(alpha.device, alpha.dtype)) / tau, dim=-1)
    return probabilities


class SuperBlock(nn.Module):
    """All candidates of one site on one input: B(x) = sum_i P_i b_i(x) (Eq. 2).

    Attributes:
        candidates: blocks, and None for Skip.
        alpha: architecture parameters, shape (candidates,), 0 at the start.
    """

    def __init__(self, candidates: Candidates, site: Site, channel_shuffle: bool = False) -> None:
        super().__init__()
        self.candidates = candidates
        self.modules_by_candidate = nn.ModuleList(
            nn.Identity() if block is None else build_module(block, site, channel_shuffle) for block in candidates
        )
        self.alpha = nn.Parameter(torch.zeros(len(candidates)))

    def forward(self, x: Tensor, probabilities: Tensor) -> Tensor:
        """(N, c_in, H, W) and (candidates,) -> (N, c_out, H', W')."""
        terms = [p * module(x) for p, module in zip(probabilities, self.modules_by_candidate, strict=True)]
        output: Tensor = terms[0]
        for term in terms[1:]:
            output = output + term
        return output


class Supernet(nn.Module):
    """Stem, one `SuperBlock` per site, head; weights from torch's global generator.

    Args:
        backbone: where the sites come from.
        proposals: the blocks of stage 1, equal ones counted once.

    Raises:
        UsageError: there is no proposal.
    """

    def __init__(self, backbone: Backbone, proposals: Sequence[Block]) -> None:
        super().__init__()
        if not proposals:
            raise UsageError("the supernet needs at least one block proposal")
        self.stem = build_module(stem_part(backbone))
        self.sites = nn.ModuleList(
            SuperBlock(site_candidates(proposals, site), site, backbone.channel_shuffle) for site in backbone.sites
        )
        self.head = build_module(head_part(backbone))

    @property
    def candidates(self) -> tuple[Candidates, ...]:
        """Per site, in the order of `alphas`."""
        return tuple(block.candidates for block in self._super_blocks())

    @property
    def alphas(self) -> list[nn.Parameter]:
        """Per site, shape (candidates,)."""
        return [block.alpha for block in self._super_blocks()]

    @property
    def weights(self) -> list[nn.Parameter]:
        """All parameters but the alphas."""
        alphas = set(map(id, self.alphas))
        return [parameter for parameter in self.parameters() if id(parameter) not in alphas]

    def draw(self, tau: float, generator: torch.Generator) -> list[Tensor]:
        """One P per site (Eq. 3). One draw serves a whole batch [ours], for output and latency alike."""
        return [gumbel_softmax(alpha, tau, generator) for alpha in self.alphas]

    def forward(self, x: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """(N, 3, S, S) and one (candidates,) per site -> (N, classes)."""
        x = self.stem(x)
        for block, p in zip(self.sites, probabilities, strict=True):
            x = block(x, p)
        output: Tensor = self.head(x)
        return output

    def _super_blocks(self) -> list[SuperBlock]:
        return [block for block in self.sites if isinstance(block, SuperBlock)]
