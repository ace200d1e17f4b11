"""Models of one process: found in a directory, opened at start or on demand, swapped without failed requests.

Names and versions come from the operator's directory alone; what a client sends is looked up in what was found there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from paredown.export.isolation import Children, in_child
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError

from ..config import Settings
from ..errors import HTTPError
from ..monitoring.drift import DriftMonitor
from ..scheduling.batching import Batcher
from .model import Bundle, Model
from .repository import find, latest, size_mb

log = logging.getLogger("paredown")
VERIFICATIONS = 4  # models that are verified at once, each in a process of its own
VERIFIED: set[str] = set()  # sha256 of the bundles that passed
RETRY_S = 60  # seconds until a request opens a model again that did not open


class MemoryLimitExceeded(InputError):
    """The memory limit does not allow a model to be opened now."""


@dataclass(eq=False)
class ServedModel:
    """An open model, its queue and its drift monitor."""

    model: Model
    batcher: Batcher
    drift: DriftMonitor | None
    megabytes: float
    users: int = 0  # requests that use it
    used: float = 0.0  # time.monotonic of the last one

    def close(self) -> None:
        self.batcher.close()
        self.model.close()


class ModelManager:
    """The models, by name and version. Its methods run in the event loop; models are opened in threads."""

    def __init__(self, settings: Settings, observe: Callable[[str, str, int, int, float], None]) -> None:
        self.settings, self._observe = settings, observe
        self.threads = settings.threads_each
        self.found: dict[str, dict[str, Path]] = {}
        self.served: dict[tuple[str, str], ServedModel] = {}
        self._unloaded: set[str] = set()  # names that a client unloaded: not loaded on demand
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._opening = asyncio.Lock()  # one model at a time counts against the memory limit
        self._names: dict[str, asyncio.Lock] = {}  # of each name one at a time is opened
        self._verifications = asyncio.Semaphore(VERIFICATIONS)
        self._closing: set[asyncio.Task] = set()
        self.children = Children()

    def open_initial(self) -> None:
        """Open the models of `--load`, before the event loop runs. One that does not open, or exceeds the memory
        limit, is logged and not served; BundleError or InputError when that is every one.
        """
        self.found = find(self.settings)
        errors = []
        for name, versions in self.found.items() if self.settings.load != "none" else ():
            for version in sorted(versions, key=int, reverse=True):
                try:
                    self.served[name, version] = self._open_within(name, version)
                except (BundleError, InputError) as error:
                    errors.append(error)
                    log.error("not loaded", extra={"fields": {"model": name, "version": version, "reason": str(error)}})
                    if isinstance(error, MemoryLimitExceeded):
                        break
                    self._failed[name, version] = time.monotonic(), str(error)
                    continue  # a restarted worker serves the version from before a newer one that does not open
                if self.settings.load == "latest":
                    break
        if errors and not self.served:
            raise errors[0]

    def _open_within(self, name: str, version: str) -> ServedModel:
        """Open within the memory limit, without closing another model."""
        self._free_memory(name, size_mb(self.found[name][version]), close=False)
        opened = self._open(self._verified(name, version))
        try:
            self._free_memory(name, opened.megabytes, close=False)
        except MemoryLimitExceeded:
            opened.close()
            raise
        return opened

    @property
    def can_serve(self) -> bool:
        """Readiness: some model is open, or will be on demand, and the threads of each open one run."""
        loadable = any(
            not self._failure((name, version))
            for name, versions in self.found.items()
            for version in versions
            if name not in self._unloaded
        )
        return (bool(self.served) or loadable) and all(served.batcher.alive for served in self.served.values())

    def _failure(self, key: tuple[str, str]) -> str:
        """Why a model did not open the last time; empty where it may be opened (again)."""
        when, why = self._failed.get(key, (-math.inf, ""))
        return why if time.monotonic() - when < RETRY_S else ""

    async def rescan(self, name: str) -> None:
        """Read the directory again. HTTPError 404 for a name that is not in it, 400 where it cannot be read."""
        try:
            self.found = await asyncio.to_thread(find, self.settings)
        except (BundleError, InputError) as error:
            raise HTTPError(400, f"'{name}' was not loaded: {error}") from None
        self.versions(name)

    def queued(self) -> dict[tuple[str, str], int]:
        """Rows waiting or running of each open model, by name and version."""
        return {key: served.batcher.admission.rows for key, served in self.served.items()}

    def index(self) -> list[dict]:
        """Every version that was found: name, version, state, reason."""
        rows = []
        for name, versions in sorted(self.found.items()):
            for version in sorted(versions, key=int):
                ready = (name, version) in self.served
                reason = "" if ready else self._failed.get((name, version), (0, "not loaded"))[1]
                state = "READY" if ready else "UNAVAILABLE"
                rows.append({"name": name, "version": version, "state": state, "reason": reason})
        return rows

    def versions(self, name: str) -> list[str]:
        """Versions of a model in the directory. HTTPError 404 for an unknown name."""
        if name not in self.found:
            raise HTTPError(404, f"unknown model '{name[:100]}'; known: {', '.join(sorted(self.found))}")
        return sorted(self.found[name], key=int)

    def check_known(self, name: str) -> None:
        """HTTPError 404 for a name that is neither served nor known; a served one may have left the directory."""
        if not any(key[0] == name for key in self.served):
            self.versions(name)

    def _known(self, name: str, version: str | None) -> list[str]:
        known = self.versions(name)
        if version is not None and version not in known:
            raise HTTPError(404, f"'{name}' has no version '{version[:100]}'; it has {', '.join(known)}")
        return [version] if version is not None else known

    def default(self, name: str) -> str:
        """The version for a request that names none: the latest loaded, else the latest that may open."""
        known = self.versions(name)
        loaded = [version for version in known if (name, version) in self.served]
        loadable = [version for version in known if (name, version) not in self._failed]
        return (loaded or loadable or known)[-1]

    def ready(self, name: str, version: str | None) -> bool:
        """Whether the version, or any, is open. HTTPError 404 for an unknown one."""
        return any((name, v) in self.served for v in self._known(name, version))

    @contextlib.asynccontextmanager
    async def use(self, name: str, version: str | None, deadline: float) -> AsyncIterator[ServedModel]:
        """The model for one request, opened first where necessary; it stays open until the block ends."""
        key = name, version or self.default(name)
        while key not in self.served:
            await self._on_demand(key, deadline)
        served = self.served[key]
        served.users += 1
        served.used = time.monotonic()
        try:
            yield served
        finally:
            served.users -= 1

    async def _on_demand(self, key: tuple[str, str], deadline: float) -> None:
        name, version = key
        self._known(name, version)
        if name in self._unloaded:
            raise HTTPError(503, f"'{name}' version {version} is not ready: it was unloaded")
        task = asyncio.ensure_future(self._load(name, version))
        try:
            await asyncio.wait_for(asyncio.shield(task), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            task.add_done_callback(lambda t: t.exception())
            raise HTTPError(503, f"'{name}' version {version} is being loaded", retry_after=1) from None
        except (BundleError, InputError) as error:
            raise HTTPError(503, f"'{name}' version {version} is not ready: {error}") from None

    async def load(self, name: str) -> None:
        """Read the directory again and serve the latest version of a model; the previous one finishes its requests.
        HTTPError 400 when the bundle does not open: then nothing changes.
        """
        await self.rescan(name)
        version = latest(self.found[name])
        try:
            await self._load(name, version, reload=True)
        except (BundleError, InputError) as error:
            raise HTTPError(400, f"'{name}' was not loaded: {error}") from None
        self._unloaded.discard(name)
        if self.settings.load != "all":
            for key in [key for key in self.served if key[0] == name and key[1] != version]:
                self._retire(self.served.pop(key))

    async def unload(self, name: str) -> None:
        """Stop serving a model until it is loaded again; requests in flight are answered."""
        self.check_known(name)
        self._unloaded.add(name)
        for key in [key for key in self.served if key[0] == name]:
            self._retire(self.served.pop(key))

    async def _load(self, name: str, version: str, reload: bool = False) -> None:
        key = name, version
        async with self._names.setdefault(name, asyncio.Lock()):
            if key in self.served and not reload:
                return
            if (why := self._failure(key)) and not reload:
                raise InputError(why)
            if version not in self.found.get(name, {}):  # removed from the directory meanwhile
                raise InputError("it is not in the directory any more")
            try:
                async with self._verifications:  # slow, and delays no other name
                    verified = await asyncio.to_thread(self._verified, name, version)
                await self._open_verified(verified, reload)
            except (BundleError, InputError) as error:
                self._failed[key] = time.monotonic(), str(error)
                raise

    async def _open_verified(self, verified: Bundle, reload: bool) -> None:
        """Open a verified bundle in this process, and serve it."""
        async with self._opening:
            opened = None
            try:
                self._free_memory(verified.name, verified.megabytes)
                opened = await asyncio.to_thread(self._open, verified)
                self._free_memory(verified.name, opened.megabytes)
            except (BundleError, InputError):
                if opened is None:
                    verified.close()
                else:
                    self._retire(opened)
                raise
            key = verified.name, verified.version
            self._failed.pop(key, None)
            if verified.name in self._unloaded and not reload:  # while it was being opened
                self._retire(opened)
                raise InputError("it was unloaded")
            before = self.served.pop(key, None)
            self.served[key] = opened
            if before is not None:
                self._retire(before)

    def _verified(self, name: str, version: str) -> Bundle:
        """The bundle, unpacked, its signature checked, and opened once in a process of its own. Raises BundleError,
        and InputError for a bundle that cannot be read.
        """
        begin, limit = time.monotonic(), self.settings.open_s
        try:
            bundle = Bundle(self.found[name][version], name, version, limit)
        except (OSError, KeyError) as error:
            raise InputError(str(error) if isinstance(error, OSError) else "it is not there any more") from None
        try:
            if self.settings.public_key is not None:
                from paredown.export.bundle.signature import check_signature

                check_signature(bundle.path, self.settings.public_key)
            if bundle.digest not in VERIFIED:
                left = max(1.0, limit - (time.monotonic() - begin))
                in_child("open", bundle.path, left, children=self.children, threads=self.threads)
                VERIFIED.add(bundle.digest)
        except BaseException:
            bundle.close()
            raise
        return bundle

    def _open(self, bundle: Bundle) -> ServedModel:
        """Raises BundleError, and InputError for a bundle that cannot be read."""
        name, version = bundle.name, bundle.version
        before, begin = _resident_mb(), time.monotonic()
        try:
            model = Model(bundle, self.threads, self.settings.open_s)
            drift = DriftMonitor.of(model.bundle, self.settings)
        except BaseException as error:
            bundle.close()
            if isinstance(error, OSError):
                raise InputError(str(error)) from None
            raise
        batcher = Batcher(model, self.settings, lambda *call: self._observe(name, version, *call))
        megabytes = max(_resident_mb() - before, model.bytes / 1e6)
        about = {"model": name, "version": version, "sha256": model.digest, "threads": self.threads}
        seconds = round(time.monotonic() - begin, 3)
        numbers = {"seconds": seconds, "mb": round(megabytes), "slack_tokens": round(model.slack, 1)}
        log.info("loaded", extra={"fields": about | numbers})
        for note in model.predictor.notes:
            log.warning(note, extra={"fields": {"model": name, "version": version}})
        return ServedModel(model, batcher, drift, megabytes, used=time.monotonic())

    def _free_memory(self, name: str, needed: float, close: bool = True) -> None:
        """Close the least recently used models, until `needed` MB more are within the memory limit; other versions of
        `name`, which answer until it is open, last. MemoryLimitExceeded, and none closed, if that is too little.
        """
        limit, taken, idle = self.settings.memory_mb, sum(s.megabytes for s in self.served.values()), []
        if close:
            idle = sorted((key[0] == name, s.used, key) for key, s in self.served.items() if not s.users)
        chosen = []
        while limit is not None and taken + needed > limit:
            if len(chosen) == len(idle):
                raise MemoryLimitExceeded(f"--memory-mb {limit:g}: not enough memory for {needed:.0f} MB more")
            chosen.append(idle[len(chosen)][-1])
            taken -= self.served[chosen[-1]].megabytes
        for key in chosen:
            self._retire(self.served.pop(key))

    def _retire(self, served: ServedModel) -> None:
        async def close() -> None:
            while served.users:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(served.close)

        task = asyncio.ensure_future(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def close(self) -> None:
        self.children.stop()
        for served in self.served.values():
            served.close()
        self.served = {}

    def remove_unpacked(self) -> None:
        """Remove unpacked bundles, when a call does not return and the process ends without `close`."""
        self.children.stop()
        for served in list(self.served.values()):
            served.model.close()


def _resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6
