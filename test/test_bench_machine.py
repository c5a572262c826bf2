from __future__ import annotations

import pytest
import torch

from vlaq_ros.bench.machine import Roof, identify

ROOF = Roof(1, {"L2": 100.0, "memory": 10.0}, {"fp32": 50.0, "bf16": 20.0, "int8": 200.0})


@pytest.mark.parametrize(
    ("read_bytes", "operations", "kind", "bound_s"),
    [
        (100, 1, "int8", 10.0),  # reading from memory decides
        (1, 400, "int8", 2.0),  # multiplying decides
        (1, 400, "fp32", 8.0),
        (1, 400, "bf16", 8.0),  # slower than fp32 here: bf16 is better widened
    ],
)
def test_the_roof_is_the_slower_of_reading_and_multiplying(
    read_bytes: float, operations: float, kind: str, bound_s: float
) -> None:
    assert ROOF.bound_s(read_bytes=read_bytes, operations=operations, kind=kind) == bound_s


def test_a_machine_is_told_by_its_class() -> None:
    machine = identify(torch.device("cpu"))
    assert machine.device == "cpu"
    assert machine.name
    sizes = list(machine.caches_bytes.values())
    assert sizes == sorted(sizes)
    assert sizes[0] > 0
