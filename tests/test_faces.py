"""What users import, and from where: a name that goes from here breaks somebody's program."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest

from tests.root import ROOT

FACES = {
    "bpnas.android_bench": """
        Attached Bundle Conditions Device DeviceChangedError DeviceError DeviceInfo DeviceLostError DeviceOptions
        DeviceSpaceError Failure Measurement ModelFormatError ModelInput ModelSize Operator Outcome RUNTIMES Remote
        RunRequest RunSettings RuntimeUnavailableError UnknownSerialError attached_devices build_bundle choose_serial
        connect diagnose open_device read_inputs read_operators read_size
        """,
    "bpnas.profiler": """
        Backbone BackboneError Block BlockError CampaignResult ComplexPath Cost Estimate Estimates Plan Records
        RecordsError Setup SimplePath Site all_paths block_cost build_module estimate network_cost parse_path path_cost
        plan_parts random_networks run_campaign select_paths to_onnx to_tflite
        """,
    "bpnas.tables": """
        BuildError LatencyTable MissingEntryError TableError TableMeta TimedNetwork build_table diagnose_table
        diff_tables import_table merge_tables validate
        """,
    "bpnas.tables.readers": "ReadRow TableReader milliseconds number whole_number",
    "bpnas.search": """
        AboveLimitError Assignment BlockProblem BlockSpace CandidateEvaluator DataError Dataset DivergedError Embedder
        Evaluation FeasibleSet FeatureMaps Features InfeasibleLimitError LatencyLoss NetworkFile Preset Problem RunError
        SearchError SearchResult StuckError Supernet SupernetLatency TrainSettings Trial WorkerLostError accuracy
        argmax_blocks cell_problem choose_classes embed expected_latency fragmented_problem k_most_probable_blocks
        levonas load_data load_features load_network most_probable_blocks retrain rugged_problem run_detection run_face
        run_reid run_search train
        """,
}
MODULES = {"bpnas.search.timm_models", "bpnas.search.cli"}
"""What is imported for what it does, or started."""


@pytest.mark.parametrize("face", FACES)
def test_the_public_names(face):
    package = import_module(face)
    assert sorted(package.__all__) == sorted(FACES[face].split()) == dir(package)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.skipif(find_spec("torch") is None, reason="some of it needs torch")
def test_every_name_is_there(face):
    package = import_module(face)
    for name in FACES[face].split():
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=f"module '{face}' has no attribute 'Nonsense'"):
        _ = package.Nonsense


def packages(name="bpnas"):
    package = import_module(name)
    yield package
    for each in iter_modules(package.__path__, f"{name}."):
        if each.ispkg:
            yield from packages(each.name)


def test_no_public_name_is_also_a_modules():
    """Else it would be the module for whoever imports it after that was loaded."""
    for package in packages():
        below = {each.name for each in iter_modules(package.__path__)}
        assert not below & set(getattr(package, "__all__", ())), package.__name__


def test_a_name_is_the_same_whatever_was_loaded_before():
    program = (
        "import bpnas.android_bench.opening, bpnas.android_bench.serials\n"
        "from bpnas.android_bench import connect, open_device\n"
        "assert callable(connect) and callable(open_device)"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


@pytest.mark.parametrize("face", FACES)
def test_a_type_checker_finds_the_same(face):
    package = import_module(face)
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (guard,) = [each for each in tree.body if isinstance(each, ast.If)]
    seen = {(name.name, each.module) for each in guard.body for name in each.names}
    assert seen == {(name, f"{face}.{home}") for name, home in package._HOMES.items()}


def test_the_package_itself_has_its_version_and_the_errors_that_all_share():
    package = import_module("bpnas")
    assert package.__version__ == version("bpnas")
    assert package.__all__ == ["BpnasError", "SpaceError", "UsageError", "__version__"]
    for face in FACES:
        for name in FACES[face].split():
            if name.endswith("Error") and name != "ModelFormatError":
                assert issubclass(getattr(import_module(face), name), package.BpnasError)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name)
def test_the_docs_send_nobody_into_a_module(page):
    known = {f"{face}.{name}" for face, names in FACES.items() for name in names.split()} | FACES.keys() | MODULES
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"from (bpnas[\w.]*) import", text)) | set(re.findall(r"`(bpnas\.[\w.]+)", text))
    inner = {"bpnas.base", "bpnas.base.command"} if page.stem == "contributing" else set()
    assert named - known - {"bpnas.meta", "bpnas.sha256", "bpnas"} - inner == set()
