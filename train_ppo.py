"""Stage 3: PPO against the reward model.

python train_ppo.py --config reviews
"""

from __future__ import annotations

import time

import torch
from tqdm import tqdm

from minippo.checkpoint import PPOState, checkpoints, load_actor_critic, load_reward_model, restore, save, save_model
from minippo.cli import parse_options, wrong_input_exits
from minippo.data import PromptSource, load_corpus, query_ids
from minippo.evaluate import Answer, answer, figures, final_evaluation, report, side_by_side, win_rate
from minippo.heads import ActorCritic
from minippo.metrics import Metrics
from minippo.optim import CPUAdamW, decayed_groups
from minippo.ppo import check_promises, ppo_update
from minippo.rollout import collect_rollout, rollout_figures
from minippo.run import Run, open_run, peak_memory_mb
from minippo.scoring import RewardScorer


def make_state(run: Run, policy: ActorCritic, prompts: PromptSource) -> PPOState:
    """The state of a run that has not begun."""
    config = run.config.ppo
    groups = decayed_groups(policy.parameters(), config.weight_decay)
    optimizer = CPUAdamW(groups, config.lr, (0.9, config.adam_beta2), config.adam_eps)
    generator = torch.Generator().manual_seed(run.config.seed)
    return PPOState(policy, optimizer, generator, prompts, config.kl_coef)


def due(iteration: int, every: int, num_iterations: int) -> bool:
    """Whether something that happens every so many iterations, and at the last one, happens now."""
    return iteration % every == 0 or iteration == num_iterations


def main() -> None:
    """`python train_ppo.py`."""
    options = parse_options(__doc__ or "")
    with wrong_input_exits():
        run = open_run(options, "ppo")
        if run.is_finished("ppo"):
            print(f"the policy is there already: {run.stage('ppo')}\n\n{report(run)}")
            return
        corpus = load_corpus(run.config)
    started = time.perf_counter()
    config, folder = run.config, run.begin("ppo")
    tokenizer, reward_tokenizer = run.tokenizers()
    torch.manual_seed(config.seed)
    reference = load_actor_critic(run.stage("sft") / "policy").to(run.device).eval().requires_grad_(False)
    policy = load_actor_critic(run.stage("sft") / "policy").to(run.device)
    scorer = RewardScorer(load_reward_model(run.stage("rm")).to(run.device), reward_tokenizer)
    queries = query_ids(tokenizer, corpus.prompts("train"), config.data.query_length)
    held_out = query_ids(tokenizer, corpus.prompts("test")[: config.eval.prompts], config.data.query_length)
    prompts = PromptSource(queries, config.ppo.rollout_batch_size, config.seed)
    state = make_state(run, policy, prompts)
    if checkpoints(folder):
        restore(state, checkpoints(folder)[-1])
        print(f"resuming after iteration {state.iteration}")
    else:
        save(state, folder)  # a save that cannot work shows now, not an hour in
    metrics = Metrics(run.folder, "ppo", first_step=state.iteration + 1)

    def evaluate(model: ActorCritic) -> list[Answer]:
        length = config.data.response_length
        return answer(model, reference, scorer, held_out, tokenizer, length, config.ppo, config.seed)

    reference_answers = evaluate(reference)
    bar = tqdm(total=config.ppo.num_iterations, initial=state.iteration, desc="ppo", unit="iteration")
    while state.iteration < config.ppo.num_iterations:
        clock = [time.perf_counter()]
        rollout = collect_rollout(
            state, reference, scorer, next(prompts), tokenizer, config.data.response_length, config.ppo
        )
        if state.iteration == 0:
            check_promises(state, rollout, tokenizer.eos_id, config.ppo)
        found = rollout_figures(rollout, state.kl_coef)  # before the update adapts the coefficient
        clock.append(time.perf_counter())
        found |= ppo_update(state, rollout, tokenizer.eos_id, config.ppo)
        clock.append(time.perf_counter())
        state.iteration += 1
        if due(state.iteration, config.eval.every, config.ppo.num_iterations):
            answers = evaluate(policy)
            found |= {f"eval/{key}": value for key, value in figures(answers, corpus.judge).items()}
            found["eval/win_rate"] = win_rate(answers, reference_answers, corpus.judge)
            samples = side_by_side(reference_answers, answers, config.eval.samples)
            metrics.samples(state.iteration, samples)
        timing = {
            "seconds/rollout": clock[1] - clock[0],
            "seconds/update": clock[2] - clock[1],
            "tokens_per_second": int(rollout.response_mask.sum()) / (clock[2] - clock[0]),
            "peak_memory_mb": peak_memory_mb(),
        }
        metrics.log(state.iteration, found, timing)
        bar.update()
        bar.set_postfix(score=f"{found['objective/scores']:.2f}", kl=f"{found['objective/kl']:.1f}")
        if due(state.iteration, config.ppo.save_every, config.ppo.num_iterations):
            save(state, folder)
    bar.close()
    metrics.close()
    save_model(policy, folder / "policy")
    found = final_evaluation(run, policy, reference, scorer, tokenizer)
    run.add_to_summary("ppo", time.perf_counter() - started, **found)
    run.finish("ppo")
    print(report(run))


if __name__ == "__main__":
    main()
