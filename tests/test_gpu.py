"""What a GPU changes, which is nothing but where numbers lie. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from minippo.batches import BatchStream
from minippo.checks import check_first_rollout
from minippo.memory import OffloadedGradients, loaded, park
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
        weight = torch.nn.Parameter(start.to(device, dtype, copy=True))
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloaded_gradients_are_the_sums_of_those_on_the_gpu(dtype):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.zeros(300, 500, dtype=dtype, device="cuda")) for _ in range(40)]
    offloaded = OffloadedGradients(weights)
    for _ in range(2):
        offloaded.clear()
        sums = [torch.zeros(300, 500, device="cuda") for _ in weights]
        for _ in range(3):
            values = [torch.randn(300, 500, device="cuda").to(dtype) for _ in weights]
            for total, value in zip(sums, values, strict=True):
                total.add_(value)
            torch.stack([(w * v).sum() for w, v in zip(weights, values, strict=True)]).sum().backward()
        for weight, total in zip(weights, sums, strict=True):
            gradient = offloaded.of(weight)
            assert weight.grad is None
            assert gradient.is_pinned()
            assert torch.equal(gradient, total.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_that_stay_on_the_gpu_for_several_passes_are_the_same(dtype):
    torch.manual_seed(0)
    weight, other = (torch.nn.Parameter(torch.zeros(3000, 500, dtype=dtype, device="cuda")) for _ in range(2))
    offloaded = OffloadedGradients([weight, other])
    total = torch.zeros(3000, 500, device="cuda")
    for _ in range(3):
        with offloaded.together([weight]):
            for _ in range(4):
                value = torch.randn(3000, 500, device="cuda").to(dtype)
                total.add_(value)
                ((weight + other) * value).sum().backward()
            assert offloaded.buffers[weight].is_cuda
    for parameter in (weight, other):
        assert offloaded.of(parameter).is_pinned()
        assert torch.equal(offloaded.of(parameter), total.cpu())


def test_offloading_leaves_few_gradients_on_the_gpu():
    layers = [torch.nn.Linear(1024, 1024, device="cuda") for _ in range(50)]
    offloaded = OffloadedGradients([p for layer in layers for p in layer.parameters()])
    x = torch.ones(1, 1024, device="cuda")
    for layer in layers:
        x = layer(x)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    x.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 0.5 * 50 * 4 * 1024**2
    assert offloaded.of(layers[0].weight) is not None


def test_parked_model_occupies_the_gpu_only_while_it_is_used(make_policy):
    expected, policy = make_policy(0).eval().requires_grad_(False), make_policy(0).eval().requires_grad_(False)
    tokens = torch.arange(12).view(2, 6)
    _ = torch.ones(2, 2, device="cuda") @ torch.ones(
        2, 2, device="cuda"
    )  # allocates what matrix products need for good
    before = torch.cuda.memory_allocated()
    park(policy, torch.device("cuda"))
    assert all(parameter.is_pinned() for parameter in policy.parameters())
    for _ in range(2):
        assert torch.cuda.memory_allocated() == before
        with loaded(policy):
            logits, values = policy(tokens.cuda())
        assert logits.is_cuda
        torch.testing.assert_close(logits.cpu(), expected(tokens)[0], rtol=1e-3, atol=1e-4)
        del logits, values


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
