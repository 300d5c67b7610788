"""Features: what is useful, what is robust, and how to tell."""

from nbutils.features.bottleneck import (
    Bottleneck,
    Distilled,
    another_of_class,
    channel_energy,
    closed_form_masks,
    distill,
    global_mask,
    last_cut,
    masked_logits,
    masked_predictions,
    parts,
    random_masks,
    robust_channels,
    wrong_labels,
)
from nbutils.features.constructed import (
    D_NR,
    D_R,
    ConstructedSet,
    D_det,
    D_rand,
    FeatureDistance,
    matched,
    relabelled,
    residuals,
)
from nbutils.features.nrf import NRF
from nbutils.features.saved import export, read
from nbutils.features.usefulness import (
    LinearFeature,
    OneAgainstRest,
    class_weights,
    least_squares,
    matched_filter,
    population_usefulness,
    scene_response,
    tile_projections,
    usefulness,
)

__all__ = ["D_NR", "D_R", "NRF", "Bottleneck", "ConstructedSet", "D_det", "D_rand", "Distilled", "FeatureDistance",
           "LinearFeature", "OneAgainstRest", "another_of_class", "channel_energy", "class_weights",
           "closed_form_masks", "distill", "export", "global_mask", "last_cut", "least_squares", "masked_logits",
           "masked_predictions", "matched", "matched_filter", "parts", "population_usefulness", "random_masks", "read",
           "relabelled", "residuals", "robust_channels", "scene_response", "tile_projections", "usefulness",
           "wrong_labels"]
