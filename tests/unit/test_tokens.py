"""Tokens: how they are written, what is kept of them, whom they stand for, and where the service is open without one."""

from __future__ import annotations

import hashlib
import json
import stat
from datetime import timedelta
from pathlib import Path

import pytest

from service.access.file_store import FileTokenStore
from service.access.memory_store import MemoryTokenStore
from service.access.model import ANYBODY, Principal, Scope, digest, id_of, new_token, rotated
from service.access.opening import is_loopback, is_open, require_tokens_or_loopback
from service.access.store import TokenStore, judge
from service.durable import Disk
from service.errors import ConfigError, NotFound
from service.settings import Settings
from tests.jobs import NOON

READ = frozenset({Scope.READ})
HOUR = timedelta(hours=1)


@pytest.fixture(params=["file", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TokenStore:
    if request.param == "postgres":
        database = request.getfixturevalue("database")
        from service.access.postgres_store import PostgresTokenStore

        return PostgresTokenStore(database)
    return MemoryTokenStore() if request.param == "memory" else FileTokenStore(tmp_path, disk=Disk(sync=False))


def test_a_token_tells_its_id_and_checks_itself():
    text, kept = new_token("scanner", READ, NOON)

    assert len(text) == 51
    assert text.startswith(f"fik_{kept.id}_")
    assert id_of(text) == kept.id
    assert kept.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert len({new_token("scanner", READ, NOON)[0] for _ in range(100)}) == 100


def test_no_mistyped_token_has_an_id():
    text, _ = new_token("scanner", READ, NOON)

    for at in range(len(text)):
        other = "a" if text[at] != "a" else "b"
        assert id_of(text[:at] + other + text[at + 1 :]) is None, at
        assert id_of(text[:at] + text[at + 1 :]) is None, at
    for wrong in ("", "fik_", text + "a", text + "\n", f" {text}", text.upper(), text.replace("_", "-"), "é" * 51):
        assert id_of(wrong) is None, wrong


def test_a_rotated_token_is_the_same_under_a_new_text(store):
    text, kept = new_token("scanner", READ, NOON, expires_at=NOON + HOUR)
    store.add(kept)
    fresh, after = rotated(kept)
    store.change(kept.id, lambda _: after)

    assert judge(store, text, NOON) is None
    assert judge(store, fresh, NOON) == judge(store, fresh, NOON) == Principal(id=kept.id, scopes=READ)
    assert after.model_copy(update={"sha256": kept.sha256}) == kept
    assert id_of(fresh) == id_of(text)


def test_a_token_stands_for_its_id_and_scopes(store):
    text, kept = new_token("scanner", READ, NOON)
    store.add(kept)

    assert judge(store, text, NOON) == Principal(id=kept.id, scopes=READ)
    assert store.get(kept.id) == kept
    assert store.all() == [kept]


def test_a_token_of_another_store_or_with_another_secret_stands_for_nobody(store):
    _, kept = new_token("scanner", READ, NOON)
    stranger, _ = new_token("stranger", READ, NOON)
    forged, _ = new_token("scanner", READ, NOON)
    store.add(kept)
    store.add(kept.model_copy(update={"id": id_of(forged)}))  # its id is there, with the digest of another secret

    assert judge(store, stranger, NOON) is None
    assert judge(store, forged, NOON) is None
    assert judge(store, kept.sha256, NOON) is None


def test_a_token_ends_at_its_moment(store):
    text, kept = new_token("scanner", READ, NOON, expires_at=NOON + HOUR)
    store.add(kept)

    assert judge(store, text, NOON + HOUR - timedelta(milliseconds=1)) is not None
    assert judge(store, text, NOON + HOUR) is None


def test_a_revoked_token_stands_for_nobody_and_is_not_forgotten(store):
    text, kept = new_token("scanner", READ, NOON)
    store.add(kept)
    store.change(kept.id, lambda token: token.revoked(NOON))

    assert judge(store, text, NOON) is None
    assert store.any()
    assert [token.revoked_at for token in store.all()] == [NOON]
    assert store.change(kept.id, lambda token: token.revoked(NOON + HOUR)).revoked_at == NOON


def test_a_token_that_is_not_there_cannot_be_changed(store):
    with pytest.raises(NotFound, match="no token"):
        store.change("abcdefghij", lambda token: token)
    assert not store.any()


def test_another_process_sees_a_token_at_once(tmp_path):
    one, other = FileTokenStore(tmp_path), FileTokenStore(tmp_path)
    text, kept = new_token("scanner", READ, NOON)
    assert not other.any()
    one.add(kept)

    assert other.any()
    assert judge(other, text, NOON)
    one.change(kept.id, lambda token: token.revoked(NOON))
    assert judge(other, text, NOON) is None


def test_nothing_on_disk_is_the_secret_and_only_its_user_reads_it(tmp_path):
    store = FileTokenStore(tmp_path)
    text, kept = new_token("scanner", READ, NOON)
    store.add(kept)
    [path] = (tmp_path / "access" / "tokens").iterdir()

    assert text[15:45] not in path.read_text()
    assert json.loads(path.read_text())["sha256"] == digest(text)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "access").stat().st_mode) == 0o700


@pytest.mark.parametrize("record", [b"", b"{}", b"\xff", b'{"id": "x"}', b"[" * 10_000])
def test_a_token_whose_record_cannot_be_read_is_unknown_and_keeps_the_service_closed(tmp_path, record):
    store = FileTokenStore(tmp_path)
    text, kept = new_token("scanner", READ, NOON)
    store.add(kept)
    (tmp_path / "access" / "tokens" / f"{kept.id}.json").write_bytes(record)

    assert judge(store, text, NOON) is None
    assert store.all() == []
    assert store.any()


def test_a_record_under_another_id_is_no_token(tmp_path):
    store = FileTokenStore(tmp_path)
    text, kept = new_token("scanner", READ, NOON)
    store.add(kept)
    folder = tmp_path / "access" / "tokens"
    (folder / f"{kept.id}.json").rename(folder / "aaaaaaaaaa.json")

    assert store.get("aaaaaaaaaa") is None
    assert judge(store, text, NOON) is None


@pytest.mark.parametrize("token_id", ["", "..", "../../x", "/etc/passwd", "A" * 10, "a" * 9, "a\0aaaaaaaa"])
def test_no_id_leads_out_of_the_folder(tmp_path, token_id):
    assert FileTokenStore(tmp_path).get(token_id) is None


def test_admin_is_allowed_everything_and_sees_everybody():
    admin = Principal(id="a", scopes=frozenset({Scope.ADMIN}))

    assert all(admin.may(scope) for scope in Scope)
    assert admin.sees("b")
    assert admin.sees(None)
    assert admin.only is None


def test_others_are_allowed_what_they_have_and_see_their_own():
    one = Principal(id="a", scopes=READ)

    assert [scope for scope in Scope if one.may(scope)] == [Scope.READ]
    assert one.sees("a")
    assert not one.sees("b")
    assert not one.sees(None)
    assert one.only == "a"
    assert ANYBODY.sees("a")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST", "a.localhost"])
def test_names_of_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "", "example.org", "localhost.example.org", "127.1"])
def test_names_that_others_can_reach(host):
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2"])
def test_beyond_this_machine_a_start_needs_a_token_or_the_word_of_the_operator(host, store):
    settings = Settings.load(host=host)
    with pytest.raises(ConfigError, match="INTAKE_HOST=") as caught:
        require_tokens_or_loopback(settings, store)
    assert "INTAKE_OPEN" in (caught.value.hint or "")
    assert not is_open(settings, store)  # also if somebody takes the tokens away later

    require_tokens_or_loopback(Settings.load(host=host, open=True), store)
    assert is_open(Settings.load(host=host, open=True), store)
    store.add(new_token("scanner", READ, NOON)[1])
    require_tokens_or_loopback(settings, store)
    assert not is_open(Settings.load(host=host, open=True), store)


def test_on_this_machine_it_is_open_until_there_is_a_token(store):
    settings = Settings.load()
    require_tokens_or_loopback(settings, store)
    assert is_open(settings, store)
    _, kept = new_token("scanner", READ, NOON)
    store.add(kept)
    assert not is_open(settings, store)
    store.change(kept.id, lambda token: token.revoked(NOON))
    assert not is_open(settings, store)
