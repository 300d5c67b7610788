"""Features: what is useful, what is robust, and how to tell."""

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

__all__ = ["LinearFeature", "OneAgainstRest", "class_weights", "least_squares", "matched_filter",
           "population_usefulness", "scene_response", "tile_projections", "usefulness"]
