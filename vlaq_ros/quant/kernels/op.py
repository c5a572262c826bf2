"""The one operator of the package: a linear layer over nested codes, its activations quantized inside.

`vlaq::nested_linear(x, hi, lo, scale, rows, bias, groups, block, out_features)`, declared here so that `torch.compile`
and `torch.export` know its shapes; `select` registers one implementation per device.

    x             [..., K] float32, bfloat16 or float16, any strides, any number of rows; K <= K', zeros are appended
    hi, lo        planes of `codes.NestedWeight`: [R, K'/2] in the layout "rows", [T, K''/64, 512] in "tiles"
    scale         [R] float32 ([16 T] in "tiles", 0 for padding)
    rows          [R] int32 ([16 T], -1 for padding): the output of every stored row; None: stored row r is output r
    bias          [out_features] floating point, or None
    groups        (units, bits) pairs in stored order; a unit is a row, or a tile of 16; bits are 8, 4 or 0 (not read)
    block         of the Hadamard rotation
    -> y          [..., out_features] in the dtype of x; outputs without a stored row are their bias, or 0

The arithmetic is the same in every implementation, to the bit; `reference` spells it out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

NAME = "vlaq::nested_linear"

torch.library.define(
    NAME,
    "(Tensor x, Tensor hi, Tensor lo, Tensor scale, Tensor? rows, Tensor? bias, int[] groups, int block, "
    "int out_features) -> Tensor",
)


def _shape(  # noqa: PLR0917 - the operator's schema
    x: Tensor,
    hi: Tensor,
    lo: Tensor,
    scale: Tensor,
    rows: Tensor | None,
    bias: Tensor | None,
    groups: list[int],
    block: int,
    out_features: int,
) -> Tensor:
    del hi, lo, scale, rows, bias, groups, block
    return x.new_empty((*x.shape[:-1], out_features))


torch.library.register_fake(NAME, _shape)

nested_linear = torch.ops.vlaq.nested_linear.default


def runs(groups: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Give (first unit, units, bits) of the stretches of stored units that are read with one width."""
    first = 0
    for bits, run in groupby(zip(groups[::2], groups[1::2], strict=True), key=itemgetter(1)):
        count = sum(units for units, _ in run)
        if bits and count:
            yield first, count, bits
        first += count
