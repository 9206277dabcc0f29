"""A certificate authority of a test's own, by openssl: what TLS servers of tests show, and what clients are told to trust."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

from tests.needs import need

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_OF_CA = "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", "subjectKeyIdentifier=hash"
_OF_SERVER = "basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth", "authorityKeyIdentifier=keyid"


class Authority:
    """Its certificate is at ``trusted``, for ``SSL_CERT_FILE``."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.trusted = folder / "ca.pem"
        extensions = [word for one in _OF_CA for word in ("-addext", one)]
        self._run("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}", *extensions)

    def issue(self, *names: str, days: int = 2) -> tuple[Path, Path]:
        """Return the files of a new certificate for these names (``DNS:localhost``, ``IP:127.0.0.1``), and of its key."""
        mark = f"{len(list(self._folder.glob('*.csr')))}"
        key, asked, made = (self._folder / f"{mark}.{kind}" for kind in ("key", "csr", "pem"))
        (self._folder / "extensions").write_text("\n".join([*_OF_SERVER, f"subjectAltName={','.join(names)}"]))
        self._run("req", "-new", *_KEY, "-keyout", key, "-out", asked, "-subj", "/CN=server")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
        self._run("x509", "-req", "-in", asked, "-out", made, "-days", str(days), *signed)
        return made, key

    def context(self, *names: str, days: int = 2) -> ssl.SSLContext:
        """Return what a server needs to show a certificate of these names."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.issue(*names, days=days))
        return context

    def _run(self, *arguments: object) -> None:
        command = [need("openssl"), *map(str, arguments)]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
