"""What the machine tells of itself: memory, and temperature where it has a sensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from vlaq_ros.policy.memory import device_bytes, process_bytes

THERMAL = Path("/sys/class/thermal")


def values() -> dict[str, str]:
    """Give what is known, as keys and values of a diagnostic status."""
    said = {"memory of the process": f"{process_bytes() / 2**20:.0f} MiB"}
    if torch.cuda.is_available():
        said["memory of torch on the GPU"] = f"{device_bytes(torch.device('cuda')) / 2**20:.0f} MiB"
    return said | dict(_temperatures(THERMAL))


def _temperatures(thermal: Path) -> Iterator[tuple[str, str]]:
    """Names and values of the kernel's thermal zones; one whose sensor does not answer is passed over."""
    for zone in sorted(thermal.glob("thermal_zone*")):
        try:
            name, milli = (zone / "type").read_text(), int((zone / "temp").read_text())
        except (OSError, ValueError):
            continue
        yield f"temperature of {name.strip()}", f"{milli * 1e-3:.1f} C"
