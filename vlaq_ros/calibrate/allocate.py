"""Which output channel gets how many bits, under a budget (QVLA, arXiv 2602.03782, and what it is compared with).

Every channel starts at 16 bits and is narrowed step by step, 16 -> 8 -> 4 -> 0, the steps in an order that the method
chooses, until the budget is kept. A step's price is what it adds to the squared error of the actions, over what it
saves. The paper's width of 2 bits does not exist here: codes of 2 bits are no use (`quant.codes`), so its stages 4 -> 2
and 2 -> 0 are one, 4 -> 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from vlaq_ros.calibrate.storage import WIDTHS, layer_bytes, over_bf16, row_bytes
from vlaq_ros.datatypes import FloatArray, IntArray
from vlaq_ros.errors import BudgetError
from vlaq_ros.quant.kernels.cpu import TILE_ROWS

_PRUNED_SHARE = 0.01  # of a layer's rows at most, and of all rows by their price
_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Allocation:
    """The width of every output channel in the finest Precision, and what is known of it before anything is rounded."""

    widths: dict[str, Tensor]  # layer -> [O] int64
    predicted: float  # the sum of the sensitivities
    bytes_over_bf16: float  # of the quantized linears


@dataclass(frozen=True, slots=True)
class Budget(ABC):
    """What an allocation may take, and how that is counted."""

    limit: float

    @staticmethod
    def bits(mean: float) -> Budget:
        """Allow this mean of the channels' widths: the paper's budget. Every channel counts alike, however long."""
        return _MeanBits(mean)

    @staticmethod
    def bytes(over_bf16: float) -> Budget:
        """Allow these bytes of all quantized linears, as they are stored, over those in bf16."""
        return _Bytes(over_bf16)

    @property
    @abstractmethod
    def unit(self) -> str:
        """Name what `limit` counts."""

    @property
    @abstractmethod
    def tile(self) -> int:
        """Number of rows of one width that are paid for together."""

    @abstractmethod
    def row(self, in_features: int) -> IntArray:
        """Give what one row takes at every width of `WIDTHS`: [4]."""

    @abstractmethod
    def layer(self, in_features: int, counts: IntArray) -> IntArray:
        """Give what layers with these numbers of rows of each width, [..., 4] and `filled`, take: [...]."""

    @abstractmethod
    def whole(self, shape: torch.Size) -> int:
        """Give what a layer [O, K] adds to the whole that `limit` multiplies."""

    def filled(self, counts: IntArray) -> IntArray:
        """Widen rows [..., 4] to 8 bits, and pruned ones to 4, as far as they fit tiles that are paid for anyway."""
        full = counts.copy()
        for width in (1, 2):
            widened = np.minimum(-full[..., width] % self.tile, full[..., width + 1])
            full[..., width] += widened
            full[..., width + 1] -= widened
        return full


class _MeanBits(Budget):
    unit, tile = "bits per channel", 1

    def row(self, in_features: int) -> IntArray:
        return np.array(WIDTHS)

    def layer(self, in_features: int, counts: IntArray) -> IntArray:
        taken: IntArray = counts @ np.array(WIDTHS)
        return taken

    def whole(self, shape: torch.Size) -> int:
        return shape[0]


class _Bytes(Budget):
    unit, tile = "of the bytes in bf16", TILE_ROWS

    def row(self, in_features: int) -> IntArray:
        return row_bytes(in_features)

    def layer(self, in_features: int, counts: IntArray) -> IntArray:
        return layer_bytes(in_features, counts)

    def whole(self, shape: torch.Size) -> int:
        return 2 * shape.numel()


def staged(
    sensitivity: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    budget: Budget,
    fixed: Mapping[str, int] = _NONE,
) -> Allocation:
    """Narrow channels as the paper says: all of them to 8 bits, cheapest first, before the first to 4, and so on.

    No channel is at 4 bits while another is at 16, so the paper's own histogram of widths cannot come of it.

    Args:
        sensitivity: layer -> [4, O], the squared error of the actions when only this channel has a width of `WIDTHS`.
        shapes: layer -> (O, K), of all quantized layers.
        budget: for all layers together.
        fixed: layers whose width is given.

    Raises:
        BudgetError: the budget is below what these layers need or above what 16 bits take.
        ValueError: the arguments do not fit each other, or a sensitivity is not finite.
    """
    problem = _Problem(sensitivity, shapes, budget, fixed)
    price = problem.prices()
    step, row = np.nonzero(problem.allowed(price))
    return problem.narrowed(step, row, np.lexsort((row, price[step, row], step)))


def queue(
    sensitivity: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    budget: Budget,
    fixed: Mapping[str, int] = _NONE,
) -> Allocation:
    """Narrow, at any time, the channel whose next step is the cheapest: a priority queue over all, as QVLA's code has.

    Where rows are paid for in tiles, the price of those that would share one is their mean. In bits, no channel gets
    narrower with more budget, so that the prediction never rises where no channel is better off narrower.
    A step that hides a cheaper one is not looked behind: in 40 draws of 12 channels without
    convexity, at 8 bits, that costs 2.5 % in the mean and 12 % at most.
    Arguments and errors are those of `staged`.
    """
    problem = _Problem(sensitivity, shapes, budget, fixed)
    price = problem.prices()
    step, row = np.nonzero(problem.allowed(price))
    # A queue gives out a step that is cheaper than the one before it, of the same row, right after that one.
    due = np.maximum.accumulate(price, axis=0)[step, row]
    tile_due = np.maximum.accumulate(problem.by_tile(price), axis=0)[step, row]
    return problem.narrowed(step, row, np.lexsort((step, row, due, tile_due)))


def layerwise(
    sensitivity: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    budget: Budget,
    fixed: Mapping[str, int] = _NONE,
) -> Allocation:
    """Give every layer one width, 16, 8 or 4, by integer programming (HAWQ-V3, arXiv 2011.10680).

    No other choice has a prediction that is lower by more than 0.01 %. Arguments and errors are those of `staged`.
    """
    problem = _Problem(sensitivity, shapes, budget, fixed)
    layers = len(shapes)
    choices = problem.choices()
    costs, errors = problem.layer_costs(), problem.layer_errors()
    least = int(np.where(choices, costs, np.iinfo(np.int64).max).min(axis=1).sum())
    most = int(costs[np.arange(layers), choices.argmax(axis=1)].sum())
    limit = problem.limit(least, most)
    one_each = LinearConstraint(np.kron(np.eye(layers), np.ones(len(WIDTHS))), 1, 1)
    kept = LinearConstraint(costs.reshape(1, -1), ub=limit)
    scaled = errors.ravel() / max(errors.max(), np.finfo(np.float64).tiny)  # the solver's tolerances are absolute
    solved = milp(scaled, integrality=1, bounds=Bounds(0, choices.ravel()), constraints=[one_each, kept])
    return problem.allocation(np.repeat(solved.x.reshape(layers, -1).argmax(axis=1), problem.outputs))


def uniform(
    sensitivity: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], width: int, fixed: Mapping[str, int] = _NONE
) -> Allocation:
    """Give every channel the same width, of `WIDTHS`, but those of `fixed` layers. Raises ValueError as `staged`."""
    widths = dict.fromkeys(shapes, width) | dict(fixed)
    problem = _Problem(sensitivity, shapes, Budget.bits(max(WIDTHS)), widths)
    return problem.allocation(problem.start)


def precisions(widths: Tensor) -> Tensor:
    """Give the widths [2, O] of Precisions fine and coarse for the finest ones, [O]: coarse reads 4 bits of 8."""
    return torch.stack([widths, torch.where(widths == 8, 4, widths)])


class _Problem:
    """The rows of all layers, one after the other (R), and what narrowing them costs and saves."""

    def __init__(
        self,
        sensitivity: Mapping[str, Tensor],
        shapes: Mapping[str, torch.Size],
        budget: Budget,
        fixed: Mapping[str, int],
    ) -> None:
        if not fixed.keys() <= shapes.keys() <= sensitivity.keys():
            raise ValueError("a layer with a fixed width has no shape, or one with a shape no sensitivity")
        for name, (outputs, _) in shapes.items():
            given = sensitivity[name]
            if given.shape != (len(WIDTHS), outputs) or not given.isfinite().all():
                raise ValueError(f"sensitivity of {name} is not finite and [{len(WIDTHS)}, {outputs}]")
        self.shapes, self.budget, self.fixed = shapes, budget, fixed
        self.outputs = [shape[0] for shape in shapes.values()]
        self.layer = np.repeat(np.arange(len(shapes)), self.outputs)
        self.error: FloatArray = np.concatenate([sensitivity[name].double().numpy(force=True) for name in shapes], 1)
        self.start = np.repeat([WIDTHS.index(fixed.get(name, WIDTHS[0])) for name in shapes], self.outputs)

    def prices(self) -> FloatArray:
        """Give what every step of every row adds to the error, over what it saves: [3, R]."""
        saved = np.stack([-np.diff(self.budget.row(shape[1])) for shape in self.shapes.values()], axis=1)
        # In a row that is shorter than a tile, 8 bits save nothing over 16.
        price: FloatArray = np.diff(self.error, axis=0) / np.maximum(saved, 1)[:, self.layer]
        return price

    def by_tile(self, price: FloatArray) -> FloatArray:
        """Replace the prices of the steps from 8 and 4 bits by the mean of the tile that these rows would share."""
        means = price.copy()
        for rows in self._layers():
            for step in (1, 2):
                falling = rows[np.argsort(-price[step, rows], kind="stable")]
                firsts = np.arange(0, len(rows), self.budget.tile)
                sizes = np.diff(firsts, append=len(rows))
                means[step, falling] = np.repeat(np.add.reduceat(price[step, falling], firsts) / sizes, sizes)
        return means

    def allowed(self, price: FloatArray) -> IntArray:
        """Say which steps of which rows may be taken: [3, R].

        Pruning has the paper's two guards. Their values are not given there; here, pruning must be among the cheapest
        percent of all rows, add less than half of the rows do with 4 bits, and concern a percent of a layer's rows.
        """
        free = np.repeat([name not in self.fixed for name in self.shapes], self.outputs)
        steps = np.tile(free, (3, 1))
        cheap = price[2] <= np.quantile(price[2], _PRUNED_SHARE)
        steps[2] &= cheap & (self.error[3] < np.median(self.error[2]))
        for rows in self._layers():
            dear = np.argsort(price[2, rows], kind="stable")[int(_PRUNED_SHARE * len(rows)) :]
            steps[2, rows[dear]] = False
        return steps

    def narrowed(self, step: IntArray, row: IntArray, order: IntArray) -> Allocation:
        """Take steps of rows in an order, a row's own as they are, until the budget is kept; then fill the tiles."""
        step, row = step[order], row[order]
        by_layer = np.argsort(self.layer[row], kind="stable")
        of_layer = np.split(by_layer, np.cumsum(np.bincount(self.layer[row], minlength=len(self.shapes)))[:-1])
        cost = np.zeros(len(row) + 1, dtype=np.int64)
        for steps, rows, shape in zip(of_layer, self._layers(), self.shapes.values(), strict=True):
            counts = np.zeros((len(steps) + 1, len(WIDTHS)), dtype=np.int64)
            counts[0] = np.bincount(self.start[rows], minlength=len(WIDTHS))
            taken = np.arange(1, len(steps) + 1)
            counts[taken, step[steps]] -= 1
            counts[taken, step[steps] + 1] += 1
            along = self._cost(shape, counts.cumsum(axis=0))
            cost[0] += along[0]
            cost[1 + steps] += np.diff(along)
        cost = cost.cumsum()
        # 4 bits throughout need no index, as they do beside pruned rows, which an order may come to earlier.
        alike = [WIDTHS.index(self.fixed.get(name, 4)) for name in self.shapes]
        least = self.layer_costs()[range(len(alike)), alike].sum()
        limit = self.limit(int(min(least, cost.min())), int(cost[0]))
        if limit < cost.min():
            return self.allocation(np.repeat(alike, self.outputs))
        stop = int(np.argmax(cost <= limit))
        level = self.start.copy()
        np.add.at(level, row[:stop], 1)
        for steps, rows in zip(of_layer, self._layers(), strict=True):
            counts = np.bincount(level[rows], minlength=len(WIDTHS))
            widened = np.cumsum(self.budget.filled(counts) - counts)  # to every width from the next
            for width in (1, 2):  # the last that left it come back
                last = steps[(steps < stop) & (step[steps] == width)]
                undone = row[last][level[row[last]] == width + 1]
                level[undone[len(undone) - widened[width] :]] = width
        return self.allocation(level)

    def limit(self, least: int, most: int) -> int:
        """Give the budget in bits or bytes; BudgetError where it is not between the least and the most of them."""
        whole = sum(map(self.budget.whole, self.shapes.values()))
        limit = math.floor(self.budget.limit * whole + 1e-6)  # another plan's share, times the whole, may round down
        if not least <= limit <= most:
            raise BudgetError(self.budget.limit, self.budget.unit, least / whole, most / whole)
        return limit

    def choices(self) -> IntArray:
        """Say which widths of `WIDTHS` a whole layer may have: [layers, 4]."""
        return np.array(
            [
                [width == self.fixed[name] if name in self.fixed else width > 0 for width in WIDTHS]
                for name in self.shapes
            ]
        )

    def layer_costs(self) -> IntArray:
        """Give what every layer takes when all of its rows have one width: [layers, 4]."""
        alike = np.eye(len(WIDTHS), dtype=np.int64)
        return np.stack([self._cost(shape, shape[0] * alike) for shape in self.shapes.values()])

    def layer_errors(self) -> FloatArray:
        """Give the sum of the sensitivities of every layer's rows when all have one width: [layers, 4]."""
        return np.stack([self.error[:, rows].sum(axis=1) for rows in self._layers()])

    def allocation(self, level: IntArray) -> Allocation:
        """Say what every row's place in `WIDTHS`, [R], comes to."""
        widths = dict(zip(self.shapes, torch.tensor(np.array(WIDTHS)[level]).split(self.outputs), strict=True))
        predicted = float(self.error[level, np.arange(len(level))].sum())
        return Allocation(widths, predicted, over_bf16(self.shapes, widths))

    def _cost(self, shape: torch.Size, counts: IntArray) -> IntArray:
        return self.budget.layer(shape[1], self.budget.filled(counts))

    def _layers(self) -> list[IntArray]:
        return np.split(np.arange(len(self.layer)), np.cumsum(self.outputs)[:-1])
