"""Load and save models, as GPT-2's and OPT's public weight files or, for a changed architecture, natively.

- `load_pretrained`, `save_pretrained`: a transformer, from a folder or the hub, as `transformers` reads and writes it
- `load_actor_critic`, `load_reward_model`, `load_weights`, `save_model`: the models of a run, with their heads
- `pretrained_config`, `pretrained_eos`, `check_exportable`: what config.json says about a model; no weights are read
- `file_format`, `set_file_format`: metadata that only files need, such as the family and the id of end-of-text
"""

from minippo.weights.format import FileFormat, file_format, save_tensors, set_file_format
from minippo.weights.heads import load_actor_critic, load_reward_model, load_weights, save_model
from minippo.weights.pretrained import (
    check_exportable,
    load_pretrained,
    pretrained_config,
    pretrained_eos,
    save_pretrained,
)

__all__ = [
    "FileFormat",
    "check_exportable",
    "file_format",
    "load_actor_critic",
    "load_pretrained",
    "load_reward_model",
    "load_weights",
    "pretrained_config",
    "pretrained_eos",
    "save_model",
    "save_pretrained",
    "save_tensors",
    "set_file_format",
]
