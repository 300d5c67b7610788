"""The parameters that chapters have: what each may be, what a profile says, and what a chapter's own cell sets.

Nothing here takes torch, so that a mistake is told at once. What the engine knows by name is listed once more; a folder
of images and an unusual radius are left to the engine.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Annotated, Any

import nbformat
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nbutils.architectures import CUTTABLE, NETWORKS
from nbutils.datasets import DATASETS
from nbutils.lab.history import git
from nbutils.machine import ROOT
from nbutils.messages import DECIMAL, check_choice, counted, did_you_mean, read_project_file, short_repr

PROFILES = ROOT / "book" / "profiles"
ENCODER_SIZES = ("small", "paper")
AUTOATTACKS = ("standard", "rand", "apgd", "apgd-ce")
METHODS = ("ADV", "TRADES", "MART", "TRADES-K", "MART-K")
PRECISIONS = ("auto", "float32", "bfloat16")
NEEDS_TRUTH = "# planted world only"  # the first line of a cell that runs on planted images alone
AT_MOST = (("attack_size", "test_size"), ("costly_size", "attack_size"), ("costly_size", "test_size"),
           ("construct_size", "train_size"), ("match_size", "construct_size"))
LEAST = {"train_size": 20, "test_size": 10}
MASKED = {"05_ib_distillation": 0, "06_feature_visualization": 0, "07_correlation_tables": 0, "08_nrf_attack": 0,
          "12_three_definitions": -1}  # chapters that mask channels, and from which of the table's networks on


class ParameterError(ValueError):
    """A parameter that cannot be used; the message is one line."""


def _plain(words: str) -> Callable[[Any], Any]:
    """Takes numbers, also as text, which papermill passes where it cannot read it as a number; true and false are none.
    """
    def check(value: Any) -> Any:
        text = isinstance(value, str)
        if isinstance(value, bool) or (text and not re.fullmatch(rf"-?(?!0[0-9]){DECIMAL}(e-?[0-9]{{1,2}})?", value)):
            raise ValueError(f"expected {words}")
        return float(value) if text and not value.removeprefix("-").isdigit() else value

    return check


def _radius(value: Any) -> float:
    if levels := re.fullmatch("([1-9][0-9]?)/255", str(value)):
        return int(levels[1]) / 255
    number = float(value) if isinstance(value, str) and re.fullmatch(DECIMAL, value) else value
    if isinstance(number, float) and 0 < number <= 1:
        return number
    from nbutils.robustness.threat import ThreatModel, parse_eps  # here, since it takes torch

    eps = ThreatModel("Linf", parse_eps(value if isinstance(value, str) else _plain("a number")(value))).eps
    if eps == 0:
        raise ValueError("expected more than 0, since chapters train and attack with it; such as 8/255")
    return eps


def _dataset(value: Any) -> str:
    if value not in DATASETS:
        from nbutils.images.sources import check_dataset  # here, since it takes torch

        check_dataset(str(value))
    return str(value)


def _device(value: Any) -> str:
    if not re.fullmatch("auto|cpu|mps|cuda(:(0|[1-9][0-9]{0,2}))?", str(value)):
        raise ValueError("expected auto, cpu, mps or cuda, or cuda:1 for the second GPU")
    return str(value)


def _one_of(known: Collection[str]) -> BeforeValidator:
    return BeforeValidator(lambda value: check_choice("value", value, known))


def _some_of(known: Collection[str], least: int = 1, most: int = 99) -> BeforeValidator:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("expected names with commas between them")
        names = [name.strip() for name in value.split(",")]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"found {name} {names.count(name)} times; expected each name once")
        if not least <= len(names) <= most:
            raise ValueError(f"{counted(len(names), 'name')}; expected {least} to {most}")
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r}: expected some of {', '.join(known)}{did_you_mean(name, known)}")
        return ", ".join(names)

    return BeforeValidator(check)


def _with_adv(names: str) -> str:
    if "ADV" not in names.split(", "):
        raise ValueError("expected ADV among them, with which the others are compared")
    return names


Count = Annotated[int, BeforeValidator(_plain("a whole number, such as 3"))]
StepSize = Annotated[float, BeforeValidator(_plain("a number, such as 0.1")), Field(gt=0, le=100, allow_inf_nan=False)]


class Parameters(BaseModel):
    """Every parameter that a chapter can have. A chapter's parameters cell names those it uses; a profile gives values
    to all but eps, first_seed, device and precision."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    profile: str
    dataset: Annotated[str, BeforeValidator(_dataset)]
    train_size: Count = Field(ge=LEAST["train_size"], le=1_000_000, description="training images per seed")
    test_size: Count = Field(ge=LEAST["test_size"], le=1_000_000, description="test images per seed")
    attack_size: Count = Field(ge=10, le=1_000_000, description="test images under the costlier attacks, per seed")
    seeds: Count = Field(ge=1, le=100, description="independent repetitions")
    first_seed: Count = Field(0, ge=0, le=1_000_000_000, description="the first of them, for seeds nobody has run")
    network: Annotated[str, _one_of(NETWORKS)]
    encoder_network: Annotated[str, _one_of(NETWORKS)]
    encoder_size: Annotated[str, _one_of(ENCODER_SIZES)]
    epochs: Count = Field(ge=1, le=10_000, description="passes over the training images")
    eps: Annotated[float, BeforeValidator(_radius)] = Field(8 / 255, description="L_inf radius, pixels in [0, 1]")
    steps: Count = Field(ge=1, le=10_000, description="PGD steps of the judging attack")
    curve_steps: Count = Field(ge=2, le=10_000, description="PGD steps for curves and surveys")
    train_steps: Count = Field(ge=1, le=100, description="PGD steps inside adversarial training")
    table_networks: Annotated[str, _some_of(NETWORKS)]
    table_methods: Annotated[str, _some_of(METHODS), AfterValidator(_with_adv)]
    table_epochs: Count = Field(ge=1, le=10_000, description="passes for the table's networks")
    autoattack: Annotated[str, _one_of(AUTOATTACKS)]
    construct_size: Count = Field(ge=20, le=1_000_000, description="training images that a set is made from")
    match_size: Count = Field(ge=20, le=1_000_000, description="training images that D_R and D_NR are made from")
    match_steps: Count = Field(ge=1, le=100_000, description="steps that make an image of D_R or D_NR")
    d_r_step_size: StepSize = Field(description="their L2 length, D_R")
    d_nr_step_size: StepSize = Field(description="their L2 length, D_NR")
    relabel_steps: Count = Field(ge=1, le=100_000, description="steps that make an image of D_rand or D_det")
    pretrain_epochs: Count = Field(ge=1, le=10_000, description="passes of CL pre-training; others a share")
    # They are ranked, and the exact p value goes through all orders.
    transfer_networks: Annotated[str, _some_of(NETWORKS, 2, 9)]
    transfer_epochs: Count = Field(ge=1, le=10_000, description="passes over the training images for these networks")
    costly_size: Count = Field(ge=4, le=1_000_000, description="test images under CW, FAB and AutoAttack, per seed")
    device: Annotated[str, BeforeValidator(_device)] = Field("auto", description="auto: cuda > mps > cpu")
    precision: Annotated[str, _one_of(PRECISIONS)] = Field("auto", description="of training; auto: the faster one")


OF_MACHINE = {"device", "precision"}
OF_SEEDS = {"seeds", "first_seed"}
IN_PROFILES = Parameters.model_fields.keys() - {"profile", "eps", "first_seed"} - OF_MACHINE
BLOCK = 10_000  # seeds: a run has some of the first STUDENTS of a block; its students have the others, see `Run.each`
STUDENTS = 100


def profiles() -> list[str]:
    """Names of all profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yml"))


def _profile(name: Any) -> dict[str, Any]:
    check_choice("profile", name, profiles(), ParameterError)
    path = PROFILES / f"{name}.yml"
    if not re.fullmatch(r"[\w.-]+", str(name)):
        raise ParameterError(f"{path}: expected a name of letters, digits, '.', '_' and '-', which is a folder's too")
    try:
        values: dict[str, Any] = read_project_file(path, dict[str, Any])
    except ValueError as error:
        raise ParameterError(str(error)) from None
    values.pop("about", None)
    for key in values.keys() - IN_PROFILES:
        elsewhere = "; expected it in SET or in a chapter" * (key in Parameters.model_fields)
        raise ParameterError(f"{path}: {key!r} is no parameter of a profile"
                             f"{elsewhere or did_you_mean(key, IN_PROFILES)}")
    for key in sorted(IN_PROFILES - values.keys()):
        raise ParameterError(f"{path}: lacks {key!r}; a profile names every parameter but eps, first_seed and "
                             "device")
    return values


def resolve(given: Mapping[str, Any], allowed: Collection[str], chapter: str = "") -> Parameters:
    """All parameters of a run: those given, the rest from the profile.

    Args:
        given: name -> value; None means "as the profile says". allowed: the names this chapter has; sizes that it
            lacks follow those that it has. chapter: its name, for what it alone needs.

    Raises:
        ParameterError: unknown name (the nearest is suggested), wrong type, out of range, unknown profile, values that
            do not go together.
    """
    for name in given:
        if name not in allowed:
            hint = did_you_mean(name, allowed)
            if name in Parameters.model_fields:
                hint = "; other chapters have it" if allowed else ""
            every = ", ".join(sorted(allowed)) or "a code cell tagged 'parameters' that sets it in a line of its own"
            known = f"one of the {len(allowed)} of this chapter" if "did you mean" in hint else every
            raise ParameterError(f"parameter {name!r}: expected {known}{hint}")
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if not isinstance(value, (str, int, float)):
            kind = type(value).__name__
            raise ParameterError(f"{name} = {short_repr(value)}: expected a number or text, not a {kind}")
    profile = chosen.get("profile", "quick")
    try:
        parameters = Parameters(**{**_profile(profile), **chosen, "profile": profile})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        where = "" if name in chosen else f" (from profile {profile!r})"
        message = re.sub(rf"^\w+ = {re.escape(repr(first['input']))}: ", "", message)  # as a function's argument
        message = message.replace(repr(first["input"]), short_repr(first["input"]))
        message = message.removeprefix(f"{first['input']}: ")  # a folder's errors name it already
        if not message.startswith(f"{name} ="):
            message = f"{name} = {short_repr(first['input'])}: {message[0].lower()}{message[1:]}"
        raise ParameterError(" ".join((message + where).split())) from None
    return _fitting(parameters, chosen, allowed, chapter)


def _fitting(parameters: Parameters, chosen: Collection[str], allowed: Collection[str], chapter: str) -> Parameters:
    """Parameters that go together: a size that the chapter lacks is cut to its bound, and where there are fewer images
    than the profile asks for all are taken; see `resolve`.

    A chapter that lacks a choice of images has the planted ones.
    """
    def told(name: str) -> str:
        where = "" if name in chosen else f" (from profile {parameters.profile!r})"
        return f"{name} = {getattr(parameters, name)}{where}"

    if "dataset" not in allowed:
        parameters = parameters.model_copy(update={"dataset": "planted"})
    cut = set()
    for name, (most, where) in _most(parameters.dataset).items():
        if getattr(parameters, name) > most and name in allowed:
            if most < (least := LEAST[name]):
                raise ParameterError(f"dataset = {parameters.dataset!r}: {where} holds {most} images; expected at "
                                     f"least {least}, which is the least {name}")
            if name in chosen or most < 20:  # too few for any profile
                raise ParameterError(f"{told(name)}: {where} holds {most} images; expected at most {most}")
            parameters = parameters.model_copy(update={name: most})
            cut.add(name)
    most = STUDENTS - parameters.seeds
    if parameters.first_seed % BLOCK > most:
        raise ParameterError(f"{told('first_seed')}, seeds = {parameters.seeds}: expected 0 to {most}, {BLOCK} to "
                             f"{BLOCK + most}, {2 * BLOCK} to {2 * BLOCK + most} and so on; students have the seeds "
                             "between")
    for smaller, larger in AT_MOST:
        value, bound = getattr(parameters, smaller), getattr(parameters, larger)
        if value > bound and larger in cut and smaller not in chosen:
            cut.add(smaller)
            parameters = parameters.model_copy(update={smaller: bound})
        elif value > bound and {smaller, larger} <= set(allowed):
            raise ParameterError(f"{told(smaller)}: expected at most {larger} = {bound}")
        elif value > bound and smaller not in allowed:
            parameters = parameters.model_copy(update={smaller: bound})
    if chapter in MASKED:
        for name in parameters.table_networks.split(", ")[MASKED[chapter]:]:
            if name not in CUTTABLE:
                raise ParameterError(f"table_networks = {parameters.table_networks!r}: before the head of {name} "
                                     "stands no BatchNorm, where this chapter cuts; expected some of "
                                     + ", ".join(CUTTABLE))
    if chapter == "06_feature_visualization" and parameters.seeds == 1 and "," not in parameters.table_networks:
        raise ParameterError(f"table_networks = {parameters.table_networks!r}, seeds = 1: expected two of either, for "
                             "another network reads the pictures")
    if chapter == "08_nrf_attack" and parameters.costly_size == parameters.test_size:
        raise ParameterError(f"{told('costly_size')}: expected less than test_size = {parameters.test_size}, for "
                             "attacks are tuned on the test images that are left")
    return parameters


def _most(dataset: str) -> dict[str, tuple[int, object]]:
    """Size -> how many images there are for it, and where; none for images that are drawn."""
    if dataset.startswith("folder:"):
        from nbutils.images.folders import tree  # here: it takes torch

        found = tree(dataset)
        return {f"{split}_size": (len(files), found.root / split) for split, files in found.files.items()}
    if not (sizes := DATASETS[dataset].sizes):
        return {}
    return {f"{split}_size": (most, f"{dataset} {split}")
            for split, most in zip(("train", "test"), sizes, strict=True)}


def assigned(code: str) -> dict[str, ast.expr | None]:
    """Name -> expression of what a cell assigns at its top level; raises SyntaxError."""
    if "\0" in code:
        raise SyntaxError("source code string cannot contain null bytes")  # Python 3.11.2 raises a ValueError
    found = {}
    for line in ast.parse(code).body:
        for target in line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]:
            if isinstance(target, ast.Name):
                found[target.id] = getattr(line, "value", None)
    return found


def committed(name: str) -> dict[str, Any]:
    """The plain values of a chapter's parameters cell as last committed; as on disk where git does not know it."""
    path = ROOT / "notebooks" / f"{name}.ipynb"
    try:
        text = git("show", f"HEAD:./notebooks/{path.name}").stdout
    except (OSError, UnicodeError):
        text = ""
    if not text and not path.is_file():
        return {}
    return plain(nbformat.reads(text or path.read_text(encoding="utf-8"), as_version=4), name)


def plain(notebook: nbformat.NotebookNode, name: str) -> dict[str, Any]:
    """Name -> value that the parameters cell of the notebook called `name` sets, where it is a plain one."""
    values: dict[str, Any] = {}
    for key, value in set_in(notebook, name).items():
        # Not a plain one, which only running the cell tells.
        with suppress(ValueError, TypeError, RecursionError, MemoryError):
            values[key] = ast.literal_eval(value) if value else None
    return values


def set_in(notebook: nbformat.NotebookNode, name: str) -> dict[str, ast.expr | None]:
    """Name -> expression that the cell tagged ``parameters`` sets, in order; `name` is the notebook's, for messages.

    Raises:
        ParameterError: the cell is no Python, or assigns what is no parameter; in one line.
    """
    found: dict[str, ast.expr | None] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            try:
                found |= assigned(cell.source)
            except SyntaxError as error:
                line = f"line {error.lineno} of " * bool(error.lineno)
                raise ParameterError(f"{name}: syntax error in {line}its parameters cell: {error.msg} "
                                     f"in {short_repr((error.text or cell.source).strip())}") from None
            except (RecursionError, MemoryError):
                raise ParameterError(f"{name}: its parameters cell: nested too deeply, {short_repr(cell.source)}; "
                                     "expected lines such as seeds = 3") from None
    for key in found:
        if key not in Parameters.model_fields:
            raise ParameterError(f"{name}: its parameters cell sets {key!r}, which is no parameter"
                                 f"{did_you_mean(key, Parameters.model_fields)}")
    return found


def short(value: Any) -> str:
    """A parameter's value for a line of text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
