"""The PPO update against formulas written out by hand, and against what it must never do."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch

import minippo.rollout
from minippo import ppo
from minippo.advantages import value_head
from minippo.batches import BatchStream
from minippo.errors import TrainingError
from minippo.memory import OffloadedGradients
from minippo.optim import CPUAdamW
from minippo.ppo import accumulate_gradient, accumulate_pretraining_gradient, ppo_update, update_on_minibatch
from minippo.rollout import Rollout, collect_rollout, response_logprobs
from minippo.state import PPOState
from tests.conftest import TEXTS
from tests.environment import environment
from tests.traffic import count_traffic


@pytest.fixture
def begin(make_policy, queries, tokenizer, scorer):
    """A state, its reference and a rollout; `moved` shifts the policy away from the rollout afterwards."""

    def begun(config, *, seed=0, ref_seed=1, moved=0.0, demonstrations=None) -> tuple[PPOState, Rollout]:
        policy, reference = make_policy(seed), make_policy(ref_seed)
        if value_head(config) is None:
            policy.value_head = None
        optimizer = CPUAdamW(policy.parameters(), config.lr, (0.9, config.adam_beta2), config.adam_eps)
        prompts = BatchStream(queries, len(queries) // config.samples_per_prompt, 0, "prompts")
        state = PPOState(policy, optimizer, 3, prompts, config.kl_coef, demonstrations=demonstrations)
        rollout = collect_rollout(state, environment(reference, scorer, tokenizer, config, 8), next(prompts), config)
        if moved:
            torch.manual_seed(9)
            with torch.no_grad():
                for parameter in policy.parameters():
                    parameter.add_(moved * torch.randn_like(parameter))
        return state, rollout

    return begun


def gradient(state: PPOState) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in state.policy.parameters()])


def weights(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def accumulated(state, rollout, config, eos_id):
    """Gradient of a minibatch, and its figures."""
    state.optimizer.zero_grad(set_to_none=True)
    found = accumulate_gradient(state, rollout, config)
    return gradient(state), found


def loss_by_hand(policy, rollout, config, eos_id, kl_coef):
    """The loss of a minibatch in float64: row by row, token by token, without padding."""
    tokens = []
    for row in range(len(rollout.queries)):
        query = rollout.queries[row][rollout.query_mask[row]].tolist()
        response = rollout.responses[row][rollout.response_mask[row]].tolist()
        hidden = policy.gpt.hidden(torch.tensor([query + response]))[0]
        for t, token in enumerate(response):
            state = hidden[len(query) - 1 + t]
            logits = policy.gpt.token_embedding.weight @ state / config.temperature
            if t < config.min_new_tokens:
                logits = torch.cat([logits[:eos_id], logits[eos_id + 1 :]])  # end-of-text is the last id
                assert token < eos_id
            logprobs = logits - torch.logsumexp(logits, dim=0)
            names, value = ["logprobs", "ref_logprobs"], None
            if policy.value_head is not None:
                value = policy.value_head.weight[0] @ state + policy.value_head.bias[0]
                names += ["values", "returns"]
            stored = [getattr(rollout, name)[row, t].double() for name in names]
            tokens.append((logprobs[token], -(logprobs.exp() * logprobs).sum(), value, stored, row, t))
    advantages = torch.stack([rollout.advantages[row, t].double() for *_, row, t in tokens])
    if config.whiten_advantages:
        deviation = ((advantages - advantages.mean()) ** 2).mean().sqrt()
        advantages = (advantages - advantages.mean()) / deviation
    loss = torch.zeros((), dtype=torch.float64)
    for advantage, (new, entropy, value, (old, ref, *critic), row, _) in zip(advantages, tokens, strict=True):
        ratio = torch.exp(new - old)
        low, high = 1 - config.clip_low, 1 + config.clip_high
        bounded = low if ratio < low else high if ratio > high else ratio
        surrogate = min(ratio * advantage, bounded * advantage)
        share = {"token": 1 / len(tokens), "sequence": 1 / len(rollout.queries) / rollout.response_mask[row].sum()}
        weight = share[config.loss_normalisation]
        if config.kl_placement == "loss":
            k1 = new - ref
            penalty = k1 * k1 / 2 if config.kl_estimate == "k2" else torch.exp(-k1) - 1 + k1
            loss = loss + weight * kl_coef * penalty
        error = 0.0
        if critic:
            old_value, target = critic
            error = (value - target) ** 2
        if critic and config.value_clip is not None:
            shift = value - old_value
            clip = config.value_clip
            near = old_value + (clip if shift > clip else -clip if shift < -clip else shift)
            error = max(error, (near - target) ** 2)
        loss = loss + weight * (-surrogate + config.value_coef * 0.5 * error - config.entropy_coef * entropy)
    return loss


RLOO = {"advantage": "leave-one-out", "samples_per_prompt": 3, "whiten_advantages": False}
GRPO = {"advantage": "group", "samples_per_prompt": 4, "kl_placement": "loss", "kl_estimate": "k3"}
GRPO |= {"loss_normalisation": "sequence", "whiten_advantages": False}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"whiten_advantages": False, "value_clip": None},
        {"clip_low": 0.05, "clip_high": 0.3, "value_clip": 0.05, "value_coef": 1.3, "entropy_coef": 0.7},
        {"temperature": 0.7, "min_new_tokens": 2, "entropy_coef": 0.2},
        {"loss_normalisation": "sequence", "entropy_coef": 0.3},
        {"kl_placement": "loss", "kl_estimate": "k2", "entropy_coef": 0.3},
        RLOO | {"entropy_coef": 0.2},
        GRPO,
    ],
)
def test_gradient_is_that_of_the_formulas_written_out_by_hand(begin, ppo_config, tokenizer, changes):
    config = replace(ppo_config, **changes)
    state, rollout = begin(config, moved=0.03)
    state.kl_coef = 0.7  # adapted: the configured one is where it started
    ours, found = accumulated(state, rollout, config, tokenizer.eos_id)
    assert 0.02 < found["policy/clipfrac"] < 0.9  # the clips take part
    exact = copy.deepcopy(state.policy).double()
    exact.zero_grad()
    loss = loss_by_hand(exact, rollout, config, tokenizer.eos_id, kl_coef=0.7)
    loss.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in exact.parameters()])
    assert (ours - expected).abs().max() < 2e-6 * expected.abs().max() + 2e-7
    total = found["loss/policy"] + config.value_coef * found.get("loss/value", 0) + 0.7 * found.get("loss/kl", 0)
    assert ("loss/kl" in found) == (config.kl_placement == "loss")
    assert any(name.startswith("value/") or name == "loss/value" for name in found) == (config.advantage == "gae")
    assert total - config.entropy_coef * found["policy/entropy"] == pytest.approx(loss.item(), abs=2e-6)


@pytest.mark.parametrize("changes", [{}, {"loss_normalisation": "sequence"}, GRPO])
def test_microbatches_give_the_gradient_and_the_figures_of_the_whole(begin, ppo_config, tokenizer, changes):
    config = replace(ppo_config, entropy_coef=0.1, **changes)
    state, rollout = begin(config, moved=0.03)
    lengths = rollout.response_mask.sum(dim=1)
    assert lengths.min() < lengths.max()  # rows weigh by their tokens, not alike
    whole, whole_figures = accumulated(state, rollout, replace(config, microbatch_size=24), tokenizer.eos_id)
    for size in (1, 2, 8):
        part, part_figures = accumulated(state, rollout, replace(config, microbatch_size=size), tokenizer.eos_id)
        assert (part - whole).abs().max() < 3e-6 * whole.abs().max()
        assert part_figures == pytest.approx(whole_figures, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("tokens", [1, 20, 100])
def test_few_logits_at_a_time_give_the_gradient_and_the_figures_of_all_at_once(
    begin, ppo_config, tokenizer, tokens, monkeypatch
):
    config = replace(ppo_config, entropy_coef=0.1, microbatch_size=24)
    state, rollout = begin(config, moved=0.03)
    whole, whole_figures = accumulated(state, rollout, config, tokenizer.eos_id)
    judged = response_logprobs(state.policy, rollout)
    sizes, logits = [], type(state.policy.gpt).logits
    monkeypatch.setattr(type(state.policy.gpt), "logits", lambda self, x: sizes.append(len(x)) or logits(self, x))
    monkeypatch.setattr(minippo.rollout, "LOGIT_TOKENS", tokens)
    part, part_figures = accumulated(state, rollout, config, tokenizer.eos_id)
    assert (part - whole).abs().max() < 3e-6 * whole.abs().max()
    assert part_figures == pytest.approx(whole_figures, rel=1e-5, abs=1e-6)
    for ours, expected in zip(response_logprobs(state.policy, rollout), judged, strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    R = rollout.response_mask.shape[1]
    assert max(sizes) <= max(tokens, R)  # a row is not divided
    assert sum(sizes) == 2 * rollout.response_mask.sum()
    assert len(sizes) == 2 * math.ceil(24 / max(1, tokens // R))


def test_gradients_of_the_last_step_are_gone_at_the_next(begin, ppo_config, tokenizer):
    config = replace(ppo_config, lr=0.0, max_grad_norm=1e9)
    state, rollout = begin(config)
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    first = update_on_minibatch(state, rollout, config)
    grad = gradient(state)
    assert update_on_minibatch(state, rollout, config) == first
    assert torch.equal(gradient(state), grad)


@pytest.mark.parametrize("limit", [None, 0.0])
def test_update_leaves_no_gradient_whether_its_last_step_was_taken_or_not(begin, ppo_config, limit):
    state, rollout = begin(ppo_config)
    figures = ppo_update(state, rollout, replace(ppo_config, max_approx_kl=limit))
    assert (figures["policy/steps"] < ppo_config.num_epochs * ppo_config.num_minibatches) == (limit is not None)
    assert all(parameter.grad is None for parameter in state.policy.parameters())


def test_offloaded_gradients_move_once_in_each_microbatch(begin, ppo_config, queries, token_rows, monkeypatch):
    """Also those of the heads, which are computed in several chunks."""
    config = replace(ppo_config, microbatch_size=8, ptx_coef=0.5)
    state, rollout = begin(config, moved=0.03, demonstrations=BatchStream(token_rows(queries), 12, 0, "demonstrations"))
    monkeypatch.setattr(minippo.rollout, "LOGIT_TOKENS", 20)
    microbatches = {"loss": 3, "pretraining": 2}

    def pass_backward(state: PPOState) -> list[torch.Tensor]:
        accumulate_gradient(state, rollout, config)
        state.demonstrations = BatchStream(token_rows(queries), 12, 0, "demonstrations")
        accumulate_pretraining_gradient(state, config)
        return [state.optimizer.gradients.of(p).clone() for p in state.policy.parameters()]

    expected = pass_backward(state)
    state.optimizer.zero_grad()
    state.optimizer = CPUAdamW(state.policy.parameters(), gradients=OffloadedGradients)
    _, stores = count_traffic(monkeypatch, state.optimizer.gradients)
    for ours, theirs in zip(pass_backward(state), expected, strict=True):
        assert torch.equal(ours, theirs)
    for parameter in state.policy.value_head.parameters():
        assert stores.pop(parameter) == microbatches["loss"]
    assert set(stores) == set(state.policy.gpt.parameters())
    assert set(stores.values()) == {sum(microbatches.values())}


def test_garbage_under_the_mask_changes_no_gradient(begin, ppo_config, tokenizer):
    config = replace(ppo_config, entropy_coef=0.1)
    state, rollout = begin(config, moved=0.03)
    clean, clean_figures = accumulated(state, rollout, config, tokenizer.eos_id)
    names = ("logprobs", "ref_logprobs", "values", "kl", "rewards", "advantages", "returns")
    garbage = {name: torch.where(rollout.response_mask, getattr(rollout, name), torch.nan) for name in names}
    spoilt, spoilt_figures = accumulated(state, replace(rollout, **garbage), config, tokenizer.eos_id)
    assert torch.equal(spoilt, clean)
    assert spoilt_figures == clean_figures


@pytest.fixture
def steps(monkeypatch):
    """The minibatches of an update and what each step found, in order."""
    seen = []
    step = update_on_minibatch

    def recorded(state, batch, *rest):
        found = step(state, batch, *rest)
        seen.append((batch, found))
        return found

    monkeypatch.setattr(ppo, "update_on_minibatch", recorded)
    return seen


def test_first_minibatch_has_ratio_one_and_later_ones_move(begin, ppo_config, tokenizer, steps):
    config = replace(ppo_config, lr=0.01, temperature=0.8, min_new_tokens=1)
    state, rollout = begin(config)
    ppo_update(state, rollout, config)
    first, *later = [found for _, found in steps]
    assert first["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert first["policy/approxkl"] < 1e-9
    assert first["policy/clipfrac"] == 0
    assert first["value/clipfrac"] == 0
    assert all(found["policy/approxkl"] > 1e-6 for found in later)
    assert later[-1]["policy/clipfrac"] > 0


def test_every_epoch_goes_once_through_all_rows_in_a_new_order(begin, ppo_config, tokenizer, steps):
    state, rollout = begin(ppo_config)
    marked = replace(rollout, raw_scores=torch.arange(24.0))
    ppo_update(state, marked, ppo_config)
    rows = [batch.raw_scores.tolist() for batch, _ in steps]
    assert [len(minibatch) for minibatch in rows] == [8] * 6
    first, second = (list(itertools.chain(*epoch)) for epoch in (rows[:3], rows[3:]))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert first != sorted(first)


def test_order_of_the_rows_depends_on_the_seed_and_the_iteration_alone(begin, ppo_config, tokenizer, steps):
    for seed, iteration in ((1, 0), (1, 0), (2, 0), (1, 1)):
        state, rollout = begin(ppo_config)
        state.seed, state.iteration = seed, iteration
        torch.manual_seed(7)
        expected = torch.random.get_rng_state()
        ppo_update(state, replace(rollout, raw_scores=torch.arange(24.0)), ppo_config)
        assert torch.equal(torch.random.get_rng_state(), expected)
    runs = [[batch.raw_scores.tolist() for batch, _ in steps[start : start + 6]] for start in (0, 6, 12, 18)]
    assert runs[0] == runs[1]
    assert all(a != b for a, b in itertools.combinations(runs[1:], 2))


def test_figures_are_means_over_all_minibatches(begin, ppo_config, tokenizer, steps):
    config = replace(ppo_config, lr=0.01, entropy_coef=0.01)
    state, rollout = begin(config)
    found = ppo_update(state, rollout, config)
    assert set(found) == {*steps[0][1], "policy/steps", "lr"}
    for name in steps[0][1]:
        values = [figures[name] for _, figures in steps]
        assert found[name] == pytest.approx(sum(values) / 6, rel=1e-6, abs=1e-12), name
        assert len(set(values)) > 1, name


def test_gradients_are_clipped_and_stepped_once_a_minibatch(begin, ppo_config, tokenizer, monkeypatch):
    config = replace(ppo_config, microbatch_size=2, max_grad_norm=0.01)
    state, rollout = begin(config)
    events, clip, step = [], state.optimizer.clip_gradients, state.optimizer.step

    def clipped(max_norm):
        events.append("clip")
        return clip(max_norm)

    def stepped():
        events.append("step")
        assert gradient(state).norm().item() == pytest.approx(0.01, rel=1e-3)
        return step()

    monkeypatch.setattr(state.optimizer, "clip_gradients", clipped)
    monkeypatch.setattr(state.optimizer, "step", stepped)
    ppo_update(state, rollout, config)
    assert events == ["clip", "step"] * 6


def test_logged_gradient_norm_is_that_of_the_whole_minibatch_before_clipping(begin, ppo_config, tokenizer):
    state, rollout = begin(ppo_config)
    grad, _ = accumulated(state, rollout, replace(ppo_config, microbatch_size=24), tokenizer.eos_id)
    config = replace(ppo_config, microbatch_size=1, max_grad_norm=1e-3)
    found = update_on_minibatch(state, rollout, config)
    assert found["policy/grad_norm"] == pytest.approx(grad.norm().item(), rel=1e-5)


def test_learning_rate_falls_linearly_from_its_first_value(begin, ppo_config, tokenizer):
    config = replace(ppo_config, lr=0.004, num_iterations=8)
    state, rollout = begin(config)
    for iteration, expected in ((0, 0.004), (2, 0.003), (7, 0.0005)):
        state.iteration = iteration
        assert ppo_update(state, rollout, config)["lr"] == pytest.approx(expected)
        assert [group["lr"] for group in state.optimizer.param_groups] == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("constant", [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0.25, 0.5, 0.75, 1, *((1 + math.cos(math.pi * done / 6)) / 2 for done in range(6))]),
    ],
)
def test_learning_rate_follows_its_schedule_after_the_warm_up(begin, ppo_config, tokenizer, schedule, shares):
    config = replace(ppo_config, lr=0.004, num_iterations=10, warmup=0.4, schedule=schedule)
    state, rollout = begin(config)
    used, step = [], state.optimizer.step

    def stepped():
        used.append({group["lr"] for group in state.optimizer.param_groups})
        return step()

    state.optimizer.step = stepped
    for state.iteration in range(10):
        ppo_update(state, rollout, config)
    expected = [0.004 * share for share in shares for _ in range(6)]  # six steps in an iteration
    assert [max(lr) for lr in used] == [min(lr) for lr in used] == pytest.approx(expected)


def test_learning_rate_of_zero_moves_nothing_and_keeps_every_ratio_one(begin, ppo_config, tokenizer):
    config = replace(ppo_config, lr=0.0, weight_decay=0.1)
    state, rollout = begin(config)
    before = weights(state.policy)
    found = ppo_update(state, rollout, config)
    assert all(map(torch.equal, weights(state.policy), before))
    assert found["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert found["policy/approxkl"] < 1e-9
    assert found["policy/clipfrac"] == found["value/clipfrac"] == 0


def test_update_leaves_the_rollout_alone(begin, ppo_config, tokenizer):
    state, rollout = begin(ppo_config)
    before = {name: x.clone() for name, x in vars(rollout).items() if isinstance(x, torch.Tensor)}
    ppo_update(state, rollout, ppo_config)
    assert all(torch.equal(getattr(rollout, name), tensor) for name, tensor in before.items())
    assert not any(tensor.requires_grad for tensor in vars(rollout).values() if isinstance(tensor, torch.Tensor))


def test_kl_coefficient_follows_the_controller_only_where_there_is_a_target(begin, ppo_config, tokenizer):
    state, rollout = begin(ppo_config)
    ppo_update(state, rollout, ppo_config)
    assert state.kl_coef == 0.2
    observed = rollout.kl.double().sum().item() / 24
    for target in (observed * 1.1, observed / 5):
        state.kl_coef = 0.2
        config = replace(ppo_config, kl_target=target, kl_horizon=1000.0)
        ppo_update(state, rollout, config)
        error = max(-0.2, min(0.2, observed / target - 1))
        assert state.kl_coef == pytest.approx(0.2 * (1 + error * 24 / 1000), rel=1e-6)


def test_one_fixed_rollout_is_learnt_until_the_clip_stops_it(begin, ppo_config, tokenizer):
    config = replace(
        ppo_config, num_epochs=30, num_minibatches=1, microbatch_size=24, lr=0.01, value_coef=0.0, num_iterations=1000
    )

    def learn(config):
        state, rollout = begin(config)
        mask = rollout.response_mask
        advantages = rollout.advantages[mask].double()
        advantages = (advantages - advantages.mean()) / advantages.std(correction=0)

        def log_ratios():
            with torch.no_grad():
                logprobs = response_logprobs(state.policy, rollout)[0]
            return (logprobs - rollout.logprobs)[mask].double()

        weighted = []
        for _ in range(3):
            ppo_update(state, rollout, config)
            weighted.append((advantages * log_ratios()).mean().item())
        return advantages, log_ratios(), weighted

    advantages, log_ratios, weighted = learn(config)
    gain = torch.minimum(log_ratios.exp() * advantages, log_ratios.exp().clamp(0.8, 1.2) * advantages) - advantages
    most = 0.2 * advantages.abs().mean()  # no more can be gained between ratios of 0.8 and 1.2
    assert weighted[0] > 0.05
    assert 0.8 * most < gain.mean() <= most
    assert weighted[2] < 1.5 * weighted[0]  # stopped
    _, _, unclipped = learn(replace(config, clip_low=1.0, clip_high=math.inf))
    assert unclipped[2] > 2 * weighted[2]  # the clip it was that stopped it


def test_value_head_learns_the_returns_of_one_fixed_rollout(begin, ppo_config, tokenizer):
    config = replace(ppo_config, num_epochs=60, lr=0.01, value_coef=1.0, value_clip=None, num_iterations=1000)
    config = replace(config, num_minibatches=1, microbatch_size=24)
    state, rollout = begin(config)
    found = [ppo_update(state, rollout, config)["value/td_error"] for _ in range(3)]
    assert found[2] < 0.1 * found[0]


# ---------------------------------------------------------------------------------------------- steps not taken


def test_epochs_end_at_the_approximate_kl_and_its_step_is_not_taken(begin, ppo_config, tokenizer, steps):
    config = replace(ppo_config, lr=0.02, weight_decay=0.1, num_epochs=5)
    state, rollout = begin(config)
    ppo_update(state, rollout, config)
    kls = [found["policy/approxkl"] for _, found in steps]
    assert len(kls) == 15
    limit = sorted(kls)[7]
    expected = next(place for place, kl in enumerate(kls) if kl > limit)
    steps.clear()

    again, rollout = begin(config)
    found = ppo_update(again, rollout, replace(config, max_approx_kl=limit))
    assert [seen["policy/approxkl"] for _, seen in steps] == kls[: expected + 1]
    assert found["policy/steps"] == expected
    assert all(again.optimizer.state[p]["step"] == expected for p in again.policy.parameters())


def test_a_step_not_taken_moves_neither_weights_nor_moments(begin, ppo_config, tokenizer):
    config = replace(ppo_config, lr=0.02, weight_decay=0.5)
    state, rollout = begin(config)
    ppo_update(state, rollout, config)
    before, moments = weights(state.policy), copy.deepcopy(state.optimizer.state_dict()["state"])
    found = ppo_update(state, rollout, replace(config, max_approx_kl=1e-12))
    assert found["policy/steps"] == found["policy/grad_norm"] == 0
    found = ppo_update(state, rollout, replace(config, max_ratio=0.01))
    assert found["policy/steps"] == 0
    assert all(map(torch.equal, weights(state.policy), before))
    for index, saved in state.optimizer.state_dict()["state"].items():
        assert all(torch.equal(torch.as_tensor(saved[key]), torch.as_tensor(moments[index][key])) for key in saved)


def test_ratio_guard_skips_the_minibatches_beyond_it_and_goes_on(begin, ppo_config, tokenizer, steps):
    config = replace(ppo_config, lr=0.05, num_epochs=4)
    state, rollout = begin(config)
    ppo_update(state, rollout, config)
    limit = sorted(found["policy/ratio"] for _, found in steps)[-3]
    steps.clear()
    state, rollout = begin(config)
    found = ppo_update(state, rollout, replace(config, max_ratio=limit))
    skipped = [seen["policy/ratio"] > limit for _, seen in steps]
    assert len(skipped) == 12  # all minibatches were looked at
    assert any(skipped)
    assert found["policy/steps"] == 12 - sum(skipped)
    assert [("policy/grad_norm" not in seen) for _, seen in steps] == skipped


@pytest.mark.parametrize("skipped", [{0}, {2}, {5}, {0, 1, 2, 3, 4, 5}])
def test_figures_are_means_over_the_steps_taken_wherever_one_is_skipped(
    begin, ppo_config, tokenizer, monkeypatch, skipped
):
    state, rollout = begin(ppo_config)
    ratios = [99.0 if place in skipped else 1.0 for place in range(6)]
    accumulate, losses = ppo.accumulate_gradient, []

    def told(*given):
        figures = accumulate(*given) | {"policy/ratio": ratios[len(losses)]}
        losses.append(figures["loss/value"])
        return figures

    monkeypatch.setattr(ppo, "accumulate_gradient", told)
    found = ppo_update(state, rollout, replace(ppo_config, max_ratio=10.0))
    counted = [loss for place, loss in enumerate(losses) if place not in skipped] or losses
    assert found["policy/steps"] == 6 - len(skipped)
    assert found["loss/value"] == pytest.approx(sum(counted) / len(counted), rel=1e-6)
    assert (found["policy/grad_norm"] > 0) == (len(skipped) < 6)


def test_a_ratio_beyond_all_numbers_is_skipped_by_the_guard_and_stops_a_run_without_one(begin, ppo_config, tokenizer):
    state, rollout = begin(ppo_config)
    before = weights(state.policy)
    far = replace(rollout, logprobs=rollout.logprobs.masked_fill(rollout.response_mask, -200.0))
    found = ppo_update(state, far, replace(ppo_config, max_ratio=10.0))
    assert found["policy/steps"] == 0
    assert all(map(torch.equal, weights(state.policy), before))
    with pytest.raises(TrainingError, match=r"\w+/\w+ is (inf|nan)"):
        ppo_update(state, far, ppo_config)


# ---------------------------------------------------------------------------------------------- pretraining term


@pytest.mark.parametrize("microbatch_size", [1, 24])
def test_pretraining_term_adds_its_weight_times_the_language_model_gradient(
    begin, ppo_config, tokenizer, token_rows, microbatch_size
):
    """Only completions are predicted."""
    rows = [[*tokenizer.encode(text)[: 9 + 3 * place], tokenizer.eos_id] for place, text in enumerate(TEXTS)]
    prompts = (0, 4, 9)
    demonstrations = BatchStream(token_rows(rows, prompts), len(rows), 0, "rows")
    config = replace(ppo_config, ptx_coef=1.7, microbatch_size=microbatch_size, max_grad_norm=1e9)
    plain_state, rollout = begin(config, moved=0.03)
    update_on_minibatch(plain_state, rollout, config)
    plain = gradient(plain_state)
    state, rollout = begin(config, moved=0.03, demonstrations=demonstrations)
    start = copy.deepcopy(state.policy)
    found = update_on_minibatch(state, rollout, config)
    ours = gradient(state)

    exact = start.double()
    surprises = [
        -torch.log_softmax(exact.gpt(torch.tensor([row]))[0, place - 1], dim=-1)[row[place]]
        for row, prompt in zip(rows, prompts, strict=True)
        for place in range(max(1, prompt), len(row))
    ]
    exact.zero_grad()
    (sum(surprises) / len(surprises)).backward()
    added = torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in exact.parameters()]
    )
    assert added.norm() > 0.01
    torch.testing.assert_close((ours - plain).double(), 1.7 * added, rtol=1e-4, atol=2e-6)
    assert found["loss/ptx"] == pytest.approx((sum(surprises) / len(surprises)).item(), rel=1e-5)


def test_pretraining_gradient_is_clipped_together_with_the_others(
    begin, ppo_config, tokenizer, token_rows, monkeypatch
):
    rows = [[*tokenizer.encode(text)[:40], tokenizer.eos_id] for text in TEXTS]
    config = replace(ppo_config, ptx_coef=50.0, max_grad_norm=0.01)
    state, rollout = begin(config, demonstrations=BatchStream(token_rows(rows), len(rows), 0, "rows"))
    step, norms = state.optimizer.step, []

    def stepped():
        norms.append(gradient(state).norm().item())
        return step()

    monkeypatch.setattr(state.optimizer, "step", stepped)
    found = update_on_minibatch(state, rollout, config)
    assert norms == [pytest.approx(0.01, rel=1e-3)]
    assert found["policy/grad_norm"] > 10  # of both together, before clipping


# ---------------------------------------------------------------------------------------------- numbers that are none


@pytest.mark.parametrize("name", ["advantages", "returns"])
def test_a_loss_that_is_no_number_stops_before_the_step(begin, ppo_config, tokenizer, name):
    config = replace(ppo_config, whiten_advantages=False)
    state, rollout = begin(config)
    before = weights(state.policy)
    broken = getattr(rollout, name).clone()
    broken[:, 0] = math.nan
    with pytest.raises(TrainingError, match=r"loss/(policy|value) is nan"):
        ppo_update(state, replace(rollout, **{name: broken}), config)
    assert all(map(torch.equal, weights(state.policy), before))


def test_a_gradient_that_is_no_number_stops_before_the_step(begin, ppo_config, tokenizer):
    state, rollout = begin(ppo_config)
    before = weights(state.policy)
    state.policy.gpt.final_norm.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(TrainingError, match=r"policy/grad_norm is (nan|inf)"):
        ppo_update(state, rollout, ppo_config)
    assert all(map(torch.equal, weights(state.policy), before))
