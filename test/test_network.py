"""The embedded network: transformers' own class, started so that every part of it can learn."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration

from vlaq_ros.policy import pi0
from vlaq_ros.policy.checkpoint import Checkpoint
from vlaq_ros.policy.tokenizer import build_tokenizer, load_tokenizer, longest_text, prompt_ids
from vlaq_ros.sim import network
from vlaq_ros.sim.demonstrations import CHUNK_STEPS
from vlaq_ros.sim.scene import CAMERAS, TASKS

TOKENIZER = build_tokenizer(TASKS)
IMAGE_TOKENS = len(CAMERAS) * network.GRID**2


def build(seed: int) -> PI0ForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network.build(TOKENIZER, state_size=8, action_size=7)


@pytest.fixture(scope="module")
def policy() -> PI0ForConditionalGeneration:
    return build(0)


def inputs() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    ids = prompt_ids(TOKENIZER, next(iter(TASKS)), IMAGE_TOKENS, longest_text(TOKENIZER, TASKS))[None]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, len(CAMERAS), 3, network.IMAGE_PX, network.IMAGE_PX, generator=random),
        "pixel_attention_mask": torch.ones(1, len(CAMERAS), dtype=torch.bool),
        "state": torch.randn(1, 8, generator=random),
        "noise": torch.randn(1, CHUNK_STEPS, 7, generator=random),
    }


def test_a_seed_gives_the_same_network(policy: PI0ForConditionalGeneration) -> None:
    first, again, other = (network.state_dict() for network in (policy, build(0), build(1)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_it_answers_chunks_of_the_asked_for_size(policy: PI0ForConditionalGeneration) -> None:
    actions = policy.sample_actions(**inputs())
    assert actions.shape == (1, CHUNK_STEPS, 7)
    assert actions.isfinite().all()
    assert policy.config.num_inference_steps == network.DENOISING_STEPS


def test_linears_start_at_the_deviation_that_keeps_their_signal(policy: PI0ForConditionalGeneration) -> None:
    linears = {name: module for name, module in policy.named_modules() if isinstance(module, nn.Linear)}
    ours = {name: module for name, module in linears.items() if "vision_tower" not in name}
    assert 0 < len(ours) < len(linears)
    residual = [name for name in ours if name.endswith(("o_proj", "down_proj"))]
    assert len(residual) == 2 * 2 * network.LAYERS  # of the language model and of the expert
    for name, module in ours.items():
        spread = float(module.weight.detach().std()) * module.in_features**0.5
        expected = (2 * network.LAYERS) ** -0.5 if name in residual else 1.0
        assert spread == pytest.approx(expected, rel=0.12), name


def test_words_enter_at_unit_size(policy: PI0ForConditionalGeneration) -> None:
    with torch.no_grad():
        words = policy.model.vlm.get_input_embeddings()(torch.arange(len(TOKENIZER)))
    assert float(words.pow(2).mean().sqrt()) == pytest.approx(1, rel=0.1)


def test_all_that_acts_learns(policy: PI0ForConditionalGeneration) -> None:
    """What the flow loss reaches is what the robot holds."""
    policy.zero_grad()
    policy(**inputs(), timestep=torch.tensor([0.5]), actions=torch.ones(1, CHUNK_STEPS, 7)).loss.mean().backward()
    reached = {name for name, parameter in policy.named_parameters() if parameter.grad is not None}
    assert reached == set(chain.from_iterable(pi0.sources(policy.config).values()))
    for name, parameter in policy.named_parameters():
        assert name not in reached or parameter.grad.abs().max() > 0, name


# Beginning from a checkpoint

WORDS = {"model.vlm.language_model.embed_tokens.weight", "model.dit.embed_tokens.weight"}


def with_our_words(source: Path) -> PI0ForConditionalGeneration:
    """A fresh network of a checkpoint's shape, but for its words."""
    config = PI0Config.from_pretrained(source)
    config.vlm_config.text_config.vocab_size = config.dit_config.vocab_size = len(TOKENIZER)
    return PI0ForConditionalGeneration(config)


def test_weights_are_taken_over_and_words_by_their_names(tiny_checkpoint: Path) -> None:
    source, known = Checkpoint.open(tiny_checkpoint), load_tokenizer(tiny_checkpoint).get_vocab()
    adopting = with_our_words(tiny_checkpoint)
    fresh = {name: value.clone() for name, value in adopting.state_dict().items()}
    network.adopt(adopting, TOKENIZER, source)
    ours = TOKENIZER.get_vocab()
    assert known.keys() < ours.keys()
    assert any(known[word] != ours[word] for word in known)  # they lie in other rows here
    adopted = dict(adopting.named_parameters())
    assert adopted.keys() > WORDS
    for name, parameter in adopted.items():
        tensor = source.tensor(name).float()
        if name in WORDS:
            for word, row in ours.items():
                expected = tensor[known[word]] if word in known else fresh[name][row]
                assert torch.equal(parameter[row], expected), (name, word)
        else:
            assert torch.equal(parameter, tensor), name


def test_another_network_is_told(tiny_checkpoint: Path) -> None:
    with pytest.raises(network.OtherNetworkError) as caught:
        network.adopt(build(0), TOKENIZER, Checkpoint.open(tiny_checkpoint))
    assert str(caught.value) == (
        f"checkpoint {str(tiny_checkpoint)!r} is of another network: model.dit.embed_tokens.weight is of shape "
        f"(15, 32), expected shape ({len(TOKENIZER)}, 128); begin from one that vlaq train left, of the same "
        "--action-space"
    )


def test_a_checkpoint_that_lacks_a_tensor_is_told(tiny_checkpoint: Path) -> None:
    source = Checkpoint.open(tiny_checkpoint)
    places = {name: place for name, place in source.places.items() if "dit.norm" not in name}
    with pytest.raises(network.OtherNetworkError, match=r"model\.dit\.norm\.weight is missing, expected shape \(32,\)"):
        network.adopt(with_our_words(tiny_checkpoint), TOKENIZER, replace(source, places=places))
