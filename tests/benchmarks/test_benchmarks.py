"""The peers do the same work as ours, and every measure runs. No time is asserted: a busy machine must not fail it."""

import copy
import csv

import pytest
import torch

from nbutils import networks, robustness
from nbutils.features import D_NR, bottleneck, distill, robust_channels
from nbutils.images import PlantedWorld, load
from nbutils.networks import SplitClassifier
from nbutils.robustness import PGD, ThreatModel
from tests.benchmarks import __main__ as command
from tests.benchmarks import measures, peers

THREAT = ThreatModel("Linf", 8 / 255)


@pytest.fixture(scope="module")
def network() -> SplitClassifier:
    return networks.build("small", seed=3).double().eval()


@pytest.mark.parametrize("backward", [False, True])
def test_the_plain_loop_finds_the_same_images(network: SplitClassifier, backward: bool) -> None:
    images = load("planted", "test", 12)
    x, y = images.x.double(), images.y
    ours = PGD(THREAT, 5, 2 / 255, random_start=False, keep_best=False)(network, x, y)
    plain = peers.plain_pgd(network, x, y, THREAT.eps, 2 / 255, 5, random_start=False, backward=backward)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-10)
    assert (plain - x).abs().amax() > 7 / 255


@pytest.mark.parametrize("steps", [1, 4])
def test_foolbox_keeps_to_the_same_threat(network: SplitClassifier, steps: int) -> None:
    images = load("planted", "test", 4)
    x = images.x.double()
    found = peers.foolbox_pgd(network, x, images.y, THREAT.eps, steps)()
    assert 1 / 255 < THREAT.distance(found - x).max() <= THREAT.eps + 1e-9


def test_the_plain_epoch_trains() -> None:
    images = load("planted", "train", 8)
    photographs = peers.Photographs((255 * images.x).byte().permute(0, 2, 3, 1).numpy(), images.y.numpy())
    model = networks.build("small")
    before = [weight.clone() for weight in model.parameters()]
    peers.plain_training_epoch(model, photographs, THREAT.eps, 1, 4, backward=True)
    assert not any(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_two_forwards_find_the_same_images(network: SplitClassifier) -> None:
    images = PlantedWorld().draw(2, seed=0)
    model, x = copy.deepcopy(network), images.x.double()
    found = peers.matching_with_two_forwards(model, x, 3)
    ours = D_NR(images, model, steps=3)  # of two images, each starts from the other
    torch.testing.assert_close(ours.x.double(), found, rtol=0, atol=1e-6)
    assert (found - x.flip(0)).abs().amax() > 1e-3


@pytest.mark.parametrize("at", ["block4.bn", "block3.bn"])
def test_the_plain_bottleneck_makes_the_same_masks(network: SplitClassifier, at: str) -> None:
    images = PlantedWorld().draw(8, seed=0)
    model, x = copy.deepcopy(network).requires_grad_(False), images.x.double()
    ours, z = distill(model, x, images.y, at), model.features(x, at)
    noise = torch.stack([torch.randn(200, z.shape[1], generator=torch.Generator().manual_seed(seed)).double()
                         for seed in bottleneck.image_seeds(x)], 1)
    plain = peers.plain_sigma(model, z, images.y, noise, at)
    torch.testing.assert_close(ours.sigma, plain, rtol=0, atol=1e-6)
    assert torch.equal(ours.robust, robust_channels(plain, ours.variance))
    assert 0 < ours.robust.double().mean() < 1


def test_both_matrix_products_are_the_product() -> None:
    products = peers.matrix_products(16, "cpu")
    torch.testing.assert_close(products["convolution"]().permute(0, 2, 3, 1).reshape(16, 16), products["product"]())


def test_every_measure_gives_complete_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(robustness, "AutoAttack", lambda threat: PGD(threat, 3, restarts=2))
    monkeypatch.setattr(command, "keep_freed_memory", lambda: None)  # it would last for all tests that follow
    rows = command.main(["--tiny"])
    assert len(rows) == 37
    for row in rows:
        assert all(text for name, text in vars(row).items() if name not in ("asked", "range")), row
        assert row.measured.startswith("void") or float(row.measured) >= 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_what_needs_a_gpu_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (row,) = measures.measure("published")
    assert row.measured == "not measured"
    assert "--only published" in row.setting


@pytest.mark.parametrize("word", ["--tiny", "--only=pgd"])
def test_only_a_whole_run_is_recorded(word: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        command.main(["--record", word])
    assert "one whole run" in capsys.readouterr().err


def test_the_book_shows_a_complete_table() -> None:
    with command.RECORDED.open(newline="") as file:
        head, *lines = csv.reader(file)
    assert tuple(head) == command.COLUMNS
    assert all(len(line) == len(head) for line in lines)
