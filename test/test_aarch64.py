from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import panels
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nested_weights import random, weights_and_widths
from panels import Case, random_case
from torch import Tensor

from vlaq_ros.quant.codes import NestedWeight, quantize
from vlaq_ros.quant.kernels import cpu
from vlaq_ros.quant.kernels.reference import nested_linear

PACKAGES = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
MISSING = [package for program, package in PACKAGES.items() if shutil.which(program) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"Debian packages not installed: {', '.join(MISSING)}")

COMPILER = "aarch64-linux-gnu-g++"
SETS = cpu.INSTRUCTION_SETS["aarch64"]
CORTEX_A76 = ["qemu-aarch64", "-cpu", "cortex-a76"]  # as Orin's Cortex-A78AE: dot products, no I8MM
CORTEX_A72 = ["qemu-aarch64", "-cpu", "cortex-a72"]  # neither
TYPES = [torch.float32, torch.bfloat16, torch.float16]  # in the order of linear.h


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return panels.build(tmp_path_factory.mktemp("panel"), "sdot", COMPILER, ["-static", *SETS["sdot.cpp"]])


def test_panel_of_any_shape(panel: Path) -> None:
    panels.check(
        [*CORTEX_A76, panel],
        (
            random_case(m, tiles, blocks, bits=bits, padding=padding)
            for m in (1, 2, 3, 4, 5, 8, 11)
            for tiles in (1, 2)
            for blocks, padding in ((1, 0), (16, 64), (17, 1), (33, 0))
            for bits in (4, 8)
        ),
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_sums_do_not_saturate(panel: Path, bits: int) -> None:
    codes = np.full((2, 16, 16384), 2**bits - 1, np.uint8)
    panels.check(
        [*CORTEX_A76, panel], (Case(np.full((5, 16384), value, np.int8), codes, bits) for value in (-127, 127))
    )


def test_products_stand_in_loops_without_spills(tmp_path: Path) -> None:
    """A spill is a vector register to or from the stack."""
    command = [COMPILER, *cpu.FLAGS, *SETS["sdot.cpp"], "-c", cpu.SOURCES / "sdot.cpp", "-o", tmp_path / "object.o"]
    subprocess.run(command, check=True)
    for loop in panels.innermost_loops("aarch64-linux-gnu-objdump", tmp_path / "object.o", "sdot"):
        assert not [line for line in loop if re.search(r"\bq\d+", line) and "[sp" in line], loop


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library without torch, each file built with the flags of the package."""
    folder = tmp_path_factory.mktemp("driver")
    sources = [panels.EMULATION / "linear.cpp"]
    sources += [cpu.SOURCES / name for name in ("linear.cpp", "isa.cpp", "portable.cpp", *SETS)]
    objects = [folder / f"{number}.o" for number in range(len(sources))]
    for source, built in zip(sources, objects, strict=True):
        flags = [*cpu.FLAGS, *SETS.get(source.name, ()), "-Wall", "-Wextra", "-Werror", f"-I{cpu.SOURCES}"]
        subprocess.run([COMPILER, *flags, "-c", source, "-o", built], check=True)
    subprocess.run([COMPILER, "-static", *objects, "-o", folder / "linear"], check=True)
    return folder / "linear"


@dataclass(frozen=True, slots=True)
class Layer:
    x: Tensor
    weight: NestedWeight
    bias: Tensor
    precision: int

    def expected(self) -> Tensor:
        weight, precision = self.weight, self.precision
        groups = [number for group in weight.groups for number in (group.rows, group.bits[precision])]
        planes = weight.hi, weight.lo, weight.scale[precision], weight.rows
        return nested_linear(self.x, *planes, self.bias, groups, weight.block, weight.out_features)

    def through(self, command: list[str | Path]) -> Tensor:
        """Let the program emulation/linear.cpp compute it."""
        x, weight = self.x, cpu.pack(self.weight)
        scale = weight.scale[self.precision].contiguous()
        groups = torch.tensor([n for g in weight.groups for n in (-(-g.rows // 16), g.bits[self.precision])])
        header = [TYPES.index(x.dtype), *x.shape, x.stride(0), weight.hi.shape[1], weight.block, weight.out_features]
        arrays = [x, weight.hi, weight.lo, scale, weight.rows, self.bias, groups.long()]
        case = torch.tensor(header).numpy().tobytes()
        for array in arrays:
            content = array.view(torch.uint8).numpy().tobytes() if array.numel() else b""
            case += len(content).to_bytes(8, "little") + content
        y = subprocess.run(command, input=case, capture_output=True, check=True).stdout
        return torch.frombuffer(bytearray(y), dtype=x.dtype).view(len(x), weight.out_features)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    matrix, widths = draw(weights_and_widths(most_rows=40))
    x = random(draw(st.integers(1, 9)), matrix.shape[1], seed=2) * draw(st.sampled_from([1e-35, 1e-3, 1.0, 1e3]))
    x = x.to(draw(st.sampled_from(TYPES)))
    return Layer(x, quantize(matrix, widths), random(len(matrix), seed=1), draw(st.integers(0, 1)))


@settings(max_examples=40)
@given(layers())
def test_the_operator_equals_the_reference(driver: Path, layer: Layer) -> None:
    assert torch.equal(layer.through([*CORTEX_A76, driver]), layer.expected())


@pytest.mark.parametrize("precision", [0, 1])
def test_a_layer_of_true_width_equals_the_reference(driver: Path, precision: int) -> None:
    layer = Layer(random(51, 1152, seed=2).bfloat16(), quantize(random(96, 1152)), random(96, seed=1), precision)
    assert torch.equal(layer.through([*CORTEX_A76, driver]), layer.expected())


@pytest.mark.parametrize("processor", [CORTEX_A76, CORTEX_A72])
def test_rows_that_are_not_finite_are_nan_on_any_processor(driver: Path, processor: list[str | Path]) -> None:
    x = random(5, 200, seed=2)
    x[1, 7], x[3, 199] = torch.nan, -torch.inf
    layer = Layer(x, quantize(random(33, 200)), random(33, seed=1), 0)
    y = layer.through([*processor, driver])
    assert y.isnan().all(dim=1).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(y, layer.expected(), rtol=0, atol=0, equal_nan=True)
