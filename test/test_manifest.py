"""manifest.json: what is read is what was written, and whatever else is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaq_ros.errors import (
    CorruptModelError,
    FormatVersionError,
    ModelNotFoundError,
    NotQuantizedError,
    UnknownKeyError,
    VlaqError,
)
from vlaq_ros.policy.manifest import FileFacts, LayerPlan, Manifest, PrecisionPlan, Source
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.quant.codes import RowGroup

MANIFEST = Manifest(
    source=Source("tabletop", "0" * 64),
    calibration=None,
    precisions=(PrecisionPlan("fine", 16, 10, 0.45), PrecisionPlan("coarse", 8, 5, 0.0)),
    embedding_bits=16,
    layers={
        "vision.layers.0.qkv": LayerPlan(64, (RowGroup(8, (8, 8)), RowGroup(4, (8, 4)), RowGroup(2, (4, 0)))),
        "expert.layers.0.o": LayerPlan(32, (RowGroup(16, (8, 4)),)),
    },
    files={"config.json": FileFacts(3, "1" * 64)},
)
KEYS = ("source", "calibration", "precisions", "embedding_bits", "quantization", "files")
NAMES, COUNTS = st.text(min_size=1, max_size=8), st.integers(1, 1 << 40)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    known = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    thresholds = st.lists(
        st.floats(allow_nan=False, allow_infinity=False), min_size=len(known), max_size=len(known), unique=True
    )
    falling = sorted(draw(thresholds), reverse=True)
    widths = st.lists(st.sampled_from([8, 4, 0]), min_size=len(known), max_size=len(known))
    nested = widths.map(lambda bits: tuple(sorted(bits, reverse=True)))
    groups = st.lists(st.tuples(nested, COUNTS), max_size=4, unique_by=lambda pair: pair[0]).map(
        lambda pairs: tuple(RowGroup(rows, bits) for bits, rows in sorted(pairs, reverse=True))
    )
    return Manifest(
        source=draw(st.builds(Source, NAMES, NAMES)),
        calibration=draw(st.none() | NAMES),
        precisions=tuple(
            PrecisionPlan(name, draw(st.sampled_from([8, 16])), draw(COUNTS), threshold)
            for name, threshold in zip(known, falling, strict=True)
        ),
        embedding_bits=draw(st.sampled_from([8, 16])),
        layers=draw(st.dictionaries(NAMES, st.builds(LayerPlan, COUNTS, groups), max_size=3)),
        files=draw(st.dictionaries(NAMES, st.builds(FileFacts, COUNTS, NAMES), max_size=3)),
    )


@settings(max_examples=50)
@given(manifest=manifests())
def test_what_was_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, manifest: Manifest) -> None:
    directory = tmp_path_factory.mktemp("manifest")
    manifest.save(directory)
    assert Manifest.load(directory) == manifest


def edited(directory: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    MANIFEST.save(directory)
    path = directory / Manifest.FILE
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return path


def test_the_words_of_compressed_tensors(tmp_path: Path) -> None:
    MANIFEST.save(tmp_path)
    quantization = json.loads((tmp_path / Manifest.FILE).read_text())["quantization"]
    integers = {"type": "int", "symmetric": True}
    weights = {**integers, "num_bits": 8, "strategy": "channel", "dynamic": False}
    assert quantization == {
        "quant_method": "vlaq",
        "format": "vlaq-nested",
        "config_groups": {
            "fine": {"targets": ["Linear"], "weights": weights, "input_activations": None},
            "coarse": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": {**integers, "num_bits": 8, "strategy": "token", "dynamic": True},
            },
        },
        "layers": {
            "vision.layers.0.qkv": {"block": 64, "groups": [[8, [8, 8]], [4, [8, 4]], [2, [4, 0]]]},
            "expert.layers.0.o": {"block": 32, "groups": [[16, [8, 4]]]},
        },
    }


def test_weight_bits_are_those_of_the_widest_codes() -> None:
    narrow = replace(MANIFEST, layers={"expert.layers.0.o": LayerPlan(32, (RowGroup(16, (8, 4)), RowGroup(1, (8, 0))))})
    assert [narrow.weight_bits(precision) for precision in range(2)] == [8, 4]
    assert [MANIFEST.weight_bits(precision) for precision in range(2)] == [8, 8]
    assert replace(MANIFEST, layers={}).weight_bits(0) == 0


def test_a_bundle_says_what_it_was_made_with(tiny_bundle: Path) -> None:
    manifest = Manifest.load(tiny_bundle)
    assert manifest.source.name == "tiny"
    assert manifest.precisions == (PrecisionPlan("fine", 8, 8, 0.45), PrecisionPlan("coarse", 8, 8, 0.0))
    assert [manifest.weight_bits(precision) for precision in range(2)] == [8, 4]
    assert manifest.files.keys() | {Manifest.FILE} == {path.name for path in tiny_bundle.iterdir()}


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(ModelNotFoundError) as caught:
        Manifest.load(absent)
    assert str(caught.value) == (
        f"model directory {str(absent)!r} has no manifest.json; expected a bundle such as "
        "models/tabletop_pi0_calibrated, or a checkpoint such as models/tabletop_pi0"
    )


def test_a_checkpoint_is_no_bundle(tiny_checkpoint: Path) -> None:
    assert (tiny_checkpoint / PolicySpec.FILE).is_file()
    with pytest.raises(NotQuantizedError) as caught:
        Manifest.load(tiny_checkpoint)
    assert str(caught.value) == (
        f"model directory {str(tiny_checkpoint)!r} is a checkpoint, expected a bundle; make one of it: "
        f"vlaq quantize {tiny_checkpoint} --out {tiny_checkpoint}_w8w4"
    )


@pytest.mark.parametrize(
    ("edit", "version"),
    [
        (lambda v: v.update(format_version=1), "1"),
        (lambda v: v.update(format_version="2"), "'2'"),
        (lambda v: v.pop("format_version"), "None"),
    ],
)
def test_another_format_version_is_refused(tmp_path: Path, edit: Callable[[Any], object], version: str) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(FormatVersionError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == (
        f"{str(path)!r} has format_version {version}, expected 2; "
        "use the release of vlaq_ros that wrote it, or make it again"
    )


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path, lambda values: values.update(precision=8))
    with pytest.raises(UnknownKeyError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == f"unknown key 'precision' in {path}; known keys: {', '.join(KEYS)}"


def widths(*bits: int) -> Callable[[dict[str, Any]], object]:
    """Give all rows of a layer these widths."""
    return lambda values: values["quantization"]["layers"]["expert.layers.0.o"].update(groups=[[16, list(bits)]])


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda v: v.pop("files"), "it has no key 'files'"),
        (lambda v: v.update(source="x"), "source: got 'x', expected exactly the keys name, sha256"),
        (lambda v: v["source"].update(name=""), "source: got '', expected text"),
        (lambda v: v.update(calibration=3), "calibration: got 3, expected text"),
        (lambda v: v.update(embedding_bits=4), "embedding_bits: got 4, expected 16 or 8"),
        (lambda v: v.update(files=[]), "files: got [], expected an object"),
        (
            lambda v: v["files"].update({"config.json": {"bytes": 3}}),
            "files: got {'bytes': 3}, expected exactly the keys bytes, sha256",
        ),
        (
            lambda v: v["files"]["config.json"].update(bytes=-1),
            "files: got -1, expected a whole number above 0",
        ),
        (lambda v: v.update(precisions={}), "precisions: got {}, expected a list"),
        (
            lambda v: v["precisions"][0].update(weight_bits=8),
            "precisions: got {'name': 'fine', 'denoise_steps': 10, 'threshold': 0.45, 'weight_bits': 8}, expected "
            "exactly the keys name, denoise_steps, threshold",
        ),
        (
            lambda v: v["precisions"][0].update(denoise_steps=0),
            "precisions: got 0, expected a whole number above 0",
        ),
        (
            lambda v: v["precisions"][0].update(threshold=0.0),
            "thresholds are [0.0, 0.0], expected them falling, finest precision first",
        ),
        (
            lambda v: v["precisions"][1].update(threshold=0.5),
            "thresholds are [0.45, 0.5], expected them falling, finest precision first",
        ),
        (
            lambda v: v["quantization"].update(quant_method="gptq"),
            "quantization: got 'gptq', expected 'vlaq'",
        ),
        (
            lambda v: v["quantization"].update(format="pack-quantized"),
            "quantization: got 'pack-quantized', expected 'vlaq-nested'",
        ),
        (
            lambda v: v["quantization"]["layers"].update({"expert.layers.0.o": {"block": 32}}),
            "quantization: got {'block': 32}, expected exactly the keys block, groups",
        ),
        (
            lambda v: v["quantization"]["layers"]["expert.layers.0.o"].update(groups=[[16]]),
            "quantization: got [16], expected rows and their widths",
        ),
        (widths(8, 2), "quantization: got 2, expected 8 or 4 or 0"),
        (
            widths(4, 8),
            "layer 'expert.layers.0.o' has rows of [4, 8] bits, expected one width for each of fine, coarse, never "
            "rising",
        ),
        (
            widths(8),
            "layer 'expert.layers.0.o' has rows of [8] bits, expected one width for each of fine, coarse, never rising",
        ),
        (
            widths(8, 4, 4),
            "layer 'expert.layers.0.o' has rows of [8, 4, 4] bits, expected one width for each of fine, coarse, never "
            "rising",
        ),
        (
            lambda v: v["quantization"]["config_groups"].pop("coarse"),
            "config_groups are ['fine'], expected one for every precision, in their order",
        ),
        (
            lambda v: v.update(precisions=v["precisions"][::-1]),
            "config_groups are ['fine', 'coarse'], expected one for every precision, in their order",
        ),
        (
            lambda v: v["quantization"]["config_groups"].update(coarse=8),
            "config_groups: got 8, expected an object",
        ),
    ],
)
def test_a_value_that_cannot_be_used_is_named(tmp_path: Path, edit: Callable[[Any], object], why: str) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(CorruptModelError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == f"model file {str(path)!r} cannot be used: {why}; copy or download it again"


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("weights", {"num_bits": 4}),
        ("weights", {"strategy": "group"}),
        ("weights", {"symmetric": False}),
        ("input_activations", {"num_bits": 4}),
        ("input_activations", {"dynamic": False}),
    ],
)
def test_a_scheme_that_contradicts_the_layers_is_refused(tmp_path: Path, part: str, values: dict[str, Any]) -> None:
    schemes: dict[str, Any] = {}

    def contradict(document: dict[str, Any]) -> None:
        schemes.update(document["quantization"]["config_groups"])
        schemes["expected"] = json.loads(json.dumps(document["quantization"]["config_groups"]))
        schemes["coarse"][part].update(values)

    path = edited(tmp_path, contradict)
    expected = schemes.pop("expected")
    with pytest.raises(CorruptModelError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value) == (
        f"model file {str(path)!r} cannot be used: config_groups are {schemes}, expected {expected}; "
        "copy or download it again"
    )


@pytest.mark.parametrize(
    ("precisions", "names"),
    [((), "[]"), ((PrecisionPlan("a", 8, 8, 1.0), PrecisionPlan("a", 8, 8, 0.0)), "['a', 'a']")],
)
def test_precisions_have_names_of_their_own(precisions: tuple[PrecisionPlan, ...], names: str) -> None:
    with pytest.raises(ValueError, match=r"^precisions are named .*, expected one or more different names$") as caught:
        replace(MANIFEST, precisions=precisions)
    assert names in str(caught.value)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(data=st.data())
def test_any_value_anywhere_is_taken_or_told_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("manifest")

    def put(document: dict[str, Any]) -> None:
        part: Any = document
        while True:
            key = data.draw(st.sampled_from(list(part) if isinstance(part, dict) else range(len(part))))
            if not isinstance(part[key], dict | list) or not part[key] or data.draw(st.booleans()):
                break
            part = part[key]
        part[key] = data.draw(ANY_JSON)

    edited(directory, put)
    told = ""
    try:
        taken = Manifest.load(directory)
    except VlaqError as error:
        told = str(error)
    else:
        taken.save(directory)
        assert Manifest.load(directory) == taken
    assert "\n" not in told


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / Manifest.FILE
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CorruptModelError) as caught:
        Manifest.load(tmp_path)
    assert str(caught.value).startswith(f"model file {str(path)!r} cannot be used: ")
    assert "\n" not in str(caught.value)
