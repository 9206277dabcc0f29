"""Clients that connect and do nothing, or do it slowly, or never read: each is cut in time, and the others do not notice.

The crowd is small and its deadlines are short in the suite; ``make slow`` runs the whole of it with the service's own deadlines.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import accepted, problem, submit
from tests.integration.traces import nothing_left, traces
from tests.integration.wire import BOUNDARY, Wire, form, part
from tests.waiting import wait_until

CONNECTIONS = 20
LARGE = 64 * 2**20  # more than the kernel takes for a client that does not read
MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that waits a second for a head and has twenty connections."""
    folder = tmp_path_factory.mktemp("slow")
    with Server(folder, header_timeout="1s", max_connections=CONNECTIONS, max_upload="65MiB") as running:
        yield running


def client(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False, verify=NO_TLS)


def peers(server: Server) -> list[int]:
    """Return the clients' ports of the connections that the API has open."""
    assert server.process is not None
    found = psutil.Process(server.process.pid).net_connections("tcp")
    return [connection.raddr.port for connection in found if connection.raddr]


def connections(server: Server) -> int:
    """Return how many connections the API has open."""
    return len(peers(server))


def test_who_sends_nothing_is_left_without_a_word(server: Server):
    with Wire(server.url) as wire:
        assert wire.socket.recv(1) == b""


def test_who_sends_empty_lines_only_is_left_without_a_word(server: Server):
    with Wire(server.url) as wire:
        wire.socket.settimeout(0.1)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            try:
                wire.send(b"\r\n")
                if wire.socket.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
        pytest.fail("the connection was never cut")


@pytest.mark.parametrize("sent", [b"G", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half: "])
def test_who_stops_within_a_head_is_told(server: Server, sent: bytes):
    with Wire(server.url) as wire:
        wire.send(sent)
        [answer] = wire.answers()
        problem(answer, 408, "request-timeout")
        assert answer.headers["Connection"] == "close"


def test_a_head_that_comes_byte_by_byte_has_the_same_deadline(server: Server):
    with Wire(server.url) as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        wire.socket.settimeout(0.1)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            wire.send(b"x")
            try:
                if wire.socket.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                continue
        wire.socket.settimeout(20)
        problem(wire.answer(), 408, "request-timeout")


def test_a_second_head_has_the_deadline_of_the_first(server: Server):
    with Wire(server.url) as wire:
        wire.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT")
        found = wire.answers(2)
        assert found[0].status_code == 200
        problem(found[1], 408, "request-timeout")


def test_the_deadline_of_a_head_is_none_of_the_request(server: Server):
    """An upload may take longer than its head."""
    with Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs?pipeline=checksum", content_length=12)
        for _ in range(12):
            until = time.monotonic() + 0.2
            wait_until(lambda until=until: time.monotonic() > until)
            wire.send(b"x")
        accepted(wire.answer())


def test_who_does_not_read_an_answer_is_cut(server: Server):
    with client(server) as http:
        job = submit(http, bytes(LARGE))
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, listening = server.url.removeprefix("http://").split(":")
        lazy.connect((host, int(listening)))
        lazy.sendall(f"GET {job['links']['source']} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert lazy.recv(10)
        port = lazy.getsockname()[1]
        wait_until(lambda: port not in peers(server), timeout=30, what="the lazy client to be cut")
        lazy.settimeout(20)
        got = 0
        with contextlib.suppress(ConnectionResetError):
            while data := lazy.recv(2**16):
                got += len(data)
        assert got < LARGE, "there was more to read than what the kernel had taken"


def test_who_reads_an_answer_at_leisure_gets_all_of_it(server: Server):
    with client(server) as http:
        job = submit(http, bytes(4 * MIB))
    with Wire(server.url) as wire:
        wire.send(f"GET {job['links']['source']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        got = 0
        while data := wire.socket.recv(2**17):
            got += len(data)
            until = time.monotonic() + 0.05
            wait_until(lambda until=until: time.monotonic() > until)
        assert got > 4 * MIB


def test_the_idle_make_room_for_those_who_come(server: Server):
    idle = [Wire(server.url) for _ in range(3 * CONNECTIONS)]
    try:
        with client(server) as http:
            for _ in range(5):
                assert http.get("/livez").status_code == 200
        assert connections(server) <= CONNECTIONS + 1
    finally:
        for wire in idle:
            wire.socket.close()


def test_when_all_are_at_work_a_newcomer_is_told_so(server: Server):
    wait_until(lambda: connections(server) == 0, what="earlier connections to end")
    with nothing_left(server):
        busy = [Wire(server.url) for _ in range(CONNECTIONS)]
        try:
            for wire in busy:
                wire.begin("POST", "/v1/jobs", content_length=10, expect="100-continue")
                wire.await_continue()
            with Wire(server.url) as wire:
                [answer] = wire.answers()
                problem(answer, 503, "too-many-connections")
                assert answer.headers["Retry-After"] == "5"
            busy.pop().socket.close()
            wait_until(lambda: httpx.get(f"{server.url}/livez", trust_env=False, verify=NO_TLS).status_code == 200)
        finally:
            for wire in busy:
                wire.socket.close()


# a crowd of them


@dataclass(frozen=True)
class Crowd:
    """Attackers by what they do."""

    idle: int
    heads: int
    bodies: int
    silent: bool = False  #: those who are slow send nothing more at all


class Attack:
    """A crowd that connects all at once; ``step`` has each of them send another byte, and drops those that were cut."""

    def __init__(self, url: str, crowd: Crowd) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._selector = selectors.DefaultSelector()
        self._slow: set[socket.socket] = set()
        for number in range(crowd.idle + crowd.heads + crowd.bodies):
            attacker = socket.create_connection((host, int(port)), timeout=20)
            if number >= crowd.idle:
                path = "/livez" if number < crowd.idle + crowd.heads else "/v1/jobs"
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nX-Slow: "
                attacker.sendall(head.encode() + (b"" if number < crowd.idle + crowd.heads else b"y\r\n\r\nz"))
                self._slow |= set() if crowd.silent else {attacker}
            attacker.setblocking(False)
            self._selector.register(attacker, selectors.EVENT_READ)

    def step(self) -> int:
        """Go on, and return how many are still connected."""
        for key, _ in self._selector.select(0):
            attacker = key.fileobj
            assert isinstance(attacker, socket.socket)
            try:
                gone = attacker.recv(2**16) == b""
            except OSError:
                gone = True
            if gone:
                self._drop(attacker)
        for attacker in list(self._slow):
            try:
                attacker.send(b"x")
            except OSError:
                self._drop(attacker)
        return len(self._selector.get_map())

    def _drop(self, attacker: socket.socket) -> None:
        self._slow.discard(attacker)
        self._selector.unregister(attacker)
        attacker.close()


def attacked(server: Server, crowd: Crowd, *, within: float) -> tuple[float, float, int]:
    """Attack, upload all the while, and return the uploads' p99, the seconds until all were cut, and the peak of memory."""
    assert server.process is not None
    api = psutil.Process(server.process.pid)
    began = time.monotonic()
    attack = Attack(server.url, crowd)
    took: list[float] = []
    peak, cut, stepped = 0, 0.0, 0.0
    healthy = httpx.Client(
        base_url=server.url,
        timeout=30,
        trust_env=False,
        verify=NO_TLS,
        limits=httpx.Limits(max_keepalive_connections=0),
    )
    while not cut or len(took) < 100:
        at = time.monotonic()
        answer = healthy.post("/v1/jobs?pipeline=checksum", content=b"good\n")  # in a new connection each time
        took.append(time.monotonic() - at)
        accepted(answer)
        peak = max(peak, api.memory_info().rss)
        if time.monotonic() - stepped > 1 and not cut:
            stepped = time.monotonic()
            cut = stepped - began if attack.step() == 0 else 0.0
        assert time.monotonic() - began < within, f"{attack.step()} attackers are still connected"
    healthy.close()
    p99 = sorted(took)[int(len(took) * 0.99)]
    sizes = f"{crowd.idle} idle, {crowd.heads} slow heads, {crowd.bodies} slow bodies"
    print(
        f"\n{sizes}: all cut after {cut:.1f} s; {len(took)} uploads beside them, p99 {p99:.3f} s; {peak / MIB:.0f} MiB"
    )
    wait_until(lambda: not list((server.data_dir / "incoming").iterdir()), what="nothing to be left in incoming/")
    assert "Traceback" not in server.log
    return p99, cut, peak


def test_a_crowd_of_slow_clients_is_cut_and_leaves_nothing(tmp_path: Path):
    with Server(tmp_path, header_timeout="2s", upload_idle="2s", queue_limit=10_000_000) as server:
        _, _, peak = attacked(server, Crowd(idle=200, heads=50, bodies=50, silent=True), within=60)
        assert peak < 300 * MIB


@pytest.mark.soak
@pytest.mark.slow_clients
def test_r8_a_thousand_idle_and_four_hundred_slow_clients(tmp_path: Path):
    scale = float(os.environ.get("INTAKE_TEST_SCALE", "1"))
    crowd = Crowd(idle=int(1000 * scale), heads=int(200 * scale), bodies=int(200 * scale))
    with Server(tmp_path, queue_limit=10_000_000) as server:
        p99, cut, peak = attacked(server, crowd, within=60)
        assert p99 < 1
        assert cut <= 20
        assert peak <= 300 * MIB


# those who leave


def disconnect(server: Server, chance: random.Random, content: bytes) -> None:
    """Begin an upload and leave it at a random point, by a reset half of the times."""
    body = form([part('name="pipeline"', b"checksum"), part('name="file"; filename="a"', content)])
    chunked, whole = chance.random() < 0.5, chance.random() < 0.5
    sent = content if whole else body
    kind = "text/plain" if whole else f"multipart/form-data; boundary={BOUNDARY}"
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n"
    if chunked:
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (sent[:70_000], sent[70_000:]))
        request = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n"
    else:
        request = f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent
    cut = chance.choice(
        [chance.randrange(len(request)), chance.randrange(300), len(request) - 1 - chance.randrange(60)]
    )
    with Wire(server.url) as wire:
        if chance.random() < 0.5:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.send(request[:cut])


def left(server: Server, count: int, seed: int) -> None:
    chance = random.Random(seed)
    content = chance.randbytes(3 * 2**20)  # some of it is in incoming/ when most of them leave
    before = traces(server)
    for _ in range(count):
        disconnect(server, chance, content)
    wait_until(lambda: traces(server) <= before, timeout=30, what=f"the traces of {count} clients to be gone")
    wait_until(lambda: connections(server) == 0, timeout=30, what="their connections to be gone")
    bad = [line for line in server.log.splitlines() if "[error" in line or "[critical" in line or "Traceback" in line]
    assert not bad, bad[:5]


def test_fifty_clients_that_leave_leave_nothing(server: Server):
    left(server, 50, seed=9)


@pytest.mark.soak
@pytest.mark.slow_clients
def test_r9_a_thousand_clients_that_leave_leave_nothing(tmp_path: Path):
    count = int(1000 * float(os.environ.get("INTAKE_TEST_SCALE", "1")))
    with Server(tmp_path) as server:
        left(server, count, seed=20261122)
        print(f"\n{count} uploads cut at random points: no record, nothing in incoming/, no error in the log")
