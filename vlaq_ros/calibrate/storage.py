"""Bytes that a quantized linear layer holds, for output channels of given widths: what a budget is spent on.

They are those of `quant.linear.NestedLinear` on a CPU, where rows of equal widths fill whole tiles. On other devices a
layer has no padding and never holds more, so that a budget that is kept here is kept everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vlaq_ros.datatypes import IntArray
from vlaq_ros.quant.kernels.cpu import TILE_ROWS

WIDTHS = (16, 8, 4, 0)  # bits of an output channel in the finest Precision
_PRECISIONS = 2  # that a bundle's scales are for
_TILE_FEATURES = 64
_INDEX_BYTES, _SCALE_BYTES = 4, 4


def row_bytes(in_features: int) -> IntArray:
    """Give the bytes of one row in a full tile, the place in the index included, for every width of `WIDTHS`: [4]."""
    plane = -(-in_features // _TILE_FEATURES) * _TILE_FEATURES // 2
    beside = _PRECISIONS * _SCALE_BYTES + _INDEX_BYTES
    return np.array([2 * in_features + _INDEX_BYTES, 2 * plane + beside, plane + beside, 0])


def layer_bytes(in_features: int, counts: IntArray) -> IntArray:
    """Give the bytes of layers with these numbers of rows of each width, in whichever order.

    Args:
        in_features: K.
        counts: [..., 4], in the order of `WIDTHS`.

    Returns:
        [...]. Rows that are stored in the order of the channels need no index: those of a layer of 8 or of 4 bits
        alone, and of others by chance, which is not counted on here.
    """
    stored = counts.copy()
    stored[..., 1:3] += -stored[..., 1:3] % TILE_ROWS
    held: IntArray = stored @ row_bytes(in_features)
    alone = (counts[..., 1:3] == counts.sum(axis=-1, keepdims=True)).any(axis=-1)
    unneeded: IntArray = alone * _INDEX_BYTES * stored[..., 1:3].sum(axis=-1)
    return held - unneeded


def stored_bytes(in_features: int, widths: Tensor) -> int:
    """Give the bytes of a layer, its bias apart.

    Args:
        in_features: K.
        widths: [O] integers of `WIDTHS`, the finest of every output channel.
    """
    counts = np.array([int((widths == bits).sum()) for bits in WIDTHS])
    _, fine, coarse, _ = counts
    held = int(layer_bytes(in_features, counts))
    if fine and fine + coarse == len(widths) and fine % TILE_ROWS == 0 < coarse and bool((widths[:fine] == 8).all()):
        held -= _INDEX_BYTES * int(fine + coarse + -coarse % TILE_ROWS)  # by chance
    return held


def over_bf16(shapes: Mapping[str, torch.Size], widths: Mapping[str, Tensor]) -> float:
    """Give the bytes of all quantized linears over those in bf16: what `Memory.over_bf16` measures as "linears".

    Args:
        shapes: layer -> (O, K).
        widths: layer -> [O], as `stored_bytes` takes them.
    """
    held = sum(stored_bytes(shape[1], widths[name]) for name, shape in shapes.items())
    return held / sum(2 * shape.numel() for shape in shapes.values())
