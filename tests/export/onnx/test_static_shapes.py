import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from conftest import TASK, make_checkpoint, paredown, refused

from paredown.compress.models.architectures import supported
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load
from paredown.export.artifact import Artifact, read_artifact
from paredown.export.bundle.layouts.triton import triton_config
from paredown.export.bundle.writer import Contents, write_bundle
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.metadata import for_mobile
from paredown.export.onnx.static_shapes import buckets, shaped
from paredown.export.opening import open_artifact
from paredown.export.predictor import Predictor
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.answers import softmax
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import collate, run_rows

ROWS = [[2, 5, 11, 20, 3], [2, 6, 3], [2, *range(4, 24), 3], [2, 9, 9, 3], [2, 7, 3]]


SHAPES = [  # lengths, rows, and the inputs' sizes
    ([8, 16], None, [-1, -1]),
    ([32], 2, [2, 32]),
    ([32], None, [-1, 32]),
    ([], 3, [3, -1]),
]


def exported(checkpoint: Checkpoint, runtime: str, out: Path, precision: str = "fp32") -> Artifact:
    out.mkdir()
    plain = plain_onnx(checkpoint, TASK, out / "plain.onnx")
    calibration = [collate([row], checkpoint.pad_id) for row in ROWS]
    return RUNTIMES[runtime].export(ExportJob(plain, checkpoint, TASK, out / "artifact", 32, precision, calibration))


def sizes(artifact: Artifact) -> list[list]:
    """Of the inputs, as the file has them."""
    model = artifact.path / artifact.files[0]
    if artifact.runtime == "openvino":
        return [[-1 if d.is_dynamic else d.get_length() for d in port.partial_shape]
                for port in openvino.Core().read_model(model).inputs]  # fmt: skip
    return [[d.dim_value or -1 for d in i.type.tensor_type.shape.dim] for i in onnx.load(model).graph.input]


def test_the_last_bucket_is_the_longest_input() -> None:
    assert buckets([16, 8, 8], 32) == (8, 16, 32)
    assert buckets([32], 32) == buckets([64], 32) == (32,)


@pytest.mark.parametrize("kind", [kind for kind in supported(decoders=False) if kind != "vit"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_shape_gives_the_same_answers(kind: str, runtime: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", kind, layers=1)
    free = exported(checkpoint, runtime, tmp_path / "free")
    want = run_rows(partial(forward, load(checkpoint, TASK)), ROWS, checkpoint.pad_id, "logits")
    for lengths, rows, dims in SHAPES if kind == "bert" else SHAPES[:2]:
        made = shutil.copytree(free.path, tmp_path / f"{lengths}-{rows}")
        artifact = shaped(read_artifact(made), lengths, rows)
        assert read_artifact(artifact.path) == artifact
        assert sizes(artifact) == [dims] * len(artifact.inputs)
        got = run_rows(open_artifact(artifact, 1), ROWS, checkpoint.pad_id, "logits")
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=f"{lengths} {rows}")


@pytest.mark.parametrize(("runtime", "precision"), [("onnxruntime", "int8-dynamic"), ("onnxruntime", "int8-static"),
                                                    ("openvino", "int8-static")])  # fmt: skip
def test_int8_of_one_shape_keeps_the_answers(runtime: str, precision: str, teacher: Checkpoint, tmp_path: Path) -> None:
    free = exported(teacher, runtime, tmp_path / "free", precision)
    want = run_rows(open_artifact(free, 1), ROWS, teacher.pad_id, "logits", batch_size=1)
    fixed = shaped(exported(teacher, runtime, tmp_path / "fixed", precision), [32], 2)
    got = run_rows(open_artifact(fixed, 1), ROWS, teacher.pad_id, "logits")
    assert (got.argmax(-1) == want.argmax(-1)).all()  # dynamic ranges are those of the batch, so not the same bits


def test_a_phone_takes_one_shape_too(teacher: Checkpoint, tmp_path: Path) -> None:
    free = exported(teacher, "onnxruntime", tmp_path / "free")
    want = run_rows(open_artifact(free, 1), ROWS, teacher.pad_id, "logits")
    phone = for_mobile(shaped(exported(teacher, "onnxruntime", tmp_path / "phone"), [32], 1))
    np.testing.assert_allclose(run_rows(open_artifact(phone, 1), ROWS, teacher.pad_id, "logits"), want, atol=2e-5)


def test_what_no_bucket_holds_is_an_error(teacher: Checkpoint, tmp_path: Path) -> None:
    artifact = shaped(exported(teacher, "onnxruntime", tmp_path / "a"), [8])
    with pytest.raises(ValueError, match="33 tokens; this model takes 32 at most"):
        open_artifact(artifact, 1)(collate([list(range(33))], 0))


def test_shapes_on_the_command_line(teacher: Checkpoint, tmp_path: Path) -> None:
    words = ("export", teacher.path, "--max-length", "32", "--lengths")
    done = paredown(*words, "8,32", "--batch-size", "1", "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    artifact = read_artifact(tmp_path / "out")
    assert (artifact.lengths, artifact.batch_size, sizes(artifact)[0]) == ((8, 32), 1, [1, -1])
    for given in ("32,8", "0", "64"):
        refused(
            paredown(*words, given, "--output-dir", tmp_path / "no"), f"--lengths {given}", "at most --max-length 32"
        )
    refused(paredown(*words, "a", "--output-dir", tmp_path / "no"), "--lengths a: a number")
    engine = ("--to", "tensorrt-rtx", "--batch-size", "1", "--output-dir", tmp_path / "no")
    refused(paredown(*words, "8", *engine), "--batch-size: an engine takes any up to its largest")


def test_gpu_providers_take_shapes_as_they_come(teacher: Checkpoint, tmp_path: Path) -> None:
    artifact = exported(teacher, "onnxruntime-cuda", tmp_path / "a")
    with pytest.raises(InputError, match="lengths are for onnxruntime and openvino, not onnxruntime-cuda"):
        shaped(artifact, [8])


def test_a_bundle_pads_as_the_artefact_did(finished: Path, tmp_path: Path) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    (made,) = finished.glob("steps/teacher-onnxruntime-fp32-*/artifact.json")
    artifact = read_artifact(shutil.copytree(made.parent, tmp_path / "artifact"))
    free = open_artifact(artifact, 1)
    texts = ["a good film", "bad"]
    want = run_rows(free, artifact.encoder().ids(texts), artifact.pad_id, "logits")
    for lengths, rows, dims in (([4, 8], None, [-1]), ([artifact.max_length], 2, [2, artifact.max_length])):
        out = tmp_path / f"bundle-{rows}"
        write_bundle(out, shaped(artifact, lengths, rows), Contents("tiny", choice, texts))
        predictor = Predictor(out)
        answers = [answer["scores"] for answer in predictor(texts)]
        np.testing.assert_allclose([list(a.values()) for a in answers], softmax(want), atol=1e-5)
        config = triton_config(read_manifest(out))
        assert f"dims: [ {', '.join(map(str, dims))} ]" in config
        assert ("dynamic_batching" in config, "max_batch_size: 0" in config) == (rows is None, rows is not None)
