import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import app_of, client_of

from paredown.serve.http.openapi import document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
schema = schemathesis.openapi.from_dict(document())


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


def test_every_route_is_in_the_document(finished: Path) -> None:
    with client_of(bundle=finished / "bundle", load="none") as (client, _, _):
        routes = {route.path for route in client.app.routes}  # type: ignore[attr-defined]
        assert set(document()["paths"]) == routes - {"/", "/openapi.json"}
        assert client.get("/openapi.json").json() == document()
