"""Features: what is useful, what is robust, and how to tell."""

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

__all__ = ["D_NR", "D_R", "ConstructedSet", "D_det", "D_rand", "FeatureDistance", "LinearFeature", "OneAgainstRest",
           "class_weights", "export", "least_squares", "matched", "matched_filter", "population_usefulness", "read",
           "relabelled", "residuals", "scene_response", "tile_projections", "usefulness"]
