"""ROS on this machine and the topics of a robot, judged by what `vlaq_ros.ros.survey` saw from its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vlaq_ros.doctor.finding import Finding, fail, ok, warn

_PATIENCE_S = 60.0
_LOST = 0.1  # of the images of the beacon
_STARVED = 0.5  # of a camera's rate, as the observer has it
_APART_S = 0.5  # between the stamp of a message and its arrival
_VARIABLES = ("RMW_IMPLEMENTATION", "ROS_DISTRO", "ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS")


def survey(robot: str | None, namespace: str) -> tuple[dict[str, Any], str]:
    """Let another process look; give what it saw, or why it did not."""
    command = [sys.executable, "-m", "vlaq_ros.ros.survey", *([robot, namespace] if robot else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return {}, f"it hung for {_PATIENCE_S:.0f} s"
    if done.returncode:
        return {}, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen, ""


def middleware(seen: Mapping[str, Any], error: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Judge whether ROS loads, whether two processes find each other, and whether large images arrive."""
    if error:
        remedy = "source the setup file of ROS 2 in an environment of its own Python, or pip install '.[ros]'"
        yield fail("ROS", f"it does not start: {error}", "an rclpy that this Python loads", remedy)
        return
    known = ", ".join(f"{name}={environment[name]}" for name in _VARIABLES if environment.get(name))
    yield ok("ROS", f"rclpy on {seen['rmw']}; {known or 'no ROS variable is set'}")
    facts = seen["middleware"]
    if facts["found_s"] is None:
        remedy = "see that ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE agree, that a firewall lets UDP through"
        yield fail("discovery", "a second process was not heard", "its messages within 10 s", remedy)
        return
    yield ok("discovery", f"a second process was heard {facts['found_s']:.1f} s after it was started")
    sent, received = facts["images_sent"], facts["images_received"]
    said = f"{received} of {sent} best-effort images of 640x480 arrived"
    if received >= (1 - _LOST) * sent:
        yield ok("large images", said)
    else:
        remedy = "set the Fast DDS profile (below), use compressed images, or reliability: reliable in the robot's file"
        yield warn("large images", said, "all of them", remedy)


def topics(seen: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the topics of a robot."""
    for facts in seen["inputs"]:
        yield _input(facts, simulated=seen["clock"])
    for facts in seen["outputs"]:
        yield _output(facts)


def _input(facts: Mapping[str, Any], *, simulated: bool) -> Finding:
    check, nodes = facts["topic"], ", ".join(facts["nodes"])
    expected_hz, received_hz, age_s = facts["expected_hz"], facts["received_hz"], facts["age_s"]
    if not nodes:
        remedy = "start the robot, or correct the topic in its file; another namespace is --namespace"
        return fail(check, "nobody publishes it", "a publisher", remedy)
    if facts["misfits"]:
        remedy = "correct type or reliability in the robot's file, or in the publisher"
        return fail(check, "; ".join(facts["misfits"]), "a publisher that the pilot can hear", remedy)
    if not facts["received"]:
        return fail(check, f"{nodes} published nothing in 2 s", "messages", "look at that node's own output")
    said = f"{received_hz:.1f} Hz from {nodes}" if received_hz else f"a message from {nodes}"
    if expected_hz and received_hz < _STARVED * expected_hz:
        remedy = "look at the camera's rate (exposure, USB), then at 'large images' above"
        return fail(check, said, f"{expected_hz:g} Hz, of which half must arrive", remedy)
    if abs(age_s) > _APART_S and not simulated:
        remedy = "synchronise the clocks of both machines (chrony), or have the driver stamp with the system clock"
        return fail(check, f"{said}, stamped {age_s:.2f} s before it arrived", f"at most {_APART_S:g} s", remedy)
    return ok(check, said)


def _output(facts: Mapping[str, Any]) -> Finding:
    check, nodes = facts["topic"], ", ".join(facts["nodes"])
    if not nodes:
        return fail(check, "nobody listens", "the robot's controller", "activate it, or correct the topic in the file")
    if facts["misfits"]:
        remedy = "correct the type in the robot's file, or command another controller"
        return fail(check, "; ".join(facts["misfits"]), "a controller that hears the pilot", remedy)
    if facts["commanders"]:
        said = f"{', '.join(facts['commanders'])} publishes commands as well"
        return warn(check, said, "one commander", "end it before the pilot is enabled")
    return ok(check, f"{nodes} listens")
