"""The rotation: which block, what it equals, what it keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nested_weights import random
from scipy.linalg import hadamard as sylvester

from vlaq_ros.quant.hadamard import block_size, hadamard, padded, rotate


@pytest.mark.parametrize(
    ("features", "block", "filled"),
    [
        (2048, 64, 2048),
        (1152, 64, 1152),
        (4304, 16, 4304),
        (96, 32, 96),
        (16, 16, 16),
        (8, 64, 64),
        (33, 64, 64),
        (65, 64, 128),
    ],
)
def test_block_and_padding(features: int, block: int, filled: int) -> None:
    assert (block_size(features), padded(features)) == (block, filled)


@given(st.integers(1, 20_000))
def test_padding_fills_whole_blocks_and_no_more(features: int) -> None:
    assert padded(features) % block_size(features) == 0
    assert 0 <= padded(features) - features < block_size(features)


@pytest.mark.parametrize("block", [1, 2, 16, 64])
def test_every_block_is_multiplied_by_sylvesters_matrix(block: int) -> None:
    x = torch.randint(-1000, 1000, (3, 2, 3 * block), generator=torch.Generator().manual_seed(0)).float()
    matrix = torch.tensor(sylvester(block), dtype=torch.float32)
    assert torch.equal(hadamard(x, block), (x.unflatten(-1, (3, block)) @ matrix).flatten(-2))


def test_the_smallest_strides_are_added_first() -> None:
    large, one = 2.0**25, 1.0  # large + one is large, in float32
    x = torch.tensor([[large, one, -large, one]])
    assert hadamard(x, 4)[0, 0] == 0
    assert hadamard(x[:, [0, 2, 1, 3]], 4)[0, 0] == 2


@given(rows=st.integers(0, 5), features=st.integers(1, 200), seed=st.integers(0, 2**31))
def test_a_rotation_keeps_products_and_undoes_itself(rows: int, features: int, seed: int) -> None:
    x, w = random(rows, features, seed=seed).double(), random(4, features, seed=seed + 1).double()
    block = block_size(features)
    turned = rotate(x, block)
    assert turned.shape == (rows, padded(features))
    torch.testing.assert_close(turned @ rotate(w, block).T, x @ w.T)
    torch.testing.assert_close(rotate(turned, block)[:, :features], x)


def test_a_strided_input_is_read_in_order() -> None:
    x = random(64, 10)
    assert torch.equal(hadamard(x.T, 64), hadamard(x.T.contiguous(), 64))
