"""From a recipe and a budget to nested codes: the straight path that `vlaq calibrate` and the study walk.

    measure:    smoothing -> sensitivities or drifts, guidance  whatever the budget
    calibrate:  allocation -> moments -> codes -> matching      for one budget

Everything is measured on the network in full precision, or in full precision but for one part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlaq_ros.calibrate import alignment, allocate, matching, smoothing
from vlaq_ros.calibrate.alignment import Drift
from vlaq_ros.calibrate.allocate import Allocation, Budget
from vlaq_ros.calibrate.exact import spread
from vlaq_ros.calibrate.guidance import token_weights
from vlaq_ros.calibrate.hessian import hessian
from vlaq_ros.calibrate.matching import Matching
from vlaq_ros.calibrate.moments import moments
from vlaq_ros.calibrate.probe import Probe, layers, shapes
from vlaq_ros.calibrate.recipes import Estimator, Feedback, Recipe, Smoothing, Widths
from vlaq_ros.calibrate.sensitivity import jacobian, refine
from vlaq_ros.calibrate.steps import Steps
from vlaq_ros.calibrate.storage import WIDTHS
from vlaq_ros.calibrate.students import quantized
from vlaq_ros.errors import BudgetError
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.codes import NestedWeight, quantize
from vlaq_ros.quant.rounding import feedback

NAMES = ("fine", "coarse")  # of the precisions: the budget's widths, and 4 bits wherever there are 8
ACTIVATION_BITS = 8
REFINED = 32  # channels whose estimated sensitivity gives way to true passes, the most sensitive ones
_REFINED_ON = 32  # observations at most
_LEAST_REFINED_ON = 16  # or all: the estimate takes all of them, and is not bettered by passes over a few
_BISECTIONS = 12

Stage = Callable[[str, int], Callable[[int], None]]
"""Told of a stage and its number of units when it begins; gives what is to be called with the units done."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a recipe knows of a network before it spends a budget."""

    probe: Probe  # of the network in full precision; smoothed, where the recipe smooths
    beside: dict[str, Tensor]  # parameters beside the codes that are not the checkpoint's, as `bundle.write` takes them
    sensitivity: dict[str, Tensor] | None  # layer -> [4, O]; None: the recipe asks for none
    drifts: tuple[Drift, ...]  # of every layer with 8 and with 4 bits; none where the recipe does not ask for them
    token_weights: dict[str, Tensor] | None  # layer -> [n]; None: tokens count alike


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What a recipe has made of a network under a budget."""

    beside: dict[str, Tensor]  # as in `Measured`
    drifts: tuple[Drift, ...]
    allocation: Allocation
    nested: dict[str, NestedWeight]
    matchings: tuple[Matching, ...]  # for every precision; none where the recipe does not match
    nmse: tuple[float, ...]  # of the actions at every precision, against full precision from the same noise
    predicted: float | None  # the same at the finest, if parts err alike alone and together; None: no such estimate


def measure(probe: Probe, recipe: Recipe, steps: Steps, stage: Stage) -> Measured:
    """Measure what a recipe asks for.

    Args:
        probe: of the checkpoint and the observations.
        recipe: of methods.
        steps: what has been measured before, for this checkpoint and these observations.
        stage: for progress.
    """
    beside: dict[str, Tensor] = {}
    if recipe.smoothing is not Smoothing.NONE:
        probe, beside = _smoothed(probe, recipe.smoothing, stage)
    drifts = alignment.measure(probe, stage) if recipe.widths is Widths.DRIFT else ()
    sensitivity = _sensitivity(probe, recipe, steps, stage)
    return Measured(probe, beside, sensitivity, drifts, _token_weights(probe, recipe, steps, stage))


def calibrate(measured: Measured, recipe: Recipe, budget: float, stage: Stage) -> Calibrated:
    """Follow a recipe.

    Args:
        measured: by `measure`, for this recipe.
        recipe: of methods.
        budget: bytes of the quantized linears, all precisions resident, over theirs in bf16.
        stage: for progress.

    Raises:
        BudgetError: the recipe cannot reach the budget, or no plan can use it.
    """
    probe = measured.probe
    if recipe.widths is Widths.DRIFT:
        allocation = alignment.allocation(probe, measured.drifts, shapes(probe.network), budget)
    else:
        allocation = _allocation(probe, recipe, budget, measured.sensitivity)
    nested = _codes(measured, recipe, allocation, stage)
    matchings: tuple[Matching, ...] = ()
    if recipe.matching:
        nested, matchings = _matched(probe, nested, stage)
    report = stage("action error", len(NAMES))
    nmse = []
    for index in range(len(NAMES)):
        nmse.append(probe.nmse(probe.actions(quantized(probe.network, nested, index, ACTIVATION_BITS))))
        report(1)
    predicted = _predicted(probe, recipe, allocation)
    return Calibrated(measured.beside, measured.drifts, allocation, nested, matchings, tuple(nmse), predicted)


def _smoothed(probe: Probe, method: Smoothing, stage: Stage) -> tuple[Probe, dict[str, Tensor]]:
    """Give the probe of the smoothed network, whose actions are the same, and its parameters that changed."""
    network = probe.network
    inputs = smoothing.observe(probe, layers(network), stage("smoothing: inputs", len(probe.teacher)))
    if method is Smoothing.AWQ:
        report = stage("smoothing: awq", len(smoothing.seams(network, probe.config)))
        moved = smoothing.awq(network, probe.config, inputs, report)
    else:
        moved = smoothing.smoothquant(network, inputs)
    folded = smoothing.fold(network, moved)
    return probe.of(folded), smoothing.beside_weights(folded, moved)


def _sensitivity(probe: Probe, recipe: Recipe, steps: Steps, stage: Stage) -> dict[str, Tensor] | None:
    name = f"{recipe.estimator}-{recipe.smoothing}"
    if recipe.estimator is Estimator.JACOBIAN:
        return steps.take(name, lambda: _refined(probe, stage))
    if recipe.estimator is Estimator.HESSIAN:
        return steps.take(name, lambda: hessian(probe, stage("sensitivities: hessian", len(layers(probe.network)))))
    return None


def _token_weights(probe: Probe, recipe: Recipe, steps: Steps, stage: Stage) -> dict[str, Tensor] | None:
    if recipe.feedback is not Feedback.GUIDED:
        return None
    return steps.take(
        f"guidance-{recipe.smoothing}",
        lambda: token_weights(probe, report=stage("what tokens do to the actions", len(probe.teacher))),
    )


def _refined(probe: Probe, stage: Stage) -> dict[str, Tensor]:
    """Estimate all sensitivities, and measure those that matter most where passes can take enough observations."""
    estimated = jacobian(probe, report=stage("sensitivities: jacobian", len(probe.teacher)))
    rows = spread(probe, _REFINED_ON)
    if len(rows) < min(_LEAST_REFINED_ON, len(probe.teacher)):
        return estimated
    channels = min(REFINED, sum(each.shape[1] for each in estimated.values()))
    report = stage("sensitivities: most sensitive channels", 2 * channels)
    return refine(estimated, probe, channels=channels, rows=rows, report=report)


def _allocation(probe: Probe, recipe: Recipe, budget: float, sensitivity: Mapping[str, Tensor] | None) -> Allocation:
    sizes = shapes(probe.network)
    fixed = {name: 16 for name in sizes if recipe.layout.keeps(name)}
    if sensitivity is None:
        sensitivity = {name: torch.zeros(len(WIDTHS), shape[0]) for name, shape in sizes.items()}
    plain, *codes = (allocate.uniform(sensitivity, sizes, width, fixed) for width in (16, 8, 4))
    if recipe.widths is Widths.UNIFORM:
        return _widest(codes, budget, plain)
    method = {Widths.LAYERWISE: allocate.layerwise, Widths.STAGED: allocate.staged, Widths.QUEUE: allocate.queue}[
        recipe.widths
    ]
    if not recipe.in_bits:
        return method(sensitivity, sizes, Budget.bytes(budget), fixed)
    low, high = 4.0, 16.0  # mean bits: the most that keep the budget in bytes
    kept = codes[-1:]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tried = method(sensitivity, sizes, Budget.bits(middle), fixed)
        if tried.bytes_over_bf16 <= budget:
            low = middle
            kept.append(tried)
        else:
            high = middle
    return _widest(kept[::-1], budget, plain)


def _widest(candidates: list[Allocation], budget: float, plain: Allocation) -> Allocation:
    """Take the first that keeps the budget; `plain` is what the error says of 16 bits."""
    for candidate in candidates:
        if candidate.bytes_over_bf16 <= budget:
            return candidate
    least = min(candidate.bytes_over_bf16 for candidate in candidates)
    raise BudgetError(budget, "of the bytes in bf16", least, plain.bytes_over_bf16)


def _predicted(probe: Probe, recipe: Recipe, allocation: Allocation) -> float | None:
    """Give the predicted error over the teacher's own square, where the recipe predicts one of actions."""
    if recipe.estimator is not Estimator.JACOBIAN and recipe.widths is not Widths.DRIFT:
        return None
    return allocation.predicted * len(probe.teacher) / float(probe.teacher.double().square().sum())


def _codes(measured: Measured, recipe: Recipe, allocation: Allocation, stage: Stage) -> dict[str, NestedWeight]:
    probe = measured.probe
    linears = layers(probe.network)
    widths = {name: allocate.precisions(finest) for name, finest in allocation.widths.items()}
    nested = {}
    coded = [name for name in linears if (allocation.widths[name] < max(WIDTHS)).any()]
    if recipe.feedback is not Feedback.NONE and coded:
        report = stage("codes with feedback", len(coded))
        for name, moment in moments(probe, coded, report, measured.token_weights):
            nested[name] = quantize(linears[name].weight, widths[name], feedback(moment))
    report = stage("codes", len(linears))
    for name, linear in linears.items():
        if name not in nested:
            nested[name] = quantize(linear.weight, widths[name])
        report(1)
    return {name: nested[name] for name in linears}


def _matched(
    probe: Probe, nested: dict[str, NestedWeight], stage: Stage
) -> tuple[dict[str, NestedWeight], tuple[Matching, ...]]:
    """Fold temperatures and balances of every precision into the scales."""
    report = stage("matching", len(NAMES) + 1)
    teacher = matching.measure(probe, probe.network)
    report(1)
    matchings = []
    # Rows in 16 bits take a gain only where all precisions have it: those of one precision are folded as they will be.
    alike = all(len(set(group.bits)) == 1 for weight in nested.values() for group in weight.groups)
    for index in range(len(NAMES)):

        def student(gains: Mapping[str, Tensor], index: int = index) -> PI0Network:
            folded = dict(nested)
            for name, gain in gains.items():
                every = torch.ones(len(NAMES), len(gain))
                every[slice(None) if alike else index] = gain
                folded[name] = matching.fold(nested[name], every)
            return quantized(probe.network, folded, index, ACTIVATION_BITS)

        matchings.append(matching.match(probe, teacher, student))
        report(1)
    gains = [matching.gains(each.alpha, each.beta, probe.config) for each in matchings]
    folded = nested | {
        name: matching.fold(nested[name], torch.stack([of_precision[name] for of_precision in gains]))
        for name in gains[0]
    }
    return folded, tuple(matchings)
