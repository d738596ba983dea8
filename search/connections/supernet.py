"""The supernet: at every site all proposals and Skip, mixed by architecture parameters. BP-NAS, Eq. 2 and 3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bpnas.base.errors import UsageError
from bpnas.profiler.backbone import Backbone, Site
from bpnas.profiler.block import Block
from bpnas.profiler.models.modules import build_module
from bpnas.profiler.paths import head_part, stem_part
from bpnas.search.connections.super_block import Candidates, SuperBlock


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


def sampled_gates(probabilities: Tensor, paths: int) -> Tensor:
    """Zero for all but the `paths` likeliest candidates of one draw; of shape (candidates,), like P.

    The greatest of alpha + Gumbel noise are a sample without replacement from softmax(alpha) (Gumbel-top-k), and so are
    the greatest P. Two keep their P, scaled to a sum of 1 (ProxylessNAS, Cai et al. 2019). One has a gate of exactly 1,
    with the gradient of its P (GDAS, Dong and Yang 2019).

    Args:
        probabilities: P of Eq. 3.
        paths: 1 or 2.
    """
    chosen = torch.zeros_like(probabilities).scatter(0, probabilities.topk(min(paths, len(probabilities))).indices, 1)
    if paths == 1:
        return chosen * (1 + (probabilities - probabilities.detach()))
    kept = chosen * probabilities
    return kept / kept.sum()


class Supernet(nn.Module):
    """Stem, one `SuperBlock` per site, head; weights from torch's global generator.

    Args:
        backbone: where the sites come from.
        proposals: the blocks of stage 1, equal ones counted once.
        checkpoint_activations: keep only the inputs of sites for the backward pass, and compute the rest again there.

    Raises:
        UsageError: there is no proposal.
    """

    def __init__(self, backbone: Backbone, proposals: Sequence[Block], *, checkpoint_activations: bool = False) -> None:
        super().__init__()
        if not proposals:
            raise UsageError("the supernet needs at least one block proposal")
        self.stem = build_module(stem_part(backbone))
        self.sites = nn.ModuleList(
            SuperBlock(site_candidates(proposals, site), site, backbone.channel_shuffle, checkpoint_activations)
            for site in backbone.sites
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

    def draw_sampled(
        self, tau: float, generator: torch.Generator, paths: int | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gates for `forward`, and the P of `draw` that they were made of, which the expected latency (Eq. 8) is over.

        Args:
            paths: how many candidates of a site are computed, 1 or 2 (see `sampled_gates`); None for all, with P as
                gates.

        Raises:
            UsageError: another number of paths.
        """
        if paths not in (None, 1, 2):
            raise UsageError(
                f"{paths} paths cannot be sampled at a site: use 1 or 2, or none to compute all candidates"
            )
        probabilities = self.draw(tau, generator)
        return (probabilities if paths is None else [sampled_gates(p, paths) for p in probabilities]), probabilities

    def forward(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """(N, 3, S, S) and one (candidates,) per site, P or sampled gates -> (N, classes).

        Candidates whose gate is exactly 0 are not computed; their weights get no gradient.
        """
        # Read at once: where gates are on a GPU each reading waits for it.
        used = iter(torch.cat([gate.detach() for gate in gates]).ne(0).tolist())
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block, gate in zip(self.sites, gates, strict=True):
            x = block(x, gate, [i for i in range(len(gate)) if next(used)])
        output: Tensor = self.head(x)
        return output

    def _super_blocks(self) -> list[SuperBlock]:
        return [block for block in self.sites if isinstance(block, SuperBlock)]
