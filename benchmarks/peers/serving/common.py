# pyright: reportMissingImports=false
"""The bundle's model as anyone would open it: tokenizers and ONNX Runtime, rows padded to the longest."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Classifier:
    """texts -> one {label: probability} each."""

    def __init__(self) -> None:
        bundle = Path(os.environ["BUNDLE"])
        manifest = json.loads((bundle / "manifest.json").read_text())
        self.labels = manifest["labels"]
        self.tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
        self.tokenizer.enable_truncation(manifest["max_length"])
        self.tokenizer.enable_padding(pad_id=manifest["pad_id"])
        self.session = onnxruntime.InferenceSession(str(bundle / manifest["model"]))

    def __call__(self, texts: list[str]) -> list[dict[str, float]]:
        rows = self.tokenizer.encode_batch(texts)
        batch = {
            "input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        }
        logits = np.asarray(self.session.run(["logits"], batch)[0])
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return [dict(zip(self.labels, map(float, row), strict=True)) for row in shares]
