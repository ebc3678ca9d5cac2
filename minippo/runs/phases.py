"""The phases of the three stages, and what memory holds in each, computed from the configuration alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from minippo.advantages import value_head
from minippo.config import Config
from minippo.heads import ActorCritic, RewardModel
from minippo.language_model import LOGIT_TOKENS
from minippo.model import GPT, GPTConfig
from minippo.optim import BLOCK
from minippo.runs.memory_model import FLOAT32, Moment, PlannedModel

Usage = Counter[tuple[str, str]]
"""(where, component) -> bytes; where is "GPU" or "CPU"."""

COMPONENTS = (
    "weights", "packed weights", "gradients", "KV cache", "activations", "logits", "temporaries", "moments",
    "master weights", "averaged weights", "parked models", "waiting model",
)  # fmt: skip
"""What a phase may hold, in the order of the tables."""
SCORING_ROWS = 64
"""Rows that `score_tokens` reads at the same time."""
COMPLETIONS = {"reviews": 3}
"""Most completions of a comparison in a corpus, if not two."""


@dataclass(frozen=True)
class Phase:
    """A part of a stage, and what memory holds when the device needs most."""

    name: str
    usage: Usage

    def total(self, where: str) -> int:
        """All bytes on the "GPU" or in "CPU" memory."""
        return sum(size for (place, _), size in self.usage.items() if place == where)


class Planner:
    """Plans the phases of a stage, for the longest texts that the configuration allows."""

    def __init__(self, config: Config, architectures: Mapping[str, GPTConfig], on_gpu: bool) -> None:
        """`architectures` has those of "policy" and "reward"."""
        self.config, self.architectures, self.on_gpu = config, architectures, on_gpu
        self.device = "GPU" if on_gpu else "CPU"
        self.P, self.R = config.data.query_length, config.data.response_length
        # S, with an end-of-text. The reward model's tokenizer is assumed to need as many tokens as the policy's.
        self.S = min(self.P + self.R + 1, architectures["reward"].context)

    def phases(self, stage: str) -> list[Phase]:
        """Those of "sft", "rm" or "ppo", in order."""
        return list({"sft": self.sft, "rm": self.rm, "ppo": self.ppo}[stage]())

    # ------------------------------------------------------------------------------------------ what lasts

    def model(self, name: str, kind: Callable[[GPT], GPT | ActorCritic | RewardModel]) -> PlannedModel:
        """The backbone "policy" or "reward" with the head that `kind` adds."""
        dtype = getattr(torch, getattr(self.config.model, name).dtype)
        with torch.device("meta"):
            module = kind(GPT(self.architectures[name]).to(dtype))  # heads are float32
        memory, dropout = self.config.memory, self.config.rm.dropout if kind is RewardModel else 0.0
        return PlannedModel(module, self.on_gpu, dropout, memory.checkpoint_activations, memory.offload_gradients)

    def trained(self, model: PlannedModel) -> Usage:
        """Weights, and what `CPUAdamW` keeps in CPU memory."""
        n = FLOAT32 * model.num_parameters
        usage: Usage = Counter({(self.device, "weights"): model.weights, ("CPU", "moments"): 2 * n})
        if self.on_gpu or model.dtype != torch.float32:
            usage["CPU", "master weights"] = n
        if model.offload:
            usage["CPU", "gradients"] = n
        return usage

    def frozen(self, model: PlannedModel, in_use: bool = False) -> Usage:
        """The weights of a model that is not trained. If it is parked, the CPU keeps them also while it is in use."""
        parked = self.on_gpu and self.config.memory.park_models
        usage: Usage = Counter({("CPU", "parked models"): model.weights} if parked else {})
        if in_use or not parked:
            usage[self.device, "weights"] = model.weights
        return usage

    def phase(self, name: str, lasting: Usage, moments: list[Moment]) -> Phase:
        """The phase in which `moments` occur while `lasting` is there."""
        largest = max(moments, key=lambda moment: sum(moment.values()))
        return Phase(name, lasting + Counter({(self.device, part): size for part, size in largest.items()}))

    # ------------------------------------------------------------------------------------------ stages

    def sft(self) -> Iterator[Phase]:
        """Language-model training of one backbone after the other."""
        models = {name: self.model(name, lambda gpt: gpt) for name in ("policy", "reward")}
        for (name, model), other in zip(models.items(), reversed(models.values()), strict=True):
            lasting, config = self.trained(model), getattr(self.config.sft, name)
            lasting["CPU", "waiting model"] = other.weights
            tokens = max(config.batch_tokens, model.gpt.config.context)
            yield self.phase(f"{name}: training step", lasting, self.language_model(model, tokens, model.embedding))
            # The logits in float32, and their log-softmax.
            held_out = model.predicting(tokens, tokens, min(LOGIT_TOKENS, tokens), 2 * FLOAT32)
            yield self.phase(f"{name}: held-out loss", lasting, held_out)

    def rm(self) -> Iterator[Phase]:
        """Reward-model training, and normalisation on samples of the reference, which probabilities do not need."""
        config, model = self.config, self.model("reward", RewardModel)
        reference, scoring = self.model("policy", ActorCritic), model.reading(SCORING_ROWS, self.S)
        rows = config.rm.batch_size * COMPLETIONS.get(config.data.source, 2)
        training = model.backward(rows * self.S, 0, model.attention_bias(rows, self.S))
        trained = self.trained(model)
        if config.rm.averaging:
            trained["CPU", "averaged weights"] = FLOAT32 * model.num_parameters
        yield self.phase("training step", trained, training)
        yield self.phase("scoring", trained, scoring)
        if config.rm.objective == "labels":
            return
        samples = min(config.ppo.rollout_batch_size, config.rm.normalisation_samples)
        weights: Usage = Counter({(self.device, "weights"): model.weights})
        in_use = weights + self.frozen(reference, in_use=True)
        generation = reference.generation(samples, self.P, self.R, config.ppo.temperature)
        yield self.phase("normalisation: generation", in_use, generation)
        yield self.phase("normalisation: scoring", weights + self.frozen(reference), scoring)

    def ppo(self) -> Iterator[Phase]:
        """A rollout, phase by phase, the update, and what an evaluation does differently."""
        config, M, R, T = self.config.ppo, self.config.ppo.microbatch_size, self.R, self.P + self.R
        policy = self.model("policy", lambda gpt: ActorCritic(gpt, value_head(config)))
        reference = self.model("policy", ActorCritic)
        scorer = [] if config.scorer else [self.model("reward", RewardModel)]
        trained, rows = self.trained(policy), config.rollout_batch_size
        idle = sum(map(self.frozen, scorer), trained + self.frozen(reference))
        generation = policy.generation(rows, self.P, R, config.temperature)
        logprobs = policy.predicting(M * T, M * T, self.response_tokens, self.per_logit(policy))
        yield self.phase("generation", idle, generation)
        yield self.phase("log-probabilities", idle, logprobs)
        in_use = sum(map(self.frozen, scorer), trained + self.frozen(reference, in_use=True))
        yield self.phase("reference's log-probabilities", in_use, logprobs)
        for reward in scorer:
            score = trained + self.frozen(reference) + self.frozen(reward, in_use=True)
            yield self.phase("scoring", score, reward.reading(min(rows, SCORING_ROWS), self.S))
        yield self.phase("update", idle, self.update(policy))
        yield self.phase("optimizer step", idle + self.step(policy), [Counter()])
        # The policy's own answers take what a rollout takes.
        yield self.phase("reference's answers: generation", in_use, generation)

    @property
    def response_tokens(self) -> int:
        """Response tokens of a chunk, whose logits are in memory at the same time (`rollout.head_chunks`)."""
        return self.R * min(self.config.ppo.microbatch_size, max(1, LOGIT_TOKENS // self.R))

    def update(self, policy: PlannedModel) -> list[Moment]:
        """The backward passes of a minibatch, and of the demonstrations for the pretraining term."""
        config, tokens = self.config.ppo, self.config.ppo.microbatch_size * (self.P + self.R)
        is_whole = config.rollout_batch_size // config.num_minibatches == config.microbatch_size
        before = policy.embedding if is_whole else policy.weights
        gradient = policy.hidden(tokens)  # of the hidden states, to which each chunk adds another one
        chunk = 2 * policy.hidden(self.response_tokens)
        lasting, per_logit = 2 * gradient + chunk, self.per_trained_logit(policy)
        is_first = is_whole and self.response_tokens == self.R * config.microbatch_size  # the only chunk
        head = policy.head_backward(tokens, self.response_tokens, per_logit, 0 if is_first else before, lasting)
        moments = head + policy.backward(tokens, before, gradient)
        if config.ptx_coef:
            rows = min(config.microbatch_size, config.ptx_batch_size)
            moments += self.language_model(policy, rows * policy.gpt.config.context, policy.weights)
        return moments

    def language_model(self, model: PlannedModel, tokens: int, before: int) -> list[Moment]:
        """`backward_in_chunks` over `tokens`, when there are gradients of `before` bytes."""
        states = 2 * model.hidden(tokens)  # the hidden states that predict a token, and their gradients
        is_first = tokens <= LOGIT_TOKENS and before == model.embedding  # the only chunk, whose gradient this will be
        at_once = min(LOGIT_TOKENS, tokens)
        head = model.head_backward(tokens, at_once, 3 * FLOAT32, 0 if is_first else before, states)
        return head + model.backward(tokens, before, states)

    def step(self, model: PlannedModel) -> Usage:
        """The gradients, if they are not offloaded, and what `CPUAdamW.step` makes: one block of numbers, and, if the
        gradients are not float32 on the CPU, a block of these."""
        converts = not model.offload and (self.on_gpu or model.dtype != torch.float32)
        block = min(BLOCK, max(parameter.numel() for parameter in model.module.parameters()))
        usage: Usage = Counter({("CPU", "temporaries"): FLOAT32 * block * (1 + converts)})
        if not model.offload:
            usage[self.device, "gradients"] = model.weights
        return usage

    def per_logit(self, policy: PlannedModel) -> int:
        """Bytes per logit of log-probabilities: the logit, what it is if it is not float32 or divided by the
        temperature, and log p."""
        converts = policy.dtype != torch.float32 or self.config.ppo.temperature != 1
        return policy.dtype.itemsize + (1 + converts) * FLOAT32

    def per_trained_logit(self, policy: PlannedModel) -> int:
        """The same in an update. Its backward pass needs log p and two gradients, of log p and of the logits. With an
        entropy bonus, it needs log p, p and three gradients."""
        return max(self.per_logit(policy), (5 if self.config.ppo.entropy_coef > 0 else 3) * FLOAT32)
