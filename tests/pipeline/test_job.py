import csv
import hashlib
import re
from pathlib import Path

import pytest
from conftest import make_checkpoint, paredown, refused, write_csv, write_recipe

from paredown.compress.config import Prune, Recover
from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.job import chain_of, prepare
from paredown.pipeline.plan import plan
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.recipe.schema import Model
from paredown.pipeline.whole_job import WholeJob
from paredown.runtime.errors import InputError


def test_a_pruned_model_outlives_the_recovery_that_fails() -> None:
    steps = [{"prune": {"heads": 0.5, "recover": {"epochs": 2}}}, {"trim": {}}]
    chain = chain_of(Model.model_validate({"name": "cut", "steps": steps}))
    assert list(chain) == ["cut-1-prune", "cut-1-prune-recover", "cut-2-trim"]
    assert chain["cut-1-prune"] == Prune(heads=0.5)
    assert chain["cut-1-prune-recover"] == Recover(epochs=2)


def test_learning_from_unlabelled_rows_alone_needs_some(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    pruned = "  - name: pruned\n    steps: [prune: {heads: 0.5, recover: {learn_from: unlabeled, epochs: 1}}]\n"
    path = write_recipe(tmp_path / "recipe.yaml", teacher, files, **{"models:\n": f"models:\n{pruned}"})
    text = path.read_text()
    job = prepare(read_recipe(path))
    lesson = next(s for m in job.models for s in chain_of(m).values() if isinstance(s, Recover))
    assert job.unlabeled is not None
    assert job.rows_of(lesson) == len(job.unlabeled)
    path.write_text(re.sub(r", unlabeled: [^,}]+", "", text))
    with pytest.raises(InputError, match=r"prune: learn_from: unlabeled needs data\.unlabeled"):
        prepare(read_recipe(path))


@pytest.mark.parametrize(
    ("kind", "step", "words"),
    [
        ("bert", "prune: {heads: 0.5, even: true}", "'cut', prune: even: config.json of 'bert' has no head size"),
        ("mpnet", "prune: {heads: 0.5}", "'cut', prune: head pruning is not supported for 'mpnet'"),
        ("modernbert", "distill: {layers: [1, 2], epochs: 1}", "'cut', distill: layers: the first layer"),
    ],
)
def test_what_an_architecture_cannot_have_is_refused_when_the_recipe_is_read(
    kind: str, step: str, words: str, files: dict, tmp_path: Path
) -> None:
    source = make_checkpoint(tmp_path / "checkpoint", kind)
    models = {"models:\n": f"models:\n  - name: cut\n    steps: [{step}]\n"}
    recipe = read_recipe(write_recipe(tmp_path / "recipe.yaml", source, files, **models))
    with pytest.raises(InputError, match=re.escape(words)):
        prepare(recipe)


def read_csv(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


def test_training_rows_are_not_judged_on(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    """Shuffled, in capitals, or among others: a file of its own is not enough (ATTACKS.md S11)."""
    train, validation = read_csv(files["train"]), read_csv(files["validation"])
    shuffled = write_csv(tmp_path / "shuffled.csv", [(text.upper(), label) for text, label in reversed(train)])
    some = write_csv(tmp_path / "some.csv", [*validation[:150], *train[:9]])
    for given, words in (
        ({"validation": shuffled}, ["shuffled.csv: the same rows as", "train.csv"]),
        ({"validation": some}, ["some.csv: 9 of 159 rows (5.7 %) also stand in", "train.csv", "row 151", "remove"]),
        ({"test": some, "validation": files["test"]}, ["some.csv: 9 of 159 rows"]),
        ({"test": files["validation"]}, ["the same rows as"]),
    ):
        recipe = write_recipe(tmp_path / "recipe.yaml", teacher, {**files, **given})
        refused(paredown("run", recipe, "--dry-run"), *words)
        data = [f"--{name}={(files | given)[name]}" for name in ("train", "validation", "test")]
        refused(paredown("init", teacher.path, *data, "--full", "--output", tmp_path / "new.yaml"), *words)


def test_few_rows_that_stand_in_two_splits_are_left_out_and_said(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    train, validation = read_csv(files["train"]), read_csv(files["validation"])
    some = write_csv(tmp_path / "some.csv", [*validation, (train[3][0].upper(), train[3][1])])
    more = tmp_path / "more.jsonl"
    more.write_text(files["unlabeled"].read_text() + "".join(f'{{"text": "{text}"}}\n' for text, _ in validation[:20]))
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, {**files, "validation": some, "unlabeled": more})
    job, clean = (prepare(read_recipe(path)) for path in (recipe, write_recipe(tmp_path / "c.yaml", teacher, files)))
    assert job.validation.digest == clean.validation.digest
    assert job.unlabeled is not None
    assert clean.unlabeled is not None
    assert job.unlabeled.digest == clean.unlabeled.digest
    assert job.certificate_split == "test"
    assert clean.notes == ()
    judged, unlabeled = job.notes
    assert judged.startswith(f"{some}: 1 of 201 rows (0.5 %) left out, also in {files['train']}: row 201 ")
    assert unlabeled.startswith(f"{more}: 20 of 120 rows (16.7 %) left out, also in validation or test: row 101 ")
    done = paredown("run", recipe, "--dry-run")
    assert f"note: {judged}\nnote: {unlabeled}" in done.stdout


def test_without_test_rows_a_third_of_validation_is_held_out(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **{f", test: {files['test']}": ""})
    job = prepare(read_recipe(recipe))
    assert job.test is not None
    assert (len(job.validation), len(job.test), job.certificate_split) == (133, 67, "held-out validation")
    assert abs(job.test.gold.mean() - 0.5) < 0.01
    assert {*job.validation.texts, *job.test.texts} == {text for text, _ in read_csv(files["validation"])}
    again = prepare(read_recipe(recipe).model_copy(update={"seed": 7}))
    assert again.test is not None
    assert again.test.digest == job.test.digest  # another seed selects on no row that certifies
    few = write_csv(tmp_path / "few.csv", read_csv(files["validation"])[:20])
    recipe = write_recipe(
        tmp_path / "recipe.yaml", teacher, {**files, "validation": few}, **{f", test: {files['test']}": ""}
    )
    job = prepare(read_recipe(recipe))
    assert (len(job.validation), job.test, job.certificate_split) == (20, None, None)
    assert job.notes == (
        f"{few}: no certificate: 20 different validation rows are too few to hold a third out, at least 30 are needed; "
        "give test rows",
    )  # fmt: skip
    data = ["--train", files["train"], "--validation", files["validation"]]
    done = paredown("init", teacher.path, *data, "--full", "--output", tmp_path / "new.yaml")
    assert done.returncode == 0, done.stderr
    assert "67 of 200 rows are held out for the certificate" in done.stderr
    assert "none: a third of validation is held out" in (tmp_path / "new.yaml").read_text()


def test_texts_are_recombined_for_distillation(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "recipe.yaml", teacher, files)
    given = prepare(read_recipe(path)).unlabeled
    path.write_text(path.read_text().replace("unlabeled: ", "recombined: 30, unlabeled: "))
    both = prepare(read_recipe(path))
    assert given is not None
    assert both.unlabeled is not None
    assert both.unlabeled.texts[: len(given)] == given.texts
    assert len(both.unlabeled) == len(given) + 30
    assert both.learned == len(both.train) + len(given) + 30
    path.write_text(re.sub(r", unlabeled: [^,}]+", "", path.read_text()))
    alone = prepare(read_recipe(path)).unlabeled
    assert alone is not None
    assert alone.texts == both.unlabeled.texts[len(given) :]


def test_rows_of_two_texts_are_not_recombined(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    rows = "text,text_pair,label\n" + "".join(f"one {i},two {i},{i % 2}\n" for i in range(40))
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text(rows.replace("one", name))
    recipe = WholeJob(
        str(teacher.path),
        {"train": str(tmp_path / "train.csv"), "validation": str(tmp_path / "validation.csv")},
        task="text-pair-classification",
    )
    with pytest.raises(InputError, match=r"data\.recombined: texts of .* are not made of parts of two"):
        prepare(recipe.recipe(data=dict(recipe.data) | {"recombined": 5}))


def test_students_learn_from_as_many_rows_as_are_asked_for(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    """Nothing else sees fewer rows: what was exported and calibrated before is found again."""
    path = write_recipe(tmp_path / "recipe.yaml", teacher, files)
    every = prepare(read_recipe(path))
    path.write_text(path.read_text().replace("unlabeled: ", "distillation_rows: 50, unlabeled: "))
    some = prepare(read_recipe(path))
    assert some.unlabeled is not None
    assert some.learned == 50 + len(some.unlabeled)
    assert set(some.lessons.texts) < set(every.train.texts)
    assert some.train.texts == every.train.texts == every.lessons.texts
    keys = [{step.name: step.key for step in plan(job)} for job in (every, some)]
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert {"teacher-scores", "distil-1-1-distill", "static-1-static"} <= changed
    assert not {"teacher-onnxruntime-int8-dynamic", "teacher-openvino-int8-static", "teacher-graph"} & changed


def test_the_digests_of_data_are_those_of_the_files_that_were_read(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """A file that changes while the run goes on is not what the model was trained on."""
    train = tmp_path / "mine.csv"
    train.write_bytes(Path(files["train"]).read_bytes())
    before = hashlib.sha256(train.read_bytes()).hexdigest()
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, {**files, "train": train})
    recipe.write_text(
        recipe.read_text().replace("max_length: 32\n", f"max_length: 32\nadapt:\n  - update: {{new: {train}}}\n")
    )
    job = prepare(read_recipe(recipe), try_models=False)
    train.write_text("changed")
    assert (job.data_digests["train"], job.data_digests["adapt-1 new"]) == (before, before)
    validation = hashlib.sha256(Path(files["validation"]).read_bytes()).hexdigest()
    assert job.data_digests["validation"] == validation
