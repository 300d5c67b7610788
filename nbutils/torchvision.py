"""torchvision, made to import beside a CPU-only torch.

On Linux the package index holds torchvision only as built for CUDA. Beside a CPU build of torch its import stops at
"operator torchvision::nms does not exist", because it registers shapes for two operators that its
compiled part would have defined. Nothing in this book uses these operators, so naming them is enough.
"""

import importlib
import sys

import torch

try:
    torchvision = importlib.import_module("torchvision")
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    # The schemas live as long as this object, so it stays a module attribute.
    operator_schemas = torch.library.Library("torchvision", "DEF")
    operator_schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operator_schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torchvision = importlib.import_module("torchvision")
