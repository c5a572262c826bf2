"""The operator on a CPU: the tiles that the native library reads, and the library, built at first use."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlaq_ros.errors import KernelBuildError
from vlaq_ros.quant import codes
from vlaq_ros.quant.codes import NestedWeight

TILE_ROWS = 16
_BLOCK = 64  # features

SOURCES = Path(__file__).with_name("native")
# op.cpp comes first, and what every processor runs before what some do: of inline functions that several objects
# contain, the linker takes the first.
_COMMON = ("op.cpp", "linear.cpp", "isa.cpp", "portable.cpp", "fused.cpp")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni")
INSTRUCTION_SETS: dict[str, dict[str, tuple[str, ...]]] = {  # file: flags, for every machine
    "x86_64": {
        "avx2.cpp": ("-mavx2",),
        "avx512vnni.cpp": _AVX512,
        "amx.cpp": (*_AVX512, "-mamx-tile", "-mamx-int8"),
    },
    "aarch64": {"sdot.cpp": ("-march=armv8.2-a+dotprod",)},
}
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-Wno-psabi")
_STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # 2.10: the library then runs with that and all later ones

_log = logging.getLogger(__name__)


def pack(weight: NestedWeight) -> NestedWeight:
    """Lay the planes out in tiles.

    Returns:
        The same weight with hi [T, K''/64, 512] and lo [T8, K''/64, 512], K'' a multiple of 64, scale [P, 16 T] (0 for
        padding) and rows [16 T] (-1 for padding); every group fills whole tiles of 16 rows. `groups` keeps its counts.
    """
    counts = [group.rows for group in weight.groups]
    fine = [group.rows for group in weight.groups if group.bits[0] == 8]
    return replace(
        weight,
        hi=_tiles(_whole_tiles(codes.nibbles(weight.hi), counts)),
        lo=_tiles(_whole_tiles(codes.nibbles(weight.lo), fine)),
        scale=_whole_tiles(weight.scale.T, counts).T.contiguous(),
        rows=_whole_tiles(weight.rows, counts, -1),
    )


def nibbles(tiles: Tensor) -> Tensor:
    """Read tiles [t, B, 512] of a plane: [16 t, 64 B] uint8, 0 to 15."""
    t, blocks, _ = tiles.shape
    halves = torch.stack([tiles >> 4, tiles & 0x0F], dim=2).view(t, blocks, 2, _BLOCK // 8, TILE_ROWS, 4)
    return halves.permute(0, 4, 1, 2, 3, 5).reshape(t * TILE_ROWS, blocks * _BLOCK)


def _whole_tiles(stored: Tensor, counts: list[int], padding: int = 0) -> Tensor:
    """Append rows of padding to every group of stored rows [R, ...]."""
    groups = stored.split(counts)
    filled = [pad(rows, (0, 0) * (rows.ndim - 1) + (0, -len(rows) % TILE_ROWS), value=padding) for rows in groups]
    return torch.cat([stored[:0], *filled])


def _tiles(nibbles: Tensor) -> Tensor:
    nibbles = pad(nibbles, (0, -nibbles.shape[1] % _BLOCK))
    tiles, blocks = len(nibbles) // TILE_ROWS, nibbles.shape[1] // _BLOCK
    halves = nibbles.view(tiles, TILE_ROWS, blocks, 2, _BLOCK // 8, 4).permute(0, 2, 3, 4, 1, 5)
    return ((halves[:, :, 0] << 4) | halves[:, :, 1]).reshape(tiles, blocks, TILE_ROWS * _BLOCK // 2)


@cache
def load() -> str:
    """Register the native library as the operator's CPU implementation; give the name of what it runs on.

    Raises:
        KernelBuildError: the library is neither there nor can be built, or PyTorch refuses it.
    """
    path = library()
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise KernelBuildError(f"{str(path)!r} does not load: {error}") from error
    isa = ctypes.CDLL(str(path)).vlaq_isa
    isa.restype = ctypes.c_char_p
    return str(isa().decode())


def library() -> Path:
    """Give the native library for these sources and this compiler, building it where the user's cache has none.

    Raises:
        KernelBuildError: there is no compiler, it refuses, or the cache cannot be written.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        raise KernelBuildError(f"there is no compiler {compiler[0]!r}")
    objects: dict[str, tuple[str, ...]] = dict.fromkeys(_COMMON, ())
    objects |= INSTRUCTION_SETS.get(platform.machine(), {})
    digest = _digest(_run([*compiler, "--version"]), repr((objects, FLAGS, _STABLE_ABI)))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vlaq_ros"
    path = folder / f"native-{platform.machine()}-{digest}.so"
    if path.exists():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be building the same
            if not path.exists():
                _log.warning("building the native kernels in %s: some seconds, once", folder)
                _build(compiler, objects, path)
    except OSError as error:
        raise KernelBuildError(f"{str(folder)!r} cannot be written: {error}") from error
    return path


def _digest(*facts: str) -> str:
    digest = hashlib.sha256("\0".join(facts).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _build(compiler: list[str], objects: dict[str, tuple[str, ...]], path: Path) -> None:
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch, ThreadPoolExecutor() as pool:
        built = Path(scratch, path.name)
        compile_ = [*compiler, *FLAGS, _STABLE_ABI, f"-isystem{torch_folder / 'include'}"]
        commands = [
            [*compile_, *flags, "-c", str(SOURCES / name), "-o", f"{scratch}/{name}.o"]
            for name, flags in objects.items()
        ]
        list(pool.map(_run, commands))
        link = [*compiler, "-shared", f"-L{torch_folder / 'lib'}", *(f"{scratch}/{name}.o" for name in objects)]
        _run([*link, "-ltorch", "-ltorch_cpu", "-lc10", "-o", str(built)])
        built.replace(path)  # at once, or not at all


def _run(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        said = [line for line in run.stderr.splitlines() if "error" in line] or [f"nothing, and exits {run.returncode}"]
        raise KernelBuildError(f"{command[0]!r} says {said[0]}")
    return run.stdout
