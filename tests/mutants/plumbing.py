"""Wrong edits of what connects the formulas: scripts, evaluation, checks, data, commands. As in mutants.py.

Here a setting does not arrive, two roles or splits are swapped, a step is at another place, a check looks away.
"""

from __future__ import annotations

from tests.mutants.frontier import FRONTIER
from tests.mutants.labels import LABELS
from tests.mutants.mutants import MUTANTS, Mutant, covering, path_of


def _files(*names: str) -> str:
    """Whole files of tests, the quick ones first."""
    return " ".join(map(path_of, names))


REPLAY_RM, RECOMPUTED, EFFECTS = covering("replay", "reward"), _files("recomputed"), covering("every_field", "base_run")
HELD_OUT_ROWS, RUN_STREAMS = covering("held_out", "held_out_rows_only"), _files("run_streams")
OF_SCORING = _files("scoring", "own_scorer", "train_rm", "recomputed", "pipeline")
OF_CHECKS = _files("checks", "pipeline")
OF_RUN = _files("run", "every_option", "pipeline", "every_field")
OF_LAYOUTS, OF_OWN_PIPELINE = _files("layouts"), _files("own_pipeline")
OF_DATA = _files("token_rows", "data", "train_rm", "run_streams", "held_out")
OF_CORPORA = _files("corpora", "held_out", "recomputed", "every_field")
OF_OWN_DATA = _files("own_data", "corpora", "held_out", "every_field")
OF_UPDATE = _files("ppo", "replay")
OF_ROLLOUT = _files("rollout", "checks", "replay", "recomputed", "run_streams")
OF_COMMANDS = _files("every_option", "generate", "pipeline")
OF_EXPORT = _files("export", "every_option", "recomputed")
OF_TRACE, OF_BENCH = _files("trace"), _files("bench")
OF_PLAN = path_of("plan")
OF_STORED, OF_TEMPLATES = covering("documents", "runs train"), covering("documents", "template filters holds")
OF_METRICS = _files("metrics", "pipeline")
OF_CHECKPOINT = _files("checkpoint", "pipeline", "export")
OF_MODEL = _files("model")
OF_SAMPLING = _files("sampling")
OF_STREAMS = _files("streams", "run_streams")
OF_ADVANTAGES, OF_STATE, OF_EVALUATION = _files("advantages"), _files("state"), _files("evaluation")
OF_BOOTSTRAP, OF_EXACT_KL, OF_REWARDS = _files("bootstrap"), _files("exact_kl"), _files("reward_evaluation")
OF_LOADING, OF_STAGE, OF_RESULTS = _files("loading"), _files("stage"), _files("results")
OF_STORAGE, OF_BATCHES = _files("storage"), _files("batches")
OF_WEIGHTS, OF_TOKENIZERS = (
    _files("hostile_weights", "damaged_weights", "weights_vocabulary"),
    _files("hostile_tokenizers"),
)

PLUMBING = [
    # ------------------------------------------------------------------ sft.py: stage 1
    Mutant("minippo/sft.py", "config: LMTrainConfig = getattr(run.config.sft, name)", "config: LMTrainConfig = run.config.sft.policy", EFFECTS),  # sft.reward unread
    Mutant("minippo/sft.py", "    lengths = pieces[\"train\"].lengths", "    pieces[\"train\"] = pieces[\"test\"]\n    lengths = pieces[\"train\"].lengths", covering("sft", "learning_rate")),  # trains on what is held out
    Mutant("minippo/sft.py", "    return held_out(\"test\")", "    return held_out(\"train\")", covering("sft", "no_tokens")),  # measured on training rows
    Mutant("minippo/sft.py", "return held_out(\"test\")", "return held_out(\"validation\")", _files("sft")),  # the reported loss is the one that settings are chosen by
    Mutant("minippo/sft.py", "for d in demonstrations[\"train\"][:TOKENIZER_TEXTS]", "for d in demonstrations[\"test\"][:TOKENIZER_TEXTS]", _files("held_out")),  # a tokenizer that has seen what is held out
    Mutant("minippo/state.py", "        groups = param_groups(model.parameters(), config.weight_decay)", "        groups = param_groups(model.parameters(), config.lr)", EFFECTS),
    Mutant("minippo/sft.py", "lr_schedule(config.schedule, step", "lr_schedule(\"linear\", step", EFFECTS),
    Mutant("minippo/sft.py", ", config, seed, run.config.memory)", ", config, seed)", path_of("memory_options")),
    Mutant("train_rm.py", ", config, seed, run.config.memory, config", ", config, seed, averaging=config", path_of("memory_options")),
    Mutant("train_ppo.py", "run.config.seed, run.config.memory)", "run.config.seed)", path_of("memory_options")),
    Mutant("minippo/runs/loading.py", "return RewardScorer(_frozen(model, run), tokenizer)", "return RewardScorer(model.to(run.device), tokenizer)", path_of("loading")),
    Mutant("minippo/runs/loading.py", "return park(model, run.device) if run.config.memory.park_models else model.to(run.device)", "return model.to(run.device)", path_of("memory_options")),
    Mutant("minippo/rollout.py", "    with loaded(policy):  # the reference may be parked\n", "    if True:\n", path_of("memory_options")),
    Mutant("minippo/rollout.py", "    with loaded(policy):\n        parts", "    if True:\n        parts", path_of("memory_options")),
    Mutant("minippo/scoring.py", "        with loaded(self.reward_model):\n", "        if True:\n", path_of("memory_options")),
    Mutant("minippo/checks.py", "    with loaded(scorer.reward_model):  # once, not for each text\n", "    if True:\n", covering("checks")),
    Mutant("minippo/sft.py", "load_pretrained(config.weights, dtype)", "load_pretrained(config.weights)", _files("sft")),
    Mutant("minippo/sft.py", "        ).to(dtype)\n", "        )\n", _files("sft")),
    Mutant("train_rm.py", '/ "reward", run.dtype("reward"))', '/ "reward")', path_of("bfloat16")),
    Mutant("minippo/tools/export.py", 'run.dtype("reward" if', 'run.dtype("policy" if', path_of("bfloat16")),
    Mutant("minippo/runs/loading.py", 'dtype = run.dtype("policy")', 'dtype = run.dtype("reward")', OF_LOADING),
    Mutant("minippo/runs/loading.py", 'load_reward_model(folder, run.dtype("reward"))', 'load_reward_model(folder, run.dtype("policy"))', OF_LOADING),
    Mutant("minippo/runs/loading.py", "load_actor_critic(folder, dtype)", "load_actor_critic(folder)", OF_LOADING),
    Mutant("minippo/weights/heads.py", "ActorCritic(load_pretrained(folder, dtype), value_head)", "ActorCritic(load_pretrained(folder), value_head)", OF_LOADING),
    Mutant("minippo/weights/heads.py", "RewardModel(load_pretrained(folder, dtype))", "RewardModel(load_pretrained(folder))", OF_LOADING),
    Mutant("minippo/runs/stage.py", "+ (remedies(stage, run.config, error.path) if isinstance(error, GPUMemoryError) else \"\")", "", path_of("out_of_memory")),
    Mutant("minippo/runs/out_of_memory.py", "    except Exception:", "    except ValueError:", path_of("out_of_memory")),  # hides the error that it is about
    Mutant("minippo/runs/out_of_memory.py", "on_gpu=True", "on_gpu=False", path_of("out_of_memory")),
    Mutant("minippo/runs/out_of_memory.py", "key=lambda phase: len(phase.name)", "key=lambda phase: -len(phase.name)", path_of("out_of_memory")),  # the policy's generation for the reference's
    Mutant("minippo/runs/out_of_memory.py", "phases[0].usage", "phases[-1].usage", path_of("out_of_memory")),  # with a parked model that is not there while models are loaded
    Mutant("minippo/runs/out_of_memory.py", "(now if options.startswith(\"--memory.\") else later)", "later", path_of("out_of_memory")),
    Mutant("minippo/runs/plan.py", "for field in fields(config.memory) if not getattr(config.memory, field.name)}", "for field in fields(config.memory)}", path_of("out_of_memory")),  # what is on already
    Mutant("minippo/runs/plan.py", "max(parts, default=0.01 * present)", "0.01 * present", path_of("out_of_memory")),  # a combination that frees no more than one of its parts
    Mutant("minippo/memory.py", "        error.path = f\"{name}: {error.path}\"\n", "        error.path = name\n", covering("memory")),
    Mutant("minippo/sft.py", "            with phase(name):\n", "            if True:\n", path_of("out_of_memory")),
    Mutant("train_rm.py", "@phase(\"normalisation\")\n", "", path_of("out_of_memory")),
    Mutant("minippo/evaluation.py", "        with phase(\"reference's answers\"):\n", "        if True:\n", path_of("out_of_memory")),
    Mutant("minippo/evaluation.py", "policy's and reference's log-probabilities", "log-probabilities", path_of("out_of_memory")),
    Mutant("minippo/rollout.py", "phase(\"reference's log-probabilities\")", "phase(\"log-probabilities\")", path_of("out_of_memory")),
    Mutant("minippo/exits.py", "        except GPUMemoryError as error:\n", "        except ZeroDivisionError as error:\n", path_of("out_of_memory")),
    Mutant("minippo/sft.py", "optimizer.clip_gradients(config.max_grad_norm)", "optimizer.clip_gradients(1.0)", EFFECTS),
    Mutant("minippo/sft.py", "            optimizer.zero_grad()  # gradients would", "            pass  # gradients would", _files("sft")),  # gradients add up over the steps
    Mutant("minippo/sft.py", "generator(seed, f\"sft {name}\", epoch + 1)", "generator(1, f\"sft {name}\", epoch + 1)", RUN_STREAMS),
    Mutant("minippo/sft.py", "generator(seed, f\"sft {name}\", epoch + 1)", "generator(seed, f\"sft {name}\")", RUN_STREAMS),  # every epoch in one order
    Mutant("minippo/sft.py", "seed_global(config.seed, f\"initial weights, {name}\")", "seed_global(1, f\"initial weights, {name}\")", RUN_STREAMS),
    Mutant("minippo/sft.py", "\"reward\": reward_rows}[name]", "\"reward\": policy_rows}[name]", covering("sft", "each_backbone")),  # warm-started on other tokens than it will read
    Mutant("minippo/sft.py", "make_tokenizer(model_config.tokenizer, texts)", "make_tokenizer(config.model.policy.tokenizer, texts)", covering("every_field", "sft model seed")),
    Mutant("minippo/sft.py", "texts = [d.prompt + d.completion for", "texts = [d.completion for", covering("every_field", "sft model seed")),  # a tokenizer that has seen no prompt
    Mutant("minippo/sft.py", "                activation=config.activation,\n", "", EFFECTS),
    # ------------------------------------------------------------------ train_rm.py: stage 2
    Mutant("train_rm.py", "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, 0.0, config.label_smoothing)", EFFECTS),
    Mutant("train_rm.py", "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, config.margin)", EFFECTS),
    Mutant("train_rm.py", "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, config.label_smoothing, config.margin)", EFFECTS),
    Mutant("train_rm.py", "tokenizer.eos_id, config.token_dropout, hidden_tokens", "tokenizer.eos_id, 0.0, hidden_tokens", EFFECTS),
    Mutant("train_rm.py", "run.config.memory, config.averaging)", "run.config.memory)", _files("replay")),
    Mutant("train_rm.py", "    optimizer.swap_averages()\n    metrics", "    metrics", _files("replay")),  # the last weights are the result
    Mutant("train_rm.py", "(held_out)\n            optimizer.swap_averages()\n", "(held_out)\n", _files("replay")),  # training goes on from the averages
    Mutant("train_rm.py", "            optimizer.swap_averages()\n            held_out", "            held_out", _files("replay")),
    Mutant("train_rm.py", "    gpt.set_dropout(run.config.rm.dropout)\n", "", EFFECTS),
    Mutant("minippo/state.py", "        groups = param_groups(model.parameters(), config.weight_decay)", "        groups = param_groups(model.parameters(), 0.01)", EFFECTS),
    Mutant("train_rm.py", "lr_schedule(config.schedule, step", "lr_schedule(\"linear\", step", REPLAY_RM),
    Mutant("train_rm.py", ", num_steps, warmup=config.warmup)", ", num_steps)", EFFECTS),
    Mutant("train_rm.py", "optimizer.clip_gradients(config.max_grad_norm)", "optimizer.clip_gradients(1.0)", EFFECTS),
    Mutant("train_rm.py", "generator(config.seed, \"rm batches\", epoch)", "generator(1, \"rm batches\", epoch)", RUN_STREAMS),
    Mutant("train_rm.py", "seed_global(run.config.seed, \"reward model", "seed_global(1, \"reward model", RUN_STREAMS),  # the head's beginning
    Mutant("train_rm.py", "response_uniforms(config.seed, \"normalisation\", 0, indices", "response_uniforms(1, \"normalisation\", 0, indices", RUN_STREAMS),  # the samples that scores are normalised on
    Mutant("train_rm.py", "response_uniforms(config.seed, \"normalisation\", 0, indices", "response_uniforms(config.seed, \"normalisation\", 0, range(len(indices))", RUN_STREAMS),  # every batch draws the same numbers
    Mutant("train_rm.py", "generator(config.seed, \"rm batches\", epoch)", "generator(config.seed, \"rm batches\")", RUN_STREAMS),  # every epoch in one order
    Mutant("train_rm.py", "corpus.comparisons(\"train\", epoch)", "corpus.comparisons(\"train\")", _files("train_rm")),  # later epochs are not paired anew
    Mutant("train_rm.py", "corpus.comparisons(\"train\", epoch)", "corpus.comparisons(\"test\", epoch)", HELD_OUT_ROWS),  # later epochs train on what is held out
    Mutant("train_rm.py", "corpus.comparisons(\"train\"), tokenizer", "corpus.comparisons(\"test\"), tokenizer", HELD_OUT_ROWS),
    Mutant("train_rm.py", "corpus.comparisons(\"test\")", "corpus.comparisons(\"train\")", HELD_OUT_ROWS),  # accuracy on training rows
    Mutant("train_rm.py", "cycle(queries[\"train\"])", "cycle(queries[\"test\"])", HELD_OUT_ROWS),  # normalised on held-out prompts
    Mutant("train_rm.py", "policy_tokenizer, config.data)", "tokenizer, config.data)", EFFECTS),  # the policy is asked in the other's tokens
    Mutant("train_rm.py", "    cut = normalise_on_reference(model, inputs.queries, run)\n", "    cut = 0\n", EFFECTS),  # never normalised
    Mutant("train_rm.py", "    elif config.normalise_before:\n", "    elif False:\n", HELD_OUT_ROWS),
    Mutant("train_rm.py", "    elif config.normalise_before:\n", "    elif True:\n", EFFECTS),
    Mutant("train_rm.py", "policy_tokenizer, reward_tokenizer = run", "reward_tokenizer, policy_tokenizer = run", EFFECTS),
    Mutant("train_rm.py", "rows_in_context(model, reward_tokenizer, batch.prompt_texts, ", "rows_in_context(model, reward_tokenizer, [\"\"] * len(batch.prompt_texts), ", HELD_OUT_ROWS),  # normalised on answers without their prompts
    Mutant("train_rm.py", "    model.eval()\n    scores, cut = [], 0", "    scores, cut = [], 0", covering("every_field", "rm seed model")),  # dropout on before training
    Mutant("train_rm.py", "cycle(queries[\"train\"]), config.rm.normalisation_samples)", "cycle(queries[\"train\"]), config.eval.prompts)", EFFECTS),
    Mutant("train_rm.py", "    scores = comparison_scores(model, inputs.test_rows,", "    scores = comparison_scores(model, inputs.validation_rows,", HELD_OUT_ROWS),  # reported on the validation split
    Mutant("train_rm.py", "validation = corpus.comparisons(\"validation\")", "validation = corpus.comparisons(\"test\")", HELD_OUT_ROWS),  # settings are chosen on the test split
    Mutant("train_rm.py", "model.gpt.config.context, config.rm.eval_comparisons\n", "model.gpt.config.context, config.eval.prompts\n", EFFECTS),
    Mutant("train_rm.py", "[test[index] for index in kept[:count].tolist()] if", "list(test[:count]) if", RECOMPUTED),  # the limit of other comparisons than the accuracy
    Mutant("train_rm.py", "judge.gold_score(c.prompt, text)", "judge.gold_score(\"\", text)", covering("train_rm", "limit")),
    Mutant("train_rm.py", "run.earlier(\"sft\") / \"reward\"", "run.earlier(\"sft\") / \"policy\"", EFFECTS),
    Mutant("train_rm.py", "    _, tokenizer = run.tokenizers()", "    tokenizer, _ = run.tokenizers()", EFFECTS),
    # ------------------------------------------------------------------ train_ppo.py: stage 3
    Mutant("minippo/state.py", "param_groups(policy.parameters(), config.weight_decay)", "param_groups(policy.parameters(), config.lr)", OF_STATE),
    Mutant("minippo/state.py", "(0.9, config.adam_beta2)", "(0.9, 0.999)", OF_STATE),
    Mutant("minippo/state.py", "            config.adam_eps,\n", "            1e-5,\n", OF_STATE),
    Mutant("minippo/state.py", "            tensorflow_eps=config.tensorflow_eps,\n", "", OF_STATE),
    Mutant("minippo/state.py", "            optimizer,\n            seed,\n", "            optimizer,\n            1,\n", OF_STATE),  # the draws of the rollouts
    Mutant("train_ppo.py", "seed_global(run.config.seed, \"value head\")", "seed_global(1, \"value head\")", RUN_STREAMS),
    Mutant("minippo/state.py", "config.samples_per_prompt, seed, \"ppo prompts\"", "config.samples_per_prompt, 1, \"ppo prompts\"", OF_STATE),
    Mutant("minippo/state.py", "            config.kl_coef,\n", "            0.11,\n", OF_STATE),
    Mutant("train_ppo.py", "inputs.prompts, inputs.demonstrations, config", "inputs.prompts, [], config", EFFECTS),  # no pretraining term
    Mutant("minippo/state.py", "config.ptx_batch_size, seed", "config.rollout_batch_size, seed", OF_STATE),
    Mutant("train_ppo.py", "prompts=queries[\"train\"],", "prompts=queries[\"test\"],", RUN_STREAMS),  # trains on the held-out prompts
    Mutant("train_ppo.py", "validation=queries[\"validation\"][", "validation=queries[\"train\"][", HELD_OUT_ROWS),  # evaluated on those it trains on
    Mutant("train_ppo.py", "validation=queries[\"validation\"][: config.eval.prompts],\n        test=queries[\"test\"][", "validation=queries[\"test\"][: config.eval.prompts],\n        test=queries[\"validation\"][", HELD_OUT_ROWS),
    Mutant("train_ppo.py", "policy_rows(corpus.demonstrations(\"train\"), ", "policy_rows(corpus.demonstrations(\"test\"), ", HELD_OUT_ROWS),  # held-out demonstrations are trained on
    Mutant("train_ppo.py", "policy_rows(corpus.demonstrations(\"train\"), env.tokenizer)", "policy_rows(corpus.demonstrations(\"train\"), run.tokenizers()[1])", EFFECTS),
    Mutant("minippo/runs/loading.py", "    tokenizer, _ = run.tokenizers()", "    _, tokenizer = run.tokenizers()", OF_LOADING),
    Mutant("train_ppo.py", "load_policy(run, \"sft\", value_head(config))", "load_policy(run, \"sft\")", EFFECTS),
    Mutant("train_ppo.py", "queries[\"validation\"][: config.eval.prompts]", "queries[\"validation\"][: config.eval.final_prompts]", EFFECTS),
    Mutant("train_ppo.py", "queries[\"test\"][: config.eval.final_prompts]", "queries[\"test\"][: config.eval.prompts]", EFFECTS),
    Mutant("train_ppo.py", "evaluator.answer(state.policy)", "evaluator.answer(env.reference)", RECOMPUTED),  # evaluations sample the reference
    Mutant("train_ppo.py", "inputs.validation, \"validation\", inputs.judge", "inputs.validation, \"test\", inputs.judge", RUN_STREAMS),  # the draws of the evaluation at the end
    Mutant("train_ppo.py", "Evaluator(env, inputs.test, \"test\"", "Evaluator(env, inputs.validation, \"test\"", EFFECTS),  # reported on the validation split
    Mutant("minippo/evaluation.py", "stats[\"win_rate\"] = win_rate(answers, self.reference_answers, self.judge)", "stats[\"win_rate\"] = win_rate(self.reference_answers, answers, self.judge)", OF_EVALUATION),  # losses for wins
    Mutant("minippo/evaluation.py", "stats[\"win_rate\"] = win_rate(answers, self.reference_answers, self.judge)", "stats[\"win_rate\"] = win_rate(answers, self.reference_answers, None)", OF_EVALUATION),  # by the score trained for
    Mutant("train_ppo.py", "side_by_side(evaluator.reference_answers, answers, ", "side_by_side(answers, evaluator.reference_answers, ", RECOMPUTED),
    Mutant("train_ppo.py", "due(iteration, config.save_every, ", "due(iteration, run.config.eval.every, ", covering("pipeline", "each_come")),
    Mutant("train_ppo.py", "due(iteration, run.config.eval.every, ", "due(iteration, config.save_every, ", covering("pipeline", "each_come")),
    Mutant("minippo/runs/loading.py", "max_new_tokens=config.data.response_length", "max_new_tokens=config.data.query_length", OF_LOADING),
    Mutant("minippo/rollout.py", "masking.forbid_tokens(logits, sampling.end_ids, ", "masking.forbid_tokens(logits, (sampling.eos_id,), ", covering("rollout", "stop_token")),  # the update allows what sampling forbade
    Mutant("train_ppo.py", "            if iteration == 1:  #", "            if False:  #", covering("pipeline", "broken_promise")),
    Mutant("train_ppo.py", "            stats = rollout.stats(state.kl_coef)  # the coefficient of this rollout; the update may adapt it\n        with metrics.timer(\"update\"):\n            stats |= ppo_update(state, rollout, config)\n", "        with metrics.timer(\"update\"):\n            stats = ppo_update(state, rollout, config)\n            stats |= rollout.stats(state.kl_coef)\n", covering("pipeline", "logged_coefficient")),
    Mutant("train_ppo.py", "save_model(state.policy, run.results_folder(\"ppo\") / \"policy\")", "save_model(env.reference, run.results_folder(\"ppo\") / \"policy\")", covering("pipeline", "two_newest")),
    Mutant("train_ppo.py", "final.answer(state.policy)", "final.answer(env.reference)", RECOMPUTED),
    # ------------------------------------------------------------------ evaluate.py
    Mutant("minippo/runs/loading.py", "folder, (_, tokenizer) = run.earlier(\"rm\"), run.tokenizers()", "folder, (tokenizer, _) = run.earlier(\"rm\"), run.tokenizers()", OF_LOADING),  # the reward model reads the policy's tokens
    Mutant("minippo/evaluation.py", "{\"win_rate\": win_rate(answers, self.reference_answers, self.judge)}", "{\"win_rate\": win_rate(self.reference_answers, answers, self.judge)}", OF_EVALUATION),
    Mutant("minippo/evaluation.py", "{\"win_rate\": win_rate(answers, self.reference_answers, self.judge)}", "{\"win_rate\": win_rate(answers, self.reference_answers, None)}", OF_EVALUATION),
    Mutant("minippo/evaluation.py", "answer_stats(self.reference_answers, self.judge), answer_stats(answers, self.judge)", "answer_stats(answers, self.judge), answer_stats(self.reference_answers, self.judge)", OF_EVALUATION),
    Mutant("minippo/runs/results.py", "\"before\": asdict(b), \"after\": asdict(a)}", "\"before\": asdict(a), \"after\": asdict(b)}", OF_RESULTS),
    Mutant("minippo/answers.py", "gold = [judge.gold_score(a.prompt, a.response)", "gold = [judge.gold_score(\"\", a.response)", OF_EVALUATION),
    Mutant("minippo/answers.py", "return judge.gold_score(a.prompt, a.response)", "return judge.gold_score(\"\", a.response)", OF_EVALUATION),
    Mutant("minippo/runs/results.py", "table(summary[\"before\"], summary[\"after\"])", "table(summary[\"after\"], summary[\"before\"])", OF_RESULTS),
    Mutant("minippo/runs/results.py", "side_by_side(before, after, run.config.eval.samples)", "side_by_side(after, before, run.config.eval.samples)", OF_RESULTS),
    Mutant("minippo/evaluation.py", "0, indices, env.sampling.max_new_tokens", "0, range(len(indices)), env.sampling.max_new_tokens", OF_EVALUATION),  # every batch draws the same numbers
    Mutant("minippo/evaluation.py", "(logprobs - ref_logprobs).sum(dim=1)", "(logprobs - ref_logprobs).mean(dim=1)", _files("evaluate")),
    Mutant("minippo/sampling.py", "return (self.eos_id, *self.stop_ids)", "return (self.eos_id,)", covering("rollout", "stop_token")),  # the KL of what was not drawn from
    # ------------------------------------------------------------------ scoring.py
    Mutant("minippo/scoring.py", "    return rows, cut\n", "    return rows, []\n", covering("scoring", "cut")),  # nobody is told
    Mutant("minippo/scoring.py", "index for index, ids in enumerate(rows) if len(ids) > context", "index for index, ids in enumerate(rows) if len(ids) >= context", covering("scoring", "cut")),
    Mutant("minippo/scoring.py", "scores = as_tensor(self", "scores = (self", covering("own_scorer", "tuples")),
    Mutant("minippo/sft.py", "    check_later_stages(config, corpus, backbones)\n", "", OF_OWN_PIPELINE),
    Mutant("minippo/sft.py", "        check_public_tokenizer(config.weights, tokenizer, config.tokenizer)\n", "", covering("sft", "as_many_ids")),
    Mutant("minippo/sft.py", "reward.tokenizer, reward.gpt.config.context, config.data)", "policy.tokenizer, policy.gpt.config.context, config.data)", OF_OWN_PIPELINE),
    Mutant("train_ppo.py", "            cut = num_cut(env.scorer)\n", "            cut = 0\n", OF_OWN_PIPELINE),
    Mutant("train_rm.py", "        cut += len(longer)\n", "", OF_OWN_PIPELINE),
    Mutant("minippo/evaluation.py", "            self.num_cut += num_cut(env.scorer)\n", "", OF_OWN_PIPELINE),
    Mutant("minippo/scoring.py", "@torch.no_grad()\ndef score_tokens", "def score_tokens", OF_SCORING),  # the held-out scores keep their graphs
    Mutant("minippo/scoring.py", "rows_in_context(self.reward_model, self.tokenizer, prompts, responses", "rows_in_context(self.reward_model, self.tokenizer, [\"\"] * len(prompts), responses", OF_SCORING),
    Mutant("minippo/scoring.py", "self.function(list(prompts), list(responses))", "self.function(list(responses), list(prompts))", OF_SCORING),
    Mutant("minippo/scoring.py", "zip(prompts, responses, scores.tolist(), strict=True):", "list(zip(prompts, responses, scores.tolist(), strict=True))[:1]:", OF_SCORING),
    # ------------------------------------------------------------------ checks.py: wide tolerances, checks that look at little
    Mutant("minippo/checks.py", "torch.float32: 1e-5", "torch.float32: 1e-3", OF_CHECKS),
    Mutant("minippo/checks.py", "torch.bfloat16: 0.1}", "torch.bfloat16: 10.0}", OF_CHECKS),
    Mutant("minippo/checks.py", "CACHE_FACTOR = 10", "CACHE_FACTOR = 1000", OF_CHECKS),
    Mutant("minippo/checks.py", "torch.float32: 1e-4, torch", "torch.float32: 1e-2, torch", OF_CHECKS),
    Mutant("minippo/checks.py", "(logprobs - rollout.logprobs).abs()", "(logprobs - rollout.logprobs)[:1].abs()", OF_CHECKS),  # the first row's ratios
    Mutant("minippo/checks.py", "(cached - rollout.logprobs).abs()", "(cached - rollout.logprobs)[:1].abs()", OF_CHECKS),
    Mutant("minippo/checks.py", "(logprobs - rollout.logprobs).abs().max()", "(logprobs - rollout.logprobs).abs().mean()", OF_CHECKS),
    Mutant("minippo/checks.py", "rollout.kl.abs().max()", "rollout.kl[0].abs().max()", OF_CHECKS),
    Mutant("minippo/checks.py", "rollout.kl.abs().max()", "rollout.kl.mean().abs()", OF_CHECKS),  # signs cancel
    Mutant("minippo/checks.py", "(alone - scores).abs()", "(alone - scores)[:1].abs()", OF_CHECKS),
    Mutant("minippo/checks.py", "        check_bridge(env.scorer, rollout, env.tokenizer)\n", "        pass\n", OF_CHECKS),
    # ------------------------------------------------------------------ run.py
    Mutant("minippo/runs/run.py", "(\"data\", \"model\", \"sft\", \"seed\")", "(\"data\", \"model\", \"sft\")", OF_RUN),  # goes on with another seed
    Mutant("minippo/runs/opening.py", ", \"ppo.min_new_tokens\", \"ppo.stop_token\")", ", \"ppo.min_new_tokens\")", OF_RUN),
    Mutant("minippo/runs/run.py", "            policy.save(folder / \"policy.tiktoken\")\n            reward.save(", "            reward.save(folder / \"policy.tiktoken\")\n            policy.save(", OF_RUN),
    Mutant("minippo/runs/opening.py", "return replace(config, **{name: getattr(theirs, name) for name in stages})", "return config", OF_RUN),  # the source's stages, not its settings
    Mutant("minippo/runs/system.py", "2**20 if sys.platform == \"darwin\" else 2**10", "2**10 if sys.platform == \"darwin\" else 2**20", OF_RUN),
    # ------------------------------------------------------------------ data.py
    Mutant("minippo/data/encode.py", "(\"comparisons\", comparisons.fingerprint, max_length)", "(\"comparisons\", comparisons.fingerprint)", OF_DATA),  # cut for another context
    Mutant("minippo/data/encode.py", "_fitting(prompts, rows.lengths, config.query_length, ", "_fitting(prompts, rows.lengths, config.response_length, ", OF_DATA),
    Mutant("minippo/data/encode.py", "return rows[kept], kept, dropped", "return rows, kept, dropped", OF_DATA),
    # ------------------------------------------------------------------ corpora.py
    Mutant("minippo/data/bundled.py", "gold_score = staticmethod(gold_score)", "gold_score = staticmethod(lambda prompt, response: gold_score(\"\", response))", OF_CORPORA),  # the gold score ignores the prompt
    Mutant("minippo/data/bundled.py", "f\"rankings-{split}\"", "\"rankings-train\"", OF_CORPORA),
    Mutant("minippo/data/bundled.py", "tuple(row[\"ranked\"])", "tuple(row[\"ranked\"][::-1])", OF_CORPORA),  # worst first
    Mutant("minippo/data/bundled.py", "f\"{files} {names} {self.limit}\"", "f\"{files} {names}\"", OF_CORPORA),  # the rows of another limit are reused
    Mutant("minippo/data/imdb.py", "self.rows[\"unsupervised\"]]", "self.rows[\"test\"]]", OF_CORPORA),  # language models read what prompts come from
    Mutant("minippo/data/imdb.py", "random.Random(f\"{self.seed} demonstrations\")", "random.Random(\"1 demonstrations\")", OF_CORPORA),
    Mutant("minippo/data/imdb.py", "else self._test_reviews(split)", "else self.rows[\"train\"]", OF_CORPORA),
    Mutant("minippo/data/corpus.py", "IMDB(config.data, seed)", "IMDB(config.data, 1)", OF_CORPORA),
    Mutant("minippo/data/corpus.py", "OwnData(config.data, seed)", "OwnData(config.data, 1)", OF_OWN_DATA),
    # ------------------------------------------------------------------ labelled.py
    Mutant("minippo/data/labelled.py", "list(zip(sides[1], sides[0], strict", "list(zip(sides[0], sides[1], strict", OF_OWN_DATA),
    Mutant("minippo/data/labelled.py", " words, {stream}\"", " words\"", OF_OWN_DATA),  # the pairs of the first epoch are reused
    Mutant("minippo/data/labelled.py", "in pairs of {self.crop_words} words", "in pairs", OF_OWN_DATA),
    Mutant("minippo/data/labelled.py", "rng.randint(shortest, longest) if", "longest if", OF_CORPORA),
    Mutant("minippo/data/labelled.py", "words - size + 1)", "words - longest + 1)", OF_CORPORA),  # short crops never end a text
    Mutant("minippo/data/labelled.py", "if split == \"train\" else 0", "", OF_CORPORA),  # held-out crops of other lengths
    Mutant("minippo/data/labelled.py", "whole=self.prompt_of is not None)", "whole=True)", OF_OWN_DATA),  # long crops are dropped, not cut
    # ------------------------------------------------------------------ own_data.py
    Mutant("minippo/data/own.py", "random_order(len(rows), self.seed, \"order of demonstrations\")", "random_order(len(rows), 1, \"order of demonstrations\")", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "pairing.pairs(f\"{self.seed} {split} {epoch}\")", "pairing.pairs(f\"{self.seed} {split}\")", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "        return comparisons[: self.config.limit or None]", "        return comparisons", OF_OWN_DATA),
    Mutant("minippo/data/holding_out.py", "int(share * len(these))", "int(0.05 * len(these))", OF_OWN_DATA),
    Mutant("minippo/data/holding_out.py", "random_order(len(counts), seed, ", "random_order(len(counts), 1, ", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "crop_words = crop_words_of(self.config, split)", "crop_words = 100, 100", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "crop_words, _prompt if has_prompts else None", "crop_words, None", OF_LAYOUTS),  # answers without their prompts
    Mutant("minippo/data/own.py", "read_examples(kind, tables, ignored)", "read_examples(kind, tables)", OF_LAYOUTS),
    Mutant("minippo/data/own.py", "column(rows, \"label\") != 0", "column(rows, \"label\") != 9", OF_LAYOUTS),  # bad answers are demonstrated
    Mutant("minippo/data/examples.py", "UnreadColumns(kind, layout.read)", "UnreadColumns(\"prompts\", layout.read)", OF_LAYOUTS),
    Mutant("minippo/data/examples.py", "    unread.check(layout.columns)\n", "", OF_LAYOUTS),  # questions are lost
    Mutant("minippo/data/layouts.py", "reverse=not _label(row, \"labels\")", "reverse=_label(row, \"labels\")", OF_LAYOUTS),
    Mutant("minippo/data/layouts.py", "reverse=name != \"ranks\"", "reverse=True", OF_LAYOUTS),
    Mutant("minippo/data/own.py", "\"validation\": config.validation_split, \"test\": config.test_split", "\"validation\": config.test_split, \"test\": config.validation_split", OF_OWN_DATA),
    Mutant("minippo/data/unread.py", "        if name in ASKED or len(", "        if len(", OF_LAYOUTS),  # the word to be translated
    Mutant("minippo/data/unread.py", "len(self.templates) <= 2 or 4", "True or 4", OF_LAYOUTS),  # passages
    Mutant("minippo/data/unread.py", "                names += sorted(lost", "                sorted(lost", OF_LAYOUTS),
    Mutant("minippo/data/conversations.py", " or (not content and turn.get(\"tool_calls\"))", "", OF_LAYOUTS),
    Mutant("minippo/data/conversations.py", "if turn[\"role\"] == \"\" else", "if False else", OF_LAYOUTS),  # transcripts: the question twice
    Mutant("minippo/data/sources.py", "        if path not in paths and named:\n", "        if False:\n", OF_OWN_DATA),
    Mutant("minippo/data/tables.py", "csv.reader(lines_of(text, path), ", "csv.reader(text, ", OF_OWN_DATA),
    # ------------------------------------------------------------------ token_rows.py
    Mutant("minippo/data/rows.py", "<= 1 << 16", "<= 1 << 17", OF_DATA),
    Mutant("minippo/data/rows.py", "np.maximum.reduceat(rows.lengths, firsts)", "rows.lengths[firsts]", OF_DATA),  # of a group the first row alone
    # ------------------------------------------------------------------ ppo.py: what reaches the losses
    Mutant("minippo/ppo.py", "lr_schedule(config.schedule, ", "lr_schedule(\"linear\", ", OF_UPDATE),
    Mutant("minippo/ppo.py", ", config.num_iterations, warmup=config.warmup)", ", config.num_iterations)", OF_UPDATE),
    Mutant("minippo/ppo.py", "clip_low=config.clip_low,\n        clip_high=config.clip_high,", "clip_low=config.clip_high,\n        clip_high=config.clip_low,", OF_UPDATE),
    Mutant("minippo/ppo.py", "clip=config.value_clip,", "clip=config.clip_low,", OF_UPDATE),
    Mutant("minippo/ppo.py", "config.value_coef * value_loss", "0.5 * value_loss", OF_UPDATE),
    Mutant("minippo/ppo.py", "horizon=config.kl_horizon", "horizon=10_000", OF_UPDATE),
    Mutant("minippo/ppo.py", "    if config.whiten_advantages:\n", "    if True:\n", OF_UPDATE),
    Mutant("minippo/ppo.py", ", config.max_ratio):", ", config.max_approx_kl):", OF_UPDATE),
    Mutant("minippo/ppo.py", "clip_gradients(config.max_grad_norm)", "clip_gradients(1.0)", OF_UPDATE),
    Mutant("minippo/ppo.py", "    if state.demonstrations is not None:\n        stats[\"loss/ptx\"] = accumulate_pretraining_gradient(state, config)\n    require_finite(stats)  # before the step: afterwards, NaN weights could not be undone\n    grad_norm = state.optimizer.clip_gradients(config.max_grad_norm)  # a single rare token can have a huge gradient\n", "    require_finite(stats)  # before the step: afterwards, NaN weights could not be undone\n    grad_norm = state.optimizer.clip_gradients(config.max_grad_norm)  # a single rare token can have a huge gradient\n    if state.demonstrations is not None:\n        stats[\"loss/ptx\"] = accumulate_pretraining_gradient(state, config)\n", covering("ppo", "pretraining")),  # the pretraining gradient is not clipped
    # ------------------------------------------------------------------ rollout.py: what reaches the advantages
    Mutant("minippo/advantages.py", "gamma=config.gamma, lam=config.lam", "gamma=config.lam, lam=config.gamma", OF_ADVANTAGES),
    Mutant("minippo/rollout.py", "ESTIMATORS[config.advantage].estimate(rewards, ", "ESTIMATORS[config.advantage].estimate(equations.kl_penalised_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=state.kl_coef)[0], ", covering("rollout", "whitened")),
    Mutant("minippo/advantages.py", "missing_eos_score=config.missing_eos_score", "missing_eos_score=-1.0", OF_ADVANTAGES),
    Mutant("minippo/rollout.py", "raw_scores=raw_scores,", "raw_scores=scores,", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "ref_logprobs, _ = logprobs_and_values(env.reference, ", "ref_logprobs, _ = logprobs_and_values(state.policy, ", covering("rollout", "kl")),
    Mutant("minippo/rollout.py", "raw_scores = score_texts(env.scorer, batch.prompt_texts, batch.response_texts)", "raw_scores = env.scorer(batch.prompt_texts, batch.response_texts)", covering("rollout", "no_number")),
    Mutant("minippo/rollout.py", "@torch.no_grad()\ndef logprobs_and_values", "def logprobs_and_values", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "mask, kl = self.response_mask, self.kl.sum(dim=1)", "mask, kl = self.response_mask, self.kl.sum(dim=0)", covering("rollout", "figures")),
    Mutant("minippo/rollout.py", "**asdict(sampling), uniforms", "**asdict(sampling) | {\"temperature\": 1.0}, uniforms", covering("rollout", "numbers_of_its_stream")),
    Mutant("minippo/runs/options.py", "(check_settings if options.plan else check)(options.settings)", "check(options.settings)", covering("plan", "too_large")),
    Mutant("minippo/runs/plan.py", "        if model.layers > MOST_LAYERS:\n", "        if False:\n", covering("plan", "absurd_depth")),
    Mutant("minippo/tools/evaluate.py", "            training_gain(run)  # raises", "            pass  # raises", covering("generate", "unknown_scale")),  # after the answers
    # ------------------------------------------------------------------ generate.py, score.py
    Mutant("minippo/tools/generate.py", "{name: load_frozen_policy(run, stage) for", "{name: load_policy(run, stage).eval() for", covering("generate", "parked")),
    Mutant("minippo/tools/generate.py", "    with loaded(model):  # it may", "    if True:  # it may", covering("generate", "parked")),
    Mutant("minippo/tools/generate.py", "usual.temperature if options.temperature is None", "1.0 if options.temperature is None", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "min_new_tokens=min(usual.min_new_tokens, longest)", "min_new_tokens=0", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "            **asdict(sampling),\n", "            **asdict(usual),\n", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "            top_k=options.top_k,\n", "", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "\"generate\", 0, [number]", "\"generate\", 0, [0]", OF_COMMANDS),  # n times the same answer
    Mutant("minippo/tools/generate.py", "\"reference\": \"sft\"}", "\"reference\": \"ppo\"}", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "run.config.data.response_length if", "64 if", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "run.tokenizers()[0].encode(prompt)", "run.tokenizers()[1].encode(prompt)", OF_COMMANDS),
    Mutant("minippo/tools/score.py", "[options.prompt] * len(batch)", "[\"\"] * len(batch)", OF_COMMANDS),
    Mutant("minippo/tools/lines.py", "line.rstrip(\"\\r\\n\")", "line.strip()", OF_COMMANDS),  # the space before an answer
    # ------------------------------------------------------------------ export.py
    Mutant("minippo/tools/export.py", "\"policy\": \"ppo\"", "\"policy\": \"sft\"", OF_EXPORT),
    Mutant("minippo/tools/export.py", "\"reference\": \"sft\"", "\"reference\": \"ppo\"", OF_EXPORT),
    Mutant("minippo/tools/export.py", "reward if name == \"reward_model\" else policy", "policy", OF_EXPORT),
    Mutant("minippo/tools/export.py", "                save_model(model, folder / name)\n", "                save_pretrained(model, folder / name)\n", OF_EXPORT),  # without value head, gain and bias
    Mutant("minippo/tools/export.py", "tokenizer.end_ids(ppo.stop_token)", "tokenizer.end_ids(\"\")", OF_EXPORT),
    # ------------------------------------------------------------------ metrics.py
    Mutant("minippo/runs/metrics.py", "row[0] == stage and row[1] >= first_step", "row[1] >= first_step", OF_METRICS),  # other stages' lines go too
    Mutant("minippo/runs/metrics.py", "int(section.split()[3]) < first_step]", "int(section.split()[3]) <= first_step]", OF_METRICS),
    # ------------------------------------------------------------------ checkpoint.py
    Mutant("minippo/runs/checkpoint.py", "{\"step\": n} for", "{\"step\": 0} for", OF_CHECKPOINT),  # the bias is corrected once more
    Mutant("minippo/runs/checkpoint.py", "        load_weights(state.model, path / \"model\")  # in place", "        critic = {name: x.clone() for name, x in state.model.value_head.state_dict().items()}\n        load_weights(state.model, path / \"model\")\n        state.model.value_head.load_state_dict(critic)  # in place", covering("checkpoint", "restored")),  # goes on with a new critic
    Mutant("minippo/weights/heads.py", "    if found != expected:\n", "    if found.keys() != expected.keys():\n", OF_WEIGHTS),
    Mutant("minippo/weights/pretrained.py", "        _check_shapes(stored, tensor_names(form.family, config.layers), form, config)\n", "        pass\n", OF_WEIGHTS),
    Mutant("minippo/weights/pretrained.py", "        stored.check(name, tuple(target.shape), target.dtype)\n", "        stored.check(name, tuple(target.shape))\n", covering("native")),  # a mask is no number
    Mutant("minippo/weights/pretrained.py", "    if config.layers * config.channels > stored.num_values:", "    if False:", covering("native")),
    Mutant("minippo/weights/pretrained.py", "family.prefix, family.trunk[0].public[0])", "family.prefix)", OF_WEIGHTS),  # no other prefix
    Mutant("minippo/weights/shards.py", "        target.copy_(values)\n", "        target = values.float()\n", OF_WEIGHTS),
    Mutant("minippo/weights/shards.py", "        if path.resolve().parent not in inside:\n", "        if False:\n", OF_WEIGHTS),
    Mutant("minippo/weights/shards.py", "    if len(before) > 1:\n", "    if False:\n", OF_WEIGHTS),
    Mutant("minippo/weights/tensor_file.py", "        tensors = None if odd else torch.load", "        tensors = torch.load", OF_WEIGHTS),
    Mutant("minippo/weights/tensor_file.py", "        if table > MAX_TABLE:\n", "        if False:\n", OF_WEIGHTS),
    Mutant("minippo/weights/vocabulary.py", "    elif eos_id not in (None, tokenizer.eos_id):\n", "    elif False:\n", OF_WEIGHTS),
    Mutant("minippo/weights/vocabulary.py", "    elif suppressed_ids(tokenizer, rows) != gpt.config.suppress_tokens:\n", "    elif False:\n", OF_WEIGHTS),
    Mutant("minippo/weights/vocabulary.py", "ends and tokenizer.eos_id not in ends", "False", OF_WEIGHTS),
    Mutant("minippo/tokenizer/tiktoken_files.py", "        if token in ranks or not token:\n", "        if not token:\n", OF_TOKENIZERS),
    Mutant("minippo/tokenizer/tiktoken_files.py", "        _check_pattern(pattern, rest_path)\n", "        pass\n", OF_TOKENIZERS),
    Mutant("minippo/tokenizer/vocab_json.py", "        if vocabulary.setdefault(token, index) != index:\n", "        vocabulary[token] = index\n        if False:\n", OF_TOKENIZERS),
    Mutant("minippo/storage.py", "    if len(entries) < len(pairs):\n", "    if False:\n", OF_TOKENIZERS),
    Mutant("minippo/weights/heads.py", "    return _with_heads(model, folder)\n", "    return model\n", OF_CHECKPOINT),  # without gain and bias
    # ------------------------------------------------------------------ in the method
    Mutant("minippo/model.py", "        x = x + self.dropout(attended)\n", "        x = x + attended\n", OF_MODEL),
    Mutant("minippo/model.py", "x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))", "x = self.token_embedding(tokens) + self.position_embedding(positions)", OF_MODEL),
    Mutant("minippo/sampling.py", "probabilities.double().cumsum(dim=-1)", "probabilities.cumsum(dim=-1).double()", OF_SAMPLING),
    Mutant("minippo/sampling.py", "model.logits(hidden[:, -1]).float()", "model.logits(hidden[:, -1])", OF_SAMPLING),  # bfloat16
    Mutant("minippo/reviews/gold.py", "    wish = interest(prompt)\n", "    wish = interest(\"\")\n", _files("gold", "evaluate", "recomputed")),
    # ------------------------------------------------------------------ streams.py and who draws from it
    Mutant("minippo/streams.py", "_key(seed, name, (step, index))", "_key(seed, name, (step,))", OF_STREAMS),  # one row of numbers for all responses
    Mutant("minippo/streams.py", "_key(seed, name, (step, index))", "_key(seed, name, (index,))", OF_STREAMS),  # every iteration draws the same
    Mutant("minippo/streams.py", ">> np.uint64(11)) * 2.0**-53", ">> np.uint64(12)) * 2.0**-53", OF_STREAMS),  # numbers below a half alone
    Mutant("minippo/streams.py", "torch.Generator().manual_seed(_key(seed, name, position)", "torch.Generator().manual_seed(_key(0, name, position)", OF_STREAMS),
    Mutant("minippo/rollout.py", "\"rollout\", state.iteration + 1, range", "\"rollout\", 1, range", covering("rollout", "numbers_of_its_stream")),  # every iteration draws the same
    Mutant("minippo/rollout.py", "state.seed, \"rollout\", state.iteration", "state.seed, \"normalisation\", state.iteration", covering("rollout", "numbers_of_its_stream")),  # correlated with the normalisation
    Mutant("minippo/ppo.py", "\"minibatches\", state.iteration + 1, epoch)", "\"minibatches\", state.iteration + 1, 0)", OF_UPDATE),  # later epochs in the same order
    Mutant("minippo/batches.py", "generator(self.seed, self.name, epoch)", "generator(self.seed, self.name)", OF_DATA),  # every epoch of prompts in one order
    # ------------------------------------------------------------------ advantages.py: from scores to rewards
    Mutant("minippo/advantages.py", "        scores = scores.clamp(-config.score_clip, config.score_clip)\n    return equations.penalise_missing_eos(\n        scores, has_eos, mode=config.missing_eos, missing_eos_score=config.missing_eos_score\n    )\n", "        pass\n    scores = equations.penalise_missing_eos(\n        scores, has_eos, mode=config.missing_eos, missing_eos_score=config.missing_eos_score\n    )\n    return scores if config.score_clip is None else scores.clamp(-config.score_clip, config.score_clip)\n", OF_ADVANTAGES),  # the penalty is clipped too
    Mutant("minippo/advantages.py", "scores.clamp(-config.score_clip, config.score_clip)", "scores.clamp(max=config.score_clip)", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "mode=config.missing_eos, ", "mode=\"replace\", ", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "kl_coef=kl_coef, kind", "kl_coef=config.kl_coef, kind", OF_ADVANTAGES),  # where it starts, not where it has adapted to
    Mutant("minippo/advantages.py", "    if config.whiten_rewards:\n", "    if False:\n", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "    return rewards, kl\n", "    return rewards, kl_coef * kl\n", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "gamma=config.gamma, ", "gamma=1.0, ", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "lam=config.lam)", "lam=0.98)", OF_ADVANTAGES),
    # ------------------------------------------------------------------ variants
    Mutant("minippo/advantages.py", "    if config.kl_placement == \"loss\":\n", "    if False:\n", OF_ADVANTAGES),  # in both places
    Mutant("minippo/advantages.py", "kl_coef=kl_coef, kind=config.kl_estimate", "kl_coef=kl_coef", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "equations.kl_estimate(logprobs, ref_logprobs), 0)", "equations.kl_estimate(logprobs, ref_logprobs, config.kl_estimate), 0)", OF_ADVANTAGES),  # the controller's KL
    Mutant("minippo/advantages.py", "    return config.value_head if ESTIMATORS[config.advantage].has_critic else None", "    return config.value_head", OF_ADVANTAGES),
    Mutant("minippo/advantages.py", "    \"batch\": Estimator(of_responses(batch)),", "    \"batch\": Estimator(of_responses(leave_one_out)),", OF_ADVANTAGES),
    Mutant("minippo/rollout.py", "for query in queries for _ in range(config.samples_per_prompt)]", "for _ in range(config.samples_per_prompt) for query in queries]", covering("rollout", "adjacent without_a_critic")),  # groups of other prompts
    Mutant("minippo/rollout.py", "            if x is not None  # what a critic would have computed\n", "            if x is not None and name != \"kl\"\n", covering("rollout", "selected")),
    Mutant("minippo/rollout.py", "        if self.values is not None:\n", "        if True:\n", covering("rollout", "adjacent without_a_critic")),
    Mutant("minippo/state.py", "config.rollout_batch_size // config.samples_per_prompt, seed", "config.rollout_batch_size, seed", OF_STATE),  # K times as many responses
    Mutant("minippo/ppo.py", "len(minibatch.queries) * batch.response_mask.sum(dim=1, keepdim=True)", "len(batch.queries) * batch.response_mask.sum(dim=1, keepdim=True)", covering("ppo", "by_hand microbatches")),  # microbatches weigh more
    Mutant("minippo/ppo.py", "len(minibatch.queries) * batch.response_mask.sum(dim=1, keepdim=True)", "len(minibatch.queries) * batch.response_mask.shape[1] * torch.ones_like(batch.scores).unsqueeze(1)", covering("ppo", "by_hand microbatches")),  # divided by the longest length: Dr. GRPO, not GRPO
    Mutant("minippo/ppo.py", "    if config.loss_normalisation == \"token\":\n", "    if True:\n", covering("ppo", "by_hand microbatches")),
    Mutant("minippo/ppo.py", "        loss = loss + state.kl_coef * kl_loss\n", "        loss = loss + config.kl_coef * kl_loss\n", covering("ppo", "by_hand microbatches")),  # where it starts, not where it has adapted to
    Mutant("minippo/ppo.py", "        loss = loss + state.kl_coef * kl_loss\n", "", covering("ppo", "by_hand microbatches")),  # logged, not trained
    Mutant("minippo/ppo.py", "equations.kl_loss(logprobs, batch.ref_logprobs, ", "equations.kl_loss(logprobs, batch.logprobs, ", covering("ppo", "by_hand microbatches")),  # to the rollout's policy
    Mutant("minippo/ppo.py", "kind=config.kl_estimate, ", "kind=\"k3\", ", covering("ppo", "by_hand microbatches")),
    Mutant("minippo/ppo.py", "    if config.kl_placement == \"loss\":\n", "    if True:\n", covering("ppo", "by_hand microbatches")),
    Mutant("minippo/runs/validation.py", "    if B % K:\n", "    if False:\n", covering("config", "cannot_work allowed")),
    Mutant("minippo/runs/validation.py", "    if fewest > K:\n", "    if False:\n", covering("config", "cannot_work allowed")),
    Mutant("minippo/runs/validation.py", "    if ppo.advantage not in ESTIMATORS:\n", "    if False:\n", covering("config", "cannot_work allowed")),
    Mutant("minippo/runs/validation.py", "if ppo.kl_placement == \"loss\" and ppo.kl_estimate == \"k1\":", "if ppo.kl_estimate == \"k1\" and False:", covering("config", "cannot_work allowed")),
    Mutant("minippo/weights/heads.py", "\"linear\") if heads else None", "\"linear\")", covering("variants", "commands")),
    Mutant("minippo/runs/phases.py", "ActorCritic(gpt, value_head(config)))", "ActorCritic(gpt, config.value_head))", OF_PLAN),
    Mutant("minippo/tools/trace/__init__.py", "B = len(options.prompt) * settings.samples_per_prompt", "B = len(options.prompt)", covering("variants", "commands")),
    # ------------------------------------------------------------------ loading.py: how responses are drawn, and by which models
    Mutant("minippo/runs/loading.py", "pad_id=tokenizer.pad_id", "pad_id=eos_id", OF_LOADING),
    Mutant("minippo/runs/loading.py", "        stop_ids=tuple(stop_ids),\n", "", OF_LOADING),
    Mutant("minippo/runs/loading.py", "eos_id, *stop_ids = tokenizer", "*stop_ids, eos_id = tokenizer", OF_LOADING),
    Mutant("minippo/runs/loading.py", "        temperature=config.ppo.temperature,\n", "", OF_LOADING),
    Mutant("minippo/runs/loading.py", "        min_new_tokens=config.ppo.min_new_tokens,\n", "", OF_LOADING),
    Mutant("minippo/runs/loading.py", "    folder = run.earlier(stage) / \"policy\"\n", "    folder = run.earlier(\"sft\") / \"policy\"\n", OF_LOADING),
    Mutant("minippo/runs/loading.py", "    check_tokenizer(policy.gpt, run.tokenizers()[0], folder)\n", "", OF_LOADING),
    Mutant("minippo/runs/loading.py", "    check_tokenizer(model.gpt, tokenizer, folder)\n", "", OF_LOADING),
    Mutant("minippo/runs/loading.py", "load_pretrained(folder, dtype), value_head)", "load_pretrained(folder, dtype))", OF_LOADING),
    Mutant("minippo/runs/loading.py", "return load_frozen_policy(run, \"sft\")", "return load_frozen_policy(run, \"ppo\")", OF_LOADING),
    Mutant("minippo/runs/loading.py", ".eval().requires_grad_(False)", ".requires_grad_(False)", OF_LOADING),  # the KL to a reference with dropout
    Mutant("minippo/runs/loading.py", ".eval().requires_grad_(False)", ".eval()", OF_LOADING),
    Mutant("minippo/runs/loading.py", "    if run.config.ppo.scorer or scorer:\n", "    if False:\n", OF_LOADING),
    # ------------------------------------------------------------------ rollout.py: rows of a batch, scores of texts
    Mutant("minippo/rollout.py", "isinstance(rows, slice) else rows.tolist()", "isinstance(rows, slice) else sorted(rows.tolist())", covering("rollout", "selected")),  # the texts of other rows
    Mutant("minippo/rollout.py", "range(len(self.queries))[rows] if", "range(len(self.queries)) if", covering("rollout", "selected")),
    Mutant("minippo/scoring.py", "f\"response {response!r} to {prompt!r}\"", "f\"response {prompt!r} to {response!r}\"", covering("scoring", "finite")),
    # ------------------------------------------------------------------ state.py: where PPO begins
    Mutant("minippo/state.py", "            config.lr,\n", "            1e-3,\n", OF_STATE),
    Mutant("minippo/state.py", "BatchStream(prompts, config.rollout_batch_size // ", "BatchStream(prompts, config.ptx_batch_size // ", OF_STATE),
    Mutant("minippo/state.py", "seed, \"ppo prompts\"", "seed, \"ppo demonstrations\"", OF_STATE),  # two purposes draw the same numbers
    Mutant("minippo/state.py", "config.ptx_batch_size, seed, ", "config.ptx_batch_size, 1, ", OF_STATE),
    Mutant("minippo/state.py", "            if demonstrations is None\n", "            if demonstrations is None or config.ptx_coef == 0\n", OF_STATE),  # two places decide
    # ------------------------------------------------------------------ bootstrap.py, answers.py
    Mutant("minippo/bootstrap.py", "[(1 - LEVEL) / 2, (1 + LEVEL) / 2]", "[1 - LEVEL, LEVEL]", OF_BOOTSTRAP),  # 90 %
    Mutant("minippo/bootstrap.py", "_resampled(ours, 0) - _resampled(theirs, 0))", "_resampled(ours, 0) - _resampled(theirs, 1))", OF_BOOTSTRAP),  # not paired
    Mutant("minippo/bootstrap.py", "_resampled(ours, 0) - _resampled(theirs, 1))", "_resampled(ours, 0) - _resampled(theirs, 0))", OF_BOOTSTRAP),  # chance pairs
    Mutant("minippo/bootstrap.py", "size=RESAMPLES)", "size=RESAMPLES).clip(max=1)", OF_BOOTSTRAP),  # without replacement
    Mutant("minippo/bootstrap.py", "multinomial(num_rows, ", "multinomial(num_rows // 2, ", OF_BOOTSTRAP),
    Mutant("minippo/bootstrap.py", "self.low > 0 or self.high < 0", "self.low >= 0 or self.high <= 0", OF_BOOTSTRAP),
    Mutant("minippo/bootstrap.py", "np.maximum(sums[..., 1], 1)", "sums[..., 1]", OF_BOOTSTRAP),  # 0 / 0
    Mutant("minippo/bootstrap.py", "lambda sums: np.exp(np.minimum(_quotient(sums), 300))", "lambda sums: np.exp(_quotient(sums))", OF_BOOTSTRAP),
    Mutant("minippo/bootstrap.py", "ours.value - theirs.value, _resampled(ours, 0) - _resampled(theirs, 0)", "theirs.value - ours.value, _resampled(theirs, 0) - _resampled(ours, 0)", OF_BOOTSTRAP),
    Mutant("minippo/bootstrap.py", "(counts.cumsum() - (counts + 1) / 2)", "(counts.cumsum() - counts)", OF_BOOTSTRAP),  # ties have the lowest rank
    Mutant("minippo/answers.py", "(len(texts) - 1) * (without.mean() - without)", "(without.mean() - without)", OF_BOOTSTRAP),
    Mutant("minippo/answers.py", "(len(texts) - 1) * (without.mean() - without)", "(len(texts) - 1) * (without - without.mean())", OF_BOOTSTRAP),
    Mutant("minippo/answers.py", "sum(owners[gram] == 1 for gram in set(of_text))", "sum(owners[gram] == 1 for gram in of_text) * 2", OF_BOOTSTRAP),
    Mutant("minippo/answers.py", "mean([a.exact_kl for a in answers])", "mean([a.kl for a in answers])", _files("evaluate")),
    Mutant("minippo/answers.py", "exponential_ratio([-a.ref_logprob for a in answers], lengths)", "exponential_ratio([-a.ref_logprob - a.kl for a in answers], lengths)", _files("evaluate")),  # the policy's own perplexity
    Mutant("minippo/answers.py", "exponential_ratio([-a.ref_logprob for a in answers], lengths)", "exponential_ratio([-a.ref_logprob / a.length for a in answers], [1] * len(answers))", _files("evaluate")),  # mean of answers, not tokens
    Mutant("minippo/answers.py", "ratio(grammatical, list(map(len, sentences)))", "mean([good / max(1, len(all_)) for good, all_ in zip(grammatical, sentences, strict=True)])", _files("evaluate")),
    Mutant("minippo/answers.py", "return 1 - len(set(grams)) / len(grams) if grams else 0.0", "return 1 - len(set(grams)) / len(grams) if grams else 1.0", _files("evaluate")),
    Mutant("minippo/answers.py", "REPEATED = 4", "REPEATED = 1", _files("evaluate")),
    # ------------------------------------------------------------------ evaluation.py: log-probabilities
    Mutant("minippo/evaluation.py", "(logprobs.exp() * (logprobs - ref_logprobs))", "(ref_logprobs.exp() * (logprobs - ref_logprobs))", OF_EXACT_KL),
    Mutant("minippo/evaluation.py", "(logprobs.exp() * (logprobs - ref_logprobs))", "(ref_logprobs.exp() * (ref_logprobs - logprobs))", OF_EXACT_KL),  # the reverse KL
    Mutant("minippo/evaluation.py", "next_token_logprobs(reference, theirs[chunk], part)", "next_token_logprobs(reference, ours[chunk], part)", OF_EXACT_KL),
    Mutant("minippo/evaluation.py", "logits.float() / batch.sampling.temperature", "logits.float()", OF_EXACT_KL),
    Mutant("minippo/evaluation.py", "            batch = replace(batch, sampling=env.sampling)\n", "", OF_EVALUATION),  # log-probabilities at temperature 0
    Mutant("minippo/evaluation.py", "replace(self.env.sampling, temperature=0.0)", "self.env.sampling", OF_EVALUATION),
    Mutant("minippo/evaluation.py", "                kl.sum(dim=1).tolist(),\n                ref_logprobs.sum(dim=1).tolist(),", "                kl.sum(dim=1).tolist(),\n                logprobs.sum(dim=1).tolist(),", _files("evaluate")),
    # ------------------------------------------------------------------ reward_evaluation.py
    Mutant("minippo/reward_evaluation.py", "return self.share(self.score > 0,", "return self.share(self.score >= 0,", OF_REWARDS),
    Mutant("minippo/reward_evaluation.py", "np.sign(self.score) == np.sign(self.gold), self.gold != 0", "self.score > 0, self.gold != 0", OF_REWARDS),  # the labels for the gold score
    Mutant("minippo/reward_evaluation.py", "np.sign(self.gold), self.gold != 0)", "np.sign(self.gold), np.ones(len(self.gold), bool))", OF_REWARDS),
    Mutant("minippo/reward_evaluation.py", "minlength=self.num_comparisons) for mask in (of & among, among)", "minlength=self.num_comparisons) for mask in (of, among)", OF_REWARDS),
    Mutant("minippo/reward_evaluation.py", "index = np.repeat(np.arange(len(scores)), sizes)", "index = np.arange(sum(sizes)) % len(scores)", OF_REWARDS),  # pairs of one ranking apart
    Mutant("minippo/reward_evaluation.py", "ranked = values + noise", "ranked = noise", OF_REWARDS),
    Mutant("minippo/reward_evaluation.py", "ranked[one] > ranked[other], 1, -1)", "torch.rand(len(one), generator=generator) < torch.sigmoid(values[one] - values[other]), 1, -1)", OF_REWARDS),  # pairs of one ranking apart
    Mutant("minippo/reward_evaluation.py", "-torch.log(-torch.log(torch.rand(len(values), generator=generator, dtype=torch.float64)))", "torch.randn(len(values), generator=generator, dtype=torch.float64)", OF_REWARDS),  # Thurstone's model
    Mutant("minippo/reward_evaluation.py", "np.quantile(errors, 0.95)", "np.quantile(errors, 0.5)", OF_REWARDS),
    Mutant("minippo/reward_evaluation.py", "np.linspace(0, 1, num_groups + 1)[1:-1]", "np.linspace(0, 1, num_groups)[1:-1]", OF_REWARDS),
    Mutant("minippo/reward_evaluation.py", "    x, y = (np.split(ranks(", "    x, y = (np.split((", OF_REWARDS),  # Pearson's
    # ------------------------------------------------------------------ tools: evaluate, compare
    Mutant("minippo/tools/evaluate.py", "answer_metrics(reference, judge), answer_metrics(answers, judge)", "answer_metrics(answers, judge), answer_metrics(reference, judge)", RECOMPUTED),
    Mutant("minippo/tools/evaluate.py", "paired_difference(after[name], before[name])", "paired_difference(before[name], after[name])", RECOMPUTED),
    Mutant("minippo/tools/evaluate.py", "estimate(wins(answers, reference, judge))", "estimate(wins(reference, answers, judge))", RECOMPUTED),
    Mutant("minippo/tools/evaluate.py", "if not row[\"difference\"].excludes_zero", "if row[\"difference\"].excludes_zero", RECOMPUTED),
    Mutant("minippo/tools/evaluate.py", "queries[options.split][:", "queries[\"test\"][:", covering("held_out", "evaluate")),
    Mutant("minippo/tools/evaluate.py", "reward_figures(run, corpus, options.split)", "reward_figures(run, corpus, \"test\")", covering("held_out", "evaluate")),
    Mutant("minippo/tools/evaluate_rewards.py", "/ model.gain.item()", "* 1.0", RECOMPUTED),  # calibration of normalised scores
    Mutant("minippo/tools/evaluate_rewards.py", "return results.get(\"rm_training_gain\", 1.0)", "return 1.0", covering("held_out", "evaluate")),  # scores normalised before the training, too
    Mutant("minippo/tools/evaluate_rewards.py", "error > floor[\"high\"]", "error < floor[\"high\"]", RECOMPUTED),
    Mutant("minippo/tools/compare.py", "difference(column.statistics[name], first.statistics[name])", "difference(first.statistics[name], column.statistics[name])", path_of("compare")),
    Mutant("minippo/tools/compare.py", "difference = paired_difference if column.has_prompts_of(first) else unpaired_difference", "difference = paired_difference", path_of("compare")),
    Mutant("minippo/tools/compare.py", "            known -= {\"score, after\"}\n", "            pass\n", path_of("compare")),
    Mutant("minippo/tools/compare.py", "            known -= {\"win_rate\"}\n", "            pass\n", path_of("compare")),
    Mutant("minippo/tools/compare.py", "self.judge == other.judge and (self", "(self", path_of("compare")),  # a judge and a scorer
    Mutant("minippo/tools/compare.py", "(self.judge is not None or self.has_scorer_of(other))", "self.judge is not None", path_of("compare")),
    Mutant("minippo/tools/compare.py", "(self.judge is not None or self.has_scorer_of(other))", "self.has_scorer_of(other)", path_of("compare")),
    Mutant("minippo/tools/compare.py", "(self.judge is not None or self.has_scorer_of(other))", "True", path_of("compare")),
    Mutant("minippo/tools/compare.py", "return same and self.has_reference_of(other)", "return same", path_of("compare")),
    Mutant("minippo/tools/compare.py", "        if not column.has_wins_of(first):\n            lines", "        if False:\n            lines", path_of("compare")),
    Mutant("minippo/tools/compare.py", "replace(config, seed=0, data=replace(config.data, seed=None))", "config", path_of("compare")),
    # ------------------------------------------------------------------ evaluation.py: who answers what
    Mutant("minippo/evaluation.py", "f\"{self.split} answers\"", "\"test answers\"", OF_EVALUATION),  # the draws of the evaluation at the end
    Mutant("minippo/evaluation.py", "    @cached_property\n", "    @property\n", OF_EVALUATION),  # every evaluation asks the reference again
    Mutant("minippo/evaluation.py", "stats = answer_stats(answers, self.judge)", "stats = answer_stats(self.reference_answers, self.judge)", OF_EVALUATION),
    Mutant("minippo/evaluation.py", "{f\"eval/{name}\": value", "{name: value", OF_EVALUATION),
    Mutant("minippo/evaluation.py", "compared_logprobs(policy, env.reference, batch", "compared_logprobs(policy, policy, batch", _files("evaluate")),
    Mutant("minippo/evaluation.py", "compared_logprobs(policy, env.reference, batch", "compared_logprobs(env.reference, policy, batch", _files("evaluate")),  # the KL of the reference to the policy
    Mutant("minippo/evaluation.py", "        policy.eval()  # dropout off\n", "", _files("evaluate")),
    Mutant("minippo/evaluation.py", "{key: after[key] for key in (\"kl\"", "{key: before[key] for key in (\"kl\"", OF_EVALUATION),
    Mutant("minippo/evaluation.py", "score_texts(env.scorer, batch.prompt_texts, batch.response_texts)", "env.scorer(batch.prompt_texts, batch.response_texts)", OF_EVALUATION),  # NaN is reported as a result
    # ------------------------------------------------------------------ stage.py: what is written when
    Mutant("minippo/runs/run.py", "        seal(folder)\n        publish_folder(folder, self.stage(stage))\n", "        publish_folder(folder, self.stage(stage))\n        seal(self.stage(stage))\n", OF_STAGE),  # killed in between, the results are lost for ever
    Mutant("minippo/runs/stage.py", "                    inputs = None if finished else prepare(run)\n", "                    run.begin(stage)\n                    inputs = None if finished else prepare(run)\n", OF_STAGE),  # wrong input leaves a folder behind
    Mutant("minippo/runs/stage.py", "            print_report(inputs.report)\n", "            print_report(inputs.report)\n            started = time.perf_counter()\n", OF_STAGE),
    Mutant("minippo/runs/stage.py", "raise SystemExit(1) from None", "raise SystemExit(0) from None", OF_STAGE),  # a script goes on to the next stage
    Mutant("minippo/runs/stage.py", "            finished = run.is_finished(stage) and not run.in_training(stage)\n", "            finished = False\n", OF_STAGE),
    Mutant("minippo/runs/stage.py", "started, inputs.report, results)", "started, {}, results)", OF_STAGE),
    Mutant("minippo/runs/stage.py", "in Checkpoints(folder).paths()[-1:]", "in Checkpoints(folder).paths()[:1]", OF_STAGE),
    Mutant("minippo/runs/stage.py", "filter(None, [run.position, what])", "filter(None, [what])", OF_STAGE),
    Mutant("minippo/runs/checkpoint.py", "step % every == 0 or step == last", "step % every == 0", OF_STAGE),  # the last iterations are in no checkpoint
    # ------------------------------------------------------------------ checkpoint.py: which are kept, which is taken
    Mutant("minippo/runs/checkpoint.py", "complete[-self.keep :]", "complete[-self.keep - 1 :]", covering("checkpoint", "newest")),
    Mutant("minippo/runs/checkpoint.py", "complete[-self.keep :]", "complete[-1:]", covering("checkpoint", "newest")),
    Mutant("minippo/runs/checkpoint.py", "\"data\": self.data,", "\"data\": \"\",", covering("checkpoint", "data")),
    Mutant("minippo/runs/checkpoint.py", "        for path in reversed(self.paths()):\n", "        for path in self.paths():\n", covering("checkpoint", "latest")),  # begins anew
    Mutant("minippo/runs/checkpoint.py", "        return path is not None\n", "        return False\n", covering("checkpoint", "latest")),  # and overwrites where it was
    Mutant("minippo/runs/checkpoint.py", " if re.fullmatch(r\"step-\\d{6,}\", path.name))", ")", covering("checkpoint", "latest")),
    # ------------------------------------------------------------------ metrics.py: steps, seconds, position
    Mutant("minippo/runs/metrics.py", "first_step = start + 1 if start else 0", "first_step = start + 1", OF_METRICS),  # two lines of step 0
    Mutant("minippo/runs/metrics.py", "first_step = start + 1 if start else 0", "first_step = start", OF_METRICS),
    Mutant("minippo/runs/metrics.py", "        _drop_samples(self.samples_path, first_step)\n", "", covering("metrics", "samples")),
    Mutant("minippo/runs/metrics.py", ", purge_step=first_step)", ")", covering("metrics", "tensorboard")),
    Mutant("minippo/runs/metrics.py", "self.seconds[f\"seconds/{name}\"] = time.perf_counter() - started", "self.seconds[f\"seconds/{name}\"] = time.perf_counter()", OF_METRICS),
    Mutant("minippo/runs/metrics.py", "num_tokens / sum(self.seconds.values())", "num_tokens / max(self.seconds.values())", OF_METRICS),  # the fastest part alone
    Mutant("minippo/runs/metrics.py", "        self.seconds = {}\n        for", "        for", OF_METRICS),  # the seconds of an earlier step
    Mutant("minippo/runs/metrics.py", "                self.run.position = f\"{self.stage}, {self.unit} {step}\"\n", "", OF_METRICS),
    Mutant("minippo/runs/metrics.py", "        self.run.position = f\"{self.stage}, after {self.unit} {last}\"\n", "", OF_METRICS),  # a later error names a step that is over
    Mutant("minippo/runs/metrics.py", "for step in range(first, last + 1)", "for step in range(1, last + 1)", OF_METRICS),  # a resumed run begins again
    Mutant("train_ppo.py", "Metrics(run, \"ppo\", start=state.iteration)", "Metrics(run, \"ppo\")", covering("pipeline", "resumed")),
    Mutant("train_ppo.py", "num_tokens=int(rollout.response_mask.sum())", "num_tokens=rollout.response_mask.numel()", covering("pipeline", "speed")),  # pads are fast
    # ------------------------------------------------------------------ results.py: what is shown
    Mutant("minippo/runs/results.py", "\"best possible\": \"rm_accuracy_limit\"", "\"best possible\": \"rm_accuracy\"", OF_RESULTS),
    Mutant("minippo/runs/results.py", "for name, x in values.items() if x is not None)", "for name, x in values.items() if x)", OF_RESULTS),  # an accuracy of 0 is not mentioned
    Mutant("minippo/runs/results.py", "run.summary().get(f\"sft_{name}_loss\")", "run.summary().get(\"sft_policy_loss\")", OF_RESULTS),
    Mutant("minippo/runs/results.py", "(f\"scores: {scorer}\" if scorer else reward_model_line(run))", "reward_model_line(run)", OF_RESULTS),
    Mutant("minippo/runs/results.py", "if \"gold_after\" in summary else", "if summary else", OF_RESULTS),
    Mutant("minippo/runs/results.py", "for _, row in read_json_lines(run.intact(run.stage(\"ppo\")) / \"answers.jsonl\")", "for row in map(json.loads, (run.intact(run.stage(\"ppo\")) / \"answers.jsonl\").read_text(encoding=\"utf-8\").splitlines())", OF_RESULTS),  # splits at U+2028 too
    # ------------------------------------------------------------------ storage.py: what a loss of power leaves
    Mutant("minippo/storage.py", "    os.replace(folder, path)\n    _sync(path.parent)\n", "    os.replace(folder, path)\n", OF_STORAGE),
    Mutant("minippo/storage.py", "        _sync(file)\n", "        pass\n", OF_STORAGE),
    Mutant("minippo/storage.py", "    _sync(folder)\n    shutil.rmtree(path", "    shutil.rmtree(path", OF_STORAGE),
    Mutant("minippo/storage.py", "    for file in folder.rglob(\"*\"):\n", "    shutil.rmtree(path, ignore_errors=True)\n    for file in folder.rglob(\"*\"):\n", OF_STORAGE),  # nothing is there until all is flushed
    Mutant("minippo/storage.py", "    for file in folder.rglob(\"*\"):\n        _sync(file)\n    _sync(folder)\n    shutil.rmtree(path, ignore_errors=True)  # os.replace cannot replace a folder that is not empty\n    os.replace(folder, path)\n", "    shutil.rmtree(path, ignore_errors=True)\n    os.replace(folder, path)\n    for file in path.rglob(\"*\"):\n        _sync(file)\n    _sync(path)\n", OF_STORAGE),  # a whole name, half its contents
    Mutant("minippo/storage.py", "        yield partial\n        publish_folder(partial, path)\n    finally:\n", "        yield partial\n    finally:\n        publish_folder(partial, path)\n", OF_STORAGE),
    Mutant("minippo/storage.py", "    shutil.rmtree(partial, ignore_errors=True)\n    partial.mkdir()\n", "    partial.mkdir(exist_ok=True)\n", OF_STORAGE),  # files of an interrupted process
    Mutant("minippo/storage.py", "            os.replace(part, path)\n    _sync(folder)\n", "            os.replace(part, path)\n", OF_STORAGE),
    # ------------------------------------------------------------------ batches.py: comparisons
    Mutant("minippo/batches.py", "        same = same[np.argsort(longest[same], kind=\"stable\")]\n", "", OF_BATCHES),  # pads
    Mutant("minippo/batches.py", "torch.randperm(len(batches), generator=generator).tolist()", "range(len(batches))", OF_BATCHES),  # small and short ones first
    Mutant("minippo/batches.py", "torch.randperm(len(sizes), generator=generator).numpy()", "np.arange(len(sizes))", OF_BATCHES),  # the same ones meet in every epoch
    Mutant("minippo/batches.py", "same = order[sizes[order] == size]", "same = order[sizes[order] >= size]", OF_BATCHES),
    # ------------------------------------------------------------------ what the scripts hand on
    Mutant("train_ppo.py", "inputs.demonstrations, config, run.config.seed,", "inputs.demonstrations, config, 1,", RUN_STREAMS),
    Mutant("train_ppo.py", "Checkpoints(run.checkpoints_folder(\"ppo\"), corpus.fingerprint)", "Checkpoints(run.checkpoints_folder(\"ppo\"))", covering("pipeline", "killed_and_resumed")),  # refuses its own checkpoints
    Mutant("train_ppo.py", "Checkpoints(run.unfinished(\"ppo\"), inputs.data)", "Checkpoints(run.unfinished(\"ppo\"))", covering("pipeline", "killed_and_resumed")),
    Mutant("train_ppo.py", "    Checkpoints(run.checkpoints_folder(\"ppo\"), corpus.fingerprint).check_latest()\n", "", covering("pipeline", "their_data")),
    Mutant("minippo/runs/checkpoint.py", "        if path is None and damage:\n", "        if False:\n", covering("checkpoint", "older")),
    Mutant("minippo/tools/evaluate.py", "Evaluator(env, queries, options.split", "Evaluator(env, queries, \"validation\"", covering("every_option", "evaluate_answers")),  # other draws than the run's
    Mutant("minippo/runs/scorers.py", "    if stored and named is None:\n", "    if False:\n", "tests/runs/test_scorers.py"),  # a file decides which code runs
    Mutant("minippo/runs/scorers.py", "    if named != stored:\n", "    if False:\n", "tests/runs/test_scorers.py"),
    Mutant("minippo/runs/scorers.py", "        sys.meta_path.insert(0, _NotFromRuns())\n", "        pass\n", "tests/runs/test_scorers.py"),
    Mutant("minippo/runs/options.py", "        require_named_scorer(base.ppo.scorer, scorer, name, \"--ppo.scorer\")\n", "", "tests/runs/test_scorers.py"),
    Mutant("minippo/scoring.py", "        except BaseException as error:  # whatever the user's", "        except Exception as error:  # whatever the user's", "tests/pipeline/test_own_scorer.py"),  # sys.exit() ends training
    Mutant("minippo/exits.py", "self.stream.write(printable(text))", "self.stream.write(text)", "tests/test_exits.py"),
    Mutant("minippo/exits.py", "            if output.lost:\n                raise SystemExit(1)\n", "", "tests/test_exits.py"),
    Mutant("minippo/runs/presets.py", "        if key in changed:\n", "        if False:\n", "tests/runs/test_hostile_settings.py"),
    Mutant("minippo/runs/presets.py", "not re.fullmatch(DECIMAL, node.value)", "False", "tests/runs/test_hostile_settings.py"),
    Mutant("minippo/runs/validation.py", "        if size > memory:\n", "        if False:\n", covering("config")),
    Mutant("minippo/tools/evaluate.py", "policy = load_environment(run, options.scorer), load_policy(run, \"ppo\")", "policy = load_environment(run, options.scorer), load_policy(run, \"sft\")", covering("every_option", "evaluate_answers")),
    Mutant("train_rm.py", "    sampling_params(config, policy_tokenizer)  # raises if the stop token is not one token\n", "", covering("train_rm", "stop_token")),  # known an hour later
    # ------------------------------------------------------------------ what is lost or taken for whole between two processes
    Mutant("minippo/storage.py", "        if path.stat().st_size != size:\n", "        if False:\n", covering("run", "damaged")),
    Mutant("minippo/storage.py", "        if _size_and_hash(path) != files[name]:\n", "        if False:\n", covering("run", "damaged")),
    Mutant("minippo/runs/run.py", "            check_sealed(folder)\n", "", covering("run", "damaged")),
    Mutant("minippo/runs/run.py", "        require_finite(dict(_numbers(results)), f\"{stage}, results\")\n", "", covering("run", "no_number")),
    Mutant("minippo/runs/run.py", "in sealed_files(run.intact(source / name)):", "in [p.relative_to(source / name) for p in run.intact(source / name).rglob(\"*\") if p.is_file()]:", covering("run", "copied_stages")),  # checkpoints are hundreds of megabytes
    Mutant("minippo/runs/run.py", "            if record[\"data\"] == fingerprint:\n", "            if True:\n", covering("run", "other_data")),
    Mutant("minippo/runs/opening.py", "and own == begun[-1] and ours > theirs", "and own == begun[-1]", covering("run", "longer")),  # a shorter training is none
    Mutant("minippo/runs/opening.py", "and own == begun[-1] and ours > theirs", "and ours > theirs", covering("run", "longer")),  # the next stage built on it
    Mutant("minippo/runs/checkpoint.py", "due(step, every, last) or stop_requested()", "due(step, every, last)", covering("metrics", "signal")),  # a step is lost
    Mutant("minippo/runs/checkpoint.py", "            if state.step == 0:  # fail now", "            if False:  # fail now", covering("checkpoint", "does_not_begin")),
    Mutant("minippo/runs/metrics.py", "                    stop_if_requested()\n", "                    pass\n", covering("metrics", "signal")),
    Mutant("minippo/runs/metrics.py", "lines = [*self.pending.pop(path, []), text]", "lines = [text]", covering("metrics", "disk")),
    Mutant("minippo/weights/pretrained.py", "    require_finite_weights(model)\n", "", covering("checkpoint", "no_numbers")),
    Mutant("minippo/streams.py", "    torch.manual_seed(_key(seed, name, position)", "    torch.manual_seed(_key(seed, name, ())", covering("streams", "global_seed")),  # every step drops the same
    Mutant("minippo/sft.py", "seed_global(seed, f\"sft {name}: dropout\", step)", "seed_global(seed, f\"sft {name}: dropout\")", RUN_STREAMS),
    Mutant("minippo/sft.py", "        seed_global(seed, f\"sft {name}: dropout\", step)", "        step or seed_global(seed, f\"sft {name}: dropout\", step)", covering("sft", "resumed")),
    Mutant("minippo/sft.py", "Metrics(run, f\"sft-{name}\", start=state.step)", "Metrics(run, f\"sft-{name}\")", covering("sft", "resumed")),
    Mutant("minippo/sft.py", "checkpoints.due(step, config.save_every, num_steps)", "checkpoints.due(step, 500, num_steps)", EFFECTS),
    Mutant("minippo/sft.py", "stats[\"eval/loss\"] = held_out(\"validation\")", "stats[\"eval/loss\"] = held_out(\"test\")", HELD_OUT_ROWS),
    Mutant("train_rm.py", "seed_global(seed, \"rm dropout\", step)", "seed_global(seed, \"rm dropout\")", RUN_STREAMS),
    Mutant("train_rm.py", "        seed_global(seed, \"rm dropout\", step)", "        step or seed_global(seed, \"rm dropout\", step)", covering("train_rm", "resumed")),
    Mutant("train_rm.py", "generator(seed, \"rm hidden tokens\", step)", "generator(seed, \"rm hidden tokens\")", RUN_STREAMS),
    Mutant("train_rm.py", "Metrics(run, \"rm\", start=state.step)", "Metrics(run, \"rm\")", covering("train_rm", "resumed")),
    Mutant("train_rm.py", "checkpoints.due(step, config.save_every, num_steps)", "checkpoints.due(step, 500, num_steps)", EFFECTS),
    Mutant("minippo/state.py", "\"epoch\": self.batches.epoch,", "\"epoch\": 0,", covering("checkpoint", "first_two")),
    Mutant("minippo/batches.py", "self.batches_drawn, None)", "0, None)", covering("checkpoint", "first_two")),
    Mutant("minippo/batches.py", "self.batches_drawn = self.epoch + 1, 0", "self.batches_drawn = self.epoch + 1, self.batches_drawn", covering("checkpoint", "first_two")),
    Mutant("minippo/storage.py", "        shutil.rmtree(partial, ignore_errors=True)  # if the disk", "        pass  # if the disk", covering("storage", "nothing_behind")),
    Mutant("minippo/storage.py", "    partial.mkdir()\n    try:\n", "    partial.mkdir(parents=True)\n    try:\n", covering("storage", "parent")),  # half of a run that has been moved
    Mutant("minippo/runs/run.py", "            _remove_partial(self.folder)\n", "", covering("run", "killed_process")),
    Mutant("minippo/runs/run.py", " | os.O_NOFOLLOW", "", covering("run", "lock")),
    Mutant("minippo/runs/run.py", "os.O_RDWR | os.O_CREAT", "os.O_RDWR | os.O_CREAT | os.O_TRUNC", covering("run", "lock")),
    Mutant("minippo/runs/run.py", "        self.require_in_place()\n", "", covering("run", "moved")),
    Mutant("minippo/runs/run.py", "--run-dir {folder}{scorer}", "--run-dir {folder}", covering("run", "command_that_resumes")),
    Mutant("minippo/runs/run.py", "                _copy_checkpoints(self.stage(stage), self.unfinished(stage))\n", "                pass\n", covering("run", "longer")),
    Mutant("minippo/runs/checkpoint.py", "    except (KeyError, TypeError, AttributeError, ValueError) as error:", "    except KeyError as error:", covering("checkpoint", "something_else")),
    Mutant("minippo/optim.py", "v.shape != parameter.shape for v", "False for v", covering("checkpoint", "something_else")),
    Mutant("minippo/runs/metrics.py", "            self._append(path, \"\")\n", "            pass\n", covering("metrics", "stage_ends")),
    Mutant("minippo/runs/presets.py", "    if not mark or digest != f\"{_sha256(text)}\\n\":\n", "    if not mark:\n", covering("hostile_settings", "altered")),
    Mutant("minippo/tools/export.py", "    with atomic_folder(out) as folder:  # all", "    for folder in [out]:  # all", OF_EXPORT),
    Mutant("minippo/data/cache.py", " and other != folder", "", covering("token_rows", "clock")),
    Mutant("minippo/sft.py", "        data = f\"{corpus.fingerprint} {tokenizer.fingerprint}\"\n", "        data = corpus.fingerprint\n", covering("pipeline", "replaced")),
    Mutant("minippo/interruption.py", "    _seen[:] = _requested\n    return bool(_seen)\n", "    return bool(_requested)\n", covering("metrics", "signal")),
    Mutant("minippo/interruption.py", "        if _seen:  # a signal", "        if _requested:  # a signal", covering("metrics", "after_the_step")),
    Mutant("minippo/runs/metrics.py", "        if stage == \"ppo\":\n            _drop_samples", "        if True:\n            _drop_samples", covering("metrics", "another_stage")),
    Mutant("minippo/runs/stage.py", "            run.write_summary()  # a process", "            pass  # a process", covering("stage", "killed_process")),
    Mutant("minippo/runs/run.py", "            if self._settings() != self.seen:\n", "            if False:\n", covering("run", "changed_since")),
    Mutant("minippo/runs/run.py", "            _require_own_files(self)\n", "", covering("run", "through_a_link")),
    Mutant("minippo/runs/opening.py", "        if run.in_training(name):\n", "        if False:\n", covering("run", "built_on")),
    Mutant("minippo/runs/opening.py", "        check(config)\n", "        pass\n", covering("run", "settings_are_checked")),
    Mutant("minippo/runs/opening.py", "        if not any(run.stage(stage).rglob(\"step-*\")):\n", "        if False:\n", covering("run", "without_checkpoints")),
    # ------------------------------------------------------------------ trace.py
    Mutant("minippo/tools/trace/printing.py", "gamma=config.gamma, lam=0)", "gamma=config.gamma, lam=config.lam)", OF_TRACE),
    Mutant("minippo/tools/trace/printing.py", "tables[name][0, t + 1] if t < last else 0.0", "tables[name][0, t]", OF_TRACE),
    Mutant("minippo/tools/trace/printing.py", "name == \"rewards\" and t == last", "name == \"rewards\"", OF_TRACE),
    Mutant("minippo/tools/trace/printing.py", "rollout.logprobs, advantages, mask", "rollout.logprobs, rollout.advantages, mask", OF_TRACE),
    Mutant("minippo/tools/trace/__init__.py", "load_policy(run, \"ppo\")", "load_policy(run, \"sft\")", OF_TRACE),
    Mutant("minippo/tools/trace/__init__.py", "        if iteration == 1:\n", "        if iteration == 2:\n", OF_TRACE),
    # ------------------------------------------------------------------ bench/
    Mutant("bench/measuring.py", "list(map(math.log, y))).slope", "y).slope", OF_BENCH),
    Mutant("bench/measuring.py", "    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])", "    return spread([statistics.median(numerators) / statistics.median(denominators)])", OF_BENCH),
    Mutant("bench/measuring.py", "        functions[name]()\n    results", "        pass\n    results", OF_BENCH),  # no warm-up
    Mutant("bench/measuring.py", "        names.reverse()\n", "", OF_BENCH),
    Mutant("bench/measuring.py", "self[phase] = self.get(phase, 0.0) + clock() - started", "self[phase] = clock() - started", OF_BENCH),  # the last call only
    Mutant("bench/machine.py", "if computing > moving", "if computing < moving", OF_BENCH),
    Mutant("bench/machine.py", "max(self.bandwidth, other.bandwidth)", "self.bandwidth", OF_BENCH),
    Mutant("bench/report.py", "for name in order if", "for name in reversed(order) if", OF_BENCH),
    Mutant("bench/report.py", "{end}{after}\"", "{end}\"", OF_BENCH),  # the rest of the page is lost
    Mutant("bench/report.py", "    if not has_begin or not has_end:", "    if not has_begin:", OF_BENCH),
    Mutant("bench/documents.py", "    if not condition:\n", "    if False:\n", OF_TEMPLATES),
    Mutant("bench/documents.py", "undefined=jinja2.StrictUndefined", "undefined=jinja2.Undefined", OF_TEMPLATES),
    Mutant("bench/documents.py", ".split(\"\\n\\n\")[start:stop]", ".split(\"\\n\\n\")[start:]", OF_TEMPLATES),
    Mutant("bench/documents.py", "            if options.train and experiment.missing():\n", "            if options.train:\n", OF_STORED),
    Mutant("bench/documents.py", "    if missing := experiment.missing():\n", "    if missing := list(experiment.runs)[1:]:\n", OF_STORED),
    Mutant("bench/documents.py", "    draw(experiment)\n", "", OF_STORED),
    Mutant("bench/documents.py", "    if done.returncode:\n", "    if False:\n", OF_STORED),
    Mutant("bench/experiments.py", "[f\"{folder}/ppo\" for folder", "[folder for folder", OF_STORED),  # whether it is finished or not
    Mutant("bench/experiments.py", "for key in (\"date\", \"machine\")} == new", "for key in ()} == new", OF_STORED),
    Mutant("bench/experiments.py", "        return stored\n    return new\n", "        return new\n    return new\n", OF_STORED),
    Mutant("bench/experiments.py", "override(load_config(experiment.preset), dict(experiment.runs[folder]))", "load_config(experiment.preset)", OF_STORED),
    Mutant("bench/experiments.py", "summaries[0][\"versions\"] if summaries else versions()", "versions()", OF_STORED),  # of another time
    Mutant("bench/experiments.py", "        del settings[\"data\"][\"imdb_path\"]", "        pass", OF_STORED),
    Mutant("bench/models.py", "+ self.head_weights * predicted)", "+ self.head_weights * tokens)", OF_BENCH),
    Mutant("bench/models.py", "return 12 * self.layers", "return 8 * self.layers", OF_BENCH),
    Mutant("bench/ppo.py", "max_new_tokens=response_length, eos_id=-1", "max_new_tokens=response_length, eos_id=tokenizer.eos_id", OF_BENCH),  # early ends
    Mutant("bench/ppo.py", "phases.watch(minippo.rollout, \"score_texts\", \"scoring\")", "pass", OF_BENCH),
    Mutant("bench/rollout.py", "min_new_tokens=R, eos_id=eos_id", "min_new_tokens=0, eos_id=eos_id", OF_BENCH),
    Mutant("bench/reward.py", "if by_length else LONGEST", "if not by_length else LONGEST", OF_BENCH),
    Mutant("bench/gpu.py", "if policy is reference else", "if policy is not reference else", OF_BENCH),
    Mutant("bench/gpu.py", "max(self.peaks.get(phase, 0), torch.cuda.max_memory_allocated())", "torch.cuda.max_memory_allocated() if phase not in self.peaks else self.peaks[phase]", OF_BENCH),  # the first, not the largest
    Mutant("bench/gpu.py", "[expected] * len(peaks)", "peaks", OF_BENCH),
    Mutant("bench/__main__.py", "if options.profile and \"gpu\" in options.sections:", "if False:", covering("bench", "one_sentence")),
    Mutant("bench/optimizer.py", "def profiled(", "def profile(", covering("bench", "profile")),
    Mutant("bench/scaling.py", "turn[\"peak memory\"] - turn[\"loaded memory\"] - models", "turn[\"peak memory\"] - turn[\"loaded memory\"]", OF_BENCH),
    Mutant("bench/scaling.py", "[spread(row).median for row in measured]), min", "[max(row) for row in measured]), min", OF_BENCH),
    # ------------------------------------------------------------------ the memory plan
    Mutant("minippo/runs/memory_model.py", "return 11 * self.hidden(tokens)", "return 9 * self.hidden(tokens)", OF_PLAN),  # the block's input and the attention's result
    Mutant("minippo/runs/memory_model.py", "numbers = 12 if self.gpt.config.activation == \"relu\" else 16", "numbers = 16", OF_PLAN),  # ReLU keeps less
    Mutant("minippo/runs/memory_model.py", "numbers = 12 if self.gpt.config.activation == \"relu\" else 16", "numbers = 12", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "(9 if self.gpt.config.activation == \"relu\" else 5) * self.hidden(tokens)", "0 * self.hidden(tokens)", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "rows * (query_length + response_length))  # keys and values", "rows * response_length)  # keys and values", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "cache = 2 * layers", "cache = layers", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "* FLOAT32 + 2 * FLOAT64)", "* FLOAT32)", OF_PLAN),  # the softmax in float64
    Mutant("minippo/runs/memory_model.py", "(2 + (temperature != 1)) * FLOAT32", "3 * FLOAT32", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "(2 + (temperature != 1)) * FLOAT32", "2 * FLOAT32", OF_PLAN),
    Mutant("minippo/runs/phases.py", "self.P, self.R, config.ppo.temperature)", "self.P, self.R, 0.5)", OF_PLAN),
    Mutant("minippo/runs/phases.py", "self.P, R, config.temperature)", "self.P, R, 1.0)", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "0 if self.dropout == 0 else 1 if self.on_gpu else self.dtype.itemsize", "0 if self.dropout == 0 else self.dtype.itemsize", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "(self.hidden(tokens) if self.checkpoint else self.saved_by_block(tokens))", "self.saved_by_block(tokens)", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "again = self.saved_by_block(tokens) - self.hidden(tokens) if self.checkpoint else 0", "again = 0", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "return isinstance(self.module, RewardModel)", "return False", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "        if not self.offload:\n            return", "        if True:\n            return", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "waiting = max(new, self.block) if self.on_gpu else new", "waiting = new", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "gradients=waiting + self.held", "gradients=waiting", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "and self.on_gpu and not self.reads_one_position\n", "and not self.reads_one_position\n", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "new = self.embedding if self.offload else 0", "new = self.embedding", OF_PLAN),  # a second gradient of the table
    Mutant("minippo/runs/memory_model.py", "new = self.embedding if self.offload else 0", "new = 0", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", "min(self.weights, before + passed * self.block)", "before", OF_PLAN),  # gradients appear on the way
    Mutant("minippo/runs/phases.py", "GPT(self.architectures[name]).to(dtype)", "GPT(self.architectures[name])", OF_PLAN),
    Mutant("minippo/runs/phases.py", "(\"CPU\", \"moments\"): 2 * n", "(\"CPU\", \"moments\"): n", OF_PLAN),
    Mutant("minippo/runs/phases.py", "if self.on_gpu or model.dtype != torch.float32:", "if self.on_gpu:", OF_PLAN),
    Mutant("minippo/runs/phases.py", "if in_use or not parked:", "if not parked:", OF_PLAN),
    Mutant("minippo/runs/phases.py", "parked = self.on_gpu and self.config", "parked = self.config", OF_PLAN),
    Mutant("minippo/runs/phases.py", "            usage[self.device, \"gradients\"] = model.weights\n", "            pass\n", OF_PLAN),
    Mutant("minippo/runs/phases.py", "        if not model.offload:\n", "        if True:\n", OF_PLAN),  # offloaded gradients twice
    Mutant("minippo/runs/phases.py", "largest = max(moments", "largest = min(moments", OF_PLAN),
    Mutant("minippo/runs/phases.py", "            lasting[\"CPU\", \"waiting model\"] = other.weights\n", "", OF_PLAN),
    Mutant("minippo/runs/memory_model.py", '"packed weights": self.packed', '"packed weights": 0', OF_PLAN),
    Mutant("minippo/runs/phases.py", "before = policy.embedding if is_whole else policy.weights", "before = policy.embedding", OF_PLAN),
    Mutant("minippo/runs/phases.py", "max(1, LOGIT_TOKENS // self.R))", "self.config.ppo.microbatch_size)", OF_PLAN),  # all logits at once
    Mutant("minippo/runs/phases.py", "tokens, min(LOGIT_TOKENS, tokens), 2 * FLOAT32)", "tokens, tokens, 2 * FLOAT32)", OF_PLAN),
    Mutant("minippo/runs/phases.py", "is_whole and self.response_tokens == self.R * config.microbatch_size", "False", OF_PLAN),
    Mutant("minippo/runs/phases.py", "is_whole and self.response_tokens == self.R * config.microbatch_size", "is_whole", OF_PLAN),
    Mutant("minippo/runs/phases.py", "is_first = tokens <= LOGIT_TOKENS and before == model.embedding", "is_first = before == model.embedding", OF_PLAN),
    Mutant("minippo/runs/phases.py", "is_first = tokens <= LOGIT_TOKENS and before == model.embedding", "is_first = False", OF_PLAN),
    Mutant("minippo/runs/phases.py", "at_once = min(LOGIT_TOKENS, tokens)", "at_once = tokens", OF_PLAN),
    Mutant("minippo/runs/phases.py", "lasting, per_logit = 2 * gradient + chunk, self.per_trained_logit(policy)", "lasting, per_logit = 2 * gradient + chunk, self.per_logit(policy)", OF_PLAN),
    Mutant("minippo/runs/phases.py", "(5 if self.config.ppo.entropy_coef > 0 else 3) * FLOAT32", "3 * FLOAT32", OF_PLAN),
    Mutant("minippo/runs/phases.py", "policy.dtype.itemsize + (1 + converts) * FLOAT32", "policy.dtype.itemsize + converts * FLOAT32", OF_PLAN),
    Mutant("minippo/runs/phases.py", "self.frozen(reference) + self.frozen(reward, in_use=True)", "self.frozen(reference) + self.frozen(reward)", OF_PLAN),
    Mutant("minippo/runs/phases.py", "answers: generation\", in_use", "answers: generation\", idle", OF_PLAN),
    Mutant("minippo/runs/phases.py", "weights + self.frozen(reference), scoring", "in_use, scoring", OF_PLAN),
    Mutant("minippo/runs/phases.py", "Counter({(\"CPU\", \"parked models\"): model.weights} if parked else {})", "Counter({(\"CPU\", \"parked models\"): model.weights} if parked and not in_use else {})", covering("plan", "takes_what")),
    Mutant("minippo/runs/phases.py", "Counter({(\"CPU\", \"parked models\"): model.weights} if parked else {})", "Counter()", covering("plan", "takes_what")),
    Mutant("minippo/evaluation.py", "self.config.ppo.rollout_batch_size, self.config.ppo.microbatch_size", "self.config.ppo.microbatch_size, self.config.ppo.microbatch_size", covering("evaluation")),
    Mutant("minippo/runs/phases.py", "        if config.ptx_coef:\n", "        if False:\n", OF_PLAN),
    Mutant("minippo/runs/phases.py", " or self.config.ppo.temperature != 1", " and self.config.ppo.temperature != 1", OF_PLAN),
    Mutant("minippo/runs/phases.py", "FLOAT32 * block * (1 + converts)", "FLOAT32 * block", OF_PLAN),
    Mutant("minippo/runs/phases.py", "scorer = [] if config.scorer else", "scorer =", OF_PLAN),
    Mutant("minippo/runs/plan.py", "on_gpu = device == \"cuda\" or (device == \"auto\" and has_gpu)", "on_gpu = has_gpu", OF_PLAN),
    Mutant("minippo/runs/plan.py", "torch.cuda.mem_get_info()[0]", "torch.cuda.mem_get_info()[1]", OF_PLAN),  # all memory, not what is free
    Mutant("minippo/runs/plan.py", "trained_size(model.tokenizer) or", "1000 or", OF_PLAN),
    Mutant("minippo/runs/plan.py", "if has_gpu or not on_gpu else {}", "if not on_gpu else {}", OF_PLAN),  # the CPU's peak on a GPU
    Mutant("minippo/runs/plan.py", "if largest.total(place) <= limit", "if largest.total(place) >= limit", OF_PLAN),
    Mutant("minippo/runs/plan.py", "if freed > max(parts", "if freed < max(parts", OF_PLAN),
    Mutant("minippo/runs/plan.py", "sorted(found, key=itemgetter(0), reverse=True)", "found", OF_PLAN),
    Mutant("minippo/runs/plan.py", "            check_settings(override(config, changes))\n", "            pass\n", OF_PLAN),
    Mutant("minippo/runs/plan.py", "            check_context(config.data, name, found[name].context, f\"model.{name}.weights {model.weights}\")\n", "", OF_PLAN),
    Mutant("minippo/runs/stage.py", "                print(plan(stage, options.settings, options.device))\n                return\n", "                print(plan(stage, options.settings, options.device))\n", OF_PLAN),  # trains all the same
]  # fmt: skip

EVERY_MUTANT = [*MUTANTS, *PLUMBING, *FRONTIER, *LABELS]
