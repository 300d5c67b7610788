"""What no attack and no verdict takes from a model: gradients and outputs that cannot be what they seem."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nbutils.features.nrf import NRF
from nbutils.images import ImageSet
from nbutils.networks import SplitClassifier
from nbutils.robustness import BIM, CW, FAB, FGSM, PGD, AutoAttack, Noise, ThreatModel, evaluate, predict
from nbutils.robustness.attacks import Attack
from tests.helpers import assert_one_line

LINF, L2 = ThreatModel("Linf", 0.1), ThreatModel("L2", 0.5)
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3])
IMAGES = ImageSet(X, Y, ("a", "b", "c", "d"), "noise")
ATTACKS = [FGSM(LINF), PGD(LINF, 2), PGD(L2, 2, loss="margin"), PGD(LINF, 2, keep_best=False), BIM(LINF, 2),
           CW(steps=2), NRF(at="conv", channels="all", steps=2),
           NRF(at="conv", channels="all", steps=2, second_order=True), FAB("Linf", steps=2), FAB("L2", 0.5, 2),
           AutoAttack(LINF, "apgd-ce", 2), AutoAttack(L2, "apgd", 2), AutoAttack(LINF, "standard", 2)]


class Ending(nn.Module):
    """Logits, all of the true class, then whatever is made of them."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.change = nn.Parameter(torch.ones(())), change

    def forward(self, z: Tensor) -> Any:
        return self.change(10 * torch.eye(4)[: len(z)] + self.weight * z.mean((1, 2, 3))[:, None])


def ending(change: Callable[[Tensor], Any]) -> SplitClassifier:
    generator, conv = torch.Generator().manual_seed(0), nn.Conv2d(3, 4, 3)
    conv.weight.data = torch.randn(conv.weight.shape, generator=generator)
    return SplitClassifier({"conv": conv, "end": Ending(change)}, "ending")


def steep(logits: Tensor) -> Tensor:
    """Finite logits whose gradient is NaN."""
    return logits + (0 * logits.sum(1, keepdim=True)).sqrt()


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "tuple": (lambda z: (z, z), "a tuple"), "dict": (lambda z: {"logits": z}, "a dict"),
    "nothing": (lambda z: None, "a NoneType"), "(B,)": (lambda z: z[:, 0], "torch.float32 (4,)"),
    "(B, K, 1, 1)": (lambda z: z[:, :, None, None], "(4, 4, 1, 1)"), "(1, K)": (lambda z: z[:1], "(1, 4)"),
    "(K, B)": (lambda z: z[:, :3].T, "(3, 4)"), "classes": (lambda z: z.argmax(1), "torch.int64 (4,)"),
    "one class": (lambda z: z[:, :1], "torch.float32 (4, 1)"),
    "whole numbers": (lambda z: z.long(), "torch.int64 (4, 4)"), "complex": (lambda z: z + 0j, "complex64")}
WRONG = {name: (change, (f"the model returned {found}" if found[0] in "at" else found, "expected logits", "(4, K)"))
         for name, (change, found) in OUTPUTS.items()}
WRONG |= {f"{bad} logits": (lambda z, bad=bad: z + torch.tensor([0.0, 0.0, 0.0, bad]), (f"not finite ({bad})",))
          for bad in (torch.inf, torch.nan)}  # type: ignore[misc]
WRONG["all ruled out"] = (lambda z: z - torch.inf, ("not finite (-inf)",))
WRONG["three classes"] = (lambda z: z[:, :3], ("label 3: the model has 3 classes",))


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_an_attack_refuses_a_gradient_that_is_not_finite_or_not_there(attack: Attack) -> None:
    for change, words in ((steep, "the gradient is not finite (nan)"),
                          (Tensor.detach, "no gradient reaches the images")):
        model = ending(change)
        assert evaluate(model, IMAGES).accuracy == 1
        assert_one_line(lambda model=model: attack(model, X, Y), (words,))  # type: ignore[misc]


@pytest.mark.parametrize("change", WRONG)
@pytest.mark.parametrize("attack", [None, *ATTACKS], ids=repr)
def test_no_attack_or_verdict_takes_an_output_that_is_not_logits(attack: Attack | None, change: str) -> None:
    model, words = ending(WRONG[change][0]), WRONG[change][1]
    assert_one_line(lambda: attack(model, X, Y) if attack else evaluate(model, IMAGES), words)
    if attack is None and change != "three classes":
        assert_one_line(lambda: predict(model, X), words)


class Listed(nn.Module):
    """An ensemble that torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [ending(lambda z: z)]

    def forward(self, x: Tensor) -> Tensor:
        return self.parts[0](x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("attack", [None, PGD(LINF, 2), CW(steps=2)], ids=repr)
def test_a_network_without_parameters_or_name(attack: Attack | None) -> None:
    for model in (Listed(), nn.Flatten(), lambda x: x):
        assert_one_line(lambda model=model: evaluate(model, IMAGES, attack),  # type: ignore[misc]
                        ("model = ", "with parameters", "nn.ModuleList"))
    nameless = nn.Sequential(ending(lambda z: z))
    assert evaluate(nameless, IMAGES, attack).model == "Sequential"  # type: ignore[arg-type]


@pytest.mark.parametrize("attack", [Noise(LINF), *ATTACKS], ids=repr)
@pytest.mark.parametrize(("x", "y", "generator", "words"), [
    (X.numpy(), Y, None, ("images = array", "torch.Tensor")),
    (X, Y.tolist(), None, ("labels = [0, 1, 2, 3]", "torch.Tensor")),
    (X, None, None, ("labels = None", "torch.Tensor")),
    (X, Y[:, None], None, ("labels (4, 1) for 4 images", "did you mean y[:, 0]?")),
    (X, nn.functional.one_hot(Y, 4).float(), None, ("labels (4, 4)", "(4,)", "did you mean y.argmax(1)?")),
    (X[0], Y[:1], None, ("images (3, 8, 8): expected (B, 3, H, W)", "did you mean x[None]?")),
    (4 * X - 2, Y, None, ("pixels from -2", "[0, 1]")),
    (X, Y, 0, ("generator = 0", "torch.Generator().manual_seed(0)"))])
def test_arguments_of_another_type_or_shape(attack: Attack, x: Any, y: Any, generator: Any,
                                            words: tuple[str, ...]) -> None:
    assert_one_line(lambda: attack(ending(lambda z: z), x, y, generator), words)


@pytest.mark.parametrize(("call", "words"), [
    (lambda model: evaluate(model, IMAGES, "PGD"), ("attack = 'PGD'", "such as PGD(")),
    (lambda model: evaluate(model, IMAGES, PGD), ("attack = <class", "such as PGD(")),
    (lambda model: evaluate(model, IMAGES, CW), ("attack = <class", "such as PGD(")),
    (lambda model: evaluate(model, X), ("images = tensor", "ImageSet")),
    (lambda model: evaluate(model, IMAGES, PGD(LINF, 2), batch_size=0), ("batch_size = 0", ">= 1")),
    (lambda model: evaluate(model, IMAGES, PGD(LINF, 2), seed=1.5), ("seed = 1.5", "whole number >= 0"))])
def test_arguments_of_evaluate(call: Callable[[Any], object], words: tuple[str, ...]) -> None:
    assert_one_line(lambda: call(ending(lambda z: z)), words)


def test_lengths_may_be_text() -> None:
    assert PGD(LINF, 2, "2/255", random_start="1/255") == PGD(LINF, 2, 2 / 255, random_start=1 / 255)  # type: ignore[arg-type]
