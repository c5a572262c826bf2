"""A study's directory: what is made once by the command, and found there by its workers.

study.json, buffer.safetensors, steps/, bundles/NAME/, mixed/NAME.safetensors, pilots/PAIR.json, results/CELL.jsonl,
variants.json, report/
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vlaq_ros.calibrate import export
from vlaq_ros.calibrate.buffer import COUNT, Buffer
from vlaq_ros.calibrate.pipeline import Stage, calibrate, measure
from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.recipes import RECIPES
from vlaq_ros.calibrate.simulated import from_rollouts
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.calibrate.students import EmulatedLinear, rounded, student
from vlaq_ros.errors import OtherStudyError
from vlaq_ros.policy import pi0
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.engine import native_dtype, networks
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.kernels import select
from vlaq_ros.study import mixing, results
from vlaq_ros.study.variants import Calibrated, Emulated, Full, Mixed, Weights

MIXED_ACTIVATION_BITS = 8
_CPU = torch.device("cpu")
_KEPT = 4  # networks that a worker holds, for parts of one cell follow each other


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a study's things are; a plain value, that travels to workers."""

    model: Path  # of the checkpoint
    out: Path

    @property
    def buffer(self) -> Path:
        """File of the observations that everything is calibrated and compared on."""
        return self.out / "buffer.safetensors"

    def bundle(self, weights: Calibrated) -> Path:
        """Directory of a bundle."""
        return self.out / "bundles" / weights.bundle

    def mixed(self, weights: Mixed) -> Path:
        """File of the widths of every channel."""
        return self.out / "mixed" / f"{weights.spread}_{weights.mean_bits:g}.safetensors"

    def claim(self) -> None:
        """Make the directory this checkpoint's.

        Raises:
            OtherStudyError: it is another's.
        """
        checkpoint = Checkpoint.open(self.model)
        facts = {
            "checkpoint": checkpoint.sha256,
            "instructions": list(checkpoint.spec.instructions),
            "denoising_steps": checkpoint.spec.denoising_steps,
        }
        path = self.out / "study.json"
        if path.is_file():
            if json.loads(path.read_text(encoding="utf-8")) != facts:
                raise OtherStudyError(path, ["checkpoint"])
            return
        results.replace(path, json.dumps(facts) + "\n")

    def prepare(self, wanted: Iterable[Weights], jobs: int, stage: Stage) -> None:
        """Make what is not there yet: the buffer, bundles and widths.

        Args:
            wanted: weights that will be rolled out.
            jobs: processes that fill the buffer.
            stage: for progress.

        Raises:
            BudgetError: a recipe cannot reach its budget.
        """
        bundles = {self.bundle(weights): weights for weights in wanted if isinstance(weights, Calibrated)}
        mixes = {self.mixed(weights): weights for weights in wanted if isinstance(weights, Mixed)}
        if not self.buffer.is_file():
            report = stage("observations", COUNT)
            from_rollouts(Checkpoint.open(self.model), count=COUNT, seed=0, jobs=jobs, report=report).save(self.buffer)
        missing = [path for path in (*bundles, *mixes) if not path.exists()]
        if not missing:
            return
        probe = self.probe()
        for path in missing:
            if path in bundles:
                self._make_bundle(probe, bundles[path], stage)
            else:
                self._make_mix(probe, mixes[path], stage)

    def probe(self) -> Probe:
        """Open the checkpoint with the buffer."""
        return Probe.open(Checkpoint.open(self.model), Buffer.load(self.buffer))

    def network(self, weights: Weights) -> PI0Network:
        """Open prepared weights; a process keeps the last few."""
        return _network(self, weights)

    def _make_bundle(self, probe: Probe, weights: Calibrated, stage: Stage) -> None:
        checkpoint, path = Checkpoint.open(self.model), self.bundle(weights)
        recipe, titled = RECIPES[weights.recipe], _titled(stage, path.name)
        measured = measure(probe, recipe, Steps(self.out / "steps"), titled)
        calibrated = calibrate(measured, recipe, weights.budget, titled)
        partial = path.with_name(f"{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        spec = checkpoint.spec
        plans = export.plans([spec.denoising_steps] * 2, (spec.fine_threshold, 0.0))
        report = titled("bundle", pi0.size(checkpoint.config))
        export.write(checkpoint, partial, calibrated, plans, calibration=probe.buffer.sha256, report=report)
        partial.rename(path)

    def _make_mix(self, probe: Probe, weights: Mixed, stage: Stage) -> None:
        path = self.mixed(weights)
        path.parent.mkdir(exist_ok=True)
        widths = mixing.widths(probe, weights, Steps(self.out / "steps"), stage)
        partial = path.with_suffix(".partial")
        save_file(widths, partial)
        partial.rename(path)


@lru_cache(_KEPT)
def _network(workshop: Workshop, weights: Weights) -> PI0Network:
    if isinstance(weights, Calibrated):
        held = Bundle.load(workshop.bundle(weights))
        return networks(held, select.chosen(_CPU), native_dtype(_CPU), _CPU)[weights.precision]
    if isinstance(weights, Full):
        checkpoint = Checkpoint.open(workshop.model)
        return pi0.assemble(checkpoint.config, checkpoint.parameters(), {}, native_dtype(_CPU), _CPU)
    full = workshop.network(Full())
    if isinstance(weights, Emulated):
        return _emulated(full, lambda _, weight: rounded(weight, weights.weight_bits), weights.activation_bits)
    widths = load_file(workshop.mixed(weights))
    return _emulated(full, lambda name, weight: mixing.mixed(weight, widths[name]), MIXED_ACTIVATION_BITS)


def _emulated(
    full: PI0Network, rounding: Callable[[str, torch.Tensor], torch.Tensor], activation_bits: int
) -> PI0Network:
    replaced: dict[str, nn.Module] = {
        name: EmulatedLinear(rounding(name, linear.weight), linear.bias, activation_bits)
        for name, linear in layers(full).items()
    }
    return student(full, replaced)


def _titled(stage: Stage, title: str) -> Stage:
    return lambda name, units: stage(f"{title}: {name}", units)
