"""The device code of `cuda`, in Triton; importing it needs triton, running it a GPU (or TRITON_INTERPRET=1).

Bit-equal to `reference` on condition that no product is fused with a sum: launch with `enable_fp_fusion=False`.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # on a CPU, without assembly

LARGEST_BUCKET = 1024  # of rows of activations; above it the best tiles stay the same

TILES = [
    triton.Config({"BLOCK_M": rows, "BLOCK_N": channels, "BLOCK_K": plane_bytes}, num_warps=warps, num_stages=stages)
    for rows, channels, plane_bytes, warps, stages in (
        (16, 16, 256, 2, 4),
        (16, 32, 256, 4, 3),
        (16, 64, 128, 4, 4),
        (32, 32, 128, 4, 4),
        (32, 64, 64, 4, 4),
        (64, 32, 128, 4, 4),
        (64, 64, 64, 4, 4),
        (64, 128, 64, 4, 3),
        (128, 64, 64, 4, 3),
        (128, 128, 64, 8, 3),
    )
]


def bucket(m: int) -> int:
    """Give the class of row counts that share their tuned tiles: a power of two."""
    return min(1 << (m - 1).bit_length(), LARGEST_BUCKET)


def tiles_for_bucket(tiles: list[triton.Config], arguments: dict[str, Any], **_: object) -> list[triton.Config]:
    """Keep the tiles that are neither mostly padding nor would read the planes more than 16 times."""
    rows = max(16, arguments["m_bucket"])
    return [tile for tile in tiles if rows <= 16 * tile.kwargs["BLOCK_M"] <= 16 * rows]


@triton.jit
def quantize(
    x: tl.tensor,
    codes: tl.tensor,
    x_scale: tl.tensor,
    x_sum: tl.tensor,
    stride_row: int,
    stride_k: int,
    k: int,
    FEATURES: tl.constexpr,
    HADAMARD: tl.constexpr,
    LEVELS: tl.constexpr,
    NORM: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Transform row `program_id(0)` of x and round it to `codes` [M, FEATURES] int8, with its scale and its sum."""
    row = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    values = tl.load(x + row * stride_row + column * stride_k, mask=column < k, other=0.0).to(tl.float32)
    # Every level writes its sums before its differences, so that the next stride's pairs become neighbours.
    for _ in tl.static_range(LEVELS):
        even, odd = tl.split(tl.reshape(values, (WIDTH // HADAMARD, HADAMARD // 2, 2)))
        pairs = tl.permute(tl.join(even + odd, even - odd), (0, 2, 1))
        values = tl.reshape(pairs, (WIDTH,))
    # As integers, the bit patterns of |x| are in order, with NaN above infinity: no NaN is lost in the maximum.
    largest_bits = tl.max(values.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=0)
    finite = largest_bits < 0x7F800000
    largest = largest_bits.to(tl.float32, bitcast=True)
    usable = finite & (largest >= 1e-30)
    scaled = tl.where(usable, values * tl.div_rn(127.0, largest), 0.0)
    rounded = (scaled + 12582912.0) - 12582912.0  # 1.5 * 2^23: the addition rounds halves to even
    tl.store(codes + row * FEATURES + column, rounded.to(tl.int8), mask=column < FEATURES)
    tl.store(x_sum + row, tl.sum(rounded.to(tl.int32), axis=0))
    tl.store(x_scale + row, tl.where(finite, tl.div_rn(largest, 127.0) * NORM, float("nan")))


@triton.jit
def fill(y: tl.tensor, x_scale: tl.tensor, bias: tl.tensor | None, out_features: int, BLOCK: tl.constexpr) -> None:
    """Write the bias, or 0, to every output; NaN where the row of activations was not finite."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < out_features
    values = tl.zeros((BLOCK,), tl.float32) + tl.load(x_scale + row) * 0.0
    if bias is not None:
        values += tl.load(bias + column, mask=inside).to(tl.float32)
    tl.store(y + row * out_features + column, values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _load(at: tl.tensor, inside: tl.tensor, MASKED: tl.constexpr) -> tl.tensor:
    return tl.load(at, mask=inside, other=0) if MASKED else tl.load(at)


@triton.jit
def _shift(plane: tl.tensor, UP: tl.constexpr) -> tl.tensor:
    """Move every byte's low nibble up, or its high nibble down; the other nibble is undefined.

    The compiler shifts byte by byte, but handles four at once in every other bit operation.
    """
    if _INTERPRETED:
        moved = plane << 4 if UP else plane >> 4
    else:
        code: tl.constexpr = "shl.b32 $0, $1, 4;" if UP else "shr.u32 $0, $1, 4;"
        moved = tl.inline_asm_elementwise(code, "=r,r", [plane], dtype=tl.uint8, is_pure=True, pack=4)
    return moved


@triton.autotune(
    TILES,
    key=["m_bucket", "count", "HALF", "BITS"],
    prune_configs_by={"early_config_prune": tiles_for_bucket},
    cache_results=True,
)
@triton.jit(do_not_specialize=["m", "m_bucket", "first", "count"])
def multiply(
    codes: tl.tensor,
    x_scale: tl.tensor,
    x_sum: tl.tensor,
    hi: tl.tensor,
    lo: tl.tensor,
    scale: tl.tensor,
    rows: tl.tensor | None,
    bias: tl.tensor | None,
    y: tl.tensor,
    m: int,
    m_bucket: int,  # read by the tuner alone
    first: int,
    count: int,
    out_features: int,
    HALF: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Multiply `codes` [m, 2 HALF] by the stored rows first .. first + count - 1, read with BITS, into y.

    HALF is constant so that the alignment of every row is known: without it, loads would be single bytes.
    """
    # The first axis runs fastest: programs that read the same weights run together.
    row_m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = row_m < m, row_n < count
    token = tl.where(in_m, row_m, 0)  # tiles beyond the edge read something that exists
    stored = first + tl.where(in_n, row_n, 0)
    column = tl.arange(0, BLOCK_K)
    codes_at = codes + token[:, None] * (2 * HALF) + column[None, :]
    plane_at = stored[None, :].to(tl.int64) * HALF + column[:, None]
    MASKED: tl.constexpr = HALF % BLOCK_K != 0

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for start in range(0, HALF, BLOCK_K):
        inside = start + column < HALF
        x_first = _load(codes_at + start, inside[None, :], MASKED)
        x_second = _load(codes_at + start + HALF, inside[None, :], MASKED)
        high = _load(hi + plane_at + start, inside[:, None], MASKED)
        w_first, w_second = high & 0xF0, _shift(high, True) & 0xF0
        if BITS == 8:
            low = _load(lo + plane_at + start, inside[:, None], MASKED)
            w_first |= _shift(low, False) & 0x0F
            w_second |= low & 0x0F
        # The flipped sign bit subtracts 128: signed codes, those of 4 bits times 16.
        total = tl.dot(x_first, (w_first ^ 0x80).to(tl.int8, bitcast=True), total)
        total = tl.dot(x_second, (w_second ^ 0x80).to(tl.int8, bitcast=True), total)
    if BITS == 4:
        total >>= 4

    row_sum = tl.load(x_sum + token).to(tl.float32)
    row_scale = tl.load(x_scale + token)
    channel_scale = tl.load(scale + stored) * 2.0 ** (8 - BITS)
    values = (total.to(tl.float32) + 0.5 * row_sum[:, None]) * (row_scale[:, None] * channel_scale[None, :])
    output = stored if rows is None else tl.load(rows + stored)
    if bias is not None:
        values += tl.load(bias + output).to(tl.float32)[None, :]
    at = y + token[:, None].to(tl.int64) * out_features + output[None, :]
    tl.store(at, values.to(y.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])
