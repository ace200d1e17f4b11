"""A bundle behind HTTP: the Open Inference Protocol v2 in JSON, and a friendly POST /predict. Never torch.

One request is one call of the model, off the event loop, one at a time: the session already uses every core.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from ..export.errors import InputError, missing_extra

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ImportError as error:
    raise missing_extra(error.name or "starlette", "serve") from None

from ..export.archive import unpacked
from ..export.predict import Predictor, is_text

BODY_LIMIT = 1_000_000  # bytes of one request
ROWS_LIMIT = 256  # texts in one request


class Refused(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def serve(bundle: Path, host: str, port: int) -> None:
    """Verify the bundle, then serve it until SIGTERM or SIGINT."""
    with unpacked(bundle) as path:
        predictor = Predictor(path)
        if not 0 <= port < 65536:
            raise InputError(f"--port {port}: between 0 and 65535")
        uvicorn.run(create_app(predictor), host=host, port=port, log_level="info")


def create_app(predictor: Predictor) -> Starlette:
    """The ASGI application of one bundle."""
    name, version = predictor.manifest["name"], predictor.manifest["version"]
    one_at_a_time = threading.Lock()

    def answer(texts: list[str]) -> list[dict]:
        with one_at_a_time:
            return predictor(texts)

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"live": True, "ready": True})

    async def server(request: Request) -> JSONResponse:
        return JSONResponse({"name": "paredown", "version": predictor.manifest["tool"]["paredown"], "extensions": []})

    async def index(request: Request) -> JSONResponse:
        return JSONResponse([{"name": name, "version": version, "state": "READY"}])

    async def metadata(request: Request) -> JSONResponse:
        check_model(request)
        return JSONResponse(
            {
                "name": name,
                "versions": [version],
                "platform": f"paredown_{predictor.manifest['runtime']}",
                "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                "outputs": [
                    {"name": "label", "datatype": "BYTES", "shape": [-1]},
                    {"name": "scores", "datatype": "FP32", "shape": [-1, len(predictor.labels)]},
                ],
            }
        )

    async def ready(request: Request) -> JSONResponse:
        check_model(request)
        return JSONResponse({"name": name, "ready": True})

    async def infer(request: Request) -> JSONResponse:
        check_model(request)
        body = await read_json(request)
        if not isinstance(body.get("id", ""), str) or not is_text(body.get("id", "")):
            raise Refused(400, "id: a string is expected")
        inputs = body.get("inputs")
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise Refused(400, "inputs: one tensor named 'text' of datatype BYTES is expected")
        tensor = inputs[0]
        if tensor.get("name") != "text" or tensor.get("datatype") != "BYTES":
            raise Refused(400, "inputs: one tensor named 'text' of datatype BYTES is expected")
        texts = check_texts(tensor.get("data"))
        if tensor.get("shape") not in ([len(texts)], [len(texts), 1]):
            raise Refused(400, f"inputs: shape {tensor.get('shape')} does not fit {len(texts)} texts")
        answers = await asyncio.to_thread(answer, texts)
        scores = [a["scores"][label] for a in answers for label in predictor.labels]
        outputs = [
            {"name": "label", "datatype": "BYTES", "shape": [len(texts)], "data": [a["label"] for a in answers]},
            {"name": "scores", "datatype": "FP32", "shape": [len(texts), len(predictor.labels)], "data": scores},
        ]
        reply = {"model_name": name, "model_version": version, "outputs": outputs}
        return JSONResponse(reply | ({"id": body["id"]} if "id" in body else {}))

    async def predict(request: Request) -> JSONResponse:
        text = (await read_json(request)).get("text")
        (result,) = await asyncio.to_thread(answer, check_texts([text]))
        return JSONResponse(result)

    def check_model(request: Request) -> None:
        params = request.path_params
        if params["model"] != name or params.get("version", version) != version:
            raise Refused(404, f"unknown model '{params['model']}'; this server has '{name}', version {version}")

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return JSONResponse({"error": str(error)}, error.status)

    async def not_found(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return JSONResponse({"error": f"no such path or method: {request.method} {request.url.path}"}, status)

    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "the server failed on this request; its log says why"}, 500)

    model = "/v2/models/{model}"
    routes = [
        Route("/v2/health/live", health),
        Route("/v2/health/ready", health),
        Route("/v2", server),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/predict", predict, methods=["POST"]),
    ]
    for path in (model, model + "/versions/{version}"):
        routes += [
            Route(path, metadata),
            Route(path + "/ready", ready),
            Route(path + "/infer", infer, methods=["POST"]),
        ]
    return Starlette(routes=routes, exception_handlers={Refused: refused, 500: failed, 404: not_found, 405: not_found})


async def read_json(request: Request) -> dict:
    """The request's JSON object; 413 as soon as it is too long, 400 when it is not an object."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_LIMIT:
            raise Refused(413, f"a request is at most {BODY_LIMIT} bytes")
    import json

    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise Refused(400, "the body is not a JSON object")
    return data


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_texts(texts: object) -> list[str]:
    """The texts of a request, flat; 400 when they are not texts, 413 when there are too many."""
    if isinstance(texts, list) and all(isinstance(t, list) and len(t) == 1 for t in texts):
        texts = [t[0] for t in texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and is_text(t) for t in texts):
        raise Refused(400, "at least one text is expected, as a JSON string")
    if len(texts) > ROWS_LIMIT:
        raise Refused(413, f"a request has at most {ROWS_LIMIT} texts")
    return texts
