"""The timeline of a replay as one picture, for documents."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vlaq_ros.datatypes import FloatArray
from vlaq_ros.evaluate.report import SHADE
from vlaq_ros.replay.answer_errors import FINEST, FLOWN, RECORDED
from vlaq_ros.replay.drawing import Drawing, colours, pause_ns

FANS = 60  # chunks
_INK, _TOLD = "#26323d", "0.75"
_STRIP_IN = 0.9


def write_picture(path: Path, drawing: Drawing, document: Mapping[str, Any]) -> None:
    """Draw cameras, S over the bands of the precisions, action errors, and the joint that moves most.

    Args:
        path: of the picture; its suffix says the format.
        drawing: what is shown of the replay.
        document: its report.json.
    """
    data = drawing.data()
    begin_s, end_s = data["flown_s"] or (0.0, data["duration_s"])
    painted = {FLOWN: _INK, **colours(document)}
    heights = [*[_STRIP_IN] * len(data["frames"]), 1.8, 1.5, 1.8]
    figure = Figure(figsize=(14, 1 + sum(heights)), layout="constrained", facecolor="white")
    *strips, motion, errors, joint = figure.subplots(len(heights), sharex=True, height_ratios=heights)
    for axes, (camera, frames) in zip(strips, data["frames"].items(), strict=True):
        _strip(axes, camera, frames, begin_s, end_s)
    for from_s, to_s, name in data["spans"]["precision"]:
        motion.axvspan(from_s, to_s, color=painted[name], alpha=SHADE, linewidth=0)
    for axes in (motion, errors):
        for from_s, to_s, _ in data["spans"]["blocked"]:
            axes.axvspan(from_s, to_s, facecolor="none", edgecolor="0.5", hatch="///", linewidth=0)
    motion.plot(data["sensitivity"]["t"], _known(data["sensitivity"]["s"]), color="black", linewidth=1)
    motion.set(ylabel="sensitivity S", ylim=(0, None))
    answers = document["answers"]
    stamps_ns = np.array(answers["stamps_ns"], dtype=np.int64)
    times_s = (stamps_ns - drawing.start_ns) * 1e-9
    pauses = np.flatnonzero(np.diff(stamps_ns, prepend=stamps_ns[:1]) > pause_ns(stamps_ns))
    against = FINEST if answers["ee_error_m"][FINEST] else RECORDED
    for name, values in answers["ee_error_m"][against].items():
        if name != FLOWN or not document["precisions"]:
            broken = np.insert(1e3 * _known(values), pauses, np.nan)
            errors.plot(np.insert(times_s, pauses, np.nan), broken, color=painted[name], linewidth=1)
    finest = document["finest"] if against == FINEST else "recorded"
    errors.set(ylabel=f"tool from {finest} [mm]", ylim=(0, None))
    _joint(joint, data, painted, document["precisions"] or [FLOWN])
    joint.set(xlabel="time [s]", xlim=(begin_s, end_s))
    for axes in (motion, errors, joint):
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels((motion, errors, joint))
    handles: list[Artist] = [
        *(Patch(color=painted[name], label=name) for name in document["precisions"]),
        Patch(facecolor="none", edgecolor="0.5", hatch="///", label="no observation possible"),
        Line2D([], [], color=_TOLD, linewidth=3, label="recorded"),
        Line2D([], [], color=_INK, linewidth=0.8, label="predicted chunks"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    with rc_context({"svg.hashsalt": "vlaq_ros"}):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def _strip(axes: Axes, camera: str, frames: Sequence[tuple[float, str, float]], begin_s: float, end_s: float) -> None:
    """Lay frames side by side, each from its time on."""
    axes.set(yticks=[], ylim=(0, 1))
    axes.set_ylabel(camera, rotation=0, ha="right", va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False)
    if frames:
        wide_s = (end_s - begin_s) * frames[0][2] * _STRIP_IN / 12.8  # of the 14 inches, those of the axes
        for start_s in np.arange(begin_s, end_s, wide_s):
            _, jpeg, _ = min(frames, key=lambda frame: abs(frame[0] - start_s))
            extent = (start_s, start_s + 0.98 * wide_s, 0.0, 1.0)
            axes.imshow(
                imread(BytesIO(b64decode(jpeg)), format="jpg"), extent=extent, aspect="auto", interpolation="lanczos"
            )


def _joint(axes: Axes, data: Mapping[str, Any], painted: Mapping[str, str], names: Sequence[str]) -> None:
    """Draw the joint that moves most: recorded, and chunks as they were predicted."""
    recorded = data["joints"]
    told = np.array([_known(column) for column in recorded["told"] or recorded["measured"]])
    moving = int(np.nanargmax(np.nanmax(told, axis=1) - np.nanmin(told, axis=1)))
    axes.plot(recorded["t"], told[moving], color=_TOLD, linewidth=3)
    for chunk in data["chunks"][:: max(1, len(data["chunks"]) // FANS)]:
        times_s = chunk["t"] + np.array(chunk["steps"])
        for name in names:
            if name in chunk["lines"]:
                axes.plot(times_s, _known(chunk["lines"][name][moving]), color=painted[name], linewidth=0.8)
        axes.plot(chunk["t"], next(iter(chunk["lines"].values()))[moving][0], ".", color=_INK, markersize=3)
    axes.set_ylabel(f"{recorded['names'][moving]} [rad]")


def _known(values: Sequence[float | None]) -> FloatArray:
    return np.array(values, dtype=np.float64)
