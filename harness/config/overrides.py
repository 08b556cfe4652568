"""From plain values and KEY=VALUE settings to a Run, with one clear message for what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from harness.config.run import FORMAT, Coupling, Objective, Part, Run
from harness.errors import HarnessError, nearest

_KINDS = {kind.model_fields["kind"].default: kind for union in (Coupling, Objective) for kind in get_args(get_args(union)[0])}


def from_dict(values: Mapping[str, Any], where: object = None) -> Run:
    """A Run from plain values, as stored in config.json. Raises HarnessError for anything unknown or out of range."""
    values = dict(values)
    version = values.pop("format", FORMAT)
    if version != FORMAT:
        raise HarnessError("config of another version", where=where, found=f"format {version}", expected=f"format {FORMAT}")
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        raise _explain(error, where) from None


def override(run: Run, settings: Sequence[str]) -> Run:
    """`run` with KEY=VALUE settings such as train.lr=3e-5 put in; values are JSON, or plain text.

    Another objective.kind or coupling.kind brings that kind's defaults.
    """
    values = run.to_dict()
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise HarnessError("a setting needs the form KEY=VALUE", where="--set", found=setting, expected="for example train.lr=3e-5")
        *parents, last = key.split(".")
        part = values
        for name in parents:
            part = _enter(part, name, key)
        if last not in part and parents != ["coupling", "options"]:
            raise _unknown_key(key, last, part)
        value = _parse(text)
        if last == "kind" and part["kind"] in _KINDS and value in list(_KINDS) and value != part["kind"]:
            part.clear()
            part.update(_KINDS[value].model_construct().model_dump(mode="json"))
        part[last] = value
    return from_dict(values, where="--set")


def _enter(part: dict, name: str, key: str) -> dict:
    found = part.get(name)
    if isinstance(found, dict):
        return found
    if name in part:
        expected = f"{name}={{...}} as a whole" if found is None else "a key without parts"
        raise HarnessError("this key has no parts", where=key, found=f"{name} is {json.dumps(found)}", expected=expected)
    raise _unknown_key(key, name, {k: v for k, v in part.items() if isinstance(v, dict)})


def _unknown_key(key: str, name: str, part: Mapping) -> HarnessError:
    names = [k for k in part if k != "format"]
    return HarnessError("unknown key", where=key, found=name, expected="one of " + ", ".join(names), nearest=nearest(name, names))


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _explain(error: ValidationError, where: object) -> HarnessError:
    """One message for the first thing that is wrong; says how many more there are."""
    first, *rest = error.errors()
    loc = [str(part) for part in first["loc"]]
    key = ".".join(part for i, part in enumerate(loc) if not (i == 1 and part in _KINDS))
    text, message, found, close = "value out of range or of the wrong kind", first["msg"], first.get("input"), None
    if first["type"] == "extra_forbidden":
        fields = list(_model_at(loc[:-1]).model_fields)
        text, message, found, close = "unknown key", "one of " + ", ".join(fields), loc[-1], nearest(loc[-1], fields)
    elif first["type"] == "missing":
        text, message, found = "missing key", "a value for it", None
    elif first["type"] == "union_tag_invalid":
        key, found, kinds = f"{key}.kind", first["ctx"]["tag"], re.findall(r"'([^']+)'", first["ctx"]["expected_tags"])
        message, close = "one of " + ", ".join(kinds), nearest(found, kinds)
    elif "expected" in first.get("ctx", {}):
        close = nearest(str(found), re.findall(r"'([^']+)'", str(first["ctx"]["expected"])))
    elif first["type"] == "value_error":
        text, found = "values that do not go together", None
    elif bound := _bound(first):
        close = bound
    message = message.removeprefix("Value error, ").replace("Input should be ", "")
    if rest:
        message += f" (and {len(rest)} more)"
    return HarnessError(text, where=": ".join(str(part) for part in (where, key) if part), found=found, expected=message, nearest=close)


def _bound(problem: Mapping) -> str | None:
    """The limit that a number overstepped, which is the nearest valid choice."""
    return next((str(problem["ctx"][name]) for name in ("ge", "le") if name in problem.get("ctx", {})), None)


def _model_at(loc: Sequence[str]) -> type[Part]:
    """The model that an error location points into."""
    model: type[Part] = Run
    for name in loc:
        if name in _KINDS:
            model = _KINDS[name]
        elif name in model.model_fields:
            annotation = model.model_fields[name].annotation
            parts = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type) and issubclass(kind, Part)]
            model = parts[0] if parts else model
    return model


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: stored -> wanted` for every value that differs between two config dictionaries."""
    lines = []
    for key in sorted({*stored, *wanted}):
        a, b = stored.get(key, "(absent)"), wanted.get(key, "(absent)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines
