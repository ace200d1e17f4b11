"""Bodies of requests that are not of the Open Inference Protocol's `infer`."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Predict(BaseModel):
    """The JSON of POST /predict: a text, or several; for pairs of texts as many second ones. Or images, each the base64
    of a file or a data URI of it."""

    text: str | list[str] | None = None
    image: str | list[str] | None = None
    text_pair: str | list[str] | None = None
    model: str | None = Field(None, description="default: the first by name")
    version: str | None = Field(None, description="default: the latest")


class Switch(BaseModel):
    """The JSON of POST /v2/repository/models/{model}/load and /unload: nothing that we would follow."""

    parameters: dict | None = None


class IndexRequest(BaseModel):
    ready: bool = False
