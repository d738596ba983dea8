"""Exported files against torch: every path, every part, blocks and whole networks, in both formats."""

from __future__ import annotations

import ast
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn

from bpnas.android_bench.local.runtimes import TfliteSession, open_session
from bpnas.profiler import Backbone, Block, ComplexPath, SimplePath, Site, build_module, to_onnx, to_tflite
from bpnas.profiler.backbone import BackboneError, Stage
from bpnas.profiler.models.graph import EXPORT_VERSION
from bpnas.profiler.paths import ContextPart, HeadPart, JoinPart, NeighboursPart, PathPart, StemPart, all_paths

RUNTIMES = ["onnxruntime", "tflite"]
TOLERANCE = 1e-5

# Both strides, even and odd, down to maps smaller than the kernel; as many groups as channels; c_in above and below
# c_out, and equal, as residual sites have it.
SITES = [
    Site(8, 8, 1, 2),
    Site(8, 16, 2, 2),
    Site(8, 8, 2, 5),
    Site(24, 24, 1, 7),
    Site(16, 24, 2, 8),
    Site(24, 8, 2, 1),
]


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    """Statistics and affine parameters of every batch normalisation as after training, some negative; eval mode.

    With the defaults (mean 0, variance 1, weight 1, bias 0) a normalisation that is left out would go unnoticed.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0.0, 0.5, generator=generator)
                norm.running_var.uniform_(0.2, 3.0, generator=generator)
                norm.weight.uniform_(0.4, 1.6, generator=generator)
                norm.weight.mul_(torch.where(torch.rand(norm.weight.shape, generator=generator) < 0.2, -1.0, 1.0))
                norm.bias.normal_(0.2, 0.5, generator=generator)
    return module.eval()


def random_inputs(shape: Sequence[int], count: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(tuple(shape), generator=generator) for _ in range(count)]


def exported(module: nn.Module, shape: Sequence[int], runtime: str) -> bytes:
    return (to_onnx if runtime == "onnxruntime" else to_tflite)(module, tuple(shape))


@pytest.fixture
def errors(tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Export a module and run the file; by runtime, the largest error relative to torch's largest output."""
    file = tmp_path / "model"

    def relative_errors(module: nn.Module, shape: Sequence[int], inputs: int = 1) -> dict[str, float]:
        values = random_inputs(shape, inputs)
        with torch.no_grad():
            expected = module(*values).numpy()
        assert np.isfinite(expected).all()
        largest = np.abs(expected).max()
        assert largest > 1e-3, "an output of zeros would prove nothing"
        found = {}
        for runtime in RUNTIMES:
            file.write_bytes(exported(module, shape, runtime))
            actual = open_session(runtime, file).run(*[value.numpy() for value in values])
            assert actual.shape == expected.shape
            found[runtime] = float(np.abs(actual - expected).max() / largest)
        return found

    return relative_errors


@pytest.fixture
def check(errors: Callable[..., dict[str, float]]) -> Callable[..., None]:
    """Export a module and fail where a runtime's output differs from torch's."""

    def assert_agreement(module: nn.Module, shape: Sequence[int], inputs: int = 1) -> None:
        found = errors(module, shape, inputs)
        assert all(error <= TOLERANCE for error in found.values()), found  # which no NaN passes

    return assert_agreement


def assert_paths_agree(
    errors: Callable[..., dict[str, float]], site: Site, shuffle: bool, paths: Iterable[SimplePath | ComplexPath]
) -> None:
    wrong = {}
    for path in paths:
        part = PathPart(path, site, shuffle)
        found = errors(randomise(build_module(part)), part.input_shapes[0])
        if not all(error <= TOLERANCE for error in found.values()):
            wrong[part.key] = found
    assert wrong == {}


GROUPED_COMPLEX = [path for path in all_paths() if isinstance(path, ComplexPath) and path.groups > 1]


# --- paths


@pytest.mark.parametrize("site", SITES, ids=str)
def test_all_272_paths_agree_with_torch(errors, site: Site) -> None:
    assert_paths_agree(errors, site, False, all_paths())


@pytest.mark.parametrize("site", SITES[:2] + SITES[4:5], ids=str)
def test_all_paths_agree_with_torch_with_channel_shuffle(errors, site: Site) -> None:
    assert_paths_agree(errors, site, True, GROUPED_COMPLEX)


@pytest.mark.slow
@pytest.mark.parametrize("site", sorted(set(Backbone.load("mobilenetv2", 32).sites)), ids=str)
def test_all_paths_agree_with_torch_at_every_site_of_cifar(errors, site: Site) -> None:
    assert_paths_agree(errors, site, False, all_paths())
    assert_paths_agree(errors, site, True, GROUPED_COMPLEX)


@pytest.mark.parametrize("site", [Site(24, 32, 2, 56), Site(96, 160, 2, 14), Site(184, 352, 1, 7)], ids=str)
def test_some_paths_agree_with_torch_at_sites_of_imagenet(errors, site: Site) -> None:
    paths = [SimplePath(1, 1), SimplePath(3, 8), SimplePath(7, 2), ComplexPath(3, 1, 6), ComplexPath(5, 4, 3)]
    assert_paths_agree(errors, site, False, [*paths, ComplexPath(7, 8, 2)])
    assert_paths_agree(errors, site, True, [ComplexPath(7, 8, 2)])


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (1, 4), (4, 1)])
@pytest.mark.parametrize("path", [SimplePath(5, 2), ComplexPath(3, 4, 3), ComplexPath(7, 1, 2)], ids=str)
def test_maps_that_are_even_one_way_and_odd_the_other(check, path, size: tuple[int, int]) -> None:
    module = randomise(build_module(path, Site(8, 16, 2, max(size)), True))
    check(module, (1, 8, *size))


def test_the_normalisation_is_really_tested() -> None:
    """The module before its statistics were set has to disagree by far, or this file tests nothing."""
    site = Site(16, 24, 2, 8)
    for path in (SimplePath(3, 2), ComplexPath(3, 2, 4)):
        module = build_module(path, site).eval()
        (x,) = random_inputs((1, 16, 8, 8))
        with torch.no_grad():
            before = module(x)
            after = randomise(module)(x)
        assert (after - before).abs().max() > 0.1 * after.abs().max()


# --- the rest


@pytest.mark.parametrize(
    "part",
    [
        StemPart(32, 1, 32),
        StemPart(16, 2, 224),
        StemPart(8, 2, 33),
        HeadPart(320, 1280, 1000, 7),
        HeadPart(352, 1984, 10, 2),
        HeadPart(8, 16, 1, 1),
        JoinPart(24, 56),
        JoinPart(8, 1),
        NeighboursPart(24, 7),
        ContextPart(ComplexPath(5, 2, 3), Site(16, 24, 2, 9)),
        ContextPart(SimplePath(3, 4), Site(24, 24, 1, 6)),
    ],
    ids=lambda part: part.key,
)
def test_stems_heads_and_joins_agree_with_torch(check, part) -> None:
    shapes = part.input_shapes
    check(randomise(build_module(part)), shapes[0], inputs=len(shapes))


@pytest.mark.parametrize(
    "site", [Site(16, 16, 1, 7), Site(16, 24, 1, 8), Site(16, 16, 2, 8), Site(8, 8, 1, 2)], ids=str
)
@pytest.mark.parametrize(
    "text", ["K3G2", "K1E1G1", "K1G1+K3E7G1", "K3E4G4+K5E2G8", "K5G8+K3E3G2+K7E1G1", "K3E2G2+K3E2G2"]
)
def test_blocks_agree_with_torch(check, text: str, site: Site) -> None:
    for shuffle in (False, True):
        module = randomise(build_module(Block.parse(text), site, shuffle))
        check(module, (1, site.c_in, site.input_size, site.input_size))


# --- whole networks


def network(backbone: Backbone, skips: bool = False) -> nn.Module:
    """Blocks of one to three paths all over; every third site that may be skipped is, if asked for."""
    texts = ["K3E3G1", "K3G2", "K1G1+K5E2G2", "K3E2G4+K7E1G1", "K3G8+K3E1G2+K5E2G8"]
    blocks: list[Block | None] = [Block.parse(texts[number % len(texts)]) for number in range(len(backbone.sites))]
    if skips:
        blocks = [
            None if site.is_residual and number % 3 == 0 else block
            for number, (block, site) in enumerate(zip(blocks, backbone.sites, strict=True))
        ]
        assert blocks.count(None) >= 4
    return randomise(build_module(blocks, backbone))


NETWORKS = {
    "mobilenetv2 at 32": lambda: (Backbone.load("mobilenetv2", 32), False),
    "fbnet at 32": lambda: (Backbone.load("fbnet", 32), False),
    "mobilenetv2 at 32, shuffled": lambda: (replace(Backbone.load("mobilenetv2", 32), channel_shuffle=True), True),
    "fbnet at 45": lambda: (Backbone.load("fbnet", 45, classes=3), True),
    "mobilenetv2 at 224 with skips": lambda: (Backbone.load("mobilenetv2", 224), True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_agree_with_torch_and_run_within_one_delegate(check, tmp_path: Path, name: str) -> None:
    backbone, skips = NETWORKS[name]()
    module = network(backbone, skips)
    shape = (1, 3, backbone.input_size, backbone.input_size)
    check(module, shape)

    file = tmp_path / "network.tflite"
    file.write_bytes(to_tflite(module, shape))
    session = open_session("tflite", file)
    assert isinstance(session, TfliteSession)
    operators = session.operators()
    assert operators.count("DELEGATE") == 1, operators
    assert operators[-1] == "DELEGATE"
    assert operators.count("ADD") >= 20


@pytest.mark.parametrize("shuffle", [False, True])
def test_paths_run_within_one_delegate(tmp_path: Path, shuffle: bool) -> None:
    file = tmp_path / "path.tflite"
    for site in (Site(16, 24, 2, 8), Site(16, 24, 2, 7), Site(16, 16, 1, 8)):
        for path in (SimplePath(3, 1), SimplePath(5, 8), ComplexPath(3, 1, 6), ComplexPath(7, 4, 2)):
            file.write_bytes(to_tflite(build_module(path, site, shuffle), (1, 16, site.input_size, site.input_size)))
            assert TfliteSession(file, 1).operators().count("DELEGATE") == 1, (path, site)


def test_a_path_in_context_stands_between_two_depthwise_convolutions() -> None:
    from bpnas.android_bench.operators import read_operators

    part = ContextPart(SimplePath(5, 2), Site(16, 24, 2, 9))
    before, middle, after = read_operators(to_onnx(build_module(part).eval(), part.input_shapes[0]))
    assert [(o.kind, o.kernel, o.c_in, o.c_out) for o in (before, middle, after)] == [
        ("depthwise", 3, 16, 16),
        ("conv", 5, 16, 24),
        ("depthwise", 3, 24, 24),
    ]
    alone = [read_operators(to_onnx(build_module(p).eval(), p.input_shapes[0])) for p in part.neighbours]
    assert alone == [(before, before), (after, after)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_change_nothing_but_the_time(tmp_path: Path, runtime: str) -> None:
    backbone = Backbone("tiny", 32, 8, 2, (Stage(8, 2, 2), Stage(16, 2, 2)), 16, 10)
    module = randomise(build_module([Block.parse("K3E4G2")] * 4, backbone))
    file = tmp_path / "network"
    file.write_bytes(exported(module, (1, 3, 32, 32), runtime))
    (x,) = random_inputs((1, 3, 32, 32))
    one, two = (open_session(runtime, file, threads=threads).run(x.numpy()) for threads in (1, 2))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


# --- weights


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_file_holds_the_modules_own_weights(check, runtime: str) -> None:
    shape = (1, 16, 8, 8)
    module = randomise(build_module(ComplexPath(3, 2, 4), Site(16, 24, 2, 8)))
    first = exported(module, shape, runtime)
    assert exported(module, shape, runtime) == first, "equal modules give equal bytes"
    with torch.no_grad():
        next(module.parameters()).flatten()[0] += 1.0
    assert exported(module, shape, runtime) != first
    check(module, shape)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_bytes_depend_on_the_weights_and_on_nothing_else(runtime: str) -> None:
    def export() -> bytes:
        torch.manual_seed(5)
        module = randomise(build_module(Block.parse("K3G2+K3E3G4"), Site(16, 16, 1, 8), True))
        return exported(module, (1, 16, 8, 8), runtime)

    first = export()
    torch.randn(100)
    assert export() == first


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_export_leaves_the_module_as_it_was(runtime: str) -> None:
    module = randomise(build_module(Block.parse("K3G2+K3E3G4"), Site(16, 16, 1, 8))).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    exported(module, (1, 16, 8, 8), runtime)
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_module_in_training_mode_is_exported_as_in_evaluation(runtime: str) -> None:
    module = randomise(build_module(SimplePath(3, 1), Site(16, 16, 1, 8)))
    assert exported(module, (1, 16, 8, 8), runtime) == exported(module.train(), (1, 16, 8, 8), runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_in_another_memory_layout(runtime: str) -> None:
    module = randomise(build_module(Block.parse("K3G2+K3E3G4"), Site(16, 16, 1, 8)))
    plain = exported(module, (1, 16, 8, 8), runtime)
    assert exported(module.to(memory_format=torch.channels_last), (1, 16, 8, 8), runtime) == plain


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("part", [PathPart(ComplexPath(3, 2, 4), Site(16, 24, 2, 8)), HeadPart(16, 32, 10, 4)])
def test_weights_of_another_type_become_float32(tmp_path: Path, part, dtype, runtime: str) -> None:
    module = randomise(build_module(part))
    shape = part.input_shapes[0]
    (x,) = random_inputs(shape)
    with torch.no_grad():
        expected = module(x).numpy()
    file = tmp_path / "model"
    file.write_bytes(exported(module.to(dtype), shape, runtime))
    actual = open_session(runtime, file).run(x.numpy())
    coarse = 1e-5 if dtype == torch.float64 else 0.1
    assert np.abs(actual - expected).max() <= coarse * np.abs(expected).max()


# --- what the files carry


def read_metadata(content: bytes, runtime: str) -> dict[str, str]:
    if runtime == "onnxruntime":
        import onnx

        return {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    return {entry.name.decode(): bytes(model.buffers[entry.buffer].data).decode() for entry in model.metadata or []}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("part", "key", "inputs", "output"),
    [
        (PathPart(SimplePath(3, 1), Site(16, 24, 2, 7)), "K3G1@16-24s2x7", [[1, 16, 7, 7]], [1, 24, 4, 4]),
        (PathPart(ComplexPath(3, 2, 6), Site(16, 24, 1, 8), True), "K3E6G2S@16-24s1x8", [[1, 16, 8, 8]], [1, 24, 8, 8]),
        (StemPart(8, 2, 33), "stem@3-8s2x33", [[1, 3, 33, 33]], [1, 8, 17, 17]),
        (HeadPart(8, 16, 10, 4), "head@8-16-10x4", [[1, 8, 4, 4]], [1, 10]),
        (JoinPart(8, 4), "join@8x4", [[1, 8, 4, 4]] * 2, [1, 8, 4, 4]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_carry_key_shapes_and_version(part, key: str, inputs, output, runtime: str) -> None:
    metadata = read_metadata(exported(build_module(part), part.input_shapes[0], runtime), runtime)
    ours = {name: text for name, text in metadata.items() if name.startswith("bpnas.")}
    assert ours.keys() == {"bpnas.key", "bpnas.input_shapes", "bpnas.output_shape", "bpnas.export_version"}
    assert ours["bpnas.key"] == key == part.key
    assert ast.literal_eval(ours["bpnas.input_shapes"]) == inputs
    assert ast.literal_eval(ours["bpnas.output_shape"]) == output
    assert ours["bpnas.export_version"] == str(EXPORT_VERSION)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_path_built_by_name_carries_its_key_too(runtime: str) -> None:
    module = build_module(ComplexPath(3, 2, 6), Site(16, 24, 1, 8), channel_shuffle=True)
    assert read_metadata(exported(module, (1, 16, 8, 8), runtime), runtime)["bpnas.key"] == "K3E6G2S@16-24s1x8"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_blocks_and_networks_say_what_they_are_made_of(runtime: str) -> None:
    site = Site(16, 16, 1, 4)
    block = Block.parse("K1G1+K3E2G1")
    assert read_metadata(exported(build_module(block, site), (1, 16, 4, 4), runtime), runtime)["bpnas.key"] == (
        "K1G1+K3E2G1@16-16s1x4"
    )
    backbone = Backbone("two", 8, 16, 1, (Stage(16, 2, 1),), 16, 10)
    network = exported(build_module([block, None], backbone), (1, 3, 8, 8), runtime)
    assert read_metadata(network, runtime)["bpnas.key"] == "K1G1+K3E2G1,skip@twox8"


def test_inputs_and_outputs_are_named_and_laid_out_as_documented(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    part = PathPart(SimplePath(3, 1), Site(16, 24, 2, 7))
    module = build_module(part)
    session = onnxruntime.InferenceSession(to_onnx(module, (1, 16, 7, 7)), providers=["CPUExecutionProvider"])
    assert [(node.name, node.shape, node.type) for node in session.get_inputs()] == [
        ("input", [1, 16, 7, 7], "tensor(float)")
    ]
    assert [(node.name, node.shape, node.type) for node in session.get_outputs()] == [
        ("output", [1, 24, 4, 4], "tensor(float)")
    ]
    file = tmp_path / "path.tflite"
    file.write_bytes(to_tflite(module, (1, 16, 7, 7)))
    tflite = open_session("tflite", file)
    assert [one.shape for one in tflite.inputs()] == [(1, 7, 7, 16)]
    tflite.set_inputs([np.ones((1, 7, 7, 16), np.float32)])
    tflite.invoke()
    assert tflite.output().shape == (1, 4, 4, 24)


def test_the_onnx_checker_is_content() -> None:
    import onnx

    modules = [
        (build_module(part), part.input_shapes[0])
        for part in (
            PathPart(SimplePath(7, 4), Site(16, 24, 2, 7)),
            PathPart(ComplexPath(5, 4, 3), Site(16, 24, 2, 8), True),
            StemPart(8, 2, 33),
            HeadPart(8, 16, 10, 4),
            JoinPart(8, 4),
        )
    ]
    modules.append((network(Backbone.load("mobilenetv2", 32)), (1, 3, 32, 32)))
    for module, shape in modules:
        model = onnx.load_from_string(to_onnx(module, shape))
        onnx.checker.check_model(model, full_check=True)
        assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_weights_lie_aligned_in_tflite_files() -> None:
    """XNNPACK reads them in place; the schema asks for 16 bytes."""
    from ai_edge_litert import schema_py_generated as schema

    content = to_tflite(build_module(ComplexPath(3, 1, 3), Site(16, 24, 2, 8)), (1, 16, 8, 8))
    assert content[4:8] == b"TFL3"
    start = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    model = schema.Model.GetRootAs(content)
    offsets = []
    for number in range(model.BuffersLength()):
        data = model.Buffers(number).DataAsNumpy()
        if isinstance(data, np.ndarray):
            offsets.append(data.__array_interface__["data"][0] - start)
    assert len(offsets) >= 6
    assert [offset % 16 for offset in offsets] == [0] * len(offsets)


# --- errors


@pytest.mark.parametrize("export", [to_onnx, to_tflite])
@pytest.mark.parametrize(
    "module", [nn.ReLU(), nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU())], ids=lambda m: type(m).__name__
)
def test_a_foreign_module_is_refused(export, module: nn.Module) -> None:
    with pytest.raises(
        TypeError, match=f"{type(module).__name__} cannot be exported: only modules made by build_module"
    ):
        export(module, (1, 3, 8, 8))


def test_what_build_module_refuses() -> None:
    backbone = Backbone.load("mobilenetv2", 32)
    block = Block.parse("K3G1")
    with pytest.raises(TypeError, match="no module for Block with Backbone"):
        build_module(block, backbone)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no module for SimplePath with NoneType"):
        build_module(SimplePath(3, 1))  # type: ignore[call-overload]
    with pytest.raises(BackboneError, match="backbone mobilenetv2 has 22 sites, but 3 blocks were given"):
        build_module([block] * 3, backbone)
    with pytest.raises(BackboneError, match=r"site 1 of .*mobilenetv2 changes the shape, so .*Skip"):
        build_module([block, None, *[block] * 20], backbone)


# --- other people's exporters as independent checks


CHECKED = [
    PathPart(SimplePath(5, 2), Site(16, 24, 2, 8)),
    PathPart(ComplexPath(3, 4, 3), Site(16, 24, 2, 7), True),
    StemPart(8, 2, 33),
    HeadPart(8, 16, 10, 4),
]


def run_onnx(content: bytes, *inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


def export_with_torch(module: nn.Module, x: torch.Tensor, dynamo: bool) -> bytes:
    buffer = io.BytesIO()
    if not dynamo:
        torch.onnx.export(module, (x,), buffer, dynamo=False, opset_version=13)
        return buffer.getvalue()
    with warnings.catch_warnings():
        # Not ours to mend: what torch and onnxscript warn each other of changes with every release.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    program.save(buffer)
    return buffer.getvalue()


def assert_same_as_torch_exports(part, dynamo: bool) -> None:
    module = randomise(build_module(part))
    (x,) = random_inputs(part.input_shapes[0])
    theirs = run_onnx(export_with_torch(module, x, dynamo), x.numpy())
    ours = run_onnx(to_onnx(module, part.input_shapes[0]), x.numpy())
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


# The older one knows no channel shuffle.
@pytest.mark.parametrize(
    "part",
    [replace(part, channel_shuffle=False) if "S@" in part.key else part for part in CHECKED],
    ids=lambda p: p.key,
)
def test_onnx_files_agree_with_the_older_torch_exporter(part) -> None:
    assert_same_as_torch_exports(part, dynamo=False)


@pytest.mark.slow
@pytest.mark.parametrize("part", CHECKED, ids=lambda part: part.key)
def test_onnx_files_agree_with_the_newer_torch_exporter(part) -> None:
    pytest.importorskip("onnxscript")
    assert_same_as_torch_exports(part, dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize("part", CHECKED, ids=lambda part: part.key)
def test_tflite_files_agree_with_litert_torch(tmp_path: Path, part) -> None:
    litert_torch = pytest.importorskip("litert_torch")
    module = randomise(build_module(part))
    (x,) = random_inputs(part.input_shapes[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = litert_torch.convert(module, (x,))(x)
    file = tmp_path / "model.tflite"
    file.write_bytes(to_tflite(module, part.input_shapes[0]))
    ours = open_session("tflite", file).run(x.numpy())
    assert np.abs(ours - np.asarray(theirs)).max() <= TOLERANCE * np.abs(ours).max()
