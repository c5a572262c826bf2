"""What lies between the linears of a layer, as operators that are one call and one pass over memory on a CPU.

There the native library implements them (`quant/kernels/native/fused.cpp`); a small layer is otherwise spent on calling
some twenty operators of torch. Everywhere else, and under torch.compile, they are composed of torch's as written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x.float(), weight.shape, weight, eps).to(x.dtype)


def _gelu(x: Tensor, gated: bool) -> Tensor:
    if not gated:
        return functional.gelu(x, approximate="tanh")
    gate, up = x.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up


def _write_heads(projected: Tensor, cos: Tensor, sin: Tensor, written: Tensor) -> Tensor:
    heads = projected.unflatten(-1, cos.shape[1:])
    turned = torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
    query, key_value = turned.tensor_split([-written.shape[2]], dim=2)
    written.copy_(key_value)
    return query


def _define(name: str, signature: str, composed: Callable[..., Tensor]) -> Any:
    torch.library.define(f"vlaq::{name}", signature)
    torch.library.impl(f"vlaq::{name}", "CompositeImplicitAutograd", composed)
    torch.library.impl(f"vlaq::{name}", "AutogradCPU", composed)  # the native one has no gradient; calibration asks
    return getattr(torch.ops.vlaq, name).default


# x / rms(x) * weight in float32: [..., D] in any float type and [D] float32 to [..., D] in the type of x.
rms_norm = _define("rms_norm", "(Tensor x, Tensor weight, float eps) -> Tensor", _rms_norm)

# GELU in its tanh form: [..., F] to the same; gated, [..., 2 F] to that of the first half times the second: [..., F].
gelu = _define("gelu", "(Tensor x, bool gated) -> Tensor", _gelu)

# Turn the heads of [B, n, heads * D] by cos and sin [n, heads, D] (sin negative in the first half of a head), write the
# last of them to `written` [B, n, G, D], and give those before: [B, n, heads - G, D].
write_heads = _define(
    "write_heads", "(Tensor projected, Tensor cos, Tensor sin, Tensor(a!) written) -> Tensor", _write_heads
)
