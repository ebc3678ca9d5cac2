"""PPO on a problem whose best policy is known in closed form: everything between a score and a step, end to end.

Maximising E[score] - beta KL(policy || reference) has one solution, policy = reference * exp(score / beta), normalised
for each prompt (Ziegler et al. 2019, section 2.1, after Levine 2018). On a tree of 21 responses it can be written down.
With the penalty in the loss, where training ends is known as well: from the gradients that docs/variants.md states.
"""

from __future__ import annotations

import itertools

import pytest
import tiktoken
import torch

from minippo.advantages import value_head
from minippo.batches import BatchStream
from minippo.config import PPOConfig
from minippo.heads import ActorCritic
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW
from minippo.ppo import ppo_update
from minippo.rollout import collect_rollout
from minippo.state import PPOState
from minippo.tokenizer import Tokenizer
from minippo.tokenizer.vocab_json import END_OF_TEXT
from tests.environment import environment

BETA = 0.3
PROMPTS = "ab"
TREE = Tokenizer(
    tiktoken.Encoding(
        "tree",
        pat_str=r"[a-d]",
        mergeable_ranks={letter.encode(): rank for rank, letter in enumerate("abcd")},
        special_tokens={END_OF_TEXT: 4},
    )
)
# One token or two: the first ends the text at once, or is followed by any of five.
RESPONSES = [[4], *([first, second] for first, second in itertools.product(range(4), range(5)))]
SCORES = dict(
    zip(
        itertools.product(PROMPTS, [TREE.decode(r) + "." * (4 in r) for r in RESPONSES]),
        torch.randn(42, generator=torch.Generator().manual_seed(0)).tolist(),
        strict=True,
    )
)


def table(prompt: str, response: list[int]) -> float:
    return SCORES[prompt, TREE.decode(response) + "." * (4 in response)]


def scorer(prompts: list[str], responses: list[str]) -> torch.Tensor:
    # A response shorter than two letters has ended by itself.
    return torch.tensor([SCORES[p, r + "." * (len(r) < 2)] for p, r in zip(prompts, responses, strict=True)])


def log_distribution(model: ActorCritic, prompt: str) -> torch.Tensor:
    """Exact log-probabilities of the 21 responses, float64."""
    found = []
    with torch.no_grad():
        for response in RESPONSES:
            logits = model(torch.tensor([TREE.encode(prompt) + response]))[0][0].double()
            steps = torch.log_softmax(logits, dim=-1)
            found.append(sum(steps[t, token] for t, token in enumerate(response)))
    return torch.stack(found)


def train(changes: dict) -> tuple[ActorCritic, ActorCritic]:
    """The policy after training, and its reference."""
    torch.manual_seed(1)
    config = PPOConfig(
        **{
            "num_iterations": 120,
            "rollout_batch_size": 256,
            "num_epochs": 4,
            "num_minibatches": 2,
            "microbatch_size": 128,
            "lr": 3e-3,
            "kl_coef": BETA,
            "temperature": 1.0,
            "adam_eps": 1e-8,
        }
        | changes
    )
    policy = ActorCritic(GPT(GPTConfig(5, 4, layers=1, heads=2, channels=32)), value_head(config))
    with torch.no_grad():
        policy.gpt.token_embedding.weight.normal_(std=0.15)  # a reference that prefers some to others
    reference = ActorCritic(GPT(policy.gpt.config), value_head(config))
    reference.load_state_dict(policy.state_dict())
    queries = [TREE.encode(prompt) for prompt in PROMPTS]
    optimizer = CPUAdamW(policy.parameters(), config.lr, (0.9, 0.999), config.adam_eps)
    state = PPOState(
        policy, optimizer, 0, BatchStream(queries, 256 // config.samples_per_prompt, 0, "prompts"), config.kl_coef
    )
    for _ in range(config.num_iterations):
        rollout = collect_rollout(state, environment(reference, scorer, TREE, config, 2), next(state.prompts), config)
        ppo_update(state, rollout, config)
        state.iteration += 1
    return policy, reference


def distance(p: torch.Tensor, q: torch.Tensor) -> float:
    """Total variation between distributions given by log-probabilities."""
    return float(0.5 * (p.exp() - q.exp()).abs().sum())


SEVERAL = {"samples_per_prompt": 4, "whiten_advantages": False}


@pytest.mark.parametrize(
    ("changes", "nearest", "share"),
    [
        ({}, 0.05, 0.04),
        # At the optimum all returns to a prompt are equal, so it is one for every estimator that compares these.
        pytest.param(SEVERAL | {"advantage": "leave-one-out"}, 0.1, 0.15, marks=pytest.mark.slow),
        pytest.param(SEVERAL | {"advantage": "group", "lr": 1e-3}, 0.1, 0.15, marks=pytest.mark.slow),
        pytest.param({"advantage": "batch"}, 0.1, 0.15, marks=pytest.mark.slow),
    ],
)
def test_ppo_reaches_the_optimum_that_is_known_in_closed_form(changes, nearest, share):
    """Within `nearest` in total variation and a `share` of what there was to gain, for each prompt."""
    policy, reference = train(changes)
    for prompt in PROMPTS:
        scores = torch.tensor([table(prompt, response) for response in RESPONSES]).double()
        start, end = log_distribution(reference, prompt), log_distribution(policy, prompt)
        assert start.exp().sum().item() == pytest.approx(1, abs=1e-6)  # the tree is all there is
        tilted = start + scores / BETA
        optimum = tilted - torch.logsumexp(tilted, dim=0)
        best = BETA * torch.logsumexp(tilted, dim=0)  # the objective there

        def objective(logprobs, scores=scores, start=start):
            return (logprobs.exp() * (scores - BETA * (logprobs - start))).sum()

        assert objective(optimum).item() == pytest.approx(best.item(), abs=1e-9)
        assert distance(start, optimum) > 0.3
        assert distance(end, optimum) < nearest
        assert best - objective(end) < share * (best - objective(start))


PRICE = 1.0
"""The coefficient in the loss: so high that no first token dies out before what follows it has been learned."""


def stationary(reference: torch.Tensor, scores: torch.Tensor, kind: str) -> torch.Tensor:
    """The log-distribution p at which the gradient of the score is PRICE times that of the penalty in the loss.

    k2, of KL(p || q): p = q exp(score / PRICE), normalised. k3, of KL(q || p): p = PRICE q / (c - score), with the one
    c above all scores for which this is a distribution (Grill et al. 2020, 2007.12509).
    """
    if kind == "k2":
        return torch.log_softmax(reference + scores / PRICE, dim=0)
    low, high = scores.max(), scores.max() + PRICE
    for _ in range(100):
        c = (low + high) / 2
        low, high = (c, high) if (PRICE * reference.exp() / (c - scores)).sum() > 1 else (low, c)
    return torch.log(PRICE * reference.exp() / (high - scores))


def end_of_training(reference: torch.Tensor, scores: torch.Tensor, kind: str) -> torch.Tensor:
    """Where the penalty in the loss leads: each token pays for its own KL alone, so a first token is worth the mean
    score of what follows, whatever that costs. Log-probabilities of the 21 responses."""
    first, second = reference[1:].view(4, 5).logsumexp(dim=1), reference[1:].view(4, 5)
    second = torch.stack([stationary(second[i] - first[i], scores[1:].view(4, 5)[i], kind) for i in range(4)])
    worth = (second.exp() * scores[1:].view(4, 5)).sum(dim=1)
    start = stationary(torch.cat([reference[:1], first]), torch.cat([scores[:1], worth]), kind)
    return torch.cat([start[:1], (start[1:, None] + second).flatten()])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_penalty_in_the_loss_leads_where_its_stated_gradient_says(kind):
    policy, reference = train(
        SEVERAL | {"advantage": "leave-one-out", "kl_placement": "loss", "kl_estimate": kind, "kl_coef": PRICE}
    )
    for prompt in PROMPTS:
        scores = torch.tensor([table(prompt, response) for response in RESPONSES]).double()
        start, end = log_distribution(reference, prompt), log_distribution(policy, prompt)
        expected = end_of_training(start, scores, kind)
        assert expected.exp().sum().item() == pytest.approx(1, abs=1e-6)
        other = end_of_training(start, scores, {"k2": "k3", "k3": "k2"}[kind])
        print(kind, distance(start, expected), distance(end, expected), distance(end, other))
        assert distance(end, expected) < min(0.1, distance(start, expected) / 2, distance(end, other))


@pytest.mark.slow
def test_grpo_raises_the_expected_score_of_each_prompt():
    policy, reference = train(
        SEVERAL | {"advantage": "group", "kl_placement": "loss", "kl_estimate": "k3", "loss_normalisation": "sequence"}
    )
    for prompt in PROMPTS:
        scores = torch.tensor([table(prompt, response) for response in RESPONSES]).double()
        before, after = ((log_distribution(x, prompt).exp() * scores).sum() for x in (reference, policy))
        print(before, after, scores.max())
        assert after > before + (scores.max() - before) / 3
