"""Stage 2: the reward model, from preference pairs and rankings.

python train_rm.py --config reviews
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import minippo  # noqa: F401 - before PyTorch: it sets how OpenMP's threads wait

# isort: split
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minippo.data import Comparison, Corpus, TokenGroups, comparison_rows, load_corpus, prompt_rows
from minippo.equations import ranking_loss
from minippo.errors import TrainingError, require_finite
from minippo.evaluation import calibration, calibration_error
from minippo.heads import RewardModel
from minippo.masking import pad
from minippo.optim import CPUAdamW, lr_schedule, param_groups, set_lr
from minippo.reviews import bayes_accuracy
from minippo.rollout import sample_responses
from minippo.runs import Metrics, Run, broken_run_exits, open_run, parse_options, print_report, wrong_input_exits
from minippo.scoring import score_tokens
from minippo.streams import generator, response_uniforms, seed_global
from minippo.tokenizer import Tokenizer, reward_tokens
from minippo.weights import load_actor_critic, load_pretrained, save_model


def comparison_batches(rows: TokenGroups, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """One epoch of batches of indices in random order; comparisons of one size and of like length share a batch."""
    order = torch.randperm(len(rows), generator=generator).numpy()
    batches = []
    for size in np.unique(rows.sizes):
        same = order[rows.sizes[order] == size]
        same = same[np.argsort(rows.longest[same], kind="stable")]
        batches += [same[start : start + batch_size] for start in range(0, len(same), batch_size)]
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[place].tolist()


def pairs_won(scores: Sequence[Sequence[float]]) -> float:
    """Share of the pairs in which the preferred one scores higher; a tie is no win. Each row's scores, best first."""
    won = [row[i] > row[j] for row in scores for i in range(len(row)) for j in range(i + 1, len(row))]
    return sum(won) / len(won)


def scores_of(model: RewardModel, rows: Sequence[list[list[int]]], pad_id: int) -> list[list[float]]:
    """The scores of held-out comparisons, of each completion."""
    model.eval()
    scores = iter(score_tokens(model, [ids for row in rows for ids in row], pad_id).tolist())
    return [[next(scores) for _ in row] for row in rows]


def score_differences(scores: Sequence[Sequence[float]]) -> Tensor:
    """Better minus worse, of every pair."""
    return torch.tensor([row[i] - row[j] for row in scores for i in range(len(row)) for j in range(i + 1, len(row))])


def make_reward_model(run: Run) -> RewardModel:
    """The warm-started backbone with a new head."""
    gpt = load_pretrained(run.earlier("sft") / "reward")
    seed_global(run.config.seed, "reward model: head and dropout")
    model = RewardModel(gpt)
    gpt.set_dropout(run.config.rm.dropout)
    return model.to(run.device)


def train(
    model: RewardModel,
    corpus: Corpus,
    rows: TokenGroups,
    validation_rows: Sequence[list[list[int]]],
    tokenizer: Tokenizer,
    run: Run,
) -> None:
    """Bradley-Terry training over the epochs, of which the first goes through `rows`; logs loss, training accuracy and
    validation accuracy."""
    config, context, seed = run.config.rm, model.gpt.config.context, run.config.seed
    optimizer = CPUAdamW(param_groups(model.parameters(), config.weight_decay), config.lr, (0.9, 0.99), 1e-8)
    metrics = Metrics(run.folder, "rm")
    steps_per_epoch = sum(1 for _ in comparison_batches(rows, config.batch_size, torch.Generator()))
    num_steps, step = config.epochs * steps_per_epoch, 0
    bar = tqdm(total=num_steps, desc="reward model", unit="step")
    for epoch in range(config.epochs):
        if epoch > 0:
            rows, *_ = comparison_rows(corpus.comparisons("train", epoch), tokenizer, context, run.config.data)
        hidden_tokens = generator(seed, "rm hidden tokens", epoch)
        for batch in comparison_batches(rows, config.batch_size, generator(seed, "rm batches", epoch)):
            if step == num_steps:
                break
            started = time.perf_counter()
            model.train()
            lr = config.lr * lr_schedule(config.schedule, step, num_steps, warmup=config.warmup)
            set_lr(optimizer, lr)
            optimizer.zero_grad(set_to_none=True)
            scores = score_batch(
                model, [rows[index] for index in batch], tokenizer.eos_id, config.token_dropout, hidden_tokens
            )  # (B, K)
            loss = ranking_loss(scores, config.margin, config.label_smoothing)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            require_finite(f"reward model: step {step + 1}", loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            step += 1
            bar.update()
            found = {
                "loss/rm": loss.item(),
                "rm/accuracy": pairs_won(scores.tolist()),
                "rm/grad_norm": grad_norm.item(),
                "lr": lr,
            }
            if step % config.eval_every == 0 or step == num_steps:
                found["eval/accuracy"] = pairs_won(scores_of(model, validation_rows, tokenizer.pad_id))
                bar.set_postfix(loss=f"{found['loss/rm']:.3f}", validation=f"{found['eval/accuracy']:.3f}")
            metrics.log(step, found, {"seconds": time.perf_counter() - started})
    bar.close()
    metrics.close()


def score_batch(
    model: RewardModel, rows: Sequence[list[list[int]]], eos_id: int, token_dropout: float, generator: torch.Generator
) -> Tensor:
    """Scores (B, K) of B comparisons of K completions each, from one forward pass.

    A hidden token is replaced by end-of-text, which no text contains; the last token, where the score is read, stays.
    """
    tokens, mask = pad([ids for row in rows for ids in row], eos_id, "right")
    hidden = torch.rand(tokens.shape, generator=generator) < token_dropout
    tokens = tokens.masked_fill(hidden, eos_id)
    device = model.score_head.weight.device
    return model(tokens.to(device), mask.to(device)).view(len(rows), -1)


def normalise_on_reference(model: RewardModel, queries: Sequence[list[int]], run: Run) -> None:
    """Set gain and bias so that the reference policy's samples have scores of mean 0 and variance 1."""
    config = run.config
    policy_tokenizer, reward_tokenizer = run.tokenizers()
    reference = load_actor_critic(run.stage("sft") / "policy").to(run.device).eval()
    model.eval()
    scores = []
    for start in range(0, len(queries), config.ppo.rollout_batch_size):
        indices = range(start, min(start + config.ppo.rollout_batch_size, len(queries)))
        uniforms = response_uniforms(config.seed, "normalisation", 0, indices, config.data.response_length)
        batch = sample_responses(
            reference, [queries[i] for i in indices], policy_tokenizer, uniforms=uniforms, config=config.ppo
        )
        rows = reward_tokens(reward_tokenizer, batch.prompt_texts, batch.response_texts, model.gpt.config.context)
        scores.append(score_tokens(model, rows, reward_tokenizer.pad_id))
    try:
        model.normalise(torch.cat(scores))
    except ValueError as error:  # nothing that the user has given: the training has failed
        raise TrainingError(str(error)) from None


@dataclass(frozen=True)
class Prepared:
    """What is read before the first step, and found to be in order."""

    corpus: Corpus
    rows: TokenGroups
    """The comparisons of the first epoch, in the reward model's tokens."""
    validation_rows: Sequence[list[list[int]]]
    """Those on which it is measured during training."""
    test: list[Comparison]
    """Those on which it is measured at the end; texts only if the corpus has a judge, which reads them."""
    test_rows: Sequence[list[list[int]]]
    queries: Sequence[list[int]]
    """The prompts on whose answers scores are normalised, in the policy's tokens."""
    report: dict[str, dict[str, int]]


def prepare(run: Run, model: RewardModel) -> Prepared:
    """Raises ValueError where the data cannot be used."""
    config, context = run.config, model.gpt.config.context
    policy_tokenizer, tokenizer = run.tokenizers()
    policy_tokenizer.end_ids(config.ppo.stop_token)
    corpus = load_corpus(config)
    rows, _, dropped = comparison_rows(corpus.comparisons("train"), tokenizer, context, config.data)
    validation_rows, _, dropped_validation = comparison_rows(
        corpus.comparisons("validation"), tokenizer, context, config.data
    )
    test = corpus.comparisons("test")
    test_rows, kept, dropped_test = comparison_rows(test, tokenizer, context, config.data)
    queries, prompt_report = prompt_rows(corpus.prompts, policy_tokenizer, config.data)
    count = config.rm.eval_comparisons
    dropped_by_split = {"train": dropped, "validation": dropped_validation, "test": dropped_test}
    report = {f"comparisons, {split}": counts for split, counts in dropped_by_split.items() if counts}
    return Prepared(
        corpus,
        rows,
        validation_rows[:count],
        [test[number] for number in kept[:count].tolist()] if corpus.judge else [],
        test_rows[:count],
        queries["train"][: config.rm.normalisation_samples],
        corpus.report | report | prompt_report,
    )


def main() -> None:
    """`python train_rm.py`."""
    options = parse_options(__doc__ or "")
    started = time.perf_counter()
    with wrong_input_exits():
        run = open_run(options, "rm")
        if run.is_finished("rm"):
            print(f"the reward model is there already: {run.stage('rm')}")
            return
        model = make_reward_model(run)
        data = prepare(run, model)
        run.begin("rm")
    print_report(data.report)
    with broken_run_exits():
        train_reward_model(run, model, data, started)


def train_reward_model(run: Run, model: RewardModel, data: Prepared, started: float) -> None:
    """Stage 2, which has `started` when the data was read."""
    _, tokenizer = run.tokenizers()
    if run.config.rm.normalise_before:
        normalise_on_reference(model, data.queries, run)
    train(model, data.corpus, data.rows, data.validation_rows, tokenizer, run)
    scores = scores_of(model, data.test_rows, tokenizer.pad_id)
    bins = calibration(score_differences(scores))  # of the scores that the loss has shaped, before they are scaled
    normalise_on_reference(model, data.queries, run)
    judge = data.corpus.judge
    golds = [[judge.gold_score(c.prompt, text) for text in c.ranked] for c in data.test] if judge else []
    found = {
        "rm_accuracy": pairs_won(scores),
        "rm_calibration": [b._asdict() for b in bins],
        "rm_calibration_error": calibration_error(bins),
        "rm_accuracy_limit": bayes_accuracy(golds).measured if golds else None,
    }
    save_model(model, run.unfinished("rm"))
    run.add_to_summary("rm", time.perf_counter() - started, data.report, **found)
    run.finish("rm")
    limit = found["rm_accuracy_limit"]
    best = f", best possible {limit:.3f}" if limit is not None else ""
    print(f"held-out accuracy {found['rm_accuracy']:.3f}{best}; calibration error {found['rm_calibration_error']:.3f}")


if __name__ == "__main__":
    main()
