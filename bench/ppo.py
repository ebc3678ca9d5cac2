"""A PPO iteration of 10 + 64 tokens with 4 epochs, next to TRL's `PPOTrainer`, and the peak memory of both processes.

The reward model is as large as the policy. Nobody can end a response early, and there is one minibatch and one
microbatch, so that both compute the same number of tokens. TRL trains a separate value model as large as the policy;
minippo's policy and value share their transformer. TRL's bfloat16 and activation checkpointing are switched off.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import minippo.ppo
import minippo.rollout
from bench.load_memory import resident
from bench.machine import Work
from bench.measuring import Phases, alternate, clock, ratios, spread
from bench.models import ModelSize
from bench.report import Row, Section, ratio_cell
from bench.workers import Measured, Turns, Worker
from minippo.config import PPOConfig
from minippo.heads import ActorCritic, RewardModel
from minippo.rollout import Environment
from minippo.sampling import SamplingParams
from minippo.scoring import RewardScorer
from minippo.state import PPOState
from minippo.weights import load_pretrained

MODELS = ("S", "L")
BATCHES = {"S": 16, "M": 8, "L": 8}
TARGETS = {"S": "3.5 (4.5)", "L": "2.0 (2.4)"}
MEMORY_TARGETS = {"L": "at most 0.50"}
P, R, EPOCHS, LR, KL_COEF = 10, 64, 4, 1e-6, 0.05


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """Two processes per model; they take turns."""
    section = Section()
    for size in sizes:
        batch = BATCHES.get(size.name, 4)
        with tempfile.TemporaryDirectory() as name:
            folder = size.save(Path(name))
            arguments = folder, size, batch, R
            with Worker("bench.ppo:work", *arguments) as ours, Worker("bench.ppo_trl:work", *arguments) as theirs:
                measured = alternate({"minippo": ours.turn, "TRL": theirs.turn}, rounds)
        section.rounds[f"{size.name}, batch {batch}"] = measured
        seconds, memory = columns(measured, "seconds"), columns(measured, "peak memory")
        # Of the update: forward and backward passes of the policy.
        flops = 3 * EPOCHS * size.forward_flops(batch * (P + R), batch * R)
        update = spread([turn["update"] for turn in measured["minippo"]]).median
        section.rows += [
            Row(
                f"PPO iteration, {P} + {R} tokens, {EPOCHS} epochs, {size.name}, batch {batch}",
                in_words(measured["minippo"]),
                f"TRL {in_words(measured['TRL'])}",
                ratio_cell(ratios(seconds["TRL"], seconds["minippo"])),
                TARGETS.get(size.name, ""),
                Work(update, flops),
            ),
            Row(
                f"peak memory of its process, {size.name}",
                f"{spread(memory['minippo']).high / 1e6:,.0f} MB",
                f"TRL {spread(memory['TRL']).high / 1e6:,.0f} MB",
                ratio_cell(ratios(memory["minippo"], memory["TRL"])),
                MEMORY_TARGETS.get(size.name, ""),
            ),
        ]
    return section


def columns(measured: dict[str, list[Measured]], name: str) -> dict[str, list[float]]:
    """One of the measurements, for each program and round."""
    return {program: [turn[name] for turn in turns] for program, turns in measured.items()}


def in_words(turns: list[Measured]) -> str:
    """Median seconds of an iteration and of its phases."""
    median = {name: spread([turn[name] for turn in turns]).median for name in turns[0]}
    phases = [f"{name} {median[name]:.2g}" for name in ("generate", "log-probabilities", "scoring", "update")]
    return f"{median['seconds']:.3g} s ({', '.join(phases)})"


def work(turns: Turns, folder: Path, size: ModelSize, batch: int, response_length: int) -> None:
    """The worker of minippo."""
    imported = resident("VmRSS")
    iterate, phases = iteration(folder, size, batch, response_length), watched_phases()
    memory = {"imported memory": imported, "loaded memory": resident("VmRSS")}
    while True:
        turns.wait()
        phases.clear()
        started = clock()
        iterate()
        turns.done(phases | {"seconds": clock() - started} | memory)


def watched_phases() -> Phases:
    """The phases of minippo's iterations from now on."""
    phases = Phases()
    phases.watch(minippo.rollout, "sample_responses", "generate")
    phases.watch(minippo.rollout, "logprobs_and_values", "log-probabilities")
    phases.watch(minippo.rollout, "score_texts", "scoring")
    phases.watch(minippo.ppo, "ppo_update", "update")
    return phases


def iteration(folder: Path, size: ModelSize, batch: int, response_length: int) -> Callable[[], int]:
    """A function that does one PPO iteration and returns the number of response tokens."""
    tokenizer = size.tokenizer()
    config = PPOConfig(
        lr=LR,
        kl_coef=KL_COEF,
        rollout_batch_size=batch,
        num_epochs=EPOCHS,
        num_minibatches=1,
        microbatch_size=batch,
        num_iterations=10**6,
    )
    # No token has the id -1, so nothing ends a response, and no logits need to be changed for that.
    sampling = SamplingParams(max_new_tokens=response_length, eos_id=-1, pad_id=tokenizer.pad_id)
    env = Environment(
        ActorCritic(load_pretrained(folder)).eval().requires_grad_(False),
        RewardScorer(RewardModel(load_pretrained(folder)), tokenizer),
        tokenizer,
        sampling,
    )
    state = PPOState.initial(ActorCritic(load_pretrained(folder)), size.prompts(8 * batch, P), None, config, seed=1)

    def iterate() -> int:
        rollout = minippo.rollout.collect_rollout(state, env, next(state.prompts), config)
        minippo.ppo.ppo_update(state, rollout, config)
        state.iteration += 1
        return int(rollout.response_mask.sum())

    return iterate


def profiled(size: ModelSize) -> Callable[[], object]:
    """The work that `--profile` shows."""
    with tempfile.TemporaryDirectory() as folder:
        return iteration(size.save(Path(folder)), size, BATCHES.get(size.name, 4), R)
