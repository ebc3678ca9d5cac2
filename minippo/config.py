"""All hyperparameters of the three training stages, with their defaults, bounds and documentation.

Every field is an option of the command line: `ppo.kl_coef` is `--ppo.kl-coef`. A preset is a YAML file in
`minippo/configs/` that lists the fields it changes. Whatever the bounds of a field are, its value must be a number
that training can compute with (`LARGEST_INTEGER`, `SMALLEST_FLOAT`, `LARGEST_FLOAT`); a sensible value is far from all
three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

LARGEST_INTEGER = 10**15
SMALLEST_FLOAT, LARGEST_FLOAT = 1e-30, 1e30
"""Sizes of floats other than 0. Training computes in float32, which holds 1e-38 to 3e38."""


@dataclass(frozen=True)
class Bounds:
    """The values that a numeric field accepts: from `low` to `high`, including both unless `exclusive`."""

    low: float
    high: float = math.inf
    exclusive: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low < value < self.high if self.exclusive else self.low <= value <= self.high

    def __str__(self) -> str:
        """The end of "must be ...", for error messages."""
        if self.high == math.inf:
            return f"above {self.low}" if self.exclusive else f"at least {self.low}"
        return f"above {self.low} and below {self.high}" if self.exclusive else f"from {self.low} to {self.high}"


# `Positive | None` would be a typing.Union instead of a plain `float | None`, hence `PositiveOrNone`.
Count = Annotated[int, Bounds(1)]
CountOrZero = Annotated[int, Bounds(0)]
Positive = Annotated[float, Bounds(0, exclusive=True)]
PositiveOrNone = Annotated[float | None, Bounds(0, exclusive=True)]
NonNegative = Annotated[float, Bounds(0)]
Fraction = Annotated[float, Bounds(0, 1)]
DropRate = Annotated[float, Bounds(0, 0.9)]

Seed = Annotated[int, Bounds(0, 2**32 - 1)]
Temperature = Annotated[float, Bounds(0.01)]  # below 0.01 nearly all probabilities are 0 or 1: nothing to learn from


@dataclass(frozen=True)
class DataConfig:
    """Training and evaluation data."""

    source: Literal["reviews", "imdb", "files"] = "reviews"
    """Corpus: the bundled reviews, the IMDB reviews of Maas et al. (2011), or your own files (docs/data.md)."""
    folder: str = "data"
    """Folder of the bundled reviews."""
    imdb_path: str = "stanfordnlp/imdb"
    """Hub name of the IMDB dataset, or a folder with train.parquet, test.parquet and unsupervised.parquet."""
    demonstrations: str = ""
    """For source=files: texts to imitate. A JSON, CSV or Parquet file, a folder of such files, or a dataset on the hub
    ("owner/name" or "owner/name:subset"). docs/data.md lists the columns. If empty, the preferred answers of the
    preferences are used."""
    preferences: str = ""
    """For source=files: comparisons to train the reward model on, in the same types of files."""
    prompts: str = ""
    """For source=files: prompts for PPO, in the same types of files. If empty, the prompts of the preferences are used,
    or those of the demonstrations if the preferences have none."""
    train_split: str = "train"
    """For source=files: name of the training split, as in the file names or in the hub dataset."""
    validation_split: str = "validation"
    """For source=files: name of the split for evaluations during training. Hyperparameters may be tuned on it."""
    test_split: str = "test"
    """For source=files: name of the split for the final results."""
    hold_out: Annotated[float, Bounds(0, 1, exclusive=True)] = 0.05
    """For source=files without a test split: fraction of the preferences and of the prompts to hold out for testing.
    Without a validation split, the same fraction of the remaining examples is held out for validation."""
    unusable: Literal["drop", "refuse"] = "drop"
    """What to do with examples that are empty, unreadable, tied or too long: "drop" leaves them out and reports how
    many; "refuse" stops before training."""
    query_length: Count = 24
    """P, the maximum prompt length in tokens."""
    response_length: Count = 64
    """R, the maximum response length in tokens."""
    ignore: str = ""
    """For source=files: columns not to read, separated by commas. Text in a column that is not read is an error unless
    the column is listed here."""
    crop_words: Count = 100
    """For IMDB and other labelled texts: number of words of a text that the reward model is trained on. Choose about
    the length of the texts that it will score during PPO."""
    min_crop_words: CountOrZero = 0
    """If above 0, crops for training have a random number of words, from this to `crop_words`, so that the reward model
    knows what short texts are worth; otherwise PPO may find that it overrates them. Held-out crops have `crop_words`
    words in any case."""
    limit: CountOrZero = 0
    """Use only the first `limit` demonstrations and comparisons (for the bundled reviews: `limit` pairs and `limit`
    rankings). 0 uses all."""
    seed: Annotated[int | None, Bounds(0, 2**32 - 1)] = None
    """Seed of the order, the pairs and the held-out rows of IMDB and of your own files. None: `seed`. Give runs with
    other seeds the same `data.seed`, and they have the same splits."""


@dataclass(frozen=True)
class BackboneConfig:
    """A transformer and its tokenizer."""

    tokenizer: str
    """A tiktoken encoding ("gpt2"), a file in tiktoken's format, a folder with GPT-2-style vocab.json and merges.txt,
    a model on the hub with such files ("facebook/opt-125m"), or "train:4096" to train a byte-level BPE tokenizer with
    4096 ids on the demonstrations."""
    weights: str = ""
    """Pretrained GPT-2 or OPT weights: a hub name ("gpt2", "facebook/opt-125m"), or a folder with config.json and
    model.safetensors or pytorch_model.bin. They determine all sizes, including the context. Empty: train from
    scratch."""
    layers: Count = 2
    """Number of transformer blocks."""
    heads: Count = 4
    """Number of attention heads. Must divide `channels`."""
    channels: Count = 128
    """Width of the residual stream."""
    context: Count = 128
    """Maximum sequence length in tokens."""
    activation: Literal["gelu_new", "relu"] = "relu"
    """MLP activation: gelu_new (GPT-2) or relu (OPT, about 20 % faster on a CPU)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and activations of the transformer. bfloat16 takes half the memory, and each number is rounded to 8
    significant bits. Training updates float32 copies of the weights in CPU memory; heads, log-probabilities and losses
    are float32 in any case. Each stage stores what the model computes with, bfloat16; its checkpoints also have the
    float32 copies."""


@dataclass(frozen=True)
class ModelConfig:
    """The two transformers. They may differ in tokenizer, size and family."""

    policy: BackboneConfig = field(default_factory=lambda: BackboneConfig("data/policy.tiktoken", channels=96))
    """Backbone of the policy (with the value head) and of the reference."""
    reward: BackboneConfig = field(default_factory=lambda: BackboneConfig("data/reward.tiktoken", channels=64))
    """Backbone of the reward model."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a learning-rate schedule, as used by all three stages."""

    lr: NonNegative = 5e-3
    """Peak learning rate."""
    warmup: Fraction = 0.05
    """Fraction of training (steps; iterations in PPO) over which the learning rate rises linearly to its peak."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warm-up: linear or cosine decay to 0, or constant."""
    weight_decay: NonNegative = 0.01
    """Weight decay of the weight matrices. Biases and layer norms are not decayed."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""


@dataclass(frozen=True, kw_only=True)
class LMTrainConfig(OptimizerConfig):
    """Language-model training."""

    tokens: CountOrZero
    """Number of training tokens. The demonstrations are repeated as often as needed. 0 skips the training."""
    batch_tokens: Count = 1536
    """Approximate number of tokens per step."""
    save_every: Count = 500
    """Steps between two checkpoints."""


@dataclass(frozen=True)
class SFTConfig:
    """Stage 1: language-model training on the demonstrations. The policy learns to predict completions, the backbone of
    the reward model also prompts."""

    policy: LMTrainConfig = field(default_factory=lambda: LMTrainConfig(tokens=1_800_000, batch_tokens=1024))
    """Trains the reference policy."""
    reward: LMTrainConfig = field(default_factory=lambda: LMTrainConfig(tokens=500_000))
    """Warm-starts the backbone of the reward model, with the reward model's own tokenizer."""


@dataclass(frozen=True)
class RMConfig(OptimizerConfig):
    """Stage 2: reward-model training on preference pairs and rankings."""

    lr: NonNegative = 1.5e-3
    objective: Literal["comparisons", "labels"] = "comparisons"
    """What is learned: which completion of a comparison is the better one (Bradley-Terry); or, from texts with labels
    (IMDB, labelled files), the label of each text by itself. The score of such a classifier is its probability of label
    1 (preferred, positive), from 0 to 1, and is not normalised."""
    fraction: Annotated[float, Bounds(1e-6, 1)] = 1.0
    """Fraction of the training comparisons to use, chosen at random. The comparisons of a smaller fraction are among
    those of a larger one. Texts with labels are then paired once, not anew in every epoch."""
    epochs: Count = 1
    """Passes over the comparisons."""
    batch_size: Count = 20
    """Comparisons per step."""
    dropout: DropRate = 0.0
    """Dropout rate during training."""
    averaging: Annotated[float, Bounds(0, 0.999999)] = 0.0
    """Decay per step of a running mean of the weights (Polyak & Juditsky 1992), such as 0.998. Accuracy is measured
    with these averaged weights, and they are the result. 0: no averaging."""
    token_dropout: DropRate = 0.0
    """Fraction of the input tokens to mask during training, as regularization against memorizing texts."""
    margin: float = 0.0
    """Subtracted from the difference between the chosen and the rejected score in the loss. Labels have none."""
    label_smoothing: Annotated[float, Bounds(0, 0.5)] = 0.0
    """Assumed fraction of wrong labels."""
    eval_comparisons: Count = 4600
    """Number of comparisons for measuring accuracy, both of the validation split (during training) and of the test
    split (at the end)."""
    eval_every: Count = 700
    """Steps between two measurements of the validation accuracy."""
    normalisation_samples: Annotated[int, Bounds(2)] = 512
    """Number of reference responses used to normalise the scores to mean 0 and variance 1 after training. Not used with
    `objective` labels."""
    normalise_before: bool = False
    """Also normalise the scores before training (Ziegler et al. 2019)."""
    save_every: Count = 500
    """Steps between two checkpoints."""


@dataclass(frozen=True)
class PPOConfig(OptimizerConfig):
    """Stage 3: PPO against the reward model. An iteration consists of epochs, minibatches and microbatches."""

    lr: NonNegative = 5e-4
    warmup: Fraction = 0.0
    weight_decay: NonNegative = 0.0
    adam_beta2: Annotated[float, Bounds(0, 0.999999)] = 0.999
    """Decay rate of Adam's second-moment estimate."""
    adam_eps: Positive = 1e-5
    """Adam's epsilon, added to the square root of the second moment (1e-5 in Huang et al. 2024)."""
    tensorflow_eps: bool = False
    """Add epsilon before the bias correction, as TensorFlow's Adam does (used by Ziegler et al. 2019)."""
    scorer: str = ""
    """Your own reward function as "package.module:function". It takes B prompts and B responses (two lists of strings)
    and returns B scores. Empty: use the reward model of stage 2."""
    num_iterations: Count = 56
    """Number of iterations. Each one samples a rollout and updates the policy on it."""
    rollout_batch_size: Count = 128
    """B, the number of responses per rollout."""
    samples_per_prompt: Count = 1
    """K, the responses to each prompt of a rollout, which then has B / K prompts. Must divide `rollout_batch_size`."""
    advantage: str = "gae"
    """Advantage estimator, a row of the table in minippo/advantages.py: "gae", with a critic; or, without one, "group"
    (GRPO), "leave-one-out" (RLOO) or "batch" (REINFORCE), for which the options of the value function mean nothing. See
    docs/variants.md."""
    num_epochs: Count = 2
    """Passes over each rollout."""
    num_minibatches: Count = 2
    """Optimizer steps per epoch. Must divide `rollout_batch_size`."""
    microbatch_size: Count = 32
    """M, the rows per forward pass. Must divide the minibatch; gradients are accumulated over it."""
    kl_coef: NonNegative = 0.08
    """Coefficient of the per-token KL penalty. If `kl_target` is set, its initial value."""
    kl_target: PositiveOrNone = None
    """Adapt the KL coefficient to keep the KL per sequence near this value, in nats (Ziegler et al. 2019). None: keep
    the coefficient fixed."""
    kl_horizon: Positive = 10_000
    """Time constant of the adaptation, in sequences. At least one rollout is used."""
    kl_placement: Literal["reward", "loss"] = "reward"
    """Where the KL penalty is: in the reward of each token, which the advantages are computed from (Ziegler et al.
    2019), or a term of the loss, next to advantages of the score alone (GRPO, Shao et al. 2024)."""
    kl_estimate: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of the KL in the penalty (Schulman 2020). The penalty's gradient is that of the KL with k1 in the reward
    and with k2 in the loss; others differ (docs/variants.md). GRPO uses k3 in the loss; k1 there would have no effect
    and is refused."""
    gamma: Fraction = 1.0
    """Discount factor per token. Only GAE discounts."""
    lam: Fraction = 0.98
    """GAE's lambda. 0 relies on the value function (low variance), 1 on the observed rewards (low bias)."""
    whiten_advantages: bool = True
    """Normalise the advantages of each minibatch to mean 0 and variance 1. GRPO and RLOO do not: their advantages are
    centred already."""
    whiten_rewards: bool = False
    """Scale the rewards of each rollout to variance 1, keeping their mean."""
    clip_low: Fraction = 0.2
    """The probability ratio is clipped below at 1 - clip_low."""
    clip_high: NonNegative = 0.2
    """The probability ratio is clipped above at 1 + clip_high."""
    loss_normalisation: Literal["token", "sequence"] = "token"
    """Average the losses and statistics of a minibatch over all its tokens, or over the tokens of each response and
    then over the responses (GRPO, Shao et al. 2024, eq. 3), so that tokens of short responses have more weight."""
    value_clip: PositiveOrNone = 0.2
    """Clip the change of a value within one iteration to this range in the value loss. None: no clipping."""
    value_coef: NonNegative = 0.5
    """Weight of the value loss."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    value_head: Literal["linear", "mlp"] = "linear"
    """Value head: one linear layer, or two with a GELU in between. Both initially output 0."""
    max_approx_kl: PositiveOrNone = None
    """Stop an iteration's epochs early, without taking the step, once a minibatch's approximate KL to the rollout's
    policy exceeds this. None: never."""
    max_ratio: PositiveOrNone = None
    """Skip the step of a minibatch whose mean probability ratio exceeds this. None: never."""
    ptx_coef: NonNegative = 0.0
    """Weight of the language-model loss on demonstrations added to every step (PPO-ptx, Ouyang et al. 2022, eq. 2)."""
    ptx_batch_size: Count = 32
    """Demonstrations per step for that loss."""
    temperature: Temperature = 0.7
    """Sampling temperature (0.5 to 0.7 in Ziegler et al. 2019). Applied to the log-probabilities of both the policy and
    the reference."""
    min_new_tokens: CountOrZero = 0
    """Minimum response length in tokens: end tokens are suppressed before."""
    stop_token: str = ""
    """A token of the policy that also ends a response, given as text (for example "."). Like end-of-text, it is
    suppressed for the first `min_new_tokens` tokens. Empty: only end-of-text ends a response."""
    missing_eos: Literal["off", "replace", "subtract"] = "off"
    """How to penalise responses that do not end within `data.response_length`: not at all, by replacing their score
    with `missing_eos_score`, or by subtracting `missing_eos_score` from it."""
    missing_eos_score: float = -1.0
    """The score or the amount for `missing_eos`."""
    score_clip: PositiveOrNone = None
    """Clip scores to [-score_clip, score_clip], before `missing_eos` is applied. None: no clipping."""
    save_every: Count = 14
    """Iterations between two checkpoints."""


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation of the policy during and after PPO."""

    every: Count = 7
    """Iterations between two evaluations on the validation split."""
    prompts: Count = 128
    """Validation prompts per evaluation."""
    final_prompts: Count = 512
    """Test prompts of the final evaluation."""
    samples: CountOrZero = 3
    """Number of prompts to show with their responses."""


@dataclass(frozen=True)
class MemoryConfig:
    """What a GPU need not hold all the time. In float32, none of these options changes a result; without a GPU they
    save little. They may change at any time, also when a run is resumed. docs/performance.md has figures."""

    checkpoint_activations: bool = False
    """Keep only the input of each transformer block for the backward pass, which computes the block again. Saves most
    of the memory of a training step that grows with the batch; costs one more forward pass per step, about a third of
    its time."""
    offload_gradients: bool = False
    """Move each gradient to the CPU as soon as the backward pass has computed it, where they add up in float32. Saves
    the memory of one gradient per trained weight on the GPU; costs 4 bytes of CPU memory per weight, and copies that
    overlap the backward pass. With bfloat16, the sums are more precise and results differ."""
    park_models: bool = False
    """Keep the reference and the reward model in CPU memory, and put each on the GPU only while it is used. Saves
    their weights during sampling and updates; costs a copy of the weights per rollout and evaluation batch."""


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    rm: RMConfig = field(default_factory=RMConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    seed: Seed = 1
    """Random seed. It determines all results."""
