from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import panels
import pytest
from panels import Case, random_case

PACKAGES = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
MISSING = [package for program, package in PACKAGES.items() if shutil.which(program) is None]

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"Debian packages not installed: {', '.join(MISSING)}")

COMPILER = ["aarch64-linux-gnu-g++", "-static", "-O3", "-Wall", "-Wextra", "-Werror", "-march=armv8.2-a+dotprod"]
QEMU = ["qemu-aarch64", "-cpu", "cortex-a76"]  # as Orin's Cortex-A78AE: dot products, no I8MM


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return panels.build(tmp_path_factory.mktemp("sdot") / "sdot", "panel_sdot", ["sdot.cpp"], COMPILER)


def test_panel_of_any_shape(panel: Path) -> None:
    panels.check(
        [*QEMU, panel],
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
    panels.check([*QEMU, panel], (Case(np.full((5, 16384), value, np.int8), codes, bits) for value in (-127, 127)))
