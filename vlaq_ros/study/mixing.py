"""Weights of 2 and 4 bits side by side, emulated: what separates methods below the widths that codes store."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from vlaq_ros.calibrate.pipeline import Stage
from vlaq_ros.calibrate.probe import Probe, shapes
from vlaq_ros.calibrate.sensitivity import jacobian
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.calibrate.students import rounded
from vlaq_ros.datatypes import FloatArray
from vlaq_ros.study.variants import Mixed, Spread

NARROW, WIDE = 2, 4


def widths(probe: Probe, weights: Mixed, steps: Steps, stage: Stage) -> dict[str, Tensor]:
    """Say which channels are wide: those, or those layers, that lose the most if they are not.

    Returns:
        Layer -> [O] int64. The mean over all weights is at most `weights.mean_bits`, and as near as channels allow.
    """
    sizes = shapes(probe.network)
    share = (weights.mean_bits - NARROW) / (WIDE - NARROW)
    if weights.spread is Spread.RANDOM:
        generator = torch.Generator().manual_seed(0)
        gains = {name: shape[1] * torch.rand(shape[0], generator=generator) for name, shape in sizes.items()}
        return by_channel(gains, sizes, share)
    loss = steps.take(
        "jacobian-emulated",
        lambda: jacobian(probe, lost=_lost, report=stage("sensitivities: 2 and 4 bits", len(probe.teacher))),
    )
    gains = {name: narrow - wide for name, (narrow, wide) in loss.items()}
    spread = by_channel if weights.spread is Spread.CHANNELWISE else by_layer
    return spread(gains, sizes, share)


def mixed(weight: Tensor, bits: Tensor) -> Tensor:
    """Round weights [O, K] to the widths [O] of their channels."""
    return torch.where((bits == WIDE)[:, None], rounded(weight, WIDE), rounded(weight, NARROW))


def by_channel(gains: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], share: float) -> dict[str, Tensor]:
    """Widen the channels of the largest gain per weight, until `share` of the weights are wide."""
    outputs = [shape[0] for shape in shapes.values()]
    taken = np.concatenate([np.full(shape[0], shape[1]) for shape in shapes.values()])
    gain = np.concatenate([gains[name].double().numpy() for name in shapes])
    order = np.argsort(-gain / taken, kind="stable")
    wide = np.zeros(len(taken), dtype=bool)
    wide[order] = taken[order].cumsum() <= share * taken.sum()
    return _named(wide, shapes, outputs)


def by_layer(gains: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], share: float) -> dict[str, Tensor]:
    """Widen the layers of the largest gain together, at most `share` of the weights, by integer programming."""
    taken: FloatArray = np.array([shape.numel() for shape in shapes.values()], dtype=np.float64)
    gain = np.array([float(gains[name].sum()) for name in shapes])
    kept = LinearConstraint(taken[None] / taken.sum(), ub=share)
    solved = milp(-gain / np.abs(gain).max(), integrality=1, bounds=Bounds(0, 1), constraints=[kept])
    outputs = [shape[0] for shape in shapes.values()]
    return _named(np.repeat(solved.x.round().astype(bool), outputs), shapes, outputs)


def _named(wide: np.ndarray, shapes: Mapping[str, torch.Size], outputs: list[int]) -> dict[str, Tensor]:
    bits = torch.where(torch.tensor(wide), WIDE, NARROW)
    return {name: part.clone() for name, part in zip(shapes, bits.split(outputs), strict=True)}


def _lost(weight: Tensor) -> Tensor:
    """What weights [O, K] lose at 2 and at 4 bits: [2, O, K]."""
    weight = weight.detach().float()
    return torch.stack([rounded(weight, bits) - weight for bits in (NARROW, WIDE)])
