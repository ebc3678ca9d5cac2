"""Small wrong edits of our own source, each of which some implementation has made or might. The tests must catch all.

A mutant replaces `old`, which stands exactly once in `file`, by `new`; `tests` are those that concern it. The comments
are the ways in which such code goes wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]


class Mutant(NamedTuple):
    """One wrong edit."""

    file: str
    old: str
    new: str
    tests: str


def path_of(name: str) -> str:
    """The file `test_NAME.py`, wherever it is in `tests/`."""
    (path,) = TESTS.rglob(f"test_{name}.py")
    return f"tests/{path.relative_to(TESTS).as_posix()}"


def covering(name: str, about: str = "") -> str:
    """All tests of a file, or with `about` those whose names hold one of its words, to be quick."""
    return path_of(name) + (f" -k {'_or_'.join(about.split())}" if about else "")


MUTANTS = [
    # ------------------------------------------------------------------ reward-model losses
    Mutant("minippo/equations.py", "difference = chosen_scores - rejected_scores", "difference = rejected_scores - chosen_scores", covering("equations", "preference margin label ranking calibr tied")),
    Mutant("minippo/equations.py", "- rejected_scores - margin", "- rejected_scores + margin", covering("equations", "preference margin label ranking calibr tied")),
    Mutant("minippo/equations.py", "(1 - label_smoothing) * agree + label_smoothing * flipped", "(1 - label_smoothing) * agree - label_smoothing * flipped", covering("equations", "preference margin label ranking calibr tied")),
    Mutant("minippo/equations.py", "offset=1, device", "offset=0, device", covering("equations", "preference margin label ranking calibr tied")),  # a completion against itself
    Mutant("minippo/reward_evaluation.py", "(differences > 0).double() + 0.5 * (differences == 0)", "(differences > 0).double()", covering("equations", "preference margin label ranking calibr tied")),
    # ------------------------------------------------------------------ masks and statistics
    Mutant("minippo/masking.py", "return x[:, :-1][predicted], tokens[:, 1:][predicted]", "return x[:, 1:][predicted], tokens[:, 1:][predicted]", covering("equations")),  # no shift by one
    Mutant("minippo/masking.py", "    total, count = torch.where(mask, x, 0), mask\n", "    total, count = x * mask, mask\n", covering("equations")),  # 0 * NaN
    Mutant("minippo/masking.py", "return total.sum() / count.sum().clamp(min=1)", "return total.sum() / count.numel()", covering("equations")),  # averages over pads
    Mutant("minippo/masking.py", "return total.sum() / count.sum().clamp(min=1)", "return total.sum() / count.sum()", covering("equations")),  # 0 / 0
    Mutant("minippo/masking.py", "share * (1 - share) * shift**2", "share * shift**2", covering("equations")),  # moments across ranks
    Mutant("minippo/equations.py", "    return torch.where(mask, (x - moments.mean) * torch.rsqrt(moments.variance + 1e-8), 0)", "    return torch.where(mask, (x - moments.mean) * torch.rsqrt(moments.variance + 1e-8) + moments.mean, 0)", covering("equations")),  # not centred
    Mutant("minippo/equations.py", "torch.rsqrt(moments.variance + 1e-8) + moments.mean\n", "torch.rsqrt(moments.variance + 1e-8)\n", covering("equations")),
    Mutant("minippo/equations.py", "    return torch.where(mask, rescaled, 0)", "    return rescaled", covering("equations")),
    # ------------------------------------------------------------------ log-probabilities, KL, rewards
    Mutant("minippo/equations.py", "else logits.float() / temperature", "else logits / temperature", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),  # in bfloat16
    Mutant("minippo/equations.py", "else logits.float() / temperature", "else logits.float()", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant("minippo/equations.py", "return -(p * log_softmax if", "return (p * log_softmax if", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant("minippo/equations.py", "p.mul_(log_softmax)).sum(-1)", "log_softmax.mul_(p)).sum(-1)", covering("equations", "logprobs")),
    Mutant("minippo/equations.py", "return -(p * log_softmax if torch.is_grad_enabled() else", "return -(p * log_softmax if False else", covering("equations", "forbid")),
    Mutant("minippo/equations.py", "    k1 = logprobs - ref_logprobs  #", "    k1 = ref_logprobs - logprobs  #", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),  # order
    Mutant("minippo/equations.py", "return 0.5 * k1**2", "return k1**2", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant("minippo/equations.py", "return torch.expm1(-k1) + k1", "return torch.expm1(k1) - k1", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant("minippo/equations.py", "(-kl_coef * kl).scatter_add", "(kl_coef * kl).scatter_add", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),  # sign
    Mutant("minippo/equations.py", "    last = last_response_index(response_mask).unsqueeze(1)  #", "    last = (last_response_index(response_mask).unsqueeze(1) + 1).clamp(max=kl.shape[1] - 1)  #", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),  # score after EOS
    Mutant("minippo/equations.py", "return torch.where(has_eos, scores, scores - missing_eos_score)", "return torch.where(has_eos, scores, scores + missing_eos_score)", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant("minippo/equations.py", "return torch.where(has_eos, scores, missing_eos_score)", "return torch.where(has_eos, missing_eos_score, scores)", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    Mutant("minippo/equations.py", "observed_kl / target - 1, -0.2), 0.2)", "observed_kl / target - 1, -0.2), 2.0)", covering("equations", "masked logprob kl k1 k3 reward score missing controller")),
    # ------------------------------------------------------------------ advantages
    Mutant("minippo/equations.py", "    next_value = next_advantage = torch.zeros_like(values[:, 0])", "    next_value = next_advantage = values[:, -1]", covering("equations", "masked gae advantage lambda reward variance padding returns")),  # bootstraps after the end
    Mutant("minippo/equations.py", "rewards[:, t] + gamma * next_value - values[:, t]", "rewards[:, t] + next_value - values[:, t]", covering("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant("minippo/equations.py", "delta + gamma * lam * next_advantage, 0)", "delta + lam * next_advantage, 0)", covering("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant("minippo/equations.py", "    values = torch.where(response_mask, values, 0)\n    advantages", "    advantages", covering("equations", "masked gae advantage lambda reward variance padding returns")),  # leaks
    Mutant("minippo/equations.py", "    return advantages, advantages + values\n", "    return advantages, advantages\n", covering("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant("minippo/equations.py", "return 1 - residual / total.clamp(min=1e-8)", "return 1 - total / residual.clamp(min=1e-8)", covering("equations", "masked gae advantage lambda reward variance padding returns")),
    Mutant("minippo/equations.py", "    rewards = torch.where(response_mask, rewards, 0)\n", "    rewards = rewards.masked_fill_(~response_mask, 0)\n", covering("equations")),  # edits what it is given
    # ------------------------------------------------------------------ losses of the update
    Mutant("minippo/equations.py", "average(torch.maximum(unclipped, clipped), ", "average(torch.minimum(unclipped, clipped), ", covering("equations", "masked policy value clip ratio microbatch")),
    Mutant("minippo/equations.py", "ratio.clamp(1 - clip_low, 1 + clip_high)", "ratio.clamp(1 - clip_high, 1 + clip_low)", covering("equations", "masked policy value clip ratio microbatch")),
    Mutant("minippo/equations.py", "torch.where(response_mask, new_logprobs - logprobs, 0)", "torch.where(response_mask, logprobs - new_logprobs, 0)", covering("equations", "masked policy value clip ratio microbatch")),
    Mutant("minippo/equations.py", "average(0.5 * log_ratio**2, response_mask, num_tokens)", "(0.5 * (new_logprobs - logprobs) ** 2).mean()", covering("equations", "masked policy value clip ratio microbatch")),  # over pads
    Mutant("minippo/equations.py", "average((clipped > unclipped).float(), ", "average((clipped >= unclipped).float(), ", covering("equations", "masked policy value clip ratio microbatch")),
    Mutant("minippo/equations.py", "0.5 * average(worst, ", "average(worst, ", covering("equations", "masked policy value clip ratio microbatch")),
    Mutant("minippo/equations.py", "torch.maximum(squared,", "torch.minimum(squared,", covering("equations", "masked policy value clip ratio microbatch")),
    # ------------------------------------------------------------------ variants
    Mutant("minippo/equations.py", "        return masked_sum(x / divisor, mask)\n", "        return masked_sum(x, mask) / divisor.sum()\n", covering("equations", "divisor row divergence kl penalty microbatch masked penalised")),  # all responses weigh by their tokens
    Mutant("minippo/equations.py", "    return average(kl_estimate(new_logprobs, ref_logprobs, kind), ", "    return average(kl_estimate(ref_logprobs, new_logprobs, kind), ", covering("equations", "divisor row divergence kl penalty microbatch masked penalised")),
    Mutant("minippo/equations.py", "    return average(kl_estimate(new_logprobs, ref_logprobs, kind), ", "    return average(kl_estimate(new_logprobs, ref_logprobs), ", covering("equations", "divisor row divergence kl penalty microbatch masked penalised")),  # k1: no penalty
    Mutant("minippo/equations.py", "    return average(kl_estimate(new_logprobs, ref_logprobs, kind), response_mask, num_tokens)", "    return average(kl_estimate(new_logprobs, ref_logprobs, kind), response_mask)", covering("equations", "divisor row divergence kl penalty microbatch masked penalised")),
    Mutant("minippo/equations.py", "    kl = kl_estimate(logprobs, ref_logprobs, kind)  #", "    kl = kl_estimate(logprobs, ref_logprobs)  #", covering("equations", "divisor row divergence kl penalty microbatch masked penalised")),
    Mutant("minippo/equations.py", "    new_logprobs, ref_logprobs = (torch.where(response_mask, x, 0) for x in (new_logprobs, ref_logprobs))\n", "", covering("equations", "divisor row divergence kl penalty microbatch masked penalised")),
    Mutant("minippo/advantages.py", "centred = returns - returns.mean(dim=1, keepdim=True)", "centred = returns - returns.mean()", covering("advantages")),  # with the batch's mean
    Mutant("minippo/advantages.py", "torch.rsqrt((centred**2).mean(dim=1, keepdim=True) + 1e-8)", "torch.rsqrt((centred**2).mean() + 1e-8)", covering("advantages")),  # the deviation of the batch
    Mutant("minippo/advantages.py", "(centred**2).mean(dim=1, keepdim=True) + 1e-8)", "(centred**2).mean(dim=1, keepdim=True))", covering("advantages")),  # 0 / 0 where all returns are the same
    Mutant("minippo/advantages.py", "    return centred * torch.rsqrt", "    return centred * torch.sqrt", covering("advantages")),
    Mutant("minippo/advantages.py", "(returns.sum(dim=1, keepdim=True) - returns) / (returns.shape[1] - 1)", "returns.sum(dim=1, keepdim=True) / returns.shape[1]", covering("advantages")),  # the mean of all: biased
    Mutant("minippo/advantages.py", "(returns.sum(dim=1, keepdim=True) - returns) / (returns.shape[1] - 1)", "(returns.sum(dim=1, keepdim=True) - returns) / returns.shape[1]", covering("advantages")),
    Mutant("minippo/advantages.py", "    return returns - returns.mean()\n", "    return returns - returns.mean(dim=1, keepdim=True)\n", covering("advantages")),  # 0 if K is 1
    Mutant("minippo/advantages.py", "returns = torch.where(response_mask, rewards, 0).sum(dim=1)", "returns = rewards.sum(dim=1)", covering("advantages")),
    Mutant("minippo/advantages.py", "returns.view(-1, config.samples_per_prompt))", "returns.view(config.samples_per_prompt, -1).T)", covering("advantages")),  # groups of other prompts
    Mutant("minippo/advantages.py", "torch.where(response_mask, advantages.view(-1, 1), 0), None", "advantages.view(-1, 1).expand_as(rewards), None", covering("advantages")),
    # ------------------------------------------------------------------ transformer
    Mutant("minippo/model.py", "(attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)", "torch.arange(attention_mask.shape[1], device=tokens.device).expand_as(attention_mask)", covering("model")),  # counts pads
    Mutant("minippo/model.py", "return ((attention_mask[:, None, :] & causal) | itself).unsqueeze(1)", "return (attention_mask[:, None, :] & causal).unsqueeze(1)", covering("model")),  # softmax over nothing
    Mutant("minippo/model.py", "causal = torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen)", "causal = torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen + 1)", covering("model")),  # sees the future
    Mutant("minippo/model.py", "return F.pad(attention_mask[:, :-1], (0, 1), value=True)[:, None, None, :]", "return torch.ones_like(attention_mask)[:, None, None, :]", covering("model")),  # pads attended to
    Mutant("minippo/model.py", "        end = self.length + keys.shape[2]\n", "        end = self.length + keys.shape[2]\n        keys = keys * 0.99\n", covering("model")),
    Mutant("minippo/model.py", "        self.length = end\n", "        self.length += 1\n", covering("model")),
    Mutant("minippo/model.py", "        if seen + T > self.config.context:", "        if seen + T > self.config.context + 1:", covering("model")),  # dies in the embedding
    Mutant("minippo/model.py", "        if self.config.suppress_tokens:", "        if False:", covering("model", "suppressed")),
    Mutant("minippo/model.py", "max(FORBIDDEN_LOGIT, torch.finfo(logits.dtype).min)", "-torch.inf", covering("model", "suppressed")),  # 0 * inf in the entropy
    Mutant("minippo/model.py", "x + self.dropout(self.down(wide))", "self.dropout(self.down(wide))", covering("model")),
    Mutant("minippo/model.py", "allowed = take(allowed.transpose(1, 2), index).transpose(1, 2)", "allowed = allowed[:, :, -1:]", covering("model", "one_position")),  # sees what comes later
    Mutant("minippo/model.py", 'approximate="tanh"', 'approximate="none"', covering("model")),
    Mutant("minippo/model.py", "layer.keys, layer.values = layer.keys[rows], layer.values[rows]", "layer.keys, layer.values = layer.keys[rows], layer.values[: len(rows)]", covering("sampling")),
    # ------------------------------------------------------------------ heads
    Mutant("minippo/heads.py", "        nn.init.zeros_(last.weight)\n", "", covering("heads")),
    Mutant("minippo/heads.py", "attention_mask, last_response_index(attention_mask))", "attention_mask, last_response_index(attention_mask) - 1)", covering("heads")),
    Mutant("minippo/heads.py", "score = self.gain * raw + self.bias", "score = torch.sigmoid(raw)", covering("heads")),  # no scale
    Mutant("minippo/heads.py", "self.bias.sub_(mean).div_(deviation)", "self.bias.sub_(mean)", covering("heads")),
    # ------------------------------------------------------------------ memory
    Mutant("minippo/memory.py", "gradient, parameter.grad = parameter.grad, None", "gradient = parameter.grad", covering("memory")),  # adds up twice
    Mutant("minippo/memory.py", "        self.arrived.clear()  #", "        pass  #", covering("memory")),  # the gradients of all steps
    Mutant("minippo/memory.py", "part if is_first else kept.to(part.device, non_blocking=True) + part", "part", covering("memory")),  # the last microbatch only
    Mutant("minippo/memory.py", "return self.buffers[parameter] if parameter in self.arrived else None", "return self.buffers[parameter]", covering("memory")),  # what an earlier step left
    Mutant("minippo/memory.py", "            self.stream.synchronize()\n", "            pass\n", covering("memory")),  # read before it has arrived
    Mutant("minippo/memory.py", "        self.stream.wait_stream(torch.cuda.current_stream(gradient.device))\n", "", covering("memory")),  # copied before it is computed
    Mutant("minippo/memory.py", "        gradient.record_stream(self.stream)", "        gradient", covering("memory")),  # memory is reused under the copy
    Mutant("minippo/memory.py", "            weakref.finalize(self, hook.remove)\n", "", covering("memory")),
    Mutant("minippo/memory.py", "for p in parameters if p in self.buffers}", "for p in ()}", covering("memory", "sums_that_stay")),
    Mutant("minippo/memory.py", "for p in parameters if p in self.buffers}", "for p in parameters}", covering("memory", "sums_that_stay")),
    Mutant("minippo/memory.py", "                    buffer.copy_(self.buffers[parameter], non_blocking=True)\n", "                    pass\n", covering("memory", "sums_that_stay")),
    Mutant("minippo/memory.py", "            self.buffers |= waiting\n", "            pass\n", covering("memory", "sums_that_stay are_in_cpu_memory")),  # on the GPU for good
    Mutant("minippo/memory.py", "        with torch.cuda.stream(self.stream):  # does nothing", "        if True:  # does nothing", covering("memory", "sums_that_stay")),
    Mutant("minippo/memory.py", "            with torch.cuda.stream(self.stream):\n                for parameter", "            if True:\n                for parameter", covering("memory", "sums_that_stay")),  # before the sums are there
    Mutant("minippo/memory.py", "buffer.to(p.device, non_blocking=True) for", "buffer.to(p.device) for", covering("memory", "sums_that_stay")),
    Mutant("minippo/ppo.py", "together(state.policy.head_parameters)", "together([])", covering("ppo", "move_once")),
    Mutant("minippo/ppo.py", "            hidden.backward(states.grad)  #", "        hidden.backward(states.grad)  #", covering("ppo", "move_once")),  # the table moves twice
    Mutant("minippo/ppo.py", "together([table])", "together([])", covering("ppo", "move_once")),
    Mutant("minippo/heads.py", "[self.gpt.token_embedding.weight, *critic]", "[self.gpt.token_embedding.weight]", covering("ppo", "move_once")),
    Mutant("minippo/sft.py", "together([gpt.token_embedding.weight])", "together([])", covering("sft", "moves_once")),
    Mutant("minippo/optim.py", "dtype=torch.float32) for gradient in gradients]", "dtype=gradient.dtype).float() for gradient in gradients]", covering("memory")),  # a norm of 8 bits
    Mutant("minippo/optim.py", "        if norm > max_norm:  #", "        if True:  #", covering("memory")),  # small gradients grow
    Mutant("minippo/model.py", "if self.checkpoint_activations and torch.is_grad_enabled():", "if False:", covering("memory")),
    Mutant("minippo/model.py", "cache, use_reentrant=False)", "cache, use_reentrant=False, preserve_rng_state=False)", covering("memory")),  # another dropout in the second pass
    Mutant("minippo/state.py", "policy.gpt.checkpoint_activations = memory.checkpoint_activations", "pass", covering("memory")),
    Mutant("minippo/state.py", 'getattr(model, "gpt", model).checkpoint_activations', "model.checkpoint_activations", covering("memory")),  # of the reward model, where nothing reads it
    Mutant("minippo/memory.py", '    model.to("cpu")\n', "", covering("memory")),
    Mutant("minippo/memory.py", "        for tensor, data in waiting:\n            tensor.data = data\n        model", "        model", covering("memory")),  # stays on the GPU
    Mutant("minippo/memory.py", "            tensor.data = data\n        model.parked_for = device\n", "            tensor.data = data\n", covering("memory")),  # loaded once
    Mutant("minippo/memory.py", 'vars(model).pop("parked_for", None)', 'vars(model).get("parked_for")', covering("memory")),  # a phase within a phase copies again
    Mutant("minippo/memory.py", 'size("", " allowed;") or ', "", covering("memory")),  # the card's memory, not the limit
    Mutant("minippo/memory.py", "raise GPUMemoryError(name, ", 'raise GPUMemoryError("training", ', covering("memory")),
    Mutant("minippo/heads.py", "self.value_head(hidden.to(dtype))", "self.value_head.to(hidden.dtype)(hidden)", covering("heads")),  # values of 8 bits
    Mutant("minippo/heads.py", "self.score_head(last_hidden.to(self.score_head.weight.dtype))", "self.score_head.to(last_hidden.dtype)(last_hidden)", covering("heads")),
    # ------------------------------------------------------------------ packing
    Mutant("minippo/packing.py", "        and weight.dtype == torch.float32\n", "", covering("packing")),
    Mutant("minippo/packing.py", "weight.numel() > SMALL", "weight.numel() >= SMALL", covering("packing")),
    Mutant("minippo/packing.py", "(x, packed, bias,", "(x, packed, None,", covering("packing")),
    Mutant("minippo/packing.py", "            delattr(module, name)", "            pass", covering("packing")),  # the next generation would use old weights
    Mutant("minippo/sampling.py", "torch.inference_mode(), packed_linear(model)", "torch.inference_mode()", covering("packing")),
    Mutant("minippo/sampling.py", "torch.inference_mode(), packed_linear(model)", "packed_linear(model)", covering("sampling")),
    Mutant("minippo/sampling.py", "    if temperature != 1:\n", "    if temperature > 1:\n", covering("sampling")),
    # ------------------------------------------------------------------ sampling
    Mutant("minippo/sampling.py", "alive = alive & ~torch.isin(drawn, ends)", "alive = alive & ~torch.isin(drawn, ends[1:])", covering("sampling")),
    Mutant("minippo/sampling.py", "responses[rows, step], response_mask[rows, step] = drawn, alive", "responses[rows, step], response_mask[rows, step] = drawn, alive & ~torch.isin(drawn, ends)", covering("sampling")),  # EOS is never trained
    Mutant("minippo/sampling.py", "        if step < min_new_tokens:", "        if step <= min_new_tokens:", covering("sampling")),
    Mutant("minippo/sampling.py", "tokens, positions = drawn.unsqueeze(1), next_position + step", "tokens, positions = drawn.unsqueeze(1), torch.full_like(next_position, P + step)", covering("sampling")),
    Mutant("minippo/sampling.py", "logits = (logits - highest) / max(temperature", "logits = (logits - highest) * max(temperature", covering("sampling")),
    Mutant("minippo/sampling.py", "descending.cumsum(dim=-1) - descending >= top_p", "descending.cumsum(dim=-1) >= top_p", covering("sampling")),
    Mutant("minippo/sampling.py", "    if P + max_new_tokens > model.config.context:", "    if P + max_new_tokens > model.config.context + 1:", covering("sampling", "cannot_fit")),
    # ------------------------------------------------------------------ rollout
    Mutant("minippo/rollout.py", "equations.token_logprobs(logits, chosen, batch.sampling.temperature)", "equations.token_logprobs(logits, chosen)", covering("rollout", "gets_alone")),
    Mutant("minippo/rollout.py", "    if sampling.min_new_tokens > 0:\n", "    if False:\n", covering("rollout", "minimum gets_alone")),  # forbidden in one place only
    Mutant("minippo/rollout.py", "torch.arange(joined.shape[1]) >= query_lengths.unsqueeze(1)", "torch.arange(joined.shape[1]) > query_lengths.unsqueeze(1)", covering("rollout")),
    Mutant("minippo/rollout.py", 'in pad(queries, sampling.pad_id, "left")', 'in pad(queries, sampling.pad_id, "right")', covering("rollout")),
    Mutant("minippo/rollout.py", "has_eos=(torch.isin(responses, ends) & response_mask).any(dim=1)", "has_eos=~response_mask.all(dim=1)", covering("rollout", "counts_as_ended")),  # inferred from padding
    Mutant("minippo/rollout.py", "    state.policy.eval()  # dropout off", "    state.policy  # dropout off", covering("rollout", "dropout")),  # dropout on
    Mutant("minippo/rollout.py", "mask, state.kl_coef, config)", "mask, config.kl_coef, config)", covering("rollout", "coefficient_of_the_state")),
    Mutant("minippo/advantages.py", "        rewards = equations.rescale(rewards, response_mask)", "        rewards = equations.whiten(rewards, response_mask)", covering("advantages")),
    Mutant("minippo/rollout.py", "        returns=returns,\n", "        returns=equations.whiten(returns, mask),\n", covering("rollout")),
    Mutant("minippo/rollout.py", '"value/mean": masking.masked_mean(self.values, mask)', '"value/mean": self.values.mean()', covering("rollout", "figures")),
    Mutant("minippo/rollout.py", '"objective/scores": self.raw_scores.mean()', '"objective/scores": self.scores.mean()', covering("rollout", "figures")),
    # ------------------------------------------------------------------ update
    Mutant("minippo/ppo.py", "return minibatch.response_mask.sum()  #", "return batch.response_mask.sum()  #", covering("ppo")),  # divided by microbatches
    Mutant("minippo/ppo.py", "equations.whiten(batch.advantages, batch.response_mask)", "equations.rescale(batch.advantages, batch.response_mask)", covering("ppo", "by_hand")),
    Mutant("minippo/ppo.py", "            hidden.backward(states.grad)  # reaches", "            # reaches", covering("ppo")),  # the trunk learns nothing
    Mutant("minippo/ppo.py", "        states = hidden.detach().requires_grad_()\n", "        states = hidden.detach()[:1].repeat(len(hidden), 1, 1).requires_grad_()\n", covering("ppo")),
    Mutant("minippo/rollout.py", "[slice(start, start + size) for start in range(0, M, size)]", "[slice(start, start + size) for start in range(0, M - size, size)] or [slice(0, size)]", covering("ppo", "few_logits")),
    Mutant("minippo/rollout.py", "max(1, LOGIT_TOKENS // R)", "max(1, LOGIT_TOKENS)", covering("ppo", "few_logits")),
    Mutant("minippo/ppo.py", "                loss.backward()\n", "                loss.backward()\n                state.optimizer.clip_gradients(config.max_grad_norm)\n", covering("ppo")),
    Mutant("minippo/ppo.py", "{name: sum(column) for name, column in zip(stats, ", "{name: column[-1] for name, column in zip(stats, ", covering("ppo", "microbatches figures")),  # the last one is logged
    Mutant("minippo/ppo.py", "    state.optimizer.zero_grad()\n", "", covering("ppo")),
    Mutant("minippo/ppo.py", "    state.optimizer.zero_grad()  # gradients take", "    # gradients take", covering("ppo", "leaves_no_gradient")),
    Mutant("minippo/sft.py", "            optimizer.zero_grad()  #", "            step < num_steps and optimizer.zero_grad()  #", covering("sft", "without_gradients")),
    Mutant("train_rm.py", "            optimizer.zero_grad()\n", "            step < num_steps and optimizer.zero_grad()\n", covering("train_rm", "without_gradients")),
    Mutant("minippo/ppo.py", "        batch.logprobs,\n", "        logprobs.detach(),\n", covering("ppo", "by_hand")),  # the clip never acts
    Mutant("minippo/ppo.py", "for epoch in range(config.num_epochs)\n", "for epoch in range(1)\n", covering("ppo")),
    Mutant("minippo/ppo.py", "for rows in order.split(B // config.num_minibatches)]", "for rows in order.split(B // config.num_minibatches)[:-1]]", covering("ppo")),  # the tail
    Mutant("minippo/ppo.py", "torch.randperm(B, generator=generator(state.seed, \"minibatches\", state.iteration + 1, epoch))", "torch.randperm(B)", covering("ppo")),
    Mutant("minippo/ppo.py", "        return stats\n    if state.demonstrations", "        for p in state.policy.parameters():\n            p.grad.zero_()\n    if state.demonstrations", covering("ppo", "not_taken skip")),  # steps with a loss of 0
    Mutant("minippo/ppo.py", "weight=config.ptx_coef)", "weight=1.0)", covering("ppo", "pretraining")),
    Mutant("minippo/ppo.py", "num_tokens=num_tokens, weight", "weight", covering("ppo", "pretraining")),
    Mutant("minippo/ppo.py", "completion_mask(mask, batch.prompt_lengths).to", "mask.to", covering("ppo", "pretraining")),  # learns to write prompts
    Mutant("minippo/ppo.py", 'taken = [stats for stats in minibatch_stats if "policy/grad_norm" in stats]', "taken = minibatch_stats", covering("ppo", "skip not_taken")),
    Mutant("minippo/ppo.py", "torch.set_grad_enabled(config.entropy_coef > 0)", "torch.no_grad()", covering("ppo")),
    Mutant("minippo/lookup.py", "if ctx.table.grad is None:", "if True:", covering("lookup")),  # a second table
    Mutant("minippo/lookup.py", "if ctx.table.grad is None:", "if False:", covering("lookup")),
    Mutant("minippo/lookup.py", "len(rows), -1, False)", "len(rows), -1, True)", covering("lookup")),  # divided by how often a token occurs
    Mutant("minippo/lookup.py", "len(rows), -1, False)", "len(rows), 0, False)", covering("lookup")),  # the first one counts as padding
    Mutant("minippo/lookup.py", "len(ctx.table), -1, False)", "len(ctx.table), 0, False)", covering("lookup")),
    Mutant("minippo/__init__.py", "mallopt(-1, 256 * 2**20)", "mallopt(-1, 2**20)", covering("cli", "freed")),
    Mutant("minippo/__init__.py", " and \"glibc.malloc.\" not in os.environ.get(\"GLIBC_TUNABLES\", \"\")", "", covering("cli", "freed")),
    Mutant("minippo/__init__.py", "mallopt(-3, 32 * 2**20)", "mallopt(-3, 2**20)", covering("cli", "freed")),
    Mutant("minippo/__init__.py", "\"MALLOC_MMAP_THRESHOLD_\"} & set(os.environ)", "\"MALLOC_MMAP_THRESHOLD_\"} & set()", covering("cli", "freed")),
    Mutant("minippo/ppo.py", "loss = loss - config.entropy_coef * entropy", "loss = loss + config.entropy_coef * entropy", covering("ppo")),
    Mutant("minippo/ppo.py", "float(rollout.kl.sum(dim=1).mean())", "float(rollout.kl.mean())", covering("ppo")),
    Mutant("minippo/language_model.py", "in zip(before.split(LOGIT_TOKENS), targets.split(LOGIT_TOKENS), strict=True)", "in [(before, targets)]", covering("sft", "held_out_loss")),  # all logits at once
    Mutant("minippo/language_model.py", "float(losses.sum() / max(1, counts.sum()))", "float((losses / counts).mean())", covering("sft", "held_out_loss")),
    Mutant("minippo/language_model.py", "        counts[batch] = sizes\n", "        counts[: len(batch)] = sizes\n", covering("sft", "held_out_loss")),
    Mutant("minippo/language_model.py", "        (weight * part).backward()\n", "        part.backward()\n", covering("ppo", "pretraining")),
    Mutant("minippo/checks.py", "    if not kl <= tolerance:", "    if not kl <= 1e3:", covering("checks")),
    Mutant("minippo/checks.py", "    if not difference <= CACHE_FACTOR * tolerance:", "    if not difference <= 1e3:", covering("checks", "cache")),
    # ------------------------------------------------------------------ optimizer
    Mutant("minippo/optim.py", "        parameter.copy_(master.to(parameter.dtype))  #", "        master  #", covering("optim")),  # the model keeps its weights
    Mutant("minippo/optim.py", "state.get(\"master\", parameter)\n                tensors", "parameter\n                tensors", covering("optim")),  # bfloat16 alone
    Mutant("minippo/optim.py", "lerp_(master, 1 - decay)", "lerp_(master, decay)", covering("optim")),
    Mutant("minippo/optim.py", "lerp_(master, 1 - decay)", "lerp_(parameter.float(), 1 - decay)", covering("optim")),  # means of rounded weights
    Mutant("minippo/optim.py", "min(self.averaging, ", "max(self.averaging, ", covering("optim")),
    Mutant("minippo/optim.py", "(1 + state[\"step\"]) / (10", "(2 + state[\"step\"]) / (11", covering("optim")),
    Mutant("minippo/optim.py", "                state[\"average\"].copy_(weight)\n", "", covering("optim")),  # the weights are lost
    Mutant("minippo/optim.py", "                if master is not parameter:\n", "                if False:\n", covering("optim")),
    Mutant("minippo/optim.py", "if self.averaging and \"average\" in state:", "if self.averaging:", covering("optim")),
    Mutant("minippo/optim.py", " | {\"gradients\": self.gradients, \"averaging\": self.averaging}", " | {\"gradients\": self.gradients}", covering("optim")),
    Mutant("minippo/optim.py", "else group[\"eps\"] * second_correction", "else group[\"eps\"]", covering("optim")),
    Mutant("minippo/optim.py", "weight.mul_(1 - group[\"lr\"] * group[\"weight_decay\"])", "gradient.add_(weight, alpha=group[\"weight_decay\"])", covering("optim")),  # Adam with L2
    Mutant("minippo/optim.py", "    beta1, beta2 = group[\"betas\"]\n", "    beta2, beta1 = group[\"betas\"]\n", covering("optim")),
    Mutant("minippo/optim.py", "calls[index::threads]", "calls[index :: threads + 1]", covering("optim", "threads")),  # some blocks are never updated
    Mutant("minippo/optim.py", "initializer=torch.set_num_threads, initargs=(1,)", "initializer=torch.set_num_threads, initargs=(threads,)", covering("optim", "threads")),
    Mutant("minippo/optim.py", "        torch.set_num_threads(threads)\n", "        pass\n", covering("optim", "threads")),  # the rest of training in one thread
    Mutant("minippo/optim.py", "(*block, group, state[\"step\"])", "(*block, group, self.param_groups and max(s[\"step\"] for s in self.state.values()))", covering("optim")),
    Mutant("minippo/optim.py", "{k: v.clone() if torch.is_tensor(v) else v for k, v in loaded.items()}", "{k: v.to(parameter.dtype) if torch.is_tensor(v) else v for k, v in loaded.items()}", covering("optim")),
    Mutant("minippo/optim.py", "parameter.dim() < 2]", "parameter.dim() < 1]", covering("optim")),
    Mutant("minippo/optim.py", "    rising = (step + 1) / max(1.0, warmup * num_steps)", "    rising = step / max(1.0, warmup * num_steps)", covering("optim")),
    # ------------------------------------------------------------------ bridge, scoring
    Mutant("minippo/tokenizer/tokenizer.py", "for rank in self.encoding.encode_ordinary(text)]", "for rank in self.encoding.encode(text, allowed_special=\"all\")]", covering("tokenizer", "tiktokens")),  # text becomes a token
    Mutant("minippo/tokenizer/tokenizer.py", "[[*ids[: max_length - 1], tokenizer.eos_id] for", "[[*ids, tokenizer.eos_id][:max_length] for", covering("tokenizer")),  # no end where cut
    Mutant("minippo/tokenizer/tokenizer.py", "texts = [prompt + response for", "texts = [response for", covering("tokenizer")),
    Mutant("minippo/tokenizer/tokenizer.py", "errors=\"replace\"", "errors=\"strict\"", covering("tokenizer")),  # a cut-off character
    Mutant("minippo/tokenizer/tokenizer.py", "[self._ids[rank] for rank in", "[rank for rank in", covering("public_vocabulary")),  # ranks for ids
    Mutant("minippo/tokenizer/tokenizer.py", " if i not in self._bytes and i != self.eos_id)", " if i not in self._bytes)", covering("public_vocabulary")),  # the end may not be drawn
    Mutant("minippo/tokenizer/tiktoken_files.py", "\"pad\": vocabulary.pad, \"ids\": vocabulary.ids}", "\"pad\": vocabulary.pad}", covering("public_vocabulary")),  # a run that is moved has other ids
    Mutant("minippo/tokenizer/loading.py", "sorted(SINGLE_BYTES, key=public.ids.__getitem__)", "SINGLE_BYTES", covering("public_vocabulary")),  # not GPT-2's own ranks
    Mutant("minippo/tokenizer/bpe.py", "        if parts != [a, b]:\n", "        if len(parts) != 2:\n", covering("bpe")),  # another merge leads there
    Mutant("minippo/tokenizer/bpe.py", "        if a + b in ranks:\n", "        if False:\n", covering("bpe")),
    Mutant("minippo/tokenizer/bpe.py", "in sorted(merges, key=lambda merge: len(merge[0] + merge[1])):", "in merges:", covering("bpe")),  # a wrong example
    Mutant("minippo/tokenizer/bpe.py", "        _, i = min(joined)\n", "        _, i = joined[0]\n", covering("bpe")),
    Mutant("minippo/tokenizer/vocab_json.py", "_settings(folder / \"special_tokens_map.json\") | _settings(folder / \"tokenizer_config.json\")", "_settings(folder / \"tokenizer_config.json\") | _settings(folder / \"special_tokens_map.json\")", covering("public_vocabulary")),
    Mutant("minippo/tokenizer/vocab_json.py", "        _check_pipeline(whole)\n", "", covering("public_vocabulary")),  # another split, without a word
    Mutant("minippo/tokenizer/vocab_json.py", "    if ordinary:\n", "    if False:\n", covering("public_vocabulary")),  # tokens found in texts
    Mutant("minippo/tokenizer/vocab_json.py", "(vocabulary.get(\"</s>\"), vocabulary.get(\"<pad>\")) == (2, 1)", "\"</s>\" in vocabulary", covering("public_vocabulary")),
    Mutant("minippo/tokenizer/vocab_json.py", "read_text(path).split(\"\\n\")", "read_text(path).split()", covering("public_vocabulary")),
    Mutant("minippo/tokenizer/vocab_json.py", "*range(ord(\"®\"), ord(\"ÿ\") + 1)", "*range(ord(\"¬\"), ord(\"ÿ\") + 1)", covering("public_vocabulary")),  # the soft hyphen does not print
    Mutant("minippo/scoring.py", "scores[torch.tensor(indices)] = ", "scores[start : start + batch_size] = ", covering("scoring")),
    Mutant("minippo/scoring.py", "reward_model.eval().requires_grad_(False)", "reward_model", covering("scoring")),  # goes on training
    # ------------------------------------------------------------------ public weights, export
    Mutant("minippo/weights/families.py", "(\"self_attn.q_proj\", \"self_attn.k_proj\", \"self_attn.v_proj\")", "(\"self_attn.k_proj\", \"self_attn.q_proj\", \"self_attn.v_proj\")", covering("weights", "transformers")),
    Mutant("minippo/weights/families.py", "TensorNames((\"unread_positions\", \"position_embedding.weight\"), ", "TensorNames((\"position_embedding.weight\", \"unread_positions\"), ", covering("weights", "transformers")),  # no offset
    Mutant("minippo/weights/families.py", "        \"do_layer_norm_before\": ((True,),", "        \"do_layer_norm_before\": ((True, False),", covering("weights", "350m")),
    Mutant("minippo/weights/config_json.py", "**{key: config.dropout if is_ours else 0.0", "**{key: config.dropout if is_ours else 0.1", covering("weights", "dropout")),
    Mutant("minippo/weights/config_json.py", "suppress_tokens=tuple(suppress_tokens)", "suppress_tokens=()", covering("weights", "bit_exact")),
    Mutant("minippo/weights/pretrained.py", "if pad_id in (None, eos_id) else pad_id", "if pad_id is None else pad_id", covering("weights", "raw_scores")),  # the end is taken for a pad
    Mutant("minippo/weights/shards.py", "        if tensor.shape != shape:\n", "        if False:\n", covering("weights", "shape")),  # one row is spread over all
    Mutant("minippo/weights/pretrained.py", "        if not torch.equal(stored.read(name), stored.read(\"lm_head.weight\")):\n", "        if False:\n", covering("weights", "output_embedding")),
    Mutant("minippo/weights/format.py", "    path.chmod(mode)\n", "", covering("format", "permissions")),  # readable by its owner alone
    Mutant("minippo/weights/pretrained.py", "{\"unread_positions\": own.get(\"unread_positions\"),", "{\"unread_positions\": None,", covering("format")),  # back to zeros
    Mutant("minippo/weights/pretrained.py", "    native = bool(unsupported(gpt, form.family))\n", "    native = False\n", covering("native")),
    Mutant("minippo/weights/pretrained.py", "        if name in parameters:\n", "        if False:\n", covering("native")),  # NaN weights
    Mutant("minippo/weights/architecture.py", "tensors.setdefault(id(tensor), (name, tensor.detach()))", "tensors.setdefault(name, (name, tensor.detach()))", covering("native")),  # tied weights twice
    Mutant("minippo/weights/architecture.py", "    if other := [name for name, shape in own.items() if public.get(name, shape) != shape]:\n", "    if other := []:\n", covering("native")),
    Mutant("minippo/weights/architecture.py", "        if not torch.allclose(logits, torch.tensor(expected), rtol=0, atol=1e-4):\n", "        if False:\n", covering("native")),
    Mutant("minippo/weights/tensor_file.py", "mmap=True, weights_only=True)", "mmap=True, weights_only=False)", covering("hostile_weights")),
    Mutant("minippo/weights/shards.py", "        if path != self._path or self._read", "        if self._read", covering("weights", "sharded")),
    Mutant("minippo/tools/export.py", "return tokenizer.spare_id if name == \"reward_model\" and is_end else tokenizer.pad_id", "return tokenizer.pad_id", covering("export", "classifier")),
    Mutant("minippo/tools/export.py", "\"suppress_tokens\": list(gpt.config.suppress_tokens) or None", "\"suppress_tokens\": None", covering("export", "answer")),
    Mutant("minippo/tools/export.py", "\"min_new_tokens\": min_new_tokens or None", "\"min_new_tokens\": None", covering("export", "minimum_length")),
    Mutant("minippo/tools/export.py", "            check_exportable(model_folder(run, name))\n", "            pass\n", covering("export", "changed")),
    Mutant("minippo/tools/export.py", "        make_folder(options.out)\n", "", covering("export", "unwritable")),
    # ------------------------------------------------------------------ broken public files
    Mutant("minippo/storage.py", "    if type(value) not in kinds:", "    if not isinstance(value, kinds):", covering("weights", "malformed")),  # true passes for 1
    Mutant("minippo/storage.py", "    if key not in holder and NoneType not in kinds:", "    if key not in holder:", covering("tokenizer", "alone_are_enough")),
    Mutant("minippo/storage.py", "(ValueError, RecursionError)", "ValueError", covering("tokenizer", "beside_the_merges")),
    Mutant("minippo/weights/config_json.py", "        if not 1 <= sizes[field] <= largest:\n", "        if False:\n", covering("weights", "malformed")),
    Mutant("minippo/weights/config_json.py", "    if sizes[\"channels\"] % sizes[\"heads\"]:\n", "    if False:\n", covering("weights", "malformed")),
    Mutant("minippo/weights/config_json.py", "        if not 0 <= checked(i, ", "        if not 0 <= 1 + checked(i, ", covering("weights", "malformed")),  # the last row, from behind
    Mutant("minippo/weights/pretrained.py", "    unused = _check_all_is_read(stored, all_names, form, gpt.config)\n", "    unused = []\n", covering("weights", "blocks")),  # layers are dropped
    Mutant("minippo/weights/pretrained.py", " if not name.endswith(no_weights)]", "]", covering("weights", "causal_masks")),
    Mutant("minippo/weights/tensor_file.py", "not tensor.numel() or all(", "not tensor.numel() or any(", covering("weights", "non_finite")),
    Mutant("minippo/weights/tensor_file.py", "    if beginning.startswith(LEGACY):\n", "    if False:\n", covering("weights", "distinguished")),
    Mutant("minippo/weights/tensor_file.py", "    if beginning.startswith(LFS_POINTER):\n", "    if False:\n", covering("weights", "pointer")),
    Mutant("minippo/tokenizer/vocab_json.py", "{\"pre_tokenizer\": None, \"model\": None} | whole", "whole", covering("public_vocabulary", "broken")),  # splits at nothing
    Mutant("minippo/tokenizer/vocab_json.py", " and not key.startswith(\"add_\")", "", covering("public_vocabulary", "saved_with_a_run")),  # OPT's add_bos_token
    Mutant("minippo/tokenizer/tiktoken_files.py", "len(ids) != max(ranks.values()) + 1", "len(ids) < max(ranks.values())", covering("tokenizer", "beside_the_merges")),
    Mutant("minippo/weights/vocabulary.py", "(*tokenizer.non_text_ids, *range(tokenizer.vocab_size, rows))", "tuple(range(tokenizer.vocab_size, rows))", covering("sft", "backbone")),
    # ------------------------------------------------------------------ data
    Mutant("minippo/data/imdb.py", "np.sort(np.unique(self._test_hashes, return_index=True)[1])", "np.arange(len(self._test_hashes))", covering("corpora", "splits")),  # doubled reviews are asked about twice
    Mutant("minippo/data/imdb.py", "self.rows[\"test\"].select(firsts[splits == split])", "self.rows[\"test\"].select(firsts[(splits == split) | (splits == \"test\")])", covering("corpora", "splits")),  # trains on held-out prompts
    Mutant("minippo/data/imdb.py", "            self.rows[name] = self.rows[name].select(kept)\n", "", covering("corpora", "verbatim")),  # test reviews in training
    Mutant("minippo/data/encode.py", "for split in (*TEST_FIRST, \"train\"):", "for split in (\"train\", *TEST_FIRST):", covering("token_rows", "same_tokens")),  # training keeps held-out prompts
    Mutant("minippo/data/encode.py", "        new = new[~np.isin(hashes[new], seen)]\n", "", covering("token_rows", "same_tokens")),
    Mutant("minippo/data/imdb.py", "        random.Random(f\"{self.seed} {split} prompts\").shuffle(texts)  # the file is sorted by label\n", "", covering("corpora")),
    Mutant("minippo/data/imdb.py", "f\"{self.seed} {split} {epoch}\"", "f\"{self.seed} {split}\"", covering("corpora")),  # one pairing for ever
    Mutant("minippo/data/labelled.py", "            rng.shuffle(order)\n", "            pass\n", covering("corpora")),  # pairs by row index
    Mutant("minippo/data/labelled.py", "crop(text, starts[row], sizes[row])", "text", covering("corpora")),  # whole reviews
    Mutant("minippo/data/encode.py", "whole_characters(tokenizer, ids[:query_length])", "ids[:query_length]", covering("data")),
    Mutant("minippo/masking.py", "mask = torch.zeros(tokens.shape, dtype=torch.bool)", "mask = torch.full(tokens.shape, pad_id).bool()", covering("data")),  # padded with the pad's id
    Mutant("minippo/batches.py", "if epoch != self._epoch:", "if self._epoch < 0:", covering("data")),
    Mutant("minippo/data/encode.py", "np.flatnonzero(lengths <= most)", "np.flatnonzero(lengths < most)", covering("token_rows")),
    Mutant("minippo/data/rows.py", "ends - starts > prompt_lengths.clip(1)\n", "ends - starts > prompt_lengths\n", covering("data")),
    Mutant("minippo/data/rows.py", "ends - starts > prompt_lengths.clip(1)\n", "ends - starts > 1\n", covering("data")),  # windows with nothing to predict
    Mutant("minippo/data/rows.py", " - position * length).clip(0)", ").clip(0)", covering("data")),
    Mutant("minippo/data/encode.py", "            prompt_lengths.extend(map(len, prompts))\n", "            prompt_lengths.extend(map(len, completions))\n", covering("sft", "policy_rows")),
    Mutant("minippo/masking.py", "    return mask & ~prompt\n", "    return mask\n", covering("sft", "held_out_loss")),
    Mutant("minippo/sft.py", "backward_in_chunks(gpt, tokens, predicted)", "backward_in_chunks(gpt, tokens, mask.to(device))", covering("sft", "overfits")),  # trained on the prompts, too
    Mutant("minippo/batches.py", "(position + 1 - starts[-1]) * length > batch_tokens", "(position - starts[-1]) * length > batch_tokens", covering("data", "by_length")),
    Mutant("minippo/data/texts.py", "self.read(start + first, start + last)", "self.read(first, last)", covering("token_rows")),
    Mutant("minippo/data/rows.py", "fingerprint_of(\"tokens\", *key, tokenizer.fingerprint)", "fingerprint_of(\"tokens\", *key)", covering("token_rows")),  # another tokenizer's ids
    Mutant("minippo/data/rows.py", " if _checksum(ids_path) == bounds[\"checksum\"] else None", "", covering("token_rows")),  # a file cut short, or of zeros
    Mutant("minippo/storage.py", "            _sync(part)\n", "            pass\n", covering("storage")),
    Mutant("minippo/data/cache.py", "            probe.flush()\n", "            probe.flush()\n        return folder\n", covering("token_rows")),  # never deleted
    Mutant("minippo/data/examples.py", "            return file.read() == END_OF_ARROW\n", "            return True\n", covering("own_data", "not_whole")),  # rows of the last batches are gone
    Mutant("minippo/storage.py", "decode(\"utf-8-sig\"", "decode(\"utf-8\"", covering("own_data", "byte_order")),
    Mutant("minippo/data/holding_out.py", "            if num_rows + counts[prompt] <= most:", "            if num_rows < most:", covering("own_data", "most_rows")),  # nearly all is held out
    Mutant("minippo/data/own.py", "        self._leave_out_held_out_prompts()\n", "", covering("own_data", "held_out")),  # held-out prompts are demonstrated
    Mutant("minippo/data/own.py", "for rows in (self._prompts, self._preferences)\n", "for rows in (self._prompts,)\n", covering("own_data", "nowhere")),
    Mutant("minippo/data/imdb.py", "*[file_fingerprint(Path(path)) for path in files.values()]", "*[self.rows[split]._fingerprint for split in files], 0", covering("corpora", "imdb")),  # other paths, another run
    Mutant("minippo/data/cache.py", "/ \"minippo\"\n    folder = all_versions / code_fingerprint()", "/ \"minippo\"\n    folder = all_versions / \"code\"", covering("token_rows")),  # what the old code made
    Mutant("minippo/data/cache.py", "            digest.update(block)\n", "            digest.update(str(len(block)).encode())\n", covering("own_data", "read_once")),  # what an old file said
    Mutant("minippo/data/conversations.py", "common.rindex(ANSWER)", "common.index(ANSWER)", covering("own_data", "conversation")),
    Mutant("minippo/data/conversations.py", "(ANSWER if turns[-1][\"role\"] != \"assistant\" else \"\")", "\"\"", covering("own_data", "demonstrations")),  # the policy would have to open its own turn
    Mutant("minippo/storage.py", "enumerate(lines_of(file, path), start=1)", "enumerate(lines_of(file, path))", covering("own_data", "line")),
    Mutant("minippo/storage.py", "errors=\"replace\"", "errors=\"ignore\"", covering("own_data", "unusable")),  # silently another text
    Mutant("minippo/data/holding_out.py", "row[\"prompt\"] or \"\\n\".join", "\"\\n\".join", covering("own_data", "held_out")),  # tested on prompts that were trained on
    Mutant("minippo/data/own.py", "firsts = firsts[~np.isin(hashed[firsts], seen)]", "firsts = firsts[hashed[firsts] != seen[0]]", covering("own_data", "asked_once")),
    # ------------------------------------------------------------------ reward-model training
    Mutant("minippo/reward_evaluation.py", "correct = [row[i] > row[j]", "correct = [row[i] >= row[j]", covering("train_rm", "tie pair")),  # ties count as right
    Mutant("minippo/reward_evaluation.py", "return sum(correct) / len(correct)", "return sum(correct) / len(scores)", covering("train_rm", "tie pair")),
    Mutant("train_rm.py", "    if epoch > 0 and", "    if False and", covering("train_rm", "pairs_anew")),
    # ------------------------------------------------------------------ checkpoints and runs
    Mutant("minippo/state.py", "        self.seed, self.iteration = _count(position, \"seed\"), _count", "        self.iteration = _count", covering("checkpoint")),
    Mutant("minippo/state.py", "        self.prompts.rows_drawn = _count(position, \"prompts_drawn\")\n", "", covering("checkpoint")),
    Mutant("minippo/state.py", "        self.kl_coef = float(position[\"kl_coef\"])\n", "", covering("checkpoint")),
    Mutant("minippo/storage.py", "    partial = path.with_name(f\"{PARTIAL}{path.name}\")\n", "    partial = path\n", covering("checkpoint")),
    Mutant("minippo/state.py", "            self.demonstrations.rows_drawn = _count(position, \"demonstrations_drawn\")\n", "            pass\n", covering("checkpoint")),
    Mutant("minippo/runs/checkpoint.py", "        if path is not None and read_object(path / \"state.json\").get(\"data\") != self.data:\n", "        if False:\n", covering("checkpoint", "data")),  # its place in other rows
    Mutant("minippo/runs/opening.py", "if source is not None and own != earlier and", "if False and", covering("run")),  # another run's reward model
    Mutant("minippo/runs/run.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", covering("run", "another_process")),
    Mutant("minippo/runs/validation.py", "not SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT:", "(abs(value) < SMALLEST_FLOAT or abs(value) > LARGEST_FLOAT):", covering("config", "nan_and_infinity")),
    Mutant("minippo/evaluation.py", "self.config.seed, f\"{self.split} answers\"", "0, f\"{self.split} answers\"", covering("evaluation")),  # disturbs training
    Mutant("minippo/answers.py", "(a > b) + 0.5 * (a == b)", "(a >= b)", covering("evaluate")),
    Mutant("train_ppo.py", "        checkpoints.save(state)  # fail now, not an hour in, if the disk is not writable\n", "        pass\n", covering("pipeline", "each_come")),
    Mutant("train_ppo.py", "    if checkpoints.restore_latest(state):\n", "    if checkpoints.restore_latest(state):\n        env = Environment(state.policy, env.scorer, env.tokenizer, env.sampling)\n", covering("pipeline", "resumed")),
    Mutant("minippo/runs/presets.py", "            raise ValueError(f\"{place}: unknown field {shown}{did_you_mean(name, known)}\")\n", "            continue\n", covering("cli", "wrong_key")),  # an unknown key is ignored
    Mutant("minippo/exits.py", "        stop(error, 2)\n", "        stop(error, 0)\n", covering("cli") + " -k sentence"),
    Mutant("minippo/runs/validation.py", "    if B % minibatches:\n", "    if False:\n", covering("config")),
    Mutant("minippo/runs/validation.py", "    if data.query_length + data.response_length + end > context:", "    if data.query_length + data.response_length + end > context + 1:", covering("config")),
    Mutant("minippo/sft.py", "            require_finite(stats)\n", "            pass\n", covering("sft", "no_number")),
]  # fmt: skip
