"""What is written has the keys of its schema, and the schemas in docs are those of the code."""

import json
from pathlib import Path

import pytest
from candidates import candidate, measured
from conftest import paredown
from pydantic import ValidationError

from paredown.benchmarks.measurements import CandidateMeasurement, Measurements
from paredown.benchmarks.selection.choice import CandidateResult, Choice
from paredown.benchmarks.selection.selection import ChooseSettings
from paredown.pipeline.api import Manifest, ManifestMetric
from paredown.pipeline.results.measurements import read_measurements
from paredown.pipeline.results.publish import decide, read_choice
from paredown.runtime.errors import InputError

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("of", ["choice", "one_for_all", "bench", "measurements", "artifact"])
def test_the_schemas_in_docs_are_current(of: str) -> None:
    file = SCHEMAS / f"{of}.schema.json"
    done = paredown("schema", "--of", of)
    assert file.read_text() == done.stdout, f"write it: paredown schema --of {of} > docs/schemas/{file.name}"


def test_a_choice_is_what_the_record_says(finished: Path) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    found = Choice.model_validate(choice)
    assert found.model_dump(mode="json", by_alias=True, exclude_unset=True) == choice  # no key, no value is lost


def test_every_candidate_has_every_key(finished: Path) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    for entry in (choice["chosen"], choice["baseline"], *choice["candidates"]):
        assert entry.keys() == CandidateResult.model_fields.keys()


def test_measurements_are_what_the_record_says(finished: Path) -> None:
    written = json.loads((finished / "measurements.json").read_text())
    assert Measurements.model_validate(written).to_json() == written


def test_a_failed_candidate_has_no_figures_and_every_key() -> None:
    failed = CandidateMeasurement(
        name="cut/onnxruntime/fp32", model="cut", runtime="onnxruntime", precision="fp32", steps=[], failed="NaN"
    )
    choice = decide(measured(candidate("teacher/onnxruntime/fp32", 4.0), failed), ChooseSettings()).to_json()
    (entry,) = (entry for entry in choice["candidates"] if entry["name"] == failed.name)
    assert entry.keys() == choice["chosen"].keys()
    assert (entry["drop_upper_95"], entry["size_mb"], entry["rejected_because"]) == (None, None, "NaN")


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("measurements.json", {"schema": 1}, "schema 1; this paredown reads 3: run the recipe again"),
        ("measurements.json", {"metrik": "accuracy"}, "damaged; run the recipe again"),
        ("choice.json", {"schema": 1, "pareto": None}, "or of an older paredown; make it with: paredown choose"),
    ],
)
def test_a_file_of_an_older_version_is_refused_in_one_line(name: str, change: dict, why: str, tmp_path: Path) -> None:
    measurements = measured(candidate("teacher/onnxruntime/fp32", 4.0))
    choice = decide(measurements, ChooseSettings())
    written = {"measurements.json": measurements.to_json(), "choice.json": choice.to_json()}
    for file, content in written.items():
        (tmp_path / file).write_text(json.dumps(content))
    assert read_choice(tmp_path, read_measurements(tmp_path)) == choice
    (tmp_path / name).write_text(json.dumps(written[name] | change))
    with pytest.raises(InputError, match=why):
        read_choice(tmp_path, read_measurements(tmp_path))


def test_a_choice_of_before_all_candidates_had_all_keys_is_read(tmp_path: Path) -> None:
    failed = CandidateMeasurement(
        name="cut/onnxruntime/fp32", model="cut", runtime="onnxruntime", precision="fp32", steps=[], failed="NaN"
    )
    measurements = measured(candidate("teacher/onnxruntime/fp32", 4.0), failed)
    choice = decide(measurements, ChooseSettings()).to_json()
    for entry in choice["candidates"]:
        for key in ("drop_upper", "drop_upper_95", "rejected_because"):
            if entry[key] is None:
                del entry[key]
    (tmp_path / "choice.json").write_text(json.dumps(choice))
    assert read_choice(tmp_path, measurements).candidates[-1].drop_upper_95 is None


def test_the_manifest_of_the_api_has_keys_of_its_schema() -> None:
    schema = json.loads(paredown("schema", "--of", "manifest").stdout)
    assert Manifest.model_fields.keys() <= schema["properties"].keys()
    assert ManifestMetric.model_fields.keys() == schema["properties"]["metric"]["properties"].keys()


@pytest.mark.parametrize("where", ["", "chosen", "conditions"])
def test_a_key_that_is_misspelt_or_missing_is_found(finished: Path, where: str) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    part = choice[where] if where else choice
    name = {"": "pareto", "chosen": "metric_validation", "conditions": "noisy"}[where]
    part[f"{name}_"] = part.pop(name)
    with pytest.raises(ValidationError, match=f"{name}_"):
        Choice.model_validate(choice)
