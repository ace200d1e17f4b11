"""A run on a Ray cluster of several raylets of this machine. They share its file system: what NFS does is not tried."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest
from conftest import SMALL, paredown, refused, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.compress.threads import few_threads
from paredown.pipeline import ray_cluster
from paredown.pipeline.job import Step
from paredown.pipeline.ray_cluster import Node, RayCluster
from paredown.pipeline.recipe.schema import MeasureOn
from paredown.runtime.errors import InputError

pytest.importorskip("ray")
WAIT_S = 600
BROKEN = """  - name: broken
    steps:
      - distill: {layers: 1, epochs: 1, learning_rate: 1.0e+30}
targets:
"""

FAST = {"targets:\n": BROKEN}


@contextmanager
def confined(cores: int) -> Iterator[None]:
    """Processes that are started here may use so many cores, and are a machine of another kind."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def cluster_of(
    *labels: str, caches: Path | None = None, head_cores: int = 1, **cores: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A head without a label and one node for each label, of one core each; the cluster, and the nodes by label.
    `caches`: where each has a cache of its own, `head` or its label; `cores`: how many those of a label may use,
    whatever Ray gives out there."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    def node(name: str) -> dict[str, Any]:
        return {"num_cpus": 1, "env_vars": {} if caches is None else {"XDG_CACHE_HOME": str(caches / name)}}

    head = {**node("head"), "num_cpus": head_cores, "include_dashboard": False}
    cluster, nodes = Cluster(initialize_head=True, head_node_args=head), {}
    try:
        for label in labels:
            with confined(cores[label]) if label in cores else nullcontext():
                nodes[label] = cluster.add_node(**node(label), labels={"paredown": label})
        yield cluster, nodes
    finally:
        cluster.shutdown()


SEPARATELY = """
import json, sys
from pathlib import Path
from paredown.pipeline.graph import do_step, planned_run
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.runtime.errors import StepError

recipe, run_dir = read_recipe(Path(sys.argv[1])), Path(sys.argv[2])
steps = planned_run(prepare(recipe, try_models=False), run_dir).steps
ready = []
for step in steps:
    if "machine" not in step.inputs and step.inputs.get("int8_isa") is None and set(step.after) <= set(ready):
        try:
            do_step(recipe, run_dir, step.name)
            ready.append(step.name)
        except StepError:
            pass
known = planned_run(prepare(recipe, try_models=False), run_dir).steps  # now that one has failed
found = {step.name: (step.inputs["stage"], step.key) for step in known if step.state not in ("failed", "skipped")}
print(json.dumps(found))
"""


def asked(script: str, *args: object) -> str:
    """What a script prints; one thread trains."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def started(
    recipe: Path, run_dir: Path, *more: str, address: str = "", said: int | TextIO = subprocess.PIPE
) -> subprocess.Popen:
    """`paredown run`; one thread trains. `said`: where its stderr goes."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PAREDOWN_PROGRESS": "json", "RAY_ADDRESS": address}
    command = [sys.executable, "-m", "paredown", "run", recipe, "--output-dir", run_dir, *more]
    return subprocess.Popen(command, env=env, stderr=said, stdout=subprocess.DEVNULL, text=True)


def ended(run: subprocess.Popen) -> list[dict]:
    """The events of a run that ends well."""
    _, said = run.communicate(timeout=WAIT_S)
    assert run.returncode == 0, said
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def markers(run_dir: Path) -> dict[str, dict]:
    """What the store says of each finished step, by the name of its directory."""
    return {path.parent.name: json.loads(path.read_text()) for path in (run_dir / "steps").glob("*/step.json")}


@pytest.fixture
def recipe(teacher: Checkpoint, files: dict, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL, **FAST)


def test_a_run_on_a_cluster_is_the_run_of_one_machine(recipe: Path, tmp_path: Path) -> None:
    """The same keys as in the plan of one machine, and the same files of each step that it can do; all that belongs on
    the serving machine was done there, and nothing else; a failure is recorded and not tried again."""
    planned = json.loads(asked(SEPARATELY, recipe, tmp_path / "here"))
    recipe.write_text(recipe.read_text() + "\nmeasure_on: {label: edge}\n")
    with cluster_of("edge") as (cluster, nodes):
        edge = nodes["edge"].node_id
        events = ended(started(recipe, tmp_path / "there", "--on", "ray", address=cluster.address))
    here, there = markers(tmp_path / "here"), markers(tmp_path / "there")
    assert {name.rpartition("-")[2] for name in there} == {key[:16] for _, key in planned.values()}
    for name, step in here.items():
        assert there[name]["files"] == step["files"], name
    assert len(here) > 5
    for name, step in there.items():
        stage = step["inputs"]["stage"]
        serving = stage in ("evaluate", "further", "measure", "profile", "table") or "int8" in name
        assert (edge[:8] in step["host"]) is serving, name
    said = [event for event in events if event.get("step") == "broken-1-distill"]
    assert [event["event"] for event in said if event["event"] != "progress"] == ["start", "failed"]
    assert "is not finite" in said[-1]["reason"] or "nan" in said[-1]["reason"], said
    assert (tmp_path / "there" / "bundle" / "manifest.json").is_file()
    hosts = json.loads((tmp_path / "there" / "measurements.json").read_text())["hosts"]
    assert edge[:8] in next(iter(hosts))
    assert sum(hosts.values()) == len(there) + 1  # the one that failed


@pytest.mark.slow
@pytest.mark.skipif(
    os.cpu_count() == 1 or not hasattr(os, "sched_setaffinity"), reason="the two kinds differ by the cores they may use"
)
def test_each_kind_of_machine_has_measurements_a_choice_and_a_bundle(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """What does not depend on the machine is done once and on neither; what does is done on each, for each."""
    changes = {**SMALL, "  - {runtime: onnxruntime, precision: int8-dynamic}\n": ""}
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **changes)
    recipe.write_text(recipe.read_text() + "\nmeasure_on: [{label: edge}, {label: server}]\n")
    run_dir = tmp_path / "run"
    command = [recipe, run_dir, "--on", "ray"]
    with cluster_of("edge", "server", edge=1, server=2) as (cluster, nodes):
        ended(started(*command, address=cluster.address))
        made = markers(run_dir)
        again = ended(started(*command, address=cluster.address))
    assert not [event for event in again if event["event"] in ("start", "done")]
    assert markers(run_dir) == made
    hosts: dict[str, list[str]] = {}
    for name, step in made.items():
        where = next((label for label, node in nodes.items() if node.node_id[:8] in step["host"]), "elsewhere")
        hosts.setdefault(name.rpartition("-")[0], []).append(where)
    stages = {name.rpartition("-")[0]: step["inputs"]["stage"] for name, step in made.items()}
    for name, those in hosts.items():
        if stages[name] in ("evaluate", "further", "measure", "profile"):
            assert sorted(those) == ["edge", "server"], name
        else:  # INT8 of a processor that both have is made on the first
            assert those == (["edge"] if "int8" in name else ["elsewhere"]), name
    assert {"measure", "distill", "trim"} <= {*stages.values()}
    chosen = {}
    for label, other in (("edge", "server"), ("server", "edge")):
        mine = run_dir / "machines" / label
        found = json.loads((mine / "measurements.json").read_text())
        assert found["machine"]["cores"] == {"edge": 1, "server": 2}[label]
        assert nodes[label].node_id[:8] in next(iter(found["hosts"]))
        page = (mine / "report.html").read_text()
        assert all(f"{host} ({count} steps)" in page for host, count in found["hosts"].items())
        by_other = sum(count for host, count in found["hosts"].items() if nodes[other].node_id[:8] in host)
        assert by_other == {"edge": 0, "server": 1}[label]  # INT8
        chosen[label] = json.loads((mine / "choice.json").read_text())["chosen"]["name"]
        verified = paredown("verify", mine)
        assert verified.returncode == 0, verified.stderr
    assert not (run_dir / "choice.json").exists()
    one = json.loads((run_dir / "one_for_all.json").read_text())
    assert {label: on["own"] for label, on in one["machines"].items()} == chosen
    own = paredown("choose", run_dir / "machines" / "edge", "--candidate", "teacher/onnxruntime/fp32")
    assert own.returncode == 0, own.stderr
    refused(paredown("report", run_dir), "a run on several machines", "machines/edge", "machines/server")
    refused(paredown("verify", run_dir), "a run on several machines", "machines/edge", "machines/server")
    recipe.write_text(recipe.read_text().partition("\nmeasure_on")[0])
    refused(paredown("run", recipe, "--output-dir", run_dir), "results of a run on several machines")


SEARCHED = """
import json, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from paredown.benchmarks.measuring.latency import LatencySettings
from paredown.pipeline.engine import Planned, do_all
from paredown.pipeline.job import prepare
from paredown.pipeline.plan import search_steps
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.steps import latency_table
from paredown.pipeline.steps.adapt import adapt_steps, adapted
from paredown.pipeline.store import Store

few = LatencySettings(processes=1, rounds=2, min_seconds=0.1, min_repeats=24)
latency_table.SETTINGS = latency_table.PAIR = latency_table.PROMISE = few
latency_table.TRIES = 1
job, store = prepare(read_recipe(Path(sys.argv[1])), try_models=False), Store(Path(sys.argv[2]) / "steps")
done = do_all(replace(Planned.of(job, adapt_steps), adapted=False), store).done
do_all(Planned.of(adapted(job, done), partial(search_steps, settings=job.recipe.search)), store)
"""


@pytest.mark.slow
def test_a_search_on_a_cluster_trains_two_models_at_a_time(
    teacher: Checkpoint, untrained: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """What comes before it, `adapt` and the teacher's answers, has the keys and files of one machine. The time is too
    short for pruning: students that are named are trained."""
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)
    text = recipe.read_text()
    students = f"students: [{untrained.path}, {teacher.path}]"
    more = f"adapt:\n  - finetune: {{epochs: 1}}\nsearch: {{minutes: 0.1, {students}, target: {{precision: fp32}}}}\n"
    text = text[: text.index("models:")] + more + text[text.index("targets:") :]
    recipe.write_text(text.replace("  - {runtime: onnxruntime, precision: int8-dynamic}\n", ""))
    asked(SEARCHED, recipe, tmp_path / "here")
    here = markers(tmp_path / "here")
    (table,) = (tmp_path / "here" / "steps").glob("teacher-table-*")
    shutil.copytree(table, tmp_path / "there" / "steps" / table.name)  # this machine's, in seconds
    recipe.write_text(recipe.read_text() + "\nmeasure_on: {label: edge}\n")
    with cluster_of("edge", "big") as (cluster, nodes):
        edge = nodes["edge"].node_id
        events = ended(started(recipe, tmp_path / "there", "--on", "ray", address=cluster.address))
    there = markers(tmp_path / "there")
    assert any(name.startswith("adapt-1-finetune-") for name in here)
    for name, step in here.items():
        assert there[name]["files"] == step["files"], name
    order = [json.loads(line) for line in next((tmp_path / "there" / "search").iterdir()).read_text().splitlines()]
    assert {"student-1", "student-2"} <= {end["trial"] for end in order} <= {"static", "student-1", "student-2"}
    assert {end["places"] for end in order} == {2}
    trained, running, most = ("static-1-static", "student-1-1-distill", "student-2-1-distill"), 0, 0
    for event in events:
        running += {"start": 1, "done": -1}.get(event["event"], 0) * (event.get("step") in trained)
        most = max(most, running)
    assert most == 2
    for name, step in there.items():
        if name.startswith(("adapt", *trained)):
            assert edge[:8] not in step["host"], name
    found = json.loads((tmp_path / "there" / "measurements.json").read_text())["search"]
    assert len(found["trained"]) + len(found["dropped"]) >= 2


@pytest.mark.slow
def test_machines_share_a_store_instead_of_the_run_directory(recipe: Path, tmp_path: Path) -> None:
    """Each has copies of what it needs; a step that was made on one is read on the other, a failure too."""
    recipe.write_text(recipe.read_text() + "\nmeasure_on: {label: edge}\n")
    url = f"file://{tmp_path / 'shared'}"
    with cluster_of("edge", caches=tmp_path / "caches") as (cluster, _):
        ended(started(recipe, tmp_path / "run", "--on", "ray", "--store", url, address=cluster.address))
    head, edge = (
        {p.parent.name: p for p in (tmp_path / "caches" / name).rglob("step.json")} for name in ("head", "edge")
    )
    run = markers(tmp_path / "run")
    assert not head.keys() - run.keys()
    assert any("distill" in name for name in head.keys() & edge.keys())
    assert any("measure" in name for name in edge.keys() - head.keys())
    assert {path.parent.name for path in (tmp_path / "shared").glob("*/step.json")} == {
        step["key"] for step in run.values()
    }
    assert len(list((tmp_path / "shared").glob("*/failed.json"))) == 1
    assert (tmp_path / "run" / "bundle" / "manifest.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(int(os.environ.get("PAREDOWN_TEST_KILLS", "1"))))
@pytest.mark.parametrize("victim", ["worker", "machine", "driver"])
def test_killed_at_every_kind_of_step_it_comes_to_the_same(
    recipe: Path, tmp_path: Path, victim: str, turn: int
) -> None:
    """A step of each kind is interrupted once: its worker is killed, the machine that does it, or the driver. The run
    goes on by itself, or says that it is to be run again and then does; nothing that was done is done again."""
    planned = json.loads(asked(SEPARATELY, recipe, tmp_path / "here"))
    recipe.write_text(recipe.read_text() + "\nmeasure_on: {label: edge}\n")
    kinds = {name: f"{stage} {'int8' in name}" for name, (stage, _) in planned.items()}
    run_dir, rng, killed = tmp_path / "run", random.Random(turn), dict[str, str]()
    before: dict[str, dict] = {}
    with cluster_of("edge", "big", head_cores=0) as (cluster, nodes):
        while True:
            with (tmp_path / "said").open("w") as file:
                driver = started(recipe, run_dir, "--on", "ray", address=cluster.address, said=file)
            while driver.poll() is None:
                for step, process in doing(kinds):
                    if kinds[step] not in killed and killed.setdefault(kinds[step], step):
                        time.sleep(rng.uniform(0, 0.3))
                        kill(victim, process, driver, cluster, nodes)
                time.sleep(0.02)
            said = (tmp_path / "said").read_text()
            events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
            begun = {event["step"] for event in events if event["event"] == "start"}
            assert begun.isdisjoint(name.rpartition("-")[0] for name in before), said
            now = markers(run_dir)
            assert {name: now[name]["at"] for name in before} == {name: step["at"] for name, step in before.items()}
            before = now
            if driver.returncode == 0:
                break
            assert driver.returncode == -signal.SIGKILL or "run it again" in said or "is labelled edge" in said, said
    assert len(killed) >= 6, killed
    here, there = markers(tmp_path / "here"), markers(run_dir)
    assert {name.rpartition("-")[2] for name in there} == {key[:16] for _, key in planned.values()}
    for name, step in here.items():
        assert there[name]["files"] == step["files"], name
    assert not [path for path in (run_dir / "steps").glob(".tmp-*") if path.is_dir()]
    assert paredown("verify", run_dir).returncode == 0


def doing(steps: Iterable[str]) -> Iterator[tuple[str, psutil.Process]]:
    """The steps that Ray's processes do now."""
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::") and (name := title.removeprefix("ray::").strip()) in steps:
            yield name, process


def kill(victim: str, worker: psutil.Process, driver: subprocess.Popen, cluster: Any, nodes: dict[str, Any]) -> None:
    """A worker, the machine it is of (another one with its label comes), or the driver; it may have ended by itself."""
    with suppress(psutil.NoSuchProcess):
        raylets = {parent.pid for parent in worker.parents()}
        if victim == "driver":
            driver.kill()
            driver.wait()
        elif victim == "worker":
            worker.kill()
        else:
            label, node = next((a, n) for a, n in nodes.items() if n.all_processes["raylet"][0].process.pid in raylets)
            cluster.remove_node(node, allow_graceful=False)
            nodes[label] = cluster.add_node(num_cpus=1, labels={"paredown": label})


def test_what_a_cluster_lacks_is_said(recipe: Path, tmp_path: Path) -> None:
    given = ["run", recipe, "--output-dir", tmp_path / "run"]
    refused(paredown(*given, "--on", "rey"), "--on rey: local, ray or ray://HOST:PORT")
    plain = recipe.read_text()
    recipe.write_text(plain + "\nmeasure_on: {label: edge, fingerprint: 0123456789}\n")
    refused(paredown(*given), "label or fingerprint is expected, one of them")
    recipe.write_text(plain + "\nmeasure_on: {label: edge}\n")
    refused(paredown(*given), "measure_on", "labelled edge", "reach it with --on ray")
    refused(paredown("plan", recipe), "measure_on", "labelled edge")
    refused(paredown("step", recipe, "teacher-origin"), "measure_on", "labelled edge")
    refused(paredown(*given, "--on", "ray", "--dry-run"), "--dry-run shows the plan of this machine")
    nobody = {"RAY_ADDRESS": "127.0.0.1:1"}
    refused(paredown(*given, "--on", "ray", env=nobody), "no Ray cluster at 127.0.0.1:1")
    recipe.write_text(plain + "\nmeasure_on: {fingerprint: 01234567}\n")
    refused(paredown(*given), "put it in quotes")
    recipe.write_text(plain)
    refused(paredown(*given, "--on", "ray://127.0.0.1:1"), "name the machine that measures, measure_on")
    recipe.write_text(plain + "\nmeasure_on: {label: edge}\n")
    with cluster_of("big") as (cluster, _):
        for others in ("", "[{label: big}, {label: edge}]"):
            recipe.write_text(plain + f"\nmeasure_on: {others or '{label: edge}'}\n")
            done = paredown(*given, "--on", "ray", env={"RAY_ADDRESS": cluster.address})
            refused(done, "no machine of the cluster is labelled edge", ": big, ", "--labels paredown=NAME")
    assert not (tmp_path / "run" / "steps").exists()


def node(**given: Any) -> Node:
    code = {"code": {"compress": "ab12"}, "versions": {"torch": "2.13.0"}}
    plain = Node("id", "one", {}, 4, {"cores": 4}, gpus=0, trains_on=[], memory=10**10, code=code, held="process 7")
    return replace(plain, **given)


def test_a_machine_with_another_version_or_directory_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_code", lambda: node().code)
    ray_cluster._check([node(), node()], "process 7")
    other = {**node().code, "versions": {"torch": "2.12.0"}}
    with pytest.raises(InputError, match=r'two: versions.torch is "2.12.0", here it is "2.13.0"'):
        ray_cluster._check([node(), node(host="two", code=other)], "process 7")
    with pytest.raises(InputError, match="two: it does not see the run directory"):
        ray_cluster._check([node(), node(host="two", held="process 8, of another run")], "process 7")


def cluster_with(*computing: Node) -> RayCluster:
    """One machine of four cores that measures, and others; none: it does everything."""
    measuring = node(id="edge", memory=2 * 10**9)
    return RayCluster(None, Path(), measuring, computing or [measuring], 2, {})


def step(**inputs: Any) -> Step:
    return Step("a", inputs, 0.0, lambda *_: None)


TRAINS, PRUNES, MEASURES = (
    step(stage="distill", threads=2),
    step(threads=2, table="ab"),
    step(stage="measure", machine="c"),
)
EVALUATES, TRACES = step(stage="evaluate", machine="c"), step(stage="graph")


@pytest.mark.parametrize("apart", [True, False])
def test_nothing_runs_beside_a_step_that_times_something(apart: bool) -> None:
    """Where that machine also trains, it does one or the other; elsewhere two trainings of two cores fit."""
    cluster = cluster_with(node(id="big")) if apart else cluster_with()
    tasks = ray_cluster._Tasks(cluster, None, None, None)  # type: ignore[arg-type]
    for those, trained, timed, evaluated in (
        ((), True, True, True),
        ((TRAINS,), True, apart, True),
        ((MEASURES,), apart, False, False),
        ((PRUNES,), apart, False, False),
        ((EVALUATES,), True, False, True),
        ((TRAINS, TRAINS), False, apart, apart),
    ):
        tasks.running = {i: ray_cluster._Task(running, None) for i, running in enumerate(those)}  # type: ignore[arg-type]
        assert [tasks.choose([one]) is one for one in (TRAINS, MEASURES, EVALUATES)] == [trained, timed, evaluated], (
            those
        )
    tasks.running = {0: ray_cluster._Task(EVALUATES, None)}  # type: ignore[arg-type]
    assert tasks.choose([MEASURES, EVALUATES]) is None, "what measures would wait without end"


def test_a_training_asks_for_a_gpu_where_there_is_one_and_a_graph_for_one_core() -> None:
    few, some = few_threads(), {"memory": 10**9}
    cpus = cluster_with(node(id="big"))
    assert cpus.options(TRAINS, 10**9) == {"name": "a", "num_cpus": 2}
    assert cpus.options(TRACES, 10**9) == {"name": "a", "num_cpus": 1, **some}
    assert cpus.options(EVALUATES, 10**11) == {"name": "a", "num_cpus": few, "memory": 2 * 10**9}, "all that it has"
    assert cpus.options(PRUNES, 10**9)["num_cpus"] == 4
    gpu = cluster_with(node(id="big"), node(id="gpu", gpus=2, trains_on=["NVIDIA H200, 1 MiB, 9.0"]))
    assert gpu.options(TRAINS, 10**9)["num_gpus"] == 1
    assert not {"num_gpus"} & {*gpu.options(TRACES, 0), *gpu.options(EVALUATES, 0), *gpu.options(PRUNES, 0)}
    tasks = ray_cluster._Tasks(gpu, None, None, None)  # type: ignore[arg-type]
    tasks.running = {i: ray_cluster._Task(TRAINS, None) for i in range(2)}  # type: ignore[arg-type]
    assert tasks.choose([TRAINS, TRACES]) is TRACES


def test_the_key_of_a_training_names_the_gpu() -> None:
    one, two = "NVIDIA H200, 1 MiB, 9.0", "NVIDIA L4, 1 MiB, 8.9"
    plain, with_gpu = node(), node(host="a", gpus=2, trains_on=[one, one])
    assert ray_cluster._training_gpus([plain, node(trains_on=[one])]) == [], "Ray gives it to nobody"
    assert ray_cluster._training_gpus([plain, with_gpu]) == [one]
    with pytest.raises(InputError, match=r"b: NVIDIA L4.*--num-gpus 0"):
        ray_cluster._training_gpus([with_gpu, node(host="b", gpus=1, trains_on=[two])])


def test_each_machine_of_a_list_is_another_one() -> None:
    """Two of one fingerprint are one kind, and that is said."""
    nodes = [node(id=name, host=name, labels={"paredown": name}) for name in ("one", "two")]
    nodes.append(node(id="three", host="three", machine={"cores": 9}))
    mark = ray_cluster.fingerprint(nodes[2].machine)[:8]
    wanted = [MeasureOn(label="two"), MeasureOn(fingerprint=mark)]
    assert ray_cluster._measuring(wanted, nodes, None) == nodes[1:]
    assert ray_cluster._same_kind(nodes[1:]) == []
    assert "two and one have the same fingerprint: what two has measured" in ray_cluster._same_kind(nodes[1::-1])[0]
    mark = ray_cluster.fingerprint(nodes[0].machine)[:8]
    with pytest.raises(InputError, match=f"one is labelled one and of fingerprint {mark}; name each machine once"):
        ray_cluster._measuring([MeasureOn(label="one"), MeasureOn(fingerprint=mark)], nodes, None)


def test_a_machine_is_named_by_its_label_or_its_fingerprint() -> None:
    assert MeasureOn(label="edge").matches("edge", "0123")
    assert not MeasureOn(label="edge").matches(None, "0123")
    assert MeasureOn(fingerprint="01234567").matches(None, "0123456789")
    assert not MeasureOn(fingerprint="11234567").matches("edge", "0123456789")
