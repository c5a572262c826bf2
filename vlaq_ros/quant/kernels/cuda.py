"""The operator on CUDA GPUs: three Triton kernels, tuned on the machine at hand."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from vlaq_ros.quant.kernels import op

if find_spec("triton"):
    from vlaq_ros.quant.kernels import triton_kernels as kernels

_FILL_BLOCK = 1024


def available() -> bool:
    """Say whether triton is installed; builds of torch for CUDA bring it."""
    return find_spec("triton") is not None


def nested_linear(  # noqa: PLR0917 - the operator's schema
    x: Tensor,
    hi: Tensor,
    lo: Tensor,
    scale: Tensor,
    rows: Tensor | None,
    bias: Tensor | None,
    groups: Sequence[int],
    block: int,
    out_features: int,
) -> Tensor:
    """Multiply quantized activations by nested codes; the arguments are `op`'s, in the layout "rows".

    The first call with a new class of sizes (the power of two above the rows of x, by layer shape and width) times the
    tiles, which a CUDA graph cannot record: call once before the capture. Later calls only launch, and never wait.
    """
    y = x.new_empty((*x.shape[:-1], out_features))
    flat = x.reshape(-1, x.shape[-1])
    m, half = len(flat), hi.shape[1]
    if m == 0:
        return y
    hi, lo = hi.contiguous(), lo.contiguous()  # they are, but for a layer of one block fresh from `quantize`
    codes = x.new_empty((m, 2 * half), dtype=torch.int8)
    x_scale = x.new_empty(m, dtype=torch.float32)
    x_sum = x.new_empty(m, dtype=torch.int32)
    width = 1 << (2 * half - 1).bit_length()
    with torch.cuda.device_of(x):
        kernels.quantize[(m,)](
            flat, codes, x_scale, x_sum, *flat.stride(), flat.shape[1],
            FEATURES=2 * half, HADAMARD=block, LEVELS=block.bit_length() - 1, NORM=block**-0.5, WIDTH=width,
            num_warps=min(max(width // 512, 1), 16), enable_fp_fusion=False,
        )  # fmt: skip
        runs = list(op.runs(groups))
        if sum(count for _, count, _ in runs) < out_features:
            kernels.fill[(m, -(-out_features // _FILL_BLOCK))](y, x_scale, bias, out_features, BLOCK=_FILL_BLOCK)
        for first, count, bits in runs:

            def grid(tile: dict[str, int], count: int = count) -> tuple[int, int]:
                return -(-m // tile["BLOCK_M"]), -(-count // tile["BLOCK_N"])

            kernels.multiply[grid](
                codes, x_scale, x_sum, hi, lo, scale, rows, bias, y, m, kernels.bucket(m), first, count, out_features,
                HALF=half, BITS=bits, enable_fp_fusion=False,
            )  # fmt: skip
    return y
