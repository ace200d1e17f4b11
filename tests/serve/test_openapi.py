from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from paredown.serve.openapi import document
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import client_of
from starlette.testclient import TestClient

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def client(finished: Path) -> Iterator[TestClient]:
    with client_of(bundle=finished / "bundle", body_bytes=20_000) as (client, _, _):
        yield client


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_nothing_that_the_document_allows_breaks_the_server(case: schemathesis.Case, client: TestClient) -> None:
    if case.path_parameters and "model" in case.path_parameters and len(str(case.path_parameters["model"])) % 2:
        case.path_parameters["model"] = "tiny"  # else it would nearly always be 404
    if "/repository/models/" in case.path:
        case.path_parameters["model"] = "none"  # the others want it as it is
    response = case.call(session=client, base_url="http://testserver")
    case.validate_response(response, checks=CHECKS)


def test_every_route_is_in_the_document(client: TestClient) -> None:
    app = client.app
    routes = {route.path for route in app.routes}  # type: ignore[attr-defined]
    assert set(document()["paths"]) == routes - {"/", "/openapi.json"}
    assert client.get("/openapi.json").json() == document()
