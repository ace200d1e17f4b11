"""The ASGI application: the table of routes, and errors as JSON. Never torch."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator
from types import MethodType
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..config import Settings
from ..errors import HTTPError
from ..models.control import ModelControl
from ..models.manager import ModelManager
from ..monitoring.metrics import Metrics
from ..monitoring.sampling import RequestSampler
from ..scheduling.queued_request import ClientDisconnected
from . import docs, schemas
from .endpoints import Endpoints
from .middleware import LIVE, READY, InFlight, RequestMiddleware, error_response
from .openapi import Operation, document


async def openapi(endpoints: Endpoints, request: Request) -> Response:
    """GET /openapi.json; a function of its own, because the document lists the endpoints."""
    return Response(openapi_document(), media_type="application/json")


async def docs_page(endpoints: Endpoints, request: Request) -> Response:
    """GET /docs; as `openapi`."""
    return HTMLResponse(docs.PAGE, headers={"Content-Security-Policy": docs.POLICY})


async def docs_asset(endpoints: Endpoints, request: Request) -> Response:
    """The files that /docs is made of."""
    path = request.scope["path"]
    return Response(docs.asset(path), media_type="text/css" if path == docs.STYLE else "text/javascript")


_MODEL, _VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"

# Every route of the server, once: the application and the OpenAPI document are made from this table.
OPERATIONS: list[Operation[Endpoints]] = [
    Operation("GET", "/", Endpoints.root, "A page to try the model", str, media_type="text/html", public=True),
    Operation("GET", "/openapi.json", openapi, "This document", dict[str, Any], public=True),
    Operation(
        "GET", "/docs", docs_page, "This document as pages, to try each path", str, media_type="text/html", public=True
    ),
    *(
        Operation("GET", path, docs_asset, "Swagger UI's files", str, media_type=kind, not_found=True, public=True)
        for path, kind in ((docs.SCRIPT, "text/javascript"), (docs.STYLE, "text/css"))
    ),
    Operation("GET", "/metrics", Endpoints.metrics_text, "Prometheus metrics", str, media_type="text/plain"),
    Operation(
        "POST",
        "/predict",
        Endpoints.predict,
        "A text or an image, or several: labels, a number, a vector, entities, an answer or a text",
        schemas.Prediction | schemas.Predictions,
        schemas.PredictRequest,
    ),
    Operation("GET", "/v2", Endpoints.server, "Metadata of the server", schemas.ServerMetadata),
    *(Operation("GET", path, Endpoints.live, "Liveness", schemas.ServerLive, public=True) for path in LIVE),
    *(
        Operation(
            "GET",
            path,
            Endpoints.ready,
            "Readiness of the server",
            schemas.ServerReady,
            not_ready=schemas.ServerReady,
            public=True,
        )
        for path in READY
    ),
    Operation(
        "POST",
        "/v2/repository/index",
        Endpoints.index,
        "Models and their state",
        list[schemas.IndexEntry],
        schemas.IndexRequest,
        body_required=False,
    ),
    *(
        Operation(
            "POST",
            f"/v2/repository/models/{{model}}/{action}",
            endpoint,
            f"{action.capitalize()} a model",
            schemas.LoadResponse,
            schemas.LoadRequest,
            body_required=False,
        )
        for action, endpoint in (("load", Endpoints.load), ("unload", Endpoints.unload))
    ),
    *(
        operation
        for path in (_MODEL, _VERSION)
        for operation in (
            Operation(
                "GET",
                path,
                Endpoints.metadata,
                "Metadata of the model: inputs, outputs, labels, drift",
                schemas.ModelMetadata,
                not_found=True,
            ),
            Operation(
                "GET",
                f"{path}/ready",
                Endpoints.model_ready,
                "Readiness of the model",
                schemas.ModelReady,
                not_found=True,
                not_ready=schemas.ModelReady,
            ),
            Operation(
                "POST",
                f"{path}/infer",
                Endpoints.infer,
                "Open Inference Protocol v2; also Triton's binary tensors",
                schemas.InferResponse,
                schemas.InferRequest,
                binary=True,
            ),
        )
    ),
]


PUBLIC = {operation.path for operation in OPERATIONS if operation.public}  # they expose nothing and change nothing


@functools.cache
def openapi_document() -> bytes:
    """Made once: pydantic takes longer for it than everything else that a request needs."""
    return json.dumps(document(OPERATIONS), separators=(",", ":")).encode()


def create_app(
    settings: Settings,
    models: ModelManager,
    metrics: Metrics,
    control: ModelControl,
    in_flight: InFlight | None = None,
) -> Starlette:
    """The ASGI application."""
    in_flight = in_flight or InFlight()
    samples = None
    if settings.sample_file is not None:
        samples = RequestSampler(settings.sample_file, settings.sample_share, settings.sample_mb)
    endpoints = Endpoints(settings, models, control, metrics, in_flight, samples)
    routes = [Route(o.path, MethodType(o.endpoint, endpoints), methods=[o.method]) for o in OPERATIONS]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await control.start()
        yield
        await control.stop()
        await asyncio.to_thread(models.close)
        if samples is not None:
            samples.close()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[
            Middleware(RequestMiddleware, settings=settings, metrics=metrics, in_flight=in_flight, public=PUBLIC)
        ],
        exception_handlers={
            HTTPError: _refused,
            HTTPException: _no_route,
            ClientDisconnected: _disconnected,
            ClientDisconnect: _disconnected,
        },
    )
    app.router.redirect_slashes = False  # the redirect would go to any Host that the client names
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPError)
    return error_response(error)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"no such path or method: {request.method} {request.url.path[:200]}"
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _disconnected(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the client disconnected"}, 499)  # nobody reads it
