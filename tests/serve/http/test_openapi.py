import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import app_of, client_of

from paredown.serve.errors import HTTPError
from paredown.serve.http.app import OPERATIONS, openapi_document
from paredown.serve.http.openapi import JSON, Operation
from paredown.serve.http.protocol_v2 import decode
from paredown.serve.http.schemas import InferRequest, Prediction, parse

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TEXT = "a lovely film"
DOCUMENT = json.loads(openapi_document())
REQUESTS = {operation.request.__name__: operation.request for operation in OPERATIONS if operation.request}
schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def url(finished: Path) -> Iterator[str]:
    """The application on a real socket: schemathesis brings its own client."""
    app, _, _ = app_of(bundle=finished / "bundle", body_bytes=20_000)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@schema.parametrize()
@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=cast(list[HealthCheck], list(HealthCheck)),
)
def test_nothing_that_the_document_allows_breaks_the_server(case: schemathesis.Case, url: str) -> None:
    if case.path_parameters and "model" in case.path_parameters and len(str(case.path_parameters["model"])) % 2:
        case.path_parameters["model"] = "tiny"  # else it would nearly always be 404
    if "/repository/models/" in case.path:
        case.path_parameters["model"] = "none"  # the others want it as it is
    response = case.call(base_url=url)
    case.validate_response(response, checks=CHECKS)


def test_routes_of_the_application_and_of_the_document_are_the_same(finished: Path) -> None:
    with client_of(bundle=finished / "bundle", load="none") as (client, _, _):
        routes = {(route.path, method) for route in client.app.routes for method in route.methods}  # type: ignore[attr-defined]
        assert client.get("/openapi.json").json() == DOCUMENT
    listed = {
        (path, method.upper()) for path, item in DOCUMENT["paths"].items() for method in item if method != "parameters"
    }
    assert listed == {route for route in routes if route[1] != "HEAD"}
    assert {(o.path, o.method) for o in OPERATIONS} == listed


def test_schemas_are_valid_and_every_reference_leads_somewhere() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    schemas = DOCUMENT["components"]["schemas"]
    for part in schemas.values():
        jsonschema.Draft202012Validator.check_schema(part)
    references = set(re.findall(r'"\$ref":"#/components/schemas/(\w+)"', openapi_document().decode()))
    assert references == schemas.keys()  # none is missing, none is unused
    for operation in OPERATIONS:
        responses = DOCUMENT["paths"][operation.path][operation.method.lower()]["responses"]
        assert responses.keys() == {"200", *map(str, operation.errors)}
        assert all(responses[str(status)]["content"][JSON]["schema"] for status in operation.errors)


def test_paths_that_need_no_key_are_listed_so(finished: Path) -> None:
    with client_of(bundle=finished / "bundle", load="none", api_key="k") as (client, _, _):
        for operation in OPERATIONS:
            path = operation.path.format(model="tiny", version="1")
            answer = client.request(operation.method, path)
            assert (answer.status_code == 401) == (not operation.public), path
            listed = DOCUMENT["paths"][operation.path][operation.method.lower()]
            assert (listed.get("security") == []) == operation.public


def test_responses_hold_what_the_document_lists_and_nothing_else(finished: Path) -> None:
    """Models ignore unknown keys: what they give back has to be what came."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    bodies: dict[str, list[dict]] = {
        "/predict": [{"text": TEXT}, {"text": [TEXT, "b"]}],
        "infer": [{"inputs": [tensor]}, {"inputs": [tensor], "id": "7", "outputs": [{"name": "scores"}]}],
    }
    with client_of(bundle=finished / "bundle") as (client, _, _):

        def check(operation: Operation, body: dict | None) -> None:
            answer = client.request(operation.method, operation.path.format(model="tiny", version="1"), json=body)
            assert answer.status_code == 200, answer.text
            if operation.media_type == JSON:
                adapter: TypeAdapter[Any] = TypeAdapter(operation.response)
                found = adapter.validate_json(answer.content)
                assert adapter.dump_python(found, mode="json", exclude_unset=True) == answer.json()
            else:
                assert answer.headers["Content-Type"].startswith(operation.media_type)

        for operation in sorted(OPERATIONS, key=lambda o: o.path.endswith("unload")):
            for body in bodies.get(operation.path) or bodies.get(operation.path.rpartition("/")[2]) or [None]:
                check(operation, body)


@pytest.mark.parametrize(
    "answer",
    [
        {"label": "a", "score": 0.9, "scores": {"a": 0.9, "b": 0.1}},
        {"labels": ["a"], "scores": {"a": 0.9, "b": 0.1}},
        {"value": 1.5},
        {"entities": [{"label": "PER", "text": "A", "start": 0, "end": 1, "score": 0.9}]},
        {"answer": "A", "start": 0, "end": 1, "score": 0.9},
        {"embedding": [0.5, -0.5]},
        {"text": "a text"},
    ],
)
def test_each_kind_of_answer_has_its_schema(answer: dict) -> None:
    """Those of `Predictor.__call__`, alone and with the model's name."""
    for given_answer in (answer, {**answer, "model": "m", "version": "1"}):
        assert Prediction.model_validate(given_answer).model_dump(exclude_unset=True) == given_answer


# What the schemas allow and what the parser accepts are the same.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**33) | st.floats(0.1, 0.9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def field(valid: st.SearchStrategy) -> st.SearchStrategy:
    """A value that is right five times in six."""
    return st.integers(0, 5).flatmap(lambda n: valid if n else ANYTHING)


def record(required: dict[str, st.SearchStrategy], optional: dict[str, st.SearchStrategy]) -> st.SearchStrategy:
    """An object, a required key of which may be missing, and that may have a key that is unknown."""
    right = {name: field(value) for name, value in required.items()}
    others = {name: field(value) for name, value in (optional | {"unknown": ANYTHING}).items()}
    missing = st.integers(0, 9)
    return missing.flatmap(
        lambda n: (
            st.fixed_dictionaries({}, optional=right | others)
            if n == 0
            else st.fixed_dictionaries(right, optional=others)
        )
    )


PARAMETERS = st.none() | st.dictionaries(st.text(max_size=3), ANYTHING, max_size=2)
NAMES = st.sampled_from(["a", "b"])
SHAPES = st.lists(st.integers(0, 3), max_size=3) | st.just([1])
INPUTS = record(
    {"name": NAMES, "shape": SHAPES, "datatype": st.sampled_from(["BYTES", "INT64", "FP32", "BOOL"])},
    {"parameters": PARAMETERS, "data": st.none() | st.just(["a"]) | st.just([1]) | st.lists(ANYTHING, max_size=3)},
)
TEXTS = st.none() | st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2)
NAMED = st.none() | st.text(max_size=3)
BODIES = {
    "InferRequest": record(
        {"inputs": st.lists(INPUTS, max_size=2)},
        {
            "id": NAMED,
            "parameters": PARAMETERS,
            "outputs": st.none() | st.lists(record({"name": NAMES}, {}), max_size=2),
        },
    ),
    "PredictRequest": record({}, {"text": TEXTS, "image": TEXTS, "text_pair": TEXTS, "model": NAMED, "version": NAMED}),
    "IndexRequest": record({}, {"ready": st.booleans()}),
    "LoadRequest": record({}, {"parameters": PARAMETERS}),
}


def accepts(name: str, body: object) -> bool:
    try:
        parse(REQUESTS[name], json.dumps(body).encode())
    except HTTPError:
        return False
    return True


def allowed(name: str, body: Any) -> bool:
    rules = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema.Draft202012Validator(rules).is_valid(body)


@pytest.mark.parametrize("name", sorted(REQUESTS))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_parser_accepts_what_the_schema_allows(name: str, data: st.DataObject) -> None:
    body = data.draw(BODIES[name] | ANYTHING)
    assert accepts(name, body) == allowed(name, body)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BODIES["InferRequest"])
def test_what_is_decoded_is_allowed_by_the_schema(body: dict) -> None:
    """The other way round is not so: that data fits its shape is no rule of a schema."""
    try:
        request, values = decode(json.dumps(body).encode(), None)
    except HTTPError:
        return
    assert allowed("InferRequest", body)
    assert isinstance(request, InferRequest)
    assert values.keys() == {tensor["name"] for tensor in body["inputs"]}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("PredictRequest", {}),
        ("PredictRequest", {"text": "a", "image": "b"}),
        ("PredictRequest", {"text": None, "image": None}),
        ("IndexRequest", {"ready": "yes"}),
        ("InferRequest", {"inputs": []}),
        ("InferRequest", {"inputs": [{"name": "a", "shape": [True], "datatype": "BYTES"}]}),
        ("InferRequest", {"inputs": [{"name": "a", "shape": [1], "datatype": "TEXT"}]}),
        ("InferRequest", {"inputs": [{"name": "a", "shape": [2**31], "datatype": "BYTES"}]}),
        ("LoadRequest", {"parameters": []}),
    ],
)
def test_neither_takes_these(name: str, body: dict) -> None:
    assert not accepts(name, body)
    assert not allowed(name, body)
