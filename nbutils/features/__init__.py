"""Features: what is useful, what is robust, and how to tell."""

from nbutils.features.bottleneck import (
    Bottleneck,
    another_of_class,
    channel_energy,
    closed_form_masks,
    distill,
    features_at,
    global_mask,
    last_cut,
    loud_half,
    masked,
    masked_logits,
    masked_predictions,
    own_answers,
    parts,
    random_masks,
    robust_channels,
    untrained,
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
from nbutils.features.spectrum import energy_shares
from nbutils.features.usefulness import (
    LinearFeature,
    OneFeature,
    channel_usefulness,
    class_weights,
    matched_filter,
    population_usefulness,
    robust_channel_usefulness,
    scene_response,
    tile_projections,
    usefulness,
    variance_explained,
)
from nbutils.features.visualize import PictureSearch, activation_maximum, invert
