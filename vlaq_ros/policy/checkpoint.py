"""A checkpoint on disk: its weights by transformers' names, each read when it is asked for.

Weights lie in model.safetensors, or in shards beside model.safetensors.index.json. Pickle files are never opened.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PI0Config

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy import pi0
from vlaq_ros.policy.description import CONFIG_FILE, Description, describe
from vlaq_ros.policy.document import table, text

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_DTYPES = {"F32", "BF16", "F16"}
_RENAMED = (  # public checkpoints' names -> transformers', one after the other; newer names stay as they are
    (r"^model\.(?!vlm\.|dit\.)", ""),
    (r"^paligemma_with_expert\.paligemma\.lm_head\.", "model.vlm.language_model.embed_tokens."),  # they are tied
    (r"^paligemma_with_expert\.gemma_expert\.lm_head\.", "model.dit.embed_tokens."),
    (r"^paligemma_with_expert\.paligemma\.(model\.)?", "model.vlm."),
    (r"^paligemma_with_expert\.gemma_expert\.(model\.)?", "model.dit."),
    (r"\.vision_tower\.vision_model\.", ".vision_tower."),
    (r"\.language_model\.model\.", ".language_model."),
    (r"^(state_proj|action_in_proj|action_time_mlp_in|action_time_mlp_out)\.", r"embed_action_time.\1."),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies."""

    file: Path
    name: str  # in that file


@dataclass(frozen=True, slots=True)
class Checkpoint(Description):
    """A policy at full precision, whose weights stay on disk."""

    files: tuple[Path, ...]  # of the weights
    places: dict[str, Place]  # by transformers' names

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Read all but the weights; their names, shapes and kinds are checked.

        Raises:
            ModelNotFoundError: the directory, or a file in it, is missing.
            FormatVersionError: policy.json has another format.
            UnknownKeyError: policy.json has an unknown key.
            CorruptModelError: a file cannot be used, or does not fit the others.
        """
        described = describe(directory)
        files = _weight_files(directory)
        places = _places(directory, files, described.config)
        return cls(directory, described.config, described.spec, described.prompts, files, places)

    @property
    def sha256(self) -> str:
        """Hash of the weights' bytes, file after file."""
        return sha256(self.files)

    def tensor(self, name: str) -> Tensor:
        """Read one tensor by transformers' name.

        Raises:
            CorruptModelError: it cannot be read, or it holds a value that is not finite.
        """
        place = self.places[name]
        try:
            with safe_open(place.file, "pt") as file:
                tensor: Tensor = file.get_tensor(place.name)
        except (SafetensorError, OSError) as error:
            raise CorruptModelError(place.file, str(error)) from None
        if not tensor.isfinite().all():
            raise CorruptModelError(place.file, f"{place.name} holds a value that is not finite")
        return tensor

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Give the parameters of `pi0.PI0Network` one by one, by their names and in the dtype of the files."""
        shapes = pi0.shapes(self.config)
        for name, sources in pi0.sources(self.config).items():
            yield name, torch.cat([self.tensor(source) for source in sources]).reshape(shapes[name])


def sha256(files: Iterable[Path]) -> str:
    """Hash the bytes of files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()


def _weight_files(directory: Path) -> tuple[Path, ...]:
    if (directory / WEIGHTS_FILE).is_file():
        return (directory / WEIGHTS_FILE,)
    index = directory / INDEX_FILE
    if not index.is_file():
        raise ModelNotFoundError(directory, WEIGHTS_FILE)
    try:
        where = table(text)(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, KeyError, TypeError):
        where = {}
    if not where:
        raise CorruptModelError(index, "it has no weight_map of tensors to files")
    names = sorted(set(where.values()))
    for name in names:
        if not (directory / name).is_file():
            raise ModelNotFoundError(directory, name)
    return tuple(directory / name for name in names)


def _places(directory: Path, files: Iterable[Path], config: PI0Config) -> dict[str, Place]:
    """Find every tensor; CorruptModelError where what is there is not what the configuration asks for."""
    from transformers import PI0ForConditionalGeneration  # noqa: PLC0415 - takes seconds, and bundles do without

    try:
        needed = {source for sources in pi0.sources(config).values() for source in sources}
        with torch.device("meta"):
            network = PI0ForConditionalGeneration(config)
    except ValueError as error:
        raise CorruptModelError(directory / CONFIG_FILE, str(error)) from None
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    places: dict[str, Place] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
                facts = {name: (part.get_shape(), part.get_dtype()) for name, part in found.items()}
        except (SafetensorError, OSError) as error:
            raise CorruptModelError(path, str(error)) from None
        for stored, (shape, dtype) in facts.items():
            name = transformers_name(stored)
            if name not in shapes:
                if name.startswith("model."):  # other tensors beside the network are passed over
                    raise CorruptModelError(path, f"{stored} is no tensor of the network in {CONFIG_FILE}")
                continue
            if shape != shapes[name]:
                raise CorruptModelError(path, f"{stored} has shape {shape}, {CONFIG_FILE} asks for {shapes[name]}")
            if dtype not in _DTYPES:
                raise CorruptModelError(path, f"{stored} is of {dtype}, expected one of {', '.join(sorted(_DTYPES))}")
            places[name] = Place(path, stored)
    if missing := needed - places.keys():
        raise CorruptModelError(directory, f"{len(missing)} tensors are missing, such as {min(missing)}")
    return places


def transformers_name(name: str) -> str:
    """Give transformers' own name of a tensor of a public pi0 checkpoint."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
