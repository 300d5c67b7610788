"""What all encoders promise: no image depends on its batch, one loop and one store train them, nothing leaks."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nbutils import hashing, networks, training
from nbutils.features import FeatureDistance, matched
from nbutils.images import ImageSet, load
from nbutils.paradigms import (
    DDPM,
    MAE,
    Augmentation,
    Backbone,
    Encoder,
    Labelled,
    Masked,
    Noised,
    Paradigm,
    PredictDifference,
    Reconstruct,
    SimCLR,
    pretrained,
    untrained,
)
from nbutils.paradigms.encoder import View
from nbutils.robustness import PGD, ThreatModel

PARADIGMS: dict[str, Paradigm] = {
    "SimCLR": SimCLR("small_narrow", (16, 8)),
    "MAE": MAE(patch=8, width=16, depth=1, decoder_width=16, heads=2),
    "DDPM": DDPM(width=8, factors=(1, 2), space_to_depth=4),
}
SCHEDULE = training.Schedule(1, batch_size=16, peak_rate=0.01)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load("digits", "train", 40)


def readings(name: str) -> list[Encoder]:
    model = untrained(PARADIGMS[name])
    return [model, model.reading(timestep=300, layer="up1")] if name == "DDPM" else [model]


@pytest.mark.parametrize("name", PARADIGMS)
def test_features_do_not_depend_on_the_batch(name: str, images: ImageSet) -> None:
    for model in readings(name):
        with torch.no_grad():
            together = model.features(images.x)
            apart = torch.cat([model.features(x[None]) for x in images.x])
            assert torch.equal(model(images.x), together)
        assert together.shape == (40, model.width)
        torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PARADIGMS)
def test_features_can_be_attacked(name: str, images: ImageSet) -> None:
    """They have a gradient in the image, deterministic or drawn."""
    drawn = [untrained(PARADIGMS[name]).reading(passes=2)] if name == "DDPM" else []
    for model in readings(name) + drawn:
        x = images.x[:2].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.features(x).square().sum(), x)
        assert (gradient.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("name", PARADIGMS)
def test_reading_features_leaves_no_trace(name: str, images: ImageSet) -> None:
    state = torch.get_rng_state()
    model = untrained(PARADIGMS[name])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.features(images.x)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", PARADIGMS)
def test_a_seed_decides_the_initial_weights(name: str) -> None:
    one, again, other = (untrained(PARADIGMS[name], seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", PARADIGMS)
def test_the_loss_is_a_function_of_the_generator(name: str, images: ImageSet) -> None:
    model, paradigm = untrained(PARADIGMS[name]), PARADIGMS[name]
    one, again, other = (paradigm(model, images.x, images.y, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.ndim == 0
    assert one == again != other
    assert paradigm(model, images.x, 0 * images.y, torch.Generator().manual_seed(1)) == one  # labels play no part


@pytest.mark.parametrize(("paradigm", "multiple"), [(MAE(), 4), (DDPM(width=8), 8), (DDPM(8, (1, 1, 1, 1, 1, 1)), 64)])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (8, 8), (30, 30), (24, 32), (32, 21)])
def test_images_of_any_height_and_width(paradigm: MAE | DDPM, multiple: int, height: int, width: int) -> None:
    """They are read as the square that repeats their last rows and columns."""
    model, x = untrained(paradigm), torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    side = -(-max(height, width) // multiple) * multiple
    rows, columns = (torch.arange(side).clamp(max=last - 1) for last in (height, width))
    with torch.no_grad():
        assert torch.equal(model.features(x), model.features(x[:, :, rows][:, :, :, columns]))
    assert paradigm(model, x, torch.zeros(2), torch.Generator().manual_seed(0)).isfinite()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", PARADIGMS)
def test_an_encoder_is_trained_once(name: str, images: ImageSet, monkeypatch: pytest.MonkeyPatch,
                                    own_build: Path) -> None:
    first = pretrained(PARADIGMS[name], images, SCHEDULE, seed=3)
    plain = untrained(PARADIGMS[name], seed=3)
    losses = training.fit(plain, images, PARADIGMS[name], SCHEDULE, seed=3)  # type: ignore[arg-type]
    monkeypatch.setattr(training, "fit", None)
    again = pretrained(PARADIGMS[name], images, SCHEDULE, seed=3, name="called otherwise")
    assert (first.name, again.name, first.key) == (name, "called otherwise", again.key)
    assert list(own_build.glob("store/model/*/tensors.safetensors"))
    assert first.losses.tolist() == again.losses.tolist() == pytest.approx(losses)
    for key, value in plain.state_dict().items():
        assert torch.equal(first.state_dict()[key], value), key
        assert torch.equal(again.state_dict()[key], value), key
    assert not any(module.training for module in again.modules())
    assert torch.equal(first.features(images.x), again.features(images.x))


def test_whatever_decides_the_weights_is_in_the_key(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "fit", lambda *arguments: [])
    threat = ThreatModel("Linf", 8 / 255)
    simclr, mae, ddpm = PARADIGMS.values()
    assert isinstance(simclr, SimCLR)
    keys = [pretrained(*recipe).key for recipe in (
        (simclr, images, SCHEDULE), (mae, images, SCHEDULE), (ddpm, images, SCHEDULE),
        (simclr, images, SCHEDULE, 1), (simclr, images.take(39), SCHEDULE), (simclr, images, training.Schedule(2)),
        (replace(simclr, temperature=0.1), images, SCHEDULE), (replace(simclr, projector=(8,)), images, SCHEDULE),
        (replace(simclr, view=Augmentation(grey=0)), images, SCHEDULE),
        (replace(simclr, attack=PGD(threat, 2, keep_best=False)), images, SCHEDULE),
        (MAE(patch=8, width=16, depth=1, decoder_width=16, heads=4), images, SCHEDULE),
        (DDPM(width=8, factors=(1, 2), space_to_depth=2), images, SCHEDULE),
    )]
    assert len(set(keys)) == len(keys)


def test_a_reading_shares_the_weights(images: ImageSet) -> None:
    model = untrained(PARADIGMS["DDPM"])
    reading = model.reading(timestep=500)
    assert reading.timestep == 500  # type: ignore[comparison-overlap]
    assert model.timestep == 11  # type: ignore[comparison-overlap]
    assert all(a is b for a, b in zip(model.parameters(), reading.parameters(), strict=True))
    assert "timestep=500" in repr(reading)
    assert "timestep=11" in repr(model)


@pytest.mark.parametrize("network", ["small", "vgg_small", "wrn_small", "resnet18"])
def test_a_backbone_is_a_classifier_without_its_last_layer(network: str, images: ImageSet) -> None:
    classifier = networks.build(network).eval()
    backbone = Backbone(classifier).eval()
    with torch.no_grad():
        z = backbone.features(images.x[:4])
        torch.testing.assert_close(classifier.logits_from(z, classifier.cuts[-2]), classifier(images.x[:4]))
    assert z.shape == (4, backbone.width)


# --- supervised training through other pipelines ------------------------------------------------------------------

@pytest.mark.parametrize("view", [Augmentation(), Masked(8), Noised(50)], ids=lambda view: type(view).__name__)
def test_labelled_is_cross_entropy_on_the_view(view: View, images: ImageSet) -> None:
    model = networks.build("small").eval()
    found = Labelled(view)(model, images.x, images.y, torch.Generator().manual_seed(2))
    wanted = F.cross_entropy(model(view(images.x, torch.Generator().manual_seed(2))), images.y)
    torch.testing.assert_close(found, wanted)


def test_the_key_of_supervised_training_holds_the_view(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "fit", lambda *arguments: [])
    cases = [("small_narrow", Masked(8)), ("small", Masked(8)), ("small_narrow", Masked(4)),
             ("small_narrow", Noised(8))]
    keys = [training.trained(network, images, Labelled(view), SCHEDULE).key for network, view in cases]
    code = hashing.code_version
    monkeypatch.setattr(hashing, "code_version", lambda module: code(module) + "changed" * module.endswith("mae"))
    keys.append(training.trained("small_narrow", images, Labelled(Masked(8)), SCHEDULE).key)
    assert len(set(keys)) == 5


# --- sets made by encoders ----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Case:
    paradigm: str
    objective: FeatureDistance | Reconstruct | PredictDifference
    falls_to: float


@pytest.mark.parametrize("case", [
    Case("SimCLR", FeatureDistance(), 0.7), Case("MAE", FeatureDistance(), 0.9), Case("MAE", Reconstruct(0.5), 0.95),
    Case("DDPM", PredictDifference(100), 0.8), Case("DDPM", PredictDifference(11, "noised"), 0.8),
], ids=lambda case: f"{case.paradigm} {type(case.objective).__name__}")
def test_sets_are_made_by_all_paradigms(case: Case, images: ImageSet) -> None:
    """Equations 16 to 18: the objective falls, images stay in [0, 1] and the model is left as it was."""
    model = pretrained(PARADIGMS[case.paradigm], images, training.Schedule(4, batch_size=8, peak_rate=0.05))
    before = [parameter.clone() for parameter in model.parameters()]
    made = matched(images.take(10), model, "D", case.objective, steps=20, step_size=0.5)
    assert made.residual.mean() < case.falls_to, made.residual
    assert torch.equal(made.y, images.y[:10])
    assert made.x.min() >= 0
    assert made.x.max() <= 1
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    again = matched(images.take(10), model, "D", case.objective, steps=20, step_size=0.5)
    assert torch.equal(again.x, made.x)


def test_the_distance_of_features_is_that_of_an_encoder(images: ImageSet) -> None:
    model, x = untrained(PARADIGMS["SimCLR"]), images.x
    loss = FeatureDistance()(model, x[:4], torch.Generator())
    found: Tensor = loss(x[4:8])
    wanted = [sum((a - b) ** 2 for a, b in zip(*rows, strict=True)) ** 0.5
              for rows in zip(model.features(x[:4]).tolist(), model.features(x[4:8]).tolist(), strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert loss(x[:4]).tolist() == [0, 0, 0, 0]
