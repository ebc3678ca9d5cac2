"""KL of a policy so small that all its responses can be enumerated."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from minippo.evaluation import compared_logprobs, next_token_logprobs
from minippo.heads import ActorCritic
from minippo.masking import pad
from minippo.memory import park
from minippo.model import GPT, GPTConfig
from minippo.rollout import Responses, response_hidden, response_logprobs
from minippo.sampling import SamplingParams

V, R, EOS, STOP = 5, 3, 4, 3
QUERY = [1, 0, 2]


def tiny_policy(seed: int) -> ActorCritic:
    torch.manual_seed(seed)
    policy = ActorCritic(GPT(GPTConfig(V, 8, layers=1, heads=2, channels=8)))
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.6)
    return policy.eval()


def responses_of(rows: list[list[int]], sampling: SamplingParams, queries: list[list[int]] | None = None) -> Responses:
    """A batch of given responses, by default all to the same query."""
    queries = queries or [QUERY] * len(rows)
    query_tokens, query_mask = pad(queries, EOS, "left")
    responses, response_mask = pad(rows, EOS, "right")
    joined, is_real = pad([q + r for q, r in zip(queries, rows, strict=True)], EOS, "right")
    after_query = torch.arange(joined.shape[1]) >= torch.tensor([len(q) for q in queries]).unsqueeze(1)
    texts = [""] * len(rows)
    ended = torch.tensor([row[-1] in sampling.end_ids for row in rows])
    batch = (query_tokens, query_mask, responses, response_mask, joined, is_real & after_query, ended, sampling)
    return Responses(texts, texts, *batch)


def all_responses(sampling: SamplingParams) -> list[list[int]]:
    """Every response that can be drawn: up to R tokens, ending with an end token if it is shorter."""

    def possible(row: tuple[int, ...]) -> bool:
        ends = [place for place, token in enumerate(row) if token in sampling.end_ids]
        return all(place >= sampling.min_new_tokens for place in ends) and (
            ends == [len(row) - 1] or (not ends and len(row) == R)
        )

    rows = (row for length in range(1, R + 1) for row in itertools.product(range(V), repeat=length))
    return [list(row) for row in rows if possible(row)]


def logprob(policy: ActorCritic, row: list[int], sampling: SamplingParams) -> float:
    """Log-probability of a response, token by token, each from a text of its own."""
    total = 0.0
    for place, token in enumerate(row):
        with torch.no_grad():
            logits = policy(torch.tensor([QUERY + row[:place]]))[0][0, -1].double() / sampling.temperature
        if place < sampling.min_new_tokens:
            logits[list(sampling.end_ids)] = -math.inf
        total += float(logits.log_softmax(dim=-1)[token])
    return total


SAMPLINGS = [
    SamplingParams(R, EOS, EOS),
    SamplingParams(R, EOS, EOS, (STOP,), temperature=0.7, min_new_tokens=1),
    SamplingParams(R, EOS, EOS, (STOP,), temperature=1.5, min_new_tokens=2),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_expectations_of_both_estimates_are_the_kl_of_all_responses(sampling):
    policy, reference = tiny_policy(0), tiny_policy(1)
    rows = all_responses(sampling)
    ours, theirs = ([logprob(model, row, sampling) for row in rows] for model in (policy, reference))
    probabilities = torch.tensor(ours).exp()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    kl = sum(math.exp(p) * (p - q) for p, q in zip(ours, theirs, strict=True))
    batch = responses_of(rows, sampling)
    logprobs, ref_logprobs, exact = (x.sum(dim=1) for x in compared_logprobs(policy, reference, batch, 16))
    torch.testing.assert_close(logprobs.double(), torch.tensor(ours, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ref_logprobs.double(), torch.tensor(theirs, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    assert float(probabilities @ (logprobs - ref_logprobs)) == pytest.approx(kl, abs=1e-5)
    assert float(probabilities @ exact) == pytest.approx(kl, abs=1e-5)
    assert exact.min() >= 0
    spread = [float(probabilities @ (x - kl) ** 2) for x in (exact, logprobs - ref_logprobs)]
    assert spread[0] < 0.5 * spread[1]  # what the exact sum is for
    _, _, reverse = compared_logprobs(reference, policy, batch, 16)
    assert abs(float(probabilities @ reverse.sum(dim=1)) - kl) > 0.02  # of the reference to the policy


@torch.no_grad()
def test_kl_of_a_token_is_that_of_the_distributions_before_it():
    sampling, policy, reference = SAMPLINGS[1], tiny_policy(2), tiny_policy(3)
    rows, queries = [[0, 1, 2], [2, STOP], [0, 2, EOS], [1, EOS]], [[1], [0, 2, 1], [2, 2], [1, 1, 1]]
    batch = responses_of(rows, sampling, queries)
    *_, found = compared_logprobs(policy, reference, batch, 3)
    for index, (query, row) in enumerate(zip(queries, rows, strict=True)):
        for place in range(len(row)):
            logits = [m(torch.tensor([query + row[:place]]))[0][0, -1].double() for m in (policy, reference)]
            if place < 1:
                logits = [x[:STOP] for x in logits]
            p, q = ((x / 0.7).softmax(dim=-1) for x in logits)
            assert float(found[index, place]) == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
        assert not found[index, len(row) :].any()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_logprobs_are_those_that_training_computes(sampling):
    policy, reference = tiny_policy(0), tiny_policy(1)
    batch = responses_of(all_responses(sampling), sampling)
    with torch.no_grad():
        expected = [response_logprobs(model, batch)[0] for model in (policy, reference)]
        found = compared_logprobs(policy, park(reference, torch.device("cpu")), batch, 7)[:2]
        distribution, tokens = next_token_logprobs(policy, response_hidden(policy, batch), batch)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    torch.testing.assert_close(distribution.exp().sum(dim=-1), torch.ones(len(tokens)), rtol=0, atol=1e-6)


def test_a_policy_has_no_kl_to_itself():
    logprobs, ref_logprobs, kl = compared_logprobs(
        tiny_policy(0), tiny_policy(0), responses_of([[0, 1], [2, 2, 2]], SAMPLINGS[0]), 1
    )
    assert torch.equal(logprobs, ref_logprobs)
    assert not kl.any()
