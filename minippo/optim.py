"""AdamW whose states live in CPU memory, and the learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class CPUAdamW(Optimizer):
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) that keeps its states out of the accelerator's memory.

    Both moments are float32 on the CPU, whatever the parameters' device and dtype; a parameter that is not float32
    itself gets a float32 master copy there too, since 5e-5 added to a bfloat16 0.02 changes nothing. A step moves the
    gradients to the CPU, updates there, and moves the weights back: 12 bytes a parameter that a 12 GB card need not
    hold.

    Epsilon is added after the bias correction of the second moment, as in `torch.optim.AdamW` and Kingma & Ba 2015.
    With `tensorflow_eps` it is added before, as TensorFlow 1 did when the first results of RLHF were made: that amounts
    to an epsilon of eps / sqrt(1 - beta2^t), 32 times as large at the first step with beta2 = 0.999, so that small
    gradients make smaller first steps.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        tensorflow_eps: bool = False,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"need lr, eps, weight_decay >= 0, 0 <= betas < 1: {lr=}, {betas=}, {eps=}, {weight_decay=}"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"tensorflow_eps": tensorflow_eps})

    # PyTorch wraps these for its compiler, whose import at the first call takes one to three seconds of every stage.
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)
    state_dict = inspect.unwrap(Optimizer.state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step from the gradients there are; parameters without one are left alone."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        on_cpu = parameter.device.type == "cpu" and parameter.dtype == torch.float32
        if not state:
            state["step"] = 0
            state["first_moment"] = torch.zeros_like(parameter, dtype=torch.float32, device="cpu")
            state["second_moment"] = torch.zeros_like(parameter, dtype=torch.float32, device="cpu")
            if not on_cpu:
                state["master"] = parameter.detach().to("cpu", torch.float32, copy=True)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        # A blocking copy: the numbers are on the CPU before the next line reads them.
        gradient = parameter.grad.to("cpu", torch.float32)
        weight = parameter if on_cpu else state["master"]
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        first = state["first_moment"].lerp_(gradient, 1 - beta1)
        second = state["second_moment"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        first_correction = 1 - beta1 ** state["step"]
        second_correction = math.sqrt(1 - beta2 ** state["step"])
        eps = group["eps"] / second_correction if group["tensorflow_eps"] else group["eps"]
        denominator = second.sqrt().div_(second_correction).add_(eps)
        weight.addcdiv_(first, denominator, value=-group["lr"] / first_correction)
        if not on_cpu:
            parameter.copy_(weight)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over saved states as they are: PyTorch's own method would cast them to each parameter's dtype and
        device, and so round the moments of a bfloat16 model and move them to the accelerator."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        saved = [group["params"] for group in state_dict["param_groups"]]
        if [len(group["params"]) for group in self.param_groups] != [len(indices) for indices in saved]:
            raise ValueError(
                f"the saved optimizer has {sum(map(len, saved))} parameters in {len(saved)} groups, this one "
                f"{len(parameters)} in {len(self.param_groups)}"
            )
        for group, loaded in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update({key: value for key, value in loaded.items() if key != "params"})
        self.state.clear()  # what has no saved state has not been stepped
        indices = [index for group in saved for index in group]
        for index, parameter in zip(indices, parameters, strict=True):
            if index in state_dict["state"]:
                loaded = state_dict["state"][index]
                self.state[parameter] = {k: v.clone() if torch.is_tensor(v) else v for k, v in loaded.items()}


def lr_schedule(schedule: str, step: int, num_steps: int, *, warmup: float = 0.0) -> float:
    """Share of the learning rate at `step` (from 0): up linearly over the first `warmup` share of the steps, then
    "linear"ly or as a "cosine" (Loshchilov & Hutter 2017, eq. 5) down to 0, or "constant". No step's share is 0."""
    rising = (step + 1) / max(1.0, warmup * num_steps)
    left = min(1.0, (num_steps - step) / max(1.0, num_steps - warmup * num_steps))  # share of the way down to go
    if schedule == "linear":
        return min(1.0, rising, left)
    if schedule == "cosine":
        return min(rising, 0.5 * (1 - math.cos(math.pi * left)))
    if schedule == "constant":
        return min(1.0, rising)
    raise ValueError(f"a learning-rate schedule is linear, cosine or constant, not {schedule!r}")


def param_groups(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups in which matrices are decayed, gains and biases are not (Radford et al. 2018)."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    vectors = [parameter for parameter in trained if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
