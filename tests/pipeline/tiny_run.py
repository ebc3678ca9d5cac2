"""Runs of all three stages that take a second, on made-up texts in each of the layouts that a corpus may have."""

from __future__ import annotations

import bz2
import json
import random
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

import train_ppo
import train_rm
from minippo import sft
from minippo.answers import Answer
from minippo.config import Config
from minippo.evaluation import Evaluator
from minippo.runs import load_config, load_run
from minippo.tokenizer import train_bpe
from minippo.tools import evaluate
from tests.pipeline.recording import Recording, recorded

STAGES = {"sft": sft.main, "rm": train_rm.main, "ppo": train_ppo.main}
SPLITS = ("train", "validation", "test")
NUM_PAIRS, NUM_RANKINGS, HUB = 18, 6, "somebody/pairs"

# No two numbers are alike where they might be mistaken for each other, and everything that can be switched on is on,
# or one field away from being on.
BASE = """
data: {query_length: 18, response_length: 7, crop_words: 5, hold_out: 0.2}
model:
  policy: {layers: 1, heads: 2, channels: 8, context: 64}
  reward: {layers: 1, heads: 2, channels: 12, context: 66}
sft:
  policy:
    {tokens: 4000, batch_tokens: 300, lr: 0.031, warmup: 0.25, schedule: cosine, weight_decay: 0.21, max_grad_norm: 0.6,
     save_every: 5}
  reward:
    {tokens: 1500, batch_tokens: 250, lr: 0.012, warmup: 0.3, schedule: linear, weight_decay: 0.22, max_grad_norm: 0.7,
     save_every: 4}
rm:
  fraction: 0.92
  epochs: 2
  averaging: 0.06
  batch_size: 8
  lr: 0.013
  warmup: 0.35
  schedule: linear
  weight_decay: 0.23
  max_grad_norm: 0.8
  dropout: 0.15
  token_dropout: 0.1
  margin: 0.4
  label_smoothing: 0.05
  eval_comparisons: 11
  eval_every: 3
  normalisation_samples: 9
  save_every: 3
ppo:
  num_iterations: 4
  rollout_batch_size: 8
  samples_per_prompt: 2
  num_epochs: 2
  num_minibatches: 2
  microbatch_size: 2
  lr: 0.014
  warmup: 0.55
  schedule: linear
  weight_decay: 0.24
  adam_beta2: 0.97
  adam_eps: 2.0e-4
  max_grad_norm: 0.5
  kl_coef: 0.12
  kl_target: 1.61
  kl_horizon: 24
  kl_estimate: k2
  gamma: 0.95
  lam: 0.9
  clip_low: 0.02
  clip_high: 0.03
  value_clip: 0.01
  value_coef: 0.65
  entropy_coef: 0.045
  value_head: mlp
  max_approx_kl: 5
  max_ratio: 6
  ptx_coef: 0.28
  ptx_batch_size: 3
  temperature: 0.85
  min_new_tokens: 2
  stop_token: "."
  missing_eos: replace
  missing_eos_score: 0.46
  score_clip: 1.1
  save_every: 2
eval: {every: 2, prompts: 5, final_prompts: 6, samples: 2}
"""


# ---------------------------------------------------------------------------------------------- texts


class Texts:
    """Film reviews of a few words, all different from those of another seed."""

    def __init__(self, seed: int) -> None:
        self.draw, self.number = random.Random(seed), 1000 * seed

    def prompt(self) -> str:
        self.number += 1
        adjective, about = (self.draw.choice(words.split()) for words in ("short long old new", "cook thief king"))
        return f"{self.number}: a{self.draw.choice(['', ' ' + adjective])} film on a {about}."

    def review(self) -> str:
        def sentence() -> str:
            what, how = (self.draw.choice(w.split()) for w in ("plot music hero", "lovely superb dull corny shrill"))
            return f" The {what} is {how}."

        return "".join(sentence() for _ in range(self.draw.randint(1, 3)))

    def completions(self, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            found += [text for text in [self.review()] if text not in found]
        return found

    def pair(self) -> dict[str, str]:
        return dict(zip(("chosen", "rejected"), self.completions(2), strict=True)) | {"prompt": self.prompt()}

    def demonstration(self) -> dict[str, str]:
        return {"prompt": self.prompt(), "completion": self.review()}


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opened = bz2.open if path.suffix == ".bz2" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def write_reviews(folder: Path, seed: int) -> Path:
    """The layout of the bundled reviews."""
    texts = Texts(seed)
    write(folder / "demonstrations.jsonl.bz2", [texts.demonstration() for _ in range(40)])
    for split in SPLITS:
        rankings = [{"prompt": texts.prompt(), "ranked": texts.completions(3)} for _ in range(NUM_RANKINGS)]
        write(folder / f"preferences-{split}.jsonl.bz2", [texts.pair() for _ in range(NUM_PAIRS)])
        write(folder / f"rankings-{split}.jsonl.bz2", rankings)
        write(folder / f"prompts-{split}.jsonl.bz2", [{"prompt": texts.prompt()} for _ in range(14)])
    return folder


def write_imdb(folder: Path, seed: int) -> Path:
    """The layout of the IMDB reviews."""
    import datasets

    texts = Texts(seed)
    for split, labels in (("train", (0, 1)), ("test", (0, 1)), ("unsupervised", (-1,))):
        rows = [(texts.prompt() + texts.review() + texts.review(), label) for label in labels for _ in range(40)]
        columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
    return folder


def write_files(folder: Path, seed: int) -> dict[str, str]:
    """Somebody's own files without splits, one row of which cannot be used; their places by option."""
    texts = Texts(seed)
    rows = {
        "demonstrations": [texts.demonstration() for _ in range(40)],
        "preferences": [*(texts.pair() for _ in range(60)), texts.pair() | {"chosen": ""}],
        "prompts": [{"prompt": texts.prompt()} for _ in range(70)],
    }
    return {f"data.{name}": str(write(folder / f"{name}.jsonl", rows[name])) for name in rows}


class Hub:
    """Stands for the hub: one dataset with two splits for each purpose, such as "train" and "other-train"."""

    def __init__(self) -> None:
        import datasets

        texts = Texts(10)
        names = [prefix + split for split in SPLITS for prefix in ("", "other-")]
        self.tables = {name: datasets.Dataset.from_list([texts.pair() for _ in range(14)]) for name in names}

    def load_dataset(self, name: str, subset: str | None = None) -> dict[str, Any]:
        assert (name, subset) == (HUB, None)
        return self.tables


def score_by_length(prompts: list[str], responses: list[str]) -> torch.Tensor:
    """A scorer of one's own, for `ppo.scorer`."""
    return torch.tensor([len(response) / 10 for response in responses])


# ---------------------------------------------------------------------------------------------- runs


@dataclass
class TinyRun:
    """A run, as far as it went: its settings, and what was recorded of each stage."""

    folder: Path
    config: Config
    recordings: dict[str, Recording] = field(default_factory=dict)


class TinyRuns:
    """Makes runs: of the base configuration on each corpus, once, and with some fields changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bases: dict[str, TinyRun] = {}
        self.configs: dict[str, Config] = {}
        self.count = 0
        texts = [Texts(seed) for seed in range(1, 3)]
        sample = [text.prompt() + text.review() for text in texts for _ in range(60)]
        for name, size in (("policy", 300), ("reward", 310), ("other", 290)):
            train_bpe(sample, size).save(folder / f"{name}.tiktoken")
        tokenizers = {f"model.{name}.tokenizer": str(folder / f"{name}.tiktoken") for name in ("policy", "reward")}
        reviews = {"data.folder": str(write_reviews(folder / "reviews", 1))} | tokenizers
        reviews["data.imdb_path"] = str(write_imdb(folder / "imdb", 3))
        own = {"data.source": "files"} | write_files(folder / "own", 5)
        self.corpora = {
            "reviews": reviews,
            "imdb": reviews | {"data.source": "imdb"},
            "files": reviews | own,
            "hub": reviews | own | {"data.preferences": HUB},
        }
        write_reviews(folder / "other-reviews", 2)
        shutil.copytree(folder / "reviews", folder / "moved-reviews")
        write_imdb(folder / "other-imdb", 4)
        shutil.copytree(folder / "imdb", folder / "moved-imdb")
        write_files(folder / "other-own", 6)
        self.hub = Hub()

    def base(self, corpus: str = "reviews") -> TinyRun:
        """The run of the base configuration."""
        if corpus not in self.bases:
            self.bases[corpus] = self.run(corpus, {}, list(STAGES))
        return self.bases[corpus]

    def settings(self, corpus: str) -> Config:
        """The base configuration."""
        if corpus not in self.configs:
            values = yaml.safe_load(BASE)
            for name, value in self.corpora[corpus].items():
                *sections, last = name.split(".")
                place = values
                for section in sections:
                    place = place.setdefault(section, {})
                place[last] = value
            path = self.folder / f"{corpus}.yaml"
            path.write_text(yaml.safe_dump(values))
            self.configs[corpus] = load_config(str(path))
        return self.configs[corpus]

    def run(self, corpus: str, changes: Mapping[str, Any], stages: list[str]) -> TinyRun:
        """Run these stages with `changes` to the base configuration; the stages before them are the base run's."""
        self.count += 1
        self.settings(corpus)
        folder = self.folder / "runs" / f"{self.count}"
        arguments = ["--config", self.folder / f"{corpus}.yaml", "--run-dir", folder, "--device", "cpu"]
        arguments += options(changes)
        run = TinyRun(folder, changed(self.settings(corpus), changes))
        for stage in stages:
            from_base = stage == stages[0] != "sft"
            more = ["--init-from", self.base(corpus).folder] if from_base else []
            with ExitStack() as stack:
                patch = stack.enter_context(pytest.MonkeyPatch.context())
                patch.setattr("datasets.load_dataset", self.load_dataset)
                run.recordings[stage] = stack.enter_context(recorded())
                command(STAGES[stage], *arguments, *more)
        return run

    def load_dataset(self, name: str, subset: str | None = None, **others: Any) -> Any:
        import datasets

        return self.hub.load_dataset(name, subset) if name == HUB else datasets.load.load_dataset(name, **others)


def changed(config: Any, changes: Mapping[str, Any]) -> Any:
    """`config` with other values of these fields, each by its dotted name."""
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        config = replace(config, **{first: changed(getattr(config, first), {rest: value}) if rest else value})
    return config


def command(main: Any, *arguments: object) -> None:
    """Run `main` as its command does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *map(str, arguments)])
        main()


def options(changes: Mapping[str, Any]) -> list[str]:
    """Fields and their values as options of a command line."""
    found = []
    for name, value in changes.items():
        *sections, last = name.replace("_", "-").split(".")
        if isinstance(value, bool):
            found.append(f"--{'.'.join([*sections, last if value else f'no-{last}'])}")
        else:
            found += [f"--{'.'.join([*sections, last])}", str(value)]
    return found


# ---------------------------------------------------------------------------------------------- what a run leaves


def outcome(run: TinyRun, stages: Iterable[str]) -> dict[str, Any]:
    """What these stages leave, by name: two runs can be compared item by item."""
    folder = run.folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    if "sft" in stages:
        for name in ("policy", "reward"):
            found[f"sft {name}"] = contents(folder / "sft" / name)
            found[f"sft {name} log"] = [line for line in lines if line["stage"] == f"sft-{name}"]
            found[f"sft {name} loss"] = summary[f"sft_{name}_loss"]
            found[f"sft {name} checkpoints"] = checkpoints(folder / "sft" / name)
        found["tokenizers"] = contents(folder / "tokenizers")
    if "rm" in stages:
        model = contents(folder / "rm")
        found["rm scale"] = model.pop("heads.safetensors")
        found["rm model"] = model
        found |= {"rm log": logged(lines, "rm", False), "rm validation": logged(lines, "rm", True)}
        found["rm checkpoints"] = checkpoints(folder / "rm")
        found["rm test"] = {key: value for key, value in summary.items() if key.startswith("rm_")}
    if "ppo" in stages:
        found["ppo policy"] = contents(folder / "ppo" / "policy")
        found |= {"ppo log": logged(lines, "ppo", False), "ppo validation": logged(lines, "ppo", True)}
        found["ppo samples"] = (folder / "samples.md").read_text(encoding="utf-8")
        kept = {key: summary[key] for key in ("before", "after", "prompts", "win_rate")}
        found["ppo test"] = [(folder / "ppo" / "answers.jsonl").read_bytes(), kept]
        found["ppo checkpoints"] = checkpoints(folder / "ppo")
    return found


def checkpoints(folder: Path) -> list[str]:
    """The names of those that were kept."""
    return sorted(path.name for path in folder.glob("step-*"))


def contents(folder: Path) -> dict[str, bytes]:
    """Models, tokenizers and answers: the files of a folder but for its checkpoints and what describes it."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    left_out = ("summary.json", "manifest.json")
    return {n: path.read_bytes() for n, path in files.items() if path.name not in left_out and "step-" not in n}


def evaluation(folder: Path, *options: str) -> SimpleNamespace:
    """What `python -m minippo evaluate` finds, not rounded: `summary`, and the answers `before` and `after`."""
    found = SimpleNamespace()

    figures = evaluate.answer_figures

    def noted(evaluator: Evaluator, answers: list[Answer], without: tuple[str, ...]) -> dict[str, Any]:
        if not without:  # sampled, not greedy
            found.summary = load_run(folder).summary() | evaluator.summary(answers)
            found.before, found.after = ([asdict(a) for a in each] for each in (evaluator.reference_answers, answers))
        return figures(evaluator, answers, without)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "answer_figures", noted)
        command(evaluate.main, "--run-dir", folder, "--device", "cpu", *options)
    return found


def logged(lines: list[dict[str, Any]], stage: str, evaluated: bool) -> list[dict[str, Any]]:
    """The figures of evaluations, or all others, with their steps."""
    chosen = [
        {k: v for k, v in line.items() if k == "step" or (k != "stage" and k.startswith("eval/") == evaluated)}
        for line in lines
        if line["stage"] == stage
    ]
    return [line for line in chosen if line.keys() - {"step"}]


def tokenizers_of(run: TinyRun) -> SimpleNamespace:
    from minippo.tokenizer import load_tokenizer

    names = ("policy", "reward")
    return SimpleNamespace(**{n: load_tokenizer(run.folder / "tokenizers" / f"{n}.tiktoken") for n in names})
