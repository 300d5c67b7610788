# %% text
# **Your world.** Beside this notebook lies `world.safetensors`: images of a planted world that nobody else has. Ten
# shapes; over each image lies a faint tile of 4 x 4 pixels, repeated. Each class has its own tile, each image carries
# the tile of its class or, now and then, another one. How faint, how often, and which tiles: that is yours alone.
#
# **To start.** Open this notebook with the environment of the repository: there, call `.venv/bin/jupyter lab FOLDER`,
# where FOLDER is where this notebook lies. Your prediction goes into the cell above: a double click opens it.
#
# **Rules.** Write where the dots are. Leave the other cells as they are and where they are, and do not copy cells: your
# answers are found by what is stored in them. The cell below each answer shows under which names it is looked for, and
# what you have stored there; whether it is right, your teacher tells. A cell may run for five minutes. *Restart and run
# all* before you hand in this file, under the name that it has. Numbers count, not names of helpers: organise your code
# as you like.

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
