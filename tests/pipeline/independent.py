"""A second implementation of what a run trains and what it reports, for the tests to compare the product with.

Nothing of `minippo` is imported except the gold score and the grammar, which belong to the bundled corpus and not to
the method. Models and tokenizers are those of `transformers`, the optimizer is `torch.optim.AdamW`, and all of it is
computed in float64. Prompts, responses and texts are lists of ids, and what belongs to the tokens of a response is one
tensor per response, so there are no masks and no padding outside `padded`. Slow and short, where minippo is fast.
"""

from __future__ import annotations

import bz2
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import combinations, count, islice
from pathlib import Path
from types import SimpleNamespace as Settings

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from minippo.reviews import gold_score, is_grammatical

Ids = list[int]
DATA = Path(__file__).resolve().parents[2] / "data"
SPLITS = ("train", "validation", "test")


def settings_of(run: Path) -> Settings:
    """The run's config.yaml, as `settings.ppo.lr`."""
    loaded = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return json.loads(json.dumps(loaded), object_hook=lambda section: Settings(**section))


# ---------------------------------------------------------------------------------------------- random streams


def stream_key(seed: int, name: str, *position: int) -> int:
    digest = hashlib.blake2b(repr((seed, name, position)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, name: str, *position: int) -> torch.Generator:
    return torch.Generator().manual_seed(stream_key(seed, name, *position) % 2**64)


def uniforms(seed: int, name: str, step: int, indices: Sequence[int], length: int) -> list[np.ndarray]:
    """The numbers in [0, 1) that choose the tokens of each response."""
    keys = [stream_key(seed, name, step, index) for index in indices]
    return [np.random.Generator(np.random.Philox(key=key)).random(length) for key in keys]


# ---------------------------------------------------------------------------------------------- data


def shorten(folder: Path, number: int) -> None:
    """Write the first rows of each file of the bundled corpus into a folder of their own: they are read faster."""
    folder.mkdir()
    for path in DATA.glob("*.bz2"):
        with bz2.open(path, "rt", encoding="utf-8") as file:
            (folder / path.name).write_bytes(bz2.compress("".join(islice(file, number)).encode()))


def read(settings: Settings, name: str, limited: bool = False) -> list[dict]:
    """A file of the corpus, or as much of it as `data.limit` allows."""
    with bz2.open(Path(settings.data.folder) / f"{name}.jsonl.bz2", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return rows[: settings.data.limit or None] if limited else rows


def demonstrations(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """Prompt and completion by split: the first hundredth is the test split, the next one the validation split."""
    texts = [(row["prompt"], row["completion"]) for row in read(settings, "demonstrations", limited=True)]
    n = max(1, len(texts) // 100)
    return {"test": texts[:n], "validation": texts[n : 2 * n], "train": texts[2 * n :]}


def comparisons(settings: Settings, split: str) -> list[tuple[str, list[str]]]:
    """Prompts and their completions, best first: the pairs, then the rankings."""
    pairs, rankings = (read(settings, f"{kind}-{split}", limited=True) for kind in ("preferences", "rankings"))
    pairs = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in pairs]
    return pairs + [(row["prompt"], row["ranked"]) for row in rankings]


def prompts(settings: Settings, tokenizer: Tokenizer) -> dict[str, list[Ids]]:
    """By split, those of at most `query_length` ids; none occurs twice, nor in two splits."""
    seen: set[tuple[int, ...]] = set()
    kept: dict[str, list[Ids]] = {}
    for split in ("test", "validation", "train"):
        rows = [tokenizer.ids(row["prompt"]) for row in read(settings, f"prompts-{split}")]
        rows = list({tuple(ids): ids for ids in rows if len(ids) <= settings.data.query_length}.values())
        kept[split] = [ids for ids in rows if tuple(ids) not in seen]
        seen |= set(map(tuple, rows))
    return kept


class Answered(list):
    """Ids that begin with a prompt, which is not to be predicted."""

    def __init__(self, prompt: Ids, answer: Ids) -> None:
        super().__init__(prompt + answer)
        self.prompt = prompt
        self.first_predicted = max(1, len(prompt))  # nothing predicts the first id of a text

    def piece(self, start: int, end: int) -> Answered:
        prompt = self.prompt[start:end]
        return Answered(prompt, self[start + len(prompt) : end])


def demonstration_ids(tokenizer: Tokenizer, name: str, prompt: str, completion: str) -> Answered:
    """A demonstration as a model reads it: the policy its two parts apart, of which it predicts the second; the reward
    model one text."""
    apart = (prompt, completion) if name == "policy" else ("", prompt + completion)
    return Answered(tokenizer.ids(apart[0]), [*tokenizer.ids(apart[1]), tokenizer.end])


def windows(rows: list[Answered], length: int) -> list[Answered]:
    """The rows in pieces of at most `length` ids, of which at least one is predicted."""
    pieces = [ids.piece(start, start + length) for ids in rows for start in range(0, len(ids), length)]
    return [piece for piece in pieces if len(piece) > piece.first_predicted]


def drawn(rows: list[Ids], seed: int, name: str) -> Iterator[Ids]:
    """The rows for ever, each epoch in an order of its own."""
    for epoch in count():
        for index in torch.randperm(len(rows), generator=generator(seed, name, epoch)).tolist():
            yield rows[index]


def padded(rows: Sequence[Ids], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (B, T), padded on the right."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


# ---------------------------------------------------------------------------------------------- models


class Tokenizer:
    """An exported tokenizer, without special tokens except at the end."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.end, self.pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id

    def ids(self, text: str) -> Ids:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def text(self, ids: Ids) -> str:
        return self.tokenizer.decode([i for i in ids if i != self.end])

    def ends(self, stop_token: str) -> Ids:
        """The ids at which a response ends."""
        return [self.end, *self.ids(stop_token)]


class Policy(nn.Module):
    """A language model, and the value head of minippo if its folder has one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.context = self.model.config.n_positions
        if (folder / "heads.safetensors").is_file():
            heads = load_file(folder / "heads.safetensors")
            if not heads:
                return
            C = self.model.config.n_embd
            mlp = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, 1))
            self.value_head = nn.Linear(C, 1) if "value_head.weight" in heads else mlp
            self.value_head.load_state_dict({name.removeprefix("value_head."): head for name, head in heads.items()})
            self.value_head.double()

    def hidden(self, rows: Sequence[Ids]) -> Tensor:
        """(B, T, C); what a pad stands at means nothing."""
        ids, mask = padded(rows, 0)
        return self.model.transformer(ids, attention_mask=mask).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden)


class RewardModel(nn.Module):
    """An exported reward model and its tokenizer; the score is gain * logit + bias."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
        self.context, self.pad, self.tokenizer = self.model.config.n_positions, None, Tokenizer(folder)
        heads = load_file(folder / "heads.safetensors")
        self.gain, self.bias = float(heads["gain"]), float(heads["bias"])

    def rows(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Ids]:
        """What the model reads: prompt, response and its end-of-text."""
        texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return [[*self.tokenizer.ids(text)[: self.context - 1], self.tokenizer.end] for text in texts]

    def forward(self, rows: Sequence[Ids]) -> Tensor:
        """Logits, (B,): the scores before gain and bias."""
        ids, mask = padded(rows, self.model.config.pad_token_id)
        return self.model(ids, attention_mask=mask).logits.squeeze(1)

    @torch.no_grad()
    def scores(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        return self.gain * self(self.rows(prompts, responses)) + self.bias


@torch.no_grad()
def sample_responses(
    policy: Policy, queries: list[Ids], draws: list[np.ndarray], settings: Settings, ends: Ids
) -> list[Ids]:
    """Sample a response to each query, by inversion of the distribution: `draws` has a number for each token.

    The product does so with probabilities in float32, whose cumulative sums are off by up to about 1e-6. So often a
    token may be another one than here: about once in a million.
    """
    rows = [list(query) for query in queries]
    going = list(range(len(rows)))
    for step in range(settings.data.response_length):
        hidden = policy.hidden([rows[i] for i in going])
        for place, i in enumerate(going):
            logits = policy.logits(hidden[place, len(rows[i]) - 1])
            if step < settings.ppo.min_new_tokens:
                logits[ends] = -math.inf
            cumulative = torch.softmax(logits / settings.ppo.temperature, dim=-1).cumsum(dim=-1).numpy()
            rows[i].append(int(np.searchsorted(cumulative, draws[i][step] * cumulative[-1], side="right")))
        going = [i for i in going if rows[i][-1] not in ends]
        if not going:
            break
    return [row[len(query) :] for row, query in zip(rows, queries, strict=True)]


def judge(
    policy: Policy, queries: list[Ids], responses: list[Ids], settings: Settings, ends: Ids, values: bool = False
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Log-probabilities and entropies of the distributions that the tokens were drawn from, and values before them:
    for each response a tensor of its length."""
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    hidden = policy.hidden([query + response for query, response in zip(queries, responses, strict=True)])
    for row, query, response in zip(hidden, queries, responses, strict=True):
        before = row[len(query) - 1 : len(query) + len(response) - 1]  # the state before a token chose it
        logprobs = distributions(policy, before, settings, ends)
        found[0].append(logprobs[range(len(response)), response])
        found[1].append(-(logprobs.exp() * logprobs.clamp(min=-1e9)).sum(dim=-1))
        found[2].append(policy.value_head(before).squeeze(-1) if values else torch.zeros(len(response)))
    return found


def distributions(policy: Policy, before: Tensor, settings: Settings, ends: Ids) -> Tensor:
    """Log-probabilities of all tokens, -inf for those that cannot be drawn, from the states before the tokens."""
    logits = policy.logits(before) / settings.ppo.temperature
    forbidden = torch.zeros(logits.shape, dtype=torch.bool)
    forbidden[: settings.ppo.min_new_tokens, ends] = True
    return logits.masked_fill(forbidden, -math.inf).log_softmax(dim=-1)


# ---------------------------------------------------------------------------------------------- results


def answers(
    policy: Policy, reference: Policy, scorer: RewardModel, queries: list[Ids], draws: list[np.ndarray],
    settings: Settings, tokenizer: Tokenizer,
) -> list[dict]:  # fmt: skip
    """What the policy answers, as in answers.jsonl."""
    ends = tokenizer.ends(settings.ppo.stop_token)
    responses = sample_responses(policy, queries, draws, settings, ends)
    ours, theirs, exact = [], [], []
    with torch.no_grad():
        for query, response in zip(queries, responses, strict=True):
            states = (model.hidden([query + response])[0][len(query) - 1 : -1] for model in (policy, reference))
            p, q = (distributions(m, x, settings, ends) for m, x in zip((policy, reference), states, strict=True))
            ours.append(p[range(len(response)), response])
            theirs.append(q[range(len(response)), response])
            exact.append(F.kl_div(q.clamp(min=-1e9), p.clamp(min=-1e9), reduction="sum", log_target=True))
    texts = [[tokenizer.text(ids) for ids in rows] for rows in (queries, responses)]
    columns = {
        "prompt": texts[0],
        "response": texts[1],
        "score": scorer.scores(*texts).tolist(),
        "kl": [float((p - q).sum()) for p, q in zip(ours, theirs, strict=True)],
        "length": [len(ids) for ids in responses],
        "ended": [ids[-1] in ends for ids in responses],
        "exact_kl": [float(kl) for kl in exact],
        "ref_logprob": [float(q.sum()) for q in theirs],
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def gold(answer: dict) -> float:
    return gold_score(answer["prompt"], answer["response"])


def figures(rows: list[dict]) -> dict[str, float]:
    """The means that summary.json and the eval/ metrics hold."""
    words = [row["response"].split() for row in rows]

    def grams(text: list[str], n: int) -> list[tuple[str, ...]]:
        return list(zip(*(text[i:] for i in range(n)), strict=False))

    def different(grams: list[tuple[str, ...]]) -> float:
        return len(set(grams)) / max(1, len(grams))

    ended = [re.split(r"(?<=[.!?])(?![.!?])", row["response"]) for row in rows]
    sentences = [sentence.strip() for row in ended for sentence in row if sentence.strip()]
    columns = {
        "score": [row["score"] for row in rows],
        "kl": [row["kl"] for row in rows],
        "exact_kl": [row["exact_kl"] for row in rows],
        "repetition": [1 - different(grams(text, 4)) if len(text) > 3 else 0 for text in words],
        "eos_rate": [row["ended"] for row in rows],
        "response_length": [row["length"] for row in rows],
        "gold": [gold(row) > 0 for row in rows],
        "gold_score": [gold(row) for row in rows],
        "grammatical": [is_grammatical(sentence) for sentence in sentences],
    }
    means = {name: float(np.mean(column)) for name, column in columns.items()}
    means |= {f"distinct_{n}": different([gram for text in words for gram in grams(text, n)]) for n in (1, 2, 3)}
    nats, tokens = (sum(row[name] for row in rows) for name in ("ref_logprob", "length"))
    return means | {"perplexity": math.exp(-nats / tokens)}


def win_rate(ours: list[dict], theirs: list[dict]) -> float:
    """Share of the prompts where our answer has the higher gold score, ties half."""
    return float(np.mean([0.5 + 0.5 * np.sign(gold(a) - gold(b)) for a, b in zip(ours, theirs, strict=True)]))


def pairs(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """Differences better minus worse of all pairs in the comparisons, whose scores come best first."""
    return np.array([better - worse for row in scores for better, worse in combinations(row, 2)])


def calibration(differences: np.ndarray) -> list[dict]:
    """Confidence, accuracy and count in five bins from 0.5 to 1."""
    confidence, right = 1 / (1 + np.exp(-abs(differences))), 0.5 + 0.5 * np.sign(differences)
    place = np.minimum(4, np.floor(10 * (confidence - 0.5)))
    chosen = [place == index for index in range(5) if (place == index).any()]
    means = [(confidence[rows].mean(), right[rows].mean(), rows.sum()) for rows in chosen]
    return [dict(zip(("confidence", "accuracy", "count"), row, strict=True)) for row in means]


def calibration_error(bins: list[dict]) -> float:
    """Mean distance of accuracy from confidence."""
    return sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / sum(b["count"] for b in bins)


def compared(model: RewardModel, texts: list[tuple[str, list[str]]]) -> tuple[list[list[Ids]], list[int]]:
    """Comparisons as the reward model reads them and their numbers, without those that exceed its context."""
    whole = [[[*model.tokenizer.ids(p + text), model.tokenizer.end] for text in ranked] for p, ranked in texts]
    kept = [number for number, row in enumerate(whole) if max(map(len, row)) <= model.context]
    return [whole[number] for number in kept], kept


@torch.no_grad()
def compared_scores(model: RewardModel, rows: list[list[Ids]]) -> list[list[float]]:
    """gain * logit + bias of each completion of each comparison."""
    scores = iter((model.gain * model([ids for row in rows for ids in row]) + model.bias).tolist())
    return [list(islice(scores, len(row))) for row in rows]


def language_model_loss(policy: Policy, rows: list[Answered]) -> Tensor:
    """Nats per predicted token, ()."""
    losses = []
    for x, ids in zip(policy.hidden(rows), rows, strict=True):
        logits = policy.logits(x[ids.first_predicted - 1 : len(ids) - 1])
        losses.append(F.cross_entropy(logits, torch.tensor(ids[ids.first_predicted :]), reduction="none"))
    return torch.cat(losses).mean()


# ---------------------------------------------------------------------------------------------- a run


class FinishedRun:
    """The files of a run of three stages, of its export, and what it printed."""

    def __init__(self, folder: Path, exported: Path, printed: str) -> None:
        self.folder, self.printed, self.settings = folder, printed, settings_of(folder)
        self.summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        self.answers = self._lines("ppo/answers.jsonl")
        self.policy, self.reference = Policy(exported / "policy"), Policy(exported / "reference")
        self.scorer, self.tokenizer = RewardModel(exported / "reward_model"), Tokenizer(exported / "policy")
        self.queries = prompts(self.settings, self.tokenizer)

    def _lines(self, name: str) -> list[dict]:
        with (self.folder / name).open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def metrics(self, stage: str) -> list[dict]:
        """The lines of a stage in metrics.jsonl."""
        return [line for line in self._lines("metrics.jsonl") if line["stage"] == stage]

    def answered(self, policy: Policy, split: str, number: int, stream: str = "") -> list[dict]:
        """What a model answers to the first prompts of a split; the draws are by default those of its evaluation."""
        queries, settings = self.queries[split][:number], self.settings
        name = stream or f"{split} answers"
        draws = uniforms(settings.seed, name, 0, range(len(queries)), settings.data.response_length)
        return answers(policy, self.reference, self.scorer, queries, draws, settings, self.tokenizer)

    def normalisation_scores(self, model: Policy, split: str = "train", stream: str = "normalisation") -> np.ndarray:
        """Scores of the answers on which scores are normalised."""
        rows = self.answered(model, split, self.settings.rm.normalisation_samples, stream)
        return np.array([row["score"] for row in rows])

    def logits(self, split: str) -> list[list[float]]:
        """Of the comparisons on which a split's accuracy is measured."""
        rows, _ = compared(self.scorer, comparisons(self.settings, split))
        scores = compared_scores(self.scorer, rows[: self.settings.rm.eval_comparisons])
        return [[(score - self.scorer.bias) / self.scorer.gain for score in row] for row in scores]

    def accuracy_limit(self, split: str) -> float:
        """Accuracy of the gold score on the same comparisons."""
        texts = comparisons(self.settings, split)
        _, kept = compared(self.scorer, texts)
        kept = kept[: self.settings.rm.eval_comparisons]
        return float((pairs([[gold_score(texts[i][0], text) for text in texts[i][1]] for i in kept]) > 0).mean())

    def language_model_loss(self, name: str, split: str, model: Policy | None = None) -> float:
        """Of the "policy" or the "reward" model after stage 1, on a split of the demonstrations."""
        tokenizer = self.tokenizer if name == "policy" else self.scorer.tokenizer
        model = model or (self.reference if name == "policy" else Policy(self.folder / "sft" / "reward"))
        rows = [demonstration_ids(tokenizer, name, *texts) for texts in demonstrations(self.settings)[split]]
        with torch.no_grad():
            return float(language_model_loss(model, windows(rows, model.context)))
