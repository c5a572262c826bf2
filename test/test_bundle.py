"""A bundle's files, held against each other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlaq_ros.datatypes import ActionSpace
from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.manifest import Manifest
from vlaq_ros.policy.tokenizer import build_tokenizer


def test_prompts_hold_the_image_tokens_of_all_cameras(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    assert tuple(bundle.prompts) == bundle.manifest.instructions
    for ids in bundle.prompts.values():
        assert len(ids) == 2 * (96 // 16) ** 2 + bundle.manifest.text_length
        assert int((ids == 3).sum()) == 72


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(ModelNotFoundError) as caught:
        Bundle.load(absent)
    assert str(caught.value) == (
        f"model directory {str(absent)!r} has no manifest.json; expected a directory with config.json, "
        "model.safetensors, tokenizer.json and manifest.json, such as models/tabletop_pi0"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_size_px": 64}, "image_size_px is 64, config.json says 96"),
        (
            {"action_mean": np.zeros((20, 8)), "action_std": np.ones((20, 8))},
            "the number of rows of action_mean is 20, config.json says 16",
        ),
        (
            {
                "joint_names": tuple("abcdefghi"),
                "state_mean": np.zeros(9),
                "state_std": np.ones(9),
                "action_mean": np.zeros((16, 9)),
                "action_std": np.ones((16, 9)),
            },
            "the number of joint_names is 9, config.json says 8",
        ),
        (
            {
                "action_space": ActionSpace.END_EFFECTOR,
                "action_mean": np.zeros((16, 7)),
                "action_std": np.ones((16, 7)),
            },
            "the number of columns of action_mean is 7, config.json says 8",
        ),
        ({"text_length": 5}, "instruction 'pick up the red cube' has 7 tokens, expected at most 5"),
    ],
)
def test_a_manifest_that_does_not_fit_is_told(
    tiny_bundle: Path, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    directory = shutil.copytree(tiny_bundle, tmp_path / "model")
    replace(Manifest.load(directory), **change).save(directory)
    with pytest.raises(CorruptModelError) as caught:
        Bundle.load(directory)
    path = str(directory / "manifest.json")
    assert str(caught.value) == f"model file {path!r} cannot be used: {why}; copy or download it again"


def test_a_tokenizer_of_another_policy_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_bundle, tmp_path / "model")
    build_tokenizer([*Manifest.load(directory).instructions, "stack two violet cups"]).save_pretrained(directory)
    with pytest.raises(CorruptModelError, match=r"the number of words of the tokenizer is 19, config\.json says 15"):
        Bundle.load(directory)
