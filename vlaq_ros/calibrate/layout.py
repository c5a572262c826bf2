"""Which linears are held as integers at all: QuantVLA's selective layout (arXiv 2602.20309) and its neighbours.

A layer that a layout leaves out keeps 16 bits in every Precision; an allocation is free to choose among the others.

===================  ========  ==========  ==================  ============
integers in          `vision`  `language`  `expert`: qkv, o    its MLP
===================  ========  ==========  ==================  ============
`all`                yes       yes         yes                 yes
`selective+vision`   yes       yes                             yes
`selective`                    yes                             yes
===================  ========  ==========  ==================  ============

`selective` is the paper's, which reports for pi0.5 on LIBERO, before any matching, 95.4 % of successes with it and
76.3 % with everything but the vision tower as integers. What the paper never quantizes besides (projector, embeddings,
norms, projections of state, time and action) is held in 16 bits by every layout: see `policy.pi0.is_quantized`.
"""

from __future__ import annotations

import re
from enum import StrEnum


class Layout(StrEnum):
    """A layout by its name."""

    ALL = "all"
    SELECTIVE_VISION = "selective+vision"
    SELECTIVE = "selective"

    def keeps(self, layer: str) -> bool:
        """Say whether this quantizable linear of `PI0Network`, given by its name, stays in 16 bits."""
        return _KEPT[self].match(layer) is not None


_KEPT = {
    Layout.ALL: re.compile(r"(?!)"),  # nothing
    Layout.SELECTIVE_VISION: re.compile(r"expert\.layers\.\d+\.(qkv|o)$"),
    Layout.SELECTIVE: re.compile(r"vision\.|expert\.layers\.\d+\.(qkv|o)$"),
}
