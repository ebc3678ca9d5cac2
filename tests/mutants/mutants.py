"""Small wrong edits of our own source, each of which some implementation has made or might. The tests must catch all.

A mutant replaces `old`, which stands exactly once in `file`, by `new`; `tests` are those that concern it. The comments
are the ways in which such code goes wrong.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One wrong edit."""

    file: str
    old: str
    new: str
    tests: str


EQUATIONS, MODEL, HEADS, SAMPLING = (f"minippo/{name}.py" for name in ("equations", "model", "heads", "sampling"))
ROLLOUT, PPO, CHECKS, OPTIM = (f"minippo/{name}.py" for name in ("rollout", "ppo", "checks", "optim"))
DATA, TOKENIZER, SCORING, CHECKPOINT = (f"minippo/{name}.py" for name in ("data", "tokenizer", "scoring", "checkpoint"))
VALIDATION, CLI, RUN, EVALUATE = (f"minippo/{name}.py" for name in ("validation", "cli", "run", "evaluate"))
LM, GOLD, WEIGHTS, METRICS = (f"minippo/{name}.py" for name in ("language_model", "gold", "weights", "metrics"))
BPE, PUBLIC = "minippo/bpe.py", "minippo/public_vocabulary.py"
TIKTOKEN, JSON_FILES = "minippo/tiktoken_files.py", "minippo/json_files.py"
CORPORA, OWN_DATA, LABELLED, FORMATS = (f"minippo/{name}.py" for name in ("corpora", "own_data", "labelled", "formats"))
FILES, TEXTS, TOKEN_ROWS, CACHE = (f"minippo/{name}.py" for name in ("files", "texts", "token_rows", "cache"))
FAMILIES, STORED, EXPORT = (f"minippo/{name}.py" for name in ("families", "stored", "export"))
SFT, TRAIN_RM, TRAIN_PPO = "minippo/sft.py", "train_rm.py", "train_ppo.py"


def _tests(name: str, about: str = "") -> str:
    """All tests of a file, or with `about` those whose names hold one of its words, to be quick."""
    return f"tests/test_{name}.py" + (f" -k {'_or_'.join(about.split())}" if about else "")


MUTANTS = [
    # ------------------------------------------------------------------ reward-model losses
    Mutant(EQUATIONS, "difference = chosen_scores - rejected_scores", "difference = rejected_scores - chosen_scores", _tests("equations", "preference margin label ranking calibr tied")),
    Mutant(EQUATIONS, "- rejected_scores - margin", "- rejected_scores + margin", _tests("equations", "preference margin label ranking calibr tied")),
    Mutant(EQUATIONS, "(1 - label_smoothing) * agree + label_smoothing * flipped", "(1 - label_smoothing) * agree - label_smoothing * flipped", _tests("equations", "preference margin label ranking calibr tied")),
    Mutant(EQUATIONS, "offset=1, device", "offset=0, device", _tests("equations", "preference margin label ranking calibr tied")),  # a completion against itself
    Mutant(EQUATIONS, "(differences > 0).double() + 0.5 * (differences == 0)", "(differences > 0).double()", _tests("equations", "preference margin label ranking calibr tied")),
    # ------------------------------------------------------------------ masks and statistics
    Mutant(EQUATIONS, "return x[:, :-1][predicted], tokens[:, 1:][predicted]", "return x[:, 1:][predicted], tokens[:, 1:][predicted]", _tests("equations")),  # no shift by one
    Mutant(EQUATIONS, "    total, count = torch.where(mask, x, 0), mask\n", "    total, count = x * mask, mask\n", _tests("equations")),  # 0 * NaN
    Mutant(EQUATIONS, "return total.sum() / count.sum().clamp(min=1)", "return total.sum() / count.numel()", _tests("equations")),  # averages over pads
    Mutant(EQUATIONS, "return total.sum() / count.sum().clamp(min=1)", "return total.sum() / count.sum()", _tests("equations")),  # 0 / 0
    Mutant(EQUATIONS, "share * (1 - share) * shift**2", "share * shift**2", _tests("equations")),  # moments across ranks
    Mutant(EQUATIONS, "    return torch.where(mask, (x - moments.mean) * torch.rsqrt(moments.variance + 1e-8), 0)", "    return torch.where(mask, (x - moments.mean) * torch.rsqrt(moments.variance + 1e-8) + moments.mean, 0)", _tests("equations")),  # not centred
    Mutant(EQUATIONS, "torch.rsqrt(moments.variance + 1e-8) + moments.mean\n", "torch.rsqrt(moments.variance + 1e-8)\n", _tests("equations")),
    Mutant(EQUATIONS, "    return torch.where(mask, rescaled, 0)", "    return rescaled", _tests("equations")),
    # ------------------------------------------------------------------ log-probabilities, KL, rewards
    Mutant(EQUATIONS, "torch.log_softmax(logits.float() / temperature, dim=-1)", "torch.log_softmax(logits / temperature, dim=-1)", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),  # in bfloat16
    Mutant(EQUATIONS, "torch.log_softmax(logits.float() / temperature, dim=-1)", "torch.log_softmax(logits.float(), dim=-1)", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant(EQUATIONS, "-(log_softmax.exp() * log_softmax).sum(-1)", "(log_softmax.exp() * log_softmax).sum(-1)", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant(EQUATIONS, "    k1 = logprobs - ref_logprobs\n", "    k1 = ref_logprobs - logprobs\n", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),  # order
    Mutant(EQUATIONS, "return 0.5 * k1**2", "return k1**2", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant(EQUATIONS, "return torch.expm1(-k1) + k1", "return torch.expm1(k1) - k1", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant(EQUATIONS, "(-kl_coef * kl).scatter_add", "(kl_coef * kl).scatter_add", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),  # sign
    Mutant(EQUATIONS, "    last = last_response_index(response_mask).unsqueeze(1)\n", "    last = (last_response_index(response_mask).unsqueeze(1) + 1).clamp(max=kl.shape[1] - 1)\n", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),  # score after EOS
    Mutant(EQUATIONS, "return torch.where(has_eos, scores, scores - missing_eos_score)", "return torch.where(has_eos, scores, scores + missing_eos_score)", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant(EQUATIONS, "return torch.where(has_eos, scores, missing_eos_score)", "return torch.where(has_eos, missing_eos_score, scores)", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant(EQUATIONS, "observed_kl / target - 1, -0.2), 0.2)", "observed_kl / target - 1, -0.2), 2.0)", _tests("equations", "masked logprob kl k1 k3 reward score missing controller")),
    # ------------------------------------------------------------------ advantages
    Mutant(EQUATIONS, "    next_value = next_advantage = torch.zeros_like(values[:, 0])", "    next_value = next_advantage = values[:, -1]", _tests("equations", "masked gae advantage lambda reward variance padding returns")),  # bootstraps after the end
    Mutant(EQUATIONS, "rewards[:, t] + gamma * next_value - values[:, t]", "rewards[:, t] + next_value - values[:, t]", _tests("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant(EQUATIONS, "delta + gamma * lam * next_advantage, 0)", "delta + lam * next_advantage, 0)", _tests("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant(EQUATIONS, "    values = torch.where(response_mask, values, 0)\n    advantages", "    advantages", _tests("equations", "masked gae advantage lambda reward variance padding returns")),  # leaks
    Mutant(EQUATIONS, "    return advantages, advantages + values\n", "    return advantages, advantages\n", _tests("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant(EQUATIONS, "return 1 - residual / total.clamp(min=1e-8)", "return 1 - total / residual.clamp(min=1e-8)", _tests("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant(EQUATIONS, "    rewards = torch.where(response_mask, rewards, 0)\n", "    rewards = rewards.masked_fill_(~response_mask, 0)\n", _tests("equations")),  # edits what it is given
    # ------------------------------------------------------------------ losses of the update
    Mutant(EQUATIONS, "_masked_sum(torch.maximum(unclipped, clipped), response_mask)", "_masked_sum(torch.minimum(unclipped, clipped), response_mask)", _tests("equations", "masked policy value clip ratio microbatch")),
    Mutant(EQUATIONS, "ratio.clamp(1 - clip_low, 1 + clip_high)", "ratio.clamp(1 - clip_high, 1 + clip_low)", _tests("equations", "masked policy value clip ratio microbatch")),
    Mutant(EQUATIONS, "torch.where(response_mask, new_logprobs - logprobs, 0)", "torch.where(response_mask, logprobs - new_logprobs, 0)", _tests("equations", "masked policy value clip ratio microbatch")),
    Mutant(EQUATIONS, "_masked_sum(0.5 * log_ratio**2, response_mask) / divisor", "(0.5 * (new_logprobs - logprobs) ** 2).mean()", _tests("equations", "masked policy value clip ratio microbatch")),  # over pads
    Mutant(EQUATIONS, "_masked_sum((clipped > unclipped).float(), response_mask)", "_masked_sum((clipped >= unclipped).float(), response_mask)", _tests("equations", "masked policy value clip ratio microbatch")),
    Mutant(EQUATIONS, "0.5 * _masked_sum(worst, response_mask)", "_masked_sum(worst, response_mask)", _tests("equations", "masked policy value clip ratio microbatch")),
    Mutant(EQUATIONS, "torch.maximum(squared,", "torch.minimum(squared,", _tests("equations", "masked policy value clip ratio microbatch")),
    # ------------------------------------------------------------------ transformer
    Mutant(MODEL, "(attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)", "torch.arange(attention_mask.shape[1], device=tokens.device).expand_as(attention_mask)", _tests("model")),  # counts pads
    Mutant(MODEL, "return ((attention_mask[:, None, :] & causal) | itself).unsqueeze(1)", "return (attention_mask[:, None, :] & causal).unsqueeze(1)", _tests("model")),  # softmax over nothing
    Mutant(MODEL, "causal = torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen)", "causal = torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen + 1)", _tests("model")),  # sees the future
    Mutant(MODEL, "return F.pad(attention_mask[:, :-1], (0, 1), value=True)[:, None, None, :]", "return torch.ones_like(attention_mask)[:, None, None, :]", _tests("model")),  # pads attended to
    Mutant(MODEL, "        end = self.length + keys.shape[2]\n", "        end = self.length + keys.shape[2]\n        keys = keys * 0.99\n", _tests("model")),
    Mutant(MODEL, "            cache.length += T\n", "            cache.length += 1\n", _tests("model")),
    Mutant(MODEL, "        if seen + T > self.config.context:", "        if seen + T > self.config.context + 1:", _tests("model")),  # dies in the embedding
    Mutant(MODEL, "        if self.config.never_sampled:\n", "        if False:\n", _tests("model", "never")),
    Mutant(MODEL, "max(NO_CHANCE, torch.finfo(logits.dtype).min)", "-torch.inf", _tests("model", "never")),  # 0 * inf in the entropy
    Mutant(MODEL, "x + self.dropout(self.down(wide))", "self.dropout(self.down(wide))", _tests("model")),
    Mutant(MODEL, 'approximate="tanh"', 'approximate="none"', _tests("model")),
    Mutant(MODEL, "self.keys, self.values = self.keys[:, rows], self.values[:, rows]", "self.keys, self.values = self.keys[:, rows], self.values[:, : len(rows)]", _tests("sampling")),
    # ------------------------------------------------------------------ heads
    Mutant(HEADS, "        nn.init.zeros_(last.weight)\n", "", _tests("heads")),
    Mutant(HEADS, "read_at=last_response_index(attention_mask)", "read_at=last_response_index(attention_mask) - 1", _tests("heads")),
    Mutant(HEADS, "return self.gain * self.score_head(last_hidden).flatten().float() + self.bias", "return torch.sigmoid(self.score_head(last_hidden).flatten().float())", _tests("heads")),  # no scale
    Mutant(HEADS, "self.bias.sub_(mean).div_(deviation)", "self.bias.sub_(mean)", _tests("heads")),
    # ------------------------------------------------------------------ sampling
    Mutant(SAMPLING, "alive = alive & ~torch.isin(drawn, ends)", "alive = alive & ~torch.isin(drawn, ends[1:])", _tests("sampling")),
    Mutant(SAMPLING, "responses[rows, step], response_mask[rows, step] = drawn, alive", "responses[rows, step], response_mask[rows, step] = drawn, alive & ~torch.isin(drawn, ends)", _tests("sampling")),  # EOS is never trained
    Mutant(SAMPLING, "        if step < min_new_tokens:", "        if step <= min_new_tokens:", _tests("sampling")),
    Mutant(SAMPLING, "tokens, positions = drawn.unsqueeze(1), next_position + step", "tokens, positions = drawn.unsqueeze(1), torch.full_like(next_position, P + step)", _tests("sampling")),
    Mutant(SAMPLING, "logits = (logits - highest) / max(temperature", "logits = (logits - highest) * max(temperature", _tests("sampling")),
    Mutant(SAMPLING, "descending.cumsum(dim=-1) - descending >= top_p", "descending.cumsum(dim=-1) >= top_p", _tests("sampling")),
    Mutant(SAMPLING, "    if P + max_new_tokens > context:", "    if P + max_new_tokens > context + 1:", _tests("sampling")),
    # ------------------------------------------------------------------ rollout
    Mutant(ROLLOUT, "equations.token_logprobs(logits, drawn, config.temperature)", "equations.token_logprobs(logits, drawn)", _tests("rollout")),
    Mutant(ROLLOUT, "    if config.min_new_tokens > 0:\n", "    if False:\n", _tests("rollout")),  # forbidden in one place only
    Mutant(ROLLOUT, "torch.arange(real.shape[1]) >= query_lengths.unsqueeze(1)", "torch.arange(real.shape[1]) > query_lengths.unsqueeze(1)", _tests("rollout")),
    Mutant(ROLLOUT, 'for tensor in pad(query_ids, tokenizer.pad_id, "left")', 'for tensor in pad(query_ids, tokenizer.pad_id, "right")', _tests("rollout")),
    Mutant(ROLLOUT, "has_eos=(torch.isin(responses, torch.tensor([eos_id, *stop_ids], device=device)) & response_mask).any(dim=1)", "has_eos=~response_mask.all(dim=1)", _tests("rollout")),  # inferred from padding
    Mutant(ROLLOUT, "    state.policy.eval()\n", "", _tests("rollout")),  # dropout on
    Mutant(ROLLOUT, "kl_coef=state.kl_coef)", "kl_coef=config.kl_coef)", _tests("rollout")),
    Mutant(ROLLOUT, "        rewards = equations.rescale(rewards, mask)", "        rewards = equations.whiten(rewards, mask)", _tests("rollout")),
    Mutant(ROLLOUT, "        returns=returns,\n", "        returns=equations.whiten(returns, mask),\n", _tests("rollout")),
    Mutant(ROLLOUT, '"val/mean": equations.masked_mean(rollout.values, mask)', '"val/mean": rollout.values.mean()', _tests("rollout")),
    Mutant(ROLLOUT, '"objective/scores": rollout.raw_scores.mean()', '"objective/scores": rollout.scores.mean()', _tests("rollout")),
    # ------------------------------------------------------------------ update
    Mutant(PPO, "    num_tokens = batch.response_mask.sum()\n", "    num_tokens = batch.response_mask[: config.microbatch_size].sum()\n", _tests("ppo")),  # divided by microbatches
    Mutant(PPO, "advantages = equations.whiten(advantages, batch.response_mask)", "advantages = equations.rescale(advantages, batch.response_mask)", _tests("ppo")),
    Mutant(PPO, "        loss.backward()\n", "        loss.backward()\n        torch.nn.utils.clip_grad_norm_(list(state.policy.parameters()), config.max_grad_norm)\n", _tests("ppo")),
    Mutant(PPO, "            sums[name] += float(value)\n", "            sums[name] = float(value)\n", _tests("ppo")),  # the last one is logged
    Mutant(PPO, "    state.optimizer.zero_grad(set_to_none=True)\n", "", _tests("ppo")),
    Mutant(PPO, "        batch.logprobs[rows],\n", "        logprobs.detach(),\n", _tests("ppo")),  # the clip never acts
    Mutant(PPO, "for epoch in range(config.num_epochs)\n", "for epoch in range(1)\n", _tests("ppo")),
    Mutant(PPO, "for rows in order.split(B // config.num_minibatches)]", "for rows in order.split(B // config.num_minibatches)[:-1]]", _tests("ppo")),  # the tail
    Mutant(PPO, "torch.randperm(B, generator=generator(state.seed, \"minibatches\", state.iteration + 1, epoch))", "torch.randperm(B)", _tests("ppo")),
    Mutant(PPO, "        return figures\n    if state.demonstrations", "        for p in state.policy.parameters():\n            p.grad.zero_()\n    if state.demonstrations", _tests("ppo")),  # steps with a loss of 0
    Mutant(PPO, "weight=config.ptx_coef\n", "weight=1.0\n", _tests("ppo")),
    Mutant(PPO, "num_tokens=num_tokens, weight", "weight", _tests("ppo")),
    Mutant(PPO, 'taken = [figures for figures in found if "policy/grad_norm" in figures]', "taken = found", _tests("ppo")),
    Mutant(PPO, "loss = loss - config.entropy_coef * entropy", "loss = loss + config.entropy_coef * entropy", _tests("ppo")),
    Mutant(PPO, "float(rollout.kl.sum(dim=1).mean())", "float(rollout.kl.mean())", _tests("ppo")),
    Mutant(LM, "        (weight * part).backward()\n", "        part.backward()\n", _tests("ppo")),
    Mutant(CHECKS, "    if not kl <= tolerance:", "    if not kl <= 1e3:", _tests("checks")),
    Mutant(CHECKS, "    if not off <= CACHE_FACTOR * tolerance:", "    if not off <= 1e3:", _tests("checks")),
    # ------------------------------------------------------------------ optimizer
    Mutant(OPTIM, "        weight = parameter if on_cpu else state[\"master\"]\n", "        weight = parameter\n", _tests("optim")),  # bfloat16 alone
    Mutant(OPTIM, "denominator = second.sqrt().div_(second_correction).add_(eps)", "denominator = second.sqrt().add_(eps).div_(second_correction)", _tests("optim")),
    Mutant(OPTIM, "weight.mul_(1 - group[\"lr\"] * group[\"weight_decay\"])", "gradient.add_(weight, alpha=group[\"weight_decay\"])", _tests("optim")),  # Adam with L2
    Mutant(OPTIM, "        beta1, beta2 = group[\"betas\"]\n", "        beta2, beta1 = group[\"betas\"]\n", _tests("optim")),
    Mutant(OPTIM, "{k: v.clone() if torch.is_tensor(v) else v for k, v in loaded.items()}", "{k: v.to(parameter.dtype) if torch.is_tensor(v) else v for k, v in loaded.items()}", _tests("optim")),
    Mutant(OPTIM, "parameter.dim() < 2]", "parameter.dim() < 1]", _tests("optim")),
    Mutant(OPTIM, "    rising = (step + 1) / max(1.0, warmup * num_steps)", "    rising = step / max(1.0, warmup * num_steps)", _tests("optim")),
    # ------------------------------------------------------------------ bridge, scoring
    Mutant(TOKENIZER, "for rank in self.encoding.encode_ordinary(text)]", "for rank in self.encoding.encode(text, allowed_special=\"all\")]", _tests("tokenizer", "tiktokens")),  # text becomes a token
    Mutant(TOKENIZER, "[[*ids[: max_length - 1], tokenizer.eos_id] for", "[[*ids, tokenizer.eos_id][:max_length] for", _tests("tokenizer")),  # no end where cut
    Mutant(TOKENIZER, "texts = [prompt + response for", "texts = [response for", _tests("tokenizer")),
    Mutant(TOKENIZER, "errors=\"replace\"", "errors=\"strict\"", _tests("tokenizer")),  # a cut-off character
    Mutant(TOKENIZER, "[self._ids[rank] for rank in", "[rank for rank in", _tests("public_vocabulary")),  # ranks for ids
    Mutant(TOKENIZER, " if i not in self._bytes and i != self.eos_id)", " if i not in self._bytes)", _tests("public_vocabulary")),  # the end may not be drawn
    Mutant(TIKTOKEN, "\"pad\": vocabulary.pad, \"ids\": vocabulary.ids}", "\"pad\": vocabulary.pad}", _tests("public_vocabulary")),  # a run that is moved has other ids
    Mutant(TOKENIZER, "sorted(SINGLE_BYTES, key=public.ids.__getitem__)", "SINGLE_BYTES", _tests("public_vocabulary")),  # not GPT-2's own ranks
    Mutant(BPE, "        if parts != [a, b]:\n", "        if len(parts) != 2:\n", _tests("bpe")),  # another merge leads there
    Mutant(BPE, "        if a + b in ranks:\n", "        if False:\n", _tests("bpe")),
    Mutant(BPE, "in sorted(merges, key=lambda merge: len(merge[0] + merge[1])):", "in merges:", _tests("bpe")),  # a wrong example
    Mutant(BPE, "        _, place = min(joined)\n", "        _, place = joined[0]\n", _tests("bpe")),
    Mutant(PUBLIC, "_settings(folder / \"special_tokens_map.json\") | _settings(folder / \"tokenizer_config.json\")", "_settings(folder / \"tokenizer_config.json\") | _settings(folder / \"special_tokens_map.json\")", _tests("public_vocabulary")),
    Mutant(PUBLIC, "        _check_pipeline(whole)\n", "", _tests("public_vocabulary")),  # another split, without a word
    Mutant(PUBLIC, "    if ordinary:\n", "    if False:\n", _tests("public_vocabulary")),  # tokens found in texts
    Mutant(PUBLIC, "(vocabulary.get(\"</s>\"), vocabulary.get(\"<pad>\")) == (2, 1)", "\"</s>\" in vocabulary", _tests("public_vocabulary")),
    Mutant(PUBLIC, ".read_text(encoding=\"utf-8\").split(\"\\n\")", ".read_text(encoding=\"utf-8\").split()", _tests("public_vocabulary")),
    Mutant(PUBLIC, "*range(ord(\"®\"), ord(\"ÿ\") + 1)", "*range(ord(\"¬\"), ord(\"ÿ\") + 1)", _tests("public_vocabulary")),  # the soft hyphen does not print
    Mutant(SCORING, "scores[torch.tensor(chosen)] = ", "scores[start : start + batch_size] = ", _tests("scoring")),
    Mutant(SCORING, "reward_model.eval().requires_grad_(False)", "reward_model", _tests("scoring")),  # goes on training
    # ------------------------------------------------------------------ public weights, export
    Mutant(FAMILIES, "(\"self_attn.q_proj\", \"self_attn.k_proj\", \"self_attn.v_proj\")", "(\"self_attn.k_proj\", \"self_attn.q_proj\", \"self_attn.v_proj\")", _tests("weights", "transformers")),
    Mutant(FAMILIES, "TensorNames((\"unread_positions\", \"position_embedding.weight\"), ", "TensorNames((\"position_embedding.weight\", \"unread_positions\"), ", _tests("weights", "transformers")),  # no offset
    Mutant(FAMILIES, "        \"do_layer_norm_before\": ((True,),", "        \"do_layer_norm_before\": ((True, False),", _tests("weights", "350m")),
    Mutant(FAMILIES, "**{key: config.dropout if is_ours else 0.0", "**{key: config.dropout if is_ours else 0.1", _tests("weights", "dropout")),
    Mutant(FAMILIES, "never_sampled=tuple(never_sampled)", "never_sampled=()", _tests("weights", "bit_equal")),
    Mutant(WEIGHTS, "if pad_id in (None, eos_id) else pad_id", "if pad_id is None else pad_id", _tests("weights", "raw_scores")),  # the end is taken for a pad
    Mutant(WEIGHTS, "            if rows.shape != expected:\n", "            if False:\n", _tests("weights", "shape")),  # one row is spread over all
    Mutant(WEIGHTS, "        if not torch.equal(stored[name], stored[\"lm_head.weight\"]):\n", "        if False:\n", _tests("weights", "output_embedding")),
    Mutant(STORED, "mmap=True, weights_only=True)", "mmap=True, weights_only=False)", _tests("weights", "run_code")),
    Mutant(STORED, "        if path != self._path or self._read", "        if self._read", _tests("weights", "other_forms")),
    Mutant(EXPORT, "return tokenizer.spare_id if name == \"reward_model\" and is_end else tokenizer.pad_id", "return tokenizer.pad_id", _tests("export", "classifier")),
    Mutant(EXPORT, "\"suppress_tokens\": list(gpt.config.never_sampled) or None", "\"suppress_tokens\": None", _tests("export", "answer")),
    Mutant(EXPORT, "\"min_new_tokens\": min_new_tokens or None", "\"min_new_tokens\": None", _tests("export", "at_least")),
    Mutant(EXPORT, "        make_folder(options.out)\n", "", _tests("export", "cannot_be_written")),
    # ------------------------------------------------------------------ broken public files
    Mutant(JSON_FILES, "    if type(value) not in kinds:", "    if not isinstance(value, kinds):", _tests("weights", "of_use")),  # true passes for 1
    Mutant(JSON_FILES, "    if key not in found and NoneType not in kinds:", "    if key not in found:", _tests("tokenizer", "alone_are_enough")),
    Mutant(JSON_FILES, "(ValueError, RecursionError)", "ValueError", _tests("tokenizer", "beside_the_merges")),
    Mutant(FAMILIES, "        if sizes[field] < 1:\n", "        if False:\n", _tests("weights", "of_use")),
    Mutant(FAMILIES, "    if sizes[\"channels\"] % sizes[\"heads\"]:\n", "    if False:\n", _tests("weights", "of_use")),
    Mutant(FAMILIES, "        if not 0 <= checked(i, ", "        if not 0 <= 1 + checked(i, ", _tests("weights", "of_use")),  # the last row, from behind
    Mutant(WEIGHTS, "    _check_all_is_read(stored, config)\n", "", _tests("weights", "blocks")),  # layers are dropped
    Mutant(WEIGHTS, " if not name.endswith(no_weights)]", "]", _tests("weights", "causal_masks")),
    Mutant(STORED, "        if tensor.numel() and not all(", "        if tensor.numel() and not any(", _tests("weights", "no_numbers")),
    Mutant(STORED, "    if beginning.startswith(LEGACY):\n", "    if False:\n", _tests("weights", "told_apart")),
    Mutant(STORED, "    if beginning.startswith(LFS_POINTER):\n", "    if False:\n", _tests("weights", "in_place")),
    Mutant(PUBLIC, "{\"pre_tokenizer\": None, \"model\": None} | whole", "whole", _tests("public_vocabulary", "broken")),  # splits at nothing
    Mutant(PUBLIC, " and not key.startswith(\"add_\")", "", _tests("public_vocabulary", "saved_with_a_run")),  # OPT's add_bos_token
    Mutant(TIKTOKEN, "len(ids) <= max(ranks.values())", "len(ids) < max(ranks.values())", _tests("tokenizer", "beside_the_merges")),
    Mutant(SFT, "(*tokenizer.textless_ids, *padded_rows)", "tuple(padded_rows)", _tests("sft", "backbone")),
    # ------------------------------------------------------------------ data
    Mutant(CORPORA, "np.sort(np.unique(self._test_hashes, return_index=True)[1])", "np.arange(len(self._test_hashes))", _tests("corpora", "splits")),  # doubled reviews are asked about twice
    Mutant(CORPORA, "self.rows[\"test\"].select(firsts[splits == split])", "self.rows[\"test\"].select(firsts[(splits == split) | (splits == \"test\")])", _tests("corpora", "splits")),  # trains on held-out prompts
    Mutant(CORPORA, "            self.rows[name] = self.rows[name].select(kept)\n", "", _tests("corpora", "verbatim")),  # test reviews in training
    Mutant(DATA, "for split in (*TEST_FIRST, \"train\"):", "for split in (\"train\", *TEST_FIRST):", _tests("token_rows", "same_tokens")),  # training keeps held-out prompts
    Mutant(DATA, "        new = new[~np.isin(hashes[new], seen)]\n", "", _tests("token_rows", "same_tokens")),
    Mutant(CORPORA, "        random.Random(f\"{self.seed} {split} prompts\").shuffle(texts)  # the file is sorted by label\n", "", _tests("corpora")),
    Mutant(CORPORA, "f\"{self.seed} {split} {epoch}\"", "f\"{self.seed} {split}\"", _tests("corpora")),  # one pairing for ever
    Mutant(LABELLED, "            chance.shuffle(order)\n", "            pass\n", _tests("corpora")),  # pairs by row index
    Mutant(LABELLED, "crop(text, starts[row], self.crop_words)", "text", _tests("corpora")),  # whole reviews
    Mutant(DATA, "whole_characters(tokenizer, ids[:query_length])", "ids[:query_length]", _tests("data")),
    Mutant(DATA, "mask = torch.zeros(tokens.shape, dtype=torch.bool)", "mask = torch.full(tokens.shape, pad_id).bool()", _tests("data")),  # padded with the pad's id
    Mutant(DATA, "if epoch != self._epoch:", "if self._epoch < 0:", _tests("data")),
    Mutant(DATA, "np.flatnonzero(lengths <= most)", "np.flatnonzero(lengths < most)", _tests("token_rows")),
    Mutant(DATA, "    kept = ends - starts > 1\n", "    kept = ends - starts > 0\n", _tests("data")),
    Mutant(DATA, "(place + 1 - starts[-1]) * length > batch_tokens", "(place - starts[-1]) * length > batch_tokens", _tests("data")),
    Mutant(TEXTS, "self.read(start + first, start + last)", "self.read(first, last)", _tests("token_rows")),
    Mutant(TOKEN_ROWS, "fingerprint_of(\"tokens\", *parts, tokenizer_fingerprint(tokenizer))", "fingerprint_of(\"tokens\", *parts)", _tests("token_rows")),  # another tokenizer's ids
    Mutant(TOKEN_ROWS, "if ids_path.stat().st_size == lengths.sum() * dtype.itemsize else None", "", _tests("token_rows")),  # a file cut short
    Mutant(CACHE, "                os.fsync(file.fileno())\n", "                pass\n", _tests("token_rows")),
    Mutant(CACHE, "            probe.flush()\n", "            probe.flush()\n        return folder\n", _tests("token_rows")),  # never deleted
    Mutant(FILES, "            return file.read() == END_OF_ARROW\n", "            return True\n", _tests("own_data", "not_whole")),  # rows of the last batches are gone
    Mutant(FILES, "decode(\"utf-8-sig\"", "decode(\"utf-8\"", _tests("own_data", "byte_order")),
    Mutant(OWN_DATA, "                if num_rows + counts[prompt] <= most:", "                if num_rows < most:", _tests("own_data", "most_rows")),  # nearly all is held out
    Mutant(OWN_DATA, "        self._leave_out_held_out_prompts()\n", "", _tests("own_data", "held_out")),  # held-out prompts are demonstrated
    Mutant(OWN_DATA, "for rows in (self._prompts, self._preferences)\n", "for rows in (self._prompts,)\n", _tests("own_data", "nowhere")),
    Mutant(CORPORA, "*[file_fingerprint(Path(path)) for path in files.values()]", "*[self.rows[split]._fingerprint for split in files], 0", _tests("corpora", "imdb")),  # other paths, another run
    Mutant(CACHE, "/ \"minippo\"\n    folder = everything / code_fingerprint()", "/ \"minippo\"\n    folder = everything / \"code\"", _tests("token_rows")),  # what the old code made
    Mutant(CACHE, "            digest.update(block)\n", "            digest.update(str(len(block)).encode())\n", _tests("own_data", "read_once")),  # what an old file said
    Mutant(FORMATS, "common.rindex(ANSWER)", "common.index(ANSWER)", _tests("own_data", "conversation")),
    Mutant(FORMATS, "return text + ANSWER if", "return text if", _tests("own_data", "demonstrations")),  # the policy would have to open its own turn
    Mutant(FILES, "enumerate(file, start=1)", "enumerate(file)", _tests("own_data", "line")),
    Mutant(FILES, "errors=\"replace\"", "errors=\"ignore\"", _tests("own_data", "unusable")),  # silently another text
    Mutant(OWN_DATA, "row[\"prompt\"] or \"\\n\".join", "\"\\n\".join", _tests("own_data", "held_out")),  # tested on prompts that were trained on
    Mutant(OWN_DATA, "firsts = firsts[~np.isin(hashed[firsts], seen)]", "firsts = firsts[hashed[firsts] != seen[0]]", _tests("own_data", "asked_once")),
    # ------------------------------------------------------------------ reward-model training
    Mutant(TRAIN_RM, "won = [row[i] > row[j]", "won = [row[i] >= row[j]", _tests("train_rm")),  # ties count as right
    Mutant(TRAIN_RM, "return sum(won) / len(won)", "return sum(won) / len(scores)", _tests("train_rm")),
    Mutant(TRAIN_RM, "            rows, *_ = comparison_rows(corpus.comparisons(\"train\", epoch), tokenizer, context, run.config.data)\n", "            pass\n", _tests("train_rm")),
    # ------------------------------------------------------------------ checkpoints and runs
    Mutant(CHECKPOINT, "    state.seed, state.iteration, state.kl_coef = rest[\"seed\"], rest[\"iteration\"], rest[\"kl_coef\"]", "    state.iteration, state.kl_coef = rest[\"iteration\"], rest[\"kl_coef\"]", _tests("checkpoint")),
    Mutant(CHECKPOINT, "    state.prompts.drawn = rest[\"prompts_drawn\"]\n", "", _tests("checkpoint")),
    Mutant(CHECKPOINT, "state.seed, state.iteration, state.kl_coef = rest[\"seed\"], rest[\"iteration\"], rest[\"kl_coef\"]", "state.seed, state.iteration = rest[\"seed\"], rest[\"iteration\"]", _tests("checkpoint")),
    Mutant(CHECKPOINT, "    partial = place.with_suffix(\".partial\")\n", "    partial = place\n", _tests("checkpoint")),
    Mutant(CHECKPOINT, "        state.demonstrations.drawn = rest[\"demonstrations_drawn\"]\n", "        pass\n", _tests("checkpoint")),
    Mutant(CHECKPOINT, "    if rest[\"data\"] != data:\n", "    if False:\n", _tests("checkpoint", "data")),  # its place in other rows
    Mutant(RUN, "if source is not None and own and own != earlier and", "if False and", _tests("run")),  # another run's reward model
    Mutant(RUN, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", _tests("run", "another_process")),
    Mutant(VALIDATION, "    check_finite(config)\n", "", _tests("config", "none")),
    Mutant(EVALUATE, "response_uniforms(config.seed, f\"{split} answers\"", "response_uniforms(0, f\"{split} answers\"", _tests("evaluate")),  # disturbs training
    Mutant(EVALUATE, "(a > b) + 0.5 * (a == b)", "(a >= b)", _tests("evaluate")),
    Mutant(TRAIN_PPO, "        save(state, folder)  # a save that cannot work shows now, not an hour in\n", "        pass\n", _tests("pipeline") + "::test_a_score_that_is_no_number_stops_the_run_and_names_the_last_good_checkpoint " + _tests("pipeline") + "::test_a_broken_promise_ends_the_run_before_its_first_step"),
    Mutant(TRAIN_PPO, "        restore(state, checkpoints(folder)[-1])\n", "        restore(state, checkpoints(folder)[-1])\n        reference = policy\n", _tests("pipeline", "resumed")),
    Mutant(CLI, "            raise ValueError(f\"{where}{key} is no field; did you mean {near!r}?\")\n", "            continue\n", _tests("cli", "wrong_key")),  # an unknown key is ignored
    Mutant(CLI, "        raise SystemExit(2) from None\n", "        raise SystemExit(0) from None\n", _tests("cli") + " -k sentence"),
    Mutant(VALIDATION, "    if B % minibatches:\n", "    if False:\n", _tests("config")),
    Mutant(VALIDATION, "    if data.query_length + data.response_length + end > context:", "    if data.query_length + data.response_length + end > context + 1:", _tests("config")),
    Mutant(SFT, "stop_unless_finite(f\"sft {name}: step {step + 1}\", loss=loss.item(), gradient=grad_norm.item())", "pass", _tests("sft")),
]  # fmt: skip
