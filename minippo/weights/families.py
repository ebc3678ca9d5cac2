"""The two families of public weights, GPT-2 and OPT: what each calls its sizes and its tensors.

Both are the transformer of `model.py`. What they store otherwise is folded in on the way: GPT-2's linear layers are
transposed (its "Conv1D"), OPT keeps queries, keys and values apart and begins its table of positions with two rows that
no position reads.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple

from minippo.model import GPTConfig
from minippo.storage import checked, entry


class TensorNames(NamedTuple):
    """The rows of `ours`, one under the other, are the rows of `public`, one under the other, each as long."""

    ours: tuple[str, ...]
    public: tuple[str, ...]
    transposed: bool = False
    """Whether `public` has the columns for rows."""


class Family(NamedTuple):
    """How one family is written down."""

    causal: str
    """The class of `transformers` with a language-model head."""
    classifier: str
    """The class with one score at the last token."""
    prefix: str
    """Before the name of every tensor of the transformer; some files leave it out."""
    sizes: dict[str, str]
    """Field of `GPTConfig` -> key of config.json."""
    dropout: dict[str, bool]
    """Key of config.json -> whether it is `GPTConfig.dropout` (else 0)."""
    built: Callable[[int], dict[str, tuple[tuple[Any, ...], str]]]
    """Channels -> key of config.json -> the values with which the model is ours, the family's default first, and what
    another value means."""
    trunk: tuple[TensorNames, ...]
    blocks: str
    """Before the number of a block."""
    block: dict[str, tuple[str, ...]]
    """Layer of our block -> those of the public one."""
    transposed: bool = False
    """Whether linear layers are stored with columns for rows."""
    no_weights: tuple[str, ...] = ()
    """Ends of the names of what older files hold beside the weights: causal masks, a version."""


def _norm_and_embedding(token_embedding: str, norm: str) -> tuple[TensorNames, ...]:
    return (
        TensorNames(("token_embedding.weight",), (f"{token_embedding}.weight",)),
        *(TensorNames((f"final_norm.{part}",), (f"{norm}.{part}",)) for part in ("weight", "bias")),
    )


def _gpt2_built(channels: int) -> dict[str, tuple[tuple[Any, ...], str]]:
    return {
        "activation_function": (("gelu_new", "gelu_pytorch_tanh", "relu"), "its activation is another"),
        "tie_word_embeddings": ((True,), "its output embedding is not its input embedding"),
        "n_inner": ((None, 4 * channels), "its hidden layers are not 4 times as wide as its blocks"),
        "layer_norm_epsilon": ((1e-5,), "its norms add another epsilon"),
        "scale_attn_weights": ((True,), "its attention is not scaled"),
        "scale_attn_by_inverse_layer_idx": ((False,), "its attention is scaled by the layer"),
        "add_cross_attention": ((False,), "it attends to another model"),
    }


def _opt_built(channels: int) -> dict[str, tuple[tuple[Any, ...], str]]:
    return {
        "activation_function": (("relu", "gelu_new", "gelu_pytorch_tanh"), "its activation is another"),
        "tie_word_embeddings": ((True,), "its output embedding is not its input embedding"),
        "do_layer_norm_before": ((True,), "it normalises after attention and MLP, not before them"),
        "word_embed_proj_dim": ((channels, None), "its embeddings are projected to the width of its blocks"),
        "ffn_dim": ((4 * channels,), "its hidden layers are not 4 times as wide as its blocks"),
        "_remove_final_layer_norm": ((False,), "it has no norm at the end"),
        "enable_bias": ((True,), "its linear layers have no bias"),
        "layer_norm_elementwise_affine": ((True,), "its norms have no weights"),
    }


FAMILIES = {
    "gpt2": Family(
        causal="GPT2LMHeadModel",
        classifier="GPT2ForSequenceClassification",
        prefix="transformer.",
        sizes={
            "vocab_size": "vocab_size",
            "context": "n_positions",
            "layers": "n_layer",
            "heads": "n_head",
            "channels": "n_embd",
        },
        dropout={"resid_pdrop": True, "embd_pdrop": True, "attn_pdrop": False},
        built=_gpt2_built,
        trunk=(
            *_norm_and_embedding("wte", "ln_f"),
            TensorNames(("position_embedding.weight",), ("wpe.weight",)),
        ),
        blocks="h",
        block={
            "attention_norm": ("ln_1",),
            "attention.qkv": ("attn.c_attn",),
            "attention.out": ("attn.c_proj",),
            "mlp_norm": ("ln_2",),
            "up": ("mlp.c_fc",),
            "down": ("mlp.c_proj",),
        },
        transposed=True,
        no_weights=(".attn.bias", ".attn.masked_bias"),
    ),
    "opt": Family(
        causal="OPTForCausalLM",
        classifier="OPTForSequenceClassification",
        prefix="model.",
        sizes={
            "vocab_size": "vocab_size",
            "context": "max_position_embeddings",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "channels": "hidden_size",
        },
        dropout={"dropout": True, "attention_dropout": False, "layerdrop": False},
        built=_opt_built,
        trunk=(
            *_norm_and_embedding("decoder.embed_tokens", "decoder.final_layer_norm"),
            TensorNames(("unread_positions", "position_embedding.weight"), ("decoder.embed_positions.weight",)),
        ),
        blocks="decoder.layers",
        block={
            "attention_norm": ("self_attn_layer_norm",),
            "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention.out": ("self_attn.out_proj",),
            "mlp_norm": ("final_layer_norm",),
            "up": ("fc1",),
            "down": ("fc2",),
        },
        no_weights=("decoder.version",),
    ),
}


def tensor_names(config: GPTConfig) -> list[TensorNames]:
    """Every tensor of a `GPT` and what its family calls it, without the prefix."""
    family = FAMILIES[config.family]
    names = list(family.trunk)
    for layer in range(config.layers):
        for ours, public in family.block.items():
            for part in ("weight", "bias"):
                names.append(
                    TensorNames(
                        (f"blocks.{layer}.{ours}.{part}",),
                        tuple(f"{family.blocks}.{layer}.{name}.{part}" for name in public),
                        family.transposed and part == "weight" and "norm" not in ours,
                    )
                )
    return names


def to_public(config: GPTConfig) -> dict[str, Any]:
    """The config.json of a language model with these sizes."""
    family = FAMILIES[config.family]
    eos_id = config.vocab_size - 1 if config.eos_id is None else config.eos_id
    return {
        "architectures": [family.causal],
        "model_type": config.family,
        **{key: getattr(config, field) for field, key in family.sizes.items()},
        **{key: allowed[0] for key, (allowed, _) in family.built(config.channels).items()},
        "activation_function": config.activation,
        **{key: config.dropout if is_ours else 0.0 for key, is_ours in family.dropout.items()},
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": config.pad_id,
        "never_sampled": list(config.never_sampled),  # no key of the family's: only we read it
    }


def from_public(public: dict[str, Any], name: str) -> GPTConfig:
    """The sizes in the config.json of `name`. Raises ValueError for what this transformer cannot be."""
    where = f"the config.json of {name}"
    model_type = entry(public, "model_type", where, str, NoneType)
    if model_type not in FAMILIES:
        raise ValueError(f"{name} is of the family {model_type!r}; {' and '.join(map(repr, FAMILIES))} can be loaded")
    family = FAMILIES[model_type]
    sizes = {field: entry(public, key, where, int) for field, key in family.sizes.items()}
    for field, key in family.sizes.items():
        if sizes[field] < 1:
            raise ValueError(f"{where}: {key} should be 1 or more, and is {sizes[field]}")
    if sizes["channels"] % sizes["heads"]:
        keys = (family.sizes["channels"], family.sizes["heads"])
        raise ValueError(f"{where}: {keys[0]} {sizes['channels']} cannot be divided by {keys[1]} {sizes['heads']}")
    built = family.built(sizes["channels"])
    chosen = {key: public.get(key, allowed[0]) for key, (allowed, _) in built.items()}
    otherwise = [f"{built[key][1]} ({key} is {value!r})" for key, value in chosen.items() if value not in built[key][0]]
    if otherwise:
        raise ValueError(f"{name} is built otherwise than the models that can be loaded: {'; '.join(otherwise)}")
    never_sampled = entry(public, "never_sampled", where, list, NoneType) or []
    for i in never_sampled:
        if not 0 <= checked(i, f"{where}: an id in never_sampled", int) < sizes["vocab_size"]:
            raise ValueError(f"{where}: never_sampled has {i}, and the ids end at {sizes['vocab_size'] - 1}")
    eos_id = entry(public, "eos_token_id", where, int, list, NoneType)
    if isinstance(eos_id, list):  # several end a response; the first is that of a text
        eos_id = checked(eos_id[0] if eos_id else None, f"{where}: the first eos_token_id", int)
    return GPTConfig(
        **sizes,
        activation="relu" if chosen["activation_function"] == "relu" else "gelu_new",
        family=model_type,
        never_sampled=tuple(never_sampled),
        eos_id=eos_id,
        pad_id=entry(public, "pad_token_id", where, int, NoneType),
    )
