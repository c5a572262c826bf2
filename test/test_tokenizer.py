"""Prompts: their layout, their fixed length, and the tokenizer that a bundle keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError
from vlaq_ros.policy.tokenizer import build_tokenizer, load_tokenizer, longest_text, prompt_ids

SENTENCES = ("pick up the red cube", "put the red cube in the bin")


def test_a_prompt_is_images_then_text_then_padding() -> None:
    tokenizer = build_tokenizer(SENTENCES)
    ids = prompt_ids(tokenizer, SENTENCES[0], image_tokens=3, text_length=9)
    expected = ["<image>"] * 3 + ["<bos>", "pick", "up", "the", "red", "cube", "\n", "<pad>", "<pad>"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected


def test_the_longest_sentence_fills_the_text() -> None:
    tokenizer = build_tokenizer(SENTENCES)
    length = longest_text(tokenizer, SENTENCES)
    assert length == 1 + 7 + 1
    assert tokenizer.pad_token_id not in prompt_ids(tokenizer, SENTENCES[1], 2, length).tolist()
    with pytest.raises(ValueError, match="has 9 tokens, expected at most 8"):
        prompt_ids(tokenizer, SENTENCES[1], 2, length - 1)


def test_a_word_that_was_never_seen_is_unknown() -> None:
    tokenizer = build_tokenizer(SENTENCES)
    ids = prompt_ids(tokenizer, "pick up the violet cube", 0, 9).tolist()
    assert ids.count(tokenizer.unk_token_id) == 1


def test_transformers_alone_loads_it_and_gives_the_same_ids(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(SENTENCES)
    tokenizer.save_pretrained(tmp_path)
    text = f"<image><image><bos>{SENTENCES[1]}\n"  # as transformers' PI0Processor writes it
    expected = prompt_ids(tokenizer, SENTENCES[1], 2, 9).tolist()
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == expected
    assert prompt_ids(load_tokenizer(tmp_path), SENTENCES[1], 2, 9).tolist() == expected


def test_a_tokenizer_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CorruptModelError, match=r"tokenizer\.json' cannot be used: "):
        load_tokenizer(tmp_path)


def test_a_tokenizer_without_the_prompt_s_tokens_is_told(tmp_path: Path) -> None:
    build_tokenizer(SENTENCES).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CorruptModelError, match="it needs <image>, a beginning-of-text token and a padding token"):
        load_tokenizer(tmp_path)
