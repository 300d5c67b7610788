"""Where bfloat16 is used, and where it is not."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils import networks, precision
from nbutils.architectures import NETWORKS
from nbutils.features import matched, relabelled
from nbutils.images import ImageSet, load
from nbutils.machine import build_dir
from nbutils.paradigms.ddpm import DDPM
from nbutils.paradigms.encoder import pretrained, untrained
from nbutils.paradigms.mae import MAE
from nbutils.paradigms.simclr import nt_xent
from nbutils.precision import Float32Conv2d, Float32Linear, fastest, mixed_precision
from nbutils.robustness import ThreatModel, attacked, predict
from nbutils.robustness.attacks import PGD
from nbutils.training import MART, TRADES, Adversarial, Schedule, Standard, fit, mart, pgd_adversarial, trades


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load("digits", "train", 80)


# --- layers that stay float32 -------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_reads_pixels_and_answers_in_float32(name: str) -> None:
    with torch.device("meta"):
        layers = [module for stage in stages_of(name) for module in stage.modules()
                  if isinstance(module, nn.Conv2d | nn.Linear)]
    assert isinstance(layers[0], Float32Conv2d)
    assert isinstance(layers[-1], Float32Linear)
    assert not any(isinstance(layer, Float32Conv2d | Float32Linear) for layer in layers[1:-1])


def stages_of(name: str) -> list[nn.Module]:
    kind, shape = NETWORKS[name]
    return [stage for _, stage in networks.KINDS[kind](shape, 10, 32)]


@pytest.mark.parametrize("layer", [Float32Conv2d(3, 8, 3), Float32Linear(6, 4)], ids=["conv", "logits"])
def test_a_layer_in_float32_is_the_plain_one_to_the_last_bit(layer: nn.Module) -> None:
    z = torch.rand(5, 3, 6, 6) if isinstance(layer, nn.Conv2d) else torch.rand(5, 6)
    plain = layer(z)
    for copied in (layer, copy.deepcopy(layer)):
        with mixed_precision("cpu", "bfloat16"):
            assert torch.equal(copied(z), plain)
            rounded = copied(z.bfloat16())
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, plain, rtol=0.02, atol=0.02)
    double = copy.deepcopy(layer).double()
    assert double(z.double()).dtype == torch.float64


def test_a_step_smaller_than_a_rounding_in_bfloat16_still_moves_the_logits() -> None:
    """Pixels .9 and .9 + 1/4096 are one number in bfloat16; the first layer tells them apart."""
    model = networks.build("small").eval()
    x = torch.full((1, 3, 32, 32), 0.9)
    assert torch.equal(x.bfloat16(), (x + 1 / 4096).bfloat16())
    with mixed_precision("cpu", "bfloat16"), torch.no_grad():
        first = model.features(x, model.cuts[1])
        assert not torch.equal(first, model.features(x + 1 / 4096, model.cuts[1]))
        assert model(x).dtype == torch.float32
        plain, gradient = model.cuts[1], torch.func.grad(lambda x: model(x).sum())(x)
    assert plain.endswith("conv")
    assert gradient.dtype == torch.float32
    assert first.dtype == torch.float32


def test_the_contrastive_loss_and_the_masked_loss_compute_in_float32() -> None:
    z, x = torch.randn(8, 16), torch.rand(4, 3, 32, 32)
    model, paradigm = untrained(MAE()), MAE()
    losses: list[Callable[[], Tensor]] = [
        lambda: nt_xent(z, 0.2), lambda: paradigm(model, x, x, torch.Generator().manual_seed(0))]  # type: ignore[arg-type]
    for loss in losses:
        with mixed_precision("cpu", "bfloat16"):
            assert torch.equal(loss(), mixed_precision("cpu", "float32")(loss)())
            assert loss().dtype == torch.float32
    for encoder, first, last in ((untrained(DDPM()), "stem", "last.2"), (model, "embed", "embed")):
        assert all(isinstance(encoder.get_submodule(name), Float32Conv2d | Float32Linear) for name in (first, last))


# --- what is trained and built ------------------------------------------------------------------------------------

def test_bfloat16_learns_as_well_as_float32() -> None:
    """Three hundred digits, four epochs: test accuracy within 8 points, weights in float32 and not the same."""
    images, test = load("digits", "train", 300), load("digits", "test", 200)
    accuracies, weights = [], []
    for kind in precision.PRECISIONS:
        model = networks.build("small", 10, seed=0)
        history = fit(model, images, Standard(), Schedule(4, batch_size=32, peak_rate=0.1), precision=kind)
        assert history[-1] < history[0]
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        accuracies.append((predict(model, test.x) == test.y).double().mean().item())
        weights.append(next(model.parameters()).detach())
    assert accuracies[0] > 0.7, accuracies
    assert abs(accuracies[1] - accuracies[0]) <= 0.08, accuracies
    assert not torch.equal(*weights)


@pytest.mark.parametrize("make", [lambda threat: pgd_adversarial(threat, 2), lambda threat: trades(threat, 2),
                                  lambda threat: mart(threat, 2)], ids=["adversarial", "TRADES", "MART"])
def test_every_objective_learns_in_bfloat16(make: Callable[[ThreatModel], Adversarial | TRADES | MART],
                                            digits: ImageSet) -> None:
    model = networks.build("small", 10)
    seen: dict[str, list[torch.dtype]] = {"block1.conv": [], "block2.conv": [], "linear": []}
    for name, dtypes in seen.items():
        model.stages[model.cuts.index(name)].register_forward_hook(
            lambda module, inputs, output, dtypes=dtypes: dtypes.append(output.dtype))
    history = fit(model, digits, make(ThreatModel("Linf", 0.05)), Schedule(2, batch_size=40), precision="bfloat16")
    assert all(math.isfinite(loss) for loss in history)
    assert {name: set(dtypes) for name, dtypes in seen.items()} == {
        "block1.conv": {torch.float32}, "block2.conv": {torch.bfloat16}, "linear": {torch.float32}}
    seen["block2.conv"].clear()
    model(digits.x[:2])
    assert seen["block2.conv"] == [torch.float32]


@pytest.mark.parametrize("kind", ["matched", "relabelled"])
def test_a_set_built_in_bfloat16_serves_as_well(kind: str, digits: ImageSet) -> None:
    """What the network in float32 says of the images: the distance that is left, or the new labels it sees."""
    model = networks.build("small", 10)
    fit(model, digits, Standard(), Schedule(4, batch_size=20, peak_rate=0.1))
    made = {each: matched(digits, model, "x", steps=20, step_size=0.3, precision=each) if kind == "matched"
            else relabelled(digits, model, "x", "next", eps=8.0, steps=10, step_size=2.0, precision=each)
            for each in precision.PRECISIONS}
    assert not torch.equal(made["float32"].x, made["bfloat16"].x)
    assert all(each.x.dtype == torch.float32 for each in made.values())
    if kind == "relabelled":
        shares = [(predict(model, each.x) == each.y).double().mean().item() for each in made.values()]
        assert shares[0] > 0.3
    else:
        with torch.no_grad():
            wanted = model.features(digits.x, "pool")
            shares = [((model.features(each.x, "pool") - wanted).norm(dim=1)
                       / (model.features(digits.x[each.start], "pool") - wanted).norm(dim=1)).median().item()
                      for each in made.values()]
        assert shares[0] < 0.5
    assert abs(shares[1] - shares[0]) <= 0.04, shares


def test_an_encoder_of_another_precision_is_another_one(digits: ImageSet) -> None:
    few = digits.take(20)
    one, other = (pretrained(DDPM(), few, Schedule(1, batch_size=10), precision=kind) for kind in precision.PRECISIONS)
    assert one.key != other.key
    assert not torch.equal(*(next(model.parameters()) for model in (one, other)))


def test_attacks_that_judge_compute_in_float32(digits: ImageSet) -> None:
    model, seen = networks.build("small", 10).eval(), set()
    hook: Any = lambda module, inputs, output: seen.add(output.dtype)  # noqa: E731
    model.stages[model.cuts.index("block2.conv")].register_forward_hook(hook)
    attacked(model, digits.take(4), PGD(ThreatModel("Linf", 0.05), 2))
    assert seen == {torch.float32}


# --- what the machine gains ---------------------------------------------------------------------------------------

def test_the_gain_is_measured_without_a_trace() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0 < precision._gain(torch.device("cpu")) < 50
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("gain", "chosen"), [(0.08, "float32"), (1.19, "float32"), (1.21, "bfloat16")])
def test_the_faster_precision_is_chosen_once_for_a_build_folder(gain: float, chosen: str, own_build: object,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_gain", lambda device: gain)
    fastest.cache_clear()
    assert fastest(torch.device("cpu")) == chosen
    assert len([path for path in (build_dir() / "store" / "precision").iterdir() if path.is_dir()]) == 1
    monkeypatch.setattr(precision, "_gain", lambda device: pytest.fail("measured again"))
    fastest.cache_clear()
    assert fastest("cpu") == chosen
    fastest.cache_clear()


def test_a_device_without_bfloat16_is_no_gain_and_any_other_fault_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Tensor:
        raise RuntimeError(words)

    monkeypatch.setattr(F, "batch_norm", refuse)
    words = "BFloat16 is not supported"
    assert precision._gain(torch.device("cpu")) == 0
    words = "out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        precision._gain(torch.device("cpu"))


def test_float32_is_no_other_format_on_a_gpu() -> None:
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
