"""Where processors are found, and what is said when one cannot be."""

import importlib.metadata
import sys
import types

import pytest

from processors import processor, registry
from processors.checksum import checksum
from processors.registry import Registry, RegistryError, load_registry

PLUGIN = '''
from processors import Options, processor
from processors.checksum import checksum

class MineOptions(Options):
    """Found by name while the module runs."""
    again: "int" = 1

@processor("{name}")
def mine(ctx, options: MineOptions):
    """Do it."""
    return {{}}
'''


@pytest.fixture
def folder(tmp_path):
    tmp_path = tmp_path / "plugins"
    tmp_path.mkdir()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("_intake_"):
            del sys.modules[name]


def entry_point(monkeypatch, value, name="mine"):
    point = importlib.metadata.EntryPoint(name, value, registry.ENTRY_POINT_GROUP)
    monkeypatch.setattr(registry, "installed_entry_points", lambda group: [point])


def test_the_built_in_processors_are_there():
    found = load_registry(entry_points=False)
    assert list(found) == ["checksum", "media_type", "image.info", "image.previews", "text.info", "malware"]
    assert len(found) == 6
    assert found["checksum"] is checksum
    assert all(found[name].description and found[name].schema() for name in found)


def test_files_of_a_directory_are_found(folder):
    (folder / "b.py").write_text(PLUGIN.format(name="mine.b"))
    (folder / "a.py").write_text(PLUGIN.format(name="mine.a"))
    (folder / "_shared.py").write_text("raise RuntimeError")
    (folder / "notes.txt").write_text("no code")
    assert list(load_registry(directory=folder))[-2:] == ["mine.a", "mine.b"]


def test_a_file_that_fails_is_named_with_the_cause(folder):
    (folder / "bad.py").write_text("import nowhere_at_all")
    with pytest.raises(
        RegistryError, match=r"bad\.py cannot be imported: ModuleNotFoundError: No module named 'nowhere"
    ):
        load_registry(directory=folder)
    assert not [name for name in sys.modules if name.startswith("_intake_") and name.endswith("_bad")]


@pytest.mark.parametrize("code", ["syntax error here", "raise SystemExit(3)"])
def test_whatever_a_file_does_is_an_error_of_the_registry(folder, code):
    (folder / "bad.py").write_text(code)
    with pytest.raises(RegistryError, match=r"bad\.py cannot be imported"):
        load_registry(directory=folder)


def test_a_file_without_a_processor_is_an_error(folder):
    (folder / "empty.py").write_text("x = 1")
    with pytest.raises(RegistryError, match=r"empty\.py holds no processor"):
        load_registry(directory=folder)


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        load_registry(directory=tmp_path / "none")


def test_a_name_used_twice_names_both_places(folder):
    (folder / "a.py").write_text(PLUGIN.format(name="checksum"))
    with pytest.raises(RegistryError, match=r"'checksum', in processors\.checksum and in .*a\.py"):
        load_registry(directory=folder)


def test_an_entry_point_may_name_a_processor(monkeypatch):
    entry_point(monkeypatch, "tests.unit.processors.test_contract:plain")
    assert "plain" in load_registry()


def test_an_entry_point_may_name_a_module(monkeypatch):
    entry_point(monkeypatch, "tests.unit.processors.test_contract")
    assert {"plain", "text.count"} <= set(load_registry())


def test_an_entry_point_that_fails_is_named(monkeypatch):
    entry_point(monkeypatch, "nowhere.at.all")
    with pytest.raises(RegistryError, match=r"entry point 'mine' \(nowhere\.at\.all\) cannot be imported"):
        load_registry()


def test_an_entry_point_names_a_module_or_processor(monkeypatch):
    entry_point(monkeypatch, "json:dumps")
    with pytest.raises(RegistryError, match="must name a module or a processor"):
        load_registry()


def test_an_entry_point_of_a_package_names_the_package(monkeypatch):
    point = importlib.metadata.EntryPoint("mine", "nowhere", registry.ENTRY_POINT_GROUP)
    vars(point).update(dist=types.SimpleNamespace(name="their-package"))
    monkeypatch.setattr(registry, "installed_entry_points", lambda group: [point])
    with pytest.raises(RegistryError, match="'mine' of their-package"):
        load_registry()


def test_a_registry_can_be_made_by_hand():
    @processor("hand")
    def hand(ctx):
        return {}

    @processor("hand")
    def other(ctx):
        return {}

    assert dict(Registry([hand, hand])) == {"hand": hand}
    with pytest.raises(RegistryError, match="Rename one"):
        Registry([hand, other])
