"""Wrong edits of what connects the formulas: scripts, evaluation, checks, data, commands. As in mutants.py.

Here a setting does not arrive, two roles or splits are swapped, a step is at another place, a check looks away.
"""

from __future__ import annotations

from tests.mutants.mutants import MUTANTS, Mutant, covering, path_of


def _files(*names: str) -> str:
    """Whole files of tests, the quick ones first."""
    return " ".join(map(path_of, names))


REPLAY_SFT, REPLAY_RM, REPLAY_PPO = (covering("replay", stage) for stage in ("language", "reward", "policy"))
RECOMPUTED, EFFECTS = _files("recomputed"), covering("every_field", "base_run")
OF_PPO = _files("replay", "run_streams", "recomputed", "held_out", "every_field", "pipeline")
OF_EVALUATE = _files("evaluate", "recomputed", "run_streams", "every_option")
OF_SCORING = _files("scoring", "own_scorer", "train_rm", "recomputed", "pipeline")
OF_CHECKS = _files("checks", "pipeline")
OF_RUN = _files("run", "every_option", "pipeline", "every_field")
OF_DATA = _files("token_rows", "data", "train_rm", "run_streams", "held_out")
OF_CORPORA = _files("corpora", "held_out", "recomputed", "every_field")
OF_OWN_DATA = _files("own_data", "corpora", "held_out", "every_field")
OF_UPDATE = _files("ppo", "replay")
OF_ROLLOUT = _files("rollout", "checks", "replay", "recomputed", "run_streams")
OF_COMMANDS = _files("every_option", "generate", "pipeline")
OF_EXPORT = _files("export", "every_option", "recomputed")
OF_TRACE = _files("trace")
OF_METRICS = _files("metrics", "pipeline")
OF_CHECKPOINT = _files("checkpoint", "pipeline", "export")
OF_MODEL = _files("model")
OF_SAMPLING = _files("sampling")
OF_STREAMS = _files("streams", "run_streams")

PLUMBING = [
    # ------------------------------------------------------------------ sft.py: stage 1
    Mutant("minippo/sft.py", "config = getattr(run.config.sft, name)", "config = run.config.sft.policy", REPLAY_SFT),  # sft.reward unread
    Mutant("minippo/sft.py", "pieces = windows(rows[\"train\"], ", "pieces = windows(rows[\"test\"], ", _files("sft")),  # trains on what is held out
    Mutant("minippo/sft.py", "held_out_loss(gpt, windows(rows[split], ", "held_out_loss(gpt, windows(rows[\"train\"], ", _files("sft")),  # measured on training rows
    Mutant("minippo/sft.py", "    validation_loss, test_loss = (", "    test_loss, validation_loss = (", _files("sft")),  # the reported loss is the one that settings are chosen by
    Mutant("minippo/sft.py", "for d in demonstrations[\"train\"][:TOKENIZER_TEXTS]", "for d in demonstrations[\"test\"][:TOKENIZER_TEXTS]", _files("held_out")),  # a tokenizer that has seen what is held out
    Mutant("minippo/sft.py", "param_groups(gpt.parameters(), config.weight_decay)", "param_groups(gpt.parameters(), config.lr)", REPLAY_SFT),
    Mutant("minippo/sft.py", "lr_schedule(config.schedule, step", "lr_schedule(\"linear\", step", REPLAY_SFT),
    Mutant("minippo/sft.py", "clip_grad_norm_(gpt.parameters(), config.max_grad_norm)", "clip_grad_norm_(gpt.parameters(), 1.0)", REPLAY_SFT),
    Mutant("minippo/sft.py", "            optimizer.zero_grad(set_to_none=True)\n", "", _files("sft")),  # gradients add up over the steps
    Mutant("minippo/sft.py", "generator(run.config.seed, f\"sft {name}\", epoch)", "generator(1, f\"sft {name}\", epoch)", REPLAY_SFT),
    Mutant("minippo/sft.py", "generator(run.config.seed, f\"sft {name}\", epoch)", "generator(run.config.seed, f\"sft {name}\")", REPLAY_SFT),  # every epoch in one order
    Mutant("minippo/sft.py", "seed_global(run.config.seed, f\"initial weights, {name}\")", "seed_global(1, f\"initial weights, {name}\")", _files("run_streams")),
    Mutant("minippo/sft.py", "zip((policy_rows, reward_rows), tokenizers", "zip((policy_rows, policy_rows), tokenizers", _files("sft")),  # warm-started on other tokens than it will read
    Mutant("minippo/sft.py", "make_tokenizer(config.tokenizer, texts)", "make_tokenizer(configs[0].tokenizer, texts)", covering("every_field", "sft model seed")),
    Mutant("minippo/sft.py", "texts = [d.prompt + d.completion for", "texts = [d.completion for", covering("every_field", "sft model seed")),  # a tokenizer that has seen no prompt
    Mutant("minippo/sft.py", "                activation=config.activation,\n", "", EFFECTS),
    # ------------------------------------------------------------------ train_rm.py: stage 2
    Mutant("train_rm.py", "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, 0.0, config.label_smoothing)", REPLAY_RM),
    Mutant("train_rm.py", "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, config.margin)", REPLAY_RM),
    Mutant("train_rm.py", "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, config.label_smoothing, config.margin)", REPLAY_RM),
    Mutant("train_rm.py", "tokenizer.eos_id, config.token_dropout, hidden_tokens", "tokenizer.eos_id, 0.0, hidden_tokens", REPLAY_RM),
    Mutant("train_rm.py", "    gpt.set_dropout(run.config.rm.dropout)\n", "", EFFECTS),
    Mutant("train_rm.py", "param_groups(model.parameters(), config.weight_decay)", "param_groups(model.parameters(), config.lr)", REPLAY_RM),
    Mutant("train_rm.py", "lr_schedule(config.schedule, step", "lr_schedule(\"linear\", step", REPLAY_RM),
    Mutant("train_rm.py", ", num_steps, warmup=config.warmup)", ", num_steps)", REPLAY_RM),
    Mutant("train_rm.py", "clip_grad_norm_(model.parameters(), config.max_grad_norm)", "clip_grad_norm_(model.parameters(), 1.0)", REPLAY_RM),
    Mutant("train_rm.py", "generator(seed, \"rm batches\", epoch)", "generator(1, \"rm batches\", epoch)", REPLAY_RM),
    Mutant("train_rm.py", "seed_global(run.config.seed, \"reward model", "seed_global(1, \"reward model", _files("run_streams")),  # the head's beginning
    Mutant("train_rm.py", "response_uniforms(config.seed, \"normalisation\", 0, indices", "response_uniforms(1, \"normalisation\", 0, indices", REPLAY_RM),  # the samples that scores are normalised on
    Mutant("train_rm.py", "response_uniforms(config.seed, \"normalisation\", 0, indices", "response_uniforms(config.seed, \"normalisation\", 0, range(len(indices))", REPLAY_RM),  # every batch draws the same numbers
    Mutant("train_rm.py", "generator(seed, \"rm batches\", epoch)", "generator(seed, \"rm batches\")", REPLAY_RM),  # every epoch in one order
    Mutant("train_rm.py", "corpus.comparisons(\"train\", epoch)", "corpus.comparisons(\"train\")", _files("train_rm")),  # later epochs are not paired anew
    Mutant("train_rm.py", "corpus.comparisons(\"train\", epoch)", "corpus.comparisons(\"test\", epoch)", REPLAY_RM),  # later epochs train on what is held out
    Mutant("train_rm.py", "corpus.comparisons(\"train\"), tokenizer", "corpus.comparisons(\"test\"), tokenizer", REPLAY_RM),
    Mutant("train_rm.py", "corpus.comparisons(\"test\")", "corpus.comparisons(\"train\")", REPLAY_RM),  # accuracy on training rows
    Mutant("train_rm.py", "queries[\"train\"][: config.rm", "queries[\"test\"][: config.rm", REPLAY_RM),  # normalised on held-out prompts
    Mutant("train_rm.py", "policy_tokenizer, config.data)", "tokenizer, config.data)", EFFECTS),  # the policy is asked in the other's tokens
    Mutant("train_rm.py", "    normalise_on_reference(model, data.queries, run)\n    judge", "    judge", REPLAY_RM),  # never normalised
    Mutant("train_rm.py", "    if run.config.rm.normalise_before:\n", "    if False:\n", REPLAY_RM),
    Mutant("train_rm.py", "    if run.config.rm.normalise_before:\n", "    if True:\n", EFFECTS),
    Mutant("train_rm.py", "policy_tokenizer, reward_tokenizer = run", "reward_tokenizer, policy_tokenizer = run", REPLAY_RM),
    Mutant("train_rm.py", "reward_tokens(reward_tokenizer, batch.prompt_texts, ", "reward_tokens(reward_tokenizer, [\"\"] * len(batch.prompt_texts), ", REPLAY_RM),  # normalised on answers without their prompts
    Mutant("train_rm.py", "    model.eval()\n    scores = []", "    scores = []", covering("every_field", "rm seed model")),  # dropout on before training
    Mutant("train_rm.py", "queries[\"train\"][: config.rm.normalisation_samples]", "queries[\"train\"][: config.eval.prompts]", REPLAY_RM),
    Mutant("train_rm.py", "    scores = scores_of(model, data.test_rows,", "    scores = scores_of(model, data.validation_rows,", REPLAY_RM),  # reported on the validation split
    Mutant("train_rm.py", "corpus.comparisons(\"validation\"), tokenizer", "corpus.comparisons(\"test\"), tokenizer", REPLAY_RM),  # settings are chosen on the test split
    Mutant("train_rm.py", "count = config.rm.eval_comparisons", "count = config.eval.prompts", REPLAY_RM),
    Mutant("train_rm.py", "[test[number] for number in kept[:count].tolist()]", "list(test[:count])", RECOMPUTED),  # the limit of other comparisons than the accuracy
    Mutant("train_rm.py", "judge.gold_score(c.prompt, text)", "judge.gold_score(\"\", text)", RECOMPUTED),
    Mutant("train_rm.py", "run.earlier(\"sft\") / \"reward\"", "run.earlier(\"sft\") / \"policy\"", REPLAY_RM),
    Mutant("train_rm.py", "    _, tokenizer = run.tokenizers()", "    tokenizer, _ = run.tokenizers()", REPLAY_RM),
    # ------------------------------------------------------------------ train_ppo.py: stage 3
    Mutant("train_ppo.py", "param_groups(policy.parameters(), config.weight_decay)", "param_groups(policy.parameters(), config.lr)", REPLAY_PPO),
    Mutant("train_ppo.py", "(0.9, config.adam_beta2)", "(0.9, 0.999)", REPLAY_PPO),
    Mutant("train_ppo.py", "config.adam_eps, tensorflow_eps", "1e-5, tensorflow_eps", REPLAY_PPO),
    Mutant("train_ppo.py", ", tensorflow_eps=config.tensorflow_eps", "", REPLAY_PPO),
    Mutant("train_ppo.py", "policy, optimizer, run.config.seed, prompts", "policy, optimizer, 1, prompts", REPLAY_PPO),  # the draws of the rollouts
    Mutant("train_ppo.py", "seed_global(config.seed, \"value head\")", "seed_global(1, \"value head\")", REPLAY_PPO),
    Mutant("train_ppo.py", "run.config.ppo.rollout_batch_size, run.config.seed, \"ppo prompts\"", "run.config.ppo.rollout_batch_size, 1, \"ppo prompts\"", REPLAY_PPO),
    Mutant("train_ppo.py", "prompts, config.kl_coef, demonstrations", "prompts, 0.11, demonstrations", REPLAY_PPO),
    Mutant("train_ppo.py", " demonstrations=demonstrations,", "", REPLAY_PPO),  # no pretraining term
    Mutant("train_ppo.py", "config.ppo.ptx_batch_size, config.seed", "config.ppo.rollout_batch_size, config.seed", REPLAY_PPO),
    Mutant("train_ppo.py", "BatchStream(queries[\"train\"], ", "BatchStream(queries[\"test\"], ", REPLAY_PPO),  # trains on the held-out prompts
    Mutant("train_ppo.py", "queries[\"validation\"], queries[\"test\"], corpus", "queries[\"train\"], queries[\"test\"], corpus", RECOMPUTED),  # evaluated on those it trains on
    Mutant("train_ppo.py", "queries[\"validation\"], queries[\"test\"], corpus", "queries[\"test\"], queries[\"validation\"], corpus", RECOMPUTED),
    Mutant("train_ppo.py", "policy_rows(corpus.demonstrations(\"train\"), ", "policy_rows(corpus.demonstrations(\"test\"), ", REPLAY_PPO),  # held-out demonstrations are trained on
    Mutant("train_ppo.py", "(tokenizer, _) = load_corpus", "(_, tokenizer) = load_corpus", REPLAY_PPO),
    Mutant("train_ppo.py", "    tokenizer, _ = run.tokenizers()", "    _, tokenizer = run.tokenizers()", REPLAY_PPO),
    Mutant("train_ppo.py", "\"policy\", config.ppo.value_head)", "\"policy\")", EFFECTS),
    Mutant("train_ppo.py", "data.validation[: config.eval.prompts]", "data.validation[: config.eval.final_prompts]", EFFECTS),
    Mutant("train_ppo.py", "data.test[: config.eval.final_prompts]", "data.test[: config.eval.prompts]", EFFECTS),
    Mutant("train_ppo.py", "answer(model, reference, ", "answer(reference, reference, ", RECOMPUTED),  # evaluations sample the reference
    Mutant("train_ppo.py", "tokenizer, config, \"validation\")", "tokenizer, config, \"test\")", RECOMPUTED),  # the draws of the evaluation at the end
    Mutant("train_ppo.py", "    test = data.test[", "    test = data.validation[", RECOMPUTED),  # reported on the validation split
    Mutant("train_ppo.py", "win_rate(answers, reference_answers, judge)", "win_rate(reference_answers, answers, judge)", RECOMPUTED),  # losses for wins
    Mutant("train_ppo.py", "win_rate(answers, reference_answers, judge)", "win_rate(answers, reference_answers, None)", RECOMPUTED),  # by the score trained for
    Mutant("train_ppo.py", "side_by_side(reference_answers, answers, ", "side_by_side(answers, reference_answers, ", RECOMPUTED),
    Mutant("train_ppo.py", "config.ppo.save_every, config", "config.eval.every, config", _files("run_streams")),
    Mutant("train_ppo.py", "state.iteration, config.eval.every, ", "state.iteration, config.ppo.save_every, ", _files("held_out")),
    Mutant("train_ppo.py", "tokenizer, config.data.response_length, config.ppo\n", "tokenizer, config.data.query_length, config.ppo\n", OF_PPO),
    Mutant("train_ppo.py", "tokenizer.end_ids(config.ppo.stop_token), config.ppo)", "tokenizer.end_ids(\"\"), config.ppo)", OF_PPO),  # the update allows what sampling forbade
    Mutant("train_ppo.py", "        check_first_rollout(state, rollout, scorer, tokenizer, config.ppo)\n", "        pass\n", OF_PPO),
    Mutant("train_ppo.py", "    found = rollout_stats(rollout, state.kl_coef)  # before the update adapts the coefficient\n    clock.append(time.perf_counter())\n    found |= ppo_update(state, rollout, tokenizer.end_ids(config.ppo.stop_token), config.ppo)\n", "    found = ppo_update(state, rollout, tokenizer.end_ids(config.ppo.stop_token), config.ppo)\n    clock.append(time.perf_counter())\n    found |= rollout_stats(rollout, state.kl_coef)\n", OF_PPO),
    Mutant("train_ppo.py", "    save_model(policy, folder / \"policy\")", "    save_model(reference, folder / \"policy\")", OF_PPO),
    Mutant("train_ppo.py", "final_evaluation(run, policy, reference, scorer", "final_evaluation(run, reference, policy, scorer", OF_PPO),
    # ------------------------------------------------------------------ evaluate.py
    Mutant("minippo/runs/loading.py", "run.tokenizers()[1])", "run.tokenizers()[0])", OF_EVALUATE),  # the reward model reads the policy's tokens
    Mutant("minippo/evaluation.py", "win_rate(after, before, judge)}", "win_rate(before, after, judge)}", OF_EVALUATE),
    Mutant("minippo/evaluation.py", "win_rate(after, before, judge)}", "win_rate(after, before, None)}", OF_EVALUATE),
    Mutant("minippo/evaluation.py", "figures(before, judge), figures(after, judge)", "figures(after, judge), figures(before, judge)", OF_EVALUATE),
    Mutant("minippo/evaluation.py", "\"before\": asdict(b), \"after\": asdict(a)}", "\"before\": asdict(a), \"after\": asdict(b)}", OF_EVALUATE),
    Mutant("minippo/evaluation.py", "gold = [judge.gold_score(a.prompt, a.response)", "gold = [judge.gold_score(\"\", a.response)", OF_EVALUATE),
    Mutant("minippo/evaluation.py", "return judge.gold_score(a.prompt, a.response)", "return judge.gold_score(\"\", a.response)", OF_EVALUATE),
    Mutant("minippo/runs/results.py", "table(summary[\"before\"], summary[\"after\"])", "table(summary[\"after\"], summary[\"before\"])", OF_EVALUATE),
    Mutant("minippo/runs/results.py", "side_by_side(before, after, run.config.eval.samples)", "side_by_side(after, before, run.config.eval.samples)", OF_EVALUATE),
    Mutant("minippo/tools/evaluate.py", "run.summary() | found", "found | run.summary()", OF_EVALUATE),  # the old figures stay
    Mutant("minippo/evaluation.py", "0, indices, config.data.response_length", "0, range(len(indices)), config.data.response_length", OF_EVALUATE),  # every batch draws the same numbers
    Mutant("minippo/evaluation.py", "(logprobs - ref_logprobs).sum(dim=1)", "(logprobs - ref_logprobs).mean(dim=1)", OF_EVALUATE),
    Mutant("minippo/evaluation.py", "tokenizer.end_ids(config.ppo.stop_token)", "tokenizer.end_ids(\"\")", OF_EVALUATE),  # the KL of what was not drawn from
    # ------------------------------------------------------------------ scoring.py
    Mutant("minippo/scoring.py", "@torch.no_grad()\ndef score_tokens", "def score_tokens", OF_SCORING),  # the held-out scores keep their graphs
    Mutant("minippo/scoring.py", "reward_tokens(self.tokenizer, prompts, responses", "reward_tokens(self.tokenizer, [\"\"] * len(prompts), responses", OF_SCORING),
    Mutant("minippo/scoring.py", "self.function(list(prompts), list(responses))", "self.function(list(responses), list(prompts))", OF_SCORING),
    Mutant("minippo/scoring.py", "zip(prompts, responses, scores.tolist(), strict=True):", "list(zip(prompts, responses, scores.tolist(), strict=True))[:1]:", OF_SCORING),
    # ------------------------------------------------------------------ checks.py: wide tolerances, checks that look at little
    Mutant("minippo/checks.py", "torch.float32: 1e-5", "torch.float32: 1e-3", OF_CHECKS),
    Mutant("minippo/checks.py", "torch.bfloat16: 0.1", "torch.bfloat16: 10.0", OF_CHECKS),
    Mutant("minippo/checks.py", "CACHE_FACTOR = 10", "CACHE_FACTOR = 1000", OF_CHECKS),
    Mutant("minippo/checks.py", "SCORE_TOLERANCE = 1e-4", "SCORE_TOLERANCE = 1e-2", OF_CHECKS),
    Mutant("minippo/checks.py", "(logprobs - rollout.logprobs).abs()", "(logprobs - rollout.logprobs)[:1].abs()", OF_CHECKS),  # the first row's ratios
    Mutant("minippo/checks.py", "(cached - rollout.logprobs).abs()", "(cached - rollout.logprobs)[:1].abs()", OF_CHECKS),
    Mutant("minippo/checks.py", "(logprobs - rollout.logprobs).abs().max()", "(logprobs - rollout.logprobs).abs().mean()", OF_CHECKS),
    Mutant("minippo/checks.py", "rollout.kl.abs().max()", "rollout.kl[0].abs().max()", OF_CHECKS),
    Mutant("minippo/checks.py", "rollout.kl.abs().max()", "rollout.kl.mean().abs()", OF_CHECKS),  # signs cancel
    Mutant("minippo/checks.py", "(alone - scores).abs()", "(alone - scores)[:1].abs()", OF_CHECKS),
    Mutant("minippo/checks.py", "        check_bridge(scorer, rollout, tokenizer)\n", "        pass\n", OF_CHECKS),
    # ------------------------------------------------------------------ run.py
    Mutant("minippo/runs/run.py", "(\"data\", \"model\", \"sft\", \"seed\")", "(\"data\", \"model\", \"sft\")", OF_RUN),  # goes on with another seed
    Mutant("minippo/runs/run.py", ", \"ppo.min_new_tokens\", \"ppo.stop_token\")", ", \"ppo.min_new_tokens\")", OF_RUN),
    Mutant("minippo/runs/run.py", "        policy.save(folder / \"policy.tiktoken\")\n        reward.save(", "        reward.save(folder / \"policy.tiktoken\")\n        policy.save(", OF_RUN),
    Mutant("minippo/runs/run.py", "return replace(config, **{name: getattr(theirs, name) for name in stages})", "return config", OF_RUN),  # the source's stages, not its settings
    Mutant("minippo/runs/run.py", "2**20 if sys.platform == \"darwin\" else 2**10", "2**10 if sys.platform == \"darwin\" else 2**20", OF_RUN),
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
    Mutant("minippo/data/corpus.py", "IMDB(config.data, config.seed)", "IMDB(config.data, 1)", OF_CORPORA),
    Mutant("minippo/data/corpus.py", "OwnData(config.data, config.seed)", "OwnData(config.data, 1)", OF_OWN_DATA),
    # ------------------------------------------------------------------ labelled.py
    Mutant("minippo/data/labelled.py", "list(zip(sides[1], sides[0], strict", "list(zip(sides[0], sides[1], strict", OF_OWN_DATA),
    Mutant("minippo/data/labelled.py", " words, {stream}\"", " words\"", OF_OWN_DATA),  # the pairs of the first epoch are reused
    Mutant("minippo/data/labelled.py", "in pairs of {self.crop_words} words", "in pairs", OF_OWN_DATA),
    Mutant("minippo/data/labelled.py", "fingerprint, whole=False)", "fingerprint)", OF_OWN_DATA),  # long crops are dropped, not cut
    # ------------------------------------------------------------------ own_data.py
    Mutant("minippo/data/own.py", "random_order(len(rows), self.seed, \"order of demonstrations\")", "random_order(len(rows), 1, \"order of demonstrations\")", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "pairing.pairs(f\"{self.seed} {split} {epoch}\")", "pairing.pairs(f\"{self.seed} {split}\")", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "        return comparisons[: self.config.limit or None]", "        return comparisons", OF_OWN_DATA),
    Mutant("minippo/data/holding_out.py", "int(share * len(these))", "int(0.05 * len(these))", OF_OWN_DATA),
    Mutant("minippo/data/holding_out.py", "random_order(len(counts), seed, ", "random_order(len(counts), 1, ", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "row[\"completions\"][0], self.config.crop_words)", "row[\"completions\"][0], 100)", OF_OWN_DATA),
    Mutant("minippo/data/own.py", "\"validation\": config.validation_split, \"test\": config.test_split", "\"validation\": config.test_split, \"test\": config.validation_split", OF_OWN_DATA),
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
    Mutant("minippo/ppo.py", "parameters()), config.max_grad_norm)", "parameters()), 1.0)", OF_UPDATE),
    Mutant("minippo/ppo.py", "    if state.demonstrations is not None:\n        figures[\"loss/ptx\"] = accumulate_pretraining_gradient(state, config)\n    require_finite(\"update\", **{name.replace(\"/\", \" \"): value for name, value in figures.items()})\n    grad_norm = torch.nn.utils.clip_grad_norm_(list(state.policy.parameters()), config.max_grad_norm).item()\n", "    require_finite(\"update\", **{name.replace(\"/\", \" \"): value for name, value in figures.items()})\n    grad_norm = torch.nn.utils.clip_grad_norm_(list(state.policy.parameters()), config.max_grad_norm).item()\n    if state.demonstrations is not None:\n        figures[\"loss/ptx\"] = accumulate_pretraining_gradient(state, config)\n", OF_UPDATE),  # the pretraining gradient is not clipped
    # ------------------------------------------------------------------ rollout.py: what reaches the advantages
    Mutant("minippo/rollout.py", "gamma=config.gamma, lam=config.lam", "gamma=config.lam, lam=config.gamma", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "    if config.whiten_rewards:\n        rewards = equations.rescale(rewards, mask)\n    advantages, returns = equations.gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)\n", "    advantages, returns = equations.gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)\n    if config.whiten_rewards:\n        rewards = equations.rescale(rewards, mask)\n", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "missing_eos_score=config.missing_eos_score", "missing_eos_score=-1.0", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "raw_scores=raw_scores,", "raw_scores=scores,", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "ref_logprobs, _ = logprobs_and_values(reference, ", "ref_logprobs, _ = logprobs_and_values(state.policy, ", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "raw_scores.tolist(), strict=True):", "raw_scores[:1].tolist(), strict=False):", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "@torch.no_grad()\ndef logprobs_and_values", "def logprobs_and_values", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "mask, kl = rollout.response_mask, rollout.kl.sum(dim=1)", "mask, kl = rollout.response_mask, rollout.kl.sum(dim=0)", OF_ROLLOUT),
    Mutant("minippo/rollout.py", "        temperature=config.temperature,\n", "", OF_ROLLOUT),
    # ------------------------------------------------------------------ generate.py, score.py
    Mutant("minippo/tools/generate.py", "config.temperature if options.temperature is None", "1.0 if options.temperature is None", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "min_new_tokens=min(config.min_new_tokens, max_new_tokens(run, options))", "min_new_tokens=0", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "        stop_ids=stop_ids,\n", "", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "        top_k=options.top_k,\n", "", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "\"generate\", 0, [number]", "\"generate\", 0, [0]", OF_COMMANDS),  # n times the same answer
    Mutant("minippo/tools/generate.py", "\"reference\": \"sft\"}", "\"reference\": \"ppo\"}", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "run.config.data.response_length if", "64 if", OF_COMMANDS),
    Mutant("minippo/tools/generate.py", "run.tokenizers()[0].encode(prompt)", "run.tokenizers()[1].encode(prompt)", OF_COMMANDS),
    Mutant("minippo/tools/score.py", "[options.prompt] * len(batch)", "[\"\"] * len(batch)", OF_COMMANDS),
    Mutant("minippo/tools/score.py", "line.rstrip(\"\\n\")", "line.strip()", OF_COMMANDS),  # the space before an answer
    # ------------------------------------------------------------------ export.py
    Mutant("minippo/tools/export.py", "\"policy\": \"ppo\"", "\"policy\": \"sft\"", OF_EXPORT),
    Mutant("minippo/tools/export.py", "\"reference\": \"sft\"", "\"reference\": \"ppo\"", OF_EXPORT),
    Mutant("minippo/tools/export.py", "reward if name == \"reward_model\" else policy", "policy", OF_EXPORT),
    Mutant("minippo/tools/export.py", "                save_model(model, folder)\n", "                save_pretrained(model, folder)\n", OF_EXPORT),  # without value head, gain and bias
    Mutant("minippo/tools/export.py", "tokenizer.end_ids(ppo.stop_token)", "tokenizer.end_ids(\"\")", OF_EXPORT),
    # ------------------------------------------------------------------ metrics.py
    Mutant("minippo/runs/metrics.py", "row[\"stage\"] == stage and row[\"step\"] >= first_step", "row[\"step\"] >= first_step", OF_METRICS),  # other stages' lines go too
    Mutant("minippo/runs/metrics.py", "split(maxsplit=1)[0]) < first_step]", "split(maxsplit=1)[0]) <= first_step]", OF_METRICS),
    # ------------------------------------------------------------------ checkpoint.py
    Mutant("minippo/runs/checkpoint.py", "{\"step\": n} for", "{\"step\": 0} for", OF_CHECKPOINT),  # the bias is corrected once more
    Mutant("minippo/runs/checkpoint.py", "    _with_heads(state.policy, place / \"policy\")\n", "", OF_CHECKPOINT),  # goes on with a new critic
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
    Mutant("minippo/streams.py", "_key(seed, name, position) % 2**64", "_key(0, name, position) % 2**64", OF_STREAMS),
    Mutant("minippo/rollout.py", "\"rollout\", state.iteration + 1, range", "\"rollout\", 1, range", OF_ROLLOUT),  # every iteration draws the same
    Mutant("minippo/rollout.py", "response_uniforms(state.seed, \"rollout\"", "response_uniforms(state.seed, \"normalisation\"", OF_ROLLOUT),  # correlated with the normalisation
    Mutant("minippo/ppo.py", "\"minibatches\", state.iteration + 1, epoch)", "\"minibatches\", state.iteration + 1, 0)", OF_UPDATE),  # later epochs in the same order
    Mutant("minippo/batches.py", "generator(self.seed, self.name, epoch)", "generator(self.seed, self.name)", OF_DATA),  # every epoch of prompts in one order
    # ------------------------------------------------------------------ trace.py
    Mutant("minippo/tools/trace.py", "gamma=config.gamma, lam=0)", "gamma=config.gamma, lam=config.lam)", OF_TRACE),
    Mutant("minippo/tools/trace.py", "tables[name][0, t + 1] if t < last else 0.0", "tables[name][0, t]", OF_TRACE),
    Mutant("minippo/tools/trace.py", "name == \"rewards\" and t == last", "name == \"rewards\"", OF_TRACE),
    Mutant("minippo/tools/trace.py", "rollout.logprobs, whitened, mask", "rollout.logprobs, rollout.advantages, mask", OF_TRACE),
    Mutant("minippo/tools/trace.py", "load_policy(run, \"ppo\")", "load_policy(run, \"sft\")", OF_TRACE),
    Mutant("minippo/tools/trace.py", "        if iteration == 1:\n", "        if iteration == 2:\n", OF_TRACE),
]  # fmt: skip

EVERY_MUTANT = [*MUTANTS, *PLUMBING]
