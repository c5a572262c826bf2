"""What the episodes of a study say: rates, paired differences and claims."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from vlaq_ros.errors import NoResultsError
from vlaq_ros.evaluate.statistics import (
    Difference,
    holm,
    noninferiority_p,
    paired,
    pairs_needed,
    wilson95,
)
from vlaq_ros.sim.scene import FAMILIES, TASKS
from vlaq_ros.study import measuring, results
from vlaq_ros.study.cells import FULL_CELL, Cell, Claim, Plan
from vlaq_ros.study.results import Row, path


@dataclass(frozen=True, slots=True)
class Rate:
    """Successes with their Wilson interval at 95 %."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        """Share of the episodes."""
        return self.successes / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share."""
        return wilson95(self.successes, self.n)


@dataclass(frozen=True, slots=True)
class Line:
    """A cell and its episodes."""

    cell: Cell
    rows: Mapping[int, Row]

    @property
    def rate(self) -> Rate:
        """Over all episodes."""
        return _rate(list(self.rows.values()))

    @property
    def coarse_share(self) -> float:
        """Share of the chunks that the second variant answered."""
        chunks = np.array([row.chunks for row in self.rows.values()])
        return float(chunks[:, 1:].sum() / chunks.sum())

    def on(self, numbers: Collection[int]) -> Line:
        """Keep the episodes with these numbers alone."""
        return Line(self.cell, {number: row for number, row in self.rows.items() if number in numbers})

    def against(self, other: Line) -> Difference:
        """Compare on the same seeds; there must be one."""
        numbers = sorted(self.rows.keys() & other.rows.keys())
        first, second = (np.array([line.rows[number].success for number in numbers]) for line in (self, other))
        return paired(first, second)

    def motion_ratios(self, other: Line) -> tuple[float, float, float]:
        """Give mean jerk of joints and tool, and mean duration, over those of another cell, on the same seeds."""
        numbers = sorted(self.rows.keys() & other.rows.keys())
        means = [
            np.mean([(row.jerk, row.tool_jerk, row.seconds) for row in map(line.rows.__getitem__, numbers)], axis=0)
            for line in (self, other)
        ]
        joints, tool, duration = means[0] / means[1]
        return float(joints), float(tool), float(duration)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the episodes say of a claim."""

    claim: Claim
    difference: Difference
    p: float
    holm_p: float  # over all claims that have been run
    needed: int | None  # pairs that its margin asks for at this discordance; None: it has no margin

    @property
    def holds(self) -> bool:
        """Whether it is shown, at 5 % over the family."""
        return self.holm_p < 0.05 and self.difference.value > -self.claim.margin


@dataclass(frozen=True, slots=True)
class Study:
    """A study as its directory holds it."""

    plan: Plan
    lines: Mapping[str, Line]  # by cell, those that have been run
    instructions: tuple[str, ...]
    steps: int  # of denoising, the policy's own
    measured: Mapping[str, Mapping[str, float]]  # by variant, as `measuring` wrote it
    machine: Mapping[str, Any]

    @property
    def full(self) -> Line:
        """Full precision."""
        return self.lines[FULL_CELL]

    @property
    def families(self) -> tuple[str, ...]:
        """Families of tasks that the policy knows."""
        known = {TASKS[instruction].family for instruction in self.instructions}
        return tuple(family for family in FAMILIES if family in known)

    def group(self, name: str) -> list[Line]:
        """Give the lines of a group that have been run."""
        return [line for line in self.lines.values() if line.cell.group == name]

    def family_rate(self, line: Line, family: str) -> Rate | None:
        """Give the rate over one family's episodes; None where there are none."""
        count = len(self.instructions)
        of_family = [
            row for number, row in line.rows.items() if TASKS[self.instructions[number % count]].family == family
        ]
        return _rate(of_family) if of_family else None

    def verdicts(self) -> list[Verdict]:
        """Judge the claims whose cells have been run."""
        compared = {}
        for claim in self.plan.claims:
            if {claim.cell, claim.than} <= self.lines.keys():
                lines = [self.lines[name].on(range(claim.first, sys.maxsize)) for name in (claim.cell, claim.than)]
                if all(line.rows for line in lines):
                    compared[claim] = lines[0].against(lines[1])
        claims, differences = list(compared), list(compared.values())
        p_values = [
            noninferiority_p(difference.comparison, difference.n, claim.margin)
            if claim.margin
            else difference.comparison.p_value
            for claim, difference in zip(claims, differences, strict=True)
        ]
        return [
            Verdict(
                claim,
                difference,
                p,
                holm_p,
                pairs_needed(difference.discordance, claim.margin) if claim.margin else None,
            )
            for claim, difference, p, holm_p in zip(claims, differences, p_values, holm(p_values), strict=True)
        ]


def read(plan: Plan, out: Path) -> Study:
    """Read a study: of every cell the episodes from number 0 on without a gap, so that all cells have some in common.

    Raises:
        NoResultsError: full precision, which all is held against, has not been run.
        OtherStudyError: a cell was played with other variants than the plan's.
    """
    there = {cell: _first(results.read(path(out, cell.name), cell.facts)) for cell in plan.cells}
    lines = {cell.name: Line(cell, rows) for cell, rows in there.items() if rows}
    if FULL_CELL not in lines:
        raise NoResultsError(out)
    facts = json.loads((out / "study.json").read_text(encoding="utf-8"))
    measured = measuring.load(out)
    return Study(
        plan,
        lines,
        tuple(facts["instructions"]),
        facts["denoising_steps"],
        measured["variants"],
        measured["machine"],
    )


def alike(lines: Sequence[Line]) -> list[Line]:
    """Keep the episodes that all lines have, so that their rates can be held against each other."""
    shared = frozenset.intersection(*(frozenset(line.rows) for line in lines))
    return [line.on(shared) for line in lines]


def _first(rows: Mapping[int, Row]) -> dict[int, Row]:
    return {number: rows[number] for number in takewhile(rows.__contains__, count())}


def _rate(rows: list[Row]) -> Rate:
    return Rate(sum(row.success for row in rows), len(rows))
