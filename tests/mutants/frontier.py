"""Wrong edits of what compares PPO with best-of-n, and of what a reward model is trained on. As in mutants.py."""

from __future__ import annotations

from tests.mutants.mutants import Mutant, covering

OVER, STATISTICS = (
    covering("overoptimisation"),
    covering("frontier", "interval prompts_are comparison points law gains checkpoints equal_kl"),
)
COMMAND, POOL = covering("frontier", "contains_what other_prompts"), covering("frontier", "pool")
PLAN, FINDINGS = covering("frontier", "plan_has command_of whatever_the_run"), covering("frontier", "findings")
REPORT, FIGURE = covering("frontier", "may_be_as_high marked_and law_is_said"), covering("frontier", "figure_shows")
TRAINING = covering("frontier", "trained_two fails_is reaches")
OF_RM, OF_FRACTION = covering("train_rm", "fraction"), covering("every_field", "base_run")

FRONTIER = [
    # ------------------------------------------------------------------ pure functions
    Mutant("minippo/overoptimisation.py", "math.comb(rank - 1, n - 1) / subsets", "math.comb(rank, n - 1) / subsets", OVER),
    Mutant("minippo/overoptimisation.py", "worst_first = scores.argsort(dim=1, stable=True)", "worst_first = values.argsort(dim=1, stable=True)", OVER),  # chosen by the gold score
    Mutant("minippo/overoptimisation.py", "worst_first = scores.argsort(dim=1, stable=True)", "worst_first = scores.argsort(dim=1, stable=True, descending=True)", OVER),
    Mutant("minippo/overoptimisation.py", "return math.log(n) - (n - 1) / n", "return math.log(n)", OVER),
    Mutant("minippo/overoptimisation.py", "    if not 1 <= n <= num_samples:", "    if n > num_samples:", OVER),
    Mutant("minippo/overoptimisation.py", "        d = math.sqrt(kl)\n", "        d = kl\n", OVER),
    Mutant("minippo/overoptimisation.py", "(self.alpha / (2 * self.beta)) ** 2 if", "self.alpha / (2 * self.beta) if", OVER),  # the distance, not the KL
    Mutant("minippo/overoptimisation.py", "min(2 * (self.alpha / self.beta - 1), 700)", "min(2 * self.alpha / self.beta, 700)", OVER),
    Mutant("minippo/overoptimisation.py", "        if self.beta <= 0:\n", "        if self.beta < 0:\n", OVER),
    Mutant("minippo/overoptimisation.py", "return d * d if kind == \"best-of-n\" else", "return d * d if kind == \"rl\" else", OVER),
    Mutant("minippo/overoptimisation.py", "[[d, -_cost(kind, d)] for d in distances]", "[[d, _cost(kind, d)] for d in distances]", OVER),
    Mutant("minippo/overoptimisation.py", "distances = [math.sqrt(max(kl, 0.0)) for kl in kls]", "distances = [max(kl, 0.0) for kl in kls]", OVER),
    Mutant("minippo/overoptimisation.py", "    points = sorted(zip((math.sqrt(max(x, 0.0)) for x in kls), values, strict=True))", "    points = sorted(zip((max(x, 0.0) for x in kls), values, strict=True))", OVER),
    Mutant("minippo/overoptimisation.py", "        if difference <= 0:\n            first = None\n        elif", "        if", OVER),
    Mutant("minippo/overoptimisation.py", "above > FAR * (below if below > 0 else kl)", "above > FAR * below", OVER),  # every point is far from KL 0
    Mutant("minippo/overoptimisation.py", "above > FAR * (below if below > 0 else kl)", "above > FAR * kl", OVER),
    Mutant("minippo/overoptimisation.py", "    kl = max(kl, 0.0)\n    below", "    below", OVER),
    Mutant("minippo/overoptimisation.py", "for x in kls if x <= kl)", "for x in kls if x < kl)", OVER),
    Mutant("minippo/overoptimisation.py", "low, high = 0.0, kl + 1 ", "low, high = 0.0, kl ", OVER),
    Mutant("minippo/overoptimisation.py", "math.exp(-middle) - 1 < kl", "math.exp(-middle) < kl", OVER),
    # ------------------------------------------------------------------ statistics
    Mutant("minippo/tools/frontier/points.py", "[best_of_n(model, gold, n) for model in scores]", "[best_of_n(gold, gold, n) for model in scores]", STATISTICS),  # best by the gold score
    Mutant("minippo/tools/frontier/points.py", "[best_of_n(model, gold, n) for model in scores]", "[best_of_n(model, model, n) for model in scores]", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "        models = _student(len(values), generator(0, \"frontier reward models\"))\n", "        models = torch.zeros(RESAMPLES, len(values), dtype=torch.float64)\n", STATISTICS),  # other reward models do not exist
    Mutant("minippo/tools/frontier/points.py", "models = _student(len(values), generator(0, \"frontier reward models\"))", "models = _counts(len(values), generator(0, \"frontier reward models\")) / len(values) - 1 / len(values)", STATISTICS),  # a bootstrap of two
    Mutant("minippo/tools/frontier/points.py", "(size * chi_squared).sqrt()", "(size * (size - 1)) ** 0.5", STATISTICS),  # normal tails
    Mutant("minippo/tools/frontier/points.py", "(normal - normal.mean(dim=1, keepdim=True)) /", "normal /", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "return self.prompts @ values.mean(dim=0) / values.shape[1] +", "return values.mean() +", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "or (p.method, p.setting) == (\"best-of-n\", 1)]", "or False]", STATISTICS),  # no reference at KL 0
    Mutant("minippo/tools/frontier/points.py", "if point.fraction == curve[0].fraction and point not in curve:", "if point not in curve:", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "[float(p.kl.mean()) for p in curve],\n", "[float(point.kl.mean()) for p in curve],\n", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "own = zip(resamples.means(point.kl).tolist(),", "own = zip([float(point.kl.mean())] * RESAMPLES,", STATISTICS),  # a KL that is known exactly
    Mutant("minippo/tools/frontier/points.py", "torch.tensor([0.025, 0.975]", "torch.tensor([0.05, 0.95]", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "[-row[\"ahead\"][0] for row in rows]", "[row[\"ahead\"][0] for row in rows]", FINDINGS),
    Mutant("minippo/tools/frontier/points.py", "p.gold.mean(dim=1) - first.gold.mean(dim=1)", "p.gold.mean(dim=1)", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "best = max(range(len(gains))", "best = min(range(len(gains))", STATISTICS),
    Mutant("minippo/tools/frontier/measure.py", "gold - c[\"gold\"][0] for gold in c[\"gold\"][1:]", "gold for gold in c[\"gold\"][1:]", STATISTICS),
    Mutant("minippo/tools/frontier/measure.py", "== (\"PPO\", 0.0, fraction)]", "[:2] == (\"PPO\", 0.0)]", STATISTICS),
    Mutant("minippo/tools/frontier/measure.py", "after = [answer[\"after\"] for answer", "after = [answer[\"before\"] for answer", COMMAND),  # the reference's answers
    Mutant("minippo/tools/frontier/measure.py", "    if [answer[\"query\"] for answer in answers] != frontier.queries:", "    if False:", COMMAND),
    Mutant("minippo/tools/frontier/measure.py", "[curve[name][index : index + 1] for curve in group]", "[curve[name][index : index + 1] for curve in group[:1]]", STATISTICS),
    Mutant("minippo/tools/frontier/measure.py", "ppo.num_iterations * ppo.rollout_batch_size", "ppo.num_iterations", COMMAND),
    Mutant("minippo/tools/frontier/points.py", "        row[\"kl\"][1] = max(0.0, row[\"kl\"][1])  # no KL is below it\n", "", covering("frontier", "kl")),
    Mutant("minippo/tools/frontier/measure.py", "            row[\"kl\"][1] = max(0.0, row[\"kl\"][1])  # no KL is below it\n", "", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "row[\"ahead\"] is not None and is_far(row[\"kl\"][0], [float(p.kl.mean()) for p in curve])", "False", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "is_far(row[\"kl\"][0], [float(p.kl.mean()) for p in curve])", "is_far(row[\"kl\"][0], [0.0, float(curve[-1].kl.mean())])", STATISTICS),  # between the ends
    Mutant("minippo/tools/frontier/points.py", "is_far(kl, measured[0])", "False", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "curve = [reference, *(", "curve = [*(", STATISTICS),  # no reference at KL 0
    Mutant("minippo/tools/frontier/points.py", "for p in whole if p.method == method and", "for p in points if p.method == method and", STATISTICS),
    Mutant("minippo/tools/frontier/points.py", "[resamples.means(getattr(p, name)) for p in curve]", "[resamples.means(getattr(p, name)) if name == \"value\" else resamples.means(0 * p.kl + p.kl.mean()) for p in curve]", STATISTICS),  # a KL that is known exactly
    Mutant("minippo/tools/frontier/points.py", "            if not math.isnan(value):\n                row", "            if True:\n                row", STATISTICS),
    Mutant("minippo/tools/frontier/measure.py", "equal_kl_rows(points, frontier.at, resamples)", "equal_kl_rows(points, (), resamples)", covering("frontier", "without_a_gold_score")),
    Mutant("minippo/tools/frontier/__init__.py", "corpus.judge, options.samples, options.at)", "corpus.judge, options.samples)", covering("frontier", "without_a_gold_score")),
    Mutant("minippo/tools/frontier/report.py", "and row[\"setting\"] == own[\"setting\"]]", "]", FINDINGS),
    Mutant("minippo/tools/frontier/rows.py", "{*(given or (own", "{*((own", PLAN),
    Mutant("minippo/tools/frontier/rows.py", "MULTIPLES[method])), own,", "MULTIPLES[method])),", PLAN),
    Mutant("minippo/tools/frontier/rows.py", "for factor in MULTIPLES[method]", "for factor in MULTIPLES[\"PPO\"]", covering("frontier", "default_coefficients")),
    Mutant("minippo/tools/frontier/rows.py", "*([0.0] if method == \"PPO\" else [])", "0.0", PLAN),
    Mutant("minippo/tools/frontier/__init__.py", "for row in rows], frontier.run, options.jobs)", "for row in rows], frontier.run, 1)", COMMAND),
    Mutant("minippo/tools/frontier/__init__.py", "train(frontier.policies, frontier.run, options.jobs)", "train(frontier.policies, frontier.run, 1)", COMMAND),
    Mutant("minippo/tools/frontier/__init__.py", "load_run(options.runs[0], options.device)", "load_run(options.runs[0], \"cpu\")", covering("frontier", "what_does_not_fit")),
    # ------------------------------------------------------------------ table, findings and figure
    Mutant("minippo/tools/frontier/report.py", "\"\\n\\n\".join([table(data), \"\\n\".join(", "\"\\n\\n\".join([\"\\n\".join(", COMMAND),  # no table
    Mutant("minippo/tools/frontier/report.py", "with_interval(row[\"ahead\"], \"+\") + far(row)", "with_interval(row[\"ahead\"], \"+\")", REPORT),
    Mutant("minippo/tools/frontier/report.py", " + far(row) + needed", " + needed", REPORT),
    Mutant("minippo/tools/frontier/report.py", "2 if data[\"equal_kl\"] else 1", "2", REPORT),
    Mutant("minippo/tools/frontier/report.py", "2 if data[\"equal_kl\"] else 1", "1", REPORT),
    Mutant("minippo/tools/frontier/report.py", "for row in [*data[\"points\"], *data[\"equal_kl\"]]", "for row in data[\"points\"]", REPORT),
    Mutant("minippo/tools/frontier/report.py", "for row in [*data[\"points\"], *data[\"equal_kl\"]]", "for row in data[\"equal_kl\"]", REPORT),
    Mutant("minippo/tools/frontier/report.py", "round(value(row)[2], 2) >= low", "round(value(row)[0], 2) >= low", REPORT),
    Mutant("minippo/tools/frontier/report.py", "row is not best and round", "round", REPORT),
    Mutant("minippo/tools/frontier/report.py", "peak > max(kl for", "peak > min(kl for", REPORT),
    Mutant("minippo/tools/frontier/report.py", "error > POOR_FIT * law[\"observed_peak_gain\"]", "error > POOR_FIT", REPORT),
    Mutant("minippo/tools/frontier/figure.py", "[row for row in data[rows] if row[\"fraction\"] == data[\"fraction\"]]", "list(data[rows])", FIGURE),
    Mutant("minippo/tools/frontier/figure.py", "\"color\": colors[method], \"alpha\"", "\"color\": \"C0\", \"alpha\"", FIGURE),
    Mutant("minippo/tools/frontier/figure.py", "if (row[\"method\"], row[\"setting\"]) == (method, setting)]", "if row[\"method\"] == method]", FIGURE),  # one line through all coefficients
    Mutant("minippo/tools/frontier/figure.py", "max(1, len(rows) // 8)", "1", FIGURE),
    Mutant("minippo/tools/frontier/figure.py", "bar_lengths([row[name] for row in rows])", "bar_lengths([row[\"kl\"] for row in rows])", FIGURE),
    # ------------------------------------------------------------------ the pool
    Mutant("minippo/tools/frontier/pool.py", "\"best of n\", index, samples,", "\"best of n\", 0, samples,", POOL),  # the same numbers for every prompt
    Mutant("minippo/tools/frontier/pool.py", "\"best of n\", index, samples,", "\"best of n\", index, range(len(samples)),", POOL),  # for every batch
    Mutant("minippo/tools/frontier/pool.py", "        if not path.is_file():\n            prompt,", "        if True:\n            prompt,", POOL),
    Mutant("minippo/tools/frontier/pool.py", "    if len(stored) < len(pool.prompts):", "    if not stored:", POOL),
    Mutant("minippo/tools/frontier/report.py", 'if own["reward_models"] == 1:', 'if own["reward_models"] <= 5:', covering("frontier", "findings_say")),
    Mutant("minippo/tools/frontier/pool.py", "if path.is_file() and (text", "if False and (text", POOL),
    Mutant("minippo/tools/frontier/__init__.py", "    check_pool(run, queries, options.samples)\n", "", POOL),  # an hour later
    Mutant("minippo/tools/frontier/pool.py", "{\"reference\": _digest(run, \"sft\"), ", "{\"reference\": _digest(run, \"rm\"), ", POOL),
    Mutant("minippo/tools/frontier/pool.py", "\"seed\": run.config.seed, **sampling", "**sampling", POOL),
    Mutant("minippo/tools/frontier/__init__.py", "(whole / 16, whole / 4)", "(1 / 16, 1 / 4)", covering("frontier", "default_fractions")),
    # ------------------------------------------------------------------ rows
    Mutant("minippo/tools/frontier/rows.py", "\"ppo\", source.folder, override(", "\"ppo\", run.folder, override(", PLAN),  # one reward model for all seeds
    Mutant("minippo/tools/frontier/rows.py", ", \"ppo.kl_target\": None, \"eval", ", \"eval", PLAN),
    Mutant("minippo/tools/frontier/rows.py", " | PPO | METHODS[method]", " | METHODS[method]", PLAN),  # the run's own method
    Mutant("minippo/tools/frontier/rows.py", ", \"eval.final_prompts\": prompts} | PPO", "} | PPO", PLAN),
    Mutant("minippo/tools/frontier/rows.py", "    waiting = [row for row in rows if not row.finished]\n", "    waiting = list(rows)\n", TRAINING),
    Mutant("minippo/tools/frontier/rows.py", "while waiting and len(running) < jobs:", "while waiting:", TRAINING),
    Mutant("minippo/tools/frontier/rows.py", "            process.terminate()\n", "            pass\n", TRAINING),
    Mutant("minippo/tools/frontier/rows.py", "        for _, process, _ in running:\n            process.wait()\n", "", TRAINING),
    Mutant("minippo/tools/frontier/rows.py", "if process.returncode or not row.finished:", "if False:", TRAINING),
    Mutant("minippo/tools/frontier/report.py", "answers = episodes / (row[\"setting\"] - 1)", "answers = episodes / row[\"setting\"]", FINDINGS),
    Mutant("minippo/tools/frontier/report.py", "if value(row)[0] >= value(own)[0]", "if row[\"score\"][0] >= own[\"score\"][0]", FINDINGS),
    # ------------------------------------------------------------------ rm.fraction, data.seed
    Mutant("minippo/data/corpus.py", "config.seed if config.data.seed is None else config.data.seed", "config.seed", covering("corpora", "data_seed")),
    Mutant("minippo/data/corpus.py", "config.seed if config.data.seed is None else config.data.seed", "config.data.seed or config.seed", covering("corpora", "data_seed")),  # 0 is a seed
    Mutant("minippo/runs/opening.py", "config.data.source != \"reviews\" and split_seed(config) != split_seed(theirs)", "config.data.source != \"reviews\" and config.seed != theirs.seed", covering("run", "other_splits")),
    Mutant("minippo/runs/opening.py", "config.data.source != \"reviews\" and split_seed(config)", "split_seed(config)", covering("run", "other_splits")),
    Mutant("minippo/runs/opening.py", "not in (*LOCATIONS, \"data.seed\", \"seed\")", "not in LOCATIONS", PLAN),
    Mutant("minippo/tools/frontier/rows.py", "    if seed != run.config.seed:  # the splits of the run\n", "    if False:\n", PLAN),
    Mutant("train_rm.py", "    rows = rows[chosen_comparisons(len(rows), config.rm.fraction, config.seed)]\n", "", OF_FRACTION),
    Mutant("train_rm.py", "np.sort(order[: max(1, round(fraction * count))])", "np.arange(max(1, round(fraction * count)))", OF_RM),  # pairs come first, and rankings never
    Mutant("train_rm.py", "np.sort(order[: max(1, round(fraction * count))])", "order[: max(1, round(fraction * count))]", OF_RM),
    Mutant("train_rm.py", "np.sort(order[: max(1,", "np.sort(order[: max(0,", OF_RM),
]  # fmt: skip
