from __future__ import annotations

import pytest
import torch

from vlaq_ros.bench.policy import shares

CPU = torch.device("cpu")


def test_the_shares_of_a_call_make_a_whole() -> None:
    x = torch.randn(64, 64)

    def call() -> torch.Tensor:
        y = torch.nn.functional.linear(x, x)
        y = torch.nn.functional.rms_norm(y, (64,))
        y = torch.nn.functional.scaled_dot_product_attention(y[None, None], y[None, None], y[None, None])
        return y.exp()

    found = shares(call, CPU)
    assert sum(found.values()) == pytest.approx(1)
    assert all(found[kind] > 0 for kind in ("attention", "norms", "other linears", "other operators"))
    assert found["integer linears"] == 0
