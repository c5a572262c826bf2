"""The policy's words: a tokenizer made from its instructions, and prompts of one fixed length.

A prompt is laid out as transformers' `PI0Processor` does: image tokens, `<bos>`, the instruction, a line end, padding.
Padding tokens are ordinary attended tokens here (no attention mask), in training as on the robot: every position is
fixed, so the network's shapes and masks are constants. A policy that was trained with masked padding has none instead:
what is masked everywhere, and moves no position, is the same as what is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlaq_ros.errors import CorruptModelError, ModelNotFoundError

IMAGE_TOKEN = "<image>"
TOKENIZER_FILE = "tokenizer.json"


def build_tokenizer(instructions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Make a word-level tokenizer that knows the words of `instructions` (ids 0-4: pad, bos, unk, image, line end)."""
    words = sorted({word for instruction in instructions for word in instruction.split()})
    vocabulary = ["<pad>", "<bos>", "<unk>", IMAGE_TOKEN, "\n", *words]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])  # else it is split away as white space
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE_TOKEN],
    )


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Read a policy's tokenizer.

    Raises:
        ModelNotFoundError: there is none.
        CorruptModelError: it cannot be read, or it lacks a token that every prompt has.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        raise ModelNotFoundError(directory, TOKENIZER_FILE)
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises bare Exceptions
        raise CorruptModelError(path, str(error)) from None
    if tokenizer.bos_token is None or tokenizer.pad_token is None or IMAGE_TOKEN not in tokenizer.get_vocab():
        raise CorruptModelError(path, f"it needs {IMAGE_TOKEN}, a beginning-of-text token and a padding token")
    return tokenizer


def longest_text(tokenizer: PreTrainedTokenizerFast, instructions: Iterable[str]) -> int:
    """Count the tokens of the longest instruction, with its `<bos>` and line end."""
    return max(len(_text_ids(tokenizer, instruction)) for instruction in instructions)


def prompt_ids(
    tokenizer: PreTrainedTokenizerFast, instruction: str, image_tokens: int, text_length: int | None
) -> torch.Tensor:
    """Lay out one prompt.

    Args:
        tokenizer: of the policy; knows `<image>`, `<bos>`, `<pad>` and a line end.
        instruction: one sentence.
        image_tokens: of all cameras together.
        text_length: tokens after them; None for as many as the instruction has.

    Returns:
        [image_tokens + text_length] token ids.

    Raises:
        ValueError: the instruction is longer than `text_length`.
    """
    text = _text_ids(tokenizer, instruction)
    text_length = len(text) if text_length is None else text_length
    if len(text) > text_length:
        raise ValueError(f"instruction {instruction!r} has {len(text)} tokens, expected at most {text_length}")
    image = [tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)] * image_tokens
    padding = [tokenizer.pad_token_id] * (text_length - len(text))
    return torch.tensor(image + text + padding, dtype=torch.long)


def _text_ids(tokenizer: PreTrainedTokenizerFast, instruction: str) -> list[int]:
    ids: list[int] = tokenizer(f"{tokenizer.bos_token}{instruction}\n", add_special_tokens=False)["input_ids"]
    return ids
