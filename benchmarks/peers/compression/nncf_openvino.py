"""NNCF's post-training INT8 with OpenVINO, as docs.openvino.ai shows it for transformers.

python nncf_openvino.py MODEL.onnx OUT_DIR CALIBRATION.npz
"""

import sys
from pathlib import Path

import nncf
import numpy as np
import openvino

model, out, rows = sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
batches = [{"input_ids": rows[name][None], "attention_mask": np.ones_like(rows[name][None])} for name in rows.files]
quantised = nncf.quantize(openvino.convert_model(model), nncf.Dataset(batches), model_type=nncf.ModelType.TRANSFORMER)
openvino.save_model(quantised, out / "model.xml")
