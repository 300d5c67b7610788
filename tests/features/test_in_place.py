"""A reader's network may work in place: it changes no images, and gives what its twin gives that works on copies."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nbutils.features import (
    NRF,
    Bottleneck,
    FeatureDistance,
    PictureSearch,
    activation_maximum,
    channel_energy,
    closed_form_masks,
    distill,
    features_at,
    invert,
    masked_logits,
    matched,
    robust_channel_usefulness,
    usefulness,
)
from nbutils.images import ImageSet, PlantedSet
from nbutils.networks import GlobalAveragePool, Normalize, SplitClassifier
from nbutils.paradigms import Alignment, Backbone
from nbutils.paradigms.probe import extract, linear_probe
from nbutils.robustness import CW, PGD, ThreatModel, evaluate, predict
from nbutils.training import TRADES

AT, QUICK = "bn", Bottleneck(iterations=3)
LINF = ThreatModel("Linf", 2 / 255)
MARGIN = PGD(LINF, 2, loss="margin", random_start=False)


class InPlace(nn.Module):
    """`Normalize`, written over the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.25)


def network(in_place: bool) -> SplitClassifier:
    torch.manual_seed(0)
    stages = {"normalize": InPlace() if in_place else Normalize(), "conv": nn.Conv2d(3, 8, 5, 4),
              "bn": nn.BatchNorm2d(8), "relu": nn.ReLU(in_place), "mix": nn.Conv2d(8, 8, 1), "soft": nn.ReLU(in_place),
              "pool": GlobalAveragePool(), "linear": nn.Linear(8, 10)}
    return SplitClassifier(stages, "net").eval()


CALLS: dict[str, Callable[[SplitClassifier, ImageSet], Tensor]] = {
    "predict": lambda model, data: predict(model, data.x),
    "features": lambda model, data: model.features(data.x, AT),
    "logits": lambda model, data: model.logits_from(model.features(data.x, AT), AT),
    "distill": lambda model, data: distill(model, data, data.y, AT, QUICK).sigma,
    "distill in closed form": lambda model, data: distill(model, data, data.y, "mix", QUICK).sigma,
    "masks": lambda model, data: closed_form_masks(model, data, data.y, "mix", torch.full((6,), 3)),
    "masked": lambda model, data: masked_logits(model, data, torch.arange(8) < 4, AT),
    "features_at": lambda model, data: features_at(model, data, AT),
    "energy": lambda model, data: channel_energy(model, data, AT),
    "CW": lambda model, data: evaluate(model, data, CW(steps=3)).l2,
    "NRF": lambda model, data: NRF(1.0, 3, at=AT, bottleneck=QUICK)(model, data.x, data.y),
    "NRF, second order": lambda model, data: NRF(1.0, 3, at=AT, bottleneck=QUICK, second_order=True, within=LINF)(
        model, data.x, data.y),
    "PGD": lambda model, data: evaluate(model, data, PGD(LINF, 2)).linf,
    "TRADES": lambda model, data: TRADES(PGD(LINF, 2, loss="kl"))(
        model, data.x, data.y, torch.Generator().manual_seed(0)),
    "inversion": lambda model, data: invert(model, features_at(model, data, AT), AT, settings=PictureSearch(3))[0],
    "maximum": lambda model, data: activation_maximum(model, AT, torch.eye(8)[:2] > 0, settings=PictureSearch(3)),
    "matched": lambda model, data: matched(data, model, "set", FeatureDistance(AT), steps=2).x,
    "usefulness": lambda model, data: torch.tensor(usefulness(model, data, 0, MARGIN)),
    "channels": lambda model, data: torch.cat(robust_channel_usefulness(model, data, data, data, MARGIN)),
    "extract": lambda model, data: extract(Backbone(model), data),
    "probe": lambda model, data: linear_probe(Backbone(model), data, 1e-3)(data.x),
    "alignment": lambda model, data: Alignment(Backbone(model), data.x)(data.x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_it_gives_what_its_twin_gives_and_leaves_the_images(call: Callable[[SplitClassifier, ImageSet], Tensor],
                                                            planted_test: PlantedSet) -> None:
    drawn = planted_test.take(6)
    data = ImageSet(drawn.x.contiguous(memory_format=torch.channels_last), torch.arange(6) % 2, drawn.classes, "few")
    before = data.x.clone()
    expected, found, again = (call(network(in_place), data).detach() for in_place in (False, True, True))
    assert torch.equal(data.x, before)
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)
