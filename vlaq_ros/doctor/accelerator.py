"""The build of torch, and whether it really computes on the GPU that is there."""

from __future__ import annotations

from dataclasses import dataclass

from vlaq_ros.doctor.board import Board
from vlaq_ros.doctor.finding import Finding, fail, ok, warn


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What torch says of itself and of its GPU."""

    torch: str  # version
    cuda: str = ""  # version of CUDA that it was built for; empty without
    gpu: str = ""  # name; empty where torch sees none
    architecture: str = ""  # of the GPU: "sm_87" is Orin
    compiled: tuple[str, ...] = ()  # what torch's kernels were compiled for
    error: str = ""  # of a first product on the GPU


def look() -> Accelerator | None:
    """Ask torch, and let it multiply on the GPU, for a list of architectures proves nothing; None without torch."""
    try:
        import torch  # noqa: PLC0415 - may be missing, which is a finding
    except ImportError:
        return None
    version, cuda = str(torch.__version__), torch.version.cuda or ""
    if not torch.cuda.is_available():
        return Accelerator(version, cuda)
    major, minor = torch.cuda.get_device_capability()
    error = ""
    try:
        ones = torch.ones(16, 16, device="cuda")
        (ones @ ones).sum().item()
    except RuntimeError as caught:
        error = str(caught).partition("\n")[0]
    gpu, compiled = torch.cuda.get_device_name(), tuple(torch.cuda.get_arch_list())
    return Accelerator(version, cuda, gpu, f"sm_{major}{minor}", compiled, error)


def build(found: Accelerator | None, board: Board | None) -> Finding:
    """Judge which torch is installed; on a Jetson, one without CUDA would silently run on the CPU."""
    if found is None:
        return fail("torch", "not installed", "the build that fits this machine", _remedy(board))
    said = f"torch {found.torch}, {f'built for CUDA {found.cuda}' if found.cuda else 'built without CUDA'}"
    if found.gpu:
        return ok("torch", f"{said}, sees {found.gpu}")
    if board is None:
        return ok("torch", f"{said}, sees no GPU: inference runs on the CPU")
    said = f"{said}, sees no GPU: inference would silently run on the CPU"
    return fail("torch", said, "a build for this board's CUDA that sees its GPU", _remedy(board))


def kernels(found: Accelerator | None, board: Board | None) -> Finding:
    """Judge whether torch's own kernels run on the GPU."""
    if found is None or not found.gpu:
        return ok("torch's GPU kernels", "not needed: there is no GPU that torch sees")
    said = f"compiled for {', '.join(found.compiled)}"
    expected = f"kernels for {found.architecture}"
    if found.error:
        return fail("torch's GPU kernels", f"{said}; a first product says: {found.error}", expected, _remedy(board))
    if board is not None and found.architecture not in found.compiled:
        return warn(
            "torch's GPU kernels",
            f"{said}; a first product ran",
            f"{expected}: NVIDIA does not promise that a Jetson runs what was compiled for another GPU",
            _remedy(board),
        )
    return ok("torch's GPU kernels", f"{said}; a first product ran on {found.architecture}")


def _remedy(board: Board | None) -> str:
    return "install torch for this JetPack (docs/jetson.md)" if board else "install torch as docs/install.md says"
