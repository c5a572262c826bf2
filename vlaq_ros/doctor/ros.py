"""ROS on this machine and the topics of a robot, judged by what `vlaq_ros.ros.survey` saw from its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from vlaq_ros.doctor.finding import Finding, Level, fail, ok, warn

_PATIENCE_S = 60.0
_LOST = 0.1  # of the images of the beacon
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
        remedy = "start the cameras' nodes with the profile below, or let them send compressed images, or reliably"
        yield warn("large images", said, "all of them", remedy)


def topics(seen: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the topics of a robot: who publishes, what the pilot would say of it, who listens to commands."""
    silent = [topic for topic, nodes in seen["publishers"].items() if not nodes]
    if silent:
        remedy = "start the robot, or correct the topics in its file; another namespace is --namespace"
        yield fail("topics", f"nobody publishes {', '.join(silent)}", "a publisher of each", remedy)
    else:
        said = "; ".join(f"{topic} from {', '.join(nodes)}" for topic, nodes in seen["publishers"].items())
        yield ok("topics", f"{said}{'; simulated time' if seen['simulated'] else ''}")
    for sentence in seen["faults"]:
        yield Finding("inputs", Level.FAIL, sentence)  # which says what was expected and what to do
    if seen["blocking"]:
        remedy = "ages: look at rates, and synchronise the clocks of both machines"
        yield fail("observation", "; ".join(seen["blocking"]), "all inputs in time, as the pilot wants them", remedy)
    else:
        yield ok("observation", "all cameras and the joint states are in time")
    if not seen["described"]:
        yield fail("description", "no URDF came", "a latched std_msgs/String", "start robot_state_publisher")
    yield from map(_command, seen["commands"])


def _command(seen: Mapping[str, Any]) -> Finding:
    """Judge a topic that the pilot commands."""
    topic, listeners = seen["topic"], seen["listeners"]
    if not listeners:
        remedy = "activate the controller, or correct the topic in the robot's file"
        return fail("commands", f"nobody listens to {topic}", "the robot's controller", remedy)
    if others := sorted({kind for kind in listeners.values() if kind != seen["type"]}):
        remedy = "correct the type in the robot's file, or the topic"
        return fail("commands", f"{topic} has the type {', '.join(others)}", seen["type"], remedy)
    if seen["commanders"]:
        said = f"{', '.join(seen['commanders'])} publishes on {topic}"
        return warn("commands", said, "nobody, before the pilot does", "end it before the pilot is enabled")
    return ok("commands", f"{', '.join(listeners)} listens to {topic}")
