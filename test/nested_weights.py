"""What several tests of quant/ draw: weights, and widths for their output channels in two Precisions."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

WIDTHS = ((8, 8), (8, 4), (8, 0), (4, 4), (4, 0), (0, 0), (16, 16))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@st.composite
def weights_and_widths(draw: st.DrawFn, most_rows: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """[O, K] weights, of which some rows may be zeros, and [2, O] widths."""
    channels = draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=most_rows))
    weight = random(len(channels), draw(st.integers(1, 150)), seed=draw(st.integers(0, 2**31)))
    weight[draw(st.integers(0, 2 * len(channels))) :: 3] = 0
    return weight, torch.tensor(channels).T
