"""What is said about a run, against counting by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from minippo.answers import Answer, answer_stats, distinct_n, repeated_share, win_rate
from minippo.config import Config, DataConfig, EvalConfig, PPOConfig
from minippo.evaluation import Evaluator
from minippo.runs import Run, read_answers, run_report, side_by_side, table
from tests.environment import environment
from tests.stored import sealed_stage


def said(
    response: str, *, score=0.0, kl=0.0, length=1, ended=True, prompt="P:", exact_kl=0.0, ref_logprob=0.0
) -> Answer:
    return Answer(prompt, response, score, kl, length, ended, exact_kl, ref_logprob)


# Gold: how many "good" minus how many "bad". A sentence is grammatical where it ends in a full stop.
JUDGE = SimpleNamespace(
    gold_score=lambda prompt, response: float(response.count("good") - response.count("bad")),
    split_sentences=lambda text: [part for part in text.split("|") if part],
    is_grammatical=lambda sentence: sentence.endswith("."),
)


def test_distinct_bigrams_are_counted_over_all_texts_but_not_across_them():
    assert distinct_n(["a b a b", "b a"], 2) == 2 / 4  # ab ba ab | ba
    assert distinct_n(["a b c"], 1) == 1
    assert distinct_n(["a", ""], 2) == 0


def test_repetition_is_the_share_of_4_grams_that_have_been_said_before():
    assert repeated_share("so it is so it is so it is") == 3 / 6  # of six, three are new: so, it and is come first
    assert repeated_share("a a a a a a") == pytest.approx(2 / 3)
    assert repeated_share("a b c d a b c") == repeated_share("a b c") == repeated_share("") == 0
    assert answer_stats([said("a a a a a a"), said("b")], None)["repetition"] == pytest.approx(1 / 3)


def test_win_counts_one_and_tie_half_by_the_gold_score():
    ours = [said("good", score=-9), said("bad", score=9), said("x", score=9), said("good good")]
    theirs = [said("x"), said("x"), said("x"), said("good")]
    assert win_rate(ours, theirs, JUDGE) == (1 + 0 + 0.5 + 1) / 4


def test_win_is_by_the_score_where_there_is_no_judge():
    ours = [said("", score=1.0), said("", score=-1.0), said("", score=0.5), said("", score=2.0), said("", score=1.0)]
    theirs = [said("", score=0.0), said("", score=0.0), said("", score=0.5), said("", score=3.0), said("", score=0.9)]
    assert win_rate(ours, theirs, None) == (1 + 0 + 0.5 + 0 + 1) / 5


def test_figures_are_means_over_answers_and_over_sentences():
    answers = [
        said("good one.|bad", score=1.0, kl=2.0, length=4, ended=True, exact_kl=1.5, ref_logprob=-3.0),
        said("good good. good good. good.", score=-0.5, kl=1.0, length=6, ended=False, exact_kl=1, ref_logprob=-9.0),
        said("", score=0.25, kl=-0.5, length=1, ended=True, exact_kl=0.25, ref_logprob=-2.0),
    ]
    assert answer_stats(answers, JUDGE) == pytest.approx(
        {
            "score": 0.25,
            "kl": 2.5 / 3,
            "eos_rate": 2 / 3,
            "response_length": 11 / 3,
            "exact_kl": 2.75 / 3,
            "perplexity": math.exp(14 / 11),  # of all tokens, not the mean of the answers' perplexities
            "distinct_1": 3 / 7,
            "distinct_2": 4 / 5,
            "distinct_3": 1.0,
            "repetition": 0.0,
            "gold": 1 / 3,  # one of three is above 0; 0 is not
            "gold_score": 5 / 3,
            "grammatical": 2 / 3,  # two of three sentences; the empty answer has none
        }
    )


def test_figures_without_a_judge_leave_its_figures_out():
    assert answer_stats([said("a b")], JUDGE).keys() - answer_stats([said("a b")], None).keys() == {
        "gold",
        "gold_score",
        "grammatical",
    }


def settings(ppo: PPOConfig, seed: int = 5) -> Config:
    return Config(data=DataConfig(response_length=8), ppo=ppo, seed=seed)


@pytest.fixture
def answers_of(make_policy, queries, tokenizer, scorer, ppo_config):
    def answered(policy=None, *, reference=None, config=ppo_config, seed=5, split="test", batch_size=128):
        policy = policy or make_policy(0)
        reference = reference or make_policy(1)
        env = environment(reference, scorer, tokenizer, config)
        config = replace(config, rollout_batch_size=batch_size)
        return Evaluator(env, queries, split, None, settings(config, seed)).answer(policy)

    return answered


def test_every_prompt_is_answered_once_in_order(answers_of, queries, tokenizer, scorer):
    for batch_size in (128, 5):
        answers = answers_of(batch_size=batch_size)
        assert [a.prompt for a in answers] == [tokenizer.decode(query) for query in queries]
        scores = scorer([a.prompt for a in answers], [a.response for a in answers]).tolist()
        assert [a.score for a in answers] == scores
        assert {a.ended for a in answers} == {True, False}
        assert all(a.length == 8 for a in answers if not a.ended)


def test_log_probabilities_and_kl_of_an_answer_are_those_of_its_tokens(make_policy, queries, answers_of, tokenizer):
    policy, reference = make_policy(0), make_policy(1)
    temperature = 0.7
    config = replace(Config().ppo, temperature=temperature, microbatch_size=7)
    drawn = []

    def spy(prompts, responses):
        return torch.zeros(len(prompts))

    env = environment(reference, spy, tokenizer, config)
    answers = Evaluator(env, queries, "test", None, settings(config)).answer(policy)
    for query, found in zip(queries, answers, strict=True):
        ids = tokenizer.encode(found.response) + [tokenizer.eos_id] * found.ended
        if len(ids) != found.length or tokenizer.decode(ids) != found.response:
            continue  # drawn as other tokens than the encoder would choose
        with torch.no_grad():
            logits = [model(torch.tensor([query + ids]))[0][0].double() / temperature for model in (policy, reference)]
        p, q = (torch.log_softmax(x, dim=-1)[len(query) - 1 : -1] for x in logits)  # (tokens, V)
        ours, theirs = (sum(x[t, token].item() for t, token in enumerate(ids)) for x in (p, q))
        assert found.kl == pytest.approx(ours - theirs, abs=1e-4)
        assert found.ref_logprob == pytest.approx(theirs, abs=1e-4)
        assert found.exact_kl == pytest.approx((p.exp() * (p - q)).sum().item(), abs=1e-4)
        drawn.append(found)
    assert len(drawn) >= 4
    assert any(abs(found.kl) > 0.5 for found in drawn)


def test_reference_has_no_kl_to_itself(answers_of, make_policy):
    reference = make_policy(1)
    assert {(a.kl, a.exact_kl) for a in answers_of(reference, reference=reference)} == {(0.0, 0.0)}


def test_answers_depend_on_the_seed_alone_and_disturb_no_other_draw(answers_of, make_policy):
    policy, reference = make_policy(0), make_policy(1)
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    first = answers_of(policy, reference=reference)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(12)
    assert answers_of(policy, reference=reference) == first
    assert answers_of(policy, reference=reference, seed=6) != first
    assert answers_of(policy, reference=reference, split="validation") != first
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_dropout_is_off_while_answering(answers_of, make_policy):
    assert answers_of(make_policy(0, dropout=0.5).train()) == answers_of(make_policy(0))


def test_minimum_length_holds_while_answering(answers_of, ppo_config):
    assert min(a.length for a in answers_of(config=replace(ppo_config, min_new_tokens=5))) > 5 - 1
    assert min(a.length for a in answers_of()) == 1


def test_table_sets_both_columns_side_by_side():
    before, after = ({"score": 0.5, "kl": 0.0}, {"score": 1.25, "kl": 7.0})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(before, after).splitlines()]
    assert rows[0] == ["", "before", "after"]
    assert rows[2:] == [["score (trained on)", "0.500", "1.250"], ["KL to the reference, nats", "0.000", "7.000"]]


def test_samples_show_both_answers_to_the_first_prompts():
    before = [said(" dull", score=-1, prompt="One:"), said(" x", prompt="Two:")]
    after = [said(" fun ", score=2, prompt="One:"), said(" y", prompt="Two:")]
    assert side_by_side(before, after, 1) == "> One:\n\n- before (-1.00): dull\n- after (+2.00): fun"
    assert side_by_side(before, after, 0) == ""


@pytest.mark.parametrize("judged", [True, False])
def test_report_reads_back_any_text(tmp_path, judged):
    """A byte-level policy may draw any character, among them those that Python takes for line ends."""
    strange = "a\u2028b\u0085c\x0bd\re\nf\ufffd\U0001f600"
    answers = [said(strange, prompt="One:", score=0.5), said("second", prompt="Two:")]
    lines = [
        json.dumps({"prompt": a.prompt, "before": asdict(a), "after": asdict(a)}, ensure_ascii=False) for a in answers
    ]
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = answer_stats(answers, JUDGE if judged else None)
    run = Run(tmp_path, replace(Config(), eval=EvalConfig(samples=1)), "cpu")
    more = {"gold_after": 1.0} if judged else {}
    more |= {"before": found, "after": found, "rm_accuracy": 0.7, "rm_accuracy_limit": None, "win_rate": 0.5}
    sealed_stage(run.stage("ppo"), results=more, stage_seconds=3.0)
    text = run_report(run)
    assert "2 held-out prompts (ppo 3 s)" in text
    assert "held-out accuracy 0.700\n" in text
    assert f"by {'the gold score' if judged else 'the reward model'}: 0.500" in text
    assert read_answers(run)[0]["after"]["response"] == strange
    shown = text[text.index("> One:") :].splitlines()  # each further line indented, so that none ends its block
    lines = ["  b", "  c", "  d", "  e", "  f\ufffd\U0001f600"]
    assert shown[2:] == ["- before (+0.50): a", *lines, "- after (+0.50): a", *lines]
    assert "second" not in text
    assert not math.isnan(found["score"])
