"""torchvision is there, also where its compiled part does not fit."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from nbutils.torchvision import torchvision

# What the wrapper of the CUDA build does beside a CPU build of torch: it names an operator that nobody has defined.
BROKEN = """
import torch
from torchvision import helper
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: scores)
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, iou_threshold: scores)
"""


THROUGH_US = "from nbutils.torchvision import torchvision; print(torchvision.__file__, torchvision.helper.imported)"


def run_beside(folder: Path, init: str, code: str = THROUGH_US) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own where `folder` holds another torchvision."""
    package = folder / "torchvision"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(init)
    (package / "helper.py").write_text("imported = True\n")
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, text=True,
                          capture_output=True, check=False)


def test_torchvision_works() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torchvision.transforms.functional.hflip(image), image.flip(2))
    assert torchvision.models.resnet18(num_classes=5).eval()(image[None]).shape == (1, 5)


def test_an_undefined_operator_does_not_stop_the_import(tmp_path: Path) -> None:
    plain = run_beside(tmp_path, BROKEN, "import torchvision")
    assert "operator torchvision::nms does not exist" in plain.stderr
    done = run_beside(tmp_path, BROKEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "torchvision" / "__init__.py"), "True"]


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    done = run_beside(tmp_path, "raise RuntimeError('the disk is on fire')")
    assert done.returncode == 1
    assert "RuntimeError: the disk is on fire" in done.stderr
