"""What a lossy format does to images before a network sees them."""

import io
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nbutils.images.imageset import ImageSet, as_pixels

Images = TypeVar("Images", bound=ImageSet)


def jpeg(images: Images, quality: int = 75) -> Images:
    """The images as they come back from JPEG, which halves the resolution of colour (4:2:0) and rounds its frequencies.

    Args:
        quality: 1 to 95, as in libjpeg; 75 is the usual value.

    Raises:
        ValueError: a quality that is no whole number from 1 to 95.
    """
    if type(quality) is not int or not 1 <= quality <= 95:
        raise ValueError(f"quality = {quality!r}: expected 1 to 95, such as 75")

    def through(image: Tensor) -> Tensor:
        levels, file = (255 * as_pixels(image).permute(1, 2, 0)).round().byte(), io.BytesIO()
        Image.fromarray(levels.numpy()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).contiguous()

    seen = torch.stack([through(image) for image in images.held]) if len(images) else images.held
    return replace(images, x=seen, name=f"{images.name}, JPEG {quality}")
