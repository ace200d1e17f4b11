"""Write handwritten digits for recipes/digits.yaml, and two models that know nothing yet: a ViT and a ResNet.

    python recipes/digits.py OUT_DIR

The digits are scikit-learn's: 1,797 grey images of 8 x 8 pixels, here as PNG files with a CSV of a path and a label for
each split (always the same one). The models are transformers' own, small, with random weights.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits

SPLITS = {"train": 1197, "validation": 300, "test": 300}
LABELS = [str(digit) for digit in range(10)]
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2,
    "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.3], "image_std": [0.4],
}  # fmt: skip


def write_images(out: Path) -> None:
    """out/images/NUMBER.png, and out/SPLIT.csv that names them."""
    images, labels = load_digits(return_X_y=True)
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images.reshape(-1, 8, 8)):
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(out / "images" / f"{number}.png")
    order, start = np.random.default_rng(0).permutation(len(images)), 0
    for split, count in SPLITS.items():
        with (out / f"{split}.csv").open("w", newline="") as file:
            rows = [(f"images/{i}.png", labels[i]) for i in order[start : start + count]]
            csv.writer(file).writerows([("image", "label"), *rows])
        start += count


def write_models(out: Path) -> None:
    """out/vit and out/resnet, as transformers saves them."""
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    vit = transformers.ViTConfig(
        image_size=16, patch_size=4, num_channels=1, hidden_size=64, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=256, **names,
    )  # fmt: skip
    resnet = transformers.ResNetConfig(
        num_channels=1, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", **names
    )
    for name, model in (
        ("vit", transformers.ViTForImageClassification(vit)),
        ("resnet", transformers.ResNetForImageClassification(resnet)),
    ):
        model.save_pretrained(out / name)
        (out / name / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_images(Path(sys.argv[1]))
    write_models(Path(sys.argv[1]))
