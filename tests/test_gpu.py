"""What a GPU changes, which is nothing but where numbers lie. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from minippo.batches import BatchStream
from minippo.checks import check_first_rollout
from minippo.optim import CPUAdamW
from minippo.ppo import ppo_update
from minippo.rollout import collect_rollout
from minippo.state import PPOState
from tests.environment import environment

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optimizer_keeps_its_states_in_cpu_memory_and_steps_as_on_the_cpu(dtype):
    torch.manual_seed(0)
    start, gradients = torch.randn(64, 8), torch.randn(20, 64, 8)
    weights = {}
    for device in ("cpu", "cuda"):
        weight = torch.nn.Parameter(start.to(device, dtype))
        optimizer = CPUAdamW([weight], lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
        for gradient in gradients:
            weight.grad = gradient.to(device, dtype)
            optimizer.step()
        assert all(
            tensor.device.type == "cpu" for tensor in optimizer.state[weight].values() if torch.is_tensor(tensor)
        )
        assert weight.device.type == device
        weights[device] = weight.detach().cpu()
    assert torch.equal(weights["cpu"], weights["cuda"])


def test_an_iteration_keeps_its_promises_and_leaves_finite_weights(make_policy, queries, tokenizer, scorer, ppo_config):
    policy, reference = make_policy(0).cuda(), make_policy(0).cuda().eval()
    state = PPOState(policy, CPUAdamW(policy.parameters()), 0, BatchStream(queries, 24, 0, "prompts"), 0.2)
    env = environment(reference, scorer, tokenizer, ppo_config, 8)
    rollout = collect_rollout(state, env, next(state.prompts), ppo_config)
    assert rollout.advantages.device.type == "cuda"
    check_first_rollout(state, env, rollout, ppo_config)
    found = ppo_update(state, rollout, ppo_config)
    assert found["policy/steps"] == ppo_config.num_epochs * ppo_config.num_minibatches
    assert all(torch.isfinite(parameter).all() for parameter in policy.parameters())


def test_responses_are_drawn_as_on_the_cpu(make_policy, queries, tokenizer, scorer, ppo_config):
    """The random numbers are made on the CPU, so that the same seed gives the same responses."""
    responses = {}
    for device in ("cpu", "cuda"):
        policy = make_policy(0).to(device)
        state = PPOState(policy, CPUAdamW(policy.parameters()), 5, BatchStream(queries, 24, 0, "prompts"), 0.2)
        rollout = collect_rollout(
            state, environment(policy, scorer, tokenizer, ppo_config, 8), next(state.prompts), ppo_config
        )
        responses[device] = rollout.response_texts
    same = sum(a == b for a, b in zip(*responses.values(), strict=True))
    assert same >= len(queries) - 2  # where two tokens are about equally likely, rounding may decide
