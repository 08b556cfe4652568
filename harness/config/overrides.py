"""From plain values and KEY=VALUE overrides to a Run; a HarnessError names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from harness.config.parts import Coupling, Objective
from harness.config.run import Run
from harness.config.validation import validated, without_format
from harness.errors import HarnessError, UnknownKey, nearest

_KINDS = {kind.model_fields["kind"].default: kind for union in (Coupling, Objective) for kind in get_args(get_args(union)[0])}


def from_dict(values: Mapping[str, Any], where: object = None) -> Run:
    """A Run from plain values, as stored in config.json. Raises HarnessError for anything unknown or out of range."""
    return validated(Run, without_format(values, where), where)


def override(run: Run, overrides: Sequence[str]) -> Run:
    """`run` with values replaced by KEY=VALUE, as `put` takes them. Raises HarnessError for a key or value that does not fit."""
    values = run.to_dict()
    for pair in overrides:
        put(values, pair)
    return from_dict(values, where="--set")


def put(config: dict[str, Any], pair: str) -> None:
    """Replaces one value of a plain config by KEY=VALUE, as in train.lr=3e-5 or network.channel_mult=1,2; not validated.

    The value is JSON, a tuple or plain text. Another objective.kind or coupling.kind brings that kind's defaults. Raises UnknownKey for a
    key that the config does not have.
    """
    key, sign, text = pair.partition("=")
    if not sign or not key:
        raise HarnessError("an override needs the form KEY=VALUE", where="--set", found=pair, expected="for example train.lr=3e-5")
    *parents, last = key.split(".")
    part = config
    for name in parents:
        if name not in part:
            raise _unknown_key(key, name, {k: v for k, v in part.items() if isinstance(v, dict)})
        inner = part[name]
        if not isinstance(inner, dict):
            expected = f"{name}={{...}} with all its keys" if inner is None else "a key without parts"
            raise HarnessError("this key has no parts", where=key, found=f"{name} is {json.dumps(inner)}", expected=expected)
        part = inner
    if last not in part and parents != ["coupling", "options"]:
        raise _unknown_key(key, last, part)
    value = _parse(text, isinstance(part.get(last), list))
    if last == "kind" and part["kind"] in _KINDS and value in list(_KINDS) and value != part["kind"]:
        part.clear()
        part.update(_KINDS[value].model_construct().model_dump(mode="json"))
    part[last] = value


def _unknown_key(key: str, name: str, part: Mapping[str, Any]) -> UnknownKey:
    names = [k for k in part if k != "format"]
    return UnknownKey("unknown key", where=key, found=name, expected="one of " + ", ".join(names), nearest=nearest(name, names))


def _parse(text: str, is_tuple: bool = False) -> Any:
    """JSON, or plain text; where a tuple is expected, also `1,2` and `(1,2)`, and `1,` for a single value."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        if not is_tuple:
            return text
    parts = text.strip().removeprefix("(").removesuffix(")").split(",")
    return [_parse(part.strip()) for part in (parts if parts[-1].strip() else parts[:-1])]
