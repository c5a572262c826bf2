"""manifest.json: what is read is what was written, and whatever else is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaq_ros.datatypes import ActionSpace, MotionScales
from vlaq_ros.errors import CorruptModelError, ManifestVersionError, ModelNotFoundError, UnknownKeyError
from vlaq_ros.policy.manifest import Manifest, PrecisionPlan

MANIFEST = Manifest(
    family="pi0",
    cameras=("front", "wrist"),
    image_size_px=96,
    joint_names=("shoulder", "elbow", "gripper"),
    action_space=ActionSpace.JOINT,
    step_s=0.05,
    denoising_steps=8,
    text_length=9,
    instructions=("pick up the red cube",),
    state_mean=np.array([0.1, -0.2, 0.3]),
    state_std=np.array([1.0, 2.0, 0.5]),
    action_mean=np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
    action_std=np.array([[1.0, 1.5, 2.0], [2.5, 3.0, 1 / 3]]),
    motion=MotionScales(period_s=0.05, displacement_m=0.02, rotation_rad=0.1),
    precisions=(PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 4, 8, 0.0)),
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    MANIFEST.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    for field in fields(Manifest):
        saved, got = getattr(MANIFEST, field.name), getattr(loaded, field.name)
        assert type(got) is type(saved)
        assert np.array_equal(got, saved) if isinstance(saved, np.ndarray) else got == saved


def test_a_missing_manifest_names_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model directory '.*' has no manifest\.json; expected"):
        Manifest.load(tmp_path / "absent")


def edited(directory: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    MANIFEST.save(directory)
    path = directory / Manifest.FILE
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return path


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda values: values.update(format_version=2))
    with pytest.raises(ManifestVersionError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == (
        f"manifest {str(path)!r} has format_version 2, expected 1; use the release of vlaq_ros that wrote it, or train "
        "again"
    )


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda values: values.update(step=0.05))
    known = ", ".join(field.name for field in fields(Manifest))
    with pytest.raises(UnknownKeyError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == f"unknown key 'step' in {path}; known keys: {known}"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda v: v.pop("step_s"), "it has no key 'step_s'"),
        (lambda v: v.update(family="smolvla"), "family: got 'smolvla', expected 'pi0'"),
        (lambda v: v.update(cameras=[]), "cameras: got [], expected a list of different names"),
        (lambda v: v.update(cameras=["a", "a"]), "cameras: got ['a', 'a'], expected a list of different names"),
        (lambda v: v.update(cameras=[1]), "cameras: got 1, expected text"),
        (lambda v: v.update(image_size_px=96.0), "image_size_px: got 96.0, expected a whole number above 0"),
        (lambda v: v.update(denoising_steps=True), "denoising_steps: got True, expected a whole number above 0"),
        (lambda v: v.update(step_s=0), "step_s: got 0, expected a number above 0"),
        (lambda v: v.update(step_s="x"), "step_s: got 'x', expected a finite number"),
        (lambda v: v.update(action_space="wheel"), "action_space: 'wheel' is not a valid ActionSpace"),
        (lambda v: v.update(state_mean=[0.0, 0.0]), "state_mean has shape [2], expected [3]"),
        (lambda v: v.update(state_mean=[0, 0, float("nan")]), "state_mean: got a value that is not finite"),
        (lambda v: v.update(action_std=[[1, 1, 1]]), "action_std has shape [1, 3], expected [2, 3]"),
        (
            lambda v: v.update(action_mean=[[0, 0]], action_std=[[1, 1]]),
            "action_mean has shape [1, 2], expected [T, 3]",
        ),
        (lambda v: v.update(action_mean=[0, 0, 0], action_std=[1, 1, 1]), "action_mean has shape [3], expected [T, 3]"),
        (lambda v: v.update(action_space="end_effector"), "action_mean has shape [2, 3], expected [T, 7]"),
        (lambda v: v["state_std"].__setitem__(0, 0.0), "state_std and action_std must be above 0"),
        (
            lambda v: v["motion"].pop("period_s"),
            "motion: got {'displacement_m': 0.02, 'rotation_rad': 0.1}, expected exactly the keys period_s, "
            "displacement_m, rotation_rad",
        ),
        (lambda v: v["motion"].update(rotation_rad=-1), "motion: got -1, expected a number above 0"),
        (lambda v: v.update(precisions=[]), "precisions are named [], expected one or more different names"),
        (lambda v: v.update(precisions={}), "precisions: got {}, expected a list"),
        (
            lambda v: v["precisions"][0].update(name="coarse"),
            "precisions are named ['coarse', 'coarse'], expected one or more different names",
        ),
        (
            lambda v: v["precisions"][1].update(weight_bits=2),
            "precision 'coarse' has 2-bit weights and 8-bit activations, expected 8- or 4-bit weights and 8-bit "
            "activations",
        ),
        (
            lambda v: v["precisions"][1].update(threshold=0.45),
            "thresholds are [0.45, 0.45], expected them falling, finest precision first",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path: Path, edit: Callable[[Any], object], why: str) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(CorruptModelError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == f"model file {str(path)!r} cannot be used: {why}; copy or download it again"


def test_ragged_numbers_are_refused(tmp_path: Path) -> None:
    edited(tmp_path, lambda values: values.update(action_mean=[[1, 2, 3], [1]]))
    with pytest.raises(CorruptModelError, match="action_mean: "):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / Manifest.FILE).write_text(text, encoding="latin-1")
    with pytest.raises(CorruptModelError):
        Manifest.load(tmp_path)
