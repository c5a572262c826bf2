"""The EaqVLA-like reconstruction: its measures against their definitions, and what is made of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probe import buffer_of
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div

from vlaq_ros.calibrate.alignment import Drift, agreement, allocate_by_drift, allocation, drifts, measure, units
from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.calibrate.storage import over_bf16, stored_bytes
from vlaq_ros.calibrate.students import effective, student
from vlaq_ros.errors import BudgetError
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.quant.codes import quantize

TABLETOP = Path(__file__).parent.parent / "models" / "tabletop_pi0"
LAYERS = 2  # of each tower of the tiny checkpoint


@pytest.fixture(scope="module")
def probe(tiny_checkpoint: Path) -> Probe:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    return Probe.open(checkpoint, buffer_of(checkpoint, 4))


def measured(probe: Probe, unit: str, width: int = 4) -> Drift:
    (drift,) = drifts(probe, [unit], width, lambda _: None)
    return drift


def in_4_bits(network: PI0Network, unit: str) -> PI0Network:
    changed = student(network, {})
    for name, linear in layers(changed).items():
        if name.startswith(f"{unit}."):
            codes = quantize(linear.weight, torch.full((1, linear.out_features), 4))
            linear.weight = torch.nn.Parameter(effective(codes, 0), requires_grad=False)
    return changed


def places(drift: Drift) -> list[float]:
    parts = [*drift.tokens.values(), *drift.relations.values(), drift.attention]
    return [place for part in parts for place in part]


def test_units_are_the_layers_of_all_towers(probe: Probe) -> None:
    assert units(probe.network) == [
        f"{tower}.layers.{index}" for tower in ("vision", "language", "expert") for index in range(LAYERS)
    ]


def test_nothing_drifts_where_nothing_is_quantized(probe: Probe) -> None:
    drift = measured(probe, "projector")
    assert places(drift) == [0.0] * (2 * LAYERS + 1 + 2 * LAYERS + LAYERS)
    assert (drift.action_nmse, drift.bytes_saved, drift.relation) == (0, 0, 0)


def test_what_is_behind_the_quantized_layer_drifts_and_what_is_before_it_does_not(probe: Probe) -> None:
    language, expert = measured(probe, "language.layers.0"), measured(probe, "expert.layers.1")
    assert language.tokens["visual"][0] == language.tokens["text"][0] == language.relations["language"][0] == 0
    assert min(language.tokens["visual"][1], language.tokens["text"][1], language.relations["language"][1]) > 0
    assert min(language.relations["expert"]) > 0
    assert {*expert.tokens["visual"], *expert.tokens["text"], *expert.relations["language"]} == {0}
    assert expert.relations["expert"][0] == expert.attention[0] == 0
    assert min(expert.relations["expert"][1], expert.attention[1], expert.tokens["action"][0]) > 0


def test_drift_after_the_projector_is_what_its_definition_says(probe: Probe) -> None:
    drift = measured(probe, "vision")
    rounded = in_4_bits(probe.network, "vision")
    tokens, relations = [], []
    for batch in probe.batches:
        for pixels, text in zip(batch.pixels, batch.text, strict=True):
            ours, theirs = (
                network.projector(network.vision(pixels)).flatten(0, 1) for network in (rounded, probe.network)
            )
            tokens.append(1 - cosine_similarity(ours, theirs, dim=-1).mean())
            G, H = (cosine_similarity(images[:, None], text[None], dim=-1) for images in (theirs, ours))
            relations.append((G - H).norm() / G.norm())
    assert drift.tokens["visual"][0] == pytest.approx(float(torch.stack(tokens).mean()), rel=1e-3)
    assert drift.relations["language"][0] == pytest.approx(float(torch.stack(relations).mean()), rel=1e-3)
    assert drift.tokens["text"][0] == 0


def test_attention_drifts_as_its_definition_says(probe: Probe) -> None:
    drift = measured(probe, "expert.layers.0")
    (batch,) = probe.batches
    chunk, images = batch.noise.shape[1], batch.tokens - batch.text.shape[1]

    def first_attention(network: PI0Network) -> tuple[Tensor, Tensor]:
        seen: list[tuple[Tensor, Tensor]] = []
        probe.actions(network, look=lambda tower, layer, q, k, _: seen.append((q, k)) if tower == "expert" else None)
        query, keys = seen[0]
        return query[:, -chunk:].transpose(1, 2), keys  # one group of keys for all heads

    (query, keys), (rounded_query, rounded_keys) = map(
        first_attention, (probe.network, in_4_bits(probe.network, "expert.layers.0"))
    )
    masses, relations = [], []
    for q, k in ((query, keys), (rounded_query, rounded_keys)):
        mass = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
        masses.append(torch.cat([mass[..., :images], 1 - mass[..., :images].sum(dim=-1, keepdim=True)], dim=-1))
        relations.append(cosine_similarity(q[..., None, :], k[..., None, :images, :], dim=-1))
    divergence = kl_div(masses[1].log(), masses[0], reduction="none").sum(dim=-1).mean()
    assert drift.attention[0] == pytest.approx(float(divergence), rel=1e-3)
    apart = (relations[1] - relations[0]).flatten(1).norm(dim=1) / relations[0].flatten(1).norm(dim=1)
    assert drift.relations["expert"][0] == pytest.approx(float(apart.mean()), rel=1e-3)


def test_the_action_error_and_the_bytes_are_those_of_the_rounded_network(probe: Probe) -> None:
    drift = measured(probe, "language")
    rounded = in_4_bits(probe.network, "language")
    assert drift.action_nmse == pytest.approx(probe.nmse(probe.actions(rounded)), rel=1e-4)
    shapes = [linear.weight.shape for name, linear in layers(rounded).items() if name.startswith("language.")]
    plain, narrow = (sum(stored_bytes(K, torch.full((N,), bits)) for N, K in shapes) for bits in (16, 4))
    assert drift.bytes_saved == plain - narrow


def test_fewer_bits_drift_further_in_a_trained_policy() -> None:
    checkpoint = Checkpoint.open(TABLETOP)
    probe = Probe.open(checkpoint, buffer_of(checkpoint, 4))
    towers, done = ["vision", "language", "expert"], []
    fine, coarse = (drifts(probe, towers, width, done.append) for width in (8, 4))
    assert sum(done) == 2 * len(towers) * 4
    for narrow, wide in zip(coarse, fine, strict=True):
        assert narrow.relation > 5 * wide.relation > 0
        assert narrow.action_nmse > 5 * wide.action_nmse > 0
        assert narrow.bytes_saved > wide.bytes_saved > 0
        assert all(one >= other for one, other in zip(places(narrow), places(wide), strict=True))


SHAPES = {f"language.layers.{k}.o": torch.Size([64, 64 * (k + 1)]) for k in range(3)}


def drift_of(unit: str, width: int, relation: float) -> Drift:
    shapes = [shape for name, shape in SHAPES.items() if name.startswith(f"{unit}.")]
    plain, narrow = (sum(stored_bytes(K, torch.full((N,), bits)) for N, K in shapes) for bits in (16, width))
    return Drift(unit, width, {}, {"language": (relation,)}, (), 0.0, plain - narrow)


def ladder(relations: list[tuple[float, float]]) -> list[Drift]:
    return [
        drift_of(f"language.layers.{k}", width, relation)
        for k, pair in enumerate(relations)
        for width, relation in zip((8, 4), pair, strict=True)
    ]


def test_units_are_narrowed_in_the_order_of_drift_per_byte() -> None:
    drifts = ladder([(1.0, 3.0), (0.1, 0.2), (0.5, 90.0)])
    least, plain = (
        over_bf16(SHAPES, {name: torch.full(shape[:1], bits) for name, shape in SHAPES.items()}) for bits in (4, 16)
    )
    budgets = [plain - k / 500 * (plain - least) for k in range(500)] + [least + 1e-9]
    found = [tuple(allocate_by_drift(drifts, SHAPES, budget).values()) for budget in budgets]
    assert list(dict.fromkeys(found)) == [
        (16, 16, 16), (16, 8, 16), (16, 4, 16), (16, 4, 8), (8, 4, 8), (4, 4, 8), (4, 4, 4),
    ]  # fmt: skip


def test_a_width_that_saves_nothing_is_passed_over() -> None:
    """Rows of 32 weights fill tiles of 64: with 8 bits they take what they take with 16."""
    shapes = {"expert.layers.0.o": torch.Size([64, 32])}
    held = {
        bits: over_bf16(shapes, {name: torch.full(shapes[name][:1], bits) for name in shapes}) for bits in (16, 8, 4)
    }
    assert held[8] > held[16] > held[4]
    drifts = [
        Drift("expert.layers.0", bits, {}, {"expert": (0.1,)}, (), 0.0, round((held[16] - held[bits]) * 64 * 32 * 2))
        for bits in (8, 4)
    ]
    budget = (held[16] + held[4]) / 2
    assert allocate_by_drift(drifts, shapes, budget) == {"expert.layers.0.o": 4}
    assert allocate_by_drift(drifts, shapes, held[16]) == {"expert.layers.0.o": 16}


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3), st.integers(0, 100), st.booleans()
)
def test_the_budget_is_kept(relations: list[tuple[float, float]], percent: int, all_units: bool) -> None:
    drifts = ladder(relations)[: None if all_units else 4]
    least = over_bf16(
        SHAPES, {name: torch.full(SHAPES[name][:1], 4 if k < len(drifts) // 2 else 16) for k, name in enumerate(SHAPES)}
    )
    plain = over_bf16(SHAPES, {name: torch.full(shape[:1], 16) for name, shape in SHAPES.items()})
    budget = least + percent / 100 * (plain - least)
    widths = allocate_by_drift(drifts, SHAPES, budget + 1e-9 * (percent == 0))
    held = over_bf16(SHAPES, {name: torch.full(SHAPES[name][:1], width) for name, width in widths.items()})
    assert held <= budget + 1e-9
    assert all_units or widths["language.layers.2.o"] == 16


@pytest.mark.parametrize("budget", [0.1, 1.2])
def test_a_budget_out_of_reach_is_refused(budget: float) -> None:
    with pytest.raises(BudgetError, match=re.escape(f"the budget is {budget} of the bytes in bf16, expected 0.")):
        allocate_by_drift(ladder([(0.1, 0.2)] * 3), SHAPES, budget)


def test_an_allocation_keeps_its_budget_and_predicts_the_sum_of_its_units_errors(probe: Probe) -> None:
    shapes = {name: linear.weight.shape for name, linear in layers(probe.network).items()}
    stages: dict[str, int] = {}
    done: list[int] = []

    def stage(name: str, count: int) -> object:
        stages[name] = count
        return done.append

    found = measure(probe, stage)
    made = allocation(probe, found, shapes, 0.6)
    assert [(drift.unit, drift.width) for drift in found] == [
        (unit, width) for width in (8, 4) for unit in units(probe.network)
    ]
    assert made.bytes_over_bf16 == over_bf16(shapes, made.widths) <= 0.6
    assert sum(done) == sum(stages.values())
    assert len(stages) == 2
    energy = float(probe.teacher.square().sum()) / len(probe.teacher)
    alone = 0.0
    for unit in units(probe.network):
        (width,) = {int(bits) for name, widths in made.widths.items() if name.startswith(f"{unit}.") for bits in widths}
        alone += measured(probe, unit, width).action_nmse if width < 16 else 0.0
    assert made.predicted == pytest.approx(alone * energy, rel=1e-4)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_agreement_is_the_rank_correlation_of_drift_and_error_at_each_width(sign: int, expected: float) -> None:
    drifts = [
        Drift(f"unit{k}", width, {}, {"language": (relation, relation + 1)}, (), 100 * factor + sign * relation**3, 1)
        for width, factor in ((8, 1), (4, 10))
        for k, relation in enumerate((3.0 * factor, factor, 2.0 * factor, 4.5 * factor))
    ]
    found = agreement(drifts)
    assert {width: (each.spearman, each.n) for width, each in found.items()} == {
        width: (pytest.approx(expected), 4) for width in (8, 4)
    }
    assert agreement(drifts[:7]).keys() == {8}  # three units say nothing
