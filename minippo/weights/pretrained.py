"""Load and save transformers: GPT-2 and OPT, from a folder or the hub, in the format that other tools read.

A model whose architecture has been changed in `model.py` is saved in a native format instead: config.json holds the
fields of its `GPTConfig` and model.safetensors the tensors under their own names.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minippo.errors import TrainingError
from minippo.heads import RewardModel
from minippo.model import GPT, GPTConfig
from minippo.storage import read_object
from minippo.weights.architecture import computes_the_same, empty_model, own_tensors, public_shapes, unsupported
from minippo.weights.config_json import NATIVE, from_native, from_public, to_native, to_public
from minippo.weights.families import FAMILIES, TensorNames, tensor_names
from minippo.weights.format import FileFormat, file_format, save_tensors, set_file_format
from minippo.weights.shards import StoredTensors, find_config, finder, some_of

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


def load_pretrained(name_or_path: str | Path, dtype: torch.dtype = torch.float32) -> GPT:
    """Load a GPT-2 or a pre-norm OPT by its name on the hub ("gpt2-medium", "facebook/opt-125m", ...) or from a folder.

    Reads config.json and model.safetensors, or else pytorch_model.bin; both may be split into shards with an index.

    The files are mapped and copied tensor by tensor, so that the peak memory is that of the result, or of the file if
    that is larger, plus a tenth. Raises FileNotFoundError if a file is missing, and ValueError for an architecture that
    `model.py` does not implement, missing tensors, unused tensors of the transformer, NaN or infinite weights, and
    files of another kind.
    """
    config, form = _read_config(name_or_path)
    changed = f"{name_or_path} cannot be loaded: minippo/model.py has been changed, and"
    if form is not None:  # before the weights are downloaded; two blocks show the names of all
        _require_public(_empty_model(name_or_path, replace(config, layers=min(config.layers, 2))), form, changed)
    stored = _stored(name_or_path, form)
    _check_size(stored, config, form)
    gpt = _empty_model(name_or_path, config, dtype)
    with torch.no_grad():
        if form is None:
            _fill_from_native(gpt, stored)
        else:
            _require_public(gpt, form, changed)
            _fill_from_public(gpt, form, stored)
    return gpt


def _empty_model(name_or_path: str | Path, config: GPTConfig, dtype: torch.dtype = torch.float32) -> GPT:
    try:
        return empty_model(config, dtype)
    except RuntimeError:  # there are not even addresses for the weights
        sizes = f"{config.layers} layers, {config.channels} channels, {config.vocab_size} ids, context {config.context}"
        raise ValueError(f"there is no memory for {name_or_path}, a model with {sizes}") from None


def _check_size(stored: StoredTensors, config: GPTConfig, form: FileFormat | None) -> None:
    """Raise ValueError if config.json describes a larger model than the files hold; no model has been created yet."""
    if config.layers * config.channels > stored.num_values:  # the least that any model.py could need
        raise ValueError(
            f"{stored.source} has {stored.num_values:,} numbers, too few for the {config.layers} blocks with "
            f"{config.channels} channels in its config.json"
        )
    if form is not None:
        _check_shapes(stored, tensor_names(form.family, config.layers), form, config)


def _fill_from_public(gpt: GPT, form: FileFormat, stored: StoredTensors) -> None:
    all_names = tensor_names(form.family, gpt.config.layers)
    unused = _check_all_is_read(stored, all_names, form, gpt.config)
    if "lm_head.weight" in stored:
        name = all_names[0].public[0]
        if not torch.equal(stored.read(name), stored.read("lm_head.weight")):
            raise ValueError(f"{stored.source}: output and input embedding differ, but must be the same")
    own = own_tensors(gpt)  # they share the memory of the model, so that filling them fills the model
    if form.family == "opt":
        own["unread_positions"] = torch.zeros_like(own["position_embedding.weight"][:2])
    for names in all_names:
        targets = [own[name] for name in names.ours]
        # One public tensor fills several of ours (OPT's positions), or several fill one (OPT's queries, keys, values).
        filled = [targets] if len(names.public) == 1 else [[part] for part in targets[0].chunk(len(names.public))]
        for name, into in zip(names.public, filled, strict=True):
            rows = stored.read(name).t() if names.transposed else stored.read(name)
            for target, part in zip(into, rows.split([len(target) for target in into]), strict=True):
                stored.copy(name, part, target)
    changes = {"unread_positions": own.get("unread_positions"), "unused": tuple(unused)}
    set_file_format(gpt, **(vars(form) | changes))


def _check_shapes(stored: StoredTensors, all_names: list[TensorNames], form: FileFormat, config: GPTConfig) -> None:
    """Raise ValueError if the files and config.json disagree on a shape; before this, no weight occupies memory."""
    shapes = public_shapes(config, form.family) | {"unread_positions": (2, config.channels)}
    for names in all_names:
        rows, *columns = shapes[names.ours[-1]]
        rows = sum(shapes[name][0] for name in names.ours) // len(names.public)
        for name in names.public:
            stored.check(name, (*columns, rows) if names.transposed else (rows, *columns))
    if "lm_head.weight" in stored:
        stored.check("lm_head.weight", (config.vocab_size, config.channels))


def _check_all_is_read(
    stored: StoredTensors, all_names: list[TensorNames], form: FileFormat, config: GPTConfig
) -> list[str]:
    """Raise ValueError if the file has tensors that our transformer lacks, such as further blocks.

    It may have any heads. Returns the names of those, which are not used.
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
    return [name for name in stored if name not in {*read, *further, "lm_head.weight"}]


def _fill_from_native(gpt: GPT, stored: StoredTensors) -> None:
    own, parameters = own_tensors(gpt), dict(gpt.named_parameters())
    missing = [name for name in own if name not in stored]
    unread = [name for name in stored if name not in own and name != SCORE_HEAD]
    for names, problem in ((missing, "lacks"), (unread, "has the unknown tensors")):
        if names:
            raise ValueError(f"{stored.source} was saved with another minippo/model.py: it {problem} {some_of(names)}")
    for name, target in own.items():
        stored.check(name, tuple(target.shape), target.dtype)
    for name, target in own.items():
        if name in parameters:
            stored.copy(name, stored.read(name), target)
        else:  # a buffer may be infinite, such as a causal mask
            target.copy_(stored.read(name))


def _stored(name_or_path: str | Path, form: FileFormat | None) -> StoredTensors:
    if form is None:
        return StoredTensors(finder(name_or_path), name_or_path)
    family = FAMILIES[form.family]
    return StoredTensors(finder(name_or_path), name_or_path, family.prefix, family.trunk[0].public[0])


def load_score_head(folder: str | Path) -> Tensor:
    """The head of a model with one score, (1, C). Raises ValueError if the model has none."""
    config, form = _read_config(folder)
    stored, head = _stored(folder, form), torch.empty(1, config.channels)
    stored.check(SCORE_HEAD, (1, config.channels))
    stored.copy(SCORE_HEAD, stored.read(SCORE_HEAD), head)
    return head


# ---------------------------------------------------------------------------------------------- saving


def require_finite_weights(model: nn.Module) -> None:
    """Raise TrainingError, naming the parameter, if one has NaN or infinite elements."""
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise TrainingError(f"the weights {name} contain NaN or infinite values")


def save_pretrained(model: nn.Module, folder: str | Path) -> None:
    """Write config.json and model.safetensors in the format that `transformers` loads, or natively if `model.py` has
    been changed so that the format cannot express the model.

    A `GPT`, or the transformer of an `ActorCritic`, becomes a language model. A `RewardModel` becomes a classifier with
    one label, whose logit is the raw score, before gain and bias. These files do not store value head, gain and bias;
    `save_model` does. Raises TrainingError, before anything is written, if a weight is NaN or infinite.
    """
    require_finite_weights(model)
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
    _require_public(_empty_model(name_or_path, config), form or FileFormat(), f"{name_or_path} cannot be exported:")
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
