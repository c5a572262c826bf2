"""config.json, policy.json and the tokenizer's files, held against each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlaq_ros.datatypes import ActionSpace
from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy.description import describe
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import build_tokenizer, load_tokenizer


@pytest.fixture
def model(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """What is described, without weights, free to be changed."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def told(directory: Path) -> tuple[str, str]:
    """Name of the file that cannot be used, and why."""
    with pytest.raises(CorruptModelError) as caught:
        describe(directory)
    before, path, middle = str(caught.value).split("'", 2)
    assert before == "model file "
    assert Path(path).parent == directory
    why, after = middle.removeprefix(" cannot be used: ").rsplit("; ", 1)
    assert after == "copy or download it again"
    return Path(path).name, why


def test_prompts_hold_the_image_tokens_of_all_cameras(model: Path) -> None:
    described = describe(model)
    tokenizer = load_tokenizer(model)
    assert described.directory == model
    assert tuple(described.prompts) == described.spec.instructions
    for instruction, ids in described.prompts.items():
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert tokens[:72] == ["<image>"] * 72  # 2 cameras of 6 x 6 patches
        assert tokens[72:] == ["<bos>", *instruction.split(), "\n", *["<pad>"] * (7 - len(instruction.split()))]


def test_prompts_without_padding_are_as_long_as_their_instructions(model: Path) -> None:
    padded = describe(model).prompts
    replace(PolicySpec.load(model), text_length=None, cameras=("front",)).save(model)
    assert {text: len(ids) for text, ids in describe(model).prompts.items()} == {
        text: 36 + len(text.split()) + 2 for text in padded
    }


@pytest.mark.parametrize("name", ["config.json", "policy.json", "tokenizer.json"])
def test_a_missing_file_is_told(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        describe(model)
    assert str(caught.value) == (
        f"model directory {str(model)!r} has no {name}; expected a bundle such as models/tabletop_pi0_calibrated, or a "
        "checkpoint such as models/tabletop_pi0"
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
                "action_mean": np.zeros(9),
                "action_std": np.ones(9),
            },
            "the number of joint_names is 9, config.json allows 8",
        ),
        ({"text_length": 5}, "instruction 'pick up the red cube' has 7 tokens, expected at most 5"),
    ],
)
def test_a_policy_that_the_network_does_not_fit_is_told(model: Path, change: dict[str, Any], why: str) -> None:
    replace(PolicySpec.load(model), **change).save(model)
    assert told(model) == ("policy.json", why)


def test_more_columns_than_the_network_gives_are_told(model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(max_action_dim=6))
    assert told(model) == ("policy.json", "the number of columns of action_mean is 8, config.json allows 6")


@pytest.mark.parametrize(
    "change",
    [
        {
            "action_space": ActionSpace.END_EFFECTOR,
            "action_mean": np.zeros((16, 7)),
            "action_std": np.ones((16, 7)),
        },
        {"action_mean": np.zeros(8), "action_std": np.ones(8)},  # one row for all steps
        {"joint_names": ("pan", "tilt"), "state_mean": np.zeros(2), "state_std": np.ones(2)}
        | {"action_mean": np.zeros(2), "action_std": np.ones(2)},
    ],
)
def test_a_policy_may_be_narrower_than_its_network(model: Path, change: dict[str, Any]) -> None:
    replace(PolicySpec.load(model), **change).save(model)
    assert describe(model).spec.action_mean.shape == change["action_mean"].shape


def test_another_kind_of_network_is_told(model: Path) -> None:
    edit(model / "config.json", lambda config: config.update(model_type="smolvla"))
    assert told(model) == ("config.json", "model_type is 'smolvla', expected 'pi0'")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "pi0", "vlm_config": 3}'])
def test_a_configuration_that_is_none_is_told_in_one_line(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    name, why = told(model)
    assert name == "config.json"
    assert why
    assert "\n" not in why


def test_a_tokenizer_of_another_policy_is_told(model: Path) -> None:
    instructions = PolicySpec.load(model).instructions
    build_tokenizer([*instructions, "stack two violet cups"]).save_pretrained(model)
    assert told(model) == ("tokenizer.json", "the highest token id is 18, config.json allows 14")


def test_an_image_token_that_the_network_does_not_know_is_told(model: Path) -> None:
    edit(model / "config.json", lambda config: config["vlm_config"].update(image_token_id=7))
    assert told(model) == ("tokenizer.json", "the id of <image> is 3, config.json says 7")


def test_an_image_token_needs_no_embedding(model: Path) -> None:
    after_the_last = len(load_tokenizer(model))

    def moved(values: dict[str, Any]) -> None:
        values["model"]["vocab"]["<image>"] = after_the_last
        next(token for token in values["added_tokens"] if token["content"] == "<image>")["id"] = after_the_last

    edit(model / "tokenizer.json", moved)
    edit(model / "config.json", lambda config: config["vlm_config"].update(image_token_id=after_the_last))
    assert describe(model).prompts["pick up the red cube"][:72].tolist() == [after_the_last] * 72
