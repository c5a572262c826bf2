"""The kernel that quantized layers run on here; imported only where torch is installed."""

from __future__ import annotations

import torch

from vlaq_ros.doctor.finding import Finding, fail, ok, warn
from vlaq_ros.quant.codes import quantize
from vlaq_ros.quant.kernels import select
from vlaq_ros.quant.kernels.select import Kernel
from vlaq_ros.quant.linear import NestedLinear


def kernel() -> Finding:
    """Choose the kernel as the engine does and multiply with it, which compiles it for this very machine."""
    device, error = torch.device("cuda" if torch.cuda.is_available() else "cpu"), ""
    chosen = select.chosen(device)
    try:
        layer = NestedLinear(quantize(torch.eye(64)), None, 0, 8, chosen).to(device)
        layer(torch.ones(2, 64, device=device)).sum().item()
    except Exception as caught:  # whatever a compiler or a driver raises
        error = f"{type(caught).__name__}: {str(caught).partition(chr(10))[0]}"
    return judge(chosen, error)


def judge(chosen: Kernel, error: str) -> Finding:
    """Judge the kernel that was chosen, and what a first product with it said."""
    said = f"{chosen.name}: {chosen.why}"
    if error:
        remedy = f"reinstall torch and triton for this machine; until then {select.ENVIRONMENT}=reference runs, slowly"
        return fail("kernel", f"{said} A first product says: {error}", "a product", remedy)
    if chosen.name == "reference":
        remedy = f"on a CPU install g++, on CUDA triton; see that {select.ENVIRONMENT} is not set"
        return warn("kernel", said, "a native kernel, which is many times faster", remedy)
    return ok("kernel", said)
