"""`--plan`: the memory that a stage will need, before anything is loaded, and which options would lower it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any

import torch

from minippo.config import Config
from minippo.model import GPTConfig
from minippo.runs.arguments import options_text, override
from minippo.runs.phases import COMPONENTS, Phase, Planner
from minippo.runs.run import STAGES
from minippo.runs.system import physical_memory
from minippo.runs.validation import check_context, check_settings
from minippo.tokenizer import make_tokenizer, trained_size
from minippo.weights import pretrained_config

HALVED = (
    "sft.policy.batch_tokens",
    "sft.reward.batch_tokens",
    "rm.batch_size",
    "ppo.rollout_batch_size",
    "ppo.microbatch_size",
)
"""Batch sizes, of which half is tried."""
MOST_LAYERS = 10_000
"""Blocks of a planned model. It has no weights, but a million blocks without them would fill the memory as well."""
EXPLANATION = (
    "Texts are taken to be as long as data.query-length and data.response-length allow. Activations are kept for the "
    "backward pass; temporaries live only while a block runs, or between two parts of a step. On a GPU, PyTorch itself "
    "needs a few hundred MiB more, and gaps between tensors some percent."
)


def plan(stage: str, config: Config, device: str) -> str:
    """What `--plan` prints for a stage ("sft", "rm" or "ppo") on a device ("auto", "cpu" or "cuda").

    A GPU can be planned for without having one. Only config.json of pretrained weights and the size of a tokenizer are
    read. Raises ValueError or FileNotFoundError if they cannot be, or do not fit the configuration.
    """
    has_gpu = torch.cuda.is_available()
    on_gpu = device == "cuda" or (device == "auto" and has_gpu)
    models, place = architectures(config), "GPU" if on_gpu else "CPU"
    # Whoever plans for another machine does not care about the memory of this one.
    limits = {"CPU": physical_memory()} if has_gpu or not on_gpu else {}
    if has_gpu:
        limits["GPU"] = torch.cuda.mem_get_info()[0]
    phases = Planner(config, models, on_gpu).phases(stage)
    paragraphs = [f"Planned memory of {STAGES[stage][1]}, in each phase when it needs most. {EXPLANATION}"]
    for where in dict.fromkeys([place, "CPU"]):
        paragraphs += [f"{where} memory:", table(phases, where), verdict(peak(phases, where), where, limits.get(where))]
    paragraphs.append(advice(stage, config, models, place))
    return "\n\n".join(paragraphs)


def architectures(config: Config) -> dict[str, GPTConfig]:
    """Of "policy" and "reward": those of the pretrained weights, or as configured."""
    found = {}
    for name in ("policy", "reward"):
        model = getattr(config.model, name)
        if model.weights:
            found[name] = pretrained_config(model.weights)
            check_context(config.data, name, found[name].context, f"model.{name}.weights {model.weights}")
            continue
        if model.layers > MOST_LAYERS:
            raise ValueError(f"model.{name}.layers is {model.layers:,}; a plan is possible for at most {MOST_LAYERS:,}")
        vocab_size = trained_size(model.tokenizer) or make_tokenizer(model.tokenizer, ()).vocab_size
        found[name] = GPTConfig(
            vocab_size, model.context, model.layers, model.heads, model.channels, activation=model.activation
        )
    return found


def peak(phases: Sequence[Phase], where: str) -> Phase:
    """The phase that needs most memory there."""
    return max(phases, key=lambda phase: phase.total(where))


def amount(size: int) -> str:
    """3 * 2**29 -> "1.50 GiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def table(phases: Sequence[Phase], where: str) -> str:
    """Phases and components in one place, as Markdown that is readable in a terminal."""
    parts = [part for part in COMPONENTS if any(phase.usage[where, part] for phase in phases)]
    rows = [["phase", *parts, "together"]]
    for phase in phases:
        sizes = [phase.usage[where, part] for part in parts]
        rows.append([phase.name, *(amount(size) if size else "" for size in sizes), amount(phase.total(where))])
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]  # widths of the columns
    rows.insert(1, ["-" * width for width in (first, *others)])
    return "\n".join(
        f"| {' | '.join([name.ljust(first), *(cell.rjust(w) for cell, w in zip(cells, others, strict=True))])} |"
        for name, *cells in rows
    )


def verdict(largest: Phase, place: str, limit: int | None) -> str:
    """The peak of the stage, and whether it is within the `limit` of the machine, if that is known."""
    sentence = f"The peak on the {place} is {amount(largest.total(place))} ({largest.name})"
    if limit is None:
        return f"{sentence}."
    fits = "fits" if largest.total(place) <= limit else "does not fit"
    return f"{sentence}, which {fits} into the {amount(limit)} of this machine."


def advice(stage: str, config: Config, models: Mapping[str, GPTConfig], place: str) -> str:
    """The options that would lower the peak by at least 1 %, the most effective first."""
    found = savings(config, place, lambda config: peak(Planner(config, models, place == "GPU").phases(stage), place))
    lines = [
        f"  {options_text(changes)}: {amount(freed)} less, {amount(other.total(place))} ({other.name})"
        for freed, changes, other in found
    ]
    return "\n".join(
        [f"Options that lower the peak on the {place}:", *lines]
        if lines
        else [f"No option of this list lowers the peak on the {place}."]
    )


def savings(config: Config, place: str, planned: Callable[[Config], Phase]) -> list[tuple[int, dict[str, Any], Phase]]:
    """The changes that lower what a phase needs by at least 1 %, the most effective first: bytes freed, settings, and
    the phase with them. `planned` finds the phase of a configuration. A combination has to free more than its parts."""
    present, found = planned(config).total(place), []
    for changes in changes_that_save(config):
        other = planned(override(config, changes))
        freed = present - other.total(place)
        parts = [of_part for of_part, part, _ in found if part.items() <= changes.items()]
        if freed > max(parts, default=0.01 * present):
            found.append((freed, changes, other))
    return sorted(found, key=itemgetter(0), reverse=True)


def changes_that_save(config: Config) -> Iterator[dict[str, Any]]:
    """Every memory option that is off, alone and all together, bfloat16, and half of each batch size that can be
    halved."""
    memory = {f"memory.{field.name}": True for field in fields(config.memory) if not getattr(config.memory, field.name)}
    yield from ({name: True} for name in memory)
    yield memory
    yield from ({f"model.{name}.dtype": "bfloat16"} for name in ("policy", "reward"))
    for name in HALVED:
        changes = {name: attrgetter(name)(config) // 2}
        try:
            check_settings(override(config, changes))
        except ValueError:  # an odd number, or it no longer divides the minibatch
            continue
        yield changes
