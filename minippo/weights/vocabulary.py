"""Whether a tokenizer's ids are those that a model was trained with."""

from __future__ import annotations

from pathlib import Path

from minippo.model import GPT
from minippo.storage import read_object
from minippo.tokenizer import Tokenizer, tokenizer_in
from minippo.weights.format import file_format
from minippo.weights.pretrained import pretrained_config
from minippo.weights.shards import find_config, finder

MAX_PADDED_ROWS = 128
"""Embedding tables often have more rows than the tokenizer has ids, up to a multiple of this. More need evidence."""


def suppressed_ids(tokenizer: Tokenizer, rows: int) -> tuple[int, ...]:
    """What a policy must not sample: ids that no text has, and the other rows of its embedding table."""
    return (*tokenizer.non_text_ids, *range(tokenizer.vocab_size, rows))


def check_public_tokenizer(weights: str, tokenizer: Tokenizer, name: str) -> None:
    """Raise ValueError if public `weights` were trained with another tokenizer than this one, called `name`.

    The evidence is the number of embeddings and the end-of-text id in config.json, and the tokenizer in the folder, if
    it has one. Weights and tokenizer of the same name belong together; only the number is compared.
    """
    rows, ids = pretrained_config(weights).vocab_size, tokenizer.vocab_size
    config = read_object(find_config(finder(weights), weights))
    values = (config.get("eos_token_id"), config.get("bos_token_id"))
    ends = [i for value in values for i in (value if isinstance(value, list) else [value]) if type(i) is int]
    if rows > ids:
        ends = [i for i in ends if i != rows - 1]  # the last row is also what is written if end-of-text was not known
    reason = f"it has {rows} embeddings, but the tokenizer {name} has {ids} ids"
    if rows < ids:
        pass
    elif name != weights and ends and tokenizer.eos_id not in ends:
        reason = f"end-of-text has the id {ends[0]} in its config.json, but {tokenizer.eos_id} in the tokenizer {name}"
    elif name != weights and not ends and rows >= ids + MAX_PADDED_ROWS:
        reason += ", and no eos_token_id in its config.json tells whether they belong together"
    elif (theirs := tokenizer_in(Path(weights))) and not theirs.has_same_ids(tokenizer):
        reason = f"its folder has another one than {name}"
    else:
        return
    raise ValueError(
        f"{weights} needs the tokenizer it was trained with (model.policy.tokenizer, model.reward.tokenizer): {reason}"
    )


def check_tokenizer(gpt: GPT, tokenizer: Tokenizer, where: object) -> None:
    """Raise ValueError if the stored model `where` was trained with another tokenizer, or with one whose file has been
    damaged since: if the vocabulary, the end-of-text or the ids that no text has are not the model's."""
    rows, eos_id = gpt.config.vocab_size, file_format(gpt).eos_id
    if tokenizer.vocab_size > rows:
        reason = f"the model has {rows} embeddings, the tokenizer {tokenizer.vocab_size} ids"
    elif eos_id not in (None, tokenizer.eos_id):
        reason = f"end-of-text has the id {eos_id} in the model, {tokenizer.eos_id} in the tokenizer"
    elif suppressed_ids(tokenizer, rows) != gpt.config.suppress_tokens:
        reason = (
            f"{len(gpt.config.suppress_tokens)} of the model's {rows} ids occur in no text, but "
            f"{len(suppressed_ids(tokenizer, rows))} with the tokenizer"
        )
    else:
        return
    raise ValueError(f"{where} was not trained with its tokenizer {tokenizer.name!r}, or that is damaged: {reason}")
