"""Compression of checkpoints; called, `paredown.compress(checkpoint, ...)` is the whole job."""

import os
import sys

from paredown import make_callable

# As in runtime/session.py: OpenVINO and NNCF do not report what they are used for (they import this package), nor
# does ONNX Runtime.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
make_callable(__name__)
