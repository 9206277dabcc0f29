"""The outbox over records in memory, a held clock and a real receiver: what is sent when, how often, and what is given up."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from service.clock import HeldClock, utc_now
from service.counts import Counts
from service.errors import NotFound
from service.figures import DELIVERY_DELAY, DELIVERY_TRIES
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Job, JobStatus, Reason
from service.jobs.notices import Kind, delivering
from service.notify.base import Ending, Letter, Outcome
from service.notify.endpoints import Endpoint, MemoryEndpoints, callback_id, new_endpoint
from service.notify.guard import Guard
from service.notify.outbox import WAITS, Outbox, OutboxThread
from service.notify.subscribers import Subscribers
from service.notify.webhooks import WebhookSender
from tests.jobs import finish, make_job
from tests.receiver import Receiver, cut, status
from tests.waiting import wait_until

HERE = "127.0.0.1/32"


class Rig:
    """A store, its outbox, and one endpoint at the receiver."""

    def __init__(self, receiver: Receiver, *, guard: Guard | None = None, timeout: float = 5, events=()) -> None:
        self.receiver = receiver
        self.clock = HeldClock(utc_now())  # near the real time: the library's verifier knows no other
        self.store = MemoryJobStore(clock=self.clock)
        self.endpoints = MemoryEndpoints()
        self.guard = guard or Guard([HERE])
        self.timeout = timeout
        self.secret = self.add(receiver.url, events=events)
        self.ending = Ending(retention=None, subscribers=Subscribers(endpoints=self.endpoints), clock=self.clock)
        self.outbox = self.new_outbox()

    def add(self, url: str, events=()) -> str:
        secret, self.endpoint = new_endpoint(url, self.clock(), events=events).rotated(self.clock(), timedelta(0))
        self.endpoints.put(self.endpoint)
        return secret

    def new_outbox(self, **options: Any) -> Outbox:
        def sender() -> WebhookSender:
            return WebhookSender(endpoints=self.endpoints, guard=self.guard, timeout=self.timeout)

        defaults: dict[str, Any] = {"senders": {Kind.WEBHOOK: sender}, "jitter": lambda low, high: 1.0}
        return Outbox(store=self.store, clock=self.clock, poll=0.02, **defaults | options)

    def end(self, reason: Reason = Reason.SUCCEEDED, **members: Any) -> Job:
        """Have a job end now, as a runner or the API does it."""
        job = make_job(**members)
        self.store.create(job)
        if reason is Reason.CANCELED:
            return self.store.update(job.id, lambda one: self.ending(one.canceled(self.clock())))
        _, lease = self.store.claim(job.id, lambda one: one.claimed(self.clock()))
        assert lease is not None
        after = self.store.update(job.id, lambda one: self.ending(finish(one, reason, now=self.clock())))
        lease.release()
        return after

    def delivery(self, job: Job, notice: int = 0, number: int = 0):
        return self.store.get(job.id).notices[notice].deliveries[number]

    def rounds(self, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            try:
                await work()
            finally:
                await self.outbox.close()

        asyncio.run(run())


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def rig(receiver):
    return Rig(receiver)


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        (Reason.SUCCEEDED, "job.succeeded"),
        (Reason.REJECTED, "job.failed"),
        (Reason.CANCELED, "job.canceled"),
    ],
    ids=str,
)
def test_an_end_is_told_once_with_the_whole_job_and_a_good_signature(rig, reason, event):
    job = rig.end(reason)
    rig.rounds(rig.outbox.round)
    (got,) = rig.receiver.got
    payload = got.verified(rig.secret)
    assert payload["type"] == event
    assert payload["data"]["id"] == job.id
    assert payload["data"]["version"] == job.version
    assert payload["data"]["links"]["self"] == f"/v1/jobs/{job.id}"
    assert got.headers["content-type"] == "application/json"
    delivery = rig.delivery(job)
    assert (delivery.state, delivery.tries, delivery.due_at) == ("delivered", 1, None)
    assert delivery.log[0].status == 204
    assert rig.store.undelivered() == []


def test_telling_changes_neither_the_version_nor_the_document(rig):
    job = rig.end()
    rig.rounds(rig.outbox.round)
    after = rig.store.get(job.id)
    assert after.document() == job.document()
    assert "notices" not in after.document().model_dump()


def test_a_receiver_that_is_down_for_an_hour_gets_it_when_it_is_back(rig):
    rig.receiver.answer = status(503)
    job = rig.end()

    async def work():
        until = rig.clock() + timedelta(hours=1)
        while rig.clock() < until:
            await rig.outbox.round()
            rig.clock.advance(60)
        rig.receiver.answer = status(200)
        for _ in range(200):
            await rig.outbox.round()
            rig.clock.advance(60)

    rig.rounds(work)
    assert len(rig.receiver.got) == 5  # at once, and after 5 s, 5 min, 30 min; then, after 2 h, once more
    assert len({got.id for got in rig.receiver.got}) == 1
    assert len({got.body for got in rig.receiver.got}) == 1
    assert rig.delivery(job).state == "delivered"
    assert [one.status for one in rig.delivery(job).log] == [503, 503, 503, 503, 200]


def test_every_try_is_counted_by_what_came_of_it(rig):
    rig.receiver.answer = status(503)
    counts = Counts()
    rig.outbox = rig.new_outbox(counts=counts)
    rig.end()

    async def work():
        await rig.outbox.round()
        assert (rig.store.figures(rig.clock()).undelivered, rig.store.figures(rig.clock()).dead_letters) == (1, 0)
        rig.receiver.answer = status(204)
        rig.clock.advance(10)
        await rig.outbox.round()
        rig.receiver.answer = status(410)
        rig.end()
        await rig.outbox.round()

    rig.rounds(work)
    tries = {key.labels: one.total for key, one in counts.read().items() if key.metric == DELIVERY_TRIES.name}
    assert tries == {("webhook", outcome): 1 for outcome in ("failed", "delivered", "dead")}
    (delay,) = (one for key, one in counts.read().items() if key.metric == DELIVERY_DELAY.name)
    assert delay.number == 1
    assert delay.total >= 10
    assert (rig.store.figures(rig.clock()).undelivered, rig.store.figures(rig.clock()).dead_letters) == (0, 1)


def test_what_nobody_takes_is_given_up_after_three_days_and_stays_to_be_replayed(rig):
    rig.receiver.answer = status(500)
    job = rig.end()
    began = rig.clock()

    async def work():
        while rig.store.undelivered():
            await rig.outbox.round()
            if (due := rig.delivery(job).due_at) is not None:
                assert due > rig.clock()
                rig.clock.now = due

    rig.rounds(work)
    assert len(rig.receiver.got) == len(WAITS) + 1
    assert timedelta(days=3) < rig.clock() - began < timedelta(days=4)
    assert rig.delivery(job).state == "dead"
    assert rig.store.dead_letters() == [job.id]

    rig.receiver.answer = status(200)
    rig.store.update(
        job.id, lambda one: delivering(one, one.notices[0].id, rig.endpoint.id, lambda d: d.replayed(rig.clock()))
    )
    assert rig.store.undelivered() == [job.id]
    rig.outbox = rig.new_outbox()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).state == "delivered"
    assert rig.store.dead_letters() == []
    assert rig.receiver.got[-1].id == rig.receiver.got[0].id


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (status(500), "It answered 500."),
        (status(302, Location="http://127.0.0.1:1/"), "redirects are not followed"),
        (status(308, Location="/other"), "redirects are not followed"),
        (status(404), "It answered 404."),
        (cut, "RemoteProtocolError"),
    ],
    ids=["500", "302", "308", "404", "cut"],
)
def test_anything_but_a_whole_2xx_is_a_failure_that_is_tried_again(rig, answer, detail):
    rig.receiver.answer = answer
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert len(rig.receiver.got) == 1
    delivery = rig.delivery(job)
    assert delivery.state == "waiting"
    assert delivery.due_at == rig.clock() + WAITS[0]
    assert detail in delivery.log[0].detail


def test_a_slow_receiver_is_left_after_the_time_of_a_try(receiver):
    rig = Rig(receiver, timeout=0.3)
    receiver.answer = receiver.slow
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).log[0].detail == "No whole answer within 0.3 s."


def test_an_answer_without_end_is_read_to_its_limit_and_counts_by_its_status(rig):
    sent = []

    def endless(request):
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        try:
            while True:
                sent.append(request.wfile.write(bytes(2**16)))
        except OSError:
            request.close_connection = True

    rig.receiver.answer = endless
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).state == "delivered"
    assert sum(sent) < 50_000_000


def test_gone_disables_the_endpoint_and_nothing_more_is_sent_there(rig):
    rig.receiver.answer = status(410)
    first, second = rig.end(), rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(first).state == rig.delivery(second).state == "dead"
    assert rig.endpoints.get(rig.endpoint.id).disabled_because == "it answered 410 Gone"
    assert rig.end().notices == ()


def test_retry_after_is_heeded_where_it_is_longer_than_the_wait(rig):
    rig.receiver.answer = status(429, Retry_After="600")
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).due_at == rig.clock() + timedelta(seconds=600)


@pytest.mark.parametrize("value", ["100000000", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_retry_after_does_not_postpone_beyond_a_day(rig, value):
    rig.receiver.answer = status(503, Retry_After=value)
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).due_at == rig.clock() + timedelta(days=1)


def test_waits_grow_and_are_spread(rig):
    rig.outbox = rig.new_outbox(jitter=lambda low, high: high)
    rig.receiver.answer = status(500)
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).due_at == rig.clock() + WAITS[0] * 1.2
    assert list(WAITS) == sorted(WAITS)


def test_a_name_that_leads_to_this_machine_at_the_second_look_gets_no_connection(receiver):
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        return ["192.0.2.1"] if len(asked) == 1 else ["127.0.0.1"]  # a documentation address is refused as well

    rig = Rig(receiver, guard=Guard(["192.0.2.0/24"], resolve=rebinding), timeout=0.5)
    rig.endpoints.change(rig.endpoint.id, lambda one: one.evolve(url=f"http://hooks.example.org:{receiver.port}/"))
    job = rig.end()

    async def work():
        await rig.outbox.round()
        rig.clock.advance(3600)
        await rig.outbox.round()

    rig.rounds(work)
    assert len(asked) == 2  # once for each try: the connection asks nobody again
    assert receiver.got == []
    assert "not on the Internet" in rig.delivery(job).log[1].detail


def test_the_connection_goes_to_the_judged_address_and_the_request_to_the_name(receiver):
    async def elsewhere(host, port):
        return ["127.0.0.1"]

    rig = Rig(receiver, guard=Guard([HERE], resolve=elsewhere))
    rig.endpoints.change(rig.endpoint.id, lambda one: one.evolve(url=f"http://hooks.example.org:{receiver.port}/in"))
    rig.end()
    rig.rounds(rig.outbox.round)
    assert receiver.got[0].headers["host"] == f"hooks.example.org:{receiver.port}"


def test_one_address_that_does_not_answer_is_followed_by_the_next(receiver):
    async def two(host, port):
        return ["127.0.0.2", "127.0.0.1"]

    rig = Rig(receiver, guard=Guard(["127.0.0.0/8"], resolve=two))
    rig.end()
    rig.rounds(rig.outbox.round)
    assert len(receiver.got) == 1


def test_both_secrets_sign_while_the_old_one_is_kept(rig):
    fresh, after = rig.endpoint.rotated(rig.clock(), timedelta(hours=24))
    rig.endpoints.put(after)
    rig.end()
    rig.rounds(rig.outbox.round)
    rig.receiver.got[0].verified(rig.secret)
    rig.receiver.got[0].verified(fresh)
    assert len(rig.receiver.got[0].headers["webhook-signature"].split()) == 2
    assert after.valid_secrets(rig.clock() + timedelta(hours=25)) == [fresh]


def test_the_callback_of_a_job_is_signed_with_the_secret_of_its_owner(rig):
    rig.endpoints.remove(rig.endpoint.id)
    empty = Endpoint(id=callback_id("0123456789"), created_at=rig.clock())
    secret, endpoint = empty.rotated(rig.clock(), timedelta(0))
    rig.endpoints.put(endpoint)
    job = rig.end(callback_url=f"{rig.receiver.url}?for=me", owner="0123456789")
    rig.rounds(rig.outbox.round)
    (got,) = rig.receiver.got
    assert got.path == "/hook?for=me"
    assert got.verified(secret)["data"]["id"] == job.id


def test_an_endpoint_hears_of_the_events_it_wants(receiver):
    rig = Rig(receiver, events=("job.failed",))
    assert rig.end().notices == ()
    assert len(rig.end(Reason.REJECTED).notices) == 1


def test_what_waits_for_an_endpoint_that_was_removed_is_given_up(rig):
    job = rig.end()
    rig.endpoints.remove(rig.endpoint.id)
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).state == "dead"
    assert rig.receiver.got == []


def test_a_job_that_was_retried_meanwhile_is_told_of_as_it_was(rig):
    rig.receiver.answer = status(500)
    job = rig.end(Reason.REJECTED)

    async def work():
        await rig.outbox.round()
        rig.store.update(job.id, lambda one: one.retried(3, rig.clock()))
        rig.receiver.answer = status(200)
        rig.clock.advance(10)
        await rig.outbox.round()

    rig.rounds(work)
    assert rig.store.get(job.id).status is JobStatus.QUEUED
    assert len({got.body for got in rig.receiver.got}) == 1
    assert rig.receiver.got[1].verified(rig.secret)["data"]["status"] == "failed"


def test_each_end_of_a_retried_job_is_an_event_of_its_own(rig):
    job = rig.end(Reason.REJECTED)
    rig.store.update(job.id, lambda one: one.retried(3, rig.clock()))
    rig.store.update(job.id, lambda one: rig.ending(one.canceled(rig.clock())))
    rig.rounds(rig.outbox.round)
    events = {got.id: got.verified(rig.secret)["type"] for got in rig.receiver.got}
    assert sorted(events.values()) == ["job.canceled", "job.failed"]


def test_what_is_to_be_sent_of_a_deleted_job_goes_with_it(rig):
    job = rig.end()
    rig.store.delete(job.id, lambda _: None)
    rig.rounds(rig.outbox.round)
    assert rig.receiver.got == []
    with pytest.raises(NotFound):
        rig.store.get(job.id)


def test_a_slow_receiver_does_not_keep_the_others_waiting(receiver):
    with Receiver() as quick:
        rig = Rig(receiver, timeout=60)
        receiver.answer = receiver.slow
        for _ in range(50):
            rig.end()
        secret = rig.add(quick.url)
        thread = OutboxThread(rig.outbox)
        try:
            receiver.wait(1)
            rig.end()
            assert quick.wait(1)[0].verified(secret)
            assert len(receiver.got) <= 4
        finally:
            receiver.released.set()
            thread.stop()


class Failing(MemoryJobStore):
    """A store whose disk is full for a while."""

    full = 0

    def update(self, job_id, change):
        if self.full:
            self.full -= 1
            raise OSError(errno.ENOSPC, "full")
        return super().update(job_id, change)


def test_a_try_that_cannot_be_recorded_is_made_again(rig):
    store = Failing(clock=rig.clock)
    rig.store = store
    rig.outbox = rig.new_outbox()
    job = rig.end()
    store.full = 1

    async def work():
        await rig.outbox.round()
        rig.clock.advance(10)
        await rig.outbox.round()

    rig.rounds(work)
    assert len(rig.receiver.got) == 2
    assert len({got.id for got in rig.receiver.got}) == 1
    assert rig.delivery(job).state == "delivered"


class Pretending:
    """A sender that fails in a way that nobody has thought of."""

    async def send(self, letter: Letter) -> Outcome:
        raise RuntimeError("surprise")

    async def close(self) -> None:
        pass


def test_a_surprise_within_the_service_does_not_end_the_outbox(rig):
    rig.outbox = rig.new_outbox(senders={Kind.WEBHOOK: Pretending})
    job = rig.end()
    rig.rounds(rig.outbox.round)
    assert rig.delivery(job).state == "waiting"


def test_a_hint_is_quicker_than_the_next_look_at_the_markers(rig):
    outbox = Outbox(
        store=rig.store,
        senders={Kind.WEBHOOK: lambda: WebhookSender(endpoints=rig.endpoints, guard=rig.guard, timeout=rig.timeout)},
        clock=rig.clock,
        poll=3600,
    )
    thread = OutboxThread(outbox)
    try:
        wait_until(lambda: outbox._loop is not None)
        job = rig.end()
        outbox.hint(job.id)
        rig.receiver.wait(1)
        wait_until(lambda: rig.delivery(job).state == "delivered")
    finally:
        thread.stop()
