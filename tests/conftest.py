"""What several files share: a small tokenizer, a small policy that ends some of its responses, and a scorer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiktoken
import torch
from hypothesis import settings

from minippo.config import PPOConfig
from minippo.data import TokenGroups, TokenRows
from minippo.heads import ActorCritic
from minippo.model import GPT, GPTConfig
from minippo.tokenizer import Tokenizer, train_bpe
from minippo.tokenizer.bpe import GPT2_SPLIT

if TYPE_CHECKING:
    from tests.pipeline.tiny_run import TinyRuns

if settings.get_current_profile_name() == "default":  # tests/mutants/run.py has one of its own
    settings.register_profile("tests", deadline=None, derandomize=True)  # a busy machine is no failure
    settings.load_profile("tests")
torch.set_num_threads(1)  # the models are so small that threads only wait for each other

pytest.register_assert_rewrite("tests.pipeline.exact_effects")  # so that its failures show the values

_CACHE = tempfile.TemporaryDirectory()  # for this run of the tests alone, gone when it ends
os.environ["XDG_CACHE_HOME"] = _CACHE.name

TEXTS = (
    "The plot is gripping and the café scenes are lovely. I could have watched for hours.",
    "The music is shrill, the lines are corny and I nearly fell asleep. What a sorry mess!",
    "Naïve but charming: 5 stars for the heroine, and the naïveté of the ending.",
)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level vocabulary in which some characters take two tokens."""
    return train_bpe(TEXTS, 300)


@pytest.fixture(scope="session")
def token_rows() -> Callable[[Sequence[list[int]]], TokenRows]:
    """Rows of ids in memory, without prompts unless their lengths are given."""

    def make(rows: Sequence[list[int]], prompt_lengths: Sequence[int] | None = None) -> TokenRows:
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        starts = ends - np.array([len(row) for row in rows], np.int64)
        prompts = np.zeros_like(ends) if prompt_lengths is None else np.array(prompt_lengths)
        return TokenRows(np.array([token for row in rows for token in row], np.uint16), starts, ends, prompts)

    return make


@pytest.fixture(scope="session")
def token_groups(token_rows) -> Callable[[Sequence[list[list[int]]]], TokenGroups]:
    """Groups of rows of ids in memory."""

    def make(groups: Sequence[list[list[int]]]) -> TokenGroups:
        sizes = np.array([len(group) for group in groups], np.int64)
        longest = np.array([max(map(len, group)) for group in groups], np.int64)
        return TokenGroups(
            token_rows([row for group in groups for row in group]), sizes.cumsum() - sizes, sizes, longest
        )

    return make


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Tokenizer]:
    """Tokenizers of the 256 bytes, of `more` tokens with the ranks after them, and of special tokens by their ids."""

    def make(special: dict[str, int], more: Sequence[bytes] = (), pattern: str = GPT2_SPLIT) -> Tokenizer:
        ranks = {token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *more])}
        encoding = tiktoken.Encoding("made", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        return Tokenizer(encoding, special)

    return make


@pytest.fixture(scope="session")
def make_policy(tokenizer: Tokenizer) -> Callable[..., ActorCritic]:
    """Policies whose log-probabilities and values vary, and which draw end-of-text with a chance of about one fifth."""

    def make(seed: int = 0, *, dropout: float = 0.0, context: int = 48, eos_logit: float = 5.0) -> ActorCritic:
        torch.manual_seed(seed)
        shape = GPTConfig(tokenizer.vocab_size, context, layers=2, heads=2, channels=16, dropout=dropout)
        policy = ActorCritic(GPT(shape))
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.dim() == 2:
                    parameter.normal_(std=0.2)
            end = policy.gpt.token_embedding.weight[tokenizer.eos_id]
            policy.gpt.final_norm.bias.copy_(eos_logit * end / (end @ end))
        return policy

    return make


@pytest.fixture(scope="session")
def queries(tokenizer: Tokenizer) -> list[list[int]]:
    """24 prompts of 1 to 12 tokens."""
    ids = tokenizer.encode(" ".join(TEXTS))
    return [ids[3 * row : 3 * row + 1 + row % 12] for row in range(24)]


@pytest.fixture(scope="session")
def scorer() -> Callable[[list[str], list[str]], torch.Tensor]:
    """A score between -2 and 2 from the bytes of prompt and response, another one for nearly every text."""

    def score(prompts: list[str], responses: list[str]) -> torch.Tensor:
        sums = [
            sum((place + 1) * byte for place, byte in enumerate((prompt + "|" + response).encode()))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return torch.tensor([(total % 401) / 100 - 2 for total in sums])

    return score


@pytest.fixture
def ppo_config() -> PPOConfig:
    """24 rows: 3 minibatches of 8, in microbatches of 4."""
    return PPOConfig(
        num_iterations=10,
        rollout_batch_size=24,
        num_epochs=2,
        num_minibatches=3,
        microbatch_size=4,
        kl_coef=0.2,
        temperature=1.0,
    )


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory) -> TinyRuns:
    """Runs of all three stages that take a second each, on four kinds of corpus."""
    from tests.pipeline.tiny_run import TinyRuns  # imports the scripts, which few tests need

    return TinyRuns(tmp_path_factory.mktemp("tiny-runs"))
