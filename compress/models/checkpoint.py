"""A checkpoint directory, read from its files alone. Without torch."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from paredown.runtime.errors import missing_extra
from paredown.runtime.manifest import sha256_of
from paredown.runtime.preprocessor import INPUTS, PIXELS, Preprocessor, reader_file
from paredown.tasks.base import Task
from paredown.tasks.registry import TASKS, task_of_architecture

from .architectures import CONVOLUTIONAL, SEQ2SEQ, longest_of, padding_of
from .generation_config import GENERATION, cached, rules
from .sentence_transformers import FILES as SENTENCE_FILES
from .sentence_transformers import sentence_settings
from .tokenizer_settings import own_length, settled
from .validation import TRUNCATE

STRUCTURE = "structure.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "preprocessor_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory that has passed the checks of `open_checkpoint`."""

    path: Path
    config: dict
    weights: tuple[Path, ...]
    max_new_tokens: int | None = None  # of an answer, where a recipe says so
    sentences: bool = True  # False: an encoder of sentences that is the body of a model for another task
    pairs: bool = False  # its rows are two texts
    generates: bool = False  # it generates text

    def for_task(self, task: Task) -> Checkpoint:
        """The same, for rows of this task; what lies beside it for vectors of sentences counts for these alone."""
        return replace(self, sentences=task.pools, pairs=task.reads_pairs, generates=task.generates)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names by index; transformers leaves the default names out of config.json."""
        named = self.config.get("id2label") or {}
        count = len(named) or self.config.get("num_labels") or 2
        names = tuple(str(named.get(str(i), f"LABEL_{i}")) for i in range(count))
        task = task_of_architecture(self.architecture)
        return names if task is None else task.labels_of(names, self.width)

    @cached_property
    def parameters(self) -> int | None:
        """Number of parameters in its files, buffers of floats among them; None where they are not safetensors."""
        if any(file.suffix != ".safetensors" for file in self.weights):
            return None
        from safetensors import safe_open

        count = 0
        for file in self.weights:
            with safe_open(file, "numpy") as tensors:
                slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118, it is no dictionary
                count += sum(math.prod(s.get_shape()) for s in slices if s.get_dtype().startswith(("F", "BF")))
        return count

    @property
    def pad_id(self) -> int:
        return padding_of(self.config)

    @cached_property
    def positions(self) -> int:
        """Longest input in tokens: what the architecture takes, or sentence-transformers' shorter limit."""
        positions = longest_of(self.config)
        return min(positions, self._sentences.get("longest", positions))

    @cached_property
    def _sentences(self) -> dict:
        return sentence_settings(self.path) if self.is_encoder and self.sentences else {}

    @property
    def truncation(self) -> tuple[int, int] | None:
        """How many tokens the model reads of a row, at its beginning and at its end, where it does not read all."""
        window = self.config.get(TRUNCATE)
        return None if window is None else (window[0], window[1])

    def read(self, rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        """The token ids of rows that the model reads."""
        if self.truncation is None:
            return rows
        return [read_ends(row, *self.truncation) for row in rows]

    @property
    def prompts(self) -> tuple[str, ...]:
        """What sentence-transformers puts before every text, if anything."""
        return (self._sentences["prompt"],) if self._sentences.get("prompt") else ()

    @cached_property
    def tokenizer_text(self) -> str:
        """tokenizer.json with all that the files beside it say. Raises InputError."""
        return settled(self.path, self.config, vectors=self.is_encoder and self.sentences)

    @property
    def plain_tokenizer_text(self) -> str:
        """The same without the prompt and the lower-casing of sentence-transformers, whose files stay beside it."""
        return settled(self.path, self.config, vectors=False)

    @property
    def depth(self) -> int:
        """Number of layers; DistilBERT and GPT-2 have names of their own for it. Of two halves, the larger number."""
        if self.config.get("model_type") in SEQ2SEQ:
            encoder, decoder = SEQ2SEQ[self.config["model_type"]].depths
            layers = int(self.config.get(encoder) or 0)
            return max(layers, int(self.config.get(decoder) or layers))
        named = (self.config.get(name) for name in ("num_hidden_layers", "n_layers", "n_layer"))
        return int(next(filter(None, named), 0))

    @cached_property
    def generation(self) -> dict:
        """How a model that gives texts makes them: `generation.rules` of two halves, or `generation.cached` of one that
        goes on. Raises InputError."""
        if self.config.get("model_type") in SEQ2SEQ:
            return rules(self.path, self.config, self.max_new_tokens)
        return cached(self.path, self.config, self.depth, self.positions, self.max_new_tokens)

    def check_generation(self) -> None:
        """InputError where the generation settings of a model that generates text are wrong."""
        if self.generates:
            self.generation  # noqa: B018 - reads and checks them

    def generating_like(self, other: Checkpoint) -> Checkpoint:
        """The same, with as many new tokens at most as `other`, where it generates text."""
        return replace(self, max_new_tokens=other.generation["max_new_tokens"]) if self.generates else self

    @property
    def width(self) -> int:
        """Numbers of its hidden state, and of the vector that it answers with where it has no head."""
        return next((int(self.config[key]) for key in ("vector_size", "hidden_size", "dim") if self.config.get(key)), 0)

    @property
    def files(self) -> list[Path]:
        """Every file the checkpoint is made of, in a fixed order."""
        others = [self.path / name for name in ("config.json", STRUCTURE, GENERATION, *TOKENIZER_FILES)]
        others += [self.path / name for name in SENTENCE_FILES if self.is_encoder]
        return [*(p for p in others if p.is_file()), *self.weights]

    @cached_property
    def digest(self) -> str:
        """sha256 over the names and bytes of all files, and what a recipe says of its answers."""
        total = hashlib.sha256(b"" if self.max_new_tokens is None else f"{self.max_new_tokens}\n".encode())
        for path in self.files:
            total.update(f"{path.name} {sha256_of(path)}\n".encode())
        return total.hexdigest()

    @property
    def architecture(self) -> str:
        """The class that it was saved as; "none" where config.json does not say."""
        return (self.config.get("architectures") or ["none"])[0]

    @property
    def is_encoder(self) -> bool:
        """It has no head: what it answers with is a vector."""
        task = task_of_architecture(self.architecture)
        return task is not None and task.pools

    def has_head(self, task: Task) -> bool:
        """True when it was fine-tuned for the task."""
        same_class = task.shares_heads(task_of_architecture(self.architecture))
        return same_class and task.fits_config(self.config.get("problem_type"), len(self.labels))

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model takes: pixels where its head says so, or where a preprocessor alone lies beside it."""
        images = TASKS["image-classification"]
        alone = [(self.path / reader_file(inputs)).is_file() for inputs in (images.inputs, INPUTS[:2])]
        pixels = self.architecture.endswith(images.heads) or alone == [True, False]
        return images.inputs if pixels else INPUTS[:2]

    def copy_to(self, out: Path, *, weights: bool = False) -> list[str]:
        """Copy all files, without the weights or with them; returns their names below `out`."""
        names = [file.relative_to(self.path) for file in self.files if weights or file not in self.weights]
        for name in names:
            copy_file(self.path, out, name)
        if (out / "tokenizer.json").is_file():
            (out / "tokenizer.json").write_text(self.tokenizer_text, encoding="utf-8")
        return [name.as_posix() for name in names]

    def tokenizer_bytes(self) -> bytes:
        """Two checkpoints with the same bytes tokenise every text and process every image in the same way."""
        file = reader_file(self.inputs)
        return self.tokenizer_text.encode() if file == "tokenizer.json" else (self.path / file).read_bytes()

    def size_mb(self) -> float:
        return sum(path.stat().st_size for path in self.files) / 1e6

    def encoder(self, max_length: int | None = None) -> Preprocessor:
        """The checkpoint's tokenizer, truncating at `max_length` tokens or at the longest input it takes (None: or the
        tokenizer's own `model_max_length`); its preprocessor, where it sees images."""
        if PIXELS in self.inputs:
            return self._image_encoder()
        longest = min(max_length or own_length(self.path) or self.positions, self.positions)
        return Preprocessor(self.path / "tokenizer.json", longest, self.pad_id, self.tokenizer_text, marks=self.pairs)

    def _image_encoder(self) -> Preprocessor:
        """ValueError where the model takes images of another size than the preprocessor makes."""
        try:
            from paredown.runtime.images import ImagePreprocessor
        except ImportError as error:
            raise missing_extra(error.name or "PIL", "images") from None
        encoder = ImagePreprocessor(self.path / reader_file(self.inputs), self.config.get("num_channels"))
        free = (
            self.config.get("model_type") in CONVOLUTIONAL or "image_size" not in self.config
        )  # a convolution takes any size
        sides = encoder.shape[1:] if free else self.config["image_size"]
        wanted = (self.config.get("num_channels", 3), *((sides, sides) if isinstance(sides, int) else sides))
        if wanted != encoder.shape:
            raise ValueError(f"it makes images of {encoder.shape}, and the model takes {wanted}")
        return encoder


def read_ends(row: Sequence[int], first: int, last: int) -> Sequence[int]:
    """The first and the last tokens of a row that has more."""
    return row if len(row) <= first + last else [*row[:first], *row[len(row) - last :]]


def copy_file(source: Path, out: Path, name: str | Path) -> None:
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, out / name)
