"""CUDA graphs of samplers: what they replay is what the samplers compute."""

from __future__ import annotations

import pytest
import torch
from test_pi0 import inputs, random_policy, tensors, tiny_config
from torch import Tensor

from vlaq_ros.policy import pi0
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.graphs import Graph
from vlaq_ros.policy.sampler import Sampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

WORDS = 5


@torch.inference_mode()
def test_graphs_of_one_pool_and_one_cache_replay_new_inputs() -> None:
    config, gpu = tiny_config(), torch.device("cuda")
    policy = random_policy(config)
    network = pi0.assemble(config, tensors(policy), {}, torch.float32, gpu)
    samplers = [Sampler(network, config, steps, compiled=False) for steps in (8, 3)]

    def drawn(seed: int) -> dict[str, Tensor]:
        given = {name: value[-1:].to(gpu) for name, value in inputs(config, seed, 2).items()}
        text = network.words(given["input_ids"][0, -WORDS:])[None]
        half = torch.linspace(1, 0, config.chunk_size, device=gpu)[None, :, None].expand_as(given["noise"])
        return {
            "pixels": given["pixel_values"],
            "text": text,
            "state": given["state"],
            "noise": given["noise"],
            "guide": given["noise"].flip(1),
            "weights": half * (seed > 1),  # the graph is captured free and then guided
        }

    tokens = inputs(config, 1, 2)["input_ids"].shape[1]
    cache = Cache(config, 1, tokens, torch.float32, gpu)
    pool = torch.cuda.graph_pool_handle()
    graphs = [Graph(sampler, cache, drawn(1), pool) for sampler in samplers]
    for seed in (1, 2, 3):
        expected = [sampler(Cache(config, 1, tokens, torch.float32, gpu), **drawn(seed)) for sampler in samplers]
        actions = [graph(drawn(seed)) for graph in graphs]
        for got, wanted in zip(actions, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
