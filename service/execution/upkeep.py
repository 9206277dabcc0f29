"""What one process of a deployment does for all: the reconciler's rounds, housekeeping, and the outbox, while it has the lead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from service.errors import IntakeError
from service.execution.janitor import Janitor
from service.execution.reconcile import Reconciler
from service.jobs.store import JobStore, Lead
from service.notify.outbox import Outbox, OutboxThread

log = structlog.get_logger(__name__)
_SHARE: Final = 0.1  #: of one processor, at most, for looking at the records


class Upkeep:
    """A thread that waits for the lead, and acts while it has it. ``poll`` is the time between two looks, in seconds.

    ``tidy`` is called with what tells whether it should stop early.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        reconciler: Callable[[Callable[[str], None]], Reconciler],
        outbox: Callable[[], Outbox],
        tidy: Callable[[Callable[[], bool]], object],
        poll: float,
    ) -> None:
        self._store = store
        self._make_reconciler = reconciler
        self._make_outbox = outbox
        self._tidy = tidy
        self._poll = poll
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def stop(self) -> None:
        """Give the lead to others, and end."""
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            lead = self._take()
            if lead is None:
                self._stopping.wait(self._poll)
                continue
            log.info("this worker has the lead: it looks after jobs and messages for all")
            try:
                self._act(lead)
            except Exception:
                log.exception("the lead has stumbled; it begins anew")
                self._stopping.wait(self._poll)
            finally:
                lead.release()

    def _take(self) -> Lead | None:
        try:
            return self._store.lead()
        except (OSError, IntakeError) as error:
            log.warning("nobody knows who has the lead", error=str(error))
            return None

    def _act(self, lead: Lead) -> None:
        def over() -> bool:
            return self._stopping.is_set() or not lead.is_held()

        outbox = self._make_outbox()
        reconciler = self._make_reconciler(outbox.hint)
        sending = OutboxThread(outbox)
        try:
            with Janitor(lambda: self._tidy(over)) as janitor:
                while not over():
                    janitor.call()
                    began = time.monotonic()
                    try:
                        reconciler.round()
                    except (OSError, IntakeError) as error:
                        log.error("the records cannot be looked at", error=str(error))
                    took = time.monotonic() - began
                    self._stopping.wait(max(self._poll, took * (1 / _SHARE - 1)))
        finally:
            sending.stop()
        if not self._stopping.is_set():
            log.warning("this worker has lost the lead")
