"""Models that another tool has exported: what fits is run as it is, what does not is one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from conftest import TASK
from onnx import TensorProto, helper

from paredown.compress.models.loading import Checkpoint
from paredown.export.artifact import Artifact
from paredown.export.bundle.archive import copy_tree
from paredown.export.foreign import answered
from paredown.export.loading import adopt
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS

IDS = [[2, 5, 11, 20, 3], [2, 6, 3]]


@pytest.fixture(scope="module")
def plain(teacher: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_onnx(teacher, TASK, tmp_path_factory.mktemp("plain") / "plain.onnx")


@pytest.fixture
def foreign(teacher: Checkpoint, plain: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes the directory of another tool's export, the graph changed as is asked."""

    def make(change: Callable[[onnx.ModelProto], None] = lambda model: None) -> Path:
        folder = tmp_path / "theirs"
        folder.mkdir()
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(teacher.path / name, folder / name)
        model = onnx.load(plain)
        change(model)
        onnx.save(model, folder / "model.onnx")
        return folder / "model.onnx"

    return make


def rename_input(model: onnx.ModelProto, old: str, new: str, kind: int = TensorProto.INT64) -> None:
    """The input `old` is called `new` and has another type: a Cast gives the graph what it had."""
    entry = next(e for e in model.graph.input if e.name == old)
    for node in model.graph.node:
        node.input[:] = [f"{old}.inner" if name == old else name for name in node.input]
    entry.name, entry.type.tensor_type.elem_type = new, kind
    model.graph.node.insert(0, helper.make_node("Cast", [new], [f"{old}.inner"], to=TensorProto.INT64))


def more_input(model: onnx.ModelProto, name: str) -> None:
    """One input more, which is added to the ids in a way that changes nothing while it is zero."""
    rename_input(model, "input_ids", "input_ids")
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]))
    model.graph.node.insert(1, helper.make_node("Add", ["input_ids.inner", name], ["input_ids.sum"]))
    for node in list(model.graph.node)[2:]:
        node.input[:] = ["input_ids.sum" if n == "input_ids.inner" else n for n in node.input]


def set_outputs(model: onnx.ModelProto, *names: str) -> None:
    """The outputs are called `names`, all of them the logits."""
    (entry,) = model.graph.output
    del model.graph.output[:]
    for name in names:
        if name != "logits":
            model.graph.node.append(helper.make_node("Identity", ["logits"], [name]))
        model.graph.output.append(entry)
        model.graph.output[-1].name = name


def answers(artifact: Artifact) -> np.ndarray:
    return np.asarray(open_artifact(artifact, 1)(artifact.encoder().pad(IDS))[artifact.outputs[0]])


@pytest.fixture
def expected(plain: Path, teacher: Checkpoint, tmp_path: Path) -> np.ndarray:
    return answers(RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "ours", 32)))


def narrow(model: onnx.ModelProto) -> None:
    for name in ("input_ids", "attention_mask"):
        rename_input(model, name, name, TensorProto.INT32)


CHANGES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "token types": lambda model: more_input(model, "token_type_ids"),
    "int32": narrow,
    "another output": lambda model: set_outputs(model, "output_0"),
    "two outputs": lambda model: set_outputs(model, "hidden", "logits"),
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_fits_answers_as_the_checkpoint_does(
    change: str, runtime: str, foreign: Callable[..., Path], expected: np.ndarray, tmp_path: Path
) -> None:
    model = foreign(CHANGES[change])
    if runtime == "openvino":
        openvino.save_model(openvino.convert_model(model), model.with_suffix(".xml"), compress_to_fp16=False)
        model = model.with_suffix(".xml")
    artifact = adopt(model, tmp_path / "scratch", TASK, 32)
    np.testing.assert_allclose(answers(artifact), expected, atol=1e-3)


def test_a_fixed_shape_is_padded_to(foreign: Callable[..., Path], expected: np.ndarray, tmp_path: Path) -> None:
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    def one_shape(model: onnx.ModelProto) -> None:
        make_dim_param_fixed(model.graph, "batch", 1)
        make_dim_param_fixed(model.graph, "length", 16)

    artifact = adopt(foreign(one_shape), tmp_path / "scratch", TASK, 32)
    assert (artifact.lengths, artifact.batch_size, artifact.max_length) == ((16,), 1, 16)
    np.testing.assert_allclose(answers(artifact), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: rename_input(model, "input_ids", "ids"), "its inputs are attention_mask, ids"),
        (lambda model: more_input(model, "position_ids"), "its inputs are .*position_ids"),
        (
            lambda model: set_outputs(model, "start", "end"),
            "its outputs are start .*, end .*; one, or one called",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[onnx.ModelProto], None], words: str, foreign: Callable[..., Path], tmp_path: Path
) -> None:
    model = foreign(change)
    with pytest.raises(InputError, match=words) as caught:
        adopt(model, tmp_path / "scratch", TASK, 32)
    assert str(caught.value).startswith(f"{model}: ")


@pytest.mark.parametrize("names", [("logits",), ("hidden", "logits"), ("output_0",)])
def test_what_has_another_shape_is_not_scored(
    names: tuple[str, ...], foreign: Callable[..., Path], tmp_path: Path
) -> None:
    """A classifier of texts, named as one of words, of three labels, of one number."""
    model = foreign(lambda graph: set_outputs(graph, *names))
    for name in ("token-classification", "question-answering"):
        with pytest.raises(InputError, match=r"asks for|is scored"):
            adopt(model, tmp_path / name, TASKS[name], 32)
    config = json.loads((model.parent / "config.json").read_text())
    (model.parent / "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(InputError, match=r"3 labels, as config.json names them|is scored"):
        adopt(model, tmp_path / "three", TASK, 32)


def test_token_types_of_two_texts_are_the_tokenizers(foreign: Callable[..., Path], tmp_path: Path) -> None:
    model = foreign(CHANGES["token types"])
    task = TASKS["text-pair-classification"]
    artifact = adopt(model, tmp_path / "scratch", task, 32)
    text, encoder = f"a good film{PAIR}the plot", artifact.encoder()
    first, second = text.split(PAIR)
    made = encoder.tokenizer.encode(first, second)
    assert any(made.type_ids)
    inner = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    batch = encoder.pad([made.ids]) | {"token_type_ids": np.array([made.type_ids])}
    expected = np.asarray(inner.run(["logits"], batch)[0])
    np.testing.assert_allclose(answered(artifact, [text], 1), expected, atol=1e-5)


def test_copies_of_a_read_only_bundle_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("x")
    (tmp_path / "a/b/file").chmod(0o444)
    (tmp_path / "a/b").chmod(0o555)
    copy_tree(tmp_path / "a", tmp_path / "out")
    assert (tmp_path / "out/b/file").read_text() == "x"
    assert (tmp_path / "out/b").stat().st_mode & 0o200
    assert (tmp_path / "out/b/file").stat().st_mode & 0o200
    (tmp_path / "a/b").chmod(0o755)


def test_a_damaged_file_is_named_as_it_was_given(foreign: Callable[..., Path], tmp_path: Path) -> None:
    model = foreign()
    whole = model.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"MatMul", b"MatMux")):
        model.write_bytes(damaged)
        with pytest.raises(InputError) as caught:
            adopt(model, tmp_path / "scratch", TASK, 32)
        assert str(caught.value).startswith(f"{model}: ")


def test_only_what_belongs_to_the_model_counts(foreign: Callable[..., Path], tmp_path: Path) -> None:
    """Other exports have several precisions in one directory, model.onnx and model_quantized.onnx."""
    model = foreign()
    shutil.copyfile(model, model.with_name("model_quantized.onnx"))
    assert adopt(model, tmp_path / "a", TASK, 32).files == ("model.onnx",)
    whole = onnx.load(model)
    onnx.save(whole, model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    artifact = adopt(model, tmp_path / "b", TASK, 32)
    assert artifact.files == ("model.onnx", "weights.bin")
    answers(artifact)
