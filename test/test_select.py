"""Which kernel runs where; every case in a process of its own, for a kernel is registered once per process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from sources import ROOT

from vlaq_ros.quant.kernels.select import ENVIRONMENT, chosen

START = """
import logging, torch
from vlaq_ros.errors import KernelBuildError
from vlaq_ros.quant.kernels import cpu, cuda, reference, select
from vlaq_ros.quant.kernels.op import nested_linear
logging.basicConfig(format="%(message)s")
cpu_device, gpu = torch.device("cpu"), torch.device("cuda")
"""
RUN = """
draws = torch.Generator().manual_seed(0)
planes = torch.randint(256, (2, 5, 32), generator=draws, dtype=torch.uint8)
arguments = (torch.randn(3, 64, generator=draws), *planes, torch.ones(5), None, None, [5, 8], 64, 5)
print(torch.equal(nested_linear(*arguments), reference.nested_linear(*arguments)))
"""


def run(program: str, **environment: str) -> tuple[list[str], str]:
    """Give the lines printed and the text logged."""
    inherited = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", START + program],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def test_a_device_keeps_its_kernel() -> None:
    assert chosen(torch.device("cpu")) is chosen(torch.device("cpu", 0))


def test_the_reference_runs_where_the_environment_asks_for_it() -> None:
    printed, logged = run("kernel = select.chosen(cpu_device)\nprint(kernel)" + RUN, **{ENVIRONMENT: "reference"})
    assert printed == [
        "Kernel(name='reference', layout='rows', why='The environment variable VLAQ_KERNEL asks for it.')",
        "True",
    ]
    assert logged == ""


def test_the_reference_runs_where_the_native_library_cannot_be_built() -> None:
    program = """
def load():
    raise KernelBuildError("no compiler was found")
cpu.load = load
for _ in range(2):
    kernel = select.chosen(cpu_device)
print(kernel.name, kernel.layout)
print(kernel.why)
"""
    printed, logged = run(program + RUN)
    assert printed[0] == "reference rows"
    assert "no compiler was found" in printed[1]
    assert printed[2] == "True"
    assert logged == f"the reference kernel is used, which is slow: {printed[1]}\n"


@pytest.mark.parametrize(("there", "expected"), [(True, "triton rows"), (False, "reference rows")])
def test_a_gpu_has_triton_where_it_is_installed(there: bool, expected: str) -> None:
    program = f"cuda.available = lambda: {there}\nkernel = select.chosen(gpu)\nprint(kernel.name, kernel.layout)"
    assert run(program)[0] == [expected]


def test_other_devices_have_the_reference() -> None:
    printed, _ = run("print(select.chosen(torch.device('xpu')))")
    assert printed == ["Kernel(name='reference', layout='rows', why='No other kernel runs on xpu devices.')"]
