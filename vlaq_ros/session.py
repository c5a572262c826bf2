"""What a pilot was configured with: what a repetition of its flight needs to know beside its journal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vlaq_ros import __version__
from vlaq_ros.config import PilotConfig, build
from vlaq_ros.errors import ConfigError, JournalError
from vlaq_ros.policy.checkpoint import sha256
from vlaq_ros.policy.manifest import Manifest
from vlaq_ros.policy.spec import PolicySpec


@dataclass(frozen=True, slots=True)
class Session:
    """From one configuring to the next."""

    package: str  # version
    model: str  # name of its directory
    sha256: str  # of the manifest of a bundle, of the policy.json of a checkpoint
    parameters: dict[str, Any]  # of the node

    @classmethod
    def of(cls, config: PilotConfig, model: Path) -> Self:
        """Describe a node that has loaded `model`, a bundle or a checkpoint."""
        manifest = model / Manifest.FILE
        described = manifest if manifest.is_file() else model / PolicySpec.FILE
        return cls(__version__, model.name, sha256([described]), asdict(config))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `text` has written.

        Raises:
            JournalError: it is no session.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise JournalError(text, error) from None

    def text(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self))

    def config(self) -> PilotConfig:
        """Give the parameters of the node.

        Raises:
            JournalError: this version of the package has others.
        """
        try:
            return build(PilotConfig, self.parameters, "the recorded session")
        except ConfigError as error:
            raise JournalError(self.text(), error) from None
