"""What a policy holds: counted to the byte, and measured on the process."""

from __future__ import annotations

import mmap

import torch
from test_pi0 import CPU, assembled, random_policy, tensors, tiny_config
from transformers import PI0Config, PI0ForConditionalGeneration

from vlaq_ros.policy import pi0
from vlaq_ros.policy.memory import Meter
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant import codes
from vlaq_ros.quant.kernels.select import Kernel
from vlaq_ros.quant.linear import NestedLinear, view

ROWS = Kernel("reference", "rows", "It is the one that pads nothing.")


def weights(config: PI0Config) -> tuple[int, int, int]:
    """Numbers in the quantized weights and in all parameters, and rows of the quantized."""
    shapes = pi0.shapes(config)
    quantized = [
        shape for name, shape in shapes.items() if len(shape) == 2 and pi0.is_quantized(name[: -len(".weight")])
    ]
    return (
        sum(map(torch.Size.numel, quantized)),
        sum(map(torch.Size.numel, shapes.values())),
        sum(s[0] for s in quantized),
    )


def quantized(policy: PI0ForConditionalGeneration, kernel: Kernel) -> PI0Network:
    held = dict(tensors(policy))
    linears = {}
    for name in [name.removesuffix(".weight") for name in held]:
        if pi0.is_quantized(name) and f"{name}.weight" in held:
            weight, bias = held.pop(f"{name}.weight"), held.pop(f"{name}.bias", None)
            widths = torch.tensor([[8], [4]], dtype=torch.int32).expand(2, len(weight))
            linears[name] = NestedLinear(codes.quantize(weight, widths), bias, 0, 8, kernel)
    return pi0.assemble(policy.config, held.items(), linears, torch.float32, CPU)


def test_full_precision_in_float32_is_twice_bf16() -> None:
    config = tiny_config()
    linears, everything, _ = weights(config)
    memory = Meter(CPU).read(config, [assembled(random_policy(config))])
    assert (memory.linears, memory.linears_bf16) == (4 * linears, 2 * linears)
    assert memory.all_bf16 == 2 * everything
    assert memory.all == 4 * everything
    assert memory.over_bf16["linears"] == 2
    assert memory.device_growth == 0


def test_two_precisions_hold_the_bytes_of_one() -> None:
    config = tiny_config(width=64, expert_width=32)
    network = quantized(random_policy(config), ROWS)
    one = Meter(CPU).read(config, [network])
    two = Meter(CPU).read(config, [view(network, 0, 8), view(network, 1, 8)])
    assert (one.linears, one.all) == (two.linears, two.all)


def test_what_grows_is_measured() -> None:
    config = tiny_config()
    meter = Meter(CPU)
    with mmap.mmap(-1, 64 << 20) as ballast:  # the allocator would reuse what earlier tests have freed
        for page in range(0, len(ballast), mmap.PAGESIZE):
            ballast[page] = 1
        memory = meter.read(config, [assembled(random_policy(config))])
    assert 64 << 20 <= memory.resident_growth < 256 << 20
