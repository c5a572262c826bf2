"""The CUDA kernels without a GPU: their numbers from Triton's interpreter, their machine code from its compiler."""

from __future__ import annotations

import operator
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
triton = pytest.importorskip("triton", reason="triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402 - after the check
from triton.compiler import ASTSource, CompiledKernel  # noqa: E402

from vlaq_ros.quant.kernels import cuda, triton_kernels  # noqa: E402

ORIN = GPUTarget("cuda", 87, 32)
ORIN_SHARED_BYTES = 163 * 1024  # of one block of threads
ALIGNED = [["tt.divisibility", 16]]
POINTERS = {
    "bias": "*fp32", "codes": "*i8", "hi": "*u8", "lo": "*u8", "rows": "*i32", "scale": "*fp32", "x": "*bf16",
    "x_scale": "*fp32", "x_sum": "*i32", "y": "*bf16",
}  # fmt: skip


BIT_OPERATIONS = {
    "and": operator.and_, "or": operator.or_, "xor": operator.xor, "shl": operator.lshift, "shr": operator.rshift,
}  # fmt: skip


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def compile_for_orin(kernel: Any, constants: dict[str, Any], **options: int) -> CompiledKernel:
    signature = {name: POINTERS.get(name, "i32") for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    aligned = {(place,): ALIGNED for place, name in enumerate(kernel.arg_names) if name in POINTERS}
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned), target=ORIN, options={"enable_fp_fusion": False, **options}
    )


def weights_of_products(ptx: str) -> Iterator[tuple[int, set[int]]]:
    """Run a kernel's bit operations on random words of the planes: the weights of every MMA, and their words."""
    random, values, words = Random(0), {}, {}
    for line in ptx.splitlines():
        if loaded := re.match(r"\s*ldmatrix\S*\s+\{(.*?)\}", line):
            for register in loaded[1].split(", "):
                values[register] = random.getrandbits(32)
                words[register] = {values[register]}
        elif done := re.match(r"\s*(and|or|xor|shl|shr)\.[bu]32\s+(%r\d+), (%r\d+), (\S+);", line):
            name, into, a, b = done.groups()
            if a in values and (b in values or not b.startswith("%")):
                values[into] = BIT_OPERATIONS[name](values[a], values[b] if b in values else int(b)) % 2**32
                words[into] = words[a] | words.get(b, set())
        elif product := re.match(r"\s*mma\.sync\S+ \{.*?\}, \{.*?\}, \{(.*?)\}", line):
            for register in product[1].strip().split(", "):
                yield values[register], words[register]


def signed_codes(hi: int, lo: int) -> tuple[int, int]:
    """Give four codes less 128 of the first half of a row, and four of the second, from a word of each plane."""
    planes = list(zip(hi.to_bytes(4), lo.to_bytes(4), strict=True))
    first = bytes(((high & 0xF0) | (low >> 4)) ^ 0x80 for high, low in planes)
    second = bytes(((high << 4 & 0xF0) | (low & 0x0F)) ^ 0x80 for high, low in planes)
    return int.from_bytes(first), int.from_bytes(second)


@pytest.fixture(autouse=True)
def _told_by_ptxas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(triton.knobs.nvidia, "dump_ptxas_log", True)


def assert_nothing_spills(log: str) -> None:
    assert re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log) == [
        ("0", "0", "0")
    ]


@pytest.mark.parametrize(
    "interpret",
    ["1", pytest.param("0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"))],
)
def test_the_kernels_equal_the_reference(interpret: str) -> None:
    done = run("-m", "pytest", "-q", "--noconftest", "test/triton_numerics.py", TRITON_INTERPRET=interpret)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("bits", "half", "copied_bytes"),
    [(8, 2152, 8), (4, 1024, 16)],
    ids=["8 bits, rows of odd length", "4 bits, rows of whole tiles"],
)
@pytest.mark.parametrize("tile", triton_kernels.TILES, ids=lambda tile: "x".join(map(str, tile.kwargs.values())))
def test_a_tile_runs_on_an_orin(
    tile: Any, bits: int, half: int, copied_bytes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    compiled = compile_for_orin(triton_kernels.multiply.fn, {"HALF": half, "BITS": bits, **tile.kwargs}, **options)
    ptx = compiled.asm["ptx"]
    assert_nothing_spills(capfd.readouterr().out)
    assert compiled.metadata.shared <= ORIN_SHARED_BYTES
    assert "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32" in ptx
    copies = set(re.findall(r"cp\.async\.c[ag]\.shared\.global \[.*?\], \[.*?\], 0x(\w+)", ptx))
    assert {int(size, 16) for size in copies} == {copied_bytes}  # the widest that the alignment of a row permits
    assert "fma." not in ptx

    halves = [0, 0]
    for weights, words in weights_of_products(ptx):  # in assembly, which the interpreter does not run
        planes = permutations(words) if bits == 8 else [(*words, 0)]
        halves[next(half for pair in planes for half in (0, 1) if signed_codes(*pair)[half] == weights)] += 1
    assert halves[0] == halves[1] > 0


@pytest.mark.parametrize(("features", "block"), [(1152, 64), (4304, 16), (16384, 64)])
def test_the_activation_quantizer_runs_on_an_orin(features: int, block: int, capfd: pytest.CaptureFixture[str]) -> None:
    width = 1 << (features - 1).bit_length()
    constants = {"FEATURES": features, "HADAMARD": block, "LEVELS": block.bit_length() - 1, "NORM": block**-0.5}
    compiled = compile_for_orin(
        triton_kernels.quantize, constants | {"WIDTH": width, "stride_k": 1}, num_warps=min(width // 512, 16)
    )
    assert_nothing_spills(capfd.readouterr().out)
    assert "fma." not in compiled.asm["ptx"]
    assert "div.full" not in compiled.asm["ptx"]  # which is not rounded correctly


def test_every_class_of_row_counts_has_tiles_that_fit_it() -> None:
    assert [triton_kernels.bucket(m) for m in (1, 2, 3, 51, 64, 65, 816, 1025, 5000)] == [
        1, 2, 4, 64, 64, 128, 1024, 1024, 1024,
    ]  # fmt: skip
    heights = {
        m: {tile.kwargs["BLOCK_M"] for tile in triton_kernels.tiles_for_bucket(triton_kernels.TILES, {"m_bucket": m})}
        for m in (1, 16, 64, 256, 1024)
    }
    assert heights == {1: {16}, 16: {16}, 64: {16, 32, 64}, 256: {16, 32, 64, 128}, 1024: {64, 128}}


def test_without_triton_it_says_so() -> None:
    program = (
        "import sys; sys.modules['triton'] = None\nfrom vlaq_ros.quant.kernels import cuda; print(cuda.available())"
    )
    assert run("-c", program).stdout == "False\n"
    assert cuda.available()
