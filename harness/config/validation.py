"""From plain values to a validated model, with one HarnessError for what is wrong; for configs and site files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from harness.config.identity import FORMAT
from harness.errors import HarnessError, UnknownKey, nearest

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any], where: object = None) -> Model:
    """The model with these values. Raises UnknownKey, or HarnessError for a missing or wrong value.

    where: the file or option that the values come from.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, model, where) from None


def without_format(config: Mapping[str, Any], where: object = None) -> dict[str, Any]:
    """The values of a stored config. Raises HarnessError for a config of another format than FORMAT."""
    values = dict(config)
    version = values.pop("format", FORMAT)
    if version != FORMAT:
        raise HarnessError("config of another version", where=where, found=f"format {version}", expected=f"format {FORMAT}")
    return values


def _explain(error: ValidationError, model: type[BaseModel], where: object) -> HarnessError:
    """One message for the first problem, with the number of further ones."""
    first, *rest = error.errors()
    key, innermost = _locate(model, first["loc"])
    context: dict[str, Any] = first.get("ctx", {})
    kind: type[HarnessError] = HarnessError
    what, value, suggestion = "value out of range or of the wrong type", first["input"], None
    expected = first["msg"].removeprefix("Value error, ").replace("Input should be ", "")
    match first["type"]:
        case "extra_forbidden":
            kind, what, value = UnknownKey, "unknown key", first["loc"][-1]
            choices = list(innermost.model_fields)
            expected, suggestion = "one of " + ", ".join(choices), nearest(str(value), choices)
        case "missing":
            what, value, expected = "missing key", None, "a value for this key"
        case "union_tag_invalid":
            key, value, choices = f"{key}.kind", context["tag"], re.findall(r"'([^']+)'", context["expected_tags"])
            expected, suggestion = "one of " + ", ".join(choices), nearest(context["tag"], choices)
        case "value_error" if isinstance(value, dict | BaseModel):
            what, value = "values that do not fit together", None
        case _ if "expected" in context:
            suggestion = nearest(str(value), re.findall(r"'([^']+)'", str(context["expected"])))
        case _:
            suggestion = next((str(context[bound]) for bound in ("ge", "le") if bound in context), None)
    if rest:
        expected += f" (and {len(rest)} more)"
    return kind(what, where=": ".join(str(part) for part in (where, key) if part), found=value, expected=expected, nearest=suggestion)


def _locate(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[str, type[BaseModel]]:
    """The dotted key of an error's location, without the tags of unions, and the innermost model on the way."""
    key: list[str] = []
    kinds: dict[object, type[BaseModel]] = {}
    for name in loc:
        if name in kinds:
            model, kinds = kinds[name], {}
            continue
        key.append(str(name))
        field = model.model_fields.get(str(name))
        types = (get_args(field.annotation) or [field.annotation]) if field else []
        members = [member for member in types if isinstance(member, type) and issubclass(member, BaseModel)]
        kinds = {member.model_fields["kind"].default: member for member in members if "kind" in member.model_fields}
        model = members[0] if members else model
    return ".".join(key), model
