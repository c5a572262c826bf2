"""What a policy holds in memory: counted from its tensors, and measured on the process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PI0Config

from vlaq_ros.policy import pi0
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.linear import NestedLinear, resident_bytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of all precisions together; what they share is counted once."""

    linears: int  # weights of the linears that a bundle holds as codes, with scales
    all: int  # every weight
    linears_bf16: int  # what these weights would be in bf16
    all_bf16: int
    resident_growth: int  # of the process while the policy was loaded, what was set up beside included
    device_growth: int  # of torch's allocations on the GPU; 0 on a CPU

    @property
    def over_bf16(self) -> dict[str, float]:
        """Bytes held over those in bf16, for the `linears` and for `all` weights."""
        return {"linears": self.linears / self.linears_bf16, "all": self.all / self.all_bf16}


class Meter:
    """Measures what loading a policy takes, from here to `read`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resident, self._allocated = process_bytes(), device_bytes(device)

    def read(self, config: PI0Config, networks: Iterable[PI0Network]) -> Memory:
        """Count what the networks hold, and measure how far process and GPU have grown."""
        held = list(networks)
        sizes = {name: 2 * shape.numel() for name, shape in pi0.shapes(config).items()}
        return Memory(
            linears=resident_bytes(chain.from_iterable(map(_linears, held))),
            all=resident_bytes(chain.from_iterable(chain(network.parameters(), network.buffers()) for network in held)),
            linears_bf16=sum(size for name, size in sizes.items() if pi0.is_quantized_weight(name)),
            all_bf16=sum(sizes.values()),
            resident_growth=process_bytes() - self._resident,
            device_growth=device_bytes(self._device) - self._allocated,
        )


def _linears(network: PI0Network) -> Iterator[Tensor]:
    for name, module in network.named_modules():
        if isinstance(module, NestedLinear):
            yield from (buffer for kind, buffer in module.named_buffers() if kind != "bias")
        elif isinstance(module, nn.Linear) and pi0.is_quantized(name):
            yield module.weight


def process_bytes() -> int:
    """Memory that this process holds."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def device_bytes(device: torch.device) -> int:
    """Memory that torch holds on a GPU; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
