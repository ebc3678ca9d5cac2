"""The state that PPO begins with: every part of it is made of the setting that it is named after."""

from __future__ import annotations

import pytest
import torch

from minippo.batches import BatchStream
from minippo.config import PPOConfig
from minippo.optim import CPUAdamW, param_groups
from minippo.state import PPOState

SEED = 11


@pytest.fixture
def config():
    """Every setting differs from its default, and from those it might be mistaken for."""
    return PPOConfig(
        rollout_batch_size=12,
        samples_per_prompt=3,
        ptx_batch_size=3,
        lr=0.03,
        weight_decay=0.4,
        adam_beta2=0.93,
        adam_eps=0.05,
        tensorflow_eps=True,
        kl_coef=0.3,
    )


def stepped(policy, optimizer):
    """The weights after two steps with made-up gradients."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        for parameter in policy.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


@pytest.mark.parametrize("tensorflow_eps", [False, True])
def test_optimizer_steps_as_the_settings_say(make_policy, queries, config, tensorflow_eps):
    config = PPOConfig(**vars(config) | {"tensorflow_eps": tensorflow_eps})
    policy, ours = make_policy(0), make_policy(0)
    groups = param_groups(ours.parameters(), 0.4)
    expected = stepped(ours, CPUAdamW(groups, 0.03, (0.9, 0.93), 0.05, tensorflow_eps=tensorflow_eps))
    state = PPOState.initial(policy, queries, None, config, SEED)
    assert state.policy is policy
    assert torch.equal(stepped(policy, state.optimizer), expected)


def test_rows_come_in_the_order_of_their_own_stream_and_in_batches_of_their_own_size(
    make_policy, queries, config, token_rows
):
    demonstrations = token_rows([row for row in queries if len(row) > 1])
    state = PPOState.initial(make_policy(0), queries, demonstrations, config, SEED)
    for stream, rows, size, name in (
        (state.prompts, queries, 4, "ppo prompts"),  # 12 responses, 3 to a prompt
        (state.demonstrations, demonstrations, 3, "ppo demonstrations"),
    ):
        expected = BatchStream(rows, size, SEED, name)
        assert [next(stream) for _ in range(12)] == [next(expected) for _ in range(12)]  # more than one epoch


def test_state_begins_before_the_first_iteration_with_the_seed_and_the_coefficient_of_the_run(
    make_policy, queries, config
):
    state = PPOState.initial(make_policy(0), queries, None, config, SEED)
    assert (state.seed, state.iteration, state.kl_coef) == (SEED, 0, 0.3)
    assert state.prompts.rows_drawn == 0
    assert state.demonstrations is None  # no pretraining term
