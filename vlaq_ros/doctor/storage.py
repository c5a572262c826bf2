"""Room on the disk that recordings go to, and in the shared memory that ROS moves images through."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from vlaq_ros.doctor.finding import Finding, fail, ok, unknown, warn

PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
_RECORDING_BYTES = 10e9  # three minutes of two raw cameras of 640x480 at 30 Hz
_SEGMENT_BYTES = 8 * 2**20  # several 640x480 images; Fast DDS's default is half a MiB
_SEGMENTS_BYTES = 512 * 2**20  # of all processes of a robot
_FILES = 200  # of Fast DDS; a process that was killed leaves two or more


def disk(directory: Path) -> Finding:
    """Judge the room for recordings."""
    return judge_disk(directory, shutil.disk_usage(directory).free)


def judge_disk(directory: Path, free_bytes: int) -> Finding:
    """Judge a number of free bytes."""
    said = f"{free_bytes / 1e9:.1f} GB free in {directory}"
    if free_bytes >= _RECORDING_BYTES:
        return ok("disk", said)
    expected = f"{_RECORDING_BYTES / 1e9:.0f} GB: three minutes of two raw cameras"
    return warn("disk", said, expected, "remove old bags, or record compressed images")


def shared_memory(directory: Path = Path("/dev/shm")) -> Finding:
    """Judge the room for the segments of DDS, and how many dead processes have left behind."""
    if not directory.is_dir():
        return unknown("shared memory", f"there is no {directory}")
    names = [path.name for path in directory.iterdir()]
    return judge_shared_memory(directory, shutil.disk_usage(directory).free, names)


def judge_shared_memory(directory: Path, free_bytes: int, names: Iterable[str]) -> Finding:
    """Judge a number of free bytes and names of files."""
    files = sum("fastdds" in name or "fastrtps" in name for name in names)
    said = f"{free_bytes / 2**20:.0f} MiB free in {directory}, {files} files of Fast DDS"
    if free_bytes < _SEGMENTS_BYTES:
        remedy = "in a container, start it with --shm-size=2g or --ipc=host"
        return warn("shared memory", said, f"{_SEGMENTS_BYTES // 2**20} MiB", remedy)
    if files > _FILES:
        remedy = f"end all ROS processes, then rm {directory}/fastdds_* {directory}/sem.fastdds_*"
        return warn("shared memory", said, f"at most {_FILES}: killed processes leave theirs behind", remedy)
    return ok("shared memory", said)


def profile(environment: Mapping[str, str], shipped: Path) -> Finding:
    """Judge the profile that Fast DDS is given: by default its segments are smaller than one 640x480 image."""
    check, expected = "Fast DDS profile", "shared memory segments that hold several images"
    remedy = f"start the nodes of the cameras with {PROFILES}={shipped}"
    given = environment.get(PROFILES, "")
    if not given:
        return warn(
            check, f"{PROFILES} is not set: large images that are sent from here may get lost", expected, remedy
        )
    try:
        root = ElementTree.parse(given).getroot()
    except (OSError, ElementTree.ParseError) as error:
        return fail(check, f"{PROFILES}={given} cannot be read: {error}", "an XML file of Fast DDS", remedy)
    sizes = [int(node.text or 0) for node in root.iter() if node.tag.endswith("}segment_size")]
    said = f"{given}: segments of {max(sizes, default=0) / 2**20:.1f} MiB"
    return ok(check, said) if max(sizes, default=0) >= _SEGMENT_BYTES else warn(check, said, expected, remedy)
