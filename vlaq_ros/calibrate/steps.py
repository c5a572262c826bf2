"""Results of a calibration's steps on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Steps:
    """A directory of tensors by the names of steps; a step is computed once."""

    directory: Path

    def take(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Read a step's tensors, or make and keep them."""
        path = self.directory / f"{name}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError:  # of a machine that stopped while it wrote: the step is made again
                path.unlink()
        made = make()
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({key: value.contiguous() for key, value in made.items()}, partial)
        partial.rename(path)
        return made
