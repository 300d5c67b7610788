"""Images with labels: the planted world, real data sources, and batches."""

from nbutils.images.batches import augment, batches
from nbutils.images.compression import jpeg
from nbutils.images.imageset import DataError, ImageSet
from nbutils.images.planted import VIEWS, PlantedSet, PlantedWorld, views
from nbutils.images.sources import load
