"""The operators between linears: the native ones compute what the composed ones say, everywhere and in every type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from vlaq_ros.policy import fused
from vlaq_ros.policy.fused import gelu, rms_norm, write_heads
from vlaq_ros.quant.kernels import select

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LIMITS = {torch.float32: 4e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}  # of a value, one unit in the last place


@pytest.fixture(autouse=True)
def native() -> Iterator[None]:
    if select.chosen(torch.device("cpu")).name == "reference":
        pytest.skip("there is no native library")
    with torch.inference_mode():  # elsewhere the composed ones run, which have gradients
        yield


def normal(*shape: int, dtype: torch.dtype, seed: int = 0, scale: float = 3.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def assert_near(got: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert got.dtype is dtype
    torch.testing.assert_close(got.double(), exact, rtol=LIMITS[dtype], atol=LIMITS[dtype])


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 40),
    features=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES),
    gated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_gelu(*, rows: int, features: int, dtype: torch.dtype, gated: bool, seed: int) -> None:
    x = normal(rows, features * (1 + gated), dtype=dtype, seed=seed)
    exact = functional.gelu(x.double()[:, :features], approximate="tanh")
    assert_near(gelu(x, gated), exact * x.double()[:, features:] if gated else exact, dtype)


def test_gelu_far_from_zero() -> None:
    x = torch.tensor([-1e30, -50.0, -20.0, -9.0, 0.0, 9.0, 50.0, 1e30, torch.inf, torch.nan])
    expected = torch.tensor([0, 0, 0, 0, 0, 9.0, 50.0, 1e30, torch.inf, torch.nan])
    torch.testing.assert_close(gelu(x, False), expected, rtol=0, atol=1e-6, equal_nan=True)


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(0, 40), width=st.integers(1, 140), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
def test_rms_norm(*, rows: int, width: int, dtype: torch.dtype, seed: int) -> None:
    x, weight = normal(rows, width, dtype=dtype, seed=seed), normal(width, dtype=torch.float32, seed=seed + 1)
    exact = functional.rms_norm(x.double(), (width,), weight.double(), 1e-6)
    assert_near(rms_norm(x, weight, 1e-6), exact, dtype)


def test_rms_norm_of_nothing_and_of_no_number() -> None:
    x = torch.zeros(3, 20)
    x[1, 4], x[2, 4] = torch.nan, torch.inf
    weight = torch.ones(20)
    y = rms_norm(x, weight, 1e-6)
    assert torch.equal(y[0], x[0])
    assert y[1].isnan().all()
    assert y[2, 4].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "groups"), [(4, 2), (8, 1), (0, 2), (3, 3)])
def test_heads_are_turned_and_written(dtype: torch.dtype, queries: int, groups: int) -> None:
    batch, tokens, size, heads = 2, 5, 12, queries + 2 * groups
    projected = normal(batch, tokens, heads * size, dtype=dtype)
    cos, sin = (normal(tokens, heads, size, dtype=dtype, seed=seed, scale=1.0) for seed in (1, 2))
    caches = [torch.zeros(batch, 9, 2 * groups, size, dtype=dtype) for _ in range(2)]
    query = write_heads(projected, cos, sin, caches[0][:, 3:8])
    expected = fused._write_heads(projected, cos, sin, caches[1][:, 3:8])
    assert query.shape == (batch, tokens, queries, size)
    limit = 3 * LIMITS[dtype]  # composed, a product is rounded before the sum
    torch.testing.assert_close(query, expected, rtol=limit, atol=4 * limit)
    torch.testing.assert_close(caches[0], caches[1], rtol=limit, atol=4 * limit)
    assert not caches[0][:, :3].any()
    assert not caches[0][:, 8:].any()
    assert caches[0][:, 3:8].all()


@pytest.mark.parametrize(
    "call",
    [
        lambda x: gelu(x, True),
        lambda x: gelu(x, False),
        lambda x: rms_norm(x, torch.ones(x.shape[-1]), 1e-6),
        lambda x: write_heads(x, torch.ones(4, 3, 8), torch.ones(4, 3, 8), torch.zeros(6, 4, 2, 8)),
    ],
)
def test_strides_do_not_matter(call: Any) -> None:
    x = normal(4, 24, 6, dtype=torch.float32).permute(2, 0, 1)
    assert torch.equal(call(x), call(x.contiguous()))


def test_what_does_not_fit_is_refused() -> None:
    x, table, cache = torch.zeros(1, 4, 24), torch.ones(4, 3, 8), torch.zeros(1, 4, 2, 8)
    for cos, written in ((table[:3], cache), (table.double(), cache), (table, cache[:, :3]), (table, cache.mT)):
        with pytest.raises(RuntimeError, match="write_heads: "):
            write_heads(x, cos, table, written)
    with pytest.raises(RuntimeError, match="rms_norm: weight"):
        rms_norm(x, torch.ones(23), 1e-6)
    with pytest.raises(RuntimeError, match="take float32, bfloat16 or float16"):
        gelu(x.double(), False)
