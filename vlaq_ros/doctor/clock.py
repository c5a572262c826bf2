"""Whether the system clock, which stamps are made with, goes evenly and with the clocks of other machines."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

from vlaq_ros.doctor.finding import Finding, ok, unknown, warn

_STEP_S = 0.001
_UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)
_STATUS = 5  # the place of `status` among the longs of struct timex on 64 bits


def differences(duration_s: float = 1.0, count: int = 20) -> list[float]:
    """Take the difference of the system clock and the monotonic one, some times, s."""
    found = []
    for _ in range(count):
        found.append(time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC))
        time.sleep(duration_s / count)
    return found


def steps(differences_s: Sequence[float]) -> Finding:
    """Judge whether the system clock was set meanwhile: slewing moves both clocks, a step only one."""
    step_s = max(differences_s) - min(differences_s)
    said = f"the system clock moved {1e3 * step_s:.2f} ms against the monotonic one in {len(differences_s)} looks"
    if step_s <= _STEP_S:
        return ok("clock steps", said)
    remedy = "let chrony slew instead of step (makestep only at start), or use use_sim_time; see what sets the clock"
    return warn("clock steps", said, f"less than {1e3 * _STEP_S:g} ms", remedy)


def status() -> int | None:
    """Read the kernel's status of the clock, by adjtimex(2); None where it is not allowed."""
    timex = (ctypes.c_long * 32)()  # larger than the structure; modes of 0 read alone
    if ctypes.CDLL(None).adjtimex(timex) < 0:
        return None
    return int(timex[_STATUS]) & 0xFFFFFFFF


def synchronised(kernel_status: int | None) -> Finding:
    """Judge whether a time service holds the clock; ages of images from another machine need that."""
    if kernel_status is None:
        return unknown("clock synchronised", "the kernel does not tell")
    if not kernel_status & _UNSYNCHRONISED:
        return ok("clock synchronised", "a time service holds the clock")
    return warn(
        "clock synchronised",
        "no time service holds the clock",
        "chrony or another, where cameras or controllers are on another machine",
        "apt install chrony, on all of them",
    )
