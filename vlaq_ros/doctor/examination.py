"""All checks in their order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vlaq_ros.config import resolve, share
from vlaq_ros.doctor import (
    accelerator,
    board,
    clock,
    interpreter,
    memory,
    processor,
    rendering,
    robot,
    ros,
    storage,
)
from vlaq_ros.doctor.finding import Finding, Level


def examine(robot_name: str | None, model_name: str, namespace: str) -> Iterator[Finding]:
    """Check the machine, then the robot.

    Args:
        robot_name: robot file, or the name of a shipped one; None leaves the robot out.
        model_name: bundle directory, or the name of a shipped one.
        namespace: that the robot's topics are in.
    """
    model, jetson, found = resolve(model_name, "models"), board.jetson(), accelerator.look()
    yield interpreter.python()
    yield interpreter.packages(interpreter.requirements(), interpreter.version_of)
    yield board.board(jetson)
    yield board.power_mode(jetson, board.nvpmodel())
    yield processor.governor()
    yield processor.temperature()
    yield processor.realtime()
    yield accelerator.build(found, jetson)
    yield accelerator.kernels(found, jetson)
    if found is not None:
        from vlaq_ros.doctor.kernel import kernel  # noqa: PLC0415 - needs torch

        yield kernel()
    yield memory.memory(model)
    yield storage.disk(Path.cwd())
    yield storage.shared_memory()
    yield clock.steps(clock.differences())
    yield clock.synchronised(clock.status())
    yield rendering.rendering(*rendering.render())
    surveyed = None
    if robot_name:
        yield (read := robot.robot(robot_name, model))
        surveyed = robot_name if read.level == Level.OK else None
    seen, error = ros.survey(surveyed, namespace)
    yield from ros.middleware(seen, error, os.environ)
    yield storage.profile(os.environ, share() / "config/fastdds_shm32.xml")
    if "robot" in seen:
        yield from ros.topics(seen["robot"])
