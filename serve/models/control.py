"""Load and unload in every worker: a command is written to a file, and each worker reports its result."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from ..errors import HTTPError
from .manager import ModelManager
from .worker_state import WorkerState

POLL_S = 0.1
COMMAND_S = 120  # seconds that the workers get for a command
DRIFT_S = 1.0  # seconds between two reports of the drift counts


class ModelControl:
    """One worker's side of it. `state` is None where there is one process, which executes the command itself."""

    def __init__(
        self, models: ModelManager, state: WorkerState | None, commands: Mapping[str, dict] | None = None
    ) -> None:
        """`commands`: those given before the models were opened. A restarted worker opened what was on disk then, so
        these loads are done.
        """
        self.models, self.state = models, state
        self._failed: dict[str, str] = {}
        self._task: asyncio.Task | None = None
        self._executed = {name: command["number"] for name, command in (commands or {}).items()}
        self._running: dict[str, asyncio.Task] = {}
        self._unloaded_before = [name for name, command in (commands or {}).items() if command["action"] == "unload"]

    async def start(self) -> None:
        for name in self._unloaded_before:
            with contextlib.suppress(HTTPError):  # no longer in the directory
                await self.models.unload(name)
        if self.state is not None:
            self._publish()
            self._task = asyncio.create_task(self._poll(self.state))

    async def stop(self) -> None:
        if self._task is not None:
            tasks = [self._task, *self._running.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def command(self, action: str, name: str) -> None:
        """Load or unload in every worker. HTTPError 400 where one of them failed, 504 where one is late."""
        if self.state is None:
            await (self.models.load if action == "load" else self.models.unload)(name)
            return
        number = self.state.command(name, action)
        seconds = max(COMMAND_S, 2 * self.models.settings.open_s)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(POLL_S)
            states = self.state.published("worker")
            if all(worker["executed"].get(name, 0) >= number for worker in states.values()):
                failed = [worker["failed"][name] for worker in states.values() if name in worker["failed"]]
                if failed:
                    raise HTTPError(400, failed[0])
                return
        raise HTTPError(504, f"not every worker has done it within {seconds:g} s")

    async def _poll(self, state: WorkerState) -> None:
        published = 0.0
        while True:
            commands = sorted(state.commands().items(), key=lambda item: item[1]["number"])
            for name, command in commands:  # one at a time of each name; a slow one delays no other name
                if command["number"] > self._executed.get(name, 0) and name not in self._running:
                    task = self._running[name] = asyncio.create_task(self._execute(name, command))
                    task.add_done_callback(lambda _, name=name: self._running.pop(name))
            if time.monotonic() - published > DRIFT_S:
                state.publish("drift", self.drift_counts())
                published = time.monotonic()
            await asyncio.sleep(POLL_S)

    async def _execute(self, name: str, command: dict) -> None:
        self._failed.pop(name, None)
        try:
            await (self.models.load if command["action"] == "load" else self.models.unload)(name)
        except HTTPError as error:
            self._failed[name] = str(error)
        except Exception as error:
            self._failed[name] = f"'{name}': {type(error).__name__}: {error}"
        self._executed[name] = command["number"]
        self._publish()

    def _publish(self) -> None:
        assert self.state is not None
        self.state.publish("worker", {"executed": self._executed, "failed": self._failed})

    def drift_counts(self) -> dict[str, dict]:
        """Counts of this worker by "name/version/digest": another bundle of one name and version counts separately."""
        return {
            f"{name}/{version}/{served.model.digest}": served.drift.counts()
            for (name, version), served in self.models.served.items()
            if served.drift is not None
        }

    def drift_reports(self) -> dict[tuple[str, str], dict]:
        """`drift` of each model that is open and has a reference, by name and version."""
        found = {key: self.drift(*key) for key in list(self.models.served)}
        return {key: report for key, report in found.items() if report is not None}

    def drift(self, name: str, version: str) -> dict | None:
        """The drift of a model over all workers; None when it is not loaded or its bundle has no reference."""
        served = self.models.served.get((name, version))
        if served is None or served.drift is None:
            return None
        key, own = f"{name}/{version}/{served.model.digest}", served.drift.counts()
        others = self.state.published("drift") if self.state is not None else {}
        pid = self.state.pid if self.state is not None else 0
        return served.drift.report(
            [own, *(worker[key] for other, worker in others.items() if other != pid and key in worker)]
        )
