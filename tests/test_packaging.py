"""What is installed, under which names, and what an import costs."""

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

from tests.root import ROOT

ROOMS = ["android_bench", "profiler", "tables", "search"]
FOLDERS = ["bpnas", *ROOMS]
COMMANDS = {
    "profile-device": "bpnas.profiler.cli",
    "build-table": "bpnas.tables.cli",
    "run-search": "bpnas.search.cli",
}
HEAVY = ["torch", "onnx", "onnxruntime", "ai_edge_litert", "pandas", "pyarrow", "numpy", "scipy", "sklearn", "datasets",
         "matplotlib"]  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # -I: neither the working directory nor PYTHONPATH is searched, only what is installed.
    return subprocess.run([sys.executable, "-I", "-c", code], cwd=cwd, capture_output=True, text=True)


def heavy_modules(code: str, cwd: Path) -> list[str]:
    """Run `code` and list what of HEAVY it loaded."""
    report = f"import sys; print('loaded:', *sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
    done = run_python(f"import atexit; atexit.register(lambda: exec({report!r}))\n{code}", cwd)
    assert done.returncode == 0, done.stderr
    return re.findall(r"^loaded:(.*)$", done.stderr, re.MULTILINE)[-1].split()


@pytest.mark.parametrize("room", [*ROOMS, "tables.readers", "base"])
def test_importing_a_package_loads_nothing_heavy(room: str, tmp_path: Path) -> None:
    assert heavy_modules(f"import bpnas.{room}", tmp_path) == []


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS.keys())
def test_help_loads_nothing_heavy(module: str, tmp_path: Path) -> None:
    assert heavy_modules(f"from {module} import main; main(['--help'])", tmp_path) == []


@pytest.mark.parametrize("words", ["study strategies", "transfer face", "transfer reid", "transfer detection"])
def test_help_below_a_group_loads_nothing_heavy(words: str, tmp_path: Path) -> None:
    code = f"from bpnas.search.cli import main; main({[*words.split(), '--help']})"
    assert heavy_modules(code, tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there(command: str, cli) -> None:
    done = cli(command, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage:")


def test_the_commands_are_the_ones_declared() -> None:
    assert PROJECT["project"]["scripts"] == {name: f"{module}:main" for name, module in COMMANDS.items()}


@pytest.mark.parametrize("package", ["bpnas", *(f"bpnas.{room}" for room in ROOMS)])
def test_types_are_announced(package: str) -> None:
    assert files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_installed_under_a_bare_name(room: str, tmp_path: Path) -> None:
    found = run_python(
        f"from importlib.util import find_spec; import bpnas.{room} as ours; spec = find_spec({room!r});"
        "print(spec is not None and list(spec.submodule_search_locations or []) == list(ours.__path__))",
        tmp_path,
    )
    assert found.stdout.strip() == "False", found.stderr


def test_the_repository_is_not_on_the_import_path() -> None:
    paths = {Path(p).resolve() for p in sys.path}
    assert ROOT.resolve() not in paths, "call `pytest`, not `python -m pytest`: pandas would import our folder `tables`"


def test_the_torch_free_environments_install_every_other_dependency() -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    listed = tox["testenv:py3{12,13}-notorch"]["deps"].split()
    declared = [re.match(r"[\w.-]+", line).group() for line in PROJECT["project"]["dependencies"]]
    assert sorted(listed) == sorted(set(declared) - {"torch"})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], dict[str, bytes]]:
    """The names in the sdist and the files of the wheel that was built from it, from a copy of the sources."""
    work = tmp_path_factory.mktemp("build")
    # egg-info above all: setuptools would take its old list of files for this one's.
    leftovers = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs", "__pycache__", "*.sqlite*")
    shutil.copytree(ROOT, work / "source", ignore=leftovers)
    subprocess.run(
        [sys.executable, "-I", "-m", "build", "--no-isolation", "--outdir", work / "dist", work / "source"],
        check=True,
        capture_output=True,
    )
    (sdist,), (wheel,) = (work / "dist").glob("*.tar.gz"), (work / "dist").glob("*.whl")
    with tarfile.open(sdist) as tar:
        in_sdist = {name.partition("/")[2] for name in tar.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        return in_sdist, {name: archive.read(name) for name in archive.namelist()}


def sources(*patterns: str) -> set[str]:
    return {
        p.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for pattern in patterns
        for p in (ROOT / folder).rglob(pattern)
    }


@pytest.mark.slow
def test_sdist_and_wheel_hold_every_source_and_data_file(built: tuple[set[str], dict[str, bytes]]) -> None:
    in_sdist, wheel = built
    wanted = sources("*.py", "py.typed", "backbones/*.toml") | {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "tables").glob("*.parquet")
    }
    assert {"profiler/backbones/mobilenetv2.toml", "profiler/backbones/fbnet.toml"} <= wanted
    assert wanted <= in_sdist
    installed = {name: f"bpnas/{name.removeprefix('bpnas/')}" for name in wanted}
    assert set(installed.values()) <= wheel.keys()
    for name in wanted:
        assert wheel[installed[name]] == (ROOT / name).read_bytes(), name


@pytest.mark.slow
def test_wheel_has_the_licence_and_nothing_outside_bpnas(built: tuple[set[str], dict[str, bytes]]) -> None:
    _, wheel = built
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"bpnas"}
