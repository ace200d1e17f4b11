"""The files of an application that runs ONNX Runtime's own format: its mobile packages, and builds with few operators.

https://onnxruntime.ai/docs/performance/model-optimizations/ort-format-models.html
"""

from __future__ import annotations

import shutil
from pathlib import Path

from paredown.runtime.manifest import read_manifest
from paredown.runtime.selftest import check_golden, open_encoder, open_runtime

from ...isolation import in_child
from ...onnx.metadata import save_as_ort
from .on_device import Application, write_application

OPERATORS = "required_operators.config"
MOBILE = Application(
    runtime="onnxruntime",
    layout="mobile",
    model="model.ort",
    kind="A model in ONNX Runtime's own format",
    needs="ONNX Runtime's packages for Android and iOS open it. For a smaller build of the runtime, "
    f"`{OPERATORS}` lists its operators and their types: `build.sh --minimal_build extended "
    f"--include_ops_by_config {OPERATORS} --enable_reduced_operator_type_support`.",
    content="the model, optimised in ways that hold on any CPU",
    calls="Inputs, by name:",
    integers="int64",
)


def to_mobile(bundle: Path, out: Path) -> None:
    """See `write_application`; required_operators.config besides. The model answers the golden rows before anything is
    written about it: BundleError where it does not, or not in time."""

    def place(source: Path, target: Path) -> None:
        in_child("mobile", bundle, model=str(target.absolute()))

    write_application(bundle, out, MOBILE, place)


def job(bundle: Path, started: float, rows_s: float, model: str) -> None:
    """Of `isolation.in_child`: write the bundle's model to `model` as an .ort file, and its operators beside it."""
    manifest, target = read_manifest(bundle), Path(model)
    source = bundle / manifest["model"]
    if source.suffix == target.suffix:
        shutil.copyfile(source, target)
    else:
        save_as_ort(source, target)
    session = open_runtime(target.parent, manifest | {"model": target.name})
    check_golden(bundle, manifest, session, open_encoder(bundle, manifest))
    _write_operators(target)


def _write_operators(model: Path) -> None:
    """The configuration that a reduced build of ONNX Runtime takes, without the paths of this machine."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    file = model.with_name(OPERATORS)
    create_config_from_models([model], file, enable_type_reduction=True)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("#")), encoding="utf-8")
