"""Figures of the study: success against what was changed, with intervals, and on the same seeds within a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlaq_ros.calibrate.figures import FAINT, INK, STYLE
from vlaq_ros.evaluate.report import PALETTE
from vlaq_ros.evaluate.statistics import Difference
from vlaq_ros.study.analysis import Line, Rate, Study, alike
from vlaq_ros.study.cells import ACTIVATION_BITS, MARGIN, OWN_BUDGETS, WEIGHT_BITS, Pair, Rule
from vlaq_ros.study.variants import Emulated, Variant, Weights

COLOURS = (*PALETTE, "#56B4E9")
MARKERS = "osD^v"
_STYLE = STYLE | {"svg.fonttype": "path", "axes.titlesize": 10, "axes.facecolor": "white"}  # they stand alone


def draw(study: Study, directory: Path) -> list[Path]:
    """Draw the figures whose cells have been run, as SVG; their paths are returned."""
    drawings = {"methods": _methods, "widths": _widths, "switching": _switching, "frontier": _frontier}
    written = []
    with rc_context(_STYLE):
        for name, drawing in drawings.items():
            figure = drawing(study)
            if figure is not None:
                written.append(directory / f"{name}.svg")
                figure.savefig(written[-1], metadata={"Date": None})
    return written


def _figure(width_in: float, height_in: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    axes = figure.subplots(1, columns, squeeze=False, sharey=True)
    return figure, list(axes[0])


def _methods(study: Study) -> Figure | None:
    lines = study.group("methods")
    if not lines:
        return None
    full, *shared = alike([study.full, *lines])
    order = sorted(zip(shared, lines, strict=True), key=lambda pair: pair[0].against(full).value)
    figure, (axes,) = _figure(7.5, 1.4 + 0.3 * len(order))
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(-100 * MARGIN, color=INK, linewidth=1, linestyle="--")
    for row, (line, whole) in enumerate(order):
        own = line.cell.name.partition("/")[2] in OWN_BUDGETS
        _difference(axes, row, line.against(full), COLOURS[1 if own else 0], "D" if own else "o")
        if whole.rate.n > line.rate.n:
            _difference(axes, row + 0.3, whole.against(study.full), COLOURS[2], "s")
            axes.annotate(f"  n = {whole.rate.n}", (100 * whole.against(study.full).upper_bound, row + 0.2), fontsize=7)
    axes.set_ylim(-0.6, len(order) - 0.2)
    axes.set_yticks(range(len(order)), [_labelled(study, line) for line, _ in order])
    axes.set(
        xlabel="success less that of full precision on the same seeds, points\n"
        f"(one-sided 95 % bounds to either side; dashed: the margin of {100 * MARGIN:g} points)",
        title=f"Methods (bytes over bf16), n = {full.rate.n}; orange: more bytes; green: all episodes",
    )
    return figure


def _difference(axes: Axes, row: float, difference: Difference, colour: str, marker: str) -> None:
    axes.plot([100 * difference.bound, 100 * difference.upper_bound], [row, row], color=colour, linewidth=2)
    axes.plot(100 * difference.value, row, marker, color=colour)


def _labelled(study: Study, line: Line) -> str:
    name = line.cell.name.partition("/")[2]
    held = study.measured.get(line.cell.variants[0].name, {}).get("linears")
    return name if held is None else f"{name} ({held:.3f})"


def _widths(study: Study) -> Figure | None:
    if not study.group("width"):
        return None
    full, *found_lines = alike([study.full, *study.group("width")])
    lines = {line.cell.name: line for line in found_lines}
    figure, (axes,) = _figure(6.5, 3.6)
    _band(axes, full.rate)
    for index, weight in enumerate(WEIGHT_BITS):
        found = [(k, lines.get(f"width/w{weight}a{bits}")) for k, bits in enumerate(ACTIVATION_BITS)]
        points = [(k + 0.08 * (index - 1), line.rate) for k, line in found if line is not None]
        _series(axes, points, index, f"{weight}-bit weights")
    axes.set_xticks(range(len(ACTIVATION_BITS)), [str(bits) for bits in ACTIVATION_BITS])
    axes.set(xlabel="bits of the activations, emulated", ylabel="success, % (Wilson 95 %)", ylim=(0, 102))
    axes.set_title(f"Where precision matters (n = {full.rate.n}); the line is full precision")
    figure.legend(loc="outside right center")
    return figure


def _switching(study: Study) -> Figure | None:
    pairs = [pair for pair in study.plan.pairs if _of_pair(study, pair)]
    if not pairs:
        return None
    figure, columns = _figure(1 + 5 * len(pairs), 4.2, len(pairs))
    for axes, pair in zip(columns, pairs, strict=True):
        alone = {name: share for name, share in _alone(study, pair).items() if name in study.lines}
        lines = alike([*(study.lines[name] for name in alone), *_of_pair(study, pair)])
        static, switched = lines[: len(alone)], lines[len(alone) :]
        ends = [line.rate.value for line in static if line.cell.name in (pair.fine_cell, pair.coarse_cell)]
        if len(ends) == 2:
            axes.plot([0, 1], [100 * rate for rate in ends], ":", color=INK, label="mixture of its ends")
        for line in static:
            _point(axes, alone[line.cell.name], line.rate, INK, "*")
        axes.plot([], [], "*", color=INK, label="one answer for all chunks")
        for index, rule in enumerate(Rule):
            points = [
                (line.coarse_share, line.rate)
                for line in switched
                if line.cell.switch and line.cell.switch.rule is rule
            ]
            _series(axes, sorted(points, key=_first), index, rule)
        axes.set(xlabel="share of coarse chunks, measured", xlim=(-0.04, 1.04))
        axes.set_title(f"{pair.fine.name} / {pair.coarse.name} (n = {lines[0].rate.n})", fontsize=8.5)
    columns[0].set_ylabel("success, % (Wilson 95 %)")
    figure.legend(*columns[0].get_legend_handles_labels(), loc="outside right center")
    return figure


def _alone(study: Study, pair: Pair) -> dict[str, float]:
    """Name the cells of one answer for all chunks, each with the share of coarse chunks that would cost the same.

    The cost is a chunk's number of steps; of emulated pairs, the bits of a weight times those of an activation.
    """

    def cost(variant: Variant) -> int:
        if isinstance(variant.weights, Emulated):
            return variant.weights.weight_bits * variant.weights.activation_bits
        return variant.denoise_steps or study.steps

    def related(weights: Weights) -> bool:
        if isinstance(weights, Emulated) and isinstance(pair.fine.weights, Emulated):
            return weights.weight_bits == pair.fine.weights.weight_bits
        return weights == pair.fine.weights

    most, least = cost(pair.fine), cost(pair.coarse)
    placed = {pair.fine_cell: 0.0, pair.coarse_cell: 1.0}
    for line in (*study.group("width"), *study.group("steps")):
        (variant,) = line.cell.variants
        if related(variant.weights) and least < cost(variant) < most:
            placed[line.cell.name] = (most - cost(variant)) / (most - least)
    return placed


def _frontier(study: Study) -> Figure | None:
    knobs = {line.cell.variants[0].weights for line in study.group("steps")}
    lines = [
        line
        for line in (study.full, *study.group("methods"), *study.group("steps"))
        if line.cell.variants[0].weights in knobs and "chunk_ms" in study.measured.get(line.cell.variants[0].name, {})
    ]
    if not lines:
        return None
    shared = alike(lines)
    timed: dict[str, list[tuple[float, Line]]] = {}
    for line in shared:
        (variant,) = line.cell.variants
        timed.setdefault(variant.weights.name, []).append((study.measured[variant.name]["chunk_ms"], line))
    figure, (axes,) = _figure(6.5, 3.8)
    for index, (name, points) in enumerate(timed.items()):
        points.sort(key=_first)
        _series(axes, [(chunk_ms, line.rate) for chunk_ms, line in points], index, name)
        for chunk_ms, line in points:
            steps = line.cell.variants[0].denoise_steps or study.steps
            axes.annotate(str(steps), (chunk_ms, 100 * line.rate.value), xytext=(4, 5), textcoords="offset points")
    axes.set(xlabel="time of a chunk, ms (one thread)", ylabel="success, % (Wilson 95 %)")
    axes.set_title(f"Bits and denoising steps (the numbers at the points), n = {shared[0].rate.n}")
    figure.legend(loc="outside right center")
    return figure


def _of_pair(study: Study, pair: Pair) -> list[Line]:
    return [line for line in study.group("switching") if line.cell.variants == pair.variants]


def _series(axes: Axes, points: Sequence[tuple[float, Rate]], index: int, label: str) -> None:
    if not points:
        return
    colour = COLOURS[index]
    for x, rate in points:
        _point(axes, x, rate, colour, MARKERS[index])
    axes.plot(
        [x for x, _ in points],
        [100 * rate.value for _, rate in points],
        f"-{MARKERS[index]}",
        color=colour,
        markersize=5,
        label=label,
    )


def _point(axes: Axes, x: float, rate: Rate, colour: str, marker: str) -> None:
    low, high = rate.interval
    axes.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=1, alpha=0.6)
    axes.plot(x, 100 * rate.value, marker, color=colour)


def _band(axes: Axes, rate: Rate) -> None:
    """Shade the interval of full precision."""
    low, high = rate.interval
    axes.axhspan(100 * low, 100 * high, color=FAINT, zorder=0)
    axes.axhline(100 * rate.value, color=INK, linewidth=1, zorder=1)


def _first(point: tuple[float, object]) -> float:
    return point[0]
