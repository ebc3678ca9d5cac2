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
    validation_split: str = "validation"
    """Files: the name of the split that is held out for evaluation during training, on which settings may be chosen."""
    test_split: str = "test"
    """Files: the name of the split that is held out for the reported figures."""
    hold_out: float = 0.05
    """Files: the share of the preferences, and of the prompts, that is held out for testing if the data has no such
    split; and the share of the others that is held out for validation if it has none for that."""
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
    """Use only the first so many demonstrations and the first so many comparisons (of the bundled reviews, so many
    pairs and so many rankings); 0 uses all."""


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
class LMTrainConfig:
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

    policy: LMTrainConfig = field(default_factory=lambda: LMTrainConfig(tokens=1_000_000, lr=8e-3))
    """Makes the reference policy."""
    reward: LMTrainConfig = field(default_factory=lambda: LMTrainConfig(tokens=500_000))
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
    """Comparisons for the accuracy: of the validation split during training, of the test split at the end."""
    eval_every: int = 700
    """Steps between two measurements of the validation accuracy."""
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
    """Sequences over which the coefficient adapts; at least one rollout."""
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
    """Hold the scorer's scores within -score_clip and score_clip; missing_eos is applied afterwards. None: no limit."""
    save_every: int = 14
    """Iterations between two checkpoints."""


@dataclass(frozen=True)
class EvalConfig:
    """What a run is measured on."""

    every: int = 7
    """Iterations between two evaluations."""
    prompts: int = 128
    """Validation prompts of an evaluation during training."""
    final_prompts: int = 512
    """Test prompts of the evaluation at the end."""
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
