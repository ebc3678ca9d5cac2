"""Rows of ids in memory-mapped files: equal to lists, written once, and written again if anything changes."""

from __future__ import annotations

import ast
import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minippo.config import DataConfig
from minippo.data import Comparison, Demonstration, cache, comparison_rows, policy_rows, prompt_rows, reward_rows
from minippo.data.cache import cache_folder
from minippo.data.rows import cached_groups, cached_rows
from minippo.data.texts import Texts
from minippo.tokenizer import Tokenizer, load_tokenizer, train_bpe
from minippo.tokenizer.vocab_json import END_OF_TEXT
from tests.in_memory import texts_of

names = itertools.count()
groups_of_ids = st.lists(st.lists(st.lists(st.integers(0, 299), max_size=5), min_size=1, max_size=3), max_size=8)


@given(groups=groups_of_ids, start=st.integers(0, 8), stop=st.integers(0, 8), data=st.data())
def test_cached_groups_equal_the_original_lists(tokenizer, groups, start, stop, data):
    kept, _ = cached_groups(("lists", next(names)), tokenizer, iter(groups), 10**9)
    assert list(kept) == groups
    assert kept.sizes.tolist() == [len(group) for group in groups]
    assert kept.longest.tolist() == [max(map(len, group)) for group in groups]
    flat = [row for group in groups for row in group]
    assert list(kept.rows) == flat
    assert kept.rows.lengths.tolist() == [len(row) for row in flat]
    assert list(kept[start:stop]) == groups[start:stop]
    assert list(kept.rows[start:stop]) == flat[start:stop]
    some = sorted(data.draw(st.sets(st.integers(0, len(groups) - 1)))) if groups else []
    assert list(kept[np.array(some, np.int64)]) == [groups[index] for index in some]


def test_rows_are_memory_mapped_with_two_or_four_bytes_per_id(tokenizer):
    rows = cached_rows(("two bytes",), tokenizer, [[1, 2], [299]])
    assert isinstance(rows.ids, np.memmap)
    assert rows.ids.dtype == np.uint16
    assert isinstance(rows[:1].ids, np.memmap)

    large = Tokenizer(tokenizer.encoding, {END_OF_TEXT: 69_999})
    rows = cached_rows(("four bytes",), large, [[69_999, 1]])
    assert rows.ids.dtype == np.uint32
    assert rows[0] == [69_999, 1]


def test_rows_are_computed_once(tokenizer):
    def never():
        raise AssertionError("made again")
        yield

    assert list(cached_rows(("once", 1), tokenizer, [[5, 6]])) == [[5, 6]]
    assert list(cached_rows(("once", 1), tokenizer, never())) == [[5, 6]]
    with pytest.raises(AssertionError, match="made again"):
        cached_rows(("once", 2), tokenizer, never())


def test_another_tokenizer_or_other_code_does_not_share_cached_rows(tokenizer, monkeypatch):
    other = train_bpe([" ".join(f"word{i} of another text" for i in range(99))], 300)
    assert (other.vocab_size, other.name) == (300, "bpe")
    assert other.name == tokenizer.name
    assert list(cached_rows(("whose",), tokenizer, [[5]])) == [[5]]
    assert list(cached_rows(("whose",), other, [[6]])) == [[6]]
    monkeypatch.setattr(cache, "code_fingerprint", lambda: "changed")
    assert list(cached_rows(("whose",), tokenizer, [[7]])) == [[7]]


def test_an_interrupted_write_leaves_no_valid_cache(tokenizer, monkeypatch):
    def dies():
        yield [1]
        raise KeyboardInterrupt

    before = set(cache_folder().iterdir())
    with pytest.raises(KeyboardInterrupt):
        cached_rows(("killed",), tokenizer, dies())
    assert set(cache_folder().iterdir()) == before
    replace, calls = os.replace, []

    def once(*paths):  # the ids are renamed, the bounds are not
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            cached_rows(("killed",), tokenizer, [[9, 9, 9]])
    assert list(cached_rows(("killed",), tokenizer, [[1], [2]])) == [[1], [2]]


def test_a_cache_folder_that_cannot_be_created_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"file/minippo/\w+, cannot be written .* XDG_CACHE_HOME"):
        cache_folder()


def test_a_read_only_cache_folder_is_named(monkeypatch):
    folder = cache_folder()

    def read_only(dir):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(ValueError, match=rf"{folder}, cannot be written \(Permission denied\); .*XDG_CACHE_HOME"):
        cache_folder()


def test_a_full_disk_is_reported_and_leaves_no_files(tokenizer):
    def rows():
        yield [1]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set(cache_folder().iterdir())
    with pytest.raises(ValueError, match=rf"{cache_folder()}, .*No space left on device.*XDG_CACHE_HOME"):
        cached_rows(("full",), tokenizer, rows())
    assert set(cache_folder().iterdir()) == before


@pytest.mark.parametrize("suffix", [".ids", ".npz"])
@pytest.mark.parametrize("damage", ["gone", "empty", "short", "long", "zeros", "one bit"])
def test_damaged_cache_files_are_written_again(tokenizer, suffix, damage):
    parts, groups = ("damaged", suffix, damage), [[[1, 2, 3], [4]], [[5, 6]]]
    before = set(cache_folder().iterdir())
    cached_groups(parts, tokenizer, groups, 10**9)
    (path,) = (path for path in set(cache_folder().iterdir()) - before if path.suffix == suffix)
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(whole) // 2  # in a .npz file, of the first array
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        zeros = bytes(len(whole))  # as after a power failure
        damaged = {"empty": b"", "short": whole[:-2], "long": whole + whole, "zeros": zeros, "one bit": flipped}
        path.write_bytes(damaged[damage])
    assert list(cached_groups(parts, tokenizer, groups, 10**9)[0]) == groups
    assert path.read_bytes()[:2] == whole[:2]


def test_no_damage_of_a_byte_is_an_error_or_goes_unnoticed(tokenizer):
    before = set(cache_folder().iterdir())
    kept, cut = cached_groups(("bytes",), tokenizer, [[[1, 2]]], 10)
    (path,) = (path for path in set(cache_folder().iterdir()) - before if path.suffix == ".npz")
    whole = path.read_bytes()
    for place in range(1, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0b11]) + whole[place + 1 :])
        read, read_cut = cached_groups(("bytes",), tokenizer, [[[1, 2]]], 10)
        assert (list(read), read_cut) == (list(kept), cut)


def test_rows_are_flushed_to_disk_before_they_are_renamed(tokenizer, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: [calls.append("fsync"), fsync(file)])
    monkeypatch.setattr(os, "replace", lambda *paths: [calls.append("replace"), replace(*paths)])
    cached_rows(("safe",), tokenizer, [[1]])
    assert calls == [
        "fsync",
        "fsync",
        "replace",
        "replace",
        "fsync",
    ]  # finally the folder, which contains the new names


def test_caches_of_other_code_are_deleted_after_a_week_without_use(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    mine, day = cache_folder(), 24 * 3600
    for name, days in (("0123456789abcdef", 8), ("fedcba9876543210", 6), ("somebody's", 99)):
        (tmp_path / "minippo" / name).mkdir()
        (tmp_path / "minippo" / name / "a.ids").write_text("")
        os.utime(tmp_path / "minippo" / name, (time.time() - days * day,) * 2)
    os.utime(mine, (time.time() - 99 * day,) * 2)
    assert cache_folder() == mine  # its date is that of its last use
    assert {path.name for path in mine.parent.iterdir()} == {mine.name, "fedcba9876543210", "somebody's"}
    assert time.time() - mine.stat().st_mtime < day


# ---------------------------------------------------------------------------------------------- the cache key

REPOSITORY = cache.PACKAGE.parent


@pytest.fixture
def package(tmp_path):
    """A copy of the package's source."""
    ignore = shutil.ignore_patterns("__pycache__", "configs")
    return Path(shutil.copytree(cache.PACKAGE, tmp_path / "minippo", ignore=ignore))


def key_of(package: Path) -> str:
    cache.code_fingerprint.cache_clear()
    return cache.code_fingerprint(package)


def test_the_cache_key_covers_exactly_the_files_that_reading_imports(package):
    """The oracle is what Python itself imports for `minippo.data`. `reviews` is left out: it only judges texts."""
    code = "import sys, minippo.data; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('minippo')))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = {Path(path).relative_to(cache.PACKAGE).as_posix() for path in run.stdout.split()}
    needed = {name for name in loaded if name != "__init__.py" and not name.startswith("reviews/")}
    assert {"data/own.py", "tokenizer/bpe.py", "splits.py", "storage.py", "streams.py"} <= needed
    assert not {"equations.py", "config.py", "evaluation.py", "model.py"} & needed
    before = key_of(package)

    def touch(path: Path) -> str:
        source = path.read_text(encoding="utf-8")
        path.write_text(source + "\n# another comment\n", encoding="utf-8")
        return source

    for path in package.rglob("*.py"):
        if path.relative_to(package).as_posix() not in needed:
            touch(path)
    assert key_of(package) == before  # other files may change, all at once
    for name in sorted(needed):
        source = touch(package / name)
        assert key_of(package) != before, name
        (package / name).write_text(source, encoding="utf-8")
    assert key_of(package) == before


@pytest.mark.parametrize(
    "statement",
    [
        "from minippo import optim",
        "from minippo.optim import CPUAdamW",
        "import minippo.optim",
        "def late():\n    from minippo.optim import CPUAdamW",
    ],
)
def test_a_newly_imported_file_is_covered_by_the_cache_key(package, statement):
    assert package / "optim.py" not in cache.code_files(package)
    path = package / "data" / "texts.py"
    path.write_text(path.read_text(encoding="utf-8") + f"\n{statement}\n", encoding="utf-8")
    assert package / "optim.py" in cache.code_files(package)
    before = key_of(package)
    (package / "optim.py").write_text("# changed")
    assert key_of(package) != before


def test_a_new_or_renamed_file_changes_the_cache_key(package):
    before = key_of(package)
    (package / "data" / "more.py").write_text("")
    added = key_of(package)
    (package / "data" / "more.py").rename(package / "data" / "most.py")
    assert len({before, added, key_of(package)}) == 3


def test_data_imports_only_the_judge_from_reviews():
    """Therefore the cache key may leave `reviews` out: the judge scores texts after they have been read."""
    imports = [
        (path.name, alias.name)
        for path in (cache.PACKAGE / "data").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minippo.reviews")
        for alias in node.names
    ]
    judge = {("bundled.py", name) for name in ("gold_score", "is_grammatical", "split_sentences")}
    assert set(imports) == judge


def test_fingerprint_of_a_tokenizer_covers_everything_it_saves(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "same.tiktoken")
    assert load_tokenizer(tmp_path / "same.tiktoken").fingerprint == tokenizer.fingerprint
    for other in (
        train_bpe(["another text"], 270),
        Tokenizer(tokenizer.encoding, {END_OF_TEXT: 400}),
        Tokenizer(tokenizer.encoding, {END_OF_TEXT: 299, "<pad>": 300}, pad="<pad>"),
    ):
        assert other.fingerprint != tokenizer.fingerprint


# ---------------------------------------------------------------------------------------------- texts


@given(count=st.integers(0, 30), start=st.integers(-3, 12), stop=st.integers(0, 40), inner=st.integers(0, 9))
def test_texts_behave_like_a_list(count, start, stop, inner):
    items = [f"text {number}" for number in range(count)]
    texts = Texts(count, lambda a, b: items[a:b], "some", location=lambda number: f"line {number}")
    part, expected = texts[start:stop], items[start:stop]
    assert list(part) == expected
    assert list(part[inner:]) == expected[inner:]
    assert [text for chunk in part.chunks(4) for text in chunk] == expected
    if expected:
        assert part[-1] == expected[-1]
        assert part.location(0) == f"line {items.index(expected[0])}"
    assert (part.fingerprint == texts.fingerprint) == (len(part) == count)


def test_rows_are_encoded_a_thousand_at_a_time(tokenizer):
    largest = []

    def read(first, last):
        largest.append(last - first)
        return [Demonstration(f"P{i}", f" c{i}") for i in range(first, last)]

    rows = policy_rows(Texts(2500, read, "two thousand and a half"), tokenizer)
    assert len(rows) == 2500
    assert max(largest) == 1000
    assert rows[2400] == [*tokenizer.encode("P2400"), *tokenizer.encode(" c2400"), tokenizer.eos_id]


def test_policy_and_reward_rows_of_one_tokenizer_differ(tokenizer):
    """Prompt and completion are encoded separately for the policy, together for the reward model."""
    token = next(text for text in map(tokenizer.decode, zip(range(256, 299))) if len(text) > 1)
    texts = texts_of([Demonstration(token[:1], token[1:])], "one token over the border")
    assert list(policy_rows(texts, tokenizer)) != list(reward_rows(texts, tokenizer))


# ---------------------------------------------------------------------------------------------- what does not fit

LONG = "The plot is gripping and the café scenes are lovely. "


def prompts(tokenizer, texts, whole=True, validation=("v",), test=("t",), **changes):
    """Rows of the training and validation prompts, and the report."""
    by_split = {"train": texts, "validation": validation, "test": test}

    def read(split):
        return texts_of(by_split[split], repr(by_split[split]), whole)

    rows, report = prompt_rows(read, tokenizer, DataConfig(query_length=6, **changes))
    assert list(rows["test"]) == [tokenizer.encode(text)[:6] for text in test]
    return list(rows["train"]), list(rows["validation"]), report


def test_prompts_that_are_too_long_are_dropped_and_counted(tokenizer):
    rows, _, report = prompts(tokenizer, ["The plot", LONG, "café"])
    assert rows == [tokenizer.encode("The plot"), tokenizer.encode("café")]
    assert report == {"prompts, train": {"rows": 3, "dropped: longer than data.query-length": 1}}
    assert prompts(tokenizer, ["The plot"])[2] == {}


def test_excerpts_that_are_too_long_are_cut_instead(tokenizer):
    rows, _, report = prompts(tokenizer, ["The plot", LONG], whole=False)
    assert rows == [tokenizer.encode("The plot"), tokenizer.encode(LONG)[:6]]
    assert report == {}


def test_prompts_with_the_same_tokens_are_one_prompt_and_stay_held_out(tokenizer):
    """All of these texts differ, but many have the same first six tokens, which are all that the policy reads."""
    texts = [LONG, "café", LONG + "more", "the first", "the second", "The music"]
    held_out = [tokenizer.decode(tokenizer.encode(text)[:6]) for text in ("the first", "The music")]
    rows, validation, report = prompts(
        tokenizer, texts, whole=False, validation=[held_out[0], held_out[1] + "!"], test=[held_out[1] + "?"]
    )
    assert rows == [tokenizer.encode(LONG)[:6], tokenizer.encode("café"), tokenizer.encode("the second")[:6]]
    assert validation == [tokenizer.encode("the first")[:6]]
    same = "left out: the same tokens as another prompt"
    assert report == {"prompts, train": {"rows": 6, same: 3}, "prompts, validation": {"rows": 2, same: 1}}
    with pytest.raises(
        ValueError, match=r"all 2 train prompts have the same first 6 tokens as prompts of another split"
    ):
        prompts(tokenizer, [LONG, LONG + "!"], whole=False, validation=[LONG])


def test_comparisons_that_are_too_long_are_dropped_and_counted(tokenizer):
    fits, worse = (" fine", " poor"), (" fine", LONG)
    texts = texts_of([Comparison("P", worse), Comparison("P", fits), Comparison(LONG, fits)], "one of three")
    most = len(tokenizer.encode("P poor")) + 1  # with end-of-text
    rows, kept, dropped = comparison_rows(texts, tokenizer, most, DataConfig())
    assert list(rows) == [[[*tokenizer.encode("P" + text), tokenizer.eos_id] for text in fits]]
    assert kept.tolist() == [1]
    assert dropped == {"rows": 3, "dropped: longer than the reward model's context": 2}
    with pytest.raises(ValueError, match="all 3 rows are too long"):
        comparison_rows(texts, tokenizer, most - 1, DataConfig())


def test_comparisons_cached_for_one_context_are_not_used_for_another(tokenizer):
    pair = Comparison("", (LONG, LONG.upper()))
    texts = texts_of([pair], "for two contexts", whole=False)
    for context in (9, 7, 9, 12):
        rows, *_ = comparison_rows(texts, tokenizer, context, DataConfig())
        assert list(rows) == [[[*tokenizer.encode(text)[: context - 1], tokenizer.eos_id] for text in pair.ranked]]


def test_refuse_names_the_first_example_that_is_too_long(tokenizer):
    length = len(tokenizer.encode(LONG))
    sentence = f"number 1 has {length} tokens, more than data.query-length of 6 .data.unusable is refuse"
    with pytest.raises(ValueError, match=sentence):
        prompts(tokenizer, ["The plot", LONG], unusable="refuse")
    assert len(prompts(tokenizer, ["The plot"], unusable="refuse")[0]) == 1


def test_missing_prompts_and_comparisons_are_reported_with_their_option(tokenizer):
    with pytest.raises(ValueError, match=r"no prompts: give data\.prompts"):
        prompts(tokenizer, [])
    with pytest.raises(ValueError, match=r"no preferences .*data\.preferences"):
        comparison_rows(texts_of([], "none"), tokenizer, 9, DataConfig())


def test_the_cache_of_this_version_is_kept_whatever_the_clock_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = tmp_path / "minippo" / ("0" * 16)
    other.mkdir(parents=True)
    monkeypatch.setattr(cache.time, "time", lambda: 4e9)  # in the year 2096
    assert cache.cache_folder().is_dir()
    assert not other.exists()
