"""Every hyperparameter of the three stages. Presets are YAML files in `minippo/configs/`; a preset states what it
changes, this page states the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Which reviews, and how much of them is seen at a time."""

    source: Literal["reviews", "imdb", "files"] = "reviews"
    """The bundled reviews, the IMDB reviews of Maas et al. 2011, or files of your own (docs/data.md)."""
    folder: str = "data"
    """Folder of the bundled reviews."""
    imdb_path: str = "stanfordnlp/imdb"
    """Hub name of the IMDB dataset, or a folder with train.parquet, test.parquet and unsupervised.parquet."""
    demonstrations: str = ""
    """Files: texts to imitate. A JSONL or parquet file, a folder of such files, or a dataset of the hub ("owner/name",
    "owner/name:subset"). Columns: prompt, completion; or messages; or text."""
    preferences: str = ""
    """Files: what the reward model learns from. Columns: prompt, chosen, rejected; or prompt, ranked; or chosen,
    rejected; or text, label."""
    prompts: str = ""
    """Files: what the policy answers. Columns: prompt; or text. Empty: the prompts of the preferences, or else of the
    demonstrations."""
    train_split: str = "train"
    """Files: the name of the training split, in the names of a folder's files or in a dataset of the hub."""
    test_split: str = "test"
    """Files: the name of the split that is held out."""
    hold_out: float = 0.05
    """Files: where there is no such split, the share of the preferences, and of the prompts, that is held out."""
    unusable: Literal["drop", "refuse"] = "drop"
    """What becomes of an example that cannot be used, being empty, unreadable, undecided or too long: it is left out
    and counted, or the run does not begin."""
    query_length: int = 24
    """P, the most tokens of a prompt."""
    response_length: int = 64
    """R, the most tokens of a response."""
    crop_words: int = 100
    """IMDB, or other texts with labels: the words of one that the reward model is trained on, about as many as it will
    be asked about."""
    limit: int = 0
    """Use only the first so many demonstrations and the first so many comparisons; 0 uses all."""


@dataclass(frozen=True)
class BackboneConfig:
    """One transformer and its tokenizer."""

    tokenizer: str
    """A name of tiktoken's ("gpt2"), a file in tiktoken's format, a folder with a GPT-2-type vocab.json and
    merges.txt, the hub name of one ("facebook/opt-125m"), or "train:4096": a byte-level BPE of 4096 ids trained on
    the demonstrations."""
    weights: str = ""
    """Start from these weights of GPT-2 or OPT: a hub name ("gpt2", "facebook/opt-125m") or a folder with config.json
    and model.safetensors or pytorch_model.bin. They bring their own sizes, the context too. Empty: from scratch."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""
    channels: int = 128
    """Width of the residual stream."""
    context: int = 128
    """The most tokens in a sequence."""
    activation: Literal["gelu_new", "relu"] = "relu"
    """Of the hidden layers: GPT-2's, or OPT's, which costs a CPU a fifth less time."""


@dataclass(frozen=True)
class ModelConfig:
    """The two transformers. They need not share a tokenizer, a size or a family."""

    policy: BackboneConfig = field(default_factory=lambda: BackboneConfig("data/policy.tiktoken", channels=96))
    """Policy, critic and reference."""
    reward: BackboneConfig = field(default_factory=lambda: BackboneConfig("data/reward.tiktoken", channels=64))
    """Reward model."""


@dataclass(frozen=True)
class LanguageModelConfig:
    """One run of language-model training. Adam with warm-up and linear decay."""

    tokens: int
    """How many tokens to train on; the demonstrations are gone through as often as that takes. 0: no training."""
    batch_tokens: int = 1536
    """Tokens in a step, about."""
    lr: float = 5e-3
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: to 0, or as it is."""
    weight_decay: float = 0.01
    """Decay of the matrices."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""


@dataclass(frozen=True)
class SFTConfig:
    """Language-model training on demonstrations."""

    policy: LanguageModelConfig = field(default_factory=lambda: LanguageModelConfig(tokens=1_000_000, lr=8e-3))
    """Makes the reference policy."""
    reward: LanguageModelConfig = field(default_factory=lambda: LanguageModelConfig(tokens=500_000))
    """Warm-starts the reward model's backbone, in the reward model's own tokenizer."""


@dataclass(frozen=True)
class RMConfig:
    """Reward-model training on preference pairs and rankings."""

    epochs: int = 1
    """Passes over the comparisons."""
    batch_size: int = 20
    """Comparisons in a step."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: to 0, or as it is."""
    weight_decay: float = 0.01
    """Decay of the matrices."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    token_dropout: float = 0.0
    """Share of the tokens of a training text that is hidden, against learning single texts by heart."""
    margin: float = 0.0
    """By how much a chosen score should exceed a rejected one before the loss counts it as even."""
    label_smoothing: float = 0.0
    """Share of the labels that is taken to be wrong."""
    eval_comparisons: int = 4600
    """Held-out comparisons for the accuracy."""
    eval_every: int = 700
    """Steps between two measurements of the held-out accuracy."""
    normalisation_samples: int = 512
    """Responses of the reference policy on which scores get mean 0 and variance 1."""
    normalise_before: bool = False
    """Give the untrained scores mean 0 and variance 1 too, before training (Ziegler et al. 2019)."""


@dataclass(frozen=True)
class PPOConfig:
    """PPO against the reward model. Iteration > epoch > minibatch > microbatch."""

    scorer: str = ""
    """A function of your own instead of the reward model, as package.module:function. It is given B prompts and B
    responses as lists of strings and returns a tensor of B scores. Empty: the reward model of stage 2."""
    num_iterations: int = 56
    """Iterations, each one rollout and the updates from it."""
    rollout_batch_size: int = 128
    """Prompts in a rollout, B."""
    num_epochs: int = 2
    """Passes over a rollout."""
    num_minibatches: int = 2
    """Optimizer steps in an epoch; they divide the rollout."""
    microbatch_size: int = 32
    """Rows in a forward pass of the update, M; gradients add up over a minibatch, which it divides."""
    lr: float = 8e-4
    """Peak learning rate."""
    warmup: float = 0.0
    """Share of the iterations over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate goes on after the warm-up: to 0, or as it is."""
    weight_decay: float = 0.0
    """Decay of the matrices."""
    adam_beta2: float = 0.999
    """Decay rate of the second moment."""
    adam_eps: float = 1e-5
    """Added to the root of the second moment (Huang et al. 2024 use 1e-5)."""
    tensorflow_eps: bool = False
    """Add it before the bias correction, as the first results of RLHF did."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    kl_coef: float = 0.11
    """Coefficient of the per-token KL penalty; the first one where it adapts."""
    kl_target: float | None = None
    """Adapt the coefficient to hold this KL per sequence, in nats (Ziegler et al. 2019); None: fixed."""
    kl_horizon: float = 10_000
    """Sequences over which the coefficient adapts."""
    gamma: float = 1.0
    """Discount of a token's reward per token before it."""
    lam: float = 0.98
    """GAE's lambda: 0 trusts the critic, 1 the rewards."""
    whiten_advantages: bool = True
    """Give the advantages of a minibatch mean 0 and variance 1."""
    whiten_rewards: bool = False
    """Give the rewards of a rollout variance 1, their mean kept."""
    clip_low: float = 0.2
    """A ratio below 1 - clip_low gains nothing more."""
    clip_high: float = 0.2
    """A ratio above 1 + clip_high gains nothing more."""
    value_clip: float | None = 0.2
    """How far a value may move from the rollout's in one iteration before the loss stops gaining; None: no limit."""
    value_coef: float = 0.5
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    value_head: Literal["linear", "mlp"] = "linear"
    """What reads values off the trunk: one layer, or two with a GELU between. Either starts at 0."""
    max_approx_kl: float | None = None
    """End an iteration's epochs, without the step, at a minibatch whose approximate KL exceeds this; None: never."""
    max_ratio: float | None = None
    """Skip the step of a minibatch whose mean ratio exceeds this; None: never."""
    ptx_coef: float = 0.0
    """Weight of the language-model loss on demonstrations in every step (PPO-ptx, Ouyang et al. 2022 eq. 2)."""
    ptx_batch_size: int = 32
    """Demonstrations in that loss."""
    temperature: float = 1.0
    """Sampling temperature, of policy and reference alike."""
    min_new_tokens: int = 0
    """No end within the first so many tokens."""
    stop_token: str = ""
    """A response ends after this token of the policy's too (its text, say "."), and not before min_new_tokens: until
    then neither is ever drawn. Empty: at the end of text only."""
    missing_eos: Literal["off", "replace", "subtract"] = "off"
    """What becomes of the score of a response that does not end within its length."""
    missing_eos_score: float = -1.0
    """The score it is replaced by, or the amount taken off it."""
    score_clip: float | None = None
    """Hold scores within -score_clip and score_clip; None: no limit."""
    save_every: int = 14
    """Iterations between two checkpoints."""


@dataclass(frozen=True)
class EvalConfig:
    """What a run is measured on."""

    every: int = 7
    """Iterations between two evaluations."""
    prompts: int = 128
    """Held-out prompts of an evaluation during training."""
    final_prompts: int = 512
    """Held-out prompts of the evaluation at the end."""
    samples: int = 3
    """Of these prompts, so many are shown with their answers."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    rm: RMConfig = field(default_factory=RMConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 1
    """Determines all that is random."""


def check(config: Config) -> None:
    """Raise ValueError, with the numbers in it, where settings have no meaning or contradict each other."""
    data, ppo, policy = config.data, config.ppo, config.model.policy
    for name, value, least in (
        ("data.query-length", data.query_length, 1),
        ("data.response-length", data.response_length, 1),
        ("data.crop-words", data.crop_words, 1),
        ("data.limit", data.limit, 0),
        ("sft.policy.tokens", config.sft.policy.tokens, 0),
        ("sft.reward.tokens", config.sft.reward.tokens, 0),
        ("sft.policy.batch-tokens", config.sft.policy.batch_tokens, 1),
        ("sft.reward.batch-tokens", config.sft.reward.batch_tokens, 1),
        ("rm.epochs", config.rm.epochs, 1),
        ("rm.batch-size", config.rm.batch_size, 1),
        ("rm.eval-comparisons", config.rm.eval_comparisons, 1),
        ("rm.eval-every", config.rm.eval_every, 1),
        ("rm.normalisation-samples", config.rm.normalisation_samples, 2),
        ("ppo.num-iterations", ppo.num_iterations, 1),
        ("ppo.rollout-batch-size", ppo.rollout_batch_size, 1),
        ("ppo.num-epochs", ppo.num_epochs, 1),
        ("ppo.num-minibatches", ppo.num_minibatches, 1),
        ("ppo.microbatch-size", ppo.microbatch_size, 1),
        ("ppo.min-new-tokens", ppo.min_new_tokens, 0),
        ("ppo.save-every", ppo.save_every, 1),
        ("ppo.ptx-batch-size", ppo.ptx_batch_size, 1),
        ("eval.every", config.eval.every, 1),
        ("eval.prompts", config.eval.prompts, 1),
        ("eval.final-prompts", config.eval.final_prompts, 1),
        ("eval.samples", config.eval.samples, 0),
        ("seed", config.seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    for name, number, low, high in (
        ("sft.policy.lr", config.sft.policy.lr, 0, None),
        ("sft.reward.lr", config.sft.reward.lr, 0, None),
        ("sft.policy.weight-decay", config.sft.policy.weight_decay, 0, None),
        ("sft.reward.weight-decay", config.sft.reward.weight_decay, 0, None),
        ("sft.policy.warmup", config.sft.policy.warmup, 0, 1),
        ("sft.reward.warmup", config.sft.reward.warmup, 0, 1),
        ("rm.lr", config.rm.lr, 0, None),
        ("rm.weight-decay", config.rm.weight_decay, 0, None),
        ("rm.warmup", config.rm.warmup, 0, 1),
        ("rm.token-dropout", config.rm.token_dropout, 0, 0.9),
        ("rm.label-smoothing", config.rm.label_smoothing, 0, 0.5),
        ("rm.dropout", config.rm.dropout, 0, 0.9),
        ("ppo.lr", ppo.lr, 0, None),
        ("ppo.weight-decay", ppo.weight_decay, 0, None),
        ("ppo.kl-coef", ppo.kl_coef, 0, None),
        ("ppo.gamma", ppo.gamma, 0, 1),
        ("ppo.lam", ppo.lam, 0, 1),
        ("ppo.clip-low", ppo.clip_low, 0, 1),
        ("ppo.clip-high", ppo.clip_high, 0, None),
        ("ppo.value-coef", ppo.value_coef, 0, None),
        ("ppo.entropy-coef", ppo.entropy_coef, 0, None),
        ("ppo.ptx-coef", ppo.ptx_coef, 0, None),
        ("ppo.warmup", ppo.warmup, 0, 1),
        ("ppo.adam-beta2", ppo.adam_beta2, 0, 0.999999),
    ):
        if not number >= low or (high is not None and number > high):
            raise ValueError(f"{name} must be {f'from {low} to {high}' if high else f'{low} or more'}, not {number}")
    for name, number in (
        ("ppo.kl-target", ppo.kl_target),
        ("ppo.kl-horizon", ppo.kl_horizon),
        ("ppo.value-clip", ppo.value_clip),
        ("ppo.score-clip", ppo.score_clip),
        ("ppo.max-approx-kl", ppo.max_approx_kl),
        ("ppo.max-ratio", ppo.max_ratio),
        ("ppo.adam-eps", ppo.adam_eps),
        ("ppo.temperature", ppo.temperature),
        ("ppo.max-grad-norm", ppo.max_grad_norm),
        ("rm.max-grad-norm", config.rm.max_grad_norm),
        ("sft.policy.max-grad-norm", config.sft.policy.max_grad_norm),
        ("sft.reward.max-grad-norm", config.sft.reward.max_grad_norm),
    ):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be above 0, not {number}")
    given = [name for name in ("demonstrations", "preferences", "prompts") if getattr(data, name)]
    if given and data.source != "files":
        raise ValueError(f"data.{given[0]} is {getattr(data, given[0])}, but data.source is {data.source}, not files")
    if data.source == "files" and not given:
        raise ValueError(
            "data.source is files, but none of data.demonstrations, data.preferences, data.prompts is given"
        )
    if not 0 < data.hold_out < 1:
        raise ValueError(f"data.hold-out must be above 0 and below 1, not {data.hold_out}")
    if not data.train_split or not data.test_split or data.train_split == data.test_split:
        raise ValueError(
            f"data.train-split and data.test-split must be two names, not {data.train_split!r} and {data.test_split!r}"
        )
    if data.limit == 1:
        raise ValueError("data.limit must be 0 for all, or at least 2, since one demonstration is held out; not 1")
    if ppo.missing_eos == "subtract" and ppo.missing_eos_score < 0:
        raise ValueError(
            f"ppo.missing-eos subtract takes off ppo.missing-eos-score, so {ppo.missing_eos_score} is praise"
        )
    B, minibatches, M = ppo.rollout_batch_size, ppo.num_minibatches, ppo.microbatch_size
    if B % minibatches:
        raise ValueError(f"{minibatches} minibatches do not divide a rollout of {B} (ppo.rollout-batch-size)")
    if (B // minibatches) % M:
        raise ValueError(f"microbatches of {M} do not divide a minibatch of {B} / {minibatches} = {B // minibatches}")
    if not policy.weights:  # public ones bring a context of their own
        check_context(data, policy.context, "model.policy.context")
    if ppo.min_new_tokens > data.response_length:
        raise ValueError(f"ppo.min-new-tokens {ppo.min_new_tokens} exceeds responses of {data.response_length} tokens")
    for name, backbone in (("policy", policy), ("reward", config.model.reward)):
        if min(backbone.layers, backbone.heads, backbone.channels, backbone.context) < 1:
            raise ValueError(f"model.{name}: layers, heads, channels and context must be at least 1")
        if backbone.channels % backbone.heads:
            raise ValueError(
                f"model.{name}: {backbone.channels} channels cannot be divided among {backbone.heads} heads"
            )


def check_context(data: DataConfig, context: int, source: str) -> None:
    """Raise ValueError unless the longest prompt and response fit into the policy's context, which `source` sets."""
    if data.query_length + data.response_length > context:
        raise ValueError(
            f"prompts of {data.query_length} tokens and responses of {data.response_length} do not fit the policy's "
            f"context of {context} (data.query-length, data.response-length, {source})"
        )
