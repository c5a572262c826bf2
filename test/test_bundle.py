"""Bundles: what is written is what quantization gave, what is read is checked, and nothing is left half made."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_artifact import same
from torch import Tensor

from vlaq_ros.datatypes import MotionScales, Observation
from vlaq_ros.errors import (
    CorruptModelError,
    ModelNotFoundError,
    NotQuantizedError,
    OutputExistsError,
    SourceError,
    VlaqError,
)
from vlaq_ros.policy import bundle, pi0
from vlaq_ros.policy.bundle import Bundle
from vlaq_ros.policy.checkpoint import Checkpoint, sha256
from vlaq_ros.policy.engine import Engine
from vlaq_ros.policy.manifest import FileFacts, Manifest, PrecisionPlan
from vlaq_ros.quant.codes import NestedWeight, quantize

PLANS = (PrecisionPlan("fine", 8, 6, 0.3), PrecisionPlan("coarse", 16, 3, 0.0))
FILES = ("config.json", "model-00001.safetensors", "policy.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def model(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return shutil.copytree(tiny_bundle, tmp_path / "model")


def written(
    checkpoint: Path,
    out: Path,
    quantizer: bundle.Quantizer = lambda _, weight: quantize(weight),
    embedding_bits: int = 16,
) -> Bundle:
    bundle.write(
        Checkpoint.open(checkpoint), out, PLANS, quantizer, embedding_bits=embedding_bits, report=lambda _: None
    )
    return Bundle.load(out)


def every_width(module: str, weight: Tensor) -> NestedWeight:
    """Codes of 8 and 4 bits, pruned rows and rows of 16 bits, in an order of the layer's own."""
    choices = torch.tensor([[8, 8], [8, 4], [8, 0], [4, 4], [4, 0], [0, 0], [16, 16]])
    generator = torch.Generator().manual_seed(len(module))
    return quantize(weight, choices[torch.randint(len(choices), (len(weight),), generator=generator)].T)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def observation(described: Bundle | Checkpoint) -> Observation:
    spec = described.spec
    random = np.random.default_rng(0)
    return Observation(
        stamp_ns=0,
        images={name: random.integers(0, 256, (96, 96, 3), dtype=np.uint8) for name in spec.cameras},
        joint_names=spec.joint_names,
        joint_positions=spec.state_mean,
        instruction=spec.instructions[0],
    )


NOISE = np.random.default_rng(0).normal(size=(16, 8))


@pytest.mark.parametrize("quantizer", [lambda _, weight: quantize(weight), every_width])
def test_what_is_loaded_is_what_was_quantized(
    tiny_checkpoint: Path, tmp_path: Path, quantizer: bundle.Quantizer
) -> None:
    loaded = written(tiny_checkpoint, tmp_path / "out", quantizer)
    source = Checkpoint.open(tiny_checkpoint)
    parameters = dict(source.parameters())
    quantized = {name.removesuffix(".weight") for name in parameters if pi0.is_quantized(name.removesuffix(".weight"))}
    assert loaded.nested.keys() == quantized
    assert loaded.tensors.keys() == parameters.keys() - {f"{name}.weight" for name in quantized}
    for name, nested in loaded.nested.items():
        expected = quantizer(name, parameters[f"{name}.weight"])
        for field in fields(NestedWeight):
            assert same(getattr(nested, field.name), getattr(expected, field.name)), (name, field.name)
    for name, tensor in loaded.tensors.items():
        assert torch.equal(tensor, parameters[name].half())
    assert loaded.manifest.precisions == PLANS
    assert loaded.manifest.source.name == tiny_checkpoint.name
    assert loaded.manifest.source.sha256 == sha256([tiny_checkpoint / "model.safetensors"])
    assert loaded.manifest.calibration is None
    assert loaded.prompts.keys() == source.prompts.keys()


def test_a_bundle_lists_its_files_and_needs_no_others(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    assert tuple(Manifest.load(tiny_bundle).files) == FILES
    assert sorted(path.name for path in tiny_bundle.iterdir()) == sorted([*FILES, "manifest.json"])
    for name in set(FILES) - {"model-00001.safetensors"}:
        assert (tiny_bundle / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


def test_a_bundle_is_json_and_safetensors_and_no_pickle(tiny_bundle: Path) -> None:
    readers = {".json": lambda path: json.loads(path.read_text()), ".safetensors": load_file}
    assert all(readers[path.suffix](path) for path in tiny_bundle.iterdir())


def test_all_may_read_the_weights(tiny_bundle: Path) -> None:
    assert (tiny_bundle / "model-00001.safetensors").stat().st_mode & 0o777 == 0o644


def test_every_weight_is_reported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, reported = Checkpoint.open(tiny_checkpoint), []
    bundle.write(
        checkpoint,
        tmp_path / "out",
        PLANS,
        lambda _, weight: quantize(weight),
        embedding_bits=8,
        report=reported.append,
    )
    assert sum(reported) == sum(shape.numel() for shape in pi0.shapes(checkpoint.config).values())


def test_word_embeddings_of_8_bits_are_within_half_a_step(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_SLICE", 4)  # of 15 rows
    loaded = written(tiny_checkpoint, tmp_path / "out", embedding_bits=8)
    codes, scale = loaded.tensors["embed_tokens.weight_codes"], loaded.tensors["embed_tokens.weight_scale"]
    table = dict(Checkpoint.open(tiny_checkpoint).parameters())["embed_tokens.weight"]
    assert (codes.dtype, codes.shape, scale.shape) == (torch.int8, table.shape, table.shape[:1])
    assert bool(((codes * scale[:, None] - table).abs() <= 0.5001 * scale[:, None]).all())
    assert codes.abs().amax(dim=1).tolist() == [127] * len(table)
    assert "embed_tokens.weight" not in loaded.tensors
    assert loaded.manifest.embedding_bits == 8


def test_an_engine_infers_with_word_embeddings_of_8_bits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    actions = {}
    for bits in (8, 16):
        out = tmp_path / str(bits)
        seen = observation(written(tiny_checkpoint, out, embedding_bits=bits))
        actions[bits] = Engine.load(out).infer(seen, "fine", NOISE).actions
    assert not np.array_equal(actions[8], actions[16])
    assert np.abs(actions[8] - actions[16]).mean() < 0.05 * actions[16].std()


@pytest.fixture
def rewritten(tiny_checkpoint: Path, tmp_path: Path) -> Callable[[Callable[[Tensor], Tensor]], Path]:
    """Gives a checkpoint with one changed tensor, that of the projector."""

    def rewrite(change: Callable[[Tensor], Tensor]) -> Path:
        directory = shutil.copytree(tiny_checkpoint, tmp_path / tiny_checkpoint.name)
        tensors = load_file(directory / "model.safetensors")
        (name,) = [name for name in tensors if name.endswith("multi_modal_projector.linear.weight")]
        tensors[name] = change(tensors[name])
        save_file(tensors, directory / "model.safetensors")
        return directory

    return rewrite


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda weight: weight, torch.float16),
        (lambda weight: 1e6 * weight, torch.bfloat16),  # more than float16 holds
        (lambda weight: weight.bfloat16(), torch.bfloat16),
        (lambda weight: weight.half(), torch.float16),
    ],
)
def test_what_is_not_quantized_is_kept_in_16_bits(
    rewritten: Callable[[Callable[[Tensor], Tensor]], Path],
    tmp_path: Path,
    change: Callable[[Tensor], Tensor],
    expected: torch.dtype,
) -> None:
    checkpoint = rewritten(change)
    loaded = written(checkpoint, tmp_path / "out")
    original = dict(Checkpoint.open(checkpoint).parameters())["projector.weight"]
    assert loaded.tensors["projector.weight"].dtype is expected
    assert torch.equal(loaded.tensors["projector.weight"], original.to(expected))


def test_a_large_bundle_has_several_files(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_SHARD_BYTES", 1)  # every layer is a file
    loaded, whole = written(tiny_checkpoint, tmp_path / "out"), Bundle.load(tiny_bundle)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == len(pi0.shapes(loaded.config))
    assert all(load_file(path) for path in shards)
    assert {path.name for path in shards} < loaded.manifest.files.keys()
    assert loaded.manifest.layers == whole.manifest.layers
    assert loaded.tensors.keys() == whole.tensors.keys()
    for name, nested in loaded.nested.items():
        assert torch.equal(nested.hi, whole.nested[name].hi)


def test_an_interrupted_write_leaves_no_bundle_and_hinders_no_other(tiny_checkpoint: Path, tmp_path: Path) -> None:
    layers: list[str] = []

    def interrupted(module: str, weight: Tensor) -> NestedWeight:
        layers.append(module)
        if len(layers) == 3:
            raise KeyboardInterrupt
        return quantize(weight)

    with pytest.raises(KeyboardInterrupt):
        written(tiny_checkpoint, tmp_path / "out", interrupted)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out.partial" / "left.safetensors").touch()
    written(tiny_checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*FILES, "manifest.json"])


def test_what_is_there_is_not_overwritten(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes").write_text("mine")
    with pytest.raises(OutputExistsError) as caught:
        written(tiny_checkpoint, out)
    assert str(caught.value) == f"{str(out)!r} exists; nothing was written: remove it, or give another --out"
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["out", "out/notes"]


# Reading


def told(directory: Path) -> str:
    with pytest.raises(CorruptModelError) as caught:
        Bundle.load(directory)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_shortened_file_is_told(model: Path, name: str) -> None:
    path = model / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    assert told(model) == (
        f"model file {str(path)!r} cannot be used: it has {size - 1} bytes, manifest.json says {size}; "
        "copy or download it again"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_another_byte_is_told(model: Path, name: str) -> None:
    path = model / name
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    assert told(model) == (
        f"model file {str(path)!r} cannot be used: its content is not what manifest.json was written for (sha256); "
        "copy or download it again"
    )


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_told(model: Path, name: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelNotFoundError) as caught:
        Bundle.load(model)
    assert str(caught.value) == (
        f"model directory {str(model)!r} has no {name}; expected a bundle such as models/tabletop_pi0_calibrated, or a "
        "checkpoint such as models/tabletop_pi0"
    )


def test_a_directory_without_a_model_is_told(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelNotFoundError, match=re.escape(f"{str(directory)!r} has no manifest.json; expected")):
            Bundle.load(directory)


def test_a_checkpoint_where_a_bundle_is_needed_is_told(tiny_checkpoint: Path) -> None:
    with pytest.raises(NotQuantizedError) as caught:
        Bundle.load(tiny_checkpoint)
    assert str(caught.value) == (
        f"model directory {str(tiny_checkpoint)!r} is a checkpoint, expected a bundle; make one of it: "
        f"vlaq quantize {tiny_checkpoint} --out {tiny_checkpoint}_w8w4"
    )


def test_a_shortened_manifest_is_told(model: Path) -> None:
    path = model / "manifest.json"
    path.write_bytes(path.read_bytes()[:-3])
    assert told(model).startswith(f"model file {str(path)!r} cannot be used: Expecting ',' delimiter: line ")


@given(st.data())
@settings(max_examples=60)
def test_a_manifest_with_another_byte_is_read_or_told_in_a_line(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    model = tmp_path_factory.mktemp("altered")
    content = bytearray((tiny_bundle / "manifest.json").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    for name in FILES:
        (model / name).symlink_to(tiny_bundle / name)
    (model / "manifest.json").write_bytes(content)
    message = ""
    try:
        Bundle.load(model)
    except VlaqError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize("name", ["../model/config.json", "weights/model.safetensors", "/etc/hostname"])
def test_a_file_in_another_folder_is_refused(model: Path, name: str) -> None:
    edit(model / "manifest.json", lambda values: values["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    assert told(model) == (
        f"model file {str(model / 'manifest.json')!r} cannot be used: files names {name!r}, expected names without a "
        "folder; copy or download it again"
    )


def test_the_specification_is_that_of_the_opened_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    moved = replace(checkpoint.spec, motion=MotionScales(0.05, 0.25, 0.5), fine_threshold=0.75)
    bundle.write(
        replace(checkpoint, spec=moved),
        tmp_path / "out",
        PLANS,
        lambda _, weight: quantize(weight),
        embedding_bits=16,
        report=lambda _: None,
    )
    spec = Bundle.load(tmp_path / "out").spec  # with the hash of its file
    assert (spec.motion, spec.fine_threshold) == (moved.motion, 0.75)


@pytest.mark.parametrize("name", ["config.json", "policy.json", "tokenizer.json"])
def test_a_file_that_the_manifest_does_not_vouch_for_is_refused(model: Path, name: str) -> None:
    edit(model / "manifest.json", lambda values: values["files"].pop(name))
    assert f"files does not name {name}; " in told(model)


def layers(values: Any) -> Any:
    return values["quantization"]["layers"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda values: layers(values).pop("expert.layers.0.o"),
            "its layers and those of config.json differ, such as in 'expert.layers.0.o'",
        ),
        (
            lambda values: layers(values).update({"state_in": layers(values)["expert.layers.0.o"]}),
            "its layers and those of config.json differ, such as in 'state_in'",
        ),
        (
            lambda values: layers(values)["expert.layers.0.o"].update(groups=[[31, [8, 4]]]),
            "expert.layers.0.o.weight_rows is missing",
        ),
        (
            lambda values: values.update(embedding_bits=8),
            "embed_tokens.weight has shape [15, 32], expected none",
        ),
        (
            lambda values: values["files"].pop("model-00001.safetensors"),
            "vision.layers.0.qkv.weight_hi is missing",
        ),
    ],
)
def test_a_manifest_of_other_weights_is_told(model: Path, change: Callable[[Any], object], why: str) -> None:
    edit(model / "manifest.json", change)
    path = str(model / "manifest.json")
    assert told(model) == f"model file {path!r} cannot be used: {why}; copy or download it again"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tensors: tensors.pop("projector.bias"), "projector.bias has shape none, expected [32]"),
        (lambda tensors: tensors.update(mine=torch.zeros(2)), "mine has shape [2], expected none"),
        (
            lambda tensors: tensors.update({"projector.bias": torch.zeros(31)}),
            "projector.bias has shape [31], expected [32]",
        ),
    ],
)
def test_weights_that_do_not_fit_the_network_are_told(
    model: Path, change: Callable[[dict[str, Tensor]], object], why: str
) -> None:
    path = model / "model-00001.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    vouched_for(path)
    assert told(model) == (
        f"model file {str(model / 'manifest.json')!r} cannot be used: {why}; copy or download it again"
    )


def test_weights_that_are_no_safetensors_are_told(model: Path) -> None:
    path = model / "model-00001.safetensors"
    path.write_bytes(b"\x80\x04N.")  # a pickle
    vouched_for(path)
    assert told(model).startswith(f"model file {str(path)!r} cannot be used: ")


def vouched_for(path: Path) -> None:
    """Put what a file is now into its manifest."""
    manifest = Manifest.load(path.parent)
    facts = FileFacts(path.stat().st_size, sha256([path]))
    replace(manifest, files={**manifest.files, path.name: facts}).save(path.parent)


# Full precision


def test_full_precision_of_a_bundle_is_that_of_its_checkpoint(tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    seen = observation(Checkpoint.open(tiny_checkpoint))
    of_bundle, of_checkpoint = (
        Engine.load(directory, full=True).infer(seen, "full", NOISE).actions
        for directory in (tiny_bundle, tiny_checkpoint)
    )
    assert np.array_equal(of_bundle, of_checkpoint)


def test_the_source_is_found_from_within_a_bundle(
    tiny_checkpoint: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bundle)
    assert bundle.source(Path()).directory == tiny_checkpoint


def test_a_source_that_is_not_there_is_told(model: Path) -> None:
    with pytest.raises(SourceError) as caught:
        bundle.source(model)
    assert str(caught.value) == (
        f"full precision is in the checkpoint that bundle {str(model)!r} was made of, and "
        f"{str(model.with_name('tiny'))!r} is not there; copy that checkpoint there, or take a precision of the bundle"
    )


def test_a_source_with_other_weights_is_told(
    model: Path, rewritten: Callable[[Callable[[Tensor], Tensor]], Path]
) -> None:
    checkpoint = rewritten(lambda weight: -weight)
    with pytest.raises(SourceError) as caught:
        bundle.source(model)
    assert str(caught.value) == (
        f"full precision is in the checkpoint that bundle {str(model)!r} was made of, and {str(checkpoint)!r} has "
        "other weights; copy that checkpoint there, or take a precision of the bundle"
    )
