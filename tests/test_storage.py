"""Files and folders are there whole or not at all, also after the machine has lost power."""

from __future__ import annotations

import os

import pytest

from minippo import storage
from minippo.storage import atomic_files, atomic_folder, publish_folder


@pytest.fixture
def events(monkeypatch):
    """What is flushed and renamed, in order: ("flush", inode) and ("rename", source, target)."""
    noted, replace = [], os.replace

    def renamed(source, target):
        noted.append(("rename", os.fspath(source), os.fspath(target)))
        replace(source, target)

    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: noted.append(("flush", os.fstat(descriptor).st_ino)))
    monkeypatch.setattr(storage.os, "replace", renamed)
    return noted


def test_a_folder_is_flushed_with_all_that_is_in_it_before_its_rename_and_the_rename_afterwards(tmp_path, events):
    folder, path = tmp_path / "model.unfinished", tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_text("new")
    (folder / "deep" / "tokens").write_text("new")
    inside = [folder, folder / "weights", folder / "deep", folder / "deep" / "tokens"]
    inodes = {place.stat().st_ino for place in inside}
    path.mkdir()
    (path / "old").write_text("old")
    publish_folder(folder, path)
    assert {event[1] for event in events[:4]} == inodes
    assert events[4] == ("rename", str(folder), str(path))
    assert events[5:] == [("flush", tmp_path.stat().st_ino)]
    assert sorted(str(place.relative_to(path)) for place in path.rglob("*")) == ["deep", "deep/tokens", "weights"]


def test_an_old_folder_stays_until_the_new_one_is_flushed(tmp_path, monkeypatch):
    def full_disk(_):
        raise OSError("no space left on device")

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(storage.os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"), atomic_folder(tmp_path / "model") as partial:
        (partial / "weights").write_text("new")
    assert (tmp_path / "model").is_dir()
    assert not list((tmp_path / "model").iterdir())


def test_a_folder_starts_empty_and_appears_only_if_its_block_ends(tmp_path):
    left_over = tmp_path / "model.partial"
    left_over.mkdir()
    (left_over / "half").write_text("of an interrupted process")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "model") as partial:
        (partial / "deep" / "weights").write_text("new")
    assert not (tmp_path / "model").exists()
    with atomic_folder(tmp_path / "model") as partial:
        assert not list(partial.iterdir())
        (partial / "weights").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["weights"]


def test_files_are_flushed_before_the_first_rename_and_renamed_in_their_order(tmp_path, events):
    paths = [tmp_path / "tokens", tmp_path / "index"]
    with atomic_files(*paths) as parts:
        for part in parts:
            part.write_text("new")
        inodes = [part.stat().st_ino for part in parts]
        assert not any(path.exists() for path in paths)
    assert [event[1] for event in events[:2]] == inodes
    assert [event[2] for event in events[2:4]] == list(map(str, paths))
    assert events[4:] == [("flush", tmp_path.stat().st_ino)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "tokens"]
