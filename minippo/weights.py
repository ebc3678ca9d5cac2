"""Public weight files in and out: a folder with `config.json` and `model.safetensors` in GPT-2's names and shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minippo.model import GPT, GPTConfig

# Ours -> GPT-2's, for a block; GPT-2 stores the weights of its linear layers transposed (its "Conv1D").
_BLOCK = {
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_TRUNK = {"token_embedding.weight": "wte.weight", "position_embedding.weight": "wpe.weight"}
_NORM = {"final_norm.weight": "ln_f.weight", "final_norm.bias": "ln_f.bias"}
# What a GPT-2 configuration may say, GPT-2's own choice first: anything else would load and compute something else.
_SUPPORTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "relu"),
    "layer_norm_epsilon": (1e-5,),
    "tie_word_embeddings": (True,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}


class _NoInitialisation(TorchFunctionMode):
    """Leave new tensors as they are. (Random numbers on "meta" would import PyTorch's compiler, for seconds.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_pretrained(name_or_path: str | Path, dtype: torch.dtype = torch.float32) -> GPT:
    """A GPT-2 by its name on the hub ("gpt2", "distilgpt2", "gpt2-medium", ...) or from a folder in the same format.

    Raises FileNotFoundError where a folder lacks `config.json` or `model.safetensors`, and ValueError for a model of
    another family, of an architecture beyond GPT-2's own, or with missing tensors.
    """
    folder = _fetch(name_or_path)
    public = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if public.get("model_type") != "gpt2":
        raise ValueError(f"{name_or_path} is of the family {public.get('model_type')!r}; 'gpt2' can be loaded")
    differences = {
        name: public[name] for name, supported in _SUPPORTED.items() if public.get(name, supported[0]) not in supported
    }
    if differences:
        raise ValueError(f"{name_or_path} is a GPT-2 that this transformer cannot be: {differences}")
    config = GPTConfig(
        vocab_size=public["vocab_size"],
        context=public["n_positions"],
        layers=public["n_layer"],
        heads=public["n_head"],
        channels=public["n_embd"],
        activation="relu" if public.get("activation_function") == "relu" else "gelu_new",
        unpadded_vocab_size=public.get("unpadded_vocab_size"),
    )
    with torch.device("meta"), _NoInitialisation():  # neither memory nor time for what is overwritten at once
        gpt = GPT(config)
    stored = load_file(folder / "model.safetensors")
    stored = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    ours = {}
    for name, public_name, transposed in _names(config):
        if public_name not in stored:
            raise ValueError(f"{folder / 'model.safetensors'} has no tensor {public_name!r}")
        tensor = stored.pop(public_name)
        ours[name] = (tensor.t() if transposed else tensor).to(dtype).contiguous()
    gpt.load_state_dict(ours, assign=True)
    for parameter in gpt.parameters():
        parameter.requires_grad_(True)
    return gpt


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write the transformer of `model` (a `GPT`, or what has one as `.gpt`) in the public format to `folder`.

    Heads are not written; a checkpoint keeps them in files of their own.
    """
    gpt = getattr(model, "gpt", model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = gpt.config
    public = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_embd": config.channels,
        "activation_function": config.activation,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": (config.unpadded_vocab_size or config.vocab_size) - 1,
        "eos_token_id": (config.unpadded_vocab_size or config.vocab_size) - 1,
        "unpadded_vocab_size": config.unpadded_vocab_size,
    }
    (folder / "config.json").write_text(json.dumps(public, indent=2) + "\n", encoding="utf-8")
    weights = gpt.state_dict()
    stored: dict[str, Tensor] = {}
    for name, public_name, transposed in _names(config):
        tensor = weights[name].detach().cpu()
        stored[f"transformer.{public_name}"] = (tensor.t() if transposed else tensor).contiguous()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def _fetch(name_or_path: str | Path) -> Path:
    folder = Path(name_or_path)
    if folder.is_dir():
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} has no {name}")
        return folder
    from huggingface_hub import snapshot_download  # only who asks for public weights needs the network

    files = ["config.json", "model.safetensors"]
    return Path(snapshot_download(str(name_or_path), allow_patterns=files))


def _names(config: GPTConfig) -> list[tuple[str, str, bool]]:
    """Every tensor of a `GPT`: our name, GPT-2's, and whether GPT-2's is transposed."""
    names = [(ours, public, False) for ours, public in (_TRUNK | _NORM).items()]
    for layer in range(config.layers):
        for ours, public in _BLOCK.items():
            for part in ("weight", "bias"):
                transposed = part == "weight" and "norm" not in ours
                names.append((f"blocks.{layer}.{ours}.{part}", f"h.{layer}.{public}.{part}", transposed))
    return names
