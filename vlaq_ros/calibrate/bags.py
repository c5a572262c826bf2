"""Observations out of rosbag2 recordings, by the same path as on the robot: every message goes through an `Observer`.

A recording is walked twice. The first walk remembers when there was an observation and how the arm stood, the second
keeps the images of the moments that were drawn, so that memory does not grow with the recording.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from vlaq_ros import messages
from vlaq_ros.bags.rosbag import INSTRUCTION, JOINTS, TEXT, absolute, image_type, read
from vlaq_ros.calibrate.buffer import Buffer
from vlaq_ros.calibrate.draw import Moment, draw
from vlaq_ros.calibrate.travel import recorded_motion
from vlaq_ros.config import PilotConfig, RobotConfig
from vlaq_ros.datatypes import Observation, Stale
from vlaq_ros.errors import CameraNamesError, NoObservationError, UnknownInstructionError
from vlaq_ros.joints import JointMap
from vlaq_ros.observe import Observer
from vlaq_ros.policy.description import Description

SPACING_S = 0.08  # between two moments, closer ones say the same; a little less than the period of a slow camera


def from_bags(
    bags: Sequence[Path],
    robot: RobotConfig,
    policy: Description,
    *,
    instruction: str | None,
    count: int,
    seed: int,
    report: Callable[[int], None],
) -> Buffer:
    """Draw observations from recordings of a robot.

    Args:
        bags: directories or storage files.
        robot: whose topics were recorded.
        policy: whose cameras, joints and instructions they must hold.
        instruction: what the robot was asked to do; None for what the recordings say on /instruction.
        count: how many observations.
        seed: of the choice and of the noise.
        report: called with the number of observations kept since the last call.

    Raises:
        UnreadableBagError, EmptyBagError: a recording cannot be read, or has nothing in it.
        BagTopicsError: one lacks a topic of the robot's cameras or its joint states.
        NoInstructionError: one has no instruction, and none is given.
        UnknownInstructionError: an instruction is none of the policy's.
        CameraNamesError, JointNamesError: the robot file lacks a camera or joint of the policy.
        NoObservationError: there is no moment at which every input is fresh.
        TooFewObservationsError: there are fewer than `count`.
        RobotDescriptionError, FrameNameError: the recorded URDF is none, or lacks the robot's tool frame.
    """
    spec = policy.spec
    if missing := [name for name in spec.cameras if name not in robot.cameras]:
        raise CameraNamesError(missing, robot.cameras)
    joints = JointMap(robot, spec.joint_names)
    if instruction is not None and instruction not in spec.instructions:
        raise UnknownInstructionError(instruction, spec.instructions)
    source = f"bag {', '.join(bag.name for bag in bags)}"

    moments: list[Moment] = []
    refusals: Counter[str] = Counter()
    for episode, sampled in _walk(bags, robot, joints, spec.cameras, instruction):
        if isinstance(sampled, Stale):
            refusals.update(sampled.reasons)
        elif sampled.instruction not in spec.instructions:
            raise UnknownInstructionError(sampled.instruction, spec.instructions)
        else:
            moments.append(Moment(episode, sampled.stamp_ns, sampled.joint_positions, sampled.instruction))
    if not moments and refusals:
        raise NoObservationError(source, refusals.most_common(1)[0][0])
    chosen = draw(moments, spec.state_std, count, seed, source)
    motion = recorded_motion(bags, robot, spec, instruction, source)

    kept: list[Observation] = []
    fresh = (
        sampled
        for _, sampled in _walk(bags, robot, joints, spec.cameras, instruction)
        if isinstance(sampled, Observation)
    )
    for row, observation in enumerate(fresh):
        if row in chosen:
            kept.append(observation)
            report(1)
    return Buffer.fill(kept, chosen.values(), policy.config, seed, source, motion=motion)


def _walk(
    bags: Sequence[Path], robot: RobotConfig, joints: JointMap, cameras: Sequence[str], instruction: str | None
) -> Iterator[tuple[tuple[int, int], Observation | Stale]]:
    """Sample at the recorded images; every sample comes with the number of its bag and of its episode there."""
    for number, bag in enumerate(bags):
        for epoch, sampled in _samples(bag, robot, joints, cameras, instruction):
            yield (number, epoch), sampled


def _samples(
    bag: Path, robot: RobotConfig, joints: JointMap, cameras: Sequence[str], instruction: str | None
) -> Iterator[tuple[int, Observation | Stale]]:
    limits = PilotConfig()
    observer = Observer(
        cameras,
        joints,
        max_image_age_s=limits.max_image_age_s,
        max_camera_skew_s=limits.max_camera_skew_s,
        max_joint_age_s=limits.max_joint_age_s,
    )
    of_topic = {absolute(robot.cameras[camera].topic): camera for camera in cameras}
    decoders = {topic: messages.IMAGES[robot.cameras[camera].type] for topic, camera in of_topic.items()}
    joint_states = absolute(robot.joint_state_topic)
    wanted = {topic: image_type(robot.cameras[camera]) for topic, camera in of_topic.items()} | {joint_states: JOINTS}
    if instruction is None:
        wanted[INSTRUCTION] = TEXT
    else:
        observer.push_instruction(instruction)
    images_ns: dict[str, int] = {}
    joints_ns = 0
    last: tuple[int, int] | None = None  # epoch and stamp of the last observation
    for topic, message in read(bag, wanted):
        if topic == INSTRUCTION:
            observer.push_instruction(message.data)
        elif topic == joint_states:
            observer.push_joints(message)
            joints_ns = messages.stamp_ns(message.header.stamp)
        else:
            images_ns[topic] = now_ns = messages.stamp_ns(message.header.stamp)
            observer.push_image(of_topic[topic], now_ns, partial(decoders[topic], message))
            oldest_ns = min(images_ns.values())  # every camera must have seen more since, or pairs would be torn apart
            if last is not None and last[0] == observer.epoch and oldest_ns - last[1] < SPACING_S * 1e9:
                continue
            sampled = observer.sample(max(now_ns, joints_ns))  # a recording's present is its newest stamp
            if isinstance(sampled, Observation):
                last = observer.epoch, sampled.stamp_ns
            yield observer.epoch, sampled
