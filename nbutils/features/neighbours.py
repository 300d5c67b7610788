"""What the nearest neighbours of a point say."""

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbour_votes(points: Tensor, labels: Tensor, k: int = 10) -> Tensor:
    """(N,) for each point the label that most of its k nearest other points have; of equally many, the smallest.

    Args:
        points: (N, D), compared by their Euclidean distance. labels: (N,) int64.

    Raises:
        ValueError: fewer than k other points, or labels that do not fit.
    """
    if not 1 <= k < len(points) or labels.shape != points.shape[:1]:
        raise ValueError(f"k = {k}, {len(points)} points, labels {tuple(labels.shape)}: expected 1 <= k < N and one "
                         "label per point")
    distance = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distance.fill_diagonal_(torch.inf).topk(k, largest=False).indices
    return F.one_hot(labels[nearest]).sum(1).argmax(1)
