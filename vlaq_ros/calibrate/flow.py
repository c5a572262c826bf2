"""Keys and values as values, not a static buffer: a forward pass that may be differentiated and looked into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.fused import write_heads
from vlaq_ros.policy.window import Window

Look = Callable[[str, int, Tensor, Tensor, Tensor | None], None]
"""Told before every softmax: the tower ("language" or "expert"), its layer, the queries [B, n, H, D] and the keys
[B, G, m, D], both turned by their positions, and the mask [n, m] (True: seen) or None."""


def live(cache: Cache, look: Look | None = None) -> Cache:
    """Give a cache with the same windows that holds what it is given, and so keeps gradients.

    Args:
        cache: for one batch; its buffer is not touched.
        look: told of every attention but the vision tower's.
    """
    return cast("Cache", _LiveCache(cache, look))


class _LiveCache:
    def __init__(self, cache: Cache, look: Look | None) -> None:
        self.batch, self.prompt = cache.batch, cache.prompt
        layers = range(len(cache.language))
        kept: list[dict[str, Tensor]] = [{} for _ in layers]
        self.language = [_Live(cache.language[k], kept[k], "prompt", ("language", k), look) for k in layers]
        self.first = [_Live(cache.first[k], kept[k], "state", ("expert", k), look) for k in layers]
        self.later = [_Live(cache.later[k], kept[k], "actions", ("expert", k), look) for k in layers]


class _Live:
    """`policy.window.Window` over what its layer holds of prompt, state and actions."""

    def __init__(
        self, window: Window, kept: dict[str, Tensor], part: str, where: tuple[str, int], look: Look | None
    ) -> None:
        self._window, self._kept, self._part, self._where, self._look = window, kept, part, where, look

    def write(self, projected: Tensor) -> Tensor:
        """Turn the heads of [B, n, heads * D], keep keys and values, and give the queries [B, n, H, D]."""
        window = self._window
        new = torch.empty_like(window.written)
        query: Tensor = write_heads(projected, window.cos, window.sin, new)
        if self._part == "state":  # it comes with the actions of the first step
            self._kept["state"], new = new[:, :1], new[:, 1:]
            self._kept["actions"] = new
        else:
            self._kept[self._part] = new
        return query

    def attend(self, projected: Tensor) -> Tensor:
        """Keep, and give what the queries see: [B, n, H * D]."""
        query = self.write(projected)
        parts = ("prompt",) if self._part == "prompt" else ("prompt", "state", "actions")
        keys, values = torch.cat([self._kept[part] for part in parts], 1).transpose(1, 2).chunk(2, dim=1)
        if self._look is not None:
            self._look(*self._where, query, keys, self._window.mask)
        arguments: dict[str, Any] = {"attn_mask": self._window.mask, "enable_gqa": True}
        seen = scaled_dot_product_attention(query.transpose(1, 2), keys, values, **arguments)
        return seen.transpose(1, 2).flatten(2)
