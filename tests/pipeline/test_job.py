import re
from pathlib import Path

import pytest
from conftest import make_checkpoint, write_recipe
from paredown.compress.checkpoint import Checkpoint
from paredown.compress.errors import InputError
from paredown.compress.settings import Prune, Recover
from paredown.pipeline.job import chain_of, prepare
from paredown.pipeline.recipe import Model
from paredown.pipeline.recipe_file import read_recipe


def test_a_cut_outlives_the_healing_that_fails_after_it() -> None:
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
        ("bert", "prune: {heads: 0.5, even: true}", "'cut', prune: even: config.json of 'bert' has no size of a head"),
        ("mpnet", "prune: {heads: 0.5}", "'cut', prune: heads: those of a 'mpnet' model cannot be cut"),
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
