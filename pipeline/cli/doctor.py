"""`paredown doctor`: what this machine has, what will help here, and the command that brings what is missing."""

from __future__ import annotations

from paredown.export.hardware import BF16_ISA, INT8_ISA, fingerprint, importable, machine, version

# module -> (what it is for, the extra that brings it)
PARTS = {
    "torch": ("compressing", "compress"),
    "transformers": ("compressing", "compress"),
    "torch_pruning": ("pruning", "compress"),
    "onnx": ("exporting", "compress"),
    "onnxruntime": ("running ONNX", "cpu"),
    "openvino": ("running OpenVINO", "cpu"),
    "nncf": ("INT8 for OpenVINO", "cpu"),
    "executorch": ("ExecuTorch, for phones and embedded devices", "executorch"),
    "ai_edge_litert": ("LiteRT, for phones and embedded devices", "litert"),
    "tensorrt": ("TensorRT on a data-centre GPU", "gpu"),
    "tensorrt_rtx_bindings": ("TensorRT for RTX", "rtx"),
    "onnxruntime_ep_nv_tensorrt_rtx": ("its libraries", "rtx"),
    "cuda.bindings": ("running TensorRT engines", "rtx"),
    "ray": ("running on a cluster", "ray"),
    "s3fs": ("steps in object storage", "s3"),
    "PIL": ("images", "images"),
    "starlette": ("serving", "serve"),
    "uvicorn": ("serving", "serve"),
}
DISTRIBUTIONS = {
    "torch_pruning": "torch-pruning",
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "tensorrt_rtx_bindings": "tensorrt-rtx-cu13-bindings",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "cuda.bindings": "cuda-bindings",
}


def examine() -> dict:
    """The machine, the parts with their versions, the runtimes' own view of the hardware, and advice."""
    parts = {}
    for module, (use, extra) in PARTS.items():
        here = importable(module)
        name = DISTRIBUTIONS.get(module, module)
        found = version(name) or (version("onnxruntime-gpu") if module == "onnxruntime" else None)
        parts[module] = {
            "for": use,
            "version": (found or "installed") if here else None,
            "get": None if here else f"pip install 'paredown[{extra}]'",
        }
    here = {"machine": machine(), "fingerprint": fingerprint()}
    return here | {"parts": parts, "providers": _providers(), "advice": advice(machine(), parts)}


def advice(here: dict, parts: dict) -> list[str]:
    """What will help on this machine, in plain words."""
    flags = set(here["isa"])
    lines = []
    if flags & INT8_ISA:
        lines.append(f"INT8 has its own instructions here ({', '.join(sorted(flags & INT8_ISA))}): expect it to pay.")
    else:
        lines.append("No VNNI, AMX or dot-product instructions: INT8 gains less and weights are kept to 7 bits.")
    if flags & BF16_ISA:
        names = ", ".join(sorted(flags & BF16_ISA))
        training = "bf16" if "amx_bf16" in flags else "float32, which is faster there without AMX"
        lines.append(f"bf16 runs natively ({names}): try OpenVINO bf16; training runs in {training}.")
    else:
        lines.append("No bf16 instructions: training runs in float32, and OpenVINO bf16 cannot be measured here.")
    if not here["gpus"]:
        lines.append("No NVIDIA GPU is visible: TensorRT engines cannot be run here.")
    if version("onnxruntime") and version("onnxruntime-gpu"):
        lines.append("onnxruntime and onnxruntime-gpu share a module and are both installed: uninstall one of them.")
    if parts["torch"]["version"] is None:
        lines.append("Without torch a bundle can be verified, served and chosen again, not made.")
    return lines


def _providers() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if importable("onnxruntime"):
        import onnxruntime

        found["onnxruntime"] = list(onnxruntime.get_available_providers())
    if importable("openvino"):
        import openvino

        core = openvino.Core()
        found["openvino"] = [
            f"{d}: {', '.join(core.get_property(d, 'OPTIMIZATION_CAPABILITIES'))}" for d in core.available_devices
        ]
    return found
