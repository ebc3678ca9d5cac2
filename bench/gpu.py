"""PPO iterations of large models on a GPU of 12 GB: time, and peak memory next to the plan, phase by phase.

The settings are those of bench/planned.py, the weights are random. PyTorch may allocate no more than such a GPU has
left. OPT-2.7b needs about 50 GB of CPU memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

import minippo.ppo
import minippo.rollout
from bench.machine import Work
from bench.measuring import Phases, ratios, spread
from bench.models import ModelSize
from bench.planned import LIMIT, POLICIES, REWARD, gib, planned, settings
from bench.report import Row, Section, ratio_cell
from bench.workers import Measured, Turns, repeat
from minippo.heads import ActorCritic, RewardModel
from minippo.memory import park
from minippo.model import GPT
from minippo.optim import CPUAdamW
from minippo.rollout import Environment
from minippo.runs import Phase, sampling_params
from minippo.scoring import RewardScorer
from minippo.state import PPOState

MODELS = tuple(POLICIES)


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """A process for each model."""
    section = Section()
    for size in sizes:
        measured = repeat(rounds, "bench.gpu:work", size, "cuda")
        section.rounds[size.name] = measured
        section.rows += rows(size, measured, planned(size.name))
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


def work(turns: Turns, size: ModelSize, device: str) -> None:
    """The worker. Its phases have the names of the plan."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT * 2**30 / torch.cuda.mem_get_info()[1]))
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
        return "ppo: reference's log-probabilities" if policy is reference else "ppo: log-probabilities"

    phases.watch(minippo.rollout, "sample_responses", "ppo: generation")
    phases.watch(minippo.rollout, "logprobs_and_values", forward_phase)
    phases.watch(minippo.rollout, "score_texts", "ppo: scoring")
    phases.watch(minippo.ppo, "accumulate_gradient", "ppo: update")
    phases.watch(CPUAdamW, "clip_gradients", "ppo: optimizer step")
    phases.watch(CPUAdamW, "step", "ppo: optimizer step")
    return phases


def iteration(size: ModelSize, device: str) -> tuple[Callable[[], None], ActorCritic]:
    """A function that does one PPO iteration, and the reference."""
    config, tokenizer, where = settings(size.name), size.tokenizer(), torch.device(device)
    gpt = random_gpt(size, config.model.policy.dtype, device)
    reference = park(ActorCritic(copy.deepcopy(gpt)).eval().requires_grad_(False), where)
    reward_model = RewardModel(random_gpt(REWARD, config.model.reward.dtype, device))
    # The reward model reads the policy's tokens, of which it has at least as many.
    scorer = RewardScorer(park(reward_model, where), tokenizer)
    env = Environment(reference, scorer, tokenizer, sampling_params(config, tokenizer))
    policy, prompts = ActorCritic(gpt).to(where), size.prompts(1000, config.data.query_length)
    state = PPOState.initial(policy, prompts, None, config.ppo, config.seed, config.memory)

    def iterate() -> None:
        rollout = minippo.rollout.collect_rollout(state, env, next(state.prompts), config.ppo)
        minippo.ppo.ppo_update(state, rollout, config.ppo)

    return iterate, reference


def random_gpt(size: ModelSize, dtype: str, device: str) -> GPT:
    """The model, made in its dtype where it will be: in float32 it might not fit there."""
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        gpt = GPT(size.config)
    torch.set_default_dtype(torch.float32)
    return gpt


def rows(size: ModelSize, measured: list[Measured], plan: dict[str, Phase]) -> list[Row]:
    """A row for each phase: its time, and its measured and planned peak."""
    config, table = settings(size.name), []
    B, P, R = config.ppo.rollout_batch_size, config.data.query_length, config.data.response_length
    forward = size.forward_flops(B * (P + R), B * R)
    read = R * size.weights * torch.bfloat16.itemsize  # by the decoding steps
    for phase in [phase for phase in plan if phase in measured[0]]:  # the plan has all stages
        seconds = spread([turn[phase] for turn in measured]).median
        peaks, expected = [turn[peak_of(phase)] for turn in measured], plan[phase].total("GPU")
        work = {
            "ppo: generation": Work(seconds, forward, read),
            "ppo: update": Work(seconds, 3 * config.ppo.num_epochs * forward),
        }
        rate = f"{B * R / seconds:,.0f} tokens/s, " if phase == "ppo: generation" else ""
        table.append(
            Row(
                f"{size.name}, {P} + {R} tokens, batch {B}, {phase}",
                f"{rate}{seconds:.2f} s, {gib(max(peaks))} GiB",
                f"plan {gib(expected)} GiB",
                ratio_cell(ratios(peaks, [expected] * len(peaks))),
                f"0.90 to 1.10, at most {LIMIT} GiB",
                work.get(phase),
            )
        )
    return table
