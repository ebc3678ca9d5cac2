"""The exact effect of every field, where a recording shows it: what reached the formulas, the sampler and the
optimizers of a stage is what the field of that name says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minippo.config import BackboneConfig, LMTrainConfig, PPOConfig, RMConfig
from tests.pipeline.recording import Call, OptimizerRecord, Recording
from tests.pipeline.tiny_run import NUM_PAIRS, TinyRun, checkpoints, score_by_length, tokenizers_of

TrainedConfig = LMTrainConfig | RMConfig | PPOConfig


# ---------------------------------------------------------------------------------------------- optimizers


def learning_rates(config: TrainedConfig, num_steps: int) -> np.ndarray:
    """Peak, warm-up and schedule, step by step."""
    rising = np.arange(1, num_steps + 1) / max(1, config.warmup * num_steps)
    left = np.arange(num_steps, 0, -1) / max(1, num_steps * (1 - config.warmup))
    shape = {
        "linear": left,
        "cosine": (1 - np.cos(np.pi * np.minimum(1, left))) / 2,
        "constant": np.ones(num_steps),
    }[config.schedule]
    return config.lr * np.minimum(np.minimum(1, rising), shape)


def check_optimizer(
    record: OptimizerRecord,
    config: TrainedConfig,
    lrs: Sequence[float],
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-8,
    tensorflow_eps: bool = False,
) -> None:
    """Learning rates, gradient clipping, and the first two steps of all weights, worked out anew."""
    assert record.lrs == pytest.approx(list(lrs))
    gradients = [gradient for step in record.steps[:2] for gradient in step.gradients if gradient is not None]
    is_rounded = any(gradient.dtype == torch.bfloat16 for gradient in gradients)  # also when they are clipped
    for step in record.steps:
        clipped = min(step.unclipped, config.max_grad_norm)
        assert step.norm == pytest.approx(clipped, rel=2e-3 if is_rounded else 1e-4)
    moments = [(torch.zeros((), dtype=torch.float64),) * 2] * len(record.decays)
    for number, step in enumerate(record.steps[:2], start=1):
        for index, (before, gradient, after) in enumerate(zip(step.before, step.gradients, step.after, strict=True)):
            if gradient is None:
                assert torch.equal(before, after)
                continue
            first, second = moments[index]
            first = betas[0] * first + (1 - betas[0]) * gradient.double()
            second = betas[1] * second + (1 - betas[1]) * gradient.double() ** 2
            moments[index] = first, second
            correction = math.sqrt(1 - betas[1] ** number)
            root = second.sqrt() / correction + (eps / correction if tensorflow_eps else eps)
            decay = config.weight_decay if before.dim() > 1 else 0
            expected = before.double() * (1 - step.lr * decay) - step.lr * first / (1 - betas[0] ** number) / root
            torch.testing.assert_close(after.double(), expected, rtol=1e-5, atol=1e-6)


def idle_weights(record: OptimizerRecord) -> list[tuple[Tensor, Tensor]]:
    """The weights of matrices that got no gradient in the first two steps: before, and after both."""
    first, second = record.steps[:2]
    found = []
    for before, one, two, after in zip(first.before, first.gradients, second.gradients, second.after, strict=True):
        if before.dim() > 1 and one is not None:
            idle = (one == 0) & (two == 0)
            found.append((before[idle], after[idle]))
    return found


# ---------------------------------------------------------------------------------------------- stages


def check_sft(run: TinyRun) -> None:
    """Stage 1: steps and batches by tokens, optimizers, and the shapes of what is saved."""
    recording = run.recordings["sft"]
    assert len(recording.optimizers) == 2
    for number, name in enumerate(("policy", "reward"), start=1):
        config: LMTrainConfig = getattr(run.config.sft, name)
        record = recording.optimizers[number - 1]
        check_optimizer(record, config, learning_rates(config, len(record.steps)))
        batches = recording.of("predicted_tokens", optimizer=number, with_gradient=True)
        assert len(batches) == len(record.steps) > 2
        sizes = [batch.mask.numel() for batch in batches]
        assert config.batch_tokens / 2 < max(sizes) <= config.batch_tokens
        # The mask leaves out the prompts; the last token of a row is predicted, so its place is the length of the row.
        lengths = [int((torch.arange(1, batch.mask.shape[1] + 1) * batch.mask).amax(1).sum()) for batch in batches]
        assert sum(lengths) == pytest.approx(config.tokens, abs=config.batch_tokens)
        check_shape(run, name)
        check_checkpoints(run.folder / "sft" / name, len(record.steps), config.save_every)


def check_checkpoints(folder: Path, last: int, every: int) -> dict[str, Any]:
    """The two newest are kept, the last of them from the end of training; returns its position."""
    first = {0} if folder.name == "ppo" else set()
    names = [f"step-{n:06d}" for n in sorted({last, *first, *range(every, last + 1, every)})[-2:]]
    assert checkpoints(folder) == names
    return json.loads((folder / names[-1] / "state.json").read_text())["position"]


def check_shape(run: TinyRun, name: str) -> None:
    """The saved model has the sizes that its section says, or those of the weights it started from."""
    config: BackboneConfig = getattr(run.config.model, name)
    saved = json.loads((run.folder / "sft" / name / "config.json").read_text())
    names = {"n_layer": "layers", "n_head": "heads", "n_embd": "channels", "n_positions": "context"}
    if config.weights:
        given = json.loads(Path(config.weights, "config.json").read_text())
        assert {key: saved[key] for key in names} == {key: given[key] for key in names}
        weight = load_file(Path(config.weights, "model.safetensors"))
        (embedding,) = (value for key, value in weight.items() if key.endswith("wte.weight"))
        first = run.recordings["sft"].optimizers[("policy", "reward").index(name)].steps[0].before
        assert any(x.shape == embedding.shape and torch.equal(x, embedding) for x in first)
    else:
        assert {key: saved[key] for key in names} == {key: getattr(config, field) for key, field in names.items()}
        assert saved["activation_function"] == config.activation
    assert getattr(tokenizers_of(run), name).vocab_size == saved["vocab_size"]


def check_rm(run: TinyRun) -> None:
    """Stage 2: loss, batches, dropped tokens and activations, measurements, normalisation."""
    config, recording = run.config.rm, run.recordings["rm"]
    (record,) = recording.optimizers
    check_optimizer(record, config, learning_rates(config, len(record.steps)))
    losses = recording.of("ranking_loss")
    assert len(losses) == len(record.steps)
    assert {(call.margin, call.label_smoothing) for call in losses} == {(config.margin, config.label_smoothing)}
    sizes = [len(call.scores) for call in losses]
    assert max(sizes) == config.batch_size
    check_checkpoints(run.folder / "rm", len(losses), config.save_every)
    passes = recording.of("score", with_gradient=True)
    assert len(passes) == len(losses)
    assert all(call.training and call.dropouts == {config.dropout} for call in passes)
    assert not any(call.training for call in recording.of("score", with_gradient=False))
    check_hidden_tokens(passes, config.token_dropout)
    lines = [line for line in metrics(run, "rm") if "loss/rm" in line]
    assert [line["step"] for line in lines] == list(range(1, len(losses) + 1))
    assert [line["lr"] for line in lines] == pytest.approx(record.lrs)
    evaluated = [n for n in range(1, len(losses) + 1) if n % config.eval_every == 0 or n == len(losses)]
    assert [line["step"] for line in lines if "eval/accuracy" in line] == evaluated
    check_responses(run, recording.of("generate"))
    sampled = sum(len(call.queries) for call in recording.of("generate"))
    assert sampled == config.normalisation_samples * (2 if config.normalise_before else 1)
    if run.config.data.source == "reviews" and not run.config.data.limit:  # pairs come first, then rankings
        assert sum(sizes) == config.epochs * round(config.fraction * (NUM_PAIRS + 6))
        assert config.eval_comparisons <= NUM_PAIRS
        rows = [0] * (len(losses) + 1)
        for call in recording.of("score", with_gradient=False):
            rows[call.step] += len(call.tokens)
        expected = [2 * config.eval_comparisons if n in evaluated else 0 for n in range(len(losses) + 1)]
        expected[-1] += 2 * config.eval_comparisons + config.normalisation_samples
        expected[0] += config.normalisation_samples if config.normalise_before else 0
        assert rows == expected
        summary = json.loads((run.folder / "summary.json").read_text())
        assert sum(part["count"] for part in summary["rm_calibration"]) == config.eval_comparisons


def check_hidden_tokens(passes: list[Call], share: float) -> None:
    """About `share` of the tokens is replaced by the end-of-text, which a text has as its last token alone."""
    hidden = total = 0
    for call in passes:
        last = call.mask.sum(dim=1, keepdim=True) - 1
        ends = call.tokens == call.tokens.gather(1, last)
        inside = call.mask & (torch.arange(call.mask.shape[1]) < last)
        hidden, total = hidden + int((ends & inside).sum()), total + int(inside.sum())
    assert hidden / total == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / total))


def check_responses(run: TinyRun, calls: list[Call]) -> None:
    """All responses are sampled, and their probabilities taken, by the same settings."""
    config = run.config.ppo
    assert calls
    stop_ids = tokenizers_of(run).policy.encode(config.stop_token)
    for call in calls:
        assert call.temperature == config.temperature
        assert call.min_new_tokens == config.min_new_tokens
        assert call.max_new_tokens == run.config.data.response_length
        assert call.queries.shape[1] <= run.config.data.query_length
        assert list(call.stop_ids) == stop_ids
        assert (call.top_k, call.top_p) == (0, 1)


def check_ppo(run: TinyRun) -> None:
    """Stage 3: rollouts, rewards, losses, steps, evaluations and checkpoints."""
    config, recording = run.config.ppo, run.recordings["ppo"]
    B, N = config.rollout_batch_size, config.num_iterations
    first, *lines = metrics(run, "ppo")
    assert first["step"] == 0
    assert [line["step"] for line in lines] == list(range(1, N + 1))
    evaluated = [n for n in range(1, N + 1) if n % run.config.eval.every == 0 or n == N]
    assert [line["step"] for line in lines if "eval/score" in line] == evaluated

    calls = recording.of("generate")
    check_responses(run, calls)
    for call in calls:  # those of a rollout: each prompt K times
        rows = [tuple(row) for row in call.queries.tolist()]
        if len(rows) == B:
            assert rows == [row for row in rows[:: config.samples_per_prompt] for _ in range(config.samples_per_prompt)]
    sizes = [run.config.eval.prompts]
    for n in range(1, N + 1):
        sizes += [B, run.config.eval.prompts] if n in evaluated else [B]
    assert [len(call.queries) for call in calls] == sizes + [run.config.eval.final_prompts] * 2
    assert {call.temperature for call in recording.of("token_logprobs")} == {config.temperature}
    check_rewards(recording, config, lines)
    check_losses(recording, config)
    check_ppo_steps(recording, config, lines)

    state = check_checkpoints(run.folder / "ppo", N, config.save_every)
    assert state["prompts_drawn"] == N * B // config.samples_per_prompt
    steps = len(recording.optimizers[0].steps)
    assert state["demonstrations_drawn"] == (steps * config.ptx_batch_size if config.ptx_coef else 0)
    assert all(("loss/ptx" in line) == (config.ptx_coef > 0 and line["policy/steps"] > 0) for line in lines)
    heads = load_file(run.folder / "ppo" / "policy" / "heads.safetensors")
    has_critic = config.advantage == "gae"
    assert bool(heads) == any("value/mean" in line for line in lines) == has_critic
    assert any(".2." in key for key in heads) == (has_critic and config.value_head == "mlp")

    samples = (run.folder / "samples.md").read_text(encoding="utf-8")
    assert samples.count("- before (") == samples.count("- after (") == len(evaluated) * run.config.eval.samples
    answers = [json.loads(line) for line in (run.folder / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    assert len(answers) == run.config.eval.final_prompts
    if config.scorer:
        for answer in (row[key] for row in answers for key in ("before", "after")):
            assert answer["score"] == pytest.approx(float(score_by_length([answer["prompt"]], [answer["response"]])))
    (shape,) = {
        json.loads((run.folder / place / "config.json").read_text())["n_embd"] for place in ("sft/policy", "ppo/policy")
    }
    assert not heads or heads[next(key for key in heads if key.endswith("weight"))].shape[-1] == shape


def check_rewards(recording: Recording, config: PPOConfig, lines: list[dict]) -> None:
    """Scores -> rewards -> advantages."""
    treated, penalised, estimated = map(recording.of, ("penalise_missing_eos", "kl_penalised_rewards", "gae"))
    assert len(treated) == len(penalised) == len(lines)
    assert len(estimated) == (len(lines) if config.advantage == "gae" else 0)
    assert {call.kind for call in penalised} == {config.kl_estimate}
    in_loss, expected = config.kl_placement == "loss", config.kl_coef
    for line, call in zip(lines, penalised, strict=True):
        assert call.kl_coef == pytest.approx(0 if in_loss else expected)
        assert line["objective/kl_coef"] == pytest.approx(expected)
        if config.kl_target is not None:
            error = max(-0.2, min(0.2, line["objective/kl"] / config.kl_target - 1))
            expected *= 1 + error * min(1, config.rollout_batch_size / config.kl_horizon)
    if config.kl_target is None:
        assert not recording.of("adaptive_kl_coef")
    for call in recording.of("adaptive_kl_coef"):
        assert (call.target, call.horizon) == (config.kl_target, config.kl_horizon)
        assert call.batch_size == config.rollout_batch_size
    for line, call in zip(lines, treated, strict=True):
        assert (call.mode, call.missing_eos_score) == (config.missing_eos, config.missing_eos_score)
        if config.score_clip is None:
            assert float(call.scores.mean()) == pytest.approx(line["objective/scores"], abs=1e-5)
        else:
            assert float(call.scores.abs().max()) <= config.score_clip + 1e-6
    for treatment, penalty in zip(treated, penalised, strict=True):
        assert torch.equal(penalty.scores, treatment.result)
    for penalty, call in zip(penalised, estimated, strict=False):
        assert (call.gamma, call.lam) == (config.gamma, config.lam)
        if config.whiten_rewards:
            assert float(call.rewards[call.response_mask].var(correction=0)) == pytest.approx(1, abs=1e-3)
        else:
            assert torch.equal(call.rewards, penalty.result[0])


def check_losses(recording: Recording, config: PPOConfig) -> None:
    """What the clipped losses are given."""
    policy, value, kl = map(recording.of, ("policy_loss", "value_loss", "kl_loss"))
    has_critic = config.advantage == "gae"
    assert len(value) == (len(policy) if has_critic else 0)
    assert len(kl) == (len(policy) if config.kl_placement == "loss" else 0)
    assert all(call.kind == config.kl_estimate for call in kl)
    assert {(call.clip_low, call.clip_high) for call in policy} == {(config.clip_low, config.clip_high)}
    assert all(call.clip == config.value_clip for call in value)
    assert {len(call.response_mask) for call in policy + value + kl} == {config.microbatch_size}
    rows = config.rollout_batch_size // config.num_minibatches
    for call in policy + value + kl:
        if config.loss_normalisation == "sequence":
            assert torch.equal(call.num_tokens, rows * call.response_mask.sum(dim=1, keepdim=True))
        else:
            assert call.num_tokens.dim() == 0
    for calls in minibatches(policy, config):
        advantages = torch.cat([call.advantages[call.response_mask] for call in calls])
        is_white = abs(float(advantages.mean())) < 1e-4 and abs(float(advantages.var(correction=0)) - 1) < 1e-3
        assert is_white == config.whiten_advantages
    # The first gradient of the value head's last bias is value_coef * mean(value - return), before it is clipped.
    step = recording.optimizers[0].steps[0] if recording.optimizers[0].steps else None
    if step is not None and has_critic and config.loss_normalisation == "token":
        first = minibatches(value, config)[0]
        errors = torch.cat([(call.new_values - call.returns)[call.response_mask] for call in first])
        (bias,) = (g for g in step.gradients if g is not None and g.shape == (1,))
        assert float(bias) * step.unclipped / step.norm == pytest.approx(
            config.value_coef * float(errors.mean()), rel=1e-3
        )


def minibatches(calls: list[Call], config: PPOConfig) -> list[list[Call]]:
    """The calls in groups that make one minibatch each."""
    size = config.rollout_batch_size // config.num_minibatches // config.microbatch_size
    assert len(calls) % size == 0
    return [calls[start : start + size] for start in range(0, len(calls), size)]


def check_ppo_steps(recording: Recording, config: PPOConfig, lines: list[dict]) -> None:
    """Which minibatches were looked at, which steps were taken, and with which learning rate."""
    (record,) = recording.optimizers
    groups, lrs = minibatches(recording.of("policy_loss"), config), []
    peaks = learning_rates(config, config.num_iterations)
    for line, lr in zip(lines, peaks, strict=True):
        taken = 0
        for _ in range(config.num_epochs * config.num_minibatches):
            statistics = [call.result[1] for call in groups.pop(0)]
            approxkl, ratio = (sum(float(one[key]) for one in statistics) for key in ("approxkl", "ratio"))
            too_far = config.max_approx_kl is not None and approxkl > config.max_approx_kl
            if not too_far and not (config.max_ratio is not None and ratio > config.max_ratio):
                taken += 1
                lrs.append(lr)
            if too_far:
                break
        assert line["policy/steps"] == taken
        assert line["lr"] == pytest.approx(lr)
    assert not groups
    check_optimizer(
        record,
        config,
        lrs,
        betas=(0.9, config.adam_beta2),
        eps=config.adam_eps,
        tensorflow_eps=config.tensorflow_eps,
    )


def metrics(run: TinyRun, stage: str) -> list[dict]:
    """The lines of one stage."""
    lines = map(json.loads, (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["stage"] == stage]


CHECKS = {"sft": check_sft, "rm": check_rm, "ppo": check_ppo}
