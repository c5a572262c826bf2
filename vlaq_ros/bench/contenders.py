"""Every way to run one linear layer that is compared: torch's, what pip installs, and this package's.

Each takes floating-point activations and gives floating-point results; quantizing the activations is part of its time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from vlaq_ros.bench.timing import Call
from vlaq_ros.quant.codes import NestedWeight
from vlaq_ros.quant.kernels import reference
from vlaq_ros.quant.kernels.select import Kernel
from vlaq_ros.quant.linear import NestedLinear

UNAVAILABLE = (
    ImportError,
    RuntimeError,
    AssertionError,
)  # raised by a path where a machine or a shape does not suit it
_GROUP = 64  # features that share a scale, where a path has no scale per channel
_INT8_MM_ROWS = 17  # CUDA's integer product takes no fewer


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer without bias, and its activations."""

    weight: Tensor  # [N, K] float32
    nested: NestedWeight  # the same weights, quantized; on the CPU
    x: Tensor  # [M, K] float32
    kernel: Kernel  # of this package on the device
    dtype: torch.dtype  # in which this package computes there


@dataclass(frozen=True, slots=True)
class Contender:
    """One path.

    `prepare` packs a copy of the weights of its own and gives the call to time. Either may raise one of `UNAVAILABLE`.
    """

    name: str
    weight_bits: int  # of a weight as it is read: 32 (fp32), 16 (bf16), 8 or 4
    kind: str  # of its products, as in `machine.Roof`
    granularity: str  # of its scales, and what else differs
    prepare: Callable[[Layer], Call]

    @property
    def ours(self) -> bool:
        """Whether it is this package's."""
        return self.name.startswith("vlaq ")

    @property
    def rivals(self) -> tuple[int, bool]:
        """Paths for which this is equal do the same work."""
        return self.weight_bits, self.ours


def contenders(device: torch.device, dtype: torch.dtype, *, quick: bool) -> tuple[Contender, ...]:
    """List the paths for a device; a quick list leaves out what is slow, or compiles or imports for seconds."""
    listed = _common() + (_on_cuda() if device.type == "cuda" else _on_cpu())
    return listed if quick else listed + _patient(dtype)


def _common() -> tuple[Contender, ...]:
    channel, token = "weights per channel", "activations per token"
    return (
        Contender("fp32 eager", 32, "fp32", "", _eager(torch.float32)),
        Contender("bf16 eager", 16, "bf16", "", _eager(torch.bfloat16)),
        Contender("vlaq W8A8", 8, "int8", f"{channel}, {token}, rotated", _nested(0, 8)),
        Contender("vlaq W4A8", 4, "int8", f"{channel}, {token}, rotated", _nested(1, 8)),
    )


def _on_cpu() -> tuple[Contender, ...]:
    tensor = "weights per channel, activations per tensor"
    groups = f"weights per group of {_GROUP}"
    return (
        Contender("fp32 prepacked", 32, "fp32", "oneDNN", _prepacked(torch.float32)),
        Contender("bf16 prepacked", 16, "bf16", "oneDNN", _prepacked(torch.bfloat16)),
        Contender("linear_dynamic fbgemm", 8, "int8", f"{tensor} in 7 bits", _linear_dynamic("fbgemm")),
        Contender("linear_dynamic onednn", 8, "int8", tensor, _linear_dynamic("onednn")),
        Contender("onednn.qlinear", 8, "int8", f"{tensor}, quantized by eager torch", _qlinear),
        Contender("_weight_int8pack_mm", 8, "bf16", "weights per channel, bf16 activations", _int8pack),
        Contender("_weight_int4pack_mm_for_cpu", 4, "bf16", f"{groups}, bf16 activations", _int4pack_cpu),
    )


def _on_cuda() -> tuple[Contender, ...]:
    groups = f"weights per group of {_GROUP}, bf16 activations"
    return (Contender("_weight_int4pack_mm", 4, "bf16", groups, _int4pack_cuda),)


def _patient(dtype: torch.dtype) -> tuple[Contender, ...]:
    own = "bf16" if dtype == torch.bfloat16 else "fp32"
    channel, token = "weights per channel", "weights per channel, activations per token"
    return (
        Contender("vlaq W8A16", 8, own, f"{channel}, {own} activations, rotated", _nested(0, 16)),
        Contender("vlaq W4A16", 4, own, f"{channel}, {own} activations, rotated", _nested(1, 16)),
        Contender("vlaq reference W8A8", 8, own, f"{token}, rotated, plain torch", _reference),
        Contender("_int_mm", 8, "int8", f"{token}, quantized by eager torch", _int_mm),
        Contender("_dyn_quant_matmul_4bit", 4, "int8", token, _dynamic4),
        Contender("bf16 torch.compile", 16, "bf16", "", _compiled),
        Contender("torchao W8A8", 8, "int8", token, _torchao("W8A8")),
        Contender("torchao W8A8 torch.compile", 8, "int8", token, _torchao("W8A8", compiled=True)),
        Contender("torchao W4A8", 4, "int8", "weights per group of 32, activations per token", _torchao("W4A8")),
        Contender("torchao W4A16", 4, "bf16", f"weights per group of {_GROUP}", _torchao("W4A16")),
    )


def _eager(dtype: torch.dtype) -> Callable[[Layer], Call]:
    def prepare(layer: Layer) -> Call:
        x, weight = layer.x.to(dtype), layer.weight.to(dtype, copy=True)
        return lambda: linear(x, weight)

    return prepare


def _prepacked(dtype: torch.dtype) -> Callable[[Layer], Call]:
    def prepare(layer: Layer) -> Call:
        mkldnn, x = torch.ops.mkldnn, layer.x.to(dtype)
        weight = mkldnn._reorder_linear_weight(layer.weight.to(dtype), len(x))
        return lambda: mkldnn._linear_pointwise(x, weight, None, "none", [], "")

    return prepare


def _compiled(layer: Layer) -> Call:
    x, weight = layer.x.bfloat16(), layer.weight.bfloat16()
    run = torch.compile(linear, dynamic=False)
    return lambda: run(x, weight)


def _nested(precision: int, activation_bits: int) -> Callable[[Layer], Call]:
    def prepare(layer: Layer) -> Call:
        x = layer.x.to(layer.dtype)
        weight = copy.deepcopy(layer.nested)  # a layout may take the planes as they are
        module = NestedLinear(weight, None, precision, activation_bits, layer.kernel).to(x.device)
        return lambda: module(x)

    return prepare


def _reference(layer: Layer) -> Call:
    x, weight, device = layer.x.to(layer.dtype), layer.nested, layer.x.device
    hi, lo, scale = (plane.to(device, copy=True) for plane in (weight.hi, weight.lo, weight.scale[0]))
    groups = [number for group in weight.groups for number in (group.rows, group.bits[0])]
    return lambda: reference.nested_linear(x, hi, lo, scale, None, None, groups, weight.block, weight.out_features)


def _symmetric(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ordinary 8-bit codes [N, K] int8 and their scale per channel [N]."""
    scale = weight.abs().amax(dim=1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def _int_mm(layer: Layer) -> Call:
    codes, scale = _symmetric(layer.weight)
    x = layer.x.to(layer.dtype)
    if x.is_cuda and len(x) < _INT8_MM_ROWS:
        raise RuntimeError(f"it takes {_INT8_MM_ROWS} rows or more")

    def run() -> Tensor:
        step = x.abs().amax(dim=1, keepdim=True).float() / 127
        return (torch._int_mm((x / step).round().to(torch.int8), codes.t()) * step * scale).to(x.dtype)

    return run


def _linear_dynamic(engine: str) -> Callable[[Layer], Call]:
    def prepare(layer: Layer) -> Call:
        codes, scale = _symmetric(layer.weight)
        with warnings.catch_warnings(action="ignore"):  # torch will drop this kind of tensor
            zeros = torch.zeros(len(scale), dtype=torch.long)
            quantized: Any = torch._make_per_channel_quantized_tensor(codes, scale, zeros, 0)
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine  # the packed weights remember it
        try:
            packed = torch.ops.quantized.linear_prepack(quantized, None)
        finally:
            torch.backends.quantized.engine = before
        return lambda: torch.ops.quantized.linear_dynamic(layer.x, packed, engine == "fbgemm")

    return prepare


def _qlinear(layer: Layer) -> Call:
    codes, scale = _symmetric(layer.weight)
    packed = torch.ops.onednn.qlinear_prepack(codes, None)
    x, zeros, middle = layer.x.to(layer.dtype), torch.zeros(len(scale), dtype=torch.int32), torch.tensor([128])

    def run() -> Tensor:
        step = x.abs().amax().float() / 127
        unsigned = (x / step).round().add_(128).to(torch.uint8)
        output: Tensor = torch.ops.onednn.qlinear_pointwise.tensor(
            unsigned, step, middle, packed, scale, zeros, None, 1.0, 0, x.dtype, "none", [], ""
        )
        return output

    return run


def _int8pack(layer: Layer) -> Call:
    codes, scale = _symmetric(layer.weight)
    x, scale = layer.x.bfloat16(), scale.bfloat16()
    return lambda: torch._weight_int8pack_mm(x, codes, scale)


def _grouped4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """4-bit codes [N, K] int32 with 8 for zero, and [K / group, N, 2] bf16 scales and zeros."""
    outputs, features = weight.shape
    if features % _GROUP:
        raise RuntimeError(f"{features} features are no multiple of {_GROUP}")
    groups = weight.view(outputs, -1, _GROUP)
    scale = groups.abs().amax(dim=2, keepdim=True) / 7
    codes = (groups / scale).round().to(torch.int32) + 8
    scales = scale[:, :, 0].t()
    return codes.view(outputs, features), torch.stack([scales, torch.zeros_like(scales)], dim=2).bfloat16()


def _int4pack_cpu(layer: Layer) -> Call:
    codes, scales = _grouped4(layer.weight)
    x, packed = layer.x.bfloat16(), torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    return lambda: torch._weight_int4pack_mm_for_cpu(x, packed, _GROUP, scales)


def _int4pack_cuda(layer: Layer) -> Call:
    codes, scales = _grouped4(layer.weight)
    packed = torch._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8), 8)
    x = layer.x.bfloat16()
    return lambda: torch._weight_int4pack_mm(x, packed, _GROUP, scales)


def _dynamic4(layer: Layer) -> Call:
    outputs, features = layer.weight.shape
    scale = layer.weight.abs().amax(dim=1, keepdim=True) / 7
    codes = (layer.weight / scale).round().to(torch.uint8) + 8
    both = codes[:, 1::2] << 4 | codes[:, ::2]
    packed = torch.ops.aten._dyn_quant_pack_4bit_weight(both, scale, None, features, features, outputs)
    return lambda: torch.ops.aten._dyn_quant_matmul_4bit(layer.x, packed, features, features, outputs)


def _torchao(scheme: str, *, compiled: bool = False) -> Callable[[Layer], Call]:
    def prepare(layer: Layer) -> Call:
        from torchao import quantization  # noqa: PLC0415  an optional dependency that takes seconds to import

        int4 = torch.int4  # type: ignore[attr-defined]  # torch's annotations lack it
        configuration = {
            "W8A8": quantization.Int8DynamicActivationInt8WeightConfig,
            "W4A8": lambda: quantization.Int8DynamicActivationIntxWeightConfig(weight_dtype=int4),
            "W4A16": lambda: quantization.Int4WeightOnlyConfig(group_size=_GROUP),
        }[scheme]
        x = layer.x.to(layer.dtype)
        outputs, features = layer.weight.shape
        module = torch.nn.Linear(features, outputs, bias=False, device=x.device, dtype=x.dtype)
        module.weight = torch.nn.Parameter(layer.weight.to(x.dtype), requires_grad=False)
        quantization.quantize_(module, configuration())
        run = torch.compile(linear, dynamic=False) if compiled else linear
        return lambda: run(x, module.weight)

    return prepare
