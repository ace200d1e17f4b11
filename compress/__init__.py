import sys

# As in export/session.py: OpenVINO and NNCF do not report what they are used for. They look for this package.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
