"""Many requests of unlike lengths at once: each gets the answer that it gets alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from bundling import bundled
from conftest import FILLER, GOOD, LABELS, make_checkpoint, task_of
from picturing import picture
from serving import Running, starting

from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.tasks.parsing import image_of

WORDS = [*GOOD, *FILLER]
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, size=1 + (7 * i) % 55)) for i in range(150)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Data URIs of images of unlike sizes."""
    folder, found = tmp_path_factory.mktemp("images"), []
    for i in range(30):
        picture(10 + i, 40 - i, seed=i).save(folder / f"{i}.png")
        found.append(image_of(f"{i}.png", folder, "test"))
    return found


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("deberta-v2", "onnxruntime"), ("deberta-v2", "openvino"), ("modernbert", "onnxruntime"),
        ("bert", "onnxruntime"), ("vit", "onnxruntime"),
    ],
)  # fmt: skip
def test_fifty_at_once_are_answered_as_one_is(kind: str, runtime: str, images: list[str], tmp_path: Path) -> None:
    checkpoint, task = make_checkpoint(tmp_path / "checkpoint", kind, layers=2), task_of(kind)
    plain = plain_onnx(checkpoint, task, tmp_path / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(plain, checkpoint, task, tmp_path / "made", 64))
    rows, key = (images * 5, "image") if kind == "vit" else (TEXTS, "text")
    bundle = bundled(artifact, tmp_path / "bundle", rows[:2])

    def ask(server: Running, row: str) -> list[float]:
        status, answer = server.ask("/predict", {key: row})
        assert status == 200, answer
        return [json.loads(answer)["scores"][label] for label in LABELS]

    with starting(tmp_path) as start:
        server = start(bundle, "--threads", 1)
        alone = np.array([ask(server, row) for row in rows])
        with ThreadPoolExecutor(50) as pool:
            together = np.array(list(pool.map(lambda row: ask(server, row), rows)))
        assert server.stop() == 0
    assert len(np.unique(alone.round(6), axis=0)) > 10  # they are not one answer to everything
    np.testing.assert_allclose(together, alone, atol=1e-5)
