"""The buffer: it comes back from disk as it was, its hash is of what a policy meets, and damage is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PI0Config

from vlaq_ros.calibrate.buffer import UNSEEN, Buffer
from vlaq_ros.datatypes import MotionScales, Observation
from vlaq_ros.errors import BufferFileError
from vlaq_ros.evaluate.motion import PolicyMotion, UnknownMotion

CONFIG = PI0Config(chunk_size=3, max_action_dim=5)


def observation(value: int, instruction: str = "pick up the red cube") -> Observation:
    images = {  # of different sizes
        "wrist": np.full((4, 6, 3), value, np.uint8),
        "front": np.arange(48, dtype=np.uint8).reshape(4, 4, 3)[:, ::-1],  # not contiguous
    }
    return Observation(10 * value, images, ("a", "b"), np.array([0.1 * value, -1.0]), instruction)


@pytest.fixture
def buffer() -> Buffer:
    return Buffer.fill([observation(1), observation(2)], ("fast", "slow"), CONFIG, 7, "bag x")


def test_a_buffer_comes_back_from_disk_as_it_was(buffer: Buffer, tmp_path: Path) -> None:
    path = tmp_path / "buffer.safetensors"
    buffer.save(path)
    read = Buffer.load(path)
    assert list(tmp_path.iterdir()) == [path]
    assert (read.phases, read.origin, read.sha256) == (buffer.phases, buffer.origin, buffer.sha256)
    np.testing.assert_array_equal(read.noise, buffer.noise)
    for again, saved in zip(read.observations, buffer.observations, strict=True):
        assert (again.stamp_ns, again.joint_names, again.instruction) == (
            saved.stamp_ns,
            saved.joint_names,
            saved.instruction,
        )
        np.testing.assert_array_equal(again.joint_positions, saved.joint_positions)
        assert list(again.images) == list(saved.images)
        for camera, pixels in saved.images.items():
            np.testing.assert_array_equal(again.images[camera], pixels)


def test_how_the_arm_moved_comes_back_or_why_it_is_unknown(buffer: Buffer, tmp_path: Path) -> None:
    path = tmp_path / "buffer.safetensors"
    moved = PolicyMotion(MotionScales(0.1, 0.0123456789, 0.3), np.array([0.25, 1e-17, 2.5]))
    replace(buffer, motion=moved).save(path)
    read = Buffer.load(path).motion
    assert isinstance(read, PolicyMotion)
    assert read.scales == moved.scales
    np.testing.assert_array_equal(read.sensitivities, moved.sensitivities)
    replace(buffer, motion=UnknownMotion("it stood")).save(path)
    assert Buffer.load(path).motion == UnknownMotion("it stood")
    assert buffer.motion == UNSEEN


def test_noise_is_drawn_by_the_seed_in_the_shape_of_the_network(buffer: Buffer) -> None:
    assert buffer.noise.shape == (2, 3, 5)
    assert buffer.noise.dtype == np.float32
    again = Buffer.fill(buffer.observations, buffer.phases, CONFIG, 7, "bag x")
    other = Buffer.fill(buffer.observations, buffer.phases, CONFIG, 8, "bag x")
    np.testing.assert_array_equal(buffer.noise, again.noise)
    assert not np.array_equal(buffer.noise, other.noise)
    many = Buffer.fill([observation(1)] * 2000, ["slow"] * 2000, CONFIG, 7, "bag x")
    assert many.noise.mean() == pytest.approx(0, abs=0.03)
    assert many.noise.std() == pytest.approx(1, abs=0.03)


def test_the_hash_is_of_what_a_policy_meets_and_of_nothing_else(buffer: Buffer) -> None:
    first, second = buffer.observations
    shifted = replace(second, images={**second.images, "front": second.images["front"] + 1})
    differing = [
        replace(buffer, observations=(second, first)),
        replace(buffer, observations=(first, shifted)),
        replace(buffer, observations=(first, replace(second, instruction="pick up the green cube"))),
        replace(buffer, observations=(first, replace(second, joint_positions=second.joint_positions + 1e-9))),
        replace(buffer, observations=(first, replace(second, joint_names=("b", "a")))),
        replace(buffer, noise=buffer.noise + 1),
    ]
    assert len({buffer.sha256, *(other.sha256 for other in differing)}) == 1 + len(differing)
    turned = replace(second, stamp_ns=5, images=dict(reversed(second.images.items())))
    assert replace(buffer, observations=(first, turned)).sha256 == buffer.sha256
    assert replace(buffer, phases=("slow", "slow"), origin="elsewhere").sha256 == buffer.sha256


def test_a_buffer_is_never_empty_or_uneven(buffer: Buffer) -> None:
    for wrong in ({"observations": ()}, {"noise": buffer.noise[:1]}, {"phases": ("fast",)}):
        with pytest.raises(ValueError, match="expected equally many, above 0"):
            replace(buffer, **wrong)


def test_a_file_that_cannot_be_used_is_told(buffer: Buffer, tmp_path: Path) -> None:
    path = tmp_path / "buffer.safetensors"

    def refusal() -> str:
        with pytest.raises(BufferFileError) as mistake:
            Buffer.load(path)
        return str(mistake.value)

    buffer.save(path)
    saved = path.read_bytes()
    path.write_bytes(saved[:-1] + bytes([saved[-1] ^ 1]))
    assert refusal() == (
        f"calibration buffer {str(path)!r} cannot be used: its content is not what was saved; "
        "remove it and calibrate again"
    )
    path.write_bytes(saved.replace(b'"format_version":"1"', b'"format_version":"9"'))
    assert "its format_version is not 1" in refusal()
    path.write_bytes(saved[: len(saved) // 2])
    assert refusal().startswith(f"calibration buffer {str(path)!r} cannot be used: ")
