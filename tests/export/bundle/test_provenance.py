"""Where a model comes from, as CycloneDX, in-toto and SLSA define it: read by their own libraries."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundling import CHOICE, CHOSEN, bundle_of
from conftest import TASK
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement

from paredown.compress.models.loading import Checkpoint
from paredown.compress.models.model_card import hub_name
from paredown.export.artifact import read_artifact
from paredown.export.bundle.model_card import About
from paredown.export.bundle.provenance import PREDICATE, STATEMENT, Lineage, Source
from paredown.export.bundle.writer import Contents, write_bundle
from paredown.runtime.manifest import check_files, read_manifest

PROVENANCE: Any = vars(provenance_pb2)["Provenance"]  # made when it is imported
DIGEST, COMMIT = "ab" * 32, "c0ffee" * 6 + "c0ff"
CERTIFICATE = {"split": "test", "rows": 200, "metric": 90.0, "metric_baseline": 91.0, "drop": 1.0,
               "drop_upper_95": 2.5, "certified_at": "2026-01-01T00:00:00+00:00", "looks": 1}  # fmt: skip
LINEAGE = Lineage(
    checkpoint=Source("owner/name", COMMIT, {"model.safetensors": DIGEST}),
    others=[Source("small", weights={"model.safetensors": DIGEST})], architecture="BertForSequenceClassification",
    data={"train": DIGEST}, recipe=DIGEST, recipe_commit="123456789abc+",
    steps={"teacher-onnxruntime-fp32": DIGEST}, machine={"cpu": "x", "cores": 2, "versions": {"numpy": "2"}},
    finished="2026-01-01T00:00:00+00:00",
)  # fmt: skip
ABOUT = About(base_model="google/bert-base", data={"train": "train.csv"}, rows={"train": 100})


@pytest.fixture(scope="module")
def made(untrained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    bundle_of(untrained, TASK, folder)
    return folder


def written(made: Path, out: Path, lineage: Lineage = LINEAGE, about: About = ABOUT) -> Path:
    choice = CHOICE | {"chosen": CHOSEN | {"certificate": CERTIFICATE}, "certificate": CERTIFICATE}
    contents = Contents("tiny", choice, ["a film"], about=about, lineage=lineage)
    return write_bundle(out, read_artifact(made / "made"), contents)


def statement_of(bundle: Path) -> dict[str, Any]:
    """provenance.json, as in-toto's own library reads it."""
    content = json.loads((bundle / "provenance.json").read_text())
    Statement.copy_from_pb(json_format.ParseDict(content, Statement([], "", {}).pb)).validate()
    json_format.ParseDict(content["predicate"], PROVENANCE())  # no field that SLSA does not have
    assert (content["_type"], content["predicateType"]) == (STATEMENT, PREDICATE)
    return content


def test_a_statement_names_files_recipe_steps_machine_and_data(made: Path, tmp_path: Path) -> None:
    bundle = written(made, tmp_path / "bundle")
    content, manifest = statement_of(bundle), read_manifest(bundle)
    check_files(bundle, manifest)
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in content["subject"]}
    assert subjects == {name: manifest["files"][name]["sha256"] for name in ("model/model.onnx", "tokenizer.json")}
    build, run = content["predicate"]["buildDefinition"], content["predicate"]["runDetails"]
    assert build["externalParameters"]["recipe"] == {"digest": {"sha256": DIGEST}, "commit": "123456789abc+"}
    assert build["internalParameters"]["steps"] == LINEAGE.steps
    found = {entry["name"]: entry["digest"] for entry in build["resolvedDependencies"]}
    assert found == {
        name: {"sha256": DIGEST} for name in ("owner/name/model.safetensors", "small/model.safetensors", "data/train")
    }
    uris = [entry.get("uri") for entry in build["resolvedDependencies"]]
    assert uris == [f"pkg:huggingface/owner/name@{COMMIT}", None, None]
    assert run["builder"]["version"] == {"paredown": manifest["tool"]["paredown"], "numpy": "2"}  # not those of today
    assert run["builder"]["builderDependencies"][0]["annotations"] == {"cpu": "x", "cores": 2}
    again = written(made, tmp_path / "again")
    for name in ("provenance.json", "sbom.cdx.json", "manifest.json"):
        assert (bundle / name).read_bytes() == (again / name).read_bytes()


def test_what_is_not_known_is_not_there(made: Path) -> None:
    content = statement_of(made / "bundle")
    build = content["predicate"]["buildDefinition"]
    assert "resolvedDependencies" not in build
    assert "recipe" not in build["externalParameters"]
    assert build["internalParameters"] == {"checkpointFiles": read_manifest(made / "bundle")["source"]["checkpoint"]}


def test_the_bill_of_materials_has_the_models_card(made: Path, tmp_path: Path) -> None:
    for number, lineage in enumerate(
        (
            LINEAGE,
            Lineage(),
            replace(LINEAGE, checkpoint=Source("teacher", None, {"a": DIGEST}), others=[Source("teacher")]),
        )
    ):
        raw = (written(made, tmp_path / str(number), lineage) / "sbom.cdx.json").read_text()
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw) is None
    model = json.loads((tmp_path / "0" / "sbom.cdx.json").read_text())["metadata"]["component"]
    card = model["modelCard"]
    (data,) = card["modelParameters"]["datasets"]
    assert (data["name"], data["description"]) == ("train.csv", "100 rows")
    assert {"name": "paredown:sha256", "value": DIGEST} in data["contents"]["properties"]
    validation, certificate = card["quantitativeAnalysis"]["performanceMetrics"]
    assert validation["confidenceInterval"] == {"lowerBound": "99.0000", "upperBound": "100.0000"}
    assert (certificate["value"], certificate["confidenceInterval"]) == ("1.0000", {"upperBound": "2.5000"})
    assert TASK.limits in card["considerations"]["technicalLimitations"]
    assert {p["name"]: p["value"] for p in model["properties"]} == {
        "paredown:recipe:sha256": DIGEST,
        "paredown:recipe:commit": "123456789abc+",
    }
    ancestors = {entry["name"]: entry for entry in model["pedigree"]["ancestors"]}
    assert ancestors["owner/name"]["purl"] == f"pkg:huggingface/owner/name@{COMMIT}"
    assert "purl" not in ancestors["small"]
    assert ancestors["google/bert-base"]["purl"] == "pkg:huggingface/google/bert-base"
    local = json.loads((tmp_path / "2" / "sbom.cdx.json").read_text())["metadata"]["component"]
    teacher = next(entry for entry in local["pedigree"]["ancestors"] if entry["name"] == "teacher")
    assert "purl" not in teacher
    assert teacher["components"][0]["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]


def test_a_snapshot_of_the_hub_has_its_name_and_commit(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--some-name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert hub_name(snapshot) == ("owner/some-name", COMMIT)
    assert hub_name(tmp_path) == (tmp_path.name, None)


@pytest.mark.parametrize(
    ("base", "name", "purl"),
    [
        ("bert-base-uncased", "bert-base-uncased", "pkg:huggingface/bert-base-uncased"),
        ("./bert", "bert", None),
        ("../bert", "bert", None),
        ("models/mine", "mine", None),  # a directory
        ("/home/me/bert", "bert", None),
    ],
)
def test_a_base_model_in_a_directory_has_no_package_url(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, name: str, purl: str | None
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    bundle = written(made, tmp_path / "bundle", Lineage(), About(base_model=base))
    (found,) = json.loads((bundle / "sbom.cdx.json").read_text())["metadata"]["component"]["pedigree"]["ancestors"]
    assert (found["name"], found.get("purl")) == (name, purl)
