"""The PI0 network: the same actions as transformers' own loop, and files that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PI0ForConditionalGeneration

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy import pi0

IMAGE_TOKEN_ID, IMAGE_TOKENS = 3, 2 * 36


def inputs(batch: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(batch)
    text = torch.randint(4, 15, (batch, 9), generator=random)
    return {
        "pixel_values": torch.randn(batch, 2, 3, 96, 96, generator=random),
        "input_ids": torch.cat([torch.full((batch, IMAGE_TOKENS), IMAGE_TOKEN_ID), text], dim=1),
        "state": torch.randn(batch, 8, generator=random),
        "noise": torch.randn(batch, 16, 8, generator=random),
    }


@pytest.mark.parametrize(("batch", "steps"), [(1, 8), (3, 8), (2, 1), (2, 10)])
def test_equals_sample_actions_of_transformers(tiny_bundle: Path, batch: int, steps: int) -> None:
    arguments = inputs(batch)
    expected = PI0ForConditionalGeneration.from_pretrained(tiny_bundle).sample_actions(
        **arguments,
        attention_mask=torch.ones_like(arguments["input_ids"]),
        pixel_attention_mask=torch.ones(batch, 2, dtype=torch.bool),
        num_steps=steps,
    )
    network = pi0.load(tiny_bundle)
    torch.testing.assert_close(pi0.denoise(network, **arguments, steps=steps), expected, rtol=1e-5, atol=1e-5)
    pi0.drop_unused(network)
    torch.testing.assert_close(pi0.denoise(network, **arguments, steps=steps), expected, rtol=1e-5, atol=1e-5)


def test_every_input_matters(tiny_bundle: Path) -> None:
    network = pi0.load(tiny_bundle)
    arguments = inputs(1)
    actions = pi0.denoise(network, **arguments, steps=4)
    for name, value in inputs(1).items():
        changed = value.clone()
        if name == "input_ids":
            changed[:, -1] = 4 + (changed[:, -1] - 3) % 11  # another word
        else:
            changed.flatten()[0] += 1
        assert not torch.allclose(pi0.denoise(network, **{**arguments, name: changed}, steps=4), actions), name


def test_what_is_kept_is_used(tiny_bundle: Path) -> None:
    network = pi0.load(tiny_bundle)
    pi0.drop_unused(network)
    network.requires_grad_(True)
    with torch.inference_mode(False):
        pi0.denoise.__wrapped__(network, **inputs(1), steps=2).sum().backward()
    unused = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert unused == []


def test_all_linears_of_the_three_transformers_are_quantized_and_no_other(tiny_bundle: Path) -> None:
    network = pi0.load(tiny_bundle)
    pi0.drop_unused(network)
    linears = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    assert {name for name in linears if not pi0.is_quantized(name)} == {
        "model.vlm.multi_modal_projector.linear",
        "embed_action_time.action_in_proj",
        "embed_action_time.state_proj",
        "embed_action_time.action_time_mlp_in",
        "embed_action_time.action_time_mlp_out",
        "action_out_proj",
    }
    vision, language, expert = 2 * 6, 7 + 2, 2 * 7  # two layers each; of the last language layer k and v alone
    assert sum(map(pi0.is_quantized, linears)) == vision + language + expert


def test_loading_says_nothing(tiny_bundle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pi0.load(tiny_bundle)
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_in_half_precision_is_read_in_float32(tiny_bundle: Path, tmp_path: Path) -> None:
    source = PI0ForConditionalGeneration.from_pretrained(tiny_bundle)
    source.half().save_pretrained(tmp_path)
    loaded = pi0.load(tmp_path).state_dict()
    for name, halved in source.state_dict().items():
        assert loaded[name].dtype is torch.float32
        assert torch.equal(loaded[name], halved.float())


def copy_of(bundle: Path, directory: Path) -> Path:
    return Path(shutil.copytree(bundle, directory / "model"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    directory = copy_of(tiny_bundle, tmp_path)
    (directory / name).unlink()
    with pytest.raises(ModelNotFoundError, match=f"has no {name}; expected"):
        pi0.load(directory)


def test_a_pickle_beside_is_not_opened(tiny_bundle: Path, tmp_path: Path) -> None:
    directory = copy_of(tiny_bundle, tmp_path)
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no model\.safetensors"):
        pi0.load(directory)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:5000],  # truncated in the header
        lambda content: content[:-5000],  # truncated in the data
        lambda content: b"",
        lambda content: b"PK\x03\x04" + content,  # a pickle's archive
    ],
)
def test_a_damaged_file_is_told(tiny_bundle: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    weights = copy_of(tiny_bundle, tmp_path) / "model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(CorruptModelError) as caught:
        pi0.load(weights.parent)
    text = str(caught.value)
    assert text.startswith(f"model file {str(weights)!r} cannot be used: ")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"num_hidden_layers": 3}, "9 tensors are missing, such as model.dit.layers.2.input_layernorm.weight;"),
        ({"num_hidden_layers": 1}, "9 tensors are unexpected, such as model.dit.layers.1.input_layernorm.weight;"),
        ({"intermediate_size": 96}, "6 tensors are of another shape, such as model.dit.layers.0.mlp.down_proj.weight;"),
    ],
)
def test_weights_that_do_not_fit_are_told(
    tiny_bundle: Path, tmp_path: Path, change: dict[str, int], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = copy_of(tiny_bundle, tmp_path)
    config = json.loads((directory / "config.json").read_text())
    config["dit_config"].update(change)
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CorruptModelError, match=why):
        pi0.load(directory)
    assert capfd.readouterr() == ("", "")


def test_a_weight_that_is_not_finite_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    weights = copy_of(tiny_bundle, tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    tensors["state_proj.bias"][3] = float("nan")
    save_file(tensors, weights)
    with pytest.raises(
        CorruptModelError, match=r"embed_action_time\.state_proj\.bias holds a value that is not finite"
    ):
        pi0.load(weights.parent)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not a valid JSON file"),
        ("[]", "cannot be used"),
        ("{}", "model_type is None, expected 'pi0'"),
        ('{"model_type": "gemma"}', "model_type is 'gemma', expected 'pi0'"),
        ('{"model_type": "pi0", "chunk_size": "x"}', "'chunk_size' expected int"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(tiny_bundle: Path, tmp_path: Path, content: str, why: str) -> None:
    config = copy_of(tiny_bundle, tmp_path) / "config.json"
    config.write_text(content)
    with pytest.raises(CorruptModelError, match=why) as caught:
        pi0.load(config.parent)
    assert "\n" not in str(caught.value)
