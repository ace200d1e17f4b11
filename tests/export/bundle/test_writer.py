"""Promises 3 and 4: what was measured is what is shipped; untrusted input runs no code."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from bundling import CHOICE, CHOSEN, LATENCY, bundled
from conftest import TASK, make_checkpoint, paredown
from manifests import change_manifest
from tokenizers import Tokenizer
from writing import make_writer

from paredown.compress.models.loading import Checkpoint
from paredown.compress.models.tokenizer_settings import probes
from paredown.export import predictor as predictor_module
from paredown.export.artifact import read_artifact
from paredown.export.bundle.archive import pack, unpack, unpacked
from paredown.export.bundle.writer import Contents, isa_needed, write_bundle
from paredown.export.hardware import INT8_ISA
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.predictor import Predictor
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime import selftest as selftest_module
from paredown.runtime.manifest import BundleError, read_manifest
from paredown.runtime.selftest import selftest, threads_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bundle(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished / "bundle", tmp_path / "bundle")


def test_the_archive_is_the_same_bytes_each_time_and_unpacks_to_the_same_files(bundle: Path, tmp_path: Path) -> None:
    a, b = pack(bundle, tmp_path / "a.tar.gz"), pack(bundle, tmp_path / "b.tar.gz")
    assert a.read_bytes() == b.read_bytes()
    out = unpack(a, tmp_path / "out")
    files = {p.relative_to(bundle): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    assert files == {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    selftest(out)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda b: (b / "tokenizer.json").write_text("{}"), "tokenizer.json: 2 bytes"),
        (lambda b: flip(b / "model" / "model.onnx"), "model/model.onnx: its sha256"),
        (lambda b: (b / "golden.json").unlink(), "golden.json: missing"),
        (lambda b: (b / "model" / "extra.onnx").write_text("x"), "extra.onnx: not in the manifest"),
        (lambda b: link(b / "README.md"), "README.md: not a regular file"),
        (lambda b: (b / "manifest.json").write_text("{"), "manifest.json: damaged"),
        (lambda b: (b / "manifest.sha256").unlink(), "is this a bundle?"),
        (lambda b: link(b / "manifest.json"), "is this a bundle?"),
        (lambda b: (b / "manifest.json").unlink(), "is this a bundle?"),
        (lambda b: change_manifest(b, schema=99), "schema 99"),
        (lambda b: change_manifest(b, model="../../etc/passwd"), "not a path inside"),
        (lambda b: change_manifest(b, runtime="magic"), "unknown runtime 'magic'"),
        (lambda b: change_manifest(b, files=None), "manifest.files must be object"),
        (lambda b: change_manifest(b, files={"x": 3}), "manifest.files.x must be object"),
        (lambda b: change_manifest(b, files={"a/../x": {"sha256": "0" * 64, "bytes": 1}}), "not a path inside"),
        (lambda b: change_manifest(b, extra=1), r"manifest must not contain \['extra'\] properties"),
        (lambda b: change_manifest(b, name="../x"), "manifest.name must match pattern"),
        (lambda b: change_manifest(b, model="tokenizer.json"), "opens .onnx or .ort files"),
        (lambda b: change_manifest(b, max_length="x"), "manifest.max_length must be integer"),
        (
            lambda b: change_manifest(b, max_length=10**12),
            "manifest.max_length must be smaller than",
        ),
        (lambda b: change_manifest(b, precision="fp17"), "manifest.precision must be one of"),
        (lambda b: change_manifest(b, outputs=[]), "manifest.outputs must contain at least 1 items"),
        (lambda b: change_manifest(b, golden="other.json"), "not among its files"),
        (lambda b: change_manifest(b, labels=["positive", "negative"]), "labels say otherwise"),
        (lambda b: change_manifest(b, labels=["a", "a"]), "manifest.labels must contain unique items"),
        (lambda b: change_manifest(b, isa={"needs_one_of": ["amx_int9"], "packed_on": []}), "has none of amx_int9"),
        (lambda b: change_manifest(b, requirements={"no-such-package": "1"}), "no-such-package is not installed"),
    ],
)
def test_a_bundle_that_is_not_what_it_says_fails(bundle: Path, damage, word: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError, match=word):
        selftest(bundle)
    done = paredown("verify", bundle)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    with pytest.raises(BundleError):
        Predictor(bundle)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("threads", [1, None])
def test_a_bundle_is_opened_with_the_threads_that_were_fastest(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, threads: int | None
) -> None:
    """Many rows use the cores that a single one leaves, in several calls, or in a session that has them all."""
    for module in (selftest_module, predictor_module):
        monkeypatch.setattr(module, "usable_cores", lambda: 3)
    opened: list[int] = []
    open_session = selftest_module.open_session
    monkeypatch.setattr(selftest_module, "open_session", lambda *a: opened.append(a[3]) or open_session(*a))
    found = json.loads((finished / "measurements.json").read_text())["candidates"]
    name = f"distil-1/{runtime}/fp32"
    artifact = read_artifact(next(finished / c["artifact"] for c in found if c["name"] == name))
    choice = CHOICE | {"chosen": CHOSEN | {"latency_ms": LATENCY | {"threads": threads}}}
    texts = [f"a film {i % 7 * 'very '}good" for i in range(100)]
    out = write_bundle(tmp_path / "bundle", artifact, Contents("x", choice, texts))
    manifest = read_manifest(out)
    assert manifest.get("threads") == threads
    assert (threads_of(manifest), threads_of({"threads": 4096})) == (threads or 3, 3)
    opened.clear()
    as_measured, all_cores = Predictor(out), Predictor(out, 3)
    assert opened == [threads or 3, 3]
    for ours, theirs in zip(as_measured(texts), all_cores(texts), strict=True):
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)
    as_measured(texts)
    assert opened[2:] == ([3] if threads and runtime == "openvino" else [])  # once


def test_requirements_are_locked_with_all_that_they_bring(finished: Path) -> None:
    manifest = json.loads((finished / "bundle" / "manifest.json").read_text())
    lines = (finished / "bundle" / "requirements.txt").read_text().splitlines()
    direct = [f"{name}=={number}" for name, number in manifest["requirements"].items()]
    assert lines[: len(direct)] == direct
    brought = {f"{name}=={entry['version']}" for name, entry in manifest["environment"].items()}
    assert set(lines) == brought
    assert len(lines) > len(direct)
    assert len(set(lines)) == len(lines)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target.parent.parent / "target")
    path.symlink_to(target.parent.parent / "target")


def test_another_model_under_a_right_manifest_fails_the_golden_rows(bundle: Path) -> None:
    golden = json.loads((bundle / "golden.json").read_text())
    golden["rows"][0]["output"][0] += 1.0
    (bundle / "golden.json").write_text(json.dumps(golden))
    manifest = json.loads((bundle / "manifest.json").read_text())
    raw = (bundle / "golden.json").read_bytes()
    manifest["files"]["golden.json"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    change_manifest(bundle, files=manifest["files"])
    with pytest.raises(BundleError, match="golden row 0: off by 1"):
        selftest(bundle)


def test_a_model_that_wants_an_input_nobody_gives_fails(bundle: Path) -> None:
    """Zeros in its place would give answers, and a metric."""
    model = bundle / "model" / "model.onnx"
    graph = onnx.load(model)
    next(entry for entry in graph.graph.input if entry.name == "attention_mask").name = "mask"
    graph.graph.node.insert(0, onnx.helper.make_node("Identity", ["mask"], ["attention_mask"]))
    onnx.save(graph, model)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    raw = model.read_bytes()
    files["model/model.onnx"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    change_manifest(bundle, files=files)
    with pytest.raises(BundleError, match=r"golden row 0: the model does not answer: the model's inputs are .*mask"):
        selftest(bundle)


def test_weights_in_a_file_of_their_own_go_along(teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "made", 32))
    model = artifact.path / artifact.files[0]
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="weights.data", size_threshold=0)
    bundle = bundled(replace(artifact, files=(model.name, "weights.data")), tmp_path / "bundle", ["a good film"])
    shutil.rmtree(artifact.path)
    moved = bundle.rename(tmp_path / "moved")
    selftest(moved)
    selftest(unpack(pack(moved, tmp_path / "a.tar.gz"), tmp_path / "out"))
    (moved / "model" / "weights.data").unlink()
    with pytest.raises(BundleError, match=r"model/weights.data: missing"):
        selftest(moved)


def test_a_model_file_is_no_bundle(teacher: Checkpoint, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    for command in ("verify", "pack"):
        done = paredown(command, plain, *(["--output-dir", tmp_path / "out"] if command == "pack" else []))
        assert done.returncode == 1
        assert "plain.onnx: not a bundle, which is a directory with manifest.json, or its .tar.gz" in done.stderr


def hostile(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_a_hostile_archive_writes_nothing_outside(tmp_path: Path) -> None:
    manifest = b"{}"
    cases = {
        "climb": [(member("x/../../evil"), b"x")],
        "absolute": [(member("/x/manifest.json"), manifest), (member("//etc/evil"), b"x")],
        "symlink": [(member("x/manifest.json", tarfile.SYMTYPE, "/etc/passwd"), b"")],
        "hardlink": [(member("x/manifest.json", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        "device": [(member("x/dev", tarfile.CHRTYPE), b"")],
        "twice": [(member("x/manifest.json"), manifest), (member("x/manifest.json"), manifest)],
        "no manifest": [(member("x/model.onnx"), b"x")],
    }
    for name, members in cases.items():
        archive = hostile(tmp_path / "a.tar.gz", *members)
        with pytest.raises(BundleError):
            unpack(archive, tmp_path / "deep" / "out")
        left = {p.name for p in tmp_path.rglob("*") if p.is_file()}
        assert left <= {"a.tar.gz", "manifest.json"}, name
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b nonsense")
    with pytest.raises(BundleError, match="not a readable"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_an_archive_with_a_file_more_than_its_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "more").write_text("x")
    with (
        pytest.raises(BundleError, match="'more' is not what the manifest says"),
        unpacked(pack(bundle, tmp_path / "a.tar.gz")),
    ):
        pass


def test_verify_never_runs_code_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("selftest.py", "paredown_bundle/session.py", "paredown_bundle/preprocessor.py"):
        (bundle / name).write_text(trap)
    assert paredown("verify", bundle).returncode == 1
    paredown("predict", bundle, "--text", "a good film")
    assert not (tmp_path / "ran").exists()


SCORE = """
import json, sys
from pathlib import Path
import numpy as np
from paredown_bundle.preprocessor import run_rows
from selftest import check_files, open_model, read_manifest
here, rows = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
manifest = read_manifest(here)
check_files(here, manifest)
session, encoder = open_model(here, manifest)
logits = run_rows(session, encoder.ids([text for text, _ in rows]), encoder.pad_id, manifest["outputs"][0])
right = [manifest["labels"][i] == label for i, (_, label) in zip(logits.argmax(-1), rows)]
print(json.dumps(100 * float(np.mean(right))))
"""


def fresh(home: Path, bundle: Path) -> tuple[Path, list]:
    """A virtual environment with the bundle's requirements alone: its python, and the command line of `pip install`."""
    venv.create(home)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check", "install"]
    pip += ["--no-compile", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, "--no-deps", "-r", bundle / "requirements.txt"], check=True, capture_output=True)
    listed = {path.name.split("-")[0] for path in home.glob("lib/*/site-packages/*.dist-info")}
    assert "numpy" in listed
    assert not {"torch", "transformers", "huggingface_hub"} & listed
    return python, pip


def bundle_of(finished: Path, runtime: str, out: Path) -> tuple[Path, float]:
    """The run's bundle for ONNX Runtime, its INT8 teacher's for OpenVINO; and its metric on validation rows: that of
    test rows is sealed for all but the chosen one."""
    choice = json.loads((finished / "choice.json").read_text())
    if choice["chosen"]["runtime"] != runtime:
        measured = json.loads((finished / "measurements.json").read_text())["candidates"]
        name = f"teacher/{runtime}/{'int8-static' if runtime == 'openvino' else 'fp32'}"
        choice |= {"chosen": next(row for row in choice["candidates"] if row["name"] == name)}
        entry = next(row for row in measured if row["name"] == name)
        choice["chosen"]["metric_test"] = entry["metric_test"]  # which choice.json has of the selected one alone
        artifact = read_artifact(finished / entry["artifact"])
        texts = json.loads((finished / "measurements.json").read_text())["golden_texts"]
        write_bundle(out, artifact, Contents("tiny", choice, texts))
    else:
        unpack(finished / "bundle.tar.gz", out)
    return out, choice["chosen"]["metric_validation"]


@pytest.mark.slow  # .ci/run does the first half with the demo's bundle
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_bundle_proves_itself_without_torch_and_gives_the_reported_metric(
    runtime: str, finished: Path, files: dict, tmp_path: Path
) -> None:
    """A fresh environment with numpy, tokenizers and the runtime; then with paredown's base install."""
    out, metric = bundle_of(finished, runtime, tmp_path / "bundle")
    python, pip = fresh(tmp_path / "venv", out)
    for _ in range(2):  # running it does not change the bundle
        done = subprocess.run([python, out / "selftest.py"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("OK: tiny")
    with files["validation"].open(newline="") as file:
        rows = [[row["text"], row["label"]] for row in csv.DictReader(file)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = [python, "-B", "-c", SCORE, out, tmp_path / "rows.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(metric, abs=1e-9)
    if runtime != "onnxruntime":
        return
    subprocess.run([*pip, ROOT], check=True, capture_output=True)
    command = [python.with_name("paredown"), "verify", out, "--data", files["validation"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f": {metric:.2f} (200 rows)" in done.stdout
    texts = [row["text"] for row in json.loads((out / "golden.json").read_text())["rows"]]
    command = [python.with_name("paredown"), "predict", out, *(w for t in texts for w in ("--text", t))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    there = [json.loads(line) for line in done.stdout.splitlines()]
    here = Predictor(out)(texts)
    assert [a["label"] for a in there] == [a["label"] for a in here]
    np.testing.assert_allclose([a["score"] for a in there], [a["score"] for a in here], atol=1e-6)
    command = [python.with_name("paredown"), "run", "x.yaml"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_a_cpu_without_what_the_model_needs_is_refused_with_that_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_manifest(bundle, isa={"needs_one_of": ["avx512_vnni", "avx_vnni"], "packed_on": ["avx512_vnni"]})
    monkeypatch.setattr(selftest_module, "open_session", None)  # must not come that far
    monkeypatch.setattr(selftest_module, "cpu_flags", lambda: {"avx2", "fma"})
    with pytest.raises(BundleError, match=r"this CPU has none of avx512_vnni, avx_vnni: the .* model would give other"):
        selftest(bundle)
    monkeypatch.undo()
    monkeypatch.setattr(selftest_module, "cpu_flags", lambda: {"avx2", "avx_vnni"})
    assert selftest(bundle)["notes"] == []


def test_what_a_cascades_models_need_is_what_it_needs(finished: Path) -> None:
    (made,) = finished.glob("steps/teacher-onnxruntime-int8-dynamic-*/artifact.json")
    artifact = read_artifact(made.parent)
    inner = {"first": {"reduce_range": True}, "then": {"reduce_range": False}}
    assert isa_needed(replace(artifact, details={"cascade": inner})) == sorted(INT8_ISA)
    assert isa_needed(replace(artifact, details={"cascade": inner | {"then": {"reduce_range": True}}})) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda g: g | {"tolerance": {"other": 1.0}}, "no tolerance for onnxruntime; it has other"),
        (lambda g: g | {"tolerance": 1.0}, "damaged"),
        (lambda g: g | {"rows": []}, "no rows"),
        (lambda g: g | {"rows": [g["rows"][0] | {"text": ["x"]}]}, "damaged"),
        (lambda g: g | {"rows": [g["rows"][0] | {"input_ids": "abc"}]}, "damaged"),
        (lambda g: g | {"rows": [g["rows"][0] | {"output": [float("nan")] * 2}]}, "off by nan"),
    ],
)
def test_golden_rows_that_are_none_are_one_error(bundle: Path, change, word: str) -> None:
    golden = json.loads((bundle / "golden.json").read_text())
    raw = json.dumps(change(golden)).encode()
    (bundle / "golden.json").write_bytes(raw)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden.json"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    change_manifest(bundle, files=manifest["files"])
    with pytest.raises(BundleError, match=word):
        selftest(bundle)


def test_the_same_candidate_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        bundle, _ = bundle_of(finished, "openvino", tmp_path / name)
        pack(bundle, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_generation_settings_count_in_a_bundle(finished: Path, kind: str, tmp_path: Path) -> None:
    goes_on = kind == "llama"
    path = make_checkpoint(tmp_path / "c", kind).path if goes_on else make_writer(tmp_path / "c", kind, 0.4).path
    auto = transformers.AutoModelForCausalLM if goes_on else transformers.AutoModelForSeq2SeqLM
    model: Any = auto.from_pretrained(path).eval()
    torch.manual_seed(3)
    for weight in model.parameters() if goes_on else ():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.3)
    model.save_pretrained(path)
    ends = {"eos_token_id": 3 if goes_on else 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    rules = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "bad_words_ids": [[9]], "suppress_tokens": [0]}
    (path / "generation_config.json").write_text(json.dumps({**ends, **rules, "do_sample": True, "temperature": 0.7}))
    task = "text-generation" if goes_on else "text-to-text"
    out = ["--max-length", 32, "--max-new-tokens", 8, "--output-dir", tmp_path / "artefact"]
    done = paredown("export", path, "--task", task, *out)
    assert done.returncode == 0, done.stderr
    texts, choice = ["a good plot was", "film"], json.loads((finished / "choice.json").read_text())
    artifact = read_artifact(tmp_path / "artefact")
    bundle = write_bundle(tmp_path / "bundle", artifact, Contents("x", choice, texts))
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, cwd=bundle)
    assert done.returncode == 0, done.stderr
    encoder, model = artifact.encoder(), auto.from_pretrained(path).eval()
    for text, answer in zip(texts, Predictor(bundle, 1)(texts), strict=True):
        (ids,) = encoder.ids([text])
        given = torch.tensor([ids[:-1] if goes_on else ids])  # without the end that its tokenizer puts there
        made = model.generate(given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=8)[0]
        want = encoder.text(made[given.shape[1] :].tolist() if goes_on else made.tolist())
        assert answer["text"].strip() == want.strip()


@pytest.mark.parametrize("kind", ["bert", "mpnet", "roberta"])
def test_its_tokenizer_says_all_that_it_does(finished: Path, kind: str, tmp_path: Path) -> None:
    """For applications that read tokenizer.json alone: the same tokens, no padding, truncated as for the model."""
    path = make_checkpoint(tmp_path / "c", kind).path
    Tokenizer.from_file(str(path / "tokenizer.json")).save(str(path / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "truncation_side": "left", **names}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    data = json.loads((path / "tokenizer.json").read_text())
    data["padding"] = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                       "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    data["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    (path / "tokenizer.json").write_text(json.dumps(data))
    done = paredown("export", path, "--max-length", 512, "--output-dir", tmp_path / "artefact")
    assert done.returncode == 0, done.stderr
    choice, long = json.loads((finished / "choice.json").read_text()), "the film was good and awful " * 40
    artifact = read_artifact(tmp_path / "artefact")
    bundle = write_bundle(tmp_path / "bundle", artifact, Contents("x", choice, [long, "a film"]))
    manifest = json.loads((bundle / "manifest.json").read_text())
    longest = {"bert": 64, "mpnet": 62, "roberta": 63}[kind]
    assert (manifest["max_length"], manifest["length_policy"]["truncate"]) == (longest, "left")
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    alone = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    for text in (*(probe for probe in probes(alone) if isinstance(probe, str)), long):
        ids = alone.encode(text).ids
        assert ids == theirs(text, truncation=True, max_length=longest)["input_ids"]
    assert len(alone.encode(long).ids) == longest
    assert len(alone.encode_batch(["a film", long])[0].ids) == 4
    assert selftest(bundle)
    (answer,) = Predictor(bundle, 1)([long])
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-5)
