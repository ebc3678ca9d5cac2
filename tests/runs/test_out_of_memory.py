"""A stage or command that runs out of GPU memory ends with one sentence: phase, figures, what each option frees."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

import train_rm
from minippo import evaluation, language_model, ppo, rollout, sampling, scoring, sft
from minippo.config import Config, MemoryConfig
from minippo.runs import Planner, out_of_memory
from minippo.runs.out_of_memory import remedies
from minippo.runs.plan import architectures
from minippo.tools import evaluate, generate, score
from minippo.weights import pretrained
from tests.pipeline.tiny_run import STAGES, changed, command

MESSAGE = (
    "CUDA out of memory. Tried to allocate 130.00 MiB. GPU 0 has a total capacity of 11.30 GiB of which 49.31 MiB is "
    "free. Of the allocated memory 10.42 GiB is allocated by PyTorch, and 419.37 MiB is reserved by PyTorch."
)
FIGURES = ": 10.42 GiB of 11.30 GiB were allocated, and 130.00 MiB more were needed"
CHECKPOINT, OFFLOAD, PARK = "--memory.checkpoint-activations", "--memory.offload-gradients", "--memory.park-models"
ALL = f"{CHECKPOINT} {OFFLOAD} {PARK}"
POLICY, REWARD = "--model.policy.dtype bfloat16", "--model.reward.dtype bfloat16"
ROLLOUT, MICROBATCH = "--ppo.rollout-batch-size", "--ppo.microbatch-size"


def fail(monkeypatch, module, name: str, *, call: int = 1) -> None:
    """Let a function run out of memory the n-th time that it is called."""
    function, count = getattr(module, name), []

    def failing(*args, **kwargs):
        count.append(name)
        if len(count) == call:
            raise torch.OutOfMemoryError(MESSAGE)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


def options_in(text: str) -> list[dict[str, str]]:
    """The options that a run can go on with and those of a new run, and what each frees."""
    now, later = re.fullmatch(
        r"(?:; this run can go on with (.+?))?(?:; a new run with (.+) needs less)?", text
    ).groups()
    return [dict(re.findall(r"(--[^()]+) \(frees ([^()]+)\)(?: or |$)", part or "")) for part in (now, later)]


def freed(config: Config, stage: str, phase: str, options: str) -> int:
    """Bytes in a phase of the plan for a GPU; while models are loaded, of the weights that PPO begins with."""
    values = {
        name.replace("-", "_"): int(value) if value.isdigit() else value or True
        for name, value in re.findall(r"--(\S+)(?: ((?!--)\S+))?", options)
    }

    def total(config: Config) -> int:
        phases = {phase.name: phase for phase in Planner(config, architectures(config), on_gpu=True).phases(stage)}
        return phases["generation"].usage["GPU", "weights"] if phase == "loading" else phases[phase].total("GPU")

    return total(config) - total(changed(config, values))


@pytest.mark.parametrize(
    ("stage", "module", "name", "call", "shown", "phase", "now", "later"),
    [
        ("sft", sft, "backward_in_chunks", 6, "training step", "policy: training step",
         {CHECKPOINT}, {"--sft.policy.batch-tokens 150", POLICY}),
        ("sft", language_model, "length_batches", 3, "held-out loss", "reward: held-out loss",
         set(), {"--sft.reward.batch-tokens 125", REWARD}),
        ("rm", train_rm, "score_batch", 4, "training step", "training step",
         set(), {"--rm.batch-size 4", REWARD}),
        ("rm", scoring, "pad", 2, "scoring", "scoring", set(), {REWARD}),
        ("rm", sampling, "choose", 1, "generation", "normalisation: generation",
         set(), {f"{ROLLOUT} 4", POLICY, REWARD}),
        ("ppo", sampling, "choose", 1, "generation", "reference's answers: generation",
         {PARK}, {f"{ROLLOUT} 4", POLICY, REWARD}),
        ("ppo", sampling, "choose", 30, "generation", "generation", {PARK}, {f"{ROLLOUT} 4", POLICY, REWARD}),
        ("ppo", evaluation, "next_token_logprobs", 1, "policy's and reference's log-probabilities",
         "reference's log-probabilities", {PARK}, {f"{MICROBATCH} 1", POLICY, REWARD}),
        ("ppo", rollout, "response_logprobs", 4, "log-probabilities", "log-probabilities",
         {PARK}, {f"{MICROBATCH} 1", POLICY, REWARD}),
        ("ppo", rollout, "response_logprobs", 6, "reference's log-probabilities", "reference's log-probabilities",
         {PARK}, {f"{MICROBATCH} 1", POLICY, REWARD}),
        ("ppo", scoring, "pad", 2, "scoring", "scoring", {PARK}, {f"{ROLLOUT} 4", POLICY, REWARD}),
        ("ppo", ppo, "partial_loss", 9, "update", "update",
         {ALL, CHECKPOINT, PARK}, {f"{MICROBATCH} 1", POLICY, REWARD}),
        ("ppo", pretrained, "_empty_model", 1, "loading", "loading", {PARK}, {POLICY, REWARD}),
    ],
)  # fmt: skip
def test_stage_ends_with_one_sentence_and_its_last_checkpoint(
    tiny_runs, monkeypatch, capsys, stage, module, name, call, shown, phase, now, later
):
    tiny_runs.base()
    fail(monkeypatch, module, name, call=call)
    monkeypatch.setattr(out_of_memory, "amount", "{} bytes".format)
    with pytest.raises(SystemExit) as end:
        tiny_runs.run("reviews", {}, [stage])
    assert end.value.code == 1
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    start, _, last = sentence.partition(". The last checkpoint is ")
    position, found, remedy = start.partition(f"out of GPU memory ({shown}){FIGURES}")
    assert found
    assert position.startswith("error: " if phase == "loading" else f"error: {stage}")
    assert ("step-" in last) == (phase != "loading")
    config = tiny_runs.settings("reviews")
    assert [part.keys() for part in options_in(remedy)] == [now, later]
    for part in options_in(remedy):
        assert part == {options: f"{freed(config, stage, phase, options)} bytes" for options in part}


def test_memory_options_can_be_added_to_the_run_that_failed(tiny_runs, monkeypatch):
    base = tiny_runs.base()
    with monkeypatch.context() as patch:
        fail(patch, ppo, "partial_loss", call=20)
        with pytest.raises(SystemExit):
            tiny_runs.run("reviews", {}, ["ppo"])
    folder = tiny_runs.folder / "runs" / f"{tiny_runs.count}"
    command(STAGES["ppo"], "--config", folder / "config.yaml", "--run-dir", folder, "--device", "cpu", *ALL.split())
    assert (folder / "metrics.jsonl").read_text().splitlines()[-1] == (
        (base.folder / "metrics.jsonl").read_text().splitlines()[-1]
    )


@pytest.mark.parametrize(
    ("main", "module", "name", "phase"),
    [
        (evaluate.main, sampling, "choose", "generation"),
        (evaluate.main, evaluation, "next_token_logprobs", "policy's and reference's log-probabilities"),
        (generate.main, sampling, "choose", "generation"),
        (score.main, scoring, "pad", "scoring"),
        (score.main, pretrained, "_empty_model", "loading"),
    ],
)
def test_command_ends_with_one_sentence(tiny_runs, monkeypatch, capsys, main, module, name, phase):
    more = {generate.main: ["--prompt", "7: a film."], score.main: [" The plot is superb."]}.get(main, [])
    run = tiny_runs.base()
    capsys.readouterr()
    fail(monkeypatch, module, name)
    with pytest.raises(SystemExit) as end:
        command(main, "--run-dir", run.folder, "--device", "cpu", *more)
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: out of GPU memory ({phase}){FIGURES}; --device cpu needs none\n"


LARGE = changed(
    Config(),
    {
        "model.policy.layers": 6,
        "model.policy.heads": 32,
        "model.policy.channels": 4096,
        "ppo.rollout_batch_size": 64,
        "ppo.num_minibatches": 1,
        "ppo.microbatch_size": 32,
    },
)


def test_largest_amount_comes_first_and_is_readable():
    now, later = options_in(remedies("ppo", LARGE, "training: update"))
    for part in (now, later):
        sizes = [freed(LARGE, "ppo", "update", options) for options in part]
        assert sizes == sorted(sizes, reverse=True)
        assert list(part.values()) == [
            f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB" for size in sizes
        ]
    assert now[OFFLOAD].endswith("GiB")
    assert REWARD not in later  # its 0.4 MiB are less than 1 %


def test_only_what_is_not_used_yet_is_named():
    config = replace(LARGE, memory=MemoryConfig(offload_gradients=True))
    assert f"{CHECKPOINT} {PARK} (" in remedies("ppo", config, "update")
    assert "offload" not in remedies("ppo", config, "update")
    config = replace(LARGE, memory=MemoryConfig(True, True, True))
    assert options_in(remedies("ppo", config, "update"))[0] == {}
    assert POLICY in remedies("ppo", config, "update")
    config = changed(config, {"model.policy.dtype": "bfloat16", "ppo.microbatch_size": 1})
    assert remedies("ppo", config, "update") == ""


def test_without_a_plan_the_sentence_ends_before_the_options(monkeypatch):
    assert remedies("ppo", LARGE, "training") == ""

    def failing(config: Config) -> None:
        raise OSError("the hub cannot be reached")

    monkeypatch.setattr(out_of_memory, "architectures", failing)
    assert remedies("ppo", LARGE, "training: update") == ""
