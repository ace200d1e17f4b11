"""Endpoints: the Open Inference Protocol v2, POST /predict, metrics, and a page to try the model. Never torch."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from paredown.runtime.answers import best_scores

from ..config import Settings
from ..errors import HTTPError
from ..models.control import ModelControl
from ..models.inputs import IMAGE, SECOND, TEXT
from ..models.manager import ModelManager, ServedModel
from ..monitoring.metrics import Metrics
from ..monitoring.sampling import RequestSampler
from ..scheduling.queued_request import ClientDisconnected, QueuedRequest
from .docs import POLICY
from .middleware import InFlight
from .protocol_v2 import HEADER_LENGTH, binary_outputs, decode, encode
from .request_body import read_body
from .schemas import IndexRequest, LoadRequest, PredictRequest, parse

PAGE = Path(__file__).with_name("page.html")
EXTENSIONS = ["binary_tensor_data", "model_repository"]
NOT_HERE = {"sequence_id", "sequence_start", "sequence_end", "priority"}  # Triton's, which would change the answer
BYTES_PER_TOKEN = 3  # a guess that queueing goes by until a text is tokenised
TEXT_PLAIN = "text/plain; version=0.0.4; charset=utf-8"
Result = TypeVar("Result")


@dataclass(eq=False)
class Endpoints:
    """What answers the requests, and what it needs for that."""

    settings: Settings
    models: ModelManager
    control: ModelControl
    metrics: Metrics
    in_flight: InFlight
    samples: RequestSampler | None

    async def root(self, request: Request) -> Response:
        return HTMLResponse(_page(), headers={"Content-Security-Policy": POLICY})

    async def metrics_text(self, request: Request) -> Response:
        return Response(self.metrics.text(self.models.queued(), self.control.drift_reports()), media_type=TEXT_PLAIN)

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = not self.in_flight.draining and self.models.can_serve
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "paredown", "version": self.version, "extensions": EXTENSIONS})

    @property
    def version(self) -> str:
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("paredown")
        except PackageNotFoundError:
            return "unknown"

    async def index(self, request: Request) -> Response:
        body = await read_body(request, self.settings.body_bytes, self._seconds)
        only_ready = body.strip() and parse(IndexRequest, body).ready
        return JSONResponse([row for row in self.models.index() if not only_ready or row["state"] == "READY"])

    async def load(self, request: Request) -> Response:
        return await self._switch(request, "load")

    async def unload(self, request: Request) -> Response:
        return await self._switch(request, "unload")

    async def _switch(self, request: Request, action: str) -> Response:
        if not self.settings.controlled:
            raise HTTPError(403, "models are loaded and unloaded from this machine only, or with an API key")
        body = await read_body(request, self.settings.body_bytes, self._seconds)
        parameters = (parse(LoadRequest, body).parameters if body.strip() else None) or {}
        if parameters.keys() - {"unload_dependents"}:
            raise HTTPError(400, f"parameters: '{min(parameters)}': the models are those of the server's own directory")
        if action == "load":  # what is new in the directory may be loaded too
            await self.models.rescan(request.path_params["model"])
        else:
            self.models.check_known(request.path_params["model"])
        await self.control.command(action, request.path_params["model"])
        return JSONResponse({})

    async def metadata(self, request: Request) -> Response:
        name, version = _asked(request)
        async with self.models.use(name, version, self._deadline(request)) as served:
            about = served.model.metadata()
            drift = self.control.drift(name, served.model.version)
            return JSONResponse({"name": name, "versions": self.models.versions(name), **about, "drift": drift})

    async def model_ready(self, request: Request) -> Response:
        name, version = _asked(request)
        ready = self.models.ready(name, version) and not self.in_flight.draining
        return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        name, version = _asked(request)
        self.models.versions(name)  # 404 before the body is read
        body = await read_body(request, self.settings.body_bytes, self._seconds)
        asked, values = decode(body, request.headers.get(HEADER_LENGTH))
        parameters = asked.parameters or {}
        if not_here := parameters.keys() & NOT_HERE:
            raise HTTPError(400, f"parameters: '{min(not_here)}' is not supported here")
        deadline = self._deadline(request, parameters.get("timeout"))
        async with self.models.use(name, version, deadline) as served:
            model = served.model
            wanted, binary = binary_outputs(asked, list(model.outputs))
            texts, ids = model.inputs.rows(values, self.settings)
            queued, logits, answers = await self._answer(request, served, texts, ids, deadline)
            made = model.tensors(logits, list(map(len, queued.ids)), answers)
            head = {"model_name": name, "model_version": model.version}
            head |= {} if asked.id is None else {"id": asked.id}
            content, length = encode(head, [(n, *made[n]) for n in wanted], binary)
        headers = _timing(queued)
        if length is not None:
            headers[HEADER_LENGTH] = str(length)
        kind = "application/json" if length is None else "application/octet-stream"
        return Response(content, headers=headers, media_type=kind)

    async def predict(self, request: Request) -> Response:
        body = await read_body(request, self.settings.body_bytes, self._seconds)
        asked = parse(PredictRequest, body)
        name = asked.model or min(self.models.found)
        deadline = self._deadline(request)
        many = isinstance(asked.text if asked.image is None else asked.image, list)
        fields = {TEXT: asked.text, SECOND: asked.text_pair, IMAGE: asked.image}
        given = {name: _listed(value) for name, value in fields.items() if value is not None}
        async with self.models.use(name, asked.version, deadline) as served:
            texts = served.model.inputs.texts(given, self.settings)
            queued, _, answers = await self._answer(request, served, texts, [], deadline)
            about = {"model": name, "version": served.model.version}
        answers = [best_scores(answer, asked.top_k) for answer in answers]
        content = {"predictions": answers, **about} if many else {**answers[0], **about}
        return JSONResponse(content, headers=_timing(queued))

    async def _answer(
        self, request: Request, served: ServedModel, texts: list[str] | None, ids: list[list[int]], deadline: float
    ) -> tuple[QueuedRequest, np.ndarray, list[dict]]:
        """The finished request, its logits, a line a row or a token, and the decoded answers to its texts."""
        model, loop = served.model, asyncio.get_running_loop()
        guess = sum(min(model.max_length, 2 + len(text) // BYTES_PER_TOKEN) for text in texts or ())
        queued = QueuedRequest(texts, ids, guess or sum(map(len, ids)), deadline, loop, loop.create_future())
        self.metrics.waiting.labels(model.name, model.version).set(served.batcher.admission.rows)
        try:
            logits = await _while_there(request, queued.future, served.batcher.submit(queued))
        finally:
            self.metrics.waiting.labels(model.name, model.version).set(served.batcher.admission.rows)
        answers, lengths = [], list(map(len, queued.ids))
        if texts is not None:
            if model.task.compares_tokens:  # finds its words in the text again: off the event loop
                answers = await asyncio.to_thread(model.answers, texts, logits)
            else:
                answers = model.answers(texts, logits)
            self.metrics.tokenise.labels(model.name, model.version).observe(queued.tokenise_s)
        self.metrics.queue.labels(model.name, model.version).observe(max(0.0, queued.queue_s))
        request.scope["fields"].update(model=model.name, version=model.version, rows=len(lengths), tokens=sum(lengths))
        if served.drift is not None:
            served.drift.add(queued.ids, model.task.probabilities(logits, lengths))
        if self.samples is not None and texts is not None:
            self.samples.add(model.name, model.version, texts, answers)
        return queued, logits, answers

    @property
    def _seconds(self) -> float:
        return self.settings.deadline_ms / 1e3

    def _deadline(self, request: Request, timeout: object = None) -> float:
        """time.monotonic at which an answer is too late; `timeout` is Triton's parameter, in microseconds."""
        if timeout is not None and (type(timeout) is not int or not 0 <= timeout < 2**64):
            raise HTTPError(400, f"parameters: timeout {timeout!r:.100}: microseconds are expected, a UINT64")
        seconds = min(self._seconds, timeout / 1e6) if timeout else self._seconds  # type: ignore[operator]
        return request.scope["begin"] + seconds


@functools.cache
def _page() -> bytes:
    return PAGE.read_bytes()


async def _while_there(request: Request, done: asyncio.Future, answer: Awaitable[Result]) -> Result:
    """The answer; when the client leaves, `done` fails, and what is still queued of it is dropped."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if not done.done():
            done.set_exception(ClientDisconnected())

    watching = asyncio.ensure_future(watch())
    try:
        return await answer
    finally:
        watching.cancel()


def _listed(given: str | list[str]) -> list[bytes]:
    """The texts of a field that holds one or several, as UTF-8."""
    return [text.encode() for text in ([given] if isinstance(given, str) else given)]


def _asked(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _timing(queued: QueuedRequest) -> dict[str, str]:
    """What browsers show as server timing, in ms."""
    parts = {"tokenise": queued.tokenise_s, "queue": max(0.0, queued.queue_s), "model": queued.model_s}
    total = {"total": time.monotonic() - queued.arrived}
    return {"Server-Timing": ", ".join(f"{name};dur={1e3 * s:.2f}" for name, s in (parts | total).items())}
