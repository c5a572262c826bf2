"""Images and numbers between the robot's units and the network's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.image_processing_backends import PilBackend
from transformers.models.pi0.image_processing_pi0 import PI0ImageProcessor

from vlaq_ros.policy.transforms import denormalize, normalize, pixel_values

SIZE_PX = 96
SHAPES = [(96, 96), (480, 640), (640, 480), (50, 70), (97, 31), (96, 64)]
SETTINGS: dict[str, Any] = {
    "size": {"max_height": SIZE_PX, "max_width": SIZE_PX},
    "pad_size": {"height": SIZE_PX, "width": SIZE_PX},
}


class PilPI0ImageProcessor(PilBackend):
    """The settings of transformers' PI0 on its other backend, which needs no torchvision."""

    resample = PI0ImageProcessor.resample
    image_mean, image_std = PI0ImageProcessor.image_mean, PI0ImageProcessor.image_std
    do_resize = do_rescale = do_normalize = do_convert_rgb = do_pad = True


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours with one hard edge."""
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 255 * (x > width / 3)]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_transformers(shape: tuple[int, int]) -> None:
    pytest.importorskip(
        "torchvision", reason="transformers' PI0ImageProcessor needs torchvision, this package does not"
    )
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = PI0ImageProcessor(**SETTINGS)([image], return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixel_values(image, SIZE_PX), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_transformers_without_torchvision(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    expected = PilPI0ImageProcessor(**SETTINGS)([image], return_tensors="pt")["pixel_values"][0]
    one_level = 1 / 127.5  # Pillow rounds after each of its two passes
    torch.testing.assert_close(pixel_values(image, SIZE_PX), expected, rtol=0, atol=1.01 * one_level)


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    values = pixel_values(image, SIZE_PX)
    assert values.dtype is torch.float32
    assert np.array_equal(np.round(values.permute(1, 2, 0).numpy() * 127.5 + 127.5), image)


@given(height=st.integers(1, 300), width=st.integers(1, 300), level=st.integers(0, 255))
def test_one_colour_stays_one_colour_and_the_rest_is_grey(height: int, width: int, level: int) -> None:
    longest = max(height, width)
    if min(height, width) * SIZE_PX < longest:  # a sliver would vanish
        height = width = longest
    values = pixel_values(np.full((height, width, 3), level, dtype=np.uint8), SIZE_PX)
    scale = min(SIZE_PX / height, SIZE_PX / width)
    rows, columns = int(height * scale), int(width * scale)
    torch.testing.assert_close(values[:, :rows, :columns], torch.full((3, rows, columns), level / 127.5 - 1))
    assert not values[:, rows:].any()
    assert not values[:, :, columns:].any()


def test_colours_keep_their_order_and_images_may_be_read_only() -> None:
    image = np.zeros((SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    image[..., 0] = 255
    image.flags.writeable = False  # as a message's buffer is
    assert pixel_values(image, SIZE_PX)[:, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_normalisation_has_mean_zero_and_deviation_one_and_is_undone() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, (50, 4, 2))
    mean, std = values.mean(axis=0), values.std(axis=0)
    normal = normalize(values, mean, std)
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(normal.std(axis=0), 1)
    np.testing.assert_allclose(denormalize(normal.astype(np.float32), mean, std), values, atol=1e-6)
