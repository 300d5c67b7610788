"""What bad input raises: one line that names the value, what was expected, and the nearest right one."""

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import IncompleteRead
from pathlib import Path
from tarfile import TarError
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nbutils import networks, training
from nbutils.features import (
    D_rand,
    LinearFeature,
    class_weights,
    matched,
    matched_filter,
    population_usefulness,
    random_masks,
    residuals,
    usefulness,
    wrong_labels,
)
from nbutils.features.nrf import NRF
from nbutils.images import DataError, ImageSet, PlantedWorld, augment, jpeg, load
from nbutils.images.sources import check_dataset, class_names
from nbutils.lab import claims, results
from nbutils.lab.figures import Picture, curves, image_grid
from nbutils.lab.parameters import ParameterError, Parameters, resolve
from nbutils.lab.results import Result, detectable, mcnemar, published, rank_correlation, student_t, wilson
from nbutils.paradigms import Backbone, SimCLR, above_chance, cross_paradigm, linear_probe, untrained
from nbutils.robustness import (
    BIM,
    CW,
    FAB,
    FGSM,
    PGD,
    AutoAttack,
    Noise,
    Outcome,
    ThreatModel,
    accuracy_curve,
    accuracy_gap,
    evaluate,
    health_checks,
    kim_pgd,
    parse_eps,
    transfer_matrix,
    transfer_perturbation,
    transfer_rate,
    worst_case,
)
from nbutils.robustness.evaluate import predict
from nbutils.store import load_or_build
from nbutils.torchvision import torchvision
from nbutils.training import TRADES, Schedule, Standard
from tests.helpers import CLAIM

LINF = ThreatModel("Linf", 8 / 255)
X = torch.full((4, 3, 8, 8), 0.5)
Y = torch.tensor([0, 1, 0, 1])
IMAGES = ImageSet(X, Y, ("a", "b"), "grey")
ALT = "A sentence that says what the figure shows."


class Broken(nn.Module):
    """A network whose logits are what they are told to be."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float32))
        self.name, self.key = "broken", ""

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


def result(value: float = 0.5) -> Result:
    return Result.of("a.b", "accuracy", [value, value])


def outcome(**changes: Any) -> Outcome:
    zeros = torch.zeros(3)
    made = Outcome(zeros > 0, zeros.long(), zeros, zeros, "A", "L_inf 8/255", "m", "d")
    return replace(made, **changes)


@dataclass(frozen=True)
class Own:
    """An attack that returns what it is told to."""

    made: Any
    threat: Any = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Any:
        return self.made

    def __repr__(self) -> str:
        return "Own()"


def small(classes: int = 10) -> networks.SplitClassifier:
    return networks.build("small", classes)


LINF, SMALL = ThreatModel("Linf", 8 / 255), small()
SET = ImageSet(torch.full((4, 3, 32, 32), 0.5), Y, tuple("abcdefghij"), "grey")
CLEAN = outcome(attack="none", inputs=("model-a", "f1"), key=("model-a",))


@dataclass(frozen=True)
class Bad:
    """A call, what it raises, and what the line must name."""

    name: str
    call: Callable[[], object]
    words: tuple[str, ...]
    error: type[Exception] = ValueError


def resolving(**given: Any) -> Callable[[], object]:
    return lambda: resolve({"profile": "smoke", **given}, tuple(Parameters.model_fields))


CASES = [
    # threat models
    Bad("norm", lambda: ThreatModel("L_infinity", 0.1), ("norm = 'L_infinity'", "Linf, L2", "did you mean 'Linf'")),
    Bad("norm with underscore", lambda: ThreatModel("L_2", 0.1), ("norm = 'L_2'", "did you mean 'L2'")),
    Bad("eps in grey levels", lambda: ThreatModel("Linf", 8), ("eps = 8", "pixels are in [0, 1]", "mean 8/255?")),
    Bad("eps in grey levels, text", lambda: ThreatModel("Linf", "4"), ("eps = 4", "mean 4/255?")),  # type: ignore[arg-type]
    Bad("eps a little above 1", lambda: ThreatModel("Linf", 1.5), ("eps = 1.5", "pixels are in [0, 1]")),
    Bad("eps far above 255", lambda: ThreatModel("Linf", 1e6), ("eps = 1000000", "pixels are in [0, 1]")),
    Bad("negative eps", lambda: ThreatModel("L2", -0.1), ("eps = -0.1", ">= 0", "8/255")),
    Bad("eps that is none", lambda: ThreatModel("Linf", True), ("eps = True", "such as 8/255")),
    Bad("a list of norms", lambda: ThreatModel(["Linf"], 0.1), ("norm = ['Linf']", "Linf, L2")),  # type: ignore[arg-type]
    Bad("eps in words", lambda: parse_eps("eight"), ("eps = 'eight'", "number or a fraction such as 8/255")),
    Bad("eps over zero", lambda: parse_eps("8/0"), ("eps = '8/0'", "fraction such as 8/255")),
    Bad("eps as code", lambda: parse_eps("__import__('os')"), ("__import__", "fraction such as 8/255")),
    Bad("eps is no number", lambda: parse_eps(float("nan")), ("eps = nan", "finite")),
    Bad("infinite eps", lambda: parse_eps("inf"), ("inf", "8/255")),
    Bad("eps of nothing", lambda: parse_eps(None), ("eps = None", "8/255")),  # type: ignore[arg-type]
    # attacks
    Bad("no steps", lambda: PGD(LINF, 0), ("steps = 0", ">= 1")),
    Bad("broken steps", lambda: PGD(LINF, 2.5), ("steps = 2.5", "whole number")),  # type: ignore[arg-type]
    Bad("steps that are none", lambda: PGD(LINF, True), ("steps = True", "whole number")),
    Bad("steps of NumPy", lambda: PGD(LINF, np.int64(3)), ("steps = np.int64(3)", "Python's int")),  # type: ignore[arg-type]
    *[Bad(f"a radius for {name}", lambda make=make: make(8 / 255), (f"{setting} = 0.0313", "ThreatModel("))
      for name, setting, make in (
          ("PGD", "threat", lambda eps: PGD(eps, 10)), ("FGSM", "threat", FGSM), ("kim_pgd", "threat", kim_pgd),
          ("AutoAttack", "threat", AutoAttack), ("Noise", "threat", Noise),
          ("NRF", "within", lambda eps: NRF(at="block1.bn", within=eps)),
          ("training", "threat", training.fast_adversarial))],
    Bad("step in grey levels", lambda: PGD(LINF, 2, 2), ("step_size = 2", "pixels are in [0, 1]; did you mean 2/255?")),
    Bad("infinite step", lambda: PGD(LINF, 2, math.inf), ("step_size = inf", "finite length")),
    Bad("no start", lambda: PGD(LINF, 2, random_start=None), ("random_start = None", "8/255")),  # type: ignore[arg-type]
    Bad("an infinite rate of CW", lambda: CW(rate=math.inf), ("rate = inf", "> 0, such as 0.1")),
    Bad("an infinite c", lambda: CW(c=math.inf), ("c = inf", "> 0, such as 0.1")),
    Bad("AutoAttack of no classes", lambda: AutoAttack(LINF, classes=0), ("classes = 0", ">= 2")),
    Bad("no restarts", lambda: PGD(LINF, 1, restarts=0), ("restarts = 0", ">= 1")),
    Bad("equal restarts", lambda: PGD(LINF, 1, restarts=2, random_start=False), ("restarts = 2", "expected 1")),
    Bad("negative step", lambda: PGD(LINF, 1, -0.1), ("step_size = -0.1", ">= 0", "8/255")),
    Bad("step is no number", lambda: FGSM(LINF, step_size=float("nan")), ("step_size = nan", "finite", "8/255")),
    Bad("loss", lambda: PGD(LINF, 1, loss="crossentropy"), ("loss = 'crossentropy'", "did you mean 'cross-entropy'")),
    Bad("early exit", lambda: PGD(LINF, 2, keep_best=False, early_exit=True), ("early_exit = True", "keep_best")),
    Bad("loss of BIM", lambda: BIM(LINF, steps=-1), ("steps = -1", ">= 1")),
    Bad("NaN logits", lambda: PGD(LINF, 1)(Broken(0, float("nan")), X, Y), ("PGD", "step 0", "nan", "finite")),
    Bad("infinite logits", lambda: FGSM(LINF)(Broken(0, float("inf")), X, Y), ("FGSM", "inf", "finite")),
    Bad("negative start", lambda: PGD(LINF, 1, random_start=-0.1), ("random_start = -0.1", "length >= 0")),
    Bad("labels for kl", lambda: PGD(LINF, 1, loss="kl")(Broken(0, 1), X, Y), ("'kl'", "(4,)", "clean logits (4, 2)")),
    Bad("CW without steps", lambda: CW(steps=0), ("steps = 0", ">= 1")),
    Bad("broken steps of CW", lambda: CW(steps=2.5), ("steps = 2.5", "whole number")),  # type: ignore[arg-type]
    Bad("CW without c", lambda: CW(c=0), ("c = 0", "> 0", "such as 0.1")),
    Bad("c is no number", lambda: CW(c=math.nan), ("c = nan", "> 0")),
    Bad("negative rate", lambda: CW(rate=-0.1), ("rate = -0.1", "> 0", "such as 0.1")),
    Bad("no searches", lambda: CW(searches=0), ("searches = 0", ">= 1")),
    Bad("negative confidence", lambda: CW(confidence=-1), ("confidence = -1", "a finite number >= 0")),
    Bad("confidence is no number", lambda: CW(confidence=math.nan), ("confidence = nan", ">= 0")),
    Bad("CW and NaN", lambda: CW(steps=1)(Broken(0, math.nan), X, Y), ("CW", "nan", "finite")),
    Bad("version", lambda: AutoAttack(LINF, "standart"), ("version = 'standart'", "rand", "did you mean 'standard'")),
    Bad("AutoAttack without steps", lambda: AutoAttack(LINF, steps=0), ("steps = 0", ">= 1")),
    Bad("AutoAttack of two classes", lambda: AutoAttack(LINF)(Broken(0, 1), X, Y), ("2 classes", "4", "apgd-ce")),
    *[Bad(f"{name} for {attack!r}", lambda attack=attack, x=x, y=y: attack(Broken(0, 1), x, y), words)
      for attack in (PGD(LINF, 1), CW(steps=1), FAB(steps=1), AutoAttack(LINF, "apgd-ce", 1))
      for name, x, y, words in (
          ("normalised pixels", 4 * X - 3, Y, ("pixels from -1 to -1", "[0, 1]")),
          ("8-bit images", (255 * X).byte(), Y, ("uint8", "floats in [0, 1]")),
          ("too few labels", X, Y[:3], ("labels (3,) for 4 images",)),
          ("label -100", X, Y - 100, ("-100", ">= 0")),
          ("float labels", X, Y.float(), ("float32", "whole numbers")),
          ("label without a class", X, Y + 1, ("label 2", "2 classes", "0 to 1")))],
    Bad("norm of FAB", lambda: FAB("L1"), ("norm = 'L1'", "Linf, L2")),
    Bad("eps of FAB in grey levels", lambda: FAB("Linf", 8), ("eps = 8", "[0, 1]; did you mean 8/255?")),
    Bad("negative eps of FAB", lambda: FAB("L2", -1.0), ("eps = -1.0", ">= 0")),
    Bad("FAB without steps", lambda: FAB(steps=0), ("steps = 0", ">= 1")),
    Bad("FAB without restarts", lambda: FAB("L2", 0.5, restarts=0), ("restarts = 0", ">= 1")),
    Bad("restarts without a ball", lambda: FAB("L2", restarts=2), ("restarts = 2", "without eps", "expected 1")),
    # evaluation
    Bad("matrix of no images", lambda: transfer_matrix([Broken(0, 1)], IMAGES.take(0), FGSM(LINF)),  # type: ignore[list-item]
        ("empty", "at least one image")),
    Bad("no images", lambda: evaluate(Broken(0, 1), IMAGES.take(0)), ("empty", "at least one image")),  # type: ignore[arg-type]
    Bad("NaN logits when scored", lambda: evaluate(Broken(0, float("nan")), IMAGES), ("nan", "finite")),  # type: ignore[arg-type]
    Bad("no outcomes", lambda: worst_case([]), ("no outcomes", "at least one")),
    Bad("two models", lambda: worst_case([outcome(), outcome(model="n")]), ("'m' and 'n'", "one model")),
    Bad("two lengths", lambda: worst_case([outcome(), outcome(correct=torch.zeros(4) > 0)]), ("3 and 4", "same")),
    Bad("health in L2", lambda: health_checks(Broken(0, 1), IMAGES, PGD(ThreatModel("L2", 1)),  # type: ignore[arg-type]
                                              transfer_from=Broken(0, 1)),  # type: ignore[arg-type]
        ("norm = 'L2'", "'Linf'")),
    # images
    Bad("grey images", lambda: ImageSet(X[:, :1], Y, ("a", "b"), "x"), ("(4, 1, 8, 8)", "(N, 3, H, W)"), DataError),
    Bad("channels last", lambda: ImageSet(X.permute(0, 2, 3, 1), Y, ("a", "b"), "x"),
        ("(4, 8, 8, 3)", "(N, 3, H, W); did you mean x.permute(0, 3, 1, 2)?"), DataError),
    Bad("whole numbers", lambda: ImageSet(X.long(), Y, ("a", "b"), "x"), ("int64", "float32", "uint8"), DataError),
    Bad("an array", lambda: ImageSet(X.numpy(), Y, ("a", "b"), "x"), ("ndarray (4, 3", "torch.float32"), DataError),  # type: ignore[arg-type]
    Bad("a list of labels", lambda: ImageSet(X, [0, 1], ("a", "b"), "x"), ("list ()", "torch.int64 (4,)"), DataError),  # type: ignore[arg-type]
    Bad("short labels", lambda: ImageSet(X, Y.int(), ("a", "b"), "x"), ("torch.int32", "torch.int64"), DataError),
    Bad("label to be ignored", lambda: ImageSet(X, Y - 100, ("a", "b"), "x"), ("-100 to -99", "0 to 1"), DataError),
    Bad("normalised pixels", lambda: ImageSet(4 * X - 3, Y, ("a", "b"), "x"), ("-1", "normalisation"), DataError),
    Bad("double images", lambda: ImageSet(X.double(), Y, ("a", "b"), "x"), ("float64", "float32"), DataError),
    Bad("8-bit pixels", lambda: ImageSet(255 * X, Y, ("a", "b"), "x"), ("128", "[0, 1]", "divide"), DataError),
    Bad("negative pixels", lambda: ImageSet(X - 1, Y, ("a", "b"), "x"), ("-0.5", "[0, 1]"), DataError),
    Bad("NaN pixels", lambda: ImageSet(X * torch.nan, Y, ("a", "b"), "x"), ("nan", "[0, 1]"), DataError),
    Bad("too few labels", lambda: ImageSet(X, Y[:3], ("a", "b"), "x"), ("(3,)", "int64 (4,)"), DataError),
    Bad("float labels", lambda: ImageSet(X, Y.float(), ("a", "b"), "x"), ("float32", "int64"), DataError),
    Bad("label without class", lambda: ImageSet(X, Y + 1, ("a", "b"), "x"), ("1 to 2", "0 to 1"), DataError),
    Bad("negative label", lambda: ImageSet(X, Y - 1, ("a", "b"), "x"), ("-1 to 0", "0 to 1"), DataError),
    Bad("augmentation", lambda: augment(X, "flip", torch.Generator()), ("'flip'", "none, crop, crop+flip"), DataError),
    Bad("amplitude", lambda: PlantedWorld(amplitude=4), ("amplitude = 4", "< 0.06", "4/255"), DataError),
    Bad("amplitude on the margin", lambda: PlantedWorld(amplitude=math.nextafter(0.06, 0)).draw(50, 0),
        ("amplitude =",), DataError),
    Bad("negative amplitude", lambda: PlantedWorld(amplitude=-0.01), ("amplitude = -0.01", "0 <="), DataError),
    Bad("rho", lambda: PlantedWorld(rho=95), ("rho = 95", "[0, 1]"), DataError),
    Bad("odd period", lambda: PlantedWorld(period=5), ("period = 5", "4, 8, 16 or 32"), DataError),
    Bad("period 2", lambda: PlantedWorld(period=2), ("period = 2", "4, 8, 16 or 32"), DataError),
    Bad("period 12", lambda: PlantedWorld(period=12), ("period = 12", "4, 8, 16 or 32"), DataError),
    Bad("noise", lambda: PlantedWorld(noise=-1), ("noise = -1", ">= 0"), DataError),
    Bad("texture", lambda: PlantedWorld(texture=12), ("texture = 12", "<= 0.29", "12/255"), DataError),
    Bad("negative texture", lambda: PlantedWorld(texture=-0.1), ("texture = -0.1", "0 <="), DataError),
    Bad("empty draw", lambda: PlantedWorld().draw(0, 0), ("n = 0", "a whole number >= 1")),
    Bad("view", lambda: PlantedWorld().draw(2, 0).view("no pattern"), ("'no pattern'", "no_pattern"), DataError),
    Bad("no pattern", lambda: PlantedWorld().draw(2, 0).view("no_pattern").by_pattern(), ("no pattern",), DataError),
    # data sources
    Bad("dataset", lambda: load("cifar-10", "train"), ("dataset = 'cifar-10'", "did you mean 'cifar10'"), DataError),
    Bad("a long name", lambda: check_dataset(5000 * "x"), ("dataset = 'xxx", "expected one of planted"), DataError),
    Bad("somebody's folder", lambda: check_dataset("~nosuch"), ("dataset = '~nosuch'", "folder:PATH"), DataError),
    Bad("a name of nothing", lambda: check_dataset(""), ("dataset = ''", "expected one of planted"), DataError),
    Bad("a folder of nothing", lambda: check_dataset("folder:"), ("no folder is named", "<class>"), DataError),
    Bad("a folder of somebody", lambda: check_dataset("folder:~nosuch/x"), ("no folder ~nosuch/x",), DataError),
    Bad("a folder's long name", lambda: check_dataset(f"folder:{5000 * 'x'}"), ("no folder xxx", "<class>"), DataError),
    Bad("a folder's odd name", lambda: check_dataset("folder:a\nb\0c\udcff"), (r"no folder a\nb\x00c",), DataError),
    Bad("a file for a folder", lambda: check_dataset(f"folder:{__file__}"), (f"no folder {__file__}",), DataError),
    Bad("dataset in capitals", lambda: check_dataset("Digits"), ("'Digits'", "did you mean 'digits'"), DataError),
    Bad("split", lambda: load("planted", "val"), ("split = 'val'", "one of train, test"), DataError),
    Bad("no images asked for", lambda: load("digits", "train", 0), ("n = 0", "at least one"), DataError),
    *[Bad(f"n = {n!r}", lambda n=n: load("planted", "train", n), (f"n = {n!r}", "whole number"), DataError)
      for n in (2.5, "10", True)],
    Bad("seed of images", lambda: load("planted", "train", 4, 1.5), ("seed = 1.5", ">= 0")),  # type: ignore[arg-type]
    Bad("dataset is none", lambda: load(None, "train"), ("dataset = 'None'", "expected one of"), DataError),  # type: ignore[arg-type]
    Bad("dataset is a path", lambda: load(Path("/"), "train"), ("did you mean 'folder:/'",), DataError),  # type: ignore[arg-type]
    Bad("too many digits", lambda: load("digits", "test", 361), ("n = 361", "digits test", "360"), DataError),
    Bad("option of another world", lambda: load("digits", "train", rho=0.5), ("rho", "'digits'"), DataError),
    # networks and training
    Bad("network", lambda: networks.build("smal"), ("network = 'smal'", "did you mean 'small'")),
    Bad("one class", lambda: networks.build("small", 1), ("num_classes = 1", ">= 2")),
    Bad("cut", lambda: networks.build("small").features(X, "block4.b"), ("'block4.b'", "did you mean 'block4.bn'")),
    Bad("cut behind", lambda: networks.build("small").logits_from(X, "pol"), ("'pol'", "did you mean 'pool'")),
    Bad("infinite rate", lambda: Schedule(1, peak_rate=math.inf), ("peak_rate = inf", "> 0, such as 0.2")),
    Bad("decay is no number", lambda: Schedule(1, weight_decay=math.nan), ("weight_decay = nan", ">= 0")),
    Bad("large momentum", lambda: Schedule(1, momentum=2), ("momentum = 2", "[0, 1)")),
    Bad("beta is no number", lambda: training.trades(LINF, 2, beta=math.nan), ("beta = nan", ">= 0")),
    Bad("beta of MART", lambda: training.mart(LINF, 2, beta=-1), ("beta = -1", ">= 0")),
    *[Bad(f"trained with {words[0]}", lambda given=given: training.trained("small", IMAGES, **{
          "objective": Standard(), "schedule": Schedule(1, 2), **given}), words) for given, words in (
              ({"objective": Standard}, ("objective = <class", "Standard()")),
              ({"objective": "standard"}, ("objective = 'standard'", "Standard()")),
              ({"schedule": 5}, ("schedule = 5", "Schedule(")),
              ({"device": "tpu"}, ("device = 'tpu'", "did you mean 'cpu'?")),
              ({"device": "cuda:99"}, ("device = 'cuda:99'", "did you mean 'cpu'?")),
              ({"seed": 1.5}, ("seed = 1.5", ">= 0")))],
    Bad("no epochs", lambda: Schedule(0), ("epochs = 0", ">= 1")),
    Bad("broken epochs", lambda: Schedule(1.5), ("epochs = 1.5", "whole number")),  # type: ignore[arg-type]
    Bad("empty batches", lambda: Schedule(1, batch_size=0), ("batch_size = 0", ">= ")),
    Bad("batches of one image", lambda: Schedule(1, batch_size=1), ("batch_size = 1", ">= 2")),  # all would be left out
    Bad("no rate", lambda: Schedule(1, peak_rate=0), ("peak_rate = 0", "> 0")),
    Bad("rate is no number", lambda: Schedule(1, peak_rate=float("nan")), ("peak_rate = nan", "> 0")),
    Bad("precision of training", lambda: training.fit(networks.build("small"), IMAGES, Standard(), Schedule(1),
                                                      precision="float16"),
        ("precision = 'float16'", "float32, bfloat16; did you mean 'bfloat16'?")),
    Bad("precision of a set", lambda: matched(IMAGES, networks.build("small", 2), "x", steps=1, precision="half"),
        ("precision = 'half'", "float32, bfloat16")),
    Bad("labels for TRADES", lambda: TRADES(PGD(LINF, 2)), ("loss = 'cross-entropy'", "'kl'")),
    Bad("optimizer", lambda: Schedule(1, optimizer="adam"), ("optimizer = 'adam'", "'sgd' or 'adamw'", "mean 'adamw'")),
    Bad("training on nothing", lambda: training.fit(networks.build("small"), IMAGES.take(0), Standard(), Schedule(1)),
        ("at least",)),
    Bad("no such network", lambda: training.trained("vgg", IMAGES, Standard(), Schedule(1)), ("'vgg'", "small")),
    # features
    Bad("class without images", lambda: class_weights(Y, 7), ("class 7", "0 of 4")),
    Bad("class with all images", lambda: class_weights(0 * Y, 0), ("class 0", "4 of 4")),
    Bad("feature of no class", lambda: LinearFeature.fitted(X[0], IMAGES, 5), ("class 5", "0 of 4")),
    Bad("wrong loss", lambda: usefulness(networks.build("small"), IMAGES, 0, PGD(LINF)),
        ("'cross-entropy'", "'margin'")),
    # results
    Bad("k above n", lambda: wilson(3, 2), ("k = 3", "n = 2", "0 <= k <= n")),
    Bad("n = 0", lambda: wilson(0, 0), ("n = 0", "n >= 1")),
    Bad("one seed", lambda: student_t([0.5]), ("1 value", "at least 2")),
    Bad("unequal ranks", lambda: rank_correlation([1, 2], [1, 2, 3]), ("2 and 3 values", "2 to 9 pairs")),
    Bad("too many ranks", lambda: rank_correlation(range(10), range(10)), ("10 and 10 values", "2 to 9 pairs")),
    Bad("transfer of two models", lambda: transfer_rate(CLEAN, outcome(model="n")), ("'m'", "'n'", "one model")),
    Bad("transfer of two keys", lambda: transfer_rate(CLEAN, outcome(key=("model-b",))), ("model-a", "one key")),
    Bad("transfer of two sets", lambda: transfer_rate(CLEAN, replace(CLEAN, attack="A", inputs=("model-a", "f2"))),
        ("'f1'", "'f2'", "one fingerprint")),
    Bad("transfer turned round", lambda: transfer_rate(outcome(), CLEAN), ("under A", "expected the clean one")),
    Bad("worst case of two keys", lambda: worst_case([CLEAN, replace(CLEAN, key=("model-b",))]), ("'model-b'", "key")),
    Bad("worst case of two sets", lambda: worst_case([CLEAN, replace(CLEAN, inputs=("f2",))]), ("'f1'", "'f2'")),
    Bad("one picture over all", lambda: transfer_perturbation(SMALL, SET, SET, SET.take(1)), ("(1, 3,", "one shape")),
    Bad("targeted", lambda: evaluate(SMALL, SET, PGD(LINF, targeted=True)), ("targeted)", "expected an untargeted")),
    Bad("targeted CW", lambda: evaluate(SMALL, SET, CW(targeted=True)), ("CW(", "expected an untargeted attack")),
    Bad("targeted transfer", lambda: transfer_matrix([SMALL], SET, CW(targeted=True)), ("expected an untargeted",)),
    Bad("targeted in usefulness", lambda: usefulness(SMALL, SET, 0, PGD(LINF, loss="margin", targeted=True)),
        ("targeted)", "expected an untargeted attack")),
    Bad("targeted in training", lambda: training.Adversarial(PGD(LINF, targeted=True)),
        ("attack = PGD", "an untargeted")),
    Bad("targeted TRADES", lambda: TRADES(PGD(LINF, loss="kl", targeted=True)), ("attack = PGD", "an untargeted")),
    Bad("a gap of nothing", lambda: accuracy_gap([], [CLEAN]), ("0 and 1 outcomes", "at least one")),
    Bad("one attack for a curve", lambda: accuracy_curve(SMALL, SET, FGSM(LINF)), ("attacks = FGSM", "a list")),  # type: ignore[arg-type]
    Bad("no such class", lambda: evaluate(SMALL, SET, read=lambda model, x: Y - 1), ("from -1 to", "0 to 9")),
    Bad("quality as text", lambda: jpeg(SET, "75"), ("'75'", "1 to 95")),  # type: ignore[type-var]
    Bad("no paradigm", cross_paradigm, ("no values", "one for each")),
    Bad("no class to guess", lambda: above_chance(0.5, 0.6, 0), ("num_classes = 0", ">= 2")),
    Bad("teacher of other classes", lambda: D_rand(SET, nn.Sequential(small(5)), steps=1), ("5 classes", "has 10")),
    Bad("a set twice", lambda: Result.of("a", "w", [CLEAN, CLEAN]), ("stands twice", "for each seed")),
    Bad("transfer from itself", lambda: health_checks(SMALL, SET, PGD(LINF, 1), transfer_from=SMALL),
        ("the model itself", "independently")),
    Bad("an array to predict", lambda: predict(SMALL, np.ones((4, 3, 32, 32))), ("a ndarray", "(N, 3, H, W)")),  # type: ignore[arg-type]
    Bad("channels last", lambda: predict(SMALL, torch.ones(4, 32, 32, 3)), ("(4, 32, 32, 3)", "(N, 3, H, W)")),
    Bad("energy below 0", lambda: random_masks(torch.ones(4, 3) > 0, SET, energy=-torch.ones(4, 3)), ("-1", ">= 0")),
    Bad("a folder for artifacts", lambda: load_or_build("../x", {}, dict), ("'../x'", "'model'")),
    Bad("a step of no length", lambda: PGD(LINF, 10, 0), ("step_size = 0", "2/255")),
    *(Bad(f"seed {seed!r} in {name}", lambda call=call, seed=seed: call(seed), (f"seed = {seed!r}", "whole number"))
      for seed in (-1, "0", 1.5, None) for name, call in (
          ("fit", lambda seed: training.fit(small(), SET, Standard(), Schedule(1), seed)),
          ("wrong_labels", lambda seed: wrong_labels(Y, 10, seed)),
          ("untrained", lambda seed: untrained(SimCLR(), 32, seed)),
          ("D_rand", lambda seed: D_rand(SET, SMALL, steps=1, seed=seed)),
          ("random_masks", lambda seed: random_masks(torch.ones(4, 3) > 0, SET, seed)))),
    *(Bad(f"{name} by weights", call, ("one key",)) for name, call in (
        ("worst case", lambda: worst_case([evaluate(small(), SET), evaluate(networks.build("small", 10, 1), SET)])),
        ("transfer", lambda: transfer_rate(evaluate(small(), SET), evaluate(networks.build("small", 10, 1), SET))))),
    Bad("health checks of CW", lambda: health_checks(SMALL, SET, CW(), transfer_from=SMALL),  # type: ignore[arg-type]
        ("attack = CW", "expected PGD")),
    Bad("a radius for a threat", lambda: evaluate(SMALL, SET, Own(None, 0.03)), ("threat = 0.03", "ThreatModel(")),
    Bad("no attack for a matrix", lambda: transfer_matrix([SMALL], SET, None), ("None", "an attack")),  # type: ignore[arg-type]
    *(Bad(f"an attack gives {words}", lambda made=made: evaluate(SMALL, SET, Own(made)), ("Own() returned", words))
      for made, words in ((None, "a NoneType; expected floats (4, 3, 32, 32)"), (np.ones(3), "a ndarray"),
                          (torch.ones(1, 3, 32, 32), "(1, 3, 32, 32)"), (torch.tensor(0.5), "()"),
                          (torch.ones(4, 1, 32, 32), "(4, 1, 32, 32)"), (torch.ones(4, 3, 32, 32).byte(), "uint8"))),
    *(Bad(f"read gives {words}", lambda said=said: evaluate(SMALL, SET, read=lambda model, x: said),
          ("read returned", words))
      for said, words in ((torch.zeros(4, 1).long(), "torch.int64 (4, 1); expected int64 (4,)"), (None, "a NoneType"),
                          (torch.tensor(3), "()"), (torch.zeros(4), "float32 (4,)"), (Y[:1], "(1,)"))),
    Bad("a vector to minimise", lambda: training.fit(small(), SET, lambda m, x, y, g: m(x).sum(1), Schedule(1)),
        ("objective returned torch.float32 (4,); expected floats ()",)),
    Bad("a float to minimise", lambda: training.fit(small(), SET, lambda *_: 1.0, Schedule(1)), ("returned a float",)),  # type: ignore[arg-type, return-value]
    Bad("a loss by itself", lambda: training.fit(small(), SET, lambda *_: torch.tensor(1.0), Schedule(1)),
        ("without a gradient",)),
    Bad("too few classes", lambda: training.fit(small(3), replace(SET, y=Y + 7), Standard(), Schedule(1)),
        ("label 8", "3 classes")),
    Bad("a list of images", lambda: training.fit(small(), [SET], Standard(), Schedule(1)),  # type: ignore[arg-type]
        ("images = [", "an ImageSet")),
    Bad("class as text", lambda: usefulness(SMALL, SET, "1"), ("target = '1'", "whole number")),  # type: ignore[arg-type]
    Bad("a class from behind", lambda: matched_filter(PlantedWorld(), -1), ("target = -1", ">= 0")),
    Bad("radius below 0", lambda: population_usefulness(PlantedWorld(), 0, -1, torch.ones(2, 2)), ("eps = -1", ">= 0")),
    Bad("residuals of none", lambda: residuals(SET, SMALL, n=-1), ("n = -1", ">= 1")),
    Bad("encoder on no device", lambda: untrained(SimCLR(), device="tpu"), ("device = 'tpu'", "did you mean 'cpu'")),
    Bad("endless penalty", lambda: linear_probe(Backbone(SMALL), SET, math.inf), ("penalty = inf", "finite")),
    Bad("no number to rank", lambda: rank_correlation([1, float("nan"), 3], [1, 2, 3]), ("nan", "finite numbers")),
    Bad("text to rank", lambda: rank_correlation("abc", "abc"), ("'a'", "expected finite numbers")),  # type: ignore[arg-type]
    Bad("classes for verdicts", lambda: mcnemar(Y, Y), ("torch.int64", "expected bool")),
    Bad("percent for a confidence", lambda: wilson(2, 10, 95), ("confidence = 95", "[0, 1)")),
    Bad("percent for Student's t", lambda: student_t([1, 2], 95), ("confidence = 95", "[0, 1)")),
    Bad("all confidence", lambda: student_t([1, 2], 1), ("confidence = 1", "[0, 1)")),
    Bad("one seed to detect with", lambda: detectable(1), ("0 degrees", "two seeds")),
    Bad("power in percent", lambda: detectable(3, 80), ("power = 80", "[0, 1)")),
    Bad("unequal pairs", lambda: mcnemar(Y > 0, Y[:3] > 0), ("(4,)", "(3,)", "same images")),
    Bad("nothing measured", lambda: Result.of("a.b", "w", []), ("a.b", "nothing was measured")),
    Bad("two attacks", lambda: Result.of("a.b", "w", [outcome(), outcome(attack="B")]), ("a.b", "['A', 'B']")),
    Bad("outcome and number", lambda: Result.of("a.b", "w", [outcome(), 0.5]), ("a.b",)),  # type: ignore[list-item]
    Bad("paper", lambda: published("kim2020"), ("'kim2020'", "kim2021")),
    Bad("column", lambda: published("kim2021", tables="Table 1"), ("tables", "table, dataset, model")),
    Bad("several numbers", lambda: published("kim2021", table="Table 1"), ("kim2021", "Table 1", "exactly one")),
    Bad("cell", lambda: published("kim2021", "Table 1", "VGG16"), ("'VGG16'", "did you mean 'VGG-16'")),
    Bad("no number", lambda: published("kim2021", table="Table 99"), ("0 published numbers", "exactly one")),
    Bad("claim", lambda: claims.find("tile-is-usefull"), ("'tile-is-usefull'", "did you mean 'tile-is-useful'")),
    # figures
    Bad("no alternative text", lambda: image_grid({"a": X}, alt="plot", caption="c"), ("alt = 'plot'", "a sentence")),
    Bad("short line", lambda: curves({"a": [result()]}, [0, 1], xlabel="x", ylabel="y", alt=ALT, caption="c"),
        ("'a'", "1 results for 2")),
    Bad("picture without words", lambda: Picture(None, alt="", caption="c"), ("alt = ''",)),  # type: ignore[arg-type]
    Bad("unequal rows", lambda: image_grid({"a": X, "b": X[:3]}, alt=ALT, caption="c"), ("'b'", "3 images", "4")),
    Bad("pixels of a grid", lambda: image_grid({"a": 2 * X - 2}, alt=ALT, caption="c"), ("'a'", "-1", "[0, 1]")),
    # parameters
    Bad("misspelt parameter", resolving(epz=0.1), ("parameter 'epz'", "did you mean 'eps'"), ParameterError),
    Bad("profile", resolving(profile="quik"), ("'quik'", "quick", "did you mean 'quick'"), ParameterError),
    Bad("profile of a wrong type", resolving(profile=5), ("profile = 5", "quick"), ParameterError),
    Bad("eps", resolving(eps=8), ("eps = 8", "pixels are in [0, 1]; did you mean 8/255?"), ParameterError),
    Bad("eps in words as a parameter", resolving(eps="big"), ("eps = 'big'", "8/255"), ParameterError),
    Bad("eps true", resolving(eps=True), ("eps = True", "number"), ParameterError),
    Bad("text for a count", resolving(steps="many"), ("steps = 'many'", "a whole number"), ParameterError),
    Bad("part of a seed", resolving(seeds=2.5), ("seeds = 2.5", "integer"), ParameterError),
    Bad("true for a count", resolving(seeds=True), ("seeds = True", "number"), ParameterError),
    Bad("no seeds", resolving(seeds=0), ("seeds = 0", "greater than or equal to 1"), ParameterError),
    Bad("too many seeds", resolving(seeds=101), ("seeds = 101", "less than or equal to 100"), ParameterError),
    Bad("negative epochs", resolving(epochs=-3), ("epochs = -3", "greater than or equal to 1"), ParameterError),
    Bad("dataset as a parameter", resolving(dataset="cifar"), ("'cifar'", "did you mean 'cifar10'"), ParameterError),
    Bad("number for a dataset", resolving(dataset=10), ("'10'", "planted"), ParameterError),
    Bad("missing folder as a parameter", resolving(dataset="folder:/nowhere"), ("/nowhere", "<class>"), ParameterError),
    Bad("network as a parameter", resolving(network="vgg"), ("'vgg'", "small"), ParameterError),
    Bad("size of encoders", resolving(encoder_size="papers"),
        ("encoder_size = 'papers': expected one of small, paper; did you mean 'paper'",), ParameterError),
    Bad("device", resolving(device="gpu"), ("device = 'gpu'", "auto, cpu, mps or cuda"), ParameterError),
    Bad("list for a count", resolving(steps=[1]), ("steps = [1]", "number"), ParameterError),
    # the store
    Bad("tensor in a recipe", lambda: load_or_build("model", {"x": X}, dict), ("Tensor", "plain values"), TypeError),
    *[Bad(f"an artifact of {made!r}", lambda made=made: load_or_build("model", {"x": 1}, lambda: made),
          (f"build returned {made!r}", "name -> tensor")) for made in (None, [1], {"x": 1})],
    Bad("path in a recipe", lambda: load_or_build("model", {"x": [Path()]}, dict), ("Path", "plain values"), TypeError),
]


def check(case: Bad) -> None:
    with pytest.raises(case.error) as caught:
        case.call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in case.words:
        assert word in message, message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_gets_one_clear_line(case: Bad) -> None:
    check(case)


# --- folders ------------------------------------------------------------------------------------------------------

def one_image(path: Path, side: int = 32) -> None:
    """An image of its own for each path: of its class, number and split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = zlib.crc32("/".join(path.parts[-3:]).encode()).to_bytes(4, "big")[:3]
    Image.new("RGB", (side, side), tuple(colour)).save(path)


def sound(root: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for index in range(3):
                one_image(root / split / name / f"{index}.png")


def without_train(root: Path) -> None:
    for path in (root / "train").rglob("*.png"):
        path.unlink()
    for path in (root / "train").iterdir():
        path.rmdir()
    (root / "train").rmdir()


def without_classes(root: Path) -> None:
    for split in ("train", "test"):
        for path in (root / split).rglob("*.png"):
            path.unlink()
        for path in (root / split).iterdir():
            path.rmdir()


def one_class(root: Path) -> None:
    for split in ("train", "test"):
        for path in (root / split / "dog").iterdir():
            path.unlink()
        (root / split / "dog").rmdir()


def truncated(root: Path) -> None:
    path = root / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:50])


FOLDERS: Mapping[str, tuple[Callable[[Path], object], int | None, tuple[str, ...]]] = {
    "no train": (without_train, None, ("no folder", "train", "<class>")),
    "no classes": (without_classes, None, ("train", "0 class folders", "at least two")),
    "one class": (one_class, None, ("train", "1 class folders", "at least two")),
    "class only in train": (lambda root: one_image(root / "train" / "owl" / "0.png"), None,
                            ("different class folders", "only in train: owl")),
    "class only in test": (lambda root: one_image(root / "test" / "owl" / "0.png"), None, ("only in test: owl",)),
    "empty class": (lambda root: [(root / split / "owl").mkdir() for split in ("train", "test")], None,
                    ("owl: no images", ".png")),
    "no image": (lambda root: (root / "train" / "cat" / "2.png").write_text("hello"), None,
                 ("train/cat/2.png", "not a readable image")),
    "truncated image": (truncated, None, ("train/dog/1.png", "not a readable image")),
    "empty file": (lambda root: (root / "train" / "cat" / "0.png").write_bytes(b""), None,
                   ("train/cat/0.png", "not a readable image")),
    "odd size": (lambda root: one_image(root / "train" / "dog" / "wide.png", 40), None,
                 ("train/dog/wide.png: 40 x 40 pixels", "32 x 32", "one size")),
    "too many": (lambda root: None, 7, ("n = 7", "train", "6 images")),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_bad_folders_get_one_clear_line(name: str, tmp_path: Path) -> None:
    damage, n, words = FOLDERS[name]
    sound(tmp_path)
    assert len(load(f"folder:{tmp_path}", "train")) == 6
    damage(tmp_path)
    check(Bad(name, lambda: load(f"folder:{tmp_path}", "train", n), words, DataError))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no"
    check(Bad("", lambda: class_names(f"folder:{missing}"), (f"no folder {missing};", "<class>"), DataError))


def test_a_folder_without_its_prefix_is_recognised(tmp_path: Path) -> None:
    check(Bad("", lambda: load(str(tmp_path), "train"), (f"did you mean 'folder:{tmp_path}'",), DataError))


def test_a_file_where_downloads_should_go_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    check(Bad("", lambda: load("cifar10", "train"), (f"cifar10: could not be downloaded or read in {tmp_path}/data",
                                                     "a copy on disk can be used as folder:PATH"), DataError))


@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("File corrupted."), OSError(),
                                   IncompleteRead(b""), TarError("truncated header"), EOFError()],
                         ids=["two lines", "corrupted", "no words", "cut off", "no archive", "cut short"])
@pytest.mark.parametrize(("dataset", "name"), [("cifar10", "CIFAR10"), ("svhn", "SVHN")])
def test_a_failed_download_is_one_line(dataset: str, name: str, error: Exception,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, name, fail)
    check(Bad("", lambda: load(dataset, "train"), (dataset, "could not be downloaded", "folder:PATH"), DataError))


# --- records and claims -------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "words"), [
    ("{", ("not a record of results",)),
    ("[]", ("not a record of results",)),
    ('{"results": []}', ("not a record of results", "schema")),
    ('{"schema": 1}', ("not a record of results",)),
    ('{"schema": ' + 5000 * "9" + "}", ("not a record of results",)),
    ('{"results": [], "schema": ' + 4000 * "9" + "}", ("schema 999", "expected 1")),
    (json.dumps({"schema": results.SCHEMA + 1, "results": []}), ("schema 2", "expected 1", "run the chapter again")),
])
def test_bad_records_get_one_clear_line(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "01.json"
    path.write_text(text)
    check(Bad("", lambda: results.read(path), (str(path), *words)))


D_NR = "{table: README of the authors' constructed data sets, method: standard training on D_NR, quantity: accuracy}"


@pytest.mark.parametrize(("old", "new", "words"), [
    ("least_n: 100", "least_n: 0", ("'a-claim'", "least_n")),
    ("least_seeds: 3", "least_seed: 3", ("'a-claim'", "least_seed")),
    ("{above: 0.5}", "{}", ("'a-claim'", "exactly one of 'above', 'below' and 'within'")),
    ("{above: 0.5}", "{above: 0, below: 1}", ("'a-claim'", "exactly one of 'above', 'below' and 'within'")),
    ("{above: 0.5}", "{within: -0.5}", ("'a-claim'", "criterion.within", "greater than 0")),
    ("role: paper", "role: referee", ("'a-claim'", "role", "'paper', 'control' or 'sanity'", "'referee'")),
    ("least_seeds: 3", "least_seeds: 1", ("'a-claim'", "least_seeds", "greater than or equal to 2")),
    ("  published", "  gates: {a.b: {beside: 0}}\n  published", ("'a-claim'", "gates.a.b.beside")),
    ("  published", "  arms: a.b\n  published", ("'a-claim'", "arms")),
    ("{above: 0.5}", "{over: 0.5}", ("'a-claim'", "criterion.over")),
    ("{above: 0.5}", "{above: high}", ("'a-claim'", "criterion.above")),
    ("id: a-claim", "id: A Claim", ("'A Claim'", "id")),
    ("fixed: 2026-11-21", "fixed: soon", ("'a-claim'", "fixed")),
    ("A pattern can be a useful feature.", "Short.", ("'a-claim'", "paraphrase")),
    ("  statistic: known.tile\n", "", ("'a-claim'", "statistic")),
    ("  criterion: {above: 0.5}\n", "", ("'a-claim'", "criterion: Field required")),
    ("published: none", "place2: none", ("'a-claim'", "place2")),
    ("  published: none\n", "", ("'a-claim'", "exactly one of 'published'", "and 'value'")),
    ("  published: none\n", f"  value: [{D_NR}]\n", ("'a-claim'", "'value' needs a 'setting'")),
    ("  published: none\n", f"  value: [{D_NR.replace('D_NR', 'D_N')}]\n  setting: {{dataset: cifar10}}\n",
     ("'a-claim'", "standard training on D_N,", "0 published numbers fit, expected exactly one")),
    ("  published", "  setting: {dataset: svnh}\n  published", ("'a-claim': setting: dataset = 'svnh'", "mean 'svhn'")),
    ("  published", "  setting: {dataset: svhn, network: vgg61}\n  published",
     ("'a-claim': setting: network = 'vgg61'", "did you mean 'vgg16'")),
    ("  published", "  setting: {dataset: svhn, netwrok: vgg16}\n  published",
     ("'a-claim': setting: parameter 'netwrok'", "did you mean 'network'")),
    ("  published", "  setting: {dataset: svhn, train_size: many}\n  published", ("setting: train_size = 'many'",)),
    ("  published", "  setting: {network: vgg16}\n  published", ("setting: expected the dataset of the paper",)),
    ("  published", "  setting: {}\n  published", ("'a-claim': setting",)),
    ("", CLAIM, ("'a-claim'", "stands twice")),
])
def test_bad_claims_get_one_clear_line(old: str, new: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(CLAIM)
    assert list(claims.load(path)) == ["a-claim"]
    claims.load.cache_clear()
    path.write_text(CLAIM.replace(old, new, 1))
    check(Bad("", lambda: claims.load(path), ("claims.yml", *words)))
    claims.load.cache_clear()
