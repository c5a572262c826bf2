"""One run of a sampler as a CUDA graph: a single launch in place of thousands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.sampler import Sampler

_WARM_UPS = 3  # libraries and Triton set themselves up in these, which a capture must not see


class Graph:
    """Replays a sampler on new inputs of the same shapes.

    Graphs of one pool share their scratch memory and their cache, so only one of them may run at a time.

    Args:
        sampler: whose weights the graph reads where they lie.
        cache: static; the graph keeps its addresses.
        inputs: of the sampler by name, on its device; the graph keeps copies to write later inputs into.
        pool: of `torch.cuda.graph_pool_handle`, whose type has no public name.
    """

    def __init__(self, sampler: Sampler, cache: Cache, inputs: Mapping[str, Tensor], pool: Any) -> None:
        self._cache = cache  # must outlive the graph
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                sampler(cache, **self._inputs)
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._actions = sampler(cache, **self._inputs)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Give what the sampler gives for these inputs."""
        for name, static in self._inputs.items():
            static.copy_(inputs[name])
        self._graph.replay()
        return self._actions.clone()  # the next replay of any graph of the pool writes there
