"""Your network under our attacks: what it is worth, and whether the attacks on it can be trusted.

    python -m nbutils.audit network=mine:make weights=mine.safetensors normalisation=inside dataset=folder:images

`make` in mine.py makes the network; `normalisation` says what stands between pixels in [0, 1] and the network: "inside"
where the network does it itself, or MEAN/STD with one number or one for each channel. The other names are parameters of
the chapters, see book/profiles. It ends with status 1 where a health check fails, 2 where nothing can be audited, 130
where it is stopped.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from nbutils import features, images, robustness, store, training
from nbutils.console import warn
from nbutils.images import ImageSet
from nbutils.lab.parameters import Parameters, resolve
from nbutils.lab.results import Result, Table, read, wilson
from nbutils.lab.runs import choose_device
from nbutils.machine import ROOT
from nbutils.messages import did_you_mean, read_text, short_repr
from nbutils.networks import SplitClassifier, frozen, in_batches
from nbutils.precision import fastest
from nbutils.robustness import CW, FAB, FGSM, PGD, AutoAttack, Noise, ThreatModel, evaluate
from nbutils.robustness.attacks import margin
from nbutils.robustness.evaluate import Check, Outcome

OWN = ("network", "weights", "normalisation")
TAKEN = ("profile", "dataset", "train_size", "test_size", "attack_size", "costly_size", "epochs", "eps", "steps",
         "curve_steps", "train_steps", "autoattack", "device", "precision")
USUAL = ("inside", "0.5/0.5", "0.5/0.25", "0.485,0.456,0.406/0.229,0.224,0.225",
         "0.4914,0.4822,0.4465/0.247,0.2435,0.2616", "0/0.00392157")  # the last one: pixels from 0 to 255
CONVERT = ("python -c \"import torch; from safetensors.torch import save_file; save_file(torch.load('{0}', "
           "weights_only=True, map_location='cpu'), '{1}.safetensors')\"")
FEW = 8  # images on which the mechanics are tried
NEAR = 0.05  # accuracies of two attacks that find the same differ by less
YOURS = "yours"
LIBRARIES = {"filelock", "nbutils", "numpy", "pyautoattack", "safetensors", "scipy", "sklearn", "torch", "tqdm",
             *sys.stdlib_module_names}  # what runs during an audit beside code of others


class Normalise(nn.Module):
    """Pixels in [0, 1] to what a network expects; without mean and std they are left as they are."""

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # in the order in which networks of others may `view` it
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    @classmethod
    def of(cls, text: str) -> Normalise:
        """Raises ValueError: neither "inside" nor MEAN/STD."""
        if text == "inside":
            return cls()
        try:
            if not re.fullmatch(r"[-+.,/0-9eE ]*", text):  # float() reads 0_5 and the digits of all scripts too
                raise ValueError
            mean, std = (torch.tensor([float(number) for number in part.split(",")]) for part in text.split("/"))
            if {len(mean), len(std)} > {1, 3} or not std.min() > 0 or not torch.isfinite(torch.cat([mean, std])).all():
                raise ValueError
            return cls(*(part.expand(3).view(1, 3, 1, 1).clone() for part in (mean, std)))
        except (ValueError, RuntimeError):
            raise ValueError(f"normalisation = {short_repr(text)}: expected inside, where the network takes pixels in "
                             f"[0, 1], or MEAN/STD for such pixels, such as {USUAL[3]}") from None


class Before(nn.Module):
    """What the last layer of a network is given."""

    def __init__(self, network: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.network, self.last = network, last

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        with self.last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0])):
            self.network(x)
        return found[-1]


class Through(nn.Module):
    """A module with the gradient of the identity: the straight-through attack on a layer that masks its gradient
    (backward pass differentiable approximation, Athalye et al. 2018)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.module(x) - x).detach()


# --- a network made by others -------------------------------------------------------------------------------------

def made(network: str, classes: int) -> nn.Module:
    """What "module:factory" makes, of modules in the working folder too.

    Args:
        classes: given to a factory that takes `num_classes`.

    Raises:
        ValueError: no such module or factory, one that fails or ends the program, or makes no network; in one line.
    """
    module, _, factory = network.partition(":")
    words, dtype = f"network = {short_repr(network)}", torch.get_default_dtype()
    if not all(name.isidentifier() for name in (*module.split("."), factory)) or module.endswith(".py"):
        raise ValueError(f"{words}: expected module:factory, such as mine:make for make() in mine.py")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"{words}: Python has a module {module!r} of its own; expected a file of another name")
    given, sys.argv = sys.argv, sys.argv[:1]  # a module that reads its own is not given ours
    sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module("nbutils.torchvision")  # of which a factory may be: it imports beside any torch
        with blamed(words), torch.enable_grad():  # which ends a mode that they set
            found = importlib.import_module(module)
            make = getattr(found, factory, None)
            if callable(make):
                takes = inspect.signature(make).parameters.values()
                asked = any(one.name == "num_classes" or one.kind is one.VAR_KEYWORD for one in takes)
                model = make(num_classes=classes) if asked else make()
    finally:
        sys.path.pop(0)
        sys.argv = given
        torch.set_default_dtype(dtype)
    if hasattr(found, factory) and not callable(make):
        raise ValueError(f"{words}: {factory} is a {type(make).__name__}; expected a function that makes the network")
    if not callable(make):
        raise ValueError(f"{words}: {module} has no function {factory!r}"
                         f"{did_you_mean(factory, [name for name in vars(found) if name[0] != '_'])}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"{words}: makes a {type(model).__name__}; expected a torch.nn.Module")
    if closed := [type(part).__name__ for part in model.modules()
                  if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod")]:
        raise ValueError(f"{words}: makes a {closed[0]}, whose layers an audit cannot see; expected the module as it "
                         "was before torch.compile or torch.jit")
    if lazy := [name for name, tensor in model.state_dict().items() if is_lazy(tensor)]:
        raise ValueError(f"{words}: {lazy[0]} has no shape yet; expected a factory that calls its lazy layers once")
    return model.float().cpu().eval()


@contextmanager
def blamed(words: str, everything: bool = True) -> Iterator[None]:
    """What code of others raises, an exit too, becomes a ValueError: the words, what it was, and its place in their
    file, in one line.

    everything: also what has no such place, as an error of torch has none.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and others that are no Exception
        place = ""
        for frame, line in traceback.walk_tb(error.__traceback__):
            spec = frame.f_globals.get("__spec__")  # whose name `python -m` leaves alone
            if not spec or spec.name.partition(".")[0] not in LIBRARIES:
                place = f" ({os.path.relpath(frame.f_code.co_filename)}, line {line})"
        if not (place or everything):
            raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")
        hint = "; expected code that does not end the program" * isinstance(error, SystemExit)
        raise ValueError(f"{words}: {told}{place}{hint}") from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Give the model the weights in a safetensors file.

    Raises:
        ValueError: another format (the line says how to convert a pickle), no such file, or names, shapes and kinds of
            numbers that are not the model's; in one line.
    """
    words = f"weights = {short_repr(str(path))}"
    if not os.path.isfile(path):  # not Path.is_file, which stops at a name that is too long
        raise ValueError(f"{words}: {'not a regular' if os.path.exists(path) else 'no such'} file; expected one that "
                         "ends in .safetensors")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        hint = (", for reading a pickle can run what it likes; convert one that you trust with "
                f"{CONVERT.format(path, path.with_suffix(''))}") * (path.suffix.lower() != ".safetensors")
        raise ValueError(f"{words}: no safetensors file ({error}); expected one{hint}") from None
    own = model.state_dict()
    absent, more = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if absent or more:
        before = {name.removesuffix(absent[0]) for name in more if absent and name.endswith(absent[0])}
        hint = "".join(f"; take {prefix!r} off its names" for prefix in before
                       if all(prefix + name in weights for name in own))
        found = [f"{verb} {names[0]!r}" + f" and {len(names) - 1} more" * (len(names) > 1)
                 for verb, names in (("lacks", absent), ("has, unknown to the network,", more)) if names]
        raise ValueError(f"{words}: {'; '.join(found)}; expected the network's own names{hint}")
    for name, tensor in own.items():
        if weights[name].shape != tensor.shape:
            raise ValueError(f"{words}: {name} is {tuple(weights[name].shape)}; expected {tuple(tensor.shape)}")
        if len({(one.is_floating_point(), one.is_complex()) for one in (weights[name], tensor)}) > 1:
            raise ValueError(f"{words}: {name} holds numbers of {weights[name].dtype}; expected {tensor.dtype}")
    model.load_state_dict(weights)


@dataclass
class Step:
    """One call of a module.

    Attributes:
        kept: a copy of the output, which later modules may change in place. written: it has changed its input in place.
        gradients: of the loss, in "input" and "output".
    """

    name: str
    input: Tensor
    output: Tensor
    kept: Tensor
    written: bool
    gradients: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def _traced(network: nn.Module) -> Iterator[list[Step]]:
    """The calls of modules, inner ones first, that map one tensor to one."""
    steps: list[Step] = []
    before: list[tuple[Tensor, int] | None] = []

    def entered(module: nn.Module, inputs: Any) -> None:
        given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        before.append(None if given is None else (given, given._version))

    def left(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if (came := before.pop()) is None or not isinstance(output, Tensor):
            return
        if output.is_inference():
            raise ValueError("torch.inference_mode is on in the network; expected torch.no_grad, or neither")
        step = Step(name, came[0], output, output.detach().clone(), came[0]._version != came[1])
        for side in ("input", "output"):
            tensor = getattr(step, side)
            if tensor.requires_grad and not step.written:
                tensor.register_hook(lambda gradient, side=side: step.gradients.update({side: gradient}))
        steps.append(step)

    with ExitStack() as hooks:
        for name, part in network.named_modules():
            label = f"'{name}' ({type(part).__name__})" if name else type(part).__name__
            hooks.enter_context(part.register_forward_pre_hook(entered))
            hooks.enter_context(part.register_forward_hook(partial(left, label)))
        yield steps


def _called(network: nn.Module, x: Tensor, seed: int = 0) -> tuple[list[Step], Any]:
    """The calls of modules while a network answers without gradients, and its answer."""
    with _traced(network) as steps, torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return steps, network(x)


def check_mechanics(network: nn.Module, normalise: Normalise, x: Tensor, classes: int) -> None:
    """Try a network on a few images (B, 3, H, W).

    Raises:
        ValueError: it fails; it does not return one finite logit for each class; it writes into its images, has a
            state, draws random numbers, or lets the answer to one image depend on the others. The module is named, in
            one line.
    """
    network.eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    given = normalise(x).clone()
    with blamed(f"the network fails on images {tuple(x.shape)}"):
        steps, logits = _called(network, given)
    if not isinstance(logits, Tensor) or logits.shape != (len(x), classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network returns {found}; expected logits {(len(x), classes)}, one for each class")
    if not torch.isfinite(logits).all():
        also = [f"; {name} is not finite either" for name, tensor in state.items() if not tensor.isfinite().all()]
        raise ValueError(f"the network returns logits that are not finite; expected finite numbers{''.join(also[:1])}")
    if not torch.equal(given, normalise(x)):
        writers = (step.name for step in steps if step.written and step.input.data_ptr() == given.data_ptr())
        raise ValueError(f"{next(writers, type(network).__name__)} works in place on the images it is given; expected "
                         "a copy, such as x = x.clone()")
    for name, tensor in network.state_dict().items():
        if name in state and not torch.equal(tensor, state[name]):
            raise ValueError(f"the network has a state: a call in evaluation mode changes {name!r}; expected none")
    first, other, again = (_outputs(network, normalise(x), seed) for seed in (0, 1, 1))
    _check_same(other, again, "the network has a state, or random numbers of its own: the same call again differs from "
                              "{} on; expected an answer that depends on the image alone")
    _check_same(first, other, "the network is random: {} draws random numbers in evaluation mode; expected none, since "
                              "an attack on a random network must take the mean of many draws")
    half = _outputs(network, normalise(x[: len(x) // 2]), 0)
    _check_same(half, first, "the answer to an image depends on the others in its batch, from {} on; expected one that "
                             "does not", tolerance=1e-3)


def _outputs(network: nn.Module, x: Tensor, seed: int) -> list[tuple[str, Tensor]]:
    """What each module gives, inner ones first; the network itself comes last."""
    steps, logits = _called(network, x.clone(), seed)
    return [*((step.name, step.kept) for step in steps), ("its code", logits)]


def _check_same(first: Sequence[tuple[str, Tensor]], second: Sequence[tuple[str, Tensor]], words: str,
                tolerance: float = 0) -> None:
    """Raise a ValueError with the first module whose outputs differ, unless the logits of the images in both agree."""
    def differ(a: Tensor, b: Tensor) -> bool:
        b = b[: len(a)]
        return a.shape == b.shape and bool(((a - b).abs() > tolerance * (1 + b.abs())).any())

    if differ(first[-1][1], second[-1][1]):
        pairs = zip(first, second, strict=False)
        raise ValueError(words.format(next(name for (name, a), (_, b) in pairs if differ(a.double(), b.double()))))


def masked_by(network: nn.Module, normalise: Normalise, x: Tensor, y: Tensor) -> tuple[str, float]:
    """The innermost module in which the gradient ends ("" for none), and the share of images whose pixels have one.

    The loss is the margin, which does not saturate as cross-entropy does.

    Raises:
        ValueError: it fails where a gradient is asked for; an operation in place that destroys what the gradient needs
            is named; in one line.
    """
    pixels = x.clone().requires_grad_()
    with frozen(network), torch.enable_grad(), _traced(network) as steps:
        try:
            with blamed("the network has no gradient"):
                logits = network(normalise(pixels.clone()))
                if not logits.requires_grad:
                    cut = (step.name for step in steps if step.input.requires_grad and not step.output.requires_grad)
                    return next(cut, type(network).__name__), 0.0
                gradient = _gradient(logits, y, pixels)
        except ValueError as error:
            if "inplace operation" not in str(error):
                raise
            alone = [step.name for step in list(steps)
                     if _destroys(network.get_submodule(_path(step.name)), step.input)]
            found = alone or [step.name for step in steps if step.written] or [type(network).__name__]
            writers = ", ".join(dict.fromkeys(found))
            raise ValueError(f"{str(error).partition(': [')[0]}; in place works: {writers}; expected operations that "
                             "leave their input as it was") from None
    reached = _share(gradient)
    if reached > 0.99:
        return "", reached
    for step in steps:
        into, out = (step.gradients.get(side) for side in ("input", "output"))
        if step.input.requires_grad and out is not None and _share(out) > 0.5 > _share(into):
            return step.name, reached
    return type(network).__name__, reached


def _destroys(module: nn.Module, x: Tensor) -> bool:
    """Whether a module without others in it works in place on what its own gradient needs."""
    if any(module.children()):
        return False
    try:
        given = x.detach().clone().requires_grad_()
        torch.autograd.grad(module(given.clone()).sum(), given)
    except Exception as error:  # whatever the code of others raises
        return "inplace operation" in str(error)
    return False


def _gradient(logits: Tensor, y: Tensor, pixels: Tensor) -> Tensor:
    return torch.autograd.grad(margin(logits, y).sum(), pixels)[0]


def _share(gradient: Tensor | None) -> float:
    """Of how many images the gradient is finite and not zero."""
    largest = torch.zeros(1) if gradient is None else gradient.abs().flatten(1).amax(1)
    return ((largest > 0) & largest.isfinite()).double().mean().item()


def straight_through(network: nn.Module, label: str, normalise: Normalise, x: Tensor) -> nn.Module | None:
    """A copy with the gradient of the identity in the module of this label; None where its output has another shape
    than its input."""
    name = _path(label)
    steps, _ = _called(network, normalise(x).clone())
    shapes = [step.input.shape == step.output.shape for step in steps if step.name == label]
    if not name or not shapes or not all(shapes):
        return None
    changed = copy.deepcopy(network)
    changed.set_submodule(name, Through(changed.get_submodule(name)))
    return changed


def split(network: nn.Module, normalise: Normalise, x: Tensor, name: str) -> SplitClassifier:
    """The network as one of ours; cut before its last layer, at "pool", where that is a linear one whose output is the
    network's answer as it is: not sliced, not changed in place, and not computed under autocast."""
    steps, logits = _called(network, normalise(x).clone())
    parts = [network.get_submodule(_path(step.name)) for step in steps if step.output.data_ptr() == logits.data_ptr()]
    last = next((part for part in parts if isinstance(part, nn.Linear) and part is not network), None)
    whole = SplitClassifier({"normalise": normalise, "network": network}, name).eval()
    if last is None or logits._version:  # written into after it was made
        return whole
    cut = SplitClassifier({"normalise": normalise, "pool": Before(network, last), "linear": last}, name).eval()
    # What follows the last layer may depend on the images, as a detector of attacks does, so noise is tried, too.
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    try:
        with torch.no_grad():
            same = all(torch.allclose(cut(some), whole(some), rtol=1e-3, atol=1e-4)
                       for some in (x, noise, (x + (noise - 0.5) / 8).clamp(0, 1), 1 - x))
    except RuntimeError:  # of unlike shapes or dtypes
        return whole
    return cut if same else whole


def _path(label: str) -> str:
    """The place of a module in its network; "" for the network itself."""
    return label.split("'")[1] if "'" in label else ""


def check_pixels(network: nn.Module, normalisation: str, data: ImageSet, device: torch.device) -> str:
    """A note where another normalisation would be much better, or nothing.

    Raises:
        ValueError: logits that do not move, or an accuracy at chance, as of a network that expects other pixels or
            classes in another order; the line says with what it would be better.
    """
    def answers(normalisation: str) -> tuple[Tensor, float]:
        model = nn.Sequential(Normalise.of(normalisation), network).to(device)
        logits = in_batches(model, model, data)
        return logits, (logits.argmax(1) == data.y).double().mean().item()

    logits, accuracy = answers(normalisation)
    others = {other: answers(other)[1] for other in USUAL if other != normalisation}
    best = max(others, key=lambda other: others[other])
    better = others[best] > accuracy + 2 * NEAR
    hint = f"; with normalisation = {best} it would be right on {others[best]:.0%}" * better
    if not (logits - logits[0]).abs().max() > 1e-4 * logits.abs().max():
        raise ValueError(f"the logits do not move from image to image: the network expects other pixels than "
                         f"normalisation = {normalisation} gives{hint}")
    most = data.y.bincount().max().item() / len(data)
    if wilson(round(accuracy * len(data)), len(data))[0] > most:
        return f"the network is right on {accuracy:.0%}{hint}; is the one that was given the right one?" * better
    table = confusion_matrix(data.y, logits.argmax(1), labels=range(data.num_classes))
    reordered = table[linear_sum_assignment(table, maximize=True)].sum() / len(data)
    if reordered > max(0.5, others[best] + NEAR):
        hint = (f"; it would be right on {reordered:.0%} if its classes had another order; expected "
                f"{', '.join(data.classes)[:100]}")
    raise ValueError(f"the network is right on {accuracy:.0%} of {len(data)} images, where always the same class is "
                     f"right on {most:.0%}: it expects other pixels or other classes, or has learned nothing{hint}")


@dataclass(frozen=True)
class Suspect:
    """A network as it is audited.

    Attributes:
        model: what is attacked; layers that mask their gradient have that of the identity, where they can.
        as_it_is: the same without such help. masks: these layers, named. reached: the share of images whose pixels have
            a gradient as it is.
    """

    model: SplitClassifier
    as_it_is: SplitClassifier
    masks: tuple[str, ...]
    reached: float

    @classmethod
    def of(cls, network: nn.Module, normalise: Normalise, few: ImageSet, device: torch.device) -> Suspect:
        """Raises ValueError: a layer that lets no finite gradient pass and cannot be taken for the identity; see
        `masked_by`."""
        masks, shown, shares = list[str](), network, list[float]()
        for _ in range(5):
            name, share = masked_by(shown, normalise, few.x, few.y)
            shares.append(share)
            if not name:
                break
            masks.append(name)
            if (through := straight_through(shown, name, normalise, few.x)) is None:
                break
            shown = through
        pixels = few.x.clone().requires_grad_()
        with frozen(shown), torch.enable_grad():
            logits = shown(normalise(pixels))
            if not logits.requires_grad or not _gradient(logits, few.y, pixels).isfinite().all():
                raise ValueError(f"gradient masking: no finite gradient passes {masks[-1]}, and it cannot be taken for "
                                 "the identity; expected a network with gradients, give that part one of your own")
        x = few.x.to(device)  # where they are attacked: autocast may be meant for a GPU alone
        model, as_it_is = (split(one.to(device), normalise.to(device), x, YOURS) for one in (shown, network))
        return cls(model, model if shown is network else as_it_is, tuple(masks), shares[0])


# --- what it is worth ---------------------------------------------------------------------------------------------

@dataclass
class Audit:
    """What was found: tables, and the checks whose answers are known in advance."""

    threat: str
    tables: list[Table]
    checks: list[Check]
    notes: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        lines = ["Health checks: questions whose answers are known if the attacks work."]
        for check in self.checks:
            mark = "ok    " if check.passed else "FAILED"
            lines.append(f"{mark}  {check.question} Expected: {check.expected}. Seen: {check.seen}.")
        lines.append("All passed: nothing speaks against the accuracies above; they are upper bounds all the same."
                     if self.passed else f"Failed: the accuracies of {YOURS!r} above are no evidence of robustness.")
        return "\n\n".join([self.threat, *map(repr, self.tables), "\n".join(lines), *self.notes])


def audit(network: str, weights: str, normalisation: str, **given: Any) -> Audit:
    """Audit a network.

    Args:
        network: "module:factory". weights: of a safetensors file; "" leaves the factory's. normalisation: "inside" or
            MEAN/STD. given: parameters of the chapters, see TAKEN.

    Raises:
        ValueError: a network that cannot be audited, or a parameter that cannot be used; in one line.
    """
    p = resolve(given, TAKEN)
    normalise, device = Normalise.of(normalisation), choose_device(p.device)
    train = images.load(p.dataset, "train", p.train_size)
    test = images.load(p.dataset, "test", p.test_size)
    with blamed(f"network = {network!r}", everything=False):
        model = made(network, test.num_classes)
        if weights:
            load_weights(model, Path(os.path.expanduser(weights)))
        few = test.take(FEW)
        check_mechanics(model, normalise, few.x, test.num_classes)
        if note := check_pixels(model, normalisation, test, device):
            warn(note)  # before minutes are spent
        suspect = Suspect.of(model.to("cpu"), normalise, few, device)
        try:
            store.fingerprint(suspect.model)
        except TypeError as error:
            raise ValueError(f"network = {network!r}: {error}; expected a network that holds no open files, locks or "
                             "the like") from None
        masks = (f"{YOURS!r} has the gradient of the identity in {', '.join(suspect.masks)}; its answers are as they "
                 "were.") * (suspect.as_it_is is not suspect.model)
        notes = [text for text in (f"note: {note}" * bool(note), masks) if text]
        return replace(_measured(p, device, train, test, suspect), notes=notes)


def _measured(p: Parameters, device: torch.device, train: ImageSet, test: ImageSet, suspect: Suspect) -> Audit:
    threat = ThreatModel("Linf", p.eps)
    precision = fastest(device) if p.precision == "auto" else p.precision
    ours = {name: training.trained("small", train, goal, training.Schedule(p.epochs), 0, device, name, precision)
            for name, goal in (("ours, standard", training.Standard()),
                               ("ours, adversarial", training.pgd_adversarial(threat, p.train_steps)))}
    models, target, costly = {YOURS: suspect.model, **ours}, test.take(p.attack_size), test.take(p.costly_size)
    pgd, survey = PGD(threat, p.steps), PGD(threat, p.curve_steps, loss="margin")
    strongest = AutoAttack(threat, p.autoattack, classes=test.num_classes)
    found = {name: {"clean": evaluate(one, test), "noise": evaluate(one, target, Noise(threat)),
                    "FGSM": evaluate(one, target, FGSM(threat)), "PGD": evaluate(one, target, pgd),
                    "PGD, margin": evaluate(one, target, survey)} for name, one in models.items()}
    for name, row in found.items():
        row["worst case"] = robustness.worst_case([row[attack] for attack in ("FGSM", "PGD", "PGD, margin")])
        row[repr(strongest).partition("(")[0]] = evaluate(models[name], costly, strongest)
    smallest: dict[str, CW | FAB] = {"CW": CW(steps=50, searches=6), "FAB": FAB("Linf", steps=max(20, p.curve_steps))}
    norms = {name: {attack: evaluate(one, costly, each) for attack, each in smallest.items()}
             for name, one in models.items()}
    stamp = f"profile {p.profile}, {device.type}, trained in {precision}"
    tables = [Table(_results(found), f"Accuracy on {test.name}; yours beside networks that we trained on the same "
                                     "images.", stamp),
              Table(_results(norms), "Minimum norms: accuracy if any distance is allowed, and the median distance of "
                                     "what was broken.", stamp),
              _recorded(test.name, threat), _channels(p, threat, models, train, target, costly)]
    said = (f"Threat model: all perturbations inside {threat}, pixels in [0, 1]; the adversary knows the network, its "
            "weights, its normalisation and the true label, wants any other class (untargeted), and attacks each image "
            f"by itself. n = {len(test)} clean images, {len(target)} attacked, {len(costly)} under costly attacks; one "
            "network, so intervals are over its images.")
    checks = [*masking_checks(suspect, target, pgd, found[YOURS]["PGD"].accuracy),
              *robustness.health_checks(suspect.model, target, pgd, transfer_from=ours["ours, standard"])]
    return Audit(said, [table for table in tables if table.rows], checks)


def _results(found: Mapping[str, Mapping[str, Outcome]]) -> dict[str, dict[str, Result]]:
    return {name: {attack: Result.of(f"audit.{name}.{attack}", "accuracy", [each]) for attack, each in row.items()}
            for name, row in found.items()}


def masking_checks(suspect: Suspect, data: ImageSet, pgd: PGD, longest: float) -> list[Check]:
    """Signs of a masked gradient beside those of `health_checks` (Athalye et al. 2018; Carlini et al. 2019).

    longest: the model's accuracy on the data under pgd.
    """
    model, masks, size = suspect.model, ", ".join(suspect.masks), pgd.step_size or 0
    adv = robustness.attacked(model, data, replace(pgd, loss="margin"))
    before, after = (_margins(model, x, data.y) for x in (data, adv))
    moved = (after > before).double().mean().item()
    noisy = robustness.worst_case([evaluate(model, data, Noise(pgd.threat), seed=seed) for seed in range(10)]).accuracy
    sizes = {f"{factor:g}": evaluate(model, data, replace(pgd, step_size=factor * size)).accuracy
             for factor in (0.25, 0.5, 2)}
    seen = ", ".join(f"{factor} times: {accuracy:.1%}" for factor, accuracy in sizes.items())
    slope = _slope(model, data)
    checks = [
        Check("Does a gradient reach the pixels?", "yes, of all images",
              f"of {suspect.reached:.0%}" + f"; gradient masking, it ends in {masks}" * bool(masks), not masks),
        Check("Does the attack move the loss?", "yes, on all images", f"on {moved:.1%}", moved > 0.99),
        Check("Does a small step along the gradient do what the gradient says?", "yes: 1 times as much, within a half",
              f"{slope:.2g} times (median)", 0.5 < slope < 1.5),
        Check("Is the attack stronger than ten draws of noise?", "yes", f"{longest:.1%} against {noisy:.1%}",
              longest <= noisy),
        Check("Do other step sizes find much more?", f"no: within {100 * NEAR:.0f} points of {longest:.1%}", seen,
              longest - min(sizes.values()) <= NEAR)]
    if suspect.as_it_is is not model:
        try:
            plain = evaluate(suspect.as_it_is, data, pgd).accuracy
            seen = f"{longest:.1%} against {plain:.1%}"
        except (RuntimeError, ValueError):  # torch's word for no gradient, or ours
            plain, seen = 1.0, f"{longest:.1%}; as it is, no gradient at all"
        checks.append(Check("Does an attack that takes the masking layer for the identity find much more?",
                            f"no: within {100 * NEAR:.0f} points", seen, plain - longest <= NEAR))
    return checks


def _margins(model: SplitClassifier, x: ImageSet | Tensor, y: Tensor) -> Tensor:
    return in_batches(lambda part, labels: margin(model(part), labels), model, x, y)


def _slope(model: SplitClassifier, data: ImageSet, step: float = 5e-4) -> float:
    """How much a step of an eighth of a grey level along the sign of the gradient raises the margin, as a multiple of
    what the gradient promises; median over the images. Where a gradient is shattered this is far from 1."""
    device, few = next(model.parameters()).device, data.take(100)
    x, y = few.x.to(device), few.y.to(device)
    with frozen(model), torch.enable_grad():
        pixels = x.clone().requires_grad_()
        before = margin(model(pixels), y)
        (gradient,) = torch.autograd.grad(before.sum(), pixels)
    promised = step * gradient.flatten(1).abs().sum(1)
    gained = _margins(model, x + step * gradient.sign(), y) - before.detach().cpu()
    return (gained / promised.cpu().clamp_min(1e-12)).median().item()


def _channels(p: Parameters, threat: ThreatModel, models: Mapping[str, SplitClassifier], train: ImageSet,
              target: ImageSet, costly: ImageSet) -> Table:
    """How many of the channels that the last layer reads are useful, and how many stay so under attack."""
    attack = PGD(threat, max(2, p.curve_steps // 4), loss="margin")
    rows: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        if "pool" not in model.cuts:
            rows[name] = {"channels": "its last layer is not linear: not measured"}
            continue
        rho, gamma = features.robust_channel_usefulness(model, target, costly, train.take(1000), attack)
        alive, kept = rho.isfinite(), gamma.isfinite()
        rows[name] = {"channels": str(len(rho)), "dead": str(int((~alive).sum())),
                      "median usefulness": f"{rho[alive].median():.2f}" if alive.any() else "",
                      "useful (> 0)": str(int((rho[alive] > 0).sum())),
                      "robustly useful (> 0 under attack)": f"{int((gamma[kept] > 0).sum())} of {int(kept.sum())}"}
    return Table(rows, "What the last layer reads: E[y f] of each channel for its best class (Ilyas et al. 2019); an "
                       f"upper bound under {attack!r}.")


def _recorded(data: str, threat: ThreatModel) -> Table:
    """Accuracies of the networks that the book has recorded on images of this name."""
    rows: dict[str, dict[str, Result]] = {}
    for path in sorted((ROOT / "book" / "editions").glob("*/02_adversarial_training.json")):
        for result in read(path).results:
            kind, _, column = result.id.rpartition(".")
            fits = result.threat in ("none", str(threat)) and result.unit == "share" and result.data == data
            if fits and column in ("clean", "FGSM", "PGD", "AutoAttack") and kind.count(".") in (1, 3):
                rows.setdefault(f"{result.model} ({path.parent.name})", {})[column] = result
    shown = {name: row for name, row in rows.items() if len(row) > 1} or rows
    return Table(shown, "Networks of the book's recorded runs on images of this name; other draws, several seeds."
                 if shown else f"No network of the book's recorded runs was tested on images named {data!r}.")


def settings(words: Sequence[str]) -> dict[str, str]:
    """Name -> value of "name=value" words; raises ValueError: something else, an unknown name, or one that lacks."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise ValueError(f"{short_repr(word)}: expected name=value, such as network=mine:make")
        if name not in (*OWN, *TAKEN):
            raise ValueError(f"{name!r}: expected {', '.join(OWN + TAKEN)}{did_you_mean(name, OWN + TAKEN)}")
        if name in given:
            raise ValueError(f"{name} stands twice; expected each name once")
        given[name] = value
    if "network" not in given:
        raise ValueError("network: not given; expected network=module:factory, such as network=mine:make")
    if "normalisation" not in given:
        raise ValueError("normalisation: not given; expected normalisation=inside, where the network takes pixels in "
                         f"[0, 1], or MEAN/STD, such as normalisation={USUAL[3]}")
    return given


def main(words: Sequence[str] | None = None, show: Callable[[object], None] = print) -> int:
    """Audit the network that these words name; returns the exit status."""
    words = sys.argv[1:] if words is None else words
    if {"-h", "--help"} & set(words):
        show(__doc__ or ast.get_docstring(ast.parse(read_text(Path(__file__)))))  # which python -OO leaves out
        return 0
    try:
        given = settings(words)
        found = audit(given.pop("network"), given.pop("weights", ""), given.pop("normalisation"), **given)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        show(found)
        sys.stdout.flush()
    except OSError as error:
        print(f"what was found cannot be written: {error}", file=sys.stderr)
        return 2
    return int(not found.passed)


if __name__ == "__main__":
    sys.exit(main())
