"""Every field of the configuration has the effect that its name promises, on the stages that it concerns, and no other.

The fields are those of the dataclasses. For each of them the stages run again with another value, from the earliest one
that it concerns: what must differ from the base run differs, what must not is the same bit for bit, and what reached
the formulas and the optimizers is what the fields of those names say (`exact_effects.py`).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from minippo.config import Config
from minippo.runs.validation import check
from tests.pipeline.exact_effects import CHECKS, idle_weights
from tests.pipeline.tiny_run import TinyRuns, changed, outcome

SFT = {name: {f"sft {name}", f"sft {name} log", f"sft {name} loss"} for name in ("policy", "reward")}
RM = {"rm model", "rm scale", "rm log", "rm test"}
PPO = {"ppo policy", "ppo log", "ppo validation", "ppo test"}
LUCK = {"rm validation", "ppo samples"}
"""Accuracies on a few comparisons, and two answers with rounded scores, may stay the same by chance."""


@dataclass(frozen=True)
class Effect:
    """What another value must change, of what `outcome` names. All else stays the same bit for bit, but for `may`."""

    must: frozenset[str]
    may: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ("sft", "rm", "ppo")
    corpus: str = "reviews"

    @classmethod
    def of(cls, *must: set[str], may: set[str] = LUCK, **others: Any) -> Effect:
        items = frozenset().union(*must)
        # A stage that trains on other batches may take another number of steps; `check_sft` and `check_rm` know it.
        saved = {f"{stage} checkpoints" for stage in ("sft policy", "sft reward", "rm") if f"{stage} log" in items}
        return cls(items, frozenset(may | saved), **others)


ALL = Effect.of(SFT["policy"], SFT["reward"], RM, PPO)
POLICY_ONLY = Effect.of({"rm scale"}, PPO, may={"ppo samples"})
"""What changes the responses, those of score normalisation too, but nothing that is trained before."""
NOTHING = Effect.of(may=set())
SAMPLING = replace(POLICY_ONLY, stages=("rm", "ppo"))

SECTIONS = {
    "seed": ALL,
    "sft.policy": Effect.of(SFT["policy"], stages=("sft",)),
    "sft.reward": Effect.of(SFT["reward"], stages=("sft",)),
    "model.policy": Effect.of(SFT["policy"], {"rm scale"}, PPO, may={"ppo samples"}),
    "model.reward": Effect.of(SFT["reward"], RM, PPO),
    "rm": Effect.of(RM, stages=("rm",)),
    "ppo": Effect.of(PPO, stages=("ppo",)),
    "eval": Effect.of(may=set(), stages=("ppo",)),
    "memory": NOTHING,
}
"""By section, what a field changes that is in no table below."""

WITHOUT_CRITIC = Effect.of(PPO, stages=("ppo",))

EXCEPTIONS: dict[str, Effect] = {
    "model.policy.tokenizer": Effect.of(SFT["policy"], {"tokenizers", "rm scale"}, PPO, may={"ppo samples"}),
    # So little else that the few responses on which scores are normalised may stay the same.
    "model.policy.heads": Effect.of(SFT["policy"], PPO, may={"rm scale", "ppo samples"}),
    "model.policy.activation": Effect.of(SFT["policy"], PPO, may={"rm scale", "ppo samples"}),
    "model.policy.dtype": Effect.of(SFT["policy"], PPO, may={"rm scale", "ppo samples"}),
    "model.reward.tokenizer": Effect.of(SFT["reward"], RM, PPO, {"tokenizers"}),
    "sft.policy.save_every": Effect.of({"sft policy checkpoints"}, may=set(), stages=("sft",)),
    "sft.reward.save_every": Effect.of({"sft reward checkpoints"}, may=set(), stages=("sft",)),
    "rm.averaging": Effect.of(RM - {"rm log"}, stages=("rm",)),  # the training itself stays the same
    "rm.save_every": Effect.of({"rm checkpoints"}, may=set(), stages=("rm",)),
    "rm.eval_comparisons": Effect.of({"rm test"}, may={"rm validation"}, stages=("rm",)),
    "rm.eval_every": Effect.of({"rm validation"}, may=set(), stages=("rm",)),
    "rm.normalisation_samples": Effect.of({"rm scale"}, may=set(), stages=("rm",)),
    "ppo.temperature": SAMPLING,
    "ppo.min_new_tokens": SAMPLING,
    "ppo.stop_token": SAMPLING,
    "ppo.save_every": Effect.of({"ppo checkpoints"}, may=set(), stages=("ppo",)),
    "ppo.num_iterations": Effect.of(PPO, {"ppo checkpoints"}, stages=("ppo",)),
    "eval.every": Effect.of({"ppo validation", "ppo samples"}, may=set(), stages=("ppo",)),
    "eval.prompts": Effect.of({"ppo validation"}, may=set(), stages=("ppo",)),
    "eval.final_prompts": Effect.of({"ppo test"}, may=set(), stages=("ppo",)),
    "eval.samples": Effect.of({"ppo samples"}, may=set(), stages=("ppo",)),
}
"""Fields that change more, or less, than the others of their section."""


def alternatives(runs: TinyRuns) -> dict[str, list[tuple[Any, Effect | None]]]:
    """Other values for the fields for which `other_values` finds none, and what each must change where that is not what
    it is for the section."""
    other = runs.folder / "other-own"
    only_rm = Effect.of(RM, PPO)
    files = {"corpus": "files"}
    weights = [(str(runs.base().folder / "sft" / name), None) for name in ("policy", "reward")]
    return {
        "data.source": [("imdb", ALL)],
        "data.folder": [
            (str(runs.folder / "other-reviews"), ALL),
            (str(runs.folder / "moved-reviews"), NOTHING),
        ],
        "data.imdb_path": [
            (str(runs.folder / "other-imdb"), replace(ALL, corpus="imdb")),
            (str(runs.folder / "moved-imdb"), replace(NOTHING, corpus="imdb")),
        ],
        "data.demonstrations": [(str(other / "demonstrations.jsonl"), replace(ALL, **files))],
        "data.preferences": [(str(other / "preferences.jsonl"), replace(only_rm, **files))],
        "data.prompts": [
            (str(other / "prompts.jsonl"), replace(POLICY_ONLY, **files)),
            ("", replace(POLICY_ONLY, **files)),
        ],
        "data.train_split": [("other-train", replace(only_rm, corpus="hub"))],
        "data.validation_split": [("other-validation", Effect.of({"rm validation"}, may=set(), corpus="hub"))],
        "data.test_split": [("other-test", Effect.of({"rm test"}, may=set(), corpus="hub"))],
        "data.hold_out": [(0.3, replace(only_rm, **files)), (0.3, replace(POLICY_ONLY, corpus="hub"))],
        "data.query_length": [(16, POLICY_ONLY)],
        "data.response_length": [(8, POLICY_ONLY)],
        "data.min_crop_words": [(2, replace(only_rm, corpus="imdb"))],
        "data.crop_words": [(6, replace(only_rm, corpus="imdb"))],
        "data.limit": [(12, ALL), (20, replace(ALL, corpus="imdb")), (12, replace(ALL, **files))],
        "data.seed": [(7, replace(ALL, corpus="imdb")), (7, replace(ALL, corpus="files")), (7, NOTHING)],
        "model.policy.tokenizer": [(str(runs.folder / "other.tiktoken"), None), ("train:270", None)],
        "model.reward.tokenizer": [(str(runs.folder / "other.tiktoken"), None), ("train:270", None)],
        "model.policy.weights": weights[:1],
        "model.reward.weights": weights[1:],
        "sft.policy.tokens": [(5000, None)],
        "sft.reward.tokens": [(2000, None)],
        "sft.policy.batch_tokens": [(200, None)],
        "sft.reward.batch_tokens": [(150, None)],
        "rm.batch_size": [(5, None)],
        "rm.fraction": [(0.8, None)],
        "rm.averaging": [(0.9, None)],
        "rm.objective": [("labels", None)],
        "ppo.scorer": [("tests.pipeline.tiny_run:score_by_length", None)],
        "ppo.advantage": [(name, WITHOUT_CRITIC) for name in ("group", "leave-one-out", "batch")],
        "ppo.samples_per_prompt": [(4, None), (1, None)],
        "ppo.kl_target": [(0.01, None), (None, None)],
        "ppo.max_approx_kl": [(1e-5, None)],
        "ppo.max_ratio": [(1.004, None)],
        "ppo.stop_token": [("", None), (" is", None)],
        "ppo.missing_eos": [("off", None), ("subtract", None)],
    }


CLOSE = ("ppo.microbatch_size",)
"""Fields that change nothing but the rounding."""
REFUSING = ("data.unusable", "data.ignore", "rm.objective")
"""Fields whose other value refuses the data or the settings of the base run; test_labels.py has the objective."""


# ---------------------------------------------------------------------------------------------- fields


def leaves(config: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted names of all fields that are no sections, with their types."""
    config = Config() if config is None else config
    hints = typing.get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


FIELDS = dict(leaves())


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def other_values(name: str, kind: Any, value: Any) -> list[list[Any]]:
    """Other values that may be tried, by the type of the field: of each list the first one that is in order."""
    if kind is bool:
        return [[not value]]
    if typing.get_origin(kind) is Literal:
        return [[option] for option in typing.get_args(kind) if option != value]
    if isinstance(kind, types.UnionType) and value is not None:
        return [*other_values(name, float, value), [None]]
    if kind is int:
        return [[value + 1, 2 * value]]
    if kind is float and value:
        return [[1.5 * value, 0.5 * value]]
    raise LookupError(
        f"{name} has no other value to be tried: give one in `alternatives` of {__name__}.py, and in BASE of "
        "tiny_run.py a value of its own with which it acts"
    )


def in_order(config: Config) -> bool:
    try:
        check(config)
    except ValueError:
        return False
    return True


def variants(name: str, runs: TinyRuns, table: Mapping[str, Any]) -> list[tuple[Any, Effect]]:
    """The values to try for a field, and what each must change."""
    sections = [section for section in SECTIONS if f"{name}.".startswith(f"{section}.")]
    effect = EXCEPTIONS.get(name) or (SECTIONS[sections[0]] if sections else None)
    if name in table:
        found = [(value, own or effect) for value, own in table[name]]
    else:
        config = runs.settings("reviews")
        found = []
        for candidates in other_values(name, FIELDS[name], value_of(config, name)):
            valid = [value for value in candidates if in_order(changed(config, {name: value}))]
            if not valid:
                raise LookupError(f"{name}: none of {candidates} is in order; give a value in `alternatives`")
            found.append((valid[0], effect))
    if any(effect is None for _, effect in found):
        raise LookupError(f"{name} is of no section of SECTIONS: say there, or in `alternatives`, what it must change")
    return found


@pytest.fixture(scope="module")
def table(tiny_runs) -> dict[str, list[tuple[Any, Effect | None]]]:
    return alternatives(tiny_runs)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> set[str]:
    return {name for name in ours if ours[name] != theirs[name]}


# ---------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("corpus", ["reviews", "imdb", "files", "hub"])
def test_what_each_stage_of_the_base_run_did_is_what_its_fields_say(tiny_runs, corpus):
    run = tiny_runs.base(corpus)
    for exact in CHECKS.values():
        exact(run)


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in (*CLOSE, *REFUSING)])
def test_field_changes_what_it_concerns_and_nothing_else(tiny_runs, table, name):
    for value, effect in variants(name, tiny_runs, table):
        base = tiny_runs.base(effect.corpus)
        run = tiny_runs.run(effect.corpus, {name: value}, list(effect.stages))
        found = differences(outcome(run, effect.stages), outcome(base, effect.stages))
        said = f"{name} = {value!r} instead of {value_of(base.config, name)!r}"
        missing, more = sorted(effect.must - found), sorted(found - effect.must - effect.may)
        assert not missing, f"{said} does not change {missing}"
        assert not more, f"{said} changes {more}"
        for stage in effect.stages:
            if not (stage == "rm" and run.config.ppo.scorer):
                CHECKS[stage](run)


def test_microbatches_change_nothing_but_the_rounding(tiny_runs):
    base, run = tiny_runs.base(), tiny_runs.run("reviews", {"ppo.microbatch_size": 4}, ["ppo"])
    CHECKS["ppo"](run)
    for name in ("ppo log", "ppo validation"):
        for ours, theirs in zip(outcome(run, ["ppo"])[name], outcome(base, ["ppo"])[name], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    kept = {"ppo checkpoints"}
    assert not differences(outcome(run, ["ppo"]), outcome(base, ["ppo"])) & kept


def test_unusable_rows_are_dropped_or_refused(tiny_runs, capsys):
    tiny_runs.base("files")
    with pytest.raises(SystemExit) as end:
        tiny_runs.run("files", {"data.unusable": "refuse"}, ["sft"])
    assert end.value.code == 2
    assert "empty completion (data.unusable is refuse)" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        tiny_runs.run("files", {"data.ignore": "chosen"}, ["sft"])
    assert end.value.code == 2
    assert "preferences.jsonl has the columns rejected, prompt, but preferences need" in capsys.readouterr().err


@pytest.mark.parametrize(("stage", "sections"), [("sft", ("rm", "ppo", "eval")), ("rm", ("ppo", "eval"))])
def test_settings_of_later_stages_change_nothing_in_this_one(tiny_runs, table, stage, sections):
    changes: dict[str, Any] = {}
    config = tiny_runs.settings("reviews")
    for name in FIELDS:
        if name.split(".")[0] in sections and not (stage == "rm" and EXCEPTIONS.get(name) is SAMPLING):
            value = variants(name, tiny_runs, table)[0][0]
            if in_order(changed(config, {name: value})):
                config, changes[name] = changed(config, {name: value}), value
    assert len(changes) > 35
    run = tiny_runs.run("reviews", changes, [stage])
    found = differences(outcome(run, [stage]), outcome(tiny_runs.base(), [stage]))
    assert found <= {"rm scale"}  # the batches in which its responses are sampled are ppo.rollout_batch_size
    if "rm scale" in found:
        ours, theirs = (load_file(r.folder / "rm" / "heads.safetensors") for r in (run, tiny_runs.base()))
        assert all(torch.allclose(ours[key], theirs[key], rtol=1e-4, atol=1e-5) for key in ours)


def test_weight_decay_shrinks_matrices_that_get_no_gradient(tiny_runs):
    config = tiny_runs.base().config
    sections = {"sft": (config.sft.policy, config.sft.reward), "rm": (config.rm,), "ppo": (config.ppo,)}
    for stage, trained in sections.items():
        for section, record in zip(trained, tiny_runs.base().recordings[stage].optimizers, strict=True):
            share = (1 - record.lrs[0] * section.weight_decay) * (1 - record.lrs[1] * section.weight_decay)
            idle = [(before, after) for before, after in idle_weights(record) if len(before) > 50]
            assert idle  # positions that no text reaches
            for before, after in idle:
                torch.testing.assert_close(after, before * share, rtol=1e-6, atol=0)


def test_pretraining_term_has_the_weight_that_its_field_says(tiny_runs):
    """Only demonstrations reach the later positions, so the gradient there is proportional to `ppo.ptx_coef`."""
    base = tiny_runs.base()
    run = tiny_runs.run("reviews", {"ppo.ptx_coef": 3 * base.config.ppo.ptx_coef}, ["ppo"])
    gradients = []
    for each in (run, base):
        step = each.recordings["ppo"].optimizers[0].steps[0]
        context, channels = base.config.model.policy.context, base.config.model.policy.channels
        (positions,) = (g for g in step.gradients if g is not None and g.shape == (context, channels))
        longest = base.config.data.query_length + base.config.data.response_length
        gradients.append(positions[longest:] * step.unclipped / step.norm)
    assert gradients[1].abs().max() > 1e-4
    torch.testing.assert_close(gradients[0], 3 * gradients[1], rtol=1e-3, atol=1e-7)


# ---------------------------------------------------------------------------------------------- the tables


def test_tables_name_only_fields_that_exist(table):
    assert table.keys() | EXCEPTIONS.keys() | {*CLOSE, *REFUSING} <= FIELDS.keys()
    assert not EXCEPTIONS.keys() & {*CLOSE, *REFUSING}


def test_base_values_differ_from_the_defaults_and_from_each_other(tiny_runs):
    """A field that is read from elsewhere, or its default, cannot look right by chance."""
    numbers: dict[float, str] = {}
    for name, kind in FIELDS.items():
        value = value_of(tiny_runs.settings("reviews"), name)
        if kind is float or kind == float | None:
            assert value != value_of(Config(), name) or name == "data.hold_out", (
                f"{name}: BASE has its default, {value}"
            )
            assert value not in numbers, f"BASE gives {name} and {numbers[value]} the same value {value}"
            numbers[value] = name


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (bool, False, [[True]]),
        (int, 3, [[4, 6]]),
        (float, 0.5, [[0.75, 0.25]]),
        (Literal["a", "b", "c"], "b", [["a"], ["c"]]),
    ],
)
def test_other_values_follow_from_the_type(kind, value, expected):
    assert other_values("new.field", kind, value) == expected


@pytest.mark.parametrize(("kind", "value"), [(str, "words"), (float | None, None), (float, 0.0), (dict, {})])
def test_field_for_which_no_other_value_follows_is_named_with_what_to_add(kind, value):
    with pytest.raises(LookupError, match=r"^new.field has no other value .* `alternatives` .* BASE"):
        other_values("new.field", kind, value)


def test_field_of_a_new_section_is_named_with_what_to_add(tiny_runs, monkeypatch):
    monkeypatch.delitem(SECTIONS, "eval")
    with pytest.raises(LookupError, match=r"eval.new is of no section .*SECTIONS"):
        variants("eval.new", tiny_runs, {"eval.new": [(1, None)]})
