"""What a run promises itself before its first step: each check finds the fault that it is there for."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from minippo import checks
from minippo.batches import BatchStream
from minippo.checks import check_bridge, check_first_rollout
from minippo.errors import TrainingError
from minippo.heads import RewardModel
from minippo.memory import park
from minippo.model import GPT, GPTConfig, LayerCache
from minippo.optim import CPUAdamW
from minippo.rollout import collect_rollout, response_logprobs
from minippo.scoring import RewardScorer
from minippo.state import PPOState
from minippo.tokenizer import train_bpe
from tests.environment import environment

REVIEWS = ["A dull, dull film with one lovely café scene.", "I laughed twice, and naïve as it is, it works!"]


@pytest.fixture(scope="module")
def reward_scorer():
    """A reward model with a tokenizer of its own."""
    tokenizer = train_bpe(REVIEWS, 280)
    torch.manual_seed(5)
    model = RewardModel(GPT(GPTConfig(tokenizer.vocab_size, 96, layers=1, heads=2, channels=16)))
    return RewardScorer(model, tokenizer)


def check(state, rollout, scorer, tokenizer, config):
    check_first_rollout(state, environment(state.policy, scorer, tokenizer, config), rollout, config)


@pytest.fixture
def begin(make_policy, queries, tokenizer, reward_scorer):
    def begun(config, *, ref_seed=0, moved=0.0, dtype=torch.float32):
        policy, reference = make_policy(0).to(dtype), make_policy(ref_seed).to(dtype)
        prompts = BatchStream(queries, len(queries), 0, "prompts")
        state = PPOState(policy, CPUAdamW(policy.parameters()), 3, prompts, 0.2)
        env = environment(reference, reward_scorer, tokenizer, config)
        rollout = collect_rollout(state, env, next(prompts), config)
        if moved:
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.add_(moved * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
        return state, rollout

    return begun


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.8, "min_new_tokens": 2}, {"stop_token": "a"}])
def test_promises_hold_before_the_first_step(begin, ppo_config, tokenizer, reward_scorer, changes):
    config = replace(ppo_config, **changes)
    state, rollout = begin(config)
    check(state, rollout, reward_scorer, tokenizer, config)


def test_promises_hold_in_bfloat16_within_their_own_bound(begin, ppo_config, tokenizer, reward_scorer):
    state, rollout = begin(ppo_config, dtype=torch.bfloat16)
    check(state, rollout, reward_scorer, tokenizer, ppo_config)
    state.policy.gpt.position_embedding.weight.data[2:, ::2].add_(1.0)
    with pytest.raises(TrainingError, match="every ratio must be 1"):
        check(state, rollout, reward_scorer, tokenizer, ppo_config)


def test_a_policy_that_is_not_the_one_that_drew_is_found(begin, ppo_config, tokenizer, reward_scorer):
    state, rollout = begin(ppo_config, moved=1e-3)
    with pytest.raises(TrainingError, match="every ratio must be 1"):
        check(state, rollout, reward_scorer, tokenizer, ppo_config)


def test_dropout_left_on_is_found(begin, ppo_config, tokenizer, reward_scorer):
    state, rollout = begin(ppo_config)
    state.policy.gpt.set_dropout(0.3)
    state.policy.train()
    with pytest.raises(TrainingError, match="every ratio must be 1"):
        check(state, rollout, reward_scorer, tokenizer, ppo_config)


def test_a_temperature_in_one_place_only_is_found(begin, ppo_config, tokenizer, reward_scorer):
    state, rollout = begin(ppo_config)
    with pytest.raises(TrainingError, match="every ratio must be 1"):
        check(
            state,
            replace(rollout, sampling=replace(rollout.sampling, temperature=0.9)),
            reward_scorer,
            tokenizer,
            ppo_config,
        )


def test_a_reference_that_is_not_where_the_policy_starts_is_found(begin, ppo_config, tokenizer, reward_scorer):
    state, rollout = begin(ppo_config, ref_seed=1)
    with pytest.raises(TrainingError, match="the policy is the reference"):
        check(state, rollout, reward_scorer, tokenizer, ppo_config)


def test_a_cache_that_forgets_is_found(begin, ppo_config, tokenizer, reward_scorer, monkeypatch):
    state, rollout = begin(ppo_config)
    append = LayerCache.append

    def forgetful(self, keys, values):
        keys, values = append(self, keys, values)
        return keys * (torch.arange(keys.shape[2]) == keys.shape[2] - 1).view(1, 1, -1, 1), values

    monkeypatch.setattr(LayerCache, "append", forgetful)
    with pytest.raises(TrainingError, match="with and without the key-value cache must agree"):
        check(state, rollout, reward_scorer, tokenizer, ppo_config)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda ids, end: ids[:-1], "must end with its end-of-text"),
        (lambda ids, end: [*ids, end], "must end with its end-of-text and contain no other"),
        (lambda ids, end: ids[1:], "the reward model must read"),
    ],
)
def test_a_bridge_that_does_not_give_what_training_gave_is_found(
    begin, ppo_config, tokenizer, reward_scorer, monkeypatch, wrong, message
):
    _, rollout = begin(ppo_config)
    right = checks.reward_tokens
    end = reward_scorer.tokenizer.eos_id
    monkeypatch.setattr(checks, "reward_tokens", lambda *given: [wrong(ids, end) for ids in right(*given)])
    with pytest.raises(TrainingError, match=message):
        check_bridge(reward_scorer, rollout, tokenizer)


def test_a_score_that_hangs_on_its_neighbours_is_found(begin, ppo_config, tokenizer, reward_scorer, monkeypatch):
    _, rollout = begin(ppo_config)
    forward = RewardModel.forward
    monkeypatch.setattr(RewardModel, "forward", lambda self, tokens, mask: forward(self, tokens, mask) + len(tokens))
    with pytest.raises(TrainingError, match="must not depend on the rest of its batch"):
        check_bridge(reward_scorer, rollout, tokenizer)


def test_parked_reward_model_is_loaded_once_and_not_for_each_text(begin, ppo_config, tokenizer, monkeypatch):
    _, rollout = begin(ppo_config)
    reward_tokenizer = train_bpe(REVIEWS, 280)
    model = park(RewardModel(GPT(GPTConfig(280, 96, layers=1, heads=2, channels=16))), torch.device("cpu"))
    score, calls = RewardScorer.__call__, []

    def called(self, prompts, responses):
        calls.append(prompts)
        assert "parked_for" not in vars(model)
        return score(self, prompts, responses)

    monkeypatch.setattr(RewardScorer, "__call__", called)
    check_bridge(RewardScorer(model, reward_tokenizer), rollout, tokenizer)
    assert len(calls) == 1 + len(rollout.queries)


@pytest.mark.parametrize(("dtype", "noise"), [(torch.float32, 1e-4), (torch.bfloat16, 0.25)])
def test_scores_may_differ_by_the_rounding_of_their_dtype(
    begin, ppo_config, tokenizer, reward_scorer, monkeypatch, dtype, noise
):
    _, rollout = begin(ppo_config)
    model = copy.deepcopy(reward_scorer.reward_model)
    model.gpt.to(dtype)
    scorer = RewardScorer(model, reward_scorer.tokenizer)
    check_bridge(scorer, rollout, tokenizer)
    for amount in (0.8 * noise, 1.2 * noise):

        def shifted(self, tokens, mask, amount=amount):  # in batches
            return torch.full((len(tokens),), amount if len(tokens) > 1 else 0.0)

        monkeypatch.setattr(RewardModel, "forward", shifted)
        with pytest.raises(TrainingError, match="must not depend") if amount > noise else nullcontext():
            check_bridge(scorer, rollout, tokenizer)


def test_prompt_and_response_that_decode_otherwise_apart_are_found(begin, ppo_config, tokenizer, reward_scorer):
    _, rollout = begin(ppo_config)
    cut = replace(rollout, prompt_texts=["\ufffd", *rollout.prompt_texts[1:]])
    with pytest.raises(TrainingError, match="must decode to the same text separately and together"):
        check_bridge(reward_scorer, cut, tokenizer)


def test_a_response_that_fills_the_context_of_the_reward_model_is_no_fault(begin, ppo_config, tokenizer, reward_scorer):
    _, rollout = begin(ppo_config)
    model = RewardModel(GPT(replace(reward_scorer.reward_model.gpt.config, context=6)))
    check_bridge(RewardScorer(model, reward_scorer.tokenizer), rollout, tokenizer)


# ---------------------------------------------------------------------------------------------- tolerances

# What the messages promise, written out here and not taken from the product.
LOGPROB_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}
ROWS = [0, 3, 11, 23]  # of 24, in microbatches of 4


@pytest.fixture
def exact(begin, ppo_config, tokenizer):
    """A state and a rollout whose log-probabilities are, bit for bit, those that the checks compute again."""

    def made(dtype):
        state, rollout = begin(ppo_config, dtype=dtype)
        again = torch.zeros_like(rollout.logprobs)
        order = (rollout.is_response * torch.arange(rollout.is_response.shape[1])).amax(dim=1).argsort()
        with torch.no_grad():
            for rows in order.split(ppo_config.microbatch_size):
                again[rows] = response_logprobs(state.policy, rollout.select(rows))[0]
        return state, replace(rollout, logprobs=again)

    return made


def shifted(tensor: torch.Tensor, row: int, column: int, amount: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[row, column] += amount
    return tensor


def stopping(expected: bool, message: str):
    """A context in which the run must be stopped for this reason, or must not be stopped."""
    return pytest.raises(TrainingError, match=message) if expected else nullcontext()


@pytest.mark.parametrize("dtype", LOGPROB_TOLERANCE)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_log_ratio_just_beyond_its_tolerance_stops_the_run(
    exact, ppo_config, tokenizer, reward_scorer, dtype, row, sign
):
    state, rollout = exact(dtype)
    last = int(rollout.response_mask[row].sum()) - 1
    for share, expected in ((0.9, False), (1.1, True)):
        moved = shifted(rollout.logprobs, row, last, sign * share * LOGPROB_TOLERANCE[dtype])
        found = replace(rollout, logprobs=moved)
        with stopping(expected, "every ratio must be 1"):
            check(state, found, reward_scorer, tokenizer, ppo_config)


@pytest.mark.parametrize("dtype", LOGPROB_TOLERANCE)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_kl_just_beyond_its_tolerance_stops_the_run(exact, ppo_config, tokenizer, reward_scorer, dtype, row, sign):
    state, rollout = exact(dtype)
    last = int(rollout.response_mask[row].sum()) - 1
    for share, expected in ((0.9, False), (1.1, True)):
        kl = shifted(torch.zeros_like(rollout.kl), row, last, sign * share * LOGPROB_TOLERANCE[dtype])
        found = replace(rollout, kl=kl)
        with stopping(expected, "the policy is the reference"):
            check(state, found, reward_scorer, tokenizer, ppo_config)


@pytest.mark.parametrize("dtype", LOGPROB_TOLERANCE)
@pytest.mark.parametrize("row", ROWS)
def test_a_cached_log_probability_just_beyond_its_tolerance_stops_the_run(
    exact, ppo_config, tokenizer, reward_scorer, monkeypatch, dtype, row
):
    """Decoding with the cache may differ ten times as much, since the shapes are others."""
    state, rollout = exact(dtype)
    last = int(rollout.response_mask[row].sum()) - 1
    for share, expected in ((0.9, False), (1.1, True)):

        def cached(policy, batch, share=share):
            moved = shifted(rollout.logprobs, row, last, share * 10 * LOGPROB_TOLERANCE[dtype])
            return moved[[rollout.prompt_texts.index(text) for text in batch.prompt_texts]]

        monkeypatch.setattr(checks, "cached_logprobs", cached)
        message = "with and without the key-value cache"
        with stopping(expected, message):
            check(state, rollout, reward_scorer, tokenizer, ppo_config)


@pytest.mark.parametrize("dtype", LOGPROB_TOLERANCE)
def test_cached_log_probabilities_are_those_of_every_row(exact, ppo_config, tokenizer, dtype):
    """The function that the test above replaces, against reading each row whole."""
    state, rollout = exact(dtype)
    with torch.no_grad():
        cached = checks.cached_logprobs(state.policy, rollout)
    assert (cached - rollout.logprobs).abs().max() <= LOGPROB_TOLERANCE[dtype]
    assert (cached[~rollout.response_mask] == 0).all()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("gain", [0.25, 1.0, 40.0])
def test_a_score_that_depends_on_its_batch_by_just_more_than_its_tolerance_stops_the_run(
    exact, ppo_config, tokenizer, reward_scorer, monkeypatch, row, gain
):
    """Above a gain of 1 the tolerance grows with it, as rounding does."""
    state, rollout = exact(torch.float32)
    scorer = RewardScorer(copy.deepcopy(reward_scorer.reward_model), reward_scorer.tokenizer)
    scorer.reward_model.gain.fill_(gain)
    text = rollout.prompt_texts[row] + rollout.response_texts[row]
    for share, expected in ((0.9, False), (1.1, True)):

        def scores(prompts, responses, share=share):
            found = torch.zeros(len(prompts), dtype=torch.float64)
            if len(prompts) == 1 and prompts[0] + responses[0] == text:
                found += share * 1e-4 * max(1.0, gain)
            return found

        monkeypatch.setattr(RewardScorer, "__call__", lambda self, *texts, scores=scores: scores(*texts))
        message = "must not depend on the rest of its batch"
        with stopping(expected, message):
            check(state, rollout, scorer, tokenizer, ppo_config)


@pytest.mark.parametrize("row", ROWS)
def test_one_wrong_row_among_right_ones_is_found(exact, ppo_config, tokenizer, reward_scorer, monkeypatch, row):
    state, rollout = exact(torch.float32)
    prompts = list(rollout.prompt_texts)
    prompts[row] += " "
    message = "must decode to the same text separately and together"
    found = replace(rollout, prompt_texts=prompts)
    with pytest.raises(TrainingError, match=message):
        check(state, found, reward_scorer, tokenizer, ppo_config)
    right, text = checks.reward_tokens, rollout.prompt_texts[row] + rollout.response_texts[row]

    def without_end(tokenizer, prompts, responses, context):
        (ids,) = right(tokenizer, prompts, responses, context)
        return [ids[:-1] if prompts[0] + responses[0] == text else ids]

    monkeypatch.setattr(checks, "reward_tokens", without_end)
    with pytest.raises(TrainingError, match="must end with its end-of-text"):
        check(state, rollout, reward_scorer, tokenizer, ppo_config)


def test_the_tolerance_grows_with_the_logits_as_rounding_does(exact, ppo_config, tokenizer, reward_scorer):
    """Public weights have logits around -100, where float32 resolves no less than 8e-6."""
    state, rollout = exact(torch.float32)
    policy = state.policy
    common = policy.gpt.token_embedding.weight.mean(dim=0)
    with torch.no_grad():
        policy.gpt.final_norm.bias.add_(-100 * common / (common @ common))  # moves all logits by about as much
        largest = max(float(policy(tokens)[0].abs().max()) for tokens in rollout.query_responses[:1].unsqueeze(0))
        again = torch.zeros_like(rollout.logprobs)
        order = (rollout.is_response * torch.arange(rollout.is_response.shape[1])).amax(dim=1).argsort()
        for rows in order.split(ppo_config.microbatch_size):
            again[rows] = response_logprobs(policy, rollout.select(rows))[0]
    assert largest > 100
    last = int(rollout.response_mask[11].sum()) - 1
    for share, expected in ((0.0, False), (0.9, False), (1.1, True)):
        found = replace(rollout, logprobs=shifted(again, 11, last, share * 1e-5 * largest / 10))
        with stopping(expected, "every ratio must be 1"):
            check(state, found, reward_scorer, tokenizer, ppo_config)
