"""The bottleneck against equations 3 to 5 line by line, what a mask may depend on, and what its label leaks.

Comparisons are in float64, where sigma (about .01 to 5) agrees to 1e-6 or better and masks are equal.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from nbutils import networks
from nbutils.features import (
    Bottleneck,
    another_of_class,
    bottleneck,
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
from nbutils.images import PlantedSet, PlantedWorld
from nbutils.networks import GlobalAveragePool, SplitClassifier, in_batches
from nbutils.robustness import predict
from tests.helpers import assert_one_line

SHORT = Bottleneck(iterations=30)


def random_network(name: str, size: int = 32) -> SplitClassifier:
    """In float64, with BatchNorms that are far from the identity, some of them negative."""
    model = networks.build(name, seed=3, image_size=size).double().eval()
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.2, 2, generator=generator)  # type: ignore[union-attr, operator]
            nn.init.normal_(module.weight, 0.7, 0.6, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return model


def unrectified() -> SplitClassifier:
    torch.manual_seed(0)
    stages: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(3, 12, 5, 4), pool=GlobalAveragePool(),
                                                      linear=nn.Linear(12, 10, bias=False))
    return SplitClassifier(stages, "no ReLU").double()


def images(n: int, size: int = 32) -> tuple[Tensor, Tensor]:
    drawn = PlantedWorld().draw(n, seed=2)
    return F.interpolate(drawn.x, size=size).double().clamp(0, 1), drawn.y


def transcription(model: SplitClassifier, x: Tensor, y: Tensor, at: str, settings: Bottleneck) -> tuple[Tensor, Tensor]:
    """Equations 3 to 5 with T over the batch: sigma and mask. KL is that of torch's normal distributions."""
    z = model.features(x, at).detach()
    deviation = torch.stack([torch.stack([channel.std() for channel in image]) for image in z])
    draws = [torch.randn(settings.iterations, z.shape[1], generator=torch.Generator().manual_seed(seed)).double()
             for seed in bottleneck.image_seeds(x, settings.seed)]
    lambda_ = torch.zeros_like(deviation, requires_grad=True)
    optimizer = torch.optim.Adam([lambda_], lr=settings.rate)
    for step in range(settings.iterations):
        sigma = (1 + lambda_.exp()).log()
        epsilon = torch.stack([own[step] for own in draws])
        loss = F.cross_entropy(model.logits_from(z + (sigma * epsilon)[:, :, None, None], at), y, reduction="sum")
        kl = kl_divergence(Normal(0.0, deviation), Normal(0.0, sigma))
        loss = loss + settings.beta * (kl.mean(1) if settings.kl == "mean" else kl.sum(1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sigma = (1 + lambda_.detach().exp()).log()
    return sigma, sigma**2 > (deviation**2).max()


CUTS: list[tuple[str, str, int, Bottleneck]] = [
    ("small", "block4.bn", 32, Bottleneck()),  # ReLU, mean over 4
    ("small", "block4.conv", 32, SHORT),  # BatchNorm first
    ("small", "block4.bn", 32, replace(SHORT, kl="sum", beta=0.01)),
    ("vgg_small", "block4.bn1", 32, Bottleneck()),  # ReLU, max-pool, mean over 4
    ("vgg_small", "block4.relu1", 16, replace(SHORT, beta=1.0, rate=0.05)),  # max-pool to one position
    ("wrn_small", "group3.block1", 64, SHORT),  # BatchNorm, ReLU, mean over 64
    ("wrn_small", "bn", 64, SHORT),
    ("no ReLU", "conv", 32, SHORT),
    ("small", "block3.bn", 32, SHORT),  # a convolution follows
    ("small", "block1.conv", 32, replace(SHORT, iterations=10)),
]
cuts = pytest.mark.parametrize(("name", "at", "size", "settings"), CUTS, ids=lambda value: str(value)[:20])


def network(name: str, size: int) -> SplitClassifier:
    return unrectified() if name == "no ReLU" else random_network(name, size)


@cuts
def test_equals_the_equations_line_by_line(name: str, at: str, size: int, settings: Bottleneck) -> None:
    model, (x, y) = network(name, size), images(6, size)
    if "relu" in at:  # a dead channel has no logarithm of its variance, so the lines themselves are not finite
        model.stages[model.cuts.index(at) - 1].bias.data.fill_(5)
    found = distill(model, x, y, at, replace(settings, threshold="batch"))
    sigma, robust = transcription(model, x, y, at, settings)
    torch.testing.assert_close(found.sigma, sigma, rtol=0, atol=1e-6)
    assert torch.equal(found.robust, robust)
    assert 0 < robust.double().mean() < 1 or name == "no ReLU"
    torch.testing.assert_close(found.variance, model.features(x, at).detach().var((2, 3)), rtol=0, atol=1e-12)


@cuts
def test_pooled_features_and_autograd_agree(name: str, at: str, size: int, settings: Bottleneck,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-9: only the order of sums differs."""
    model, (x, y) = network(name, size), images(6, size)
    chosen = distill(model, x, y, at, settings)
    monkeypatch.setattr(bottleneck, "_pooled", lambda *arguments: None)
    general = distill(model, x, y, at, settings)
    torch.testing.assert_close(chosen.sigma, general.sigma, rtol=0, atol=1e-9)
    assert torch.equal(chosen.robust, general.robust)


@pytest.mark.parametrize(("name", "pooled"), [
    ("small", ["block4.conv", "block4.bn", "block4.relu"]),
    ("vgg_small", ["block4.conv1", "block4.bn1", "block4.relu1", "block4.pool"]),
    ("wrn_small", ["group3.block1", "bn", "relu"]),
])
def test_where_pooled_features_are_enough(name: str, pooled: list[str]) -> None:
    model, x = networks.build(name).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert [at for at in model.cuts[:-2] if bottleneck._pooled(model, model.features(x, at), at)] == pooled


@pytest.mark.parametrize(("name", "cut"), [("small", "block4.bn"), ("vgg_small", "block4.bn1"),
                                           ("vgg_deep", "block4.bn2"), ("vgg16", "block5.bn3"), ("wrn_small", "bn")])
def test_the_last_cut_is_followed_by_relu(name: str, cut: str) -> None:
    model = networks.build(name)
    assert last_cut(model) == cut
    assert isinstance(model.stages[model.cuts.index(cut) + 1], nn.ReLU)


def test_float32_makes_the_same_masks() -> None:
    """Rounding may move a channel across T, so one in a thousand may differ; between noise seeds one in ten does."""
    model, (x, y) = random_network("vgg_small"), images(40)
    double, single = (distill(model.to(kind), x.to(kind), y, "block4.bn1") for kind in (torch.float64, torch.float32))
    assert single.sigma.dtype == torch.float32
    assert (single.robust != double.robust).double().mean() <= 1e-3
    torch.testing.assert_close(single.sigma.double(), double.sigma, rtol=0, atol=1e-2)
    other = distill(model, x.float(), y, "block4.bn1", Bottleneck(seed=1))
    assert 0.02 < (single.robust != other.robust).double().mean() < 0.3


# --- what a mask may depend on ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("at", ["block4.bn", "block3.bn"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_mask_is_the_same_in_every_company(at: str, batch_size: int) -> None:
    model, (x, y) = random_network("small"), images(9)
    whole = distill(model, x, y, at, SHORT)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))[:7]
    again = distill(model, x[order], y[order], at, SHORT, batch_size=batch_size)
    torch.testing.assert_close(again.sigma, whole.sigma[order], rtol=0, atol=1e-9)
    assert torch.equal(again.robust, whole.robust[order])


@pytest.mark.parametrize("at", ["block4.bn", "block3.bn"])  # in closed form, and by autograd
def test_a_certain_distribution_is_a_label(at: str) -> None:
    model, (x, y) = random_network("small"), images(6)
    told = distill(model, x, y, at, SHORT)
    for certain in (F.one_hot(y, 10).double(), F.one_hot(y, 10).float()):
        found = distill(model, x, certain, at, SHORT)
        torch.testing.assert_close(found.sigma, told.sigma, rtol=0, atol=1e-12)
        assert torch.equal(found.robust, told.robust)
        assert torch.equal(found.labels, certain)


@pytest.mark.parametrize("at", ["block4.bn", "block3.bn"])
def test_told_probabilities_it_still_equals_the_equations(at: str) -> None:
    model, (x, _) = random_network("small"), images(4)
    wanted = own_answers(model, x.flip(0))
    found = distill(model, x, wanted, at, replace(SHORT, threshold="batch"))
    sigma, robust = transcription(model, x, wanted, at, SHORT)
    torch.testing.assert_close(found.sigma, sigma, rtol=0, atol=1e-6)
    assert torch.equal(found.robust, robust)


def test_own_answers_ask_for_the_divergence_from_the_clean_prediction() -> None:
    """Cross-entropy against p has the gradient of KL(p || p of the shifted features), which is 0 without a shift."""
    model, (x, _) = random_network("small"), images(5)
    answers, at = own_answers(model, x), "block4.bn"
    torch.testing.assert_close(answers, model(x).detach().softmax(1), rtol=0, atol=1e-12)
    z = model.features(x, at).detach()
    levels, scale, last = bottleneck._pooled(model, z, at) or pytest.fail("not pooled")
    slope = bottleneck._in_closed_form(levels.detach(), last, answers)
    shift = torch.zeros(z.shape[:2], dtype=z.dtype)
    assert slope(shift * scale).abs().max() < 1e-12
    shift.normal_(generator=torch.Generator().manual_seed(0)).requires_grad_()
    shifted = model.logits_from(z + shift[..., None, None], at).log_softmax(1)
    F.kl_div(shifted, answers, reduction="sum").backward()
    torch.testing.assert_close(slope(shift.detach() * scale) * scale, shift.grad, rtol=0, atol=1e-12)


def test_told_no_label_hardly_a_channel_is_called_robust() -> None:
    """Loud noise that passes T is noise that speaks for the label."""
    model, (x, y) = random_network("small"), images(40)
    untold, told = (distill(model, x, wanted, "block4.bn").robust.sum() for wanted in (own_answers(model, x), y))
    assert untold < 0.5 * told


def test_the_released_threshold_depends_on_the_company() -> None:
    model, (x, y) = random_network("small"), images(30)
    counts = [distill(model, x, y, "block4.bn", replace(SHORT, threshold="batch"), batch_size=size).robust.sum()
              for size in (1, 5, 30)]
    assert counts[0] > counts[1] > counts[2]
    alone = distill(model, x, y, "block4.bn", SHORT)
    assert counts[0] == alone.robust.sum()


def test_thresholds_by_hand() -> None:
    sigma = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, 2.5]])
    variance = torch.tensor([[1.5, 0.5, 4.0], [0.2, 0.3, 0.1]])
    expected = {"image": [[False, False, True], [False, False, True]],
                "batch": [[False, False, True], [False, False, True]],
                "channel": [[False, True, True], [True, False, True]]}
    for threshold, mask in expected.items():
        assert robust_channels(sigma, variance, threshold).tolist() == mask
    sigma[1, 2] = 1.9  # above its own maximum of .3, below the batch's of 4
    assert robust_channels(sigma, variance, "image")[1].tolist() == [False, False, True]
    assert robust_channels(sigma, variance, "batch")[1].tolist() == [False, False, False]


def test_without_a_prediction_sigma_is_the_deviation() -> None:
    """A head that does not look leaves KL alone, whose minimum is sigma^2 = variance."""
    model, (x, y) = random_network("small"), images(3)
    nn.init.zeros_(model.stages[-1].weight)  # type: ignore[arg-type]
    found = distill(model, x, y, "block4.bn", Bottleneck(iterations=1500, rate=0.02))
    torch.testing.assert_close(found.sigma.square(), found.variance, rtol=1e-2, atol=1e-4)


def test_constant_channels_are_no_trouble() -> None:
    model, (x, y) = random_network("small"), images(8)
    found = distill(model, x, y, "block4.relu")
    dead = found.variance == 0
    assert dead.any()
    assert torch.isfinite(found.sigma).all()


@pytest.mark.parametrize("at", ["block4.bn", "block3.bn"])
def test_model_and_random_state_are_left_as_they_were(at: str) -> None:
    model, (x, y) = random_network("small").train(), images(4)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    distill(model, x, y, at, SHORT)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


# --- masks at work ----------------------------------------------------------------------------------------------------

def test_the_parts_add_up_exactly(generator: torch.Generator) -> None:
    z = torch.randn(4, 6, 3, 3, generator=generator)
    for mask in (torch.rand(4, 6, generator=generator) < 0.5, torch.rand(6, generator=generator) < 0.5):
        robust, rest = parts(z, mask)
        assert torch.equal(robust + rest, z)
        assert ((robust != 0).flatten(2).any(2) == mask.expand(4, 6)).all()


@pytest.mark.parametrize("name", ["small", "vgg_small", "wrn_small"])
def test_the_last_layer_reads_masked_pooled_features(name: str, generator: torch.Generator) -> None:
    model, (x, _) = random_network(name), images(7)
    at, pooled = last_cut(model), features_at(model, x, "pool")
    torch.testing.assert_close(pooled, model.features(x, "pool").detach(), rtol=0, atol=1e-12)
    mask = torch.rand(pooled.shape, generator=generator) < 0.4
    torch.testing.assert_close(model.logits_from(pooled * mask, "pool").detach(), masked_logits(model, x, mask, at),
                               rtol=0, atol=1e-12)


def test_batches_are_joined_and_leave_the_model_as_it_was() -> None:
    model, (x, y) = random_network("small").train(), images(7)
    sizes: list[int] = []

    def labelled(part: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(part))
        return model(part) * labels[:, None]

    found = in_batches(labelled, model, x.float(), y, batch_size=3)
    assert sizes == [3, 3, 1]
    assert model.training
    assert not found.requires_grad
    torch.testing.assert_close(found, model.eval()(x.float().double()) * y[:, None], rtol=0, atol=1e-9)


def test_masked_predictions_are_those_of_masked_features(generator: torch.Generator) -> None:
    model, (x, _) = random_network("small"), images(9)
    mask = torch.rand(9, 96, generator=generator) < 0.3
    z = model.features(x, "block3.bn").detach()
    expected = model.logits_from(parts(z, mask)[0], "block3.bn").detach()
    torch.testing.assert_close(masked_logits(model, x, mask, "block3.bn"), expected, rtol=0, atol=1e-9)
    assert torch.equal(masked_predictions(model, x, mask, "block3.bn"), expected.argmax(1))
    everything = torch.ones(96, dtype=torch.bool)
    assert torch.equal(masked_predictions(model, x, everything, "block3.bn"), predict(model, x))
    read, one = masked(mask, "block3.bn"), masked(mask[0], "block3.bn")
    assert torch.equal(read(model, x[:4]), expected[:4].argmax(1))  # fewer images take the first masks
    assert torch.equal(one(model, x), masked_predictions(model, x, mask[:1].expand(9, -1), "block3.bn"))


# --- what the label leaks ---------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def blank() -> tuple[SplitClassifier, PlantedSet]:
    return untrained("vgg_small", PlantedWorld().draw(64, seed=9)), PlantedWorld().draw(100, seed=5)


AT = "block4.bn1"


def test_an_untrained_network_knows_the_statistics_of_images() -> None:
    drawn = PlantedWorld().draw(60, seed=1)
    model = untrained("vgg_small", drawn, seed=4, passes=2, batch_size=30)
    fresh = networks.build("vgg_small", seed=4)
    assert not model.training
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), fresh.parameters(), strict=True))
    z = [features_at(fresh, x, "block1.conv1").var((0, 2, 3)) for x in drawn.x.split(30)]
    bn = model.stages[model.cuts.index("block1.bn1")]
    assert next(untrained("vgg_small", drawn, device="meta").parameters()).device.type == "meta"
    torch.testing.assert_close(bn.running_var, (z[0] + z[1]) / 2, rtol=1e-3, atol=1e-4)
    first = untrained("vgg_small", drawn, seed=4, passes=1, batch_size=30)
    bn = first.stages[first.cuts.index("block1.bn1")]
    torch.testing.assert_close(bn.running_var, z[0], rtol=1e-3, atol=1e-4)


def test_the_robust_part_of_an_untrained_network_knows_the_label(blank: tuple[SplitClassifier, PlantedSet]) -> None:
    """By 40 points above the plain accuracy (about 10 %); and a wrong label in over half of the cases."""
    model, drawn = blank
    plain = (predict(model, drawn.x) == drawn.y).double().mean()
    for labels, least in ((drawn.y, plain + 0.4), (wrong_labels(drawn.y, 10), torch.tensor(0.5))):
        found = distill(model, drawn, labels, AT)
        robust, rest = (masked_predictions(model, drawn, mask, AT) == labels for mask in (found.robust, ~found.robust))
        assert robust.double().mean() > least
        assert rest.double().mean() < 0.1
        random = masked_predictions(model, drawn, random_masks(found.robust, drawn), AT) == labels
        assert random.double().mean() < least - 0.2


def test_masks_resemble_the_closed_form(blank: tuple[SplitClassifier, PlantedSet]) -> None:
    """By ten points more than masks of the same size that favour another class do."""
    model, drawn = blank
    found = distill(model, drawn, drawn.y, AT)
    own, other = ((closed_form_masks(model, drawn, labels, AT, found.robust.sum(1)) == found.robust).double().mean()
                  for labels in (drawn.y, wrong_labels(drawn.y, 10)))
    assert own > other + 0.1
    assert torch.equal(closed_form_masks(model, drawn, drawn.y, AT, found.robust.sum(1)).sum(1), found.robust.sum(1))


def test_the_closed_form_is_the_gradient_in_the_pooled_features() -> None:
    """With BatchNorm after the cut too: its scale belongs to the gradient."""
    model, (x, y) = random_network("wrn_small"), images(5)
    z = model.features(x, "group3.block1").detach()
    with torch.no_grad():
        pooled = (model.stages[-4](z)).mean((2, 3))
    scale = model.stages[-4].weight / (model.stages[-4].running_var + model.stages[-4].eps).sqrt()
    last = model.stages[-1]
    p = model.logits_from(z, "group3.block1").softmax(1)
    favour = (last.weight[y] - p @ last.weight) * scale
    assert pooled.shape == favour.shape
    masks = closed_form_masks(model, x, y, "group3.block1", torch.full((5,), 9))
    certain = F.one_hot(y, 10).double()  # labels as probabilities, in another precision than the model's
    assert torch.equal(closed_form_masks(model, x, certain, "group3.block1", torch.full((5,), 9)), masks)
    for row, mask in zip(favour, masks, strict=True):
        assert set(mask.nonzero()[:, 0].tolist()) == set(row.topk(9).indices.tolist())


# --- controls ---------------------------------------------------------------------------------------------------------

def test_wrong_labels_are_wrong_and_uniform() -> None:
    y = torch.arange(10).repeat(600)
    wrong = wrong_labels(y, 10, seed=3)
    assert (wrong != y).all()
    steps = ((wrong - y) % 10).bincount(minlength=10)
    assert steps[0] == 0
    assert (steps[1:] - 667).abs().max() < 110  # 4.5 standard deviations of 24
    assert torch.equal(wrong, wrong_labels(y, 10, seed=3))


def test_another_of_class_is_another_of_the_class() -> None:
    y = torch.tensor([0, 1, 0, 2, 2, 1, 0, 0, 1])
    other = another_of_class(y)
    assert torch.equal(y[other], y)
    assert (other != torch.arange(9)).all()
    assert sorted(other.tolist()) == list(range(9))


def test_random_masks_have_the_size_and_their_image(generator: torch.Generator) -> None:
    x, robust = images(12)[0], torch.rand(12, 50, generator=generator) < 0.3
    drawn = random_masks(robust, x, seed=4)
    assert torch.equal(drawn.sum(1), robust.sum(1))
    assert torch.equal(random_masks(robust.flip(0), x.flip(0), seed=4), drawn.flip(0))
    assert not torch.equal(random_masks(robust, x, seed=5), drawn)
    assert len({tuple(row.tolist()) for row in drawn}) == 12


def test_random_masks_of_equal_energy_come_as_near_as_one_channel() -> None:
    model, (x, y) = random_network("small"), images(12)
    energy = channel_energy(model, x, "block4.bn")
    torch.testing.assert_close(energy, model.features(x, "block4.bn").detach().square().sum((2, 3)))
    robust = distill(model, x, y, "block4.bn", SHORT).robust
    drawn = random_masks(robust, x, energy=energy)
    gap = ((energy * drawn).sum(1) - (energy * robust).sum(1)).abs()
    assert (gap <= energy.amax(1)).all()
    by_size = ((energy * random_masks(robust, x)).sum(1) - (energy * robust).sum(1)).abs()
    assert gap.mean() < by_size.mean()


def test_random_masks_of_equal_energy_are_the_nearest_of_one_order(generator: torch.Generator) -> None:
    """Masks of all sizes grow in one order per image."""
    (x, _), energy = images(5), torch.rand(5, 12, generator=generator)
    robust = torch.rand(5, 12, generator=generator) < 0.3
    grown = torch.stack([random_masks((torch.arange(12) < size).expand(5, -1), x, 3) for size in range(13)])
    gaps = ((grown * energy).sum(2) - (robust * energy).sum(1)).abs()
    assert torch.equal(random_masks(robust, x, 3, energy), grown[gaps.argmin(0), torch.arange(5)])


def test_a_global_mask_holds_the_channels_that_are_robust_most_often() -> None:
    robust = torch.tensor([[True, True, False], [True, False, False], [True, True, False], [False, False, True]])
    for size, kept in enumerate(([], [0], [0, 1], [0, 1, 2])):  # robust 3, 2 and 1 times
        assert global_mask(robust, size).nonzero()[:, 0].tolist() == kept
        rolled = global_mask(robust.roll(1, 1), size).nonzero()[:, 0].tolist()  # once, 3 times and twice
        assert rolled == sorted((channel + 1) % 3 for channel in kept)


def test_the_loud_half_is_that_of_most_images_whatever_their_scale() -> None:
    sigma = torch.tensor([[4.0, 1, 3, 2], [4, 1, 2, 3], [1, 4, 3, 2]])  # louder halves: 0 2, 0 3, 1 2
    for scale in (torch.ones(3), torch.tensor([0.01, 1, 100])):
        scaled = sigma * scale[:, None]
        found = bottleneck.Distilled(scaled, scaled, scaled > 9e9, torch.zeros(3), "pool", Bottleneck())
        assert loud_half(found).tolist() == [True, False, True, False]


# --- bad input --------------------------------------------------------------------------------------------------------

MODEL, (X, Y), SET = networks.build("small"), images(3), PlantedWorld().draw(3, seed=2)
MASK = torch.ones(96, dtype=torch.bool)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: Bottleneck(beta=-0.1), ("beta = -0.1", ">= 0", "such as 0.3")),
    (lambda: Bottleneck(beta=float("nan")), ("beta = nan", ">= 0")),
    (lambda: Bottleneck(beta=float("inf")), ("beta = inf", "finite")),
    (lambda: Bottleneck(rate=0), ("rate = 0", "> 0", "such as 0.1")),
    (lambda: Bottleneck(iterations=0), ("iterations = 0", ">= 1")),
    (lambda: Bottleneck(iterations=1.5), ("iterations = 1.5", "whole number")),  # type: ignore[arg-type]
    (lambda: Bottleneck(threshold="imge"), ("threshold = 'imge'", "did you mean 'image'")),
    (lambda: Bottleneck(kl="avg mean"), ("kl = 'avg mean'", "did you mean 'mean'")),
    (lambda: robust_channels(torch.ones(1, 1), torch.ones(1, 1), "chanel"), ("'chanel'", "did you mean 'channel'")),
    (lambda: distill(MODEL, X, Y, "block4.b"), ("cut = 'block4.b'", "did you mean 'block4.bn'")),
    (lambda: distill(MODEL, X, Y, "pool"), ("cut = 'pool'", "(96,)", "at least two positions")),
    (lambda: distill(MODEL, X[..., :16, :16], Y, "block4.bn"), ("(96, 1, 1)", "at least two positions")),
    (lambda: distill(MODEL, X, Y + 8, "block4.bn"), ("labels", "to 10", "0 to 9")),
    (lambda: distill(MODEL, X, Y - 5, "block4.bn"), ("labels", "from -5", "0 to 9")),
    (lambda: distill(MODEL, X, Y.double(), "block4.bn"), ("labels torch.float64", "int64")),
    (lambda: distill(MODEL, X, Y[:2], "block4.bn"), ("labels (2,)", "3 images")),
    (lambda: distill(MODEL, X, torch.full((3, 9), 1 / 9), "block4.bn"), ("labels", "(3, 9)", "(3, 10) probabilities")),
    (lambda: distill(MODEL, X, torch.full((3, 10), 0.2), "block4.bn"), ("labels", "sums from 2 to 2", "sum 1")),
    (lambda: distill(MODEL, X, torch.eye(10)[:3] * 2 - 0.1, "block4.bn"), ("the least -0.1", "probabilities")),
    (lambda: closed_form_masks(MODEL, X, torch.full((3, 10), 0.2), "block4.bn", Y), ("sums from 2 to 2", "sum 1")),
    (lambda: distill(MODEL, X[:0], Y[:0], "block4.bn"), ("0 images", "at least one")),
    (lambda: distill(MODEL, X, Y, "block4.bn", batch_size=0), ("batch_size = 0", ">= 1")),
    (lambda: distill(MODEL, X * torch.nan, Y, "block4.bn"), ("pixels from nan", "[0, 1]")),
    (lambda: distill(MODEL, X * 255, Y, "block4.bn"), ("pixels from", "to 2", "expected [0, 1]; the model normalises")),
    (lambda: distill(MODEL, X, None, "block4.bn"), ("labels = None", "torch.Tensor")),  # type: ignore[arg-type]
    (lambda: features_at(MODEL, (X * 255).round().long(), "pool"), ("pixels from", "[0, 1]")),
    (lambda: predict(MODEL, X * 255), ("pixels from", "[0, 1]")),
    (lambda: random_masks(MASK.expand(3, -1), X * 255), ("pixels from", "[0, 1]")),
    (lambda: random_masks(MASK.expand(3, -1) * 0.1, X), ("masks torch.float32", "expected bool")),
    (lambda: global_mask(torch.rand(3, 96), 9), ("masks torch.float32", "expected bool")),
    (lambda: global_mask(MASK.expand(3, -1), 2.5), ("size = 2.5", ">= 0")),  # type: ignore[arg-type]
    (lambda: wrong_labels(Y + 0.5, 10), ("labels torch.float32", "int64")),
    (lambda: wrong_labels(Y, 2), ("labels", "0 to 1")),
    (lambda: closed_form_masks(MODEL, X, Y, "block4.bn", Y[:1]), ("1 masks, labels or sizes for 3 images", "one each")),
    (lambda: untrained("small", SET, device="tpu"), ("device = 'tpu'", "did you mean 'cpu'")),
    (lambda: masked_logits(MODEL, X, MASK[:95], "block4.bn"), ("(3, 95)", "(3, 96)")),
    (lambda: masked_logits(MODEL, X, MASK.expand(2, -1), "block4.bn"), ("2 masks", "for 3 images", "one each")),
    (lambda: masked_logits(MODEL, X, MASK.double(), "block4.bn"), ("float64", "expected bool")),
    (lambda: masked_logits(MODEL, X * torch.nan, MASK, "block4.bn"), ("pixels from nan", "[0, 1]")),
    (lambda: parts(torch.ones(2, 3, 4, 4), MASK), ("(96,)", "(2, 3)")),
    (lambda: wrong_labels(Y, 1), ("num_classes = 1", ">= 2")),
    (lambda: another_of_class(torch.tensor([0, 0, 1])), ("class 1", "one image")),
    (lambda: global_mask(MASK.expand(2, -1), 97), ("size = 97", "0 to 96")),
    (lambda: random_masks(MASK.expand(2, -1), X), ("(2, 96)", "3 images")),
    (lambda: random_masks(MASK.expand(3, -1), X, energy=torch.ones(3, 9)), ("energy (3, 9)",)),
    (lambda: closed_form_masks(MODEL, X, Y, "block3.bn", Y), ("block3.bn", "one linear layer", "block4.bn")),
    (lambda: last_cut(unrectified()), ("network 'no ReLU'", "BatchNorm2d", "conv, pool, linear")),
    (lambda: last_cut(networks.build("resnet18")), ("network 'resnet18'", "layer4.block2")),
    (lambda: channel_energy(MODEL, X, "linear"), ("cut = 'linear'", "maps")),
])
def test_bad_input_is_one_line(call: Callable[[], object], words: tuple[str, ...]) -> None:
    assert_one_line(call, words)
