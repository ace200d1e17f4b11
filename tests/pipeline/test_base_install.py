"""What the base install does, and which extra each of the other commands asks for: in processes that find no module of
any extra."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import SMALL, write_recipe
from strangers import key_pair

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.cli import main as cli
from paredown.pipeline.extras import EXTRAS

HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(m for modules in EXTRAS.values() for m in modules)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""
RUN = """
import contextlib, io, json, sys
from paredown.pipeline.cli import main as cli

for command in json.load(sys.stdin):
    sys.argv, err, code = ["paredown", *command], io.StringIO(), 0
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, err.getvalue()]))
"""


@pytest.fixture(scope="module")
def commands(
    finished: Path, teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[list, str | None]]:
    """Commands, and the extra that each asks for; None: it does its work."""
    home = tmp_path_factory.mktemp("base")
    run_dir, given, out = shutil.copytree(finished, home / "run"), teacher.path, ["--output-dir", home / "out"]
    recipe = write_recipe(home / "recipe.yaml", teacher, files, **SMALL)
    train, bundle, test = ["--train", files["train"]], run_dir / "bundle", ["--data", files["test"]]
    rows, (private, public) = [*train, "--validation", files["validation"]], key_pair(home / "keys")
    return [
        (["doctor"], None),
        (["schema"], None),
        (["init", given, *rows, "--output", home / "new.yaml"], None),
        (["compress", given, *rows, *out], "compress,cpu"),
        (["run", recipe, "--dry-run"], "compress,cpu"),
        (["run", recipe, *out], "compress,cpu"),
        (["plan", recipe, *out], "compress,cpu"),
        (["step", recipe, "teacher-scores", *out], "compress,cpu"),
        (["finetune", given, *train, *out], "compress"),
        (["update", given, *train, "--new", files["test"], *out], "compress"),
        (["tune", given, *rows, "--minutes", "1", *out], "compress"),
        (["augment", *train, "--output", home / "more.jsonl"], None),
        (["augment", *train, "--output", home / "x.jsonl", "--kind", "masked", "--masked-model", given], "compress"),
        (["prune", given, *train, "--ffn", "0.5", *out], "compress"),
        (["trim", given, *train, *out], "compress"),
        (["truncate", given, *train, *out], "compress"),
        (["distill", given, *train, "--layers", "1", *out], "compress"),
        (["quantize", given, *out], "compress"),
        (["export", given, *out], "compress"),
        (["explain", given, "--text", "a good film", "--output", home / "e.html"], "compress"),
        (["bench", given, *test], "compress"),
        (["bench", bundle, *test], "cpu"),
        (["robustness", bundle, *test], "cpu"),
        (["fairness", bundle, *test, "--group", "label"], "explain"),
        (["choose", run_dir], "cpu"),
        (["report", run_dir], None),
        (["report", run_dir, "--format", "md"], None),
        (["report", run_dir, "--format", "png"], "plot"),
        (["verify", bundle], "cpu"),
        (["verify", run_dir / "bundle.tar.gz", *test], "cpu"),
        (["verify", bundle, "--public-key", public], "sign"),
        (["predict", bundle, "--text", "a good film"], "cpu"),
        (["pack", run_dir, "--output-dir", home / "packed"], None),
        (["pack", run_dir, "--private-key", private, "--output-dir", home / "signed"], "sign"),
        (["serve", bundle], "serve"),
        (["load", "http://127.0.0.1:1", "--rps", "1", "--text", "a"], "load"),
    ]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process, and of all that it starts, that finds no module of any extra."""
    path = tmp_path_factory.mktemp("bare")
    (path / "sitecustomize.py").write_text(HIDE)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    }


def test_each_command_does_its_work_or_says_what_brings_it(commands: list, bare: dict[str, str]) -> None:
    given = json.dumps([[str(word) for word in words] for words, _ in commands])
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=given, capture_output=True, text=True, env=bare, check=False
    )
    assert done.returncode == 0, done.stderr
    for (words, extra), line in zip(commands, done.stdout.splitlines(), strict=True):
        code, errors = json.loads(line)
        said = [line for line in errors.splitlines() if not line.startswith("{")]
        if extra is None:
            assert (code, said) == (0, []), words
        else:
            assert code == 2, (words, errors)
            (one,) = said
            assert one.startswith("error: '"), (words, one)
            assert one.endswith(f"' is not installed; it comes with: pip install 'paredown[{extra}]'"), (words, one)


def test_no_command_is_left_out(commands: list) -> None:
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {words[0] for words, _ in commands} == set(known)
