"""A stage alone gives what the same step of a run gives, and errors name what the user wrote."""

from pathlib import Path

import pytest
from conftest import write_recipe

import paredown
from paredown.compress.config import Distill, Prune, Stage, Trim
from paredown.compress.models.loading import Checkpoint
from paredown.pipeline import single_stage
from paredown.pipeline.job import SCORES, prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.single_stage import StageData
from paredown.pipeline.spelling import argument, option
from paredown.pipeline.steps.compress import compress, score
from paredown.pipeline.store import Done
from paredown.runtime.errors import InputError


def quiet(share: float, text: str) -> None:
    """Progress that nobody reads."""


def data_of(files: dict[str, Path], **more: object) -> StageData:
    rows = {name: str(files[name]) for name in ("train", "validation", "unlabeled")}
    return StageData.model_validate({**rows, "max_length": 32, **more})


@pytest.mark.parametrize(
    "settings", [Prune(heads=0.5, ffn=0.5), Trim(frequent=0), Distill(layers=1, epochs=0.5, learning_rate=0.005)]
)
def test_a_stage_alone_leaves_the_files_of_the_step_of_a_run(
    settings: Stage, teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files)), try_models=False)
    (tmp_path / "scores").mkdir()
    if isinstance(settings, Distill):
        score(job, tmp_path / "scores", {}, quiet)
    step, alone = tmp_path / "step", tmp_path / "alone"
    compress(job, settings, None, step, {SCORES: Done(tmp_path / "scores", {}, 1.0)}, quiet)
    data = data_of(files)
    if isinstance(settings, Prune):
        single_stage.prune(str(teacher.path), data, settings, alone)
    elif isinstance(settings, Trim):
        single_stage.trim(str(teacher.path), data, settings, alone)
    else:
        single_stage.distill(str(teacher.path), data, settings.model_dump(exclude_unset=True), alone)
    names = sorted(path.name for path in step.iterdir())
    assert names == sorted(path.name for path in alone.iterdir())
    for name in names:
        assert (step / name).read_bytes() == (alone / name).read_bytes(), name


def test_errors_name_the_option_the_argument_or_the_key(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    out, path = tmp_path / "out", str(teacher.path)
    for where, name in ((option, "--layers"), (argument, "layers")):
        with pytest.raises(InputError, match=f"^{name}: 9 is not a choice of the 3 layers"):
            single_stage.distill(path, data_of(files), {"layers": 9}, out, where)
    with pytest.raises(InputError, match=r"^patience stops on validation: give validation"):
        single_stage.distill(path, data_of(files, validation=None), {"layers": 1, "patience": 1}, out, argument)
    changes = {"distill: {layers: 1,": "distill: {layers: 9,"}
    with pytest.raises(InputError, match=r"^models: 'distil-1', distill\.layers: 9 is not a choice of the 3 layers"):
        prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **changes)), try_models=False)
    with pytest.raises(InputError, match=r"^heads: Input should be less than or equal to 1"):
        paredown.prune(path, files["train"], heads=1.5)
    with pytest.raises(InputError, match=r"^int8-static is calibrated on rows: give data"):
        paredown.quantize(path, method="static")
    with pytest.raises(InputError, match=r"^method dynamic is for onnxruntime; openvino takes method static"):
        paredown.quantize(path, runtime="openvino")
    with pytest.raises(InputError, match=r"^precision int4: for text-classification, onnxruntime runs "):
        paredown.export(path, precision="int4")
    assert not out.exists()
