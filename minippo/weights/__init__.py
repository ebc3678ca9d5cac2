"""Load and save models, as GPT-2's and OPT's public weight files or, for a changed architecture, natively.

- `load_pretrained`, `save_pretrained`: a transformer, from a folder or the hub, as `transformers` reads and writes it
- `load_actor_critic`, `load_reward_model`, `load_weights`, `save_model`: the models of a run, with their heads
- `pretrained_config`, `check_exportable`: what config.json says about a model; no weights are read
- `check_public_tokenizer`, `check_tokenizer`: whether weights were trained with a tokenizer
- `read_tensors`: any file of tensors, such as the state of an optimizer
- `file_format`, `set_file_format`: metadata that only files need, such as the family and the id of end-of-text
"""

from minippo.weights.format import FileFormat, file_format, save_tensors, set_file_format
from minippo.weights.heads import load_actor_critic, load_reward_model, load_weights, save_model
from minippo.weights.pretrained import check_exportable, load_pretrained, pretrained_config, save_pretrained
from minippo.weights.tensor_file import read_tensors
from minippo.weights.vocabulary import check_public_tokenizer, check_tokenizer, suppressed_ids

__all__ = [
    "FileFormat",
    "check_exportable",
    "check_public_tokenizer",
    "check_tokenizer",
    "file_format",
    "load_actor_critic",
    "load_pretrained",
    "load_reward_model",
    "load_weights",
    "pretrained_config",
    "read_tensors",
    "save_model",
    "save_pretrained",
    "save_tensors",
    "set_file_format",
    "suppressed_ids",
]
