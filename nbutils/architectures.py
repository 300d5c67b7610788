"""The architectures that have a name, as plain data. It takes no torch, so that a wrong name is told at once;
`networks.build` makes the networks."""

from typing import Any

# name -> its kind, a function of `networks` that yields the stages, and the shape that it is given
NETWORKS: dict[str, tuple[str, Any]] = {
    "small": ("strided", (24, 48, 96, 96)),
    "small_narrow": ("strided", (12, 24, 48, 48)),
    "small_wide": ("strided", (48, 96, 192, 192)),
    "vgg_small": ("vgg", ((16,), (32,), (64,), (128,))),
    "vgg_narrow": ("vgg", ((8,), (16,), (32,), (64,))),
    "vgg_wide": ("vgg", ((32,), (64,), (128,), (256,))),
    "vgg_deep": ("vgg", ((16, 16), (32, 32), (64, 64), (128, 128))),
    "wrn_small": ("wrn", (10, 2, 2)),
    "wrn_wide": ("wrn", (10, 4, 2)),
    "wrn_deep": ("wrn", (16, 1, 2)),
    "resnet9": ("resnet9", 32),
    "airbench": ("airbench", (32, 32, 128, 256)),
    "vgg16": ("vgg", ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)),
    "wrn28_10": ("wrn", (28, 10, 1)),
    "resnet18": ("torchvision", "resnet18"),
    "resnet50": ("torchvision", "resnet50"),
    "densenet121": ("torchvision", "densenet121"),
    "inception_v3": ("torchvision", "inception_v3"),
}
CUTTABLE = tuple(name for name, (kind, _) in NETWORKS.items()
                 if kind in ("strided", "vgg", "airbench", "wrn") or name == "densenet121")
"""Those with a BatchNorm before their head, where Kim et al. (2021) cut."""


def original(network: str) -> str:
    """The network of Kim et al. (2021) that is of the same kind; "" if none is."""
    return {"vgg": "VGG-16", "wrn": "WRN-28-10"}.get(NETWORKS[network][0], "")
