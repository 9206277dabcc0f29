"""Checking ``webhooks/``: records of endpoints that can be read, are as they were written, and are nobody else's to read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from service.durable import Disk
from service.findings import FileExamination, Finding
from service.notify.endpoints import by_hand, decode
from service.wiring import Services


class WebhookFsck(FileExamination):
    """One look at all endpoints. A record that has changed cannot be mended: it was the only copy of its secrets."""

    def __init__(self, services: Services, *, repair: bool = False) -> None:
        settings = services.settings
        super().__init__(settings.data_dir.resolve(), Disk(sync=settings.durability == "sync"), repair=repair)
        self._endpoints = services.endpoints

    def run(self) -> Iterator[Finding]:
        """Yield what is wrong, and nothing where nothing is."""
        folder = self._root / "webhooks"
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            yield from self._guarded(self._record(path), path)

    def _record(self, path: Path) -> Iterator[Finding]:
        name = path.name.removesuffix(".json")
        if name == path.name or path.is_symlink() or not path.is_file():
            yield from self._stray(path)
            return
        subject = f"webhook endpoint {name[:64]}"
        if path.stat().st_mode & 0o077:
            mend = partial(path.chmod, 0o600)
            detail = "Others on this machine can read its secrets."
            yield from self._wrong_is(subject, detail, "takes that right away; rotate it.", mend, "Rotate its secret.")
        data = path.read_bytes()
        try:
            decode(data, name)
        except ValueError as error:
            hint = (
                f"Take {path} from a backup; or delete it, and `intake webhooks add` its URL anew, with a new secret."
            )
            detail = f"Its record cannot be read, and nothing is sent to it: {str(error).splitlines()[0]}."
            yield from self._wrong_is(subject, detail, hint)
            return
        if by_hand(data):
            mend_sum = partial(self._endpoints.change, name, lambda endpoint: endpoint)
            detail = "The record was edited by hand."
            yield from self._wrong_is(subject, detail, "gives it a new sum.", mend_sum, "It has a new sum.")
