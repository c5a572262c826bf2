from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import panels
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import Case, random_case

from vlaq_ros.quant.kernels import cpu

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(scope="module", params=["portable", "avx512vnni", "amx"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One panel over emulated instructions, under sanitizers that see what it may not read or write."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover", "-O1"]  # -O3 would take minutes
    flags = [*sanitizers, f"-I{panels.EMULATION}"]  # its immintrin.h comes before the compiler's
    return panels.build(tmp_path_factory.mktemp("emulated"), request.param, "g++", flags)


def test_every_number_of_rows(program: Path) -> None:
    """Up to four runs of 16 rows for AMX, and beyond four parts of 12 for AVX512-VNNI."""
    panels.check([program], (random_case(m, tiles=3, blocks=2, bits=bits) for m in range(1, 66) for bits in (4, 8)))


def test_every_number_of_tiles_and_blocks(program: Path) -> None:
    """Strips of 16 blocks and pairs of tiles, whole and broken."""
    panels.check(
        [program],
        (
            random_case(m, tiles, blocks, bits=bits)
            for m in (1, 17, 34)
            for tiles in (1, 2, 5)
            for blocks in (1, 15, 16, 17, 32, 33, 50)
            for bits in (4, 8)
        ),
    )


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [-127, 127])
def test_the_largest_sums_do_not_saturate(program: Path, bits: int, value: int) -> None:
    x = np.full((18, 16384), value, np.int8)
    panels.check([program], [Case(x, np.full((2, 16, 16384), 2**bits - 1, np.uint8), bits)])


@settings(max_examples=25)
@given(
    st.builds(
        random_case,
        m=st.integers(1, 140),
        tiles=st.integers(1, 6),
        blocks=st.integers(1, 20),
        bits=st.sampled_from([4, 8]),
        padding=st.integers(0, 130),
        seed=st.integers(0, 2**32),
    )
)
def test_any_shape(program: Path, case: Case) -> None:
    panels.check([program], [case])


@pytest.mark.parametrize(("source", "instruction"), [("avx512vnni.cpp", "vpdpbusd"), ("amx.cpp", "tdpbsud")])
def test_real_instructions_in_loops_without_spills(source: str, instruction: str, tmp_path: Path) -> None:
    """The file compiles with the compiler's own header; its products stand in loops that keep their registers.

    A spill is a zmm or tmm register to or from the stack.
    """
    command = ["g++", *cpu.FLAGS, *cpu.INSTRUCTION_SETS["x86_64"][source], "-c", cpu.SOURCES / source]
    subprocess.run([*command, "-o", tmp_path / "object.o"], check=True)
    for loop in panels.innermost_loops("objdump", tmp_path / "object.o", instruction):
        assert not [line for line in loop if re.search(r"[zt]mm", line) and re.search(r"\(%r[sb]p", line)], loop
