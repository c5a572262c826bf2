"""Recipes: which method decides what, by name.

What a paper decided is named after it and rounds to nearest, as it did; where a paper leaves two readings, each has a
name. From `layerwise` on they are ours: QVLA's sensitivities, spent by true bytes, with codes that make up for each
other's errors. docs/study.md says how they compare and why the default is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from vlaq_ros.calibrate.layout import Layout


class Estimator(StrEnum):
    """What is known of a channel before it is narrowed."""

    JACOBIAN = "jacobian"  # QVLA's paper
    HESSIAN = "hessian"  # QVLA's code
    NONE = "none"


class Smoothing(StrEnum):
    """What is moved from activations to weights beforehand."""

    NONE = "none"
    SMOOTHQUANT = "smoothquant"
    AWQ = "awq"


class Widths(StrEnum):
    """How channels get their widths."""

    UNIFORM = "uniform"  # the widest codes that the budget allows for all layers alike
    LAYERWISE = "layerwise"
    STAGED = "staged"
    QUEUE = "queue"
    DRIFT = "drift"  # EaqVLA-like


class Feedback(StrEnum):
    """For whose sake codes make up for each other's errors."""

    NONE = "none"  # codes are the nearest
    PLAIN = "plain"  # the layer's output, all tokens alike: GPTQ
    GUIDED = "guided"  # its output, tokens by what they do to the actions


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a policy is calibrated."""

    widths: Widths = Widths.UNIFORM
    estimator: Estimator = Estimator.NONE
    in_bits: bool = False  # the budget is spent by mean bits of channels, as in QVLA, and not by bytes
    feedback: Feedback = Feedback.NONE
    smoothing: Smoothing = Smoothing.NONE
    layout: Layout = Layout.ALL
    matching: bool = False  # attention temperature and output heads (QuantVLA)


RECIPES: Mapping[str, Recipe] = {
    "rtn": Recipe(),
    "gptq": Recipe(feedback=Feedback.PLAIN),
    "smoothquant": Recipe(smoothing=Smoothing.SMOOTHQUANT),
    "awq": Recipe(smoothing=Smoothing.AWQ),
    "quantvla": Recipe(layout=Layout.SELECTIVE, matching=True),
    "quantvla+vision": Recipe(layout=Layout.SELECTIVE_VISION, matching=True),
    "eaqvla": Recipe(widths=Widths.DRIFT),
    "qvla": Recipe(widths=Widths.STAGED, estimator=Estimator.JACOBIAN, in_bits=True),
    "qvla-release": Recipe(widths=Widths.QUEUE, estimator=Estimator.HESSIAN, in_bits=True),
    "layerwise": Recipe(widths=Widths.LAYERWISE, estimator=Estimator.JACOBIAN, feedback=Feedback.PLAIN),
    "channelwise": Recipe(widths=Widths.QUEUE, estimator=Estimator.JACOBIAN, feedback=Feedback.PLAIN),
    "channelwise+matching": Recipe(
        widths=Widths.QUEUE, estimator=Estimator.JACOBIAN, feedback=Feedback.PLAIN, matching=True
    ),
    "guided": Recipe(widths=Widths.QUEUE, estimator=Estimator.JACOBIAN, feedback=Feedback.GUIDED),
}
DEFAULT = "guided"
