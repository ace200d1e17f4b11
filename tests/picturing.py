"""Images and tiny models that see them: what the tests of image classification share."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
import transformers
from conftest import write_preprocessor
from PIL import Image

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.tasks.registry import TASKS

TASK = TASKS["image-classification"]
NAMES = ("dark", "light")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise in colour."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def examples(count: int, seed: int) -> list[tuple[bytes, str]]:
    """PNG files of 12 x 12 pixels: one half lighter than the other. Which half it is, is the label."""
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        image = rng.integers(0, 160, (12, 12, 3))
        image[:, slice(6, None) if i % 2 else slice(None, 6)] += 70
        found.append((png(Image.fromarray(image.astype(np.uint8))), NAMES[i % 2]))
    return found


def write_rows(path: Path, count: int, seed: int) -> Path:
    """A CSV of paths, relative to it, and the images."""
    folder = path.parent / f"{path.stem}-images"
    folder.mkdir()
    rows = []
    for i, (raw, label) in enumerate(examples(count, seed)):
        (folder / f"{i}.png").write_bytes(raw)
        rows.append((f"{folder.name}/{i}.png", label))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *rows])
    return path


def write_folder(path: Path, count: int, seed: int) -> Path:
    """A directory with one for each label."""
    for i, (raw, label) in enumerate(examples(count, seed)):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{i}.png").write_bytes(raw)
    return path


def untrained(path: Path, kind: str = "vit") -> Checkpoint:
    """A ViT or a convolutional net with random weights, for images of 16 x 16."""
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    sizes: dict = {
        "vit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
                "image_size": 16, "patch_size": 8},
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2},
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **sizes[kind], **names)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(path)
    write_preprocessor(path, 16)
    return open_checkpoint(path, TASK)
