"""`PPOState`: everything that changes during a PPO run, and the seed. A checkpoint contains exactly this, and the
fingerprint of the data that it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minippo.batches import BatchStream
from minippo.config import PPOConfig
from minippo.heads import ActorCritic
from minippo.optim import CPUAdamW, param_groups


@dataclass
class PPOState:
    """Policy, optimizer, positions in the data, and the KL coefficient. What never changes is in `Environment`."""

    policy: ActorCritic
    optimizer: CPUAdamW
    seed: int
    """With `iteration` it determines every random number of an iteration, so there is no generator state to save."""
    prompts: BatchStream
    kl_coef: float
    iteration: int = 0
    """Iterations completed."""
    demonstrations: BatchStream | None = None
    """Rows for the pretraining term; None if its weight is 0."""

    @classmethod
    def initial(
        cls,
        policy: ActorCritic,
        prompts: Sequence[list[int]],
        demonstrations: Sequence[list[int]],
        config: PPOConfig,
        seed: int,
    ) -> PPOState:
        """The state before the first iteration. `demonstrations` are windows of token ids, empty if unused."""
        optimizer = CPUAdamW(
            param_groups(policy.parameters(), config.weight_decay),
            config.lr,
            (0.9, config.adam_beta2),
            config.adam_eps,
            tensorflow_eps=config.tensorflow_eps,
        )
        return cls(
            policy,
            optimizer,
            seed,
            BatchStream(prompts, config.rollout_batch_size, seed, "ppo prompts"),
            config.kl_coef,
            demonstrations=BatchStream(demonstrations, config.ptx_batch_size, seed, "ppo demonstrations")
            if len(demonstrations)
            else None,
        )
