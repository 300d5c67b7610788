"""The three paradigms without labels as the chapters train them, so that all of them mean the same by a name."""

from nbutils.paradigms.ddpm import DDPM
from nbutils.paradigms.encoder import Paradigm
from nbutils.paradigms.mae import MAE
from nbutils.paradigms.simclr import Augmentation, SimCLR
from nbutils.training import Schedule


def recipes(network: str, epochs: int) -> dict[str, tuple[Paradigm, Schedule]]:
    """CL (SimCLR on `network`), MIM (MAE) and DM (DDPM), each with how it is trained.

    Far below the paper's sizes. Temperature, views, rates, passes and weight decay did best for a probe on natural
    images of the planted world, on one seed.

    Args:
        epochs: passes of CL over the images; MIM and DM make a quarter of them, at least one.

    Raises:
        ValueError: unknown network.
    """
    fewer = max(1, epochs // 4)
    contrast = SimCLR(network, temperature=0.2, view=Augmentation(scale=(0.5, 1.0)))
    return {"CL": (contrast, Schedule(epochs, 64, 0.1, weight_decay=1e-4)),
            "MIM": (MAE(), Schedule(fewer, 64, 0.1, weight_decay=1e-4)),
            "DM": (DDPM(), Schedule(fewer, 64, 0.05, weight_decay=0))}
