"""How a rotated weight becomes a code."""

from __future__ import annotations

from collections.abc import Callable

import torch

Rounding = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Gives codes [R, K'] uint8 for weights [R, K'] in units of their row's 8-bit bin and widths [P, R] of the rows."""


def nearest(weight: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """Give the code of the bin that holds the weight: the nearest value at every width."""
    del widths
    return (torch.floor(weight) + 128).clamp_(0, 255).to(torch.uint8)
