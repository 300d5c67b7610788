"""What tells values, functions, classes and networks apart, and what does not."""

import copy
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nbutils import networks, training
from nbutils.hashing import content_hash
from nbutils.machine import ROOT
from nbutils.store import load_or_build
from nbutils.versions import code_version

CELLS = '''
import functools
from dataclasses import dataclass, field
import torch
import torch.nn.functional as F
from torch import nn

# a comment
scale = 2.0
names = {"a", "b", "c"}


def inner(x):
    """Only words."""
    return x * scale


def helper(x, power=1):
    return inner(x) ** power


def loss(model, x, y, generator):
    """The loss."""
    if x in {"p", "q"}:
        return None
    return helper(model(x) - 1)


def outer(weight):
    def objective(model, x, y, generator):
        """Captures its weight."""
        return weight * loss(model, x, y, generator)
    return objective


class Base:
    """Words."""

    rate = 0.5

    def step(self, x):
        return x + 3


class Sub(Base):
    def __call__(self, x):
        class Local:
            """Words inside."""
            kept = 4
        return super().step(x) * Local.kept


@dataclass(frozen=True)
class Goal(Base):
    weight: float = 0.25
    parts: list = field(default_factory=list)

    @staticmethod
    def twice(x):
        return 2 * x

    @property
    def half(self):
        return self.weight / 5

    @functools.cached_property
    def third(self):
        return self.weight / 6

    @torch.no_grad()
    def __call__(self, model, x, y, generator):
        return self.twice(x) * self.half


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._hidden, self.act = 7, lambda x: x + 8
        self.register_buffer("shift", torch.tensor([9.0]), persistent=False)

    def forward(self, x):
        return self.act(x) + self.shift


@functools.lru_cache
def cached(n):
    return n + 10


anonymous = lambda x: x + 11
partial = functools.partial(helper, power=12)
method = Goal().__call__
even = lambda n: n == 0 or odd(n - 1)
odd = lambda n: n != 0 and even(n - 1)
closure = outer(13)
everything = [loss, closure, Sub(), Goal(), Net(), cached, anonymous, partial, method, even, names]
'''


def run(source: str) -> dict[str, Any]:
    """The names after cells of a notebook have run; no file holds their source."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<cell>", "exec"), space)
    return space


def keys(source: str) -> dict[str, str]:
    """Name -> hash of what stands in the list `everything`."""
    space = run(source)
    names = ["loss", "closure", "sub", "goal", "net", "cached", "anonymous", "partial", "method", "even", "names"]
    return {name: content_hash(part) for name, part in zip(names, space["everything"], strict=True)}


PLAIN = keys(CELLS)


@pytest.mark.parametrize(("old", "new"), [
    ("# a comment", "# another\n\n# and one more"), ("Only words.", "Other\n    words."), ("The loss.", "A loss."),
    ('"""Captures its weight."""', '"""Captures."""'), ('"""Words."""', '"""More words."""'),
    ("Words inside.", "Inside."), ("return inner(x) ** power", "return (inner(x)  # why\n            ** power)"),
    ('    """Only words."""\n', ""), ('    """Words."""\n', ""), ('            """Words inside."""\n', ""),
])
def test_words_and_layout_are_no_other_code(old: str, new: str) -> None:
    assert CELLS.count(old) == 1
    assert keys(CELLS.replace(old, new)) == PLAIN


HELPED = {"loss", "closure", "partial"}


@pytest.mark.parametrize(("old", "new", "changes"), [
    ("model(x) - 1", "model(x) - 2", {"loss", "closure"}),  # the body
    ("inner(x) **", "inner(x) * 2 **", HELPED), ("x * scale", "x / scale", HELPED),  # what it calls, and that calls
    ("scale = 2.0", "scale = 2.5", HELPED), ("scale = 2.0", "scale = torch.tensor(2.0)", HELPED),  # a global value
    ("power=1)", "power=2)", HELPED), ("power=12", "power=13", {"partial"}),  # a default argument
    ('{"p", "q"}', '{"p", "r"}', {"loss", "closure"}),
    ("outer(13)", "outer(14)", {"closure"}), ("weight * loss", "weight + loss", {"closure"}),  # a captured value
    ("x + 3", "x + 4", {"sub", "goal", "method"}), ("rate = 0.5", "rate = 1", {"sub", "goal", "method"}),  # a base
    ("kept = 4", "kept = 5", {"sub"}), ("class Sub(Base)", "class Sub", {"sub"}),
    ("0.25", "0.75", {"goal", "method"}), ("2 * x", "3 * x", {"goal", "method"}), ("/ 5", "/ 6.0", {"goal", "method"}),
    ("weight / 6", "weight / 7", {"goal", "method"}), ("@torch.no_grad()", "@torch.enable_grad()", {"goal", "method"}),
    ("x + 8", "x - 8", {"net"}), ("_hidden, self.act = 7", "_hidden, self.act = 6", {"net"}), ("9.0", "9.5", {"net"}),
    ("self.act(x) + ", "self.act(x) - ", {"net"}), ("n + 10", "n + 9", {"cached"}), ("x + 11", "x + 12", {"anonymous"}),
    ("n == 0 or", "n == 1 or", {"even"}), ("n != 0 and", "n != 1 and", {"even"}),
    ('names = {"a", ', 'names = {"d", ', {"names"}),
    ("class Base:", "class Base:\n    def __init_subclass__(cls):\n        cls.new = 1\n", {"sub", "goal", "method"}),
    ("anonymous =", "def inner(x):\n    return -x\n\n\nanonymous =", HELPED),  # defined again in a later cell
])
def test_code_and_what_it_uses_decide(old: str, new: str, changes: set[str]) -> None:
    assert CELLS.count(old) == 1
    changed = keys(CELLS.replace(old, new))
    assert {name for name in PLAIN if changed[name] != PLAIN[name]} == changes


def test_identities_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Nothing of them is an address, an order of a set or a number that counts."""
    script = tmp_path / "script.py"
    script.write_text(CELLS + "\nfrom nbutils.hashing import content_hash\n"
                              "print([content_hash(one) for one in everything])\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, env={
        **os.environ, "PYTHONHASHSEED": str(1 + hash("a") % 100), "PYTHONPATH": str(ROOT)})
    assert done.stdout == f"{list(PLAIN.values())}\n"


def test_a_readers_own_module_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the module that is loaded, not the file, which may have been edited since."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(body: str) -> str:
        sys.modules.pop("own_losses", None)
        (tmp_path / "own_losses.py").write_text(f'"""Words."""\n\ndef loss(x):\n    return {body}\n')
        return content_hash(run("import own_losses\ndef use(x):\n    return own_losses.loss(x)")["use"])

    plain = written("x")
    assert written("x  # words") == plain != written("-x")
    loaded = run("import own_losses\ndef use(x):\n    return own_losses.loss(x)")["use"]
    before = content_hash(loaded)
    (tmp_path / "own_losses.py").write_text("def loss(x):\n    return 5\n")
    assert content_hash(loaded) == before
    sys.modules.pop("own_losses")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
                   | st.lists(inner, max_size=3).map(tuple)), max_leaves=6)


@given(values, values)
def test_values_are_one_exactly_where_they_print_alike(a: object, b: object) -> None:
    """Types count, so 1, 1.0, True and "1" are four; copies do not."""
    assert (content_hash(a) == content_hash(b)) == (repr(a) == repr(b))
    assert content_hash(copy.deepcopy(a)) == content_hash(a)
    assert content_hash([a, a]) == content_hash([a, copy.deepcopy(a)])


def test_values_that_are_easily_confused() -> None:
    different: list[object] = [1, 1.0, True, "1", [1], (1,), {1}, {"1": 1}, {1: 1}, b"1", torch.tensor(1),
                               torch.tensor([1]), torch.tensor(1.0), torch.float32, torch.device("cpu"), range(1), int,
                               Path("1"), torch.relu, torch.sigmoid, len, max, None, ..., float("nan"),
                               torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)]
    assert len({content_hash(one) for one in different}) == len(different)


def test_libraries_count_by_name_and_the_engine_by_its_code() -> None:
    assert content_hash(nn.functional.relu) == content_hash(nn.functional.relu) != content_hash(nn.functional.relu6)
    before = content_hash(training.Standard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbutils.hashing.code_version", lambda module: code_version(module) + "changed")
        assert content_hash(training.Standard) != before
        assert content_hash(run("from nbutils import training\ndef f():\n    return training.kl")["f"]) != content_hash(
            run("from nbutils import training\ndef f():\n    return training.other")["f"])
        patch.setattr(nn.functional, "relu", run("import functools, torch\n@functools.wraps(torch.nn.functional.relu)\n"
                                                 "def relu(x):\n    return -x")["relu"])
        notebook = run("import torch.nn.functional as F\ndef f(x):\n    return F.relu(x)\ng = F.relu")
        assert content_hash(notebook["g"]) != content_hash(nn.functional.relu6)


@pytest.mark.parametrize("value", [threading.Lock(), open(os.devnull), (n for n in [1])],  # noqa: SIM115
                         ids=["lock", "file", "generator"])
def test_what_cannot_be_read_is_refused(value: Any) -> None:
    space = run("def f(x):\n    return x, held")
    space["held"] = value
    with pytest.raises(TypeError, match=r"^a \S+ cannot be told apart from others \(.*\): expected funct") as caught:
        content_hash(space["f"])
    assert "\n" not in str(caught.value)


def test_hooks_and_settings_of_a_network_count_and_its_mode_does_not() -> None:
    model = networks.build("small")
    before = content_hash(model)
    assert content_hash(model.train()) == before == content_hash(copy.deepcopy(model))
    model.name, model.key = "other", "model-1"
    assert content_hash(model) == before
    found = {before}
    for act in ("model.stages[3].inplace = True", "model.forward = lambda x: -x",
                "model.stages[3].register_forward_hook(lambda part, inputs, out: -out)",
                "model.stages[3].register_forward_hook(lambda part, inputs, out: 2 * out)",
                "model.stages[1].weight.data[0] += 1", "model.stages[3].extra = {'a': [1]}"):
        other = copy.deepcopy(model)
        exec(act, {"model": other})
        found.add(content_hash(other))
    assert len(found) == 7


# --- in a notebook ------------------------------------------------------------------------------------------------

NOTEBOOK = '''
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
keys = []
for cell in json.load(sys.stdin):
    done = shell.run_cell(cell)
    done.raise_error()
    keys.append(done.result)
print(json.dumps(keys))
'''
BEGIN = """
import torch
import torch.nn.functional as F
from dataclasses import dataclass
from nbutils import training
from nbutils.images import load
images = load("planted", "train", 20)
def key(objective):
    return training.trained("small_narrow", images, objective, training.Schedule(1)).key
"""
SMOOTHED = """
@dataclass(frozen=True)
class Smoothed:
    '''Cross-entropy.'''
    amount: float = 0.1

    def __call__(self, model, x, y, generator):
        return F.cross_entropy(model(x), y, label_smoothing=self.amount)
"""
PLAIN_LOSS = """
def loss(model, x, y, generator):
    return term(model, x, y)
"""
TERM = """
def term(model, x, y):
    return F.cross_entropy(model(x), y)
"""


def test_an_objective_edited_in_a_notebook_is_trained_anew(tmp_path: Path) -> None:
    """What the exercises ask for. The last expression of a cell is the key of the network it trained."""
    edited = SMOOTHED.replace("self.amount)", "self.amount) + model(x).square().mean()")
    cells = [BEGIN, SMOOTHED + "key(Smoothed())", SMOOTHED.replace("Cross-entropy.", "Words.") + "key(Smoothed())  # !",
             edited + "key(Smoothed())", SMOOTHED + "key(Smoothed())", TERM + PLAIN_LOSS + "key(loss)", "key(loss)",
             TERM.replace("model(x)", "2 * model(x)") + "key(loss)", "key(lambda m, x, y, g: term(m, x, y))",
             "key(lambda m, x, y, g: 3 * term(m, x, y))"]
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], input=json.dumps([textwrap.dedent(c) for c in cells]),
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT),
                                                               "IPYTHONDIR": str(tmp_path)}, check=False)
    assert done.returncode == 0, done.stderr
    _, first, words, changed, back, plain, again, helped, anonymous, tripled = json.loads(
        done.stdout.splitlines()[-1])
    assert first == words == back
    assert plain == again
    assert len({first, changed, plain, helped, anonymous, tripled}) == 6
    assert len(list((tmp_path / "build" / "store" / "model").glob("model-*/"))) == 6


def test_functions_in_a_recipe_are_written_down_by_name() -> None:
    artifact = load_or_build("model", {"f": run("def loss(x):\n    return x")["loss"]}, lambda: {"x": torch.ones(1)})
    assert artifact.recipe == {"f": {"function": "loss"}}


def test_the_code_of_a_build_in_a_notebook_counts_and_its_values_are_the_recipes() -> None:
    def key(body: str, value: int) -> str:
        space = run(f"import torch\nheld = {value}\ndef helper():\n    return {body}\n"
                    "def build():\n    return {'x': torch.ones(1) * held * helper()}")
        return load_or_build("model", {"n": 1}, space["build"]).key

    assert key("1", 1) == key("1", 2) != key("2", 1)
