"""What a study rolls out: weights in some form, and a number of denoising steps.

Plain values, so that they travel to workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Full:
    """The checkpoint itself."""

    @property
    def name(self) -> str:
        """In tables and files."""
        return "full"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A precision of a bundle that a recipe made under a budget; it runs on the kernels that the robot runs."""

    recipe: str
    budget: float  # bytes of the quantized linears, all precisions resident, over theirs in bf16
    precision: str = "fine"

    @property
    def bundle(self) -> str:
        """Name of the bundle."""
        return f"{self.recipe}_{self.budget:g}"

    @property
    def name(self) -> str:
        """In tables and files."""
        return f"{self.bundle} {self.precision}"


@dataclass(frozen=True, slots=True)
class Emulated:
    """Weights rounded to nearest, all to one width, and activations rounded as they come, in float."""

    weight_bits: int
    activation_bits: int

    @property
    def name(self) -> str:
        """In tables and files."""
        return f"emulated w{self.weight_bits}a{self.activation_bits}"


class Spread(StrEnum):
    """Who gets the wider codes."""

    CHANNELWISE = "channelwise"
    LAYERWISE = "layerwise"
    RANDOM = "random"  # channels


@dataclass(frozen=True, slots=True)
class Mixed:
    """Weights rounded to 2 or 4 bits, in float; activations in 8."""

    spread: Spread
    mean_bits: float  # of all weights

    @property
    def name(self) -> str:
        """In tables and files."""
        return f"emulated {self.spread} {self.mean_bits:g} bits"


Weights = Full | Calibrated | Emulated | Mixed


@dataclass(frozen=True, slots=True)
class Variant:
    """What answers a request."""

    weights: Weights
    denoise_steps: int | None = None  # None: the policy's own

    @property
    def name(self) -> str:
        """In tables and files."""
        return self.weights.name + (f", {self.denoise_steps} steps" if self.denoise_steps else "")

    @property
    def real(self) -> bool:
        """Whether its bytes and its latency mean anything."""
        return isinstance(self.weights, Full | Calibrated)
