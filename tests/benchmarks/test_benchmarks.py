"""The peers do the same work as ours, and every measure runs. No time is asserted: a busy machine must not fail it."""

import copy
import csv

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from nbutils import networks, paradigms, robustness, training
from nbutils.features import D_NR, bottleneck, distill, robust_channels
from nbutils.images import PlantedWorld, load
from nbutils.networks import SplitClassifier
from nbutils.paradigms import DDPM, MAE
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


PARADIGMS = {"MAE": (MAE(), peers.masked_loss), "DDPM": (DDPM(), peers.denoising_loss),
             "standard": (training.Standard(), peers.supervised_loss)}


@pytest.mark.parametrize("name", PARADIGMS)
def test_the_plain_loops_minimise_the_same_loss(name: str) -> None:
    """Under the same draws; gradients agree to 1e-4 of the largest."""
    objective, plain = PARADIGMS[name]
    model = networks.build("small") if name == "standard" else paradigms.untrained(objective)
    if name == "DDPM":
        torch.nn.init.normal_(model.last[-1].weight, std=0.1, generator=torch.Generator().manual_seed(0))
    data = load("planted", "train", 8)
    loss = objective(model, data.x, data.y, torch.Generator().manual_seed(7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        found = plain(model, data.x, data.y)
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)
    for other, ours in zip(*(torch.autograd.grad(value, list(model.parameters())) for value in (found, loss)),
                           strict=True):
        torch.testing.assert_close(other, ours, rtol=0, atol=1e-4 * ours.abs().max().item() + 1e-6)


def test_the_plain_contrastive_loss_is_ours() -> None:
    model = paradigms.untrained(paradigms.SimCLR("small"))
    data, generator = load("planted", "train", 8), torch.Generator().manual_seed(0)
    views = torch.stack([paradigms.Augmentation()(data.x, generator) for _ in range(2)], 1)
    ours = paradigms.nt_xent(model.project(torch.cat(views.unbind(1))), peers.TEMPERATURE)
    torch.testing.assert_close(peers.contrastive_loss(model, views, data.y), ours)


STATISTICS = (
    lambda x: x.mean((1, 2, 3)),  # brightness
    lambda x: x.mean(1).std((1, 2)) / x.mean((1, 2, 3)),  # contrast
    lambda x: (x.amax(1) - x.amin(1)).mean((1, 2)) / x.mean(1).std((1, 2)),  # saturation
    lambda x: (x[:, 0] - x[:, 1]).mean((1, 2)),  # hue
    lambda x: (x[..., :16] - x[..., 16:]).mean((1, 2, 3)),  # mirror images, place
    lambda x: x.diff(dim=3).abs().mean((1, 2, 3)),  # size of the crop
)


def test_the_plain_views_follow_the_same_law() -> None:
    """Statistics of 2 x 500 views of an image: Kolmogorov-Smirnov, p > .001 each."""
    pixels = (255 * load("planted", "train", 1).x[0]).round().byte()
    plain = peers.TwoViews(measures.VIEW, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.cat([plain(pixels.permute(1, 2, 0).numpy()) for _ in range(500)])
    ours = measures.VIEW((pixels / 255).expand(1000, -1, -1, -1), torch.Generator().manual_seed(1))
    for view in (ours, theirs):
        assert view.shape == (1000, 3, 32, 32)
    grey = [(view.amax(1) - view.amin(1)).amax((1, 2)) < 1 / 512 for view in (ours, theirs)]
    assert all(0.15 < share.double().mean() < 0.25 for share in grey)
    for statistic in STATISTICS:
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 1e-3


def test_a_plain_epoch_over_views_trains() -> None:
    data, model = load("planted", "train", 8), paradigms.untrained(paradigms.SimCLR("small"))
    photographs = peers.Photographs((255 * data.x).byte().permute(0, 2, 3, 1).numpy(), data.y.numpy(),
                                    peers.TwoViews(measures.VIEW, 32))
    before = copy.deepcopy(dict(model.named_parameters()))
    peers.plain_epoch(model, DataLoader(photographs, 4), peers.contrastive_loss)
    still = [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]
    assert not still


def test_the_plain_probe_comes_to_our_optimum() -> None:
    """It minimises the same loss, but for the bias, which it decays as well, and for the usual variance over n - 1."""
    images, encoder = load("planted", "train", 60), paradigms.untrained(MAE(patch=8, width=32, depth=1))
    penalty = 0.05
    ours = paradigms.linear_probe(encoder, images, penalty)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = peers.plain_probe(encoder, DataLoader(TensorDataset(images.x, images.y), 60), images.num_classes, 300,
                                  penalty)
    losses = [F.cross_entropy(model(images.x), images.y) + penalty / 2 * head.weight.square().sum()
              for model, head in ((ours, ours.stages[-1]), (plain, plain[1][1]))]
    assert -1e-4 < losses[1] - losses[0] < 0.02
    assert (ours(images.x).argmax(1) == plain(images.x).argmax(1)).double().mean() > 0.95


def test_every_measure_gives_complete_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(robustness, "AutoAttack", lambda threat: PGD(threat, 3, restarts=2))
    monkeypatch.setattr(command, "keep_freed_memory", lambda: None)  # it would last for all tests that follow
    rows = command.main(["--tiny"])
    assert len(rows) == 54
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
