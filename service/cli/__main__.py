"""``python -m service.cli`` is ``intake``."""

from __future__ import annotations

from service.cli import main

main()
