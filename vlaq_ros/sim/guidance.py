"""Losses that teach a small PI0 where things are; their heads are discarded when training ends.

The simulator knows for free where every object appears. Each hop of the network (patch, image token, state token) gets
a label of its own; without them the flow loss alone leaves the policy blind for hours on a CPU (docs/training.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from vlaq_ros.sim.network import GRID, WIDTH
from vlaq_ros.sim.scene import CAMERAS, COLOURS

SUBCELLS = 4  # a patch is localised in SUBCELLS x SUBCELLS parts
OBJECTS = len(COLOURS) + 1  # those to take, and the bin or socket
RECEPTACLE = OBJECTS - 1
TOKENS = GRID * GRID  # of one camera
GUIDED_LAYERS = (2, 3)  # of the language model, by their inputs
ATTENDING_LAYERS = (1, 2)  # of the action expert
RELATIVE_SCALE_M = 0.1
TURN_SCALE_RAD = 0.3


@dataclass(frozen=True, slots=True)
class Labels:
    """Where things are in a batch of B frames."""

    pixels: Tensor  # [B, C, OBJECTS, 2] column and row as fractions of the image, nan behind the camera
    named: Tensor  # [B, 2] which of them to take, and which is its destination
    relative: Tensor  # [B, 2, 3] those two from the tool, m
    turn: Tensor  # [B] about the vertical, that the tool has still to turn, rad

    @property
    def visible(self) -> Tensor:
        """[B, C, OBJECTS] whether it lies in the image."""
        return ((self.pixels >= 0) & (self.pixels < 1)).all(-1)

    def cells(self, per_side: int) -> Tensor:
        """[B, C, OBJECTS] index of the grid cell, row by row; 0 where it is not visible."""
        cell = (self.pixels.nan_to_num(0).clamp(0, 0.9999) * per_side).long()
        return cell[..., 1] * per_side + cell[..., 0]

    def of_named(self, values: Tensor) -> Tensor:
        """Pick the entries of the object to take and of its destination from [B, C, OBJECTS]: [B, C, 2]."""
        return values.gather(2, self.named[:, None].expand(-1, values.shape[1], -1))


class Guidance(nn.Module):
    """The discarded heads."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(WIDTH, OBJECTS * SUBCELLS**2)
        self.find = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in GUIDED_LAYERS)
        self.locate = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in (0, *GUIDED_LAYERS))
        self.reach = nn.Linear(WIDTH, 7)

    def vision(self, tokens: Tensor, labels: Labels) -> Tensor:
        """Every object's sub-cell and coordinate from the image tokens [B, C * TOKENS, WIDTH]."""
        per_camera = tokens.unflatten(1, (len(CAMERAS), TOKENS))
        logits = self.place(per_camera).unflatten(-1, (OBJECTS, SUBCELLS**2))  # [B, C, TOKENS, OBJECTS, SUB]
        logits = logits.transpose(2, 3).flatten(3)  # [B, C, OBJECTS, TOKENS * SUB]
        fine = labels.cells(GRID * SUBCELLS)
        row, column = fine // (GRID * SUBCELLS), fine % (GRID * SUBCELLS)
        sub = (row % SUBCELLS) * SUBCELLS + column % SUBCELLS
        visible = labels.visible
        placed = cross_entropy(logits[visible], (labels.cells(GRID) * SUBCELLS**2 + sub)[visible])
        return 0.2 * placed + 0.3 * self._coordinates(tokens, 0, labels)

    def language(self, layer_inputs: list[Tensor], labels: Labels) -> Tensor:
        """The named objects' cells and every coordinate from the language model's layers [B, tokens, WIDTH]."""
        total = torch.zeros(())
        visible = labels.of_named(labels.visible)
        cells = labels.of_named(labels.cells(GRID))
        for i, layer in enumerate(GUIDED_LAYERS):
            tokens = layer_inputs[layer][:, : len(CAMERAS) * TOKENS]
            logits = self.find[i](tokens).unflatten(1, (len(CAMERAS), TOKENS)).transpose(2, 3)  # [B, C, 2, TOKENS]
            total = total + 0.2 * cross_entropy(logits[visible], cells[visible])
            total = total + 0.3 * self._coordinates(tokens, 1 + i, labels)
        return total

    def expert(self, state_output: Tensor, looks: list[Tensor], labels: Labels) -> tuple[Tensor, Tensor]:
        """What the state token looks at, and the way to the object and its destination that it must know.

        Args:
            state_output: [B, WIDTH], the expert's last output at the state token.
            looks: per layer [B, HEADS, keys], the state token's attention logits over the prefix.
            labels: where things are.

        Returns:
            The loss, and mean errors [3]: distances of the object and of its destination, m, and the turn, rad.
        """
        offset = torch.arange(len(CAMERAS))[:, None] * TOKENS
        seen = (labels.of_named(labels.visible), labels.of_named(labels.cells(GRID)) + offset)
        # One head each: the object in the front image, in the wrist image, its destination in the front image.
        visible, keys = (torch.stack([part[:, 0, 0], part[:, 1, 0], part[:, 0, 1]], 1) for part in seen)
        total = torch.zeros(())
        for layer in ATTENDING_LAYERS:
            total = total + 0.1 * cross_entropy(looks[layer][:, :3][visible], keys[visible])
        reached = self.reach(state_output)
        truth = torch.cat([labels.relative.flatten(1) / RELATIVE_SCALE_M, labels.turn[:, None] / TURN_SCALE_RAD], 1)
        off = (reached - truth).detach()
        distance = RELATIVE_SCALE_M * off[:, :6].unflatten(1, (2, 3)).norm(dim=-1)
        errors = torch.cat([distance, TURN_SCALE_RAD * off[:, 6:].abs()], 1).mean(0)
        return total + 4 * smooth_l1_loss(reached, truth, beta=0.1), errors

    def _coordinates(self, tokens: Tensor, head: int, labels: Labels) -> Tensor:
        """Each visible object's coordinate, read linearly from the token at its cell."""
        visible = labels.visible
        offset = torch.arange(len(CAMERAS))[None, :, None] * TOKENS
        index = (labels.cells(GRID) + offset).flatten(1)
        at_object = tokens.gather(1, index[..., None].expand(-1, -1, WIDTH)).unflatten(1, visible.shape[1:])
        predicted = self.locate[head](at_object)[visible]
        return smooth_l1_loss(predicted, 10 * (labels.pixels[visible] - 0.5), beta=0.2)
