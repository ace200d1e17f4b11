"""What is written has the keys of its schema, and the schemas in docs are those of the code."""

import json
from pathlib import Path

import pytest
from conftest import paredown
from pydantic import ValidationError

from paredown.benchmarks.selection.choice import Choice

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("of", ["choice", "bench", "measurements", "artifact"])
def test_the_schemas_in_docs_are_current(of: str) -> None:
    file = SCHEMAS / f"{of}.schema.json"
    done = paredown("schema", "--of", of)
    assert file.read_text() == done.stdout, f"write it: paredown schema --of {of} > docs/schemas/{file.name}"


def test_a_choice_is_what_the_record_says(finished: Path) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    found = Choice.model_validate(choice)
    assert found.model_dump(mode="json", by_alias=True, exclude_unset=True) == choice  # no key, no value is lost


@pytest.mark.parametrize("where", ["", "chosen", "conditions"])
def test_a_key_that_is_misspelt_or_missing_is_found(finished: Path, where: str) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    part = choice[where] if where else choice
    name = {"": "pareto", "chosen": "metric_validation", "conditions": "noisy"}[where]
    part[f"{name}_"] = part.pop(name)
    with pytest.raises(ValidationError, match=f"{name}_"):
        Choice.model_validate(choice)
