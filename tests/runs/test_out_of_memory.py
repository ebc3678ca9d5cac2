"""A stage or command that runs out of GPU memory ends with one sentence: phase, figures, and what would help."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import train_rm
from minippo import evaluation, ppo, rollout, sampling, scoring, sft
from minippo.config import Config, MemoryConfig
from minippo.runs import Run
from minippo.runs.out_of_memory import remedies
from minippo.tools import evaluate, generate, score
from minippo.weights import pretrained
from tests.pipeline.tiny_run import STAGES, changed, command

MESSAGE = (
    "CUDA out of memory. Tried to allocate 130.00 MiB. GPU 0 has a total capacity of 11.30 GiB of which 49.31 MiB is "
    "free. Of the allocated memory 10.42 GiB is allocated by PyTorch, and 419.37 MiB is reserved by PyTorch."
)
FIGURES = ": 10.42 GiB of 11.30 GiB were allocated, and 130.00 MiB more were needed"
TRAIN, PARK = "--memory.checkpoint-activations --memory.offload-gradients", "--memory.park-models"
ALL = f"{TRAIN} {PARK}"
NOW = "; this run can go on with"
BIGGER = "--model.policy.dtype bfloat16 needs less"


def fail(monkeypatch, module, name: str, *, call: int = 1) -> None:
    """Let a function run out of memory the n-th time that it is called."""
    function, count = getattr(module, name), []

    def failing(*args, **kwargs):
        count.append(name)
        if len(count) == call:
            raise torch.OutOfMemoryError(MESSAGE)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, failing)


@pytest.mark.parametrize(
    ("stage", "module", "name", "call", "where", "remedy"),
    [
        ("sft", sft, "backward_in_chunks", 6, "sft-policy, step 6: out of GPU memory (language-model step)",
         f"{NOW} {TRAIN}; a new run with "
         "--sft.policy.batch-tokens below 300 or --model.policy.dtype bfloat16 needs less"),
        ("rm", train_rm, "score_batch", 4, "rm, step 4: out of GPU memory (reward-model step)",
         f"{NOW} {TRAIN}; a new run with --rm.batch-size below 8 or --model.reward.dtype bfloat16 needs less"),
        ("ppo", sampling, "choose", 30, "ppo, iteration {}: out of GPU memory (generation)",
         f"{NOW} {PARK}; a new run with --ppo.rollout-batch-size below 8 or {BIGGER}"),
        ("ppo", rollout, "response_logprobs", 4, "ppo, iteration {}: out of GPU memory (log-probabilities)",
         f"{NOW} {PARK}; a new run with --ppo.microbatch-size below 2 or {BIGGER}"),
        ("ppo", rollout, "response_logprobs", 6, "ppo, iteration {}: out of GPU memory (reference)",
         f"{NOW} {PARK}; a new run with --ppo.microbatch-size below 2 or {BIGGER}"),
        ("ppo", scoring, "pad", 2, "ppo, iteration {}: out of GPU memory (scoring)",
         f"{NOW} {PARK}; a new run with --model.reward.dtype bfloat16 needs less"),
        ("ppo", ppo, "partial_loss", 9, "ppo, iteration {}: out of GPU memory (update)",
         f"{NOW} {ALL}; a new run with --ppo.microbatch-size below 2 or {BIGGER}"),
        ("ppo", pretrained, "_empty_model", 1, "out of GPU memory (loading)", f"{NOW} {PARK}; a new run with {BIGGER}"),
    ],
)  # fmt: skip
def test_stage_ends_with_one_sentence_and_its_last_checkpoint(
    tiny_runs, monkeypatch, capsys, stage, module, name, call, where, remedy
):
    tiny_runs.base()
    fail(monkeypatch, module, name, call=call)
    with pytest.raises(SystemExit) as end:
        tiny_runs.run("reviews", {}, [stage])
    assert end.value.code == 1
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    start, _, last = sentence.partition(". The last checkpoint is ")
    assert any(start == f"error: {where.format(n)}{FIGURES}{remedy} (--plan says how much)" for n in range(4))
    assert ("step-" in last) == (name != "_empty_model")


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
        (evaluate.main, evaluation, "next_token_logprobs", "log-probabilities"),
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


def test_only_what_is_not_used_yet_is_named(tmp_path):
    def advice(config: Config, phase: str, position: str = "") -> str:
        run = Run(tmp_path, config, "cpu")
        run.position = position
        return remedies(run, phase).removesuffix(" (--plan says how much)")

    config = replace(Config(), memory=MemoryConfig(offload_gradients=True))
    assert "offload" not in advice(config, "update")
    config = replace(Config(), memory=MemoryConfig(True, True, True))
    assert advice(config, "update") == f"; a new run with --ppo.microbatch-size below 32 or {BIGGER}"
    assert "--memory" not in advice(Config(), "held-out loss", "sft-policy, step 3")
    config = changed(config, {"model.policy.dtype": "bfloat16"})
    assert advice(config, "update") == "; a new run with --ppo.microbatch-size below 32 needs less"
    assert advice(changed(config, {"ppo.microbatch_size": 1}), "update") == ""
    assert advice(config, "scoring") == "; a new run with --model.reward.dtype bfloat16 needs less"
    step = "--sft.reward.batch-tokens below 1536 or --model.reward.dtype bfloat16"
    assert advice(config, "language-model step", "sft-reward, step 3") == f"; a new run with {step} needs less"
