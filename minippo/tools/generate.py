"""Print responses of a trained policy, token by token.

python -m minippo generate --run runs/reviews --prompt "A drama about a shy boxer."

Without --prompt it reads prompts from the terminal, one per line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from torch import Tensor

from minippo.config import Bounds, Count, CountOrZero, Seed
from minippo.data import unreadable
from minippo.exits import print_error
from minippo.heads import ActorCritic
from minippo.masking import pad
from minippo.memory import loaded
from minippo.runs import (
    Argument,
    Run,
    command_frame,
    command_line,
    load_frozen_policy,
    load_run,
    sampling_params,
    wrong_input_exits,
)
from minippo.sampling import generate
from minippo.streams import response_uniforms
from minippo.tokenizer import Tokenizer
from minippo.tools.lines import lines


@dataclass(frozen=True)
class GenerateOptions:
    """Options of `generate`."""

    run: Annotated[Path, Argument(alias="--run-dir")]
    """Run directory."""
    prompt: tuple[str, ...] = ()
    """One or more prompts. Without any, prompts are read from the terminal."""
    reference: bool = False
    """Also print the responses of the reference policy."""
    n: Count = 1
    """Number of responses per prompt."""
    max_new_tokens: Annotated[int | None, Bounds(1)] = None
    """Maximum response length in tokens. None: the run's data.response_length."""
    temperature: Annotated[float | None, Bounds(0)] = None
    """Sampling temperature. 0 always takes the most likely token. None: the run's ppo.temperature."""
    top_k: CountOrZero = 0
    """Sample only from the k most likely tokens. 0: from all tokens."""
    top_p: Annotated[float, Bounds(0, 1)] = 1.0
    """Sample only from the most likely tokens whose probabilities add up to p. 1: from all tokens."""
    seed: Seed = 1
    """Random seed of the samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. "auto" uses a GPU if there is one."""


@dataclass
class Stream:
    """Decodes ids one by one. The bytes of an incomplete character are held back until it is complete."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    num_shown: int = 0

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        self.ids.append(token)
        return self._new(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def rest(self) -> str:
        """The text held back at the end of the response."""
        return self._new(self.tokenizer.decode(self.ids))

    def _new(self, text: str) -> str:
        new, self.num_shown = text[self.num_shown :], max(self.num_shown, len(text))
        return new


def stream_response(model: ActorCritic, query: list[int], run: Run, options: GenerateOptions, number: int) -> None:
    """Sample response `number` to `query` and print it as it grows."""
    tokenizer, _ = run.tokenizers()
    stream, longest, usual = Stream(tokenizer), max_new_tokens(run, options), sampling_params(run.config, tokenizer)
    sampling = replace(
        usual,
        max_new_tokens=longest,
        temperature=usual.temperature if options.temperature is None else options.temperature,
        min_new_tokens=min(usual.min_new_tokens, longest),
    )

    def show(step: int, drawn: Tensor) -> None:
        print(stream.push(int(drawn[0])), end="", flush=True)

    queries, query_mask = (x.to(run.device) for x in pad([query], sampling.pad_id, "left"))  # (1, P)
    with loaded(model):  # it may be parked, so that only one of policy and reference is on the GPU
        generate(
            model.gpt,
            queries,
            query_mask,
            **asdict(sampling),
            top_k=options.top_k,
            top_p=options.top_p,
            uniforms=response_uniforms(options.seed, "generate", 0, [number], longest),
            on_token=show,
        )
    print(stream.rest())


def max_new_tokens(run: Run, options: GenerateOptions) -> int:
    """Maximum response length in tokens."""
    return run.config.data.response_length if options.max_new_tokens is None else options.max_new_tokens


def query_of(prompt: str, model: ActorCritic, run: Run, options: GenerateOptions) -> list[int]:
    """The ids of `prompt`. Raises ValueError if it is empty or leaves too little of the context for the response."""
    if problem := unreadable(prompt):
        raise ValueError(f"the prompt has {problem}")
    ids = run.tokenizers()[0].encode(prompt)
    context, num_new = model.gpt.config.context, max_new_tokens(run, options)
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    if len(ids) + num_new > context:
        raise ValueError(
            f"the prompt has {len(ids)} tokens, but with responses of {num_new} tokens (--max-new-tokens) the policy's "
            f"context of {context} has room for {max(0, context - num_new)}"
        )
    return ids


def check(options: GenerateOptions) -> None:
    """Raise ValueError if the options contradict each other."""
    if options.top_p == 0:
        raise ValueError("top-p must be above 0 and at most 1, not 0")
    if options.n > 1 and (options.temperature == 0 or options.top_k == 1):
        greedy = "--temperature 0" if options.temperature == 0 else "--top-k 1"
        raise ValueError(f"{greedy} gives the same response every time, so --n must be 1, not {options.n}")


def print_responses(prompts: Iterable[str], models: dict[str, ActorCritic], run: Run, options: GenerateOptions) -> None:
    """Print the responses of each model to each prompt. A prompt that cannot be used is reported and skipped."""
    for prompt in prompts:
        try:
            query = query_of(prompt, models["policy"], run, options)
        except ValueError as error:  # at the terminal, the next prompt may be fine
            print_error(error)
            continue
        for number in range(options.n):
            for name, model in models.items():
                label = f"{name} {number + 1}" if options.n > 1 else name
                print(f"[{label}] {prompt}", end="", flush=True)
                stream_response(model, query, run, options, number)


@command_frame()
def main() -> None:
    """`python -m minippo generate --run RUN`."""
    options = command_line(GenerateOptions, __doc__)
    with wrong_input_exits():
        check(options)
        run = load_run(options.run, options.device)
        stages = {"policy": "ppo", "reference": "sft"} if options.reference else {"policy": "ppo"}
        run.require_finished("ppo")
        models = {name: load_frozen_policy(run, stage) for name, stage in stages.items()}
        for prompt in options.prompt:  # check all prompts before sampling
            query_of(prompt, models["policy"], run, options)
    print_responses(options.prompt or (text for _, text in lines("> ")), models, run, options)
