"""weights."""

from minippo.weights.heads import load_actor_critic, load_reward_model, load_weights, save_model
from minippo.weights.pretrained import load_pretrained, pretrained_config, save_pretrained

__all__ = [
    "load_actor_critic",
    "load_pretrained",
    "load_reward_model",
    "load_weights",
    "pretrained_config",
    "save_model",
    "save_pretrained",
]
