"""Finds your own data: files, folders of them, datasets of the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minippo.data.tables import FILE_NAME, FILE_TYPES, Source, file_source, table_source
from minippo.splits import Split

if TYPE_CHECKING:
    import datasets

DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
"""Files in the folder of a downloaded dataset that describe it."""


def find_sources(path: str, option: str, splits: dict[Split, str]) -> dict[Split, list[Source]]:
    """The tables that `path` names, by split. `splits` maps each split to its name in the data.

    `path` is a file, which is for training; a folder of files that have their split in their names, or a pattern
    ("folder/*_prefs*.parquet") of such files; or a dataset of the hub, "owner/name" or "owner/name:subset".
    Messages call it `option`.

    Raises FileNotFoundError if nothing has this name, and ValueError if the splits are ambiguous.
    """
    local = Path(path)
    if local.is_file():
        return {split: [file_source(local, option)] if split == "train" else [] for split in splits}
    if local.is_dir():
        return _folder(local, "**/*", option, splits)
    if "*" in path:
        first = next(place for place, part in enumerate(local.parts) if "*" in part)
        return _folder(Path(*local.parts[:first]), "/".join(local.parts[first:]), option, splits)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", path) or FILE_NAME.fullmatch(path):
        raise FileNotFoundError(f"{option}: {path} is not a file, a folder or the name of a hub dataset (owner/name)")
    tables = load_from_hub(path)
    if splits["train"] not in tables:
        raise ValueError(
            f"{option}: {path} has no split {splits['train']!r}, only {', '.join(tables)} (set data.train-split)"
        )
    return {
        split: [table_source(f"{path} {name}", tables[name])] if name in tables else []
        for split, name in splits.items()
    }


def load_from_hub(name: str) -> dict[str, datasets.Dataset]:
    """The splits of "owner/name" or "owner/name:subset". Raises FileNotFoundError if it cannot be downloaded."""
    name, _, subset = name.partition(":")
    try:
        return load_dataset(name, name, subset or None)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the dataset {name} cannot be downloaded from the hub ({error}); give a folder of its files instead"
        ) from None


def load_dataset(name: str, *arguments: Any, **options: Any) -> dict[str, datasets.Dataset]:
    """`datasets.load_dataset`, with errors of one sentence.

    Raises FileNotFoundError if there is no such dataset or no network, and ValueError, naming the dataset, if it cannot
    be read.
    """
    import datasets  # here, because the import takes a second and most runs do not need it

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # whatever the builder of a dataset raises
        reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
        if isinstance(error, ConnectionError | FileNotFoundError):
            raise FileNotFoundError(reason) from None
        raise ValueError(f"the dataset {name} cannot be read: {reason}") from None


def _folder(folder: Path, pattern: str, option: str, splits: dict[Split, str]) -> dict[Split, list[Source]]:
    """The files in a folder that match a pattern, by the split in their names."""

    def named_in(text: str) -> list[Split]:
        # A split's name must be a whole word of the path: "test" matches "test-0.jsonl", but not "latest.jsonl".
        return [split for split, name in splits.items() if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text)]

    paths = [path for path in sorted(folder.glob(pattern)) if path.name not in DESCRIPTIONS]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    others = [path for path in paths if path.is_symlink() or not path.is_dir()]
    paths = [path for path in paths if FILE_NAME.fullmatch(path.name) and path.is_file()]
    read_in = {folder, *(path.parent for path in paths)}
    for path in others:
        # A README may be next to the files, in the folder named after the split.
        named = named_in(path.name if path.parent in read_in else f"{path.parent.name}/{path.name}")
        if path not in paths and named:
            raise ValueError(
                f"{option}: {path} has the name of a split but cannot be read: it is not a file that ends in "
                f"{FILE_TYPES}; convert it, or move it out of {folder}"
            )
    if not paths:
        raise FileNotFoundError(f"{option}: {folder} has no file {pattern} that ends in {FILE_TYPES}")
    sources: dict[Split, list[Source]] = {split: [] for split in splits}
    unassigned = []
    for path in paths:
        named = named_in(str(path.relative_to(folder)))
        if len(named) == 1:
            sources[named[0]].append(file_source(path, option))
        else:
            unassigned.append(path)
    if len(unassigned) == len(paths):  # no name contains a split: everything is for training
        return sources | {"train": [file_source(path, option) for path in unassigned]}
    if unassigned:
        names = " or ".join(map(repr, splits.values()))
        raise ValueError(
            f"{option}: the name of {unassigned[0]} must contain exactly one of {names}, because other files of "
            f"{folder} have a split in their names"
        )
    if not sources["train"]:
        raise ValueError(f"{option}: no file of {folder} has {splits['train']!r} in its name (set data.train-split)")
    return sources
