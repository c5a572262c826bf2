"""EaqVLA-like reconstruction: how far quantizing a part of the network moves visual, text and action tokens apart.

The original (arXiv 2505.21567) is under its authors' request for retraction, has no code, and only its abstract is
known: misalignment of tokens is analysed at several granularities, and bits are assigned by it. All measures here are
ours, as is all that follows from them; they must never be quoted as the paper's.

With one unit (a layer, or a tower) rounded and all else at full precision, and under the same noise:

* token drift, by class of tokens: the mean of 1 - cos(token, token without rounding);
* relation drift |G - G'| / |G| in the Frobenius norm, of G[i, j] = cos(visual token i, text token j). An expert's
  tokens have another width than the prompt's, but it compares them itself: there G[i, j] = cos(query of action token
  i, key of visual token j) in every head;
* attention drift: the divergence KL(p | p') of an action token's attention p over the visual tokens, one by one, and
  all others together.

Places are where the prompt enters each language layer, of which the first is right after the projector, and the
attention of each layer of the expert, in the first denoising step, into which all networks go with the same actions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vlaq_ros.calibrate.allocate import Allocation
from vlaq_ros.calibrate.correlation import Correlation, rank_correlation
from vlaq_ros.calibrate.probe import Batch, Probe, layers, watching
from vlaq_ros.calibrate.storage import WIDTHS, over_bf16, stored_bytes
from vlaq_ros.calibrate.students import effective, student
from vlaq_ros.errors import BudgetError
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.codes import quantize

_PLAIN = WIDTHS[0]


@dataclass(frozen=True, slots=True)
class Drift:
    """What rounding the weights of one unit does; everything is a mean over observations, and 0 where nothing moves."""

    unit: str
    width: int
    tokens: dict[str, tuple[float, ...]]  # "visual", "text": entering each language layer; "action": leaving the expert
    relations: dict[str, tuple[float, ...]]  # "language", "expert": one for every layer
    attention: tuple[float, ...]  # nats, one for every layer of the expert
    action_nmse: float  # squared difference of the actions over the square of the teacher's
    bytes_saved: int  # against 16 bits, as they are stored

    @property
    def relation(self) -> float:
        """The relation drift, averaged over all places."""
        places = [place for part in self.relations.values() for place in part]
        return sum(places) / len(places)


def units(network: PI0Network) -> list[str]:
    """Name the layers of all towers, such as "vision.layers.0"."""
    return list(dict.fromkeys(name.rsplit(".", 1)[0] for name in layers(network)))


def drifts(probe: Probe, units: Sequence[str], width: int, report: Callable[[int], None]) -> list[Drift]:
    """Measure every unit by itself.

    Memory: the weights of all units once more, and what two networks make of one batch.

    Args:
        probe: the network and its observations.
        units: names of modules whose quantized linears are rounded together, such as "language.layers.3" or "vision".
        width: 8 or 4 bits, of weights; activations stay exact.
        report: called with the number of observations done, over all units.
    """
    students = {unit: student(probe.network, _rounded(probe.network, unit, width)) for unit in units}
    sums: dict[str, dict[str, Tensor]] = {unit: {} for unit in units}
    actions = {unit: torch.empty_like(probe.teacher) for unit in units}
    for batch in probe.batches:
        teacher = _seen(probe, probe.network, batch)
        for unit in units:
            seen = _seen(probe, students[unit], batch)
            actions[unit][list(batch.rows)] = seen.actions
            for name, value in _compared(teacher, seen).items():
                sums[unit][name] = sums[unit].get(name, 0) + value.sum(dim=1)
            report(len(batch.rows))

    def means(unit: str, name: str) -> tuple[float, ...]:
        return tuple((sums[unit][name] / len(probe.teacher)).tolist())

    def bytes_saved(unit: str) -> int:
        shapes = [linear.weight.shape for linear in _linears(probe.network, unit).values()]
        return _held(shapes, _PLAIN) - _held(shapes, width)

    return [
        Drift(
            unit,
            width,
            {name: means(unit, name) for name in ("visual", "text", "action")},
            {name: means(unit, name) for name in ("language", "expert")},
            means(unit, "attention"),
            probe.nmse(actions[unit]),
            bytes_saved(unit),
        )
        for unit in units
    ]


def measure(probe: Probe, stage: Callable[[str, int], Callable[[int], None]]) -> tuple[Drift, ...]:
    """Measure all layers of all towers: every layer with 8 bits, then with 4.

    Args:
        probe: the network and its observations.
        stage: for progress: takes a name and a number of observations.
    """
    names = units(probe.network)
    count = len(names) * len(probe.teacher)
    return tuple(
        drift for width in (8, 4) for drift in drifts(probe, names, width, stage(f"drifts with {width} bits", count))
    )


def allocation(probe: Probe, measured: Sequence[Drift], shapes: Mapping[str, torch.Size], budget: float) -> Allocation:
    """Spend a budget by drifts; the error that is predicted is the sum of those that the units make by themselves.

    Args:
        probe: the network and its observations.
        measured: by `measure`.
        shapes: layer -> (O, K), of all quantized layers.
        budget: bytes of all these layers, as they are stored, over those in bf16.

    Raises:
        BudgetError: as `allocate_by_drift` raises.
    """
    chosen = allocate_by_drift(measured, shapes, budget)
    widths = {name: torch.full(shape[:1], chosen[name]) for name, shape in shapes.items()}
    made = {name.rsplit(".", 1)[0]: width for name, width in chosen.items()}
    nmse = sum(drift.action_nmse for drift in measured if made[drift.unit] == drift.width)
    energy = float(probe.teacher.double().square().sum()) / len(probe.teacher)
    return Allocation(widths, nmse * energy, over_bf16(shapes, widths))


def allocate_by_drift(drifts: Iterable[Drift], shapes: Mapping[str, torch.Size], budget: float) -> dict[str, int]:
    """Narrow, while the budget is exceeded, the unit whose next width adds the least relation drift per byte saved.

    Args:
        drifts: of units that have no layer in common, each with every width that it may get below 16 bits.
        shapes: layer -> (O, K), of all quantized layers; those of no unit keep 16 bits.
        budget: bytes of all these layers, as they are stored, over those in bf16.

    Returns:
        Layer -> 16, 8 or 4.

    Raises:
        BudgetError: the budget is below what the narrowest widths need or above what 16 bits take.
    """
    ladders: dict[str, list[Drift]] = {}
    for drift in sorted(drifts, key=lambda drift: -drift.width):
        ladder = ladders.setdefault(drift.unit, [])
        if drift.bytes_saved > (ladder[-1].bytes_saved if ladder else 0):  # short rows of 8 bits may save nothing
            ladder.append(drift)
    widths = dict.fromkeys(shapes, _PLAIN)
    whole = sum(2 * shape.numel() for shape in shapes.values())
    most = _held(shapes.values(), _PLAIN)
    least = most - sum(ladder[-1].bytes_saved for ladder in ladders.values() if ladder)
    if not least <= budget * whole <= most:
        raise BudgetError(budget, "of the bytes in bf16", least / whole, most / whole)
    done: dict[str, tuple[float, int]] = dict.fromkeys(ladders, (0.0, 0))  # relation drift, bytes saved

    def price(unit: str) -> float:
        relation, saved = done[unit]
        return (ladders[unit][0].relation - relation) / (ladders[unit][0].bytes_saved - saved)

    while most - sum(saved for _, saved in done.values()) > budget * whole:
        unit = min((unit for unit, ladder in ladders.items() if ladder), key=price)
        step = ladders[unit].pop(0)
        done[unit] = step.relation, step.bytes_saved
        widths |= {name: step.width for name in shapes if name.startswith(f"{unit}.")}
    return widths


def agreement(drifts: Iterable[Drift]) -> dict[int, Correlation]:
    """Say whether relation drift ranks units as their action error does: the only check on its use that there is.

    Returns:
        Width -> correlation, as both grow with fewer bits whatever the unit. Of fewer than four units nothing is said.
    """
    pairs: dict[int, list[tuple[float, float]]] = {}
    for drift in drifts:
        pairs.setdefault(drift.width, []).append((drift.relation, drift.action_nmse))
    return {width: rank_correlation(*zip(*each, strict=True)) for width, each in pairs.items() if len(each) > 3}


@dataclass(slots=True, eq=False)
class _Seen:
    """What a network makes of B observations."""

    visual: Tensor  # [L, B, V, D], entering every language layer
    text: Tensor  # [L, B, W, D]
    queries: Tensor  # [L, B, H, T, d], of action tokens in the first step
    keys: Tensor  # [L, B, H, m, d], those of visual tokens first
    hidden: Tensor  # [B, T, D'], leaving the expert in the first step
    actions: Tensor  # [B, T, A]


def _seen(probe: Probe, network: PI0Network, batch: Batch) -> _Seen:
    chunk, images = batch.noise.shape[1], batch.tokens - batch.text.shape[1]
    prompt = [f"language.layers.{index}" for index in range(len(network.language.layers))]
    entering: dict[str, Tensor] = {}
    leaving: list[Tensor] = []
    attended: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(name: str, x: Tensor, y: Tensor) -> None:
        if name == "expert":
            leaving.append(y[:, -chunk:])
        else:
            entering[name] = x

    def look(tower: str, layer: int, query: Tensor, keys: Tensor, _: Tensor | None) -> None:
        if tower == "expert" and layer not in attended:
            heads = query.shape[2] // keys.shape[1]
            attended[layer] = query[:, -chunk:].transpose(1, 2), keys.repeat_interleave(heads, dim=1)

    with watching(network, [*prompt, "expert"], keep):
        actions = probe.actions(network, rows=batch.rows, look=look)
    hidden = torch.stack([entering[name] for name in prompt])
    queries, keys = (torch.stack(part) for part in zip(*(attended[layer] for layer in sorted(attended)), strict=True))
    return _Seen(hidden[:, :, :images], hidden[:, :, images:], queries, keys, leaving[0], actions)


def _compared(teacher: _Seen, seen: _Seen) -> dict[str, Tensor]:
    """Give every measure at every place for every observation: [places, B]."""
    images = teacher.visual.shape[2]
    return {
        "visual": _token_drift(teacher.visual, seen.visual),
        "text": _token_drift(teacher.text, seen.text),
        "action": _token_drift(teacher.hidden[None], seen.hidden[None]),
        "language": _relation_drift(_cosines(teacher.visual, teacher.text), _cosines(seen.visual, seen.text)),
        "expert": _relation_drift(
            _cosines(teacher.queries, teacher.keys[..., :images, :]), _cosines(seen.queries, seen.keys[..., :images, :])
        ),
        "attention": _divergence(_attention(teacher, images), _attention(seen, images)),
    }


def _token_drift(teacher: Tensor, seen: Tensor) -> Tensor:
    """Average 1 - cos over tokens: [places, B, n, D] to [places, B]. As a distance it does not cancel near 0."""
    apart = normalize(teacher, dim=-1) - normalize(seen, dim=-1)
    return apart.square().sum(dim=-1).mean(dim=-1) / 2


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    return normalize(left, dim=-1) @ normalize(right, dim=-1).transpose(-1, -2)


def _relation_drift(teacher: Tensor, seen: Tensor) -> Tensor:
    """[places, B, ...] to [places, B]."""
    share: Tensor = (teacher - seen).flatten(2).norm(dim=-1) / teacher.flatten(2).norm(dim=-1)
    return share


def _attention(seen: _Seen, images: int) -> Tensor:
    """Give the attention of action tokens over each visual token, and the rest together: [L, B, H, T, V + 1]."""
    logits = seen.queries @ seen.keys.transpose(-1, -2) / math.sqrt(seen.keys.shape[-1])
    visual, others = logits.softmax(dim=-1).tensor_split([images], dim=-1)
    return torch.cat([visual, others.sum(dim=-1, keepdim=True)], dim=-1)


def _divergence(teacher: Tensor, seen: Tensor) -> Tensor:
    """Average KL(teacher | seen) over heads and tokens: [L, B, H, T, n] to [L, B]."""
    tiny = torch.finfo(torch.float32).tiny
    ratio = teacher.clamp_min(tiny).log() - seen.clamp_min(tiny).log()
    divergence: Tensor = (teacher * ratio).sum(dim=-1)
    return divergence.mean(dim=(-1, -2))


def _linears(network: PI0Network, unit: str) -> dict[str, nn.Linear]:
    return {name: linear for name, linear in layers(network).items() if name.startswith(f"{unit}.")}


def _rounded(network: PI0Network, unit: str, width: int) -> dict[str, nn.Linear]:
    """Give the linears of a unit with the weights that codes of this width hold."""
    rounded = {name: copy.deepcopy(linear) for name, linear in _linears(network, unit).items()}
    for linear in rounded.values():
        linear.weight.data = effective(quantize(linear.weight, torch.full((1, linear.out_features), width)), 0)
    return rounded


def _held(shapes: Iterable[torch.Size], width: int) -> int:
    """Count the bytes of layers (O, K) whose channels all have one width."""
    return sum(stored_bytes(shape[1], torch.full(shape[:1], width)) for shape in shapes)
