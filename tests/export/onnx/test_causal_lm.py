"""A decoder's graph: it scores and goes on as its checkpoint does, in every runtime and precision."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import PROSE as TASK
from conftest import make_checkpoint

from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, save
from paredown.compress.models.structure import cut
from paredown.export.artifact import Artifact
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows
from paredown.runtime.session import CannotRunHere

ROWS = [[2, 5, 11, 20, 3], [2, 6, 3], [2, *range(4, 24), 3], [2, 9, 9, 3]]


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(checkpoint with uneven layers where they can be pruned, its plain graph)."""
    path = tmp_path_factory.mktemp(request.param)
    checkpoint = make_checkpoint(path / "whole", request.param)
    if request.param != "gpt2":
        model = load(checkpoint, TASK)
        cut(model, [np.arange(4)] * 3, [np.arange(10), np.arange(64), np.arange(40)])
        checkpoint = save(model, checkpoint, path / "cut")
    return checkpoint, plain_onnx(checkpoint, TASK, path / "plain.onnx")


def opened(artifact: Artifact) -> Decoder:
    session = open_artifact(artifact, 1)
    assert isinstance(session, Decoder)
    return session


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_it_says_and_writes_what_transformers_does(made, runtime: str, tmp_path: Path) -> None:
    checkpoint, plain = made
    model = load(checkpoint, TASK)
    want = run_rows(partial(forward, model), ROWS, 0, TASK.output)
    for precision in RUNTIMES[runtime].precisions(TASK):
        artifact = RUNTIMES[runtime].export(ExportJob(plain, checkpoint, TASK, tmp_path / precision, 32, precision))
        try:
            session = opened(artifact)
        except CannotRunHere:
            continue
        found = run_rows(session, ROWS, 0, TASK.output, batch_size=2)
        loose = {"fp32": 1e-5, "bf16": 0.05}.get(precision, 0.1)
        np.testing.assert_allclose(found[:, 0], want[:, 0], atol=loose)
        last = sum(map(len, ROWS[:2])), sum(map(len, ROWS[:3]))
        np.testing.assert_allclose(session.through_the_cache(ROWS[2])[:, 0], found[slice(*last), 0], atol=loose)
        if precision != "fp32":
            assert artifact.size_mb() < 1
            continue
        prompts = [[2, 5, 11], [2, 6, 7, 8, 9], [2]]
        for prompt, new in zip(prompts, session.continued(prompts, 6), strict=True):
            with torch.inference_mode():
                wrote = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, len(prompt) :]
            wrote = [token for token in wrote.tolist() if token != 3]
            assert new[new >= 0].tolist() == wrote


def test_weights_alone_are_quantised_and_named_so(made, tmp_path: Path) -> None:
    checkpoint, plain = made
    for bits in (8, 4):
        artifact = RUNTIMES["onnxruntime"].export(
            ExportJob(plain, checkpoint, TASK, tmp_path / str(bits), 32, f"int{bits}-weight")
        )
        kinds = [node.op_type for node in onnx.load(artifact.path / "model.onnx").graph.node]
        count = {"gpt2": 4 * 3 + 1}.get(checkpoint.config["model_type"], 7 * 3 + 1)  # each matrix, and the head
        assert kinds.count("MatMulNBits") == artifact.details["quantised_products"] == count
        assert "Gemm" not in kinds


def test_a_text_ends_where_it_ends(made, tmp_path: Path) -> None:
    """The end token is taken off a prompt; rows of one call get what each gets alone."""
    checkpoint, plain = made
    session = opened(RUNTIMES["onnxruntime"].export(ExportJob(plain, checkpoint, TASK, tmp_path / "out", 32)))
    alone = [session.continued([row])[0] for row in ROWS]
    np.testing.assert_array_equal(session.continued(ROWS), alone)
    np.testing.assert_array_equal(session.continued([row[:-1] for row in ROWS]), alone)
    assert session.continued([[]]).shape == (1, session.most)


def test_there_is_room_for_what_is_written(made) -> None:
    checkpoint, _ = made
    assert checkpoint.generation["ends"] == [3]
    for asked, most in ((None, 32), (500, 32), (5, 5)):
        assert replace(checkpoint, max_new_tokens=asked).generation["max_new_tokens"] == most


def test_what_a_decoder_is_not_made_for(tmp_path: Path) -> None:
    assert all(r.precisions(TASK) == () for r in RUNTIMES.values() if r.SPEC.gpu)
    assert "int8-static" not in RUNTIMES["openvino"].precisions(TASK)
    assert set(RUNTIMES["pytorch"].precisions(TASK)) == set(RUNTIMES["pytorch"].SPEC.all_precisions)
    windowed = make_checkpoint(tmp_path, "qwen2")
    windowed.config["layer_types"] = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(InputError, match="a window of the text"):
        plain_onnx(windowed, TASK, tmp_path / "plain.onnx")
    windowed.config["model_type"] = "mistral"
    with pytest.raises(InputError, match=r"'mistral' model.*llama, qwen2, gpt2"):
        plain_onnx(windowed, TASK, tmp_path / "plain.onnx")
