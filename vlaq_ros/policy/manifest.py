"""`manifest.json`: what a bundle says of its numbers, read and written strictly.

Where they fit, the words of the quantization section are those of compressed-tensors' `quantization_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from vlaq_ros.errors import CorruptModelError, NotQuantizedError
from vlaq_ros.policy import document
from vlaq_ros.policy.document import Parser, count, number, one_of, optional, record, rows, table, text
from vlaq_ros.policy.spec import PolicySpec
from vlaq_ros.quant.codes import RowGroup

FORMAT_VERSION = 2  # 1 had one width per precision, and no codes on disk


@dataclass(frozen=True, slots=True)
class PrecisionPlan:
    """One precision that the policy can run at."""

    name: str
    activation_bits: int  # of the activations entering a quantized linear: 8, or 16 for weight-only
    denoise_steps: int  # Euler steps of the flow
    threshold: float  # the sensitivity S from which this precision is asked for


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """How the stored rows of one linear layer are read; the fields are those of `NestedWeight`."""

    block: int  # of the Hadamard rotation of its input
    groups: tuple[RowGroup, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """The checkpoint that a bundle was made of."""

    name: str  # of its directory
    sha256: str  # of its weights


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the numbers of a bundle are and where they come from.

    Raises:
        ValueError: fields contradict each other.
    """

    FILE: ClassVar[str] = "manifest.json"

    source: Source
    calibration: str | None  # sha256 of what the bundle was calibrated on; None: data-free
    precisions: tuple[PrecisionPlan, ...]  # finest first
    embedding_bits: int  # of the word embeddings: 16, or 8 with a scale per row
    layers: Mapping[str, LayerPlan]  # by the names of the network's quantized linears
    files: Mapping[str, FileFacts]  # every other file of the bundle

    def __post_init__(self) -> None:
        known = [plan.name for plan in self.precisions]
        if not known or len(set(known)) != len(known):
            raise ValueError(f"precisions are named {known}, expected one or more different names")
        thresholds = [plan.threshold for plan in self.precisions]
        if any(finer <= coarser for finer, coarser in pairwise(thresholds)):
            raise ValueError(f"thresholds are {thresholds}, expected them falling, finest precision first")
        for layer, plan in self.layers.items():
            for group in plan.groups:
                if len(group.bits) != len(known) or any(finer < coarser for finer, coarser in pairwise(group.bits)):
                    raise ValueError(
                        f"layer {layer!r} has rows of {list(group.bits)} bits, expected one width for each of "
                        f"{', '.join(known)}, never rising"
                    )

    def weight_bits(self, precision: int) -> int:
        """Give the width of the widest codes that a precision reads; 16-bit channels are no codes."""
        return max((group.bits[precision] for plan in self.layers.values() for group in plan.groups), default=0)

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Read `directory/manifest.json`.

        Raises:
            NotQuantizedError: `directory` is a checkpoint.
            ModelNotFoundError: there is no such file.
            FormatVersionError: it was written in another format.
            UnknownKeyError: it has a key that this format does not know.
            CorruptModelError: a key is missing or a value cannot be used.
        """
        path = directory / cls.FILE
        if not path.is_file() and (directory / PolicySpec.FILE).is_file():
            raise NotQuantizedError(directory)
        values = document.read(path, FORMAT_VERSION, _PARSERS)
        quantization = values.pop("quantization")
        schemes, plans = quantization["config_groups"], values.pop("precisions")
        try:
            if list(schemes) != [plan["name"] for plan in plans]:
                raise ValueError(f"config_groups are {list(schemes)}, expected one for every precision, in their order")
            activation_bits = [_activation_bits(scheme) for scheme in schemes.values()]
            precisions = tuple(
                PrecisionPlan(plan["name"], bits, plan["denoise_steps"], plan["threshold"])
                for plan, bits in zip(plans, activation_bits, strict=True)
            )
            manifest = cls(precisions=precisions, layers=quantization["layers"], **values)
            if manifest._schemes() != schemes:
                raise ValueError(f"config_groups are {schemes}, expected {manifest._schemes()}")
        except ValueError as error:
            raise CorruptModelError(path, str(error)) from None
        return manifest

    def save(self, directory: Path) -> None:
        """Write `directory/manifest.json`; `load` gives an equal manifest back."""
        plans = [
            {"name": plan.name, "denoise_steps": plan.denoise_steps, "threshold": plan.threshold}
            for plan in self.precisions
        ]
        layers = {
            name: {"block": layer.block, "groups": [[group.rows, list(group.bits)] for group in layer.groups]}
            for name, layer in self.layers.items()
        }
        values = {
            "source": asdict(self.source),
            "calibration": self.calibration,
            "precisions": plans,
            "embedding_bits": self.embedding_bits,
            "quantization": {
                "quant_method": _METHOD,
                "format": _FORMAT,
                "config_groups": self._schemes(),
                "layers": layers,
            },
            "files": {name: asdict(facts) for name, facts in self.files.items()},
        }
        document.write(directory / self.FILE, FORMAT_VERSION, values)

    def _schemes(self) -> dict[str, Any]:
        """Describe every precision as a compressed-tensors scheme."""
        return {
            plan.name: {
                "targets": ["Linear"],
                "weights": {**_INTEGERS, "num_bits": self.weight_bits(k), "strategy": "channel", "dynamic": False},
                "input_activations": {**_INTEGERS, "num_bits": 8, "strategy": "token", "dynamic": True}
                if plan.activation_bits == 8
                else None,
            }
            for k, plan in enumerate(self.precisions)
        }


def _activation_bits(scheme: Any) -> int:
    """Read what a scheme says of activations: null, as in compressed-tensors, leaves them in 16 bits."""
    if not isinstance(scheme, dict):
        raise ValueError(f"config_groups: got {scheme!r}, expected an object")
    return 16 if scheme.get("input_activations") is None else 8


def _group(value: Any) -> RowGroup:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"got {value!r}, expected rows and their widths")
    return RowGroup(count(value[0]), rows(one_of(8, 4, 0))(value[1]))


def _layer(value: Any) -> LayerPlan:
    return LayerPlan(**record({"block": count, "groups": rows(_group)})(value))


def _source(value: Any) -> Source:
    return Source(**record({"name": text, "sha256": text})(value))


def _file(value: Any) -> FileFacts:
    return FileFacts(**record({"bytes": count, "sha256": text})(value))


_METHOD, _FORMAT = "vlaq", "vlaq-nested"
_INTEGERS = {"type": "int", "symmetric": True}
_PARSERS: dict[str, Parser] = {
    "source": _source,
    "calibration": optional(text),
    "precisions": rows(record({"name": text, "denoise_steps": count, "threshold": number})),
    "embedding_bits": one_of(16, 8),
    "quantization": record(
        {
            "quant_method": one_of(_METHOD),
            "format": one_of(_FORMAT),
            "config_groups": table(lambda scheme: scheme),
            "layers": table(_layer),
        }
    ),
    "files": table(_file),
}
