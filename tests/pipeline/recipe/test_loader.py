from pathlib import Path

import pytest

from paredown.pipeline.recipe.loader import read_recipe, schema
from paredown.runtime.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
GOOD = """checkpoint: ./teacher
data:
  train: ./train.csv
  validation: ./validation.csv
models:
  - name: small
    steps:
      - prune: {heads: 0.5}
      - distill: {layers: 2}
latency:
  rounds: 3
"""


def read(tmp_path: Path, text: str):
    (tmp_path / "recipe.yaml").write_text(text)
    return read_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_every_recipe_that_is_shipped_is_valid(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=./schema.json\n")
    read_recipe(path)


def test_the_committed_schema_is_the_current_one() -> None:
    assert (ROOT / "recipes" / "schema.json").read_text() == schema(), "write it: paredown schema > recipes/schema.json"


def test_every_field_is_described() -> None:
    import json

    for name, part in [("Recipe", json.loads(schema())), *json.loads(schema())["$defs"].items()]:
        for key, field in part.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


def test_a_cascade_stands_behind_the_models_that_it_names(tmp_path: Path) -> None:
    first = "  - {name: quick, steps: [static: {}]}\n  - {name: both, cascade: {first: quick, then: small}}\n"
    three = "  - {name: three, cascade: {first: quick, then: both}}\n"
    recipe = read(tmp_path, GOOD.replace("latency:", first + three + "latency:"))
    assert [m.cascade.then for m in recipe.models if m.cascade] == ["small", "both"]
    for models, words in (
        (three + first, "cascade 'three': 'both'"),
        (first.replace("then: small", "then: both"), "cascade 'both': 'both'"),
        (first + three.replace("first: quick, then: both", "first: both, then: small"), "cascade 'three': 'both'"),
    ):
        with pytest.raises(InputError, match=words):
            read(tmp_path, GOOD.replace("latency:", models + "latency:"))


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert recipe.data.train == str(tmp_path / "train.csv")
    assert recipe.checkpoint == str(tmp_path / "teacher")
    assert read(tmp_path, GOOD.replace("./teacher", "user/model")).checkpoint == "user/model"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds: 3", "round: 3", ["line 11", "unknown key 'latency.round'", "did you mean 'rounds'?"]),
        ("heads: 0.5", "head: 0.5", ["line 8", "'models.0.steps.0.prune.head'", "did you mean 'heads'?"]),
        ("heads: 0.5", "heads: 1.5", ["line 8", "'models.0.steps.0.prune.heads'", "less than or equal to 1", "1.5"]),
        ("rounds: 3", "rounds: many", ["line 11", "'latency.rounds'", "integer", "many"]),
        ("checkpoint: ./teacher\n", "", ["key 'checkpoint' is missing"]),
        ("checkpoint:", "chekpoint: x\ncheckpoint:", ["line 1", "did you mean 'checkpoint'?"]),
        ("- prune: {heads: 0.5}", "- {prune: {heads: 0.5}, distill: {}}", ["line 8", "exactly one of"]),
        ("name: small", "name: teacher", ["differ"]),
        ("name: small", "name: ../up", ["line 6", "'models.0.name'"]),
        ("latency:", "targets: [{runtime: openvino, precision: int8-dynamic}]\nlatency:", ["line 10", "int8-static"]),
        ("latency:", "targets: [{runtime: pytorch}]\nlatency:", ["at least one runtime besides pytorch"]),
        (
            "latency:",
            "choose: {gates: ['p99_ms <= 20']}\nlatency:",
            ["'choose.gates'", "has no unit", "p99_ms <= 20 ms"],
        ),
        ("latency:", "choose: {budgets: {p95: 20}}\nlatency:", ["unknown key 'choose.budgets.p95'", "'p95_ms'"]),
        ("latency:", "latency: {}\nlatency:", ["line 11", "given twice"]),
        ("latency:", "lengths: [8, 4]\nlatency:", ["lengths: ascending"]),
        ("latency:", "measure_on: {labl: a}\nlatency:", ["line 10", "'measure_on.labl'", "did you mean 'label'?"]),
        ("latency:", "measure_on:\n  - label: a\n  - label: ../a\nlatency:", ["line 12", "'measure_on.1.label'"]),
        ("latency:", "measure_on: [{label: a}, {label: a}]\nlatency:", ["line 10", "labelled a is given twice"]),
        (
            "latency:",
            "measure_on: [{fingerprint: '0123456789'}, {fingerprint: '01234567'}]\nlatency:",
            ["'measure_on'", "of fingerprint 01234567 is given twice"],
        ),
        ("latency:", "lengths: [8, 999]\nlatency:", ["at most max_length (128)"]),
        ("rounds: 3", "rounds: [", ["not YAML"]),
        ("rounds: 3", "a: &a [x]\n  b: *a", ["aliases"]),
        ("rounds: 3", "x: !!python/object/apply:os.system ['true']", ["not YAML"]),
    ],
)
def test_errors_name_file_line_key_and_what_was_meant(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    message = str(caught.value)
    assert "\n" not in message
    for word in [str(tmp_path / "recipe.yaml"), *words]:
        assert word in message, message


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="paredown init"):
        read_recipe(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="a mapping"):
        read(tmp_path, "- 1\n")
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match="at most"):
        read(tmp_path, "#" * 1_000_001)


def test_a_former_name_of_a_key_is_read_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = "models:\n- name: m\n  steps:\n  - finetune: {KEYS, class_weights: {looks: 2, b: 1}}\n"
    text = GOOD.partition("models:")[0]
    recipe = read(tmp_path, text + steps.replace("KEYS", "patience: 2, looks: 4"))
    settings = recipe.models[0].steps[0].finetune
    assert settings is not None
    assert settings.evaluations_per_epoch == 4
    assert settings.class_weights == {"looks": 2, "b": 1}
    (note,) = capsys.readouterr().err.splitlines()
    assert "'looks' is now called 'evaluations_per_epoch'" in note
    with pytest.raises(InputError, match="'looks' and 'evaluations_per_epoch' are both given"):
        read(tmp_path, text + steps.replace("KEYS", "looks: 4, evaluations_per_epoch: 4"))
