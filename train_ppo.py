"""Stage 3: PPO against the reward model.

python train_ppo.py --config reviews
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from minippo.batches import BatchStream
from minippo.checks import check_first_rollout
from minippo.config import Config
from minippo.data import Corpus, load_corpus, policy_rows, prompt_rows, windows
from minippo.errors import TrainingError
from minippo.evaluation import Answer, answer, figures, final_evaluation, win_rate
from minippo.heads import ActorCritic
from minippo.optim import CPUAdamW, param_groups
from minippo.ppo import ppo_update
from minippo.rollout import collect_rollout, rollout_stats
from minippo.runs import (
    Metrics,
    Run,
    broken_run_exits,
    check_data,
    checkpoints,
    open_run,
    parse_options,
    peak_memory_mb,
    print_report,
    report,
    restore,
    save,
    scorer_of,
    side_by_side,
    wrong_input_exits,
)
from minippo.scoring import Scorer, load_scorer
from minippo.state import PPOState
from minippo.streams import seed_global
from minippo.tokenizer import Tokenizer
from minippo.weights import load_actor_critic, save_model


def make_state(
    run: Run, policy: ActorCritic, prompts: BatchStream, demonstrations: BatchStream | None, data: str
) -> PPOState:
    """The state of a run that has not begun."""
    config = run.config.ppo
    groups = param_groups(policy.parameters(), config.weight_decay)
    optimizer = CPUAdamW(
        groups, config.lr, (0.9, config.adam_beta2), config.adam_eps, tensorflow_eps=config.tensorflow_eps
    )
    return PPOState(
        policy, optimizer, run.config.seed, prompts, config.kl_coef, demonstrations=demonstrations, data=data
    )


def demonstration_source(run: Run, corpus: Corpus, tokenizer: Tokenizer, context: int) -> BatchStream | None:
    """What the pretraining term draws from, in windows of the policy's context; None where its weight is 0."""
    config = run.config
    if config.ppo.ptx_coef == 0:
        return None
    rows = windows(policy_rows(corpus.demonstrations("train"), tokenizer), context)
    return BatchStream(rows, config.ppo.ptx_batch_size, config.seed, "ppo demonstrations")


@dataclass(frozen=True)
class Prepared:
    """What is read before the first step, and found to be in order."""

    corpus: Corpus
    prompts: BatchStream
    validation: Sequence[list[int]]
    """Prompts of the evaluations during training."""
    test: Sequence[list[int]]
    """Prompts of the evaluation at the end."""
    report: dict[str, dict[str, int]]


def prepare(run: Run) -> Prepared:
    """Raises ValueError where the data cannot be used."""
    corpus, (tokenizer, _) = load_corpus(run.config), run.tokenizers()
    if run.config.ppo.ptx_coef > 0 and not len(corpus.demonstrations("train")):
        raise ValueError(f"ppo.ptx-coef is {run.config.ppo.ptx_coef}, but there are no demonstrations")
    queries, report = prompt_rows(corpus.prompts, tokenizer, run.config.data)
    prompts = BatchStream(queries["train"], run.config.ppo.rollout_batch_size, run.config.seed, "ppo prompts")
    for place in checkpoints(run.unfinished("ppo"))[-1:]:
        check_data(corpus.fingerprint, place)
    return Prepared(corpus, prompts, queries["validation"], queries["test"], corpus.report | report)


def due(iteration: int, every: int, num_iterations: int) -> bool:
    """Whether something that happens every so many iterations, and at the last one, happens now."""
    return iteration % every == 0 or iteration == num_iterations


def main() -> None:
    """`python train_ppo.py`."""
    options = parse_options(__doc__ or "", stage="ppo")
    started = time.perf_counter()
    with wrong_input_exits():
        run = open_run(options, "ppo")
        if run.is_finished("ppo"):
            print(f"the policy is there already: {run.stage('ppo')}\n\n{report(run)}")
            return
        run.tokenizers()[0].end_ids(run.config.ppo.stop_token)
        if run.config.ppo.scorer:
            load_scorer(run.config.ppo.scorer)
        data = prepare(run)
        run.begin("ppo")
    print_report(data.report)
    with broken_run_exits():
        train(run, data, started)
    print(report(run))


def train(run: Run, data: Prepared, started: float) -> None:
    """Stage 3, from wherever it was left; it has `started` when the data was read."""
    config, folder = run.config, run.unfinished("ppo")
    tokenizer, _ = run.tokenizers()
    seed_global(config.seed, "value head")
    reference = load_actor_critic(run.stage("sft") / "policy").to(run.device).eval().requires_grad_(False)
    policy = load_actor_critic(run.stage("sft") / "policy", config.ppo.value_head).to(run.device)
    scorer = scorer_of(run)
    judge, validation = data.corpus.judge, data.validation[: config.eval.prompts]
    demonstrations = demonstration_source(run, data.corpus, tokenizer, policy.gpt.config.context)
    state = make_state(run, policy, data.prompts, demonstrations, data.corpus.fingerprint)
    if checkpoints(folder):
        restore(state, checkpoints(folder)[-1])
        print(f"resuming after iteration {state.iteration}")
    else:
        save(state, folder)  # a save that cannot work shows now, not an hour in
    metrics = Metrics(run.folder, "ppo", first_step=state.iteration + 1 if state.iteration else 0)

    def evaluate(model: ActorCritic) -> list[Answer]:
        return answer(model, reference, scorer, validation, tokenizer, config, "validation")

    def evaluated(answers: list[Answer]) -> dict[str, float]:
        found = figures(answers, judge) | {"win_rate": win_rate(answers, reference_answers, judge)}
        return {f"eval/{key}": value for key, value in found.items()}

    reference_answers = evaluate(reference)
    if state.iteration == 0:
        metrics.log(0, evaluated(reference_answers))  # where the curves begin
    bar = tqdm(total=config.ppo.num_iterations, initial=state.iteration, desc="ppo", unit="iteration")
    while state.iteration < config.ppo.num_iterations:
        try:
            found, timing = iterate(state, reference, scorer, tokenizer, config)
        except TrainingError as error:
            raise TrainingError(
                f"iteration {state.iteration + 1}: {error}. The last good checkpoint is {checkpoints(folder)[-1]}"
            ) from error
        if due(state.iteration, config.eval.every, config.ppo.num_iterations):
            answers = evaluate(policy)
            found |= evaluated(answers)
            samples = side_by_side(reference_answers, answers, config.eval.samples)
            metrics.samples(state.iteration, samples)
        metrics.log(state.iteration, found, timing)
        bar.update()
        bar.set_postfix(score=f"{found['objective/scores']:.2f}", kl=f"{found['objective/kl']:.1f}")
        if due(state.iteration, config.ppo.save_every, config.ppo.num_iterations):
            save(state, folder)
    bar.close()
    metrics.close()
    save_model(policy, folder / "policy")
    test = data.test[: config.eval.final_prompts]
    found = final_evaluation(run, policy, reference, scorer, tokenizer, test, judge)
    run.add_to_summary("ppo", time.perf_counter() - started, data.report, **found)
    run.finish("ppo")


def iterate(
    state: PPOState, reference: ActorCritic, scorer: Scorer, tokenizer: Tokenizer, config: Config
) -> tuple[dict[str, float], dict[str, float]]:
    """One rollout and the updates from it. Returns what the seed determines, and what it took."""
    clock = [time.perf_counter()]
    rollout = collect_rollout(
        state, reference, scorer, next(state.prompts), tokenizer, config.data.response_length, config.ppo
    )
    clock.append(time.perf_counter())
    if state.iteration == 0:
        check_first_rollout(state, rollout, scorer, tokenizer, config.ppo)
    found = rollout_stats(rollout, state.kl_coef)  # before the update adapts the coefficient
    clock.append(time.perf_counter())
    found |= ppo_update(state, rollout, tokenizer.end_ids(config.ppo.stop_token), config.ppo)
    clock.append(time.perf_counter())
    state.iteration += 1
    timing = {
        "seconds/rollout": clock[1] - clock[0],
        "seconds/checks": clock[2] - clock[1],
        "seconds/update": clock[3] - clock[2],
        "tokens_per_second": int(rollout.response_mask.sum()) / (clock[3] - clock[0]),
        "peak_memory_mb": peak_memory_mb(),
    }
    return found, timing


if __name__ == "__main__":
    main()
