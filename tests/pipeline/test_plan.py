from pathlib import Path

from conftest import write_recipe
from paredown.compress.checkpoint import Checkpoint
from paredown.pipeline.job import prepare
from paredown.pipeline.plan import plan, search_steps
from paredown.pipeline.recipe import Search
from paredown.pipeline.recipe_file import read_recipe

TWICE = """models:
  - name: twice
    steps:
      - distill: {layers: 2, epochs: 1}
      - prune: {speedup: 2, multiple: 16}
      - prune: {speedup: 1.5, multiple: 16, recover: {epochs: 1}}
"""


def test_whether_a_time_can_be_reached_is_asked_first_and_of_the_layers_that_are_left(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **{"models:\n": TWICE})))
    first, second, *_ = plan(job)
    assert first.inputs["stage"] == "table"
    assert first.inputs["cuts"] == [[[2.0, None, False, 16, 2], [1.5, None, False, 1, 2]]]
    assert second.inputs["stage"] == "scores"
    first, second, _ = search_steps(job, Search(minutes=1, speedup=3))
    assert first.inputs["cuts"] == [[[3.0, None, False, 32, 3]]]
    assert second.inputs["stage"] == "scores"


def test_what_int8_may_cost_is_in_the_key_of_int8_exports_alone(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    keys = []
    for name, more in (("a", ""), ("b", "int8: {max_drop: 2}\n")):
        recipe = write_recipe(tmp_path / f"{name}.yaml", teacher, files, **{"models:\n": f"{more}models:\n"})
        keys.append({step.name: step.key for step in plan(prepare(read_recipe(recipe)))})
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert {"teacher-onnxruntime-int8-dynamic", "teacher-openvino-int8-static"} <= changed
    assert all("int8" in name or name == "measure" for name in changed)
