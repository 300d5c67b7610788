"""The image sources that have a name, as far as they are known before an image is read. It takes no torch, so that a
wrong name is told at once; `images.sources` reads them."""

from dataclasses import dataclass

DIGITS = tuple("0123456789")
SHAPES = ("disc", "ring", "square", "triangle", "cross", "star", "crescent", "bar", "two dots", "L")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Dataset:
    """An image source.

    Attributes:
        title: the words that tables and figures use.
        classes: names in the order of the labels; none where they stand in the data.
        sizes: images there are to train on and to test on; none where as many are drawn as are wanted.
        augmentation: how training may vary the images, see `images.augment`.
    """

    title: str
    classes: tuple[str, ...]
    sizes: tuple[int, int] | None
    augmentation: str = "none"


DATASETS = {
    "planted": Dataset("planted", SHAPES, None),
    "digits": Dataset("digits", DIGITS, (1437, 360)),
    "cifar10": Dataset("CIFAR-10", CIFAR10, (50_000, 10_000), "crop+flip"),
    "svhn": Dataset("SVHN", DIGITS, (73_257, 26_032), "crop"),
    "tiny-imagenet": Dataset("Tiny ImageNet", (), (100_000, 10_000), "crop+flip"),
}
