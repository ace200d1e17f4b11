from pathlib import Path

import pytest
from paredown.export.predict import Predictor
from paredown.serve.app import BODY_LIMIT, ROWS_LIMIT, create_app
from starlette.testclient import TestClient


@pytest.fixture(scope="module")
def client(finished: Path) -> TestClient:
    return TestClient(create_app(Predictor(finished / "bundle")))


def tensor(texts: list, **changes: object) -> dict:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts} | changes]}


def test_metadata_health_and_index(client: TestClient) -> None:
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.post("/v2/repository/index").json()[0]["name"] == "tiny"
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        metadata = client.get(path).json()
        assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
        assert client.get(path + "/ready").json()["ready"] is True
    missing = client.get("/v2/models/other")
    assert missing.status_code == 404
    assert "tiny" in missing.json()["error"]
    assert client.get("/nowhere").json()["error"]


def test_inference_gives_the_bundles_answers_and_echoes_the_id(client: TestClient, finished: Path) -> None:
    texts = ["a brilliant moving film", "dull awful weak"]
    want = Predictor(finished / "bundle")(texts)
    reply = client.post("/v2/models/tiny/infer", json={"id": "7", **tensor(texts)}).json()
    assert reply["id"] == "7"
    label, scores = reply["outputs"]
    assert label["data"] == [w["label"] for w in want]
    assert scores["shape"] == [2, 2]
    assert scores["data"] == pytest.approx([w["scores"][name] for w in want for name in ("negative", "positive")])
    assert client.post("/predict", json={"text": texts[1]}).json()["label"] == want[1]["label"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b"[" * 100_000, 400),
        (tensor(["a"], name="other"), 400),
        (tensor(["a"], datatype="FP32"), 400),
        (tensor(["a"], shape=[2]), 400),
        (tensor([1]), 400),
        (b'{"text": NaN}', 400),
        (b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}', 400),
        (tensor(["a"]) | {"id": 7}, 400),
        (tensor([]), 400),
        (tensor(["a"] * (ROWS_LIMIT + 1)), 413),
        (b"x" * (BODY_LIMIT + 1), 413),
    ],
)
def test_bad_requests_get_an_error_and_the_server_goes_on(client: TestClient, body: object, status: int) -> None:
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    reply = client.post("/v2/models/tiny/infer", **given)  # type: ignore[arg-type]
    assert reply.status_code == status
    assert reply.json()["error"]
    assert client.post("/predict", json={"text": "a good film"}).status_code == 200
