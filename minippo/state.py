"""Training states: everything that changes during training, and the seed. A checkpoint contains exactly this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from minippo.batches import BatchStream, EpochStream
from minippo.config import MemoryConfig, OptimizerConfig, PPOConfig
from minippo.errors import quoted
from minippo.heads import ActorCritic, RewardModel
from minippo.memory import gradient_storage
from minippo.model import GPT
from minippo.optim import CPUAdamW, param_groups


class State(Protocol):
    """What a checkpoint saves and restores: a model, its optimizer, and a few numbers."""

    optimizer: CPUAdamW

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        ...

    @property
    def step(self) -> int:
        """Steps completed; iterations, in PPO."""
        ...

    def position(self) -> dict[str, int | float]:
        """Everything that is not a tensor, by name."""
        ...

    def set_position(self, position: dict[str, Any]) -> None:
        """Continue from a `position` that was stored."""
        ...


@dataclass
class TrainState:
    """Model, optimizer and position in the data, for the two stages that train in epochs."""

    model: GPT | RewardModel
    optimizer: CPUAdamW
    seed: int
    """With `step` it determines every random number of a step, so there is no generator state to save."""
    batches: EpochStream[Any]
    step: int = 0
    """Steps completed."""

    @classmethod
    def initial(
        cls,
        model: GPT | RewardModel,
        batches: EpochStream[Any],
        config: OptimizerConfig,
        seed: int,
        memory: MemoryConfig = MemoryConfig(),  # noqa: B008 - it is frozen
        averaging: float = 0.0,
    ) -> TrainState:
        """The state before the first step."""
        getattr(model, "gpt", model).checkpoint_activations = memory.checkpoint_activations
        groups = param_groups(model.parameters(), config.weight_decay)
        optimizer = CPUAdamW(
            groups, config.lr, (0.9, 0.99), 1e-8, gradients=gradient_storage(memory), averaging=averaging
        )
        return cls(model, optimizer, seed, batches)

    def position(self) -> dict[str, int | float]:
        return {
            "seed": self.seed,
            "step": self.step,
            "epoch": self.batches.epoch,
            "batches_drawn": self.batches.batches_drawn,
        }

    def set_position(self, position: dict[str, Any]) -> None:
        self.seed, self.step = _count(position, "seed"), _count(position, "step")
        self.batches.epoch, self.batches.batches_drawn = _count(position, "epoch"), _count(position, "batches_drawn")


class Demonstrations(Protocol):
    """Rows of token ids that begin with a prompt, such as `minippo.data.TokenRows`."""

    @property
    def prompt_lengths(self) -> np.ndarray:
        """Number of ids of each row's prompt, which the policy reads but is not trained to predict, (rows,)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray) -> Demonstrations: ...


@dataclass
class PPOState:
    """Policy, optimizer, positions in the data, and the KL coefficient. What never changes is in `Environment`."""

    policy: ActorCritic
    optimizer: CPUAdamW
    seed: int
    """With `iteration` it determines every random number of an iteration, so there is no generator state to save."""
    prompts: BatchStream[Sequence[list[int]]]
    kl_coef: float
    iteration: int = 0
    """Iterations completed."""
    demonstrations: BatchStream[Demonstrations] | None = None
    """Rows for the pretraining term; None if its weight is 0."""

    @classmethod
    def initial(
        cls,
        policy: ActorCritic,
        prompts: Sequence[list[int]],
        demonstrations: Demonstrations | None,
        config: PPOConfig,
        seed: int,
        memory: MemoryConfig = MemoryConfig(),  # noqa: B008
    ) -> PPOState:
        """The state before the first iteration. `demonstrations` are windows of token ids, None if unused."""
        policy.gpt.checkpoint_activations = memory.checkpoint_activations
        optimizer = CPUAdamW(
            param_groups(policy.parameters(), config.weight_decay),
            config.lr,
            (0.9, config.adam_beta2),
            config.adam_eps,
            tensorflow_eps=config.tensorflow_eps,
            gradients=gradient_storage(memory),
        )
        return cls(
            policy,
            optimizer,
            seed,
            BatchStream(prompts, config.rollout_batch_size // config.samples_per_prompt, seed, "ppo prompts"),
            config.kl_coef,
            demonstrations=None
            if demonstrations is None
            else BatchStream(demonstrations, config.ptx_batch_size, seed, "ppo demonstrations"),
        )

    @property
    def model(self) -> ActorCritic:
        return self.policy

    @property
    def step(self) -> int:
        return self.iteration

    def position(self) -> dict[str, int | float]:
        return {
            "seed": self.seed,
            "iteration": self.iteration,
            "kl_coef": self.kl_coef,
            "prompts_drawn": self.prompts.rows_drawn,
            "demonstrations_drawn": self.demonstrations.rows_drawn if self.demonstrations else 0,
        }

    def set_position(self, position: dict[str, Any]) -> None:
        self.seed, self.iteration = _count(position, "seed"), _count(position, "iteration")
        self.kl_coef = float(position["kl_coef"])
        self.prompts.rows_drawn = _count(position, "prompts_drawn")
        if self.demonstrations:
            self.demonstrations.rows_drawn = _count(position, "demonstrations_drawn")


def _count(position: dict[str, Any], name: str) -> int:
    if type(position[name]) is not int or position[name] < 0:
        raise ValueError(f"{name} should be a number of at least 0, not {quoted(position[name])}")
    return position[name]
