"""Classifiers as a chain of named stages that can be cut anywhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nbutils.architectures import NETWORKS
from nbutils.console import progress
from nbutils.images.imageset import ImageSet, as_pixels
from nbutils.messages import check_choice, check_counts
from nbutils.precision import Float32Conv2d, Float32Linear

Model = TypeVar("Model", bound=nn.Module)


class Normalize(nn.Module):
    """Pixels in [0, 1] to about [-2, 2]: part of the model, so that attacks see pixels. Mean .5 and standard
    deviation .25 per channel, as in Kim et al. (2021)."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class SplitClassifier(nn.Module):
    """A classifier f = f_{l+} o f_l that can be cut after any named stage l.

    `model.logits_from(model.features(x, at), at)` equals `model(x)` at every cut, because all three run the
    same stages (Kim et al. 2021, section 2). All three run them on a copy of what they are given, so that a stage which
    works in place changes nobody's images and features.

    Args:
        stages: name -> module, in order; the last one returns logits (B, num_classes).
        name: the words that tables use for this architecture.
    """

    def __init__(self, stages: Mapping[str, nn.Module], name: str) -> None:
        super().__init__()
        self.cuts = tuple(stages)
        self.name = name
        self.key = ""  # of the artifact that holds the weights, once they are trained
        self.stages = nn.ModuleList(stages.values())

    def _after(self, at: str) -> int:
        return self.cuts.index(check_choice("cut", at, self.cuts)) + 1

    def features(self, x: Tensor, at: str) -> Tensor:
        """z = f_l(x): the output of stage `at` for pixels x (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: unknown cut.
        """
        return _run(self.stages[: self._after(at)], x)

    def logits_from(self, z: Tensor, at: str) -> Tensor:
        """f_{l+}(z): logits (B, num_classes) from the output z of stage `at`.

        Raises:
            ValueError: unknown cut.
        """
        return _run(self.stages[self._after(at):], z)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes) for pixels x (B, 3, H, W) in [0, 1]."""
        return _run(self.stages, x)


def _run(stages: Iterable[nn.Module], x: Tensor) -> Tensor:
    x = x.clone()
    for stage in stages:
        x = stage(x)
    return x


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode with gradients for its input only, and leave it exactly as it was. Like a
    `SplitClassifier`, any other one is given copies, so that one that works in place changes nobody's images."""
    training = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks = []
    if not isinstance(model, SplitClassifier):
        hooks.append(model.register_forward_pre_hook(lambda _, inputs: tuple(part.clone() for part in inputs)))
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training:
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


def like(model: nn.Module) -> nn.Parameter:
    """A parameter of the model: it says on which device and in which precision the model computes.

    Raises:
        ValueError: there is none, as where networks stand in a plain list, where no mode would reach them.
    """
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is None:
        raise ValueError(f"model = {type(model).__name__}: expected a torch.nn.Module with parameters; networks in "
                         "a list are none of its parts, those in an nn.ModuleList are")
    return parameter


def suited(x: Tensor, model: nn.Module) -> Tensor:
    """Images x (B, 3, H, W) on the model's device, in its precision, and channels_last: convolutions run faster so."""
    return x.to(like(model)).contiguous(memory_format=torch.channels_last)


def check_pixels(x: Tensor, slack: float = 1 / 255) -> None:
    """Raise a ValueError if images x that are no levels leave [0, 1] by more than the slack, by default a grey level,
    which rounding and a small step need; or if they are no images (N, 3, H, W)."""
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != 3:
        told = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(f"images {told}: expected a torch.Tensor (N, 3, H, W)")
    if len(x) and x.dtype != torch.uint8:
        low, high = (value.item() for value in torch.aminmax(x))
        if not (low >= -slack and high <= 1 + slack):  # also false for NaN
            raise ValueError(f"pixels from {low:.3g} to {high:.3g}: expected [0, 1]; the model normalises")


def in_batches(f: Callable[..., Tensor], model: nn.Module, images: ImageSet | Tensor, *others: Tensor,
               batch_size: int = 256) -> Tensor:
    """f(x, ...) for images x (B, 3, H, W) and what goes with them, batch after batch, joined on the CPU. The model is
    `frozen` and says on which device and in which precision; nothing is differentiated.

    Raises:
        ValueError: images that are no pixels, see `check_pixels`; others that are not one for each image.
    """
    x = images.held if isinstance(images, ImageSet) else images
    check_pixels(x)
    if counts := [len(part) for part in others if len(part) != len(x)]:
        raise ValueError(f"{counts[0]} masks, labels or sizes for {len(x)} images: expected one each")
    batches = list(zip(*(part.split(batch_size) for part in (x, *others)), strict=True))
    device = like(model).device
    with frozen(model), torch.no_grad():
        return torch.cat([f(suited(as_pixels(x), model), *(part.to(device) for part in rest)).cpu()
                          for x, *rest in progress(batches, getattr(model, "name", ""))])


def artifacts(*models: nn.Module) -> tuple[str, ...]:
    """Keys of the artifacts that these are or hold, each once; none of a network that was never trained."""
    keys = (getattr(part, "key", "") for model in models for part in model.modules())
    return tuple(dict.fromkeys(key for key in keys if key and isinstance(key, str)))


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU. Raises ValueError: the seed is no whole number from 0 on."""
    check_counts(0, seed=seed)
    return torch.Generator().manual_seed(seed)


class GlobalAveragePool(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.mean((2, 3), dtype=torch.promote_types(z.dtype, torch.float32))


Stages = Iterator[tuple[str, nn.Module]]


def _head(width: int, num_classes: int) -> Stages:
    yield "pool", GlobalAveragePool()
    yield "linear", Float32Linear(width, num_classes)


def _conv(width_in: int) -> type[nn.Conv2d]:
    """Of pixels or of features."""
    return Float32Conv2d if width_in == 3 else nn.Conv2d


def _strided(widths: tuple[int, ...], num_classes: int, image_size: int) -> Stages:
    """3 x 3 convolutions of stride 2, each with BatchNorm: the cheapest kind, four of them for the small network."""
    yield "normalize", Normalize()
    width_in = 3
    for block, width in enumerate(widths, start=1):
        yield f"block{block}.conv", _conv(width_in)(width_in, width, 3, stride=2, padding=1, bias=False)
        yield f"block{block}.bn", nn.BatchNorm2d(width)
        yield f"block{block}.relu", nn.ReLU()
        width_in = width
    yield from _head(width_in, num_classes)


def _vgg(blocks: tuple[tuple[int, ...], ...], num_classes: int, image_size: int) -> Stages:
    """Blocks of 3 x 3 convolutions of the given widths, each block ending in a 2 x 2 max-pool, with BatchNorm
    (Simonyan and Zisserman 2015); one linear layer on the spatial mean, as in Kim et al. (2021)."""
    yield "normalize", Normalize()
    width_in = 3
    for block, widths in enumerate(blocks, start=1):
        for layer, width in enumerate(widths, start=1):
            yield f"block{block}.conv{layer}", _conv(width_in)(width_in, width, 3, padding=1)
            yield f"block{block}.bn{layer}", nn.BatchNorm2d(width)
            yield f"block{block}.relu{layer}", nn.ReLU()
            width_in = width
        yield f"block{block}.pool", nn.MaxPool2d(2)
    yield from _head(width_in, num_classes)


class ResidualPair(nn.Module):
    """Two 3 x 3 convolutions of one width, each with BatchNorm and ReLU, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, z: Tensor) -> Tensor:
        return z + torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(z))))))


def _resnet9(width: int, num_classes: int, image_size: int) -> Stages:
    """The nine-layer residual network that is quick to train on small images (Page 2018, "How to train your ResNet"),
    with a first layer that is learned like the others."""
    yield "normalize", Normalize()
    width_in = 3
    for block in range(4):
        width_out = width * 2**block
        yield f"block{block}.conv", _conv(width_in)(width_in, width_out, 3, padding=1, bias=False)
        yield f"block{block}.bn", nn.BatchNorm2d(width_out)
        yield f"block{block}.relu", nn.ReLU()
        if block > 0:
            yield f"block{block}.pool", nn.MaxPool2d(2)
        if block % 2:
            yield f"block{block}.residual", ResidualPair(width_out)
        width_in = width_out
    yield from _head(width_in, num_classes)


def _airbench(widths: tuple[int, ...], num_classes: int, image_size: int) -> Stages:
    """A convolution, then groups of two with a 2 x 2 max-pool between the first and its BatchNorm, the cheaper order
    (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU"); here the first layer is learned like the others,
    and the activations are ReLU."""
    yield "normalize", Normalize()
    width_in = 3
    for block, width in enumerate(widths):
        for layer in (1, 2) if block else (1,):
            yield f"block{block}.conv{layer}", _conv(width_in)(width_in, width, 3, padding=1, bias=False)
            if block and layer == 1:
                yield f"block{block}.pool", nn.MaxPool2d(2)
            yield f"block{block}.bn{layer}", nn.BatchNorm2d(width)
            yield f"block{block}.relu{layer}", nn.ReLU()
            width_in = width
    yield from _head(width_in, num_classes)


class WideBlock(nn.Module):
    """BatchNorm, ReLU, convolution, twice, added to a shortcut (Zagoruyko and Komodakis 2016)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width_in), nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        same = width_in == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        active = torch.relu(self.bn1(z))
        change = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return change + (z if self.shortcut is None else self.shortcut(active))


def _wrn(shape: tuple[int, int, int], num_classes: int, image_size: int) -> Stages:
    """Wide residual network WRN-depth-widen without dropout; the last cut before the head is "bn". A stem of stride 2
    makes it four times cheaper."""
    depth, widen, stem_stride = shape
    yield "normalize", Normalize()
    yield "conv", Float32Conv2d(3, 16, 3, stem_stride, padding=1, bias=False)
    width_in = 16
    for group, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            stride = 2 if group > 1 and block == 1 else 1
            yield f"group{group}.block{block}", WideBlock(width_in, width, stride)
            width_in = width
    yield "bn", nn.BatchNorm2d(width_in)
    yield "relu", nn.ReLU()
    yield from _head(width_in, num_classes)


def _torchvision(name: str, num_classes: int, image_size: int) -> Stages:
    """One of torchvision's networks with a stem for small images: no max-pool, and a first stride of 1 up to
    32 pixels and 2 above."""
    from nbutils.torchvision import torchvision

    options = {"aux_logits": False, "init_weights": True} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, num_classes=num_classes, **options)
    stride = 1 if image_size <= 32 else 2
    yield "normalize", Normalize()
    if name == "inception_v3":
        net.Conv2d_1a_3x3.conv = Float32Conv2d(3, 32, 3, stride, bias=False)
        for part, module in net.named_children():
            if part.startswith(("Conv2d", "Mixed")):
                yield part, module
        yield from _head(net.fc.in_features, num_classes)
        return
    stem = Float32Conv2d(3, 64, 3, stride, 1, bias=False)
    if name == "densenet121":
        for part, module in net.features.named_children():
            if part != "pool0":
                yield part, stem if part == "conv0" else module
        yield "relu", nn.ReLU()
        yield from _head(net.classifier.in_features, num_classes)
        return
    yield "conv", stem
    yield "bn", net.bn1
    yield "relu", nn.ReLU()
    for layer in range(1, 5):
        for block, module in enumerate(getattr(net, f"layer{layer}"), start=1):
            yield f"layer{layer}.block{block}", module
    yield from _head(net.fc.in_features, num_classes)


KINDS: dict[str, Callable[..., Stages]] = {"strided": _strided, "vgg": _vgg, "resnet9": _resnet9,
                                           "airbench": _airbench, "wrn": _wrn, "torchvision": _torchvision}


def build(name: str, num_classes: int = 10, seed: int = 0, image_size: int = 32) -> SplitClassifier:
    """A fresh network whose weights depend only on `seed`; the global random state is left as it was.

    Args:
        name: one of `architectures.NETWORKS`; those called small are for the quick profile.
        num_classes: at least 2.
        seed: of the initialisation.
        image_size: side of the images in pixels; networks from torchvision adapt their first stride to it.

    Raises:
        ValueError: unknown network, fewer than two classes, or a seed below 0.
    """
    check_counts(0, seed=seed)
    check_counts(2, num_classes=num_classes)
    kind, shape = NETWORKS[check_choice("network", name, NETWORKS)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = SplitClassifier(OrderedDict(KINDS[kind](shape, num_classes, image_size)), name)
    for module in model.modules():
        if hasattr(module, "inplace"):  # working in place would change the features that a caller holds
            setattr(module, "inplace", False)  # noqa: B010  (a declared attribute of some modules only)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run faster


def as_built(network: str, images: ImageSet, seed: int = 0, device: torch.device | str = "cpu") -> SplitClassifier:
    """A fresh network for images like these, in evaluation mode; see `build`. Its BatchNorm has seen no image: where an
    untrained network is to predict, `features.untrained` is the fairer one.

    Raises:
        ValueError: as `build`, or no such device.
    """
    return on_device(build(network, images.num_classes, seed, images.held.shape[-1]), device).eval()


def on_device(model: Model, device: torch.device | str) -> Model:
    """The model, moved there.

    Raises:
        ValueError: no such device.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise ValueError(f"device = {str(device)!r}: {str(error).partition(chr(10))[0]}; did you mean 'cpu'?") from None


def whiten(model: SplitClassifier, x: Tensor) -> SplitClassifier:
    """The model, with its first convolution fixed in place to the principal axes of the patches of images x
    (N, 3, H, W), each scaled to variance 1: the faintest pattern is as loud as any (Page 2018, "How to train your
    ResNet").

    Channels beyond the axes (27 for patches of 3 x 3) repeat the loudest with the other sign, as far as they go. A
    thousand images give the axes well; the patches of all are held at once.

    Raises:
        ValueError: the first convolution has fewer channels than axes.
    """
    at, first = next((i, stage) for i, stage in enumerate(model.stages) if isinstance(stage, nn.Conv2d))
    with torch.no_grad():
        seen = model.features(suited(x, model), model.cuts[at - 1])
        patches = F.unfold(seen, first.kernel_size).transpose(0, 1).flatten(1).double()
        values, axes = torch.linalg.eigh(patches.cov())
        if first.out_channels < len(axes):
            raise ValueError(f"network {model.name!r}: its first convolution has {first.out_channels} channels; "
                             f"expected {len(axes)} or more to whiten patches")
        axes = (axes / values.clamp_min(1e-6 * values.max()).sqrt()).flip(1).T  # loudest first
        filters = torch.cat([axes, -axes, torch.zeros_like(axes)])[: first.out_channels]
        first.weight.copy_(filters.view(-1, *first.weight.shape[1:]))
    first.weight.requires_grad_(False)
    return model
