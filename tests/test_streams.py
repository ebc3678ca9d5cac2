"""Random streams: what they are, and that the product draws from nothing else."""

from __future__ import annotations

import hashlib
import itertools
import re

import numpy as np
import scipy.stats
import torch

from minippo.streams import generator, response_uniforms, seed_global
from tests.pipeline.random_draws import PAGE, calls, exceptions, streams_of_table, templates_of_table

# ---------------------------------------------------------------------------------------------- single streams


def test_uniforms_are_philox_under_a_key_that_hashes_seed_name_and_position():
    for seed, name, step, index in (
        (1, "rollout", 1, 0),
        (2203, "test answers", 0, 511),
        (2**32 - 1, "generate", 0, 7),
    ):
        digest = hashlib.blake2b(f"({seed}, '{name}', ({step}, {index}))".encode(), digest_size=16).digest()
        key = sum(byte << 8 * place for place, byte in enumerate(digest))
        expected = np.random.Generator(np.random.Philox(key=key)).random(20)  # (raw >> 11) * 2**-53
        (row,) = response_uniforms(seed, name, step, [index], 20)
        assert row.dtype == torch.float64
        assert np.array_equal(row.numpy(), expected)


def test_streams_keep_their_numbers():
    # Other numbers would silently make other runs of the same seeds.
    expected = [0.9407152282485131, 0.47095889330211804, 0.5570625828186135]
    assert response_uniforms(1, "rollout", 1, [0], 3).tolist() == [expected]
    order = torch.randperm(8, generator=generator(1, "minibatches", 1, 0)).tolist()
    assert order == [3, 0, 2, 6, 7, 1, 5, 4]


def test_uniforms_are_uniform_and_below_one(monkeypatch):
    along = response_uniforms(1, "rollout", 1, [0], 100_000).flatten()
    across = response_uniforms(1, "rollout", 1, range(20_000), 1).flatten()
    for numbers in (along, across):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        assert scipy.stats.kstest(numbers.numpy(), "uniform").pvalue > 0.001

    class Highest:
        def __init__(self, key): ...

        def random_raw(self, count):
            return np.full(count, 2**64 - 1, np.uint64)

    monkeypatch.setattr("numpy.random.Philox", Highest)
    assert response_uniforms(1, "rollout", 1, [0], 2).tolist() == [[1 - 2.0**-53] * 2]


def test_a_row_of_uniforms_depends_on_its_index_alone():
    whole = response_uniforms(3, "rollout", 2, range(10), 30)
    assert whole.shape == (10, 30)
    assert torch.equal(response_uniforms(3, "rollout", 2, range(10), 7), whole[:, :7])  # longer responses go on
    order = [7, 2, 2, 9]
    assert torch.equal(response_uniforms(3, "rollout", 2, order, 30), whole[order])
    assert torch.equal(response_uniforms(3, "rollout", 2, np.array(order), 30), whole[order])
    assert torch.equal(response_uniforms(3, "rollout", 2, torch.tensor(order), 30), whole[order])


def test_different_seeds_names_and_positions_give_unrelated_numbers():
    grid = list(itertools.product((0, 1, 2, 11), ("rollout", "test answers", "generate"), (0, 1, 2, 11), range(24)))
    rows = torch.cat([response_uniforms(seed, name, step, [index], 8) for seed, name, step, index in grid])
    assert rows.unique().numel() == rows.numel()  # no number comes twice, wherever it stands
    base = (1, "rollout", 2, 3)
    others = [(2, "rollout", 2, 3), (1, "normalisation", 2, 3), (1, "rollout", 3, 3), (1, "rollout", 2, 4)]
    others += [(1, "rollout", 3, 2), (2, "rollout", 1, 3), (12, "rollout", 2, 3)]
    n = 20_000
    numbers = [
        response_uniforms(seed, name, step, [index], n)[0].numpy() for seed, name, step, index in [base, *others]
    ]
    correlations = np.corrcoef(numbers)[np.triu_indices(len(numbers), k=1)]
    assert np.abs(correlations).max() < 4 / n**0.5
    shifted = np.array([np.corrcoef(numbers[0][lag:], other[: n - lag])[0, 1] for other in numbers for lag in (1, 2)])
    assert np.abs(shifted).max() < 4 / n**0.5


def test_a_generator_begins_its_stream_and_every_part_of_the_name_matters():
    def order(*key):
        return tuple(torch.randperm(1000, generator=generator(*key)).tolist())

    keys = [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1), (1, "a", 0, 1), (1, "a", 1, 0), (1, "a0")]
    assert len({order(*key) for key in keys}) == len(keys)
    for key in keys:
        assert order(*key) == order(*key)
    places = np.argsort([order(*key) for key in keys], axis=1)
    correlations = np.corrcoef(places)[np.triu_indices(len(keys), k=1)]
    assert np.abs(correlations).max() < 4 / 1000**0.5


def test_global_seed_is_that_of_its_name_whatever_was_drawn_before():
    def draw(*key):
        seed_global(*key)
        return torch.rand(20)

    with torch.random.fork_rng():
        first = draw(1, "value head")
        assert torch.equal(draw(1, "value head"), first)
        for other in ((2, "value head"), (1, "initial weights, policy"), (1, "value head", 1), (1, "value head", 2)):
            assert not torch.isin(draw(*other), first).any()
        assert not torch.isin(draw(1, "rm dropout", 1), draw(1, "rm dropout", 2)).any()


# ---------------------------------------------------------------------------------------------- the page


def test_every_draw_of_the_product_is_from_a_stream_of_the_table():
    named = calls()
    table, templates = streams_of_table(), templates_of_table()
    assert len(named) > 20
    for call in named:
        if call.function == "random.Random":
            assert (call.name, call.file) in templates, call
        else:
            fits = [name for name in table if re.fullmatch(call.pattern, name)]
            assert fits, call
            if call.function != "BatchStream":  # it is made in one file and draws in another
                assert all(table[name] == call.file for name in fits), call


def test_every_stream_of_the_table_is_used():
    named = calls()
    for name, file in streams_of_table().items():
        assert any(call.function != "random.Random" and re.fullmatch(call.pattern, name) for call in named), name
        assert (PAGE.parents[1] / file).is_file()
    assert {(call.name, call.file) for call in named if call.function == "random.Random"} == templates_of_table()


def test_nothing_draws_without_a_stream_but_what_the_page_explains():
    assert exceptions() == {
        ("minippo/heads.py", "torch.nn.init.normal_"),  # weights, under seed_global
        ("minippo/model.py", "torch.nn.init.normal_"),
        ("minippo/model.py", "torch.nn.Dropout"),  # masks, under seed_global
        ("minippo/language_model.py", "torch.Generator"),  # sums whose order means nothing
        ("minippo/bootstrap.py", "numpy.random.default_rng"),  # resamples, the same for all metrics
        ("minippo/reward_evaluation.py", "torch.Generator"),  # simulations, always the same
    }
