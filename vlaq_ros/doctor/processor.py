"""How fast the processor may go: governor, temperature, and whether threads may be given real-time priority."""

from __future__ import annotations

import resource
from collections import Counter
from pathlib import Path

from vlaq_ros.doctor.finding import Finding, ok, unknown, warn

_CPUS = Path("/sys/devices/system/cpu")
_THERMAL = Path("/sys/class/thermal")
_HOT_C = 85.0  # boards begin to slow down some degrees above


def governor(cpus: Path = _CPUS) -> Finding:
    """Read the frequency governors of all cores."""
    found = Counter(path.read_text(encoding="ascii").strip() for path in cpus.glob("cpu*/cpufreq/scaling_governor"))
    if not found:
        return unknown("governor", "the system tells none, as a virtual machine does")
    said = ", ".join(f"{name} on {count} cores" for name, count in found.items())
    if set(found) == {"performance"}:
        return ok("governor", said)
    remedy = "sudo cpupower frequency-set -g performance; on a Jetson sudo jetson_clocks"
    return warn("governor", said, "performance: others begin every inference slowly", remedy)


def temperature(thermal: Path = _THERMAL) -> Finding:
    """Read the hottest zone."""
    zones = {}
    for zone in thermal.glob("thermal_zone*"):
        try:
            name = (zone / "type").read_text(encoding="ascii").strip()
            zones[name] = int((zone / "temp").read_text(encoding="ascii")) / 1000
        except (OSError, ValueError):  # a zone that sleeps does not answer
            continue
    if not zones:
        return unknown("temperature", "the system tells none")
    hottest = max(zones, key=lambda name: zones[name])
    said = f"{zones[hottest]:.0f} °C at {hottest}, the hottest of {len(zones)}"
    if zones[hottest] < _HOT_C:
        return ok("temperature", said)
    return warn("temperature", said, f"less than {_HOT_C:.0f} °C", "let it cool, mend its fan, or lower the power mode")


def realtime(most_priority: int = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]) -> Finding:
    """Read the real-time priority that a program of this user may take; a controller manager here wants one."""
    unlimited = most_priority == resource.RLIM_INFINITY
    said = f"real-time priority up to {'99' if unlimited else most_priority}"
    if unlimited or most_priority >= 50:
        return ok("realtime", said)
    expected = "50, where ros2_control runs on this machine too: inference takes its time otherwise"
    remedy = "add '@realtime - rtprio 98' to /etc/security/limits.conf and this user to that group"
    return warn("realtime", said, expected, remedy)
