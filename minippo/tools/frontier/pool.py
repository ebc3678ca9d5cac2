"""The pool that best-of-n is estimated from: N responses of the reference to each prompt, and their scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minippo.answers import Judge
from minippo.rollout import Environment, sample_responses
from minippo.runs import Run, sampling_params
from minippo.scoring import Scorer, score_texts
from minippo.storage import read_object, write_text
from minippo.streams import response_uniforms


@dataclass(frozen=True)
class Pool:
    """N responses to each of P prompts."""

    folder: Path
    prompts: list[str]
    responses: list[list[str]]
    gold: Tensor | None  # (P, N), if the corpus has a judge


def pool_folder(run: Run, num_samples: int) -> Path:
    """Where a pool is stored."""
    return run.folder / "frontier" / f"pool-{num_samples}"


def check_pool(run: Run, queries: Sequence[list[int]], num_samples: int) -> None:
    """Raise ValueError if an existing pool has samples of another reference, settings or prompts."""
    folder, present = pool_folder(run, num_samples), origin(run)
    path = folder / "origin.json"
    stored = read_object(path) if path.is_file() else {}
    for name, value in present.items() if any(folder.glob("prompt-*.json")) else ():
        if stored.get(name) != value:
            raise ValueError(
                f"{folder} has other samples than this run would draw: {name} was {stored.get(name, 'not stored')}, "
                f"now it is {value}. Rename the folder to sample again"
            )
    tokenizer, _ = run.tokenizers()
    for index, query in enumerate(queries):
        path = prompt_file(folder, index)
        if path.is_file() and (text := read_object(path)["prompt"]) != (prompt := tokenizer.decode(query)):
            raise ValueError(
                f"{path} has responses to another prompt than the data: {text!r}, now it is {prompt!r}. "
                f"Rename {folder} to sample again"
            )


def prompt_file(folder: Path, index: int) -> Path:
    """Where the responses to a prompt are stored."""
    return folder / f"prompt-{index:04}.json"


def origin(run: Run) -> dict[str, Any]:
    """What determines the samples for a prompt, as JSON has it."""
    sampling = asdict(sampling_params(run.config, run.tokenizers()[0]))
    stop_ids = list(sampling["stop_ids"])
    return {"reference": _digest(run, "sft"), "seed": run.config.seed, **sampling, "stop_ids": stop_ids}


def _digest(run: Run, stage: str) -> str:
    """Of all files of a finished stage."""
    return hashlib.sha256((run.intact(run.stage(stage)) / "manifest.json").read_bytes()).hexdigest()[:16]


def sample_pool(
    run: Run, env: Environment, queries: Sequence[list[int]], judge: Judge | None, num_samples: int
) -> Pool:
    """Sample the responses, a file per prompt in RUN/frontier/pool-N. Files of a pool, once checked, are read."""
    folder, rows = pool_folder(run, num_samples), []
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "origin.json", json.dumps(origin(run)) + "\n")
    for index, query in enumerate(tqdm(queries, desc="best-of-n: samples", unit="prompt")):
        path = prompt_file(folder, index)
        if not path.is_file():
            prompt, responses = _sample(run, env, query, index, num_samples)
            gold = [judge.gold_score(prompt, response) for response in responses] if judge else None
            write_text(path, json.dumps({"prompt": prompt, "responses": responses, "gold": gold}) + "\n")
        rows.append(read_object(path))
    gold = torch.tensor([row["gold"] for row in rows], dtype=torch.float64) if judge else None
    return Pool(folder, [row["prompt"] for row in rows], [row["responses"] for row in rows], gold)


def _sample(run: Run, env: Environment, query: list[int], index: int, num_samples: int) -> tuple[str, list[str]]:
    """The prompt and N responses to it, in batches of the size of a rollout, for which there is memory."""
    responses: list[str] = []
    for start in range(0, num_samples, run.config.ppo.rollout_batch_size):
        samples = range(start, min(start + run.config.ppo.rollout_batch_size, num_samples))
        uniforms = response_uniforms(run.config.seed, "best of n", index, samples, env.sampling.max_new_tokens)
        batch = sample_responses(env.reference, [query] * len(samples), env.tokenizer, env.sampling, uniforms)
        responses += batch.response_texts
    return batch.prompt_texts[0], responses


def pool_scores(pool: Pool, run: Run, scorer: Scorer) -> Tensor:
    """Scores (P, N) of the pool by the reward model of a run, float64; computed once for each reward model."""
    path = pool.folder / f"scores-{_digest(run, 'rm')}.json"
    stored = read_object(path)["scores"] if path.is_file() else []
    if len(stored) < len(pool.prompts):  # more prompts than last time
        pairs = zip(pool.prompts, pool.responses, strict=True)
        rows = tqdm(pairs, total=len(pool.prompts), desc=f"best-of-n: scores of {run.folder.name}", unit="prompt")
        stored = [score_texts(scorer, [prompt] * len(texts), texts).tolist() for prompt, texts in rows]
        write_text(path, json.dumps({"reward_model": run.folder.name, "scores": stored}) + "\n")
    return torch.tensor(stored[: len(pool.prompts)], dtype=torch.float64)
