"""Options that save memory change nothing else: gradients in CPU memory, and activations that are computed again."""

from __future__ import annotations

import copy
import gc
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from minippo import memory
from minippo.config import MemoryConfig, OptimizerConfig, PPOConfig
from minippo.errors import GPUMemoryError
from minippo.heads import RewardModel
from minippo.language_model import backward_in_chunks
from minippo.memory import OffloadedGradients
from minippo.model import GPT, Block, GPTConfig
from minippo.optim import CPUAdamW, Gradients
from minippo.state import PPOState, TrainState
from tests.traffic import count_traffic

TOKENS = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(9) < torch.tensor([[9], [4], [7]])


def make_gpt(dropout: float = 0.0) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(20, 12, layers=3, heads=2, channels=8, dropout=dropout))


def backward_passes(gpt: GPT) -> None:
    """Two microbatches, the logits of each in several chunks: five passes reach the embedding, two the blocks."""
    backward_in_chunks(gpt, TOKENS[:1], MASK[:1], chunk_tokens=5)
    backward_in_chunks(gpt, TOKENS[1:], MASK[1:], chunk_tokens=3)


@pytest.fixture(params=[Gradients, OffloadedGradients])
def storage(request):
    return request.param


# ---------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("part", [memory.PART, 5])
def test_offloaded_gradients_add_up_over_backward_passes_bit_for_bit(monkeypatch, part):
    monkeypatch.setattr(memory, "PART", part)
    expected, gpt = make_gpt(), make_gpt()
    gradients = OffloadedGradients(list(gpt.parameters()))
    for _ in range(2):  # the gradients of the first step must be gone in the second
        expected.zero_grad()
        gradients.clear()
        backward_passes(expected)
        backward_passes(gpt)
        for ours, theirs in zip(gpt.parameters(), expected.parameters(), strict=True):
            assert ours.grad is None
            assert torch.equal(gradients.of(ours), theirs.grad)
            assert gradients.of(ours).data_ptr() != theirs.grad.data_ptr()


def test_parameter_outside_the_loss_has_no_gradient_and_is_not_changed(storage):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = CPUAdamW([used, unused], lr=0.1, weight_decay=0.5, gradients=storage)
    for parameter in (unused, used):  # a gradient from an earlier step does not count
        optimizer.zero_grad()
        parameter.sum().backward()
    assert optimizer.gradients.of(unused) is None
    assert torch.equal(optimizer.gradients.of(used), torch.ones(2))
    optimizer.step()
    assert torch.equal(unused, torch.ones(2))
    assert (used < 1).all()


def test_bfloat16_gradients_add_up_in_float32_when_offloaded():
    weight = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    gradients = OffloadedGradients([weight])
    for number in (256.0, 1.0, 1.0):  # in bfloat16, 256 + 1 is 256
        (number * weight).sum().backward()
    assert torch.equal(gradients.of(weight), torch.full((3,), 258.0))


def test_norm_is_that_of_all_gradients_in_float32_and_clipping_scales_all_by_one_factor(storage):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in ((30, 40), (50,), (2, 3, 4))]
    values[1] = values[1].bfloat16()
    exact = torch.cat([value.double().flatten() for value in values])
    for max_norm in (0.5, 1000.0):
        parameters = [nn.Parameter(torch.zeros_like(value)) for value in values]
        optimizer = CPUAdamW(parameters, gradients=storage)
        for parameter, value in zip(parameters, values, strict=True):
            (parameter * value).sum().backward()
        assert optimizer.clip_gradients(max_norm) == pytest.approx(float(exact.norm()), rel=1e-6)
        clipped = torch.cat([optimizer.gradients.of(p).double().flatten() for p in parameters])
        factor = min(1.0, max_norm / float(exact.norm()))
        torch.testing.assert_close(clipped, factor * exact, rtol=2**-8, atol=0)
        torch.testing.assert_close(clipped[:1200], factor * exact[:1200], rtol=1e-5, atol=0)


def test_clipping_is_that_of_pytorch_bit_for_bit(storage):
    expected, gpt = make_gpt(), make_gpt()
    optimizer = CPUAdamW(gpt.parameters(), gradients=storage)
    backward_passes(expected)
    backward_passes(gpt)
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
    assert optimizer.clip_gradients(0.1) == norm.item() > 0.1
    for ours, theirs in zip(gpt.parameters(), expected.parameters(), strict=True):
        assert torch.equal(optimizer.gradients.of(ours), theirs.grad)


def test_gradients_stay_with_the_parameters_again_when_the_optimizer_is_gone():
    gpt = make_gpt()
    optimizer = CPUAdamW(gpt.parameters(), gradients=OffloadedGradients)
    backward_passes(gpt)
    assert gpt.final_norm.weight.grad is None
    del optimizer
    gc.collect()
    backward_passes(gpt)
    assert gpt.final_norm.weight.grad is not None


class Stream:
    """Stands for the stream of the copies, and notes what it is asked for."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def wait_stream(self, other: str) -> None:
        self.events.append(f"wait for {other}")

    def synchronize(self) -> None:
        self.events.append("finish")

    def record_event(self) -> Stream:
        self.events.append("copied")
        return self


def test_copies_wait_for_the_gradient_keep_its_memory_and_do_not_pile_up(monkeypatch):
    weight = nn.Parameter(torch.ones(4))
    gradients = OffloadedGradients([weight])
    gradients.stream = stream = Stream()
    monkeypatch.setattr(memory, "COPIES_IN_FLIGHT", 2)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the backward pass")
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, used: used.events.append("kept"))
    copy = torch.Tensor.copy_

    def copied(into: torch.Tensor, values: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        stream.events.append(f"copy, {non_blocking=}")
        return copy(into, values)

    @contextmanager
    def on_stream(chosen: Stream):
        assert chosen is stream
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "copy_", copied)
            yield

    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    one = ["wait for the backward pass", "copy, non_blocking=True", "kept", "copied"]
    for _ in range(3):
        weight.sum().backward()
    assert stream.events == [*one, *one, *one, "finish"]  # the third copy waits for the first
    del stream.events[:]
    assert torch.equal(gradients.of(weight), torch.full((4,), 3.0))
    assert stream.events == ["finish"]  # the CPU reads what has arrived


# ---------------------------------------------------------------------------------------------- sums that stay


@pytest.mark.parametrize("part", [memory.PART, 5])
def test_sums_that_stay_on_the_device_are_the_same_bit_for_bit_and_move_once(monkeypatch, part):
    monkeypatch.setattr(memory, "PART", part)
    expected, gpt = make_gpt(), make_gpt()
    backward_passes(expected)
    gradients = OffloadedGradients(list(gpt.parameters()))
    table, buffers = gpt.token_embedding.weight, dict(gradients.buffers)
    loads, stores = count_traffic(monkeypatch, gradients)
    for rows, chunk_tokens in ((slice(0, 1), 5), (slice(1, 3), 3)):
        with gradients.together([table]):
            assert gradients.buffers[table] is not buffers[table]
            backward_in_chunks(gpt, TOKENS[rows], MASK[rows], chunk_tokens=chunk_tokens)
    assert gradients.buffers == buffers
    for ours, theirs in zip(gpt.parameters(), expected.parameters(), strict=True):
        assert torch.equal(gradients.of(ours), theirs.grad)
    assert loads[table] == stores[table] == 2  # although five passes have reached it
    if part == memory.PART:
        others = [parameter for parameter in gpt.parameters() if parameter is not table]
        assert {(loads[other], stores[other]) for other in others} == {(1, 2)}  # the first sum is that of nothing


def test_sums_that_stay_are_float32_and_frozen_parameters_have_none(monkeypatch):
    weight, frozen = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(3), False)
    gradients = OffloadedGradients([weight])
    count_traffic(monkeypatch, gradients)
    with gradients.together([frozen, weight]):
        for number in (256.0, 1.0, 1.0):
            (number * weight * frozen).sum().backward()
    assert torch.equal(gradients.of(weight), torch.full((3,), 258.0))


def test_sums_are_in_cpu_memory_again_after_a_pass_that_failed(monkeypatch):
    weight = nn.Parameter(torch.ones(3))
    gradients = OffloadedGradients([weight])
    buffer = gradients.buffers[weight]
    count_traffic(monkeypatch, gradients)
    with pytest.raises(ZeroDivisionError), gradients.together([weight]):
        raise ZeroDivisionError
    assert gradients.buffers[weight] is buffer


def test_sums_that_stay_are_copied_on_the_stream_of_the_copies_without_waiting(monkeypatch):
    weight = nn.Parameter(torch.ones(4))
    gradients = OffloadedGradients([weight])
    gradients.stream = stream = Stream()

    @contextmanager
    def on_stream(chosen: Stream):
        stream.events.append("on")
        yield
        stream.events.append("off")

    monkeypatch.setattr(torch.cuda, "stream", on_stream)
    count_traffic(monkeypatch, gradients, stream.events)
    with gradients.together([weight]):
        assert stream.events == ["on", "load, non_blocking=True", "off"]
    assert stream.events[3:] == ["on", "store, non_blocking=True", "off"]


# ---------------------------------------------------------------------------------------------- activations


@pytest.fixture
def block_runs(monkeypatch):
    """The number of blocks that have been computed."""
    runs, forward = [], Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *inputs: (runs.append(self), forward(self, *inputs))[1])
    return runs


def gradients_of(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


@pytest.mark.parametrize("one_position", [False, True])
def test_checkpointing_gives_the_same_gradients_with_dropout_and_keeps_less(block_runs, one_position):
    found = []
    for checkpointed in (False, True):
        gpt = make_gpt(dropout=0.3).train()
        gpt.checkpoint_activations = checkpointed
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            index = MASK.sum(dim=1) - 1
            hidden = gpt.hidden_at(TOKENS, MASK, index) if one_position else gpt.hidden(TOKENS, MASK)
        after = torch.rand(3)  # the pass takes as many random numbers
        before_backward = len(block_runs)
        gradients = gradients_of(gpt, hidden.square().sum())
        found.append((hidden, after, gradients, sum(kept.values()), before_backward, len(block_runs)))
        block_runs.clear()
    (hidden, after, gradients, kept, _, runs), (hidden2, after2, gradients2, kept2, forward_runs, runs2) = found
    blocks = 2 if one_position else 3  # the last block of `hidden_at` is computed in parts
    assert (runs, forward_runs, runs2) == (blocks, blocks, 2 * blocks)
    assert torch.equal(hidden, hidden2)
    assert torch.equal(after, after2)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients2, strict=True))
    assert kept2 < kept / 2


def test_without_gradients_nothing_is_checkpointed(block_runs, monkeypatch):
    gpt = make_gpt()
    gpt.checkpoint_activations = True
    monkeypatch.setattr("minippo.model.checkpoint", None)
    with torch.no_grad():
        gpt.hidden(TOKENS)
    assert len(block_runs) == 3


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("option", ["", "checkpoint_activations", "offload_gradients"])
def test_states_train_as_the_options_say(make_policy, queries, option):
    options = MemoryConfig(**{option: True} if option else {})
    policy, reward_model = make_policy(0), RewardModel(make_gpt())
    states = [
        PPOState.initial(policy, queries, None, PPOConfig(), 0, options),
        TrainState.initial(reward_model, None, OptimizerConfig(), 0, options),
        TrainState.initial(make_gpt(), None, OptimizerConfig(), 0, options),
    ]
    for state in states:
        assert type(state.optimizer.gradients) is (OffloadedGradients if "offload" in option else Gradients)
        assert len(state.optimizer.gradients.parameters) == len(list(state.model.parameters()))
        assert getattr(state.model, "gpt", state.model).checkpoint_activations == ("checkpoint" in option)


# ---------------------------------------------------------------------------------------------- parked models


@pytest.fixture
def copies(monkeypatch) -> list[tuple[torch.Tensor, torch.device, bool]]:
    """The tensors that have been copied to a device. Copies are new tensors, as those on a GPU would be."""
    found = []

    def copied(
        tensor: torch.Tensor, device: torch.device, dtype: None = None, non_blocking: bool = False
    ) -> torch.Tensor:
        found.append((tensor, device, non_blocking))
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", copied)
    return found


def test_parked_model_is_on_its_device_while_it_is_used_and_never_copied_back(copies):
    model = RewardModel(make_gpt()).eval().requires_grad_(False)
    model.gpt.set_suppress_tokens([3])
    expected, device = model(TOKENS, MASK), torch.device("cpu")
    copies.clear()
    memory.park(model, device)
    tensors = [*model.parameters(), *model.buffers()]
    assert [where for _, where, _ in copies] == [torch.device("cpu")] * len(tensors)  # it may have been on a GPU
    waiting = [tensor.data_ptr() for tensor in tensors]
    copies.clear()
    with memory.loaded(model):
        assert [(given.data_ptr(), where, quick) for given, where, quick in copies] == [
            (pointer, device, True) for pointer in waiting
        ]
        assert not set(waiting) & {tensor.data_ptr() for tensor in tensors}
        assert [*model.parameters(), *model.buffers()] == tensors  # the same objects
        there = [tensor.data_ptr() for tensor in tensors]
        with memory.loaded(model):  # already there
            assert [tensor.data_ptr() for tensor in tensors] == there
            assert torch.equal(model(TOKENS, MASK), expected)
        assert not set(waiting) & {tensor.data_ptr() for tensor in tensors}
        copies.clear()
    assert not copies
    assert [tensor.data_ptr() for tensor in tensors] == waiting
    with pytest.raises(ZeroDivisionError), memory.loaded(model):
        raise ZeroDivisionError
    assert [tensor.data_ptr() for tensor in tensors] == waiting
    copies.clear()
    with memory.loaded(model):  # a phase that failed does not end the parking
        assert len(copies) == len(waiting)


def test_model_that_is_not_parked_is_never_copied(copies):
    model = make_gpt()
    copies.clear()
    with memory.loaded(model):
        assert not copies


def test_model_that_does_not_fit_waits_again(monkeypatch):
    """Running out of memory while it is copied leaves no tensor on the device."""
    model = memory.park(make_gpt(), torch.device("cpu"))
    waiting, count = [parameter.data_ptr() for parameter in model.parameters()], []

    def failing(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        count.append(tensor)
        if len(count) > 2:
            raise torch.OutOfMemoryError
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", failing)
    with pytest.raises(torch.OutOfMemoryError), memory.loaded(model):
        pass
    assert [parameter.data_ptr() for parameter in model.parameters()] == waiting


# ---------------------------------------------------------------------------------------------- running out of memory

MESSAGE = (
    "CUDA out of memory. Tried to allocate 130.00 MiB. GPU 1 has a total capacity of 44.39 GiB of which 49.31 MiB is "
    "free. Including non-PyTorch memory, this process has 11.34 GiB memory in use. {}Of the allocated memory 10.42 GiB "
    "is allocated by PyTorch, and 419.37 MiB is reserved by PyTorch but unallocated. If reserved but unallocated "
    "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


@pytest.mark.parametrize(
    ("message", "figures"),
    [
        (MESSAGE.format(""), ": 10.42 GiB of 44.39 GiB were allocated, and 130.00 MiB more were needed"),
        (
            MESSAGE.format("11.30 GiB allowed; "),
            ": 10.42 GiB of 11.30 GiB were allocated, and 130.00 MiB more were needed",
        ),
        ("Allocation on device", ""),
    ],
)
def test_innermost_phase_is_named_with_the_figures_of_pytorch(message, figures):
    @memory.phase("scoring")
    def score() -> None:
        raise torch.OutOfMemoryError(message)

    for _ in range(2):
        with pytest.raises(GPUMemoryError) as error, memory.phase("training"):
            score()
        assert str(error.value) == f"out of GPU memory (scoring){figures}"
        assert error.value.path == "training: scoring"


def test_other_errors_pass_through_a_phase():
    with pytest.raises(RuntimeError, match=r"^shapes$"), memory.phase("update"):
        raise RuntimeError("shapes")


def test_offloaded_gradients_refuse_to_be_copied():
    parameter = nn.Parameter(torch.ones(3))
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.deepcopy((parameter, CPUAdamW([parameter], gradients=OffloadedGradients)))


@pytest.mark.parametrize("gradients", [Gradients, OffloadedGradients])
def test_norm_of_no_gradients_is_zero(gradients):
    assert CPUAdamW([nn.Parameter(torch.ones(3))], gradients=gradients).clip_gradients(1.0) == 0.0
