"""Files and folders are there whole or not at all, also after the machine has lost power."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minippo import storage
from minippo.storage import PARTIAL, append_lines, atomic_files, atomic_folder, check_sealed, publish_folder, seal


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
    left = tmp_path / f"{PARTIAL}model"  # by a process that was killed
    left.mkdir()
    (left / "half").write_text("of an interrupted process")
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


# ---------------------------------------------------------------------------------------------- manifests


@given(
    files=st.dictionaries(st.sampled_from(["a", "b", "deep/a", "deep/er/c"]), st.binary(min_size=1), min_size=1),
    data=st.data(),
)
def test_any_change_of_a_sealed_file_is_found_and_named(tmp_path_factory, files, data):
    folder = tmp_path_factory.mktemp("sealed")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    seal(folder)
    check_sealed(folder)
    written = json.loads((folder / "manifest.json").read_text())
    expected = {n: {"bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in files.items()}
    assert written == expected
    name = data.draw(st.sampled_from(sorted(files)))
    changed = data.draw(st.none() | st.binary().filter(lambda content: content != files[name]))
    if changed is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(changed)
    with pytest.raises(ValueError, match=f"^{re.escape(str(folder / name))} is (missing|damaged: )"):
        check_sealed(folder)
    (folder / name).write_bytes(files[name])
    check_sealed(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not valid JSON"),
        ("{}", "is damaged: it lists no files"),
        ("[]", "should be an object"),
        ('{"a": 3}', "a should be an object, but is 3"),
        ('{"a": {"sha256": "0"}}', "has no 'bytes'"),
        ('{"a": {"bytes": "1", "sha256": "0"}}', "bytes should be an integer"),
        ('{"a": {"bytes": 1, "sha256": null}}', "a is damaged: its SHA-256"),
    ],
)
def test_a_damaged_manifest_is_refused_with_its_name(tmp_path, content, sentence):
    (tmp_path / "a").write_text("1")
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        check_sealed(tmp_path)
    assert str(error.value).startswith(str(tmp_path))


def test_a_folder_is_sealed_apart_from_the_sealed_folders_in_it(tmp_path):
    """Older checkpoints of a stage may be deleted."""
    for folder in (tmp_path / "step-000001", tmp_path):
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(folder.name)
        seal(folder)
    assert list(json.loads((tmp_path / "manifest.json").read_text())) == ["weights"]
    (tmp_path / "step-000001" / "weights").unlink()
    check_sealed(tmp_path)


def test_a_line_is_appended_whole_or_not_at_all(tmp_path, monkeypatch):
    path, written = tmp_path / "metrics.jsonl", []
    append_lines(path, ["one\n"])
    original = io.FileIO.write

    class Filling(io.FileIO):
        def write(self, content):
            written.append(len(content))
            if len(written) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(self, content[:3])  # a disk that fills up takes a part

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", lambda self, mode, buffering: Filling(self, "a"))
        with pytest.raises(OSError, match="No space left"):
            append_lines(path, ["two\n", "three\n"])
    assert path.read_text() == "one\n"
    append_lines(path, ["two\n", "three\n"])
    assert path.read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_cannot_be_completed_leaves_nothing_behind(tmp_path, error):
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "old").write_text("old")

    def write() -> None:
        with atomic_folder(tmp_path / "step-1") as folder:
            (folder / "new").write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old", "step-1"]


def test_the_parent_of_a_folder_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "moved" / "step-1"):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []
