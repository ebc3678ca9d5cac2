"""The two families of public weights, GPT-2 and OPT: the names of their settings and tensors.

Both describe the transformer of `model.py`, but store it differently: GPT-2 transposes linear layers (its "Conv1D");
OPT separates queries, keys and values, and begins its table of positions with two rows that no position reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class TensorNames(NamedTuple):
    """The tensors `ours`, concatenated, are the tensors `public`, concatenated; the latter are all equally long."""

    ours: tuple[str, ...]
    public: tuple[str, ...]
    transposed: bool = False
    """Whether `public` is stored transposed."""


class Family(NamedTuple):
    """The public format of one family."""

    causal: str
    """The class of `transformers` with a language-model head."""
    classifier: str
    """The class with a score for the last token."""
    prefix: str
    """Begins the name of every tensor of the transformer; some files omit it."""
    sizes: dict[str, str]
    """Field of `GPTConfig` -> key of config.json."""
    dropout: dict[str, bool]
    """Key of config.json -> whether it is `GPTConfig.dropout` (otherwise 0)."""
    requirements: Callable[[int], dict[str, tuple[tuple[Any, ...], str]]]
    """Channels -> key of config.json -> the values that `model.py` implements, beginning with the family's default, and
    the meaning of any other value."""
    trunk: tuple[TensorNames, ...]
    blocks: str
    """Comes before the number of a block."""
    block: dict[str, tuple[str, ...]]
    """Layer of our block -> layers of the public one."""
    transposed: bool = False
    """Whether linear layers are stored transposed."""
    no_weights: tuple[str, ...] = ()
    """Suffixes of tensors in older files that are not weights: causal masks, a version number."""


def _norm_and_embedding(token_embedding: str, norm: str) -> tuple[TensorNames, ...]:
    return (
        TensorNames(("token_embedding.weight",), (f"{token_embedding}.weight",)),
        *(TensorNames((f"final_norm.{part}",), (f"{norm}.{part}",)) for part in ("weight", "bias")),
    )


def _gpt2_requirements(channels: int) -> dict[str, tuple[tuple[Any, ...], str]]:
    return {
        "activation_function": (("gelu_new", "gelu_pytorch_tanh", "relu"), "another activation"),
        "tie_word_embeddings": ((True,), "separate input and output embeddings"),
        "n_inner": ((None, 4 * channels), "hidden layers that are not 4 times as wide as the blocks"),
        "layer_norm_epsilon": ((1e-5,), "another epsilon in the norms"),
        "scale_attn_weights": ((True,), "unscaled attention"),
        "scale_attn_by_inverse_layer_idx": ((False,), "attention scaled by the layer's number"),
        "add_cross_attention": ((False,), "attention to another model"),
    }


def _opt_requirements(channels: int) -> dict[str, tuple[tuple[Any, ...], str]]:
    return {
        "activation_function": (("relu", "gelu_new", "gelu_pytorch_tanh"), "another activation"),
        "tie_word_embeddings": ((True,), "separate input and output embeddings"),
        "do_layer_norm_before": ((True,), "norms after attention and MLP instead of before"),
        "word_embed_proj_dim": ((channels, None), "a projection between embeddings and blocks"),
        "ffn_dim": ((4 * channels,), "hidden layers that are not 4 times as wide as the blocks"),
        "_remove_final_layer_norm": ((False,), "no final norm"),
        "enable_bias": ((True,), "linear layers without bias"),
        "layer_norm_elementwise_affine": ((True,), "norms without weights"),
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
        requirements=_gpt2_requirements,
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
        requirements=_opt_requirements,
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


def tensor_names(family_name: str, layers: int) -> list[TensorNames]:
    """Every tensor of a `GPT` and the family's name for it, without the prefix."""
    family = FAMILIES[family_name]
    names = list(family.trunk)
    for layer in range(layers):
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
