import itertools
import shutil
from dataclasses import replace
from pathlib import Path

from conftest import write_recipe

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.pipeline.job import Step, belongs_on_machine, made_of, prepare
from paredown.pipeline.plan import DOING, plan, search_steps
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Search
from paredown.pipeline.recipe.schema import Step as RecipeStep

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
    stages = [(step.inputs["stage"], step.inputs.get("cuts")) for step in plan(job)[:3]]
    asked = [[[2.0, None, False, 16, 2], [1.5, None, False, 1, 2]]]
    assert stages == [("table", None), ("reachable", asked), ("scores", None)]
    stages = [
        (step.inputs["stage"], step.inputs.get("cuts")) for step in search_steps(job, Search(minutes=1, speedup=3))
    ]
    assert stages[:3] == [("table", None), ("reachable", [[[3.0, None, False, 32, 3]]]), ("scores", None)]


def test_every_stage_has_words_for_people_who_watch() -> None:
    assert DOING.keys() == RecipeStep.model_fields.keys()


def test_what_int8_may_cost_is_in_the_key_of_int8_exports_alone(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    keys = []
    for name, more in (("a", ""), ("b", "int8: {max_drop: 2}\n")):
        recipe = write_recipe(tmp_path / f"{name}.yaml", teacher, files, **{"models:\n": f"{more}models:\n"})
        keys.append({step.name: step.key for step in plan(prepare(read_recipe(recipe)))})
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert {"teacher-onnxruntime-int8-dynamic", "teacher-openvino-int8-static"} <= changed
    assert all("int8" in name or name.startswith("measure-") or name == "profile" for name in changed)


def test_what_nothing_waits_for_comes_between_the_sittings(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    explained = {"max_length: 32\n": "max_length: 32\nexplain_rows: 4\n", "processes: 3": "processes: 4"}
    steps = plan(prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **explained))))
    names = [step.name for step in steps]
    sittings = [names.index(f"measure-{number}") for number in (1, 2, 3, 4)]
    assert sittings == sorted(sittings)
    assert sittings[-1] == len(names) - 1
    between = set(names[sittings[0] :]) - {f"measure-{number}" for number in (1, 2, 3, 4)}
    assert all(b - a > 1 for a, b in itertools.pairwise(sittings))
    evaluated = [name for name in names if name.endswith("-evaluate")]
    assert all(names.index(name) < sittings[0] for name in evaluated)
    candidates = {name.removesuffix("-further") for name in between if name.endswith("-further")}
    assert len(candidates) == 18
    attributions = {"teacher-attributions", "distil-1-attributions", "static-attributions"}
    assert between == {f"{name}-further" for name in candidates} | attributions | {"profile"}
    known: dict[str, Step] = {}
    for step in steps:  # each stands on steps before it
        assert set(step.inputs.get("after", {})) <= set(known)
        known[step.name] = step


def test_what_does_not_change_the_samples_measures_nothing_again(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    def keys(change: str) -> dict[str, str]:
        changes = {"batch_size: 4": f"batch_size: 4{change}"}
        job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **changes)))
        return {step.name: step.key for step in plan(job)}

    before = keys("")
    assert keys(", wait_s: 60") == before
    changed = {name for name, key in keys(", sweep: {threads: [1]}").items() if key != before[name]}
    assert changed == {"profile"}


STUDENT = """adapt:
  - finetune: {{epochs: 1}}
teachers: [{teacher}]
models:
  - name: small
    steps:
      - distill: {{student: {student}, epochs: 1}}
"""


def test_the_origin_is_the_recipes_checkpoint_whatever_adapt_made_of_it(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    others = [shutil.copytree(teacher.path, tmp_path / name) for name in ("student", "second", "adapted")]
    (others[0] / "LICENSE").write_text("of the student")
    for path, weights in zip(others, ({"a": 1}, {"b": 2}, {"c": 3}), strict=True):
        config = path / "config.json"
        config.write_text(config.read_text().replace("{", f'{{"note": "{weights}",', 1))
    more = STUDENT.format(student=others[0], teacher=others[1])
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **{"models:\n": more})
    job = replace(prepare(read_recipe(recipe), try_models=False), checkpoint=open_checkpoint(others[2]))
    origin = next(step for step in plan(job) if step.name == "teacher-origin")
    out = tmp_path / "out"
    out.mkdir()
    found = origin.work(out, {}, lambda *_: None)
    assert found is not None
    assert (found["name"], found["weights"].keys()) == (teacher.path.name, {"model.safetensors"})
    digests = [open_checkpoint(path).digest for path in others[:2]]
    assert {digest: found["others"][digest]["name"] for digest in digests} == dict(
        zip(digests, ("student", "second"), strict=True)
    )
    scores = next(step for step in plan(job) if step.name == "teacher-scores")
    assert digests[1] in scores.inputs["teachers"]


def test_kinds_of_machine_share_what_does_not_depend_on_them(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    """And a candidate is the same on two kinds unless it is pruned to a time: exports of INT8 may differ."""
    pruned = {"models:\n": TWICE, "{first: static, then: distil-1": "{first: static, then: twice"}
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", teacher, files, **pruned)))
    old = {**job.machine, "cpu": "an old one", "isa": ["avx2"]}
    kinds = [replace(job, machine={**job.machine, "isa": ["avx2", "avx512_vnni"]}), replace(job, machine=old)]
    steps = [{step.name: step for step in plan(kind)} for kind in kinds]
    differ = {name for name, step in steps[0].items() if step.key != steps[1][name].key}
    of_machine = {name for name, step in steps[0].items() if belongs_on_machine(step)}
    assert of_machine <= differ
    after = {name for name in differ if differ & {*steps[0][name].inputs.get("after", {})}}
    assert differ == of_machine | after
    shared = {"teacher-origin", "teacher-scores", "distil-1-1-distill", "distil-1-graph", "distil-1-onnxruntime-fp32"}
    assert shared <= steps[0].keys() - differ
    assert {"twice-2-prune", "twice-graph", "teacher-onnxruntime-int8-dynamic"} <= differ
    models = [
        {
            candidate.name: made_of(kind, candidate, {name: step.key for name, step in those.items()})
            for candidate in kind.candidates
        }
        for kind, those in zip(kinds, steps, strict=True)
    ]
    other = {name for name, key in models[0].items() if key != models[1][name]}
    assert other == {name for name in models[0] if name.split("/")[0] in ("twice", "both")}
    assert len({*models[0].values()}) == len(models[0])
