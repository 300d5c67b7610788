"""What a lossy format does to images before a network sees them."""

import io
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nbutils.images.imageset import ImageSet

Images = TypeVar("Images", bound=ImageSet)


def jpeg(images: Images, quality: int = 75) -> Images:
    """The images as they come back from JPEG, which halves the resolution of colour (4:2:0) and rounds its frequencies.

    Args:
        quality: 1 to 95, as in libjpeg; 75 is the usual value.

    Raises:
        ValueError: a quality outside of 1 to 95.
    """
    if not 1 <= quality <= 95:
        raise ValueError(f"quality = {quality!r}: expected 1 to 95, such as 75")

    def through(pixels: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        return torch.from_numpy(np.array(Image.open(file)))

    levels = (255 * images.x.permute(0, 2, 3, 1)).round().byte()
    seen = torch.stack([through(pixels) for pixels in levels]) if len(levels) else levels
    x = (seen.float() / 255).permute(0, 3, 1, 2).contiguous()
    return replace(images, x=x, name=f"{images.name}, JPEG {quality}")
