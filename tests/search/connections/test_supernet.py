import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block, build_module
from bpnas.search import Supernet
from bpnas.search.connections.supernet import gumbel_softmax, site_candidates
from tests.search_helpers import tiny_backbone

PROPOSALS = (Block.parse("K3G1"), Block.parse("K1G1+K3E2G2"))


@pytest.fixture
def supernet():
    torch.manual_seed(0)
    return Supernet(tiny_backbone(), PROPOSALS)


def test_skip_competes_only_where_shapes_allow():
    for site in tiny_backbone().sites:
        assert site_candidates(PROPOSALS, site) == (*PROPOSALS, None) if site.is_residual else PROPOSALS
    twice = site_candidates((*PROPOSALS, PROPOSALS[0]), tiny_backbone().sites[0])
    assert twice == PROPOSALS


def test_one_hot_probabilities_give_the_network_of_those_blocks(supernet):
    supernet.eval()
    x = torch.randn(2, 3, 32, 32)
    choices = [0, 2, 1, 2]
    one_hot = [torch.eye(len(alpha))[c] for alpha, c in zip(supernet.alphas, choices, strict=True)]
    blocks = [options[c] for options, c in zip(supernet.candidates, choices, strict=True)]
    network = build_module(blocks, tiny_backbone()).eval()
    network.stem.load_state_dict(supernet.stem.state_dict())
    network.head.load_state_dict(supernet.head.state_dict())
    for target, site, c, block in zip(network.blocks, supernet.sites, choices, blocks, strict=True):
        if block is not None:
            target.load_state_dict(site.modules_by_candidate[c].state_dict())
    assert torch.allclose(supernet(x, one_hot), network(x), atol=1e-5)


def test_gradients_reach_every_weight_and_every_alpha(supernet):
    probabilities = supernet.draw(1.0, torch.Generator().manual_seed(0))
    supernet(torch.randn(4, 3, 32, 32), probabilities).square().sum().backward()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert len(supernet.alphas) == 4
    assert len(supernet.weights) + len(supernet.alphas) == len(list(supernet.parameters()))


def test_gumbel_softmax_sharpens_and_follows_alpha():
    alpha = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    generator = torch.Generator().manual_seed(0)
    cold = torch.stack([gumbel_softmax(alpha, 0.01, generator) for _ in range(4000)])
    hot = torch.stack([gumbel_softmax(alpha, 5.0, generator) for _ in range(1000)])
    assert torch.allclose(cold.sum(1), torch.ones(4000), atol=1e-5)
    # Gumbel-max: the winner is drawn from softmax(alpha).
    wins = torch.bincount(cold.argmax(1), minlength=3) / 4000
    assert torch.allclose(wins, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)
    assert cold.max(1).values.mean() > 0.98 > 0.6 > hot.max(1).values.mean()


def test_the_draw_depends_on_the_generator_alone(supernet):
    first = supernet.draw(2.0, torch.Generator().manual_seed(4))
    torch.rand(5)
    again = supernet.draw(2.0, torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_no_proposals_no_supernet():
    with pytest.raises(UsageError, match="at least one"):
        Supernet(tiny_backbone(), ())
