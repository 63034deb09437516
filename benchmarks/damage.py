"""Stand-ins for what a model does to an image: noise, and a bottleneck of a fixed number of bytes."""

import io

import numpy as np
import PIL.Image


def noise(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Add Gaussian noise of `sigma` levels of 255, rounded and clipped as an image file would be."""
    added = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.rint(image + added).clip(0, 255).astype(np.uint8)


def bottleneck(image: np.ndarray, kilobytes: float) -> np.ndarray:
    """Pass an image through the best JPEG, colours not thinned out, that is not larger.

    A fixed size and not a fixed quality, as a VAE has the same number of latents for every image.
    """
    low, high = 1, 100
    best = _jpeg(image, low)
    while low <= high:
        quality = (low + high) // 2
        data = _jpeg(image, quality)
        if len(data) <= 1000 * kilobytes:
            best, low = data, quality + 1
        else:
            high = quality - 1
    with PIL.Image.open(io.BytesIO(best)) as file:
        return np.asarray(file)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()
