import asyncio
import hashlib
import itertools
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from serving import PATIENCE_S, app_of, client_of
from strangers import endless, key_pair

from paredown.export.bundle.archive import pack
from paredown.export.bundle.signature import sign
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError
from paredown.serve.config import Settings
from paredown.serve.models import manager as models
from paredown.serve.models.repository import find

ASK = {"text": "a good film"}


@pytest.fixture
def directory(finished: Path, tmp_path: Path) -> Path:
    """films/1, films/2 (an archive) and a model `other`."""
    models = tmp_path / "models"
    (models / "films").mkdir(parents=True)
    shutil.copytree(finished / "bundle", models / "films" / "1")
    pack(finished / "bundle", models / "films" / "2.tar.gz")
    shutil.copytree(finished / "bundle", models / "other")
    return models


def states(client) -> dict[tuple[str, str], str]:
    return {(row["name"], row["version"]): row["state"] for row in client.post("/v2/repository/index").json()}


def test_versions_are_found_and_opened_when_asked_for(directory: Path) -> None:
    with client_of(models=directory) as (client, _, _):
        ready = {("films", "1"): "UNAVAILABLE", ("films", "2"): "READY", ("other", "1"): "READY"}
        assert states(client) == ready
        assert [row["name"] for row in client.post("/v2/repository/index", json={"ready": True}).json()] == [
            "films", "other",
        ]  # fmt: skip
        assert client.post("/predict", json={**ASK, "model": "films"}).json()["version"] == "2"
        assert client.get("/v2/models/films/versions/1/ready").status_code == 503
        assert client.post("/predict", json={**ASK, "model": "films", "version": "1"}).json()["version"] == "1"
        assert states(client)["films", "1"] == "READY"
        assert client.get("/v2/models/films").json()["versions"] == ["1", "2"]


def test_a_model_is_swapped_while_it_answers(directory: Path) -> None:
    (directory / "films" / "2.tar.gz").rename(directory / "waiting.tar.gz")
    statuses, versions, stop = set(), [], threading.Event()
    with client_of(models=directory) as (client, _, _):

        def ask() -> None:
            while not stop.is_set():
                reply = client.post("/predict", json={**ASK, "model": "films"})
                statuses.add(reply.status_code)
                versions.append(reply.json().get("version"))

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for thread in clients:
            thread.start()
        (directory / "waiting.tar.gz").rename(directory / "films" / "2.tar.gz")
        assert client.post("/v2/repository/models/films/load").status_code == 200
        until = time.monotonic() + PATIENCE_S
        while "2" not in versions and time.monotonic() < until:
            time.sleep(0.01)
        stop.set()
        for thread in clients:
            thread.join()
        assert states(client)["films", "1"] == "UNAVAILABLE"
        assert client.post("/predict", json={**ASK, "model": "films"}).json()["version"] == "2"
    assert statuses == {200}
    assert versions[0] == "1"
    assert "2" in versions  # the last one need not be: a client may write down an early answer late


def test_a_bad_bundle_changes_nothing(directory: Path) -> None:
    with client_of(models=directory) as (client, _, _):
        broken = shutil.copytree(directory / "films" / "1", directory / "films" / "3")
        (broken / "tokenizer.json").write_text("{}")
        reply = client.post("/v2/repository/models/films/load", json={})
        assert reply.status_code == 400
        assert "tokenizer.json" in reply.json()["error"]
        assert client.post("/predict", json={**ASK, "model": "films"}).json()["version"] == "2"
        asked = client.post("/predict", json={**ASK, "model": "films", "version": "3"})
        assert asked.status_code == 503
        row = next(row for row in client.post("/v2/repository/index").json() if row["version"] == "3")
        assert "tokenizer.json" in row["reason"]


def test_a_worker_that_comes_back_serves_what_opens(directory: Path) -> None:
    broken = shutil.copytree(directory / "films" / "1", directory / "films" / "3")
    (broken / "tokenizer.json").write_text("{}")
    with client_of(models=directory) as (client, models, _):
        assert client.post("/predict", json={**ASK, "model": "films"}).json()["version"] == "2"
        models.served.pop(("films", "2")).batcher.close()  # as the memory cap does
        assert client.post("/predict", json={**ASK, "model": "films"}).json()["version"] == "2"


def test_a_new_name_is_loaded_when_told(directory: Path) -> None:
    with client_of(models=directory) as (client, _, _):
        assert client.post("/v2/repository/models/late/load").status_code == 404
        shutil.copytree(directory / "other", directory / "late")
        assert client.post("/v2/repository/models/late/load").status_code == 200
        assert client.post("/predict", json={**ASK, "model": "late"}).status_code == 200
        shutil.rmtree(directory / "late")
        assert client.post("/v2/repository/models/films/load").status_code == 200  # reads the directory
        assert client.post("/v2/repository/models/late/unload").status_code == 200
        assert client.post("/predict", json={**ASK, "model": "late"}).status_code == 404


def test_unloaded_means_unloaded(directory: Path) -> None:
    with client_of(models=directory) as (client, _, _):
        unload = {"parameters": {"unload_dependents": False}}
        assert client.post("/v2/repository/models/films/unload", json=unload).status_code == 200
        assert client.post("/predict", json={**ASK, "model": "films"}).status_code == 503
        assert client.get("/v2/models/films/ready").status_code == 503
        assert client.post("/predict", json={**ASK, "model": "other"}).status_code == 200
        assert client.post("/v2/repository/models/films/load", json={}).status_code == 200
        assert client.post("/predict", json={**ASK, "model": "films"}).status_code == 200
        assert client.post("/v2/repository/models/..%2Fother/load").status_code == 404
        given = {"parameters": {"file:1/model.onnx": "AAAA"}}
        assert client.post("/v2/repository/models/films/load", json=given).status_code == 400


def test_strangers_may_not_switch_models(directory: Path) -> None:
    with client_of(models=directory, host="0.0.0.0", load="none") as (client, _, _):
        assert client.post("/v2/repository/models/films/unload").status_code == 403


@pytest.fixture
def same_size(finished: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """MB that every model takes: what the process takes beside it is another thing each time."""
    monkeypatch.setattr(models, "_resident_mb", lambda: 0.0)
    manifest = json.loads((finished / "bundle" / "manifest.json").read_text())
    return sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6


def test_the_memory_cap_closes_what_was_not_used_for_longest(directory: Path, same_size: float) -> None:
    with client_of(models=directory, load="none", memory_mb=2.5 * same_size) as (client, served, _):
        for version in ("1", "2", "1"):
            assert client.post("/predict", json={**ASK, "model": "films", "version": version}).status_code == 200
        assert client.post("/predict", json={**ASK, "model": "other"}).status_code == 200
        assert set(served.served) == {("films", "1"), ("other", "1")}
        served.settings = served.settings.model_copy(update={"memory_mb": 0.001})
        refused = client.post("/predict", json={**ASK, "model": "films", "version": "2"})
        assert refused.status_code == 503
        assert "memory" in refused.json()["error"]
        assert set(served.served) == {("films", "1"), ("other", "1")}  # closing them would not have helped


def test_the_memory_cap_holds_at_the_start(directory: Path, same_size: float) -> None:
    with client_of(models=directory, memory_mb=1.5 * same_size) as (client, served, _):
        assert set(served.served) == {("films", "2")}
        assert client.post("/predict", json={**ASK, "model": "other"}).status_code == 200  # in its place
        assert set(served.served) == {("other", "1")}
    with pytest.raises(InputError, match="--memory-mb"), client_of(models=directory, memory_mb=0.5 * same_size):
        pass


def test_the_memory_cap_goes_by_what_a_model_takes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by what its files take, as soon as that is known."""
    taken = itertools.count(step=100)
    monkeypatch.setattr(models, "_resident_mb", lambda: float(next(taken)))
    with client_of(models=directory, memory_mb=150) as (client, served, _):
        assert set(served.served) == {("films", "2")}
        assert client.post("/predict", json={**ASK, "model": "other"}).status_code == 200
        assert set(served.served) == {("other", "1")}
    with pytest.raises(InputError, match="not enough memory for 100 MB"), client_of(models=directory, memory_mb=50):
        pass


def test_a_bundle_that_does_not_open_keeps_no_other_from_being_served(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "other" / "tokenizer.json").write_text("{}")
    (directory / "noise.tar.gz").write_bytes(b"no archive")
    with client_of(models=directory) as (client, _, _):
        assert client.post("/predict", json={**ASK, "model": "films"}).status_code == 200
        asked = client.post("/predict", json={**ASK, "model": "other"})
        assert asked.status_code == 503
        assert "tokenizer.json" in asked.json()["error"]
        assert client.get("/v2/health/ready").status_code == 200
    told = [record.__dict__["fields"]["model"] for record in caplog.records if record.message == "not loaded"]
    assert told == ["noise", "other"]
    shutil.rmtree(directory / "films")
    with pytest.raises(BundleError), client_of(models=directory):
        pass


def test_ready_means_that_a_request_can_be_answered(directory: Path) -> None:
    with client_of(models=directory, load="none") as (client, _, _):
        assert client.get("/v2/health/ready").json() == {"ready": True}  # they are opened when they are asked for
        for name in ("films", "other"):
            assert client.post(f"/v2/repository/models/{name}/unload").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
        assert client.post("/v2/repository/models/films/load").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200


def test_what_is_no_directory_of_bundles_is_one_line(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        find(Settings(models=tmp_path / "none"))
    with pytest.raises(InputError, match="no bundle there"):
        find(Settings(models=tmp_path))
    broken = shutil.copytree(finished / "bundle", tmp_path / "broken")
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    with pytest.raises(BundleError), client_of(bundle=broken):
        pass


def test_a_model_that_never_comes_back_holds_up_no_other(
    directory: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless(finished / "bundle", directory / "endless")
    (directory / "late").mkdir()
    came_back = hashlib.sha256((finished / "bundle" / "manifest.sha256").read_bytes()).hexdigest()
    monkeypatch.setattr(models, "VERIFIED", {came_back})  # whatever else the machine does meanwhile
    with client_of(models=directory, load="none", open_s=6) as (client, served, _):
        asked = threading.Thread(target=client.post, args=("/v2/repository/models/endless/load",))
        asked.start()
        shutil.copytree(finished / "bundle", directory / "late" / "1")
        assert client.post("/v2/repository/models/late/load").status_code == 200
        assert client.post("/predict", json={**ASK, "model": "films"}).status_code == 200
        asked.join()
        reply = client.post("/v2/repository/models/endless/load")
        assert reply.status_code == 400
        assert "does not come back within" in reply.json()["error"]
        assert states(client)["endless", "1"] == "UNAVAILABLE"
        assert not served.children._alive


def test_what_has_come_back_once_is_not_tried_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    monkeypatch.setattr(models, "VERIFIED", set())
    monkeypatch.setattr(models, "in_child", lambda job, path, *more, **given: tries.append(path))
    with client_of(models=directory, load="all") as (client, _, _):
        assert client.post("/v2/repository/models/films/load").status_code == 200
    assert len(tries) == 1  # all three are the same bundle


def test_readiness_recovers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a probe of readiness nobody asks, so it may not depend on somebody asking."""
    with client_of(models=directory, load="none") as (client, _, _):
        hidden = [path.rename(path.with_name(f"{path.name}-")) for path in sorted(directory.rglob("model.onnx"))]
        archive = directory / "films" / "2.tar.gz"
        raw = archive.read_bytes()
        archive.write_bytes(b"")
        for name, version in (("films", "1"), ("films", "2"), ("other", "1")):
            asked = client.post("/predict", json={**ASK, "model": name, "version": version})
            assert asked.status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        for path in hidden:
            path.rename(path.with_name("model.onnx"))
        archive.write_bytes(raw)
        monkeypatch.setattr(models, "RETRY_S", 0)
        assert client.get("/v2/health/ready").status_code == 200
        assert client.post("/predict", json={**ASK, "model": "films"}).json()["version"] == "2"


def test_a_version_that_vanishes_while_it_is_waited_for(directory: Path) -> None:
    with client_of(models=directory, load="none") as (client, served, _):
        del served.found["films"]["2"]
        served.found["films"]["3"] = directory / "films" / "3"
        asked = client.post("/predict", json={**ASK, "model": "films", "version": "3"})
        assert asked.status_code == 503
        assert "no such bundle" in asked.json()["error"]

        async def vanish() -> None:
            lock = served._names.setdefault("other", asyncio.Lock())
            async with lock:
                waiting = asyncio.ensure_future(served._load("other", "1"))
                await asyncio.sleep(0)
                del served.found["other"]
            with pytest.raises(InputError, match="not in the directory"):
                await waiting

        assert client.portal is not None
        client.portal.call(vanish)


def test_a_call_that_does_not_come_back_is_not_ready(directory: Path) -> None:
    with client_of(models=directory) as (client, served, _):
        assert client.get("/v2/health/ready").status_code == 200
        served.served["films", "2"].batcher._busy_since = time.monotonic() - 1000
        assert client.get("/v2/health/ready").status_code == 503


def test_only_what_was_signed_is_served(directory: Path, finished: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path / "ours")
    signed = shutil.copytree(finished / "bundle", tmp_path / "signed")
    sign(signed, private)
    shutil.copytree(signed, directory / "signed")
    pack(signed, directory / "packed.tar.gz")
    with client_of(models=directory, public_key=public) as (client, _, _):
        found = states(client)
        ready = {name for (name, _), state in found.items() if state == "READY"}
        assert ready == {"signed", "packed"}
        reply = client.post("/v2/repository/models/films/load")
        assert reply.status_code == 400
        assert "not signed" in reply.json()["error"]
    with pytest.raises(BundleError, match="not a signature of this bundle"):
        app_of(bundle=signed, public_key=key_pair(tmp_path / "theirs")[1])
