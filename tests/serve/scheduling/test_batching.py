import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import BAD, FILLER, GOOD

from paredown.serve.config import Settings
from paredown.serve.errors import HTTPError
from paredown.serve.models.model import Bundle, Model
from paredown.serve.scheduling.batching import Batcher
from paredown.serve.scheduling.queued_request import ClientDisconnected, QueuedRequest

LONG_S = 60
TEXTS = [" ".join(((GOOD, BAD)[i % 2] + FILLER)[i % 3 :][: 1 + i % 7]) for i in range(40)]  # neighbours differ


@pytest.fixture(scope="module")
def model(finished: Path) -> Model:
    return Model(Bundle(finished / "bundle"), 1)


class Held:
    """The model, but a call waits until it is let go; what was called is kept."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[list[list[int]]] = []
        self.go, self.inside = threading.Event(), threading.Event()
        run = model.run

        def held(rows: list[list[int]]) -> np.ndarray:
            self.calls.append(rows)
            self.inside.set()
            assert self.go.wait(LONG_S)
            if any(99 in row for row in rows):
                raise RuntimeError("a row that no model takes")
            return run(rows)

        monkeypatch.setattr(model, "run", held)


@pytest.fixture
def held(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(model, monkeypatch)
    yield held
    held.go.set()


def job(texts: list[str] | None = None, ids: list[list[int]] | None = None, seconds: float = LONG_S) -> QueuedRequest:
    loop = asyncio.get_running_loop()
    tokens = sum(map(len, ids)) if ids else 5 * len(texts or ())
    return QueuedRequest(texts, ids or [], tokens, time.monotonic() + seconds, loop, loop.create_future())


def left_over(batcher: Batcher) -> tuple[int, int, int]:
    return batcher.admission.rows, batcher.admission.tokens, batcher.admission._next_turns


async def inside(held: Held) -> None:
    assert await asyncio.to_thread(held.inside.wait, LONG_S)


def test_answers_come_in_each_requests_order_whatever_the_batches_were(model: Model) -> None:
    """As if each text had been alone; padding changes a sum in its last digits."""
    alone = np.concatenate([model.run(model.tokenise([text])) for text in TEXTS])
    between = np.abs(alone[1:] - alone[:-1]).max(axis=1)
    assert np.median(between) > 0.4  # else another text's answer would pass for this one's

    async def ask() -> list[np.ndarray]:
        batcher = Batcher(model, Settings(batch_tokens=40))
        jobs = [job(TEXTS[i : i + 1 + i % 3]) for i in range(36)]
        try:
            return await asyncio.gather(*map(batcher.submit, jobs))
        finally:
            batcher.close()
            assert left_over(batcher) == (0, 0, 0)

    for i, found in enumerate(asyncio.run(ask())):
        np.testing.assert_allclose(found, alone[i : i + 1 + i % 3], atol=0.2)  # INT8: see run_rows


class Counting:
    """A model that answers each row with its first id; the rows of each call are counted."""

    name, slack, seconds_per_token, tokens_per_unit = "counting", 1e9, 1e-6, 1

    def __init__(self) -> None:
        self.calls: list[int] = []

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        return [[len(text)] * 100 for text in texts]

    def run(self, rows: list[list[int]]) -> np.ndarray:
        self.calls.append(len(rows))
        return np.array([[row[0]] for row in rows], dtype=np.float32)


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        ({}, [9]),
        ({"batch_rows": 4}, [4, 4, 1]),
        ({"batch_rows": 4, "batch_tokens": 300}, [3, 3, 3]),  # of 100 tokens each: the lower limit counts
    ],
)
def test_a_call_has_no_more_rows_and_tokens_than_it_may(limits: dict, calls: list[int]) -> None:
    model = Counting()

    async def ask() -> np.ndarray:
        batcher = Batcher(model, Settings(**limits))
        try:
            return await batcher.submit(job(["x" * n for n in range(1, 10)]))
        finally:
            batcher.close()

    assert asyncio.run(ask())[:, 0].tolist() == list(range(1, 10))
    assert model.calls == calls


def test_requests_that_wait_share_calls(model: Model, held: Held) -> None:
    async def ask() -> None:
        batcher = Batcher(model, Settings())
        first = asyncio.ensure_future(batcher.submit(job(ids=[[2, 5, 3]])))
        await inside(held)
        rest = [asyncio.ensure_future(batcher.submit(job(ids=[[2, 6, 3]]))) for _ in range(8)]
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(first, *rest)
        batcher.close()

    asyncio.run(ask())
    assert [len(call) for call in held.calls] == [1, 8]


def test_an_idle_model_waits_for_company_when_told_to(model: Model, held: Held) -> None:
    held.go.set()

    async def ask() -> None:
        batcher = Batcher(model, Settings(max_wait_ms=1000, batch_tokens=12))
        await asyncio.gather(*(batcher.submit(job(ids=[[2, 6, 3]])) for _ in range(4)))
        batcher.close()

    asyncio.run(ask())
    assert [len(call) for call in held.calls] == [4]  # full: nobody waited for the whole second


def test_one_that_leaves_or_fails_does_not_take_its_mates_along(model: Model, held: Held) -> None:
    async def ask() -> None:
        batcher = Batcher(model, Settings())
        first = asyncio.ensure_future(batcher.submit(job(ids=[[2, 5, 3]])))
        await inside(held)
        leaving, poisoned, good = job(ids=[[2, 6, 3]]), job(ids=[[2, 99, 3]]), job(ids=[[2, 7, 3]])
        tasks = [asyncio.ensure_future(batcher.submit(one)) for one in (leaving, poisoned, good)]
        await asyncio.sleep(0)
        leaving.future.set_exception(ClientDisconnected())
        held.go.set()
        gone, failed, answer = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(gone, ClientDisconnected)
        assert isinstance(failed, RuntimeError)
        assert isinstance(answer, np.ndarray)
        assert isinstance(await first, np.ndarray)
        batcher.close()
        assert left_over(batcher) == (0, 0, 0)

    asyncio.run(ask())
    assert not any([2, 6, 3] in call for call in held.calls)


def test_a_deadline_holds_while_a_call_is_running(model: Model, held: Held) -> None:
    async def ask() -> None:
        batcher = Batcher(model, Settings())
        running = asyncio.ensure_future(batcher.submit(job(ids=[[2, 5, 3]], seconds=0.2)))
        await inside(held)
        with pytest.raises(HTTPError) as late:  # and the call has not come back
            await running
        assert late.value.status == 504
        assert not held.go.is_set()
        held.go.set()
        assert len(await batcher.submit(job(ids=[[2, 6, 3]]))) == 1
        batcher.close()

    asyncio.run(ask())


def test_a_text_that_no_tokenizer_takes_fails_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenise = model.tokenise

    def strict(texts: list[str]) -> list[list[int]]:
        if "poison" in texts:
            raise BaseException("a panic in another language")
        return tokenise(texts)

    monkeypatch.setattr(model, "tokenise", strict)

    def uncounted(rows: int, tokens: int, seconds: float) -> None:
        raise OSError("figures that are lost stop nothing")

    async def ask() -> None:
        batcher = Batcher(model, Settings(), observe=uncounted)
        good, bad = job(["a film"]), job(["poison"])
        answer, failed = await asyncio.gather(batcher.submit(good), batcher.submit(bad), return_exceptions=True)
        assert isinstance(answer, np.ndarray)
        assert isinstance(failed, RuntimeError)
        assert batcher.alive
        assert isinstance(await batcher.submit(job(["a plot"])), np.ndarray)
        batcher.close()
        assert not batcher.alive
        assert left_over(batcher) == (0, 0, 0)

    asyncio.run(ask())


def test_a_number_that_is_not_finite_is_an_error_that_says_so(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.predictor.session
    monkeypatch.setattr(model.predictor, "session", lambda batch: {k: v * np.nan for k, v in session(batch).items()})

    async def ask() -> None:
        batcher = Batcher(model, Settings())
        with pytest.raises(RuntimeError, match="a number that is not finite"):
            await batcher.submit(job(TEXTS[:1]))
        batcher.close()

    asyncio.run(ask())


def test_the_queue_is_bounded_in_rows_and_in_time(model: Model, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "seconds_per_token", 0.5)

    async def ask() -> None:
        batcher = Batcher(model, Settings(queue_rows=4))
        first = [asyncio.ensure_future(batcher.submit(job(ids=[[2, 5, 3]] * 2)))]
        await inside(held)
        with pytest.raises(HTTPError, match="2 rows are waiting") as full:
            await batcher.submit(job(ids=[[2]] * 3))
        assert (full.value.status, full.value.retry_after) == (429, 3)
        with pytest.raises(HTTPError) as late:  # three seconds of work are in front of it
            await batcher.submit(job(ids=[[2]], seconds=3))
        assert late.value.status == 429
        first.append(asyncio.ensure_future(batcher.submit(job(ids=[[2, 5, 3]], seconds=20))))
        await asyncio.sleep(0)
        held.go.set()
        await asyncio.gather(*first)
        batcher.close()

    asyncio.run(ask())


def test_what_was_admitted_is_answered_when_it_closes(model: Model, held: Held) -> None:
    async def ask() -> list[np.ndarray]:
        batcher = Batcher(model, Settings())
        tasks = [asyncio.ensure_future(batcher.submit(job(TEXTS[i : i + 2]))) for i in range(6)]
        await inside(held)
        threading.Timer(0.05, held.go.set).start()
        await asyncio.to_thread(batcher.close, LONG_S)
        return await asyncio.gather(*tasks)

    assert [len(found) for found in asyncio.run(ask())] == [2] * 6


def test_a_request_that_could_not_be_done_alone_is_refused_at_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "seconds_per_token", 0.5)

    async def ask() -> None:
        batcher = Batcher(model, Settings(queue_rows=4))
        for large in (job(ids=[[2]] * 5), job(ids=[[2, 5, 3]] * 4, seconds=5)):
            with pytest.raises(HTTPError) as refused:
                await batcher.submit(large)
            assert refused.value.status == 413
        assert len(await batcher.submit(job(ids=[[2, 5, 3]] * 4, seconds=20))) == 4
        batcher.close()
        assert left_over(batcher) == (0, 0, 0)

    asyncio.run(ask())


def test_a_large_request_lets_small_ones_pass(model: Model, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get their turn after one of the large one's, and are let in by that."""
    monkeypatch.setattr(model, "seconds_per_token", 0.5)

    async def ask() -> None:
        batcher = Batcher(model, Settings(batch_tokens=6))
        large = asyncio.ensure_future(batcher.submit(job(ids=[[2, 5, 3]] * 40, seconds=100)))
        await inside(held)
        small = [asyncio.ensure_future(batcher.submit(job(ids=[[2, row, 3]]))) for row in (6, 7)]
        await asyncio.sleep(0)
        held.go.set()
        assert len((await asyncio.gather(large, *small))[0]) == 40
        batcher.close()
        assert left_over(batcher) == (0, 0, 0)

    asyncio.run(ask())
    place = next(i for i, call in enumerate(held.calls) if [2, 6, 3] in call)
    assert place <= 2
    assert len(held.calls) == 21


def test_what_nobody_waits_for_is_dropped_between_the_calls_of_a_round(
    model: Model, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "slack", 1.0)  # each row is a call

    async def ask() -> None:
        batcher = Batcher(model, Settings())
        leaving = job(ids=[[5] * length for length in (8, 4, 1)])
        task = asyncio.ensure_future(batcher.submit(leaving))
        await inside(held)
        leaving.future.set_exception(ClientDisconnected())
        held.go.set()
        assert len(await batcher.submit(job(ids=[[2, 6, 3]]))) == 1
        with pytest.raises(ClientDisconnected):
            await task
        batcher.close()
        assert left_over(batcher) == (0, 0, 0)

    asyncio.run(ask())
    assert [len(call[0]) for call in held.calls] == [8, 3]
