"""A calibrated bundle, written and loaded as the robot loads it, is what the pipeline measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_probe import buffer_of

from vlaq_ros.calibrate import export
from vlaq_ros.calibrate.pipeline import NAMES, Calibrated, calibrate, measure
from vlaq_ros.calibrate.probe import Probe
from vlaq_ros.calibrate.recipes import RECIPES, Estimator, Recipe, Smoothing
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import Manifest, PrecisionPlan
from vlaq_ros.policy.transforms import normalize

BUDGET = 0.998  # the most for the tiny network: its rows of 8 bits take hardly less than in bf16
HASH = "0" * 64
ROUNDED = 0.25  # of an error: a bundle has 16 bits of what is not quantized, which turns activations of 8 bits over


class Bars:
    """Stages with how many units they announced, and how many were done."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, list[int]]] = []

    def __call__(self, name: str, units: int) -> Callable[[int], None]:
        done: list[int] = []
        self.stages.append((name, units, done))
        return done.append

    @property
    def unfinished(self) -> list[str]:
        return [name for name, units, done in self.stages if sum(done) != units or min(done, default=0) < 0]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(tiny_checkpoint)


@pytest.fixture(scope="module")
def probe(checkpoint: Checkpoint) -> Probe:
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    return Steps(tmp_path_factory.mktemp("steps"))


def written(checkpoint: Checkpoint, out: Path, calibrated: Calibrated) -> Path:
    steps = checkpoint.spec.denoising_steps
    plans = export.plans((steps, steps), (0.45, 0.0))
    export.write(checkpoint, out, calibrated, plans, calibration=HASH, report=lambda _: None)
    return out


def nmse(probe: Probe, bundle: Path, precision: str) -> float:
    """Measure the action error of a bundle by the robot's own path."""
    engine = Engine.load(bundle, dtype=torch.float32)
    chunks = engine.infer_batch(probe.buffer.observations, precision, probe.buffer.noise)
    actions = [normalize(chunk.actions, probe.spec.action_mean, probe.spec.action_std) for chunk in chunks]
    return probe.nmse(torch.tensor(np.stack(actions)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_keeps_its_budget_and_acts_as_it_was_measured(
    checkpoint: Checkpoint, probe: Probe, steps: Steps, tmp_path: Path, name: str
) -> None:
    recipe, bars = RECIPES[name], Bars()
    measured = measure(probe, recipe, steps, bars)
    assert (measured.sensitivity is None) == (recipe.estimator is Estimator.NONE)
    calibrated = calibrate(measured, recipe, BUDGET, bars)
    assert bars.stages
    assert bars.unfinished == []
    bundle = written(checkpoint, tmp_path / "out", calibrated)
    held = Engine.load(bundle).memory.over_bf16["linears"]
    assert held <= BUDGET
    assert held == pytest.approx(calibrated.allocation.bytes_over_bf16, abs=1e-9)
    for layer, nested in Bundle.load(bundle).nested.items():  # with the gains of matching in its scales
        for field in ("hi", "lo", "scale", "rows", "half", "half_rows"):
            assert torch.equal(getattr(nested, field), getattr(calibrated.nested[layer], field))
    for precision, error in zip(NAMES, calibrated.nmse, strict=True):
        assert nmse(probe, bundle, precision) == pytest.approx(error, rel=ROUNDED)


def test_what_lies_beside_the_codes_is_stored_as_it_is(
    checkpoint: Checkpoint, probe: Probe, steps: Steps, tmp_path: Path
) -> None:
    recipe = Recipe(smoothing=Smoothing.SMOOTHQUANT)
    calibrated = calibrate(measure(probe, recipe, steps, Bars()), recipe, BUDGET, Bars())
    hardest = {name: torch.full_like(tensor, -1 + 1e-5) for name, tensor in calibrated.beside.items()}
    held = Bundle.load(written(checkpoint, tmp_path / "out", replace(calibrated, beside=hardest)))
    for name, tensor in hardest.items():
        assert torch.equal(held.tensors[name], tensor)
    others = held.tensors.keys() - hardest.keys()
    assert {held.tensors[name].dtype for name in others} <= {torch.float16, torch.bfloat16}


def test_plans_name_both_precisions() -> None:
    fine, coarse = export.plans((8, 2), (0.3, 0.0))
    assert (fine, coarse) == (PrecisionPlan("fine", 8, 8, 0.3), PrecisionPlan("coarse", 8, 2, 0.0))


def test_thresholds_are_changed_and_nothing_else(
    checkpoint: Checkpoint, probe: Probe, steps: Steps, tmp_path: Path
) -> None:
    calibrated = calibrate(measure(probe, RECIPES["rtn"], steps, Bars()), RECIPES["rtn"], BUDGET, Bars())
    bundle = written(checkpoint, tmp_path / "out", calibrated)
    before = Manifest.load(bundle)
    assert before.calibration == HASH
    export.set_thresholds(bundle, (0.7, -1.0))
    after = Bundle.load(bundle).manifest
    assert [plan.threshold for plan in after.precisions] == [0.7, -1.0]
    plans = [
        replace(plan, threshold=old.threshold) for plan, old in zip(after.precisions, before.precisions, strict=True)
    ]
    assert replace(after, precisions=tuple(plans)) == before
