"""What changes during a run."""

from __future__ import annotations

from dataclasses import dataclass

from minippo.batches import BatchStream
from minippo.heads import ActorCritic
from minippo.optim import CPUAdamW


@dataclass
class PPOState:
    """Whatever changes during PPO. The configuration never does; the reference and the reward model neither."""

    policy: ActorCritic
    optimizer: CPUAdamW
    seed: int
    """With `iteration` it determines the responses and the order of the minibatches: there is no generator to keep."""
    prompts: BatchStream
    kl_coef: float
    iteration: int = 0
    """Iterations done."""
    demonstrations: BatchStream | None = None
    """What the pretraining term is taken from, where there is one."""
    data: str = ""
    """Fingerprint of the corpus that both are drawn from."""
