"""The policies that are measured: a checkpoint each, and bundles of several kinds made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PI0Config

from vlaq_ros.bench import networks
from vlaq_ros.policy import bundle
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.manifest import PrecisionPlan
from vlaq_ros.quant.codes import NestedWeight, quantize

PLAIN, WEIGHT_ONLY, BUDGET = "", "weight-only", "budget"  # kinds of bundles
_BUDGET_SHARE = 10  # one row in so many has 8 bits; which, does not matter to time and bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """A policy to measure."""

    name: str
    checkpoint: Path
    bundles: Mapping[str, Path]  # made of it, by their kind


def embedded(shipped: Path, directory: Path, *, quick: bool) -> Subject:
    """Take a bundle and the checkpoint that it was made of; bundles of other kinds are made in `directory`."""
    checkpoint = bundle.source(shipped).directory
    kinds = () if quick else (WEIGHT_ONLY, BUDGET)
    made = {kind: _bundle(checkpoint, directory / f"{checkpoint.name}_{kind}", kind) for kind in kinds}
    return Subject(checkpoint.name, checkpoint, {PLAIN: shipped} | made)


def smallest(directory: Path) -> Path:
    """Make a bundle of random weights that runs in a few milliseconds."""
    checkpoint = directory / "smallest"
    networks.save(checkpoint, networks.smallest(), cameras=1)
    return _bundle(checkpoint, directory / "smallest_bundle", PLAIN)


def random(directory: Path, device: torch.device) -> Iterator[Subject]:
    """Make policies of random weights, one after the other: of pi0's width on a CPU, of its size on a GPU."""
    if device.type == "cuda":
        for cameras in (2, 3):
            yield _random(f"pi0, {cameras} cameras", directory / f"{cameras}", networks.true_size(), cameras, (BUDGET,))
    else:
        for layers in (1, 2):
            name = f"pi0 of true width, {layers} layer{'s' if layers > 1 else ''} in each tower, 2 cameras"
            yield _random(name, directory / f"{layers}", networks.true_width(layers), 2, (WEIGHT_ONLY, BUDGET))


def _random(name: str, directory: Path, config: PI0Config, cameras: int, kinds: Iterable[str]) -> Subject:
    checkpoint = directory / "checkpoint"
    networks.save(checkpoint, config, cameras=cameras)
    made = {kind: _bundle(checkpoint, directory / f"bundle_{kind}", kind) for kind in (PLAIN, *kinds)}
    return Subject(name, checkpoint, made)


def _bundle(checkpoint: Path, out: Path, kind: str) -> Path:
    """Quantize a checkpoint into "fine" and "coarse"."""
    source = Checkpoint.open(checkpoint)
    steps = source.spec.denoising_steps
    activation_bits = 16 if kind == WEIGHT_ONLY else 8
    plans = [PrecisionPlan(name, activation_bits, steps, threshold) for name, threshold in (("fine", 1), ("coarse", 0))]
    codes = _with_budget if kind == BUDGET else _with_two_widths
    bundle.write(source, out, plans, codes, embedding_bits=16, report=lambda _: None)
    return out


def _with_two_widths(module: str, weight: Tensor) -> NestedWeight:
    del module
    return quantize(weight)


def _with_budget(module: str, weight: Tensor) -> NestedWeight:
    """Read 4 bits everywhere, and 8 bits of a share of the rows where the precision is "fine"."""
    del module
    widths = torch.full((2, len(weight)), 4)
    widths[0, : len(weight) // _BUDGET_SHARE] = 8
    return quantize(weight, widths)
