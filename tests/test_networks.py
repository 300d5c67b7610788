"""Split networks: every cut is exact, and a seed is all that decides the weights."""

import pytest
import torch

from nbutils import networks
from nbutils.architectures import NETWORKS, original
from nbutils.images import ImageSet
from nbutils.networks import Normalize
from nbutils.torchvision import torchvision

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("at", networks.build("small").cuts)
@pytest.mark.parametrize("training", [False, True])
def test_cutting_anywhere_changes_nothing(at: str, training: bool) -> None:
    model = networks.build("small", 10, seed=1).train(training)
    with torch.no_grad():
        assert torch.equal(model.logits_from(model.features(X, at), at), model(X))


def test_the_last_cut_is_the_logits_and_the_first_the_normalised_pixels() -> None:
    model = networks.build("small", 10, seed=1).eval()
    with torch.no_grad():
        assert torch.equal(model.features(X, "linear"), model(X))
        torch.testing.assert_close(model.features(X, "normalize"), 4 * X - 2)
        shapes = {at: tuple(model.features(X, at).shape[1:]) for at in model.cuts}
    assert shapes["block1.conv"] == (24, 16, 16)
    assert shapes["block4.bn"] == (96, 2, 2)
    assert shapes["pool"] == (96,)
    assert shapes["linear"] == (10,)


def test_pixels_are_normalised_inside() -> None:
    torch.testing.assert_close(Normalize()(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-2.0, 0.0, 2.0]))


@pytest.mark.parametrize(("classes", "expected"), [(10, 136_930), (2, 136_930 - 8 * 97), (200, 136_930 + 190 * 97)])
def test_parameter_count(classes: int, expected: int) -> None:
    """27*24 + 9*24*48 + 9*48*96 + 9*96*96 for the convolutions, 2*(24+48+96+96) for BatchNorm, 97 per class."""
    assert expected == 648 + 10_368 + 41_472 + 82_944 + 528 + 97 * classes
    assert sum(parameter.numel() for parameter in networks.build("small", classes).parameters()) == expected


def test_a_seed_decides_the_weights_and_the_global_generator_is_left() -> None:
    before = torch.get_rng_state()
    first, again, other = (networks.build("small", 10, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.stages[1].weight, other.stages[1].weight)  # type: ignore[arg-type]
    torch.manual_seed(5)
    assert torch.equal(networks.build("small", 10, 0).stages[1].weight, first.stages[1].weight)  # type: ignore[arg-type]


def test_as_built_a_network_has_the_seeds_weights_and_the_images_classes() -> None:
    images = ImageSet(X, torch.arange(4), tuple("abcd"), "noise")
    found, built = networks.as_built("small", images, 3), networks.build("small", 4, 3)
    assert found.state_dict().keys() == built.state_dict().keys()
    assert all(torch.equal(tensor, built.state_dict()[name]) for name, tensor in found.state_dict().items())
    assert not any(module.training for module in found.modules())


def test_any_image_size_gives_logits() -> None:
    model = networks.build("small", 7).eval()
    for size in (16, 32, 64):
        assert model(torch.rand(2, 3, size, size)).shape == (2, 7)


PUBLISHED = {  # parameters for ten classes, as the usual CIFAR-10 versions of these networks have them
    "vgg16": 14_728_266,
    "wrn28_10": 36_479_194,
    "resnet18": 11_173_962,
    "resnet50": 23_520_842,
}
ARITHMETIC = {
    # 3 x 3 convolutions with bias, two numbers per BatchNorm channel, and the linear layer
    "vgg_small": sum(9 * a * b + 3 * b for a, b in ((3, 16), (16, 32), (32, 64), (64, 128))) + 10 * 129,
    # the same without bias, and two pairs of convolutions inside their shortcuts
    "resnet9": sum(9 * a * b + 2 * b for a, b in ((3, 32), (32, 64), (64, 128), (128, 256))) + 10 * 257
    + sum(18 * a * a + 4 * a for a in (64, 256)),
    # no bias; two convolutions in each group but the first, each with BatchNorm
    "airbench": sum(9 * a * b + 2 * b for a, b in ((3, 32), (32, 32), (32, 32), (32, 128), (128, 128), (128, 256),
                                                   (256, 256))) + 10 * 257,
    # 16-channel stem; per group one block: two convolutions, shortcut, BatchNorm on the way in and between
    "wrn_small": 27 * 16 + 2 * 128 + 10 * 129
    + sum(9 * a * b + 9 * b * b + a * b + 2 * a + 2 * b for a, b in ((16, 32), (32, 64), (64, 128))),
}


@pytest.mark.parametrize(("name", "expected"), [*PUBLISHED.items(), *ARITHMETIC.items()])
def test_parameter_counts_of_known_networks(name: str, expected: int) -> None:
    assert sum(parameter.numel() for parameter in networks.build(name).parameters()) == expected


@pytest.mark.parametrize("name", ["densenet121", "inception_v3"])
def test_torchvision_networks_differ_from_torchvision_in_stem_and_classes_only(name: str) -> None:
    """Ours have a 3 x 3 stem where DenseNet's is 7 x 7; Inception's stem keeps its size."""
    options = {"aux_logits": False, "init_weights": False} if name == "inception_v3" else {}
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=10, **options)
    stem = 3 * 64 * (49 - 9) if name == "densenet121" else 0
    ours = sum(parameter.numel() for parameter in networks.build(name).parameters())
    assert ours == sum(parameter.numel() for parameter in theirs.parameters()) - stem


def test_airbench_pools_before_its_batchnorm() -> None:
    model = networks.build("airbench").eval()
    assert model.cuts[4:11] == ("block1.conv1", "block1.pool", "block1.bn1", "block1.relu1", "block1.conv2",
                                "block1.bn2", "block1.relu2")
    with torch.no_grad():
        shapes = [tuple(model.features(X, at).shape[1:]) for at in ("block0.relu1", "block1.bn1", "block3.relu2")]
    assert shapes == [(32, 32, 32), (32, 16, 16), (256, 4, 4)]


def test_small_networks_stand_for_those_of_the_paper() -> None:
    originals = {name: original(name) for name in NETWORKS if original(name)}
    assert originals == dict.fromkeys(("vgg_small", "vgg_narrow", "vgg_wide", "vgg_deep", "vgg16"), "VGG-16") | (
        dict.fromkeys(("wrn_small", "wrn_wide", "wrn_deep", "wrn28_10"), "WRN-28-10"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "classes"), [(32, 2), (64, 200)])
def test_every_network_can_be_cut_anywhere(name: str, size: int, classes: int) -> None:
    model = networks.build(name, classes, seed=3, image_size=size).eval()
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, z = model(x), x
        assert logits.shape == (1, classes)
        for at, stage in zip(model.cuts, model.stages, strict=True):
            z = stage(z)
            held = z.clone()
            assert torch.equal(model.logits_from(z, at), logits)
            assert torch.equal(z, held)  # no stage works in place on features that a caller holds


def test_last_cut_before_the_head_has_the_papers_shape() -> None:
    """Kim et al. (2021) cut VGG-16 after its last BatchNorm: 512 x 2 x 2 for 32 x 32 pixels."""
    with torch.no_grad():
        assert networks.build("vgg16").eval().features(X[:1], "block5.bn3").shape == (1, 512, 2, 2)
        assert networks.build("wrn_small").eval().features(X[:1], "bn").shape == (1, 128, 4, 4)


def test_a_whitened_first_layer_sees_every_axis_of_patches_alike() -> None:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.rand(64, 3, 8, 8, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    x = (0.8 * coarse + 0.2 * torch.rand(64, 3, 32, 32, generator=generator)).clamp(0, 1)
    model = networks.whiten(networks.build("vgg_wide", 10), x)
    first = model.stages[1]
    with torch.no_grad():
        seen = torch.nn.functional.conv2d(model.features(x, "normalize"), first.weight)  # no padding: whole patches
    axes = seen[:, :27].transpose(0, 1).flatten(1).double().cov()
    torch.testing.assert_close(axes, torch.eye(27, dtype=torch.float64), atol=2e-3, rtol=0)
    assert torch.equal(first.weight[27:], -first.weight[:5])
    assert not first.weight.requires_grad
    assert all(part.requires_grad for name, part in model.named_parameters() if part is not first.weight)
    with pytest.raises(ValueError, match="its first convolution has 24 channels; expected 27"):
        networks.whiten(networks.build("small", 10), x)
