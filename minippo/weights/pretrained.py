"""Public weights in and out: GPT-2 and OPT, from a folder or the hub, in the format that other tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minippo.heads import RewardModel
from minippo.model import GPT, GPTConfig
from minippo.storage import read_object
from minippo.weights.families import FAMILIES, from_public, tensor_names, to_public
from minippo.weights.shards import StoredTensors, find_config, finder

SCORE_HEAD = "score.weight"
"""What both families call the head of a model with one score."""


class _NoInitialisation(TorchFunctionMode):
    """Leave new tensors as they are. (Random numbers on "meta" would import PyTorch's compiler, for seconds.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def pretrained_config(name_or_path: str | Path) -> GPTConfig:
    """The sizes of public weights; of a model on the hub nothing but its config.json is fetched.

    Raises FileNotFoundError where there is none, and ValueError for a model that this transformer cannot be.
    """
    path = find_config(finder(name_or_path), name_or_path)
    return from_public(read_object(path), str(name_or_path))


def load_pretrained(name_or_path: str | Path, dtype: torch.dtype = torch.float32) -> GPT:
    """A GPT-2 or a pre-norm OPT, by its name on the hub ("gpt2-medium", "facebook/opt-125m", ...) or from a folder.

    Its files are config.json and model.safetensors or else pytorch_model.bin, either also in pieces with an index.

    The files are mapped and copied tensor by tensor, so that at no time more memory is used than by the result, or by
    the file where that is larger, and a tenth. Raises FileNotFoundError where a file is missing, and ValueError for a
    model that this transformer cannot be, for missing tensors, for tensors of the transformer that would go unread, for
    NaN and infinite weights, and for files that hold something else.
    """
    config = pretrained_config(name_or_path)
    stored = _stored(name_or_path, config)
    _check_all_is_read(stored, config)
    if "lm_head.weight" in stored:
        name = tensor_names(config)[0].public[0]
        if not torch.equal(stored[name], stored["lm_head.weight"]):
            raise ValueError(f"{stored.source}: the output embedding is not the input embedding, as it is here")
    with torch.device("meta"), _NoInitialisation():  # neither memory nor time for what is overwritten at once
        gpt = GPT(config)
    ours = {name: torch.empty(tensor.shape, dtype=dtype) for name, tensor in gpt.state_dict().items()}
    for names in tensor_names(config):
        targets = [ours[name] for name in names.ours]
        # One public tensor fills all of these; of several, each fills its part of the one there is.
        filled = [targets] if len(names.public) == 1 else [[part] for part in targets[0].chunk(len(names.public))]
        for name, into in zip(names.public, filled, strict=True):
            rows = stored[name].t() if names.transposed else stored[name]
            expected = (sum(map(len, into)), *into[0].shape[1:])
            if rows.shape != expected:
                raise ValueError(
                    f"{stored.source}: by its config.json {name!r} should have the shape {expected}, "
                    f"not {tuple(rows.shape)}{' (transposed)' if names.transposed else ''}"
                )
            for target, part in zip(into, rows.split([len(target) for target in into]), strict=True):
                target.copy_(part)
    gpt.load_state_dict(ours, assign=True)
    gpt.set_ids()  # puts the one buffer that is in no file where the weights are
    return gpt


def _check_all_is_read(stored: StoredTensors, config: GPTConfig) -> None:
    """Raise ValueError where the transformer has further tensors, as those of further blocks. Heads may have any."""
    read = {name for names in tensor_names(config) for name in names.public}
    roots, no_weights = {name.split(".")[0] for name in read}, FAMILIES[config.family].no_weights
    further = [name for name in stored if name.split(".")[0] in roots and name not in read]
    unread = [name for name in further if not name.endswith(no_weights)]
    if unread:
        raise ValueError(
            f"{stored.source}: by its config.json, with {config.layers} blocks, {len(unread)} of its tensors would go "
            f"unread ({unread[0]!r})"
        )


def load_score_head(folder: str | Path) -> Tensor:
    """The head of a model with one score, (1, C). Raises ValueError where the folder's model has none."""
    return _stored(folder, pretrained_config(folder))[SCORE_HEAD].float()


def _stored(name_or_path: str | Path, config: GPTConfig) -> StoredTensors:
    return StoredTensors(finder(name_or_path), name_or_path, FAMILIES[config.family].prefix)


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write config.json and model.safetensors as `transformers` loads them.

    A `GPT`, or the transformer of an `ActorCritic`, becomes a language model. A `RewardModel` becomes a classifier with
    one label, whose logit is the raw score, before gain and bias. Value head, gain and bias have no place in these
    files; a checkpoint keeps them beside.
    """
    gpt = getattr(model, "gpt", model)
    family, folder = FAMILIES[gpt.config.family], Path(folder)
    weights = gpt.state_dict()
    stored: dict[str, Tensor] = {}
    for names in tensor_names(gpt.config):
        parts = [weights[name].cpu() for name in names.ours]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        for name, part in zip(names.public, rows.chunk(len(names.public)), strict=True):
            stored[family.prefix + name] = (part.t() if names.transposed else part).contiguous()
    public = to_public(gpt.config)
    if isinstance(model, RewardModel):
        stored[SCORE_HEAD] = model.score_head.weight.detach().cpu()
        public |= _classifier(public, family.classifier)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(public, indent=2) + "\n", encoding="utf-8")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def _classifier(public: dict[str, Any], architecture: str) -> dict[str, Any]:
    """What config.json says of a model with one score.

    `transformers` finds the last token of a row as the last one that is not `pad_token_id`. Rows end in end-of-text, so
    that must not be the pad; any other id will do, even one that a text has, for it never stands last.
    """
    eos_id, pad_id = public["eos_token_id"], public["pad_token_id"]
    return {
        "architectures": [architecture],
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "problem_type": "regression",
        "pad_token_id": int(eos_id == 0) if pad_id in (None, eos_id) else pad_id,
    }
