"""The help of the program, and the options that all of its commands have."""

import json
import shlex
from pathlib import Path

import pytest
from conftest import paredown
from typer.main import get_command

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.cli.help import GROUPS, commands_of, hoisted, name_of
from paredown.pipeline.cli.main import app

EXAMPLES = {name: example for commands in GROUPS.values() for name, example in commands.items()}


def test_every_command_is_in_one_group_and_the_help_has_them_in_their_order() -> None:
    assert sorted(map(name_of, commands_of(app))) == sorted(name for commands in GROUPS.values() for name in commands)
    shown = paredown("-h").stdout
    places = [shown.index(f"─ {group} ─") for group in GROUPS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_can_be_typed(name: str) -> None:
    """Every option is one of the command, every value of its type, and nothing that is required is missing."""
    program, command, *rest = shlex.split(EXAMPLES[name].split(" > ")[0])
    assert (program, command) == ("paredown", name)
    get_command(app).commands[name].make_context(name, rest)  # pyright: ignore[reportAttributeAccessIssue]
    assert EXAMPLES[name].split()[0:2] == ["paredown", name]
    assert " ".join(EXAMPLES[name].split()[:2]) in " ".join(paredown(name, "-h").stdout.split())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("run r.yaml -q", "-q run r.yaml"),
        ("run --progress json r.yaml -v", "--progress json -v run r.yaml"),
        ("run --progress=json r.yaml", "--progress=json run r.yaml"),
        ("predict b --text=-q -- -v", "predict b --text=-q -- -v"),
        ("run r.yaml --progress", "--progress run r.yaml"),
        ("", ""),
    ],
)
def test_options_of_all_commands_may_stand_anywhere(given: str, found: str) -> None:
    assert " ".join(hoisted(given.split())) == found


def test_options_are_read_from_the_environment(finished: Path) -> None:
    """PAREDOWN_COMMAND_OPTION; what is typed counts first, a wrong value and an unknown option are named."""
    ask = ["predict", finished / "bundle", "--text", "a good film"]

    def answered(*more: str, **env: str) -> str:
        done = paredown(*ask, *more, env={f"PAREDOWN_{name}": value for name, value in env.items()})
        assert (done.returncode == 0) is (not done.stderr), done.stderr
        return done.stdout or done.stderr

    assert len(json.loads(answered(PREDICT_TOP_K="1"))["scores"]) == 1
    assert len(json.loads(answered("--top-k", "2", PREDICT_TOP_K="1"))["scores"]) == 2
    refused = answered(PREDICT_TOP_K="many")
    assert refused.startswith("error: Invalid value for '--top-k'")
    assert refused.endswith("(from the environment: PAREDOWN_PREDICT_TOP_K)\n")
    assert answered(PREDICT_TOPK="1").startswith("error: $PAREDOWN_PREDICT_TOPK: `paredown predict` has no such option")
    others = {"SERVE_PORT": "none", "VERSION": "1.2", "VERBOSE": "debug", "PREDICTION": "x"}  # not of this command
    assert json.loads(answered(**others))["label"]


def test_the_version_and_completion() -> None:
    from importlib.metadata import version

    assert paredown("--version").stdout == f"paredown {version('paredown')}\n"
    words = {"_PAREDOWN_COMPLETE": "complete_bash", "COMP_WORDS": "paredown trim --fr", "COMP_CWORD": "2"}
    assert paredown(env=words).stdout.split() == ["--frequent"]
    unknown = paredown(env={**words, "COMP_WORDS": "paredown tirm --fr"})
    assert (unknown.returncode, unknown.stdout.strip(), unknown.stderr) == (0, "", "")


def test_an_error_has_its_traceback_when_that_is_asked_for(tmp_path: Path) -> None:
    short, long = (paredown("report", tmp_path, *more) for more in ([], ["-v"]))
    assert (short.returncode, long.returncode) == (2, 2)
    assert "Traceback" not in short.stderr
    assert "Traceback" in long.stderr
    assert long.stderr.endswith(short.stderr)


@pytest.mark.parametrize(
    ("given", "env", "seen"),
    [
        ([], {"CI": "true", "PAREDOWN_PROGRESS": "auto"}, '{"event": "start", "step": "trim"'),
        (["--progress", "json"], {"PAREDOWN_PROGRESS": "plain"}, '{"event": "start", "step": "trim"'),
        ([], {"CI": "", "PAREDOWN_PROGRESS": "auto"}, "1/1 trim: "),
        (["--progress", "plain"], {"CI": "true"}, "1/1 trim: "),
        (["-q"], {"CI": "true"}, None),
    ],
)
def test_progress_is_json_lines_in_ci_or_when_asked_for(
    teacher: Checkpoint, files: dict, tmp_path: Path, given: list[str], env: dict, seen: str | None
) -> None:
    out = ["--train", files["train"], "--output-dir", tmp_path / "out"]
    done = paredown("trim", teacher.path, *out, *given, env=env)
    assert done.returncode == 0, done.stderr
    if seen is None:
        assert not done.stderr
    else:
        assert done.stderr.startswith(seen)
