"""`--plan`: the memory that a stage will need, before anything is loaded, and which options would lower it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

import torch

from minippo.config import Config
from minippo.model import GPTConfig
from minippo.runs.arguments import options_text, override
from minippo.runs.phases import Phase, Planner
from minippo.runs.presets import differences
from minippo.runs.run import STAGES
from minippo.runs.system import physical_memory
from minippo.runs.validation import check_batches, check_context
from minippo.tokenizer import make_tokenizer
from minippo.weights import pretrained_config

HALVED = ("sft.policy.batch_tokens", "sft.reward.batch_tokens", "rm.batch_size", "ppo.rollout_batch_size", "ppo.microbatch_size")  # fmt: skip
"""Batch sizes, whose halves are tried."""


def plan(stage: str, config: Config, device: str) -> str:
    """What `--plan` prints for a stage ("sft", "rm" or "ppo") on a device ("auto", "cpu" or "cuda").

    A GPU can be planned for without having one. Only config.json of pretrained weights and the size of a tokenizer are
    read. Raises ValueError or FileNotFoundError if they cannot be, or do not fit the configuration.
    """
    has_gpu = torch.cuda.is_available()
    on_gpu = device == "cuda" or (device == "auto" and has_gpu)
    models, where = architectures(config), "GPU" if on_gpu else "CPU"
    phases = Planner(config, models, on_gpu).phases(stage)
    limit = (torch.cuda.mem_get_info()[0] if has_gpu else None) if on_gpu else physical_memory()
    return "\n\n".join(
        [
            f"Planned memory of `{STAGES[stage][1]}` {'on a GPU' if on_gpu else 'without a GPU'}, at the peak of each "
            f"phase. Nothing has been loaded.",
            *(f"{place} memory:\n\n{table(phases, place)}" for place in dict.fromkeys((where, "CPU"))),
            verdict(phases, where, limit),
            advice(stage, config, models, on_gpu),
        ]
    )


def architectures(config: Config) -> dict[str, GPTConfig]:
    """Of "policy" and "reward": those of the pretrained weights, or as configured."""
    found = {}
    for name in ("policy", "reward"):
        model = getattr(config.model, name)
        if model.weights:
            found[name] = pretrained_config(model.weights)
            check_context(config.data, name, found[name].context, f"model.{name}.weights {model.weights}")
            continue
        kind, _, size = model.tokenizer.partition(":")
        vocab_size = int(size) if kind == "train" else make_tokenizer(model.tokenizer, ()).vocab_size
        found[name] = GPTConfig(
            vocab_size, model.context, model.layers, model.heads, model.channels, activation=model.activation
        )
    return found


def peak(phases: list[Phase], where: str) -> Phase:
    """The phase that needs most memory there."""
    return max(phases, key=lambda phase: phase.total(where))


def amount(size: int) -> str:
    """3 * 2**29 -> "1.50 GiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def table(phases: list[Phase], where: str) -> str:
    """Phases and components in one place, as Markdown that is readable in a terminal."""
    components = list(dict.fromkeys(part for phase in phases for place, part in phase.usage if place == where))
    rows = [["phase", *components, "together"]]
    for phase in phases:
        sizes = [phase.usage[where, part] for part in components]
        rows.append([phase.name, *(amount(size) if size else "" for size in sizes), amount(phase.total(where))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))] for row in rows]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(phases: list[Phase], where: str, limit: int | None) -> str:
    """The peak, and whether it is below the `limit` of the machine, if that is known."""
    largest = peak(phases, where)
    sentence = f"The peak on the {where} is {amount(largest.total(where))} ({largest.name})"
    if limit is None:
        return f"{sentence}."
    return f"{sentence}; it {'fits' if largest.total(where) <= limit else 'does not fit'} into the {amount(limit)} that are there."


def advice(stage: str, config: Config, models: Mapping[str, GPTConfig], on_gpu: bool) -> str:
    """What the peak of the stage would be with other options, one line each."""
    where = "GPU" if on_gpu else "CPU"
    present = peak(Planner(config, models, on_gpu).phases(stage), where)
    lines = []
    for other in alternatives(config):
        new = peak(Planner(other, models, on_gpu).phases(stage), where)
        freed = present.total(where) - new.total(where)
        if freed > 0.01 * present.total(where):
            changed = options_text({name: value for name, (value, _) in differences(other, config).items()})
            lines.append((freed, f"  {changed:40} frees {amount(freed)}; the peak is then {amount(new.total(where))} ({new.name})"))
    if not lines:
        return "No memory option lowers the peak."
    return "\n".join(["Options that lower it:", *(line for _, line in sorted(lines, reverse=True))])


def alternatives(config: Config) -> Iterator[Config]:
    """`config` with each memory option switched on, with bfloat16 models, and with each batch size halved."""
    for field in fields(config.memory):
        yield override(config, {f"memory.{field.name}": True})
    for name in HALVED:
        section, _, last = name.rpartition(".")
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if value > 1:
            smaller = override(config, {name: value // 2})
            try:
                check_batches(smaller)
            except ValueError:
                continue
            yield smaller
