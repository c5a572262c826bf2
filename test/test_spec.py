"""policy.json: what is read is what was written, and whatever else is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vlaq_ros.datatypes import ActionSpace, MotionScales
from vlaq_ros.errors import CorruptModelError, FormatVersionError, ModelNotFoundError, UnknownKeyError, VlaqError
from vlaq_ros.policy.spec import PolicySpec

SPEC = PolicySpec(
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
    fine_threshold=0.45,
)
COUNTS = st.integers(1, 10**6)
SCALES = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
NAMES = st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def specs(draw: st.DrawFn) -> PolicySpec:
    joints, space = draw(NAMES), draw(st.sampled_from(ActionSpace))
    columns = len(joints) if space is ActionSpace.JOINT else 7
    action = draw(st.sampled_from([(columns,), (1, columns), (3, columns)]))

    def mean(shape: tuple[int, ...]) -> Any:
        return draw(hnp.arrays(np.float64, shape, elements=st.floats(allow_nan=False, allow_infinity=False)))

    def std(shape: tuple[int, ...]) -> Any:
        return draw(hnp.arrays(np.float64, shape, elements=SCALES))

    return PolicySpec(
        family="pi0",
        cameras=draw(NAMES),
        image_size_px=draw(COUNTS),
        joint_names=joints,
        action_space=space,
        step_s=draw(SCALES),
        denoising_steps=draw(COUNTS),
        text_length=draw(st.none() | COUNTS),
        instructions=draw(NAMES),
        state_mean=mean((len(joints),)),
        state_std=std((len(joints),)),
        action_mean=mean(action),
        action_std=std(action),
        motion=draw(st.builds(MotionScales, SCALES, SCALES, SCALES)),
        fine_threshold=draw(SCALES),
    )


@settings(max_examples=50)
@given(spec=specs())
def test_what_was_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, spec: PolicySpec) -> None:
    directory = tmp_path_factory.mktemp("spec")
    spec.save(directory)
    loaded = PolicySpec.load(directory)
    for field in fields(PolicySpec):
        saved, got = getattr(spec, field.name), getattr(loaded, field.name)
        assert type(got) is type(saved)
        assert np.array_equal(got, saved) if isinstance(saved, np.ndarray) else got == saved


def test_a_missing_file_names_the_directory(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(ModelNotFoundError) as caught:
        PolicySpec.load(absent)
    assert str(caught.value) == (
        f"model directory {str(absent)!r} has no policy.json; expected a bundle such as "
        "models/tabletop_pi0_calibrated, or a checkpoint such as models/tabletop_pi0"
    )


def edited(directory: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    SPEC.save(directory)
    path = directory / PolicySpec.FILE
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("edit", "version"),
    [
        (lambda v: v.update(format_version=2), "2"),
        (lambda v: v.update(format_version=True), "True"),
        (lambda v: v.pop("format_version"), "None"),
    ],
)
def test_another_format_version_is_refused(tmp_path: Path, edit: Callable[[Any], object], version: str) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(FormatVersionError) as caught:
        PolicySpec.load(tmp_path)
    assert str(caught.value) == (
        f"{str(path)!r} has format_version {version}, expected 1; "
        "use the release of vlaq_ros that wrote it, or make it again"
    )


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda values: values.update(step=0.05))
    known = ", ".join(field.name for field in fields(PolicySpec))
    with pytest.raises(UnknownKeyError) as caught:
        PolicySpec.load(tmp_path)
    assert str(caught.value) == f"unknown key 'step' in {path}; known keys: {known}"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda v: v.pop("step_s"), "it has no key 'step_s'"),
        (lambda v: v.update(family="smolvla"), "family: got 'smolvla', expected 'pi0'"),
        (lambda v: v.update(cameras=[]), "cameras: got [], expected a list of different names"),
        (lambda v: v.update(cameras=["a", "a"]), "cameras: got ['a', 'a'], expected a list of different names"),
        (lambda v: v.update(cameras="front"), "cameras: got 'front', expected a list of different names"),
        (lambda v: v.update(cameras=[1]), "cameras: got 1, expected text"),
        (lambda v: v.update(cameras=[""]), "cameras: got '', expected text"),
        (lambda v: v.update(image_size_px=96.0), "image_size_px: got 96.0, expected a whole number above 0"),
        (lambda v: v.update(denoising_steps=True), "denoising_steps: got True, expected a whole number above 0"),
        (lambda v: v.update(text_length=0), "text_length: got 0, expected a whole number above 0"),
        (lambda v: v.update(step_s=0), "step_s: got 0, expected a number above 0"),
        (lambda v: v.update(step_s="x"), "step_s: got 'x', expected a finite number"),
        (lambda v: v.update(fine_threshold=float("inf")), "fine_threshold: got inf, expected a finite number"),
        (lambda v: v.update(step_s=10**400), "step_s: int too large to convert to float"),
        (lambda v: v.update(action_space="wheel"), "action_space: 'wheel' is not a valid ActionSpace"),
        (lambda v: v.update(state_mean=[0.0, 0.0]), "state_mean has shape [2], expected [3]"),
        (lambda v: v.update(state_std=[1.0]), "state_std has shape [1], expected [3]"),
        (lambda v: v.update(state_mean=[0, 0, float("nan")]), "state_mean: got a value that is not a finite number"),
        (lambda v: v.update(state_mean=["0", "0", "0"]), "state_mean: got a value that is not a finite number"),
        (lambda v: v.update(state_mean=[True] * 3), "state_mean: got a value that is not a finite number"),
        (lambda v: v.update(state_mean=None), "state_mean: got a value that is not a finite number"),
        (lambda v: v.update(action_std=[[1, 1, 1]]), "action_std has shape [1, 3], expected [2, 3]"),
        (
            lambda v: v.update(action_mean=[[0, 0]], action_std=[[1, 1]]),
            "action_mean has shape [1, 2], expected [3] or [T, 3]",
        ),
        (
            lambda v: v.update(action_mean=[[[0, 0, 0]]], action_std=[[[1, 1, 1]]]),
            "action_mean has shape [1, 1, 3], expected [3] or [T, 3]",
        ),
        (lambda v: v.update(action_mean=0, action_std=1), "action_mean has shape [], expected [3] or [T, 3]"),
        (lambda v: v.update(action_space="end_effector"), "action_mean has shape [2, 3], expected [7] or [T, 7]"),
        (lambda v: v["state_std"].__setitem__(0, 0.0), "state_std and action_std must be above 0"),
        (lambda v: v["action_std"][1].__setitem__(2, -1), "state_std and action_std must be above 0"),
        (
            lambda v: v["motion"].pop("period_s"),
            "motion: got {'displacement_m': 0.02, 'rotation_rad': 0.1}, expected exactly the keys period_s, "
            "displacement_m, rotation_rad",
        ),
        (lambda v: v["motion"].update(rotation_rad=-1), "motion: got -1, expected a number above 0"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path: Path, edit: Callable[[Any], object], why: str) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(CorruptModelError) as caught:
        PolicySpec.load(tmp_path)
    assert str(caught.value) == f"model file {str(path)!r} cannot be used: {why}; copy or download it again"


def test_ragged_numbers_are_refused(tmp_path: Path) -> None:
    edited(tmp_path, lambda values: values.update(action_mean=[[1, 2, 3], [1]]))
    with pytest.raises(CorruptModelError, match=r": action_mean: .*; copy or download it again$"):
        PolicySpec.load(tmp_path)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(key=st.sampled_from([field.name for field in fields(PolicySpec)]), value=ANY_JSON)
def test_any_value_is_taken_or_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    directory = tmp_path_factory.mktemp("spec")
    edited(directory, lambda values: values.update({key: value}))
    told = ""
    try:
        taken = PolicySpec.load(directory)
    except VlaqError as error:
        told = str(error)
    else:
        expected = MotionScales(**value) if isinstance(value, dict) else value
        assert np.array_equal(getattr(taken, key), expected)
    assert "\n" not in told


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / PolicySpec.FILE
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CorruptModelError) as caught:
        PolicySpec.load(tmp_path)
    assert str(caught.value).startswith(f"model file {str(path)!r} cannot be used: ")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_held_cannot_be_written() -> None:
    with pytest.raises(ValueError, match=r"^state_std and action_std must be above 0$"):
        replace(SPEC, state_std=np.array([1.0, np.nan, 1.0]))
