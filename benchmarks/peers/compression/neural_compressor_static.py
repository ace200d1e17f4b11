# pyright: reportMissingImports=false
"""neural-compressor's static INT8, by the PyTorch flow that 3.x has left: export, prepare, calibrate, convert, save.

python neural_compressor_static.py CHECKPOINT OUT_DIR CALIBRATION.npz
"""

import sys
from pathlib import Path

import numpy as np
import torch
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import convert, get_default_static_config, prepare
from transformers import AutoModelForSequenceClassification

checkpoint, out, rows = sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3])
model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
batches = [torch.from_numpy(rows[name][None]) for name in rows.files]
example = (batches[0], torch.ones_like(batches[0]))
length = torch.export.Dim("length", max=model.config.max_position_embeddings)
exported = export(model, example_inputs=example, dynamic_shapes=({1: length}, {1: length}))
prepared = prepare(exported, quant_config=get_default_static_config())
for batch in batches:
    prepared(batch, torch.ones_like(batch))
convert(prepared).save(example_inputs=example, output_dir=str(out))
