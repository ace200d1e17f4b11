"""The models of one process: found in a directory, opened at start or on demand, swapped without a failed request.

Names and versions come from the operator's directory alone; what a client sends is looked up in what was found there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from ..export.archive import unpacked
from ..export.errors import InputError
from ..export.manifest import MANIFEST, BundleError, read_manifest
from .batching import Batcher
from .drift import Drift
from .model import Model
from .refused import Refused
from .settings import Settings

log = logging.getLogger("paredown")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
SUFFIX = ".tar.gz"
RETRY_S = 60  # seconds until a model that did not open is tried again for a request
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(eq=False)
class Served:
    """A model that answers."""

    model: Model
    batcher: Batcher
    drift: Drift | None
    megabytes: float
    users: int = 0
    used: float = 0.0

    def close(self) -> None:
        self.batcher.close()
        self.model.close()


class Models:
    """What is served, by name and version. Its methods belong to the event loop; opening happens in a thread."""

    def __init__(self, settings: Settings, observe: Callable[[str, str, int, int, float], None]) -> None:
        self.settings, self._observe = settings, observe
        self.threads = settings.threads or max(1, _cores() // settings.workers)
        self.found: dict[str, dict[str, Path]] = {}
        self.served: dict[tuple[str, str], Served] = {}
        self._stopped: set[str] = set()  # names that a client unloaded: not loaded on demand
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}
        self._opening = asyncio.Lock()
        self._closing: set[asyncio.Task] = set()

    def open_first(self) -> None:
        """Open what is served from the start, before the event loop runs. Raises BundleError, InputError."""
        self.found = find(self.settings)
        for name, versions in self.found.items():
            if self.settings.load == "latest":
                self._open_latest(name, sorted(versions, key=int, reverse=True))
            for version in sorted(versions, key=int) if self.settings.load == "all" else ():
                self.served[name, version] = self._open(name, version)

    def _open_latest(self, name: str, versions: list[str]) -> None:
        """The first that opens, of versions in this order: a worker that comes back serves what served before a newer
        version came that is not right. The error of the first when none does.
        """
        errors = []
        for version in versions:
            try:
                self.served[name, version] = self._open(name, version)
                return
            except (BundleError, InputError) as error:
                errors.append(error)
                self._failed[name, version] = time.monotonic(), str(error)
                log.error("not loaded", extra={"fields": {"model": name, "version": version, "reason": str(error)}})
        raise errors[0]

    @property
    def alive(self) -> bool:
        """Every open model still has the threads that it is run by."""
        return all(served.batcher.alive for served in self.served.values())

    async def look(self, name: str) -> None:
        """Look at the directory again. Refused 404 for a name that is not in it, 400 where it cannot be read."""
        try:
            self.found = await asyncio.to_thread(find, self.settings)
        except (BundleError, InputError) as error:
            raise Refused(400, f"'{name}' was not loaded: {error}") from None
        self.versions(name)

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
        """Versions of a model that can be asked for. Refused 404 for an unknown name."""
        if name not in self.found:
            raise Refused(404, f"unknown model '{name[:100]}'; known: {', '.join(sorted(self.found))}")
        return sorted(self.found[name], key=int)

    def there(self, name: str) -> None:
        """Refused 404 for a name that is neither served nor known; what is served may be gone from the directory."""
        if not any(key[0] == name for key in self.served):
            self.versions(name)

    def _known(self, name: str, version: str | None) -> list[str]:
        known = self.versions(name)
        if version is not None and version not in known:
            raise Refused(404, f"'{name}' has no version '{version[:100]}'; it has {', '.join(known)}")
        return [version] if version is not None else known

    def default(self, name: str) -> str:
        """The version that answers when none is asked for: the latest loaded, else the latest that may open."""
        known = self.versions(name)
        loaded = [version for version in known if (name, version) in self.served]
        hopeful = [version for version in known if (name, version) not in self._failed]
        return (loaded or hopeful or known)[-1]

    def ready(self, name: str, version: str | None) -> bool:
        """Whether the version, or any, is open. Refused 404 for one that is not there."""
        return any((name, v) in self.served for v in self._known(name, version))

    @contextlib.asynccontextmanager
    async def use(self, name: str, version: str | None, deadline: float) -> AsyncIterator[Served]:
        """The model for one request, opened first where it must be; it stays open until the block ends."""
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
        if name in self._stopped:
            raise Refused(503, f"'{name}' version {version} is not ready: it was unloaded")
        task = asyncio.ensure_future(self._load(name, version))
        try:
            await asyncio.wait_for(asyncio.shield(task), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            task.add_done_callback(lambda t: t.exception())
            raise Refused(503, f"'{name}' version {version} is being loaded", retry_after=1) from None
        except (BundleError, InputError) as error:
            raise Refused(503, f"'{name}' version {version} is not ready: {error}") from None

    async def load(self, name: str) -> None:
        """Look at the directory again and serve the latest version of a model; the one that answered until now goes
        on until its last request is done. Refused 400 when the bundle is not right: then nothing changes.
        """
        await self.look(name)
        version = latest(self.found[name])
        try:
            await self._load(name, version, again=True)
        except (BundleError, InputError) as error:
            raise Refused(400, f"'{name}' was not loaded: {error}") from None
        self._stopped.discard(name)
        if self.settings.load != "all":
            for key in [key for key in self.served if key[0] == name and key[1] != version]:
                self._retire(self.served.pop(key))

    async def unload(self, name: str) -> None:
        """Stop serving a model until it is loaded again; requests under way are answered."""
        self.there(name)
        self._stopped.add(name)
        for key in [key for key in self.served if key[0] == name]:
            self._retire(self.served.pop(key))

    async def _load(self, name: str, version: str, again: bool = False) -> None:
        key = name, version
        async with self._opening:
            if key in self.served and not again:
                return
            when, why = self._failed.get(key, (0.0, ""))
            if why and not again and time.monotonic() - when < RETRY_S:
                raise InputError(why)
            try:
                await self._make_room(name, version)
                opened = await asyncio.to_thread(self._open, name, version)
            except (BundleError, InputError) as error:
                self._failed[key] = time.monotonic(), str(error)
                raise
            except OSError as error:  # gone, or not readable any more
                self._failed[key] = time.monotonic(), str(error)
                raise InputError(str(error)) from None
            self._failed.pop(key, None)
            if name in self._stopped and not again:  # while it was being opened
                self._retire(opened)
                raise InputError("it was unloaded")
            before = self.served.pop(key, None)
            self.served[key] = opened
            if before is not None:
                self._retire(before)

    def _open(self, name: str, version: str) -> Served:
        before, begin = _resident_mb(), time.monotonic()
        model = Model(self.found[name][version], self.threads, name, version)
        batcher = Batcher(model, self.settings, lambda *call: self._observe(name, version, *call))
        drift = Drift.of(model, self.settings)
        megabytes = max(_resident_mb() - before, model.bytes / 1e6)
        about = {"model": name, "version": version, "sha256": model.digest, "threads": self.threads}
        seconds = round(time.monotonic() - begin, 3)
        figures = {"seconds": seconds, "mb": round(megabytes), "slack_tokens": round(model.slack, 1)}
        log.info("loaded", extra={"fields": about | figures})
        for note in model.predictor.notes:
            log.warning(note, extra={"fields": {"model": name, "version": version}})
        return Served(model, batcher, drift, megabytes, used=time.monotonic())

    async def _make_room(self, name: str, version: str) -> None:
        """Close the models that were not used for longest, until another fits under the memory cap; its own other
        versions, which should answer until it is open, last.
        """
        limit = self.settings.memory_mb
        if limit is None:
            return
        needed = _size_mb(self.found[name][version])
        idle = sorted((key[0] == name, s.used, key) for key, s in self.served.items() if not s.users)
        while sum(s.megabytes for s in self.served.values()) + needed > limit:
            if not idle:
                raise InputError(
                    f"--memory-mb {limit:g}: no room for {needed:.0f} MB more, every other model is at work"
                )
            self._retire(self.served.pop(idle.pop(0)[-1]))

    def _retire(self, served: Served) -> None:
        async def close() -> None:
            while served.users:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(served.close)

        task = asyncio.ensure_future(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def close(self) -> None:
        for served in self.served.values():
            served.close()
        self.served = {}


def find(settings: Settings) -> dict[str, dict[str, Path]]:
    """Bundles by name and version: the one of `settings.bundle`, or those in the directory `settings.models`, where
    NAME or NAME.tar.gz is a bundle (version 1), or NAME holds one per VERSION (a number)."""
    if settings.bundle is not None:
        with unpacked(settings.bundle) as path:
            manifest = read_manifest(path)
        return {manifest["name"]: {manifest["version"]: settings.bundle}}
    assert settings.models is not None
    if not settings.models.is_dir():
        raise InputError(f"--models {settings.models}: no such directory")
    found: dict[str, dict[str, Path]] = {}
    for entry in sorted(settings.models.iterdir()):
        name = entry.name.removesuffix(SUFFIX)
        if not NAME.fullmatch(name):
            continue
        if _is_bundle(entry):
            found.setdefault(name, {})["1"] = entry
        elif entry.is_dir():
            for part in sorted(entry.iterdir()):
                number = part.name.removesuffix(SUFFIX)
                if re.fullmatch("[1-9][0-9]{0,17}", number) and _is_bundle(part):
                    found.setdefault(name, {})[number] = part
    if not found:
        raise InputError(f"--models {settings.models}: no bundle there; expected NAME or NAME/1, or their {SUFFIX}")
    return found


def latest(versions: dict[str, Path]) -> str:
    return max(versions, key=int)


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path.name.endswith(SUFFIX) and path.is_file())


def _size_mb(path: Path) -> float:
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()) / 1e6


def _resident_mb() -> float:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_MB
    except OSError:
        return 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
