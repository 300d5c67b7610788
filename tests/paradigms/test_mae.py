"""Masked autoencoders: exact inverses, the loss on hidden patches only, and no image depending on another."""

import pytest
import torch
from torch import Tensor

from nbutils import training
from nbutils.images import ImageSet, load
from nbutils.paradigms import MAE, Masked, Reconstruct, untrained
from nbutils.paradigms.mae import (
    MaskedEncoder,
    masked_error,
    patchify,
    positions,
    random_order,
    unpatchify,
    visible_patches,
)

TINY = MAE(patch=8, width=16, depth=1, decoder_width=16, heads=2)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("planted", "train", 40)


@pytest.fixture
def model() -> MaskedEncoder:
    model = untrained(TINY)
    assert isinstance(model, MaskedEncoder)
    return model


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- patches and masks --------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("size", "patch", "channels"), [(32, 4, 3), (32, 1, 3), (32, 32, 3), (12, 3, 1)])
def test_patches_and_images_are_exact_inverses(size: int, patch: int, channels: int) -> None:
    x = torch.rand(2, channels, size, size)
    patches = patchify(x, patch)
    assert patches.shape == (2, (size // patch) ** 2, patch * patch * channels)
    assert torch.equal(unpatchify(patches, patch), x)
    assert torch.equal(patchify(unpatchify(patches, patch), patch), patches)
    assert torch.equal(patchify(x.contiguous(memory_format=torch.channels_last), patch), patches)


def test_a_patch_holds_the_pixels_of_its_square() -> None:
    x = torch.rand(1, 3, 8, 8)
    patches = patchify(x, 4)
    assert torch.equal(patches[0, 1], x[0, :, :4, 4:].permute(1, 2, 0).flatten())  # first row, second column
    assert torch.equal(patches[0, 2], x[0, :, 4:, :4].permute(1, 2, 0).flatten())


def test_masks_hide_three_quarters_uniformly() -> None:
    assert [visible_patches(count, 0.75) for count in (64, 16, 4, 1)] == [16, 4, 1, 1]
    order = random_order(4000, 16, seeded())
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(4000, -1))
    seen = order[:, :4].flatten().bincount(minlength=16).double() / 4000
    torch.testing.assert_close(seen, torch.full((16,), 0.25, dtype=torch.float64), rtol=0, atol=0.03)


def test_positions_differ_and_row_and_column_play_the_same_part() -> None:
    where = positions(8, 16).view(8, 8, 16)
    assert torch.equal(where[2, 5, :8], where[5, 2, 8:])
    assert len(torch.unique(where.view(64, 16), dim=0)) == 64
    assert where[0, 1, :2].tolist() == pytest.approx([torch.tensor(1.0).sin().item(), torch.tensor(0.1).sin().item()])


def test_the_masked_view_keeps_whole_patches(images: ImageSet) -> None:
    view = Masked(4)(images.x, seeded())
    patches, before = patchify(view, 4), patchify(images.x, 4)
    kept = (patches == before).all(2)
    assert torch.equal(kept.sum(1), torch.full((40,), 16))
    assert (patches[~kept] == 0.5).all()


def test_the_masked_view_takes_images_of_any_height_and_width() -> None:
    x = 0.1 + 0.3 * torch.rand(2, 3, 21, 30, generator=seeded())
    view = Masked(4)(x, seeded())
    assert view.shape == x.shape
    assert (((view == x) | (view == 0.5)).all(1)).all()


# --- the loss -----------------------------------------------------------------------------------------------------

def test_the_loss_is_the_mean_square_on_hidden_patches(model: MaskedEncoder, images: ImageSet) -> None:
    x = images.x[:5]
    patches, order = model.patches(x), random_order(5, 16, seeded(4))
    predicted = model.reconstruct(patches, order, 4)
    errors = [(predicted[i, j] - patches[i, j]).square().mean() for i in range(5) for j in order[i, 4:].tolist()]
    torch.testing.assert_close(TINY(model, x, images.y[:5], seeded(4)), torch.stack(errors).mean())


def test_the_prediction_depends_on_visible_patches_only(model: MaskedEncoder, images: ImageSet) -> None:
    order = random_order(2, 16, seeded())
    patches = model.patches(images.x[:2])
    changed = patches.clone()
    changed[0, order[0, 4:]] = 7.0
    predicted = model.reconstruct(patches, order, 4)
    assert torch.equal(model.reconstruct(changed, order, 4), predicted)
    changed[0, order[0, 0]] = 7.0
    assert not torch.equal(model.reconstruct(changed, order, 4)[0], predicted[0])
    torch.testing.assert_close(model.reconstruct(changed, order, 4)[1], predicted[1])


def test_the_loss_has_no_gradient_for_visible_targets(model: MaskedEncoder, images: ImageSet) -> None:
    target = model.patches(images.x[:3]).requires_grad_()
    masked_error(model, images.x[:3], target, 0.75, seeded(2)).sum().backward()
    order = random_order(3, 16, seeded(2))
    assert target.grad is not None
    touched = (target.grad != 0).any(2)
    for i in range(3):
        assert set(touched[i].nonzero()[:, 0].tolist()) == set(order[i, 4:].tolist())


def test_the_order_of_visible_patches_does_not_matter(model: MaskedEncoder, images: ImageSet) -> None:
    """Position tells patches apart, not their place in the sequence."""
    order = random_order(3, 16, seeded())
    shuffled = torch.cat([order[:, :4].flip(1), order[:, 4:].flip(1)], 1)
    patches = model.patches(images.x[:3])
    torch.testing.assert_close(model.reconstruct(patches, order, 4), model.reconstruct(patches, shuffled, 4))


def test_hidden_patches_are_told_apart_by_their_positions_alone(model: MaskedEncoder, images: ImageSet) -> None:
    order = random_order(1, 16, seeded())
    predicted = model.reconstruct(model.patches(images.x[:1]), order, 4)[0, order[0, 4:]]
    assert (torch.cdist(predicted, predicted) + torch.eye(12)).min() > 0.01


def test_masked_learning_lowers_its_loss(images: ImageSet) -> None:
    paradigm = MAE()
    history = training.fit(untrained(paradigm), images, paradigm,  # type: ignore[arg-type]
                           training.Schedule(12, batch_size=20, peak_rate=0.05))
    assert history[-1] < 0.6 * history[0], history


# --- features -----------------------------------------------------------------------------------------------------

def test_features_are_those_of_the_cls_token_over_all_patches(model: MaskedEncoder, images: ImageSet) -> None:
    x = images.x[:3]
    everything = torch.arange(16).expand(3, -1)
    assert torch.equal(model.features(x), model.tokens(model.patches(x), everything)[:, 0])


# --- sets made by this paradigm -----------------------------------------------------------------------------------

def test_reconstruct_is_the_error_of_recovering_another_image(model: MaskedEncoder, images: ImageSet) -> None:
    x, other = images.x[:4], images.x[4:8]
    loss = Reconstruct()(model, x, seeded(5))
    found: Tensor = loss(other)
    order = random_order(4, 16, seeded(5))
    predicted = model.reconstruct(model.patches(other), order, 4)
    wanted = [torch.stack([(predicted[i, j] - model.patches(x)[i, j]).square().mean()
                           for j in order[i, 4:].tolist()]).mean() for i in range(4)]
    torch.testing.assert_close(found, torch.stack(wanted))
    assert not torch.equal(loss(other), found)  # new masks
