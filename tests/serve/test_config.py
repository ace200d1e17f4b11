"""The serving configuration: what was measured, unless an option says otherwise or the cores do not suffice."""

from pathlib import Path

from bundling import SERVING, bundle_of
from conftest import TASK
from serving import starting

from paredown.compress.models.loading import Checkpoint
from paredown.export.bundle.archive import pack
from paredown.runtime.selftest import usable_cores
from paredown.serve.config import Settings, configured

MEASURED = {"workers": 2, "threads": 1, "batch_rows": 4}


def test_an_option_counts_before_the_bundle_and_the_bundle_before_the_defaults() -> None:
    assert configured({}, None, 8) == {"configured_by": "defaults"}
    assert configured({"workers": None}, SERVING, 2) == {**MEASURED, "configured_by": "the bundle, measured"}
    assert configured({"threads": 2, "workers": None}, SERVING, 8) == {"threads": 2, "configured_by": "options"}
    assert "2 of 8 cores" in configured({}, SERVING, 8)["configured_by"]


def test_a_configuration_that_needs_more_cores_is_not_taken() -> None:
    found = configured({}, SERVING | {"threads": 3}, 4)
    assert found == {
        "configured_by": "defaults, not the bundle: its 2 workers of 3 threads need 6 cores, and 4 are here"
    }
    assert Settings.model_validate(found).workers == 1


def test_a_server_starts_with_the_configuration_of_its_bundle(untrained: Checkpoint, tmp_path: Path) -> None:
    workers = min(2, usable_cores())
    bundle = bundle_of(untrained, TASK, tmp_path / "made", serving=SERVING | {"instances": workers})
    archive = pack(bundle, tmp_path / "tiny.tar.gz")
    with starting(tmp_path) as start:
        server = start(archive, measured=True)
        line = next(line for line in server.lines() if line["message"] == "serving")
        assert {name: line[name] for name in MEASURED} == MEASURED | {"workers": workers}
        assert line["configured_by"].startswith("the bundle, measured")
        assert server.ask("/predict", {"text": ["a film"] * 9})[0] == 200
        assert server.stop() == 0
        line = start(bundle, "--batch-rows", 3, measured=True).lines()[-1]
        assert (line["workers"], line["batch_rows"], line["configured_by"]) == (1, 3, "options")
