"""The OpenAPI document: the schemas are those of the models that check the requests."""

from __future__ import annotations

from typing import Any

from .protocol_v2 import NUMPY, InferRequest

JSON = "application/json"
ERRORS = {
    "400": "the request is wrong; the message says where",
    "401": "an API key is needed",
    "403": "refused: another site's page, or a server that others reach too",
    "404": "no such model or version",
    "408": "the request came too slowly",
    "413": "the request, or a text or image of it, is too large",
    "415": "a Content-Encoding that is not taken",
    "429": "overloaded; Retry-After says when to come back",
    "431": "the head of the request is too large",
    "500": "the server failed",
    "503": "not ready, or shutting down",
    "504": "no answer before the deadline",
}
STRING, INTEGER, OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}
SHAPE = {"type": "array", "items": {"type": "integer"}}
CLASSIFIED = {
    "type": "object",
    "required": ["label", "score", "scores"],
    "properties": {
        "label": STRING,
        "score": {"type": "number"},
        "scores": {"type": "object", "additionalProperties": {"type": "number"}},
        "model": STRING,
        "version": STRING,
    },
}


def document() -> dict[str, Any]:
    """OpenAPI 3.1, for GET /openapi.json."""
    from .schemas import Predict, Switch

    entity = _object(label=STRING, text=STRING, start=INTEGER, end=INTEGER, score={"type": "number"})
    several = _object(labels=_list(STRING), scores=CLASSIFIED["properties"]["scores"])
    number, tagged = _object(value={"type": "number"}), _object(entities=_list(entity))
    answered = _object(answer=STRING, start=INTEGER, end=INTEGER, score={"type": "number"})
    embedded = _object(embedding=_list({"type": "number"}))
    written = _object(text=STRING)
    for kind in (several, number, tagged, answered, embedded, written):
        kind["properties"] |= {"model": STRING, "version": STRING}
    prediction = {"anyOf": [CLASSIFIED, several, number, tagged, answered, embedded, written]}
    schemas: dict[str, Any] = {"Error": _object(error=STRING), "Prediction": prediction}
    for kind in (InferRequest, Predict, Switch):
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
    tensor = _object(name=STRING, datatype={"enum": [*NUMPY, "BYTES"]}, shape=SHAPE)
    tensor["properties"] |= {"data": {"type": "array"}, "parameters": OBJECT}
    about = {
        "name": STRING,
        "versions": _list(STRING),
        "platform": STRING,
        "inputs": _list(OBJECT),
        "outputs": _list(OBJECT),
    }
    answer = _object(model_name=STRING, model_version=STRING, outputs=_list(tensor))
    answer["properties"]["id"] = STRING
    row = _object(name=STRING, version=STRING, state=STRING, reason=STRING)
    many = _object(predictions=_list(_ref("Prediction")))
    text = {"200": {"description": "text", "content": {"text/plain": {"schema": STRING}}}}
    wanted = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    predicted = {"anyOf": [_ref("Prediction"), many]}
    get: dict[str, Any] = {
        "/v2": _get("What this server is", _object(name=STRING, version=STRING, extensions=_list(STRING))),
        "/v2/health/live": _get("Is it alive?", _object(live={"type": "boolean"})),
        "/v2/health/ready": _get("May requests be sent?", _object(ready={"type": "boolean"}), 503),
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": text | _errors(401, 403, 429, 431, 503)}},
        "/v2/repository/index": _post("Models and their state", _list(row), wanted),
        "/predict": _post(
            "A text or an image, or several: labels, a number, a vector, entities, an answer, a text or more of it",
            predicted,
            _ref("Predict"),
        ),
    }
    for action in ("load", "unload"):
        path = f"/v2/repository/models/{{model}}/{action}"
        get[path] = _post(f"{action} a model", OBJECT, _ref("Switch")) | _parameters("model")
    for base, names in (
        ("/v2/models/{model}", ["model"]),
        ("/v2/models/{model}/versions/{version}", ["model", "version"]),
    ):
        where = _parameters(*names)
        get[base] = _get("Inputs, outputs, labels, drift", _object(**about), 404, 503) | where
        get[base + "/ready"] = (
            _get("May it be asked?", _object(name=STRING, ready={"type": "boolean"}), 404, 503) | where
        )
        get[base + "/infer"] = (
            _post("Open Inference Protocol v2; also Triton's binary tensors", answer, _ref("InferRequest")) | where
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "paredown", "version": "1", "description": "A bundle behind the Open Inference Protocol v2."},
        "paths": get,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {JSON: {"schema": schema}}}


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(s): {"description": ERRORS[str(s)], **_content(_ref("Error"))} for s in statuses}


def _get(summary: str, schema: dict[str, Any], *statuses: int) -> dict[str, Any]:
    responses = {"200": {"description": "OK", **_content(schema)}, **_errors(401, 403, 429, 431, 503)}
    if 503 in statuses and "ready" in schema["properties"]:
        responses["503"] = {"description": "not ready", **_content({"anyOf": [schema, _ref("Error")]})}
    return {"get": {"summary": summary, "responses": responses | _errors(*(s for s in statuses if s != 503))}}


def _post(summary: str, schema: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    responses = {"200": {"description": "OK", **_content(schema)}, **_errors(*map(int, ERRORS))}
    return {"post": {"summary": summary, "requestBody": {"required": True, **_content(body)}, "responses": responses}}


def _parameters(*names: str) -> dict[str, Any]:
    return {"parameters": [{"name": n, "in": "path", "required": True, "schema": STRING} for n in names]}
