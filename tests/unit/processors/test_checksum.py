"""Checksums."""

import hashlib

import pydantic
import pytest

from processors import testing
from processors.checksum import checksum


def test_all_checksums_come_in_one_pass(tmp_path):
    content = b"x" * (2 * 1024 * 1024 + 5)
    file = tmp_path / "f"
    file.write_bytes(content)
    result = testing.run(checksum, file, tmp_path=tmp_path)
    assert result.facts == {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sha1": hashlib.sha1(content).hexdigest(),
        "md5": hashlib.md5(content).hexdigest(),
        "blake2b": hashlib.blake2b(content).hexdigest(),
    }
    assert result.progress == [(n, len(content), "bytes") for n in (2**20, 2**21, 2**21 + 5)]


def test_the_empty_file_has_checksums_too(tmp_path):
    (tmp_path / "f").touch()
    result = testing.run("checksum", tmp_path / "f", options={"algorithms": ["md5", "md5"]})
    assert result.facts == {"size": 0, "md5": "d41d8cd98f00b204e9800998ecf8427e"}


@pytest.mark.parametrize("algorithms", [[], ["crc32"], "md5"])
def test_only_known_algorithms_are_made(tmp_path, algorithms):
    with pytest.raises(pydantic.ValidationError):
        testing.run(checksum, tmp_path, options={"algorithms": algorithms}, media_type="a/b")
