"""Figures of a calibration's report, each as the text of an SVG element for the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullFormatter
from torch import Tensor

from vlaq_ros.calibrate.injection import Injection
from vlaq_ros.calibrate.matching import BETA, Matching
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.thresholds import Curves
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.evaluate.report import FAILURE, PALETTE

if TYPE_CHECKING:  # a curve's points are plain; what makes them needs the simulation
    from vlaq_ros.calibrate.calibration import Point

INK, FAINT = "#26323d", "#e3e6e8"
WIDTH_COLOURS = dict(
    zip(WIDTHS, ("#08306b", "#4292c6", "#cfe1f2", FAILURE), strict=True)
)  # darker is wider; 0 stands out
COLUMNS = 256  # of a layer's stripe, however many channels it has
PARTS = {  # of a layer, by the names of its linears
    "queries, keys, values": ("qkv", "kv"),
    "attention output": ("o", "out"),
    "MLP in": ("gate_up", "fc1"),
    "MLP out": ("down", "fc2"),
}
_WIDTH_IN = 10.0  # 960 px of the page
_ROW_IN = 0.165
_LEAST_SHOWN = 0.1  # |log α| that has the full colour where none is larger
STYLE: dict[Any, Any] = {  # matplotlib declares its keys one by one
    "svg.fonttype": "none",  # text takes the page's font
    "svg.hashsalt": "vlaq_ros",  # the same facts give the same bytes
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5ae",
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def stripe(widths: Tensor) -> FloatArray:
    """Give the colours [COLUMNS, 3] of a layer's channels [O], in their order; a column is the mean of its share."""
    colours = np.array([to_rgb(WIDTH_COLOURS[width]) for width in widths.tolist()])
    summed = np.concatenate([np.zeros((1, 3)), colours.cumsum(axis=0)])
    edges = np.linspace(0, len(colours), COLUMNS + 1)
    at_edges = np.stack([np.interp(edges, np.arange(len(summed)), channel) for channel in summed.T], axis=1)
    means: FloatArray = np.diff(at_edges, axis=0) * COLUMNS / len(colours)
    return means.clip(0, 1)


@rc_context(STYLE)
def heat_map(widths: Mapping[str, Tensor]) -> str:
    """Draw the bits of every output channel: towers above each other, a stripe for every linear.

    Args:
        widths: layer -> [O], of the finest precision, by the names of `PI0Network`.
    """
    depths: dict[str, int] = {}  # tower -> layers
    for name in widths:
        tower, _, place, _ = name.split(".")
        depths[tower] = max(depths.get(tower, 0), int(place) + 1)
    height_in = _ROW_IN * sum(depths.values()) + 0.35 * len(depths) + 0.2
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.04))
    grid = figure.subplots(len(depths), len(PARTS), squeeze=False, height_ratios=list(depths.values()))
    for row, (tower, depth) in zip(grid, depths.items(), strict=True):
        for axes, (part, kinds) in zip(row, PARTS.items(), strict=True):
            image = np.zeros((depth, COLUMNS, 4))  # transparent where there is no such linear
            for kind in kinds:
                for layer in range(depth):
                    name = f"{tower}.layers.{layer}.{kind}"
                    if name in widths:
                        image[layer, :, :3], image[layer, :, 3] = stripe(widths[name]), 1
                        mean = float(widths[name].double().mean())
                        axes.text(1.015, layer, f"{mean:.1f}", fontsize=6.5, va="center", color="#5c6972")
            axes.imshow(image, extent=(0, 1, depth - 0.5, -0.5), aspect="auto", interpolation="none")
            for edge in range(1, depth):
                axes.axhline(edge - 0.5, color="white", linewidth=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.grid(visible=False)
            axes.set_title(f"{tower}: {part}" if axes is row[0] else part)
        row[0].set_yticks(range(depth), range(depth), fontsize=6.5)
        row[0].tick_params(length=0)
    return _svg(figure)


@rc_context(STYLE)
def budget_curve(points: Sequence[Point], chosen: float, precisions: Sequence[str]) -> str:
    """Draw the measured and, where the recipe predicts one, the predicted action error against the bytes held.

    Args:
        points: by rising budget.
        chosen: the budget of the bundle.
        precisions: whose errors the points have.
    """
    figure = Figure(figsize=(_WIDTH_IN, 3.2), layout="constrained")
    axes = figure.subplots()
    shares = [point.bytes_over_bf16 for point in points]
    place = [point.budget for point in points].index(chosen)
    lines = [
        (name, colour, [point.nmse[index] for point in points])
        for index, (name, colour) in enumerate(zip(precisions, PALETTE, strict=False))
    ]
    if predicted := [point.predicted for point in points if point.predicted is not None]:
        lines.append((f"predicted for {precisions[0]}", INK, predicted))
    for name, colour, errors in lines:
        axes.plot(shares, errors, "o-", color=colour, linewidth=1.4, markersize=4, label=name)
        axes.plot(
            shares[place], errors[place], "o", color=colour, markersize=10, markerfacecolor="none", markeredgewidth=1.6
        )
    axes.set(yscale="log", xlabel="bytes of the quantized linears, over bf16", ylabel="normalised squared action error")
    axes.margins(y=0.15)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend()
    return _svg(figure)


@rc_context(STYLE)
def corrections(matchings: Sequence[Matching], precisions: Sequence[str]) -> str:
    """Draw the temperature of every head and the balance of every layer of the expert."""
    depth = len(matchings[0].beta)
    figure = Figure(figsize=(_WIDTH_IN, max(2.6, 0.9 + _ROW_IN * depth)), layout="constrained")
    *heat, balance = figure.subplots(1, len(matchings) + 1)
    farthest = max(_LEAST_SHOWN, *(float(matching.alpha.log().abs().max()) for matching in matchings))
    for axes, matching, name in zip(heat, matchings, precisions, strict=True):
        logs = matching.alpha.log().numpy()
        axes.imshow(logs, cmap="PuOr", vmin=-farthest, vmax=farthest, aspect="auto", interpolation="none")
        for (layer, head), alpha in np.ndenumerate(matching.alpha.numpy()):
            ink = "white" if abs(logs[layer, head]) > 0.7 * farthest else INK
            axes.text(head, layer, f"{alpha:.2f}", fontsize=6.5, color=ink, ha="center", va="center")
        axes.set(title=f"α per head, {name}", xlabel="head", ylabel="layer")
        axes.spines[:].set_visible(True)
        axes.grid(visible=False)
    balance.axvspan(BETA.neutral_low, BETA.neutral_high, color=FAINT, linewidth=0)
    for matching, name, colour in zip(matchings, precisions, PALETTE, strict=False):
        balance.plot(matching.beta.numpy(), range(depth), "o-", color=colour, linewidth=1, markersize=4, label=name)
    balance.set(title="β per layer", xlabel="β (grey: taken as 1)", ylim=(depth - 0.5, -0.5))
    balance.legend()
    for axes in (*heat, balance):
        axes.yaxis.set_major_locator(MaxNLocator(9, integer=True))
    for axes in heat:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return _svg(figure)


@rc_context(STYLE)
def distribution(values: FloatArray, thresholds: Sequence[float], precisions: Sequence[str]) -> str:
    """Draw how often which S occurred, over the bands of the precisions.

    Args:
        values: S [N], all known, at least one.
        thresholds: one for each precision, finest first, falling.
        precisions: finest first.
    """
    figure = Figure(figsize=(_WIDTH_IN, 2.5), layout="constrained")
    axes = figure.subplots()
    low, high = min(0.0, float(values.min())), 1.05 * float(values.max()) + 1e-6
    for (above, below), name, colour in zip(
        pairwise([np.inf, *thresholds[:-1], -np.inf]), precisions, PALETTE, strict=False
    ):
        share = np.mean((values <= above) & (values > below))
        right, left = np.clip([above, below], low, high)
        if left < right:
            axes.axvspan(left, right, color=colour, alpha=0.22, linewidth=0)
            axes.text(
                (left + right) / 2, 1.02, f"{name} {share:.0%}", transform=axes.get_xaxis_transform(), ha="center"
            )
    axes.hist(values, bins=np.linspace(low, high, 41).tolist(), color=INK, rwidth=0.86)
    for threshold in thresholds[:-1]:
        if low < threshold < high:
            axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.2)
    axes.set(xlabel="sensitivity S", ylabel="count", xlim=(low, high))
    return _svg(figure)


@rc_context(STYLE)
def dispatch_map(injections: Sequence[Injection], curves: Curves, thresholds: Sequence[float]) -> str:
    """Draw what an error costs at which S, and from where on a precision's errors exceed their bound.

    Args:
        injections: single chunks of low precision.
        curves: that the thresholds follow from.
        thresholds: one for each precision, falling.
    """
    figure = Figure(figsize=(_WIDTH_IN, 3.2), layout="constrained")
    gain, bound = figure.subplots(1, 2)
    known = [row for row in injections if np.isfinite(row.chunk.sensitivity) and row.error > 0]
    for success, colour, marker in ((True, PALETTE[2], "o"), (False, FAILURE, "X")):
        rows = [row for row in known if row.success is success]
        sensitivities = [row.chunk.sensitivity for row in rows]
        costs_mm = [1e3 * row.deviation_m / row.error for row in rows]
        label = f"the episode {'succeeded' if success else 'failed'} ({len(rows)})"
        gain.scatter(sensitivities, costs_mm, s=16, color=colour, marker=marker, alpha=0.7, linewidths=0, label=label)
    gain.plot(curves.sensitivities, 1e3 * curves.gains_m, color=INK, label="s(S), rising fit")
    gain.set_yscale("symlog", linthresh=1)
    gain.set(title="what one chunk's error costs", xlabel="sensitivity S", ylabel="mm of final deviation per error")
    gain.legend(fontsize=8)
    finite = np.isfinite(curves.bound)
    bound.plot(curves.sensitivities[finite], curves.bound[finite], color=INK, label="error bound")
    low, high = curves.sensitivities[[0, -1]]
    for (name, errors), colour, threshold in zip(curves.errors.items(), PALETTE[1:], thresholds, strict=False):
        bound.plot(curves.sensitivities, errors, color=colour, label=f"E of {name}, 95th percentile")
        if low < threshold < high:
            bound.axvline(threshold, color=colour, linestyle="--", linewidth=1.2)
    bound.set_yscale("log")
    bound.set(title="errors against their bound", xlabel="sensitivity S", ylabel="norm of normalised action error")
    bound.legend(fontsize=8)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """Give the element alone: in a page of HTML it needs neither namespaces nor facts of its making."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    element = text.getvalue()
    return re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element[element.index("<svg") :])
