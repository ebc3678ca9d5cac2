"""Wrong edits of the classifier as a reward model. As in mutants.py."""

from __future__ import annotations

from tests.mutants.mutants import Mutant, covering

LOSS, PIPELINE, OF_RUN = covering("equations", "label"), covering("labels"), covering("run", "lengths")
NATIVE, RM_EVALUATION = covering("native", "classifier"), covering("reward_evaluation", "labelled")
CORPUS, CONFIG = covering("own_data", "labels_are"), covering("config", "labels")

TEXTS = covering("recomputed", "language_model")

LABELS = [
    Mutant("minippo/equations.py", "for pair in ((positive, even), (even, negative))]", "for pair in ((positive, even), (negative, even))]", LOSS),  # all texts have label 1
    Mutant("minippo/equations.py", "    return (losses[0] + losses[1]) / 2\n", "    return losses[0] + losses[1]\n", LOSS),
    Mutant("minippo/equations.py", "preference_loss(*pair, label_smoothing=label_smoothing)", "preference_loss(*pair)", LOSS),
    Mutant("minippo/heads.py", "score.sigmoid(), score)", "score, score.sigmoid())", covering("heads", "probability real_token")),
    Mutant("minippo/heads.py", "self.register_buffer(\"is_probability\", torch.zeros(()))", "self.register_buffer(\"is_probability\", torch.zeros(()), persistent=False)", NATIVE),  # lost with the model
    Mutant("minippo/weights/heads.py", "heads.setdefault(\"is_probability\", torch.zeros(()))", "heads.setdefault(\"is_probability\", torch.ones(()))", NATIVE),
    Mutant("minippo/reward_evaluation.py", "([positive, 0.0], [0.0, negative])]", "([positive, 0.0], [negative, 0.0])]", RM_EVALUATION),
    Mutant("minippo/data/corpus.py", "== \"labels\" and not corpus.labelled:", "== \"labels\" and False:", CORPUS),
    Mutant("minippo/data/own.py", "self.labelled = all(", "self.labelled = any(", CORPUS),
    Mutant("minippo/runs/validation.py", "== \"labels\" and rm.margin:", "== \"labels\" and rm.margin < 0:", CONFIG),
    Mutant("minippo/runs/validation.py", "== \"labels\" and rm.normalise_before:", "== \"labels\" and False:", CONFIG),
    Mutant("train_rm.py", "loss = label_loss(scores, config.label_smoothing)", "loss = label_loss(scores)", PIPELINE),
    Mutant("train_rm.py", "loss = label_loss(scores, config.label_smoothing)", "loss = ranking_loss(scores, config.margin, config.label_smoothing)", PIPELINE),
    Mutant("train_rm.py", "        model.to_probability()\n", "", PIPELINE),
    Mutant("train_rm.py", "        scores = label_comparisons(scores)\n", "", PIPELINE),
    Mutant("minippo/tools/evaluate_rewards.py", "dtype=torch.float64).logit().tolist())", "dtype=torch.float64).tolist())", PIPELINE),  # every probability is above 0
    Mutant("minippo/runs/phases.py", "        if config.rm.objective == \"labels\":\n            return\n", "", covering("plan", "probabilities")),
    Mutant("minippo/runs/opening.py", "if stage != \"sft\"), \"\")", "), \"\")", OF_RUN),  # stage 1 is refused for other lengths
    Mutant("minippo/runs/opening.py", "if stage != \"sft\"), \"\")", "if stage == \"rm\"), \"\")", covering("run", "its_lengths")),
    # ------------------------------------------------------------------ perplexity of held-out texts
    Mutant("minippo/language_model.py", "losses[batch] = [float(", "losses[: len(batch)] = [float(", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "(\"policy\", policy)):", "(\"policy\", env.reference)):", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "corpus.demonstrations(split), env.tokenizer)[:count]", "corpus.demonstrations(\"train\"), env.tokenizer)[:count]", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "corpus.demonstrations(split), env.tokenizer)[:count]", "corpus.demonstrations(split), env.tokenizer)", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "pieces, pieces.prompt_lengths, ", "pieces, 0 * pieces.prompt_lengths, ", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "pieces.starts, side=\"right\") - 1", "pieces.starts, side=\"left\") - 1", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "for column in (losses, tokens))", "for column in (losses, np.ones(len(losses))))", TEXTS),
    Mutant("minippo/tools/evaluate_texts.py", "perplexities[\"policy\"], perplexities[\"reference\"])", "perplexities[\"reference\"], perplexities[\"policy\"])", TEXTS),
]  # fmt: skip
