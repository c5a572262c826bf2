"""A checkpoint: every tensor under any of its names, from any of its files, and files that cannot be used."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from transformers import PI0ForConditionalGeneration

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy import pi0
from vlaq_ros.policy.checkpoint import Checkpoint, transformers_name

Tensors = dict[str, Tensor]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.dit.norm.weight"
LANGUAGE, EXPERT = "model.vlm.language_model.", "model.dit."
ROOT = "paligemma_with_expert."


@pytest.fixture(scope="module")
def tensors(tiny_checkpoint: Path) -> Tensors:
    """All of them random by transformers' names: none can stand in for another, as norms at their start could."""
    random = torch.Generator().manual_seed(0)
    shapes = PI0ForConditionalGeneration.from_pretrained(tiny_checkpoint).state_dict()
    return {name: torch.randn(value.shape, generator=random) for name, value in shapes.items()}


@pytest.fixture
def directory(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint without its weights."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, copy, ignore=shutil.ignore_patterns(WEIGHTS))
    return copy


def openpi(name: str) -> str:
    """Today's public name: the word embeddings are there as heads alone."""
    for ours, theirs in (
        (f"{LANGUAGE}embed_tokens.", f"{ROOT}paligemma.lm_head."),
        (f"{EXPERT}embed_tokens.", f"{ROOT}gemma_expert.lm_head."),
        ("model.vlm.vision_tower.", f"{ROOT}paligemma.model.vision_tower.vision_model."),
        ("model.vlm.", f"{ROOT}paligemma.model."),
        (EXPERT, f"{ROOT}gemma_expert.model."),
        ("embed_action_time.", ""),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def lerobot(name: str) -> str:
    """The public name of the first release."""
    for ours, theirs in (
        ("model.vlm.vision_tower.", f"{ROOT}paligemma.vision_tower.vision_model."),
        (LANGUAGE, f"{ROOT}paligemma.language_model.model."),
        ("model.vlm.", f"{ROOT}paligemma."),
        (EXPERT, f"{ROOT}gemma_expert.model."),
        ("embed_action_time.", ""),
    ):
        if name.startswith(ours):
            return f"model.{theirs}{name.removeprefix(ours)}"
    return f"model.{name}"


def save(tensors: Tensors, directory: Path, name: Callable[[str], str] = str) -> Path:
    """Write all into one file, under other names."""
    save_file({name(key): value for key, value in tensors.items()}, directory / WEIGHTS)
    return directory / WEIGHTS


def save_shards(tensors: Tensors, directory: Path, first: int) -> tuple[Path, Path]:
    """Write the `first` tensors into one file, the others into another, and the index of both."""
    names = list(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:first], "model-00002-of-00002.safetensors": names[first:]}
    for file, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, directory / file)
    where = {name: file for file, inside in parts.items() for name in inside}
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    one, two = (directory / file for file in parts)
    return one, two


def read(directory: Path) -> Tensors:
    checkpoint = Checkpoint.open(directory)
    return {name: checkpoint.tensor(name) for name in checkpoint.places}


def assert_same(got: Tensors, expected: Tensors) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype is value.dtype, name
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("name", [str, openpi])
def test_reads_what_transformers_reads(tensors: Tensors, directory: Path, name: Callable[[str], str]) -> None:
    save(tensors, directory, name)
    assert_same(read(directory), tensors)
    assert_same(PI0ForConditionalGeneration.from_pretrained(directory).state_dict(), tensors)


def test_reads_what_transformers_wrote(tensors: Tensors, tiny_checkpoint: Path, directory: Path) -> None:
    network = PI0ForConditionalGeneration.from_pretrained(tiny_checkpoint)
    network.load_state_dict(tensors)
    network.save_pretrained(directory, max_shard_size="100KB")
    assert not (directory / WEIGHTS).exists()
    assert len(Checkpoint.open(directory).files) > 2
    assert_same(read(directory), tensors)


def test_reads_the_names_of_the_first_release(tensors: Tensors, directory: Path) -> None:
    save(tensors, directory, lerobot)
    assert_same(read(directory), tensors)


def test_transformers_names_stay(tensors: Tensors) -> None:
    assert [transformers_name(name) for name in tensors] == list(tensors)


def test_shards_of_public_names_give_the_same(tensors: Tensors, directory: Path) -> None:
    save_shards({openpi(name): value for name, value in tensors.items()}, directory, len(tensors) // 2)
    assert_same(read(directory), tensors)
    assert_same(PI0ForConditionalGeneration.from_pretrained(directory).state_dict(), tensors)


@settings(max_examples=12)
@given(split=st.data())
def test_wherever_a_checkpoint_is_split(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, tensors: Tensors, split: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("split") / "model"
    shutil.copytree(tiny_checkpoint, directory, ignore=shutil.ignore_patterns(WEIGHTS))
    save_shards(tensors, directory, split.draw(st.integers(0, len(tensors))))
    assert Checkpoint.open(directory).places.keys() == tensors.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_keep_the_dtype_of_the_file(tensors: Tensors, directory: Path, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in tensors.items()}
    save(stored, directory)
    assert_same(read(directory), stored)
    assert {value.dtype for _, value in Checkpoint.open(directory).parameters()} == {dtype}


def test_parameters_are_those_of_the_network(tensors: Tensors, directory: Path) -> None:
    save(tensors, directory, openpi)
    checkpoint = Checkpoint.open(directory)
    parameters = dict(checkpoint.parameters())
    assert {name: value.shape for name, value in parameters.items()} == pi0.shapes(checkpoint.config)
    attention = f"{LANGUAGE}layers.0.self_attn."
    assert torch.equal(
        parameters["language.layers.0.qkv.weight"],
        torch.cat([tensors[f"{attention}{part}_proj.weight"] for part in "qkv"]),
    )
    patch = tensors["model.vlm.vision_tower.embeddings.patch_embedding.weight"]
    assert torch.equal(parameters["vision.patch.weight"], patch.flatten(1))
    assert torch.equal(parameters["expert.norm.weight"], tensors[NORM])  # the gain less one, as in the file


def test_only_what_the_network_uses_must_be_there(tensors: Tensors, directory: Path) -> None:
    complete = save(tensors, directory)
    used = {name for names in pi0.sources(Checkpoint.open(directory).config).values() for name in names}
    complete.unlink()
    save({name: tensors[name] for name in used} | {"normalize_inputs.state.mean": torch.zeros(8)}, directory)
    checkpoint = Checkpoint.open(directory)
    assert checkpoint.places.keys() == used < tensors.keys()
    assert len(list(checkpoint.parameters())) == len(pi0.shapes(checkpoint.config))


def test_sha256_is_that_of_the_bytes_of_all_files_in_order(tensors: Tensors, directory: Path) -> None:
    one, two = save_shards(tensors, directory, 40)
    before = Checkpoint.open(directory).sha256
    assert before == hashlib.sha256(one.read_bytes() + two.read_bytes()).hexdigest()
    content = bytearray(two.read_bytes())
    content[-1] ^= 1
    two.write_bytes(content)
    assert Checkpoint.open(directory).sha256 == hashlib.sha256(one.read_bytes() + content).hexdigest() != before


def test_what_lies_beside_the_weights_is_read(tiny_checkpoint: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    assert checkpoint.directory == tiny_checkpoint
    assert checkpoint.config.chunk_size == len(checkpoint.spec.action_mean)
    assert tuple(checkpoint.prompts) == checkpoint.spec.instructions


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no policy\.json; expected a bundle"):
        Checkpoint.open(tmp_path / "absent")


@pytest.mark.parametrize("name", ["config.json", "policy.json", "tokenizer.json", WEIGHTS])
def test_a_missing_file_is_named(tensors: Tensors, directory: Path, name: str) -> None:
    save(tensors, directory)
    (directory / name).unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        Checkpoint.open(directory)
    assert str(caught.value) == (
        f"model directory {str(directory)!r} has no {name}; expected a bundle such as "
        "models/tabletop_pi0_calibrated, or a checkpoint such as models/tabletop_pi0"
    )


def test_a_missing_shard_is_named(tensors: Tensors, directory: Path) -> None:
    _, second = save_shards(tensors, directory, 40)
    second.unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no model-00002-of-00002\.safetensors; expected"):
        Checkpoint.open(directory)


class Bomb:
    """What unpickling it would leave a trace of."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_beside_is_not_opened(directory: Path, tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "trace"), directory / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"has no model\.safetensors"):
        Checkpoint.open(directory)
    assert not (tmp_path / "trace").exists()


def test_a_pickle_that_the_index_names_is_not_opened(directory: Path, tmp_path: Path) -> None:
    torch.save(Bomb(tmp_path / "trace"), directory / "pytorch_model.bin")
    (directory / INDEX).write_text('{"weight_map": {"a": "pytorch_model.bin"}}')
    with pytest.raises(CorruptModelError, match=r"pytorch_model\.bin' cannot be used"):
        Checkpoint.open(directory)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": []}'],
)
def test_an_index_that_cannot_be_used_is_told(directory: Path, content: str) -> None:
    index = directory / INDEX
    index.write_text(content)
    with pytest.raises(CorruptModelError) as caught:
        Checkpoint.open(directory)
    assert str(caught.value) == (
        f"model file {str(index)!r} cannot be used: it has no weight_map of tensors to files; copy or download it again"
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:5000],  # truncated in the header
        lambda content: content[:-5000],  # truncated in the data
        lambda content: b"",
        lambda content: b"PK\x03\x04" + content,  # a pickle's archive
    ],
)
def test_a_damaged_file_is_told(tensors: Tensors, directory: Path, damage: Callable[[bytes], bytes]) -> None:
    weights = save(tensors, directory)
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(CorruptModelError) as caught:
        Checkpoint.open(directory)
    text = str(caught.value)
    assert text.startswith(f"model file {str(weights)!r} cannot be used: ")
    assert "\n" not in text


def test_a_file_that_is_damaged_later_is_told_when_it_is_read(tensors: Tensors, directory: Path) -> None:
    weights = save(tensors, directory)
    checkpoint = Checkpoint.open(directory)
    weights.write_bytes(b"")
    with pytest.raises(CorruptModelError, match=f"^model file {re.escape(repr(str(weights)))} cannot be used: "):
        checkpoint.tensor(NORM)


def refusal(directory: Path) -> str:
    """Give the reason why the checkpoint's weights, or its directory, cannot be used."""
    with pytest.raises(CorruptModelError) as caught:
        Checkpoint.open(directory)
    found = re.fullmatch(r"model file '(.*)' cannot be used: (.*); copy or download it again", str(caught.value))
    assert found is not None
    assert Path(found[1]) in (directory, directory / WEIGHTS, directory / "config.json")
    return found[2]


def test_a_missing_tensor_is_told(tensors: Tensors, directory: Path) -> None:
    save({name: value for name, value in tensors.items() if ".layers.1.mlp.down" not in name}, directory)
    assert refusal(directory) == "1 tensors are missing, such as model.dit.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        (
            f"{ROOT}gemma_expert.model.norm.weight",
            torch.zeros(33),
            f"{ROOT}gemma_expert.model.norm.weight has shape [33], config.json asks for [32]",
        ),
        (
            "state_proj.weight",
            torch.zeros(8, 32),
            "state_proj.weight has shape [8, 32], config.json asks for [32, 8]",
        ),
        (
            NORM,
            torch.zeros(32, dtype=torch.int8),
            "model.dit.norm.weight is of I8, expected one of BF16, F16, F32",
        ),
        (
            NORM,
            torch.zeros(32, dtype=torch.float64),
            "model.dit.norm.weight is of F64, expected one of BF16, F16, F32",
        ),
        (
            f"{ROOT}gemma_expert.model.extra.weight",
            torch.zeros(1),
            f"{ROOT}gemma_expert.model.extra.weight is no tensor of the network in config.json",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_told(
    tensors: Tensors, directory: Path, name: str, value: Tensor, why: str
) -> None:
    others = {key: tensor for key, tensor in tensors.items() if key != transformers_name(name)}
    save(others | {name: value}, directory)
    assert refusal(directory) == why


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_told_when_it_is_read(tensors: Tensors, directory: Path, value: float) -> None:
    stored = {name: tensor.clone() for name, tensor in tensors.items()}
    stored[NORM][3] = value
    weights = save(stored, directory, openpi)
    checkpoint = Checkpoint.open(directory)
    with pytest.raises(CorruptModelError) as caught:
        checkpoint.tensor(NORM)
    assert str(caught.value) == (
        f"model file {str(weights)!r} cannot be used: {ROOT}gemma_expert.model.norm.weight holds a value that is not "
        "finite; copy or download it again"
    )
    with pytest.raises(CorruptModelError, match="not finite"):
        dict(checkpoint.parameters())


@pytest.mark.parametrize(
    ("part", "change", "why"),
    [
        (
            "dit_config",
            {"intermediate_size": 96},
            "model.dit.layers.0.mlp.down_proj.weight has shape [32, 64], config.json asks for [32, 96]",
        ),
        ("dit_config", {"num_hidden_layers": 3}, "dit_config.num_hidden_layers is 3, expected 2"),
        ("dit_config", {"hidden_act": "relu"}, "dit_config.hidden_act is 'relu', expected 'gelu_pytorch_tanh'"),
        ("dit_config", {"hidden_act": "none"}, "dit_config.hidden_act is 'none', expected 'gelu_pytorch_tanh'"),
        ("dit_config", {"attention_bias": True}, "dit_config.attention_bias is True, expected False"),
    ],
)
def test_a_configuration_that_does_not_fit_the_weights_is_told(
    tensors: Tensors, directory: Path, part: str, change: dict[str, Any], why: str
) -> None:
    save(tensors, directory)
    config = json.loads((directory / "config.json").read_text())
    config[part].update(change)
    (directory / "config.json").write_text(json.dumps(config))
    assert refusal(directory) == why


def test_heads_that_do_not_divide_the_width_are_told(tensors: Tensors, directory: Path) -> None:
    save(tensors, directory)
    config = json.loads((directory / "config.json").read_text())
    config["vlm_config"]["vision_config"]["num_attention_heads"] = 3
    (directory / "config.json").write_text(json.dumps(config))
    assert refusal(directory).startswith("embed_dim must be divisible by num_heads")


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers_is_told(tensors: Tensors, directory: Path, layers: int) -> None:
    save(tensors, directory)
    config = json.loads((directory / "config.json").read_text())
    config["dit_config"]["num_hidden_layers"] = config["vlm_config"]["text_config"]["num_hidden_layers"] = layers
    (directory / "config.json").write_text(json.dumps(config))
    assert (
        refusal(directory)
        == {
            1: "model.dit.layers.1.input_layernorm.weight is no tensor of the network in config.json",
            3: "12 tensors are missing, such as model.dit.layers.2.input_layernorm.weight",
        }[layers]
    )


def test_another_model_type_is_told(tensors: Tensors, directory: Path) -> None:
    save(tensors, directory)
    (directory / "config.json").write_text('{"model_type": "gemma"}')
    assert refusal(directory) == "model_type is 'gemma', expected 'pi0'"
