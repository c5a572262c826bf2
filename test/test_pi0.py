"""The PI0 network: the same actions as transformers' own loop, from the tensors that `sources` names and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration

from vlaq_ros.policy import pi0
from vlaq_ros.policy.cache import Cache
from vlaq_ros.policy.pi0 import PI0Network
from vlaq_ros.policy.sampler import Sampler

CPU = torch.device("cpu")
IMAGE_TOKEN_ID, WORDS = 3, 15


def tiny_config(
    *,
    heads: int = 4,
    groups: int = 2,
    width: int = 32,
    expert_width: int = 24,
    chunk: int = 6,
    wide: int = 8,
    layers: int = 2,
) -> PI0Config:
    """Sizes that differ wherever pi0 lets them, so that none can stand in for another."""
    gemma = {
        "model_type": "gemma",
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": 16,
        "vocab_size": WORDS,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 20,
        "intermediate_size": 28,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 24,
        "vision_use_head": False,
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": gemma | {"hidden_size": width, "intermediate_size": 40},
            "vision_config": vision,
            "projection_dim": width,
            "image_token_id": IMAGE_TOKEN_ID,
        },
        dit_config=gemma | {"hidden_size": expert_width, "intermediate_size": 36},
        chunk_size=chunk,
        max_state_dim=wide,
        max_action_dim=wide,
    )


def random_policy(config: PI0Config, seed: int = 0) -> PI0ForConditionalGeneration:
    """All of it random, norms and biases too: a term that is left out shows."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = PI0ForConditionalGeneration(config).eval()
        for parameter in policy.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            nn.init.normal_(parameter, std=fan_in**-0.5)
    return policy


def tensors(policy: PI0ForConditionalGeneration) -> Iterator[tuple[str, Tensor]]:
    stored, shapes = policy.state_dict(), pi0.shapes(policy.config)
    for name, sources in pi0.sources(policy.config).items():
        yield name, torch.cat([stored[source] for source in sources]).reshape(shapes[name])


def assembled(policy: PI0ForConditionalGeneration, dtype: torch.dtype = torch.float32) -> PI0Network:
    return pi0.assemble(policy.config, tensors(policy), {}, dtype, CPU)


def inputs(config: PI0Config, batch: int, cameras: int, words: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(batch)
    vision, _, _ = pi0.towers(config)
    images = cameras * (vision.image_size // vision.patch_size) ** 2
    text = torch.randint(4, WORDS, (batch, words), generator=random)
    return {
        "pixel_values": torch.randn(batch, cameras, 3, vision.image_size, vision.image_size, generator=random),
        "input_ids": torch.cat([torch.full((batch, images), IMAGE_TOKEN_ID), text], dim=1),
        "state": torch.randn(batch, config.max_state_dim, generator=random),
        "noise": torch.randn(batch, config.chunk_size, config.max_action_dim, generator=random),
    }


def by_transformers(policy: PI0ForConditionalGeneration, given: Mapping[str, Tensor], steps: int) -> Tensor:
    actions: Tensor = policy.sample_actions(
        **given,
        attention_mask=torch.ones_like(given["input_ids"]),
        pixel_attention_mask=torch.ones(given["pixel_values"].shape[:2], dtype=torch.bool),
        num_steps=steps,
    )
    return actions


def by_us(network: PI0Network, config: PI0Config, given: Mapping[str, Tensor], steps: int, **how: Any) -> Tensor:
    ids, dtype = given["input_ids"], network.projector.weight.dtype
    with torch.inference_mode():
        sampler = Sampler(network, config, steps, compiled=False)
        text = torch.stack([network.words(row[row != IMAGE_TOKEN_ID]) for row in ids])
        cache = how.get("cache") or Cache(config, *ids.shape, dtype, CPU)
        return sampler(cache, given["pixel_values"].to(dtype), text, given["state"].to(dtype), given["noise"])


@settings(deadline=None, max_examples=12)
@given(
    heads_and_groups=st.sampled_from([(4, 4), (4, 2), (4, 1), (1, 1), (6, 3)]),
    widths=st.sampled_from([(32, 32), (32, 24), (24, 40)]),
    chunk=st.integers(1, 8),
    wide=st.sampled_from([7, 32]),
    layers=st.integers(1, 3),
    batch=st.integers(1, 3),
    cameras=st.integers(1, 3),
    steps=st.integers(1, 10),
)
def test_equals_sample_actions_of_transformers(
    *,
    heads_and_groups: tuple[int, int],
    widths: tuple[int, int],
    chunk: int,
    wide: int,
    layers: int,
    batch: int,
    cameras: int,
    steps: int,
) -> None:
    (heads, groups), (width, expert_width) = heads_and_groups, widths
    config = tiny_config(
        heads=heads, groups=groups, width=width, expert_width=expert_width, chunk=chunk, wide=wide, layers=layers
    )
    policy, given_inputs = random_policy(config), inputs(config, batch, cameras)
    expected = by_transformers(policy, given_inputs, steps)
    actions = by_us(assembled(policy), config, given_inputs, steps)
    assert (actions - expected).abs().max() < 1e-4
    assert (actions - given_inputs["noise"]).abs().max() > 0.1  # a flow that moves


def test_a_cache_may_be_used_again() -> None:
    config = tiny_config()
    network, first, other = assembled(random_policy(config)), inputs(config, 1, 2), inputs(config, 2, 2)
    other = {name: value[1:] for name, value in other.items()}
    expected = by_us(network, config, first, 4)
    cache = Cache(config, 1, first["input_ids"].shape[1], torch.float32, CPU)
    by_us(network, config, other, 4, cache=cache)
    assert torch.equal(by_us(network, config, first, 4, cache=cache), expected)


def test_every_input_matters() -> None:
    config = tiny_config()
    network, given_inputs = assembled(random_policy(config)), inputs(config, 1, 2)
    actions = by_us(network, config, given_inputs, 4)
    for name, value in given_inputs.items():
        changed = value.clone()
        if name == "input_ids":
            changed[:, -1] = 4 + (changed[:, -1] - 3) % 11  # another word
        else:
            changed.flatten()[0] += 1
        assert not torch.allclose(by_us(network, config, {**given_inputs, name: changed}, 4), actions), name


def test_sources_are_what_acts() -> None:
    """Gradients of transformers' own flow reach these tensors and no others."""
    config = tiny_config()
    policy, given_inputs = random_policy(config), inputs(config, 1, 2)
    noise = given_inputs.pop("noise")
    policy(
        **given_inputs,
        noise=noise,
        timestep=torch.tensor([0.5]),
        attention_mask=torch.ones_like(given_inputs["input_ids"]),
        pixel_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        actions=torch.ones_like(noise),
    ).loss.mean().backward()
    reached = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert reached == set(chain.from_iterable(pi0.sources(config).values()))


def test_a_quantized_linear_is_in_the_layers_of_a_tower() -> None:
    config = tiny_config(layers=3)
    with torch.device("meta"):
        linears = {name for name, module in PI0Network(config).named_modules() if isinstance(module, nn.Linear)}
    assert {name for name in linears if not pi0.is_quantized(name)} == {
        "vision.patch", "projector", "state_in", "action_in", "time_in", "time_out", "action_out",
    }  # fmt: skip
    vision, language, expert = 3 * 4, 2 * 4 + 1, 3 * 4  # of the last language layer, keys and values
    assert sum(map(pi0.is_quantized, linears)) == vision + language + expert
    assert not pi0.is_quantized("vision.layers.0.norm1")


def test_the_table_of_words_keeps_its_dtype() -> None:
    policy = random_policy(tiny_config()).half()
    network = assembled(policy)
    assert network.embed_tokens.weight.dtype is torch.float16
    assert network.projector.weight.dtype is torch.float32
    table = policy.model.vlm.get_input_embeddings()
    ids = torch.tensor([5, 9, 5])
    torch.testing.assert_close(network.words(ids), table.weight[ids].float() * 32**0.5)


def test_words_of_8_bits_are_expanded_where_they_are_looked_up() -> None:
    codes, scale = torch.tensor([[1, -2], [127, 0], [-127, 5]], dtype=torch.int8), torch.tensor([0.5, 0.1, 2.0])
    words = pi0.CodedEmbedding(codes, scale)(torch.tensor([2, 0]))
    assert torch.equal(words, torch.tensor([[-254.0, 10.0], [0.5, -1.0]]))


def test_bfloat16_is_close() -> None:
    config = tiny_config()
    policy, given_inputs = random_policy(config), inputs(config, 2, 2)
    expected = by_us(assembled(policy), config, given_inputs, 4)
    actions = by_us(assembled(policy, torch.bfloat16), config, given_inputs, 4)
    assert actions.dtype is torch.float32
    assert 0 < (actions - expected).abs().mean() < 0.05 * expected.abs().mean()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda vision, text, expert: setattr(vision, "hidden_act", "gelu"), "vision_config.hidden_act is 'gelu'"),
        (lambda vision, text, expert: setattr(text, "hidden_act", "silu"), "text_config.hidden_act is 'silu'"),
        (lambda vision, text, expert: setattr(expert, "attention_bias", True), "dit_config.attention_bias is True"),
        (lambda vision, text, expert: setattr(expert, "head_dim", 32), "dit_config.head_dim is 32, expected 16"),
        (lambda vision, text, expert: setattr(text, "num_hidden_layers", 5), "num_hidden_layers is 2, expected 5"),
    ],
)
def test_a_configuration_that_is_not_computed_is_told(change: Any, why: str) -> None:
    config = tiny_config()
    change(*pi0.towers(config))
    with pytest.raises(ValueError, match=why):
        pi0.sources(config)
