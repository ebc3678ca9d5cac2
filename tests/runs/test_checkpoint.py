"""A checkpoint brings back all that a run is, bit for bit, and is either whole or not there."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minippo import storage
from minippo.batches import BatchStream, EpochStream
from minippo.config import LMTrainConfig
from minippo.errors import TrainingError
from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW, param_groups
from minippo.ppo import ppo_update
from minippo.rollout import collect_rollout
from minippo.runs import Checkpoints, checkpoint, restore
from minippo.state import PPOState, TrainState
from minippo.weights import format as weight_files
from minippo.weights import load_actor_critic, load_reward_model, save_model
from tests.environment import environment


@pytest.fixture
def make_state(make_policy, queries, token_rows):
    def make(policy_seed=0, seed=3) -> PPOState:
        policy = ActorCritic(make_policy(policy_seed).gpt, "mlp")
        optimizer = CPUAdamW(param_groups(policy.parameters(), 0.01), 1e-3, (0.9, 0.99), 1e-5)
        prompts = BatchStream(queries, 24, 1, "prompts")
        demonstrations = BatchStream(token_rows([row for row in queries if len(row) > 1]), 8, 2, "demonstrations")
        return PPOState(policy, optimizer, seed, prompts, 0.2, demonstrations=demonstrations)

    return make


@pytest.fixture
def advance(make_policy, tokenizer, scorer, ppo_config):
    """One iteration of PPO; returns all that it found."""
    config = replace(ppo_config, kl_target=3.0, kl_horizon=100.0, lr=0.01, ptx_coef=0.5)

    def advanced(state: PPOState):
        rollout = collect_rollout(
            state, environment(make_policy(1), scorer, tokenizer, config, 8), next(state.prompts), config
        )
        found = ppo_update(state, rollout, config)
        state.iteration += 1
        return rollout.prompt_texts, rollout.response_texts, found, state.kl_coef

    return advanced


def same_weights(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_restored_run_goes_on_bit_for_bit(make_state, advance, tmp_path):
    """Weights, moments, schedule, both random draws, place in the prompts and KL coefficient: any lost one shows."""
    state = make_state()
    advance(state)
    advance(state)
    place = Checkpoints(tmp_path).save(state)
    expected = [advance(state), advance(state)]

    other = make_state(policy_seed=5, seed=77)
    other.kl_coef = 9.0
    restore(other, place)
    assert (other.iteration, other.prompts.rows_drawn, other.demonstrations.rows_drawn) == (2, 48, 2 * 6 * 8)
    assert [advance(other), advance(other)] == expected
    assert same_weights(other.policy, state.policy)
    for ours, theirs in zip(
        other.optimizer.state_dict()["state"].values(), state.optimizer.state_dict()["state"].values(), strict=True
    ):
        assert ours.keys() == theirs.keys()
        assert all(
            torch.equal(ours[key], theirs[key]) if torch.is_tensor(ours[key]) else ours[key] == theirs[key]
            for key in ours
        )


def test_restoring_keeps_the_parameters_that_the_optimizer_holds(make_state, advance, tmp_path):
    state = make_state()
    advance(state)
    place = Checkpoints(tmp_path).save(state)
    other = make_state(policy_seed=5)
    held = [parameter for group in other.optimizer.param_groups for parameter in group["params"]]
    restore(other, place)
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in other.policy.parameters()}
    assert [group["weight_decay"] for group in other.optimizer.param_groups] == [0.01, 0.0]


def test_run_that_has_not_begun_can_be_saved_and_restored(make_state, advance, tmp_path):
    state = make_state()
    place = Checkpoints(tmp_path).save(state)
    other = make_state(policy_seed=5, seed=8)
    restore(other, place)
    assert advance(other) == advance(state)


def test_the_two_newest_checkpoints_are_kept_oldest_first(make_state, tmp_path):
    state = make_state()
    for iteration in (8, 9, 10, 99, 100):
        state.iteration = iteration
        Checkpoints(tmp_path).save(state)
    assert [path.name for path in Checkpoints(tmp_path).paths()] == ["step-000099", "step-000100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000099", "step-000100"]


def test_the_latest_whole_checkpoint_is_restored_if_there_is_one(make_state, tmp_path, capsys):
    checkpoints, state = Checkpoints(tmp_path), make_state()
    assert not checkpoints.restore_latest(state)
    assert state.iteration == 0
    saved = make_state(policy_seed=1)
    for iteration in (9, 10):
        saved.iteration, saved.kl_coef = iteration, iteration / 100
        checkpoints.save(saved)
    (tmp_path / "step-000011.partial").mkdir()
    assert checkpoints.restore_latest(state)
    assert (state.iteration, state.kl_coef) == (10, 0.1)
    assert same_weights(state.policy, saved.policy)
    assert capsys.readouterr().err == ""  # one that was being written is no damage


def test_checkpoint_saved_twice_is_replaced(make_state, advance, tmp_path):
    state = make_state()
    Checkpoints(tmp_path).save(state)
    advance(state)
    state.iteration = 0
    place = Checkpoints(tmp_path).save(state)
    assert Checkpoints(tmp_path).paths() == [place]
    assert same_weights(load_actor_critic(place / "model"), state.policy)


@pytest.mark.parametrize("file", ["heads.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones_and_the_next_is_tried(
    make_state, tmp_path, monkeypatch, capsys, file
):
    state = make_state()
    state.iteration = 1
    first = Checkpoints(tmp_path).save(state)
    whole = {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()}

    def full_disk(tensors, path, **options):
        if path.name == file:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, **options)

    def no_json(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    state.iteration = 2
    with monkeypatch.context() as patch:
        patch.setattr(weight_files, "save_file", full_disk)
        if file == "state.json":
            patch.setattr(checkpoint.json, "dumps", no_json)
        assert Checkpoints(tmp_path).save(state) is None
    said = f"warning: {tmp_path / 'step-000002'} could not be written: No space left on device; {first} remains"
    assert said in capsys.readouterr().err
    assert Checkpoints(tmp_path).paths() == [first]
    assert {path.relative_to(first): path.read_bytes() for path in first.rglob("*") if path.is_file()} == whole

    second = Checkpoints(tmp_path).save(state)  # what was left over is in nobody's way
    assert Checkpoints(tmp_path).paths() == [first, second]
    restore(make_state(), second)
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_a_run_whose_first_checkpoint_cannot_be_written_does_not_begin(make_state, tmp_path, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weight_files, "save_file", full_disk)
    with pytest.raises(TrainingError, match=r"step-000000 could not be written: No space left on device$"):
        Checkpoints(tmp_path).save(make_state())


def test_weights_that_are_no_numbers_are_not_saved(make_state, tmp_path):
    state = make_state()
    first = Checkpoints(tmp_path).save(state)
    with torch.no_grad():
        state.policy.value_head[2].weight[0, 1] = torch.inf
    state.iteration = 1
    with pytest.raises(TrainingError, match=r"value_head\.2\.weight contain NaN or infinite values"):
        Checkpoints(tmp_path).save(state)
    assert Checkpoints(tmp_path).paths() == [first]


def test_older_checkpoint_goes_only_when_the_new_one_is_whole(make_state, tmp_path, monkeypatch):
    state = make_state()
    for iteration in (1, 2):
        state.iteration = iteration
        Checkpoints(tmp_path).save(state)

    def killed(*_):
        raise KeyboardInterrupt

    state.iteration = 3
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Checkpoints(tmp_path).save(state)
    assert [path.name for path in Checkpoints(tmp_path).paths()] == ["step-000001", "step-000002"]


def test_no_file_of_a_checkpoint_can_execute_code(make_state, advance, tmp_path):
    state = make_state()
    advance(state)
    files = [path for path in Checkpoints(tmp_path).save(state).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            load_file(path)


def test_policy_and_critic_come_back_bit_for_bit(make_policy, tmp_path):
    policy = make_policy(0)
    save_model(policy, tmp_path)
    loaded = load_actor_critic(tmp_path)
    assert same_weights(loaded, policy)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_reward_model_comes_back_with_its_scale(tmp_path):
    torch.manual_seed(0)
    model = RewardModel(GPT(GPTConfig(300, 32, layers=1, heads=2, channels=8)))
    model.normalise(torch.tensor([1.0, 4.0, 5.0]))
    save_model(model, tmp_path)
    loaded = load_reward_model(tmp_path)
    assert same_weights(loaded, model)
    assert loaded.gain != 1
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize("load", [load_actor_critic, load_reward_model])
def test_a_trained_model_without_its_heads_is_refused(load, make_policy, tmp_path):
    save_model((ActorCritic if load is load_actor_critic else RewardModel)(make_policy(0).gpt), tmp_path)
    load(tmp_path)
    (tmp_path / "heads.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no heads\.safetensors, which a trained model has"):
        load(tmp_path)


def test_what_the_public_files_hold_is_in_no_other(make_policy, tmp_path):
    save_model(RewardModel(make_policy(0).gpt), tmp_path / "reward")
    save_model(make_policy(0), tmp_path / "policy")
    assert load_file(tmp_path / "reward" / "heads.safetensors").keys() == {"gain", "bias", "is_probability"}
    assert load_file(tmp_path / "policy" / "heads.safetensors").keys() == {"value_head.weight", "value_head.bias"}


def test_heads_of_another_kind_of_model_are_refused(make_policy, tmp_path):
    save_model(make_policy(0), tmp_path)
    with pytest.raises(ValueError, match=r"no tensor 'score\.weight'"):
        load_reward_model(tmp_path)


def test_checkpoint_of_other_data_is_refused(make_state, tmp_path):
    Checkpoints(tmp_path, "ours").save(make_state())
    Checkpoints(tmp_path, "ours").check_latest()
    with pytest.raises(ValueError, match=r"step-000000 was made with other data"):
        Checkpoints(tmp_path, "theirs").check_latest()


def test_checkpoint_of_an_older_version_is_refused(make_state, tmp_path):
    (Checkpoints(tmp_path).save(make_state()) / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"step-000000 is incomplete, or was written by an older version"):
        Checkpoints(tmp_path).check_latest()


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[:-2])
    elif how == "altered":
        content[-1] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
@pytest.mark.parametrize("file", ["model/model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_restored(make_state, tmp_path, capsys, file, how):
    checkpoints, saved = Checkpoints(tmp_path, "ours"), make_state(policy_seed=1)
    for iteration in (9, 10):
        saved.iteration = iteration
        newest = checkpoints.save(saved)
    damaged(newest / file, how)
    checkpoints.check_latest()
    state = make_state()
    assert checkpoints.restore_latest(state)
    assert state.iteration == 9
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {newest}")
    assert said.endswith(f"; using {tmp_path / 'step-000009'} instead\n")
    assert said.count("\n") == 1

    damaged(tmp_path / "step-000009" / file, how)  # now none is left
    with pytest.raises(
        ValueError, match=rf"^no checkpoint in {tmp_path} can be used: {newest}.*; choose another --run-dir"
    ):
        checkpoints.check_latest()


def test_a_checkpoint_is_saved_again_where_a_damaged_one_was_skipped(make_state, tmp_path):
    """The damaged one is not counted among those that are kept."""
    checkpoints, state = Checkpoints(tmp_path), make_state()
    for iteration in (1, 2, 3):
        state.iteration = iteration
        checkpoints.save(state)
    damaged(tmp_path / "step-000003" / "state.json", "truncated")
    state.iteration = 2
    checkpoints.save(state)
    assert [path.name for path in checkpoints.paths()] == ["step-000002"]


@pytest.mark.parametrize("kind", ["language model", "reward model"])
def test_state_of_the_first_two_stages_goes_on_bit_for_bit(make_policy, tmp_path, kind):
    """Weights, moments, learning rate, epoch and batch; also in the middle of an epoch and after its last batch."""

    def fresh(seed: int) -> TrainState:
        gpt = make_policy(seed).gpt
        model = gpt if kind == "language model" else RewardModel(gpt)
        stream = EpochStream(lambda epoch: iter([epoch * 10 + n for n in range(3)]))
        return TrainState.initial(model, stream, LMTrainConfig(tokens=1, lr=0.01, weight_decay=0.1), seed=seed)

    def advance(state: TrainState) -> int:
        batch = next(state.batches)
        state.step += 1
        generator = torch.Generator().manual_seed(batch + state.seed)
        for group in state.optimizer.param_groups:
            group["lr"] = 0.01 / state.step
        for parameter in state.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        state.optimizer.step()
        return batch

    ours = fresh(1)
    place = Checkpoints(tmp_path).save(ours)
    places = {0: place}
    for step in range(1, 8):
        advance(ours)
        places[step] = Checkpoints(tmp_path, keep=9).save(ours)
    for step in (0, 2, 3, 4, 6):
        other = fresh(5)
        restore(other, places[step])
        assert (other.step, other.seed) == (step, 1)
        assert [advance(other) for _ in range(step, 7)] == [0, 1, 2, 10, 11, 12, 20][step:]
        assert same_weights(other.model, ours.model)


@pytest.mark.parametrize("damage", ["position", "optimizer_steps", "other shape", "no such parameter"])
def test_a_checkpoint_of_something_else_is_one_sentence(make_state, advance, tmp_path, damage):
    """It may come from somebody else, with a manifest that fits."""
    state = make_state()
    advance(state)
    path = Checkpoints(tmp_path).save(state)
    rest = json.loads((path / "state.json").read_text())
    if damage in rest:
        del rest[damage]
    tensors = load_file(path / "optimizer.safetensors")
    if damage == "other shape":
        tensors["0.first_moment"] = torch.zeros(3)
    if damage == "no such parameter":
        tensors["999.first_moment"] = torch.zeros(3)
    save_file(tensors, path / "optimizer.safetensors")
    (path / "state.json").write_text(json.dumps(rest))
    with pytest.raises(TrainingError, match="step-000001 is not a checkpoint of this training"):
        restore(make_state(), path)
