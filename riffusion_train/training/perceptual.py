"""A perceptual loss on spectrogram images: do edges and texture agree, not only the levels of pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (1, 2, 4)
"""Sides of the square blocks of pixels whose means the images are compared by."""

WINDOW_PX = 5
"""Side of the window in which the deviation of a texture is measured."""

_SMALLEST_VARIANCE = 1e-5
"""Added to a variance, in a range of levels from -1 to 1: the root's slope is infinite at zero."""


def perceptual_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Return how different the edges and textures of two batches of images are: a scalar, 0 where they are equal.

    A loss of pixels alone is least for the median of all images that a latent may stand for, which is blurred: partials and
    onsets are wider than they were, and noise, which no latent can hold, becomes an even grey, which sounds dull. So at each
    of three scales the images are compared by two kinds of features that need no pretrained network:

    - differences of neighbours along time and along frequency, as in the gradient difference loss (Mathieu, Couprie and LeCun
      2016, arXiv:1511.05440), which sharpen onsets and partials;
    - the standard deviation in windows of 5 x 5 pixels, the contrast term of the structural similarity (Wang et al. 2003,
      "Multi-scale structural similarity for image quality assessment"), which does not ask where the grains of a noise are
      but how strong they are.

    Args:
        decoded: Images (B, C, H, W) in [-1, 1].
        images: What they should be, of the same shape.
    """
    terms = []
    for scale in SCALES:
        one, other = (F.avg_pool2d(image.float(), scale) if scale > 1 else image.float() for image in (decoded, images))
        for axis in (2, 3):
            terms.append(F.l1_loss(torch.diff(one, dim=axis), torch.diff(other, dim=axis)))
        terms.append(F.l1_loss(local_deviation(one), local_deviation(other)))
    return torch.stack(terms).sum() / len(SCALES)


def local_deviation(images: Tensor) -> Tensor:
    """Return the standard deviation around each pixel, (B, C, H - 4, W - 4), of images (B, C, H, W)."""
    mean = F.avg_pool2d(images, WINDOW_PX, stride=1)
    # The mean of squares less the square of the mean may fall below zero by rounding.
    variance = (F.avg_pool2d(images.square(), WINDOW_PX, stride=1) - mean.square()).clamp(min=0)
    return (variance + _SMALLEST_VARIANCE).sqrt()
