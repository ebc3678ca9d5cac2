"""Stage 2: the reward model, from preference pairs and rankings, or from texts with labels.

    python train_rm.py                                      # the bundled reviews, in runs/reviews
    python train_rm.py --config imdb --run-dir runs/imdb    # another preset, or a YAML file
    python train_rm.py --rm.lr 1e-3 --run-dir runs/rm-2 --init-from runs/reviews  # another reward model, same stage 1

The backbone of stage 1 gets a head that reads one score at the end of a text, and learns to score preferred completions
higher (Bradley-Terry). Then gain and bias are set so that the reference policy's samples have mean 0 and variance 1.
With `--rm.objective labels` it learns to classify single texts, and its score is the probability of "preferred".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import minippo  # noqa: F401 - before PyTorch, because it configures how OpenMP threads wait

# isort: split
import numpy as np
import torch
from torch import Tensor

from minippo.answers import Judge
from minippo.batches import EpochStream, comparison_batches
from minippo.data import Comparison, Corpus, TokenGroups, comparison_rows, load_corpus, prompt_rows
from minippo.equations import label_loss, ranking_loss
from minippo.errors import TrainingError, require_finite
from minippo.heads import RewardModel
from minippo.masking import pad
from minippo.memory import phase
from minippo.optim import lr_schedule, set_lr
from minippo.reward_evaluation import (
    calibration,
    calibration_error,
    comparison_scores,
    label_comparisons,
    pairwise_accuracy,
    score_differences,
)
from minippo.rollout import sample_responses
from minippo.runs import (
    Checkpoints,
    Metrics,
    Run,
    due,
    load_reference,
    resumed_line,
    reward_model_line,
    run_stage,
    sampling_params,
)
from minippo.scoring import rows_in_context, score_tokens
from minippo.state import TrainState
from minippo.streams import generator, response_uniforms, seed_global
from minippo.weights import load_pretrained, save_model


@dataclass(frozen=True)
class Inputs:
    """Inputs, loaded and validated before training."""

    model: RewardModel
    corpus: Corpus
    rows: TokenGroups  # training comparisons of the first epoch, in the reward model's tokens
    validation_rows: Sequence[list[list[int]]]  # for the accuracy during training
    test: list[Comparison]  # for the accuracy at the end; texts only if the corpus has a judge, which reads them
    test_rows: Sequence[list[list[int]]]
    queries: Sequence[list[int]]  # prompts of the samples that normalise the scores, in the policy's tokens
    data: str  # fingerprint of the corpus
    report: dict[str, dict[str, int]]


def prepare(run: Run) -> Inputs:
    """Create the model and load the data. Raises ValueError if the run cannot work; nothing has been written yet."""
    config = run.config
    policy_tokenizer, tokenizer = run.tokenizers()
    sampling_params(config, policy_tokenizer)  # raises if the stop token is not one token
    model = make_reward_model(run)
    corpus = load_corpus(config)
    report, context, count = dict(corpus.report), model.gpt.config.context, config.rm.eval_comparisons
    rows, _, dropped_train = comparison_rows(corpus.comparisons("train"), tokenizer, context, config.data)
    validation = corpus.comparisons("validation")
    validation_rows, _, dropped_validation = comparison_rows(validation, tokenizer, context, config.data)
    test = corpus.comparisons("test")
    test_rows, kept, dropped_test = comparison_rows(test, tokenizer, context, config.data)
    for split, dropped in {"train": dropped_train, "validation": dropped_validation, "test": dropped_test}.items():
        if dropped:
            report[f"comparisons, {split}"] = dropped
    queries, prompt_report = prompt_rows(corpus.prompts, policy_tokenizer, config.data)
    Checkpoints(run.checkpoints_folder("rm"), corpus.fingerprint).check_latest()
    return Inputs(
        model,
        corpus,
        rows,
        validation_rows[:count],
        [test[index] for index in kept[:count].tolist()] if corpus.judge else [],
        test_rows[:count],
        # Fewer prompts than samples are asked several times; every sample has random numbers of its own.
        list(islice(cycle(queries["train"]), config.rm.normalisation_samples)),
        corpus.fingerprint,
        report | prompt_report,
    )


def make_reward_model(run: Run) -> RewardModel:
    """The warm-started backbone with a new head."""
    gpt = load_pretrained(run.earlier("sft") / "reward", run.dtype("reward"))
    seed_global(run.config.seed, "reward model: head and dropout")  # dropout has its own stream; the name stays
    model = RewardModel(gpt)
    gpt.set_dropout(run.config.rm.dropout)
    return model.to(run.device)


def train(run: Run, inputs: Inputs) -> dict[str, object]:
    """Train and measure the reward model, and set the scale of its scores. Returns the entries of summary.json."""
    model, judge, config = inputs.model, inputs.corpus.judge, run.config.rm
    train_on_comparisons(run, inputs)
    # Before normalisation or the step to probabilities, because the loss is about these scores.
    scores = comparison_scores(model, inputs.test_rows, run.tokenizers()[1].pad_id)
    entries: dict[str, object] = {"rm_accuracy": pairwise_accuracy(scores)}
    if config.objective == "labels":
        scores = label_comparisons(scores)
        entries["rm_label_accuracy"] = pairwise_accuracy(scores)
        model.to_probability()
    else:
        entries |= {"rm_training_gain": model.gain.item()} if config.normalise_before else {}
        cut = normalise_on_reference(model, inputs.queries, run)
        entries |= {"rm_samples_cut": cut} if cut else {}
    save_model(model, run.results_folder("rm"))
    bins = calibration(score_differences(scores))
    return entries | {
        "rm_calibration": [b._asdict() for b in bins],
        "rm_calibration_error": calibration_error(bins),
        "rm_accuracy_limit": accuracy_limit(inputs.test, judge) if judge else None,
    }


def accuracy_limit(comparisons: Sequence[Comparison], judge: Judge) -> float:
    """What the annotators' own gold score achieves on their noisy labels: no model can be expected to do better."""
    return pairwise_accuracy([[judge.gold_score(c.prompt, text) for text in c.ranked] for c in comparisons])


def train_on_comparisons(run: Run, inputs: Inputs) -> None:
    """Training from the last checkpoint; logs the loss and the accuracy on the batch and on the validation
    comparisons."""
    config, seed, model = run.config.rm, run.config.seed, inputs.model
    _, tokenizer = run.tokenizers()
    batches = EpochStream(lambda epoch: epoch_batches(run, inputs, epoch))
    state = TrainState.initial(model, batches, config, seed, run.config.memory, config.averaging)
    num_steps = config.epochs * sum(1 for _ in epoch_batches(run, inputs, 0))
    checkpoints = Checkpoints(run.unfinished("rm"), inputs.data)
    if checkpoints.restore_latest(state):
        print(resumed_line(state, config, num_steps))
    elif config.normalise_before:
        normalise_on_reference(model, inputs.queries, run)
    metrics, optimizer = Metrics(run, "rm", start=state.step), state.optimizer
    for step in metrics.progress(state.step + 1, num_steps):
        groups = next(state.batches)
        # A step draws from streams of its own, so that a resumed run draws the same.
        seed_global(seed, "rm dropout", step)
        hidden_tokens = generator(seed, "rm hidden tokens", step)
        with metrics.timer("step"), phase("training step"):
            model.train()
            lr = config.lr * lr_schedule(config.schedule, step - 1, num_steps, warmup=config.warmup)
            set_lr(optimizer, lr)
            scores = score_batch(model, groups, tokenizer.eos_id, config.token_dropout, hidden_tokens)  # (B, K)
            if config.objective == "labels":
                loss = label_loss(scores, config.label_smoothing)
            else:
                loss = ranking_loss(scores, config.margin, config.label_smoothing)
            loss.backward()
            grad_norm = optimizer.clip_gradients(config.max_grad_norm)
            stats = {
                "loss/rm": loss.item(),
                "rm/accuracy": pairwise_accuracy(scores.tolist()),
                "rm/grad_norm": grad_norm,
                "lr": lr,
            }
            require_finite(stats)
            optimizer.step()
            optimizer.zero_grad()
        state.step = step
        if due(step, config.eval_every, num_steps):
            optimizer.swap_averages()
            held_out = comparison_scores(model, inputs.validation_rows, tokenizer.pad_id)
            stats["eval/accuracy"] = pairwise_accuracy(held_out)
            optimizer.swap_averages()
        metrics.log(step, stats)
        if checkpoints.due(step, config.save_every, num_steps):
            checkpoints.save(state)
    optimizer.swap_averages()
    metrics.close()


def epoch_batches(run: Run, inputs: Inputs, epoch: int) -> Iterator[list[list[list[int]]]]:
    """The batches of an epoch: for each comparison, the rows of token ids of its completions, best first."""
    rows, context, config = inputs.rows, inputs.model.gpt.config.context, run.config
    # Corpora without pairs of their own pair their texts anew in every epoch; a fraction of the pairs stays the same.
    if epoch > 0 and config.rm.fraction == 1:
        rows, *_ = comparison_rows(inputs.corpus.comparisons("train", epoch), run.tokenizers()[1], context, config.data)
    rows = rows[chosen_comparisons(len(rows), config.rm.fraction, config.seed)]
    order = generator(config.seed, "rm batches", epoch)
    for batch in comparison_batches(rows.sizes, rows.longest, config.rm.batch_size, order):
        yield [rows[index] for index in batch]


def chosen_comparisons(count: int, fraction: float, seed: int) -> np.ndarray:
    """Indices of the comparisons to train on, in increasing order: a fraction of `count`, at least one."""
    order = torch.randperm(count, generator=generator(seed, "rm fraction")).numpy()  # (count,)
    return np.sort(order[: max(1, round(fraction * count))])  # the beginning of one order: subsets contain each other


def score_batch(
    model: RewardModel, rows: Sequence[list[list[int]]], eos_id: int, token_dropout: float, generator: torch.Generator
) -> Tensor:
    """Scores (B, K) of B comparisons with K completions each, from one forward pass.

    Hidden tokens are replaced by end-of-text, which occurs in no text; the last token, where the score is read, is
    end-of-text already.
    """
    tokens, mask = pad([ids for row in rows for ids in row], eos_id, "right")  # (B * K, S)
    hidden = torch.rand(tokens.shape, generator=generator) < token_dropout
    tokens = tokens.masked_fill(hidden, eos_id)
    device = model.score_head.weight.device
    return model(tokens.to(device), mask.to(device)).view(len(rows), -1)


@phase("normalisation")
def normalise_on_reference(model: RewardModel, queries: Sequence[list[int]], run: Run) -> int:
    """Set gain and bias so that the reference policy's samples have scores of mean 0 and variance 1.

    Returns the number of samples that are longer than the reward model's context and were scored without their end.
    """
    config = run.config
    policy_tokenizer, reward_tokenizer = run.tokenizers()
    sampling = sampling_params(config, policy_tokenizer)
    reference = load_reference(run)
    model.eval()
    scores, cut = [], 0
    for start in range(0, len(queries), config.ppo.rollout_batch_size):
        indices = range(start, min(start + config.ppo.rollout_batch_size, len(queries)))
        uniforms = response_uniforms(config.seed, "normalisation", 0, indices, sampling.max_new_tokens)
        batch = sample_responses(reference, [queries[i] for i in indices], policy_tokenizer, sampling, uniforms)
        rows, longer = rows_in_context(model, reward_tokenizer, batch.prompt_texts, batch.response_texts)
        cut += len(longer)
        scores.append(score_tokens(model, rows, reward_tokenizer.pad_id))
    try:
        model.normalise(torch.cat(scores))
    except ValueError as error:  # the training has failed; the user's input is not wrong
        raise TrainingError(str(error)) from None
    return cut


def main() -> None:
    """`python train_rm.py`."""
    run_stage("rm", __doc__, prepare, train, show=reward_model_line)


if __name__ == "__main__":
    main()
