"""Which implementation of the operator runs on a device: chosen and registered once per process."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from vlaq_ros.errors import KernelBuildError
from vlaq_ros.quant.kernels import cpu, cuda, op, reference

ENVIRONMENT = "VLAQ_KERNEL"  # "reference": use it whatever the machine offers

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The implementation in force for a type of device."""

    name: str  # "x86 avx2", "x86 avx512-vnni + amx", "aarch64 sdot", "triton" or "reference"
    layout: Literal["rows", "tiles"]  # of the planes that it reads
    why: str  # one sentence


def chosen(device: torch.device) -> Kernel:
    """Give the kernel for a device, building or compiling it where that is due.

    CUDA has Triton and a CPU the native library; the reference stands in where those are missing, on other devices, and
    where the environment variable VLAQ_KERNEL is "reference".
    """
    return _chosen(device.type)


@cache
def _chosen(device_type: str) -> Kernel:
    if os.environ.get(ENVIRONMENT) == "reference":
        return _reference(device_type, f"The environment variable {ENVIRONMENT} asks for it.")
    if device_type == "cuda":
        if not cuda.available():
            return _reference(device_type, "The Python module triton is not installed.")
        torch.library.register_kernel(op.NAME, device_type, cuda.nested_linear)
        return Kernel("triton", "rows", "The device is a CUDA GPU and triton is installed.")
    if device_type == "cpu":
        try:
            isa = cpu.load()  # registers itself
        except KernelBuildError as error:
            _log.warning("the reference kernel is used, which is slow: %s", error)
            return _reference(device_type, str(error))
        return Kernel(isa, "tiles", "The native library runs on this processor.")
    return _reference(device_type, f"No other kernel runs on {device_type} devices.")


def _reference(device_type: str, why: str) -> Kernel:
    torch.library.register_kernel(op.NAME, device_type, reference.nested_linear)
    return Kernel("reference", "rows", why)
