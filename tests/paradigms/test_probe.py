"""Linear probes against scikit-learn, their cache, and attacks through them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nbutils import training
from nbutils.features import FeatureDistance, matched
from nbutils.images import ImageSet, load
from nbutils.networks import SplitClassifier
from nbutils.paradigms import (
    DDPM,
    MAE,
    Backbone,
    Encoder,
    SimCLR,
    extract,
    finetuned,
    linear_probe,
    pretrained,
    randomised,
    untrained,
    with_projector,
)
from nbutils.paradigms.probe import Standardize, logistic_regression
from nbutils.robustness import PGD, AutoAttack, ThreatModel, evaluate, predict

LINF = ThreatModel("Linf", 8 / 255)
TINY_MAE = MAE(patch=8, width=16, depth=1, decoder_width=16, heads=2)
TINY_DDPM = DDPM(width=8, factors=(1, 2), space_to_depth=4)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits", "train", 300)


@pytest.fixture
def encoder(network_pair: tuple[SplitClassifier, SplitClassifier]) -> Encoder:
    return Backbone(network_pair[0]).eval()


# --- the head -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_head_is_scikit_learns_optimum(penalty: float, classes: int, generator: torch.Generator) -> None:
    """Features of very different scales; one is constant. Probabilities to 1e-4."""
    n = 400
    z = torch.randn(n, 6, generator=generator) * torch.tensor([1e-3, 1, 30, 1, 1e4, 0])
    score = (z[:, :5] / z[:, :5].std(0)) @ torch.randn(5, classes, generator=generator)
    z += torch.tensor([0.0, 5, -100, 0, 0, 3])
    y = (score + torch.randn(n, classes, generator=generator)).argmax(1)
    assert len(y.unique()) == classes
    scaled = StandardScaler().fit_transform(z.double().numpy())
    ours = Standardize(z)(z)
    np.testing.assert_allclose(ours.numpy(), scaled, atol=1e-4)
    weight, bias = logistic_regression(ours, y, classes, penalty)
    # for two classes scikit-learn fits one weight vector w; ours are w / 2 and -w / 2: half its penalty
    reference = LogisticRegression(C=(2 if classes == 2 else 1) / (n * penalty), tol=1e-10, max_iter=10000)
    wanted = reference.fit(scaled, y).predict_proba(scaled)
    np.testing.assert_allclose((ours.double() @ weight.T + bias).softmax(1).numpy(), wanted, atol=1e-4)
    assert (weight[:, 5] == 0).all()


def test_the_gradient_vanishes_at_the_head(generator: torch.Generator) -> None:
    z, y = torch.randn(200, 5, generator=generator, dtype=torch.float64), torch.arange(200) % 3
    weight, bias = (part.requires_grad_() for part in logistic_regression(z, y, 3, 0.01))
    loss = torch.nn.functional.cross_entropy(z @ weight.T + bias, y) + 0.005 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 1e-6


def test_the_probe_gives_the_heads_logits_from_pixels(encoder: Encoder, digits: ImageSet) -> None:
    z = extract(encoder, digits)
    model = linear_probe(encoder, digits)
    scaled = Standardize(z)(z)
    weight, bias = logistic_regression(scaled, digits.y, 10, 1e-4)
    with torch.no_grad():
        logits = model(digits.x[:50]).double()
    torch.testing.assert_close(logits, scaled[:50].double() @ weight.T + bias, rtol=0, atol=1e-3)
    assert evaluate(model, digits).accuracy > 0.95
    assert model.cuts == ("encoder", "standardize", "linear")
    torch.testing.assert_close(model.features(digits.x[:5], "encoder"), z[:5])


def test_a_probe_on_the_networks_own_features_finds_its_task(network_pair: tuple[SplitClassifier, SplitClassifier],
                                                             encoder: Encoder) -> None:
    train, test = load("planted", "train", 600), load("planted", "test", 300)
    own = evaluate(network_pair[0], test).accuracy
    assert evaluate(linear_probe(encoder, train), test).accuracy > own - 0.03
    chance = linear_probe(encoder, replace(train, y=train.y[torch.randperm(600)]), penalty=1e-2)
    assert evaluate(chance, test).accuracy < 0.3  # shuffled labels


# --- the cache ----------------------------------------------------------------------------------------------------

def test_features_are_computed_once(encoder: Encoder, digits: ImageSet, monkeypatch: pytest.MonkeyPatch,
                                    own_build: Path) -> None:
    first = extract(encoder, digits)
    assert list(own_build.glob("store/features/*/tensors.safetensors"))
    monkeypatch.setattr(Backbone, "features", None)
    again = extract(encoder, digits)
    assert torch.equal(first, again)
    encoder.register_forward_pre_hook(lambda module, inputs: None)  # nobody knows what a hook does
    with pytest.raises(TypeError):
        extract(encoder, digits)


def test_another_setting_weight_or_image_gives_other_features(digits: ImageSet) -> None:
    model = untrained(TINY_DDPM)
    sets = [extract(model, digits), extract(model.reading(timestep=500), digits),
            extract(model.reading(seed=1), digits), extract(untrained(TINY_DDPM, seed=1), digits)]
    for i in range(3):
        assert not torch.equal(sets[i], sets[i + 1])
    assert len(extract(model, digits.take(20))) == 20


def test_features_are_those_of_evaluation_mode_and_the_batch_size_does_not_matter(digits: ImageSet) -> None:
    model = untrained(SimCLR("small_narrow", (8,)))
    wanted = model.features(digits.x).detach()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for batch_size in (250, 37):
        torch.testing.assert_close(extract(model, digits, batch_size), wanted, rtol=1e-4, atol=1e-5)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


# --- attacks through a probe --------------------------------------------------------------------------------------

def test_an_attack_goes_through_the_probe(encoder: Encoder) -> None:
    test = load("planted", "test", 60)
    model = linear_probe(encoder, load("planted", "train", 600))
    clean = evaluate(model, test).accuracy
    assert clean > 0.8
    assert evaluate(model, test, PGD(LINF, 10)).accuracy < clean - 0.5
    assert evaluate(model, test.take(20), AutoAttack(LINF, "apgd-ce", 10)).accuracy < clean - 0.5


@pytest.mark.parametrize("paradigm", [TINY_MAE, TINY_DDPM], ids=["MAE", "DDPM"])
def test_untrained_encoders_can_be_probed_and_attacked(paradigm: MAE | DDPM, digits: ImageSet) -> None:
    model = linear_probe(untrained(paradigm), digits)
    clean = evaluate(model, digits).accuracy
    assert clean > 0.3
    assert evaluate(model, digits, PGD(ThreatModel("Linf", 0.1), 5)).accuracy < clean - 0.2


def test_fine_tuning_trains_a_copy_once(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, schedule = untrained(TINY_MAE), training.Schedule(10, batch_size=25, peak_rate=0.1)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    first = finetuned(encoder, digits, schedule)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert not torch.equal(next(first.parameters()), next(encoder.parameters()))
    assert evaluate(first, digits).accuracy > 0.5
    assert first.name == "MAE, fine-tuned"
    assert first.key != finetuned(untrained(TINY_MAE, seed=1), digits, schedule).key
    monkeypatch.setattr(training, "fit", None)
    again = finetuned(encoder, digits, schedule, name="called otherwise")
    assert torch.equal(first(digits.x), again(digits.x))
    assert (again.name, again.key) == ("called otherwise", first.key)


def test_a_seed_decides_the_training_too(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    monkeypatch.setattr(training, "fit", lambda *given: seeds.append(given[4]) or [])
    encoder, schedule = untrained(SimCLR(), seed=1), training.Schedule(1)
    finetuned(encoder, digits, schedule, 2)
    with_projector(encoder, SimCLR(), digits, schedule, 3)
    pretrained(SimCLR(), digits, schedule, 4)
    assert seeds == [2, 3, 4]


def test_a_projector_is_trained_on_a_fixed_encoder(encoder: Encoder) -> None:
    images = load("planted", "train", 100)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    paradigm, schedule = SimCLR(projector=(32, 16), temperature=0.1), training.Schedule(6, batch_size=25, peak_rate=0.1)
    model = with_projector(encoder, paradigm, images, schedule)
    fresh = with_projector(encoder, paradigm, images, training.Schedule(1, peak_rate=1e-9))
    for state in (encoder.state_dict(), model.backbone.state_dict()):
        assert all(torch.equal(value, before[key]) for key, value in state.items())
    losses = [paradigm(part, images.x, images.y, torch.Generator().manual_seed(9)).item() for part in (fresh, model)]
    assert losses[1] < losses[0] - 0.1, losses
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert torch.equal(model.features(images.x), encoder.features(images.x))
    assert with_projector(encoder, paradigm, images, schedule).key == model.key != fresh.key


def test_a_probe_can_be_a_teacher(digits: ImageSet) -> None:
    encoder = untrained(SimCLR("small_narrow", (8,)))
    model = linear_probe(encoder, digits)
    made = matched(digits.take(6), model, "D", FeatureDistance("encoder"), steps=5, step_size=0.5)
    assert made.residual.mean() < 0.9


# --- random encoders ----------------------------------------------------------------------------------------------

def test_the_random_version_draws_anew(digits: ImageSet) -> None:
    model = linear_probe(untrained(TINY_DDPM).reading(timestep=300), digits)
    drawn, averaged, x = randomised(model), randomised(model, 200), digits.x[:4]
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        assert not torch.equal(drawn(x), drawn(x))
        torch.manual_seed(0)
        one = drawn(x)
        torch.manual_seed(0)
        assert torch.equal(drawn(x), one)
        logits = torch.stack([drawn(x) for _ in range(400)])
        spread = logits.std(0)
        assert ((averaged(x) - logits.mean(0)).abs() < 5 * spread * (1 / 200 + 1 / 400) ** 0.5 + 1e-4).all()
    assert drawn.name.endswith("random")
    assert next(drawn.parameters()) is next(model.parameters())
    assert evaluate(drawn, digits.take(20), AutoAttack(LINF, "rand", 2)).accuracy <= evaluate(drawn, digits).accuracy
    assert len(predict(drawn, digits.x[:5])) == 5


def test_probing_does_not_train_the_encoder(encoder: Encoder, digits: ImageSet) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    linear_probe(encoder, digits)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
