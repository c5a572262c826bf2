"""What weights lose when they are rounded to nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.students import effective
from vlaq_ros.quant.codes import quantize


def noise(weight: Tensor) -> Tensor:
    """Give Q_b(W) - W of weights [O, K] for every width of `storage.WIDTHS`: [4, O, K] float32.

    With 8 and 4 bits Q_b(W) is what `quant.codes` stores; 16 bits count as exact, and with 0 the whole row is lost.
    """
    weight = weight.detach().float()
    losses = torch.zeros(len(WIDTHS), *weight.shape, device=weight.device)
    for index, bits in enumerate(WIDTHS):
        if bits < 16:
            losses[index] = effective(quantize(weight, torch.full((1, len(weight)), bits)), 0) - weight
    return losses
