"""Numbers that people and files write are read in the one way that everybody reads them, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from bpnas.profiler import Backbone, BackboneError

CONFIG = """
name = "tiny"
stages = [{ channels = 8, blocks = 2, stride = 1 }]
[stem]
channels = 8
[head]
channels = 16
"""


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize(
    "command",
    [
        "profile-device --serial mock:s9 --paths K1G1 --sessions 1 --input-size 32 --budget",
        "profile-device --serial mock:s9 --sentinel-limit",
        "profile-device --serial mock:s9 --seconds",
        "profile-device zoo --serial mock:s9 --networks fbnet-a --budget",
        "run-search --target",
        "run-search --lambda-below",
        "run-search --retrain-rate",
        "run-search --retrain-ema",
        "run-search --retrain-label-smoothing",
    ],
)
def test_no_command_takes_what_is_no_finite_number(cli, tmp_path, monkeypatch, command, number):
    monkeypatch.chdir(tmp_path)
    name, *options = command.split()
    if name == "run-search":
        pytest.importorskip("torch")
    done = cli(name, *options, number)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["nan", "inf,1", "1,-inf", "1e400", "1_0", "٢,2", "0x10", "+1", "1,,2", " ", "0,1", "-1", "1;2"]
)
@pytest.mark.parametrize("options", ["--constraints", "--targets", "study strategies --constraints"])
def test_lists_of_milliseconds(cli, tmp_path, monkeypatch, options, text):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    done = cli("run-search", *options.split(), text)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{options.split()[-1]} {text!r}: write milliseconds with commas between" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["1_0", "1,٢", "1.5", "+3", " "])
def test_seeds(cli, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    done = cli("run-search", "study", "strategies", "--seeds", text)
    assert done.exit_code == 2 and f"--seeds {text!r}: write how many" in done.stderr


@pytest.mark.parametrize("text", ["nan", "0,inf", "1_0", "1e400", "٢"])
def test_lambdas(cli, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    done = cli("run-search", "study", "lambda", "--proposals", "K1G1", "--lambdas", text)
    assert done.exit_code == 2 and f"--lambdas {text!r}: write numbers with commas between" in done.stderr


@pytest.mark.parametrize("text", ["nan", "inf%", "1_0%", "٢%", "+2%", "0x1%", "%"])
def test_a_precision(cli, text):
    done = cli("profile-device", "--serial", "mock:s9", "--precision", text)
    assert done.exit_code == 2 and "is no precision from 0.1% to 50%" in done.stderr


def load(folder: Path, content: str | bytes) -> Backbone:
    file = folder / "b.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Backbone.load(file, 32)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("blocks = 2", "blocks = true", "stages[0].blocks: must be a whole number from 1 to 1000, not True"),
        ("blocks = 2", "blocks = 2.0", "stages[0].blocks: must be a whole number from 1 to 1000, not 2.0"),
        ("blocks = 2", "blocks = nan", "stages[0].blocks: must be a whole number from 1 to 1000, not nan"),
        ("blocks = 2", f"blocks = {'9' * 5000}", "a number in it is far too large"),
        ("blocks = 2", f"blocks = 0x{'f' * 5000}", "stages[0].blocks: must be a whole number from 1 to 1000, not a ve"),
        ("blocks = 2", f"blocks = '{'9' * 5000}'", "stages[0].blocks: must be a whole number from 1 to 1000, not '999"),
        ("blocks = 2", "block = 2, blocks = 2", "stages[0].block: unknown field"),
        ("blocks = 2", f"blocks = 2, {'b' * 5000} = 2", "stages[0].bbb"),
        ("blocks = 2", f"blocks = {'[' * 5000}", "is nested too deeply for a backbone"),
        ("stride = 1 }", "stride = 1 }" + ", { channels = 8, blocks = 1000, stride = 1 }" * 9, "stages: have 9,002 b"),
        ("channels = 16", "channels = 16\nchannels = 32", "not valid TOML: Cannot overwrite a value (at line 8"),
    ],
)  # fmt: skip
def test_a_backbone_with_another_value(tmp_path, old, new, sentence):
    with pytest.raises(BackboneError) as caught:
        load(tmp_path, CONFIG.replace(old, new))
    assert str(caught.value).startswith(f"{tmp_path / 'b.toml'}: {sentence}")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_backbone_in_other_encodings(tmp_path):
    assert load(tmp_path, b"\xef\xbb\xbf" + CONFIG.encode()) == load(tmp_path, CONFIG)
    with pytest.raises(BackboneError, match="its text is not UTF-8"):
        load(tmp_path, CONFIG.replace("tiny", "kr\xfcmel").encode("latin-1"))
