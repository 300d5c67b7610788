"""What a value is: its content and the code of all that it uses, as a hash that is the same in every process.

Keys of the store rest on it. A function written in a notebook is its own bytecode with its default arguments, what it
has captured, the global names that it uses, and the functions it calls, all the way down; a class is its bases and
everything in its body. What runs is read, not its source, so comments, docstrings and stale files play no part. Of
modules of `nbutils` the whole code counts, of libraries the name.
"""

from __future__ import annotations

import builtins
import copyreg
import dataclasses
import dis
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CellType, CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nbutils.versions import code_version

PLAIN = (type(None), bool, int, float, complex, str, type(...))
WRAPPERS = (staticmethod, classmethod, property, functools.cached_property, functools.partial, functools.partialmethod,
            type(functools.lru_cache(len)))
INSIDE = ("__wrapped__", "fget", "fset", "fdel", "func", "args", "keywords")  # where these keep what they wrap
NOT_WRITTEN = ("__doc__", "__firstlineno__")  # what a class body stores, but nobody runs
LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")  # of a name that may be global
VARIADIC = 12  # flags of a code object: *args and **kwargs


def content_hash(value: object) -> str:
    """Hash of a value; of code, of values, of networks, and of whatever holds them.

    Raises:
        TypeError: something in it has no content that could be read, such as a lock or an open file; in one line.
    """
    try:
        return _Reader()(value)
    except RecursionError:
        raise TypeError(f"a {type(value).__qualname__} that holds too much to be told apart from others: expected "
                        "functions and classes that use a few plain values") from None


def code_hash(build: Callable[..., object]) -> str:
    """Hash of the code that makes something: of a module of `nbutils` all of it, else the functions and classes used.

    The values that it works on are left out, since they are its recipe's.
    """
    while inner := getattr(build, "__func__", None) or getattr(build, "func", None):  # a method, or a partial
        build = inner
    if build.__module__.startswith("nbutils."):
        return code_version(build.__module__)
    if not isinstance(build, FunctionType):
        return content_hash(type(build))
    used = [*captured(build).items(), *globals_of(build)]
    return content_hash([build.__code__, [one for one in used if isinstance(one[1], (FunctionType, type, ModuleType))]])


class _Reader:
    """Maps values to hashes and remembers them, so that what is used twice is read once, and a circle ends."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[object, str | int]] = {}  # id -> the value, kept alive; its hash, or its depth
        self.depth = 0

    def __call__(self, value: object) -> str:
        if type(value) in PLAIN:
            return repr(value)
        _, found = self.known.get(id(value), (value, None))
        if isinstance(found, int):  # it is being read: how far up it stands tells it
            return f"#{self.depth - found}"
        if found is None:
            self.known[id(value)] = value, self.depth
            self.depth += 1
            found = _hash(type(value).__name__, self.parts(value))
            self.depth -= 1
            self.known[id(value)] = value, found
        return found

    def parts(self, value: Any) -> object:
        """Strings, and lists of them, that tell a value apart from others of its type."""
        if isinstance(value, (ModuleType, FunctionType, type)) and (name := by_name(value)):
            return name
        kind = type(value)
        if kind in (list, tuple):
            return list(map(self, value))
        if kind is dict:
            return [(self(key), self(item)) for key, item in value.items()]
        if kind in (set, frozenset):  # whose order differs between processes
            return sorted(map(self, value))
        if kind in (bytes, bytearray):
            return hashlib.sha256(value).hexdigest()
        match value:
            case Tensor():
                return _tensor(value)
            case nn.Module():
                return self.network(value)
            case ModuleType():  # a reader's own
                return [(name, self(part)) for name, part in sorted(vars(value).items()) if not name.startswith("__")]
            case FunctionType():
                rest = [value.__defaults__, value.__kwdefaults__, captured(value)]
                return [value.__qualname__, self(value.__code__), *map(self, rest),
                        [(name, self(part)) for name, part in globals_of(value)]]
            case MethodType():
                return [self(value.__func__), self(value.__self__)]
            case CodeType():
                return self.code(value)
            case type():
                return self.body(value)
            case MemberDescriptorType() | GetSetDescriptorType():
                return value.__name__
        if isinstance(value, WRAPPERS):
            return [(name, self(getattr(value, name))) for name in INSIDE if hasattr(value, name)]
        if dataclasses.is_dataclass(value):
            fields = [(field.name, self(getattr(value, field.name))) for field in dataclasses.fields(value)]
            return [self(kind), fields]
        return self.reduced(value)

    def code(self, code: CodeType) -> object:
        """The steps of a function with what they work on; line numbers and docstrings are in none of them."""
        steps: list[tuple[str, str]] = []
        for step in dis.get_instructions(code):
            if step.opname.startswith("STORE") and step.argval in NOT_WRITTEN:
                steps[-1:] = []  # with the step that loads it
            elif step.opname != "NOP":
                steps.append((step.opname, self(step.argval)))
        count = code.co_argcount + code.co_kwonlyargcount
        return [code.co_argcount, code.co_posonlyargcount, code.co_flags & VARIADIC, code.co_varnames[:count], steps,
                code.co_exceptiontable]

    def body(self, kind: type) -> object:
        """A class: its bases and what its body defines, methods that a decorator has made included."""
        parts = [(name, self(part)) for name, part in vars(kind).items()
                 if name != "_abc_impl" and (callable(part) or hasattr(part, "__func__") or not _is_dunder(name))]
        return [kind.__module__, kind.__qualname__, self(type(kind)), self(kind.__bases__), parts]

    def network(self, model: nn.Module) -> object:
        """Structure, code, settings (all attributes but mode, name and key), hooks and weights of a network."""
        own = {*vars(nn.Module()), "key", "name"}
        parts = [(name, self(type(part)), self({key: item for key, item in vars(part).items() if key not in own}),
                  [self(list(hooks.values())) for key, hooks in vars(part).items() if "_hooks" in key and hooks])
                 for name, part in model.named_modules(remove_duplicate=False)]
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        return [parts, [(name, _tensor(tensor)) for name, tensor in tensors]]

    def reduced(self, value: Any) -> object:
        """Any other object, as it would be copied to another process."""
        try:
            made = copyreg.dispatch_table.get(type(value), lambda one: one.__reduce_ex__(4))(value)
        except Exception as error:  # of whatever kind its class thinks right
            raise TypeError(f"a {type(value).__qualname__} cannot be told apart from others ({error}): expected "
                            "functions and classes that use plain values, tensors or networks") from None
        if isinstance(made, str):
            return made
        function, arguments, state, items, pairs = (*made, None, None, None)[:5]
        return [*map(self, (function, arguments, state)), [self(item) for item in items or ()],
                [self(pair) for pair in pairs or ()]]


def by_name(value: Any) -> str:
    """What to call a module, function or class of `nbutils` or of a library, where it is found under its own name."""
    module = value.__name__ if isinstance(value, ModuleType) else value.__module__
    home = sys.modules.get(module or "")
    ours = (module or "").partition(".")[0] == "nbutils"
    if home is None or not (ours or _is_library(module)):
        return ""
    if value is not home:
        found: Any = home
        for word in value.__qualname__.split("."):
            found = getattr(found, word, None)
        if found is not value:
            return ""
        module += f".{value.__qualname__}"
    return f"{module} {code_version(home.__name__)}" if ours else module


@functools.cache
def _is_library(module: str) -> bool:
    top = module.partition(".")[0]
    if top == "__main__":  # a notebook's cells, whatever file has started its kernel
        return False
    places = [getattr(sys.modules.get(top), "__file__", None) or "", *getattr(sys.modules.get(top), "__path__", ())]
    return top in sys.stdlib_module_names or any(part in ("site-packages", "dist-packages") for place in places
                                                 for part in Path(place).parts)


def captured(function: FunctionType) -> dict[str, object]:
    """Name -> value that a function has taken along from where it was written."""
    def content(cell: CellType) -> object:
        try:
            return cell.cell_contents
        except ValueError:  # not filled yet
            return None

    return dict(zip(function.__code__.co_freevars, map(content, function.__closure__ or ()), strict=True))


def globals_of(function: FunctionType) -> Iterator[tuple[str, object]]:
    """The global names that a function and the functions written inside it use, with their values, in one order."""
    names, codes = set(), [function.__code__]
    for code in codes:
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        names |= {step.argval for step in dis.get_instructions(code) if step.opname in LOADS}
    for name in sorted(names & function.__globals__.keys()):
        if function.__globals__[name] is not vars(builtins).get(name):
            yield name, function.__globals__[name]


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _tensor(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
