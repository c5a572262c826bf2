"""Whether the machine is a Jetson, and the power mode that it is in."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vlaq_ros.doctor.finding import Finding, ok, unknown, warn

_RELEASE = Path("/etc/nv_tegra_release")
_MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True, slots=True)
class Board:
    """A Jetson; a text is empty where the system does not tell it, as inside a container."""

    model: str  # "NVIDIA Jetson AGX Orin Developer Kit"
    release: str  # of Jetson Linux: "R39, REVISION: 2.0" is JetPack 7.2


def jetson(release: Path = _RELEASE, model: Path = _MODEL) -> Board | None:
    """Recognise a Jetson by its Linux, or by its device tree, which a container sees as well."""
    named = model.read_text(encoding="utf-8").rstrip("\0\n") if model.is_file() else ""
    if not release.is_file():
        return Board(named, "") if "Jetson" in named else None
    first = release.read_text(encoding="utf-8").partition("\n")[0]
    words = [word.strip(" #") for word in first.replace(" (release)", "").split(",")]
    return Board(named, ", ".join(words[:2]))


def board(found: Board | None) -> Finding:
    """Say which board it is."""
    if found is None:
        return ok("board", "no Jetson")
    return ok("board", ", ".join(filter(None, (found.model or "a Jetson", found.release))))


def power_mode(found: Board | None, said: str | None) -> Finding:
    """Judge the power mode of a Jetson.

    Args:
        found: the board.
        said: the output of `nvpmodel -q`; None where it does not run.
    """
    if found is None:
        return ok("power mode", "none, the machine is no Jetson")
    mode = next((line.partition(":")[2].strip() for line in (said or "").splitlines() if "Power Mode" in line), "")
    if not mode:
        return unknown("power mode", "nvpmodel does not tell it; in a container, look on the board: nvpmodel -q")
    if mode.startswith("MAXN"):
        return ok("power mode", mode)
    remedy = "sudo nvpmodel -m 0, then sudo jetson_clocks; watch the temperature"
    return warn("power mode", mode, "MAXN or MAXN_SUPER, which /etc/nvpmodel.conf numbers", remedy)


def nvpmodel() -> str | None:
    """Ask the board for its power mode."""
    if shutil.which("nvpmodel") is None:
        return None
    return subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, check=False, timeout=10).stdout
