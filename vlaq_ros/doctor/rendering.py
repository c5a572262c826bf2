"""Whether MuJoCo can draw; the simulated robot alone needs it."""

from __future__ import annotations

import subprocess
import sys

from vlaq_ros.doctor.finding import Finding, ok, warn

_PROGRAM = "from vlaq_ros.sim.scene import Scene; import os; Scene().images(); print(os.environ['MUJOCO_GL'])"


def render() -> tuple[str, str]:
    """Draw one image, in a process of its own, for a broken driver ends the process; give the backend, or the error."""
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [f"exit {done.returncode}"]
    return (said[-1], "") if done.returncode == 0 else ("", said[-1])


def rendering(backend: str, error: str) -> Finding:
    """Judge what `render` gave."""
    if backend:
        return ok("rendering", f"MuJoCo draws with {backend}")
    remedy = "pip install mujoco and apt-get install libegl1 libegl-mesa0, or libosmesa6; a robot does without"
    return warn("rendering", f"MuJoCo cannot draw: {error}", "EGL or OSMesa, for the simulated robot", remedy)
