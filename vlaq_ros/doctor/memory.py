"""Whether a bundle fits into the memory that is free."""

from __future__ import annotations

from pathlib import Path

from vlaq_ros.doctor.finding import Finding, fail, ok, unknown, warn

_MEMINFO = Path("/proc/meminfo")
# What the process holds at most while it loads, measured at true size (docs/models.md): 5.00 GB for 3.15 GB of files.
# A part of it is Python, torch and ROS, which a small bundle needs as well.
_ITSELF_BYTES = 0.6e9
_OVER_FILES = (5.00e9 - _ITSELF_BYTES) / 3.15e9


def memory(model: Path, meminfo: Path = _MEMINFO) -> Finding:
    """Hold the memory that is available, which a Jetson's GPU shares, against what loading a bundle takes at most."""
    files = list(model.glob("*.safetensors"))
    if not files:
        return fail("memory", f"no weights in {model}", "a bundle", "give its directory as --model")
    available = _available(meminfo)
    if available is None:
        return unknown("memory", "the system does not tell what is available")
    peak = _ITSELF_BYTES + _OVER_FILES * sum(file.stat().st_size for file in files)
    said = f"{available / 1e9:.1f} GB available; loading {model.name} takes {peak / 1e9:.1f} GB at most"
    if available < peak:
        return fail(
            "memory", said, "as much available", "end other programs, or take a smaller bundle (docs/jetson.md)"
        )
    if available < 1.25 * peak:
        remedy = "end other programs, a desktop first: cameras and controllers want memory too"
        return warn("memory", said, "a quarter more than that", remedy)
    return ok("memory", said)


def _available(meminfo: Path) -> int | None:
    if not meminfo.is_file():
        return None
    facts = dict(line.split(":") for line in meminfo.read_text(encoding="ascii").splitlines())
    return int(facts["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in facts else None
