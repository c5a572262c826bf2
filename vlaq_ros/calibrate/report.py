"""What a calibration found, beside the bundle it made: report.json for programs, report.html for readers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaq_ros.calibrate import page
from vlaq_ros.calibrate.alignment import Drift, agreement
from vlaq_ros.calibrate.matching import Matching
from vlaq_ros.calibrate.pipeline import ACTIVATION_BITS, NAMES
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.thresholds import Dispatch, Evidence
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.policy import document

if TYPE_CHECKING:  # facts are plain; what gathers them needs the simulation
    from vlaq_ros.calibrate.calibration import Facts

JSON, HTML = "report.json", "report.html"
FORMAT_VERSION = 1


def write(facts: Facts, directory: Path) -> None:
    """Write both files into the directory of a bundle."""
    document.write(directory / JSON, FORMAT_VERSION, values(facts))
    (directory / HTML).write_text(page.render(facts), encoding="utf-8")


def values(facts: Facts) -> dict[str, Any]:
    """Give what report.json says, in plain values; what was not measured is null, and so is what is not finite.

    ===========  ================================================================================================
    name         of the bundle
    source       name and sha256 of the checkpoint
    recipe       its name, and what decides what
    budget       asked for; bytes of the quantized linears over bf16, as allocated; predicted action error, normalised
    precisions   finest first: name, activation bits, denoising steps, threshold of S, normalised squared action error
    layers       linear -> number of output channels of each width at the finest precision, mean width
    curve        this and other budgets: bytes, predicted and measured errors
    checks       Spearman and its 95 % interval: estimated against true sensitivity, first step against cumulative
    drift        of every layer with 8 and 4 bits, by kind of tokens and of place; width -> agreement with the error
    matching     precision -> α [layers][heads], β [layers], gaps before and after, numbers at a bound and left at 1
    dispatch     thresholds, the precision of a static plan, the verdict, its evidence with curves over S; wholes:
                 successes of whole episodes, their difference from the finest precision's and its lower 95 % bound
    chunks       of episodes at full precision: S, and every precision's errors
    injections   single chunks of low precision: seed, instruction, time, phase, S, error, deviation of the end in m,
                 success
    memory       bytes, and those over bf16
    buffer       observations, their sha256 and origin, counts by instruction and phase
    seconds      by stage
    peak_bytes   resident in the process
    ===========  ================================================================================================
    """
    calibrated, buffer = facts.calibrated, facts.buffer
    plans = zip(NAMES, facts.denoise_steps, facts.thresholds, calibrated.nmse, strict=True)
    spread = Counter((row.instruction, phase) for row, phase in zip(buffer.observations, buffer.phases, strict=True))
    return {
        "name": facts.name,
        "source": {"name": facts.source, "sha256": facts.source_sha256},
        "recipe": {"name": facts.recipe_name, **asdict(facts.recipe)},
        "budget": {
            "asked": facts.budget,
            "bytes_over_bf16": calibrated.allocation.bytes_over_bf16,
            "predicted": calibrated.predicted,
        },
        "precisions": [
            {
                "name": name,
                "activation_bits": ACTIVATION_BITS,
                "denoise_steps": steps,
                "threshold": threshold,
                "action_nmse": nmse,
            }
            for name, steps, threshold, nmse in plans
        ],
        "layers": {
            name: {
                "channels": {str(width): int((widths == width).sum()) for width in WIDTHS},
                "mean_bits": float(widths.double().mean()),
            }
            for name, widths in calibrated.allocation.widths.items()
        },
        "curve": [asdict(point) for point in facts.curve],
        "checks": asdict(facts.checks) if facts.checks else None,
        "drift": _drift(calibrated.drifts) if calibrated.drifts else None,
        "matching": dict(zip(NAMES, map(_matching, calibrated.matchings), strict=True))
        if calibrated.matchings
        else None,
        "dispatch": _dispatch(facts.dispatch),
        "chunks": {
            "sensitivity": [_finite(chunk.sensitivity) for chunk in facts.chunks],
            "errors": {name: [chunk.errors[name] for chunk in facts.chunks] for name in NAMES},
        }
        if facts.chunks
        else None,
        "injections": [
            {
                "seed": row.chunk.seed,
                "instruction": row.chunk.instruction,
                "time_s": row.chunk.time_s,
                "phase": row.chunk.phase,
                "sensitivity": _finite(row.chunk.sensitivity),
                "error": row.error,
                "deviation_m": row.deviation_m,
                "success": row.success,
            }
            for row in facts.injections
        ]
        or None,
        "memory": asdict(facts.memory) | {"over_bf16": facts.memory.over_bf16},
        "buffer": {
            "observations": len(buffer.observations),
            "sha256": buffer.sha256,
            "origin": buffer.origin,
            "counts": [
                {"instruction": instruction, "phase": phase, "count": count}
                for (instruction, phase), count in spread.items()
            ],
        },
        "seconds": dict(facts.seconds),
        "peak_bytes": facts.peak_bytes,
    }


def _drift(drifts: tuple[Drift, ...]) -> dict[str, Any]:
    return {
        "layers": [asdict(drift) | {"relation": drift.relation} for drift in drifts],
        "agreement": {str(width): asdict(each) for width, each in agreement(drifts).items()},
    }


def _matching(matching: Matching) -> dict[str, Any]:
    return {
        "alpha": matching.alpha.tolist(),
        "beta": matching.beta.tolist(),
        "before": asdict(matching.before),
        "after": asdict(matching.after),
        "clamped": dict(zip(("alpha", "beta"), matching.clamped, strict=True)),
        "neutral": dict(zip(("alpha", "beta"), matching.neutral, strict=True)),
    }


def _dispatch(dispatch: Dispatch) -> dict[str, Any]:
    return {
        "thresholds": list(dispatch.thresholds),
        "static": dispatch.static,
        "verdict": dispatch.verdict,
        "evidence": _evidence(dispatch.evidence) if dispatch.evidence else None,
        "wholes": [asdict(whole) for whole in dispatch.wholes] or None,
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    curves = evidence.curves
    return {
        "injections": evidence.injections,
        "episodes": evidence.episodes,
        "spearman": asdict(evidence.spearman),
        "pearson": asdict(evidence.pearson),
        "deviation": asdict(evidence.deviation),
        "curves": {
            "sensitivity": _row(curves.sensitivities),
            "gain_m": _row(curves.gains_m),
            "errors": {name: _row(errors) for name, errors in curves.errors.items()},
            "bound": _row(curves.bound),
            "tolerated_m": curves.tolerated_m,
        },
    }


def _row(row: FloatArray) -> list[float | None]:
    return [_finite(value) for value in row.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
