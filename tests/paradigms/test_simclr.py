"""Contrastive learning: NT-Xent against a double loop, the law and the gradients of the augmentation, the attack."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from nbutils import training
from nbutils.images import ImageSet, load
from nbutils.paradigms import Alignment, Augmentation, InfoNCE, SimCLR, nt_xent, untrained
from nbutils.paradigms.simclr import TRIES, crop_boxes, grey, resize_weights, rotate_hue
from nbutils.robustness import PGD, ThreatModel

OFF = Augmentation((1, 1), 0, 0, 0, 0, 0, 0, 0)
LINF = ThreatModel("Linf", 8 / 255)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("planted", "train", 40)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the loss -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("temperature", [0.5, 0.07, 0.007])
def test_nt_xent_is_a_double_loop(temperature: float, generator: torch.Generator) -> None:
    z = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    unit = [row / row.square().sum().sqrt() for row in z]
    total = 0.0
    for i in range(12):
        partner = i + 6 if i < 6 else i - 6
        terms = [(unit[i] @ unit[k]).item() / temperature for k in range(12) if k != i]
        largest = max(terms)
        total += largest + math.log(sum(math.exp(term - largest) for term in terms))
        total -= (unit[i] @ unit[partner]).item() / temperature
    assert nt_xent(z, temperature).item() == pytest.approx(total / 12, rel=1e-12)


def test_nt_xent_has_known_values() -> None:
    """Equal partners and orthogonal pairs: log(1 + (2B - 2) exp(-1 / t)); all views equal: log(2B - 1)."""
    pairs = torch.eye(4, dtype=torch.float64).repeat(2, 1)
    assert nt_xent(3 * pairs, 0.5).item() == pytest.approx(math.log(1 + 6 * math.exp(-2)), rel=1e-12)
    assert nt_xent(torch.ones(8, 3, dtype=torch.float64), 0.1).item() == pytest.approx(math.log(7), rel=1e-12)


def test_nt_xent_passes_gradcheck(generator: torch.Generator) -> None:
    z = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: nt_xent(z, 0.5), z)


# --- the augmentation ---------------------------------------------------------------------------------------------

def test_augmentation_of_no_strength_is_the_identity(images: ImageSet) -> None:
    assert torch.equal(OFF(images.x, seeded()), images.x)


def test_jitter_of_no_strength_changes_only_by_rounding(images: ImageSet) -> None:
    torch.testing.assert_close(replace(OFF, jitter=1)(images.x, seeded()), images.x, rtol=0, atol=1e-6)


def test_views_keep_size_and_range_and_depend_on_the_seed_alone(images: ImageSet) -> None:
    state = torch.get_rng_state()
    view = Augmentation()
    one, again, other = view(images.x, seeded(1)), view(images.x, seeded(1)), view(images.x, seeded(2))
    assert one.shape == images.x.shape
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    distinct = view(images.x[:1].expand(40, -1, -1, -1), seeded())
    assert len(torch.unique(distinct.flatten(1), dim=0)) == 40  # parameters are drawn for each image
    wide = torch.rand(3, 3, 8, 20)
    assert view(wide, seeded()).shape == wide.shape


def test_augmentation_passes_gradcheck() -> None:
    """In float64, at pixels where no channel ties and nothing is cut off."""
    for seed in range(3):
        x = (0.4 + 0.2 * torch.rand(3, 3, 4, 4, generator=seeded(seed), dtype=torch.float64)).requires_grad_()
        view = Augmentation(jitter=1, grey=0.3)
        assert torch.autograd.gradcheck(lambda x, v=view, s=seed: v(x, seeded(s)), x)


@pytest.mark.parametrize("change", ["flip", "grey"])
def test_flip_and_grey_happen_as_often_as_told(change: str) -> None:
    x = torch.rand(1, 3, 4, 4, generator=seeded()).expand(4000, -1, -1, -1)
    view = replace(OFF, **{change: 0.3})
    changed = (view(x, seeded(1)) != x).flatten(1).any(1)
    wanted = x[0].flip(2) if change == "flip" else grey(x[:1])[0].expand(3, -1, -1)
    assert torch.equal(view(x, seeded(1))[changed][0], wanted)
    assert changed.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))


def test_jitter_happens_as_often_as_told_and_its_factors_are_uniform() -> None:
    """Half-grey images of brightness factor f have the value f / 2."""
    x = torch.full((4000, 3, 4, 4), 0.5, dtype=torch.float64)
    view = replace(OFF, brightness=0.4, jitter=0.3)(x, seeded(1))
    assert torch.equal(view, view[:, :1, :1, :1].expand_as(view))
    factor = 2 * view[:, 0, 0, 0]
    changed = factor != 1
    assert changed.double().mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 4000))
    assert stats.kstest(factor[changed], "uniform", (0.6, 0.8)).pvalue > 1e-3


@pytest.mark.parametrize(("change", "strength"), [("contrast", 0.4), ("saturation", 0.4), ("hue", 0.1)])
def test_each_change_of_colour_has_its_own_strength(change: str, strength: float, generator: torch.Generator) -> None:
    """What a change must leave alone stays; the most extreme of 500 draws is near the strength."""
    x = (0.4 + 0.2 * torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64)).expand(500, -1, -1, -1)
    view = replace(OFF, **{change: strength, "jitter": 1})(x, seeded())
    if change == "hue":
        torch.testing.assert_close(view.amax(1), x.amax(1))
        largest = rotate_hue(x[:1], torch.tensor([strength]))
        assert (view - largest).abs().amax((1, 2, 3)).min() < 0.01
        return
    level = grey(x)
    torch.testing.assert_close(grey(view).mean((2, 3)), level.mean((2, 3)))  # contrast and saturation keep the mean
    spread = (grey(view) if change == "contrast" else view - grey(view)).std((1, 2, 3))
    before = (level if change == "contrast" else x - level).std((1, 2, 3))
    assert (spread / before).max().item() == pytest.approx(1 + strength, abs=0.01)
    assert (spread / before).min().item() == pytest.approx(1 - strength, abs=0.01)


def test_contrast_keeps_the_mean_grey_level_of_each_image(generator: torch.Generator) -> None:
    x = 0.3 + 0.1 * torch.arange(4.0).view(-1, 1, 1, 1) + 0.1 * torch.rand(4, 3, 4, 4, generator=generator)
    view = replace(OFF, contrast=0.4, jitter=1)(x, seeded())
    assert not torch.allclose(view, x, atol=1e-3)
    torch.testing.assert_close(grey(view).mean((1, 2, 3)), grey(x).mean((1, 2, 3)))


def test_crops_follow_their_law() -> None:
    """Area uniform in [.2, 1] and width / height log-uniform in [3/4, 4/3], given that the crop fits; place uniform."""
    side, n = 4000, 20000
    top, left, height, width = crop_boxes(n, side, side, (0.2, 1.0), seeded())
    assert (torch.stack([top, left]) >= 0).all()
    assert ((top + height <= side) & (left + width <= side)).all()
    generator = seeded(1)
    area = 0.2 + 0.8 * torch.rand(200_000, generator=generator, dtype=torch.float64)
    ratio = torch.exp(math.log(4 / 3) * (2 * torch.rand(200_000, generator=generator, dtype=torch.float64) - 1))
    fits = (area * ratio <= 1) & (area / ratio <= 1)
    assert stats.ks_2samp(height * width / side**2, area[fits]).pvalue > 1e-3
    assert stats.ks_2samp(width / height, ratio[fits]).pvalue > 1e-3
    small = height < 0.9 * side
    assert stats.kstest((top[small] + 0.5) / (side - height[small] + 1), "uniform").pvalue > 1e-3
    # below 9/16 of the area every shape fits, so none is lost there
    low = (area < 0.5625).double().mean() / fits.double().mean()
    assert (height * width < 0.5625 * side**2).double().mean().item() == pytest.approx(low.item(), abs=0.015)


def test_crops_reach_every_side() -> None:
    boxes = crop_boxes(500, 8, 8, (0.25, 0.5), seeded())
    starts, ends = boxes[:2], boxes[:2] + boxes[2:]
    assert (starts.amin(1) == 0).all()
    assert (ends.amax(1) == 8).all()


def test_a_crop_that_never_fits_is_the_whole_image() -> None:
    """With all of the area only the square fits, and no draw is exactly square."""
    boxes = crop_boxes(50, 1000, 1000, (1.0, 1.0), seeded())
    assert TRIES == 10
    assert torch.equal(boxes, torch.tensor([[0.0], [0], [1000], [1000]], dtype=torch.float64).expand(-1, 50))


def test_resizing_a_crop_is_bilinear_interpolation(images: ImageSet) -> None:
    top, left, height, width = crop_boxes(40, 32, 32, (0.2, 1.0), seeded())
    flat = torch.zeros(40, dtype=torch.bool)
    down, across = resize_weights(top, height, 32, flat), resize_weights(left, width, 32, flat)
    torch.testing.assert_close(down.sum(2), torch.ones_like(down[:, 0]))
    found = down[:, None] @ images.x.double() @ across.mT[:, None]
    for i in range(40):
        y0, x0, h, w = (int(part[i]) for part in (top, left, height, width))
        crop = images.x[i:i + 1, :, y0:y0 + h, x0:x0 + w].double()
        wanted = F.interpolate(crop, size=(32, 32), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found[i:i + 1], wanted, rtol=0, atol=1e-12)


def test_hue_turns_around_the_colour_circle(generator: torch.Generator) -> None:
    red, green, blue = torch.eye(3, dtype=torch.float64)[:, :, None, None].unbind(0)
    third = torch.tensor([1 / 3], dtype=torch.float64)
    torch.testing.assert_close(rotate_hue(red[None], third), green[None])
    torch.testing.assert_close(rotate_hue(green[None], third), blue[None])
    torch.testing.assert_close(rotate_hue(blue[None], third), red[None])
    x = torch.rand(10, 3, 4, 4, generator=generator, dtype=torch.float64)
    turn = torch.rand(10, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(rotate_hue(rotate_hue(x, turn), -turn), x)
    torch.testing.assert_close(rotate_hue(x, turn).amax(1), x.amax(1))  # value and chroma stay
    torch.testing.assert_close(rotate_hue(x, turn).amin(1), x.amin(1))
    level = x[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(rotate_hue(level, turn), level)


# --- encoder and objective ----------------------------------------------------------------------------------------

def test_the_feature_is_the_pooled_layer_and_the_projector_has_its_widths(images: ImageSet) -> None:
    model = untrained(SimCLR(projector=(32, 16, 8)))
    with torch.no_grad():
        assert model.features(images.x).shape == (40, model.width) == (40, 96)
        assert model.project(images.x).shape == (40, 8)  # type: ignore[operator]
    linear = [(layer.in_features, layer.out_features) for layer in model.projector  # type: ignore[union-attr]
              if isinstance(layer, nn.Linear)]
    assert linear == [(96, 32), (32, 16), (16, 8)]
    assert [parameter.shape for parameter in untrained(SimCLR("resnet18")).projector.parameters()  # type: ignore
            if parameter.ndim == 2] == [(512, 512), (256, 512)]


def test_objective_is_nt_xent_of_two_views(images: ImageSet) -> None:
    paradigm = SimCLR(temperature=0.2)
    model = untrained(paradigm)
    generator = seeded(3)
    views = torch.cat([paradigm.view(images.x, generator), paradigm.view(images.x, generator)])
    wanted = nt_xent(model.project(views), 0.2)  # type: ignore[operator]
    torch.testing.assert_close(paradigm(model, images.x, images.y, seeded(3)), wanted)


def test_attacked_views_are_harder_and_the_model_is_left_in_training(images: ImageSet) -> None:
    plain, robust = SimCLR(), SimCLR(attack=PGD(LINF, 3, keep_best=False))
    model = untrained(plain)
    training.fit(model, images, plain, training.Schedule(8, batch_size=20, peak_rate=0.1))  # type: ignore[arg-type]
    assert robust(model, images.x, images.y, seeded()) > plain(model, images.x, images.y, seeded()) + 0.05
    model.train()
    modes: list[tuple[bool, int]] = []
    model.backbone.stages.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, inputs: modes.append((module.training, len(inputs[0]))))
    robust(model, images.x, images.y, seeded()).backward()
    assert modes == [(False, 80)] * 3 + [(True, 80)]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_attack_follows_the_gradient_of_nt_xent(images: ImageSet) -> None:
    """One step of length eps from the images themselves, against the gradient of the loss written out."""
    attack = PGD(LINF, 1, LINF.eps, random_start=False, keep_best=False)
    model = untrained(SimCLR())
    seen: list[Tensor] = []
    model.backbone.stages.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    SimCLR(view=OFF, attack=attack)(model, images.x, images.y, seeded())
    x = torch.cat([images.x, images.x]).requires_grad_()
    (gradient,) = torch.autograd.grad(nt_xent(model.project(x), 0.5), x)  # type: ignore[operator]
    wanted = (x + LINF.eps * gradient.sign()).clamp(0, 1)
    different = ((seen[1] - wanted).abs() > 1e-6) & (gradient.abs() > 1e-9)  # rounding may turn a tiny gradient
    assert different.double().mean() < 1e-3


def test_contrastive_learning_lowers_its_loss(images: ImageSet) -> None:
    for attack in (None, PGD(LINF, 1, keep_best=False)):
        model = untrained(SimCLR(attack=attack))
        history = training.fit(model, images, SimCLR(attack=attack),  # type: ignore[arg-type]
                               training.Schedule(12, batch_size=20, peak_rate=0.1))
        assert history[-1] < history[0] - 0.2, history
        assert not model.training


# --- InfoNCE as something to attack -------------------------------------------------------------------------------

def test_infonce_is_cross_entropy_against_clean_partners(images: ImageSet) -> None:
    model, x = untrained(SimCLR()), images.x[:6]
    for projector in (True, False):
        classifier = InfoNCE(model, x, temperature=0.3, projector=projector)  # type: ignore[arg-type]
        z = F.normalize((model.project if projector else model.features)(x))  # type: ignore[operator]
        torch.testing.assert_close(classifier(x), z @ z.T / 0.3)
    part = classifier(x[2:3])
    torch.testing.assert_close(part, classifier(x)[2:3])  # row by row


def test_infonce_draws_a_view_for_the_partners_and_new_ones_in_each_pass(images: ImageSet) -> None:
    model, x, view = untrained(SimCLR()).train(), images.x[:6], Augmentation()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    classifier = InfoNCE(model, x, view=view, passes=2, seed=4)  # type: ignore[arg-type]
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    draws = seeded(4)
    partners, *passes = (F.normalize(model.project(view(x, draws))) for _ in range(3))  # type: ignore[operator]
    torch.testing.assert_close(classifier(x), (passes[0] + passes[1]) / 2 @ partners.T / 0.5)
    assert not torch.equal(classifier(x), classifier(x))


def test_an_attack_on_infonce_goes_through_the_augmentation(images: ImageSet) -> None:
    model, x = untrained(SimCLR()), images.x[:10]
    classifier = InfoNCE(model, x, view=Augmentation(), passes=3)  # type: ignore[arg-type]
    y = torch.arange(10)
    calls: list[int] = []
    model.backbone.stages.register_forward_pre_hook(lambda module, inputs: calls.append(1))  # type: ignore[union-attr]
    x_adv = PGD(LINF, 5, keep_best=False)(classifier, x, y, seeded())
    assert len(calls) == 15
    assert LINF.distance(x_adv - x).max() <= LINF.eps + 1e-6
    plain = InfoNCE(model, x)  # type: ignore[arg-type]
    harm = [F.cross_entropy(plain(images), y) for images in (x, x_adv)]
    assert harm[1] > harm[0]


def test_an_attack_on_alignment_moves_the_features(images: ImageSet) -> None:
    model, x, y = untrained(SimCLR()), images.x[:10], torch.zeros(10, dtype=torch.int64)
    distance = Alignment(model, x)
    assert (distance(x) == 0).all()
    x_adv = PGD(LINF, 10, loss="margin")(distance, x, y, seeded())
    noisy = LINF.random_start(x, seeded())
    moved = [(model.features(images) - model.features(x)).norm(dim=1) for images in (noisy, x_adv)]
    torch.testing.assert_close(distance(x_adv)[:, 0], -moved[1])
    assert (moved[1] > 2 * moved[0]).all()
