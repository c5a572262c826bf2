"""Cases for the panels of the native kernels and their exact sums; programs that run one panel on cases."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlaq_ros.quant.kernels import cpu

EMULATION = Path(__file__).parent / "emulation"


@dataclass(frozen=True, slots=True)
class Case:
    """Activations [m, ldx] int8 of which blocks * 64 count, and codes [tiles, 16, blocks * 64] uint8 of some bits."""

    x: NDArray[np.int8]
    codes: NDArray[np.uint8]
    bits: int

    def encode(self) -> bytes:
        tiles, _, features = self.codes.shape
        header = np.array([*self.x.shape, tiles, features // 64, self.bits // 4])
        x = self.x.tobytes()[: self.x.size - self.x.shape[1] + features]  # the last row ends with its last feature
        planes = [self.codes >> 4, self.codes & 15] if self.bits == 8 else [self.codes]
        return b"".join([header.tobytes(), x, *(_tiled(plane).tobytes() for plane in planes)])

    def sums(self) -> NDArray[np.int32]:
        """Multiply exactly: [tiles, m, 16]."""
        x = self.x[:, : self.codes.shape[2]].astype(np.int64)
        return (x @ self.codes.astype(np.int64).transpose(0, 2, 1)).astype(np.int32)


def random_case(m: int, tiles: int, blocks: int, *, bits: int, padding: int = 0, seed: int = 0) -> Case:
    generator = np.random.default_rng(seed)
    x = generator.integers(-127, 128, (m, blocks * 64 + padding), dtype=np.int8)
    return Case(x, generator.integers(0, 2**bits, (tiles, 16, blocks * 64), dtype=np.uint8), bits)


def _tiled(nibbles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Arrange a plane of nibbles [tiles, 16, features] as tiles.h says."""
    tiles, rows, features = nibbles.shape
    parts = nibbles.reshape(tiles, rows, features // 64, 2, 8, 4)  # block, half, g, i
    high, low = parts.transpose(3, 0, 2, 4, 1, 5)
    return high << 4 | low


def build(folder: Path, name: str, compiler: str, flags: Sequence[str]) -> Path:
    """Make a program of one panel, from the file and the function of that name."""
    program = folder / name
    files = [EMULATION / "panel.cpp", cpu.SOURCES / f"{name}.cpp"]
    flags = [*cpu.FLAGS, "-Wall", "-Wextra", "-Werror", f"-I{cpu.SOURCES}", f"-DPANEL=panel_{name}", *flags]
    subprocess.run([compiler, *flags, *files, "-o", program], check=True)
    return program


def check(command: Sequence[str | Path], cases: Iterable[Case]) -> None:
    cases = list(cases)
    run = subprocess.run(command, input=b"".join(case.encode() for case in cases), capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    sums = np.frombuffer(run.stdout, np.int32)
    ends = np.cumsum([case.sums().size for case in cases])
    assert ends[-1] == sums.size
    for case, got in zip(cases, np.split(sums, ends[:-1]), strict=True):
        expected = case.sums()
        np.testing.assert_array_equal(
            got.reshape(expected.shape), expected, f"x {case.x.shape}, codes {case.codes.shape}"
        )


def innermost_loops(objdump: str, binary: Path, instruction: str) -> list[list[str]]:
    """List the lines of the smallest loops around an instruction; a loop reaches from a backward jump to its target."""
    command = [objdump, "-d", "--no-show-raw-insn", binary]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loops = []
    for section in listing.split("Disassembly of section"):
        lines = [(int(at, 16), text) for at, text in re.findall(r"^ +([0-9a-f]+):\s+(.*)$", section, re.MULTILINE)]
        jumps = [(re.match(r"(?:j\w+|b\.\w+|cbn?z\s+\w+,)\s+([0-9a-f]+)\b", text), at) for at, text in lines]
        spans = [range(int(jump[1], 16), at + 1) for jump, at in jumps if jump]
        hits = [at for at, text in lines if instruction in text]
        around = {min((span for span in spans if at in span), key=len, default=None) for at in hits} - {None}
        loops += [[text for at, text in lines if at in span] for span in around]
    assert loops
    return loops
