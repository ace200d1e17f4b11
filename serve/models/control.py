"""Load and unload in every worker: an order is written to a file, and each worker reports its result."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping

from ..errors import Refused
from .manager import Models
from .worker_state import Shared

POLL_S = 0.1
ORDER_S = 120  # seconds that the workers get for an order
TELL_S = 1.0  # how often the drift counts are told


class Control:
    """One worker's side of it; with `shared` None there is one process, and the order is its own."""

    def __init__(self, models: Models, shared: Shared | None, orders: Mapping[str, dict] | None = None) -> None:
        """`orders`: those that were given before the models were opened. A worker that comes back begins with what was
        on disk then: these loads are done with.
        """
        self.models, self.shared = models, shared
        self._failed: dict[str, str] = {}
        self._task: asyncio.Task | None = None
        self._followed = {name: order["number"] for name, order in (orders or {}).items()}
        self._under_way: dict[str, asyncio.Task] = {}
        self._begin_without = [name for name, order in (orders or {}).items() if order["action"] == "unload"]

    async def start(self) -> None:
        for name in self._begin_without:
            with contextlib.suppress(Refused):  # it is gone from the directory
                await self.models.unload(name)
        if self.shared is not None:
            self._say()
            self._task = asyncio.create_task(self._follow(self.shared))

    async def stop(self) -> None:
        if self._task is not None:
            tasks = [self._task, *self._under_way.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def order(self, action: str, name: str) -> None:
        """Do it in every worker; Refused when one of them could not, or is not done in time."""
        if self.shared is None:
            await (self.models.load if action == "load" else self.models.unload)(name)
            return
        number = self.shared.want(name, action)
        seconds = max(ORDER_S, 2 * self.models.settings.open_s)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(POLL_S)
            said = self.shared.told("worker")
            if all(word["followed"].get(name, 0) >= number for word in said.values()):
                failed = [word["failed"][name] for word in said.values() if name in word["failed"]]
                if failed:
                    raise Refused(400, failed[0])
                return
        raise Refused(504, f"not every worker has done it within {seconds:g} s")

    async def _follow(self, shared: Shared) -> None:
        told = 0.0
        while True:
            orders = sorted(shared.wanted().items(), key=lambda item: item[1]["number"])
            for name, order in orders:  # of one name one after the other; one that takes long holds up no other name
                if order["number"] > self._followed.get(name, 0) and name not in self._under_way:
                    task = self._under_way[name] = asyncio.create_task(self._obey(name, order))
                    task.add_done_callback(lambda _, name=name: self._under_way.pop(name))
            if time.monotonic() - told > TELL_S:
                shared.tell("drift", self.drift_counts())
                told = time.monotonic()
            await asyncio.sleep(POLL_S)

    async def _obey(self, name: str, order: dict) -> None:
        self._failed.pop(name, None)
        try:
            await (self.models.load if order["action"] == "load" else self.models.unload)(name)
        except Refused as error:
            self._failed[name] = str(error)
        except Exception as error:
            self._failed[name] = f"'{name}': {type(error).__name__}: {error}"
        self._followed[name] = order["number"]
        self._say()

    def _say(self) -> None:
        assert self.shared is not None
        self.shared.tell("worker", {"followed": self._followed, "failed": self._failed})

    def drift_counts(self) -> dict[str, dict]:
        """Counts of this worker by "name/version"; of different bundles of one name apart, by their digest."""
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
        others = self.shared.told("drift") if self.shared is not None else {}
        pid = self.shared.pid if self.shared is not None else 0
        return served.drift.report(
            [own, *(word[key] for other, word in others.items() if other != pid and key in word)]
        )
