"""Stage 3: PPO against the reward model.

    python train_ppo.py                                      # the bundled reviews, in runs/reviews
    python train_ppo.py --config imdb --run-dir runs/imdb    # another preset, or a YAML file
    python train_ppo.py --ppo.kl-coef 0.05 --run-dir runs/kl-0.05 --init-from runs/reviews  # same stages 1 and 2

One iteration is one rollout (sample, score, estimate advantages) and `num_epochs` passes of clipped updates over it. To
resume an interrupted run, run the same command again: it continues from the last checkpoint, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minippo.advantages import value_head
from minippo.answers import Judge
from minippo.checks import check_first_rollout
from minippo.data import TokenRows, load_corpus, policy_rows, prompt_rows, windows
from minippo.evaluation import Evaluator
from minippo.ppo import ppo_update
from minippo.rollout import Environment, collect_rollout
from minippo.runs import (
    Checkpoints,
    Metrics,
    Run,
    due,
    load_environment,
    load_policy,
    resumed_line,
    run_report,
    run_stage,
    side_by_side,
    write_answers,
)
from minippo.scoring import num_cut
from minippo.state import PPOState
from minippo.streams import seed_global
from minippo.weights import save_model


@dataclass(frozen=True)
class Inputs:
    """Inputs, loaded and validated before training."""

    env: Environment  # reference, scorer, tokenizer, sampling parameters: fixed for the whole run
    prompts: Sequence[list[int]]  # in the policy's tokens
    demonstrations: TokenRows | None  # for the pretraining term (PPO-ptx); None if its weight is 0
    validation: Sequence[list[int]]  # held-out prompts of the evaluations during training
    test: Sequence[list[int]]  # held-out prompts of the evaluation at the end
    judge: Judge | None  # the simulated human, if the corpus has one; used for evaluation only
    data: str  # fingerprint of the corpus; a checkpoint belongs to it, because it stores its position in the data
    report: dict[str, dict[str, int]]  # rows read, rows dropped and why


def prepare(run: Run) -> Inputs:
    """Load models and data. Raises ValueError if the run cannot work; nothing has been written yet."""
    config, corpus = run.config, load_corpus(run.config)
    env = load_environment(run, config.ppo.scorer)  # the command line has named it
    demonstrations: TokenRows | None = None
    if config.ppo.ptx_coef > 0:
        rows = policy_rows(corpus.demonstrations("train"), env.tokenizer)
        if not len(rows):
            raise ValueError(f"ppo.ptx-coef is {config.ppo.ptx_coef}, but there are no demonstrations")
        demonstrations = windows(rows, env.reference.gpt.config.context)
    queries, prompt_report = prompt_rows(corpus.prompts, env.tokenizer, config.data)
    Checkpoints(run.checkpoints_folder("ppo"), corpus.fingerprint).check_latest()
    return Inputs(
        env=env,
        prompts=queries["train"],
        demonstrations=demonstrations,
        validation=queries["validation"][: config.eval.prompts],
        test=queries["test"][: config.eval.final_prompts],
        judge=corpus.judge,
        data=corpus.fingerprint,
        report=corpus.report | prompt_report,
    )


def train(run: Run, inputs: Inputs) -> dict[str, object]:
    """Run PPO from the last checkpoint. Returns the entries of summary.json."""
    config, env, checkpoints = run.config.ppo, inputs.env, Checkpoints(run.unfinished("ppo"), inputs.data)
    seed_global(run.config.seed, "value head")
    policy = load_policy(run, "sft", value_head(config))
    # A run is two objects: `env` never changes, `state` is everything that does, and is what a checkpoint contains.
    state = PPOState.initial(policy, inputs.prompts, inputs.demonstrations, config, run.config.seed, run.config.memory)
    if checkpoints.restore_latest(state):
        print(resumed_line(state, config, config.num_iterations))
    else:
        checkpoints.save(state)  # fail now, not an hour in, if the disk is not writable
    evaluator = Evaluator(env, inputs.validation, "validation", inputs.judge, run.config)
    metrics = Metrics(run, "ppo", start=state.iteration)
    if state.iteration == 0:
        metrics.log(0, evaluator.stats(evaluator.reference_answers))  # sampled now, and kept; here the curves begin

    for iteration in metrics.progress(state.iteration + 1, config.num_iterations):
        with metrics.timer("rollout"):
            rollout = collect_rollout(state, env, next(state.prompts), config)
            cut = num_cut(env.scorer)
        with metrics.timer("checks"):
            if iteration == 1:  # ratios are 1, KL is 0, cache and text bridge are exact
                check_first_rollout(state, env, rollout, config)
            stats = rollout.stats(state.kl_coef)  # the coefficient of this rollout; the update may adapt it
        with metrics.timer("update"):
            stats |= ppo_update(state, rollout, config)
        if cut:
            stats["response/cut"] = cut
        state.iteration = iteration
        if due(iteration, run.config.eval.every, config.num_iterations):
            answers = evaluator.answer(state.policy)
            stats |= evaluator.stats(answers)
            samples = side_by_side(evaluator.reference_answers, answers, run.config.eval.samples)
            metrics.log_samples(iteration, samples)
        metrics.log(iteration, stats, num_tokens=int(rollout.response_mask.sum()))
        if checkpoints.due(iteration, config.save_every, config.num_iterations):
            checkpoints.save(state)

    metrics.close()
    save_model(state.policy, run.results_folder("ppo") / "policy")
    final = Evaluator(env, inputs.test, "test", inputs.judge, run.config)
    answers = final.answer(state.policy)
    write_answers(run, final, answers)
    return final.summary(answers)


def main() -> None:
    """`python train_ppo.py`."""
    run_stage("ppo", __doc__, prepare, train, show=run_report)


if __name__ == "__main__":
    main()
