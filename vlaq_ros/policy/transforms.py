"""Between the robot's units and the network's: images, normalisation. Used alike in training and on the robot."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from vlaq_ros.datatypes import FloatArray, ImageArray


def pixel_values(image: ImageArray, size_px: int) -> torch.Tensor:
    """Do what transformers' `PI0ImageProcessor` does, without torchvision.

    The image is scaled to fit a square (bicubic, with antialiasing, in 8 bits), its range [0, 255] becomes [-1, 1], and
    what is missing of the square at the right or the bottom is 0, a grey. An image of that size keeps its pixels.

    Args:
        image: [H, W, 3] RGB.
        size_px: side of the square.

    Returns:
        [3, size_px, size_px] float32.
    """
    pixels = torch.tensor(image).permute(2, 0, 1)[None]
    height, width = image.shape[:2]
    scale = min(size_px / height, size_px / width)
    fitted = (int(height * scale), int(width * scale))
    if fitted != (height, width):
        pixels = interpolate(pixels, fitted, mode="bicubic", antialias=True)
    return pad((pixels[0].float() - 127.5) / 127.5, (0, size_px - fitted[1], 0, size_px - fitted[0]))


def normalize(values: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    """Shift and scale to mean 0 and deviation 1; `mean` and `std` fit the last axes of `values`."""
    return (values - mean) / std


def denormalize(values: FloatArray, mean: FloatArray, std: FloatArray) -> FloatArray:
    """Undo `normalize`."""
    return np.asarray(values, dtype=np.float64) * std + mean
