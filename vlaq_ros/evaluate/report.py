"""Two figures of a recording: a timeline of the demo, and a contact sheet of camera frames tinted by precision."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from vlaq_ros.bags.recording import Episode, Recording, Series
from vlaq_ros.datatypes import ImageArray
from vlaq_ros.policy.manifest import PrecisionPlan

# Okabe and Ito's palette, which colour-blind readers tell apart; finest precision first.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
SUCCESS, FAILURE = "#009E73", "#D55E00"
FRAMES_PER_EPISODE = 6
SHADE = 0.35  # opacity of the precision's colour behind a curve
MOST_SENSITIVITY = 1.5  # S is normalised: its peaks above would press the thresholds to the floor
TINT = 0.22  # share of the precision's colour in a frame


def timeline(recording: Recording, plans: tuple[PrecisionPlan, ...], path: Path) -> None:
    """Draw S, the precision in force and the gripper over time, with the result of every episode.

    Args:
        recording: what happened.
        plans: precisions of the policy, finest first; their thresholds are drawn.
        path: of the PNG that is written.
    """
    colours = _colours(plans)
    zero_ns = recording.episodes[0].start_ns
    figure = Figure(figsize=(14, 6.2), layout="constrained")
    results, motion, gripper = figure.subplots(3, sharex=True, height_ratios=(0.9, 2.2, 1))
    for number, episode in enumerate(recording.episodes, start=1):
        start_s, end_s = (episode.start_ns - zero_ns) * 1e-9, (episode.end_ns - zero_ns) * 1e-9
        results.barh(0, end_s - start_s, 0.9, start_s, color=SUCCESS if episode.success else FAILURE, alpha=0.85)
        label = f"{number}\n{_verdict(episode)}\n{fill(episode.instruction, 9)}"
        results.text((start_s + end_s) / 2, 0, label, ha="center", va="center", fontsize=7, color="white")
        for axes, signal, scale in ((motion, recording.sensitivity, 1.0), (gripper, recording.gripper, 1e3)):
            _shade(axes, recording.precision, episode, colours, zero_ns)
            part = signal.within(episode)
            axes.plot((part.stamps_ns - zero_ns) * 1e-9, part.values * scale, color="black", linewidth=1)

    results.set(yticks=[], ylim=(-0.5, 0.5))
    results.set_ylabel("episode", rotation=0, ha="right", va="center")
    shown = min(float(np.nanmax(recording.sensitivity.values, initial=1.0)), MOST_SENSITIVITY)
    motion.set(ylabel="sensitivity S", ylim=(0, 1.05 * shown))
    for plan in (plan for plan in plans[:-1] if 0 <= plan.threshold <= shown):  # a static plan's lie beyond
        motion.axhline(plan.threshold, color=colours[plan.name], linestyle="--", linewidth=1.2)
        motion.text(1.003, plan.threshold, f"above:\n{plan.name}", transform=motion.get_yaxis_transform(), va="center")
    gripper.set(ylabel="gripper finger [mm]", xlabel="time [s]", ylim=(0, None))
    gripper.set_xlim(0, (recording.episodes[-1].end_ns - zero_ns) * 1e-9)
    for axes in (results, motion, gripper):
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels((motion, gripper))
    _legend(figure, colours, SHADE)
    figure.savefig(path, dpi=110)


def contact_sheet(recording: Recording, plans: tuple[PrecisionPlan, ...], path: Path) -> None:
    """Lay out frames of every episode from start to end, each tinted and framed by the precision in force.

    Args:
        recording: what happened.
        plans: precisions of the policy, finest first.
        path: of the PNG that is written.
    """
    colours = _colours(plans)
    blocks = 2  # episodes side by side
    rows = -(-len(recording.episodes) // blocks)
    figure = Figure(figsize=(14, 0.6 + rows * 1.33), layout="constrained")
    grid = figure.subplots(rows, blocks, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (axes, episode) in enumerate(zip(grid.flat, recording.episodes, strict=False), start=1):
        for column, stamp_ns in enumerate(np.linspace(episode.start_ns, episode.end_ns, FRAMES_PER_EPISODE)):
            colour = colours[recording.precision.at(int(stamp_ns))]
            frame = _tinted(recording.images.at(int(stamp_ns)), colour)
            axes.imshow(frame, extent=(column, column + 0.96, 0, 0.96), interpolation="lanczos")
            axes.add_patch(Rectangle((column, 0), 0.96, 0.96, fill=False, edgecolor=colour, linewidth=3))
        axes.set(xlim=(-0.03, FRAMES_PER_EPISODE), ylim=(-0.02, 0.98))
        seconds = (episode.end_ns - episode.start_ns) * 1e-9
        title = f"{number}. {episode.instruction}: {_verdict(episode)} after {seconds:.1f} s"
        axes.set_title(title, fontsize=10, loc="left", pad=3, color="black" if episode.success else FAILURE)
    _legend(figure, colours, 1.0)
    figure.savefig(path, dpi=100)


def _colours(plans: tuple[PrecisionPlan, ...]) -> dict[str, str]:
    return {plan.name: colour for plan, colour in zip(plans, PALETTE, strict=False)}


def _legend(figure: Figure, colours: dict[str, str], alpha: float) -> None:
    patches = [Patch(color=colour, alpha=alpha, label=f"{name} in force") for name, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)


def _verdict(episode: Episode) -> str:
    return "success" if episode.success else "failure"


def _shade(axes: Axes, precision: Series, episode: Episode, colours: dict[str, str], zero_ns: int) -> None:
    """Colour the background of an episode by the precision in force, from chunk to chunk."""
    starts_ns = [episode.start_ns, *precision.within(episode).stamps_ns]
    for start_ns, end_ns in pairwise([*starts_ns, episode.end_ns]):
        span_s = ((start_ns - zero_ns) * 1e-9, (end_ns - zero_ns) * 1e-9)
        axes.axvspan(*span_s, color=colours[precision.at(start_ns)], alpha=SHADE, linewidth=0)


def _tinted(image: ImageArray, colour: str) -> ImageArray:
    mixed: ImageArray = ((1 - TINT) * image + TINT * 255 * np.array(to_rgb(colour))).astype(np.uint8)
    return mixed
