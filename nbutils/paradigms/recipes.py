"""The three paradigms without labels as the chapters train them, so that all of them mean the same by a name."""

from functools import partial

from nbutils.messages import check_choice
from nbutils.paradigms.ddpm import DDPM
from nbutils.paradigms.encoder import Paradigm
from nbutils.paradigms.mae import MAE
from nbutils.paradigms.simclr import Augmentation, SimCLR
from nbutils.training import Schedule

SIZES = ("small", "paper")
adamw = partial(Schedule, weight_decay=0, optimizer="adamw")


def recipes(network: str, epochs: int, size: str = "small") -> tuple[dict[str, Paradigm], dict[str, Schedule]]:
    """CL (SimCLR on `network`), MIM (MAE) and DM (DDPM), and how each is trained.

    CL learns with SGD. MIM and DM learn with AdamW, whose rate rises and then falls along half a cosine, as in He et
    al. (2022). Ho et al. (2020) keep the rate of Adam and average the weights; here the falling rate stands for that.

    Size "small" is far below the paper's. Temperature, views, rate and weight decay of CL did best for a probe on
    natural images of the planted world, on one seed; rate and batch of MIM and DM bring their own losses down there in
    few passes.

    Size "paper" has the encoders, batches, weight decay and rates of Li et al. (2023, appendix A.2, CIFAR-10): the
    projector 512-512-256 on ResNet-18, a ViT-tiny that sees patches of 4 pixels with a decoder of 2 layers, a U-Net of
    128, 256, 256 and 256 channels. Decoder and U-Net are ours where the appendix gives no numbers: each level has one
    residual block on the way up and one on the way down, without attention. Temperature .5 and the whole augmentation
    are those of Chen et al. (2020) for CIFAR-10, since the appendix names no temperature.

    Args:
        network: of CL; the paper's is "resnet18".
        epochs: passes of CL over the images, 2000 in the paper. MIM and DM make half of them if small; at the paper's
            size MIM makes as many and DM half, as there. At least one.

    Raises:
        ValueError: unknown network or size.
    """
    half = max(1, epochs // 2)
    if check_choice("size", size, SIZES) == "paper":
        return ({"CL": SimCLR(network),
                 "MIM": MAE(patch=4, width=192, depth=12, decoder_width=192, decoder_depth=2, heads=3),
                 "DM": DDPM(width=128, factors=(1, 2, 2, 2), space_to_depth=1)},
                {"CL": Schedule(epochs, 512, 0.1, weight_decay=1e-5),
                 "MIM": adamw(epochs, 512, 2e-4, weight_decay=0.05),
                 "DM": adamw(half, 128, 2e-4)})
    contrast = SimCLR(network, temperature=0.2, view=Augmentation(scale=(0.5, 1.0)))
    return ({"CL": contrast, "MIM": MAE(), "DM": DDPM()},
            {"CL": Schedule(epochs, 64, 0.1, weight_decay=1e-4),
             "MIM": adamw(half, 32, 1e-3, weight_decay=0.05),
             "DM": adamw(half, 32, 3e-3)})
