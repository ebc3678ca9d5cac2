"""Wrong edits of what connects the formulas: scripts, evaluation, checks, data, commands. As in mutants.py.

Here a setting does not arrive, two roles or splits are swapped, a step is at another place, a check looks away.
"""

from __future__ import annotations

from tests.mutants.mutants import (
    CHECKPOINT,
    CHECKS,
    CORPORA,
    DATA,
    EVALUATE,
    EXPORT,
    GOLD,
    LABELLED,
    METRICS,
    MODEL,
    MUTANTS,
    OWN_DATA,
    PPO,
    ROLLOUT,
    RUN,
    SAMPLING,
    SCORING,
    SFT,
    TOKEN_ROWS,
    TRAIN_PPO,
    TRAIN_RM,
    Mutant,
    _tests,
)

GENERATE, SCORE, STREAMS = (f"minippo/{name}.py" for name in ("generate", "score", "streams"))


def _files(*names: str) -> str:
    """Whole files of tests, the quick ones first."""
    return " ".join(f"tests/test_{name}.py" for name in names)


REPLAY_SFT, REPLAY_RM, REPLAY_PPO = (_tests("replay", stage) for stage in ("language", "reward", "policy"))
RECOMPUTED, EFFECTS = _files("recomputed"), _tests("every_field", "base_run")
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
OF_METRICS = _files("metrics", "pipeline")
OF_CHECKPOINT = _files("checkpoint", "pipeline", "export")
OF_MODEL = _files("model")
OF_SAMPLING = _files("sampling")
OF_STREAMS = _files("streams", "run_streams")

PLUMBING = [
    # ------------------------------------------------------------------ sft.py: stage 1
    Mutant(SFT, "config = getattr(run.config.sft, name)", "config = run.config.sft.policy", REPLAY_SFT),  # sft.reward unread
    Mutant(SFT, "pieces = windows(rows[\"train\"], ", "pieces = windows(rows[\"test\"], ", _files("sft")),  # trains on what is held out
    Mutant(SFT, "held_out_loss(gpt, windows(rows[split], ", "held_out_loss(gpt, windows(rows[\"train\"], ", _files("sft")),  # measured on training rows
    Mutant(SFT, "    validation_loss, test_loss = (", "    test_loss, validation_loss = (", _files("sft")),  # the reported loss is the one that settings are chosen by
    Mutant(SFT, "for d in demonstrations[\"train\"][:TOKENIZER_TEXTS]", "for d in demonstrations[\"test\"][:TOKENIZER_TEXTS]", _files("held_out")),  # a tokenizer that has seen what is held out
    Mutant(SFT, "decayed_groups(gpt.parameters(), config.weight_decay)", "decayed_groups(gpt.parameters(), config.lr)", REPLAY_SFT),
    Mutant(SFT, "lr_share(config.schedule, step", "lr_share(\"linear\", step", REPLAY_SFT),
    Mutant(SFT, "clip_grad_norm_(gpt.parameters(), config.max_grad_norm)", "clip_grad_norm_(gpt.parameters(), 1.0)", REPLAY_SFT),
    Mutant(SFT, "            optimizer.zero_grad(set_to_none=True)\n", "", _files("sft")),  # gradients add up over the steps
    Mutant(SFT, "generator(run.config.seed, f\"sft {name}\", epoch)", "generator(1, f\"sft {name}\", epoch)", REPLAY_SFT),
    Mutant(SFT, "generator(run.config.seed, f\"sft {name}\", epoch)", "generator(run.config.seed, f\"sft {name}\")", REPLAY_SFT),  # every epoch in one order
    Mutant(SFT, "seed_global(run.config.seed, f\"initial weights, {name}\")", "seed_global(1, f\"initial weights, {name}\")", _files("run_streams")),
    Mutant(SFT, "zip((policy_rows, reward_rows), tokenizers", "zip((policy_rows, policy_rows), tokenizers", _files("sft")),  # warm-started on other tokens than it will read
    Mutant(SFT, "make_tokenizer(config.tokenizer, texts)", "make_tokenizer(configs[0].tokenizer, texts)", _tests("every_field", "sft model seed")),
    Mutant(SFT, "texts = [d.prompt + d.completion for", "texts = [d.completion for", _tests("every_field", "sft model seed")),  # a tokenizer that has seen no prompt
    Mutant(SFT, "                activation=config.activation,\n", "", EFFECTS),
    # ------------------------------------------------------------------ train_rm.py: stage 2
    Mutant(TRAIN_RM, "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, 0.0, config.label_smoothing)", REPLAY_RM),
    Mutant(TRAIN_RM, "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, config.margin)", REPLAY_RM),
    Mutant(TRAIN_RM, "ranking_loss(scores, config.margin, config.label_smoothing)", "ranking_loss(scores, config.label_smoothing, config.margin)", REPLAY_RM),
    Mutant(TRAIN_RM, "tokenizer.eos_id, config.token_dropout, hidden_tokens", "tokenizer.eos_id, 0.0, hidden_tokens", REPLAY_RM),
    Mutant(TRAIN_RM, "    gpt.set_dropout(run.config.rm.dropout)\n", "", EFFECTS),
    Mutant(TRAIN_RM, "decayed_groups(model.parameters(), config.weight_decay)", "decayed_groups(model.parameters(), config.lr)", REPLAY_RM),
    Mutant(TRAIN_RM, "lr_share(config.schedule, step", "lr_share(\"linear\", step", REPLAY_RM),
    Mutant(TRAIN_RM, ", num_steps, warmup=config.warmup)", ", num_steps)", REPLAY_RM),
    Mutant(TRAIN_RM, "clip_grad_norm_(model.parameters(), config.max_grad_norm)", "clip_grad_norm_(model.parameters(), 1.0)", REPLAY_RM),
    Mutant(TRAIN_RM, "generator(seed, \"rm batches\", epoch)", "generator(1, \"rm batches\", epoch)", REPLAY_RM),
    Mutant(TRAIN_RM, "seed_global(run.config.seed, \"reward model", "seed_global(1, \"reward model", _files("run_streams")),  # the head's beginning
    Mutant(TRAIN_RM, "response_uniforms(config.seed, \"normalisation\", 0, indices", "response_uniforms(1, \"normalisation\", 0, indices", REPLAY_RM),  # the samples that scores are normalised on
    Mutant(TRAIN_RM, "response_uniforms(config.seed, \"normalisation\", 0, indices", "response_uniforms(config.seed, \"normalisation\", 0, range(len(indices))", REPLAY_RM),  # every batch draws the same numbers
    Mutant(TRAIN_RM, "generator(seed, \"rm batches\", epoch)", "generator(seed, \"rm batches\")", REPLAY_RM),  # every epoch in one order
    Mutant(TRAIN_RM, "corpus.comparisons(\"train\", epoch)", "corpus.comparisons(\"train\")", _files("train_rm")),  # later epochs are not paired anew
    Mutant(TRAIN_RM, "corpus.comparisons(\"train\", epoch)", "corpus.comparisons(\"test\", epoch)", REPLAY_RM),  # later epochs train on what is held out
    Mutant(TRAIN_RM, "corpus.comparisons(\"train\"), tokenizer", "corpus.comparisons(\"test\"), tokenizer", REPLAY_RM),
    Mutant(TRAIN_RM, "corpus.comparisons(\"test\")", "corpus.comparisons(\"train\")", REPLAY_RM),  # accuracy on training rows
    Mutant(TRAIN_RM, "queries[\"train\"][: config.rm", "queries[\"test\"][: config.rm", REPLAY_RM),  # normalised on held-out prompts
    Mutant(TRAIN_RM, "policy_tokenizer, config.data)", "tokenizer, config.data)", EFFECTS),  # the policy is asked in the other's tokens
    Mutant(TRAIN_RM, "    normalise_on_reference(model, data.queries, run)\n    judge", "    judge", REPLAY_RM),  # never normalised
    Mutant(TRAIN_RM, "    if run.config.rm.normalise_before:\n", "    if False:\n", REPLAY_RM),
    Mutant(TRAIN_RM, "    if run.config.rm.normalise_before:\n", "    if True:\n", EFFECTS),
    Mutant(TRAIN_RM, "policy_tokenizer, reward_tokenizer = run", "reward_tokenizer, policy_tokenizer = run", REPLAY_RM),
    Mutant(TRAIN_RM, "reward_tokens(reward_tokenizer, batch.prompt_texts, ", "reward_tokens(reward_tokenizer, [\"\"] * len(batch.prompt_texts), ", REPLAY_RM),  # normalised on answers without their prompts
    Mutant(TRAIN_RM, "    model.eval()\n    scores = []", "    scores = []", _tests("every_field", "rm seed model")),  # dropout on before training
    Mutant(TRAIN_RM, "queries[\"train\"][: config.rm.normalisation_samples]", "queries[\"train\"][: config.eval.prompts]", REPLAY_RM),
    Mutant(TRAIN_RM, "    scores = scores_of(model, data.test_rows,", "    scores = scores_of(model, data.validation_rows,", REPLAY_RM),  # reported on the validation split
    Mutant(TRAIN_RM, "corpus.comparisons(\"validation\"), tokenizer", "corpus.comparisons(\"test\"), tokenizer", REPLAY_RM),  # settings are chosen on the test split
    Mutant(TRAIN_RM, "count = config.rm.eval_comparisons", "count = config.eval.prompts", REPLAY_RM),
    Mutant(TRAIN_RM, "[test[number] for number in kept[:count].tolist()]", "list(test[:count])", RECOMPUTED),  # the limit of other comparisons than the accuracy
    Mutant(TRAIN_RM, "judge.gold_score(c.prompt, text)", "judge.gold_score(\"\", text)", RECOMPUTED),
    Mutant(TRAIN_RM, "run.earlier(\"sft\") / \"reward\"", "run.earlier(\"sft\") / \"policy\"", REPLAY_RM),
    Mutant(TRAIN_RM, "    _, tokenizer = run.tokenizers()", "    tokenizer, _ = run.tokenizers()", REPLAY_RM),
    # ------------------------------------------------------------------ train_ppo.py: stage 3
    Mutant(TRAIN_PPO, "decayed_groups(policy.parameters(), config.weight_decay)", "decayed_groups(policy.parameters(), config.lr)", REPLAY_PPO),
    Mutant(TRAIN_PPO, "(0.9, config.adam_beta2)", "(0.9, 0.999)", REPLAY_PPO),
    Mutant(TRAIN_PPO, "config.adam_eps, tensorflow_eps", "1e-5, tensorflow_eps", REPLAY_PPO),
    Mutant(TRAIN_PPO, ", tensorflow_eps=config.tensorflow_eps", "", REPLAY_PPO),
    Mutant(TRAIN_PPO, "policy, optimizer, run.config.seed, prompts", "policy, optimizer, 1, prompts", REPLAY_PPO),  # the draws of the rollouts
    Mutant(TRAIN_PPO, "seed_global(config.seed, \"value head\")", "seed_global(1, \"value head\")", REPLAY_PPO),
    Mutant(TRAIN_PPO, "run.config.ppo.rollout_batch_size, run.config.seed, \"ppo prompts\"", "run.config.ppo.rollout_batch_size, 1, \"ppo prompts\"", REPLAY_PPO),
    Mutant(TRAIN_PPO, "prompts, config.kl_coef, demonstrations", "prompts, 0.11, demonstrations", REPLAY_PPO),
    Mutant(TRAIN_PPO, " demonstrations=demonstrations,", "", REPLAY_PPO),  # no pretraining term
    Mutant(TRAIN_PPO, "config.ppo.ptx_batch_size, config.seed", "config.ppo.rollout_batch_size, config.seed", REPLAY_PPO),
    Mutant(TRAIN_PPO, "RowSource(queries[\"train\"], ", "RowSource(queries[\"test\"], ", REPLAY_PPO),  # trains on the held-out prompts
    Mutant(TRAIN_PPO, "queries[\"validation\"], queries[\"test\"], corpus", "queries[\"train\"], queries[\"test\"], corpus", RECOMPUTED),  # evaluated on those it trains on
    Mutant(TRAIN_PPO, "queries[\"validation\"], queries[\"test\"], corpus", "queries[\"test\"], queries[\"validation\"], corpus", RECOMPUTED),
    Mutant(TRAIN_PPO, "policy_rows(corpus.demonstrations(\"train\"), ", "policy_rows(corpus.demonstrations(\"test\"), ", REPLAY_PPO),  # held-out demonstrations are trained on
    Mutant(TRAIN_PPO, "(tokenizer, _) = load_corpus", "(_, tokenizer) = load_corpus", REPLAY_PPO),
    Mutant(TRAIN_PPO, "    tokenizer, _ = run.tokenizers()", "    _, tokenizer = run.tokenizers()", REPLAY_PPO),
    Mutant(TRAIN_PPO, "\"policy\", config.ppo.value_head)", "\"policy\")", EFFECTS),
    Mutant(TRAIN_PPO, "data.validation[: config.eval.prompts]", "data.validation[: config.eval.final_prompts]", EFFECTS),
    Mutant(TRAIN_PPO, "data.test[: config.eval.final_prompts]", "data.test[: config.eval.prompts]", EFFECTS),
    Mutant(TRAIN_PPO, "answer(model, reference, ", "answer(reference, reference, ", RECOMPUTED),  # evaluations sample the reference
    Mutant(TRAIN_PPO, "tokenizer, config, \"validation\")", "tokenizer, config, \"test\")", RECOMPUTED),  # the draws of the evaluation at the end
    Mutant(TRAIN_PPO, "    test = data.test[", "    test = data.validation[", RECOMPUTED),  # reported on the validation split
    Mutant(TRAIN_PPO, "win_rate(answers, reference_answers, judge)", "win_rate(reference_answers, answers, judge)", RECOMPUTED),  # losses for wins
    Mutant(TRAIN_PPO, "win_rate(answers, reference_answers, judge)", "win_rate(answers, reference_answers, None)", RECOMPUTED),  # by the score trained for
    Mutant(TRAIN_PPO, "side_by_side(reference_answers, answers, ", "side_by_side(answers, reference_answers, ", RECOMPUTED),
    Mutant(TRAIN_PPO, "config.ppo.save_every, config", "config.eval.every, config", _files("run_streams")),
    Mutant(TRAIN_PPO, "state.iteration, config.eval.every, ", "state.iteration, config.ppo.save_every, ", _files("held_out")),
    Mutant(TRAIN_PPO, "tokenizer, config.data.response_length, config.ppo\n", "tokenizer, config.data.query_length, config.ppo\n", OF_PPO),
    Mutant(TRAIN_PPO, "tokenizer.end_ids(config.ppo.stop_token), config.ppo)", "tokenizer.end_ids(\"\"), config.ppo)", OF_PPO),  # the update allows what sampling forbade
    Mutant(TRAIN_PPO, "        check_promises(state, rollout, scorer, tokenizer, config.ppo)\n", "        pass\n", OF_PPO),
    Mutant(TRAIN_PPO, "    found = rollout_figures(rollout, state.kl_coef)  # before the update adapts the coefficient\n    clock.append(time.perf_counter())\n    found |= ppo_update(state, rollout, tokenizer.end_ids(config.ppo.stop_token), config.ppo)\n", "    found = ppo_update(state, rollout, tokenizer.end_ids(config.ppo.stop_token), config.ppo)\n    clock.append(time.perf_counter())\n    found |= rollout_figures(rollout, state.kl_coef)\n", OF_PPO),
    Mutant(TRAIN_PPO, "    save_model(policy, folder / \"policy\")", "    save_model(reference, folder / \"policy\")", OF_PPO),
    Mutant(TRAIN_PPO, "final_evaluation(run, policy, reference, scorer", "final_evaluation(run, reference, policy, scorer", OF_PPO),
    # ------------------------------------------------------------------ evaluate.py
    Mutant(EVALUATE, "run.tokenizers()[1])", "run.tokenizers()[0])", OF_EVALUATE),  # the reward model reads the policy's tokens
    Mutant(EVALUATE, "win_rate(after, before, judge)}", "win_rate(before, after, judge)}", OF_EVALUATE),
    Mutant(EVALUATE, "win_rate(after, before, judge)}", "win_rate(after, before, None)}", OF_EVALUATE),
    Mutant(EVALUATE, "figures(before, judge), figures(after, judge)", "figures(after, judge), figures(before, judge)", OF_EVALUATE),
    Mutant(EVALUATE, "\"before\": asdict(b), \"after\": asdict(a)}", "\"before\": asdict(a), \"after\": asdict(b)}", OF_EVALUATE),
    Mutant(EVALUATE, "gold = [judge.gold_score(a.prompt, a.response)", "gold = [judge.gold_score(\"\", a.response)", OF_EVALUATE),
    Mutant(EVALUATE, "return judge.gold_score(a.prompt, a.response)", "return judge.gold_score(\"\", a.response)", OF_EVALUATE),
    Mutant(EVALUATE, "table(summary[\"before\"], summary[\"after\"])", "table(summary[\"after\"], summary[\"before\"])", OF_EVALUATE),
    Mutant(EVALUATE, "side_by_side(before, after, run.config.eval.samples)", "side_by_side(after, before, run.config.eval.samples)", OF_EVALUATE),
    Mutant(EVALUATE, "run.summary() | found", "found | run.summary()", OF_EVALUATE),  # the old figures stay
    Mutant(EVALUATE, "0, indices, config.data.response_length", "0, range(len(indices)), config.data.response_length", OF_EVALUATE),  # every batch draws the same numbers
    Mutant(EVALUATE, "(logprobs - ref_logprobs).sum(dim=1)", "(logprobs - ref_logprobs).mean(dim=1)", OF_EVALUATE),
    Mutant(EVALUATE, "tokenizer.end_ids(config.ppo.stop_token)", "tokenizer.end_ids(\"\")", OF_EVALUATE),  # the KL of what was not drawn from
    # ------------------------------------------------------------------ scoring.py
    Mutant(SCORING, "@torch.no_grad()\ndef score_tokens", "def score_tokens", OF_SCORING),  # the held-out scores keep their graphs
    Mutant(SCORING, "reward_tokens(self.tokenizer, prompts, responses", "reward_tokens(self.tokenizer, [\"\"] * len(prompts), responses", OF_SCORING),
    Mutant(SCORING, "self.function(list(prompts), list(responses))", "self.function(list(responses), list(prompts))", OF_SCORING),
    Mutant(SCORING, "zip(prompts, responses, scores.tolist(), strict=True):", "list(zip(prompts, responses, scores.tolist(), strict=True))[:1]:", OF_SCORING),
    # ------------------------------------------------------------------ checks.py: wide tolerances, checks that look at little
    Mutant(CHECKS, "torch.float32: 1e-5", "torch.float32: 1e-3", OF_CHECKS),
    Mutant(CHECKS, "torch.bfloat16: 0.1", "torch.bfloat16: 10.0", OF_CHECKS),
    Mutant(CHECKS, "CACHE_FACTOR = 10", "CACHE_FACTOR = 1000", OF_CHECKS),
    Mutant(CHECKS, "SCORE_TOLERANCE = 1e-4", "SCORE_TOLERANCE = 1e-2", OF_CHECKS),
    Mutant(CHECKS, "(logprobs - rollout.logprobs).abs()", "(logprobs - rollout.logprobs)[:1].abs()", OF_CHECKS),  # the first row's ratios
    Mutant(CHECKS, "(cached - rollout.logprobs).abs()", "(cached - rollout.logprobs)[:1].abs()", OF_CHECKS),
    Mutant(CHECKS, "(logprobs - rollout.logprobs).abs().max()", "(logprobs - rollout.logprobs).abs().mean()", OF_CHECKS),
    Mutant(CHECKS, "rollout.kl.abs().max()", "rollout.kl[0].abs().max()", OF_CHECKS),
    Mutant(CHECKS, "rollout.kl.abs().max()", "rollout.kl.mean().abs()", OF_CHECKS),  # signs cancel
    Mutant(CHECKS, "(alone - scores).abs()", "(alone - scores)[:1].abs()", OF_CHECKS),
    Mutant(CHECKS, "        check_bridge(scorer, rollout, tokenizer)\n", "        pass\n", OF_CHECKS),
    # ------------------------------------------------------------------ run.py
    Mutant(RUN, "(\"data\", \"model\", \"sft\", \"seed\")", "(\"data\", \"model\", \"sft\")", OF_RUN),  # goes on with another seed
    Mutant(RUN, ", \"ppo.min_new_tokens\", \"ppo.stop_token\")", ", \"ppo.min_new_tokens\")", OF_RUN),
    Mutant(RUN, "        policy.save(folder / \"policy.tiktoken\")\n        reward.save(", "        reward.save(folder / \"policy.tiktoken\")\n        policy.save(", OF_RUN),
    Mutant(RUN, "return replace(config, **{name: getattr(theirs, name) for name in stages})", "return config", OF_RUN),  # the source's stages, not its settings
    Mutant(RUN, "2**20 if sys.platform == \"darwin\" else 2**10", "2**10 if sys.platform == \"darwin\" else 2**20", OF_RUN),
    # ------------------------------------------------------------------ data.py
    Mutant(DATA, "(\"comparisons\", comparisons.fingerprint, most)", "(\"comparisons\", comparisons.fingerprint)", OF_DATA),  # cut for another context
    Mutant(DATA, "_fitting(prompts, rows.lengths, config.query_length, ", "_fitting(prompts, rows.lengths, config.response_length, ", OF_DATA),
    Mutant(DATA, "return found[kept], kept, dropped", "return found, kept, dropped", OF_DATA),
    # ------------------------------------------------------------------ corpora.py
    Mutant(CORPORA, "judge = Judge(gold_score, ", "judge = Judge(lambda prompt, response: gold_score(\"\", response), ", OF_CORPORA),  # the gold score ignores the prompt
    Mutant(CORPORA, "f\"rankings-{split}\"", "\"rankings-train\"", OF_CORPORA),
    Mutant(CORPORA, "tuple(row[\"ranked\"])", "tuple(row[\"ranked\"][::-1])", OF_CORPORA),  # worst first
    Mutant(CORPORA, "f\"{files} {names} {self.limit}\"", "f\"{files} {names}\"", OF_CORPORA),  # the rows of another limit are reused
    Mutant(CORPORA, "self.rows[\"unsupervised\"]]", "self.rows[\"test\"]]", OF_CORPORA),  # language models read what prompts come from
    Mutant(CORPORA, "random.Random(f\"{self.seed} demonstrations\")", "random.Random(\"1 demonstrations\")", OF_CORPORA),
    Mutant(CORPORA, "else self._test_reviews(split)", "else self.rows[\"train\"]", OF_CORPORA),
    Mutant(CORPORA, "IMDB(config.data, config.seed)", "IMDB(config.data, 1)", OF_CORPORA),
    Mutant(CORPORA, "OwnData(config.data, config.seed)", "OwnData(config.data, 1)", OF_OWN_DATA),
    # ------------------------------------------------------------------ labelled.py
    Mutant(LABELLED, "list(zip(sides[1], sides[0], strict", "list(zip(sides[0], sides[1], strict", OF_OWN_DATA),
    Mutant(LABELLED, " words, {chance_name}\"", " words\"", OF_OWN_DATA),  # the pairs of the first epoch are reused
    Mutant(LABELLED, "in pairs of {self.crop_words} words", "in pairs", OF_OWN_DATA),
    Mutant(LABELLED, "fingerprint, whole=False)", "fingerprint)", OF_OWN_DATA),  # long crops are dropped, not cut
    # ------------------------------------------------------------------ own_data.py
    Mutant(OWN_DATA, "_order(len(rows), self.seed, \"order of demonstrations\")", "_order(len(rows), 1, \"order of demonstrations\")", OF_OWN_DATA),
    Mutant(OWN_DATA, "pairing.pairs(f\"{self.seed} {split} {epoch}\")", "pairing.pairs(f\"{self.seed} {split}\")", OF_OWN_DATA),
    Mutant(OWN_DATA, "        return found[: self.config.limit or None]", "        return found", OF_OWN_DATA),
    Mutant(OWN_DATA, "int(self.config.hold_out * len(these))", "int(0.05 * len(these))", OF_OWN_DATA),
    Mutant(OWN_DATA, "_order(len(counts), self.seed, ", "_order(len(counts), 1, ", OF_OWN_DATA),
    Mutant(OWN_DATA, "row[\"completions\"][0], self.config.crop_words)", "row[\"completions\"][0], 100)", OF_OWN_DATA),
    Mutant(OWN_DATA, "\"validation\": config.validation_split, \"test\": config.test_split", "\"validation\": config.test_split, \"test\": config.validation_split", OF_OWN_DATA),
    # ------------------------------------------------------------------ token_rows.py
    Mutant(TOKEN_ROWS, "<= 1 << 16", "<= 1 << 17", OF_DATA),
    Mutant(TOKEN_ROWS, "np.maximum.reduceat(lengths, firsts)", "lengths[firsts]", OF_DATA),  # of a group the first row alone
    # ------------------------------------------------------------------ ppo.py: what reaches the losses
    Mutant(PPO, "lr_share(config.schedule, ", "lr_share(\"linear\", ", OF_UPDATE),
    Mutant(PPO, ", config.num_iterations, warmup=config.warmup)", ", config.num_iterations)", OF_UPDATE),
    Mutant(PPO, "clip_low=config.clip_low,\n        clip_high=config.clip_high,", "clip_low=config.clip_high,\n        clip_high=config.clip_low,", OF_UPDATE),
    Mutant(PPO, "clip=config.value_clip,", "clip=config.clip_low,", OF_UPDATE),
    Mutant(PPO, "config.value_coef * value_loss", "0.5 * value_loss", OF_UPDATE),
    Mutant(PPO, "horizon=config.kl_horizon", "horizon=10_000", OF_UPDATE),
    Mutant(PPO, "    if config.whiten_advantages:\n", "    if True:\n", OF_UPDATE),
    Mutant(PPO, ", config.max_ratio):", ", config.max_approx_kl):", OF_UPDATE),
    Mutant(PPO, "parameters()), config.max_grad_norm)", "parameters()), 1.0)", OF_UPDATE),
    Mutant(PPO, "    if state.demonstrations is not None:\n        figures[\"loss/ptx\"] = accumulate_pretraining_gradient(state, config)\n    stop_unless_finite(\"update\", **{name.replace(\"/\", \" \"): value for name, value in figures.items()})\n    grad_norm = torch.nn.utils.clip_grad_norm_(list(state.policy.parameters()), config.max_grad_norm).item()\n", "    stop_unless_finite(\"update\", **{name.replace(\"/\", \" \"): value for name, value in figures.items()})\n    grad_norm = torch.nn.utils.clip_grad_norm_(list(state.policy.parameters()), config.max_grad_norm).item()\n    if state.demonstrations is not None:\n        figures[\"loss/ptx\"] = accumulate_pretraining_gradient(state, config)\n", OF_UPDATE),  # the pretraining gradient is not clipped
    # ------------------------------------------------------------------ rollout.py: what reaches the advantages
    Mutant(ROLLOUT, "gamma=config.gamma, lam=config.lam", "gamma=config.lam, lam=config.gamma", OF_ROLLOUT),
    Mutant(ROLLOUT, "    if config.whiten_rewards:\n        rewards = equations.rescale(rewards, mask)\n    advantages, returns = equations.gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)\n", "    advantages, returns = equations.gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)\n    if config.whiten_rewards:\n        rewards = equations.rescale(rewards, mask)\n", OF_ROLLOUT),
    Mutant(ROLLOUT, "missing_eos_score=config.missing_eos_score", "missing_eos_score=-1.0", OF_ROLLOUT),
    Mutant(ROLLOUT, "raw_scores=raw_scores,", "raw_scores=scores,", OF_ROLLOUT),
    Mutant(ROLLOUT, "ref_logprobs, _ = logprobs_and_values(reference, ", "ref_logprobs, _ = logprobs_and_values(state.policy, ", OF_ROLLOUT),
    Mutant(ROLLOUT, "raw_scores.tolist(), strict=True):", "raw_scores[:1].tolist(), strict=False):", OF_ROLLOUT),
    Mutant(ROLLOUT, "@torch.no_grad()\ndef logprobs_and_values", "def logprobs_and_values", OF_ROLLOUT),
    Mutant(ROLLOUT, "mask, kl = rollout.response_mask, rollout.kl.sum(dim=1)", "mask, kl = rollout.response_mask, rollout.kl.sum(dim=0)", OF_ROLLOUT),
    Mutant(ROLLOUT, "        temperature=config.temperature,\n", "", OF_ROLLOUT),
    # ------------------------------------------------------------------ generate.py, score.py
    Mutant(GENERATE, "config.temperature if options.temperature is None", "1.0 if options.temperature is None", OF_COMMANDS),
    Mutant(GENERATE, "min_new_tokens=min(config.min_new_tokens, max_new_tokens(run, options))", "min_new_tokens=0", OF_COMMANDS),
    Mutant(GENERATE, "        stop_ids=stop_ids,\n", "", OF_COMMANDS),
    Mutant(GENERATE, "        top_k=options.top_k,\n", "", OF_COMMANDS),
    Mutant(GENERATE, "\"generate\", 0, [number]", "\"generate\", 0, [0]", OF_COMMANDS),  # n times the same answer
    Mutant(GENERATE, "run.stage(\"sft\") / \"policy\"", "run.stage(\"ppo\") / \"policy\"", OF_COMMANDS),
    Mutant(GENERATE, "run.config.data.response_length if", "64 if", OF_COMMANDS),
    Mutant(GENERATE, "run.tokenizers()[0].encode(prompt)", "run.tokenizers()[1].encode(prompt)", OF_COMMANDS),
    Mutant(SCORE, "[options.prompt] * len(batch)", "[\"\"] * len(batch)", OF_COMMANDS),
    Mutant(SCORE, "line.rstrip(\"\\n\")", "line.strip()", OF_COMMANDS),  # the space before an answer
    # ------------------------------------------------------------------ export.py
    Mutant(EXPORT, "load_actor_critic(run.stage(\"ppo\") / \"policy\")", "load_actor_critic(run.stage(\"sft\") / \"policy\")", OF_EXPORT),
    Mutant(EXPORT, "load_pretrained(run.stage(\"sft\") / \"policy\")", "load_pretrained(run.stage(\"ppo\") / \"policy\")", OF_EXPORT),
    Mutant(EXPORT, "reward if name == \"reward_model\" else policy", "policy", OF_EXPORT),
    Mutant(EXPORT, "            save_model(model, folder)\n", "            save_pretrained(model, folder)\n", OF_EXPORT),  # without value head, gain and bias
    Mutant(EXPORT, "tokenizer.end_ids(ppo.stop_token)", "tokenizer.end_ids(\"\")", OF_EXPORT),
    # ------------------------------------------------------------------ metrics.py
    Mutant(METRICS, "row[\"stage\"] == stage and row[\"step\"] >= first_step", "row[\"step\"] >= first_step", OF_METRICS),  # other stages' lines go too
    Mutant(METRICS, "split(maxsplit=1)[0]) < first_step]", "split(maxsplit=1)[0]) <= first_step]", OF_METRICS),
    # ------------------------------------------------------------------ checkpoint.py
    Mutant(CHECKPOINT, "{\"step\": n} for", "{\"step\": 0} for", OF_CHECKPOINT),  # the bias is corrected once more
    Mutant(CHECKPOINT, "    _with_heads(state.policy, place / \"policy\")\n", "", OF_CHECKPOINT),  # goes on with a new critic
    Mutant(CHECKPOINT, "    return _with_heads(model, folder)\n", "    return model\n", OF_CHECKPOINT),  # without gain and bias
    # ------------------------------------------------------------------ in the method
    Mutant(MODEL, "        x = x + self.dropout(attended)\n", "        x = x + attended\n", OF_MODEL),
    Mutant(MODEL, "x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))", "x = self.token_embedding(tokens) + self.position_embedding(positions)", OF_MODEL),
    Mutant(SAMPLING, "probabilities.double().cumsum(dim=-1)", "probabilities.cumsum(dim=-1).double()", OF_SAMPLING),
    Mutant(SAMPLING, "model.logits(hidden[:, -1]).float()", "model.logits(hidden[:, -1])", OF_SAMPLING),  # bfloat16
    Mutant(GOLD, "    wish = interest(prompt)\n", "    wish = interest(\"\")\n", _files("gold", "evaluate", "recomputed")),
    # ------------------------------------------------------------------ streams.py and who draws from it
    Mutant(STREAMS, "_key(seed, name, (step, index))", "_key(seed, name, (step,))", OF_STREAMS),  # one row of numbers for all responses
    Mutant(STREAMS, "_key(seed, name, (step, index))", "_key(seed, name, (index,))", OF_STREAMS),  # every iteration draws the same
    Mutant(STREAMS, ">> np.uint64(11)) * 2.0**-53", ">> np.uint64(12)) * 2.0**-53", OF_STREAMS),  # numbers below a half alone
    Mutant(STREAMS, "_key(seed, name, position) % 2**64", "_key(0, name, position) % 2**64", OF_STREAMS),
    Mutant(ROLLOUT, "\"rollout\", state.iteration + 1, range", "\"rollout\", 1, range", OF_ROLLOUT),  # every iteration draws the same
    Mutant(ROLLOUT, "response_uniforms(state.seed, \"rollout\"", "response_uniforms(state.seed, \"normalisation\"", OF_ROLLOUT),  # correlated with the normalisation
    Mutant(PPO, "\"minibatches\", state.iteration + 1, epoch)", "\"minibatches\", state.iteration + 1, 0)", OF_UPDATE),  # later epochs in the same order
    Mutant(DATA, "generator(self.seed, self.name, epoch)", "generator(self.seed, self.name)", OF_DATA),  # every epoch of prompts in one order
]  # fmt: skip

EVERY_MUTANT = [*MUTANTS, *PLUMBING]
