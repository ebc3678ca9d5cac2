"""What a section reports: rows of a table, written as JSON and into docs/performance.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.machine import Rates, Work, machine, versions
from bench.measuring import Spread

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "bench" / "results"
PAGE = REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- speed: written by python -m bench -->", "<!-- end of speed -->"
HEADER = """| work | minippo | peer | ratio (min to max) | target | share of the machine |
| --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    work: str
    minippo: str
    peer: str = ""
    ratio: str = ""
    target: str = ""
    limited: Work | None = None
    """The part of minippo's work that is compared with the rates of the machine."""

    def text(self, rates: Rates) -> str:
        """The row in Markdown."""
        share = self.limited.share(rates) if self.limited else ""
        return f"| {self.work} | {self.minippo} | {self.peer} | {self.ratio} | {self.target} | {share} |"


@dataclass
class Section:
    """Everything that a section measured."""

    rows: list[Row] = field(default_factory=list)
    rounds: dict[str, Any] = field(default_factory=dict)
    """The measurements of every round, by work and program."""


def ratio_cell(ratio: Spread) -> str:
    """A ratio and its spread over the rounds."""
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def rates_in_words(rates: Rates) -> str:
    """Both rates with their units."""
    return f"{rates.flops / 1e9:.0f} GFLOP/s, {rates.bandwidth / 1e9:.0f} GB/s"


def record(name: str, section: Section, rates: Rates, rounds: int) -> dict[str, Any]:
    """The contents of bench/results/NAME.json."""
    return {
        "section": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
        "repetitions": rounds,
        "machine": machine(),
        "versions": versions(),
        "rates": asdict(rates),
        "rows": [asdict(row) for row in section.rows],
        "rounds": section.rounds,
    }


def speed_table(records: Iterable[dict[str, Any]]) -> str:
    """The table of all sections, and when and where each was measured."""
    rows, sources = [], []
    for r in records:
        rates = Rates(**r["rates"])
        for row in r["rows"]:
            limited = Work(**row["limited"]) if row["limited"] else None
            rows.append(Row(**row | {"limited": limited}).text(rates))
        packages = ", ".join(f"{name} {version}" for name, version in r["versions"].items())
        sources.append(
            f"- `{r['section']}`: {r['date']}, {r['machine']['processor']}, {r['machine']['threads']} threads, "
            f"{rates_in_words(rates)}; {r['repetitions']} rounds; {packages}"
        )
    return "\n".join([HEADER, *rows, "", "Measured:", "", *sources])


def replace_table(page: str, table: str, begin: str = BEGIN, end: str = END) -> str:
    """`page` with `table` between the two markers. Raises ValueError if it does not contain both."""
    before, has_begin, rest = page.partition(begin)
    _, has_end, after = rest.partition(end)
    if not has_begin or not has_end:
        raise ValueError(f"docs/performance.md must contain the lines {begin} and {end}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def write(record: dict[str, Any], order: list[str], results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the results of a section, and the table of all sections measured so far, in `order`."""
    results.mkdir(exist_ok=True)
    (results / f"{record['section']}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    paths = [path for name in order if (path := results / f"{name}.json").exists()]
    table = speed_table(json.loads(path.read_text(encoding="utf-8")) for path in paths)
    page.write_text(replace_table(page.read_text(encoding="utf-8"), table), encoding="utf-8")
