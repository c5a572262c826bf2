"""The cells of the study and what is claimed of them, as docs/study.md reports them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from vlaq_ros.calibrate.recipes import DEFAULT
from vlaq_ros.errors import NoCellError
from vlaq_ros.study.variants import Calibrated, Emulated, Full, Mixed, Spread, Variant

BUDGET = 0.305  # of the methods that can reach it
EQUAL = (
    *("rtn", "gptq", "smoothquant", "awq", "eaqvla", "qvla", "qvla-release"),
    *("layerwise", "channelwise", "channelwise+matching", "guided"),
)
OWN_BUDGETS = {"uniform8": ("rtn", 0.53), "quantvla": ("quantvla", 0.60)}  # whose layouts need more
WEIGHT_BITS, ACTIVATION_BITS = (4, 3, 2), (16, 8, 4, 3, 2)
MEAN_BITS = (3.0, 2.5)
FEWER_STEPS = (4, 2, 1)
SHARES = (0.25, 0.5, 0.75)  # of coarse chunks that switching rules aim at
SCREENED = 200  # episodes on which the default was chosen
MARGIN = 0.02  # that non-inferiority allows, in successes
ROLES = ("fine", "coarse")  # names of a cell's variants where they are rolled out

FULL_CELL = "full"
_SHIPPED = Calibrated(DEFAULT, BUDGET)


class Rule(StrEnum):
    """Who names the precision of a chunk."""

    DYQ = "dyq"
    RANDOM = "random"
    INVERTED = "inverted"
    TIME = "time"
    PHASE = "phase"


@dataclass(frozen=True, slots=True)
class Switch:
    """A rule, and the share of coarse chunks that it aims at."""

    rule: Rule
    share: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the study."""

    name: str  # its group comes before the first slash
    variants: tuple[Variant, ...]  # one, or a finer and a coarser one
    switch: Switch | None = None  # where there are two
    against: str | None = None  # the cell that it is compared with, beside full precision

    @property
    def group(self) -> str:
        """Of which table it is a line."""
        return self.name.partition("/")[0]

    @property
    def facts(self) -> dict[str, Any]:
        """What its episodes must be of, whatever a pilot found."""
        return {"cell": self.name, "variants": [variant.name for variant in self.variants]}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants that are switched between, and the cells where each of them answers alone."""

    name: str
    fine: Variant
    coarse: Variant
    fine_cell: str
    coarse_cell: str
    between_cell: str  # one answer to all chunks, for no more than switching costs with half of them coarse

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Of a cell that switches between them."""
        return self.fine, self.coarse


@dataclass(frozen=True, slots=True)
class Claim:
    """What the study is asked to show; all claims are one family to Holm."""

    cell: str
    than: str
    margin: float = 0.0  # 0: more successes; else: not fewer by this share of episodes
    first: int = 0  # episode that counts: those before it decided what is claimed

    @property
    def text(self) -> str:
        """In words."""
        how = f"not worse by {100 * self.margin:g} points" if self.margin else "better"
        counted = f", from episode {self.first} on" if self.first else ""
        return f"{self.cell} is {how} than {self.than}{counted}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All cells, and what they are for."""

    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]
    claims: tuple[Claim, ...]

    def matching(self, patterns: Sequence[str]) -> tuple[Cell, ...]:
        """Give the cells that any of some glob patterns names.

        Raises:
            NoCellError: a pattern names none.
        """
        for pattern in patterns:
            if not any(fnmatchcase(cell.name, pattern) for cell in self.cells):
                raise NoCellError(pattern)
        return tuple(cell for cell in self.cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns))


def variants_of(cells: Iterable[Cell]) -> list[Variant]:
    """Give the variants of cells, each once."""
    return list(dict.fromkeys(variant for cell in cells for variant in cell.variants))


def plan(coarse: Emulated) -> Plan:
    """Lay the study out; `coarse` is the emulated precision that hurts, beside 8-bit activations on 4-bit weights."""
    pairs = (
        Pair(
            "activations",
            Variant(Emulated(4, 8)),
            Variant(coarse),
            "width/w4a8",
            f"width/w{coarse.weight_bits}a{coarse.activation_bits}",
            f"width/w{_between(WEIGHT_BITS, 4, coarse.weight_bits)}"
            f"a{_between(ACTIVATION_BITS, 8, coarse.activation_bits)}",
        ),
        Pair("steps", Variant(_SHIPPED), Variant(_SHIPPED, 1), f"methods/{DEFAULT}", "steps/fine-1", "steps/fine-4"),
    )
    cells = (Cell(FULL_CELL, (Variant(Full()),)), *_methods(), *_widths(), *_mixed(), *_steps(), *_switching(pairs))
    return Plan(cells, pairs, _claims(pairs))


def _methods() -> list[Cell]:
    chosen = {name: (name, BUDGET) for name in EQUAL} | OWN_BUDGETS
    return [
        Cell(f"methods/{name}", (Variant(Calibrated(*recipe)),), against="methods/rtn")
        for name, recipe in chosen.items()
    ]


def _widths() -> list[Cell]:
    return [
        Cell(f"width/w{weight}a{activation}", (Variant(Emulated(weight, activation)),))
        for weight in WEIGHT_BITS
        for activation in ACTIVATION_BITS
    ]


def _mixed() -> list[Cell]:
    return [
        Cell(f"mixed/{spread}-{mean:g}", (Variant(Mixed(spread, mean)),), against=f"mixed/random-{mean:g}")
        for mean in MEAN_BITS
        for spread in Spread
    ]


def _steps() -> list[Cell]:
    coarse = Calibrated(_SHIPPED.recipe, _SHIPPED.budget, "coarse")
    return [
        Cell("steps/coarse", (Variant(coarse),)),
        *(
            Cell(f"steps/{name}-{steps}", (Variant(weights, steps),))
            for name, weights in (("full", Full()), ("fine", _SHIPPED), ("coarse", coarse))
            for steps in FEWER_STEPS
        ),
    ]


def _switching(pairs: Sequence[Pair]) -> list[Cell]:
    return [
        Cell(
            f"switching/{pair.name}/{rule}-{share:.0%}".replace("%", ""),
            pair.variants,
            Switch(rule, share),
            f"switching/{pair.name}/{Rule.RANDOM}-{share:.0%}".replace("%", ""),
        )
        for pair in pairs
        for share in SHARES
        for rule in Rule
    ]


def _claims(pairs: Sequence[Pair]) -> tuple[Claim, ...]:
    return (
        Claim("methods/guided", FULL_CELL, MARGIN, SCREENED),
        Claim("methods/guided", "methods/channelwise", first=SCREENED),
        Claim("methods/channelwise", FULL_CELL, MARGIN),
        Claim("methods/channelwise", "methods/layerwise"),
        Claim("methods/channelwise", "methods/rtn"),
        *(Claim(f"mixed/channelwise-{mean:g}", f"mixed/layerwise-{mean:g}") for mean in MEAN_BITS),
        Claim("mixed/channelwise-3", "width/w3a8"),
        *(Claim(f"switching/{pair.name}/dyq-50", f"switching/{pair.name}/random-50") for pair in pairs),
        *(Claim(f"switching/{pair.name}/dyq-50", pair.between_cell) for pair in pairs),
    )


def _between(ladder: Sequence[int], fine: int, coarse: int) -> int:
    """Give the most bits of a ladder that are no more than the mean of two."""
    return max(bits for bits in ladder if 2 * bits <= fine + coarse)
