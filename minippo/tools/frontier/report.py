"""A frontier as a table and as findings in words, both from the numbers of frontier.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minippo.overoptimisation import FAR
from minippo.tools.frontier.points import CURVE, passes_from

Row = dict[str, Any]
POOR_FIT = 0.25
"""A law does not describe the points if its root mean square error exceeds this share of their largest gain. Gains that
are spread evenly between 0 and the largest have a standard deviation of 0.29 of it: such a law says little more than
their mean."""


def tables_and_findings(data: dict[str, Any]) -> str:
    """frontier.md, from the contents of frontier.json."""
    return "\n\n".join([table(data), "\n".join(f"- {sentence}" for sentence in findings(data))])


# ---------------------------------------------------------------------------------------------- tables


def table(data: dict[str, Any]) -> str:
    """All points with their intervals, and the laws, as Markdown."""
    titles = {"kl": "KL, nats", "score": "score (trained on)", "gold": "gold score", "ahead": "minus PPO at equal KL"}
    if not data["gold"]:
        del titles["gold"]
    rows = [["", "comparisons", "reward models", *titles.values()]]
    for row in data["points"]:
        cells = [ahead(row) if name == "ahead" else with_interval(row[name]) for name in titles]
        rows.append([label(row), f"{row['fraction']:g}", str(row["reward_models"]), *cells])
    tables = [markdown(each) for each in (rows, equal_kl_table(data), law_rows(data["laws"])) if len(each) > 1]
    if any(row["far"] for row in [*data["points"], *data["equal_kl"]]):
        note = (
            f"(far): interpolated between points whose KLs differ by more than a factor of {FAR:g}, or between the "
            f"reference and a point with more than {FAR:g} times the KL. Intervals do not include how the curve bends."
        )
        tables.insert(2 if data["equal_kl"] else 1, note)
    return "\n\n".join(tables)


def equal_kl_table(data: dict[str, Any]) -> list[list[str]]:
    """The value of every method at the same KLs; "-" beyond its largest one. For best-of-n with the n that it needs."""
    kls = dict.fromkeys(row["kl"] for row in data["equal_kl"])
    table = {row["method"]: [row["method"]] for row in data["equal_kl"]}
    for row in data["equal_kl"]:
        samples = float(f"{row.get('samples', 0):.2g}")
        needed = f" (n about {samples:,.0f})" if samples else ""
        table[row["method"]].append((with_interval(row["value"]) or "-") + far(row) + needed)
    what = "gold score" if data["gold"] else "score"
    return [[f"{what}, interpolated at a KL of", *(f"{kl:g} nats" for kl in kls)], *table.values()]


def law_rows(laws: Sequence[Row]) -> list[list[str]]:
    """The laws of over-optimisation, in brackets the range over reward models alone, and the peaks."""
    rows = [
        ["", "comparisons", "reward models", "alpha", "beta", "predicted peak, KL", "gain", "largest measured gain"]
    ]
    for law in laws:
        peak = "none" if law["peak_gain"] is None else with_interval(law["peak_kl"])
        gain = "" if law["peak_gain"] is None else decimal(law["peak_gain"])
        largest = f"{law['observed_peak_gain']:.2f} at {law['observed_peak_kl']:.2f}"
        rows.append(
            [
                "best-of-n: d (alpha - beta d)" if law["kind"] == "best-of-n" else "PPO: d (alpha - beta log d)",
                *(f"{law['fraction']:g}", str(law["reward_models"])),
                *(with_interval(law["alpha"]), with_interval(law["beta"]), peak, gain),
                largest + ", the last point" * law["still_rising"],
            ]
        )
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table; the first is its heading."""
    heading, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others))


def label(row: Row) -> str:
    """What a point is."""
    if row["method"] == "best-of-n":
        return f"best of {row['setting']:g}" if row["setting"] > 1 else "reference"
    return f"{row['method']} with coefficient {row['setting']:g}"


def ahead(row: Row) -> str:
    """A point minus PPO at the same KL."""
    return with_interval(row["ahead"], "+") + far(row)


def far(row: Row) -> str:
    """The mark of an interpolation between points that are far apart."""
    return " (far)" * row["far"]


def with_interval(numbers: Sequence[float | None] | None, sign: str = "") -> str:
    """[value, low, high] as "1.98 [1.90, 2.05]", without an end that is None; "" for None."""
    if numbers is None:
        return ""
    value, low, high = numbers
    return decimal(value, sign) + (f" [{decimal(low, sign)}, {decimal(high, sign)}]" if None not in (low, high) else "")


def decimal(x: float, sign: str = "") -> str:
    """Two decimals, or three significant digits of a large number: a law that hardly bends has its peak far away."""
    return f"{x:{sign}.2f}" if abs(x) < 1000 else f"{x:{sign}.2e}"


# ---------------------------------------------------------------------------------------------- findings


def findings(data: dict[str, Any]) -> list[str]:
    """What the numbers say, in a few sentences each."""
    whole = [row for row in data["points"] if row["fraction"] == data["fraction"]]
    best = [row for row in whole if row["method"] == "best-of-n"]
    (own,) = (row for row in whole if (row["method"], row["setting"]) == (CURVE, data["kl_coef"]))
    (free,) = (row for row in whole if (row["method"], row["setting"]) == (CURVE, 0.0))
    models, varied = f"{own['reward_models']} reward models with a policy each", "prompts and reward models"
    if own["reward_models"] == 1:
        models, varied = "one reward model", "prompts; another reward model may give other results"
    sentences = [
        f"{data['prompts']} test prompts, {models}. In brackets: 95 % intervals over {varied}. The KL of best-of-n is "
        "an upper bound, which favours PPO."
    ]
    if not data["gold"]:
        sentences.append(
            "This corpus has no gold score. The methods are compared by the score that they maximise, which cannot "
            "show over-optimisation."
        )
    sentences += [equal_kl(best, data), purchase(best, own, data), highest(whole, data)]
    others = [row for row in whole if row["method"] not in ("best-of-n", CURVE) and row["setting"] == own["setting"]]
    sentences += [next_to_ppo(row, own, data) for row in others]
    sentences.append(
        f"Without the penalty, PPO ends at {free['kl'][0]:.1f} nats with {achieved(free, data)}; the reference has "
        f"{achieved(best[0], data)}."
    )
    accuracies = ", ".join(f"{value:.3f} with {part(fraction)}" for fraction, value in data["rm_accuracy"])
    sentences.append(f"Mean held-out accuracy of the reward models: {accuracies}.")
    return sentences + [law_sentence(law) for law in data["laws"]]


def part(fraction: float) -> str:
    """The comparisons that a reward model was trained on."""
    return "all comparisons" if fraction == 1 else f"{fraction:g} of the comparisons"


def value(row: Row) -> list[float]:
    """What methods are compared by, with its interval: the gold score, or the score if there is none."""
    return row["score"] if row["gold"] is None else row["gold"]


def achieved(row: Row, data: dict[str, Any]) -> str:
    """The score and, if there is one, the gold score of a point."""
    gold = f" and a gold score of {with_interval(row['gold'])}" if data["gold"] else ""
    return f"a score of {with_interval(row['score'])}{gold}"


def equal_kl(best: Sequence[Row], data: dict[str, Any]) -> str:
    """Best-of-n and PPO at the same KL."""
    compared, what = [row for row in best if row["ahead"]], "gold score" if data["gold"] else "score"
    if not compared:
        return "No best-of-n has a KL within the range of PPO's."
    last, kl = compared[-1], passes_from(compared)
    verdict = (
        f"best-of-n has the higher {what} at the largest KL compared, {last['kl'][0]:.2f} nats ({label(last)})"
        if kl is None
        else f"PPO has the higher {what} than best-of-n from {kl:.2f} to {last['kl'][0]:.2f} nats"
    )
    higher = ", ".join(label(row) for row in compared if row["ahead"][1] > 0) or "none"
    lower = ", ".join(label(row) for row in compared if row["ahead"][2] < 0) or "none"
    return (
        f"At equal KL, {verdict}; {label(last)} minus PPO is {ahead(last)}. Where the interval excludes 0, best-of-n "
        f"is higher for {higher}, lower for {lower}."
    )


def purchase(best: Sequence[Row], own: Row, data: dict[str, Any]) -> str:
    """The smallest n that reaches PPO, and for how many answers it costs fewer samples than PPO's training."""
    what, episodes = "gold score" if data["gold"] else "score", data["episodes"]
    ppo = f"{label(own)} ({with_interval(value(own))} at {own['kl'][0]:.2f} nats)"
    cost = (
        f"PPO's training costs {episodes:,} scored samples and {data['seconds']:.0f} s; then an answer is one sample."
    )
    reaching = next((row for row in best if value(row)[0] >= value(own)[0]), None)
    row = reaching or best[-1]
    reached = (
        f"{with_interval(value(row))} at {row['kl'][0]:.2f} nats, for {row['setting']:g} scored samples per answer"
    )
    if reaching is None:
        return f"No n up to {row['setting']:g} reaches the {what} of {ppo}: {label(row)} has {reached}. {cost}"
    if reaching is best[0]:
        return f"The {what} of {ppo} is not above the reference's, {with_interval(value(row))}."
    answers = episodes / (row["setting"] - 1)
    return (
        f"The smallest n that reaches the {what} of {ppo} is {row['setting']:g}: {reached}. {cost} Counting scored "
        f"samples, {label(row)} is the better buy for up to {answers:,.0f} answers, PPO for more."
    )


def highest(whole: Sequence[Row], data: dict[str, Any]) -> str:
    """The point with the highest value, whatever its KL, and those whose printed intervals overlap with its own."""
    best = max(whole, key=lambda row: value(row)[0])
    what = "gold score" if data["gold"] else "score"
    low = round(value(best)[1], 2)
    others = ", ".join(label(row) for row in whole if row is not best and round(value(row)[2], 2) >= low)
    return (
        f"The highest {what} is that of {label(best)}: {with_interval(value(best))} at {best['kl'][0]:.2f} nats; its "
        f"interval overlaps with that of {others or 'no other point'}."
    )


def next_to_ppo(row: Row, own: Row, data: dict[str, Any]) -> str:
    """Another estimator next to PPO: with the same coefficient, and at the same KL."""
    equal = f"minus PPO at equal KL: {ahead(row)}" if row["ahead"] else "outside PPO's range of KL"
    return (
        f"{label(row)}: after as many episodes as PPO it ends at {row['kl'][0]:.2f} nats with {achieved(row, data)} "
        f"(PPO: {with_interval(value(own))} at {own['kl'][0]:.2f} nats; {equal})."
    )


def law_sentence(law: Row) -> str:
    """The predicted and the observed peak, and whether the law describes the points at all."""
    method = "Best-of-n" if law["kind"] == "best-of-n" else "PPO without the penalty"
    peak, error = law["peak_kl"][0], law["root_mean_square_error"]
    predicted = "has no peak"
    if peak is not None:
        beyond = " (beyond the data)" * (peak > max(kl for kl, _ in law["points"]))
        predicted = f"has its peak of {decimal(law['peak_gain'], '+')} at {decimal(peak)} nats{beyond}"
    measured = f"{law['observed_peak_gain']:+.2f} at {law['observed_peak_kl']:.2f} nats"
    observed = (
        f"the gain still rises at the last point ({measured})"
        if law["still_rising"]
        else f"the measured peak is {measured}"
    )
    verdict = " The law does not describe these points." if error > POOR_FIT * law["observed_peak_gain"] else ""
    return (
        f"{method} with {part(law['fraction'])} ({law['reward_models']} reward models): the fitted law "
        f"{predicted}; {observed}. Root mean square error: {error:.2f}.{verdict}"
    )
