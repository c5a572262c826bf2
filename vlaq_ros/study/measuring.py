"""What variants are beside what they do: action error, bytes, and the time of a chunk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlaq_ros.bench import machine
from vlaq_ros.bench.timing import WallClock, interleave, pinned
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.pipeline import Stage
from vlaq_ros.policy.engine import Engine
from vlaq_ros.study import results
from vlaq_ros.study.cells import ROLES
from vlaq_ros.study.running import engine
from vlaq_ros.study.variants import Calibrated, Full, Variant
from vlaq_ros.study.workshop import Workshop

FILE = "variants.json"
_ROUNDS, _BUDGET_S = (5, 30), 60.0


def measure(workshop: Workshop, variants: Sequence[Variant], every: Sequence[Variant], stage: Stage) -> None:
    """Measure what is not known yet, and write it to `FILE`: by the variants' names.

    The action error is that of `Probe.nmse`. Bytes are those of weights in memory; they and times are of real variants.
    Times are taken side by side: where one is missing, all that are known are taken again.

    Args:
        workshop: where everything is prepared.
        variants: each once.
        every: all of the study's, to find again those that are known.
        stage: for progress.
    """
    path = workshop.out / FILE
    known = load(workshop.out)
    if missing := [variant for variant in variants if variant.name not in known["variants"]]:
        probe, report = workshop.probe(), stage("action errors", len(missing))
        for variant in missing:
            actions = probe.actions(workshop.network(variant.weights), variant.denoise_steps)
            known["variants"][variant.name] = {"nmse": probe.nmse(actions), **_bytes(workshop, variant)}
            results.replace(path, json.dumps(known, indent=1) + "\n")
            report(1)
    real = [variant for variant in every if variant.real and variant.name in known["variants"]]
    if all("chunk_ms" in known["variants"][variant.name] for variant in real):
        return
    for name, chunk_ms in _times_ms(workshop, real, stage).items():
        known["variants"][name]["chunk_ms"] = chunk_ms
    known["machine"] = asdict(machine.identify(torch.device("cpu")))
    results.replace(path, json.dumps(known, indent=1) + "\n")


def load(out: Path) -> dict[str, Any]:
    """Read what was measured; empty where nothing was."""
    path = out / FILE
    known: dict[str, Any] = {"machine": {}, "variants": {}}
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else known


def _bytes(workshop: Workshop, variant: Variant) -> Mapping[str, float]:
    match variant.weights:
        case Calibrated() as weights:
            return Engine.load(workshop.bundle(weights)).bytes_over_bf16
        case Full():
            return Engine.load(workshop.model, full=True).bytes_over_bf16
    return {}


def _times_ms(workshop: Workshop, variants: Sequence[Variant], stage: Stage) -> dict[str, float]:
    """Medians of interleaved rounds on one core, one observation at a time."""
    buffer = Buffer.load(workshop.buffer)
    observation, noise = buffer.observations[0], buffer.noise[0].astype(np.float64)
    report = stage("chunk times: set-up", len(variants))
    timers = {}
    for variant in variants:
        infer = partial(engine(workshop, (variant,)).infer, observation, ROLES[0], noise)
        timers[variant.name] = WallClock([infer], torch.device("cpu"))
        timers[variant.name].sample_s(0)
        report(1)
    with pinned(1):
        samples = interleave(timers, budget_s=_BUDGET_S, rounds=_ROUNDS)
    return {name: round(float(np.median(values)) * 1e3, 3) for name, values in samples.items()}
