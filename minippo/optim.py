"""AdamW whose states live in CPU memory, where its gradients are, and the learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

BLOCK = 2**19
"""Numbers that AdamW updates at a time: from one operation to the next, they stay in the processor's cache."""


class Gradients:
    """The gradients of some parameters, where the backward pass leaves them: in `parameter.grad`.

    `memory.OffloadedGradients` keeps them elsewhere.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters

    def of(self, parameter: Tensor) -> Tensor | None:
        """The gradient that has accumulated since `clear`. None: the parameter is frozen, or not part of the loss."""
        return parameter.grad

    @contextmanager
    def together(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        """Backward passes that add to the gradients of the same `parameters`: these may move once, at the end."""
        yield

    def clear(self) -> None:
        """Forget all gradients, which would otherwise add up over the steps."""
        for parameter in self.parameters:
            parameter.grad = None  # not zeros: they would take memory until the next backward pass


class CPUAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) whose states live in CPU memory.

    Adam needs two moments for every parameter. Here both are float32 on the CPU, whatever the parameters' device and
    dtype. A parameter that is not float32 on the CPU also gets a float32 master copy there: adding 5e-5 to 0.02 in
    bfloat16 changes nothing, so without it, small updates would be lost. A step copies the gradients to the CPU,
    updates there, and copies the weights back. That takes 8 to 12 bytes per parameter off the accelerator, at the price
    of the copies.

    Epsilon is added after the bias correction of the second moment, as in `torch.optim.AdamW` and Kingma & Ba 2015.
    With `tensorflow_eps` it is added before, as in TensorFlow 1, which the first RLHF results were produced with. That
    is the same as an epsilon of eps / sqrt(1 - beta2^t), 32 times larger in the first step with beta2 = 0.999: steps
    are smaller while the second moment is small.

    With `averaging` d, every weight also has a running mean over the steps, average = d average + (1 - d) weight
    (Polyak & Juditsky 1992). It does not jump with the last batches, and often generalises better than the weights of
    any step. In step t, d is at most (1 + t) / (10 + t), so that the initial weights are soon forgotten.

    `gradients` says where the gradients are. Ask the optimizer for them, not the parameters: `zero_grad`,
    `clip_gradients` and `step` work the same wherever they are.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        tensorflow_eps: bool = False,
        gradients: Callable[[Sequence[Tensor]], Gradients] = Gradients,
        averaging: float = 0.0,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"need lr, eps, weight_decay >= 0, 0 <= betas < 1: {lr=}, {betas=}, {eps=}, {weight_decay=}"
            )
        # Each parameter group may override these defaults; `param_groups` overrides the weight decay.
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"tensorflow_eps": tensorflow_eps})
        if not all(parameter.is_contiguous() for group in self.param_groups for parameter in group["params"]):
            raise ValueError("parameters must be contiguous, since a step updates them block by block")
        self.gradients = gradients([parameter for group in self.param_groups for parameter in group["params"]])
        self.averaging = averaging

    def __getstate__(self) -> dict[str, Any]:  # copies have theirs, too
        return super().__getstate__() | {"gradients": self.gradients, "averaging": self.averaging}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the last step. They are always set to None, never to zeros."""
        self.gradients.clear()

    @torch.no_grad()
    def clip_gradients(self, max_norm: float) -> float:
        """Scale all gradients by one factor so that their norm is at most `max_norm`; returns the norm before.

        It is the norm of all parameters together: a factor for each would change the direction of the step.
        """
        gradients = [g for g in map(self.gradients.of, self.gradients.parameters) if g is not None]
        if not gradients:
            return 0.0
        # In float32 also if they are bfloat16: a sum of many squares needs more than 8 bits.
        norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]  # () each
        norm = torch.linalg.vector_norm(torch.stack(norms)).item()
        if norm > max_norm:  # small gradients stay as they are
            for gradient in gradients:
                gradient.mul_(max_norm / (norm + 1e-6))
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step. Parameters without a gradient are not changed."""
        loss = None
        if closure is not None:  # part of PyTorch's interface for optimizers that evaluate the loss again
            with torch.enable_grad():
                loss = closure()
        blocks = []
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self.gradients.of(parameter)
                if gradient is None:
                    continue
                state = self._state_of(parameter)
                state["step"] += 1
                master = state.get("master", parameter)
                tensors = parameter, master, gradient.contiguous(), state["first_moment"], state["second_moment"]
                # Nothing is copied. Without views of what is one block anyway, the step of a small model takes half the
                # time.
                is_one = parameter.numel() <= BLOCK
                parts = [(x.detach(),) if is_one else x.detach().view(-1).split(BLOCK) for x in tensors]
                blocks += [(*block, group, state["step"]) for block in zip(*parts, strict=True)]
        in_threads(update_block, blocks)
        if self.averaging:
            for parameter, state in self.state.items():
                decay = min(self.averaging, (1 + state["step"]) / (10 + state["step"]))
                master = state.get("master", parameter)
                state["average"].lerp_(master, 1 - decay)
        return loss

    @torch.no_grad()
    def swap_averages(self) -> None:
        """Exchange the weights and their running means. A second call exchanges them back."""
        for parameter, state in self.state.items():
            if self.averaging and "average" in state:
                master = state.get("master", parameter)
                weight = master.clone()
                master.copy_(state["average"])
                state["average"].copy_(weight)
                if master is not parameter:
                    parameter.copy_(master.to(parameter.dtype))

    def _state_of(self, parameter: Tensor) -> dict[str, Any]:
        """The state of a parameter; before its first step, it is created."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["first_moment"] = torch.zeros_like(parameter, dtype=torch.float32, device="cpu")
            state["second_moment"] = torch.zeros_like(parameter, dtype=torch.float32, device="cpu")
            if needs_master(parameter):
                state["master"] = parameter.detach().to("cpu", torch.float32, copy=True)
        if self.averaging and "average" not in state:
            state["average"] = state.get("master", parameter).detach().clone()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load saved states unchanged.

        `Optimizer.load_state_dict` would cast them to the dtype and device of the parameters: that would round the
        moments of a bfloat16 model and move them to the accelerator.
        """
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        saved = [group["params"] for group in state_dict["param_groups"]]
        if [len(group["params"]) for group in self.param_groups] != [len(indices) for indices in saved]:
            raise ValueError(
                f"the saved optimizer has {sum(map(len, saved))} parameters in {len(saved)} groups, this one "
                f"{len(parameters)} in {len(self.param_groups)}"
            )
        # The settings of the groups (lr, betas, ...) come from the file as well.
        for group, loaded in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in loaded.items() if key != "params"})
        self.state.clear()  # a parameter without saved state has not been updated yet
        # A state dict names parameters by their index, in the order of the groups.
        indices = [index for group in saved for index in group]
        for index, parameter in zip(indices, parameters, strict=True):
            if index in state_dict["state"]:
                loaded = state_dict["state"][index]
                if any(torch.is_tensor(v) and v.shape != parameter.shape for v in loaded.values()):
                    raise ValueError(f"the saved state of parameter {index} does not have its shape {parameter.shape}")
                self.state[parameter] = {k: v.clone() if torch.is_tensor(v) else v for k, v in loaded.items()}


def needs_master(parameter: Tensor) -> bool:
    """Whether AdamW updates a float32 copy in CPU memory instead of the parameter itself."""
    return parameter.device.type != "cpu" or parameter.dtype != torch.float32


def update_block(parameter: Tensor, master: Tensor, gradient: Tensor, *rest: Any) -> None:
    """AdamW's update of a block, tensors of one shape, on the CPU; then the parameter becomes its master copy."""
    adamw_update(master, gradient.to("cpu", torch.float32), *rest)  # blocking: it has arrived before it is read
    if needs_master(parameter):
        parameter.copy_(master.to(parameter.dtype))  # rounded here: fewer bytes go to the device


def adamw_update(
    weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, group: dict[str, Any], step: int
) -> None:
    """AdamW's update of some weights and of their two moments, in place, all of one shape; `step` counts from 1."""
    beta1, beta2 = group["betas"]
    if group["weight_decay"]:
        # "Decoupled" decay: it shrinks the weight directly and does not pass through the moments.
        weight.mul_(1 - group["lr"] * group["weight_decay"])
    # Running means of the gradient and of its square: m = beta1 m + (1 - beta1) g.
    first.lerp_(gradient, 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # The moments start at 0; these factors correct the bias of the first steps. They are multiplied into the learning
    # rate and epsilon instead of the moments (Kingma & Ba 2015, end of section 2), which takes two operations less.
    first_correction, second_correction = 1 - beta1**step, math.sqrt(1 - beta2**step)
    eps = group["eps"] if group["tensorflow_eps"] else group["eps"] * second_correction
    # A parameter's step is about lr in size, whatever the scale of its gradient: mean / root mean square.
    denominator = second.sqrt().add_(eps)
    weight.addcdiv_(first, denominator, value=-group["lr"] * second_correction / first_correction)


def in_threads(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
    """Make independent calls, in as many threads as PyTorch uses.

    PyTorch would divide each operation among its threads and wait for all of them after each. Here every thread does
    all operations of a block, whose numbers stay in the cache of its core.
    """
    threads = torch.get_num_threads()
    shares = [calls[index::threads] for index in range(threads)]

    def work(share: Sequence[tuple[Any, ...]]) -> None:
        for arguments in share:
            function(*arguments)

    if threads == 1 or sum(arguments[0].numel() for arguments in calls) < 4 * threads * BLOCK:
        work(calls)  # too little to pay for the threads
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, shares))  # the list raises what was raised in a thread
    finally:
        torch.set_num_threads(threads)


def lr_schedule(schedule: str, step: int, num_steps: int, *, warmup: float = 0.0) -> float:
    """The factor on the peak learning rate at `step`, counted from 0; it is never 0.

    It rises linearly during the first `warmup` share of the steps, then falls to 0, "linear" or as a "cosine"
    (Loshchilov & Hutter 2017 eq. 5), or stays "constant".
    """
    # step + 1, so that the first step is not wasted on a learning rate of 0.
    rising = (step + 1) / max(1.0, warmup * num_steps)
    left = min(1.0, (num_steps - step) / max(1.0, num_steps - warmup * num_steps))  # 1 to 0 after the warm-up
    if schedule == "linear":
        return min(1.0, rising, left)
    if schedule == "cosine":  # slow at both ends
        return min(rising, 0.5 * (1 - math.cos(math.pi * left)))
    if schedule == "constant":
        return min(1.0, rising)
    raise ValueError(f"a learning-rate schedule is linear, cosine or constant, not {schedule!r}")


def param_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups with weight decay for matrices and none for gains and biases (Radford et al. 2018)."""
    # Two groups, always in this order: a saved state is matched by position.
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    # Decay shrinks a matrix towards a simpler function; a gain that shrinks would only rescale its layer.
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    vectors = [parameter for parameter in trained if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


# PyTorch wraps these methods for its compiler, and importing the compiler at their first call takes a second in every
# stage. Nothing here is compiled, so the plain methods do.
for _name in ("add_param_group", "state_dict"):
    setattr(CPUAdamW, _name, inspect.unwrap(getattr(Optimizer, _name)))
