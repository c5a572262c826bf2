"""The guiding losses against plain loops, and what they must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlaq_ros.sim.guidance import (
    ATTENDING_LAYERS,
    GUIDED_LAYERS,
    OBJECTS,
    RELATIVE_SCALE_M,
    SUBCELLS,
    TOKENS,
    TURN_SCALE_RAD,
    Guidance,
    Labels,
)
from vlaq_ros.sim.network import GRID, HEADS, LAYERS, WIDTH

FRAMES, CAMERAS = 3, 2
PREFIX = CAMERAS * TOKENS + 9


def labels(seed: int) -> Labels:
    """Objects anywhere in the images; one frame has objects beside its image, behind the camera and on the border."""
    random = torch.Generator().manual_seed(seed)
    pixels = torch.rand(FRAMES, CAMERAS, OBJECTS, 2, generator=random)
    pixels[0, 0, 0] = torch.tensor([1.2, 0.5])
    pixels[0, 1, 1] = torch.nan
    pixels[0, 1, 2] = torch.tensor([0.3, -0.01])
    pixels[1, 0, 0] = torch.tensor([0.0, 0.9999])
    pixels[1, 0, 1] = torch.tensor([1.0, 0.0])
    relative = 0.3 * torch.randn(FRAMES, 2, 3, generator=random)
    return Labels(pixels, torch.tensor([[0, 3], [1, 0], [2, 3]]), relative, torch.randn(FRAMES, generator=random))


@pytest.fixture(scope="module")
def guidance() -> Guidance:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Guidance()


def tokens(seed: int, length: int = CAMERAS * TOKENS) -> Tensor:
    return torch.randn(FRAMES, length, WIDTH, generator=torch.Generator().manual_seed(seed))


def surprise(logits: Tensor, index: int) -> float:
    """Cross entropy of one choice."""
    return (logits.logsumexp(0) - logits[index]).item()


def huber(off: Tensor, beta: float) -> Tensor:
    return torch.where(off.abs() < beta, 0.5 * off**2 / beta, off.abs() - 0.5 * beta)


def visible(places: Labels) -> list[tuple[int, int, int]]:
    """Frame, camera and object of everything that an image shows."""
    return [
        (b, c, o)
        for b in range(FRAMES)
        for c in range(CAMERAS)
        for o in range(OBJECTS)
        if all(0 <= value < 1 for value in places.pixels[b, c, o].tolist())
    ]


def cell(places: Labels, b: int, c: int, o: int, per_side: int = GRID) -> int:
    column, row = (math.floor(value * per_side) for value in places.pixels[b, c, o].tolist())
    return row * per_side + column


def coordinate_loss(head: torch.nn.Linear, image_tokens: Tensor, places: Labels) -> float:
    losses = []
    for b, c, o in visible(places):
        read = head(image_tokens[b, c * TOKENS + cell(places, b, c, o)])
        losses.append(huber(read - 10 * (places.pixels[b, c, o] - 0.5), 0.2))
    return torch.stack(losses).mean().item()


@given(st.integers(0, 10**6), st.sampled_from([GRID, GRID * SUBCELLS]))
@settings(deadline=None)
def test_cells_are_counted_row_by_row(seed: int, per_side: int) -> None:
    places = labels(seed)
    assert [tuple(index) for index in places.visible.nonzero().tolist()] == visible(places)
    cells = places.cells(per_side)
    for b, c, o in visible(places):
        assert cells[b, c, o] == cell(places, b, c, o, per_side)
    assert ((cells >= 0) & (cells < per_side**2)).all()  # whatever is not visible stays an index


def test_corners_of_the_image() -> None:
    corners = torch.tensor([[0, 0], [0.999, 0], [0, 0.999], [0.999, 0.999]]).expand(1, 1, 4, 2)
    places = Labels(corners, torch.tensor([[0, 3]]), torch.zeros(1, 2, 3), torch.zeros(1))
    assert places.cells(8).tolist() == [[[0, 7, 56, 63]]]


@given(st.integers(0, 10**6))
@settings(deadline=None)
def test_the_named_objects_entries_are_picked(seed: int) -> None:
    places = labels(seed)
    values = torch.rand(FRAMES, CAMERAS, OBJECTS)
    picked = places.of_named(values)
    for b in range(FRAMES):
        taken, destination = places.named[b]
        assert torch.equal(picked[b, :, 0], values[b, :, taken])
        assert torch.equal(picked[b, :, 1], values[b, :, destination])


@pytest.mark.parametrize("seed", range(3))
def test_the_vision_loss_in_plain_loops(guidance: Guidance, seed: int) -> None:
    places, image_tokens = labels(seed), tokens(seed)
    surprises = []
    for b, c, o in visible(places):
        column, row = (math.floor(value * GRID * SUBCELLS) for value in places.pixels[b, c, o].tolist())
        per_token = []
        for token in range(TOKENS):
            scores = guidance.place(image_tokens[b, c * TOKENS + token])
            per_token.append(scores[o * SUBCELLS**2 : (o + 1) * SUBCELLS**2])
        part = (row % SUBCELLS) * SUBCELLS + column % SUBCELLS
        surprises.append(surprise(torch.cat(per_token), cell(places, b, c, o) * SUBCELLS**2 + part))
    expected = 0.2 * np.mean(surprises) + 0.3 * coordinate_loss(guidance.locate[0], image_tokens, places)
    assert guidance.vision(image_tokens, places).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_language_loss_in_plain_loops(guidance: Guidance, seed: int) -> None:
    places = labels(seed)
    layers = [tokens(seed * 10 + i, PREFIX) for i in range(LAYERS)]
    expected = 0.0
    for i, layer in enumerate(GUIDED_LAYERS):
        image_tokens = layers[layer][:, : CAMERAS * TOKENS]
        surprises = []
        for b, c, o in visible(places):
            for which in (places.named[b] == o).nonzero()[:, 0]:
                scores = guidance.find[i](image_tokens[b, c * TOKENS : (c + 1) * TOKENS])[:, which]
                surprises.append(surprise(scores, cell(places, b, c, o)))
        coordinates = coordinate_loss(guidance.locate[1 + i], image_tokens, places)
        expected += 0.2 * float(np.mean(surprises)) + 0.3 * coordinates
    assert guidance.language(layers, places).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_expert_loss_in_plain_loops(guidance: Guidance, seed: int) -> None:
    places, state = labels(seed), tokens(seed, 1)[:, 0]
    looks = [torch.randn(FRAMES, HEADS, PREFIX, generator=torch.Generator().manual_seed(i)) for i in range(LAYERS)]
    shown = set(visible(places))
    expected = 0.0
    for layer in ATTENDING_LAYERS:
        surprises = []
        for b in range(FRAMES):
            taken, destination = places.named[b].tolist()
            for head, (c, o) in enumerate([(0, taken), (1, taken), (0, destination)]):
                if (b, c, o) in shown:
                    surprises.append(surprise(looks[layer][b, head], c * TOKENS + cell(places, b, c, o)))
        expected += 0.1 * float(np.mean(surprises))
    reached = guidance.reach(state)
    relative, turn = RELATIVE_SCALE_M * reached[:, :6].reshape(FRAMES, 2, 3), TURN_SCALE_RAD * reached[:, 6]
    off = [*((relative - places.relative) / RELATIVE_SCALE_M).flatten(), *((turn - places.turn) / TURN_SCALE_RAD)]
    expected += 4 * huber(torch.stack(off), 0.1).mean().item()
    loss, errors = guidance.expert(state, looks, places)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(errors[:2], (relative - places.relative).pow(2).sum(-1).sqrt().mean(0))
    torch.testing.assert_close(errors[2], (turn - places.turn).abs().mean())
    assert not errors.requires_grad


@pytest.mark.parametrize("elsewhere", [[1.7, 0.2], [0.4, -3.0], [torch.nan, torch.nan]])
def test_where_a_hidden_object_hides_does_not_matter(guidance: Guidance, elsewhere: list[float]) -> None:
    places, image_tokens = labels(0), tokens(0)
    layers = [tokens(i, PREFIX) for i in range(LAYERS)]
    looks = [torch.randn(FRAMES, HEADS, PREFIX, generator=torch.Generator().manual_seed(i)) for i in range(LAYERS)]
    pixels = places.pixels.clone()
    pixels[~places.visible] = torch.tensor(elsewhere)
    moved = replace(places, pixels=pixels)
    for loss in (
        lambda where: guidance.vision(image_tokens, where),
        lambda where: guidance.language(layers, where),
        lambda where: guidance.expert(image_tokens[:, 0], looks, where)[0],
    ):
        assert loss(moved).isfinite()
        assert torch.equal(loss(moved), loss(places))


def test_every_head_learns(guidance: Guidance) -> None:
    places = labels(1)
    layers = [tokens(i, PREFIX) for i in range(LAYERS)]
    looks = [torch.randn(FRAMES, HEADS, PREFIX) for _ in range(LAYERS)]
    total = guidance.vision(tokens(0), places) + guidance.language(layers, places)
    total = total + guidance.expert(tokens(0)[:, 0], looks, places)[0]
    gradients = torch.autograd.grad(total, list(guidance.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
