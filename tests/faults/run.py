"""Do to tiny runs what machines and people do to long ones, resume them, and compare bit for bit.

    python -m tests.faults.run            every change to the run directory, every file: `make faults`
    python -m tests.faults.run --sample   a part of it, in two minutes

Prints how many faults of each kind were tried and survived. Exit status 1 if one was not survived.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.damage import DAMAGES, files_of
from tests.faults.stages import (
    Ended,
    Laboratory,
    die_before_change,
    limit_file_size,
    shift_clock,
    stage_names,
)

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
Case = tuple[str, str, str]
"""What was done, where, and what went wrong ("" if it was survived)."""


def problem(laboratory: Laboratory, stage: str, folder: Path, *ends: Ended, logs: bool = True) -> str:
    """Why a run is not as if nothing had happened; "" if it is. `logs`: metrics and samples must be complete, too."""
    for end in ends:
        if "Traceback" in end.stderr:
            return f"traceback: {end.stderr[end.stderr.index('Traceback') :][-1500:]}"
    if ends[-1].status != 0:
        return f"the resumed stage ended with status {ends[-1].status}: {ends[-1].stderr.strip()[-300:]}"
    return laboratory.difference(stage, folder, logs)


def kills_at_random_moments(lab: Laboratory, count: int) -> Iterator[Case]:
    for stage in stage_names():
        for number in range(count):
            folder, delay = lab.begin(stage), lab.random.uniform(0, lab.seconds[stage])
            killed = lab.run(stage, folder, after=(delay, signal.SIGKILL))
            yield (
                "SIGKILL at a random moment",
                f"{stage} {number}",
                problem(lab, stage, folder, killed, lab.run(stage, folder)),
            )


def kills_before_every_change(lab: Laboratory, every: int) -> Iterator[Case]:
    for stage in stage_names():
        for change in range(lab.random.randrange(every), lab.changes[stage], every):
            folder = lab.begin(stage)
            killed = lab.run(stage, folder, prepare=die_before_change(folder, change))
            if killed.status != -signal.SIGKILL:
                yield "SIGKILL before a change", f"{stage} {change}", f"not killed: {killed}"
                continue
            yield "SIGKILL before a change", f"{stage} {change}", problem(lab, stage, folder, lab.run(stage, folder))


def signals(lab: Laboratory, count: int) -> Iterator[Case]:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for stage in stage_names():
            for index in range(count):
                folder, delay = lab.begin(stage), lab.random.uniform(0, lab.seconds[stage])
                ended = lab.run(stage, folder, after=(delay, number))
                what, where = f"{number.name}", f"{stage} {index}"
                if ended.status == -number and not ended.stderr:  # before our code began or after it ended
                    ended = Ended(128 + number, "", "interrupted")
                if ended.status not in (0, 128 + number):
                    yield what, where, f"status {ended.status}: {ended.stderr[-300:]}"
                elif ended.status and "interrupted" not in ended.stderr:
                    yield what, where, f"no sentence: {ended.stderr[-300:]}"
                else:
                    yield what, where, problem(lab, stage, folder, ended, lab.run(stage, folder))


def damaged_checkpoints(lab: Laboratory, every: int) -> Iterator[Case]:
    for stage in stage_names():
        for file in files_of(lab.newest_checkpoint(stage, lab.interrupted[stage])):
            for name, damage in list(DAMAGES.items())[lab.random.randrange(every) :: every]:
                folder = lab.copy(lab.interrupted[stage])
                checkpoint = lab.newest_checkpoint(stage, folder)
                damage(checkpoint / file, lab.random)
                ended = lab.run(stage, folder)
                where = f"{stage} {file} {name}"
                if ended.status == 0 and str(checkpoint) not in ended.stderr:
                    yield "damaged checkpoint", where, "the damage went unnoticed"
                else:
                    yield "damaged checkpoint", where, problem(lab, stage, folder, ended)


def damaged_stages(lab: Laboratory, every: int) -> Iterator[Case]:
    """Whatever reads a damaged file must say so in one sentence that names it, and must not write anything."""
    readers = {"sft": "rm", "tokenizers": "rm", "rm": "ppo", "config.yaml": "ppo", "ppo": "evaluate"}
    for part, reader in readers.items():
        source = lab.finished if reader == "evaluate" else lab.before[reader]
        for file in files_of(source / part):
            for name, damage in list(DAMAGES.items())[lab.random.randrange(every) :: every]:
                folder = lab.copy(source)
                path = folder / part / file if file else folder / part
                damage(path, lab.random)
                before = lab.contents(folder)
                ended, where = lab.run(reader, folder), f"{part}/{file} {name}"
                lines = ended.stderr.strip().splitlines()
                if ended.status != 2 or len(lines) != 1 or "Traceback" in ended.stderr:
                    yield "damaged stage", where, f"status {ended.status}: {ended.stderr.strip()[-300:] or 'unnoticed'}"
                elif path.name not in lines[0]:
                    yield "damaged stage", where, f"the file is not named: {lines[0]}"
                else:
                    yield "damaged stage", where, "" if lab.contents(folder) == before else "something was written"


def damaged_logs(lab: Laboratory, every: int) -> Iterator[Case]:
    """Logs are not needed to resume: a damaged one costs its unreadable lines, and no more."""
    for stage in stage_names():
        for file in ("metrics.jsonl", "timing.jsonl", "samples.md", "summary.json"):
            for name, damage in list(DAMAGES.items())[lab.random.randrange(every) :: every]:
                folder = lab.copy(lab.interrupted[stage])
                if not (folder / file).is_file() or name == "a folder":
                    continue
                damage(folder / file, lab.random)
                ended = lab.run(stage, folder)
                where = f"{stage} {file} {name}"
                if ended.status != 0 or "Traceback" in ended.stderr:
                    yield "damaged log", where, f"status {ended.status}: {ended.stderr.strip()[-300:]}"
                else:
                    yield "damaged log", where, lab.difference(stage, folder, logs=False)


def full_disks(lab: Laboratory, every: int) -> Iterator[Case]:
    """No file may grow beyond a few bytes: from a change on, for good or for a while."""
    for stage in stage_names():
        for change in range(lab.random.randrange(every), lab.changes[stage], every):
            for name, until in (("for good", 10**9), ("for a while", change + 6)):
                folder = lab.begin(stage)
                ended = lab.run(stage, folder, prepare=limit_file_size(folder, change, until))
                what, where = f"disk full {name}", f"{stage} {change}"
                if ended.status not in (0, 1, 2):
                    yield what, where, f"status {ended.status}: {ended.stderr.strip()[-300:]}"
                else:
                    yield what, where, problem(lab, stage, folder, ended, lab.run(stage, folder), logs=False)


def vanishing_folders(lab: Laboratory, count: int) -> Iterator[Case]:
    for stage in stage_names():
        for number in range(count):
            folder, delay = lab.begin(stage), lab.random.uniform(0.2, 0.9) * lab.seconds[stage]
            moved = folder.with_name("moved")

            def move(folder: Path = folder, moved: Path = moved) -> None:
                if folder.exists():
                    folder.rename(moved)

            ended = lab.run(stage, folder, meanwhile=(delay, move))
            if moved.exists():
                if folder.exists():
                    yield "run directory renamed", f"{stage} {number}", f"{folder} was created again"
                    shutil.rmtree(folder)
                moved.rename(folder)
            if ended.status not in (0, 1, 2):
                yield "run directory renamed", f"{stage} {number}", f"status {ended.status}: {ended.stderr[-300:]}"
            else:
                again = lab.run(stage, folder)
                what = problem(lab, stage, folder, ended, again, logs=False)
                yield "run directory renamed", f"{stage} {number}", what


def concurrent_writers(lab: Laboratory, count: int) -> Iterator[Case]:
    """Two processes train the same stage at the same time, started up to half its duration apart."""
    for stage in stage_names():
        for number in range(count):
            folder = lab.begin(stage)
            first = lab.start(stage, folder)
            time.sleep(lab.random.uniform(0, lab.seconds[stage] / 2))
            ends = [lab.run(stage, folder), first()]
            where = f"{stage} {number}"
            if sorted(end.status for end in ends) not in ([0, 0], [0, 2]):
                yield "concurrent writers", where, f"{[end.status for end in ends]}: {ends[0].stderr} {ends[1].stderr}"
            else:
                ends.sort(key=lambda end: -end.status)
                yield "concurrent writers", where, problem(lab, stage, folder, *ends)


def clock_changes(lab: Laboratory, count: int) -> Iterator[Case]:
    for stage in stage_names():
        for number in range(count):
            for days in (-400, 400):
                folder = lab.copy(lab.interrupted[stage])
                ended = lab.run(stage, folder, prepare=shift_clock(days))
                yield "clock change before resuming", f"{stage} {number} {days}", problem(lab, stage, folder, ended)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", action="store_true", help="a part of it, in two minutes")
    parser.add_argument("--only", default="", help="only the kinds whose function's name contains this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write the table to docs/reliability.md")
    options = parser.parse_args()
    sample = options.sample
    plan = (
        (kills_at_random_moments, 2 if sample else 20),
        (kills_before_every_change, 23 if sample else 1),
        (signals, 1 if sample else 5),
        (damaged_checkpoints, 5 if sample else 1),
        (damaged_stages, 5 if sample else 1),
        (damaged_logs, 5 if sample else 1),
        (full_disks, 60 if sample else 5),
        (vanishing_folders, 1 if sample else 5),
        (concurrent_writers, 1 if sample else 5),
        (clock_changes, 1),
    )
    tried: dict[str, int] = {}
    survived: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(Path(folder), random.Random(options.seed))
        for function, amount in plan:
            if options.only in function.__name__:
                for kind, where, what in function(laboratory, amount):
                    tried[kind] = tried.get(kind, 0) + 1
                    survived[kind] = survived.get(kind, 0) + (not what)
                    if what:
                        print(f"NOT SURVIVED: {kind}: {where}: {what}", flush=True)
    table = [f"| {'fault':30} | tried | survived |", f"| {'-' * 30} | ----: | -------: |"]
    table += [f"| {kind:30} | {number:5} | {survived[kind]:8} |" for kind, number in tried.items()]
    print("\n".join(table))
    if options.record:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("<!-- faults -->\n")
        after = rest.partition("<!-- /faults -->")[2]
        text = "\n".join([f"{before}<!-- faults -->", *table, f"<!-- /faults -->{after}"])
        PAGE.write_text(text, encoding="utf-8")
    if survived != tried:
        sys.exit(1)


if __name__ == "__main__":
    main()
