"""The study as markdown tables and figures: what docs/study.md shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vlaq_ros.evaluate.statistics import Difference
from vlaq_ros.study import figures
from vlaq_ros.study.analysis import Line, Rate, Study, alike, read
from vlaq_ros.study.cells import Plan

GROUPS = {
    "methods": "Methods within 0.305 of the bytes, two with budgets of their own",
    "width": "Widths, emulated",
    "mixed": "2 and 4 bits side by side, emulated, 8-bit activations",
    "steps": "Denoising steps",
    "switching": "Switching rules",
}
_NONE = "—"


def write(plan: Plan, out: Path) -> list[Path]:
    """Write `out/report/tables.md` and the figures that the results are enough for.

    Returns:
        What was written.

    Raises:
        NoResultsError: full precision has not been run.
    """
    study, directory = read(plan, out), out / "report"
    directory.mkdir(exist_ok=True)
    tables = directory / "tables.md"
    tables.write_text(_tables(study), encoding="utf-8")
    return [tables, *figures.draw(study, directory)]


def _tables(study: Study) -> str:
    parts = ["# Tables of the study", _claims(study)]
    for group, title in GROUPS.items():
        if lines := study.group(group):
            full, *lines = alike([study.full, *lines])
            said = f"On the {full.rate.n} episodes that all of them have."
            parts += [f"## {title}", said, _successes(study, full, lines)]
            parts.append(_switching(lines) if group == "switching" else _costs(study, full, lines))
    return "\n\n".join(parts) + "\n"


def _claims(study: Study) -> str:
    rows = [
        (
            verdict.claim.text,
            str(verdict.difference.n),
            f"{verdict.difference.comparison.only_first} / {verdict.difference.comparison.only_second}",
            f"{_points(verdict.difference.value)} (above {_points(verdict.difference.bound)})",
            _p(verdict.p),
            _p(verdict.holm_p),
            "yes" if verdict.holds else "no",
            str(verdict.needed or _NONE),
        )
        for verdict in study.verdicts()
    ]
    head = ("claim", "pairs", "only first / only second succeeds", "difference, points (one-sided 95 %)", "p")
    return "## Claims\n\n" + _table((*head, "p (Holm)", "shown", "pairs that the margin asks for"), rows)


def _successes(study: Study, full: Line, lines: Sequence[Line]) -> str:
    rows, known = [], {line.cell.name: line for line in lines}
    for line in (full, *lines):
        to_full = None if line is full else line.against(full)
        other = known.get(line.cell.against or "")
        to_other = None if other is None or other is line else line.against(other)
        by_family = [study.family_rate(line, family) for family in study.families]
        rows.append(
            (
                line.cell.name,
                _rate(line.rate),
                *(_NONE if rate is None else f"{100 * rate.value:.0f}" for rate in by_family),
                *_difference(to_full),
                _NONE if to_full is None else _points(to_full.bound),
                _NONE if to_other is None else line.cell.against or _NONE,
                *_difference(to_other),
            )
        )
    head = ("cell", "success % (Wilson 95 %)", *study.families, "to full, points", "p (McNemar, not adjusted)")
    return _table((*head, "above (95 %)", "compared with", "points", "p (the same)"), rows)


def _costs(study: Study, full: Line, lines: Sequence[Line]) -> str:
    rows = []
    for line in (full, *lines):
        (variant,) = line.cell.variants
        known = study.measured.get(variant.name, {})
        joints, tool, duration = line.motion_ratios(full)
        rows.append(
            (
                line.cell.name,
                variant.name,
                f"{known['nmse']:.1e}" if "nmse" in known else _NONE,
                f"{joints:.3f} / {tool:.3f}",
                f"{duration:.3f}",
                *(f"{known[key]:.3f}" if key in known else _NONE for key in ("linears", "all")),
                f"{known['chunk_ms']:.1f}" if "chunk_ms" in known else _NONE,
            )
        )
    head = ("cell", "answers", "action NMSE", "jerk over full's, joints / tool", "duration over full's")
    timed = f"chunk, ms ({study.machine['name']}, 1 thread)" if study.machine else "chunk, ms"
    return _table((*head, "bytes of linears over bf16", "of all", timed), rows)


def _switching(lines: Sequence[Line]) -> str:
    rows = [
        (line.cell.name, " / ".join(variant.name for variant in line.cell.variants), f"{line.coarse_share:.1%}")
        for line in lines
    ]
    return _table(("cell", "fine / coarse", "coarse chunks, measured"), rows)


def _difference(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return _NONE, _NONE
    return _points(difference.value), _p(difference.comparison.p_value)


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _p(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruled = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ruled, *rows))
