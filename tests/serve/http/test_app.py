import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import GOOD
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import client_of
from starlette.testclient import TestClient

from paredown.compress.data import dataset
from paredown.export.predictor import Predictor
from paredown.serve.models.manager import ModelManager

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def bundle(finished: Path) -> Path:
    return finished / "bundle"


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    with client_of(bundle=bundle, body_bytes=100_000, text_bytes=1000, request_rows=64) as (client, _, _):
        yield client


def tensor(texts: list, **changes: object) -> dict:
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts} | changes]}


def test_metadata_health_and_index(client: TestClient) -> None:
    assert client.get("/v2/health/ready").json() == client.get("/health").json() == {"ready": True}
    assert client.get("/v2/health/live").json() == client.get("/healthz").json() == {"live": True}
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    assert client.post("/v2/repository/index").json() == [
        {"name": "tiny", "version": "1", "state": "READY", "reason": ""}
    ]
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        metadata = client.get(path).json()
        assert metadata["inputs"][0] == {"name": "text", "datatype": "BYTES", "shape": [-1]}
        assert metadata["labels"] == ["negative", "positive"]
        assert metadata["versions"] == ["1"]
        assert client.get(path + "/ready").json()["ready"] is True
    for path in (
        "/v2/models/other",
        "/v2/models/tiny/versions/2/ready",
        "/v2/models/tiny/versions/2",
        "/v2/models/tiny/versions/..%2f..",
        "/nowhere",
        "/v2/",
    ):
        missing = client.get(path, follow_redirects=False)
        assert missing.status_code == 404
        assert missing.json()["error"]
    assert client.post("/v2/health/live").status_code == 405


def test_metadata_has_what_the_page_shows(client: TestClient, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    metadata = client.get("/v2/models/tiny").json()
    assert metadata["metric"] == manifest["metric"]
    golden = [row["text"] for row in json.loads((bundle / manifest["golden"]).read_text())["rows"]]
    assert metadata["examples"] == [{"text": text} for text in golden[:4]]
    for body in metadata["examples"]:
        assert client.post("/predict", json=body).status_code == 200


def test_the_documentation_needs_no_network(client: TestClient) -> None:
    page = client.get("/docs")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "://" not in page.text
    assert 'new URL(".", location)' in page.text  # requests go where the page came from, behind a proxy's path too
    for path, kind in (("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css")):
        assert f'"docs/{path}"' in page.text
        file = client.get(f"/docs/{path}")
        assert file.headers["Content-Type"].startswith(kind)
        assert len(file.content) > 100_000
    assert client.get("/docs/redoc.standalone.js").status_code == 404  # no other file of the package


def test_inference_gives_the_bundles_answers_and_echoes_the_id(client: TestClient, bundle: Path) -> None:
    texts = ["a brilliant moving film", "dull awful weak"]
    predictor = Predictor(bundle, 1)
    want = predictor(texts)
    reply = client.post(INFER, json={"id": "7", **tensor(texts)}).json()
    assert reply["id"] == "7"
    label, scores, logits = reply["outputs"]
    assert label["data"] == [w["label"] for w in want]
    assert scores["shape"] == logits["shape"] == [2, 2]
    wanted = [w["scores"][name] for w in want for name in ("negative", "positive")]
    assert scores["data"] == pytest.approx(wanted, abs=0.02)  # INT8 rounds by the company in a batch
    batch = predictor.encoder.pad(predictor.encoder.ids(texts))
    ids = [
        {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.tolist()}
        for name, array in batch.items()
    ]
    by_ids = client.post(INFER, json={"inputs": ids, "outputs": [{"name": "scores"}]}).json()["outputs"]
    assert [output["name"] for output in by_ids] == ["scores"]
    assert by_ids[0]["data"] == pytest.approx(scores["data"], abs=0.02)
    without_mask = client.post(INFER, json={"inputs": ids[:1], "outputs": [{"name": "label"}]}).json()["outputs"]
    assert without_mask[0]["data"] == label["data"]


def test_predict_takes_a_text_or_several(client: TestClient, bundle: Path) -> None:
    one = client.post("/predict", json={"text": "dull awful weak"})
    assert one.json()["label"] == Predictor(bundle, 1)(["dull awful weak"])[0]["label"]
    assert "model;dur=" in one.headers["Server-Timing"]
    several = client.post(
        "/predict", json={"text": ["dull awful weak", "good"], "model": "tiny", "version": "1"}
    ).json()
    assert several["predictions"][0]["label"] == one.json()["label"]
    assert len(several["predictions"]) == 2
    best = client.post("/predict", json={"text": ["dull awful weak", "good"], "top_k": 1}).json()["predictions"]
    assert [list(answer["scores"]) for answer in best] == [[answer["label"]] for answer in several["predictions"]]
    for wrong in (0, -1, "many"):
        assert client.post("/predict", json={"text": "a", "top_k": wrong}).status_code == 400
    assert client.post("/predict", json={"text": "a", "model": "x"}).status_code == 404
    assert client.post("/predict", json={"text": ""}).status_code == 200


def ids(rows: list, **changes: object) -> dict:
    array = np.array(rows)
    return {"inputs": [{"name": "input_ids", "datatype": "INT64", "shape": list(array.shape), "data": rows} | changes]}


def masked(rows: list, mask: list) -> dict:
    other = ids(mask, name="attention_mask")["inputs"]
    return {"inputs": ids(rows)["inputs"] + other}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b"[" * 50_000, 400),
        (tensor(["a"], name="other"), 400),
        (tensor(["a"], datatype="FP32"), 400),
        (tensor(["a"], shape=[2]), 400),
        (tensor(["a"] * 4, shape=[2, 2]), 400),
        (tensor([1]), 400),
        (b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}', 400),
        (tensor(["a"]) | {"id": 7}, 400),
        (tensor(["a"]) | {"parameters": {"timeout": -1}}, 400),
        (tensor(["a"]) | {"parameters": {"timeout": 10**400}}, 400),
        (tensor(["a"]) | {"parameters": {"sequence_id": 3}}, 400),
        (tensor(["a"]) | {"parameters": {"priority": 1}}, 400),
        (tensor(["a"]) | {"outputs": [{"name": "secret"}]}, 400),
        (tensor([]), 400),
        (tensor(["a"] * 65), 413),
        (tensor(["é" * 501]), 413),
        (b"x" * 100_001, 413),
        (ids([[2, 10**6, 3]]), 400),
        (ids([[2, -1, 3]]), 400),
        (ids([[2] * 65]), 400),
        (ids([[0, 0]]), 400),
        (ids([2, 5, 3], shape=[3]), 400),
        (ids([[5]] * 65), 413),
        (masked([[2, 5, 3]], [[0, 1, 1]]), 400),
        (masked([[2, 5, 3]], [[1, 1]]), 400),
        (masked([[2, 5, 3]], [[1, 2, 0]]), 400),
    ],
)
def test_bad_requests_get_an_error_and_the_server_goes_on(client: TestClient, body: object, status: int) -> None:
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    reply = client.post(INFER, **given)  # type: ignore[arg-type]
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]
    assert client.post("/predict", json={"text": "a good film"}).status_code == 200


@settings(max_examples=40, deadline=None)
@given(st.integers() | st.integers(0, 4000).map(lambda digits: 10**digits), st.integers(0, 4))
def test_no_integer_breaks_the_server(client: TestClient, number: int, place: int) -> None:
    everywhere = [
        tensor(["a"]) | {"parameters": {"timeout": number}},
        tensor(["a"], parameters={"binary_data_size": number}),
        tensor(["a"], shape=[number]),
        ids([[number]]),
        masked([[2, 5]], [[1, number]]),
    ]
    assert client.post(INFER, json=everywhere[place]).status_code != 500


def test_packed_bodies_keep_the_limits(client: TestClient) -> None:
    def post(content: bytes, coding: str = "gzip") -> int:
        return client.post(INFER, content=content, headers={"Content-Encoding": coding}).status_code

    body = json.dumps(tensor(["good"])).encode()
    assert post(gzip.compress(body)) == 200
    assert post(gzip.compress(b" " * 10**7)) == 413
    assert post(gzip.compress(body)[:-9]) == 400
    assert post(body) == 400
    assert post(body, "br") == 415


def test_each_request_has_an_id_that_cannot_forge_a_line_of_log(client: TestClient) -> None:
    assert client.get("/v2", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    made = {client.get("/v2", headers={"X-Request-Id": 'a"b c'}).headers["X-Request-Id"] for _ in range(3)}
    assert [len(one) for one in made] == [16, 16, 16]


def test_another_sites_page_is_refused(client: TestClient) -> None:
    body = json.dumps({"text": "a"})
    assert client.post("/predict", content=body, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.post("/predict", content=body, headers={"Origin": "http://["}).status_code == 403
    own = {"Host": "localhost:8000", "Origin": "http://localhost:8000"}
    assert client.post("/predict", content=body, headers=own).status_code == 200
    led_here = {"Host": "evil.example", "Origin": "http://evil.example"}  # a name that was made to lead to this machine
    assert client.post("/predict", content=body, headers=led_here).status_code == 403


def test_metrics_count_what_happened(client: TestClient) -> None:
    client.post("/predict", json={"text": "good"})
    text = client.get("/metrics").text
    for name in ("requests_total", "batch_rows_bucket", "model_seconds_sum", "tokens_total", "queue_rows", "drift"):
        assert f"paredown_{name}{{" in text
    assert 'route="predict",status="200"' in text
    assert "nowhere" not in text  # a client cannot make new series


def test_drift_is_told_when_the_words_change(bundle: Path, files: dict[str, Path]) -> None:
    ordinary = list(dataset.read(str(files["validation"]), labelled=False).texts)
    strange = ["quux blorb zap " * 5] * 250
    with client_of(bundle=bundle, drift_rows=250) as (client, _, _):
        client.post("/predict", json={"text": ordinary})
        client.post("/predict", json={"text": ordinary[:50]})
        calm = client.get("/v2/models/tiny").json()["drift"]
        assert calm["rows"] == 250
        assert calm["alert"] == []
        for _ in range(2):
            client.post("/predict", json={"text": strange})
        alarmed = client.get("/v2/models/tiny").json()["drift"]
        assert {"length", "unknown_share", "vocabulary"} <= set(alarmed["alert"])
        assert 'paredown_drift_alert{model="tiny",version="1"} 1.0' in client.get("/metrics").text


def test_samples_can_be_learned_from(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=bundle, sample_file=file, sample_share=1, sample_mb=0.001) as (client, _, _):
        for text in [*GOOD, " "] * 4:
            client.post("/predict", json={"text": text})
    rows = dataset.read_unlabeled(str(file))
    assert set(rows.texts) <= set(GOOD)
    assert len(rows) > 3
    assert file.stat().st_size < 1300  # the limit, and one line over it
    assert file.stat().st_mode & 0o077 == 0


def test_a_key_is_asked_for_where_it_matters(bundle: Path) -> None:
    with client_of(bundle=bundle, api_key="s3cret") as (client, _, _):
        assert client.get("/v2/health/ready").status_code == client.get("/").status_code == 200
        for path in ("/v2", "/metrics", "/v2/models/tiny"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Authorization": "Bearer s3cret"}).status_code == 200
            assert client.get(path, headers={"Authorization": "bearer s3cret"}).status_code == 200
            assert client.get(path, headers={"X-API-Key": "s3cret"}).status_code == 200
            both = {"Authorization": "Basic x", "X-API-Key": "s3cret"}  # the one may be a proxy's
            assert client.get(path, headers=both).status_code == 200
            assert client.get(path, headers={"Authorization": "Basic s3cret"}).status_code == 401
            assert client.get(path, headers={"X-API-Key": "wrong"}).status_code == 401


def test_the_door_is_shut_while_draining_and_when_it_is_crowded(bundle: Path) -> None:
    with client_of(bundle=bundle, connections=1) as (client, _, in_flight):
        in_flight.by_kind["models"] = 1
        crowded = client.post("/predict", json={"text": "good"})
        assert crowded.status_code == 429
        assert int(crowded.headers["Retry-After"]) >= 1
        in_flight.by_kind["models"], in_flight.draining = 0, True
        reply = client.post("/predict", json={"text": "good"})
        assert reply.status_code == 503
        assert reply.headers["Connection"] == "close"
        for ready, live in (("/v2/health/ready", "/v2/health/live"), ("/health", "/healthz")):
            assert client.get(ready).json() == {"ready": False}
            assert client.get(live).status_code == 200


def test_a_bug_is_an_error_with_the_id_under_which_it_was_logged(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with client_of(bundle=bundle) as (client, models, _):
        assert isinstance(models, ModelManager)
        monkeypatch.setattr(models.served["tiny", "1"].model, "run", lambda rows: 1 / 0)
        reply = client.post("/predict", json={"text": "good"})
        assert reply.status_code == 500
        assert reply.headers["X-Request-Id"] in reply.json()["error"]


def test_a_local_server_answers_to_its_own_names(bundle: Path) -> None:
    """Another site's name may be made to lead here (DNS rebinding); a GET of its page has no Origin."""
    with client_of(bundle=bundle, allowed_host=("models.internal",)) as (client, _, _):
        for host in (
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "[::2]",
            "",
            "localhost@evil",
            "[",
            "x:y",
        ):
            for path in ("/metrics", "/v2", "/", "/v2/health/ready"):
                reply = client.get(path, headers={"Host": host})
                assert reply.status_code == 403, (host, path)
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "models.internal", "localhost."):
            assert client.get("/metrics", headers={"Host": host}).status_code == 200, host
    for other in ({"api_key": "k"}, {"host": "0.0.0.0"}):  # who asks has a key, or the name is not known here
        with client_of(bundle=bundle, **other) as (client, _, _):
            reply = client.get("/metrics", headers={"Host": "proxy.example", "X-API-Key": "k"})
            assert reply.status_code == 200


def test_who_has_no_key_takes_no_place_of_those_who_have(bundle: Path) -> None:
    with client_of(bundle=bundle, connections=8, api_key="k") as (client, _, in_flight):
        in_flight.by_kind["open"] = 2
        assert client.get("/openapi.json").status_code == 429
        assert client.get("/", headers={"X-API-Key": "k"}).status_code == 429
        assert client.post("/predict", json={"text": "a"}).status_code == 429
        assert client.get("/v2/health/ready").status_code == client.get("/health").status_code == 200
        assert client.post("/predict", json={"text": "a"}, headers={"X-API-Key": "k"}).status_code == 200
        in_flight.by_kind["open"] = 0
        assert client.get("/openapi.json").status_code == 200
        assert in_flight.by_kind == {"health": 0, "open": 0, "models": 0}


def test_the_document_is_made_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.get("/openapi.json")
    monkeypatch.setattr("paredown.serve.http.app.document", lambda operations: 1 / 0)
    assert client.get("/openapi.json").content == first.content
    assert client.get("/").headers["Content-Type"].startswith("text/html")
    assert client.head("/").content == b""
