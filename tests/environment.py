"""An environment for PPO, made of the parts that a test chooses."""

from __future__ import annotations

from minippo.config import Config, DataConfig, PPOConfig
from minippo.heads import ActorCritic
from minippo.rollout import Environment
from minippo.runs import sampling_params
from minippo.scoring import Scorer
from minippo.tokenizer import Tokenizer


def environment(
    reference: ActorCritic, scorer: Scorer, tokenizer: Tokenizer, config: PPOConfig, response_length: int = 8
) -> Environment:
    """Responses of at most `response_length` tokens, sampled as `config` says."""
    settings = Config(data=DataConfig(response_length=response_length), ppo=config)
    return Environment(reference, scorer, tokenizer, sampling_params(settings, tokenizer))
