"""ONNX Runtime's own INT8, as onnxruntime.ai/docs/performance/model-optimizations/quantization.html shows it.

python plain_onnxruntime.py MODEL.onnx OUT_DIR
"""

import sys
from pathlib import Path

from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

model, out = sys.argv[1], Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
prepared = out / "prepared.onnx"
quant_pre_process(model, prepared, skip_symbolic_shape=True)  # it says "incomplete" of this graph, and stops
quantize_dynamic(prepared, out / "model.onnx")
prepared.unlink()
