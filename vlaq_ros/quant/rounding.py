"""How rotated weights become codes: each by itself, or each making up for the errors of those before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rounding = Callable[[Tensor, Tensor], Tensor]
"""Give the codes, [R, K'] uint8, of weights [R, K'] in units of their row's 8-bit bin, read with widths [P, R]."""

_COLUMNS = 32  # whose errors are carried on to the columns behind them in one product
_DAMPING = 0.01  # of the mean second moment: features that were never active must not be divided by


def nearest(weight: Tensor) -> Tensor:
    """Give the code, uint8, of the bin that holds a weight in units of 8-bit bins: the nearest value at every width."""
    return (torch.floor(weight) + 128).clamp_(0, 255).to(torch.uint8)


def feedback(moment: Tensor) -> Rounding:
    """Round column by column, carrying the error of the layer's output on to the columns to come.

    This is GPTQ (arXiv 2210.17323) for codes that are read with two widths, as MatGPTQ (arXiv 2602.03537) has it:
    either width carries its own error, and a code is the one that costs least over the widths in use. A 4-bit error
    counts in units of four 8-bit bins: halfway between its own bin of 16, with which 4 bits gain little, and the 8-bit
    bin, with which 8 bits lose much. Signal to noise on models/tabletop_pi0 in dB, 8 / 4 bits (moments from 6 episodes,
    30 observations of 6 others; activations in 8 bits for the actions and exact for the layers' outputs):

        unit of a 4-bit error    actions        layers
        (nearest codes)          41.9 / 19.6    45.4 / 21.2
        16 bins                  45.7 / 19.9    54.8 / 22.4
        8                        45.2 / 22.2    51.1 / 24.1
        4: as here               41.2 / 26.0    46.1 / 26.8
        2                        40.2 / 27.6    41.5 / 29.7
        1                        34.6 / 28.1    38.4 / 31.4
        4 bits first             34.0 / 28.6    35.7 / 32.0

    Args:
        moment: [K', K'], the mean of x' x'^T over the layer's rotated activations.
    """
    factor = inverse_factor(moment).float()

    def round_columns(weight: Tensor, widths: Tensor) -> Tensor:
        rows, features = weight.shape
        # A column is a line of memory: what remains of its rows to be represented with 8 bits, then with 4.
        left = weight.T.repeat(1, 2)
        used = torch.stack([(widths == bits).any(dim=0) for bits in (8, 4)]).float()
        costs = used * torch.tensor([[1.0], [1 / 4**2]])
        codes = torch.empty(features, rows, dtype=torch.uint8)
        for start in range(0, features, _COLUMNS):
            stop = min(start + _COLUMNS, features)
            errors = torch.empty(stop - start, 2 * rows)
            for k in range(start, stop):
                codes[k], values = cheapest(left[k].view(2, rows), costs)
                torch.sub(left[k], values.flatten(), out=errors[k - start]).div_(factor[k, k])
                left[k + 1 : stop].addr_(factor[k, k + 1 : stop], errors[k - start], alpha=-1)
            left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)
        return codes.T.contiguous()

    return round_columns


def inverse_factor(moment: Tensor) -> Tensor:
    """Give the upper Cholesky factor of the inverse of damped second moments [K, K]: [K, K] float64."""
    damped = moment.to(torch.float64, copy=True)
    diagonal = damped.diagonal()
    diagonal += _DAMPING * diagonal.mean().clamp_min(torch.finfo(torch.float32).tiny)
    # From the last feature to the first, the inverse of the lower factor is the upper factor of the inverse.
    lower = torch.linalg.cholesky(damped.flip(0, 1))
    one = torch.eye(len(moment), dtype=torch.float64, device=moment.device)
    inverse: Tensor = torch.linalg.solve_triangular(lower, one, upper=False)
    return inverse.flip(0, 1)


def cheapest(wanted: Tensor, costs: Tensor) -> tuple[Tensor, Tensor]:
    """Choose among the codes of one column.

    The cost is convex in the high nibble. It is least for that of the nearest 8-bit code, or on the side of the 4-bit
    value: all codes there have the low nibble next to the 8-bit value, and the cost is a parabola in the high one.

    Args:
        wanted: [2, R], the values that should be stored for 8 and for 4 bits.
        costs: [2, R], of a squared error in either of them; not both 0.

    Returns:
        The codes [R], and the values [2, R] that they stand for.
    """
    at_8, at_4 = torch.floor((wanted + 128) / 16).clamp_(0, 15)
    edge = torch.where(at_4 > at_8, 127.5, 112.5)
    vertex = (costs[0] * (wanted[0] + edge) + costs[1] * (wanted[1] + 120)) / (16 * costs.sum(dim=0))
    high = 16 * torch.stack([at_8, vertex.round().clamp_(0, 15)])  # [2 candidates, R]
    code = high + torch.floor(wanted[0] + 128 - high).clamp_(0, 15)
    values = torch.stack([code - 127.5, high - 120])  # [2, 2 candidates, R]
    errors = ((wanted[:, None] - values).square() * costs[:, None]).sum(dim=0)
    second = errors[1] < errors[0]
    return torch.where(second, code[1], code[0]).to(torch.uint8), torch.where(second, values[:, 1], values[:, 0])
