"""What is known of seams, as tables of a page, as a figure, and as one line of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from vlaq_ros.evaluate.report import PALETTE
from vlaq_ros.evaluate.statistics import mcnemar
from vlaq_ros.policy.engine import FULL

KINDS = ("naive", "blended", "guided")
CLOSED_FORM, WHOLE_JACOBIAN = "closed form", "whole Jacobian"  # two ways to guide

_SHOWN = {  # of the motion around a seam: name, factor and unit on paper
    "disagreement_rad": ("disagreement", 1e3, "mrad"),
    "speed_rad_s": ("speed", 1.0, "rad/s"),
    "acceleration_rad_s2": ("acceleration", 1.0, "rad/s²"),
    "jerk_rad_s3": ("jerk", 1.0, "rad/s³"),
}
_RATES = tuple(_SHOWN)[1:]
_COLOURS = dict(zip(KINDS, (PALETTE[1], PALETTE[3], PALETTE[0]), strict=True))
_ORDER = (*KINDS, CLOSED_FORM, WHOLE_JACOBIAN)
_HEADS = (
    "latency",
    "seams",
    "success (95 %)",
    "p against the first",
    "jump, mrad",
    "within 0.2 s, mrad",
    "jump of speed, rad/s",
    "speed, rad/s",
    "acceleration, rad/s²",
    "jerk, rad/s³",
)

Row = Mapping[str, Any]  # what `seams.row` makes of a cell


def key(row: Row) -> tuple[object, ...]:
    """Tell cells apart."""
    return row["precision"], row["latency_s"], row["name"]


def last_line(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Give what the last line of `vlaq seams` says: all rows, without the curves of the figure."""
    return [{key: value for key, value in row.items() if key not in {"times_s", "around"}} for row in rows]


def tables(rows: Sequence[Row]) -> str:
    """Lay out success, disagreement and executed motion, one row for each latency and kind of seam."""
    quantized = [row for row in rows if row["precision"] != FULL]
    full = [row for row in rows if row["precision"] == FULL]
    parts = []
    for title, chosen in (
        ("Naive, blended, guided", quantized),
        ("What the whole Jacobian would change", full),
    ):
        if chosen:
            parts += [f"## {title}", "", *_table(chosen), ""]
    return "\n".join(parts).rstrip()


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the motion around seams at every latency: medians as lines, 95th percentiles dashed."""
    shown = [row for row in rows if row["name"] in _COLOURS and row["precision"] != FULL]
    latencies = sorted({row["latency_s"] for row in shown})
    figure = Figure(figsize=(3.1 * len(latencies), 9.0), layout="constrained", facecolor="white")
    grid = figure.subplots(len(_SHOWN), len(latencies), squeeze=False, sharex=True, sharey="row")
    for line, (name, (title, factor, unit)) in zip(grid, _SHOWN.items(), strict=True):
        line[0].set_ylabel(f"{title} [{unit}]")
        for axes, latency_s in zip(line, latencies, strict=True):
            axes.axvline(0, color="0.6", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            for chosen in (row for row in shown if row["latency_s"] == latency_s):
                colour = _COLOURS[chosen["name"]]
                median, high = np.array(chosen["around"][name], dtype=float).T * factor
                axes.plot(chosen["times_s"], median, color=colour, linewidth=1.6, label=chosen["name"])
                axes.plot(chosen["times_s"], high, color=colour, linewidth=0.9, linestyle="--")
    for axes, latency_s in zip(grid[0], latencies, strict=True):
        axes.set_title(f"latency {latency_s * 1e3:g} ms")
    for axes in grid[-1]:
        axes.set_xlabel("time from the seam [s]")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with rc_context({"svg.hashsalt": "vlaq_ros"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [f"| {' | '.join(_HEADS)} |", f"|{'---|' * len(_HEADS)}"]
    for latency_s in sorted({row["latency_s"] for row in rows}):
        alike = [row for name in _ORDER for row in rows if (row["latency_s"], row["name"]) == (latency_s, name)]
        for one in alike:
            successes = one["n"] - len(one["failed"])
            low, high = one["wilson95"]
            cells = [
                f"{latency_s * 1e3:g} ms",
                one["name"],
                f"{successes} of {one['n']} ({low:.0%} to {high:.0%})",
                "" if one is alike[0] else f"{_p_value(alike[0], one):.2g}",
                _said(one["jump_rad"], 1e3),
                _said(one["near_rad"], 1e3),
                _said(one["speed_jump_rad_s"], 1.0),
                *(f"{_said(one['after'][name], 1.0)} ({_ratio(one, name):.2f})" for name in _RATES),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _p_value(first: Row, other: Row) -> float:
    """Exact McNemar on the seeds that both flew; nan where there is none."""
    start = max(row["first_seed"] for row in (first, other))
    seeds = range(start, min(row["first_seed"] + row["n"] for row in (first, other)))
    if not seeds:
        return float("nan")
    a, b = (np.array([seed not in row["failed"] for seed in seeds]) for row in (first, other))
    return mcnemar(a, b).p_value


def _ratio(row: Row, name: str) -> float:
    """The median peak after a seam over the one before."""
    return float(row["after"][name][0] / row["before"][name][0])


def _said(spread: Sequence[float], factor: float) -> str:
    median, high = (value * factor for value in spread)
    return f"{median:.3g} / {high:.3g}"
