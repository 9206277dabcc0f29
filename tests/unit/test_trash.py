"""Removing folders that nobody trusts."""

from __future__ import annotations

import os
from pathlib import Path

from service.trash import empty, remove


def nested(folder: Path, depth: int) -> None:
    """Make folders within folders, each with a file of three bytes."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(b"abc")
    os.close(here)


def test_all_goes_and_its_bytes_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "one").write_bytes(b"12345")
    (folder / "two").write_bytes(b"678")

    assert empty(folder) == 8
    assert list(folder.iterdir()) == []
    assert remove(folder) == 0
    assert not folder.exists()


def test_no_depth_is_too_deep(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    nested(folder, 3000)  # a path may have 4096 bytes, and Python's stack 1000 frames

    assert remove(folder) == 9000
    assert not folder.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"kept")
    folder = tmp_path / "folder"
    (folder / "within").mkdir(parents=True)
    for place in (folder, folder / "within"):
        (place / "to a folder").symlink_to(outside)
        (place / "to a file").symlink_to(outside / "kept")
        (place / "to nothing").symlink_to(tmp_path / "nowhere")
        os.mkfifo(place / "pipe")

    remove(folder)

    assert not folder.exists()
    assert (outside / "kept").read_bytes() == b"kept"


def test_what_is_a_link_itself_is_not_looked_into(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "link").symlink_to(outside)

    assert remove(tmp_path / "link") == 0
    assert (outside / "kept").exists()


def test_what_is_not_there_is_removed(tmp_path: Path) -> None:
    assert remove(tmp_path / "nowhere") == 0
    assert empty(tmp_path / "nowhere") == 0
