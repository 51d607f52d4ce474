"""Components: entries of tables that a configuration can choose, checks of their arguments, and building them."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from fastshap_lab.errors import UserError

T = TypeVar("T")

_LISTED = 60  # largest number of words listed in an error line

Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # number of a network's layers; each takes time to build
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
Color = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the most similar known word, if there is one, and a list of known words.

    Args:
        word: Unknown word.
        known: All known words.
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    rest = f", and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"{hint}known: {', '.join(known[:_LISTED])}{rest}"


def name_and_params(component: Any, key: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a table entry and its arguments.

    Args:
        component: Name of an entry, or ``{name: …, params: {…}}``.
        key: Configuration key of the component, for error lines.

    Raises:
        UserError: The component is neither.
    """
    found = checked(Component, component, key)
    return (found, {}) if isinstance(found, str) else (found["name"], found["params"])


def in_words(component: Any) -> str:
    """Return the text for a ``Component`` in reports, for example ``blur (width=3)``."""
    if isinstance(component, str):
        return component
    return f"{component['name']} ({', '.join(f'{name}={value}' for name, value in component['params'].items())})"


def _shortest(component: Any) -> str | dict[str, Any]:
    if isinstance(component, str):
        return component
    given = {"params": {}, **component} if isinstance(component, Mapping) else {}
    name, params = given.pop("name", None), given.pop("params", None)
    if given or not isinstance(name, str) or not isinstance(params, Mapping):
        raise ValueError("must be a name, or {name: …, params: {…}}")
    return {"name": name, "params": dict(params)} if params else name


Component = Annotated[Any, AfterValidator(_shortest)]
"""An entry of a table: its name, or ``{name, params}`` if it has arguments, so that equal ones have one fingerprint."""


def lookup(table: Mapping[str, T], key: str, name: str) -> T:
    """Return an entry of a table.

    Args:
        table: Table of components by name.
        key: Configuration key of the name, for error lines.
        name: Name of the entry.

    Raises:
        UserError: There is no such entry; the line lists the known ones.
    """
    if name not in table:
        raise UserError(f"{key}={name}: unknown, {did_you_mean(name, table)}")
    return table[name]


def arguments(
    table: Mapping[str, Callable[..., T]], group: str, name: str, params: Mapping[str, Any], *given: str
) -> dict[str, Any]:
    """Return a component's arguments, checked against its constructor's signature and annotations.

    Args:
        table: Table of constructors by name.
        group: Group of the configuration that the component belongs to, for error lines.
        name: Name of the entry.
        params: The user's arguments of the constructor.
        given: Names of the arguments that the program supplies, and which the user cannot set.

    Raises:
        UserError: The entry is unknown, or an argument is unknown, missing or of the wrong type.
    """
    constructor = lookup(table, f"{group}.name", name)
    accepted = {
        key: parameter for key, parameter in inspect.signature(constructor).parameters.items() if key not in given
    }
    for key in params:
        if key not in accepted:
            raise UserError(f"{group}.params.{key}: unknown to {name}, {did_you_mean(key, accepted)}")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in params:
            raise UserError(f"{group}.params.{key}: missing, {name} needs it")
    return {key: checked(accepted[key].annotation, value, f"{group}.params.{key}") for key, value in params.items()}


def build(table: Mapping[str, Callable[..., T]], group: str, name: str, params: Mapping[str, Any], **given: Any) -> T:
    """Construct a component of a table and return it.

    Args:
        table: Table of constructors by name.
        group: Group of the configuration that the component belongs to, for error lines.
        name: Name of the entry.
        params: The user's arguments of the constructor.
        given: Arguments of the constructor that the program supplies.

    Raises:
        UserError: The entry is unknown, an argument is unknown, missing or of the wrong type, or the constructor
            refuses its arguments.
    """
    chosen = arguments(table, group, name, params, *given)
    try:
        return table[name](**given, **chosen)
    except UserError as error:
        raise UserError(re.sub(r"^params\.", f"{group}.params.", str(error))) from None
    except Exception as error:  # libraries raise any kind of error for arguments that do not fit together
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"{group}.params={chosen}: {name} cannot be built from them: {reason}") from error


def checked(expected: Any, value: Any, key: str = "") -> Any:
    """Return a value converted by pydantic to the type of its annotation, for example a list to a tuple.

    Args:
        expected: Annotation that the value must fit.
        value: Value to check.
        key: Configuration key of the value, for error lines; "" for the root.

    Raises:
        UserError: The value does not fit the annotation.
    """
    try:
        return TypeAdapter(expected).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = key or ".".join(str(part) for part in first["loc"] if part != "[key]")
        if first["type"] == "missing" and isinstance(first["loc"][-1], str):
            raise UserError(f"{where}: missing") from None
        text = first["msg"].removeprefix("Value error, ")
        text = "too short" if first["type"] == "missing" else re.sub(r"^\w+ should", "must", text)
        raise UserError(f"{where}={value if key else first['input']}: {text}") from None
