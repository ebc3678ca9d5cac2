"""The plan of the memory, against what is alive while the real functions run on small models; and what it prints."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

import train_ppo
import train_rm
from bench import planned
from bench.models import SIZES
from minippo import sft
from minippo.advantages import value_head
from minippo.config import Config
from minippo.equations import ranking_loss
from minippo.heads import ActorCritic, RewardModel
from minippo.language_model import backward_in_chunks, held_out_loss
from minippo.memory import loaded, park
from minippo.model import GPT, GPTConfig
from minippo.ppo import accumulate_gradient, ppo_update
from minippo.rollout import Environment, collect_rollout, logprobs_and_values
from minippo.runs import load_config
from minippo.runs.arguments import override
from minippo.runs.memory_model import PlannedModel
from minippo.runs.phases import COMPONENTS, SCORING_ROWS, Phase, Planner
from minippo.runs.plan import architectures
from minippo.runs.validation import check
from minippo.sampling import SamplingParams, generate
from minippo.scoring import RewardScorer, score_tokens
from minippo.state import PPOState, TrainState
from tests.live_memory import LiveMemory

TOLERANCE = 0.1


class Tokenizer:
    """Every text has `length` tokens, which is all that memory depends on."""

    eos_id = pad_id = 0

    def __init__(self, length: int) -> None:
        self.length = length

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[1] * self.length for _ in texts]

    def decode(self, ids: list[int]) -> str:
        return "text"


class Measured:
    """Peaks by phase, to be compared with the plan: of a CPU or, for parked models, of CPU and GPU together."""

    def __init__(self, config: Config, models: dict[str, GPTConfig], stage: str) -> None:
        planner = Planner(config, models, on_gpu=config.memory.park_models)
        self.planned = {phase.name: phase for phase in planner.phases(stage)}
        self.on_gpu, self.peaks = planner.on_gpu, {}

    @contextmanager
    def phase(self, name: str, *owners: Any) -> Iterator[None]:
        """Measure a phase in which these modules, with their gradients, and optimizers exist."""
        with LiveMemory(tensor for owner in owners for tensor in tensors(owner)) as memory:
            yield
        self.peaks[name] = memory

    def check(self, tolerance: float = TOLERANCE) -> None:
        """Every phase was measured, and the plan is close to it."""
        assert self.peaks.keys() == self.planned.keys()
        for name, memory in self.peaks.items():
            planned = self.planned[name]
            expected = planned.total("CPU")
            if self.on_gpu:  # the test has no GPU, and float32 weights on a CPU no master copies
                expected += planned.total("GPU") - planned.usage["CPU", "master weights"]
            error = expected / memory.peak - 1
            assert abs(error) < tolerance, f"{name}: {error:+.1%}\n{planned.usage}\n{memory.at_peak.most_common(12)}"
            assert self.on_gpu or planned.total("GPU") == 0


def tensors(owner: Any) -> Iterator[torch.Tensor]:
    if isinstance(owner, torch.nn.Module):
        yield from owner.parameters()
        yield from (parameter.grad for parameter in owner.parameters() if parameter.grad is not None)
    else:
        yield from (x for state in owner.state.values() for x in state.values() if isinstance(x, torch.Tensor))
        yield from getattr(owner.gradients, "buffers", {}).values()


def settings(**changes: Any) -> Config:
    """A configuration; "__" stands for the dots of a name."""
    return override(Config(), {name.replace("__", "."): value for name, value in changes.items()})


def backbone(model: GPTConfig, config: Config) -> GPT:
    assert config.model.policy.dtype == config.model.reward.dtype
    return GPT(model).to(getattr(torch, config.model.policy.dtype))


GPT2 = GPTConfig(vocab_size=60, context=64, layers=2, heads=4, channels=32)
OPT = replace(GPT2, activation="relu")
WIDE_VOCABULARY = replace(GPT2, vocab_size=3000, channels=16)
WIDE = replace(OPT, channels=128)
DEEP = replace(GPT2, layers=6)
BFLOAT16 = {"model__policy__dtype": "bfloat16", "model__reward__dtype": "bfloat16"}
CHECKPOINT, OFFLOAD = {"memory__checkpoint_activations": True}, {"memory__offload_gradients": True}


# ---------------------------------------------------------------------------------------------- measured


@pytest.mark.parametrize(
    ("model", "batch_tokens", "options"),
    [
        # At the end rows are added in place to the gradient of the embedding table, which takes nearly all the memory.
        pytest.param(replace(GPT2, vocab_size=10**5, channels=16, context=2), 2, {}, id="table"),
        # In the first block nearly all gradients are there, and everything that the block has computed again.
        pytest.param(replace(GPT2, layers=10), 128, CHECKPOINT | {"tolerance": 0.06}, id="first block"),
        (GPT2, 1024, {}),
        (OPT, 1024, {}),
        (WIDE_VOCABULARY, 256, {}),
        (WIDE_VOCABULARY, 1024, OFFLOAD),
        (WIDE, 128, {}),
        (WIDE, 512, CHECKPOINT | OFFLOAD),
        (DEEP, 512, {}),
        (DEEP, 512, CHECKPOINT),
        (replace(OPT, context=512), 2048, CHECKPOINT),
        (GPT2, 1024, BFLOAT16),
        (WIDE_VOCABULARY, 512, BFLOAT16 | OFFLOAD),
        (WIDE, 128, BFLOAT16 | CHECKPOINT | OFFLOAD),
    ],
)
def test_language_model_training_takes_what_was_planned(model, batch_tokens, options):
    options = dict(options)
    tolerance = options.pop("tolerance", TOLERANCE)
    config = settings(sft__policy__batch_tokens=batch_tokens, sft__reward__batch_tokens=batch_tokens, **options)
    measured = Measured(config, {"policy": model, "reward": model}, "sft")
    tokens = torch.randint(model.vocab_size, (batch_tokens // model.context, model.context))
    gpts = {name: backbone(model, config) for name in ("policy", "reward")}
    for name, gpt in gpts.items():
        state = TrainState.initial(gpt, None, config.sft.policy, 0, config.memory)

        def step(state: TrainState = state) -> None:
            backward_in_chunks(state.model, tokens, torch.ones_like(tokens, dtype=torch.bool))
            finish_step(state)

        step()  # the moments are made in the first step
        with measured.phase(f"{name}: training step", *gpts.values(), state.optimizer):
            step()
        with measured.phase(f"{name}: held-out loss", *gpts.values(), state.optimizer):
            held_out_loss(gpt, tokens.tolist(), np.zeros(len(tokens), int), 0, batch_tokens)
    measured.check(tolerance)


@pytest.mark.parametrize(
    ("model", "batch_size", "length", "options"),
    [
        (GPT2, 16, 32, {}),
        (OPT, 16, 32, {}),
        (OPT, 4, 128, {"rm__dropout": 0.1}),
        (WIDE_VOCABULARY, 4, 24, {}),
        (replace(WIDE_VOCABULARY, vocab_size=8000), 2, 4, OFFLOAD),
        (WIDE, 4, 32, {}),
        (WIDE, 4, 32, OFFLOAD | {"rm__dropout": 0.1}),
        (DEEP, 8, 32, {}),
        (DEEP, 8, 32, CHECKPOINT | {"rm__dropout": 0.1}),
        (replace(DEEP, activation="relu"), 8, 32, CHECKPOINT | OFFLOAD),
        (GPT2, 16, 32, BFLOAT16 | {"rm__dropout": 0.1}),
        (WIDE, 4, 32, BFLOAT16 | OFFLOAD | CHECKPOINT),
        (WIDE_VOCABULARY, 4, 24, {"rm__averaging": 0.9}),
        (WIDE, 4, 32, BFLOAT16 | {"rm__averaging": 0.9}),
    ],
)
def test_reward_model_training_takes_what_was_planned(model, batch_size, length, options):
    model = replace(model, context=max(model.context, length))
    config = settings(
        data__source="imdb",
        data__query_length=length // 2,
        data__response_length=length // 2 - 1,
        rm__batch_size=batch_size,
        rm__normalisation_samples=32,
        ppo__rollout_batch_size=16,
        **options,
    )
    measured = Measured(config, {"policy": model, "reward": model}, "rm")
    reward = RewardModel(backbone(model, config))
    reward.gpt.set_dropout(config.rm.dropout)
    state = TrainState.initial(reward, None, config.rm, 0, config.memory, config.rm.averaging)
    tokens = torch.randint(model.vocab_size, (2 * batch_size, length))

    def step(state: TrainState = state) -> None:
        scores = reward.train()(tokens, torch.ones_like(tokens, dtype=torch.bool)).view(-1, 2)
        ranking_loss(scores).backward()
        finish_step(state)

    step()
    with measured.phase("training step", reward, state.optimizer):
        step()
    reward.eval()
    with measured.phase("scoring", reward, state.optimizer):
        score_tokens(reward, [[1] * length] * 64, 0)
    del state, step  # and with it the optimizer
    reference = ActorCritic(backbone(model, config)).eval()
    with measured.phase("normalisation: generation", reward, reference):
        sample(reference, 16, config)
    with measured.phase("normalisation: scoring", reward, reference):
        score_tokens(reward, [[1] * length] * 64, 0)
    measured.check()


def finish_step(state: TrainState) -> None:
    state.optimizer.clip_gradients(1.0)
    state.optimizer.step()
    state.optimizer.zero_grad()


def sample(policy: ActorCritic, rows: int, config: Config) -> None:
    queries = torch.ones(rows, config.data.query_length, dtype=torch.long)
    R = config.data.response_length
    with loaded(policy):
        generate(
            policy.gpt, queries, queries > 0,
            max_new_tokens=R, eos_id=0, pad_id=0, min_new_tokens=R, temperature=config.ppo.temperature,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "lengths", "batches", "options"),
    [
        (GPT2, (6, 12), (16, 1, 16), {}),
        (OPT, (6, 12), (16, 2, 4), {"ppo__value_head": "mlp"}),
        (WIDE_VOCABULARY, (6, 12), (16, 1, 16), {"ppo__temperature": 0.7}),
        (WIDE_VOCABULARY, (6, 48), (16, 1, 16), {}),
        # While the logits of the only chunk are there, the embedding table, nearly all the memory, has no gradient.
        (replace(GPT2, vocab_size=10**5, channels=16), (4, 2), (4, 1, 4), {"tolerance": 0.05}),
        (WIDE_VOCABULARY, (6, 48), (16, 1, 16), {"ppo__entropy_coef": 0.1}),
        (WIDE_VOCABULARY, (20, 6), (16, 2, 4), OFFLOAD | CHECKPOINT),
        (WIDE, (6, 12), (8, 2, 2), {}),
        (WIDE, (6, 12), (8, 1, 8), CHECKPOINT | OFFLOAD),
        (DEEP, (30, 10), (16, 1, 8), {}),
        (DEEP, (6, 6), (4, 1, 4), {"memory__park_models": True, "tolerance": 0.05}),
        (WIDE, (6, 12), (8, 2, 2), {"memory__park_models": True, "tolerance": 0.05}),
        (DEEP, (4, 16), (16, 1, 16), CHECKPOINT),
        (replace(DEEP, activation="relu"), (6, 10), (8, 2, 2), CHECKPOINT | OFFLOAD),
        (OPT, (10, 90), (4, 1, 2), {}),
        (GPT2, (6, 12), (16, 1, 16), BFLOAT16),
        (WIDE_VOCABULARY, (6, 12), (16, 2, 4), BFLOAT16 | {"ppo__value_head": "mlp"}),
        (WIDE, (6, 12), (8, 2, 2), BFLOAT16 | OFFLOAD),
        (DEEP, (4, 16), (16, 1, 16), BFLOAT16 | CHECKPOINT | OFFLOAD),
        (GPT2, (6, 12), (16, 1, 4), {"ppo__ptx_coef": 0.5, "ppo__ptx_batch_size": 4}),
        (WIDE, (6, 12), (8, 2, 2), {"ppo__advantage": "group", "ppo__samples_per_prompt": 2, "ppo__value_head": "mlp"}),
    ],
)
def test_ppo_takes_what_was_planned(model, lengths, batches, options, token_rows, monkeypatch):
    (P, R), (B, minibatches, M), options = lengths, batches, dict(options)
    tolerance = options.pop("tolerance", TOLERANCE)
    model = replace(model, context=max(model.context, P + R + 1))
    config = settings(
        data__query_length=P,
        data__response_length=R,
        ppo__rollout_batch_size=B,
        ppo__num_minibatches=minibatches,
        ppo__microbatch_size=M,
        ppo__num_epochs=1,
        **options,
    )
    models = {"policy": model, "reward": replace(model, layers=2, vocab_size=100)}
    measured = Measured(config, models, "ppo")
    policy, reference = (
        ActorCritic(backbone(model, config), value_head(config.ppo)).eval(),
        ActorCritic(backbone(model, config)).eval(),
    )
    scorer = RewardScorer(RewardModel(backbone(models["reward"], config)), Tokenizer(P + R))
    sampling = SamplingParams(R, 0, 0, temperature=config.ppo.temperature, min_new_tokens=R)
    env = Environment(reference.requires_grad_(False), scorer, Tokenizer(P + R), sampling)
    if config.memory.park_models:
        copy_on_loading(monkeypatch)
        park(reference, torch.device("cpu"))
        park(scorer.reward_model, torch.device("cpu"))
    demonstrations = token_rows([[1] * model.context] * 8) if config.ppo.ptx_coef else None
    prompts = torch.randint(1, model.vocab_size, (2 * B, P)).tolist()
    state = PPOState.initial(policy, prompts, demonstrations, config.ppo, 0, config.memory)
    everything = (policy, reference, scorer.reward_model, state.optimizer)
    rollout = collect_rollout(state, env, next(state.prompts), config.ppo)
    ppo_update(state, rollout, config.ppo)

    with measured.phase("generation", *everything):
        sample(policy, B, config)
    with measured.phase("log-probabilities", *everything):
        logprobs_and_values(policy, rollout, M)
    with measured.phase("reference's log-probabilities", *everything):
        logprobs_and_values(reference, rollout, M)
    with measured.phase("scoring", *everything):
        scorer([""] * B, [""] * B)
    with measured.phase("reference's answers: generation", *everything):
        sample(reference, B, config)
    with measured.phase("update", *everything):
        ppo_update(state, rollout, config.ppo)
    accumulate_gradient(state, rollout, config.ppo)
    with measured.phase("optimizer step", *everything):
        state.optimizer.step()
    measured.check(tolerance)


def copy_on_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, parked models are copied when they are loaded, as they would be to a GPU."""
    to = torch.Tensor.to

    def copied(tensor: torch.Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
        return to(tensor, *args, copy=non_blocking, **kwargs)  # unless gradients are offloaded, only `loaded` sets it

    monkeypatch.setattr(torch.Tensor, "to", copied)


# ---------------------------------------------------------------------------------------------- where it is


def phases_of(stage: str, on_gpu: bool, **options: Any) -> dict[str, Phase]:
    models = {"policy": DEEP, "reward": replace(WIDE, vocab_size=700)}
    return {phase.name: phase for phase in Planner(settings(**options), models, on_gpu).phases(stage)}


def numbers(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


POLICY, REWARD = numbers(ActorCritic(GPT(DEEP))), numbers(RewardModel(GPT(replace(WIDE, vocab_size=700))))


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_gpu_holds_what_the_cpu_would_and_the_cpu_the_optimizer(stage):
    with_gpu, without = phases_of(stage, True), phases_of(stage, False)
    assert with_gpu.keys() == without.keys()
    for name, phase in with_gpu.items():
        more = phase.total("GPU") + phase.total("CPU") - without[name].total("CPU")
        trained = {"rm": REWARD, "ppo": POLICY, "sft": numbers(GPT(DEEP))}[stage]
        if name == "reward: training step" or name == "reward: held-out loss":
            trained = REWARD - 128  # without the score head
        master = 0 if name.startswith("normalisation") else 4 * trained
        block = 16 * DEEP.channels**2 * (name == "optimizer step")  # the largest parameter, which is updated at once
        assert more == master + block  # its gradient, copied from the GPU
        waiting = phase.usage["CPU", "waiting model"]
        assert phase.total("CPU") - waiting - 2 * block == 3 * master


def test_policy_without_a_critic_has_no_weights_gradients_or_moments_of_one():
    head = DEEP.channels + 1
    with_critic, without = phases_of("ppo", True), phases_of("ppo", True, ppo__advantage="batch")
    for name, phase in without.items():
        less = {part: with_critic[name].usage[part] - phase.usage[part] for part in with_critic[name].usage}
        assert less["GPU", "weights"] == 4 * head
        assert less["CPU", "moments"] == 8 * head
        assert less["CPU", "master weights"] == 4 * head


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parked_models_are_on_the_gpu_in_their_phase_only(dtype):
    options = {"model__policy__dtype": dtype, "model__reward__dtype": dtype}
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    plain, parked = phases_of("ppo", True, **options), phases_of("ppo", True, memory__park_models=True, **options)
    heads = 4 - size  # a head is float32
    reference = size * POLICY + heads * (DEEP.channels + 1)
    reward = size * REWARD + heads * WIDE.channels
    for name, phase in parked.items():
        used = reward if name == "scoring" else reference if "reference" in name else 0
        assert plain[name].total("GPU") - phase.total("GPU") == reference + reward - used
        assert phase.usage["CPU", "parked models"] == reference + reward
    of_reward_model = phases_of("rm", True, memory__park_models=True, **options)
    for name, used in {"normalisation: generation": reference, "normalisation: scoring": 0}.items():
        assert of_reward_model[name].usage["GPU", "weights"] == reward + used
        assert of_reward_model[name].usage["CPU", "parked models"] == reference
    assert phases_of("ppo", False, memory__park_models=True, **options) == phases_of("ppo", False, **options)


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_offloaded_gradients_are_float32_on_the_cpu(stage):
    options = {"model__policy__dtype": "bfloat16", "model__reward__dtype": "bfloat16"}
    plain = phases_of(stage, True, **options)
    for name, phase in phases_of(stage, True, memory__offload_gradients=True, **options).items():
        assert phase.usage["CPU", "gradients"] == phase.usage["CPU", "master weights"]
        assert plain[name].usage["CPU", "gradients"] == 0
        is_step, is_backward = name == "optimizer step", name == "update" or "training step" in name
        assert (phase.usage["GPU", "gradients"] > 0) == is_backward  # on their way
        assert (plain[name].usage["GPU", "gradients"] > 0) == (is_backward or is_step)


def test_offloaded_gradients_on_the_gpu_are_those_of_a_block_and_the_sum_of_the_table():
    update = phases_of("ppo", True, memory__offload_gradients=True, ppo__microbatch_size=1)["update"]
    block = 4 * sum(parameter.numel() for parameter in GPT(DEEP).blocks[0].parameters())
    table = 4 * DEEP.vocab_size * DEEP.channels  # its sum, while the chunks of logits add to it
    assert update.usage["GPU", "gradients"] == block + table


@pytest.mark.parametrize(("stage", "phase"), [("rm", "normalisation: generation"), ("ppo", "generation")])
def test_logits_divided_by_a_temperature_are_another_copy(stage, phase):
    def logits(temperature: float) -> int:
        config = settings(
            data__query_length=6, data__response_length=12, ppo__rollout_batch_size=16, ppo__temperature=temperature
        )
        models = {"policy": WIDE_VOCABULARY, "reward": GPT2}
        phases = Planner(config, models, False).phases(stage)
        return {phase.name: phase for phase in phases}[phase].usage["CPU", "logits"]

    assert logits(0.7) - logits(1.0) == 4 * 16 * WIDE_VOCABULARY.vocab_size


def test_dropout_keeps_a_byte_per_number_on_a_gpu():
    def kept(on_gpu: bool, dropout: float) -> int:
        phase = phases_of("rm", on_gpu, rm__dropout=dropout, data__source="imdb", rm__batch_size=5)["training step"]
        return phase.usage["GPU" if on_gpu else "CPU", "activations"]

    tokens = 5 * 2 * WIDE.context
    layers = 2 * (WIDE.layers - 1) + 1  # twice in each block but the last, and after the embeddings
    assert kept(True, 0.1) - kept(True, 0.0) == tokens * WIDE.channels * layers
    assert kept(False, 0.1) - kept(False, 0.0) == 4 * tokens * WIDE.channels * layers


# ---------------------------------------------------------------------------------------------- what is printed


STAGES = {"sft": sft.main, "rm": train_rm.main, "ppo": train_ppo.main}


@pytest.fixture
def run_plan(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """What `--plan` prints in an empty folder, which stays empty."""
    monkeypatch.chdir(tmp_path)

    def run(stage: str, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["command", "--plan", *arguments])
        STAGES[stage]()
        return capsys.readouterr().out

    yield run
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_plan_lists_every_phase_and_component_and_reads_no_data(run_plan, stage, monkeypatch):
    for module in ("minippo.sft", "train_rm", "train_ppo", "minippo.runs.stage"):
        monkeypatch.setattr(f"{module}.load_corpus", None)
    printed = run_plan(stage, "--config", "smoke", "--device", "cpu")
    models = architectures(load_config("smoke"))
    phases = Planner(load_config("smoke"), models, False).phases(stage)
    for phase in phases:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"| {phase.name} ")]
        sizes = [phase.usage["CPU", part] for part in COMPONENTS]
        expected = [f"{size / 2**20:.1f} MiB" for size in (*sizes, sum(sizes)) if size]
        assert [cell.strip() for cell in line.strip("|").split("|")[1:] if cell.strip()] == expected
    largest = max(phases, key=lambda phase: phase.total("CPU"))
    assert f"peak on the CPU is {largest.total('CPU') / 2**20:.1f} MiB ({largest.name}), which fits" in printed
    assert "GPU memory" not in printed


def test_each_option_listed_lowers_the_peak_as_much_as_the_line_says(run_plan):
    common = ("--config", "smoke", "--device", "cuda", "--ppo.rollout-batch-size", "16", "--ppo.microbatch-size", "8")
    peak_of = re.compile(r"peak on the GPU is ([\d.]+) MiB")
    before = run_plan("ppo", *common)
    lines = re.findall(r"^  (--.*): ([\d.]+) MiB less, ([\d.]+) MiB \((.*)\)$", before, re.MULTILINE)
    assert {"--memory.checkpoint-activations", "--ppo.microbatch-size 4"} <= {options for options, *_ in lines}
    assert [float(freed) for _, freed, *_ in lines] == sorted((float(freed) for _, freed, *_ in lines), reverse=True)
    for options, freed, left, name in lines:
        after = run_plan("ppo", *common, *options.split())
        assert f"peak on the GPU is {left} MiB ({name})" in after
        assert float(peak_of.search(before)[1]) - float(left) == pytest.approx(float(freed), abs=0.11)
    everything = "--memory.checkpoint-activations --memory.offload-gradients --memory.park-models"
    assert everything in {options for options, *_ in lines}
    nothing_left = run_plan("ppo", *common, *everything.split(), "--model.policy.dtype", "bfloat16")
    assert "--memory" not in nothing_left


def test_halved_batches_are_only_proposed_if_they_are_valid(run_plan):
    printed = run_plan("ppo", "--config", "smoke", "--ppo.microbatch-size", "1", "--ppo.rollout-batch-size", "6")
    assert "microbatch-size" not in printed
    assert "rollout-batch-size 3" not in printed  # two minibatches


@pytest.mark.parametrize(("free", "expected"), [(2**40, "fits into the 1024.00 GiB"), (2**20, "does not fit into")])
def test_verdict_compares_with_the_memory_that_is_free(run_plan, monkeypatch, free, expected):
    monkeypatch.setattr("minippo.runs.plan.physical_memory", lambda: free)
    assert expected in run_plan("ppo", "--config", "smoke", "--device", "cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "fit" not in run_plan("ppo", "--config", "smoke", "--device", "cuda").split("Options")[0]  # nothing is known
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free, 2**41))
    monkeypatch.setattr("minippo.runs.plan.physical_memory", lambda: 2**20)
    for device in ("cuda", "auto"):
        gpu, cpu = run_plan("ppo", "--config", "smoke", "--device", device).split("CPU memory:")
        assert expected in gpu
        assert "does not fit into the 1.0 MiB" in cpu  # which holds the optimizer's states


def test_models_that_are_too_large_for_this_machine_are_planned(run_plan, monkeypatch):
    smoke = run_plan("ppo", "--config", "smoke", "--device", "cuda")
    monkeypatch.setattr("minippo.runs.validation.physical_memory", lambda: 2**10)
    assert run_plan("ppo", "--config", "smoke", "--device", "cuda") == smoke
    with pytest.raises(ValueError, match="this machine has 0 GiB"):  # training is still refused
        check(load_config("smoke"))


def test_absurd_depth_is_refused(run_plan, monkeypatch, capsys):
    monkeypatch.setattr("minippo.runs.plan.MOST_LAYERS", 3)  # were it not refused, the real limit would take minutes
    run_plan("ppo", "--config", "smoke", "--model.reward.layers", "3")
    with pytest.raises(SystemExit) as end:
        run_plan("ppo", "--config", "smoke", "--model.reward.layers", "4")
    assert end.value.code == 2
    assert "model.reward.layers is 4; a plan is possible for at most 3" in capsys.readouterr().err


def test_tokenizers_that_cannot_be_trained_are_refused_in_one_sentence(run_plan, capsys):
    with pytest.raises(SystemExit) as end:
        run_plan("ppo", "--config", "smoke", "--model.policy.tokenizer", "train:99999999999999999999")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown tokenizer 'train:99999999999999999999': expected")


def test_pretrained_weights_need_only_their_config(run_plan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    config = {"model_type": "gpt2", "vocab_size": 500, "n_positions": 96, "n_layer": 3, "n_head": 2, "n_embd": 20}
    (folder / "config.json").write_text(json.dumps(config))
    found = architectures(settings(model__policy__weights=str(folder), model__reward__tokenizer="train:777"))
    assert found["policy"] == GPTConfig(500, 96, 3, 2, 20)
    assert found["reward"] == GPTConfig(777, 128, 2, 4, 64, activation="relu")
    assert "update" in run_plan("ppo", "--model.policy.weights", str(folder))
    with pytest.raises(SystemExit) as stopped:
        run_plan("sft", "--model.policy.weights", str(folder), "--data.response-length", "80")
    assert stopped.value.code == 2
    (folder / "config.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        run_plan("ppo", "--model.policy.weights", str(folder))
    assert stopped.value.code == 2


def test_reward_model_is_left_out_if_a_function_scores():
    phases = phases_of("ppo", True, ppo__scorer="module:function")
    assert "scoring" not in phases
    assert phases["generation"].usage["GPU", "weights"] == 2 * 4 * POLICY


def test_probabilities_are_not_normalised_on_samples():
    compared, labelled = phases_of("rm", True), phases_of("rm", True, rm__objective="labels")
    assert compared.keys() - labelled.keys() == {"normalisation: generation", "normalisation: scoring"}


def test_rows_of_scoring_are_those_of_the_functions_that_score():
    def default(function: Callable[..., Any], name: str) -> int:
        return inspect.signature(function).parameters[name].default

    assert default(score_tokens, "batch_size") == default(RewardScorer.__init__, "batch_size") == SCORING_ROWS


def test_table_of_large_models_is_up_to_date_and_they_fit():
    page = planned.PAGE.read_text(encoding="utf-8")
    assert planned.replace_table(page, planned.table(), planned.BEGIN, planned.END) == page
    for name in planned.POLICIES:
        assert max(phase.total("GPU") for phase in planned.planned(name).values()) < 0.95 * planned.LIMIT * 2**30


def test_preset_for_12_gb_is_planned_with_the_sizes_of_its_models():
    config = planned.settings("GPT-2 XL")
    assert config == load_config("imdb-12gb")
    assert (config.model.policy.weights, config.model.reward.weights) == ("gpt2-xl", "facebook/opt-125m")
    assert all(getattr(config.memory, field.name) for field in fields(config.memory))
    xl, opt = SIZES["GPT-2 XL"].config, planned.REWARD.config
    with torch.device("meta"):
        assert (numbers(GPT(xl)), numbers(GPT(opt))) == (
            1_557_611_200,
            125_239_296 - 2 * 768,
        )  # as published, OPT's less 2 rows


def test_table_of_offloaded_gradients_stays_on_a_gpu_while_several_passes_add_to_it():
    gpt = GPT(GPTConfig(50, 8, 1, 2, 12))
    assert PlannedModel(gpt, on_gpu=True, offload=True).held == 50 * 12 * 4
    assert PlannedModel(gpt, on_gpu=False, offload=True).held == 0  # it is in CPU memory anyway
    assert PlannedModel(gpt, on_gpu=True).held == 0
    assert PlannedModel(RewardModel(gpt), on_gpu=True, offload=True).held == 0
