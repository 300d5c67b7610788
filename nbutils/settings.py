"""Settings whose annotations say which values they take, so that none is checked by hand."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from nbutils.messages import MOST, did_you_mean, short_repr, whole

Count = Annotated[int, Field(ge=1, le=MOST, description=whole(1))]
Whole = Annotated[int, Field(ge=0, le=MOST, description=whole(0))]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a finite number > 0")]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a finite number >= 0")]
Share = Annotated[float, Field(ge=0, le=1, description="a number in [0, 1]")]


def one_of(known: Collection[str]) -> Any:
    """What ``Annotated[str, one_of(known)]`` allows."""
    return Field(pattern=f"^(?:{'|'.join(map(re.escape, known))})$", description=" or ".join(map(repr, known)))


class Settings:
    """What a dataclass of settings inherits: each value is one that its field's annotation allows, and a number becomes
    Python's own, so that equal settings are the same recipe.

    Raises:
        ValueError: a value that does not fit, in one line that names it, what was expected, and the default.
    """

    fault: ClassVar[type[ValueError]] = ValueError

    def __post_init__(self) -> None:
        kinds = _kinds(type(self))  # type: ignore[arg-type]  # a class, and those can be hashed
        try:
            fitting = kinds.model_validate({name: getattr(self, name) for name in kinds.model_fields})
        except ValidationError as error:
            raise self.fault(_words(self, error)) from None
        for name in kinds.model_fields:
            object.__setattr__(self, name, getattr(fitting, name))  # the dataclass is frozen


@cache
def _kinds(settings: Any) -> type[BaseModel]:
    """The annotations of a class of settings, as pydantic checks them."""
    hints = get_type_hints(settings, include_extras=True)
    named: dict[str, Any] = {field.name: (hints[field.name], ...) for field in fields(settings)}
    return create_model(settings.__name__, __config__=ConfigDict(strict=True, arbitrary_types_allowed=True), **named)


def _words(settings: Settings, error: ValidationError) -> str:
    """What is wrong with the first setting that does not fit."""
    found = error.errors()
    name = str(found[0]["loc"][0])
    value, default = getattr(settings, name), getattr(type(settings), name, None)
    same = dict.fromkeys(one["msg"].removeprefix("Input should be ") for one in found if one["loc"][0] == name)
    expected = _kinds(type(settings)).model_fields[name].description or " or ".join(same)  # type: ignore[arg-type]
    near = did_you_mean(value, re.findall("'(.+?)'", expected)) if expected.startswith("'") else ""
    such = "" if near or default is None or "such as" in expected else f", such as {short_repr(default)}"
    return f"{name} = {short_repr(value)}: expected {expected}{such}{near}"
