"""What tests that speak plain HTTP tell httpx."""

from __future__ import annotations

import ssl
from typing import Final

#: No certificates: for each client without this, httpx reads those of the world's authorities, which takes 20 ms of a core.
NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
