"""Every formula against sums written out in float64; what is masked never matters, in a value or in a gradient."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo import equations, masking, reward_evaluation

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SEEDS = st.integers(0, 2**31 - 1)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def response_mask(lengths, length):
    return torch.arange(length) < torch.tensor(lengths).unsqueeze(1)


def some_mask(B, R, seed=0):
    """The masks of responses: real tokens first, at least one a row, lengths drawn with `seed`."""
    lengths = torch.randint(1, R + 1, (B,), generator=torch.Generator().manual_seed(seed))
    return response_mask(lengths.tolist(), R)


def language_model_loss(logits, tokens, mask, num_tokens=None):
    """The loss as training puts it together: shift by one, leave out what is masked, cross-entropy."""
    return equations.language_model_loss(*masking.predicted_tokens(logits, tokens, mask), num_tokens)


# ---------------------------------------------------------------------------------------------- for all functions

MASK = response_mask([5, 1, 3], 5)
TOKENS = torch.arange(15).view(3, 5) % 7
ROWS = torch.tensor([[15.0], [3.0], [9.0]])  # divisors of the rows

# name -> function of float64 inputs (3, 5), the shapes of further inputs, and which of them the mask covers
MASKED_FUNCTIONS = {
    "language_model_loss": (lambda x: language_model_loss(x, TOKENS, MASK), [(3, 5, 7)]),
    "masked_mean": (lambda x: masking.masked_mean(x, MASK), [(3, 5)]),
    "masked_mean_of_rows": (lambda x: masking.masked_mean(x, MASK, dim=1), [(3, 5)]),
    "masked_moments": (lambda x: masking.masked_moments(x, MASK), [(3, 5)]),
    "whiten": (lambda x: equations.whiten(x, MASK), [(3, 5)]),
    "rescale": (lambda x: equations.rescale(x, MASK), [(3, 5)]),
    "kl_penalised_rewards": (
        lambda x, y: equations.kl_penalised_rewards(torch.ones(3), x, y, MASK, kl_coef=0.1),
        [(3, 5), (3, 5)],
    ),
    "kl_penalised_rewards_k3": (
        lambda x, y: equations.kl_penalised_rewards(torch.ones(3), x, y, MASK, kl_coef=0.1, kind="k3"),
        [(3, 5), (3, 5)],
    ),
    "kl_loss_k2": (lambda x, y: equations.kl_loss(x, y, MASK, kind="k2"), [(3, 5), (3, 5)]),
    "kl_loss_k3": (lambda x, y: equations.kl_loss(x, y, MASK, kind="k3", num_tokens=ROWS), [(3, 5), (3, 5)]),
    "average_by_row": (lambda x: equations.average(x, MASK, ROWS), [(3, 5)]),
    "gae": (lambda x, y: equations.gae(x, y, MASK, gamma=0.9, lam=0.8), [(3, 5), (3, 5)]),
    "explained_variance": (lambda x, y: equations.explained_variance(x, y, MASK), [(3, 5), (3, 5)]),
    "policy_loss": (
        lambda x, y, z: equations.policy_loss(x, y, z, MASK, clip_low=0.2, clip_high=0.2),
        [(3, 5), (3, 5), (3, 5)],
    ),
    "value_loss": (lambda x, y, z: equations.value_loss(x, y, z, MASK, clip=0.2), [(3, 5), (3, 5), (3, 5)]),
    "value_loss_unclipped": (
        lambda x, y, z: equations.value_loss(x, y, z, MASK, clip=None),
        [(3, 5), (3, 5), (3, 5)],
    ),
}


def tensors_of(result):
    """All tensors in what a function returned."""
    if isinstance(result, torch.Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result
    return [tensor for part in parts for tensor in tensors_of(part)]


def values_and_gradients(function, inputs):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    results = tensors_of(function(*inputs))
    weighted = [
        (result * normal(*result.shape, seed=index)).sum() for index, result in enumerate(results) if result.grad_fn
    ]
    sum(weighted).backward()
    gradients = [x.grad if x.grad is not None else torch.zeros_like(x) for x in inputs]
    return [result.detach() for result in results], gradients


@pytest.mark.parametrize("name", MASKED_FUNCTIONS)
@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan])
def test_what_is_masked_never_matters(name, filler):
    function, shapes = MASKED_FUNCTIONS[name]
    inputs = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    if name == "language_model_loss":  # the logits that predict token t + 1 stand at t
        masked = ~torch.cat([MASK[:, 1:], torch.zeros(3, 1, dtype=torch.bool)], dim=1).unsqueeze(-1)
    else:
        masked = ~MASK
    spoilt = [x.masked_fill(masked, filler) for x in inputs]
    values, gradients = values_and_gradients(function, inputs)
    spoilt_values, spoilt_gradients = values_and_gradients(function, spoilt)
    torch.testing.assert_close(spoilt_values, values, **EXACT)
    torch.testing.assert_close(spoilt_gradients, gradients, **EXACT)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    for gradient in spoilt_gradients:
        assert torch.all(gradient.masked_select(masked.expand_as(gradient)) == 0)


@pytest.mark.parametrize("name", MASKED_FUNCTIONS)
def test_nothing_is_mutated(name):
    function, shapes = MASKED_FUNCTIONS[name]
    inputs = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    copies, mask_copy = [x.clone() for x in inputs], MASK.clone()
    function(*inputs)
    torch.testing.assert_close(inputs, copies, rtol=0, atol=0)
    assert torch.equal(MASK, mask_copy)


@pytest.mark.parametrize("name", ["whiten", "rescale", "kl_penalised_rewards", "gae"])
def test_results_at_masked_positions_are_zero(name):
    function, shapes = MASKED_FUNCTIONS[name]
    inputs = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    for result in tensors_of(function(*inputs)):
        assert torch.all(result[~MASK] == 0)
        assert torch.all(result[MASK] != 0)


# ---------------------------------------------------------------------------------------------- reward model


def test_preference_loss_is_the_negative_log_likelihood_of_the_choice():
    chosen, rejected = torch.tensor([1.5, -0.5], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(2.5))) / 2
    assert equations.preference_loss(chosen, rejected).item() == pytest.approx(expected, abs=1e-12)


def test_preference_loss_of_a_model_that_knows_nothing_is_log_two():
    assert equations.preference_loss(torch.zeros(4), torch.zeros(4)).item() == pytest.approx(math.log(2), abs=1e-7)


def test_margin_is_taken_from_the_difference():
    loss = equations.preference_loss(torch.tensor([3.0]).double(), torch.tensor([1.0]).double(), margin=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.5)), abs=1e-12)


def test_label_smoothing_counts_that_share_of_the_labels_as_flipped():
    chosen, rejected = normal(6, seed=1), normal(6, seed=2)
    expected = 0.9 * equations.preference_loss(chosen, rejected) + 0.1 * equations.preference_loss(rejected, chosen)
    torch.testing.assert_close(equations.preference_loss(chosen, rejected, label_smoothing=0.1), expected, **EXACT)


def test_preference_loss_is_linear_and_finite_far_out():
    loss = equations.preference_loss(torch.tensor([-2e4, 2e4]), torch.zeros(2))
    assert loss.item() == pytest.approx(1e4, rel=1e-6)


def test_preference_gradient_raises_the_chosen_score_by_the_probability_of_error():
    chosen, rejected = normal(5, seed=3).requires_grad_(), normal(5, seed=4).requires_grad_()
    equations.preference_loss(chosen, rejected).backward()
    mistaken = scipy.special.expit((rejected - chosen).detach().numpy())
    np.testing.assert_allclose(chosen.grad, -mistaken / 5, atol=1e-12)
    np.testing.assert_allclose(rejected.grad, mistaken / 5, atol=1e-12)


@pytest.mark.parametrize("K", [2, 3, 5])
def test_ranking_loss_is_the_mean_over_rows_of_the_mean_over_pairs(K):
    scores = normal(4, K, seed=K)
    rows = []
    for row in scores.tolist():
        pairs = [math.log1p(math.exp(-(row[i] - row[j] - 0.2))) for i in range(K) for j in range(i + 1, K)]
        assert len(pairs) == K * (K - 1) // 2
        rows.append(sum(pairs) / len(pairs))
    assert equations.ranking_loss(scores, margin=0.2).item() == pytest.approx(sum(rows) / 4, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_loss_is_pytorchs_cross_entropy_of_single_texts(smoothing):
    scores = 4 * normal(7, 2, seed=5) - 1
    targets = torch.tensor([1 - smoothing, smoothing], dtype=torch.float64).expand(7, 2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, targets)
    torch.testing.assert_close(equations.label_loss(scores, smoothing), expected, **EXACT)


def test_label_loss_of_a_model_that_knows_nothing_is_log_two_and_it_stays_finite_far_out():
    assert equations.label_loss(torch.zeros(4, 2)).item() == pytest.approx(math.log(2), abs=1e-7)
    assert equations.label_loss(torch.tensor([[-2e4, 2e4]])).item() == pytest.approx(2e4, rel=1e-6)


def test_ranking_of_two_is_a_preference():
    scores = normal(7, 2)
    expected = equations.preference_loss(scores[:, 0], scores[:, 1], 0.3, 0.1)
    torch.testing.assert_close(equations.ranking_loss(scores, 0.3, 0.1), expected, **EXACT)


def test_language_model_loss_is_the_mean_surprise_of_the_tokens_asked_for():
    logits, tokens = normal(3, 6, 9), torch.randint(9, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = normal(3, 6, seed=2) > 0
    surprises = [
        -scipy.special.log_softmax(logits[row, t - 1].numpy())[tokens[row, t]]
        for row in range(3)
        for t in range(1, 6)
        if mask[row, t]
    ]
    # The softmax is float32, whatever the logits.
    loss = language_model_loss(logits, tokens, mask)
    assert loss.item() == pytest.approx(sum(surprises) / len(surprises), abs=1e-6)


def test_language_model_loss_never_predicts_the_first_token():
    logits, tokens = normal(2, 4, 5), torch.zeros(2, 4, dtype=torch.long)
    everything = torch.ones(2, 4, dtype=torch.bool)
    all_but_first = everything.clone()
    all_but_first[:, 0] = False
    with_first = language_model_loss(logits, tokens, everything)
    assert torch.equal(with_first, language_model_loss(logits, tokens, all_but_first))


def test_language_model_loss_takes_its_softmax_in_float32():
    logits = (8 * normal(2, 4, 50)).bfloat16()
    tokens, mask = torch.arange(8).view(2, 4), torch.ones(2, 4, dtype=torch.bool)
    loss = language_model_loss(logits, tokens, mask)
    expected = language_model_loss(logits.double(), tokens, mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_language_model_loss_of_microbatches_adds_up_to_the_whole():
    logits, tokens, mask = normal(6, 5, 7), torch.arange(30).view(6, 5) % 7, some_mask(6, 5, seed=8)
    num_tokens = mask[:, 1:].sum()
    parts = [
        language_model_loss(logits[rows], tokens[rows], mask[rows], num_tokens) for rows in torch.arange(6).split(2)
    ]
    torch.testing.assert_close(sum(parts), language_model_loss(logits, tokens, mask), rtol=1e-6, atol=1e-6)


def test_calibration_counts_by_confidence_and_leaves_empty_bins_out():
    confidences = [0.55, 0.55, 0.55, 0.72, 0.78, 0.97]
    signs = [1, 1, -1, 1, -1, 1]
    differences = torch.tensor([s * math.log(c / (1 - c)) for s, c in zip(signs, confidences, strict=True)])
    low, middle, high = reward_evaluation.calibration(differences, num_bins=5)
    assert (low.count, middle.count, high.count) == (3, 2, 1)
    assert low == pytest.approx((0.55, 2 / 3, 3), abs=1e-6)
    assert middle == pytest.approx((0.75, 0.5, 2), abs=1e-6)
    assert high == pytest.approx((0.97, 1.0, 1), abs=1e-6)
    expected = (3 * (2 / 3 - 0.55) + 2 * 0.25 + 0.03) / 6
    assert reward_evaluation.calibration_error([low, middle, high]) == pytest.approx(expected, abs=1e-6)


def test_labels_drawn_from_bradley_terry_are_calibrated_and_scaled_scores_are_not():
    generator = torch.Generator().manual_seed(0)
    differences = 2 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    won = torch.rand(200_000, generator=generator, dtype=torch.float64) < torch.sigmoid(differences)
    signed = torch.where(won, differences, -differences)  # better minus worse, by the label
    assert reward_evaluation.calibration_error(reward_evaluation.calibration(signed)) < 0.004
    assert reward_evaluation.calibration_error(reward_evaluation.calibration(3 * signed)) > 0.05


def test_sure_and_tied_pairs_have_a_bin_too():
    (tied, sure) = reward_evaluation.calibration(torch.tensor([0.0, 1e9]))
    assert (tied.confidence, tied.accuracy) == (0.5, 0.5)  # it says either, and is right about that
    assert (sure.confidence, sure.accuracy) == (1.0, 1.0)
    assert reward_evaluation.calibration_error([]) == 0


# ---------------------------------------------------------------------------------------------- masked statistics


@given(SEEDS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_moments_are_those_of_the_real_entries(seed):
    x, mask = 5 + 3 * normal(4, 6, seed=seed), some_mask(4, 6, seed)
    real = x[mask].numpy()
    moments = masking.masked_moments(x, mask)
    assert moments.count == real.size
    np.testing.assert_allclose([moments.mean, moments.variance], [real.mean(), real.var()], rtol=1e-10, atol=1e-10)


@given(SEEDS, st.integers(0, 8))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_moments_of_two_parts_add_up_to_those_of_the_whole(seed, border):
    x, mask = 100 + normal(8, 5, seed=seed), normal(8, 5, seed=seed + 1) > 0
    whole = masking.masked_moments(x, mask)
    first = masking.masked_moments(x[:border], mask[:border])
    second = masking.masked_moments(x[border:], mask[border:])
    torch.testing.assert_close(first + second, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second + first, whole, rtol=1e-9, atol=1e-9)


def test_an_empty_mask_gives_zeros_and_not_nan():
    nothing, x = torch.zeros(2, 3, dtype=torch.bool), normal(2, 3)
    for result in (
        masking.masked_mean(x, nothing),
        masking.masked_mean(x, nothing, dim=1),
        *masking.masked_moments(x, nothing),
        *(masking.masked_moments(x, nothing) + masking.masked_moments(x, nothing)),
        equations.whiten(x, nothing),
        equations.rescale(x, nothing),
        language_model_loss(normal(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), nothing),
        *tensors_of(equations.policy_loss(x, x, x, nothing, clip_low=0.2, clip_high=0.2)),
        *tensors_of(equations.value_loss(x, x, x, nothing, clip=0.2)),
        equations.average(x, nothing),
        equations.kl_loss(x, x + 1, nothing, kind="k3"),
    ):
        assert torch.all(result == 0)


def test_masked_mean_over_a_dimension_divides_by_its_own_count():
    x, mask = torch.tensor([[1.0, 2.0, 99.0], [4.0, 99.0, 99.0]]), response_mask([2, 1], 3)
    assert masking.masked_mean(x, mask, dim=1).tolist() == [1.5, 4.0]
    assert masking.masked_mean(x, mask, dim=0).tolist() == [2.5, 2.0, 0.0]
    assert masking.masked_mean(x, mask).item() == pytest.approx(7 / 3)


@given(SEEDS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_whiten_gives_mean_zero_and_variance_one(seed):
    x, mask = 7 + 4 * normal(5, 6, seed=seed), some_mask(5, 6, seed)
    real = equations.whiten(x, mask)[mask].numpy()
    if real.size > 5:
        np.testing.assert_allclose([real.mean(), real.var()], [0, 1], atol=1e-7)
        np.testing.assert_allclose(np.corrcoef(real, x[mask])[0, 1], 1, atol=1e-10)


@given(SEEDS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_rescale_gives_variance_one_and_keeps_the_mean(seed):
    x, mask = 7 + 4 * normal(5, 6, seed=seed), some_mask(5, 6, seed)
    real = equations.rescale(x, mask)[mask].numpy()
    if real.size > 5:
        np.testing.assert_allclose([real.mean(), real.var()], [x[mask].mean(), 1], atol=1e-7)


def test_whitening_by_given_moments_uses_those_and_not_its_own():
    x, mask = normal(8, 5), some_mask(8, 5)
    pooled = masking.masked_moments(x[:3], mask[:3]) + masking.masked_moments(x[3:], mask[3:])
    for function in (equations.whiten, equations.rescale):
        part = function(x[:3], mask[:3], pooled)
        torch.testing.assert_close(part, function(x, mask)[:3], **EXACT)
        assert not torch.allclose(part, function(x[:3], mask[:3]))


def test_whitening_equal_numbers_gives_zeros():
    assert torch.all(equations.whiten(torch.full((2, 3), 4.0), torch.ones(2, 3, dtype=torch.bool)) == 0)


# ---------------------------------------------------------------------------------------------- log-probabilities


FIRST_THREE = torch.tensor([[True, True, True, False, False]] * 2)


def test_forbidden_token_has_no_chance_where_it_is_forbidden_alone():
    logits = normal(2, 5, 4).float()
    forbidden = masking.forbid_tokens(logits, [2], FIRST_THREE)
    logprobs, log_softmax = equations.token_logprobs(forbidden, torch.full((2, 5), 2))
    entropy = equations.entropies(log_softmax)
    assert torch.all(logprobs[:, :3].exp() == 0)
    assert torch.equal(forbidden[:, 3:], logits[:, 3:])
    others = logits[:, :3, [0, 1, 3]].double().numpy()
    np.testing.assert_allclose(
        entropy[:, :3], scipy.stats.entropy(scipy.special.softmax(others, -1), axis=-1), atol=1e-6
    )


def test_forbidding_mutates_nothing_and_its_entropy_has_a_gradient():
    logits = normal(2, 5, 4).requires_grad_()
    before = logits.detach().clone()
    forbidden = masking.forbid_tokens(logits, [1, 3], FIRST_THREE)
    equations.entropies(equations.token_logprobs(forbidden, torch.zeros(2, 5).long(), 0.5)[1]).sum().backward()
    assert torch.equal(logits.detach(), before)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_logprobs_and_entropies_are_those_of_the_tempered_distribution(temperature):
    logits, tokens = 3 * normal(2, 5, 11), torch.arange(10).view(2, 5)
    logprobs, log_softmax = equations.token_logprobs(logits, tokens, temperature)
    expected = scipy.special.log_softmax(logits.numpy() / temperature, axis=-1)
    np.testing.assert_allclose(logprobs, np.take_along_axis(expected, tokens.numpy()[..., None], -1)[..., 0], atol=2e-6)
    np.testing.assert_allclose(log_softmax, expected, atol=2e-6)
    before = log_softmax.clone()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            entropies = equations.entropies(log_softmax)
        np.testing.assert_allclose(entropies, scipy.stats.entropy(np.exp(expected), axis=-1), atol=2e-6)
    assert torch.equal(log_softmax, before)


def test_logprobs_of_bfloat16_logits_are_taken_in_float32():
    logits, tokens = (10 * normal(4, 8, 300)).bfloat16(), torch.arange(32).view(4, 8)
    logprobs, log_softmax = equations.token_logprobs(logits, tokens, 0.7)
    exact_logprobs, exact_log_softmax = equations.token_logprobs(logits.float(), tokens, 0.7)
    assert logprobs.dtype == log_softmax.dtype == torch.float32
    torch.testing.assert_close(logprobs, exact_logprobs, rtol=0, atol=1e-6)
    torch.testing.assert_close(log_softmax, exact_log_softmax, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------- rewards


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
@settings(deadline=None, derandomize=True)
def test_last_response_index_is_the_length_less_one(lengths):
    index = masking.last_response_index(response_mask(lengths, 7))
    assert index.tolist() == [length - 1 for length in lengths]


def test_last_response_index_looks_for_the_last_real_token_also_behind_left_padding():
    mask = torch.tensor([[False, True, True], [False, False, True], [False, True, False]])
    assert masking.last_response_index(mask).tolist() == [2, 2, 1]


def test_kl_estimates_are_schulmans():
    logprobs, ref_logprobs = torch.tensor([-1.0, -2.0]).double(), torch.tensor([-1.5, -1.0]).double()
    for kind, expected in {
        "k1": [0.5, -1.0],
        "k2": [0.125, 0.5],
        "k3": [math.exp(-0.5) - 1 + 0.5, math.e - 1 - 1],
    }.items():
        np.testing.assert_allclose(equations.kl_estimate(logprobs, ref_logprobs, kind), expected, atol=1e-12)
    assert torch.equal(equations.kl_estimate(logprobs, ref_logprobs), torch.tensor([0.5, -1.0]).double())


@given(SEEDS)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_k1_and_k3_are_unbiased_and_k2_and_k3_never_negative(seed):
    p, q = (torch.log_softmax(normal(12, seed=seed + i), dim=0) for i in (0, 1))
    exact = scipy.stats.entropy(p.exp().numpy(), q.exp().numpy())  # KL(p || q)
    for kind in ("k1", "k3"):
        expectation = (p.exp() * equations.kl_estimate(p, q, kind)).sum()  # under p, which draws the tokens
        assert expectation.item() == pytest.approx(exact, abs=1e-10)
    for kind in ("k2", "k3"):
        assert torch.all(equations.kl_estimate(p, q, kind) >= 0)


def test_k3_keeps_its_precision_where_policy_and_reference_nearly_agree():
    difference = torch.tensor([1e-4])
    assert equations.kl_estimate(difference, torch.zeros(1), "k3").item() == pytest.approx(0.5e-8, rel=1e-2, abs=1e-11)


def test_unknown_kl_estimate_is_refused():
    with pytest.raises(ValueError, match="'k4'"):
        equations.kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


@given(SEEDS, st.floats(0, 2))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_rewards_and_kl_penalties_sum_to_the_score(seed, kl_coef):
    mask, scores = some_mask(5, 7, seed), 10 * normal(5, seed=seed)
    logprobs, ref_logprobs = normal(5, 7, seed=seed + 1), normal(5, 7, seed=seed + 2)
    rewards, kl = equations.kl_penalised_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
    torch.testing.assert_close((rewards + kl_coef * kl).sum(dim=1), scores, **EXACT)


def test_score_lands_on_the_last_real_token_and_the_penalty_on_every_one():
    scores = torch.tensor([5.0, -2.0, 1.0]).double()
    logprobs, ref_logprobs = normal(3, 4, seed=1), normal(3, 4, seed=2)
    mask = response_mask([1, 3, 4], 4)  # ends at once, ends early, does not end
    rewards, kl = equations.kl_penalised_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.3)
    for row, length in enumerate([1, 3, 4]):
        for t in range(4):
            difference = (logprobs[row, t] - ref_logprobs[row, t]).item() if t < length else 0.0
            score = scores[row].item() if t == length - 1 else 0.0
            assert kl[row, t].item() == pytest.approx(difference, abs=1e-12)
            assert rewards[row, t].item() == pytest.approx(score - 0.3 * difference, abs=1e-12)


def test_a_missing_eos_is_treated_as_asked():
    scores, has_eos = torch.tensor([2.0, 3.0]), torch.tensor([True, False])
    assert equations.penalise_missing_eos(scores, has_eos).tolist() == [2.0, 3.0]
    replaced = equations.penalise_missing_eos(scores, has_eos, mode="replace", missing_eos_score=-1.0)
    assert replaced.tolist() == [2.0, -1.0]
    lowered = equations.penalise_missing_eos(scores, has_eos, mode="subtract", missing_eos_score=0.5)
    assert lowered.tolist() == [2.0, 2.5]
    assert scores.tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match="'sometimes'"):
        equations.penalise_missing_eos(scores, has_eos, mode="sometimes")


@pytest.mark.parametrize(
    ("observed_kl", "expected"),
    # target 6, horizon 10000, 512 sequences: errors of 0.1, of 0, and clipped to 0.2 and -0.2
    [(6.6, 0.15 * (1 + 0.1 * 0.0512)), (6.0, 0.15), (60.0, 0.15 * 1.01024), (0.0, 0.15 * 0.98976)],
)
def test_kl_controller_moves_in_proportion_to_the_clipped_error(observed_kl, expected):
    coefficient = equations.adaptive_kl_coef(0.15, observed_kl, target=6.0, horizon=10_000.0, batch_size=512)
    assert coefficient == pytest.approx(expected, rel=1e-12)


@given(
    kl_coef=st.floats(1e-6, 10),
    observed_kl=st.floats(-50, 200),
    target=st.floats(1e-3, 100),
    horizon=st.floats(1e-3, 1e6),
    batch_size=st.integers(1, 4096),
)
def test_kl_controller_keeps_the_coefficient_positive(kl_coef, observed_kl, target, horizon, batch_size):
    """A target of 6, a horizon of 10 and a batch of 128 once made it negative at a KL of 0, which rewards KL."""
    found = equations.adaptive_kl_coef(kl_coef, observed_kl, target=target, horizon=horizon, batch_size=batch_size)
    assert 0.8 * kl_coef <= found * (1 + 1e-12)
    assert found <= 1.2 * kl_coef * (1 + 1e-12)
    assert (found > kl_coef) == (observed_kl > target) or found == pytest.approx(kl_coef)


# ---------------------------------------------------------------------------------------------- advantages


def naive_gae(rewards, values, length, gamma, lam):
    """Advantages of one row by the double sum of Schulman et al. 2016 eq. 16, the value behind the last token 0."""
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < length else 0.0) - values[t] for t in range(length)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_gae_is_the_discounted_sum_of_td_errors(seed, gamma, lam):
    rewards, values, mask = normal(4, 6, seed=seed), normal(4, 6, seed=seed + 1), some_mask(4, 6, seed)
    advantages, returns = equations.gae(rewards, values, mask, gamma=gamma, lam=lam)
    for row in range(4):
        length = int(mask[row].sum())
        expected = naive_gae(rewards[row].tolist(), values[row].tolist(), length, gamma, lam)
        np.testing.assert_allclose(advantages[row, :length], expected, atol=1e-10)
        np.testing.assert_allclose(returns[row, :length], np.array(expected) + values[row, :length].numpy(), atol=1e-10)


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_with_lambda_one_the_advantage_is_the_discounted_return_less_the_value(seed, gamma):
    rewards, values, mask = normal(3, 6, seed=seed), normal(3, 6, seed=seed + 1), some_mask(3, 6, seed)
    advantages, returns = equations.gae(rewards, values, mask, gamma=gamma, lam=1.0)
    for row in range(3):
        length = int(mask[row].sum())
        for t in range(length):
            to_go = sum(gamma ** (k - t) * rewards[row, k].item() for k in range(t, length))
            assert returns[row, t].item() == pytest.approx(to_go, abs=1e-10)
            assert advantages[row, t].item() == pytest.approx(to_go - values[row, t].item(), abs=1e-10)


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_with_lambda_zero_the_advantage_is_the_td_error(seed, gamma):
    rewards, values = normal(2, 5, seed=seed), normal(2, 5, seed=seed + 1)
    advantages, _ = equations.gae(rewards, values, torch.ones(2, 5, dtype=torch.bool), gamma=gamma, lam=0.0)
    next_values = torch.cat([values[:, 1:], torch.zeros(2, 1).double()], dim=1)
    torch.testing.assert_close(advantages, rewards + gamma * next_values - values, **EXACT)


def test_final_reward_decays_by_gamma_lambda():
    rewards = torch.tensor([[0.0, 0.0, 0.0, 8.0, 0.0]])
    advantages, _ = equations.gae(rewards, torch.zeros(1, 5), response_mask([4], 5), gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[0.125, 0.5, 2.0, 8.0, 0.0]]


def test_gae_of_permuted_rows_is_permuted_gae():
    rewards, values, mask = normal(5, 6), normal(5, 6, seed=1), some_mask(5, 6)
    order = torch.tensor([3, 0, 4, 1, 2])
    whole = equations.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    permuted = equations.gae(rewards[order], values[order], mask[order], gamma=0.9, lam=0.8)
    torch.testing.assert_close(permuted, tuple(x[order] for x in whole), rtol=0, atol=0)


def test_more_padding_changes_no_advantage():
    rewards, values, mask = normal(3, 6), normal(3, 6, seed=1), response_mask([4, 2, 3], 6)
    whole = equations.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    shorter = equations.gae(rewards[:, :4], values[:, :4], mask[:, :4], gamma=0.9, lam=0.8)
    torch.testing.assert_close(shorter, tuple(x[:, :4] for x in whole), rtol=0, atol=0)


def test_returns_come_before_whitening():
    rewards, values, mask = normal(3, 6), 5 + normal(3, 6, seed=1), some_mask(3, 6)
    advantages, returns = equations.gae(rewards, values, mask, gamma=1.0, lam=0.95)
    assert abs(advantages[mask].mean()) > 0.1  # not centred, so a whitened sum would differ
    torch.testing.assert_close((returns - values)[mask], advantages[mask], **EXACT)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one():
    returns, mask = normal(4, 5), some_mask(4, 5)
    assert equations.explained_variance(returns, returns, mask).item() == pytest.approx(1)
    assert equations.explained_variance(torch.full((4, 5), 3.0), returns, mask).item() == pytest.approx(0, abs=1e-10)
    guesses = normal(4, 5, seed=1)
    expected = 1 - np.var((returns - guesses)[mask].numpy()) / np.var(returns[mask].numpy())
    assert equations.explained_variance(guesses, returns, mask).item() == pytest.approx(expected, abs=1e-10)


# ---------------------------------------------------------------------------------------------- losses of the update


def update_inputs(B=4, R=6, seed=0, shift=0.3):
    """New log-probabilities, old ones, advantages and a mask; some of the ratios lie outside the clip range."""
    logprobs = -normal(B, R, seed=seed).abs()
    new_logprobs = logprobs + shift * normal(B, R, seed=seed + 1)
    return new_logprobs, logprobs, normal(B, R, seed=seed + 2), some_mask(B, R, seed + 3)


@given(SEEDS, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_policy_loss_is_the_clipped_surrogate_token_by_token(seed, clip_low, clip_high):
    new_logprobs, logprobs, advantages, mask = update_inputs(seed=seed)
    losses, ratios, clips, kls = [], [], [], []
    for new, old, advantage in zip(*(x[mask].tolist() for x in (new_logprobs, logprobs, advantages)), strict=True):
        ratio = math.exp(new - old)
        held = min(max(ratio, 1 - clip_low), 1 + clip_high)
        losses.append(-min(ratio * advantage, held * advantage))
        ratios.append(ratio)
        clips.append((advantage > 0 and ratio > 1 + clip_high) or (advantage < 0 and ratio < 1 - clip_low))
        kls.append(0.5 * (new - old) ** 2)
    loss, figures = equations.policy_loss(
        new_logprobs, logprobs, advantages, mask, clip_low=clip_low, clip_high=clip_high
    )
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-10)
    assert figures["ratio"].item() == pytest.approx(np.mean(ratios), abs=1e-10)
    assert figures["clipfrac"].item() == pytest.approx(np.mean(clips), abs=1e-7)
    assert figures["approxkl"].item() == pytest.approx(np.mean(kls), abs=1e-10)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [
        (1.0, 2.0, -2.0),
        (1.5, 2.0, 0.0),  # a good token is likely enough already: no further gain
        (0.5, 2.0, -1.0),
        (1.5, -2.0, 3.0),
        (0.5, -2.0, 0.0),  # a bad token is unlikely enough already
    ],
)
def test_the_clip_stops_the_gradient_on_the_side_of_the_advantage(ratio, advantage, gradient):
    new_logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1, dtype=torch.bool)
    loss, _ = equations.policy_loss(
        new_logprobs, zero, torch.full((1, 1), advantage).double(), one, clip_low=0.2, clip_high=0.2
    )
    loss.backward()
    assert new_logprobs.grad.item() == pytest.approx(gradient, abs=1e-12)  # d loss / d log p = -ratio * advantage


def test_before_the_first_step_ratio_is_one_and_the_gradient_that_of_the_policy_gradient():
    _, logprobs, advantages, mask = update_inputs()
    new_logprobs = logprobs.clone().requires_grad_()
    loss, figures = equations.policy_loss(new_logprobs, logprobs, advantages, mask, clip_low=0.2, clip_high=0.2)
    loss.backward()
    assert [figures[name].item() for name in ("ratio", "clipfrac", "approxkl")] == [1.0, 0.0, 0.0]
    torch.testing.assert_close(new_logprobs.grad, torch.where(mask, -advantages, 0) / mask.sum(), **EXACT)


def gradients_of_microbatches(loss_function, inputs, mask, size):
    """Loss, figures and gradient of the first input, added up over microbatches that all divide by the whole count."""
    first = inputs[0].clone().requires_grad_()
    total, sums = 0.0, {}
    for rows in torch.arange(len(mask)).split(size):
        loss, figures = loss_function(first[rows], *(x[rows] for x in inputs[1:]), mask[rows], num_tokens=mask.sum())
        loss.backward()
        total += loss.item()
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return total, sums, first.grad


def clipped_policy_loss(*inputs, num_tokens):
    return equations.policy_loss(*inputs, clip_low=0.2, clip_high=0.2, num_tokens=num_tokens)


def clipped_value_loss(*inputs, num_tokens):
    return equations.value_loss(*inputs, clip=0.2, num_tokens=num_tokens)


def kl_loss(new_logprobs, ref_logprobs, _, mask, num_tokens):
    return equations.kl_loss(new_logprobs, ref_logprobs, mask, kind="k3", num_tokens=num_tokens), {}


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_microbatches_add_up_to_the_minibatch(seed, size):
    new, old, target, mask = update_inputs(B=5, seed=seed)
    for loss_function in (kl_loss, clipped_policy_loss, clipped_value_loss):
        whole = gradients_of_microbatches(loss_function, (new, old, target), mask, 5)
        parts = gradients_of_microbatches(loss_function, (new, old, target), mask, size)
        assert parts[0] == pytest.approx(whole[0], abs=1e-10)
        assert parts[1] == pytest.approx(whole[1], abs=1e-6)
        torch.testing.assert_close(parts[2], whole[2], **EXACT)
    default, _ = equations.value_loss(new, old, target, mask, clip=0.2)  # the divisor that it takes by itself
    assert whole[0] == pytest.approx(default.item(), abs=1e-10)


def test_divisors_of_rows_give_the_mean_over_responses_of_the_means_over_their_tokens():
    new, old, advantages, mask = update_inputs()
    lengths = mask.sum(dim=1, keepdim=True)
    assert lengths.min() < lengths.max()
    losses, ratios, kls = [], [], []
    for row in range(4):
        ratio = [math.exp(new[row, t] - old[row, t]) for t in range(lengths[row])]
        gains = [(r * float(a), min(max(r, 0.9), 1.2) * float(a)) for r, a in zip(ratio, advantages[row], strict=False)]
        losses.append(-sum(min(gain) for gain in gains) / len(gains))
        ratios.append(sum(ratio) / len(ratio))
        kls.append(sum(1 / r - 1 + math.log(r) for r in ratio) / len(ratio))
    divisor = 4 * lengths
    loss, figures = equations.policy_loss(new, old, advantages, mask, clip_low=0.1, clip_high=0.2, num_tokens=divisor)
    assert loss.item() == pytest.approx(sum(losses) / 4, abs=1e-10)
    assert figures["ratio"].item() == pytest.approx(sum(ratios) / 4, abs=1e-10)
    assert equations.kl_loss(new, old, mask, kind="k3", num_tokens=divisor).item() == pytest.approx(sum(kls) / 4)


# ---------------------------------------------------------------------------------------------- gradients of the KL


def kl_divergence(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum()


def gradient_of(objective, logits):
    return torch.autograd.grad(objective, logits, retain_graph=True, allow_unused=True)[0]


def distributions(distance=1.0):
    """Logits of a policy over five tokens, its log-probabilities (5, 1), one row per token, and the reference's."""
    reference = normal(5)
    logits = (reference + distance * normal(5, seed=1)).requires_grad_()
    return logits, torch.log_softmax(logits, 0).unsqueeze(1), torch.log_softmax(reference, 0).unsqueeze(1)


EVERY = torch.ones(5, 1, dtype=torch.bool)


def test_gradient_of_the_penalty_in_the_loss_is_0_or_that_of_one_of_the_two_divergences():
    """An exact expectation: every token once, divided by 1 / p of the policy that draws it."""
    logits, log_p, log_q = distributions()
    expected = {"k1": 0 * logits.sum(), "k2": kl_divergence(log_p, log_q), "k3": kl_divergence(log_q, log_p)}
    for kind, objective in expected.items():
        loss = equations.kl_loss(log_p, log_q, EVERY, kind=kind, num_tokens=1 / log_p.detach().exp())
        torch.testing.assert_close(gradient_of(loss, logits), gradient_of(objective, logits), **EXACT)
    forward, backward = (gradient_of(expected[kind], logits) for kind in ("k2", "k3"))
    assert (forward - backward).norm() > 0.1 * forward.norm()


@pytest.mark.parametrize("distance", [1.0, 1e-3])
def test_gradient_of_the_penalty_in_the_reward_is_that_of_the_kl_with_k1_alone(distance):
    logits, log_p, log_q = distributions(distance)
    forward, backward = (gradient_of(kl_divergence(*pair), logits) for pair in ((log_p, log_q), (log_q, log_p)))
    mean_k2 = gradient_of((log_p.exp() * equations.kl_estimate(log_p, log_q, "k2")).sum(), logits)
    expected = {"k1": forward, "k2": mean_k2 - forward, "k3": forward - backward}
    for kind, gradient in expected.items():
        rewards, _ = equations.kl_penalised_rewards(
            torch.zeros(5).double(), log_p.detach(), log_q, EVERY, kl_coef=1.0, kind=kind
        )
        found = -gradient_of((log_p.detach().exp() * rewards * log_p).sum(), logits)
        torch.testing.assert_close(found, gradient, **EXACT)
        assert kind == "k1" or distance == 1.0 or found.norm() < 0.01 * forward.norm()  # no penalty near the reference


def test_penalty_in_the_reward_counts_the_kl_of_later_tokens_and_in_the_loss_it_does_not():
    """All responses of two tokens, out of three, whose second token's distribution depends on the first."""
    first, second = (normal(*shape, seed=1).requires_grad_() for shape in ((3,), (3, 3)))
    references = normal(3, seed=2), normal(3, 3, seed=3)
    log_p, log_q = ([torch.log_softmax(x, -1) for x in pair] for pair in ((first, second), references))
    a, b = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    logprobs, ref_logprobs = (torch.stack([one[a], two[a, b]], dim=1) for one, two in (log_p, log_q))  # (9, 2)
    mask, divisor = torch.ones(9, 2, dtype=torch.bool), 1 / logprobs.detach().sum(dim=1, keepdim=True).exp()
    kl = (logprobs.sum(dim=1).exp() * (logprobs - ref_logprobs).sum(dim=1)).sum()  # of whole responses

    rewards, _ = equations.kl_penalised_rewards(
        torch.zeros(9).double(), logprobs.detach(), ref_logprobs, mask, kl_coef=1.0
    )
    advantages, _ = equations.gae(rewards, torch.zeros(9, 2).double(), mask, gamma=1.0, lam=1.0)
    in_reward, _ = equations.policy_loss(
        logprobs, logprobs.detach(), advantages, mask, clip_low=0.2, clip_high=0.2, num_tokens=divisor
    )
    in_loss = equations.kl_loss(logprobs, ref_logprobs, mask, kind="k2", num_tokens=divisor)
    own = kl_divergence(log_p[0], log_q[0])  # and that of the second token, as if the first were given
    own = own + (log_p[0].detach().exp() * (log_p[1].exp() * (log_p[1] - log_q[1])).sum(dim=1)).sum()
    for logits in (first, second):
        torch.testing.assert_close(gradient_of(in_reward, logits), gradient_of(kl, logits), **EXACT)
        torch.testing.assert_close(gradient_of(in_loss, logits), gradient_of(own, logits), **EXACT)
    assert (gradient_of(in_loss, first) - gradient_of(kl, first)).norm() > 0.5 * gradient_of(kl, first).norm()


@given(SEEDS, st.floats(0.01, 1))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_value_loss_is_half_the_larger_squared_error_token_by_token(seed, clip):
    new_values, values, returns, mask = update_inputs(seed=seed)
    losses, clips, errors = [], [], []
    for new, old, target in zip(*(x[mask].tolist() for x in (new_values, values, returns)), strict=True):
        held = min(max(new, old - clip), old + clip)
        losses.append(0.5 * max((new - target) ** 2, (held - target) ** 2))
        clips.append((held - target) ** 2 > (new - target) ** 2)
        errors.append((new - target) ** 2)
    loss, figures = equations.value_loss(new_values, values, returns, mask, clip=clip)
    assert loss.item() == pytest.approx(np.mean(losses), abs=1e-10)
    assert figures["clipfrac"].item() == pytest.approx(np.mean(clips), abs=1e-7)
    assert figures["error"].item() == pytest.approx(np.mean(errors), abs=1e-10)


def test_values_that_moved_by_less_than_the_clip_are_not_counted_as_clipped():
    """`values + (new_values - values)` differs from `new_values` by rounding, and half of these errors are larger."""
    values, new_values = torch.rand(2, 50, 60, generator=torch.Generator().manual_seed(0)) * 0.2  # (50, 60) each
    mask = torch.ones_like(values, dtype=torch.bool)
    loss, stats = equations.value_loss(new_values, values, torch.ones(50, 60), mask, clip=0.2)
    assert stats["clipfrac"] == 0
    assert loss == 0.5 * ((new_values - 1) ** 2).sum() / mask.sum()


def test_value_loss_without_clip_is_half_the_mean_squared_error():
    new_values, values, returns, mask = update_inputs(shift=5.0)
    loss, figures = equations.value_loss(new_values, values, returns, mask, clip=None)
    assert loss.item() == pytest.approx(0.5 * np.mean((new_values - returns)[mask].numpy() ** 2), abs=1e-10)
    assert figures["clipfrac"] == 0


def test_a_value_that_has_moved_far_enough_has_no_gradient():
    values, returns, one = torch.zeros(1, 1).double(), torch.full((1, 1), 9.0).double(), torch.ones(1, 1).bool()
    for new, gradient in ((0.1, 0.1 - 9.0), (0.5, 0.0), (-0.5, -0.5 - 9.0)):
        new_values = torch.full((1, 1), new, dtype=torch.float64, requires_grad=True)
        equations.value_loss(new_values, values, returns, one, clip=0.2)[0].backward()
        assert new_values.grad.item() == pytest.approx(gradient, abs=1e-12)
