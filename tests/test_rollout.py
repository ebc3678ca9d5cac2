"""A rollout against Python loops over single, unpadded rows."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo import equations, masking
from minippo.advantages import ESTIMATORS
from minippo.batches import BatchStream
from minippo.config import PPOConfig
from minippo.data.encode import query_ids
from minippo.errors import TrainingError
from minippo.masking import pad
from minippo.optim import CPUAdamW
from minippo.rollout import (
    Rollout,
    apply_heads,
    collect_rollout,
    logprobs_and_values,
    response_hidden,
    response_logprobs,
    sample_responses,
)
from minippo.sampling import generate
from minippo.state import PPOState
from minippo.streams import response_uniforms
from tests.environment import environment

RESPONSE_LENGTH = 8


@pytest.fixture(scope="module")
def policy(make_policy):
    return make_policy(0)


@pytest.fixture(scope="module")
def reference(make_policy):
    return make_policy(1)


@pytest.fixture
def collect(policy, reference, queries, tokenizer, scorer):
    """Collect a rollout; `model`, `judge` and `rows` replace the policy, the scorer and the queries."""

    def collected(config, model=None, judge=None, rows=None, seed=3, kl_coef=None, iteration=0) -> Rollout:
        model, rows = model or policy, rows or queries
        coefficient = config.kl_coef if kl_coef is None else kl_coef
        prompts = BatchStream(rows, len(rows), 0, "prompts")
        state = PPOState(model, CPUAdamW(model.parameters()), seed, prompts, coefficient, iteration)
        return collect_rollout(
            state, environment(reference, judge or scorer, tokenizer, config, RESPONSE_LENGTH), rows, config
        )

    return collected


def real_tokens(rollout: Rollout, row: int) -> list[int]:
    return rollout.responses[row][rollout.response_mask[row]].tolist()


def judged_alone(model, query, response, temperature=1.0, forbidden=None, first=0):
    """Log-probabilities, values and entropies of one response, token by token, without any padding, in float64."""
    logits, values = model(torch.tensor([query + response]))
    logprobs, entropies = [], []
    for t, token in enumerate(response):
        scores = logits[0, len(query) - 1 + t].double() / temperature
        if t < first:
            scores[forbidden] = -torch.inf
        probabilities = torch.exp(scores - scores.max()) / torch.exp(scores - scores.max()).sum()
        logprobs.append(probabilities[token].log().item())
        entropies.append(-torch.xlogy(probabilities, probabilities).sum().item())
    values = values[0, len(query) - 1 : len(query) - 1 + len(response)].tolist()
    return logprobs, values, entropies


def test_rollout_has_rows_that_end_at_once_later_and_never(collect, ppo_config, tokenizer):
    rollout = collect(ppo_config)
    lengths = rollout.response_mask.sum(dim=1)
    assert (lengths[rollout.has_eos] == 1).any()
    assert (lengths[rollout.has_eos] > 2).any()
    assert (~rollout.has_eos).any()


def test_mask_is_true_through_the_first_end_of_text_and_no_further(collect, ppo_config, tokenizer):
    rollout = collect(ppo_config)
    for row in range(len(rollout.queries)):
        drawn = rollout.responses[row].tolist()
        length = drawn.index(tokenizer.eos_id) + 1 if tokenizer.eos_id in drawn else len(drawn)
        expected = [t < length for t in range(len(drawn))]
        assert rollout.response_mask[row].tolist() == expected
        assert rollout.has_eos[row] == (tokenizer.eos_id in drawn[:length])


def test_end_on_the_very_last_position_counts_as_ended(collect, ppo_config, tokenizer):
    config = replace(ppo_config, min_new_tokens=RESPONSE_LENGTH - 1, missing_eos="replace", missing_eos_score=-9.0)
    rollout = collect(config)
    ended = rollout.responses[:, -1] == tokenizer.eos_id
    assert ended.any()
    assert not ended.all()
    assert torch.equal(rollout.has_eos, ended)
    assert torch.equal(rollout.scores[ended], rollout.raw_scores[ended])
    assert (rollout.scores[~ended] == -9.0).all()


def test_responses_are_as_wide_as_the_longest_of_them(collect, ppo_config, make_policy):
    rollout = collect(ppo_config, model=make_policy(0, eos_logit=9.0), seed=1)
    longest = int(rollout.response_mask.sum(dim=1).max())
    assert longest < RESPONSE_LENGTH
    assert rollout.responses.shape == (24, longest)
    both = rollout.query_mask.sum(dim=1) + rollout.response_mask.sum(dim=1)
    assert rollout.query_responses.shape == rollout.is_response.shape == (24, int(both.max()))


@pytest.mark.parametrize("mode", ["off", "replace", "subtract"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_rewards_and_penalty_sum_to_the_score_in_every_row(collect, ppo_config, scorer, mode, clip):
    config = replace(ppo_config, missing_eos=mode, missing_eos_score=-1.5 if mode == "replace" else 0.75)
    rollout = collect(replace(config, score_clip=clip))
    totals = (rollout.rewards + config.kl_coef * rollout.kl).double().sum(dim=1)
    raw = scorer(rollout.prompt_texts, rollout.response_texts)
    for row, total in enumerate(totals.tolist()):
        expected = raw[row].item()
        if clip is not None:
            expected = min(max(expected, -clip), clip)
        if not rollout.has_eos[row]:  # the penalty is not clipped
            expected = {"off": expected, "replace": -1.5, "subtract": expected - 0.75}[mode]
        assert total == pytest.approx(expected, abs=1e-5)
        assert rollout.scores[row].item() == pytest.approx(expected, abs=1e-6)
        assert rollout.raw_scores[row] == raw[row]


def test_score_lands_on_the_last_real_token(collect, ppo_config):
    rollout = collect(ppo_config, kl_coef=0.0)
    for row in range(len(rollout.queries)):
        last = len(real_tokens(rollout, row)) - 1
        expected = torch.zeros(rollout.rewards.shape[1])
        expected[last] = rollout.scores[row]
        assert torch.equal(rollout.rewards[row], expected)


def test_penalty_uses_the_coefficient_of_the_state_since_it_may_adapt(collect, ppo_config):
    rollout = collect(ppo_config, kl_coef=0.7)
    inner = rollout.response_mask[:, 1:]  # the score is on the last token, so the one before has the penalty alone
    torch.testing.assert_close(rollout.rewards[:, :-1][inner], -0.7 * rollout.kl[:, :-1][inner])


def test_kl_is_the_log_ratio_of_policy_to_reference(collect, ppo_config):
    rollout = collect(ppo_config)
    torch.testing.assert_close(rollout.kl, rollout.logprobs - rollout.ref_logprobs, rtol=0, atol=0)
    assert rollout.kl.abs().max() > 0.1


def test_everything_is_zero_where_masked(collect, ppo_config):
    rollout = collect(replace(ppo_config, whiten_rewards=True, entropy_coef=0.1))
    masked = ~rollout.response_mask
    assert masked.any()
    for name in ("logprobs", "ref_logprobs", "values", "kl", "rewards", "advantages", "returns"):
        assert (getattr(rollout, name)[masked] == 0).all(), name


def test_judged_tokens_are_zero_where_masked(collect, ppo_config, policy, tokenizer):
    rollout = collect(ppo_config)
    for judged in response_logprobs(policy, rollout):
        assert (judged[~rollout.response_mask] == 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("first", [0, 3])
def test_each_row_gets_the_numbers_that_it_gets_alone(
    collect, ppo_config, policy, reference, queries, tokenizer, temperature, first
):
    """Unequal prompts are padded; temperature and forbidden end-of-text hold for policy and reference alike."""
    config = replace(ppo_config, temperature=temperature, min_new_tokens=first)
    rollout = collect(config)
    log_softmax = apply_heads(policy, response_hidden(policy, rollout), rollout)[2]  # (N, V)
    entropies = masking.scatter(equations.entropies(log_softmax), rollout.response_mask)
    for row, query in enumerate(queries):
        response = real_tokens(rollout, row)
        alone = judged_alone(policy, query, response, temperature, tokenizer.eos_id, first)
        ours = rollout.logprobs[row], rollout.values[row], entropies[row]
        for numbers, expected in zip(ours, alone, strict=True):
            assert numbers[: len(response)].tolist() == pytest.approx(expected, abs=1e-5)
        expected = judged_alone(reference, query, response, temperature, tokenizer.eos_id, first)[0]
        assert rollout.ref_logprobs[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)


def test_each_response_continues_its_own_prompt_however_long_the_others_are(collect, ppo_config, make_policy, queries):
    """Next to no temperature, so that a response is the likeliest continuation, found here without padding or cache."""
    model = make_policy(0, eos_logit=0.0)
    rollout = collect(replace(ppo_config, temperature=1e-5), model=model)
    for row, query in enumerate(queries):
        tokens = list(query)
        for token in real_tokens(rollout, row):
            assert token == int(model(torch.tensor([tokens]))[0][0, -1].argmax())
            tokens.append(token)


def test_no_response_ends_before_the_minimum(collect, ppo_config, tokenizer):
    rollout = collect(replace(ppo_config, min_new_tokens=4))
    assert (rollout.responses[:, :4] != tokenizer.eos_id).all()
    assert (rollout.responses[:, 4] == tokenizer.eos_id).any()


@torch.no_grad()
def test_ids_that_no_text_has_are_never_drawn_and_count_for_nothing(collect, ppo_config, make_policy, queries):
    plain, config = make_policy(0), replace(ppo_config, temperature=0.6)
    never = torch.tensor([i for i, _ in Counter(collect(config).responses.flatten().tolist()).most_common(6)][1:])
    model = make_policy(0)
    model.gpt.set_suppress_tokens(never.tolist())
    rollout = collect(config, model=model)
    assert not torch.isin(rollout.responses[rollout.response_mask], never).any()
    for row, query in enumerate(queries):
        response = real_tokens(rollout, row)
        expected = judged_alone(plain, query, response, 0.6, never, first=len(response))[0]
        assert rollout.logprobs[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_response_is_cut_after_the_stop_token_and_counts_as_ended(collect, ppo_config, tokenizer):
    drawn = Counter(collect(ppo_config).responses.flatten().tolist()).most_common()
    stop = next(i for i, _ in drawn if i != tokenizer.eos_id and tokenizer.encode(tokenizer.decode([i])) == [i])
    text = tokenizer.decode([stop])
    config = replace(ppo_config, stop_token=text, missing_eos="replace", missing_eos_score=-9.0)
    rollout = collect(config)
    stopped = 0
    for row in range(24):
        response = real_tokens(rollout, row)
        ended = [token in (stop, tokenizer.eos_id) for token in response]
        assert not any(ended[:-1])
        assert rollout.has_eos[row] == ended[-1] == (rollout.scores[row] != -9.0)
        stopped += response[-1] == stop
        assert rollout.response_texts[row].endswith(text) or response[-1] != stop  # the stop token stays in the text
    assert stopped > 1
    totals = (rollout.rewards + config.kl_coef * rollout.kl).sum(dim=1)
    torch.testing.assert_close(totals, rollout.scores, rtol=0, atol=1e-5)


def test_neither_end_of_text_nor_stop_token_comes_before_the_minimum(collect, ppo_config, policy, tokenizer):
    config = replace(ppo_config, stop_token="e", min_new_tokens=3)
    rollout = collect(config)
    ends = torch.tensor(tokenizer.end_ids("e"))
    assert not torch.isin(rollout.responses[:, :3], ends).any()
    assert torch.isin(rollout.responses[:, 3], ends).any()
    # Both are forbidden in the log-probabilities too: with them, the chances of all other tokens sum to 1.
    logits = policy(torch.tensor([rollout.queries[0][rollout.query_mask[0]].tolist()]))[0][0, -1].double()
    others = torch.ones_like(logits, dtype=torch.bool)
    others[ends] = False
    expected = logits[rollout.responses[0, 0]] - torch.logsumexp(logits[others], dim=0)
    assert rollout.logprobs[0, 0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_score_that_is_no_number_stops_the_run_and_names_the_answer(collect, ppo_config, queries, tokenizer):
    def judge(prompts, responses):
        scores = torch.zeros(len(prompts))
        scores[5] = torch.nan
        return scores

    with pytest.raises(TrainingError, match=f"to {re.escape(repr(tokenizer.decode(queries[5])))}: score is nan"):
        collect(ppo_config, judge=judge)


def test_prompt_and_response_are_joined_without_their_pads(collect, ppo_config, queries):
    rollout = collect(ppo_config)
    for row, query in enumerate(queries):
        whole = query + real_tokens(rollout, row)
        assert rollout.query_responses[row, : len(whole)].tolist() == whole
        expected = [len(query) <= place < len(whole) for place in range(rollout.query_responses.shape[1])]
        assert rollout.is_response[row].tolist() == expected


def test_ratios_are_exactly_one_at_identical_shapes(collect, ppo_config, policy, tokenizer):
    rollout = collect(ppo_config)
    logprobs, values = logprobs_and_values(policy, rollout, ppo_config.microbatch_size)
    assert torch.equal((logprobs - rollout.logprobs).exp(), torch.ones_like(logprobs))
    assert torch.equal(values, rollout.values)


@pytest.mark.parametrize("rows", [1, 5, 24])
def test_ratios_are_one_within_rounding_at_other_shapes(collect, ppo_config, policy, tokenizer, rows):
    rollout = collect(ppo_config)
    logprobs, _ = logprobs_and_values(policy, rollout, rows)
    assert ((logprobs - rollout.logprobs).exp() - 1).abs().max() < 1e-5


def test_dropout_is_off_in_a_rollout_and_stays_off_for_its_update(collect, ppo_config, make_policy, tokenizer):
    model = make_policy(0, dropout=0.5).train()
    rollout = collect(ppo_config, model=model)
    logprobs, values = logprobs_and_values(model, rollout, ppo_config.microbatch_size)
    assert torch.equal(logprobs, rollout.logprobs)
    assert torch.equal(values, rollout.values)
    plain = collect(ppo_config, model=make_policy(0))
    assert torch.equal(rollout.logprobs, plain.logprobs)


def test_advantages_and_returns_follow_from_rewards_and_values(collect, ppo_config):
    """Schulman et al. 2016 eq. 16 as a double sum; returns are raw advantages plus values, nothing is whitened."""
    config = replace(ppo_config, gamma=0.9, lam=0.8, whiten_advantages=True)
    rollout = collect(config)
    for row in range(len(rollout.queries)):
        length = len(real_tokens(rollout, row))
        rewards, values = rollout.rewards[row].tolist(), [*rollout.values[row, :length].tolist(), 0.0]
        deltas = [rewards[t] + 0.9 * values[t + 1] - values[t] for t in range(length)]
        for t in range(length):
            advantage = sum((0.9 * 0.8) ** (later - t) * deltas[later] for later in range(t, length))
            assert rollout.advantages[row, t].item() == pytest.approx(advantage, abs=1e-5)
            assert rollout.returns[row, t].item() == pytest.approx(advantage + values[t], abs=1e-5)


def test_whitened_rewards_have_variance_one_and_the_mean_they_had(collect, ppo_config):
    plain, rescaled = collect(ppo_config), collect(replace(ppo_config, whiten_rewards=True))
    before, after = plain.rewards[plain.response_mask], rescaled.rewards[rescaled.response_mask]
    assert after.var(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert after.mean().item() == pytest.approx(before.mean().item(), abs=1e-5)


def test_whitened_rewards_are_what_advantages_and_returns_are_made_of(collect, ppo_config):
    config = replace(ppo_config, whiten_rewards=True, gamma=0.9, lam=0.7)
    rollout = collect(config)
    for row in range(24):
        length = int(rollout.response_mask[row].sum())
        rewards, values = (x[row, :length].double().tolist() for x in (rollout.rewards, rollout.values))
        following = [*values[1:], 0.0]
        deltas = [r + 0.9 * after - v for r, v, after in zip(rewards, values, following, strict=True)]
        expected = [sum(0.63 ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
        assert rollout.advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
        returns = [advantage + value for advantage, value in zip(expected, values, strict=True)]
        assert rollout.returns[row, :length].tolist() == pytest.approx(returns, abs=1e-5)


def test_scorer_gets_each_prompt_with_its_own_response(collect, ppo_config, queries, tokenizer):
    asked = []

    def judge(prompts, responses):
        asked.append((list(prompts), list(responses)))
        return torch.arange(len(prompts)).float()

    rollout = collect(ppo_config, judge=judge)
    assert rollout.raw_scores.tolist() == list(range(24))
    (prompts, responses), *more = asked
    assert not more
    assert prompts == [tokenizer.decode(query) for query in queries]
    ends = [real_tokens(rollout, row) for row in range(24)]
    assert responses == [tokenizer.decode([i for i in row if i != tokenizer.eos_id]) for row in ends]
    assert "" in responses  # an immediate end is an empty response, and is scored


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("aé漢😀 n"), min_size=1, max_size=9), min_size=1, max_size=5))
def test_prompt_and_response_decode_apart_and_together_to_the_same_text(policy, tokenizer, texts):
    queries = query_ids(tokenizer, texts, query_length=6)
    queries = [query for query in queries if query]
    if not queries:
        return
    uniforms = response_uniforms(0, "test", 0, range(len(queries)), 6)
    sampling = environment(policy, None, tokenizer, PPOConfig(), response_length=6).sampling
    batch = sample_responses(policy, queries, tokenizer, sampling, uniforms)
    for row, query in enumerate(queries):
        response = batch.responses[row][batch.response_mask[row]].tolist()
        assert batch.prompt_texts[row] + batch.response_texts[row] == tokenizer.decode(query + response)
        assert "\ufffd" not in batch.prompt_texts[row]


def test_collecting_mutates_neither_queries_nor_weights_nor_the_global_generator(
    collect, ppo_config, queries, make_policy
):
    model = make_policy(0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given_queries = [list(query) for query in queries]
    torch.manual_seed(123)
    expected = torch.random.get_rng_state()
    collect(ppo_config, model=model)
    assert torch.equal(torch.random.get_rng_state(), expected)
    assert queries == given_queries
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_responses_depend_on_the_seed_and_the_iteration_alone(collect, ppo_config):
    first, again = collect(ppo_config, seed=5), collect(ppo_config, seed=5)
    assert first.response_texts == again.response_texts
    assert torch.equal(first.logprobs, again.logprobs)
    assert first.response_texts != collect(ppo_config, seed=6).response_texts
    assert first.response_texts != collect(ppo_config, seed=5, iteration=1).response_texts


def test_responses_are_what_the_sampler_draws_with_the_numbers_of_its_stream_at_the_next_iteration(
    collect, ppo_config, policy, queries, tokenizer
):
    config = replace(ppo_config, temperature=0.6, min_new_tokens=2, stop_token="a")
    rollout = collect(config, seed=3, iteration=4)
    responses, mask = generate(
        policy.gpt,
        *pad(queries, tokenizer.pad_id, "left"),
        max_new_tokens=RESPONSE_LENGTH,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        temperature=0.6,
        min_new_tokens=2,
        stop_ids=tokenizer.encode("a"),
        uniforms=response_uniforms(3, "rollout", 5, range(24), RESPONSE_LENGTH),
    )
    R = rollout.responses.shape[1]
    assert torch.equal(rollout.responses, responses[:, :R])
    assert torch.equal(rollout.response_mask, mask[:, :R])
    assert not mask[:, R:].any()


@pytest.mark.parametrize(("rows", "indices"), [(torch.tensor([7, 0, 23]), [7, 0, 23]), (slice(4, 7), [4, 5, 6])])
def test_selected_rows_keep_every_column_together(collect, ppo_config, rows, indices):
    rollout = collect(ppo_config)
    part = rollout.select(rows)
    for field in fields(Rollout):
        whole, chosen = getattr(rollout, field.name), getattr(part, field.name)
        for place, row in enumerate(indices):
            if field.name == "sampling":
                assert chosen is whole
            elif isinstance(whole, list):
                assert chosen[place] == whole[row]
            else:
                assert torch.equal(chosen[place], whole[row])
        assert field.name == "sampling" or len(chosen) == 3


@pytest.mark.parametrize("name", ["gae", "group", "leave-one-out", "batch"])
def test_the_responses_to_a_prompt_are_in_adjacent_rows_and_differ(collect, ppo_config, make_policy, queries, name):
    config = replace(ppo_config, samples_per_prompt=3, advantage=name)
    policy = make_policy(0)
    if name != "gae":
        policy.value_head = None
    rollout = collect(config, model=policy, rows=queries[:8])
    assert [rollout.queries[row][rollout.query_mask[row]].tolist() for row in range(24)] == [
        query for query in queries[:8] for _ in range(3)
    ]
    texts = rollout.response_texts
    assert all(len(set(texts[start : start + 3])) > 1 for start in range(0, 24, 3))
    advantages, returns = ESTIMATORS[name].estimate(rollout.rewards, rollout.values, rollout.response_mask, config)
    assert torch.equal(rollout.advantages, advantages)
    assert (rollout.values is None) == (rollout.returns is None) == (returns is None) == (name != "gae")
    if name in ("group", "leave-one-out"):  # of each prompt, not of its neighbours
        totals = rollout.advantages[:, 0].view(8, 3).sum(dim=1)
        torch.testing.assert_close(totals, torch.zeros(8), rtol=0, atol=1e-5)


def test_rollout_without_a_critic_has_and_logs_no_values(collect, ppo_config, make_policy):
    policy = make_policy(0)
    with_critic = collect(ppo_config, model=policy).stats(0.2)
    policy.value_head = None
    rollout = collect(replace(ppo_config, advantage="batch"), model=policy)
    assert response_logprobs(policy, rollout)[1] is logprobs_and_values(policy, rollout, 5)[1] is None
    part = rollout.select(slice(3, 5))
    assert part.values is part.returns is None
    assert torch.equal(part.advantages, rollout.advantages[3:5])
    found = rollout.stats(0.2)
    assert found == {key: value for key, value in with_critic.items() if not key.startswith("value/")}


def test_figures_average_over_real_tokens_and_over_sequences(collect, ppo_config):
    config = replace(ppo_config, missing_eos="replace", missing_eos_score=-1.0)
    rollout = collect(config)
    found = rollout.stats(config.kl_coef)
    rows = range(len(rollout.queries))
    lengths = [len(real_tokens(rollout, row)) for row in rows]
    kl = [sum(rollout.kl[row, : lengths[row]].tolist()) for row in rows]
    k3 = [
        sum(torch.expm1(-rollout.kl[row, t].double()).item() + rollout.kl[row, t].item() for t in range(lengths[row]))
        for row in rows
    ]
    k2 = [sum(0.5 * k * k for k in rollout.kl[row, : lengths[row]].tolist()) for row in rows]
    values = [value for row in rows for value in rollout.values[row, : lengths[row]].tolist()]
    returns = [value for row in rows for value in rollout.returns[row, : lengths[row]].tolist()]
    raw = rollout.raw_scores.double()
    residuals = torch.tensor(returns).double() - torch.tensor(values).double()
    expected = {
        "objective/scores": raw.mean().item(),
        "objective/scores_std": raw.var(correction=0).sqrt().item(),
        "objective/kl": sum(kl) / 24,
        "objective/kl_k2": sum(k2) / 24,
        "objective/kl_k3": sum(k3) / 24,
        "objective/rlhf_reward": rollout.scores.double().mean().item() - config.kl_coef * sum(kl) / 24,
        "objective/non_score_reward": -config.kl_coef * sum(kl) / 24,
        "objective/kl_coef": config.kl_coef,
        "value/explained_variance": 1
        - (residuals.var(correction=0) / torch.tensor(returns).double().var(correction=0)).item(),
        "value/mean": sum(values) / len(values),
        "value/returns": sum(returns) / len(returns),
        "response/length": sum(lengths) / 24,
        "response/eos_rate": sum(rollout.has_eos.tolist()) / 24,
    }
    assert found == pytest.approx(expected, abs=2e-5)
    total_reward = rollout.rewards.double().sum(dim=1).mean().item()
    assert found["objective/rlhf_reward"] == pytest.approx(total_reward, abs=1e-5)
