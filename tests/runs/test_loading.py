"""Models of earlier stages, as later stages use them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minippo.config import Config, DataConfig, MemoryConfig, PPOConfig
from minippo.heads import RewardModel
from minippo.model import GPT, GPTConfig
from minippo.runs import Run, load_environment, load_policy, load_run_scorer, sampling_params
from minippo.sampling import SamplingParams
from minippo.scoring import FunctionScorer
from minippo.tokenizer import train_bpe
from minippo.weights import save_model
from tests.stored import sealed_stage

CONFIG = Config(
    data=DataConfig(query_length=9, response_length=7),
    ppo=PPOConfig(temperature=0.8, min_new_tokens=2, stop_token="."),
)


def score_by_length(prompts: list[str], responses: list[str]) -> torch.Tensor:
    return torch.tensor([float(len(response)) for response in responses])


@pytest.fixture
def run(tmp_path, tokenizer, make_policy):
    """A run with all three stages: no two models and no two tokenizers are the same."""
    run = Run(tmp_path / "run", CONFIG, "cpu")
    run.folder.mkdir()
    save_model(make_policy(1, dropout=0.2), run.stage("sft") / "policy")
    save_model(make_policy(2), run.stage("ppo") / "policy")
    reward_tokenizer = train_bpe(["A dull film.", "A lovely film."], 270)
    run.save_tokenizers(tokenizer, reward_tokenizer)
    torch.manual_seed(3)
    save_model(RewardModel(GPT(GPTConfig(270, 64, layers=1, heads=2, channels=8, dropout=0.2))), run.stage("rm"))
    for stage in ("sft", "rm", "ppo"):
        sealed_stage(run.stage(stage))
    return run


def test_sampling_parameters_are_those_of_the_settings(make_tokenizer):
    tokenizer = make_tokenizer({"<|endoftext|>": 256, "<pad>": 257})
    tokenizer.pad_id = 257  # unlike the end-of-text
    (stop,) = tokenizer.encode(".")
    expected = SamplingParams(
        max_new_tokens=7, eos_id=256, pad_id=257, stop_ids=(stop,), temperature=0.8, min_new_tokens=2
    )
    assert sampling_params(CONFIG, tokenizer) == expected
    assert expected.end_ids == (256, stop)
    without = replace(CONFIG, ppo=replace(CONFIG.ppo, stop_token=""))
    assert sampling_params(without, tokenizer) == replace(expected, stop_ids=())


def test_environment_has_the_frozen_policy_of_stage_1_and_the_frozen_reward_model(run, tokenizer, make_policy):
    env = load_environment(run)
    assert env.sampling == sampling_params(CONFIG, tokenizer)
    assert env.tokenizer.vocab_size == tokenizer.vocab_size
    assert env.scorer.tokenizer.vocab_size == 270
    tokens = torch.arange(6).view(1, 6)
    assert torch.equal(env.reference.gpt(tokens), make_policy(1).gpt(tokens))  # dropout is off
    for model in (env.reference, env.scorer.reward_model):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("policy", "reward"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_transformers_have_the_dtypes_of_the_settings_and_heads_are_float32(run, policy, reward):
    model = CONFIG.model
    dtypes = {"policy": replace(model.policy, dtype=policy), "reward": replace(model.reward, dtype=reward)}
    run.config = replace(CONFIG, model=replace(model, **dtypes))
    env = load_environment(run)
    loaded = {
        "policy": [env.reference, load_policy(run, "sft"), load_policy(run, "ppo")],
        "reward": [env.scorer.reward_model],
    }
    for name, models in loaded.items():
        for model in models:
            expected = getattr(torch, getattr(run.config.model, name).dtype)
            assert {p.dtype for p in model.gpt.parameters()} == {expected}
            others = [p for key, p in model.state_dict().items() if not key.startswith("gpt.")]
            assert {p.dtype for p in others} == {torch.float32}


@pytest.mark.parametrize("parked", [False, True])
def test_frozen_models_are_parked_if_the_settings_say_so_and_the_policy_never(run, parked):
    run.config = replace(CONFIG, memory=MemoryConfig(park_models=parked))
    env = load_environment(run)
    for model in (env.reference, env.scorer.reward_model):
        assert vars(model).get("parked_for") == (run.device if parked else None)
    assert "parked_for" not in vars(load_policy(run, "sft"))


def test_policy_of_a_stage_can_be_trained_and_has_the_value_head_that_is_asked_for(run, make_policy):
    tokens = torch.arange(6).view(1, 6)
    for stage, seed in (("sft", 1), ("ppo", 2)):
        policy = load_policy(run, stage)
        assert torch.equal(policy.eval().gpt(tokens), make_policy(seed).gpt(tokens))
        assert all(parameter.requires_grad for parameter in policy.parameters())
    (run.stage("sft") / "policy" / "heads.safetensors").unlink()  # stage 1 trains no critic
    sealed_stage(run.stage("sft"))
    assert isinstance(load_policy(run, "sft", "mlp").value_head, torch.nn.Sequential)
    assert isinstance(load_policy(run, "sft").value_head, torch.nn.Linear)


def test_a_function_scores_instead_of_the_reward_model_if_the_settings_name_one(run):
    name = f"{__name__}:score_by_length"
    run.config = replace(CONFIG, ppo=replace(CONFIG.ppo, scorer=name))
    scorer = load_run_scorer(run, name)
    assert isinstance(scorer, FunctionScorer)
    assert scorer(["a"], ["four"]).tolist() == [4]


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_damaged_weights_are_refused_with_their_name(run, stage):
    folder = run.stage(stage) if stage == "rm" else run.stage(stage) / "policy"
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1  # a number in the last tensor, and still a number
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{folder / 'model.safetensors'} is damaged: its SHA-256 is not the one"):
        load_run_scorer(run) if stage == "rm" else load_policy(run, stage)


def test_a_damaged_tokenizer_is_refused_with_its_name(run):
    path = run.folder / "tokenizers" / "reward.tiktoken"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=rf"^{path} is damaged: it has [\d,]+ bytes instead of the [\d,]+ in manifest.json$"
    ):
        run.tokenizers()


def test_models_are_only_used_with_the_tokenizers_they_were_trained_with(run):
    load_policy(run, "ppo")
    load_run_scorer(run)
    run.save_tokenizers(*reversed(run.tokenizers()))
    for stage in ("sft", "ppo"):
        with pytest.raises(ValueError, match=rf"^{run.stage(stage)}/policy was not trained with its tokenizer"):
            load_policy(run, stage)
    with pytest.raises(ValueError, match=rf"^{run.stage('rm')} was not trained with its tokenizer"):
        load_run_scorer(run)
