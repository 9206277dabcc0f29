"""The file store against the one in memory as its model: whatever is done to both, they tell the same."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from service.clock import HeldClock
from service.durable import Disk
from service.errors import IntakeError, NotFound
from service.jobs.file_store import FileJobStore
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import JobStatus, Reason, StepProgress, StepStatus
from service.jobs.store import JobQuery
from tests.jobs import NOON, finish, make_id, make_job, make_step

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
TYPES = st.sampled_from([None, "text/plain", "image/png"])


def queries() -> st.SearchStrategy[JobQuery]:
    bounds = st.none() | st.integers(-60, 60).map(lambda hours: NOON + hours * HOUR)
    return st.builds(
        JobQuery,
        statuses=st.frozensets(st.sampled_from(JobStatus), max_size=2),
        media_type=TYPES,
        pipeline=st.sampled_from([None, "default", "quick"]),
        labels=LABELS,
        created_after=bounds,
        created_before=bounds,
        limit=st.integers(1, 4),
    )


class Agreement(RuleBasedStateMachine):
    """Everything a store can be asked to do, with the index of the file store coming and going."""

    ids = Bundle("ids")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = HeldClock(NOON)
        times = {"clock": self.clock, "gone_for": 3 * DAY}
        self.file = FileJobStore(self.folder / "data", disk=Disk(sync=False), **times)
        self.memory = MemoryJobStore(**times)
        self.count = 0
        self.taken = []

    def teardown(self) -> None:
        for lease in filter(None, self.taken):
            lease.release()
        self.file.close()
        shutil.rmtree(self.folder)

    def both(self, act):
        """Do the same to both and return what came of it, having compared it."""
        results = []
        for store in (self.file, self.memory):
            try:
                results.append(act(store))
            except IntakeError as error:
                results.append((type(error), error.problem, error.detail, error.hint))
        assert results[0] == results[1]
        return results[0]

    def update(self, job_id, change):
        self.both(lambda store: store.update(job_id, change))

    @rule(
        target=ids,
        hours=st.integers(-50, 50),
        labels=LABELS,
        media_type=TYPES,
        pipeline=st.sampled_from(["default", "quick"]),
    )
    def create(self, hours, labels, media_type, pipeline):
        self.count += 1
        job_id = make_id(NOON + hours * HOUR, self.count)
        job = make_job(job_id, labels=labels, media_type=media_type, pipeline=pipeline)
        self.both(lambda store: store.create(job))
        return job_id

    @rule(target=leases, job_id=ids)
    def claim(self, job_id):
        leases = []

        def act(store):
            job, lease = store.claim(job_id, lambda job: job.claimed(self.clock()) if not job.done else job)
            leases.append(lease)
            self.taken.append(lease)
            return job, lease is None

        self.both(act)
        return job_id, leases

    @rule(held=leases, done=st.integers(0, 9), media_type=TYPES)
    def note(self, held, done, media_type):
        leases = held[1]
        if not leases or leases[0] is None:
            return
        by_store = dict(zip((self.file, self.memory), leases, strict=True))
        step = make_step("look", StepStatus.RUNNING, progress=StepProgress(done=done))

        def act(store):
            lease = by_store[store]
            job = lease.job
            store.note(lease, job.evolve(steps=(step, job.steps[1]), file=job.file.evolve(media_type=media_type)))

        self.both(act)

    @rule(held=consumes(leases), reason=st.sampled_from(Reason), retention=st.none() | st.just(DAY))
    def end(self, held, reason, retention):
        job_id, leases = held
        if leases and leases[0] is not None:
            self.update(job_id, lambda job: finish(job, reason, now=self.clock()).expiring(retention))
            for lease in leases:
                lease.release()

    @rule(held=consumes(leases))
    def lose(self, held):
        for lease in filter(None, held[1]):
            lease.release()

    @rule(job_id=ids)
    def lost_and_claimed_again(self, job_id):
        leases = []

        def change(job):
            return finish(job, Reason.LOST, now=self.clock()).claimed(self.clock())

        def act(store):
            job, lease = store.claim(
                job_id, change if store.get(job_id).status is JobStatus.RUNNING else lambda job: job
            )
            leases.append(lease)
            return job, lease is None

        self.both(act)
        for lease in filter(None, leases):
            lease.release()

    @rule(job_id=ids, retention=st.none() | st.just(DAY))
    def cancel(self, job_id, retention):
        self.update(job_id, lambda job: job.canceled(self.clock()).expiring(retention))

    @rule(job_id=ids)
    def retry(self, job_id):
        self.update(job_id, lambda job: job.retried(2, NOON))

    @rule(job_id=ids, labels=LABELS)
    def nothing_or_next(self, job_id, labels):
        self.update(job_id, lambda job: job if job.labels == labels else job.changed())

    @rule(job_id=ids, tombstone=st.booleans())
    def delete(self, job_id, tombstone):
        def check(job):
            if not job.done:
                raise NotFound("not yet")

        self.both(lambda store: store.delete(job_id, check, tombstone=tombstone))

    @rule(job_id=ids)
    def settle_and_forget(self, job_id):
        if not self.both(lambda store: store.settle(job_id)):
            self.both(lambda store: store.forget(job_id))

    @rule(hours=st.integers(1, 48))
    def time_passes(self, hours):
        self.clock.advance(hours * HOUR)

    @rule()
    def sweep(self):
        self.both(lambda store: store.sweep(self.clock()))

    @rule()
    def the_index_is_rebuilt(self):
        self.file.listing.rebuild()

    @rule(query=queries())
    def page_through(self, query):
        seen = []
        while True:
            page = self.both(lambda store, query=query: store.page(query))
            seen += [job.id for job in page.jobs]
            if page.next is None:
                break
            query = JobQuery(**{**vars(query), "before": page.next})
        assert seen == sorted(set(seen), reverse=True)

    @rule()
    def expired(self):
        self.both(lambda store: sorted(store.expired(self.clock(), 100)))

    @rule(job_id=ids)
    def look(self, job_id):
        self.both(lambda store: store.get(job_id))

    @invariant()
    def the_same_figures_are_told(self):
        self.both(lambda store: replace(store.figures(self.clock()), sums={}))  # an index begun anew counts anew

    @invariant()
    def the_same_jobs_wait(self):
        self.both(lambda store: store.pending())
        self.both(
            lambda store: (
                list(store.walk())
                if store is self.memory
                else [job_id for job_id in store.walk() if (store.folder(job_id) / "job.json").exists()]
            )
        )


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
