"""The evaluator: which policy answers which prompts with which numbers, and what is compared with what."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from minippo.answers import Answer, answer_stats, win_rate
from minippo.config import Config, DataConfig, PPOConfig
from minippo.errors import TrainingError
from minippo.evaluation import Evaluator
from minippo.rollout import sample_responses
from minippo.streams import response_uniforms
from tests.environment import environment

CONFIG = Config(
    data=DataConfig(response_length=8),
    ppo=PPOConfig(temperature=0.8, min_new_tokens=2, microbatch_size=7, rollout_batch_size=10),
    seed=5,
)
JUDGE = SimpleNamespace(
    gold_score=lambda prompt, response: float(len(response) % 7 - 3),
    split_sentences=lambda text: text.split("."),
    is_grammatical=lambda sentence: len(sentence) % 2 == 0,
)


@pytest.fixture
def evaluator(make_policy, queries, tokenizer, scorer):
    def made(split="validation", judge=JUDGE) -> Evaluator:
        env = environment(make_policy(1), scorer, tokenizer, CONFIG.ppo)
        return Evaluator(env, queries, split, judge, CONFIG)

    return made


@pytest.mark.parametrize("split", ["validation", "test"])
def test_answers_are_drawn_with_the_numbers_of_their_split(evaluator, make_policy, queries, tokenizer, split):
    env = evaluator().env
    uniforms = response_uniforms(5, f"{split} answers", 0, range(24), 8)
    expected = sample_responses(make_policy(0), queries, tokenizer, env.sampling, uniforms)
    answers = evaluator(split).answer(make_policy(0))
    assert [a.response for a in answers] == expected.response_texts
    assert [a.length for a in answers] == expected.response_mask.sum(dim=1).tolist()


def test_answers_are_sampled_in_batches_of_a_rollout(evaluator, make_policy, monkeypatch):
    sizes = []

    def sampled(policy, queries, *arguments):
        sizes.append(len(queries))
        return sample_responses(policy, queries, *arguments)

    monkeypatch.setattr("minippo.evaluation.sample_responses", sampled)
    evaluator().answer(make_policy(0))
    assert sizes == [10, 10, 4]


def test_answers_of_the_reference_are_its_own_and_sampled_once(evaluator):
    ours = evaluator()
    assert ours.reference_answers == ours.answer(ours.env.reference)
    assert ours.reference_answers is ours.reference_answers


def test_greedy_answers_take_the_likeliest_tokens_and_are_judged_as_samples_are(evaluator, make_policy):
    """Their log-probabilities are those at the temperature that training samples with, which is not 0."""
    ours, policy = evaluator(), make_policy(0)
    greedy, sampled, ends = ours.greedy(), ours.answer(policy), ours.env.sampling.end_ids
    answers = greedy.answer(policy)
    assert (greedy.queries, greedy.split, greedy.judge, greedy.config) == (ours.queries, ours.split, JUDGE, CONFIG)
    assert [a.response for a in answers] != [a.response for a in sampled] == [a.response for a in ours.answer(policy)]
    assert greedy.reference_answers == greedy.answer(ours.env.reference) != ours.reference_answers
    for query, answer in zip(ours.queries, answers, strict=True):
        ids, total = list(query), 0.0
        for step in range(answer.length):
            with torch.no_grad():
                logits = [m(torch.tensor([ids]))[0][0, -1].double() for m in (policy, ours.env.reference)]
            for each in logits if step < 2 else []:
                each[list(ends)] = -torch.inf
            ids.append(int(logits[0].argmax()))
            total += float((logits[1] / 0.8).log_softmax(dim=-1)[ids[-1]])
        assert answer.response == ours.env.tokenizer.decode(ids[len(query) :])
        assert answer.ended == (ids[-1] in ends)
        assert answer.ref_logprob == pytest.approx(total, abs=1e-4)


def test_curves_are_of_the_given_answers_and_compare_them_with_the_references(evaluator, make_policy):
    ours = evaluator()
    answers, reference = ours.answer(make_policy(0)), ours.reference_answers
    expected = answer_stats(answers, JUDGE) | {"win_rate": win_rate(answers, reference, JUDGE)}
    assert expected["win_rate"] not in (0.5, win_rate(answers, reference, None))
    assert ours.stats(answers) == {f"eval/{name}": value for name, value in expected.items()}
    assert ours.stats(reference)["eval/win_rate"] == 0.5


@pytest.mark.parametrize("judge", [JUDGE, None])
def test_summary_has_the_reference_before_and_the_policy_after(evaluator, make_policy, judge):
    ours = evaluator(judge=judge)
    answers = ours.answer(make_policy(0))
    before, after = answer_stats(ours.reference_answers, judge), answer_stats(answers, judge)
    expected = {
        "before": before,
        "after": after,
        "prompts": 24,
        "score_before": before["score"],
        "score_after": after["score"],
        "kl": after["kl"],
        "eos_rate": after["eos_rate"],
        "response_length": after["response_length"],
        "win_rate": win_rate(answers, ours.reference_answers, judge),
    }
    if judge:
        for key in ("gold", "gold_score"):
            expected |= {f"{key}_before": before[key], f"{key}_after": after[key]}
    assert ours.summary(answers) == expected
    assert before != after


def test_judge_is_told_the_prompt_of_every_response():
    asked = []
    judge = SimpleNamespace(
        gold_score=lambda *texts: float(asked.append(texts) or len(asked)),
        split_sentences=str.split,
        is_grammatical=bool,
    )
    ours, theirs = (
        [Answer(f"{n}:", f" {who}", 0.0, 0.0, 1, True, 0.0, 0.0) for n in range(2)] for who in ("us", "them")
    )
    answer_stats(ours, judge)
    assert asked == [("0:", " us"), ("1:", " us")]
    del asked[:]
    win_rate(ours, theirs, judge)
    assert sorted(asked) == [("0:", " them"), ("0:", " us"), ("1:", " them"), ("1:", " us")]


def test_a_score_that_is_not_finite_is_no_result(evaluator, make_policy):
    ours = evaluator()
    ours.env = replace(ours.env, scorer=lambda prompts, responses: torch.full((len(prompts),), torch.nan))
    with pytest.raises(TrainingError, match="score is nan"):
        ours.answer(make_policy(0))
