# %% text
# **Your world.** Beside this notebook lies `world.safetensors`: images of a planted world that nobody else has. Ten
# shapes; over each image lies a faint tile of 4 x 4 pixels, repeated. Each class has its own tile, each image carries
# the tile of its class or, now and then, another one. How faint, how often, and which tiles: that is yours alone.
#
# **Rules.** Write where the dots are. Leave the other cells as they are and where they are, and do not copy cells: your
# answers are found by what is stored in them. A cell may run for five minutes. *Restart and run all* before you hand
# in. Numbers count, not names of helpers: organise your code as you like.

# %% code
import torch
from safetensors.torch import load_file

from nbutils import images

loaded = load_file("world.safetensors")
train, test = (
    images.ImageSet(
        loaded[f"{part}.x"].float() / 255, loaded[f"{part}.y"],
        images.planted.SHAPES, f"my world, {part}",
    )
    for part in ("train", "test")
)
print(len(train), "training images,", len(test), "test images")
