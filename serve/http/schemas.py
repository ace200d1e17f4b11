"""Bodies of requests and responses: the server parses requests by these models, and the OpenAPI document lists all."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..errors import HTTPError

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
Body = TypeVar("Body", bound=BaseModel)
TEXT_OR_IMAGE = "either 'text' or 'image' is expected"
NOT_NULL = {"not": {"type": "null"}}


def parse(model: type[Body], body: bytes) -> Body:
    """The JSON object of a request; HTTPError 400 with the first key that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HTTPError(400, f"{where or 'body'}: {first['msg']}") from None


class Error(BaseModel):
    """The body of every response that is no success."""

    error: str = Field(description="one line: what was wrong, and what was expected")


# The Open Inference Protocol v2


class RequestInput(BaseModel):
    """An input tensor: `data` as JSON, flat or nested, or `binary_data_size` among the parameters."""

    name: str
    shape: list[Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]] = Field(max_length=8)
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class RequestOutput(BaseModel):
    """An output that the client asks for; `binary_data` among the parameters chooses its form."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """The JSON of POST /v2/models/{model}/infer."""

    id: str | None = Field(None, strict=True)
    parameters: dict[str, Any] | None = Field(
        None, description="timeout: microseconds; binary_data_output: all outputs as bytes"
    )
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] | None = Field(None, description="default: all")


class ResponseOutput(BaseModel):
    """An output tensor: `data`, flat, or `binary_data_size` among the parameters."""

    name: str
    datatype: Datatype
    shape: list[int]
    data: list[Any] = []
    parameters: dict[str, Any] = {}


class InferResponse(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str = Field("", description="of the request, where it has one")
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    name: str
    datatype: Datatype
    shape: list[int] = Field(description="-1: any size")


class DriftReport(BaseModel):
    """Distance of the last rows from the reference rows of the bundle."""

    rows: int
    threshold: float
    alert: list[str] = Field(description="quantities over the threshold")
    quantities: dict[str, dict[str, float]] = Field(description="psi and ks of each quantity")


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    labels: list[str]
    max_length: int = Field(description="tokens of a row")
    metric: dict[str, Any] | None = Field(description="of the bundle's manifest: validation, test, certificate")
    examples: list[dict[str, str]] = Field(description="bodies for POST /predict")
    drift: DriftReport | None = Field(description="null: the bundle has no reference rows")


class ModelReady(BaseModel):
    name: str
    ready: bool


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    live: bool


class ServerReady(BaseModel):
    ready: bool


class IndexRequest(BaseModel):
    """The JSON of POST /v2/repository/index."""

    ready: bool = Field(False, strict=True, description="list the models that are ready, and no others")


class IndexEntry(BaseModel):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = Field(description="why it is unavailable")


class LoadRequest(BaseModel):
    """The JSON of POST /v2/repository/models/{model}/load and /unload."""

    parameters: dict[str, Any] | None = Field(None, description="unload_dependents, which has no effect; no other")


class LoadResponse(BaseModel):
    """An empty object."""


# POST /predict


def _one_of_text_and_image(schema: dict[str, Any]) -> None:
    """What `PredictRequest.one_of_text_and_image` checks, as a schema."""
    schema["oneOf"] = [{"required": [name], "properties": {name: NOT_NULL}} for name in ("text", "image")]


class PredictRequest(BaseModel):
    """The JSON of POST /predict: a text, or several; for pairs of texts as many second ones. Or images, each the base64
    of a file or a data URI of it."""

    model_config = ConfigDict(json_schema_extra=_one_of_text_and_image)

    text: str | list[str] | None = None
    image: str | list[str] | None = None
    text_pair: str | list[str] | None = None
    model: str | None = Field(None, description="default: the first by name")
    version: str | None = Field(None, description="default: the latest")
    top_k: int | None = Field(None, ge=1, description="labels whose scores are given, highest first; default: all")

    @model_validator(mode="after")
    def one_of_text_and_image(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise PydanticCustomError("text_or_image", TEXT_OR_IMAGE)
        return self


class OfModel(BaseModel):
    """What an answer to a single text says beside the prediction; of several it is said once."""

    model: str = ""
    version: str = ""


class LabelPrediction(OfModel):
    label: str
    score: float
    scores: dict[str, float]


class MultiLabelPrediction(OfModel):
    labels: list[str]
    scores: dict[str, float]


class ValuePrediction(OfModel):
    value: float


class Entity(BaseModel):
    label: str
    text: str
    start: int = Field(description="characters; `end` is not included")
    end: int
    score: float


class EntitiesPrediction(OfModel):
    entities: list[Entity]


class AnswerPrediction(OfModel):
    answer: str
    start: int = Field(description="characters; `end` is not included")
    end: int
    score: float


class EmbeddingPrediction(OfModel):
    embedding: list[float]


class TextPrediction(OfModel):
    text: str


class Prediction(
    RootModel[
        LabelPrediction
        | MultiLabelPrediction
        | ValuePrediction
        | EntitiesPrediction
        | AnswerPrediction
        | EmbeddingPrediction
        | TextPrediction
    ]
):
    """The answer to one text or image; which one it is depends on the model's task."""


class Predictions(BaseModel):
    """The answers to a list of texts or images, in its order."""

    predictions: list[Prediction]
    model: str
    version: str
