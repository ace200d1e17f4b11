"""The OpenAPI document, made from the table of routes and the pydantic models of their bodies."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from starlette.requests import Request
from starlette.responses import Response

from .schemas import Error

JSON, BINARY = "application/json", "application/octet-stream"
ERRORS = {
    400: "the request is wrong; the message says where",
    401: "an API key is needed",
    403: "refused: another site's page, or a server that others reach too",
    404: "no such model or version",
    408: "the request came too slowly",
    413: "the request, or a text or image of it, is too large",
    415: "a Content-Encoding that is not supported",
    429: "overloaded",
    431: "the head of the request is too large",
    500: "the server failed",
    503: "not ready, or shutting down",
    504: "no answer before the deadline",
}
GET_ERRORS = (401, 403, 429, 431, 500, 503)
Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Operation(Generic[Owner]):
    """A route: its path and method, the endpoint that answers, and the types of its bodies."""

    method: Literal["GET", "POST"]
    path: str
    endpoint: Callable[[Owner, Request], Awaitable[Response]]
    summary: str
    response: Any  # any type that pydantic knows, of status 200
    request: Any = None
    media_type: str = JSON  # of the response
    body_required: bool = True
    not_found: bool = False  # 404 for an unknown model
    not_ready: Any = None  # the body of 503, beside an error
    binary: bool = False  # Triton's binary tensors are another form of both bodies
    public: bool = False  # needs no API key

    @property
    def errors(self) -> list[int]:
        """Status codes with an `Error` as the body."""
        if self.method == "POST":
            return sorted(ERRORS)
        return sorted([*GET_ERRORS, 404] if self.not_found else GET_ERRORS)


def document(operations: Sequence[Operation[Any]]) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes."""
    bodies: list[tuple[Any, JsonSchemaMode, TypeAdapter]] = [("error", "serialization", TypeAdapter(Error))]
    for number, operation in enumerate(operations):
        bodies.append(((number, "response"), "serialization", TypeAdapter(operation.response)))
        if operation.request is not None:
            bodies.append(((number, "request"), "validation", TypeAdapter(operation.request)))
        if operation.not_ready is not None:
            either: Any = operation.not_ready | Error
            bodies.append(((number, "not_ready"), "serialization", TypeAdapter(either)))
    found, definitions = TypeAdapter.json_schemas(bodies, ref_template="#/components/schemas/{model}")
    schemas = {key: schema for (key, _), schema in found.items()}
    paths: dict[str, dict[str, Any]] = {}
    for number, operation in enumerate(operations):
        own = {part: schemas.get((number, part)) for part in ("request", "response", "not_ready")}
        names = re.findall(r"{(\w+)}", operation.path)
        path = paths.setdefault(operation.path, {"parameters": [_in_path(name) for name in names]} if names else {})
        path[operation.method.lower()] = _operation(operation, own, schemas["error"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "paredown", "version": "1", "description": "A bundle behind the Open Inference Protocol v2."},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"header": []}],
    }


def _operation(operation: Operation[Any], own: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI operation object. `own`: the schemas of the request, the response and a 503."""
    responses = {"200": {"description": "OK", "content": {operation.media_type: {"schema": own["response"]}}}}
    for status in operation.errors:
        schema = own["not_ready"] if status == 503 and own["not_ready"] else error
        responses[str(status)] = {"description": ERRORS[status], "content": {JSON: {"schema": schema}}}
    if 429 in operation.errors:
        after = {"description": "seconds", "required": True, "schema": {"type": "integer"}}
        responses["429"]["headers"] = {"Retry-After": after}
    found: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    if own["request"] is not None:
        content = {JSON: {"schema": own["request"]}}
        found["requestBody"] = {"required": operation.body_required, "content": content}
        if operation.binary:
            content[BINARY] = {}
    if operation.binary:
        responses["200"]["content"][BINARY] = {}
    if operation.public:
        found["security"] = []
    return found


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
