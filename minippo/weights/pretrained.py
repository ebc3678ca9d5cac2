"""Load and save transformers: GPT-2 and OPT, from a folder or the hub, in the format that other tools read.

A model whose architecture has been changed in `model.py` is saved in a native format instead: config.json holds the
fields of its `GPTConfig` and model.safetensors the tensors under their own names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minippo.heads import RewardModel
from minippo.model import GPT, GPTConfig
from minippo.storage import read_object
from minippo.weights.architecture import computes_the_same, empty_model, own_tensors, some_of, unsupported
from minippo.weights.config_json import NATIVE, from_native, from_public, to_native, to_public
from minippo.weights.families import FAMILIES, TensorNames, tensor_names
from minippo.weights.format import FileFormat, file_format, save_tensors, set_file_format
from minippo.weights.shards import StoredTensors, find_config, finder

SCORE_HEAD = "score.weight"
"""Both families' name for the head of a model with one score."""


def _read_config(name_or_path: str | Path) -> tuple[GPTConfig, FileFormat | None]:
    """The architecture of a stored model and its public format, None if it is native."""
    public = read_object(find_config(finder(name_or_path), name_or_path))
    if public.get("model_type") == NATIVE:
        return from_native(public, str(name_or_path)), None
    return from_public(public, str(name_or_path))


def pretrained_config(name_or_path: str | Path) -> GPTConfig:
    """The architecture of stored weights. From the hub, only config.json is downloaded.

    Raises FileNotFoundError if it is missing, and ValueError if `model.py` does not implement the architecture.
    """
    return _read_config(name_or_path)[0]


def pretrained_eos(name_or_path: str | Path) -> int | None:
    """The id of end-of-text that config.json names; None if it names none, or one that the model does not have."""
    config, form = _read_config(name_or_path)
    return form.eos_id if form is not None and form.eos_id in range(config.vocab_size) else None


def load_pretrained(name_or_path: str | Path, dtype: torch.dtype = torch.float32) -> GPT:
    """Load a GPT-2 or a pre-norm OPT by its name on the hub ("gpt2-medium", "facebook/opt-125m", ...) or from a folder.

    Reads config.json and model.safetensors, or else pytorch_model.bin; both may be split into shards with an index.

    The files are mapped and copied tensor by tensor, so that the peak memory is that of the result, or of the file if
    that is larger, plus a tenth. Raises FileNotFoundError if a file is missing, and ValueError for an architecture that
    `model.py` does not implement, missing tensors, unused tensors of the transformer, NaN or infinite weights, and
    files of another kind.
    """
    config, form = _read_config(name_or_path)
    gpt = empty_model(config, dtype)
    with torch.no_grad():
        if form is None:
            _fill_from_native(gpt, name_or_path)
        else:
            _require_public(gpt, form, f"{name_or_path} cannot be loaded: minippo/model.py has been changed, and")
            _fill_from_public(gpt, form, name_or_path)
    return gpt


def _fill_from_public(gpt: GPT, form: FileFormat, name_or_path: str | Path) -> None:
    stored, all_names = _stored(name_or_path, form), tensor_names(form.family, gpt.config.layers)
    _check_all_is_read(stored, all_names, form, gpt.config)
    if "lm_head.weight" in stored:
        name = all_names[0].public[0]
        if not torch.equal(stored[name], stored["lm_head.weight"]):
            raise ValueError(f"{stored.source}: output and input embedding differ, but must be the same")
    own = own_tensors(gpt)  # they share the memory of the model, so that filling them fills the model
    if form.family == "opt":
        own["unread_positions"] = torch.zeros_like(own["position_embedding.weight"][:2])
    for names in all_names:
        targets = [own[name] for name in names.ours]
        # One public tensor fills several of ours (OPT's positions), or several fill one (OPT's queries, keys, values).
        filled = [targets] if len(names.public) == 1 else [[part] for part in targets[0].chunk(len(names.public))]
        for name, into in zip(names.public, filled, strict=True):
            rows = stored[name].t() if names.transposed else stored[name]
            expected = (sum(map(len, into)), *into[0].shape[1:])
            if rows.shape != expected:
                raise ValueError(
                    f"{stored.source}: according to config.json, {name!r} should have the shape {expected}, "
                    f"not {tuple(rows.shape)}{' (transposed)' if names.transposed else ''}"
                )
            for target, part in zip(into, rows.split([len(target) for target in into]), strict=True):
                target.copy_(part)
    set_file_format(gpt, **(vars(form) | {"unread_positions": own.get("unread_positions")}))


def _check_all_is_read(
    stored: StoredTensors, all_names: list[TensorNames], form: FileFormat, config: GPTConfig
) -> None:
    """Raise ValueError if the file has tensors that our transformer lacks, such as further blocks.

    It may have any heads.
    """
    read = {name for names in all_names for name in names.public}
    roots, no_weights = {name.split(".")[0] for name in read}, FAMILIES[form.family].no_weights
    further = [name for name in stored if name.split(".")[0] in roots and name not in read]
    unread = [name for name in further if not name.endswith(no_weights)]
    if unread:
        raise ValueError(
            f"{stored.source} has tensors that the model of its config.json, with {config.layers} blocks, does not "
            f"use: {some_of(unread)}"
        )


def _fill_from_native(gpt: GPT, name_or_path: str | Path) -> None:
    stored, own, parameters = _stored(name_or_path, None), own_tensors(gpt), dict(gpt.named_parameters())
    missing = [name for name in own if name not in stored]
    unread = [name for name in stored if name not in own and name != SCORE_HEAD]
    other = [name for name in own if name in stored and stored.read(name).shape != own[name].shape]
    for names, problem in ((missing, "lacks"), (unread, "has the unknown tensors"), (other, "has another shape for")):
        if names:
            raise ValueError(f"{stored.source} was saved with another minippo/model.py: it {problem} {some_of(names)}")
    for name, target in own.items():
        # A buffer may be infinite, such as a causal mask.
        target.copy_(stored[name] if name in parameters else stored.read(name))


def _stored(name_or_path: str | Path, form: FileFormat | None) -> StoredTensors:
    return StoredTensors(finder(name_or_path), name_or_path, FAMILIES[form.family].prefix if form else "")


def load_score_head(folder: str | Path) -> Tensor:
    """The head of a model with one score, (1, C). Raises ValueError if the model has none."""
    return _stored(folder, _read_config(folder)[1])[SCORE_HEAD].float()


# ---------------------------------------------------------------------------------------------- saving


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write config.json and model.safetensors in the format that `transformers` loads, or natively if `model.py` has
    been changed so that the format cannot express the model.

    A `GPT`, or the transformer of an `ActorCritic`, becomes a language model. A `RewardModel` becomes a classifier with
    one label, whose logit is the raw score, before gain and bias. These files do not store value head, gain and bias;
    `save_model` does.
    """
    gpt, folder = getattr(model, "gpt", model), Path(folder)
    form = file_format(gpt)
    native = bool(unsupported(gpt, form.family))
    tensors = {name: tensor.cpu().contiguous() for name, tensor in own_tensors(gpt).items()}
    tensors = tensors if native else _public_tensors(tensors, form, gpt.config)
    config = to_native(gpt.config) if native else to_public(gpt.config, form)
    if isinstance(model, RewardModel):
        tensors[SCORE_HEAD] = model.score_head.weight.detach().cpu()
        if not native:
            config |= _classifier(config, FAMILIES[form.family].classifier)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_tensors(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def check_exportable(name_or_path: str | Path) -> None:
    """Raise ValueError if the stored model cannot be written in a public format. Reads no weights."""
    config, form = _read_config(name_or_path)
    _require_public(empty_model(config), form or FileFormat(), f"{name_or_path} cannot be exported:")
    if not computes_the_same():
        raise ValueError(
            f"{name_or_path} cannot be exported: minippo/model.py has been changed and computes something else than a "
            "public model with the same parameters"
        )


def _require_public(gpt: GPT, form: FileFormat, refusal: str) -> None:
    if reasons := unsupported(gpt, form.family):
        raise ValueError(f"{refusal} the public format {form.family!r} cannot express the model: {'; '.join(reasons)}")


def _public_tensors(weights: dict[str, Tensor], form: FileFormat, config: GPTConfig) -> dict[str, Tensor]:
    """Our tensors, split, transposed and named as in the family's files."""
    positions = weights["position_embedding.weight"]
    unread = torch.zeros(2, config.channels) if form.unread_positions is None else form.unread_positions
    weights = weights | {"unread_positions": unread.to("cpu", positions.dtype)}
    family, public = FAMILIES[form.family], {}
    for names in tensor_names(form.family, config.layers):
        parts = [weights[name] for name in names.ours]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        for name, part in zip(names.public, rows.chunk(len(names.public)), strict=True):
            public[family.prefix + name] = (part.t() if names.transposed else part).contiguous()
    return public


def _classifier(public: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The keys of config.json for a model with one score.

    `transformers` takes the last token that is not `pad_token_id` for the last token of a row. Rows end in end-of-text,
    so that must not be the pad. Any other id will do, even one that occurs in texts: it is never the last token.
    """
    eos_id, pad_id = public["eos_token_id"], public["pad_token_id"]
    return {
        "architectures": [architecture],
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "problem_type": "regression",
        "pad_token_id": int(eos_id == 0) if pad_id in (None, eos_id) else pad_id,
    }
