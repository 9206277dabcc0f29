"""Work that is shared by all who wait: who is together with whom, and who is told of which error."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from service.batch import Batch
from tests.waiting import wait_until

pytestmark = pytest.mark.anyio


class Work:
    """Blocks until it may go on, and remembers what it was given together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = threading.Event()
        self.outcome: Callable[[int], Exception | None] = lambda _: None

    def __call__(self, items: Sequence[int]) -> list[Exception | None]:
        self.batches.append(list(items))
        assert self.may.wait(60)
        return [self.outcome(item) for item in items]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def batch(work: Work) -> AsyncIterator[Batch[int]]:
    batch = Batch(work, name="test", most=4)
    yield batch
    work.may.set()
    batch.close()


async def begun(work: Work, number: int) -> None:
    await asyncio.to_thread(wait_until, lambda: len(work.batches) == number, 60, f"batch {number}")


async def test_one_alone_waits_for_nobody_and_those_who_come_meanwhile_are_together(
    batch: Batch[int], work: Work
) -> None:
    first = asyncio.create_task(batch.do(0))
    await begun(work, 1)
    others = [asyncio.create_task(batch.do(number)) for number in range(1, 7)]
    await asyncio.sleep(0)
    work.may.set()
    await asyncio.gather(first, *others)

    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_each_is_told_of_its_own_error(batch: Batch[int], work: Work) -> None:
    work.outcome = lambda item: ValueError(item) if item % 2 else None
    work.may.set()

    told = await asyncio.gather(*(batch.do(number) for number in range(4)), return_exceptions=True)

    assert [str(error) if error else None for error in told] == [None, "1", None, "3"]


async def test_an_error_of_the_work_itself_is_told_to_all_and_ends_nothing(batch: Batch[int], work: Work) -> None:
    def fail(item: int) -> Exception | None:
        raise KeyError(item)

    work.outcome = fail
    work.may.set()
    told = await asyncio.gather(batch.do(1), batch.do(2), return_exceptions=True)
    work.outcome = lambda _: None
    await batch.do(3)

    assert [type(error) for error in told] == [KeyError, KeyError]


async def test_what_somebody_has_asked_for_is_done_although_he_is_gone(batch: Batch[int], work: Work) -> None:
    first = asyncio.create_task(batch.do(0))
    await begun(work, 1)
    gone = asyncio.create_task(batch.do(1))
    await asyncio.sleep(0)
    gone.cancel()
    work.may.set()
    await first
    with pytest.raises(asyncio.CancelledError):
        await gone
    await batch.do(2)

    assert [item for items in work.batches for item in items] == [0, 1, 2]
