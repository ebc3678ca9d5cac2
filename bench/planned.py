"""The planned memory of large policies, written into docs/performance.md.

python -m bench.planned
"""

from __future__ import annotations

from bench.models import OPT_125M, SIZES
from bench.report import PAGE, replace_table
from minippo.config import Config
from minippo.runs import Phase, Planner, load_config, override

LIMIT = 11.3
"""GiB that a GPU with 12 GB has left for tensors."""
BEGIN, END = "<!-- planned: written by python -m bench.planned -->", "<!-- end of planned -->"
REWARD = OPT_125M
POLICIES = {"GPT-2 XL": {}, "OPT-1.3b": {}, "OPT-2.7b": {"ppo.rollout_batch_size": 16, "ppo.num_minibatches": 1}}
"""What differs from the preset imdb-12gb."""


def settings(name: str) -> Config:
    """The settings with which a policy is planned."""
    return override(load_config("imdb-12gb"), POLICIES[name])


def planned(name: str) -> dict[str, Phase]:
    """All phases of the three stages by name, for a policy."""
    planner = Planner(settings(name), {"policy": SIZES[name].config, "reward": REWARD.config}, on_gpu=True)
    return {f"{stage}: {phase.name}": phase for stage in ("sft", "rm", "ppo") for phase in planner.phases(stage)}


def table() -> str:
    """The phases of all policies, as Markdown."""
    plans = {name: planned(name) for name in POLICIES}
    ppo = {name: settings(name).ppo for name in POLICIES}
    rows = [
        ["", *POLICIES],
        ["---", *("---:" for _ in POLICIES)],
        ["prompts per rollout", *(str(config.rollout_batch_size) for config in ppo.values())],
        ["rows per microbatch", *(str(config.microbatch_size) for config in ppo.values())],
    ]
    phases = next(iter(plans.values()))
    rows += [[phase, *(gib(plan[phase].total("GPU")) for plan in plans.values())] for phase in phases]
    for place in ("GPU", "CPU"):
        peaks = [max(phase.total(place) for phase in plan.values()) for plan in plans.values()]
        rows.append([f"**peak on the {place}**", *(f"**{gib(size)}**" for size in peaks)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def gib(size: int) -> str:
    """Bytes in GiB."""
    return f"{size / 2**30:.1f}"


if __name__ == "__main__":
    PAGE.write_text(replace_table(PAGE.read_text(encoding="utf-8"), table(), BEGIN, END), encoding="utf-8")
