"""The fast computation of a super block against the plain one: every candidate's own module, weighted and summed."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

from bpnas.profiler import Block, Site
from bpnas.search import Supernet
from bpnas.search.connections.depthwise import depthwise_conv
from bpnas.search.connections.super_block import SuperBlock
from bpnas.search.connections.supernet import site_candidates
from bpnas.search.training.threads import set_threads, threads_kept
from tests.search_helpers import tiny_backbone

BLOCKS = tuple(map(Block.parse, ("K1G2+K1E2G4", "K3G1+K5E2G2+K7E1G1", "K1G1", "K3E3G1+K1E1G8", "K5G8+K1E4G1")))
SITES = (Site(16, 16, 1, 8), Site(16, 24, 2, 8), Site(16, 16, 2, 7), Site(16, 16, 1, 16), Site(32, 32, 1, 2))


@pytest.fixture(autouse=True)
def one_thread():
    with threads_kept():
        set_threads(1)
        yield


def make_block(site, channel_shuffle=False, seed=0, **options):
    torch.manual_seed(seed)
    block = SuperBlock(site_candidates(BLOCKS, site), site, channel_shuffle, **options)
    for module in block.modules():
        # Not ones and zeros: with those some gradients are nothing but rounding.
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.5)
    return block


def plain(block, x, gates):
    return sum(gate * module(x) for gate, module in zip(gates, block.modules_by_candidate, strict=True))


def results(block, forward, dtype, site, passes=1):
    """Output, gradients and running statistics, by name."""
    block = copy.deepcopy(block).to(dtype)
    generator = torch.Generator().manual_seed(1)
    alpha = torch.linspace(-1, 1, len(block.candidates), dtype=dtype, requires_grad=True)
    x = torch.randn(6, site.c_in, site.input_size, site.input_size, generator=generator) + torch.arange(site.c_in)[
        :, None, None
    ].div(site.c_in)
    x = x.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    for _ in range(passes):
        output = forward(block, x, alpha.softmax(0))
        target = torch.randn(output.shape, generator=generator).to(dtype)
        output.backward(target)
    found = {name: parameter.grad for name, parameter in block.named_parameters() if parameter.grad is not None}
    found |= dict(block.named_buffers())
    return found | {"output": output.detach(), "x": x.grad, "P": alpha.grad}


def assert_equal(found, expected, tolerance):
    """Each tensor's greatest difference, relative to its greatest value or a hundredth of the greatest of all.

    Some gradients are 0 but for rounding, as that of a depthwise 1x1 weight in front of a normalisation.
    """
    assert found.keys() == expected.keys()
    floor = 1e-2 * max(float(value.abs().max()) for name, value in expected.items() if "num_batches" not in name)
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max()) / max(float(value.abs().max()), floor)
        assert difference <= tolerance, f"{name}: {difference:.2g}"


def fast(block, x, gates):
    return block(x, gates)


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("shuffle", [False, True])
def test_outputs_gradients_and_statistics_are_those_of_the_plain_loop(site, shuffle):
    block = make_block(site, shuffle)
    expected = results(block, plain, torch.float64, site, passes=2)
    assert_equal(results(block, fast, torch.float64, site, passes=2), expected, 1e-9)


@pytest.mark.parametrize("site", SITES, ids=str)
def test_gradients_are_those_of_the_plain_loop_in_single_precision(site):
    block = make_block(site)
    contiguous = results(block, lambda b, x, gates: plain(b, x.contiguous(), gates), torch.float32, site)
    assert_equal(results(block, fast, torch.float32, site), contiguous, 1e-4)


@pytest.mark.parametrize("site", SITES[:2], ids=str)
def test_checkpointing_changes_neither_gradients_nor_statistics(site):
    expected = results(make_block(site), fast, torch.float64, site, passes=2)
    found = results(make_block(site, checkpoint_activations=True), fast, torch.float64, site, passes=2)
    assert_equal(found, expected, 1e-12)


def test_the_first_two_layers_are_recomputed_and_not_kept():
    site = SITES[3]

    def kept(block):
        sizes = []
        x = torch.randn(4, site.c_in, site.input_size, site.input_size, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append((t.data_ptr(), t.numel())) or t, lambda t: t
        ):
            block(x, torch.full((len(block.candidates),), 1 / len(block.candidates)))
        return sum(size for _, size in set(sizes))

    def kept_by_plain():
        block = make_block(site)
        block.forward = lambda x, gates: plain(block, x, gates)
        return kept(block)

    assert kept(make_block(site, checkpoint_activations=True)) < 0.3 * kept(make_block(site))
    assert kept(make_block(site)) < 0.6 * kept_by_plain()


def test_evaluation_is_the_plain_loop_on_running_statistics():
    for site in SITES[:2]:
        block = make_block(site)
        block(torch.randn(4, site.c_in, site.input_size, site.input_size), torch.ones(len(block.candidates)))
        block.eval()
        assert_equal(results(block, fast, torch.float64, site), results(block, plain, torch.float64, site), 1e-9)


def test_candidates_that_are_not_computed_get_no_gradient_and_keep_their_statistics():
    site = SITES[0]
    block = make_block(site)
    before = copy.deepcopy(block.state_dict())
    x, gates = torch.randn(4, site.c_in, 8, 8), torch.zeros(len(block.candidates))
    gates[3] = 1
    output = block(x, gates, [3])
    output.sum().backward()
    reference = make_block(site)
    assert torch.allclose(output, reference.modules_by_candidate[3](x), atol=1e-5)
    for name, parameter in block.modules_by_candidate.named_parameters():
        assert (parameter.grad is not None) == name.startswith("3.")
    for name, buffer in block.modules_by_candidate.named_buffers():
        assert torch.equal(buffer, before[f"modules_by_candidate.{name}"]) != name.startswith("3.")


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [2, 4, 7, 8])
def test_depthwise_gradients(kernel, stride, size):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 8, size, size).double(), torch.randn(8, 1, kernel, kernel).double()
    found = [t.clone().requires_grad_() for t in (x, weight)]
    expected = [t.clone().requires_grad_() for t in (x, weight)]
    output = depthwise_conv(*found, stride)
    reference = F.conv2d(*expected, stride=stride, padding=kernel // 2, groups=8)
    assert torch.allclose(output, reference)
    target = torch.randn_like(reference)
    output.backward(target)
    reference.backward(target)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a.grad, b.grad)


def test_bfloat16_comes_near_single_precision():
    site = SITES[3]
    block = make_block(site)

    def autocast(block, x, gates):
        with torch.autocast("cpu", torch.bfloat16):
            return block(x, gates).float()

    found, expected = (results(block, forward, torch.float32, site) for forward in (autocast, fast))
    assert found["output"].isfinite().all()
    for name in ("output", "P", "x"):
        assert (found[name] - expected[name]).norm() < 0.1 * expected[name].norm(), name


def test_two_sampled_paths_share_their_probability_and_carry_its_gradient():
    supernet = Supernet(tiny_backbone(), BLOCKS)
    gates, probabilities = supernet.draw_sampled(1.0, torch.Generator().manual_seed(0), paths=2)
    again = supernet.draw(1.0, torch.Generator().manual_seed(0))
    for gate, p, drawn in zip(gates, probabilities, again, strict=True):
        assert torch.equal(p, drawn)
        kept = gate.nonzero().flatten()
        assert sorted(kept.tolist()) == sorted(p.topk(2).indices.tolist())
        assert torch.allclose(gate[kept], p[kept] / p[kept].sum()) and torch.allclose(gate.sum(), torch.tensor(1.0))
    supernet(torch.randn(4, 3, 32, 32), gates).square().sum().backward()
    for alpha, gate in zip(supernet.alphas, gates, strict=True):
        assert alpha.grad[gate != 0].abs().min() > 0
        assert alpha.grad[gate == 0].abs().max() < 1e-6 * alpha.grad.abs().max()


def test_one_sampled_path_is_that_block_alone_with_the_gradient_of_its_probability():
    supernet = Supernet(tiny_backbone(), BLOCKS)
    gates, probabilities = supernet.draw_sampled(1.0, torch.Generator().manual_seed(0), paths=1)
    for gate, p in zip(gates, probabilities, strict=True):
        assert gate.tolist() == F.one_hot(p.argmax(), len(p)).tolist()
        slope = torch.autograd.grad(gate[p.argmax()], p, retain_graph=True)[0]
        assert slope.tolist() == gate.tolist()
    supernet(torch.randn(4, 3, 32, 32), gates).square().sum().backward()
    assert all(alpha.grad.abs().min() > 0 for alpha in supernet.alphas)


def test_sampled_paths_follow_alpha():
    from bpnas.search.connections.supernet import gumbel_softmax, sampled_gates

    alpha, generator = torch.log(torch.tensor([0.6, 0.3, 0.1])), torch.Generator().manual_seed(0)
    pairs = torch.stack([sampled_gates(gumbel_softmax(alpha, 1.0, generator), 2) != 0 for _ in range(4000)])
    # Without replacement: the pair {0, 1} comes as 0.6 * 0.3 / 0.4 + 0.3 * 0.6 / 0.7.
    assert abs(float((pairs[:, 0] & pairs[:, 1]).float().mean()) - (0.6 * 0.3 / 0.4 + 0.3 * 0.6 / 0.7)) < 0.03


def test_another_number_of_paths_is_refused():
    from bpnas.base.errors import UsageError

    with pytest.raises(UsageError, match="3 paths"):
        Supernet(tiny_backbone(), BLOCKS).draw_sampled(1.0, torch.Generator(), paths=3)


def test_a_state_goes_through_the_names_of_the_plain_modules():
    supernet = Supernet(tiny_backbone(), BLOCKS)
    state = supernet.state_dict()
    assert "sites.0.modules_by_candidate.1.paths.0.conv.weight" in state
    other = Supernet(tiny_backbone(), BLOCKS)
    other.load_state_dict(state)
    gates = [p.detach() for p in supernet.draw(1.0, torch.Generator().manual_seed(0))]
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(supernet(x, gates), other(x, gates))
