"""Networks made by others under audit: what is refused by name, what masks, and what the report says."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nbutils import audit
from nbutils.audit import (
    Normalise,
    Suspect,
    check_mechanics,
    check_pixels,
    load_weights,
    made,
    masked_by,
    masking_checks,
    split,
    straight_through,
)
from nbutils.images import ImageSet, PlantedSet
from nbutils.networks import SplitClassifier
from nbutils.robustness import PGD, ThreatModel, evaluate
from nbutils.robustness.evaluate import Check
from tests.helpers import assert_one_line

INSIDE = Normalise()
CPU = torch.device("cpu")


class Net(nn.Module):
    """A small network of the usual form; `first` stands before it, `last` behind it."""

    def __init__(self, first: nn.Module | None = None, last: nn.Module | None = None, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = first or nn.Identity()
            self.conv, self.act = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(inplace=True)
            self.head = nn.Linear(8 * 64, classes)
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.act(self.conv(self.first(x))).view(len(x), -1)))


class Lambda(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Counts(nn.Module):
    """Answers differently each time, and no buffer tells."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class KeepsTraining(nn.BatchNorm2d):
    """Takes its statistics from the batch, also in evaluation mode; without running ones nothing is written."""

    def __init__(self) -> None:
        super().__init__(3, track_running_stats=False)


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


class Quantise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 7).round() / 7


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x * 7).round() / 7).detach()


class Shrinks(nn.Module):
    """Masks, and cannot be taken for the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 3)[:, :, :, ::2].detach()


@pytest.fixture
def few() -> Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def written(x: Tensor) -> Tensor:
    return x.mul_(2)


# --- mechanics ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("network", "words"), [
    (Net(Lambda(written)), ("'first' (Lambda) works in place on the images", "x.clone()")),
    (Net(nn.Hardtanh(0.2, 0.8, inplace=True)), ("'first' (Hardtanh) works in place",)),
    (Net(Lambda(lambda x: x + torch.randn_like(x))), ("the network is random: 'first' (Lambda) draws",)),
    (Net(Counts()), ("has a state", "differs from 'first' (Counts) on")),
    (Net(AlwaysTraining(3)), ("has a state", "changes 'first.running_mean'")),
    (Net(KeepsTraining()), ("depends on the others in its batch, from 'first' (KeepsTraining) on",)),
    (Net(Lambda(lambda x: x - x.mean(0))), ("depends on the others in its batch, from 'first' (Lambda)",)),
    (Net(classes=7), ("returns (8, 7); expected logits (8, 10)",)),
    (Net(last=Lambda(lambda z: (z, z))), ("returns tuple; expected logits (8, 10)",)),  # type: ignore[arg-type]
    (Net(last=Lambda(lambda z: z / 0)), ("logits that are not finite",)),
    (Net(nn.Conv2d(1, 3, 1)), ("fails on images (8, 3, 32, 32): RuntimeError",)),
])
def test_a_network_that_cannot_be_audited_is_named(network: nn.Module, words: tuple[str, ...], few: Tensor) -> None:
    network.train()  # as factories give them
    assert_one_line(lambda: check_mechanics(network, INSIDE, few, 10), words)


def test_weights_that_are_not_finite_are_named(few: Tensor) -> None:
    network = Net()
    network.conv.bias.data[3] = torch.nan
    assert_one_line(lambda: check_mechanics(network, INSIDE, few, 10), ("not finite", "conv.bias is not finite either"))


@pytest.mark.parametrize("network", [Net(), Net(nn.BatchNorm2d(3)), Net(nn.Dropout()), Net(Quantise()),
                                     nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))])
def test_a_usual_network_passes(network: nn.Module, few: Tensor) -> None:
    before = few.clone()
    check_mechanics(network, Normalise.of("0.5/0.25"), few, 10)
    assert torch.equal(few, before)


# --- masked gradients ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("network", "name", "reached"), [
    (Net(), "", 1), (Net(Quantise()), "'first' (Quantise)", 0), (Net(Detached()), "'first' (Detached)", 0),
    (Net(Lambda(torch.sign)), "'first' (Lambda)", 0), (Net(last=Lambda(lambda z: z.round())), "'last' (Lambda)", 0),
    (Net(Lambda(lambda x: torch.sigmoid(1e4 * (x + 1)))), "'first' (Lambda)", 0),  # which saturates
])
def test_the_module_in_which_the_gradient_ends_is_named(network: nn.Module, name: str, reached: float,
                                                        few: Tensor) -> None:
    assert masked_by(network.eval(), INSIDE, few, torch.arange(8)) == (name, reached)


def test_an_operation_in_place_that_destroys_a_gradient_is_named(few: Tensor) -> None:
    network = Net(nn.Sequential(nn.Sigmoid(), Lambda(written)))
    check_mechanics(network, INSIDE, few, 10)
    assert_one_line(lambda: masked_by(network, INSIDE, few, torch.arange(8)),
                    ("no gradient: RuntimeError: one of the variables", "in place works: 'first.1' (Lambda)"))
    network = Net(last=Lambda(lambda z: written(z.exp())))  # beside a ReLU in place, which does no harm
    assert_one_line(lambda: masked_by(network, INSIDE, few, torch.arange(8)), ("in place works: 'last' (Lambda);",))


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        raise NotImplementedError("none here")


@pytest.mark.parametrize(("first", "words"), [
    (Lambda(Backward.apply), "NotImplementedError: none here"),
    (Lambda(lambda x: torch.from_numpy(x.numpy())), "RuntimeError: Can't call numpy() on Tensor that requires grad."),
])
def test_code_that_fails_for_want_of_a_gradient_is_named(first: nn.Module, words: str, few: Tensor) -> None:
    check_mechanics(Net(first), INSIDE, few, 10)
    with pytest.raises(ValueError, match="the network has no gradient: ") as caught:
        masked_by(Net(first), INSIDE, few, torch.arange(8))
    assert words in str(caught.value)
    assert "test_audit.py, line" in str(caught.value)
    assert "in place" not in str(caught.value)


class NotANumber(nn.Module):
    """Sound logits; the gradient of a square root at 0 is infinite, and 0 times that no number."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (0 * x).sqrt()


def test_a_gradient_that_is_no_number_is_none(few: Tensor) -> None:
    y = torch.arange(8)
    assert masked_by(Net(NotANumber()).eval(), INSIDE, few, y) == ("'first' (NotANumber)", 0)
    suspect = Suspect.of(Net(NotANumber()).eval(), INSIDE, ImageSet(few, y, tuple("abcdefghij"), "few", "none"), CPU)
    assert (suspect.masks, suspect.reached) == (("'first' (NotANumber)",), 0)
    alone = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    alone.register_forward_hook(lambda _, inputs, logits: logits + (0 * inputs[0]).sum((1, 2, 3))[:, None].sqrt())
    assert_one_line(lambda: Suspect.of(alone.eval(), INSIDE, ImageSet(few, y, tuple("abcdefghij"), "few", "none"), CPU),
                    ("masking: no finite gradient passes ",))


def test_straight_through_keeps_the_answers_and_gives_a_gradient(few: Tensor) -> None:
    for layer in (Quantise(), Detached()):
        network = Net(layer).eval()
        through = straight_through(network, masked_by(network, INSIDE, few, torch.arange(8))[0], INSIDE, few)
        assert through is not None
        assert torch.allclose(through(few), network(few), atol=1e-5)
        assert masked_by(through, INSIDE, few, torch.arange(8)) == ("", 1)
    assert straight_through(Net(), "Net", INSIDE, few) is None
    halves = nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), Net())
    assert straight_through(halves.eval(), "'0' (AvgPool2d)", INSIDE, few) is None  # of another shape


# --- pixels, cut, weights -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("given", "inside"), [("inside", True), ("0.5/0.25", False), ("0.1,0.2,0.3/1,2,4", False)])
def test_normalisation_is_what_its_words_say(given: str, inside: bool, few: Tensor) -> None:
    found = Normalise.of(given)(few)
    if inside:
        assert torch.equal(found, few)
        return
    mean, std = ([float(number) for number in part.split(",")] * 3 for part in given.split("/"))
    for channel in range(3):
        assert torch.allclose(found[:, channel], (few[:, channel] - mean[channel]) / std[channel])


@pytest.mark.parametrize("given", ["", "outside", "0.5", "0.5/0", "0.5/-1", "0.5/nan", "1,2/1", "1,2,3/1,2", "a/b",
                                   "1/2/3", "\N{FULLWIDTH DIGIT ZERO}.5/0.5", "0_5/1"])
def test_another_normalisation_is_refused(given: str) -> None:
    assert_one_line(lambda: Normalise.of(given), ("normalisation = ", "expected inside", "such as 0.485"))


def test_the_cut_is_before_the_last_linear_layer(few: Tensor) -> None:
    network = Net().eval()
    model = split(network, Normalise.of("0.5/0.25"), few, "x")
    expected = network((few - 0.5) / 0.25)
    channels_last = few.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.allclose(model(few), expected, atol=1e-6)
        z = model.features(channels_last, "pool")
        assert z.shape == (8, 512)
        assert torch.allclose(model.logits_from(z, "pool"), expected, atol=1e-5)
    assert "pool" not in split(Net(last=nn.Softmax(1)).eval(), INSIDE, few, "x").cuts


class Sliced(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :10]


class Cast(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


@pytest.mark.parametrize("network", [
    Sliced(classes=20), Cast(), Net(last=Lambda(lambda z: z.neg_())),
    Net(last=Lambda(lambda z: z.add_(torch.arange(10)))),
    Net(last=nn.Hardtanh(-1e3, 1e3, inplace=True)),  # which differs on other images
], ids=["slice", "autocast", "negative", "prior", "bounds"])
def test_a_network_that_does_not_answer_what_its_last_layer_gives_is_not_cut(network: nn.Module, few: Tensor) -> None:
    model = split(network.eval(), INSIDE, few, "x")
    assert "pool" not in model.cuts
    assert torch.equal(model(few), network(few))


class Detector(Net):
    """It turns its answers round where an image has noise, as none has on which it is looked at."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) > 0.03
        return torch.where(rough[:, None], -z, z) if rough.any() else z


def test_what_follows_the_last_layer_on_other_images_belongs_to_the_network(few: Tensor) -> None:
    network, smooth = Detector().eval(), few[:, :, :1, :1].expand_as(few)
    assert "pool" in split(Net().eval(), INSIDE, smooth, "x").cuts
    model = split(network, INSIDE, smooth, "x")
    assert "pool" not in model.cuts
    assert torch.equal(model(few), network(few))


def test_an_audit_whose_findings_cannot_be_written_says_so(monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    def full(found: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit, "audit", lambda *words, **given: None)
    assert audit.main(["network=a:b", "normalisation=inside"], full) == 2
    assert capsys.readouterr().err == "what was found cannot be written: [Errno 28] No space left on device\n"


def test_a_quantised_network_gets_one_line(few: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has another way by now
        network = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear}, torch.qint8)
    check_mechanics(network, INSIDE, few, 10)
    data = ImageSet(few, torch.arange(8), tuple("abcdefghij"), "few")
    assert_one_line(lambda: Suspect.of(network, INSIDE, data, CPU), ("the network has no gradient",))


class Inference(Net):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def test_inference_mode_is_named(few: Tensor) -> None:
    assert_one_line(lambda: check_mechanics(Inference(), INSIDE, few, 10),
                    ("torch.inference_mode is on in the network",))


@pytest.fixture(scope="session")
def trained(network_pair: tuple[SplitClassifier, SplitClassifier]) -> nn.Module:
    """A network of ours as others would bring it: for pixels that are normalised outside."""
    return nn.Sequential(*list(network_pair[0].stages)[1:])


def test_other_pixels_and_another_order_of_classes_are_caught(trained: nn.Module, planted_test: PlantedSet) -> None:
    assert check_pixels(trained, "0.5/0.25", planted_test, CPU) == ""
    assert_one_line(lambda: check_pixels(trained, "0/0.00392157", planted_test, CPU),
                    ("expects other pixels", "with normalisation = 0.5/0.25 it would be right on 9"))
    assert "is the one that was given the right one?" in check_pixels(trained, "inside", planted_test, CPU)
    turned = nn.Sequential(trained, Lambda(lambda z: z.roll(1, 1)))
    assert_one_line(lambda: check_pixels(turned, "0.5/0.25", planted_test, CPU),
                    ("if its classes had another order; expected disc, ring",))
    still = nn.Sequential(trained, Lambda(lambda z: 0 * z + torch.arange(10)))
    assert_one_line(lambda: check_pixels(still, "0.5/0.25", planted_test, CPU), ("the logits do not move",))


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    network, other = Net(), Net(classes=3)
    for ending in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        torch.save(network.state_dict(), path := tmp_path / f"mine{ending}")
        assert_one_line(lambda path=path: load_weights(network, path), (
            "no safetensors file", "can run what it likes", f"torch.load('{path}'", f"'{tmp_path}/mine.safetensors'"))
    torch.save(network.state_dict(), path := tmp_path / "pickle.safetensors")
    assert_one_line(lambda: load_weights(network, path), ("no safetensors file",))
    for name in ("none.safetensors", 300 * "x"):
        assert_one_line(lambda name=name: load_weights(network, tmp_path / name), ("weights = ", "no such file",))
    assert_one_line(lambda: load_weights(network, tmp_path), ("not a regular file",))
    weights = {name: value + 1 for name, value in network.state_dict().items()}
    save_file(weights, path := tmp_path / "good.safetensors")
    for renamed in (path, tmp_path / "UP.SAFETENSORS", tmp_path / "bare"):
        load_weights(network, path.rename(renamed))
        path = renamed
        assert torch.equal(network.head.bias, weights["head.bias"])
        network = Net()
    assert_one_line(lambda: load_weights(other, path), ("head.weight is (10, 512); expected (3, 512)",))
    for dtype in (torch.uint8, torch.complex64):
        save_file({**weights, "conv.bias": weights["conv.bias"].abs().to(dtype)}, path)
        assert_one_line(lambda: load_weights(network, path), (f"conv.bias holds numbers of {dtype}; expected torch.",))
    for before in ("module.", "_orig_mod.", "model.", "module._orig_mod."):
        save_file({"epoch": torch.zeros(1), **{f"{before}{name}": value for name, value in weights.items()}}, path)
        assert_one_line(lambda: load_weights(network, path), (
            "lacks 'conv.bias' and 3 more; has, unknown to the network,", "and 4 more", f"; take '{before}' off its"))
    del weights["head.bias"]
    save_file(weights, path)
    assert_one_line(lambda: load_weights(network, path), ("lacks 'head.bias'; expected the network's own names",))


def test_the_command_that_converts_a_pickle_works(tmp_path: Path) -> None:
    given = {name: value + 1 for name, value in Net().state_dict().items()}
    torch.save(given, path := tmp_path / "mine.pth")
    command = audit.CONVERT.format(path, path.with_suffix("")).removeprefix('python -c "').removesuffix('"')
    exec(command, {})
    network = Net()
    load_weights(network, tmp_path / "mine.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(value, given[name]), name


MINE = """
import warnings
import torch
from torch import nn

def make(): return nn.Linear(2, 2)
def sized(num_classes): return nn.Linear(2, num_classes)
def of_torchvision():
    import torchvision
    return torchvision.models.squeezenet1_1(num_classes=3)
def broken(): raise RuntimeError("two\\nlines")
def none(): return 3
value = 3
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
def sets_modes():
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    return make()
def leaves(): raise SystemExit("bye")
class Odd(BaseException): pass
def odd(): raise Odd("odd")

def script():
    with warnings.catch_warnings(action="ignore"): return torch.jit.script(make())
def compiled():
    with warnings.catch_warnings(action="ignore"): return nn.Sequential(torch.compile(make()))

class Small(nn.Linear):
    def __init__(self): super().__init__(3072, 10)
    def forward(self, x):
        assert len(x) <= 8, "eight at most"
        return super().forward(x.flatten(1))
"""
SCRIPT = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--rate')\nparser.parse_args()\n"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("mine_to_audit", MINE), ("script_to_audit", SCRIPT + MINE),
                       ("ends_to_audit", MINE + "import sys\nsys.exit(0)")):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("network", "words"), [
    ("mine_to_audit", ("expected module:factory",)), (":make", ("expected module:factory",)),
    ("mine_to_audits:make", ("ModuleNotFoundError", "mine_to_audits")),
    ("mine_to_audit:maka", ("has no function 'maka'; did you mean 'make'?",)),
    ("mine_to_audit:broken", ("RuntimeError: two lines (mine_to_audit.py, line 11)",)),
    ("mine_to_audit:none", ("makes a int", "torch.nn.Module")),
    ("mine_to_audit:value", ("value is a int; expected a function",)),
    ("mine_to_audit:lazy", ("1.weight has no shape yet", "lazy layers once")),
    ("mine_to_audit:script", ("makes a RecursiveScriptModule", "as it was before torch.compile or torch.jit")),
    ("mine_to_audit:compiled", ("makes a OptimizedModule", "as it was before torch.compile")),
    ("mine_to_audit:leaves", ("SystemExit: bye (mine_to_audit.py, line 19)",)),
    ("mine_to_audit:odd", ("Odd: odd (mine_to_audit.py, line 21)",)),
    ("ends_to_audit:make", ("SystemExit: 0 (ends_to_audit.py, line 34); expected code that does not end the program",)),
    *((name, ("expected module:factory, such as mine:make",)) for name in (
        "./mine:make", ".mine:make", "mine.py:make", "mine/make:make", "mine:make()", "mine:make:x", "mine :make")),
    *((name, (" of its own; expected a file of another name",)) for name in ("json:loads", "sys:exit", "token:make")),
])
def test_a_factory_that_makes_no_network_gets_one_line(mine: None, network: str, words: tuple[str, ...]) -> None:
    assert_one_line(lambda: made(network, 10), (f"network = {network!r}: ", *words))


def test_what_a_factory_sets_ends_with_it(mine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", given := ["audit", "network=mine:make"])
    assert made("script_to_audit:make", 10).weight.shape == (2, 2)  # whose parser knows no network=
    assert sys.argv is given
    assert made("mine_to_audit:sets_modes", 10).weight.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_a_factory_may_take_the_number_of_classes(mine: None) -> None:
    assert made("mine_to_audit:make", 7).weight.shape == (2, 2)
    assert made("mine_to_audit:sized", 7).weight.shape == (7, 2)
    assert made("torchvision.models:squeezenet1_1", 7)(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    assert made("mine_to_audit:of_torchvision", 7)(torch.rand(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(("given", "words"), [
    ([], "network: not given"), (["network=a:b"], "normalisation: not given; expected normalisation=inside"),
    (["netwerk=a:b"], "did you mean 'network'?"), (["network"], "expected name=value"),
    (["network=a:b", "network=a:b"], "network stands twice"),
    (["network=a:b", "normalisation=inside", "profile=quik"], "did you mean 'quick'?"),
    (["network=a:b", "normalisation=inside", "eps=400/255"], "eps"),
])
def test_settings_that_cannot_be_used_get_one_line(given: list[str], words: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(given) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not said.out


def raises(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_their_code_is_blamed_wherever_it_runs_and_ours_is_not(mine: None, monkeypatch: pytest.MonkeyPatch,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    """An assertion that the first images pass fails in `check_pixels`."""
    words = ["network=mine_to_audit:Small", "normalisation=inside", "profile=smoke", "dataset=digits", "train_size=20",
             "test_size=20", "attack_size=20", "costly_size=4", "device=cpu"]
    assert audit.main(words) == 2
    said = capsys.readouterr().err
    assert said == ("network = 'mine_to_audit:Small': AssertionError: eight at most (mine_to_audit.py, line 31)\n")
    monkeypatch.setattr(audit, "made", audit._path)
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        audit.main(words)
    monkeypatch.setattr(audit, "made", raises(KeyboardInterrupt()))
    assert audit.main(words) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_help_is_given(asked: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (audit.__doc__, None):  # as of python -OO
        monkeypatch.setattr(audit, "__doc__", text)
        assert audit.main([asked]) == 0
        assert "python -m nbutils.audit network=mine:make" in capsys.readouterr().out


# --- the report ---------------------------------------------------------------------------------------------------

def failed(checks: list[Check]) -> str:
    return " ".join(check.question + check.seen for check in checks if not check.passed)


ATTACK = PGD(ThreatModel("Linf", "4/255"), 5)


def suspected(network: nn.Module, data: ImageSet) -> Suspect:
    return Suspect.of(network.eval(), Normalise.of("0.5/0.25"), data.take(8), CPU)


def checked(suspect: Suspect, data: ImageSet) -> list[Check]:
    return masking_checks(suspect, data, ATTACK, evaluate(suspect.model, data, ATTACK).accuracy)


def test_a_sound_network_is_weak_and_its_report_says_what_was_done(
        trained: nn.Module, planted_test: PlantedSet, network_pair: tuple[SplitClassifier, SplitClassifier],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """At profile smoke; the networks of ours are not trained for it."""
    shown: list[audit.Audit] = []
    monkeypatch.setattr(audit, "made", lambda name, classes: trained.eval())
    monkeypatch.setattr(audit.training, "trained", lambda *_, **__: network_pair[1])
    monkeypatch.setattr(audit.images, "load", lambda dataset, split, n: planted_test.take(40))
    words = ["network=a:b", "normalisation=0.5/0.25", "profile=smoke", "attack_size=40", "test_size=40",
             "costly_size=4", "eps=4/255", "curve_steps=2", "device=cpu", "precision=float32"]
    status = audit.main(words, shown.append)
    (found,) = shown
    assert status == int(not all(check.passed for check in found.checks))
    text = str(found)
    assert "inside L_inf 4/255, pixels in [0, 1]" in text
    for word in ("clean", "noise", "FGSM", "PGD, margin", "worst case", "APGD-CE", "CW", "FAB", "robustly useful",
                 "PGD-trained (planted)", "ours, adversarial"):
        assert word in text
    row = found.tables[0].rows["yours"]
    few = planted_test.take(40)
    model = suspected(trained, few).model
    assert row["clean"].value == evaluate(model, few).accuracy > 0.9
    assert row["PGD"].value == evaluate(model, few, ATTACK).accuracy < 0.3
    assert "mask" not in text
    assert "gradient" not in failed(found.checks)


@pytest.mark.parametrize("layer", [Quantise(), Detached()])
def test_a_masked_defence_is_named_and_broken_through_its_mask(trained: nn.Module, planted_test: PlantedSet,
                                                               layer: nn.Module) -> None:
    few = planted_test.take(40)
    suspect = suspected(nn.Sequential(nn.Identity(), layer, trained), few)
    assert suspect.masks == (f"'1' ({type(layer).__name__})",)
    said = failed(checked(suspect, few))
    assert f"of 0%; gradient masking, it ends in '1' ({type(layer).__name__})" in said
    assert "takes the masking layer for the identity" in said
    assert evaluate(suspect.model, few, ATTACK).accuracy < 0.4
    assert torch.equal(evaluate(suspect.model, few).prediction, evaluate(suspect.as_it_is, few).prediction)


def test_a_mask_that_cannot_be_passed_is_named(trained: nn.Module, planted_test: PlantedSet) -> None:
    halved = nn.Sequential(nn.Upsample(scale_factor=2), Lambda(lambda x: x.detach()[:, :, ::2, ::2]), trained)
    assert_one_line(lambda: suspected(halved, planted_test), ("masking: no finite gradient passes '1' (Lambda)",))


def test_a_shattered_gradient_is_seen_and_a_sound_one_is_not(trained: nn.Module, planted_test: PlantedSet) -> None:
    """A fine ripple on the pixels: its slope is large and says nothing of where the loss goes."""
    few, question = planted_test.take(40), "Does a small step along the gradient do what the gradient says?"
    rippled = nn.Sequential(Lambda(lambda x: x + 2e-3 * torch.sin(1e5 * x)), trained)
    assert question in failed(checked(suspected(rippled, few), few))
    assert question not in failed(checked(suspected(trained, few), few))


def test_where_no_recorded_network_saw_such_images_the_report_says_so() -> None:
    threat = ThreatModel("Linf", 8 / 255)
    assert audit._recorded("folder: cats", threat).caption.endswith("was tested on images named 'folder: cats'.")
    assert audit._recorded("planted", threat).rows
