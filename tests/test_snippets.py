"""The programs of docs/other-languages.md: shown as they are, and their answers are those of the bundle."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import paredown
from paredown.runtime.answers import softmax

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "other-languages.md").read_text()
SNIPPETS = ROOT / "docs" / "snippets"
SOURCES = {".cc", ".java", ".js", ".json", ".rs", ".toml", ".xml"}
BUILT = {"node_modules", "target", "lib"}
# Commands that the page shows. Where the first one fails, packages cannot be had here.
FETCH = {
    "node": "ONNXRUNTIME_NODE_INSTALL_CUDA=skip npm install",
    "rust": "cargo fetch",
    "java": "mvn -q dependency:copy-dependencies -DoutputDirectory=lib",
}
BUILD = {
    "cpp": "g++ -std=c++17 -O2 classify.cc -o classify -I$ONNXRUNTIME_DIR/include -I$TOKENIZERS_CPP_DIR/include "
    "-L$ONNXRUNTIME_DIR/lib -Wl,-rpath,$ONNXRUNTIME_DIR/lib -L$TOKENIZERS_CPP_DIR/rust/target/release "
    "-lonnxruntime -ltokenizers_c -lpthread -ldl -lm",
    "rust": "cargo build --release",
}
RUN = {
    "node": "node classify.js",
    "cpp": "./classify",
    "rust": "cargo run --release --quiet --",
    "java": "ORT_DISABLE_TELEMETRY=1 java -cp 'lib/*' Classify.java",
}
TOOLS = {"node": ("node", "npm"), "cpp": ("g++",), "rust": ("cargo",), "java": ("java", "mvn")}
DIRECTORIES = ("ONNXRUNTIME_DIR", "TOKENIZERS_CPP_DIR")  # of the C++ program: there is no registry to fetch them from


@dataclass(frozen=True)
class Program:
    """A program that was built in `folder`; it runs with a home directory of its own."""

    command: str
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        return shell(self.command, self.folder, *map(str, arguments), HOME=str(self.home))


def shell(command: str, folder: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    defaults = {"ORT_DYLIB_PATH": str(library), "npm_config_fetch_retries": "0"}
    defaults |= {f"{tool.upper()}_HOME": str(Path.home() / f".{tool}") for tool in ("cargo", "rustup")}
    env = {**defaults, **os.environ, **changes}
    if changes:  # paredown switches it off for this process
        env.pop("ORT_DISABLE_TELEMETRY", None)
    line = ["timeout", "900", "bash", "-c", f'{command} "$@"', "bash", *arguments]
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, check=False)


def sources() -> list[str]:
    """Paths of the programs' files from docs/, without what a build left there."""
    files = (path for path in SNIPPETS.rglob("*") if path.suffix in SOURCES and not BUILT & set(path.parts))
    return sorted(path.relative_to(ROOT / "docs").as_posix() for path in files if "lock" not in path.name)


def test_every_program_is_on_the_page() -> None:
    assert sorted(re.findall(r"\]\((snippets/[^)]+)\)", PAGE)) == sources()


@pytest.mark.parametrize("name", sources())
def test_a_program_is_shown_as_it_is(name: str) -> None:
    below = PAGE.partition(f"]({name})")[2]
    block = re.search(r"^```\w+\n(.*?)^```$", below, re.MULTILINE | re.DOTALL)
    assert block is not None
    assert block[1] == (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize("command", [*FETCH.values(), *BUILD.values(), *RUN.values()])
def test_a_command_that_is_tested_is_shown(command: str) -> None:
    assert f"$ {command}" in PAGE.replace("\\\n      ", "")


@pytest.fixture(scope="module", params=RUN)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A program, built in a copy of its folder; skips where a tool or a package is missing."""
    language = request.param
    for tool in TOOLS[language]:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    missing = [name for name in DIRECTORIES if name not in os.environ]
    if language == "cpp" and missing:
        pytest.skip(f"set {' and '.join(missing)}, as docs/other-languages.md says")
    folder = tmp_path_factory.mktemp("program") / language
    shutil.copytree(SNIPPETS / language, folder, ignore=shutil.ignore_patterns(*BUILT))
    (folder / "home").mkdir()
    if language in FETCH and (fetched := shell(FETCH[language], folder)).returncode != 0:
        said = re.sub(r"\x1b\[[\d;]*m", "", fetched.stderr + fetched.stdout).strip()
        pytest.skip(f"{FETCH[language]}: {said.partition(chr(10))[0]:.200}")
    if language in BUILD:
        built = shell(BUILD[language], folder)
        assert built.returncode == 0, built.stderr
    return Program(RUN[language], folder)


def answers(done: subprocess.CompletedProcess[str]) -> list[dict]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def tolerance(bundle: Path) -> float:
    """How far a score may differ. INT8 rounds differently in another version of the runtime."""
    if json.loads((bundle / "manifest.json").read_text())["precision"] == "fp32":
        return 1e-4
    return json.loads((bundle / "golden.json").read_text())["tolerance"]["onnxruntime"]


def changed(bundle: Path, folder: Path, **values: object) -> Path:
    """A copy of the bundle whose manifest has other values."""
    copy = shutil.copytree(bundle, folder / "bundle")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | values))
    return copy


@pytest.mark.slow
def test_answers_are_the_golden_ones(program: Program, finished: Path) -> None:
    bundle = finished / "bundle"
    rows = json.loads((bundle / "golden.json").read_text())["rows"]
    found = answers(program(bundle))
    assert [(x["text"], x["label"]) for x in found] == [(row["text"], row["answer"]) for row in rows]
    scores = [softmax(np.array([row["output"]])).max() for row in rows]
    assert [x["score"] for x in found] == pytest.approx(scores, abs=tolerance(bundle))


@pytest.mark.slow
def test_nothing_is_left_in_the_home_directory(program: Program, finished: Path) -> None:
    answers(program(finished / "bundle", "a good film"))
    assert not [path for path in program.home.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_long_and_foreign_texts_have_the_answers_of_the_bundle(program: Program, finished: Path) -> None:
    bundle, texts = finished / "bundle", ["good " * 50 + "awful " * 100, "A naïve, LOVELY „Film“ 電影", "dull"]
    with paredown.load_bundle(bundle) as model:
        wanted = model(texts)
    found = answers(program(bundle, *texts))
    assert [x["text"] for x in found] == texts
    assert [x["label"] for x in found] == [x["label"] for x in wanted]
    assert [x["score"] for x in found] == pytest.approx([x["score"] for x in wanted], abs=tolerance(bundle))


@pytest.mark.slow
def test_inputs_are_padded_as_the_manifest_says(program: Program, finished: Path, tmp_path: Path) -> None:
    bundle = finished / "bundle"
    policy = {"truncate": "right", "pad": "right", "pad_to": [24, 32]}
    padded = changed(bundle, tmp_path, batch_size=2, length_policy=policy)
    texts = ["a good film", "good " * 40]
    scores = [x["score"] for x in answers(program(bundle, *texts))]
    assert [x["score"] for x in answers(program(padded, *texts))] == pytest.approx(scores, abs=tolerance(bundle))


@pytest.mark.slow
def test_wrong_input_ends_with_2_and_one_line(program: Program, finished: Path, tmp_path: Path) -> None:
    other = changed(finished / "bundle", tmp_path, runtime="openvino")
    for arguments, word in (
        ((), "usage"),
        ((tmp_path / "nowhere",), "nowhere"),
        ((other, "good"), "paredown choose RUN --candidate NAME"),
    ):
        done = program(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        assert word in done.stderr
