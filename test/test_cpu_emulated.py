from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import panels
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import Case, random_case

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

EMULATED = ["g++", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
FLAGS = {
    "avx512vnni": ["-mavx512f", "-mavx512bw", "-mavx512vnni"],
    "amx": ["-mavx512f", "-mavx512bw", "-mamx-tile", "-mamx-int8"],
}


@pytest.fixture(scope="module", params=["portable", "avx512vnni", "amx"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = request.param
    compiler = [*EMULATED, f"-I{panels.EMULATION}"]  # its immintrin.h comes before the compiler's
    return panels.build(tmp_path_factory.mktemp(name) / name, f"panel_{name}", [f"{name}.cpp"], compiler)


def test_every_number_of_rows(program: Path) -> None:
    """Up to four runs of 16 rows for AMX, and beyond four parts of 12 for AVX512-VNNI."""
    panels.check([program], (random_case(m, tiles=3, blocks=2, bits=bits) for m in range(1, 66) for bits in (4, 8)))


def test_every_number_of_tiles_and_blocks(program: Path) -> None:
    """Strips of 16 blocks and pairs of tiles, whole and broken."""
    panels.check(
        [program],
        (
            random_case(m, tiles, blocks, bits=bits)
            for m in (1, 17)
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


@settings(deadline=None, max_examples=25)
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


@pytest.mark.parametrize(("name", "instruction"), [("avx512vnni", "vpdpbusd"), ("amx", "tdpbsud")])
def test_real_instructions_in_loops_without_spills(name: str, instruction: str, tmp_path: Path) -> None:
    """The shipped file compiles with the compiler's own header; its products stand in loops that keep their registers.

    A loop is what lies between a backward jump and its target; a spill is a zmm or tmm register to or from the stack.
    """
    binary = tmp_path / f"{name}.o"
    source = panels.NATIVE / f"{name}.cpp"
    subprocess.run(["g++", "-std=c++17", "-O3", "-fPIC", *FLAGS[name], "-c", source, "-o", binary], check=True)
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", binary], capture_output=True, text=True, check=True
    )
    loops = [body for body in _innermost_loops(listing.stdout) if any(instruction in line for line in body)]
    assert loops
    for body in loops:
        assert not [line for line in body if re.search(r"[zt]mm", line) and re.search(r"\(%r[sb]p", line)], body


def _innermost_loops(listing: str) -> Iterator[list[str]]:
    lines = re.findall(r"^ +([0-9a-f]+):\s+(.*)$", listing, re.MULTILINE)
    address = [int(at, 16) for at, _ in lines]
    jumps = [(re.match(r"j\w+\s+([0-9a-f]+)", text), at) for at, (_, text) in zip(address, lines, strict=True)]
    spans = [(int(jump[1], 16), at) for jump, at in jumps if jump and int(jump[1], 16) <= at]
    for start, end in spans:
        if not any(start <= first and last <= end and (first, last) != (start, end) for first, last in spans):
            yield [text for at, (_, text) in zip(address, lines, strict=True) if start <= at <= end]
