"""What a finished run reports, computed a second time from its files by `tests/independent.py`.

The exported models, config.yaml and the bundled data are read; answers, scores, KL, win rates, accuracies and losses
are computed anew and compared with answers.jsonl, summary.json, metrics.jsonl, samples.md and what was printed.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import json
import re

import numpy as np
import pytest
import scipy.stats

import train_ppo
import train_rm
from minippo import sft
from minippo.data import load_corpus
from minippo.runs import load_environment, load_run
from minippo.tools import evaluate, export
from minippo.tools.evaluate_texts import text_figures
from tests.pipeline import independent as second

# Every setting that shapes what is reported has a value that is neither its default nor that of a neighbour. The final
# prompts are answered in more than one batch, the samples for normalisation too.
SIZES = """
seed: 7
data: {limit: 400, query_length: 16, response_length: 14}  # and the folder of `second.shorten`
model:
  policy: {layers: 1, heads: 2, channels: 32, context: 40}
  reward: {layers: 2, heads: 4, channels: 24, context: 50}
sft:
  policy: {tokens: 110000, batch_tokens: 400, lr: 0.015}
  reward: {tokens: 20000, batch_tokens: 600, lr: 0.006}
rm:
  epochs: 2
  batch_size: 16
  lr: 0.004
  margin: 0.3
  label_smoothing: 0.1
  token_dropout: 0.05
  eval_comparisons: 300
  eval_every: 30
  normalisation_samples: 48
ppo:
  num_iterations: 4
  rollout_batch_size: 32
  num_epochs: 2
  num_minibatches: 4
  microbatch_size: 4
  lr: 0.006
  warmup: 0.2
  schedule: cosine
  weight_decay: 0.02
  adam_beta2: 0.95
  adam_eps: 0.0001
  kl_coef: 0.07
  kl_target: 3.0
  kl_horizon: 200
  gamma: 0.97
  lam: 0.9
  whiten_rewards: true
  clip_low: 0.15
  clip_high: 0.3
  value_clip: 0.4
  value_coef: 0.3
  entropy_coef: 0.003
  value_head: mlp
  ptx_coef: 0.1
  ptx_batch_size: 6
  temperature: 0.9
  min_new_tokens: 2
  stop_token: "."
  missing_eos: subtract
  missing_eos_score: 0.6
  score_clip: 1.2
  save_every: 2
eval: {every: 2, prompts: 24, final_prompts: 140, samples: 3}
"""

# The product computes in float32. Logits agree to about 1e-6; a score is a logit times a gain below 10, the KL of an
# answer the sum of at most 14 log-ratios.
TOLERANCE = 1e-4
PRINTED = 0.0005 + TOLERANCE  # three decimals


def command(main, *arguments: object) -> str:
    """Run a command; returns what it prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr("sys.argv", ["command", *map(str, arguments)])
        main()
    return printed.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> second.FinishedRun:
    """All three stages, exported."""
    folder = tmp_path_factory.mktemp("recomputed")
    second.shorten(folder / "data", 500)
    (folder / "sizes.yaml").write_text(SIZES)
    printed = ""
    for main in (sft.main, train_rm.main, train_ppo.main):
        arguments = ("--config", folder / "sizes.yaml", "--run-dir", folder / "run", "--device", "cpu")
        printed += command(main, *arguments, "--data.folder", folder / "data")
    command(export.main, "--run", folder / "run", "--out", folder / "exported")
    return second.FinishedRun(folder / "run", folder / "exported", printed)


@pytest.fixture(scope="module")
def before(run) -> list[dict]:
    return run.answered(run.reference, "test", run.settings.eval.final_prompts)


@pytest.fixture(scope="module")
def after(run) -> list[dict]:
    return run.answered(run.policy, "test", run.settings.eval.final_prompts)


@pytest.fixture(scope="module")
def raw_scores(run) -> dict[str, list[list[float]]]:
    return {split: run.logits(split) for split in second.SPLITS}


def same(row: dict, expected: dict) -> bool:
    """Whether an answer is the expected one: its text exactly, its numbers but for rounding."""
    return row.keys() == expected.keys() and all(
        row[name] == (pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value)
        for name, value in expected.items()
    )


def close(expected: dict[str, float], abs: float = TOLERANCE):
    return {name: pytest.approx(value, abs=abs) for name, value in expected.items()}


# ---------------------------------------------------------------------------------------------- the policy


def test_answers_are_those_of_the_policy_and_of_the_reference_to_the_first_test_prompts(run, before, after):
    assert len(run.answers) == run.settings.eval.final_prompts == 140
    texts = [row["prompt"] for row in second.read(run.settings, "prompts-test")]
    fitting = [text for text in texts if len(run.tokenizer.ids(text)) <= run.settings.data.query_length]
    assert len(fitting) < len(texts)
    assert [row["prompt"] for row in run.answers] == fitting[:140]
    assert [row["query"] for row in run.answers] == [run.tokenizer.ids(text) for text in fitting[:140]]
    for row, old, new in zip(run.answers, before, after, strict=True):
        assert row.keys() == {"prompt", "query", "before", "after"}
        assert same(row["before"], old), (row["before"], old)
        assert same(row["after"], new), (row["after"], new)


def test_answers_obey_the_sampling_settings(after, before):
    """The settings do something here: some answers end early, some not at all, none in its first two tokens."""
    for rows in (before, after):
        assert {row["ended"] for row in rows} == {True, False}
        assert min(row["length"] for row in rows) > 2
        assert all(row["ended"] or row["length"] == 14 for row in rows)
        assert any(row["response"].endswith(".") for row in rows)


def test_scores_are_the_exported_classifiers_logit_times_gain_plus_bias(run):
    for row in run.answers:
        for answer in (row["before"], row["after"]):
            logit = run.scorer(run.scorer.rows([answer["prompt"]], [answer["response"]])).item()
            assert answer["score"] == pytest.approx(run.scorer.gain * logit + run.scorer.bias, abs=TOLERANCE)
    assert abs(run.scorer.gain - 1) > 0.05
    assert abs(run.scorer.bias) > 0.05


def test_summary_holds_the_means_of_these_answers(run, before, after):
    old, new = second.figures(before), second.figures(after)
    assert run.summary["before"] == close(old)
    assert run.summary["after"] == close(new)
    assert run.summary["prompts"] == 140
    expected = {f"{name}_before": old[name] for name in ("score", "gold", "gold_score")}
    expected |= {f"{name}_after": new[name] for name in ("score", "gold", "gold_score")}
    expected |= {name: new[name] for name in ("kl", "eos_rate", "response_length")}
    expected["win_rate"] = second.win_rate(after, before)
    assert {name: run.summary[name] for name in expected} == close(expected)
    assert 0 < old["grammatical"] < 1  # else the comparison would say little
    assert new["kl"] > 1


def test_printed_report_shows_these_figures_and_answers(run, before, after):
    old, new = second.figures(before), second.figures(after)
    titles = {
        "score (trained on)": "score", "gold score": "gold_score", "judged positive": "gold",
        "KL to the reference, nats": "kl", "length, tokens": "response_length", "ends by itself": "eos_rate",
        "grammatical sentences": "grammatical", "distinct bigrams": "distinct_2",
    }  # fmt: skip
    header, _, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table_of(run.printed))
    assert header == ["", "before", "after"]
    assert [row[0] for row in cells] == list(titles)
    for title, was, now in cells:
        assert float(was) == pytest.approx(old[titles[title]], abs=PRINTED)
        assert float(now) == pytest.approx(new[titles[title]], abs=PRINTED)
    wins = number_after(r"wins against the reference's answer, by the gold score", run.printed)
    assert wins == pytest.approx(second.win_rate(after, before), abs=PRINTED)
    assert f"{run.folder}: 140 held-out prompts (" in run.printed
    assert shown(run.printed.split(table_of(run.printed)[-1])[1]) == samples_of(before, after, 3)


def table_of(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("|")]


def number_after(words: str, printed: str) -> float:
    (number,) = re.findall(words + r":? (-?[\d.]+\d)", printed)
    return float(number)


def shown(markdown: str) -> list[tuple[str, str, float, str]]:
    """Prompt, label, score and text of each answer that a report shows."""
    rows, prompt = [], ""
    for line in markdown.splitlines():
        if line.startswith("> "):
            prompt = line[2:]
        elif found := re.fullmatch(r"- (before|after) \(([+-][\d.]+)\): (.*)", line):
            rows.append((prompt, found[1], pytest.approx(float(found[2]), abs=0.005 + TOLERANCE), found[3]))
    return rows


def samples_of(before: list[dict], after: list[dict], number: int) -> list[tuple[str, str, float, str]]:
    return [
        (row["prompt"], label, row["score"], row["response"].strip())
        for pair in zip(before[:number], after[:number], strict=True)
        for label, row in zip(("before", "after"), pair, strict=True)
    ]


def test_evaluations_during_training_are_those_of_the_checkpoints_on_validation_prompts(run):
    lines = {line["step"]: line for line in run.metrics("ppo")}
    validation = run.queries["validation"][:24]
    assert not {tuple(ids) for ids in validation} & {tuple(row["query"]) for row in run.answers}
    before = run.answered(run.reference, "validation", 24)
    models = {0: run.reference}
    models |= {step: second.Policy(run.folder / f"ppo/step-{step:06d}/model") for step in (2, 4)}
    _, *sections = (run.folder / "samples.md").read_text(encoding="utf-8").split("## After iteration ")
    assert [int(section.split()[0]) for section in sections] == [2, 4]
    for step, model in models.items():
        answers = run.answered(model, "validation", 24)
        expected = second.figures(answers) | {"win_rate": second.win_rate(answers, before)}
        logged = {name[5:]: value for name, value in lines[step].items() if name.startswith("eval/")}
        assert logged == close(expected), step
        if step:
            assert shown(sections[step // 2 - 1]) == samples_of(before, answers, 3)
    assert [step for step, line in lines.items() if "eval/score" in line] == [0, 2, 4]


# ---------------------------------------------------------------------------------------------- the reward model


def test_accuracy_limit_and_calibration_are_those_of_the_test_comparisons(run, raw_scores):
    texts = second.comparisons(run.settings, "test")
    rows, kept = second.compared(run.scorer, texts)
    assert len(raw_scores["test"]) < len(rows) == len(kept) < len(texts)  # some are too long, not all are asked about
    assert {len(row) for row in raw_scores["test"]} == {2, 3}
    differences = second.pairs(raw_scores["test"])
    accuracy, limit = float((differences > 0).mean()), run.accuracy_limit("test")
    bins = second.calibration(differences)
    error = second.calibration_error(bins)
    assert run.summary["rm_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert run.summary["rm_accuracy_limit"] == pytest.approx(limit, abs=1e-9)
    assert len(bins) >= 3
    assert run.summary["rm_calibration"] == [close(b) for b in bins]
    assert run.summary["rm_calibration_error"] == pytest.approx(error, abs=TOLERANCE)
    stage_line, report_line = (line for line in run.printed.splitlines() if "held-out accuracy" in line)
    for line in (stage_line, report_line):
        assert number_after("held-out accuracy", line) == pytest.approx(accuracy, abs=PRINTED)
        assert number_after("best possible", line) == pytest.approx(limit, abs=PRINTED)
        assert number_after("calibration error", line) == pytest.approx(error, abs=PRINTED)


def test_logged_accuracy_is_that_of_the_validation_comparisons(run, raw_scores):
    lines = run.metrics("rm")
    measured = [line["step"] for line in lines if "eval/accuracy" in line]
    assert measured == sorted({*range(30, len(lines) + 1, 30), len(lines)})
    accuracy = float((second.pairs(raw_scores["validation"]) > 0).mean())
    assert lines[-1]["eval/accuracy"] == pytest.approx(accuracy, abs=1e-9)


def test_references_normalisation_samples_have_mean_0_and_variance_1(run):
    scores = run.normalisation_scores(run.reference)
    assert len(scores) == 48
    assert scores.mean() == pytest.approx(0, abs=TOLERANCE)
    assert scores.std() == pytest.approx(1, abs=TOLERANCE)


# ---------------------------------------------------------------------------------------------- evaluate

NUM_PROMPTS = 40


@pytest.fixture(scope="module", params=["validation", "test"])
def evaluated(request, run, tmp_path_factory) -> dict:
    """The figures of `evaluate` on a split, and what it prints."""
    path = tmp_path_factory.mktemp("evaluated") / "figures.json"
    given = ("--run", run.folder, "--device", "cpu", "--split", request.param, "--out", path)
    printed = command(evaluate.main, *given, "--prompts", NUM_PROMPTS)
    return json.loads(path.read_text()) | {"printed": printed}


def values(estimates: dict) -> dict[str, float]:
    return {name: each["value"] for name, each in estimates.items()}


def test_evaluate_compares_policy_and_reference_on_the_first_prompts_of_the_split(run, evaluated):
    before, after = (run.answered(model, evaluated["split"], NUM_PROMPTS) for model in (run.reference, run.policy))
    found = evaluated["sampled"]
    assert found["prompts"] == NUM_PROMPTS
    assert found["win_rate"]["value"] == pytest.approx(second.win_rate(after, before))
    old, new = second.figures(before), second.figures(after)
    assert old.keys() == new.keys() == found["metrics"].keys()
    for name, estimates in found["metrics"].items():
        expected = {"reference": old[name], "policy": new[name], "difference": new[name] - old[name]}
        assert values(estimates) == close(expected), name
    for name in ("score", "kl", "exact_kl", "eos_rate", "gold_score"):
        columns = [[second.figures([row])[name] for row in rows] for rows in (before, after)]
        differences = np.subtract(*reversed(columns))
        errors = [np.std(x) / NUM_PROMPTS**0.5 for x in (*columns, differences)]
        stated = [each["standard_error"] for each in found["metrics"][name].values()]
        assert stated == pytest.approx(errors, rel=0.1, abs=1e-4), name


def test_evaluate_also_takes_the_likeliest_tokens(run, evaluated):
    settings, answers = copy.deepcopy(run.settings), {}
    settings.ppo.temperature = 1e-6
    queries = run.queries[evaluated["split"]][:NUM_PROMPTS]
    draws = second.uniforms(1, "of no account", 0, range(NUM_PROMPTS), settings.data.response_length)
    for name, model in (("reference", run.reference), ("policy", run.policy)):
        rows = second.answers(model, run.reference, run.scorer, queries, draws, settings, run.tokenizer)
        answers[name] = second.figures([row | {"ref_logprob": 0.0} for row in rows])
    found, sampled = evaluated["greedy"]["metrics"], evaluated["sampled"]["metrics"]
    assert found.keys() == sampled.keys() - {"kl", "exact_kl"}
    for name in found.keys() - {"perplexity"}:  # it is that of the distribution that is otherwise sampled from
        expected = {who: answers[who][name] for who in answers}
        assert values(found[name]) == close(expected | {"difference": expected["policy"] - expected["reference"]}), name
    assert 1 < found["perplexity"]["reference"]["value"] < sampled["perplexity"]["reference"]["value"]


def test_evaluate_measures_the_reward_model_on_the_comparisons_of_the_split(run, evaluated, raw_scores):
    split, found = evaluated["split"], evaluated["reward_model"]
    scores, texts = raw_scores[split], second.comparisons(run.settings, split)
    rows, kept = second.compared(run.scorer, texts)
    gold = [[second.gold_score(texts[i][0], text) for text in texts[i][1]] for i in kept[: len(scores)]]
    margins, clear = second.pairs(scores), second.pairs(gold)
    lengths = second.pairs([[len(ids) for ids in row] for row in rows[: len(scores)]])
    expected = {
        "accuracy": (margins > 0).mean(),
        "best_possible": run.accuracy_limit(split),
        "gold_agreement": (margins * clear > 0)[clear != 0].mean(),
        "gold_rank_correlation": scipy.stats.spearmanr(np.concatenate(scores), np.concatenate(gold))[0],
    }
    assert {name: found[name]["value"] for name in expected} == close(expected)
    assert (found["comparisons"], found["pairs"]) == (len(scores), len(margins))
    error = second.calibration_error(second.calibration(margins))
    assert found["calibration_error"] == pytest.approx(error, abs=TOLERANCE)
    # Waiting times with the rates exp(score) rank completions as the model says; the shortest is the best.
    draw, chance = np.random.default_rng(0), []
    for _ in range(300):
        waits = [draw.exponential(np.exp(-np.array(row))) for row in scores]
        simulated = [[row[i] for i in np.argsort(times)] for row, times in zip(scores, waits, strict=True)]
        chance.append(second.calibration_error(second.calibration(second.pairs(simulated))))
    assert found["calibration_floor"]["mean"] == pytest.approx(np.mean(chance), rel=0.1)
    assert found["calibration_floor"]["high"] == pytest.approx(np.quantile(chance, 0.95), rel=0.15)
    for name, x in (("margin", abs(margins)), ("length_difference", lengths), ("gold_margin", abs(clear))):
        assert sum(group["pairs"] for group in found[name]) == len(margins)
        assert len(found[name]) == 4
        for group in found[name]:
            chosen = (x >= group["low"] - TOLERANCE) & (x <= group["high"] + TOLERANCE)
            assert abs(group["pairs"] - chosen.sum()) <= 1  # at an edge, TOLERANCE may include another pair
            assert group["accuracy"]["value"] == pytest.approx((margins > 0)[chosen].mean(), abs=2 / group["pairs"])


def test_evaluate_measures_what_the_policy_has_lost_as_a_language_model(run, evaluated):
    found, perplexities = dict(evaluated["texts"]), {}
    texts = second.demonstrations(run.settings)[evaluated["split"]][:NUM_PROMPTS]
    rows = [second.demonstration_ids(run.tokenizer, "policy", *text) for text in texts]
    for name, model in (("reference", run.reference), ("policy", run.policy)):
        pieces = [second.windows([row], model.context) for row in rows]
        counts = np.array([sum(len(piece) - piece.first_predicted for piece in of_text) for of_text in pieces])
        losses = counts * [second.language_model_loss(model, of_text).item() for of_text in pieces]
        perplexities[name] = np.exp(losses.sum() / counts.sum())
        drawn = np.array(list(itertools.product(range(len(texts)), repeat=len(texts))))  # every possible resample
        deviation = np.exp(losses[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).std()
        assert found[name]["standard_error"] == pytest.approx(deviation, rel=0.06)
    assert found.pop("texts") == len(texts) == 4
    assert max(map(len, pieces)) > 1  # a text that is longer than the context
    expected = perplexities | {"difference": perplexities["policy"] - perplexities["reference"]}
    assert values(found) == close(expected)
    loaded = load_run(run.folder, "cpu")
    env = load_environment(loaded)
    fewer = text_figures(loaded, load_corpus(loaded.config), env, env.reference, evaluated["split"], 2)
    assert (fewer["texts"], fewer["difference"]["high"]) == (2, 0)


def test_evaluate_prints_these_figures_and_says_what_they_do_not_show(evaluated):
    parts = evaluated["printed"].split(f"{evaluated['run']}, ")[1:]
    for part, name in zip(parts, ("sampled", "greedy"), strict=False):
        assert part.startswith(f"{name} answers: {NUM_PROMPTS} {evaluated['split']} prompts\n")
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table_of(part)]
        metrics, wins = evaluated[name]["metrics"], evaluated[name]["win_rate"]
        assert cells[0] == ["", "reference", "policy", "policy - reference"]
        titles = dict(zip(metrics, (row[0] for row in cells[2:]), strict=True))
        for (_, *row), estimates in zip(cells[2:], metrics.values(), strict=True):
            assert row == [f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]" for e in estimates.values()]
        unknown = [m for m, e in metrics.items() if e["difference"]["low"] <= 0 <= e["difference"]["high"]]
        assert f"contains 0) for: {', '.join(titles[m] for m in unknown)}\n" in part
        assert number_after("by the gold score", part) == pytest.approx(wins["value"], abs=PRINTED)
        assert ("neither is shown to be better" in part) == (wins["low"] <= 0.5 <= wins["high"])
    texts = [f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]" for e in list(evaluated["texts"].values())[1:]]
    line = f": reference {texts[0]}, policy {texts[1]}, policy - reference {texts[2]}\n\n"
    assert parts[2].startswith(f"perplexity of 4 {evaluated['split']} texts (from 4 texts only")
    assert parts.pop(2).endswith(line)
    rewards = evaluated["reward_model"]
    assert parts[2].startswith(f"reward model: 300 {evaluated['split']} comparisons, {rewards['pairs']} pairs\n")
    for words, name in (("accuracy", "accuracy"), ("the gold score", "gold_agreement"),
                        ("rank correlation", "gold_rank_correlation")):  # fmt: skip
        assert number_after(words, parts[2]) == pytest.approx(rewards[name]["value"], abs=PRINTED)
    too_large = rewards["calibration_error"] > rewards["calibration_floor"]["high"]
    assert ("more than chance explains" if too_large else "no miscalibration is shown") in parts[2]
    assert len(table_of(parts[2])) == 2 + 3 * 4


# ---------------------------------------------------------------------------------------------- the language models


def test_losses_of_the_language_models_are_those_of_the_held_out_demonstrations(run):
    for name in ("policy", "reward"):
        losses = {split: run.language_model_loss(name, split) for split in ("validation", "test")}
        assert run.summary[f"sft_{name}_loss"] == pytest.approx(losses["test"], abs=TOLERANCE)
        *_, last = run.metrics(f"sft-{name}")
        assert last["eval/loss"] == pytest.approx(losses["validation"], abs=TOLERANCE)


# ---------------------------------------------------------------------------------------------- roles swapped
# What the tests above would compare if the product had taken one thing for another: far from what it reports, so they
# would fail.

FAR = 10 * TOLERANCE


def test_other_models_draws_and_settings_give_other_answers(run, before):
    def asked(model: second.Policy, split: str = "test", seed: int = 7, shift: int = 0, **changed) -> list[str]:
        settings = copy.deepcopy(run.settings)
        vars(settings.ppo).update(changed)
        draws = second.uniforms(seed, f"{split} answers", 0, range(shift, shift + 60), settings.data.response_length)
        rows = second.answers(
            model, run.reference, run.scorer, run.queries["test"][:60], draws, settings, run.tokenizer
        )
        return [row["response"] for row in rows]

    stated = [row["after"]["response"] for row in run.answers[:60]]
    assert asked(run.policy) == stated
    wrong = {
        "the reference": [row["response"] for row in before[:60]],
        "an earlier checkpoint": asked(second.Policy(run.folder / "ppo/step-000002/model")),
        "the draws of another split": asked(run.policy, split="validation"),
        "another seed": asked(run.policy, seed=1),
        "the draws of the next prompt": asked(run.policy, shift=1),
        "the default temperature": asked(run.policy, temperature=1.0),
        "ends from the first token on": asked(run.policy, min_new_tokens=0),
        "no stop token": asked(run.policy, stop_token=""),
    }
    for name, texts in wrong.items():
        assert texts != stated, name


def test_swapped_roles_give_other_figures(run, before, after, raw_scores):
    summary, (reference, *_, last) = run.summary, run.metrics("ppo")
    texts = ([row["after"][key] for row in run.answers] for key in ("prompt", "response"))
    logits = (run.scorer.scores(*texts) - run.scorer.bias) / run.scorer.gain
    differences = {split: second.pairs(scores) for split, scores in raw_scores.items()}
    accuracy = {split: float((x > 0).mean()) for split, x in differences.items()}
    scores_won = np.mean([0.5 + 0.5 * np.sign(a["score"] - b["score"]) for a, b in zip(after, before, strict=True)])

    def error(differences: np.ndarray) -> float:
        return second.calibration_error(second.calibration(differences))

    def evaluated(model: second.Policy, split: str) -> float:
        return second.figures(run.answered(model, split, 24))["score"]

    wrong = [
        ("before and after", summary["score_after"], summary["score_before"]),
        ("before and after, gold", summary["gold_score_after"], summary["gold_score_before"]),
        ("raw scores", summary["score_after"], float(logits.mean())),
        ("the reference's win rate", summary["win_rate"], second.win_rate(before, after)),
        ("win rate by the trained score", summary["win_rate"], float(scores_won)),
        ("gold score without the prompt", summary["gold_score_after"],
         np.mean([second.gold_score("", row["response"]) for row in after])),
        ("validation accuracy at the end", summary["rm_accuracy"], accuracy["validation"]),
        ("training accuracy at the end", summary["rm_accuracy"], accuracy["train"]),
        ("worse before better", summary["rm_accuracy"], 1 - accuracy["test"]),
        ("test accuracy in training", run.metrics("rm")[-1]["eval/accuracy"], accuracy["test"]),
        ("training accuracy in training", run.metrics("rm")[-1]["eval/accuracy"], accuracy["train"]),
        ("validation comparisons for the limit", summary["rm_accuracy_limit"], run.accuracy_limit("validation")),
        ("calibration of normalised scores", summary["rm_calibration_error"],
         error(run.scorer.gain * differences["test"])),
        ("validation calibration", summary["rm_calibration_error"], error(differences["validation"])),
        ("worse minus better", summary["rm_calibration_error"], error(-differences["test"])),
        ("test prompts in training", last["eval/score"], evaluated(run.policy, "test")),
        ("training prompts in training", last["eval/score"], evaluated(run.policy, "train")),
        ("the reference in training", last["eval/score"], reference["eval/score"]),
        ("the policy at step 0", reference["eval/score"], evaluated(run.policy, "validation")),
        ("loss of the policy after PPO", summary["sft_policy_loss"],
         run.language_model_loss("policy", "test", run.policy)),
        ("scores normalised on the policy", 0, run.normalisation_scores(run.policy).mean()),
        ("on validation prompts", 0, run.normalisation_scores(run.reference, split="validation").mean()),
        ("on draws of the rollouts", 0, run.normalisation_scores(run.reference, stream="rollout").mean()),
    ]  # fmt: skip
    for name in ("policy", "reward"):
        for split in ("train", "validation"):
            loss = run.language_model_loss(name, split)
            wrong.append((f"{split} loss of the {name}", summary[f"sft_{name}_loss"], loss))
    for name, reported, other in wrong:
        assert abs(reported - other) > FAR, (name, reported, other)
