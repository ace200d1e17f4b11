"""The record of an exported model: files, runtime, precision, inputs and outputs, and its source. Without torch.

A directory with `artifact.json`, the model files and `tokenizer.json` (of images `preprocessor_config.json`): enough to
open, time and score it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import MARKED, Preprocessor, reader_file
from paredown.runtime.preprocessors import preprocessor_of
from paredown.runtime.session import RUNTIMES

MANIFEST = "artifact.json"
# Bits. Only the weights of matrix products: for models whose time goes into reading them.
WEIGHTS_ONLY = {"int8-weight": 8, "int4-weight": 4}
SCHEMA = 1  # of artifact.json; raised when a key is renamed, removed or changes its meaning
GRAPH = "graph.onnx"  # beside an engine, what it was built from: for the parity gate, not shipped


def multiplies_int8(precision: str) -> bool:
    """Whether the matrix products themselves are INT8, and so are calibrated: not where only weights are stored so."""
    return precision.startswith("int8") and precision not in WEIGHTS_ONLY


def values_of(details: object, key: str) -> list:
    """Every value of a key in `Artifact.details`, however deep: a cascade has the details of its models inside."""
    if not isinstance(details, dict):
        return []
    inside = [found for value in details.values() for found in values_of(value, key)]
    return [details.get(key)] * (key in details) + inside


def marks_of(encoder: Preprocessor) -> dict[str, bool]:
    """For `Artifact.details`: that the graph knows `encoder.MARK`, where its rows may have it."""
    return {MARKED: True} if encoder.marks else {}


@dataclass(frozen=True)
class Artifact:
    """`files[0]` is the model; all paths are relative to `path`, the directory."""

    path: Path
    name: str
    task: str
    runtime: str
    precision: str
    files: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    labels: tuple[str, ...]
    max_length: int  # tokens
    pad_id: int
    source: str  # digest of the checkpoint
    details: dict = field(default_factory=dict)  # opset, fused counts, how it was quantised
    lengths: tuple[int, ...] = ()  # tokens; calls are padded to the next of them. None: to their longest row
    batch_size: int | None = None  # rows of every call; None: any
    # of a text-to-text model: the file of its decoder, and the settings of `writer`; of a decoder with a cache:
    # those of `Decoder`
    generation: dict | None = None

    def write(self) -> Artifact:
        """Write artifact.json beside the files."""
        data = {"schema": SCHEMA} | {key: value for key, value in asdict(self).items() if key != "path"}
        (self.path / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")
        return self

    @property
    def halves(self) -> bool:
        """It is two graphs, an encoder and a decoder."""
        return "decoder" in (self.generation or {})

    @property
    def has_cache(self) -> bool:
        """It is a decoder with a key/value cache."""
        return self.generation is not None and not self.halves

    def whole(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch with everything that the model file takes: an empty cache where it has one."""
        if not self.has_cache:
            return batch
        return Decoder(lambda given: given, self.generation or {}).begun(batch)

    def encoder(self) -> Preprocessor:
        """The tokenizer, or the preprocessor of images, that goes with the model."""
        return preprocessor_of(
            self.path, self.inputs, self.max_length, self.pad_id, marks=bool(self.details.get(MARKED))
        )

    def size_mb(self) -> float:
        """Size on disk of what must be shipped to run it: model files and tokenizer, in MB (1e6 bytes)."""
        return sum((self.path / name).stat().st_size for name in (*self.files, reader_file(self.inputs))) / 1e6


def artifact_schema() -> str:
    """The JSON schema of artifact.json."""
    from pydantic import TypeAdapter

    found = TypeAdapter(Artifact).json_schema()
    fields = {key: value for key, value in found["properties"].items() if key != "path"}
    found["properties"] = {"schema": {"const": SCHEMA, "title": "Schema", "type": "integer"}} | fields
    found["required"] = ["schema", *(key for key in found["required"] if key != "path")]
    return json.dumps(found, indent=2) + "\n"


def read_artifact(path: Path) -> Artifact:
    """Read a directory written by `Artifact.write`; InputError names the file and key that is wrong."""
    file = path / MANIFEST
    try:
        data = json.loads(file.read_text())
        version = data.pop("schema", SCHEMA)  # none in those of earlier versions
        if version != SCHEMA:
            raise ValueError(f"schema {version}; this paredown reads {SCHEMA}: export it again")
        for key in ("files", "inputs", "outputs", "labels", "lengths"):
            data[key] = tuple(data.get(key, ()))
        artifact = Artifact(path=path, **data)
        if artifact.halves and (artifact.generation or {})["decoder"] not in artifact.files:
            raise ValueError("generation.decoder")
        if not artifact.files or type(artifact.max_length) is not int or type(artifact.pad_id) is not int:
            raise ValueError("files, max_length and pad_id")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; make one with: paredown export CHECKPOINT --to onnx") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{file}: not an artefact of paredown ({error})") from None
    if artifact.runtime not in (*RUNTIMES, "pytorch"):
        raise InputError(f"{file}: unknown runtime '{artifact.runtime}'; known: {', '.join(RUNTIMES)}")
    for name in (*artifact.files, reader_file(artifact.inputs)):
        inside = (path / name).resolve()
        if not inside.is_relative_to(path.resolve()) or not inside.is_file():
            raise InputError(f"{file}: '{name}' is not a file inside {path}")
    return artifact
