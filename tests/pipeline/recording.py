"""What a stage does while it runs: the calls of its formulas, and every step of its optimizers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minippo import equations, masking, sampling
from minippo.heads import RewardModel
from minippo.optim import CPUAdamW

RECORDED = (
    equations.adaptive_kl_coef,
    equations.gae,
    equations.kl_loss,
    equations.kl_penalised_rewards,
    equations.policy_loss,
    masking.predicted_tokens,
    equations.ranking_loss,
    equations.token_logprobs,
    equations.penalise_missing_eos,
    equations.value_loss,
    sampling.generate,
)
SCRIPTS = ("train_rm", "train_ppo")


@dataclass
class Call:
    """A call of a function: all its arguments by name, its result, and what was the case."""

    name: str
    arguments: dict[str, Any]
    result: Any
    with_gradient: bool
    optimizer: int
    """Optimizers made before."""
    step: int
    """Steps of the newest optimizer before."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.arguments[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass
class Step:
    """A step of an optimizer."""

    lr: float
    norm: float
    """Of the gradient that it was given."""
    unclipped: float
    """Of the gradient before it was clipped."""
    before: list[Tensor]
    """All parameters; kept for the first two steps, as what follows."""
    gradients: list[Tensor | None]
    after: list[Tensor]


@dataclass
class OptimizerRecord:
    """One optimizer: its settings by group, and its steps."""

    groups: list[dict[str, Any]]
    steps: list[Step] = field(default_factory=list)

    @property
    def lrs(self) -> list[float]:
        return [step.lr for step in self.steps]

    @property
    def decays(self) -> list[float]:
        """The weight decay of each parameter."""
        return [group["weight_decay"] for group in self.groups for _ in group["params"]]


@dataclass
class Recording:
    """Everything of a stage, in its order."""

    calls: list[Call] = field(default_factory=list)
    optimizers: list[OptimizerRecord] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def of(self, name: str, **conditions: Any) -> list[Call]:
        """The calls of one function for which all of these hold."""
        return [
            call
            for call in self.calls
            if call.name == name and all(getattr(call, key) == value for key, value in conditions.items())
        ]


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record what happens within the context, wherever the functions have been imported to."""
    recording = Recording()
    with pytest.MonkeyPatch.context() as patch:
        wrappers = {id(function): _wrapper(function, recording) for function in RECORDED}
        for name, module in list(sys.modules.items()):
            if name.split(".")[0] in ("minippo", *SCRIPTS):
                for attribute, value in list(vars(module).items()):
                    if id(value) in wrappers and callable(value):
                        patch.setattr(module, attribute, wrappers[id(value)])
        _record_optimizers(patch, recording)
        _record_reward_models(patch, recording)
        yield recording


def _wrapper(function: Callable[..., Any], recording: Recording) -> Callable[..., Any]:
    signature = inspect.signature(function)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        result = function(*args, **kwargs)
        _add(recording, function.__name__, dict(bound.arguments), result)
        return result

    return wrapped


def _add(recording: Recording, name: str, arguments: dict[str, Any], result: Any) -> None:
    arguments = {key: value.detach() if isinstance(value, Tensor) else value for key, value in arguments.items()}
    steps = len(recording.optimizers[-1].steps) if recording.optimizers else 0
    call = Call(name, arguments, result, torch.is_grad_enabled(), len(recording.optimizers), steps)
    recording.calls.append(call)


def _record_optimizers(patch: pytest.MonkeyPatch, recording: Recording) -> None:
    make, step, clip = CPUAdamW.__init__, CPUAdamW.step, CPUAdamW.clip_gradients

    def init(self: CPUAdamW, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        recording.optimizers.append(OptimizerRecord(self.param_groups))

    def clip_gradients(self: CPUAdamW, max_norm: float) -> float:
        recording.norms.append(clip(self, max_norm))
        return recording.norms[-1]

    def recorded_step(self: CPUAdamW, closure: Any = None) -> Any:
        record = next(record for record in recording.optimizers if record.groups is self.param_groups)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        gradients = [self.gradients.of(p) for p in parameters]
        norm = float(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())
        (lr,) = {group["lr"] for group in self.param_groups}
        keep = len(record.steps) < 2
        before = [trained(self, p) for p in parameters] if keep else []
        result = step(self, closure)
        after = [trained(self, p) for p in parameters] if keep else []
        kept = [None if g is None else g.clone() for g in gradients] if keep else []
        record.steps.append(Step(lr, norm, recording.norms[-1], before, kept, after))
        return result

    patch.setattr(CPUAdamW, "__init__", init)
    patch.setattr(CPUAdamW, "step", recorded_step)
    patch.setattr(CPUAdamW, "clip_gradients", clip_gradients)


def trained(optimizer: CPUAdamW, parameter: Tensor) -> Tensor:
    """The weight that steps are added to: the float32 copy of a bfloat16 parameter, which is rounded to it."""
    master = optimizer.state[parameter].get("master") if parameter in optimizer.state else None
    if master is not None:
        assert torch.equal(master.to(parameter.dtype), parameter)
    return (parameter if master is None else master).detach().float().clone()


def _record_reward_models(patch: pytest.MonkeyPatch, recording: Recording) -> None:
    forward = RewardModel.forward

    def recorded_forward(self: RewardModel, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        scores = forward(self, tokens, attention_mask)
        dropouts = {module.p for module in self.modules() if isinstance(module, nn.Dropout)}
        arguments = {"tokens": tokens, "mask": attention_mask, "training": self.training, "dropouts": dropouts}
        _add(recording, "score", arguments, scores)
        return scores

    patch.setattr(RewardModel, "forward", recorded_forward)
