"""Errors a user can fix: each takes facts and says what was got, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class VlaqError(Exception):
    """Base of every error that a user can fix; its text is one sentence, shown without a traceback."""


class ModelNotFoundError(VlaqError):
    """The model directory is missing or incomplete."""

    def __init__(self, path: Path, missing: str) -> None:
        super().__init__(
            f"model directory {str(path)!r} has no {missing}; expected a directory with config.json, "
            "model.safetensors, tokenizer.json and manifest.json, such as models/tabletop_pi0"
        )


class CorruptModelError(VlaqError):
    """A model file cannot be read or does not fit its own configuration."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"model file {str(path)!r} cannot be used: {why}; copy or download it again")


class ManifestVersionError(VlaqError):
    """A bundle's manifest is written in a format that this package does not read."""

    def __init__(self, path: Path, version: object, expected: int) -> None:
        super().__init__(
            f"manifest {str(path)!r} has format_version {version!r}, expected {expected}; "
            "use the release of vlaq_ros that wrote it, or train again"
        )


class UnknownPrecisionError(VlaqError):
    """A precision that is not loaded was asked for."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown precision {name!r}; this policy has: {', '.join(known)}")


class UnknownInstructionError(VlaqError):
    """An instruction that no task of the policy knows."""

    def __init__(self, instruction: str, known: Iterable[str]) -> None:
        listed = "; ".join(known)
        super().__init__(f"no task knows the instruction {instruction!r}; this policy was trained on: {listed}")


class JointNamesError(VlaqError):
    """Joints that the robot file names do not exist on the robot."""

    def __init__(self, missing: Iterable[str], seen: Iterable[str], where: str) -> None:
        super().__init__(
            f"{where} has no joint named {', '.join(missing)}; it has: {', '.join(seen)}; correct the robot's YAML file"
        )


class ConfigError(VlaqError):
    """A configuration key or value that cannot be used."""


class UnknownKeyError(ConfigError):
    """A configuration key that does not exist."""

    def __init__(self, key: str, known: Iterable[str], where: str) -> None:
        super().__init__(f"unknown key {key!r} in {where}; known keys: {', '.join(known)}")
