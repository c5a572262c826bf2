"""Nested weight codes: one 8-bit code per weight, stored as two nibble planes, readable with 8 or with 4 bits.

A row of rotated weights w' (`hadamard.rotate`) is divided into 256 equal bins over [-max|w'|, max|w'|]; the code is the
number of the bin. Its four high bits are, by themselves, the number of one of 16 bins over the same interval: the 4-bit
code is nested in the 8-bit one (the idea of MatQuant, arXiv 2502.06786, without training). Either code stands for the
centre of its bin (mid-rise), with s = max|w'| / 128 per output channel:

    value = ((code >> (8 - bits)) - 2^(bits - 1) + 0.5) * 2^(8 - bits) * s

Dropping the low bits and keeping the corner of the bin instead would cost 5 dB. Narrowing the interval to c max|w'|
helps 4 bits and harms 8; c is chosen per row so that the product of the errors of the widths in use is least. That is
c = 1 for every row of every distribution tried as soon as 8 bits are read somewhere, and less where only 4 are. Signal
to noise in dB, after rotation, with 8 / 4 bits:

                                  c = 1         c = 0.9       4 bits alone, c per row
    models/tabletop_pi0           43.7 / 19.6   30.7 / 19.7   20.0
    normal, K = 128               43.8 / 19.7   30.5 / 19.8   20.0
    normal, K = 2048              41.7 / 17.6   38.0 / 18.5   19.4
    Laplace, K = 2048             41.6 / 17.5   37.9 / 18.3   19.3
    Student's t (5), K = 2048     41.5 / 17.4   37.8 / 18.2   19.2
    0.1 % outliers x 10, K = 2048 41.1 / 17.0   37.4 / 17.9   18.8

There is no 2-bit width: with c per row it reaches 9.2 dB on models/tabletop_pi0 and 8.4 dB on normal rows of 2048, an
error of a third of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from vlaq_ros.quant.hadamard import block_size, padded, rotate
from vlaq_ros.quant.rounding import Rounding, nearest

_CLIPS = torch.linspace(1, 0.7, 7)  # of max|w'|, tried for rows that only 4 bits are read of


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Neighbouring stored rows that are read with the same widths."""

    rows: int
    bits: tuple[int, ...]  # one per Precision, finest first: 8, 4 or 0, never rising


@dataclass(frozen=True, slots=True)
class NestedWeight:
    """The codes of one linear layer; every Precision reads its widths from the same bytes.

    A byte of a plane holds two nibbles, one from each half of the row: feature k in its high nibble and feature
    k + K'/2 in its low nibble. Rows are stored by falling widths, so those that have low nibbles come first. Output
    channels that are neither in `rows` nor in `half_rows` are pruned: their weights are 0.
    """

    hi: Tensor  # [R, K'/2] uint8: bits 7..4 of the codes
    lo: Tensor  # [R8, K'/2] uint8: bits 3..0 of the first rows, which some Precision reads with 8 bits
    scale: Tensor  # [P, R] float32: s for every Precision; they differ only after calibration
    rows: Tensor  # [R] int32: the output channel of every stored row
    half: Tensor  # [R16, K] float16 or bfloat16: channels with 16 bits in every Precision, not rotated
    half_rows: Tensor  # [R16] int32: their output channels
    groups: tuple[RowGroup, ...]  # of the stored rows, in order
    in_features: int  # K; K' is `hadamard.padded(K)`
    out_features: int  # O
    block: int  # of the rotation


def quantize(weight: Tensor, widths: Tensor | None = None, rounding: Rounding | None = None) -> NestedWeight:
    """Give every weight its code.

    Args:
        weight: [O, K] floating point, finite: there is no code for a NaN.
        widths: [P, O] integers, the width of every output channel in every Precision, finest first: 8, 4 or 0 (pruned)
            and never rising, or 16 in all. By default 8 and 4 for all channels.
        rounding: chooses the codes; by default every code is the nearest.

    Raises:
        ValueError: `widths` has another shape or other values.
    """
    outputs, features = weight.shape
    if widths is None:
        widths = torch.tensor([[8], [4]]).expand(2, outputs)
    channels = _checked(widths, outputs)
    stored = [o for o, bits in enumerate(channels) if bits[0] in (8, 4)]
    stored.sort(key=channels.__getitem__, reverse=True)
    groups = tuple(RowGroup(len(list(run)), bits) for bits, run in groupby(channels[o] for o in stored))
    rows = torch.tensor(stored, dtype=torch.int32)
    half_rows = torch.tensor([o for o, bits in enumerate(channels) if bits[0] == 16], dtype=torch.int32)

    block = block_size(features)
    rotated = rotate(weight.detach()[rows].float(), block)
    scale = rotated.abs().amax(dim=1) / 128
    fine_rows = sum(group.rows for group in groups if group.bits[0] == 8)
    scale[fine_rows:] = _clipped(rotated[fine_rows:], scale[fine_rows:])
    in_bins = _in_bins(rotated, scale)
    code = nearest(in_bins) if rounding is None else rounding(in_bins, widths[:, rows])
    return NestedWeight(
        hi=join(code >> 4),
        lo=join(code[:fine_rows] & 0x0F),
        scale=scale.repeat(len(widths), 1),
        rows=rows,
        half=weight.detach()[half_rows].to(weight.dtype if weight.dtype == torch.bfloat16 else torch.float16),
        half_rows=half_rows,
        groups=groups,
        in_features=features,
        out_features=outputs,
        block=block,
    )


def _checked(widths: Tensor, outputs: int) -> list[tuple[int, ...]]:
    """Give the widths of every output channel, finest Precision first."""
    if widths.ndim != 2 or widths.shape[1] != outputs:
        raise ValueError(f"widths have shape {tuple(widths.shape)}, expected [precisions, {outputs}]")
    channels = [tuple(bits) for bits in widths.T.tolist()]
    for bits in set(channels):
        if set(bits) != {16} and not (set(bits) <= {8, 4, 0} and sorted(bits, reverse=True) == list(bits)):
            raise ValueError(f"a channel has widths {bits}, expected 8, 4 or 0 and never rising, or 16 in all")
    return channels


def _in_bins(rotated: Tensor, scale: Tensor) -> Tensor:
    return rotated / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]


def _clipped(rotated: Tensor, scale: Tensor) -> Tensor:
    """Give the scale [R], out of fractions of `scale`, with which the 4-bit values of a row are nearest to it."""
    candidates = _CLIPS[:, None] * scale
    errors = [
        (dequantize(signed(nearest(_in_bins(rotated, each)) >> 4, None), 4, each) - rotated).square().sum(dim=1)
        for each in candidates
    ]
    return candidates.gather(0, torch.stack(errors).argmin(dim=0, keepdim=True))[0]


def join(nibbles: Tensor) -> Tensor:
    """Put [R, K'] nibbles into a plane [R, K'/2]."""
    first, second = nibbles.chunk(2, dim=1)
    return (first << 4) | second


def nibbles(plane: Tensor) -> Tensor:
    """Read a plane [R, K'/2]: [R, K'] uint8, 0 to 15."""
    return torch.cat([plane >> 4, plane & 0x0F], dim=1)


def signed(high: Tensor, low: Tensor | None) -> Tensor:
    """Give code - 2^(bits - 1) as int8, of 8-bit codes or, without low nibbles, of 4-bit codes."""
    if low is None:
        return high.view(torch.int8) - 8
    return (((high << 4) | low) ^ 0x80).view(torch.int8)


def dequantize(code: Tensor, bits: int, scale: Tensor) -> Tensor:
    """Give the values that signed codes [R, K'] stand for, with the scale of every row [R]: [R, K'] float32."""
    return (code + 0.5) * (scale * 2.0 ** (8 - bits))[:, None]


def decode(weight: NestedWeight, precision: int) -> Tensor:
    """Give the weights that a Precision reads, in rotated space: [O, K'] float32."""
    values = torch.zeros(weight.out_features, padded(weight.in_features), device=weight.hi.device)
    values[weight.half_rows] = rotate(weight.half.float(), weight.block)
    first = 0
    for group in weight.groups:
        span, bits = slice(first, first + group.rows), group.bits[precision]
        first += group.rows
        if bits:
            low = nibbles(weight.lo[span]) if bits == 8 else None
            code = signed(nibbles(weight.hi[span]), low)
            values[weight.rows[span]] = dequantize(code, bits, weight.scale[precision, span])
    return values
