"""Let a trained policy answer: `python -m minippo.generate --run runs/reviews --prompt "A drama about a shy boxer."`

Without `--prompt` it asks for prompts, one a line.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from torch import Tensor

from minippo.heads import ActorCritic
from minippo.masking import pad
from minippo.runs import MAX_SEED, Run, broken_run_exits, command_line, load_run, output_of_any_text, wrong_input_exits
from minippo.sampling import generate
from minippo.streams import response_uniforms
from minippo.tokenizer import Tokenizer
from minippo.weights import load_actor_critic


@dataclass(frozen=True)
class GenerateOptions:
    """Answers of a run's policy, token by token."""

    run: Annotated[Path, tyro.conf.arg(aliases=["--run-dir"])]
    """Folder of the run."""
    prompt: tuple[str, ...] = ()
    """What to answer, one or more; without any, prompts are read from the terminal."""
    reference: bool = False
    """Show the reference policy's answers too."""
    n: int = 1
    """Answers to each prompt."""
    max_new_tokens: int | None = None
    """The most tokens of an answer; by default the run's data.response_length."""
    temperature: float | None = None
    """By default the run's ppo.temperature; 0 always takes the likeliest token."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 1
    """Determines the draws."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


@dataclass
class Stream:
    """Ids one after the other -> text as far as it is certain: the bytes of a character that is not whole wait."""

    tokenizer: Tokenizer
    ids: list[int] = field(default_factory=list)
    shown: int = 0

    def push(self, token: int) -> str:
        """The text that `token` adds."""
        self.ids.append(token)
        return self._new(self.tokenizer.decode(self.ids).rstrip("\ufffd"))

    def rest(self) -> str:
        """What still waits at the end."""
        return self._new(self.tokenizer.decode(self.ids))

    def _new(self, text: str) -> str:
        new, self.shown = text[self.shown :], max(self.shown, len(text))
        return new


def stream_answer(model: ActorCritic, query: list[int], run: Run, options: GenerateOptions, number: int) -> None:
    """Print answer `number` to `query` while it is sampled."""
    tokenizer, _ = run.tokenizers()
    config, stream = run.config.ppo, Stream(tokenizer)
    eos_id, *stop_ids = tokenizer.end_ids(config.stop_token)

    def show(step: int, drawn: Tensor) -> None:
        print(stream.push(int(drawn[0])), end="", flush=True)

    queries, query_mask = (tensor.to(run.device) for tensor in pad([query], tokenizer.pad_id, "left"))
    generate(
        model.gpt,
        queries,
        query_mask,
        max_new_tokens=max_new_tokens(run, options),
        eos_id=eos_id,
        stop_ids=stop_ids,
        pad_id=tokenizer.pad_id,
        temperature=config.temperature if options.temperature is None else options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_new_tokens=min(config.min_new_tokens, max_new_tokens(run, options)),
        uniforms=response_uniforms(options.seed, "generate", 0, [number], max_new_tokens(run, options)),
        on_token=show,
    )
    print(stream.rest())


def max_new_tokens(run: Run, options: GenerateOptions) -> int:
    """The most tokens of an answer."""
    return run.config.data.response_length if options.max_new_tokens is None else options.max_new_tokens


def query_of(prompt: str, model: ActorCritic, run: Run, options: GenerateOptions) -> list[int]:
    """The ids of `prompt`. Raises ValueError where it is empty, or too long to be answered within the context."""
    ids = run.tokenizers()[0].encode(prompt)
    room = model.gpt.config.context - max_new_tokens(run, options)
    if not ids:
        raise ValueError("the prompt is empty")
    if len(ids) > room:
        raise ValueError(
            f"the prompt has {len(ids)} tokens; beside {max_new_tokens(run, options)} new ones the policy's context of "
            f"{model.gpt.config.context} holds {max(0, room)}"
        )
    return ids


def prompts_from_terminal() -> Iterator[str]:
    """One prompt a line, until the end of the input; at a terminal until an empty line. Empty ones are passed over."""
    while True:
        asked = sys.stdin.isatty()
        if asked:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or (asked and line == "\n"):
            return
        if line != "\n":
            yield line.rstrip("\n")


def check(options: GenerateOptions) -> None:
    """Raise ValueError where an option means nothing."""
    for name, value, least in (("n", options.n, 1), ("top-k", options.top_k, 0), ("seed", options.seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise ValueError(f"max-new-tokens must be at least 1, not {options.max_new_tokens}")
    if options.temperature is not None and not 0 <= options.temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, not {options.temperature}")
    if options.seed > MAX_SEED:
        raise ValueError(f"seed must be at most {MAX_SEED}, not {options.seed}")
    if not 0 < options.top_p <= 1:
        raise ValueError(f"top-p must be above 0 and at most 1, not {options.top_p}")


def answer_all(prompts: Iterable[str], models: dict[str, ActorCritic], run: Run, options: GenerateOptions) -> None:
    """Print the answers of each model to each prompt; what cannot be answered is said, and the next prompt may be."""
    for prompt in prompts:
        try:
            query = query_of(prompt, models["policy"], run, options)
        except ValueError as error:  # in a conversation the next line may be better
            print(f"error: {error}", file=sys.stderr)
            continue
        for number in range(options.n):
            for name, model in models.items():
                label = f"{name} {number + 1}" if options.n > 1 else name
                print(f"[{label}] {prompt}", end="", flush=True)
                stream_answer(model, query, run, options, number)


def main() -> None:
    """`python -m minippo.generate --run RUN`."""
    options = command_line(GenerateOptions, __doc__)
    with wrong_input_exits():
        check(options)
        run = load_run(options.run, options.device)
        if not run.is_finished("ppo"):
            raise ValueError(f"{run.folder} has no finished ppo/: train the policy first (python train_ppo.py)")
        models = {"policy": load_actor_critic(run.stage("ppo") / "policy").to(run.device).eval()}
        if options.reference:
            models["reference"] = load_actor_critic(run.stage("sft") / "policy").to(run.device).eval()
        for prompt in options.prompt:  # all of them before the first is answered
            query_of(prompt, models["policy"], run, options)
    with output_of_any_text(), broken_run_exits():
        answer_all(options.prompt or prompts_from_terminal(), models, run, options)


if __name__ == "__main__":
    main()
