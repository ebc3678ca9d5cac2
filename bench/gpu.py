"""PPO iterations of large models on a GPU of 12 GB: time, and peak memory next to the plan, phase by phase.

All weights are random and trained, in bfloat16 on the GPU and with all memory options. The reward model has the size of
GPT-2. OPT-2.7b needs about 50 GB of CPU memory for master weights, moments, gradients and parked models.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

import minippo.ppo
import minippo.rollout
from bench.machine import Work
from bench.measuring import Phases, ratios, spread
from bench.models import L, ModelSize
from bench.report import Row, Section, ratio_cell
from bench.workers import Measured, Turns, repeat
from minippo.config import BackboneConfig, Config, DataConfig, MemoryConfig, ModelConfig, PPOConfig
from minippo.heads import ActorCritic, RewardModel
from minippo.memory import park
from minippo.model import GPT
from minippo.optim import CPUAdamW
from minippo.rollout import Environment
from minippo.runs.phases import Planner
from minippo.sampling import SamplingParams
from minippo.scoring import RewardScorer
from minippo.state import PPOState

MODELS = ("GPT-2 XL", "OPT-1.3b", "OPT-2.7b")
P, R, BATCH, MICROBATCH, EPOCHS, LR = 10, 128, 32, 8, 4, 1e-6
LIMIT = int(11.3 * 2**30)
"""Bytes that PyTorch may allocate, as on a card of 12 GB."""


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """A process for each model."""
    section = Section()
    for size in sizes:
        measured = repeat(rounds, "bench.gpu:work", size, "cuda")
        section.rounds[size.name] = measured
        section.rows += rows(size, measured, planned(size))
    return section


class PeakPhases(Phases):
    """Phases with the most GPU memory that was allocated in each."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, int] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats()
        with super().measure(phase):
            yield
        self.peaks[phase] = max(self.peaks.get(phase, 0), torch.cuda.max_memory_allocated())


def configuration(size: ModelSize) -> Config:
    """What both the run and its plan are made from. The names of the tokenizers are not used."""
    policy = BackboneConfig("", dtype="bfloat16")
    return Config(
        data=DataConfig(query_length=P, response_length=R),
        model=ModelConfig(policy=policy, reward=policy),
        ppo=PPOConfig(
            lr=LR,
            rollout_batch_size=BATCH,
            num_epochs=EPOCHS,
            num_minibatches=1,
            microbatch_size=MICROBATCH,
            num_iterations=10**6,
        ),
        memory=MemoryConfig(checkpoint_activations=True, offload_gradients=True, park_models=True),
    )


def reward_size(size: ModelSize) -> ModelSize:
    """GPT-2's, with an id for everything that the policy may say."""
    return replace(L, vocab=size.vocab)


def planned(size: ModelSize) -> dict[str, int]:
    """The plan: bytes on the GPU at the peak of each phase."""
    architectures = {"policy": size.config, "reward": reward_size(size).config}
    phases = Planner(configuration(size), architectures, on_gpu=True).phases("ppo")
    return {phase.name: phase.total("GPU") for phase in phases}


def work(turns: Turns, size: ModelSize, device: str) -> None:
    """The worker. Its phases have the names of the plan."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT / torch.cuda.mem_get_info()[1]))
    iterate, reference = iteration(size, device)
    phases = watched_phases(reference)
    while True:
        turns.wait()
        phases.clear()
        phases.peaks.clear()
        iterate()
        turns.done(phases | {peak_of(phase): peak for phase, peak in phases.peaks.items()})


def peak_of(phase: str) -> str:
    """The name of the phase's peak among the measurements."""
    return f"{phase}, bytes"


def watched_phases(reference: ActorCritic) -> PeakPhases:
    """The phases of the iterations from now on."""
    phases = PeakPhases()

    def forward_phase(policy: ActorCritic, *_: object) -> str:
        return "reference's log-probabilities" if policy is reference else "log-probabilities"

    phases.watch(minippo.rollout, "sample_responses", "generation")
    phases.watch(minippo.rollout, "logprobs_and_values", forward_phase)
    phases.watch(minippo.rollout, "score_texts", "scoring")
    phases.watch(minippo.ppo, "accumulate_gradient", "update")
    phases.watch(CPUAdamW, "clip_gradients", "optimizer step")
    phases.watch(CPUAdamW, "step", "optimizer step")
    return phases


def iteration(size: ModelSize, device: str) -> tuple[Callable[[], None], ActorCritic]:
    """A function that does one PPO iteration, and the reference."""
    config, tokenizer = configuration(size), size.tokenizer()
    gpt, reward = bfloat16_gpt(size, device), bfloat16_gpt(reward_size(size), device)
    reference = park(ActorCritic(copy.deepcopy(gpt)).eval().requires_grad_(False), torch.device(device))
    scorer = RewardScorer(park(RewardModel(reward), torch.device(device)), tokenizer)
    sampling = SamplingParams(max_new_tokens=R, eos_id=-1, pad_id=tokenizer.pad_id)  # nothing ends a response
    env = Environment(reference, scorer, tokenizer, sampling)
    policy = ActorCritic(gpt).to(device)
    state = PPOState.initial(policy, size.prompts(8 * BATCH, P), [], config.ppo, seed=1, memory=config.memory)

    def iterate() -> None:
        rollout = minippo.rollout.collect_rollout(state, env, next(state.prompts), config.ppo)
        minippo.ppo.ppo_update(state, rollout, config.ppo)
        state.iteration += 1

    return iterate, reference


def bfloat16_gpt(size: ModelSize, device: str) -> GPT:
    """The model, made in bfloat16 where it will be: in float32 it might not fit there."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        gpt = GPT(size.config)
    torch.set_default_dtype(torch.float32)
    return gpt


def rows(size: ModelSize, measured: list[Measured], plan: dict[str, int]) -> list[Row]:
    """A row for each phase: its time, and its measured and planned peak."""
    forward = size.forward_flops(BATCH * (P + R), BATCH * R)
    read = R * size.weights * torch.bfloat16.itemsize  # by the decoding steps
    name, table = f"{size.name}, {P} + {R} tokens, batch {BATCH}, microbatches of {MICROBATCH}", []
    for phase in [phase for phase in plan if phase in measured[0]]:  # the plan also has an evaluation
        seconds = spread([turn[phase] for turn in measured]).median
        peaks = [turn[peak_of(phase)] for turn in measured]
        work = {"generation": Work(seconds, forward, read), "update": Work(seconds, 3 * EPOCHS * forward)}
        rate = f"{BATCH * R / seconds:,.0f} tokens/s, " if phase == "generation" else ""
        table.append(
            Row(
                f"{name}: {phase}",
                f"{rate}{seconds:.2f} s, {max(peaks) / 2**30:.2f} GiB",
                f"plan {plan[phase] / 2**30:.2f} GiB",
                ratio_cell(ratios(peaks, [plan[phase]] * len(peaks))),
                f"0.9 to 1.1, at most {LIMIT / 2**30:.1f} GiB",
                work.get(phase),
            )
        )
    return table
