"""Generation against a naive one without cache and compaction, the public one, and the exact distributions."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.errors import TrainingError
from minippo.model import GPT, GPTConfig, KVCache
from minippo.sampling import choose, generate
from minippo.weights import save_pretrained

V, EOS, PAD = 13, 12, 5  # the pad is an id that the model also draws


def make_gpt(scale=0.5, eos_bias=0.0, **changes):
    gpt = GPT(GPTConfig(**({"vocab_size": V, "context": 24, "layers": 2, "heads": 2, "channels": 16} | changes))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        # A constant channel of the hidden state, which only the end-of-text's embedding reads, moves its logit.
        gpt.final_norm.weight[0], gpt.final_norm.bias[0] = 0.0, 1.0
        gpt.token_embedding.weight[:, 0] = 0.0
        gpt.token_embedding.weight[EOS, 0] = eos_bias
    return gpt


def queries_of(lengths, seed=0):
    P = max(lengths)
    queries = torch.randint(V - 1, (len(lengths), P), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(P) >= P - torch.tensor(lengths).unsqueeze(1)
    return queries.masked_fill(~mask, PAD), mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def naive_generate(gpt, queries, mask, *, max_new_tokens, ends, temperature, min_new_tokens, seed):
    """Each row alone and from its whole text at every step; its uniform numbers are its column of the batch's draws."""
    generator = seeded(seed)
    uniforms = torch.stack(
        [torch.rand(len(queries), generator=generator, dtype=torch.float64) for _ in range(max_new_tokens)]
    )
    responses = []
    for row in range(len(queries)):
        text, response = queries[row][mask[row]].tolist(), []
        for step in range(max_new_tokens):
            logits = gpt(torch.tensor([text + response]))[0, -1].double()
            if step < min_new_tokens:
                logits[list(ends)] = -torch.inf
            cumulative = torch.softmax(logits / temperature, dim=0).cumsum(0)
            token = int((cumulative <= uniforms[step, row]).sum())
            response.append(token)
            if token in ends:
                break
        responses.append(response)
    return responses


def unpadded(responses, mask):
    return [row[real].tolist() for row, real in zip(responses, mask, strict=True)]


@pytest.mark.parametrize("min_new_tokens", [0, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_every_row_draws_what_it_would_draw_alone(min_new_tokens, temperature, monkeypatch):
    kept = []
    original = KVCache.keep_rows
    monkeypatch.setattr(KVCache, "keep_rows", lambda cache, rows: (kept.append(len(rows)), original(cache, rows)))
    gpt, (queries, query_mask) = make_gpt(eos_bias=1.0), queries_of([6, 1, 3, 5, 2, 6, 4, 1, 2, 3])
    responses, mask = generate(
        gpt,
        queries,
        query_mask,
        max_new_tokens=12,
        eos_id=EOS,
        pad_id=PAD,
        temperature=temperature,
        min_new_tokens=min_new_tokens,
        generator=seeded(1),
    )
    expected = naive_generate(
        gpt,
        queries,
        query_mask,
        max_new_tokens=12,
        ends={EOS},
        temperature=temperature,
        min_new_tokens=min_new_tokens,
        seed=1,
    )
    assert unpadded(responses, mask) == expected
    assert len(kept) >= 2  # rows that had ended were indeed dropped on the way
    assert len({len(response) for response in expected}) >= 4


def test_greedy_responses_are_those_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    gpt, (queries, query_mask) = make_gpt(eos_bias=2.0), queries_of([6, 1, 3, 5, 2, 6, 4, 2])
    save_pretrained(gpt, tmp_path)
    twin = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    expected = twin.generate(
        queries,
        attention_mask=query_mask.long(),
        max_new_tokens=10,
        do_sample=False,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )[:, queries.shape[1] :]
    responses, mask = generate(gpt, queries, query_mask, max_new_tokens=10, eos_id=EOS, pad_id=PAD, temperature=0.0)
    assert torch.equal(responses[:, : expected.shape[1]], expected)
    assert torch.all(responses[:, expected.shape[1] :] == PAD)
    assert len(set(mask.sum(dim=1).tolist())) > 1


@pytest.mark.parametrize("pad_id", [PAD, EOS])
def test_the_mask_is_true_through_the_first_eos_and_pads_follow(pad_id):
    queries, query_mask = queries_of([3] * 40)
    gpt = make_gpt(eos_bias=1.5)
    responses, mask = generate(
        gpt, queries, query_mask, max_new_tokens=8, eos_id=EOS, pad_id=pad_id, generator=seeded()
    )
    for row, real in zip(responses.tolist(), mask.tolist(), strict=True):
        end = row.index(EOS) if EOS in row else len(row)  # an end of text is an action, whatever fills the rest
        assert real == [t <= end for t in range(len(row))]
    assert torch.all(responses[~mask] == pad_id)
    lengths = mask.sum(dim=1)
    assert lengths.min() == 1  # an end at once is a response of one token
    assert lengths.max() == 8
    ended = (responses == EOS) & mask
    assert torch.all(ended.sum(dim=1) <= 1)
    assert torch.all(ended.any(dim=1) | (lengths == 8))


def test_every_stop_id_ends_a_response_and_belongs_to_it():
    queries, query_mask = queries_of([3] * 40)
    arguments = {"max_new_tokens": 8, "eos_id": EOS, "pad_id": PAD}
    responses, mask = generate(make_gpt(), queries, query_mask, stop_ids=(0, 7), generator=seeded(), **arguments)
    ends = torch.isin(responses, torch.tensor([EOS, 0, 7])) & mask
    lengths = mask.sum(dim=1)
    for row in range(40):
        assert not ends[row, : lengths[row] - 1].any()
        assert ends[row, lengths[row] - 1] or lengths[row] == 8
    assert set(responses[ends].tolist()) >= {0, 7}
    assert torch.all(responses[~mask] == PAD)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_end_is_possible_within_the_minimum_length(temperature):
    queries, query_mask = queries_of([3] * 50)
    lengths = generate(
        make_gpt(eos_bias=9.0),
        queries,
        query_mask,
        max_new_tokens=6,
        eos_id=EOS,
        pad_id=PAD,
        temperature=temperature,
        min_new_tokens=3,
        stop_ids=(0,),
        generator=seeded(),
    )[1].sum(dim=1)
    assert lengths.min() == 4
    assert (lengths == 4).float().mean() > 0.8  # at the fourth token the end is all but certain


def test_padded_vocabulary_is_never_sampled():
    gpt = make_gpt(vocab_size=20, suppress_tokens=tuple(range(V, 20)))
    with torch.no_grad():
        gpt.token_embedding.weight[V:] *= 100  # those logits would be the largest
    queries, query_mask = queries_of([3] * 30)
    arguments = {"max_new_tokens": 6, "eos_id": EOS, "pad_id": PAD, "generator": seeded()}
    for temperature in (0.0, 5.0):
        responses, _ = generate(gpt, queries, query_mask, temperature=temperature, **arguments)
        assert responses.max() < V


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.8])
def test_first_tokens_follow_the_tempered_distribution(temperature):
    gpt, B = make_gpt(scale=0.3), 20_000
    queries, query_mask = queries_of([4, 2])
    queries, query_mask = queries[1:].expand(B, -1), query_mask[1:].expand(B, -1)  # with two pads
    responses, _ = generate(
        gpt,
        queries,
        query_mask,
        max_new_tokens=1,
        eos_id=EOS,
        pad_id=PAD,
        temperature=temperature,
        generator=seeded(),
    )
    probabilities = scipy.special.softmax(gpt(queries[:1, 2:])[0, -1].double().numpy() / temperature)
    counts = np.bincount(responses[:, 0], minlength=V)
    assert scipy.stats.chisquare(counts, B * probabilities).pvalue > 1e-3


def test_the_generator_alone_decides_the_draws():
    gpt, (queries, query_mask) = make_gpt(), queries_of([3, 5, 2])
    arguments = {"max_new_tokens": 6, "eos_id": EOS, "pad_id": PAD}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, _ = generate(gpt, queries, query_mask, generator=seeded(1), **arguments)
    assert torch.equal(torch.get_rng_state(), state)  # an evaluation does not change a training run
    torch.rand(3)
    again, _ = generate(gpt, queries, query_mask, generator=seeded(1), **arguments)
    other, _ = generate(gpt, queries, query_mask, generator=seeded(2), **arguments)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_on_token_is_told_every_step_and_its_tokens():
    told = []
    queries, query_mask = queries_of([3, 5, 2, 4])
    responses, mask = generate(
        make_gpt(eos_bias=1.5),
        queries,
        query_mask,
        max_new_tokens=10,
        eos_id=EOS,
        pad_id=PAD,
        generator=seeded(),
        on_token=lambda step, tokens: told.append((step, tokens.clone())),
    )
    num_steps = int(mask.sum(dim=1).max())
    assert [step for step, _ in told] == list(range(num_steps))  # and none after the last row has ended
    assert torch.equal(torch.stack([tokens for _, tokens in told], dim=1), responses[:, :num_steps])


def test_a_response_that_cannot_fit_is_refused_with_the_numbers():
    queries, query_mask = queries_of([5, 4])
    with pytest.raises(ValueError, match=r"5 \+ 20 tokens .* context of 24"):
        generate(make_gpt(), queries, query_mask, max_new_tokens=20, eos_id=EOS, pad_id=PAD)
    responses, _ = generate(make_gpt(), queries, query_mask, max_new_tokens=19, eos_id=EOS, pad_id=PAD)
    assert responses.shape == (2, 19)


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    queries, query_mask = queries_of([2])
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        generate(make_gpt(), queries, query_mask, max_new_tokens=2, eos_id=EOS, pad_id=PAD, **wrong)


def test_inputs_are_not_mutated():
    queries, query_mask = queries_of([3, 5])
    copies = queries.clone(), query_mask.clone()
    generate(make_gpt(), queries, query_mask, max_new_tokens=4, eos_id=EOS, pad_id=PAD, generator=seeded())
    assert torch.equal(queries, copies[0])
    assert torch.equal(query_mask, copies[1])


# ---------------------------------------------------------------------------------------------- one choice

PROBABILITIES = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.2, 0.1])


def chosen_distribution(temperature=1.0, top_k=0, top_p=1.0, n=40_000):
    """The exact shares of the tokens over n evenly spaced uniform numbers."""
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    logits = PROBABILITIES.log().expand(n, -1)
    return np.bincount(choose(logits, uniform, temperature, top_k, top_p), minlength=6) / n


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({}, [0.05, 0.4, 0, 0.25, 0.2, 0.1]),
        ({"temperature": 0.5}, np.array([0.0025, 0.16, 0, 0.0625, 0.04, 0.01]) / 0.275),
        ({"top_k": 2}, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0]),
        ({"top_k": 99}, [0.05, 0.4, 0, 0.25, 0.2, 0.1]),
        ({"top_p": 0.8}, [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85, 0]),  # the token that reaches top_p is kept
        ({"top_p": 0.01}, [0, 1, 0, 0, 0, 0]),  # the likeliest always is
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0, 0, 0]),  # top_p is of what top_k left: 0.4 / 0.65 reaches 0.6
        ({"temperature": 0.5, "top_p": 0.8}, [0, 0.16 / 0.2225, 0, 0.0625 / 0.2225, 0, 0]),  # and of the tempered
    ],
)
def test_choice_has_the_filtered_distribution(settings_, expected):
    np.testing.assert_allclose(chosen_distribution(**settings_), expected, atol=1e-4)


def test_choice_is_the_inverse_of_the_distribution():
    uniform = torch.tensor([0.0, 0.04, 0.06, 0.44, 0.46, 0.69, 0.71, 0.89, 0.91, 0.9999999999]).double()
    chosen = choose(PROBABILITIES.log().expand(10, -1), uniform, 1.0, 0, 1.0)
    assert chosen.tolist() == [0, 0, 1, 1, 3, 3, 4, 4, 5, 5]


@given(st.integers(0, 2**31 - 1), st.integers(0, 5), st.floats(0.05, 1), st.sampled_from([0.0, 0.3, 1.0, 3.0]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_extreme_uniform_numbers_choose_possible_tokens(seed, top_k, top_p, temperature):
    logits = 20 * torch.randn(8, generator=torch.Generator().manual_seed(seed))
    logits[torch.tensor([0, 3, 7])] = -torch.inf
    uniform = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    for token in choose(logits.expand(2, -1), uniform, temperature, top_k, top_p).tolist():
        assert token in (1, 2, 4, 5, 6)


def test_temperature_zero_takes_the_likeliest_whatever_the_number():
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]])
    for uniform in (0.0, 0.5, 0.999):
        assert choose(logits, torch.full((2,), uniform).double(), 0.0, 0, 1.0).tolist() == [1, 2]


def test_rows_are_filtered_each_by_itself():
    logits = torch.tensor([[0.9, 0.1, 1e-9], [0.1, 1e-9, 0.9], [1 / 3, 1 / 3, 1 / 3]]).log()
    high = torch.full((3,), 0.999).double()
    assert choose(logits, high, 1.0, 0, 0.5).tolist()[:2] == [0, 2]
    assert choose(logits, high, 1.0, 1, 1.0).tolist()[:2] == [0, 2]


# ---------------------------------------------------------------------------------------------- precision


def test_a_rare_token_of_a_large_vocabulary_keeps_its_probability():
    """One in fifty million, behind 49,998 others: a cumulative sum in float32 has no room for it next to 1."""
    V, rare = 50_000, 49_998
    logits = torch.zeros(1, V)
    logits[0, rare] = math.log(1e-3)
    before, width = (V - 2) / (V - 1 + 1e-3), 1e-3 / (V - 1 + 1e-3)
    for share, expected in ((-0.2, rare - 1), (0.05, rare), (0.5, rare), (0.95, rare), (1.2, rare + 1)):
        uniform = torch.tensor([before + share * width], dtype=torch.float64)
        assert choose(logits, uniform, 1.0, 0, 1.0).item() == expected


@torch.no_grad()
def test_tokens_of_a_bfloat16_model_are_drawn_from_the_float32_softmax_of_its_logits():
    V, B = 50_000, 256
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(V, 8, layers=1, heads=1, channels=8)).bfloat16().eval()
    gpt.token_embedding.weight.normal_()
    query = torch.zeros(1, 1, dtype=torch.long)
    cumulative = torch.softmax(gpt(query)[0, -1].double(), dim=0).cumsum(0)
    uniforms = (torch.arange(B, dtype=torch.float64) + 0.5).unsqueeze(1) / B
    tokens, _ = generate(
        gpt, query.expand(B, -1), torch.ones(B, 1, dtype=torch.bool), max_new_tokens=1, eos_id=0, pad_id=0,
        uniforms=uniforms,
    )  # fmt: skip
    expected = torch.searchsorted(cumulative, uniforms, right=True)
    # float32 probabilities add up to within 1e-6 of the exact sums, so a number next to a boundary may fall beyond it.
    near = ((cumulative[expected] - uniforms).abs() < 1e-6) | ((cumulative[expected - 1] - uniforms).abs() < 1e-6)
    assert near.sum() < B / 4
    assert torch.equal(tokens[~near], expected[~near])


@pytest.mark.parametrize("temperature", [1e-39, 1e-300, 5e-324])
def test_a_temperature_next_to_zero_takes_the_likeliest_token(temperature):
    logits = torch.tensor([[0.5, 3.0, -2.0], [30.0, 1.0, 29.0]])
    for uniform in (0.0, 0.5, 0.999):
        assert choose(logits, torch.full((2,), uniform).double(), temperature, 0, 1.0).tolist() == [1, 0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_not_finite_stop_the_run_instead_of_choosing_a_token(temperature, wrong):
    gpt, (queries, query_mask) = make_gpt(), queries_of([3, 5])
    with torch.no_grad():
        gpt.final_norm.bias.fill_(wrong)
    with pytest.raises(TrainingError, match="logits are NaN or infinite"):
        generate(gpt, queries, query_mask, max_new_tokens=2, eos_id=EOS, pad_id=PAD, temperature=temperature)


def test_given_uniform_numbers_choose_as_the_same_numbers_from_a_generator():
    gpt, (queries, query_mask) = make_gpt(), queries_of([3, 5, 2])
    arguments = {"max_new_tokens": 6, "eos_id": EOS, "pad_id": PAD}
    uniforms = torch.stack([torch.rand(3, generator=g, dtype=torch.float64) for g in [seeded(4)] for _ in range(6)], 1)
    ours, mask = generate(gpt, queries, query_mask, uniforms=uniforms, **arguments)
    theirs, their_mask = generate(gpt, queries, query_mask, generator=seeded(4), **arguments)
    assert torch.equal(ours, theirs)
    assert torch.equal(mask, their_mask)
    rows = torch.tensor([2, 0])
    alone, _ = generate(gpt, queries[rows], query_mask[rows], uniforms=uniforms[rows], **arguments)
    assert torch.equal(alone, ours[rows])


def test_generation_keeps_nothing_for_gradients_and_its_tokens_can_be_trained_on():
    gpt, (queries, mask) = make_gpt(), queries_of([2, 3])
    made = []
    gpt.blocks[0].register_forward_hook(lambda block, inputs, output: made.append(output))
    responses, response_mask = generate(gpt, queries, mask, max_new_tokens=3, eos_id=EOS, pad_id=PAD)
    assert len(made) == 3
    assert all(x.is_inference() and x.grad_fn is None for x in made)
    gpt(responses)[response_mask].sum().backward()  # autograd refuses tensors of the inference mode
    assert gpt.token_embedding.weight.grad.abs().sum() > 0
