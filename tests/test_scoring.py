"""The reward model as a scorer: one score a text, whatever else is in the batch, from a model that never trains."""

import math
import re

import pytest
import torch

from minippo.errors import TrainingError
from minippo.heads import RewardModel
from minippo.model import GPT, GPTConfig
from minippo.scoring import RewardScorer, num_cut, score_texts, score_tokens
from minippo.tokenizer import reward_tokens, train_bpe
from minippo.tokenizer.vocab_json import END_OF_TEXT

PROMPTS = ["The film", "Well,", "", "I think that the film", "The", "Never before", "It"]
RESPONSES = [" was good.", " no.", "Bad!", " was the very best of them all.", " end", "", f" is {END_OF_TEXT} odd"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe([p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)], 280)


@pytest.fixture
def reward_model(tokenizer):
    config = GPTConfig(tokenizer.vocab_size, context=48, layers=2, heads=2, channels=16, dropout=0.3)
    model, generator = RewardModel(GPT(config)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        model.gain.fill_(2.0), model.bias.fill_(-0.5)
    return model.train()


@torch.no_grad()
def scores_one_by_one(model, tokenizer, prompts, responses):
    """From the hidden state at the end-of-text of each text alone."""
    scores = []
    for prompt, response in zip(prompts, responses, strict=True):
        ids = [*tokenizer.encode(prompt + response), tokenizer.eos_id]
        scores.append(2.0 * model.gpt.hidden(torch.tensor([ids]))[0, -1] @ model.score_head.weight[0] - 0.5)
    return torch.stack(scores)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_every_text_gets_the_score_it_gets_alone_and_in_its_own_place(reward_model, tokenizer, batch_size):
    scores = RewardScorer(reward_model, tokenizer, batch_size)(PROMPTS, RESPONSES)
    expected = scores_one_by_one(reward_model.eval(), tokenizer, PROMPTS, RESPONSES)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert scores.std() > 0.1


def test_permuted_texts_get_permuted_scores(reward_model, tokenizer):
    scorer, order = RewardScorer(reward_model, tokenizer, batch_size=2), [4, 2, 6, 0, 5, 1, 3]
    permuted = scorer([PROMPTS[i] for i in order], [RESPONSES[i] for i in order])
    torch.testing.assert_close(permuted, scorer(PROMPTS, RESPONSES)[order], rtol=0, atol=1e-5)


def test_where_the_prompt_ends_does_not_matter_to_the_score(reward_model, tokenizer):
    scorer = RewardScorer(reward_model, tokenizer)
    texts = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(scorer([""] * 7, texts), scorer(PROMPTS, RESPONSES), rtol=0, atol=1e-6)


def test_training_and_scoring_read_the_same_tokens(reward_model, tokenizer):
    scores = RewardScorer(reward_model, tokenizer)(PROMPTS, RESPONSES)
    rows = reward_tokens(tokenizer, PROMPTS, RESPONSES, max_length=48)
    assert torch.equal(score_tokens(reward_model, rows, tokenizer.pad_id), scores)


def test_the_reward_model_stays_as_it_is(reward_model, tokenizer):
    before = {name: tensor.clone() for name, tensor in reward_model.state_dict().items()}
    scorer = RewardScorer(reward_model, tokenizer)
    first, second = scorer(PROMPTS, RESPONSES), scorer(PROMPTS, RESPONSES)
    assert torch.equal(first, second)  # although dropout was on
    assert not reward_model.training
    assert not any(parameter.requires_grad for parameter in reward_model.parameters())
    torch.testing.assert_close(dict(reward_model.state_dict()), before, rtol=0, atol=0)


def test_scores_are_float32_numbers_on_the_cpu(reward_model, tokenizer):
    for model in (reward_model, reward_model.bfloat16()):
        scores = RewardScorer(model, tokenizer)(PROMPTS, RESPONSES)
        assert scores.shape == (7,)
        assert (scores.dtype, scores.device.type, scores.requires_grad) == (torch.float32, "cpu", False)


def test_a_text_beyond_the_context_is_scored_by_what_fits_and_the_end(reward_model, tokenizer):
    scorer, long = RewardScorer(reward_model, tokenizer), "xyzzy " * 40
    ids = tokenizer.encode(long)
    assert len(ids) > 48
    expected = reward_model(torch.tensor([[*ids[:47], tokenizer.eos_id]]))
    torch.testing.assert_close(scorer([long], [""]), expected, rtol=0, atol=1e-5)
    assert scorer.cut == [0]


def test_texts_that_are_cut_are_told_from_those_that_just_fit(reward_model, tokenizer):
    scorer, fits, longer = RewardScorer(reward_model, tokenizer), "?" * 47, "?" * 48  # and the end: 48, 49
    assert (len(tokenizer.encode(fits)), len(tokenizer.encode(longer))) == (47, 48)
    scorer(["", "", ""], [longer, fits, longer])
    assert (scorer.cut, num_cut(scorer)) == ([0, 2], 2)
    scorer([""], [fits])
    assert num_cut(scorer) == num_cut(lambda prompts, responses: None) == 0


def test_no_texts_have_no_scores(reward_model, tokenizer):
    assert RewardScorer(reward_model, tokenizer)([], []).shape == (0,)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_a_score_that_is_not_finite_is_an_error_that_quotes_its_response_and_prompt(wrong, place):
    scores = torch.tensor([0.5, -1.0, 2.0])
    assert score_texts(lambda prompts, responses: scores, PROMPTS[:3], RESPONSES[:3]) is scores
    scores[place] = wrong
    expected = f"the scorer, response {RESPONSES[place]!r} to {PROMPTS[place]!r}: score is {wrong}"
    with pytest.raises(TrainingError, match=f"^{re.escape(expected)}$"):
        score_texts(lambda prompts, responses: scores, PROMPTS[:3], RESPONSES[:3])
