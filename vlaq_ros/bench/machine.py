"""The machine as a roofline: what kind it is, how fast it reads and how fast it multiplies, both measured."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from vlaq_ros.bench.timing import Call, WallClock
from vlaq_ros.quant.codes import quantize
from vlaq_ros.quant.kernels.select import Kernel
from vlaq_ros.quant.linear import NestedLinear

_CPU = Path("/sys/devices/system/cpu/cpu0")
_CPUINFO = Path("/proc/cpuinfo")
_UNKNOWN_CACHE_BYTES = 64 * 2**20  # where the system does not tell: more than most have
_INSTRUCTIONS = (  # that decide about integer and bf16 products
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimddp", "i8mm", "bf16", "sve"),
)
_PEAK_SIDE = 1024  # of the products that are timed for the peak, on a CPU
_CUDA_SIDE = 8192
_PATIENCE_S = 0.3  # for one figure


@dataclass(frozen=True, slots=True)
class Machine:
    """A class of machines, not one of them."""

    device: str  # "cpu" or "cuda"
    name: str  # as the processor calls itself
    instructions: tuple[str, ...]  # of a CPU, those that matter here
    frequency: str  # what the system tells of it
    caches_bytes: dict[str, int]  # level -> bytes, smallest first; a private cache once


@dataclass(frozen=True, slots=True)
class Roof:
    """What bounds a product on this machine at a number of threads; all measured."""

    threads: int
    read_bytes_s: dict[str, float]  # level of memory -> bytes per second
    operations_s: dict[str, float]  # "fp32", "bf16", "int8" (widest first) -> per second, a multiply-add counts 2

    def bound_s(self, *, read_bytes: float, operations: float, kind: str, level: str = "memory") -> float:
        """Give the least time for a work on data in a level of memory (Williams, Waterman and Patterson, CACM 2009).

        Numbers may be multiplied as wider ones, which is what counts where the narrower have no instructions.
        """
        kinds = list(self.operations_s)
        peak = max(self.operations_s[wider] for wider in kinds[: kinds.index(kind) + 1])
        return max(read_bytes / self.read_bytes_s[level], operations / peak)


def identify(device: torch.device) -> Machine:
    """Read what the system says of its processor."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Machine("cuda", properties.name, (), "not read", {"L2": properties.L2_cache_size})
    facts = dict(_fact(line) for line in _CPUINFO.read_text(encoding="utf-8").splitlines() if ":" in line)
    flags = (facts.get("flags") or facts.get("Features", "")).split()
    governor = _CPU / "cpufreq/scaling_governor"
    return Machine(
        "cpu",
        facts.get("model name", platform.machine()),
        tuple(name for name in _INSTRUCTIONS if name in flags),
        f"governor {governor.read_text(encoding='utf-8').strip()}" if governor.is_file() else "governor not readable",
        _caches() or {"L3": _UNKNOWN_CACHE_BYTES},
    )


def measure(device: torch.device, machine: Machine, kernel: Kernel, threads: int) -> Roof:
    """Time reading and multiplying; the caller has pinned the threads.

    The peak of a kind is the best that any product reached: of integers, torch's own or this package's kernel with
    4-bit weights, which some processors multiply faster than 8-bit ones.
    """
    last = max(machine.caches_bytes.values())
    sizes = {level: size // 2 // (threads if size == last else 1) for level, size in machine.caches_bytes.items()}
    return Roof(
        threads,
        {level: _read_bytes_s(device, size, threads) for level, size in (sizes | {"memory": 4 * last}).items()},
        _operations_s(device, kernel),
    )


def _fact(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _caches() -> dict[str, int]:
    """Level -> bytes of the caches that hold data, beyond the first level."""
    found = {}
    for index in sorted((_CPU / "cache").glob("index*")):
        level, kind, size = ((index / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and level != "1":
            found[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return found


def _read_bytes_s(device: torch.device, size: int, threads: int) -> float:
    """Sum an array of `size` bytes for each thread, as often as makes one call long."""
    repeats = max(1, 2**26 // size)
    values = torch.ones(threads, 1, size // 4, device=device)
    read = values.expand(threads, repeats, size // 4)
    return read.numel() * 4 / _least_s(lambda: read.sum(dim=2), device)


@torch.inference_mode()
def _operations_s(device: torch.device, kernel: Kernel) -> dict[str, float]:
    side = _CUDA_SIDE if device.type == "cuda" else _PEAK_SIDE
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    a16, b16 = a.bfloat16(), b.bfloat16()
    nested = NestedLinear(quantize(torch.randn(side, side)), None, 1, 8, kernel).to(device)
    products: dict[str, list[Call]] = {
        "fp32": [lambda: a @ b.t()],
        "bf16": [lambda: a16 @ b16.t()],
        "int8": [_int8_product(device, side), lambda: nested(a)],
    }
    return {kind: 2 * side**3 / min(_least_s(product, device) for product in each) for kind, each in products.items()}


def _int8_product(device: torch.device, side: int) -> Call:
    """Torch's fastest product of integers, without quantization: oneDNN's on a CPU, cuBLAS's on CUDA."""
    a, b = (torch.randint(-127, 128, (side, side), dtype=torch.int8, device=device) for _ in range(2))
    if device.type == "cuda":
        return lambda: torch._int_mm(a, b.t())
    onednn = torch.ops.onednn
    packed = onednn.qlinear_prepack(b, None)
    one, zeros, unsigned = torch.ones(side), torch.zeros(side, dtype=torch.int32), (a.short() + 128).to(torch.uint8)
    return lambda: onednn.qlinear_pointwise.default(
        unsigned, 1.0, 128, packed, one, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


def _least_s(call: Call, device: torch.device) -> float:
    """The shortest of some calls: a peak is what the machine can do when nobody disturbs it."""
    clock = WallClock([call], device)
    first_s = clock.sample_s(0)
    calls = max(1, min(20, round(_PATIENCE_S / first_s)))
    return min(clock.sample_s(turn) for turn in range(calls))
