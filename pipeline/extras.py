"""Which extra of paredown brings a module that is not installed. Without torch."""

from __future__ import annotations

# Import names, of what is imported without a sentence of its own at the place.
EXTRAS = {
    "compress": (
        "torch", "transformers", "optimum", "accelerate", "datasets", "torch_pruning", "sklearn", "scipy", "optuna",
        "peft", "onnx", "onnxscript", "onnx_ir", "sacrebleu", "pyarrow", "safetensors", "pandas",
    ),
    "cpu": ("onnxruntime", "openvino", "nncf"),
    "gpu": ("tensorrt", "pynvml", "cuda"),
    "rtx": ("tensorrt_rtx_bindings",),
    "executorch": ("executorch", "torchao"),
    "litert": ("ai_edge_litert",),
    "images": ("PIL",),
    "explain": ("captum", "fairlearn"),
    "sign": ("model_signing", "OpenSSL"),
    "serve": ("starlette", "uvicorn", "uvloop", "httptools", "prometheus_client", "fastapi_offline"),
    "ray": ("ray",),
    "s3": ("s3fs",),
    "load": ("aiohttp",),
    "plot": ("matplotlib",),
    "track": ("mlflow", "tensorboard", "wandb"),
}  # fmt: skip


def extra_of(module: str) -> str | None:
    """The extra that brings a module, None for one that no extra brings."""
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), None)
