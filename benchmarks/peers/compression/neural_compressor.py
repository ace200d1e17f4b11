# pyright: reportMissingImports=false
"""neural-compressor's INT8, by the PyTorch flow that 3.x has left: prepare, calibrate, convert, save.

python neural_compressor.py CHECKPOINT OUT_DIR CALIBRATION.npz
"""

import sys
from pathlib import Path

import numpy as np
import torch
from neural_compressor.torch.quantization import StaticQuantConfig, convert, prepare
from transformers import AutoModelForSequenceClassification

checkpoint, out, rows = sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3])
model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
batches = [torch.from_numpy(rows[name][None]) for name in rows.files]
example = {"input_ids": batches[0], "attention_mask": torch.ones_like(batches[0])}
prepared = prepare(model, quant_config=StaticQuantConfig(), example_inputs=example)
for batch in batches:
    prepared(input_ids=batch, attention_mask=torch.ones_like(batch))
convert(prepared).save(str(out))
