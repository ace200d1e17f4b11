"""An open-loop load generator: requests leave when they are due, whether or not earlier ones were answered.

A latency is counted from the moment a request was due, not from when it was sent: a server that stalls is charged
for everyone who would have waited (G. Tene's "coordinated omission").
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from paredown.runtime.errors import InputError, missing_extra
from paredown.tasks.parsing import columns_of

try:
    import aiohttp
except ImportError as error:
    raise missing_extra(error.name or "aiohttp", "load") from None

PERCENTILES = (50, 90, 95, 99, 99.9)


@dataclass(frozen=True)
class Load:
    """What is sent: rate, duration, arrival times. InputError for a rate or a duration that is not above 0."""

    rps: float  # requests per second
    seconds: float
    arrivals: Literal["poisson", "even"] = "poisson"
    seed: int = 0  # of the arrival times
    timeout: float = 10  # seconds, from when a request was due
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rps) and math.isfinite(self.seconds) and self.rps > 0 and self.seconds > 0):
            raise InputError(f"--rps {self.rps:g} --seconds {self.seconds:g}: both are more than 0")

    def due_times(self) -> Iterator[float]:
        """Seconds from the start at which requests are due: at equal intervals, or as independent clients send them."""
        rng, now = random.Random(self.seed), 0.0
        while now < self.seconds:
            yield now
            now += rng.expovariate(self.rps) if self.arrivals == "poisson" else 1 / self.rps


@dataclass
class Outcome:
    """The result of a load; times in seconds."""

    rps: float  # of `Load`
    seconds: float  # that sending took
    sent: int = 0
    latencies: list[float] = field(default_factory=list)  # of responses with status 200, from when they were due
    statuses: Counter[str] = field(default_factory=Counter)  # by status, or by the error's name
    lag: list[float] = field(default_factory=list)  # how late each request left

    def summary(self) -> dict:
        """Counts, rates, latencies in ms, and how late this program itself was."""
        times = np.array(self.latencies) * 1e3
        percentiles = (
            {f"p{p:g}_ms": round(float(np.percentile(times, p)), 3) for p in PERCENTILES} if len(times) else {}
        )
        return {
            "rps": self.rps,
            "seconds": self.seconds,
            "sent": self.sent,
            "ok": len(times),
            "answered_per_s": round(len(times) / self.seconds, 2),
            "statuses": dict(sorted(self.statuses.items())),
            **percentiles,
            "mean_ms": round(float(times.mean()), 3) if len(times) else None,
            "max_ms": round(float(times.max()), 3) if len(times) else None,
            "lag_p99_ms": round(float(np.percentile(self.lag, 99)) * 1e3, 3) if self.lag else None,
        }


def request_bodies(texts: Sequence[str], url: str, model: str | None) -> tuple[str, list[bytes]]:
    """(address, request bodies): v2 inference for a model, else POST /predict. A row of two texts has both."""
    if model is None:
        return f"{url}/predict", [json.dumps(columns_of(text)).encode() for text in texts]
    tensor = {"datatype": "BYTES", "shape": [1]}
    made = [
        json.dumps({"inputs": [{"name": n, **tensor, "data": [t]} for n, t in columns_of(text).items()]}).encode()
        for text in texts
    ]
    return f"{url}/v2/models/{model}/infer", made


async def send(address: str, requests: Sequence[bytes], load: Load) -> Outcome:
    """POST `requests` in turn to `address`, each when it is due."""
    outcome = Outcome(load.rps, load.seconds)
    tasks: set[asyncio.Task] = set()
    headers = {"Content-Type": "application/json", **load.headers}
    limit = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limit, headers=headers) as client:

        async def one(body: bytes, due: float) -> None:
            outcome.lag.append(time.perf_counter() - due)
            try:
                async with asyncio.timeout(due + load.timeout - time.perf_counter()):
                    async with client.post(address, data=body) as reply:
                        await reply.read()
                status = str(reply.status)
            except (TimeoutError, aiohttp.ClientError, OSError) as error:
                status = type(error).__name__
            outcome.statuses[status] += 1
            if status == "200":
                outcome.latencies.append(time.perf_counter() - due)

        begin = time.perf_counter()
        for number, after in enumerate(load.due_times()):
            wait = begin + after - time.perf_counter()
            await asyncio.sleep(max(0.0, wait))  # also when late, so that responses are read
            task = asyncio.create_task(one(requests[number % len(requests)], begin + after))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            outcome.sent += 1
        outcome.seconds = max(load.seconds, time.perf_counter() - begin)
        await asyncio.gather(*tasks)
    return outcome


def run(address: str, requests: Sequence[bytes], load: Load) -> Outcome:
    """`send`, from code that is not async. InputError when there is no response at all."""
    outcome = asyncio.run(send(address, requests, load))
    answered = [status for status in outcome.statuses if status.isdecimal()]
    if not answered:
        raise InputError(f"{address}: no answer: {', '.join(outcome.statuses)}")
    return outcome
