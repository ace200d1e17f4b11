"""The model card is what the Hub reads, the SBOM what CycloneDX defines, and the sizes are those on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

from paredown.export.bundle.environment import installed
from paredown.export.bundle.model_card import About, escaped, model_card, read_card


def test_the_hub_reads_the_card_and_its_metric(finished: Path) -> None:
    bundle, choice = finished / "bundle", json.loads((finished / "choice.json").read_text())
    card: Any = ModelCard((bundle / "README.md").read_text())
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "onnx"
    result, bound = card.data.eval_results
    assert result.metric_type == "accuracy"
    assert (bound.metric_type, bound.dataset_split) == ("drop_upper_95", choice["certificate"]["split"])
    assert bound.metric_value == pytest.approx(choice["certificate"]["drop_upper_95"], abs=1e-4)
    assert result.metric_value == pytest.approx(choice["chosen"]["metric_test"], abs=1e-4)
    assert result.dataset_split == "test"
    low, high = choice["chosen"]["metric_test_ci"]
    for words in (f"{low:.2f} to {high:.2f}", "test: 200 rows, test.csv", "not stated there", "Intended use", "Size"):
        assert words in card.text


def test_licence_language_and_origin_come_from_the_checkpoints_card(finished: Path, tmp_path: Path) -> None:
    assert read_card(tmp_path) == About()
    head = "---\nlicense: apache-2.0\nlanguage: [en, de]\nbase_model: a/b\ndatasets: glue\n---\n# x\n---\n"
    (tmp_path / "README.md").write_text(head)
    about = read_card(tmp_path)
    assert about == About(licence="apache-2.0", language=("en", "de"), base_model="a/b", datasets=("glue",))
    manifest = json.loads((finished / "bundle" / "manifest.json").read_text())
    choice = json.loads((finished / "choice.json").read_text())
    data: Any = ModelCard(model_card(manifest, choice, about, {})).data
    assert (data.license, data.language, data.base_model, data.datasets) == (
        "apache-2.0",
        ["en", "de"],
        "a/b",
        ["glue"],
    )
    for odd in (
        "---\n- a\n---\n",
        "---\n!!python/object:os.system x\n---\n",
        "no head",
        "---\nlicense: [1, {}]\n---\n",
        "---",
    ):
        (tmp_path / "README.md").write_text(odd)
        assert read_card(tmp_path) == About()


def test_the_sbom_is_valid_and_names_every_distribution(finished: Path) -> None:
    bundle = finished / "bundle"
    raw = (bundle / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(raw) is None
    bom, manifest = json.loads(raw), json.loads((bundle / "manifest.json").read_text())
    assert {c["name"]: c["version"] for c in bom["components"]} == {
        name: entry["version"] for name, entry in manifest["environment"].items()
    }
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    hashes = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    assert hashes == {name: manifest["files"][name]["sha256"] for name in hashes}
    assert manifest["model"] in hashes
    assert "timestamp" not in raw
    (needs,) = [d["dependsOn"] for d in bom["dependencies"] if d["ref"] == model["bom-ref"]]
    assert len(needs) == 3


def test_an_environment_is_the_distributions_with_all_that_they_need() -> None:
    found = {entry.name: entry for entry in installed(["tokenizers", "onnxruntime", "numpy", "no-such-package"])}
    assert "protobuf" in found["onnxruntime"].needs
    assert "protobuf" in found
    assert "huggingface-hub" not in found, "no bundle uses the client of the hub"
    assert found["tokenizers"].needs == ()
    assert "pytest" not in found, "extras are not followed"
    import numpy

    on_disk = sum(
        p.stat().st_size for p in Path(numpy.__file__).parent.rglob("*") if p.suffix != ".pyc" and p.is_file()
    )
    assert found["numpy"].bytes >= on_disk


def test_labels_are_text_in_markdown(finished: Path) -> None:
    manifest = json.loads((finished / "bundle" / "manifest.json").read_text())
    choice = json.loads((finished / "choice.json").read_text())
    manifest["labels"] = [
        "<script>alert(1)</script>",
        "[a](http://b)",
        "x|y\n# z",
        "*s* `c` _u_ $m$ ~~d~~",
        "\x1b[31m",
        "{{ 7 * 7 }}",
    ]
    text = model_card(manifest, choice, About(data={"test": "<img src=x>"}, rows={"test": 1}), {})
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert "{{ 7 \\* 7 }}" in text  # no template
    assert r"\[a\](http://b), x\|y # z, \*s\* \`c\` \_u\_ \$m\$ \~\~d\~\~" in text
    assert escaped("good & bad, caf\u00e9 (1)") == "good &amp; bad, caf\u00e9 (1)"
