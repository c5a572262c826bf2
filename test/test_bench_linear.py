from __future__ import annotations

import pytest
import torch

from vlaq_ros.bench.contenders import UNAVAILABLE, Contender, Layer, contenders
from vlaq_ros.bench.linear import Cell, Conditions, cells, measure
from vlaq_ros.bench.machine import Machine, Roof
from vlaq_ros.quant.codes import quantize
from vlaq_ros.quant.kernels import select

CPU = torch.device("cpu")
PATHS = [path for path in contenders(CPU, torch.float32, quick=False) if "compile" not in path.name]  # minutes
ROOF = Roof(1, {"L2": 1e11, "memory": 1e10}, {"fp32": 5e10, "bf16": 5e10, "int8": 2e11})
MOST_ERROR = {32: 1e-5, 16: 0.01, 8: 0.06, 4: 0.3}  # of a result, by the bits of its weights; fbgemm has 7 of x


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_path_is_the_same_linear_layer(path: Contender) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(64, 128, generator=generator), torch.randn(5, 128, generator=generator)
    layer = Layer(weight, quantize(weight), x, select.chosen(CPU), torch.float32)
    try:
        with torch.inference_mode():
            y = path.prepare(layer)()
    except UNAVAILABLE as error:
        pytest.skip(f"not on this machine: {str(error).splitlines()[0]}")
    assert isinstance(y, torch.Tensor)
    expected = x @ weight.T
    assert y.shape == expected.shape
    assert (y.float() - expected).norm() / expected.norm() < MOST_ERROR[path.weight_bits]


def test_a_copy_has_weights_of_its_own() -> None:
    weight = torch.randn(64, 128)
    layer = Layer(weight, quantize(weight), torch.ones(2, 128), select.chosen(CPU), torch.float32)
    path = next(path for path in PATHS if path.name == "fp32 eager")
    before = path.prepare(layer)
    weight.zero_()
    assert torch.equal(before(), before())
    assert before().abs().sum() > 0


def test_cells_of_a_shape_have_rising_rows() -> None:
    assert cells([(8, 16), (4, 4)], [300, 1]) == [Cell(8, 16, 1), Cell(8, 16, 300), Cell(4, 4, 1), Cell(4, 4, 300)]


def test_a_cell_counts_operations_and_bytes() -> None:
    cell = Cell(n=8, k=16, m=2)
    assert cell.operations == 2 * 2 * 8 * 16
    assert cell.moved_bytes(4) == 8 * 16 / 2 + 2 * 2 * (8 + 16)


def test_a_row_of_the_table_holds_ratios_intervals_and_every_path() -> None:
    machine = Machine("cpu", "a processor", (), "", {"L2": 2**14})
    conditions = Conditions(machine, ROOF, select.chosen(CPU), torch.float32, 0.0, (3, 3), quick=True)
    row, *others = measure([Cell(64, 128, 1), Cell(64, 128, 5)], conditions)
    assert len(others) == 1
    assert (row["n"], row["k"], row["m"], row["threads"], row["rounds"]) == (64, 128, 1, 1, 3)
    assert set(row["paths"]) | set(row["left_out"]) == {
        path.name for path in contenders(CPU, torch.float32, quick=True)
    }
    for bits in (8, 4):
        low, high = row[f"w{bits}_over_fp32_95"]
        assert 0 < low <= row[f"w{bits}_over_fp32"] <= high
        assert row[f"w{bits}_over_fp32_path"] in {"fp32 eager", "fp32 prepacked"}
        assert not row[f"best_installable_w{bits}_path"].startswith("vlaq")
    ours = row["paths"]["vlaq W8A8"]
    least_us = ROOF.bound_s(read_bytes=64 * 128 + 2 * 192, operations=2 * 64 * 128, kind="int8") * 1e6
    assert ours["us"] * ours["of_roof"] == pytest.approx(least_us)
