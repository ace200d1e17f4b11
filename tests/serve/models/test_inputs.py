"""Rows of images in requests; those of texts are in ../http/test_app.py."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundling import bundled
from conftest import make_checkpoint, task_of
from picturing import picture
from serving import client_of
from starlette.testclient import TestClient

from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.images import uri


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    picture(20, 30, seed=1).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, image: bytes) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("vit")
    checkpoint, task = make_checkpoint(folder / "checkpoint", "vit", layers=1), task_of("vit")
    plain = plain_onnx(checkpoint, task, folder / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, checkpoint, task, folder / "made", 64))
    bundle = bundled(artifact, folder / "bundle", [uri(image), uri(image)])
    with client_of(bundle=bundle, image_bytes=len(image), image_pixels=600, request_rows=3) as (client, models, _):
        client.headers["X-Model"] = min(models.found)
        yield client


def infer(client: TestClient, name: str, datatype: str, shape: list[int], data: list) -> tuple[int, dict]:
    body = {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}
    answer = client.post(f"/v2/models/{client.headers['X-Model']}/infer", json=body)
    return answer.status_code, answer.json()


def test_an_image_and_its_pixels_get_one_answer(client: TestClient, image: bytes) -> None:
    metadata = client.get(f"/v2/models/{client.headers['X-Model']}").json()
    file, pixels = metadata["inputs"]
    assert (file["name"], file["datatype"], file["shape"]) == ("image", "BYTES", [-1])
    assert (pixels["name"], pixels["datatype"], pixels["shape"][0]) == ("pixel_values", "FP32", -1)
    one = client.post("/predict", json={"image": uri(image)}).json()
    assert one == client.post("/predict", json={"image": base64.b64encode(image).decode()}).json()
    status, found = infer(client, "image", "BYTES", [1], [uri(image)])
    assert status == 200
    assert found["outputs"][0]["data"] == [one["label"]]
    shape = [2, *pixels["shape"][1:]]
    status, found = infer(client, "pixel_values", "FP32", shape, [0.5] * int(np.prod(shape)))
    assert status == 200
    assert len(found["outputs"][0]["data"]) == 2


def test_what_is_no_image_of_this_model_is_refused(client: TestClient, image: bytes) -> None:
    broken = base64.b64encode(image[:-30]).decode()
    large = io.BytesIO()
    picture(40, 30, seed=1).save(large, "PNG", compress_level=9)
    cases = [
        ({"text": "a"}, 400, "reads images; give image"),
        ({"image": "no base64"}, 400, "image: not base64"),
        ({"image": base64.b64encode(b"a text").decode()}, 400, "image: not an image"),
        ({"image": broken}, 400, "image: a broken image"),
        ({"image": []}, 400, "at least one row"),
        ({"image": [uri(image)] * 4}, 413, "4 rows in one request"),
        ({"image": "A" * (2 * len(image) + 104)}, 413, "at most"),
        ({"image": base64.b64encode(large.getvalue()).decode()}, 413, "at most"),
    ]
    for body, status, words in cases:
        answer = client.post("/predict", json=body)
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    for tensor, words in (
        (("text", "BYTES", [1], ["a"]), "either 'image' (BYTES of shape [rows])"),
        (("pixel_values", "FP32", [1, 3], [0.5] * 3), "or 'pixel_values' (FP32"),
        (("image", "INT64", [1], [1]), "either 'image'"),
    ):
        status, answer = infer(client, *tensor)
        assert status == 400
        assert words in answer["error"]


def test_a_text_model_takes_no_image(finished: Path, image: bytes) -> None:
    with client_of(bundle=finished / "bundle") as (client, _, _):
        answer = client.post("/predict", json={"image": uri(image)})
    assert answer.status_code == 400
    assert answer.json() == {"error": "image: 'tiny' reads text; give text"}
