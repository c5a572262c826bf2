"""A calibrated policy as a bundle, and its measured self: loaded as the robot loads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vlaq_ros.calibrate.pipeline import ACTIVATION_BITS, NAMES, Calibrated
from vlaq_ros.policy import bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.manifest import Manifest, PrecisionPlan


def plans(denoise_steps: Sequence[int], thresholds: Sequence[float]) -> tuple[PrecisionPlan, ...]:
    """Give the plans of the calibrated precisions, finest first."""
    each = zip(NAMES, denoise_steps, thresholds, strict=True)
    return tuple(PrecisionPlan(name, ACTIVATION_BITS, steps, threshold) for name, steps, threshold in each)


def write(
    checkpoint: Checkpoint,
    out: Path,
    calibrated: Calibrated,
    precisions: Sequence[PrecisionPlan],
    *,
    calibration: str,
    report: Callable[[int], None],
) -> None:
    """Write a bundle.

    Args:
        checkpoint: that was calibrated.
        out: directory to make.
        calibrated: its codes.
        precisions: finest first.
        calibration: sha256 of the observations.
        report: called with the number of weights done since the last call.

    Raises:
        OutputExistsError: `out` is there.
    """
    bundle.write(
        checkpoint,
        out,
        precisions,
        lambda name, _: calibrated.nested[name],
        embedding_bits=16,
        report=report,
        replaced=calibrated.beside,
        calibration=calibration,
    )


def set_thresholds(directory: Path, thresholds: Sequence[float]) -> None:
    """Change when a bundle asks for which precision."""
    manifest = Manifest.load(directory)
    changed = [
        replace(plan, threshold=threshold) for plan, threshold in zip(manifest.precisions, thresholds, strict=True)
    ]
    replace(manifest, precisions=tuple(changed)).save(directory)
