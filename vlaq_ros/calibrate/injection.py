"""What one chunk of low precision did to an episode: the rows that `perturbation` measures and `thresholds` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of an episode at full precision, and what each precision would have answered instead.

    The sensitivity is nan where the motion was unknown.
    """

    seed: int  # of the episode
    instruction: str
    index: int  # in the episode
    time_s: float  # since the episode began
    phase: str
    sensitivity: float  # S
    errors: Mapping[str, float]  # precision -> norm of the difference of normalised actions, same noise


@dataclass(frozen=True, slots=True)
class Injection:
    """The same episode again, with this one chunk at a lower precision; at full precision it succeeds."""

    chunk: Chunk
    precision: str
    deviation_m: float  # D_T, between the final tool positions
    success: bool

    @property
    def error(self) -> float:
        """e_t, of the chunk that was injected."""
        return self.chunk.errors[self.precision]
