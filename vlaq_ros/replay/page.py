"""The report of a replay as a page of HTML that needs nothing else, and one page over the replays of many bags."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from vlaq_ros.evaluate.spread import column
from vlaq_ros.replay.answer_errors import FINEST, FLOWN, RECORDED
from vlaq_ros.replay.drawing import Drawing, colours, pause_ns
from vlaq_ros.replay.fail_if import Condition, numbers

ANSWERS = 2000  # in the drawing of errors

Document = Mapping[str, Any]  # report.json

_TILES = ("ee_error_p95_m", "cheap_share", "stale_share", "deadline_misses", "rejected", "held")
_UNITS = (  # what a name ends with, and how its value is shown; the first that fits
    ("_rad_s3", 1.0, " rad/s³"),
    ("_rad_s", 1e3, " mrad/s"),
    ("_per_min", 1.0, " per min"),
    ("_share", 100.0, " %"),
    ("_rad", 1e3, " mrad"),
    ("_m", 1e3, " mm"),
    ("_s", 1.0, " s"),
)
_ORDERING = "ee_error_p95_m"  # of many bags, the highest first
_NOTABLE_M = 1e-4  # an error of what flew that one may want to look at
_SPARK = (160, 26)  # px
_LEAST = 0.001  # of a value in its unit; what is less is said to be
_UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One bag of many."""

    name: str
    link: str  # to its page
    document: Document  # empty where it could not be replayed
    error: str = ""  # why it could not
    failed: Sequence[str] = ()  # conditions that it fails


def bounds(conditions: Iterable[Condition], fitted_m: float | None) -> dict[str, float]:
    """Give the bounds on errors at the tool, by what these are held against.

    Args:
        conditions: that fail a report.
        fitted_m: that thresholds are fitted for; None where none are.
    """
    bounds_m = {} if fitted_m is None else {FINEST: fitted_m}
    for condition in conditions:
        for against, name in ((RECORDED, "ee_error"), (FINEST, "ee_deviation")):
            if re.fullmatch(rf"{name}_\w+_m", condition.name):
                bounds_m[against] = condition.limit
    return bounds_m


def write(
    path: Path, drawing: Drawing, document: Document, *, bounds_m: Mapping[str, float], failed: Sequence[str]
) -> None:
    """Write the page of one bag.

    Args:
        path: of the page.
        drawing: what is shown of the replay.
        document: its report.json.
        bounds_m: that errors at the tool are to keep, by what they are held against.
        failed: sentences on what was asked for and does not hold.
    """
    data = drawing.data()
    painted = {FLOWN: "var(--ink)", **colours(document)}
    data |= {name: document[name] for name in ("finest", "thresholds", "horizon", "by_sensitivity", "counterfactual")}
    data |= {
        "colours": painted,
        "errors": _errors(document["answers"], drawing.start_ns, ANSWERS),
        "bounds_m": bounds_m,
    }
    sections = [
        _head(document, failed),
        _timeline(data, _worst(document, drawing.start_ns)),
        _charts(document),
        _precisions(document, painted),
        _scalars(document),
    ]
    inline = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    script = f'<script type="application/json" id="data">{inline}</script><script>{_resource("page.js")}</script>'
    _write(path, f"{document['bag']}: replay", sections, script)


def write_summary(path: Path, rows: Sequence[SummaryRow]) -> None:
    """Write one page over many bags, the worst first.

    Args:
        path: of the page; links are relative to it.
        rows: of the bags.
    """
    order = sorted(rows, key=lambda row: (not row.error, not row.failed, -(row.document.get(_ORDERING) or 0.0)))
    errors = {
        row.name: _errors(row.document["answers"], 0, _SPARK[0])["of"][RECORDED][FLOWN] for row in rows if not row.error
    }
    top = max((value for values in errors.values() for value in values if value is not None), default=0.0)
    heads = ["bag", "error over the bag", *(_title(key) for key in _TILES), "what there is to know"]
    table = []
    for row in order:
        if row.error:
            table.append([escape(row.name), *[""] * (1 + len(_TILES)), _bad(row.error)])
            continue
        name, lines = f'<a href="{escape(row.link)}">{escape(row.name)}</a>', row.document["lines"]
        scalars = [_said(key, row.document[key]) for key in _TILES]
        beside = f"<details><summary>{len(lines)} lines</summary>{'<br>'.join(map(escape, lines))}</details>"
        said = "".join(map(_bad, row.failed)) + (beside if lines else "")
        table.append([name, _spark(errors[row.name], top), *scalars, said])
    faulty, failing = (sum(map(bool, of)) for of in ([row.error for row in rows], [row.failed for row in rows]))
    lead = (
        f"{len(rows)} recordings. Could not be replayed: {faulty}. Fail what was asked for: {failing}. "
        f"Errors are drawn up to {_said('_m', top)} at the tool."
    )
    head = f"<header><h1>Replays</h1>{_text(lead)}</header>"
    _write(path, "Replays", [head, _table(heads, table, kind="words")])


def _write(path: Path, title: str, sections: Iterable[str], script: str = "") -> None:
    page = Template(_resource("page.html"))
    path.write_text(page.substitute(title=escape(title), body="\n".join(sections), script=script), encoding="utf-8")


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _errors(answers: Mapping[str, Any], start_ns: int, most: int) -> dict[str, Any]:
    """Give the error of every answer; of neighbours that are too many to draw, the largest."""
    stamps_ns = np.array(answers["stamps_ns"], dtype=np.int64)
    starts = np.unique(np.linspace(0, len(stamps_ns), most, endpoint=False).astype(int))[: len(stamps_ns)]

    def thinned(values: Sequence[float | None]) -> list[float | None]:
        return column(np.fmax.reduceat(np.array(values, dtype=float), starts)) if len(starts) else []

    return {
        "pause_s": 1e-9 * pause_ns(stamps_ns[starts]),
        "t": ((stamps_ns[starts] - start_ns) * 1e-9).round(3).tolist(),
        "of": {
            against: {name: thinned(values) for name, values in of.items()}
            for against, of in answers["ee_error_m"].items()
            if of
        },
    }


def _spark(values: Sequence[float | None], top: float) -> str:
    """Draw values small, in equal steps, up to a height that other drawings share."""
    width, height = _SPARK
    steps = np.linspace(0, width, len(values))
    points = [
        f"{x:.1f},{height * (1 - value / top):.1f}"
        for x, value in zip(steps, values, strict=True)
        if value is not None and top > 0
    ]
    return f'<svg class="spark" width="{width}" height="{height}"><polyline points="{" ".join(points)}"/></svg>'


def _head(document: Document, failed: Sequence[str]) -> str:
    told = "what the arm was told" if document["source"] == "commands" else "how the arm moved; no command is recorded"
    tiles = "".join(
        f'<div class="tile"><b>{_said(key, document[key])}</b><span>{_title(key)}</span></div>' for key in _TILES
    )
    replayed, whole = (_said(key, document[key]) for key in ("replayed_s", "bag_s"))
    return (
        f"<header><h1>{escape(document['bag'])}</h1>"
        f'<p class="soft">Replayed {replayed} of {whole}: {document["n_answers"]} chunks. Recorded is {told}.</p>'
        + _listed("What was asked for and does not hold", failed)
        + _listed("What there is to know of this recording", document["lines"])
        + f'<div class="tiles">{tiles}</div></header>'
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="lines"><b>{title}</b><ul>{items}</ul></div>' if lines else ""


def _timeline(data: Mapping[str, Any], worst: str) -> str:
    chips = "".join(
        f'<button data-precision="{escape(name)}" aria-pressed="true">{_chip(name, colour)}</button>'
        for name, colour in data["colours"].items()
    )
    zoom = "".join(
        f'<button id="{name}" title="{title}">{sign}</button>'
        for name, sign, title in (
            ("earlier", "‹", "earlier"),
            ("later", "›", "later"),
            ("closer", "+", "closer"),
            ("farther", "−", "farther"),
            ("whole", "whole bag", "double-click does it too"),
        )
    )
    chosen = _choice("joint", {"": "all joints", **{name: name for name in data["joints"]["names"]}})
    hatch = '<svg width="26" height="13"><rect width="26" height="13" fill="url(#{})"/></svg>{}'
    legend = [
        '<i class="line told"></i>told to the arm',
        '<i class="line measured"></i>measured',
        '<i class="line"></i>predicted, from the observation on',
        hatch.format("blocked", "no observation possible"),
        hatch.format("late", "waiting for a chunk"),
        '<b class="bad">▼</b>joint states jump',
        '<b class="bad">■</b>braked',
        '<b class="bad">✕</b>answer without a command',
    ]
    if FINEST in data["errors"]["of"]:
        legend.append("errors of flown: as it was sent; of the precisions: of bare chunks, without guide and limits")
    return _section(
        "What the policy would have done",
        f'<div class="bar"><span>{chips}</span><span>{chosen}</span><span>{zoom}</span>'
        '<span class="soft">drag over the tracks to look closer</span></div>'
        f'<div class="bar soft">{"".join(f"<span>{item}</span>" for item in legend)}</div>{worst}'
        '<div id="tracks"><div id="drawn"></div><div id="hand"></div><div id="selected"></div><div id="card"></div>'
        "</div>",
        name="timeline",
    )


def _choice(name: str, options: Mapping[str, str]) -> str:
    listed = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options.items())
    return f'<select name="{name}" aria-label="{name}">{listed}</select>'


def _chip(name: str, colour: str) -> str:
    return f'<i style="background:{colour}"></i>{escape(name)}'


def _worst(document: Document, start_ns: int) -> str:
    """Offer the moments at which what flew lay furthest from what was recorded."""
    moments = [
        ((worst["stamp_ns"] - start_ns) * 1e-9, _said("_m", worst["ee_error_m"]))
        for worst in document["worst"]
        if worst["ee_error_m"] >= _NOTABLE_M
    ]
    buttons = "".join(f'<button data-moment="{at_s:.3f}">{at_s:.1f} s: {error}</button>' for at_s, error in moments)
    return f'<div class="bar"><span>Furthest from what was recorded:</span>{buttons}</div>' if moments else ""


def _charts(document: Document) -> str:
    charts = {
        "latency": ("Inference time", "Answers, by what computing them took."),
        "horizon": (
            "Error by the time ahead",
            "mm at the tool, by the time since the observation: median, and dashed the 95th percentile.",
        ),
        "concentration": ("Error by S", "mm at the tool, 95th percentile, by the sensitivity S of the motion."),
        "bargain": (
            "What a threshold would have bought",
            "mm at the tool, 95th percentile, by the share of chunks that a threshold of S gives to the coarser "
            f"precision; the others are at {next(iter(document['thresholds']))}.",
        ),
    }
    boxes = "".join(
        f'<div><h3>{title}</h3><p class="soft">{escape(text)}</p><div class="chart" id="{name}"></div></div>'
        for name, (title, text) in charts.items()
    )
    against = {FINEST: document["finest"]} if document["errors"][FINEST] else {}
    against[RECORDED] = "what was recorded"
    chosen = f'<div class="bar"><span>errors against</span>{_choice("against", against)}</div>'
    return _section("In numbers", chosen, f'<div class="charts">{boxes}</div>')


def _precisions(document: Document, painted: Mapping[str, str]) -> str:
    """Lay out what is known of each precision, and of what flew."""
    errors = document["errors"]
    heads = [
        "",
        "tool from recorded",
        f"from {escape(document['finest'] or 'the finest')}",
        "inference",
        "share of chunks",
        "gripper late",
        "missed",
    ]
    rows = []
    for name in (FLOWN, *document["precisions"]):
        deviation = (errors[FINEST] or {}).get(name)
        gripper = document["gripper"]["predicted"][name]
        rows.append(
            [
                _chip(name, painted[name]),
                _spread("_m", errors[RECORDED][name]["ee_m"]),
                _spread("_m", deviation["ee_m"]) if deviation else "",
                _spread("_s", document["inference_s"][name]) if name in document["inference_s"] else "",
                _said("_share", document["precision_share"][name]) if name in document["precision_share"] else "",
                _said("_s", _p95(gripper["delay_s"])),
                str(gripper["missed"]),
            ]
        )
    return _section(
        "Precision by precision",
        _text("Median, 95th percentile and largest; an answer counts with its largest error of the steps in force."),
        _table(heads, rows),
    )


def _p95(values: Sequence[float]) -> float | None:
    return float(np.percentile(np.abs(values), 95)) if values else None


def _scalars(document: Document) -> str:
    """Lay out every number that a condition may name, in the words of the schema."""
    rows = [
        [f"{_title(key)}<br><code>{key}</code>", _said(key, document[key]), escape(facts["description"])]
        for key, facts in numbers().items()
    ]
    return _section("All numbers", _table(["and its name in report.json", "", ""], rows, kind="words"))


def _title(key: str) -> str:
    return escape(numbers()[key]["title"])


def _said(name: str, value: float | None) -> str:
    """Write a value in the unit that its name ends with."""
    if value is None:
        return _UNKNOWN
    factor, unit = next(((factor, unit) for suffix, factor, unit in _UNITS if name.endswith(suffix)), (1.0, ""))
    if unit == " s" and abs(value) < 1:
        factor, unit = 1e3, " ms"
    value *= factor
    if 0 < abs(value) < _LEAST:
        return f"&lt; {_LEAST}{unit}"
    return f"{value:.3g}{unit}" if abs(value) < 1000 else f"{value:.0f}{unit}"


def _spread(unit: str, spread: Mapping[str, float | None]) -> str:
    return " / ".join(_said(unit, spread[name]) for name in ("p50", "p95", "max"))


def _section(title: str, *parts: str, name: str = "") -> str:
    place = f' id="{name}"' if name else ""
    return f"<section{place}><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _bad(text: str) -> str:
    return f'<div class="bad">{escape(text)}</div>'


def _text(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Lay out cells that are HTML already."""

    def line(cells: Sequence[str], of: str) -> str:
        return f"<tr>{''.join(f'<{of}>{cell}</{of}>' for cell in cells)}</tr>"

    head, body = line(heads, "th"), "".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'
