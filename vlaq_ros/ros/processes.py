"""Nodes of this package as child processes that never outlive their owner's `with` block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from vlaq_ros.errors import VlaqError

# What a node may take to end before the next, harder signal.
ESCALATION = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class NodeDiedError(VlaqError):
    """A node's process ended by itself."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        super().__init__(f"node {name} ended with code {code}: {last}; its whole output is in {str(log)!r}")


class NodeProcess:
    """A node that runs as `python -m MODULE`.

    It leads a process group of its own, so that Ctrl-C in the terminal reaches it once, through its owner: a node that
    is interrupted twice dies before it has published its hold.

    Args:
        module: what is run, such as `vlaq_ros.ros.pilot_node`.
        parameters: ROS parameters, in the words of a ROS command line.
        environment: added to this process' environment.
        log: file that takes the output.
    """

    def __init__(self, module: str, parameters: Mapping[str, str], environment: Mapping[str, str], log: Path) -> None:
        self._name = module.rpartition(".")[2].removesuffix("_node")
        self._log = log
        given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *(["--ros-args", *given] if given else [])],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # The guard and the library path that the ROS wheels set at start are inherited together.
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process, which is also its group's."""
        return self._process.pid

    def check(self) -> None:
        """Make sure that the node is alive.

        Raises:
            NodeDiedError: it is not.
        """
        code = self._process.poll()
        if code is not None:
            raise NodeDiedError(self._name, code, self._log)

    def stop(self) -> int:
        """End the node, ever harder, and return its exit code: 0 if it ended by itself when asked."""
        for number, patience_s in ESCALATION:
            if self._process.poll() is not None:
                break
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        return self._process.wait()
