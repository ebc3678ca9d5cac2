"""`CPUAdamW` against `torch.optim.AdamW`, in float32 and bfloat16, and across a resume."""

import copy
import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import minippo.optim
from minippo.optim import CPUAdamW, in_threads, lr_schedule, param_groups, set_lr

SHAPES = [(5, 4), (7,), (3, 2, 2)]


def make_parameters(dtype=torch.float32, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter((scale * torch.randn(shape, generator=generator)).to(dtype)) for shape in SHAPES]


def give_gradients(parameters, step, without=()):
    """Gradients of widely different sizes, the same for every optimizer that is at the same step."""
    generator = torch.Generator().manual_seed(1000 + step)
    for index, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator) * 10 ** (-2.0 * index)
        parameter.grad = None if index in without else gradient.to(parameter.dtype)


@pytest.mark.parametrize(
    "hyperparameters",
    [
        {"lr": 1e-2},
        {"lr": 1e-2, "weight_decay": 0.1},
        {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.01},
        {"lr": 1e-2, "betas": (0.5, 0.99), "eps": 0.1},  # an eps so large that its place in the formula shows
        {"lr": 1e-2, "betas": (0.0, 0.0)},
    ],
)
def test_sixty_steps_are_those_of_torch(hyperparameters):
    ours, theirs = make_parameters(), make_parameters()
    optimizer = CPUAdamW(ours, **hyperparameters)
    expected = torch.optim.AdamW(theirs, **({"weight_decay": 0.0} | hyperparameters))
    for step in range(60):
        without = (1,) if 20 <= step < 25 else ()  # a parameter without a gradient waits
        give_gradients(ours, step, without)
        give_gradients(theirs, step, without)
        optimizer.step()
        expected.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of three numbers, in as many threads."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(minippo.optim, "BLOCK", 3)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_in_threads_give_the_steps_of_whole_tensors(small_blocks, monkeypatch, dtype):
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-3, "weight_decay": 0.1}
    ours, whole = make_parameters(dtype), make_parameters(dtype)
    optimizers = CPUAdamW(ours, **settings), CPUAdamW(whole, **settings)
    workers, update = set(), minippo.optim.adamw_update
    with monkeypatch.context() as patch:
        patch.setattr(
            minippo.optim, "adamw_update", lambda *block: workers.add(threading.get_ident()) or update(*block)
        )
        for step in range(5):
            for parameters, optimizer, block in zip((ours, whole), optimizers, (3, 100), strict=True):
                patch.setattr(minippo.optim, "BLOCK", block)
                give_gradients(parameters, step)
                optimizer.step()
    assert len(workers) > 1  # which thread works when is up to the system
    assert threading.get_ident() in workers  # the whole tensors are too small for threads
    for parameter, expected in zip(ours, whole, strict=True):
        assert torch.equal(parameter, expected)
        for name, moment in optimizers[1].state[expected].items():
            assert torch.equal(torch.as_tensor(optimizers[0].state[parameter][name]), torch.as_tensor(moment))


def test_transposed_weights_are_refused():
    with pytest.raises(ValueError, match="parameters must be contiguous"):
        CPUAdamW([nn.Parameter(torch.ones(3, 2).t())])


def threads_of_a_new_thread() -> int:
    """How many threads PyTorch uses in a thread that has just begun."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_threads_make_every_call_once_with_one_thread_each_and_then_all_are_back(small_blocks):
    made = []
    in_threads(lambda x, index: made.append((index, torch.get_num_threads())), [(torch.ones(3), i) for i in range(50)])
    assert sorted(made) == [(index, 1) for index in range(50)]
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_errors_in_a_thread_are_raised_and_the_threads_are_back(small_blocks):
    def fails(x, index):
        if index == 31:
            raise ArithmeticError(index)

    with pytest.raises(ArithmeticError, match="31"):
        in_threads(fails, [(torch.ones(3), index) for index in range(50)])
    assert torch.get_num_threads() == threads_of_a_new_thread() == 3


def test_groups_have_learning_rates_and_decays_of_their_own():
    def groups(parameters):
        return [
            {"params": parameters[:1], "weight_decay": 0.3},
            {"params": parameters[1:2], "lr": 1e-3},
            {"params": parameters[2:], "betas": (0.5, 0.6), "eps": 1e-3},
        ]

    ours, theirs = make_parameters(), make_parameters()
    optimizer = CPUAdamW(groups(ours), lr=1e-2, weight_decay=0.1)
    expected = torch.optim.AdamW(groups(theirs), lr=1e-2, weight_decay=0.1)
    for step in range(50):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        expected.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_learning_rate_may_change_between_steps():
    ours, theirs = make_parameters(), make_parameters()
    optimizer, expected = CPUAdamW(ours, lr=1.0), torch.optim.AdamW(theirs, lr=1.0, weight_decay=0.0)
    for step in range(50):
        for each in (optimizer, expected):
            set_lr(each, 1e-2 * (1 - step / 50))
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizer.step()
        expected.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_bfloat16_weights_move_as_float32_ones_would():
    # 100 steps of 1e-6 are 1e-4, less than half the gap between two bfloat16 numbers near 1: without a master copy
    # nothing would ever move.
    ours = make_parameters(torch.bfloat16)
    starts = [parameter.detach().float().clone() for parameter in ours]
    theirs = [nn.Parameter(start.clone()) for start in starts]
    optimizer = CPUAdamW(ours, lr=1e-6)
    expected = torch.optim.AdamW(theirs, lr=1e-6, weight_decay=0.0)
    for step in range(100):
        give_gradients(ours, step)
        for parameter, twin in zip(ours, theirs, strict=True):
            twin.grad = parameter.grad.float()
        optimizer.step()
        expected.step()
    for parameter, twin, start in zip(ours, theirs, starts, strict=True):
        master = optimizer.state[parameter]["master"]
        assert master.dtype == torch.float32
        torch.testing.assert_close(master, twin.detach(), rtol=0, atol=1e-6)
        assert (master - start).abs().max() > 1e-5
        assert torch.equal(parameter.detach(), master.bfloat16())  # the model has the nearest bfloat16 number


def test_small_steps_of_a_bfloat16_weight_add_up_until_they_show():
    parameter = nn.Parameter(torch.tensor([0.02], dtype=torch.bfloat16))
    before = parameter.item()
    optimizer = CPUAdamW([parameter], lr=1e-6)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert parameter.item() == pytest.approx(before - 1e-4, abs=0.5 * 0.02 * 2**-7)
    assert parameter.item() < before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_float32_on_the_cpu(dtype):
    parameters = make_parameters(dtype)
    optimizer = CPUAdamW(parameters)
    give_gradients(parameters, 0)
    optimizer.step()
    for parameter in parameters:
        state = optimizer.state[parameter]
        names = {"first_moment", "second_moment"} | ({"master"} if dtype == torch.bfloat16 else set())
        assert set(state) == names | {"step"}  # a float32 weight needs no second copy
        assert all(state[name].dtype == torch.float32 and state[name].device.type == "cpu" for name in names)
        assert parameter.dtype == dtype


def test_a_step_leaves_the_gradients_alone():
    parameters = make_parameters()
    give_gradients(parameters, 0)
    before = [parameter.grad.clone() for parameter in parameters]
    CPUAdamW(parameters, lr=0.1, weight_decay=0.1).step()
    assert all(torch.equal(parameter.grad, gradient) for parameter, gradient in zip(parameters, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_optimizer_goes_on_bit_for_bit(dtype):
    def run(parameters, optimizer, steps):
        for step in steps:
            give_gradients(parameters, step, without=(2,) if step < 5 else ())
            set_lr(optimizer, 1e-3 / (1 + step))
            optimizer.step()

    whole = make_parameters(dtype)
    optimizer = CPUAdamW(whole, lr=1e-3, betas=(0.8, 0.9), weight_decay=0.1, averaging=0.7)
    run(whole, optimizer, range(10))
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = [nn.Parameter(parameter.detach().clone()) for parameter in whole]
    second = CPUAdamW(resumed, lr=5.0, averaging=0.7)  # what it was made with gives way to what was saved
    second.load_state_dict(saved)
    for parameter, original in zip(resumed, whole, strict=True):
        assert second.state[parameter].keys() == optimizer.state[original].keys()
        for name, value in optimizer.state[original].items():
            loaded = second.state[parameter][name]
            if name == "step":
                assert loaded == value
            else:
                assert loaded.dtype == torch.float32
                assert torch.equal(loaded, value)
    run(whole, optimizer, range(10, 20))
    run(resumed, second, range(10, 20))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole, resumed, strict=True))
    assert all(
        torch.equal(optimizer.state[ours][name], second.state[theirs][name])
        for ours, theirs in zip(whole, resumed, strict=True)
        for name in ("second_moment", "average")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages_are_running_means_of_the_weights_and_change_no_step(dtype):
    ours, without = make_parameters(dtype), make_parameters(dtype)
    optimizer, plain = CPUAdamW(ours, lr=0.1, averaging=0.9), CPUAdamW(without, lr=0.1)
    expected = [parameter.detach().double() for parameter in ours]
    for step in range(1, 101):
        give_gradients(ours, step)
        give_gradients(without, step)
        optimizer.step()
        plain.step()
        old = (1 + step) / (10 + step) if step < 80 else 0.9  # equal for step 80
        for index, parameter in enumerate(ours):
            weight = optimizer.state[parameter].get("master", parameter).detach().double()
            expected[index] = old * expected[index] + (1 - old) * weight
    assert all(torch.equal(*pair) for pair in zip(ours, without, strict=True))
    optimizer.swap_averages()
    for parameter, mean in zip(ours, expected, strict=True):
        rounding = 1e-6 if dtype == torch.float32 else 4e-3
        torch.testing.assert_close(parameter.detach().double(), mean, rtol=rounding, atol=1e-6)
        master = optimizer.state[parameter].get("master", parameter)
        torch.testing.assert_close(master.detach().double(), mean, rtol=1e-6, atol=1e-6)
    optimizer.swap_averages()
    assert all(torch.equal(*pair) for pair in zip(ours, without, strict=True))
    for ours_, other in zip(ours, without, strict=True):
        if dtype == torch.bfloat16:
            assert torch.equal(optimizer.state[ours_]["master"], plain.state[other]["master"])
    plain.swap_averages()  # there are none: nothing changes
    assert all(torch.equal(*pair) for pair in zip(ours, without, strict=True))


def test_weights_without_a_gradient_and_averages_begun_later_are_means_too():
    parameters = make_parameters()
    start = [parameter.detach().clone() for parameter in parameters]
    first = CPUAdamW(parameters, lr=0.1)
    give_gradients(parameters, 0, without=(1,))
    first.step()
    later = CPUAdamW(parameters, lr=0.1, averaging=0.5)
    later.load_state_dict(copy.deepcopy(first.state_dict()))
    later.swap_averages()  # none yet
    before = [parameter.detach().clone() for parameter in parameters]
    give_gradients(parameters, 1, without=(1,))
    later.step()
    after = [parameter.detach().clone() for parameter in parameters]
    later.swap_averages()
    for index, parameter in enumerate(parameters):
        mean = start[1] if index == 1 else 0.25 * before[index] + 0.75 * after[index]  # (1 + 2) / (10 + 2)
        torch.testing.assert_close(parameter.detach(), mean)


def test_loaded_states_are_copies_and_the_only_ones():
    parameters = make_parameters()
    optimizer = CPUAdamW(parameters)
    give_gradients(parameters, 0, without=(1,))
    optimizer.step()
    saved = optimizer.state_dict()
    kept = saved["state"][0]["first_moment"].clone()
    others = make_parameters()
    second = CPUAdamW(others)
    give_gradients(others, 1)
    second.step()
    second.load_state_dict(saved)
    assert others[1] not in second.state  # had no saved state, so its own step is forgotten
    give_gradients(others, 2)
    second.step()
    assert torch.equal(saved["state"][0]["first_moment"], kept)


def test_the_states_of_other_parameters_are_refused():
    saved = CPUAdamW(make_parameters()).state_dict()
    with pytest.raises(ValueError, match="3 parameters in 1 groups, this one 2 in 1"):
        CPUAdamW(make_parameters()[:2]).load_state_dict(saved)


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"eps": -1e-8}, {"weight_decay": -0.1}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}]
)
def test_hyperparameters_that_mean_nothing_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}="):
        CPUAdamW(make_parameters(), **wrong)


def test_a_closure_is_evaluated_with_gradients():
    parameter = nn.Parameter(torch.tensor([3.0]))
    optimizer = CPUAdamW([parameter], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert parameter.item() == pytest.approx(2.9, abs=1e-6)  # the first step of Adam is the learning rate


def test_copy_of_a_model_and_its_optimizer_steps_by_its_own_gradients():
    parameter = nn.Parameter(torch.tensor([3.0]))
    copied, optimizer = copy.deepcopy((parameter, CPUAdamW([parameter], lr=0.1)))
    copied.sum().backward()
    optimizer.step()
    assert copied.item() == pytest.approx(2.9, abs=1e-6)
    assert parameter.item() == 3.0


def test_one_batch_can_be_overfitted():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    inputs, targets = torch.randn(8, 4), torch.randn(8, 1)
    optimizer = CPUAdamW(model.parameters(), lr=2e-2)
    for _ in range(400):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


# ---------------------------------------------------------------------------------------------- schedule and groups


def test_without_warmup_the_schedule_falls_from_one_and_never_reaches_zero():
    assert [lr_schedule("linear", step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_warmup_rises_over_its_share_of_the_steps_and_then_falls():
    shares = [lr_schedule("linear", step, 10, warmup=0.4) for step in range(10)]
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert shares == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 1.0])
def test_no_step_has_a_learning_rate_of_zero_or_above_the_whole(schedule, num_steps, warmup):
    shares = [lr_schedule(schedule, step, num_steps, warmup=warmup) for step in range(num_steps)]
    assert all(0 < share <= 1 for share in shares)
    peak = shares.index(max(shares))
    assert shares[:peak] == sorted(shares[:peak])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert math.isclose(max(shares), 1.0)


def test_cosine_falls_along_half_a_wave_as_pytorchs_does():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)
    for step in range(12):
        assert lr_schedule("cosine", step, 12) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert lr_schedule("cosine", 2, 16, warmup=0.25) == pytest.approx(3 / 4)
    assert lr_schedule("cosine", 10, 16, warmup=0.25) == pytest.approx(0.5, abs=1e-12)  # half of the way down


def test_constant_stays_after_the_warmup_and_other_schedules_are_refused():
    assert [lr_schedule("constant", step, 4, warmup=0.5) for step in range(4)] == [0.5, 1, 1, 1]
    with pytest.raises(ValueError, match="linear, cosine or constant, not 'step'"):
        lr_schedule("step", 0, 4)


def test_epsilon_as_tensorflow_places_it_is_that_of_its_formula():
    ours, theirs = make_parameters(), [p.detach().double() for p in make_parameters()]
    lr, beta1, beta2, eps = 0.01, 0.9, 0.95, 1e-2
    optimizer = CPUAdamW(ours, lr, (beta1, beta2), eps, tensorflow_eps=True)
    plain = make_parameters()
    other = CPUAdamW(plain, lr, (beta1, beta2), eps)
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in theirs]
    for step in range(1, 6):
        give_gradients(ours, step)
        give_gradients(plain, step)
        for p, (m, v), q in zip(theirs, moments, ours, strict=True):
            g = q.grad.double()
            m.mul_(beta1).add_(g, alpha=1 - beta1)
            v.mul_(beta2).add_(g * g, alpha=1 - beta2)
            # TensorFlow 1's AdamOptimizer: lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t), p -= lr_t m / (sqrt(v) + eps)
            p.sub_(lr * math.sqrt(1 - beta2**step) / (1 - beta1**step) * m / (v.sqrt() + eps))
        optimizer.step()
        other.step()
    for p, q in zip(theirs, ours, strict=True):
        torch.testing.assert_close(q.detach().double(), p, rtol=1e-5, atol=1e-7)
    assert any((p - q).abs().max() > 1e-3 for p, q in zip(plain, ours, strict=True))


def test_matrices_are_decayed_and_gains_and_biases_are_not():
    model = nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4), nn.Linear(4, 2), nn.Linear(2, 1))
    model[3].weight.requires_grad_(False)
    decayed, plain = param_groups(model.parameters(), 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight), id(model[2].weight)]
    expected = [model[1].weight, model[1].bias, model[2].bias, model[3].bias]
    assert [id(p) for p in plain["params"]] == [id(p) for p in expected]
    CPUAdamW(param_groups(model.parameters(), 0.1)).step()


def test_loading_and_stepping_leave_the_compiler_of_pytorch_alone(tmp_path):
    # Its import takes one to three seconds, which every stage would pay.
    script = f"""
import sys, torch
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW
from minippo.weights import load_pretrained, save_pretrained
save_pretrained(GPT(GPTConfig(vocab_size=9, context=4, layers=1, heads=1, channels=4)), {str(tmp_path)!r})
gpt = load_pretrained({str(tmp_path)!r})
optimizer = CPUAdamW(gpt.parameters())
optimizer.zero_grad(set_to_none=True)
gpt(torch.zeros(1, 2, dtype=torch.long)).sum().backward()
optimizer.step()
optimizer.state_dict()
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
