"""Reward-model training: what it reads, what it counts, and that it can learn at all."""

from __future__ import annotations

import itertools
import math
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train_rm
from minippo.batches import comparison_batches
from minippo.config import Config, DataConfig, PPOConfig, RMConfig
from minippo.data import Comparison, comparison_rows, prompt_rows
from minippo.equations import ranking_loss
from minippo.heads import RewardModel
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW
from minippo.reward_evaluation import comparison_scores, pairwise_accuracy, score_differences
from minippo.runs import Checkpoints, Run, read_metrics
from minippo.scoring import RewardScorer
from minippo.weights import save_model, save_pretrained
from tests.in_memory import texts_of
from tests.stored import sealed_stage
from train_rm import accuracy_limit, chosen_comparisons, normalise_on_reference, score_batch

PAIRS = [Comparison(f"Film {i}:", (f" lovely scene {i}", f" dull mess {i}")) for i in range(6)]
RANKINGS = [Comparison(f"Film {i}:", (f" gripping {i}", f" so so {i}", f" sorry mess, the end {i}")) for i in range(4)]


def tokenise(comparisons, tokenizer, context, whole=True):
    """What training reads of these, whatever it was asked for before."""
    found, *_ = comparison_rows(texts_of(comparisons, repr(comparisons), whole), tokenizer, context, DataConfig())
    return found


@pytest.fixture
def reward_model(tokenizer):
    torch.manual_seed(0)
    return RewardModel(GPT(GPTConfig(tokenizer.vocab_size, 64, layers=1, heads=2, channels=16)))


def plain_scores(model, rows, tokenizer):
    return score_batch(model, rows, tokenizer.eos_id, 0.0, torch.Generator())


def test_comparisons_are_read_as_scoring_reads_them(tokenizer, reward_model):
    comparisons = [*PAIRS, *RANKINGS]
    rows = tokenise(comparisons, tokenizer, context=64)
    assert [len(row) for row in rows] == [len(c.ranked) for c in comparisons]
    for comparison, row in zip(comparisons, rows, strict=True):
        for completion, ids in zip(comparison.ranked, row, strict=True):
            assert ids == [*tokenizer.encode(comparison.prompt + completion), tokenizer.eos_id]
    scorer = RewardScorer(reward_model, tokenizer)
    for comparison, row in zip(comparisons, rows, strict=True):
        expected = scorer([comparison.prompt] * len(row), list(comparison.ranked))
        torch.testing.assert_close(plain_scores(reward_model, [row], tokenizer)[0], expected, rtol=0, atol=1e-5)


def test_crops_beyond_the_context_are_cut_at_their_end_and_still_end(tokenizer):
    (row,) = tokenise(PAIRS[:1], tokenizer, context=5, whole=False)
    for completion, ids in zip(PAIRS[0].ranked, row, strict=True):
        assert ids == [*tokenizer.encode(PAIRS[0].prompt + completion)[:4], tokenizer.eos_id]


@pytest.mark.parametrize("again", [False, True])  # from the cache
def test_cut_crops_are_counted_and_those_that_just_fit_are_not(tokenizer, again):
    lengths = [max(len(tokenizer.encode(c.prompt + text)) + 1 for text in c.ranked) for c in PAIRS + RANKINGS]
    for context in sorted({*lengths, min(lengths) - 1}):
        texts = texts_of(PAIRS + RANKINGS, "crops", False)
        _, kept, report = comparison_rows(texts, tokenizer, context, DataConfig())
        assert len(kept) == len(lengths)
        longer = sum(length > context for length in lengths)
        assert report == ({"rows": 10, "cut: longer than the reward model's context": longer} if longer else {})


def test_each_score_of_a_batch_is_the_one_its_text_gets_alone(tokenizer, reward_model):
    rows = tokenise(RANKINGS, tokenizer, context=64)
    with torch.no_grad():
        together = plain_scores(reward_model, rows, tokenizer)
        for row, scores in zip(rows, together, strict=True):
            alone = [reward_model(torch.tensor([ids])).item() for ids in row]
            assert scores.tolist() == pytest.approx(alone, abs=1e-5)


def test_hidden_tokens_become_end_of_text_while_the_last_one_stays(tokenizer):
    seen = []

    class Spy(torch.nn.Module):
        score_head = torch.nn.Linear(1, 1)

        def forward(self, tokens, mask):
            seen.append((tokens, mask))
            return torch.zeros(len(tokens))

    rows = tokenise(RANKINGS, tokenizer, context=64)
    flat = list(itertools.chain(*rows))
    for share in (0.0, 0.5, 1.0):
        score_batch(Spy(), rows, tokenizer.eos_id, share, torch.Generator().manual_seed(0))
        tokens, mask = seen[-1]
        changed = total = 0
        for ids, given_ids, real in zip(flat, tokens, mask, strict=True):
            shown = given_ids[real].tolist()
            assert len(shown) == len(ids)
            assert shown[-1] == tokenizer.eos_id
            assert all(a in (b, tokenizer.eos_id) for a, b in zip(shown, ids, strict=True))
            changed += sum(a != b for a, b in zip(shown, ids, strict=True))
            total += len(ids) - 1
        assert changed / total == pytest.approx(share, abs=0.15)


@given(sizes=st.lists(st.integers(2, 4), min_size=1, max_size=30), batch_size=st.integers(1, 8), seed=st.integers(0, 9))
def test_batches_cover_every_comparison_once_and_never_mix_sizes(token_groups, sizes, batch_size, seed):
    rows = [[[0] * (1 + (7 * place + index) % 5) for index in range(size)] for place, size in enumerate(sizes)]
    rows = token_groups(rows)
    batches = list(comparison_batches(rows.sizes, rows.longest, batch_size, torch.Generator().manual_seed(seed)))
    assert Counter(itertools.chain(*batches)) == Counter(range(len(rows)))
    for batch in batches:
        assert len({len(rows[index]) for index in batch}) == 1
        assert len(batch) <= batch_size
    assert len(batches) == sum(math.ceil(count / batch_size) for count in Counter(sizes).values())


def test_a_fraction_of_the_comparisons_is_a_random_part_of_every_larger_one():
    chosen = {fraction: chosen_comparisons(400, fraction, seed=1).tolist() for fraction in (1e-6, 1 / 16, 1 / 4, 1)}
    assert [len(rows) for rows in chosen.values()] == [1, 25, 100, 400]
    assert set(chosen[1e-6]) < set(chosen[1 / 16]) < set(chosen[1 / 4]) < set(chosen[1])
    assert all(rows == sorted(set(rows)) for rows in chosen.values())
    assert chosen[1] == list(range(400))  # all of them, in their order: nothing changes for runs without a fraction
    assert 30 < sum(row < 200 for row in chosen[1 / 4]) < 70  # of pairs, which come first, and of rankings
    assert chosen_comparisons(400, 1 / 4, seed=2).tolist() != chosen[1 / 4]


def test_batches_are_drawn_anew_every_epoch(token_groups):
    rows = token_groups([[[0], [0]]] * 40)
    generator = torch.Generator().manual_seed(0)
    first, second = (list(comparison_batches(rows.sizes, rows.longest, 8, generator)) for _ in range(2))
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert first == list(comparison_batches(rows.sizes, rows.longest, 8, torch.Generator().manual_seed(0)))


def test_every_pair_counts_and_a_tie_is_no_win():
    assert pairwise_accuracy([[2.0, 1.0]]) == 1
    assert pairwise_accuracy([[1.0, 1.0]]) == 0
    assert pairwise_accuracy([[1.0, 2.0]]) == 0
    # 3 > 1, 3 > 2, 1 < 2: two of three; with the pair, three of four
    assert pairwise_accuracy([[3.0, 1.0, 2.0], [1.0, 0.0]]) == 3 / 4


@given(st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=5), min_size=1, max_size=6))
def test_accuracy_agrees_with_counting_pair_by_pair(scores):
    pairs = [pair for row in scores for pair in itertools.combinations(row, 2)]
    assert pairwise_accuracy(scores) == sum(better > worse for better, worse in pairs) / len(pairs)


def test_accuracy_of_a_model_is_that_of_its_scores(tokenizer, reward_model):
    rows = tokenise([*PAIRS, *RANKINGS], tokenizer, context=64)
    reward_model.gpt.set_dropout(0.5)
    reward_model.train()
    found = pairwise_accuracy(comparison_scores(reward_model, rows, tokenizer.pad_id))  # dropout off all the same
    with torch.no_grad():
        scores = [[reward_model(torch.tensor([ids])).item() for ids in row] for row in rows]
    assert found == pairwise_accuracy(scores)
    assert 0 < found < 1


def test_score_differences_are_better_minus_worse_of_every_pair():
    assert score_differences([[3.0, 1.0], [5.0, 2.0, 4.0]]).tolist() == [2, 3, 1, -2]


def test_preference_loss_overfits_one_batch(tokenizer, reward_model):
    rows = list(tokenise(RANKINGS, tokenizer, context=64))
    rows = [row[::-1] for row in rows[:2]] + rows[2:]  # not to be had from one word alone
    optimizer = CPUAdamW(reward_model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = ranking_loss(plain_scores(reward_model, rows, tokenizer))
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    assert pairwise_accuracy(comparison_scores(reward_model, rows, tokenizer.pad_id)) == 1


class SmallCorpus:
    """Comparisons and prompts at hand; remembers which epochs it was asked for."""

    judge = None

    def __init__(self, comparisons):
        self.pairs, self.epochs = comparisons, []

    def comparisons(self, split, epoch=0):
        self.epochs.append(epoch)
        return texts_of(self.pairs, repr(self.pairs))

    def prompts(self, split):
        if split != "train":
            return texts_of([split], split, whole=False)
        return texts_of([f"{i} {'The plot is' if i % 2 else 'café'}" for i in range(50)], "fifty", whole=False)


@pytest.fixture
def run(tmp_path, tokenizer, make_policy):
    """A run whose reference policy and tokenizers are there."""
    config = Config(
        data=DataConfig(query_length=6, response_length=8),
        rm=RMConfig(epochs=3, batch_size=4, lr=3e-3, eval_every=2, normalisation_samples=40),
        ppo=PPOConfig(rollout_batch_size=16, num_minibatches=1, microbatch_size=16, temperature=0.8),
    )
    run = Run(tmp_path, config, "cpu")
    save_model(make_policy(1), tmp_path / "sft" / "policy")
    torch.manual_seed(2)
    save_pretrained(
        GPT(GPTConfig(tokenizer.vocab_size, 64, layers=1, heads=2, channels=16)), tmp_path / "sft" / "reward"
    )
    sealed_stage(tmp_path / "sft")
    run.save_tokenizers(tokenizer, tokenizer)
    run.unfinished("rm").mkdir()
    return run


def test_limit_is_what_the_gold_score_itself_reaches_on_the_labels():
    judge = SimpleNamespace(gold_score=lambda prompt, text: float(text.count(prompt)))
    labels = [
        ("good", ("good", "bad")),
        ("good", ("bad", "good")),
        ("bad", ("bad", "good")),
        ("good", ("good", "good")),
    ]
    comparisons = [Comparison(prompt, ranked) for prompt, ranked in labels]
    assert accuracy_limit(comparisons, judge) == 2 / 4


def inputs(model, corpus, rows, validation_rows) -> train_rm.Inputs:
    return train_rm.Inputs(model, corpus, rows, validation_rows, test=[], test_rows=[], queries=[], data="", report={})


def forget(run: Run) -> None:
    """Start again, without the checkpoints of the last time."""
    for path in Checkpoints(run.unfinished("rm")).paths():
        shutil.rmtree(path)


def test_training_measures_the_held_out_accuracy_and_pairs_anew_every_epoch(run, tokenizer):
    model, corpus = train_rm.make_reward_model(run), SmallCorpus([*PAIRS, *RANKINGS])
    held_out = tokenise(corpus.pairs, tokenizer, 64)
    train_rm.train_on_comparisons(run, inputs(model, corpus, held_out, held_out))
    assert corpus.epochs == [1, 2]  # the first one's are given
    lines = read_metrics(run.folder, "rm")
    assert [line["step"] for line in lines] == list(range(1, 10))  # 2 batches of pairs and 1 of rankings, 3 epochs
    assert [line["step"] for line in lines if "eval/accuracy" in line] == [2, 4, 6, 8, 9]
    assert lines[-1]["eval/accuracy"] == pairwise_accuracy(comparison_scores(model, held_out, tokenizer.pad_id))
    assert all({"loss/rm", "rm/accuracy", "rm/grad_norm", "lr"} <= line.keys() for line in lines)


def test_a_fraction_of_the_pairs_is_the_same_in_every_epoch(run, tokenizer):
    corpus = SmallCorpus([*PAIRS, *RANKINGS])
    run.config = replace(run.config, rm=replace(run.config.rm, fraction=0.7))
    given = inputs(train_rm.make_reward_model(run), corpus, tokenise(corpus.pairs, tokenizer, 64), [])
    epochs = [
        sorted(map(str, (row for batch in train_rm.epoch_batches(run, given, n) for row in batch))) for n in (0, 1)
    ]
    assert epochs[0] == epochs[1]
    assert corpus.epochs == []


def test_held_out_accuracy_is_measured_without_gradients(run, tokenizer, monkeypatch):
    model, corpus, measured = train_rm.make_reward_model(run), SmallCorpus([*PAIRS, *RANKINGS]), []
    rows = tokenise(corpus.pairs, tokenizer, 64)

    def checked(model: RewardModel, *rest) -> list[list[float]]:
        measured.append(all(parameter.grad is None for parameter in model.parameters()))
        return [[1.0, 0.0]]

    monkeypatch.setattr(train_rm, "comparison_scores", checked)
    train_rm.train_on_comparisons(run, inputs(model, corpus, rows, rows))
    assert measured == [True] * 5
    assert all(parameter.grad is None for parameter in model.parameters())  # nor is it normalised with them


def test_training_twice_gives_the_same_figures_bit_for_bit(run, tokenizer):
    texts = []
    for _ in range(2):
        torch.manual_seed(len(texts))  # the state of the global generator does not matter
        model, corpus = train_rm.make_reward_model(run), SmallCorpus([*PAIRS, *RANKINGS])
        rows = tokenise(corpus.pairs, tokenizer, 64)
        train_rm.train_on_comparisons(run, inputs(model, corpus, rows, rows))
        texts.append((run.folder / "metrics.jsonl").read_text())
        forget(run)
    assert texts[0] == texts[1]


def test_how_often_it_is_measured_changes_no_training(run, tokenizer):
    lines = []
    for every in (1, 100):
        run.config = replace(run.config, rm=replace(run.config.rm, eval_every=every))
        model, corpus = train_rm.make_reward_model(run), SmallCorpus([*PAIRS, *RANKINGS])
        model.gpt.set_dropout(0.2)
        rows = tokenise(corpus.pairs, tokenizer, 64)
        train_rm.train_on_comparisons(run, inputs(model, corpus, rows, rows))
        found = read_metrics(run.folder, "rm")
        forget(run)
        lines.append([{k: v for k, v in line.items() if k != "eval/accuracy"} for line in found])
    assert lines[0] == lines[1]


@pytest.mark.parametrize("killed_at", [2, 5, 8])
def test_killed_and_resumed_training_ends_as_an_uninterrupted_one(run, tokenizer, monkeypatch, capsys, killed_at):
    """With dropout and hidden tokens, three batches an epoch, whatever the global generator's state is."""
    changes = {"save_every": 2, "dropout": 0.2, "token_dropout": 0.3, "schedule": "cosine", "normalise_before": True}
    changes["averaging"] = 0.8
    run.config = replace(run.config, rm=replace(run.config.rm, **changes))
    corpus, original, calls = SmallCorpus([*PAIRS, *RANKINGS]), train_rm.ranking_loss, []
    queries = prompt_rows(corpus.prompts, tokenizer, run.config.data)[0]["train"][:40]

    def trained():
        torch.manual_seed(len(calls))
        model = train_rm.make_reward_model(run)
        rows = tokenise(corpus.pairs, tokenizer, 64)
        train_rm.train_on_comparisons(run, replace(inputs(model, corpus, rows, rows), queries=queries))
        return model, (run.folder / "metrics.jsonl").read_text()

    def dies(*arguments):
        calls.append(1)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return original(*arguments)

    expected, lines = trained()
    forget(run)
    with monkeypatch.context() as patch:
        patch.setattr(train_rm, "ranking_loss", dies)
        with pytest.raises(KeyboardInterrupt):
            trained()
    capsys.readouterr()
    found, resumed_lines = trained()
    last = (killed_at - 1) // 2 * 2
    assert (f"resuming after step {last} of 9" in capsys.readouterr().out) == (last > 0)
    assert resumed_lines == lines
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_a_stop_token_of_several_tokens_is_refused_before_training(run):
    run.config = replace(run.config, ppo=replace(run.config.ppo, stop_token="a lovely film"))
    with pytest.raises(ValueError, match="the stop token 'a lovely film' must be one token"):
        train_rm.prepare(run)


def test_scores_of_the_reference_have_mean_zero_and_variance_one(run, tokenizer, monkeypatch):
    model, corpus = train_rm.make_reward_model(run), SmallCorpus(PAIRS)
    texts, original = [], train_rm.sample_responses

    def recorded(policy, queries, tokenizer, sampling, uniforms):
        assert sampling.temperature == 0.8
        assert uniforms.shape[1] == 8
        batch = original(policy, queries, tokenizer, sampling, uniforms)
        texts.extend(zip(batch.prompt_texts, batch.response_texts, strict=True))
        return batch

    monkeypatch.setattr(train_rm, "sample_responses", recorded)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    queries, _ = prompt_rows(corpus.prompts, tokenizer, run.config.data)
    normalise_on_reference(model, queries["train"][:40], run)
    assert len(texts) == 40
    assert all(parameter.requires_grad for parameter in model.parameters())  # it may go on training
    scores = RewardScorer(model, tokenizer)(*(list(column) for column in zip(*texts, strict=True)))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.var(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
