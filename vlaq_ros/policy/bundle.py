"""A bundle on disk: a checkpoint's weights as nested codes, written layer by layer, and read file by file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError, OutputExistsError, SourceError
from vlaq_ros.policy import artifact, pi0
from vlaq_ros.policy.checkpoint import Checkpoint, sha256
from vlaq_ros.policy.description import CONFIG_FILE, Description, describe
from vlaq_ros.policy.manifest import FileFacts, LayerPlan, Manifest, PrecisionPlan, Source
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.policy.tokenizer import TOKENIZER_FILE
from vlaq_ros.quant.codes import NestedWeight

EMBEDDING = "embed_tokens"
_DESCRIBING = (CONFIG_FILE, PolicySpec.FILE, TOKENIZER_FILE)
_COPIED = (CONFIG_FILE, TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json")  # those that there are
_PLANES = (".weight_hi", ".weight_lo")
_SHARD_BYTES = 1 << 30
_SLICE = 1 << 14  # word embeddings that are in float32 at a time

Quantizer = Callable[[str, Tensor], NestedWeight]  # a layer's name and weight [O, K] -> its codes


@dataclass(frozen=True, slots=True)
class Bundle(Description):
    """A bundle in memory, its files checked and fitting each other."""

    manifest: Manifest
    nested: dict[str, NestedWeight]  # by the names of linear layers
    tensors: dict[str, Tensor]  # every other parameter of `pi0.PI0Network`, in the file's own dtype

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read a bundle.

        Raises:
            NotQuantizedError: it is a checkpoint.
            ModelNotFoundError: the directory, or a file in it, is missing.
            FormatVersionError: a document was written in another format.
            UnknownKeyError: a document has an unknown key.
            CorruptModelError: a file is not what the manifest says, or does not fit the others.
        """
        manifest = Manifest.load(directory)
        if unlisted := [name for name in _DESCRIBING if name not in manifest.files]:
            raise CorruptModelError(directory / Manifest.FILE, f"files does not name {', '.join(unlisted)}")
        for name, facts in manifest.files.items():
            _verify(directory, name, facts)
        described = describe(directory)
        tensors: dict[str, Tensor] = {}
        for name in manifest.files:
            if name.endswith(".safetensors"):
                try:
                    read = load_file(directory / name)
                except (SafetensorError, OSError) as error:
                    raise CorruptModelError(directory / name, str(error)) from None
                # The library maps the file, and any tensor keeps all of it mapped. Planes are packed anew, one by one;
                # the small rest, which may stay as it is, is copied so that the file can be let go of.
                tensors |= {key: part if key.endswith(_PLANES) else part.clone() for key, part in read.items()}
        try:
            nested = _take_layers(manifest, pi0.shapes(described.config), tensors)
        except ValueError as error:
            raise CorruptModelError(directory / Manifest.FILE, str(error)) from None
        return cls(directory, described.config, described.spec, described.prompts, manifest, nested, tensors)


def source(directory: Path) -> Checkpoint:
    """Open the checkpoint that `directory` is, or that the bundle there was made of and that lies beside it.

    Raises:
        SourceError: the bundle's checkpoint is not there, or not the same.
        VlaqError: as `Checkpoint.open` and `Manifest.load` raise.
    """
    if not (directory / Manifest.FILE).is_file():
        return Checkpoint.open(directory)
    facts = Manifest.load(directory).source
    path = directory.resolve().parent / facts.name
    if not path.is_dir():
        raise SourceError(directory, path, "is not there")
    checkpoint = Checkpoint.open(path)
    if checkpoint.sha256 != facts.sha256:
        raise SourceError(directory, path, "has other weights")
    return checkpoint


def write(
    checkpoint: Checkpoint,
    out: Path,
    precisions: Sequence[PrecisionPlan],
    quantize: Quantizer,
    *,
    embedding_bits: int,
    report: Callable[[int], None],
    replaced: Mapping[str, Tensor] = MappingProxyType({}),
    calibration: str | None = None,
) -> None:
    """Quantize a checkpoint into a bundle, holding one layer and one shard of the bundle at a time.

    Args:
        checkpoint: read as it goes.
        out: directory to make; it appears when it is complete.
        precisions: finest first.
        quantize: gives the codes of each linear layer, with a width for every precision.
        embedding_bits: of the word embeddings: 16, or 8 with a scale per row.
        report: called with the number of weights that were done since the last call.
        replaced: values of parameters that are not quantized, by their names, where they are not the checkpoint's; they
            are kept as they are, for a smoothed gain less one may be so near -1 that 16 bits are too few.
        calibration: sha256 of what the codes were calibrated on; None: data-free.

    Raises:
        OutputExistsError: `out` is there.
        CorruptModelError: a weight of the checkpoint cannot be read.
    """
    if out.exists():
        raise OutputExistsError(out)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was interrupted
    partial.mkdir(parents=True)
    layers: dict[str, LayerPlan] = {}

    def tensors() -> Iterator[dict[str, Tensor]]:
        for name, tensor in checkpoint.parameters():
            module = name.rsplit(".", 1)[0]
            if pi0.is_quantized_weight(name):
                weight = quantize(module, tensor)
                layers[module] = LayerPlan(weight.block, weight.groups)
                yield artifact.entries(module, weight)
            elif module == EMBEDDING and embedding_bits == 8:
                yield _coded_rows(tensor)
            else:
                yield {name: replaced[name] if name in replaced else _in_16_bits(tensor)}
            report(tensor.numel())

    _save(tensors(), partial)
    for name in _COPIED:
        if (checkpoint.directory / name).is_file():
            shutil.copyfile(checkpoint.directory / name, partial / name)
    checkpoint.spec.save(partial)
    files = {path.name: FileFacts(path.stat().st_size, sha256([path])) for path in sorted(partial.iterdir())}
    origin = Source(checkpoint.directory.resolve().name, checkpoint.sha256)
    Manifest(origin, calibration, tuple(precisions), embedding_bits, layers, files).save(partial)
    partial.rename(out)


def _save(parts: Iterator[dict[str, Tensor]], directory: Path) -> None:
    """Write named tensors into files of about `_SHARD_BYTES` each."""
    shard: dict[str, Tensor] = {}
    count = 0

    def flush() -> None:
        nonlocal shard, count
        count += 1
        path = directory / f"model-{count:05d}.safetensors"
        save_file(shard, path)
        path.chmod(0o644)  # the library keeps others from reading it
        shard = {}

    for part in parts:
        shard |= part
        if sum(tensor.nbytes for tensor in shard.values()) >= _SHARD_BYTES:
            flush()
    if shard:
        flush()


def _in_16_bits(tensor: Tensor) -> Tensor:
    """Keep a 16-bit tensor; make float32 float16 where its range allows, for that rounds eight times less."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if half.isfinite().all() else tensor.bfloat16()


def _coded_rows(weight: Tensor) -> dict[str, Tensor]:
    """Round word embeddings [V, D] to 8 bits with a scale per row."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(len(weight))
    for first in range(0, len(weight), _SLICE):
        rows = weight[first : first + _SLICE].float()
        scale[first : first + _SLICE] = each = rows.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        codes[first : first + _SLICE] = (rows / each[:, None]).round().to(torch.int8)
    return {f"{EMBEDDING}.weight_codes": codes, f"{EMBEDDING}.weight_scale": scale}


def _verify(directory: Path, name: str, facts: FileFacts) -> None:
    """Raise where a file is not the one that was written."""
    path = directory / name
    if path.parent != directory:
        raise CorruptModelError(directory / Manifest.FILE, f"files names {name!r}, expected names without a folder")
    if not path.is_file():
        raise ModelNotFoundError(directory, name)
    if (size := path.stat().st_size) != facts.bytes:
        raise CorruptModelError(path, f"it has {size} bytes, {Manifest.FILE} says {facts.bytes}")
    if sha256([path]) != facts.sha256:
        raise CorruptModelError(path, f"its content is not what {Manifest.FILE} was written for (sha256)")


def _take_layers(
    manifest: Manifest, shapes: dict[str, torch.Size], tensors: dict[str, Tensor]
) -> dict[str, NestedWeight]:
    """Take every layer's codes out of `tensors`; ValueError where one is missing, left over or of another shape."""
    layers = {name.removesuffix(".weight") for name in shapes if pi0.is_quantized_weight(name)}
    if manifest.layers.keys() != layers:
        odd = min(manifest.layers.keys() ^ layers)
        raise ValueError(f"its layers and those of {CONFIG_FILE} differ, such as in {odd!r}")
    nested = {
        name: artifact.nested(name, plan, len(manifest.precisions), shapes[f"{name}.weight"], tensors)
        for name, plan in manifest.layers.items()
    }
    expected = {name: list(shape) for name, shape in shapes.items() if not pi0.is_quantized_weight(name)}
    if manifest.embedding_bits == 8:
        table = expected.pop(f"{EMBEDDING}.weight")
        expected |= {f"{EMBEDDING}.weight_codes": table, f"{EMBEDDING}.weight_scale": table[:1]}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        odd = min(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(f"{odd} has shape {found.get(odd, 'none')}, expected {expected.get(odd, 'none')}")
    return nested
