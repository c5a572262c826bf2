"""The native CPU library: its tiles, its arithmetic against the reference, and how it is built."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random, weights_and_widths
from sources import PACKAGE, ROOT, setup_arguments
from torch import Tensor

from vlaq_ros.errors import KernelBuildError
from vlaq_ros.quant import codes
from vlaq_ros.quant.codes import NestedWeight, RowGroup, quantize
from vlaq_ros.quant.hadamard import hadamard
from vlaq_ros.quant.kernels import cpu, reference
from vlaq_ros.quant.kernels.op import nested_linear
from vlaq_ros.quant.kernels.select import chosen

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

needs_library = pytest.mark.skipif(
    chosen(torch.device("cpu")).layout != "tiles", reason=chosen(torch.device("cpu")).why
)


def both(x: Tensor, weight: NestedWeight, precision: int = 0, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give what the library computes from tiles and the reference from rows."""
    tiles = cpu.pack(weight)
    results = []
    for run, planes, unit in ((nested_linear, tiles, cpu.TILE_ROWS), (reference.nested_linear, weight, 1)):
        groups = [number for group in weight.groups for number in (-(-group.rows // unit), group.bits[precision])]
        scale = planes.scale[precision]
        results.append(
            run(x, planes.hi, planes.lo, scale, planes.rows, bias, groups, weight.block, weight.out_features)
        )
    return results[0], results[1]


def same(x: Tensor, weight: NestedWeight, precision: int = 0, bias: Tensor | None = None) -> Tensor:
    native, expected = both(x, weight, precision, bias)
    torch.testing.assert_close(native, expected, rtol=0, atol=0, equal_nan=True)
    return native


def plain(hi: Tensor, lo: Tensor) -> NestedWeight:
    """Wrap planes [O, K / 2] of a layer that is read with 8 and with 4 bits."""
    outputs, features = len(hi), 2 * hi.shape[1]
    scale = random(2, outputs).abs()
    rows = torch.arange(outputs, dtype=torch.int32)
    none = torch.empty(0, dtype=torch.int32)
    group = (RowGroup(outputs, (8, 4)),)
    return NestedWeight(hi, lo, scale, rows, torch.empty(0, features), none, group, features, outputs, 64)


@given(weights_and_widths(most_rows=60))
def test_tiles_hold_the_codes_and_mark_their_padding(drawn: tuple[Tensor, Tensor]) -> None:
    weight = quantize(*drawn)
    tiles = cpu.pack(weight)
    assert (tiles.groups, tiles.in_features, tiles.block) == (weight.groups, weight.in_features, weight.block)
    stored = tiles.rows >= 0
    features = 2 * weight.hi.shape[1]
    fine = stored[: 16 * len(tiles.lo)]
    assert torch.equal(tiles.rows[stored], weight.rows)
    assert torch.equal(tiles.scale[:, stored], weight.scale)
    assert torch.equal(cpu.nibbles(tiles.hi)[stored, :features], codes.nibbles(weight.hi))
    assert torch.equal(cpu.nibbles(tiles.lo)[fine, :features], codes.nibbles(weight.lo))
    assert not tiles.scale[:, ~stored].any()
    assert not cpu.nibbles(tiles.hi)[~stored].any()
    assert not cpu.nibbles(tiles.hi)[:, features:].any()
    ends = torch.tensor([group.rows for group in weight.groups])
    assert len(tiles.hi) == (-(-ends // 16)).sum()


def test_a_byte_lies_where_tiles_h_says() -> None:
    code = torch.randint(16, (16, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weight = plain(codes.join(code), codes.join(code))
    block = cpu.pack(weight).hi[0, 1]
    for g, o, i in ((0, 0, 0), (7, 15, 3), (3, 9, 2)):
        byte = int(block[(g * 16 + o) * 4 + i])
        assert (byte >> 4, byte & 15) == (code[o, 64 + 4 * g + i], code[o, 64 + 32 + 4 * g + i])


@needs_library
@given(
    weights_and_widths(most_rows=60),
    st.integers(0, 20),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_every_layer_equals_the_reference_to_the_bit(
    drawn: tuple[Tensor, Tensor], m: int, dtype: torch.dtype, biased: bool, seed: int
) -> None:
    weight = quantize(*drawn)
    x = random(m, weight.in_features, seed=seed).to(dtype)
    bias = random(weight.out_features, seed=seed + 1) if biased else None
    for precision in (0, 1):
        same(x, weight, precision, bias)


@needs_library
@pytest.mark.parametrize("precision", [0, 1])
@pytest.mark.parametrize(("m", "k", "o"), [(1, 4304, 20), (8, 1088, 33), (9, 1088, 33), (51, 2048, 40), (1030, 80, 17)])
def test_sizes_on_both_sides_of_every_threshold(m: int, k: int, o: int, precision: int) -> None:
    same(random(m, k), quantize(random(o, k, seed=1)), precision, random(o, seed=2))


@needs_library
@pytest.mark.parametrize("m", [1, 3, 9, 20])
@pytest.mark.parametrize("code", [0x00, 0xFF, None])
def test_the_largest_sums_do_not_saturate(m: int, code: int | None) -> None:
    draws = torch.Generator().manual_seed(m)
    planes = torch.randint(256, (2, 16, 640), dtype=torch.uint8, generator=draws) if code is None else None
    hi, lo = torch.full((2, 16, 640), code, dtype=torch.uint8) if planes is None else planes
    for signs in (torch.ones(m, 1280), random(m, 1280).sign()):
        x = hadamard(signs, 64) / 64  # whose transform is +-1: every quantized activation is +-127
        for precision in (0, 1):
            same(x, plain(hi, lo), precision)


@needs_library
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [5, 12])
def test_rows_that_are_not_finite_or_nearly_zero(m: int, dtype: torch.dtype) -> None:
    x = random(m, 96).to(dtype)
    x[0, 95], x[1, 0], x[2, 7], x[3], x[4] = math.nan, math.inf, -math.inf, 0, 1e-32
    channels = torch.tensor([[8] * 20 + [0] * 3, [4] * 10 + [0] * 13])
    bias = random(23, seed=2)
    y = same(x, quantize(random(23, 96, seed=1), channels), 1, bias)
    assert y[:3].isnan().all()
    assert torch.equal(y[3], bias.to(dtype))
    assert y[5:].isfinite().all()


@needs_library
def test_half_precision_outputs_overflow_and_underflow_as_torch_does() -> None:
    weight = quantize(random(48, 64))
    for factor in (1e4, 1e-6, 1e-7):
        same((random(9, 64, seed=1) * factor).half(), weight)
    assert same((random(9, 64, seed=1) * 1e4).half(), weight).isinf().any()


@needs_library
@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x.T.contiguous().T,
        lambda x: x[:, ::2].repeat_interleave(2, dim=1)[:, :64],
        lambda x: torch.cat([x, x], dim=1)[:, :64],
        lambda x: x[:1].expand(7, 64),
        lambda x: x[::2],
        lambda x: x.view(2, 3, 2, 64).transpose(0, 2),
        lambda x: x[0],
        lambda x: x[:0],
        lambda x: x.view(4, 3, 64)[:, :0],
    ],
)
def test_strides_and_leading_sizes(strided: object) -> None:
    assert callable(strided)
    x = strided(random(12, 64))
    native = same(x, quantize(random(20, 64, seed=1)))
    assert native.shape == (*x.shape[:-1], 20)
    assert native.is_contiguous()


@needs_library
def test_threads_do_not_change_a_bit() -> None:
    weight, x = quantize(random(400, 640)), random(40, 640)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = same(x, weight)
        torch.set_num_threads(3)
        assert torch.equal(same(x, weight), alone)
    finally:
        torch.set_num_threads(before)


@needs_library
def test_arguments_that_do_not_fit_are_refused() -> None:
    tiles = cpu.pack(quantize(random(20, 64)))
    arguments = [random(3, 64), tiles.hi, tiles.lo, tiles.scale[0], tiles.rows, None, [2, 8], 64, 20]
    nested_linear(*arguments)
    for place, wrong, message in (
        (0, random(3, 64).double(), "float32, bfloat16 or float16"),
        (0, random(3, 65), "x has 65 features"),
        (1, tiles.hi[:1], "hi has the wrong"),
        (2, tiles.lo[:1], "lo has the wrong"),
        (3, tiles.scale[0, :16], "scale has the wrong"),
        (4, tiles.rows.long(), "rows has the wrong"),
        (5, random(19), "bias has the wrong"),
        (7, 8, "block is 8"),
    ):
        with pytest.raises(RuntimeError, match=message):
            nested_linear(*arguments[:place], wrong, *arguments[place + 1 :])


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("empty_cache")
def test_no_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler --fast")
    with pytest.raises(KernelBuildError) as caught:
        cpu.library()
    assert str(caught.value) == (
        "the native kernels cannot be used: there is no compiler 'no-such-compiler'; "
        "expected a C++17 compiler, such as Debian's package g++"
    )


def test_a_compiler_that_refuses_is_quoted_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_cache: Path
) -> None:
    path = compiler(tmp_path, '[ "$1" = --version ] || { echo "x.cpp:1: error: too old" >&2; exit 1; }')
    monkeypatch.setenv("CXX", path)
    with pytest.raises(KernelBuildError, match=r"says x\.cpp:1: error: too old; expected a C"):
        cpu.library()
    assert [file.name for file in (empty_cache / "vlaq_ros").iterdir()] == ["lock"]


def test_a_cache_that_cannot_be_written_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KernelBuildError, match="vlaq_ros' cannot be written: "):
        cpu.library()


def test_processes_that_start_at_once_build_once(tmp_path: Path, empty_cache: Path) -> None:
    log = tmp_path / "log"
    body = f'echo "$*" >> {log}\nsleep 0.05\nfor last; do :; done\n[ "$last" = --version ] || echo built > "$last"'
    path = compiler(tmp_path, body)
    program = "from vlaq_ros.quant.kernels import cpu; print(cpu.library())"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "CXX": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    printed, logged = zip(*(run.communicate(timeout=120) for run in runs), strict=True)
    libraries = set(printed)
    assert len(libraries) == 1
    assert Path(libraries.pop().strip()).read_text() == "built\n"
    assert sum("-shared" in line for line in log.read_text().splitlines()) == 1
    assert sorted(bool(text) for text in logged) == [False, False, True]
    assert f"building the native kernels in {empty_cache / 'vlaq_ros'}: some seconds, once" in "".join(logged)


def test_the_package_ships_every_source() -> None:
    patterns = setup_arguments()["package_data"]["vlaq_ros.quant.kernels"]
    shipped = {file for pattern in patterns for file in (PACKAGE / "quant" / "kernels").glob(pattern)}
    assert shipped == set(cpu.SOURCES.iterdir())
    assert {file for files in cpu.INSTRUCTION_SETS.values() for file in files} <= {file.name for file in shipped}
