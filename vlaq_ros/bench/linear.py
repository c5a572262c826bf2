"""The table of linear layers: every path on the same shapes, with cold weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from vlaq_ros.bench.contenders import UNAVAILABLE, Contender, Layer, contenders
from vlaq_ros.bench.machine import Machine, Roof
from vlaq_ros.bench.timing import Call, GraphClock, Timer, WallClock, interleave, speed_up
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.quant.codes import quantize
from vlaq_ros.quant.kernels.select import Kernel

OURS = {8: "vlaq W8A8", 4: "vlaq W4A8"}
_PATIENCE_S = 0.2  # a path whose call takes longer is left out, unless it is near the fastest of its kind
_NEAR = 1.5
_CACHES = 2.0  # times the last-level cache that is read between two uses of the same weights


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: [M, K] activations by [N, K] weights."""

    n: int
    k: int
    m: int

    @property
    def operations(self) -> int:
        """A multiply-add counts 2."""
        return 2 * self.m * self.n * self.k

    def moved_bytes(self, weight_bits: int) -> float:
        """Weights, and activations in 16 bits, each once."""
        return self.n * self.k * weight_bits / 8 + 2 * self.m * (self.n + self.k)


def cells(shapes: Sequence[tuple[int, int]], rows: Sequence[int]) -> list[Cell]:
    """Give every shape (N, K) with every number of rows, rising within a shape."""
    return [Cell(n, k, m) for n, k in shapes for m in sorted(rows)]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds for all cells of a table.

    Attributes:
        machine: whose caches the weights must exceed.
        roof: of its pinned threads.
        kernel: of this package on the device.
        dtype: in which this package computes there.
        budget_s: for the rounds of a cell.
        rounds: least and most in a cell.
        quick: leave out the paths that compile or import for seconds.
    """

    machine: Machine
    roof: Roof
    kernel: Kernel
    dtype: torch.dtype
    budget_s: float
    rounds: tuple[int, int]
    quick: bool


def measure(listed: Sequence[Cell], conditions: Conditions) -> Iterator[dict[str, Any]]:
    """Measure cell after cell, and give each as a row of the table, ready for JSON.

    Args:
        listed: cells of one shape are neighbours, with rising rows.
        conditions: of all of them; the caller has pinned the threads.
    """
    device = torch.device(conditions.machine.device)
    generator = torch.Generator().manual_seed(0)
    for (n, k), of_shape in groupby(listed, key=lambda cell: (cell.n, cell.k)):
        weight = torch.randn(n, k, generator=generator) * k**-0.5
        nested = quantize(weight)
        paths = list(contenders(device, conditions.dtype, quick=conditions.quick))
        for cell in of_shape:
            torch.compiler.reset()
            x = torch.randn(cell.m, k, generator=generator)
            layer = Layer(weight.to(device), nested, x.to(device), conditions.kernel, conditions.dtype)
            row, too_slow = _row(cell, layer, paths, conditions)
            yield row
            paths = [path for path in paths if path.name not in too_slow]


@torch.inference_mode()
def _row(
    cell: Cell, layer: Layer, paths: Sequence[Contender], conditions: Conditions
) -> tuple[dict[str, Any], set[str]]:
    """Measure one cell; also name the paths that took too long, and would with more rows."""
    device = layer.x.device
    calls: dict[str, list[Call]] = {}
    once_s: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for path in paths:
        try:
            calls[path.name] = [path.prepare(layer)]
            clock = WallClock(calls[path.name], device)
            clock.sample_s(0)  # compiles, allocates, starts threads
            once_s[path.name] = clock.sample_s(0)
        except UNAVAILABLE as error:
            left_out[path.name] = str(error).split("\n")[0]
    running = [path for path in paths if path.name in once_s]
    best_s = {path.rivals: min(once_s[each.name] for each in running if each.rivals == path.rivals) for path in running}
    kept = [path for path in running if once_s[path.name] <= max(_PATIENCE_S, _NEAR * best_s[path.rivals])]
    too_slow = {path.name for path in running} - {path.name for path in kept}
    left_out |= {name: f"one call took {once_s[name] * 1e6:.0f} µs" for name in too_slow}

    copies = _copies(cell, kept, conditions.machine)
    timers: dict[str, Timer] = {}
    for path in kept:
        own = calls[path.name] + [path.prepare(layer) for _ in range(copies - 1)]
        timers[path.name] = GraphClock(own) if device.type == "cuda" else WallClock(own, device)
        for turn in range(copies):
            timers[path.name].sample_s(turn)
    samples = interleave(timers, budget_s=conditions.budget_s, rounds=conditions.rounds)
    row = _report(cell, kept, samples, conditions.roof) | {"left_out": left_out}
    return row, too_slow


def _copies(cell: Cell, paths: Sequence[Contender], machine: Machine) -> int:
    """Say how many copies each path needs: a round reads one of each, and all rounds before its return flush it."""
    a_round = sum(path.weight_bits / 8 * cell.n * cell.k for path in paths)
    return 1 + int(_CACHES * max(machine.caches_bytes.values()) / a_round)


def _report(cell: Cell, paths: Sequence[Contender], samples: Mapping[str, FloatArray], roof: Roof) -> dict[str, Any]:
    """Make a row: the ratios that count, then every path. A ratio is null where nobody else does that work."""
    medians_s = {path: float(np.median(samples[path.name])) for path in paths}
    row: dict[str, Any] = {**asdict(cell), "threads": roof.threads, "rounds": len(samples[OURS[8]])}
    for bits, name in OURS.items():
        for key, weight_bits in (
            (f"w{bits}_over_bf16", 16),
            (f"w{bits}_over_fp32", 32),
            (f"best_installable_w{bits}", bits),
        ):
            rivals = [path for path in paths if path.rivals == (weight_bits, False)]
            fastest = min(rivals, key=medians_s.__getitem__).name if rivals else None
            ratio = speed_up(samples[name], samples[fastest]) if fastest else None
            row |= {
                key: ratio and ratio.median,
                f"{key}_95": ratio and [ratio.low, ratio.high],
                f"{key}_path": fastest,
            }
    row["paths"] = {
        path.name: {
            "us": seconds * 1e6,
            "of_roof": roof.bound_s(
                read_bytes=cell.moved_bytes(path.weight_bits), operations=cell.operations, kind=path.kind
            )
            / seconds,
        }
        for path, seconds in medians_s.items()
    }
    return row
