"""A node's process is asked to end, then made to; a node that ends by itself is an error that says why."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from vlaq_ros.ros import processes
from vlaq_ros.ros.processes import NodeDiedError, NodeProcess

WAITS = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
print("ready", *sys.argv[1:], flush=True)
time.sleep(60)
"""
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("ready", child.pid, flush=True)
time.sleep(60)
"""
DIES = """
import sys
print("loading")
sys.exit("pilot: model directory '/none' has no config.json")
"""


def start(directory: Path, code: str, **parameters: str) -> NodeProcess:
    (directory / "toy_node.py").write_text(code)
    return NodeProcess("toy_node", parameters, {"PYTHONPATH": str(directory)}, directory / "toy.log")


def wait_for_line(log: Path) -> str:
    deadline = time.monotonic() + 20.0
    while "\n" not in (text := log.read_text()):
        assert time.monotonic() < deadline, "the process said nothing in 20 s"
        time.sleep(0.02)
    return text.splitlines()[0]


def watch(node: NodeProcess, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        node.check()
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody reaps does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_node_gets_its_parameters_and_ends_when_asked(tmp_path: Path) -> None:
    with start(tmp_path, WAITS, autostart="true", model="/a b") as node:
        assert wait_for_line(tmp_path / "toy.log") == "ready --ros-args -p autostart:=true -p model:=/a b"
        node.check()
        assert os.getpgid(node.pid) == node.pid  # Ctrl-C in this terminal does not reach it
        assert node.stop() == 0
    assert not alive(node.pid)


def test_a_node_that_ignores_signals_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = ((signal.SIGINT, 0.2), (signal.SIGTERM, 0.2), (signal.SIGKILL, 5.0))
    monkeypatch.setattr(processes, "ESCALATION", patience)
    node = start(tmp_path, STUBBORN)
    child = int(wait_for_line(tmp_path / "toy.log").split()[1])
    assert node.stop() == -signal.SIGKILL
    deadline = time.monotonic() + 5.0
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_node_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    with start(tmp_path, DIES) as node, pytest.raises(NodeDiedError) as death:
        watch(node, seconds=20.0)
    assert str(death.value) == (
        "node toy ended with code 1: pilot: model directory '/none' has no config.json; "
        f"its whole output is in '{tmp_path / 'toy.log'}'"
    )


def test_the_node_ends_when_its_owner_fails(tmp_path: Path) -> None:
    node = start(tmp_path, WAITS)
    wait_for_line(tmp_path / "toy.log")

    def fail_inside() -> None:
        with node:
            raise RuntimeError("owner")

    with pytest.raises(RuntimeError, match="owner"):
        fail_inside()
    assert not alive(node.pid)
