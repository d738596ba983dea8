"""Networks of a search by torch.hub, from a clone of this repository, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bpnas.search.sealed import sealed_json
from tests.network_factory import stored_network
from tests.root import ROOT


def run(code: str, path: Path) -> str:
    beginning = f"import sys, torch; ROOT, PATH = {str(ROOT)!r}, {str(path)!r}\n"
    # -I: the repository is not on the path but for torch.hub.
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", beginning + code], cwd=path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hub_loads_what_the_search_left(tmp_path: Path) -> None:
    path, network = stored_network(tmp_path)
    images = torch.randn(1, 3, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    torch.save(network(images), tmp_path / "expected.pt")
    code = """
network = torch.hub.load(ROOT, "bpnas", source="local", network=PATH)
images, expected = torch.load("images.pt", weights_only=True), torch.load("expected.pt", weights_only=True)
torch.testing.assert_close(network(images), expected)
other = torch.hub.load(ROOT, "bpnas", source="local", network=PATH, pretrained=False)
assert not torch.allclose(other(images), expected)
features = torch.hub.load(ROOT, "bpnas_features", source="local", network=PATH)
assert [1, 2, 4, 8, 16] == [32 // found.shape[-1] for found in features(images)] == list(features.strides)
"""
    run(code, path)


def test_hub_loads_nothing_that_was_changed(tmp_path: Path) -> None:
    path, _ = stored_network(tmp_path)
    weights = path.with_suffix(".safetensors").read_bytes()
    values = json.loads(path.read_text()) | {"files": {"network.safetensors": sha256(weights).hexdigest()}}
    texts = {"whole": sealed_json(values), "weights": sealed_json(values)}
    texts["text"] = texts["whole"].replace(b"K3E1G1", b"K3E1G2")
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).write_bytes(text)
        last = weights[-1] ^ (name == "weights")
        (tmp_path / name / "network.safetensors").write_bytes(weights[:-1] + bytes([last]))
    code = """
from pathlib import Path
for name in ("whole", "weights", "text"):
    try:
        torch.hub.load(ROOT, "bpnas", source="local", network=str(Path(name) / Path(PATH).name))
        print("loaded")
    except Exception as error:
        print(type(error).__name__, error)
"""
    whole, of_weights, of_text = run(code, path).splitlines()
    assert whole == "loaded"
    assert "RunError" in of_weights and "network.safetensors: is not the file" in of_weights
    assert "RunError" in of_text and "network.json: was changed since it was written" in of_text


@pytest.mark.parametrize("installed", [True, False])
def test_nothing_of_the_repository_stays_importable_under_its_bare_name(tmp_path: Path, installed: bool) -> None:
    path, _ = stored_network(tmp_path)
    hidden = """
from importlib.machinery import PathFinder
sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder and "editable" not in repr(finder)]
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = PathFinder.find_spec(name, path, target)
        return None if name == "bpnas" and found and ROOT not in found.origin else found
sys.meta_path.append(Without)
"""
    code = """
torch.hub.load(ROOT, "bpnas", source="local", network=PATH)
assert ROOT not in sys.path and not {"tables", "search", "profiler", "android_bench"} & set(sys.modules)
import bpnas.search
print(bpnas.search.__file__)
import pandas
from importlib.util import find_spec
spec = find_spec("tables")
assert spec is None or ROOT not in str(spec.submodule_search_locations), spec
"""
    found = run(code if installed else hidden + code, path)
    assert Path(found.strip()) == ROOT / "search" / "__init__.py"
