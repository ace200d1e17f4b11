"""The manifest: one schema, which the standard's own library reads as we do; every byte of a bundle is covered."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifest_validator import TARGET, generated
from manifests import EMPTY_FILE, EXAMPLE

from paredown.export.bundle.writer import CODE
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime import selftest as selftest_module
from paredown.runtime.manifest import SCHEMA as VERSION
from paredown.runtime.manifest import SCHEMA_FILE, BundleError, check_files, read_manifest, write_manifest
from paredown.runtime.manifest_validator import JsonSchemaValueException, validate
from paredown.runtime.selftest import selftest

SCHEMA = json.loads(SCHEMA_FILE.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.just(10**12),
    st.sampled_from([0.5, "", "x", "1\n", [], [1], ["a", "a"], {}, {"a": 1}]),
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, item in inner for found in places(item, (*path, key))]


def test_the_schema_is_one_and_what_is_written_keeps_to_it(finished: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    known = {precision for runtime in RUNTIMES.values() for precision in runtime.SPEC.all_precisions}
    assert set(SCHEMA["properties"]["precision"]["enum"]) == known
    VALIDATOR.validate(EXAMPLE)
    validate(EXAMPLE)
    assert SCHEMA["properties"]["schema"]["const"] == VERSION
    bundle = finished / "bundle"
    VALIDATOR.validate(json.loads((bundle / "manifest.json").read_text()))
    assert (bundle / "paredown_bundle/manifest.schema.json").read_bytes() == SCHEMA_FILE.read_bytes()


def test_the_validator_is_the_one_of_the_schema() -> None:
    assert TARGET.read_text() == generated(), "run: make validator"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp7"}, "manifest.precision must be one of ['fp32', "),
        ({"pad_id": 3.0}, "manifest.pad_id must be integer"),
        ({"pad_id": True}, "manifest.pad_id must be integer"),
        ({"version": "1\n"}, "manifest.version must match pattern ^[0-9]+$"),
        ({"labels": ["a", "a"]}, "manifest.labels must contain unique items"),
        ({"more": 1, "and": 2}, "manifest must not contain ['and', 'more'] properties"),
        ({"files": {"a {b} %s": {"bytes": 1}}}, "manifest.files.a {b} %s must contain ['sha256'] properties"),
        ({"generation": []}, "manifest.generation must be object"),
        ({"generation": {"decoder": "d", "start_id": 0}}, "manifest.generation must contain ['eos_id', "),
        ({"generation": {"layers": 1}}, "manifest.generation must contain ['ends', 'head_size', "),
    ],
)
def test_what_breaks_the_schema_is_named_with_what_was_expected(change: dict, words: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, EXAMPLE | change)
    with pytest.raises(BundleError, match=re.escape(f"manifest.json: {words}")) as refusal:
        read_manifest(tmp_path)
    assert str(refusal.value).endswith("(schema 3)")


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(places(EXAMPLE)), ODD, st.sampled_from(["replace", "remove", "add"]))
def test_our_reading_of_the_schema_is_the_standards(place: tuple, odd: object, how: str) -> None:
    """Where the small reader that travels with the bundle says yes, so does jsonschema; and where it says no."""
    manifest = json.loads(json.dumps(EXAMPLE))
    parent = manifest
    for key in place[:-1]:
        parent = parent[key]
    if how == "remove":
        del parent[place[-1]]
    elif how == "add" and isinstance(parent, dict):
        parent["more"] = odd
    else:
        parent[place[-1]] = odd
    try:
        validate(manifest)
    except JsonSchemaValueException:
        stricter = odd == "1\n"  # "$" matches before a last line break; ours does not
        assert stricter or not VALIDATOR.is_valid(manifest)
    else:
        VALIDATOR.validate(manifest)


def test_a_flipped_byte_in_any_file_is_caught_before_a_runtime_opens_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    selftest(bundle)

    def tripwire(*args: object) -> None:
        raise AssertionError("a runtime was opened")

    monkeypatch.setattr(selftest_module, "open_session", tripwire)
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert {"manifest.json", "manifest.sha256", "model.onnx", "sbom.cdx.json"} <= {path.name for path in files}
    for path in files:
        raw = path.read_bytes()
        for place in {0, len(raw) // 3, len(raw) // 2, len(raw) - 1}:
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            with pytest.raises(BundleError, match=path.name if path.name != "manifest.sha256" else "sha256"):
                selftest(bundle)
        path.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        (f"{CODE}/manifest.schema.json", None, "manifest.schema.json: missing"),
        (f"{CODE}/manifest_validator.py", None, "No module named 'paredown_bundle.manifest_validator'"),
        (f"{CODE}/manifest_validator.py", (b"NoneType = type", b"NoneTypf = type"), "name 'NoneType' is not defined"),
        (f"{CODE}/manifest_validator.py", (b"[A-Za-z0-9_]", b"[Z-Aa-z0-9_]"), "unpack the bundle again"),
        (f"{CODE}/manifest_validator.py", (b"Generated by", b"Generated bz"), "manifest_validator.py: its sha256"),
        (f"{CODE}/manifest.schema.json", (b"version of", b"version og"), "manifest.schema.json: its sha256"),
        (
            "paredown_bundle/manifest.py",
            (b"hashlib.sha256(raw)", b"hashlic.sha256(raw)"),
            "NameError: name 'hashlic' is not defined",
        ),
        (f"{CODE}/session.py", None, "No module named 'paredown_bundle.session'"),
        (f"{CODE}/session.py", (b"import ctypes", b"import\0ctypes"), "unpack the bundle again"),
    ],
)
def test_selftest_alone_names_what_it_lacks_itself(
    name: str, change: tuple[bytes, bytes] | None, word: str, finished: Path, tmp_path: Path
) -> None:
    """What it reads before it has hashed anything is the bundle's own, and may be what was damaged."""
    bundle = shutil.copytree(finished / "bundle", tmp_path / "bundle")
    raw = (bundle / name).read_bytes()
    (bundle / name).unlink()
    if change is not None:
        assert change[0] in raw
        (bundle / name).write_bytes(raw.replace(*change, 1))
    refused_alone(bundle, word)


def test_selftest_alone_without_its_libraries(finished: Path) -> None:
    refused_alone(finished / "bundle", "No module named 'numpy'; pip install --no-deps -r requirements.txt", "-S")


def refused_alone(bundle: Path, word: str, *flags: str) -> None:
    command = [sys.executable, *flags, bundle / "selftest.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("FAILED: ")
    assert done.stderr.count("\n") == 1
    assert word in done.stderr


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"[]", "damaged"),
        (b'{"schema": NaN}', "damaged"),
        (b'{"schema": true}', "schema True"),
        (b'{"schema": 1}', "schema 1, this program reads 3; pack it again"),
        (b"[" * 10**5, "damaged"),
        (b'{"schema": 3}' + b" " * 10**7, "more than 10 MB"),
    ],
)
def test_a_manifest_that_is_none_is_one_line(raw: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError, match=word):
        read_manifest(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b", "a\0b", ""])
def test_a_name_that_leaves_the_bundle_is_refused(name: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, EXAMPLE | {"files": EXAMPLE["files"] | {name: EMPTY_FILE}})
    with pytest.raises(BundleError, match="not a path inside the bundle"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("interval", [[], [99.0], [1.0, 2.0, 3.0], ["1", 2], [0, 10**400]])
def test_an_interval_is_two_numbers(interval: list, tmp_path: Path) -> None:
    write_manifest(tmp_path, EXAMPLE | {"metric": EXAMPLE["metric"] | {"metric_test_ci": interval}})
    with pytest.raises(BundleError, match=r"metric\.metric_test_ci"):
        read_manifest(tmp_path)
    raw = (tmp_path / "manifest.json").read_bytes().replace(b"1.5", b"1e999")
    (tmp_path / "manifest.json").write_bytes(raw)
    with pytest.raises(BundleError, match="damaged"):
        read_manifest(tmp_path)


def test_names_of_files_reach_no_terminal_as_they_are(tmp_path: Path) -> None:
    for name in ("\x1b]0;owned\x07", "\x9b31m", "a\nb"):
        (tmp_path / name).write_text("x")
        with pytest.raises(BundleError) as refusal:
            check_files(tmp_path, EXAMPLE | {"files": {}})
        assert str(refusal.value).isprintable()
        (tmp_path / name).unlink()
