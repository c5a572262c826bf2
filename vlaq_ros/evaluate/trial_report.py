"""What trials say: success of every condition with its interval, conditions in pairs, and a figure of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vlaq_ros.evaluate.report import FAILURE, PALETTE, SUCCESS
from vlaq_ros.evaluate.statistics import Difference, holm, paired, wilson95
from vlaq_ros.evaluate.trial import TrialPlan, order
from vlaq_ros.evaluate.trial_log import Record

_SIGNIFICANT = 3  # digits of a p value
_NONE = "—"


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """What is known of one condition."""

    name: str
    finished: tuple[Record, ...]  # neither aborted nor missing, in the order of the plan
    aborted: int

    @property
    def successes(self) -> int:
        """Of the finished trials."""
        return sum(record.success is True for record in self.finished)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's, at 95 %; None before the first trial."""
        return wilson95(self.successes, len(self.finished)) if self.finished else None

    @property
    def success_s(self) -> float | None:
        """Median duration of the trials that succeeded."""
        return _median([record.seconds for record in self.finished if record.success])

    @property
    def precision_share(self) -> dict[str, float]:
        """Share of the chunks that were sent at each precision."""
        chunks: Counter[str] = Counter()
        for record in self.finished:
            chunks.update(record.chunks)
        return {name: count / chunks.total() for name, count in sorted(chunks.items())}

    @property
    def latency_ms(self) -> dict[str, float | None]:
        """Median over trials of a trial's p50 and of its p95."""
        return {
            "p50": _median([record.latency_p50_ms for record in self.finished]),
            "p95": _median([record.latency_p95_ms for record in self.finished]),
        }


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two conditions on the blocks that both have finished."""

    first: str
    second: str
    difference: Difference  # of success, the first's less the second's
    holm_p: float  # McNemar's, over all contrasts


def results(plan: TrialPlan, records: Sequence[Record]) -> tuple[ConditionResult, ...]:
    """Sort records by condition, in the order of the plan."""
    return tuple(
        ConditionResult(
            name,
            tuple(sorted((r for r in records if r.condition == name and not r.abort), key=lambda r: r.number)),
            sum(record.condition == name and bool(record.abort) for record in records),
        )
        for name in plan.conditions
    )


def contrasts(conditions: Sequence[ConditionResult]) -> tuple[Contrast, ...]:
    """Compare all pairs of conditions by exact McNemar tests, adjusted after Holm; those without a common block not."""
    differences = {}
    for first, second in combinations(conditions, 2):
        outcomes = [{record.block: record.success for record in condition.finished} for condition in (first, second)]
        if blocks := sorted(outcomes[0].keys() & outcomes[1].keys()):
            vectors = [np.array([outcome[block] for block in blocks], dtype=np.bool_) for outcome in outcomes]
            differences[first.name, second.name] = paired(*vectors)
    adjusted = holm([difference.comparison.p_value for difference in differences.values()])
    return tuple(
        Contrast(*names, difference, p) for (names, difference), p in zip(differences.items(), adjusted, strict=True)
    )


def summary(plan: TrialPlan, records: Sequence[Record]) -> dict[str, Any]:
    """Say everything in plain values, as the last line of `vlaq trial` does; null is what nothing is known of."""
    conditions = results(plan, records)
    return {
        "trials": sum(len(condition.finished) for condition in conditions),
        "missing": len(order(plan)) - sum(len(condition.finished) for condition in conditions),
        "aborted": sum(condition.aborted for condition in conditions),
        "conditions": {
            condition.name: {
                "n": len(condition.finished),
                "successes": condition.successes,
                "wilson95": [round(end, 4) for end in condition.interval or ()],
                "success_s": _rounded(condition.success_s, 2),
                "precision_share": {name: round(share, 3) for name, share in condition.precision_share.items()},
                "latency_ms": {name: _rounded(value, 1) for name, value in condition.latency_ms.items()},
                "aborted": condition.aborted,
            }
            for condition in conditions
        },
        "pairs": [
            {
                "first": contrast.first,
                "second": contrast.second,
                "n": contrast.difference.n,
                "only_first": contrast.difference.comparison.only_first,
                "only_second": contrast.difference.comparison.only_second,
                "difference": round(contrast.difference.value, 4),
                "p": _significant(contrast.difference.comparison.p_value),
                "p_holm": _significant(contrast.holm_p),
            }
            for contrast in contrasts(conditions)
        ],
    }


def tables(plan: TrialPlan, records: Sequence[Record]) -> str:
    """Write both tables, of conditions and of pairs, and the reasons of aborts, as Markdown."""
    conditions = results(plan, records)
    parts = [_of_conditions(conditions)]
    if pairs := contrasts(conditions):
        parts.append(_of_pairs(pairs))
    if aborts := Counter(f"{record.condition}: {record.abort}" for record in records if record.abort):
        reasons = [f"- {reason}" + (f" ({count} times)" if count > 1 else "") for reason, count in aborts.items()]
        parts += ["Aborted, and not counted:", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def draw(plan: TrialPlan, records: Sequence[Record], file: Path) -> None:
    """Draw the success of every condition with its interval, and beside it all trials as a strip, block by block.

    Args:
        plan: that was run.
        records: of its trials.
        file: an SVG, of the same bytes for the same records.
    """
    conditions = results(plan, records)
    figure = Figure(figsize=(10, 1.5 + 0.45 * len(conditions)), layout="constrained")
    rates, strip = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2))
    for row, (condition, colour) in enumerate(zip(conditions, PALETTE * len(conditions), strict=False)):
        if interval := condition.interval:
            rates.plot([100 * end for end in interval], [row, row], color=colour, linewidth=2, alpha=0.6)
            rates.plot(100 * condition.successes / len(condition.finished), row, "o", color=colour)
        for success, verdict in ((True, SUCCESS), (False, FAILURE)):
            blocks = [record.block for record in condition.finished if record.success is success]
            strip.bar([block + 1 for block in blocks], 0.7, 0.85, row - 0.35, color=verdict)
    for row, condition in enumerate(conditions):
        aborted = [record.block + 1 for record in records if record.abort and record.condition == condition.name]
        strip.plot(aborted, [row] * len(aborted), "x", color="black", markersize=5)
    names = [f"{condition.name} (n = {len(condition.finished)})" for condition in conditions]
    rates.set_yticks(range(len(names)), names)
    rates.set(xlim=(0, 102), ylim=(len(names) - 0.4, -0.6), xlabel="success, % (Wilson 95 %)")
    strip.set(xlim=(0.4, plan.trials + 0.6), xlabel="block: one instruction and one scene for all conditions")
    strip.tick_params(left=False)
    for axes in (rates, strip):
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        handles=[
            Patch(color=SUCCESS, label="success"),
            Patch(color=FAILURE, label="failure"),
            Line2D([], [], color="black", marker="x", linestyle="", label="an attempt was aborted"),
        ],
        loc="outside upper right",
        ncols=3,
        frameon=False,
    )
    with rc_context({"svg.hashsalt": "vlaq_ros"}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def _of_conditions(conditions: Sequence[ConditionResult]) -> str:
    rows = []
    for condition in conditions:
        n, interval, latency = len(condition.finished), condition.interval, condition.latency_ms
        shares = ", ".join(f"{name} {share:.0%}" for name, share in condition.precision_share.items())
        rows.append(
            (
                condition.name,
                n,
                f"{condition.successes} ({condition.successes / n:.0%})" if n else _NONE,
                f"{interval[0]:.0%} to {interval[1]:.0%}" if interval else _NONE,
                _with_unit(condition.success_s, "s"),
                shares or _NONE,
                f"{_with_unit(latency['p50'], 'ms')} / {_with_unit(latency['p95'], 'ms')}",
                condition.aborted,
            )
        )
    head = ("condition", "trials", "success", "Wilson 95 %", "median time to success", "precision of chunks")
    return _table((*head, "inference p50 / p95", "aborted"), rows)


def _of_pairs(pairs: Sequence[Contrast]) -> str:
    rows = [
        (
            f"{pair.first}, {pair.second}",
            pair.difference.n,
            f"{pair.difference.comparison.only_first} / {pair.difference.comparison.only_second}",
            f"{100 * pair.difference.value:+.1f} points",
            f"{pair.difference.comparison.p_value:.{_SIGNIFICANT}g}",
            f"{pair.holm_p:.{_SIGNIFICANT}g}",
        )
        for pair in pairs
    ]
    head = ("pair", "blocks", "only the first / only the second succeeds", "difference of success")
    return _table((*head, "p (McNemar)", "p (Holm)"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _significant(p: float) -> float:
    return float(f"{p:.{_SIGNIFICANT}g}")


def _with_unit(value: float | None, unit: str) -> str:
    return _NONE if value is None else f"{value:.3g} {unit}"
