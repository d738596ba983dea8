"""What a model file wants to be fed with, and which files cannot be timed: said without any runtime."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from bpnas.android_bench import ModelFormatError, ModelInput, read_inputs
from bpnas.android_bench.measurement import Feed
from bpnas.android_bench.model_file import ModelFile, open_model_file, remove_files
from bpnas.android_bench.model_inputs import FILLED_TYPES, InputChoices
from bpnas.base.errors import BpnasError, UsageError
from tests.people_models import LFS_POINTER, onnx_model, onnx_of, relu, tflite_model, tflite_tensor, with_data

FLOAT = TensorProto.FLOAT


def examine(folder: Path, content: bytes, *choices: str, name: str = "m.onnx") -> ModelFile:
    (folder / name).write_bytes(content)
    shapes = [choice for choice in choices if ":" not in choice]
    values = [choice.replace(":", "") for choice in choices if ":" in choice]
    return open_model_file(folder / name, InputChoices.parse(shapes, values))


def refusal(folder: Path, content: bytes, *choices: str, name: str = "m.onnx") -> str:
    with pytest.raises(UsageError) as caught:
        examine(folder, content, *choices, name=name)
    text = str(caught.value)
    assert text.startswith(f"{folder / name}: ") and "\n" not in text and "Error" not in text
    return text.removeprefix(f"{folder / name}: ")


# --- inputs


@pytest.mark.parametrize(
    ("kind", "name"), [(FLOAT, "float32"), (TensorProto.DOUBLE, "float64"), (7, "int64"), (9, "bool")]
)
def test_types_are_named_alike(kind: int, name: str) -> None:
    assert read_inputs(onnx_of(kind)) == (ModelInput("x", (1, 8), name),)
    assert name in FILLED_TYPES


@pytest.mark.parametrize("kind", ["FLOAT32", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "STRING", "FLOAT16"])
def test_types_of_tflite_are_named_alike(kind: str) -> None:
    (one,) = read_inputs(relu(kind=kind))
    assert one.type == kind.lower() and one.type in FILLED_TYPES


def test_tensors_without_names_have_one() -> None:
    def named(*names: str | None) -> list[str]:
        tensors = [tflite_tensor(name, (1, 8)) for name in names]
        return [one.name for one in read_inputs(tflite_model(tensors, [tflite_tensor("y", (1, 8))], "ADD"))]

    assert named(None, None) == ["input_0", "input_1"]
    assert named("x", "x") == ["x", "input_1"]
    assert named("input_1", "") == ["input_1", "input_1_"]


@pytest.mark.parametrize(
    ("shape", "signature", "expected"),
    [
        ((1, 8), (-1, 8), (1, 8)),
        ((4, 8), (-1, 8), (4, 8)),
        ((1, 1, 8), (-1, -1, 8), ("?", "?", 8)),
        ((1, 8), (1, -1), (1, "?")),
        ((1, 8), (), (1, 8)),
        ((-1, 8), (), ("?", 8)),
        ((), (), ()),
    ],
)
def test_open_sizes_of_tflite(shape, signature, expected) -> None:
    (one,) = read_inputs(relu(shape, signature=signature))
    assert one.shape == expected


def test_open_sizes_of_onnx() -> None:
    assert read_inputs(onnx_of(FLOAT, ("n", 3)))[0].shape == ("n", 3)
    assert read_inputs(onnx_of(FLOAT, (-1, 3)))[0].shape == ("?", 3)
    assert read_inputs(onnx_of(FLOAT, ()))[0].shape == ()
    assert read_inputs(onnx_of(FLOAT, None))[0].shape is None, "no shape is no single number"


# --- sizes and values


def test_an_open_batch_alone_is_one(tmp_path: Path) -> None:
    file = examine(tmp_path, onnx_of(FLOAT, ("batch", 8)))
    assert (file.feeds, file.told, file.assumed, file.variant) == ((Feed((1, 8)),), True, ("x",), "")
    fixed = examine(tmp_path, onnx_of(FLOAT))
    assert (fixed.feeds, fixed.told, fixed.assumed) == ((Feed((1, 8)),), False, ())


def states() -> bytes:
    """Several inputs that share open sizes."""
    inputs = [("ids", FLOAT, ("n", "length")), ("mask", FLOAT, ("n", "length")), ("state", FLOAT, (2, "n", 4))]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _, _ in inputs]
    return onnx_model(nodes, inputs, [(f"{name}_out", FLOAT, None) for name, _, _ in inputs]).SerializeToString()


def test_what_is_given_for_one_input_holds_for_the_others(tmp_path: Path) -> None:
    assert examine(tmp_path, states(), "ids=3,16").shapes == {"ids": (3, 16), "mask": (3, 16), "state": (2, 3, 4)}
    assert examine(tmp_path, states(), "mask=1,7").shapes == {"ids": (1, 7), "mask": (1, 7), "state": (2, 1, 4)}
    sentence = refusal(tmp_path, states())
    assert (
        "its input ids is open, (n, length); give all its sizes as numbers, with --input-shape 'ids=n,length'"
        in sentence
    )
    assert "its inputs: ids (n, length) float32, mask (n, length) float32, state (2, n, 4) float32" in sentence


def test_shapes_are_told_apart_in_keys_but_the_usual_one_is_nothing_else(tmp_path: Path) -> None:
    content = onnx_of(FLOAT, ("batch", 8))
    assert examine(tmp_path, content, "x=2,8").variant == "x=2,8"
    assert examine(tmp_path, content, "x=1,8").variant == ""
    assert examine(tmp_path, relu(), "x=1,8", name="m.tflite").told is False
    assert examine(tmp_path, onnx_of(7), "x:=3").variant == "x:=3"


def test_tflite_takes_other_sizes_and_onnx_does_not(tmp_path: Path) -> None:
    assert examine(tmp_path, relu(), "x=5,8", name="m.tflite").shapes == {"x": (5, 8)}
    assert refusal(tmp_path, onnx_of(FLOAT), "x=5,8") == (
        "--input-shape x=5,8 does not fit; its inputs: x (1, 8) float32"
    )
    assert "x=8 does not fit" in refusal(tmp_path, relu(), "x=8", name="m.tflite")


def test_an_input_without_a_shape_needs_one(tmp_path: Path) -> None:
    content = onnx_of(FLOAT, None)
    assert "its input x has no shape; give it with --input-shape 'x=SIZE,SIZE,...'" in refusal(tmp_path, content)
    assert examine(tmp_path, content, "x=2,3").shapes == {"x": (2, 3)}
    assert examine(tmp_path, content, "x=").shapes == {"x": ()}


@pytest.mark.parametrize(
    "text",
    ["x", "=1,2", "x=1,,2", "x=-1", "x=a", "x=1.5", "x=99999999999", "x=1,2x", "x=" + "1," * 40 + "1", "x=\u0663"],
)
def test_a_bad_shape_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--input-shape .*: write an input's name and its numbers, as in input=1,3"):
        InputChoices.parse([text], [])


@pytest.mark.parametrize("text", ["x=", "x=nan", "x=1,", "x=1e", "x=inf", "x=" + "1," * 70 + "1"])
def test_a_bad_value_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--input-value .*: write an input's name and its numbers, as in rate=16000"):
        InputChoices.parse([], [text])


def test_names_may_hold_anything_and_are_given_once() -> None:
    assert InputChoices.parse(["a=b:0=1,2"], ["x=-1,2.5,1e3"]) == InputChoices({"a=b:0": (1, 2)}, {"x": (-1, 2.5, 1e3)})
    with pytest.raises(UsageError, match="--input-shape 'x': is given twice, and differs"):
        InputChoices.parse(["x=1", "x=2"], [])
    with pytest.raises(UsageError, match=r"--input-shape 'z': no such input; there are: x \(1, 8\) float32"):
        InputChoices.parse(["z=1"], []).refuse_unknown(read_inputs(relu()))


@pytest.mark.parametrize(
    ("kind", "value"), [("UINT8", "256"), ("INT8", "-129"), ("BOOL", "2"), ("INT32", "1.5"), ("STRING", "1")]
)
def test_a_value_that_is_none_of_the_type(tmp_path: Path, kind: str, value: str) -> None:
    sentence = refusal(tmp_path, relu(kind=kind), f"x:={value}", name="m.tflite")
    assert sentence == f"--input-value x={value} is no {kind.lower()}, as that input takes"


# --- files that cannot be timed


def many_megabytes(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


CUT = "is cut short or damaged; download it, or export it, once more"
UNFIT = {
    "LFS": (
        "m.tflite",
        LFS_POINTER,
        "is a Git LFS pointer in place of the file, and no model; get the file with git lfs pull",
    ),
    "annex": ("m.onnx", b"/annex/objects/MD5-s1--0\n", "is a git-annex pointer in place of the file, and no model"),
    "page": ("m.onnx", b"\n<!DOCTYPE html>\n<html><head>", "is a web page, and no model; download the file itself"),
    "text": ("m.tflite", b"404: Not Found", "is a text file, and no model"),
    "zip": ("m.onnx", b"PK\x03\x04" + bytes(99), "is a zip archive, as torch and numpy write them, and no model"),
    "empty": ("m.onnx", b"", "is an empty file, and no model"),
    "cut": ("m.onnx", onnx_of(FLOAT)[:-9], CUT),
    "cut tflite": ("m.tflite", relu()[:100], CUT),
    "noise": ("m.tflite", bytes(range(128, 256)) * 9, "is no TFLite model, for it lacks the mark TFL3"),
    "ONNX as TFLite": ("m.tflite", onnx_of(FLOAT), "is an ONNX model; give it a name that ends in .onnx"),
    "TFLite as ONNX": ("m.onnx", relu(), "is a TFLite model; give it a name that ends in .tflite"),
    "ORT": (
        "m.onnx",
        b"\x01\xff\x02\xffORTM" + bytes(99),
        "is a model in ONNX Runtime's own format; export it",
    ),
    "no operators": ("m.onnx", onnx_model([], [], []).SerializeToString(), "is no ONNX model: it has no operators"),
    "type": ("m.tflite", relu(kind="RESOURCE"), "its input x is of the type resource, which cannot be filled"),
}


@pytest.mark.parametrize(("name", "content", "sentence"), UNFIT.values(), ids=UNFIT.keys())
def test_what_cannot_be_timed_has_its_sentence(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    assert refusal(tmp_path, content, name=name).startswith(sentence)


def test_weights_that_end_after_the_file_are_a_cut_download(tmp_path: Path) -> None:
    from tests.model_graphs import convolution, write_graph

    content = write_graph(convolution(c_in=64, c_out=64), "tflite")
    assert examine(tmp_path, content, name="m.tflite").sha256
    for share in (0.3, 0.6, 0.9, 0.99):
        assert refusal(tmp_path, content[: int(len(content) * share)], name="m.tflite") == CUT


def test_a_sequence_cannot_be_filled(tmp_path: Path) -> None:
    x = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    model = onnx_model([helper.make_node("SequenceLength", ["x"], ["y"])], [], [("y", 7, [])])
    model.graph.input.append(x)
    assert "its input x is of the type sequence" in refusal(tmp_path, model.SerializeToString())


def test_pipes_and_folders_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.onnx")
    with pytest.raises(UsageError, match=r"p\.onnx: is a device or a pipe, and no model; name a file"):
        open_model_file(tmp_path / "p.onnx")
    with pytest.raises(UsageError, match=r"is a folder; name the \.onnx and \.tflite files in it"):
        open_model_file(tmp_path)


def test_a_file_larger_than_any_model_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(UsageError, match="is larger than 2 GB"):
        open_model_file(tmp_path / "m.onnx")


def test_damaged_content_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=f"^{re.escape(CUT)}$"):
        read_inputs(relu()[:90])


# --- weights beside the file


@pytest.mark.parametrize("location", ["net.onnx.data", "weights/part 1.bin", "model.onnx", "./net.data"])
def test_weights_beside_a_model_go_along(tmp_path: Path, location: str) -> None:
    with_data(tmp_path / "net.onnx", location)
    file = open_model_file(tmp_path / "net.onnx")
    assert [each.name for each in file.data] == [location]
    request = file.request("key", 0, tmp_path / "copy")
    assert request.data == (location,)
    assert [path.read_bytes() for path in request.paths] == [
        (tmp_path / name).read_bytes() for name in ("net.onnx", location)
    ]
    remove_files(request)
    assert not (tmp_path / "copy").exists()
    assert (tmp_path / location).exists()


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    with_data(tmp_path / "net.onnx")
    first = open_model_file(tmp_path / "net.onnx")
    assert first.digest != first.sha256
    (tmp_path / "net.onnx.data").write_bytes(bytes(8 * 8 * 9 * 4))
    second = open_model_file(tmp_path / "net.onnx")
    assert (second.sha256 == first.sha256, second.digest == first.digest) == (True, False)
    with pytest.raises(BpnasError, match=r"net\.onnx\.data: has changed since it was first read"):
        first.request("key", 0, tmp_path / "copy")


@pytest.mark.parametrize("location", ["../w.data", "a/../../w.data", "/etc/passwd", "", "a\\..\\w", "a\nb"])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with_data(folder / "net.onnx")
    content = (folder / "net.onnx").read_bytes()
    from onnx import ModelProto

    model = ModelProto.FromString(content)
    model.graph.initializer[0].external_data[0].value = location
    assert "outside of its folder; put them beside it" in refusal(folder, model.SerializeToString(), name="net.onnx")


def test_a_link_out_of_the_folder_is_refused_but_a_cache_of_links_is_not(tmp_path: Path) -> None:
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    folder.mkdir(), blobs.mkdir()
    with_data(folder / "net.onnx")
    (folder / "net.onnx.data").rename(blobs / "1")
    (folder / "net.onnx.data").symlink_to(blobs / "1")
    with pytest.raises(UsageError, match="are a link to a file outside of its folder; copy that file there"):
        open_model_file(folder / "net.onnx")
    (folder / "net.onnx").rename(blobs / "2")
    (folder / "net.onnx").symlink_to(blobs / "2")
    request = open_model_file(folder / "net.onnx").request("key", 0, tmp_path / "copy")
    assert not any(path.is_symlink() for path in request.paths)


def test_weights_that_are_missing_or_unfit_have_their_sentence(tmp_path: Path) -> None:
    path, data = tmp_path / "net.onnx", tmp_path / "net.onnx.data"
    with_data(path)
    content = path.read_bytes()
    data.write_bytes(data.read_bytes()[:-4])
    assert "in 'net.onnx.data', are cut short" in refusal(tmp_path, content, name="net.onnx")
    data.write_bytes(LFS_POINTER)
    assert "that is a Git LFS pointer in place of the file, and no weights; get" in refusal(
        tmp_path, content, name="net.onnx"
    )
    data.unlink()
    assert "its weights are in 'net.onnx.data', which is not beside it" in refusal(tmp_path, content, name="net.onnx")


# --- computing with other sizes


def test_the_inner_sizes_follow(tmp_path: Path) -> None:
    from bpnas.android_bench import read_operators
    from tests.model_graphs import convolution, write_graph

    for runtime, shape in (("tflite", (1, 16, 16, 8)), ("onnxruntime", (1, 8, 8, 8))):
        content = write_graph(convolution(size=8), runtime)
        (found,) = read_operators(content, [shape])
        assert found.macs == (4 if runtime == "tflite" else 1) * read_operators(content)[0].macs


def test_sizes_that_do_not_fit_inside_have_no_price(tmp_path: Path) -> None:
    from bpnas.android_bench import read_operators
    from bpnas.android_bench.counting.limits import NotPriceableError
    from tests.model_graphs import convolution, write_graph

    with pytest.raises(NotPriceableError, match="a convolution of 8 channels would get 3"):
        read_operators(write_graph(convolution(size=8), "tflite"), [(1, 16, 16, 3)])
