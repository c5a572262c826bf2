"""The attention of a layer whose keys and values lie in a static buffer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vlaq_ros.policy.fused import write_heads


@dataclass(frozen=True, slots=True)
class Window:
    """What one layer writes and sees of the cache when it gets n tokens of each of B prompts.

    Heads lie side by side: those of queries (H), of keys (G) and of values (G), each of D numbers.
    """

    cos: Tensor  # [n, heads, D] rotary positions (arXiv 2104.09864), 1 for values
    sin: Tensor  # [n, heads, D], minus that for the first half of a head, and 0 for values
    written: Tensor  # [B, n, 2 G, D]
    keys: Tensor  # [B, G, m, D]
    values: Tensor  # [B, G, m, D]
    mask: Tensor | None  # [n, m] bool; None: every token sees all of them

    def write(self, projected: Tensor) -> Tensor:
        """Turn the heads of [B, n, heads * D], write keys and values, and give the queries [B, n, H, D]."""
        query: Tensor = write_heads(projected, self.cos, self.sin, self.written)
        return query

    def attend(self, projected: Tensor) -> Tensor:
        """Write, and give what the queries see: [B, n, H * D]."""
        query = self.write(projected).transpose(1, 2)
        seen = scaled_dot_product_attention(query, self.keys, self.values, self.mask, enable_gqa=True)
        return seen.transpose(1, 2).flatten(2)
