from pathlib import Path

from conftest import paredown
from safetensors.torch import load_file, save_file


def test_weights_that_float16_cannot_hold_fail_the_export(copy_of_teacher: Path, tmp_path: Path) -> None:
    weights = load_file(copy_of_teacher / "model.safetensors")
    weights["classifier.weight"] *= 1e6
    save_file(weights, copy_of_teacher / "model.safetensors", metadata={"format": "pt"})
    done = paredown("export", copy_of_teacher, "--precision", "fp16", "--output-dir", tmp_path / "fp16")
    assert done.returncode == 1
    assert "> 0.05 (max_difference)" in done.stderr
    assert not (tmp_path / "fp16").exists()
