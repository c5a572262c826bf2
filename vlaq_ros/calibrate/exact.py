"""True forward passes with one output channel quantized and all else at full precision."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vlaq_ros.calibrate.noise import noise
from vlaq_ros.calibrate.probe import Probe, layers, shapes
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.students import student

_WEIGHTS = 140_000_000  # times observations that a pass may take: those of large policies would be days


def spread(probe: Probe, most: int) -> range:
    """Choose observations for passes, from the whole buffer: at most so many, and fewer of a large network."""
    count, weights = len(probe.buffer.observations), sum(shape.numel() for shape in shapes(probe.network).values())
    kept = min(most, max(2, _WEIGHTS // weights))
    return range(0, count, math.ceil(count / kept))


def deviations(
    probe: Probe, layer: str, channels: Sequence[int], bits: int, rows: Sequence[int] | None = None
) -> Tensor:
    """Run the network once for each of C channels, with that channel alone at a width.

    Args:
        probe: the network and its observations.
        layer: name of a quantized linear.
        channels: its output channels.
        bits: one of `storage.WIDTHS`.
        rows: the observations to run; None for all.

    Returns:
        [C, N, T] float64, |A~ - A*|: how far each step of each chunk is off, in normalised actions.
    """
    plain = layers(probe.network)[layer]
    plain_rows = plain.weight[list(channels)]
    rounded = plain_rows + noise(plain_rows)[WIDTHS.index(bits)]
    teacher = (probe.teacher if rows is None else probe.teacher[list(rows)]).double()
    candidate = copy.deepcopy(plain)
    network = student(probe.network, {layer: candidate})
    off = []
    for channel, row in zip(channels, rounded, strict=True):
        candidate.weight.data[channel] = row
        off.append(torch.linalg.vector_norm(probe.actions(network, rows=rows).double() - teacher, dim=-1))
        candidate.weight.data[channel] = plain.weight[channel]
    return torch.stack(off)


def exact(probe: Probe, layer: str, channels: Sequence[int], bits: int, rows: Sequence[int] | None = None) -> Tensor:
    """Give the sensitivity of C channels at a width by its definition (Eq. 4 of arXiv 2602.03782): [C] float64."""
    return single_step(deviations(probe, layer, channels, bits, rows))


def single_step(deviations: Tensor) -> Tensor:
    """Add up |A~ - A*|^2 over a chunk (Eq. 4) and average over observations: [..., N, T] to [...]."""
    return deviations.square().sum(dim=-1).mean(dim=-1)


def cumulative(deviations: Tensor) -> Tensor:
    """Add up |A~_t - A*_t| over time (Eq. 5 of arXiv 2602.03782) and average over trajectories: [..., N, T] to [...].

    A trajectory is a rollout, where there is an environment to roll out in; from a buffer alone, it is the chunk.
    """
    return deviations.sum(dim=-1).mean(dim=-1)
