"""Where images and perturbations have their energy: in colour or in light, in fine or in coarse patterns."""

import torch
from torch import Tensor


def energy_shares(x: Tensor) -> dict[str, Tensor]:
    """Shares of the energy of images or perturbations x (N, 3, H, W), each without its mean colour: (N,) float64 each,
    NaN where there is no energy.

    "colour": outside of the grey axis, on which red, green and blue are equal. "fine": at a quarter of a cycle per
    pixel or more, along one of the axes; JPEG's 4:2:0 keeps no colour there. "fine colour": both.

    By Parseval's theorem the energy of an image is that of its orthonormal Fourier transform.

    Raises:
        ValueError: not three channels.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(x.shape)}: expected (N, 3, H, W)")
    x = x.double()
    spectrum = torch.fft.fft2(x - x.mean((2, 3), keepdim=True), norm="ortho")
    light = spectrum.sum(1).abs().square() / 3  # along (1, 1, 1) / sqrt(3)
    colour = spectrum.abs().square().sum(1) - light
    down, along = (torch.fft.fftfreq(size, device=x.device, dtype=x.dtype).abs() for size in x.shape[2:])
    fine = torch.maximum(down[:, None], along) >= 0.25
    total = (light + colour).sum((1, 2))
    return {"colour": colour.sum((1, 2)) / total, "fine": (light + colour)[:, fine].sum(1) / total,
            "fine colour": colour[:, fine].sum(1) / total}
