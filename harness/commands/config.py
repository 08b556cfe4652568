"""`harness config`: every key of a run with its type, default, the paper's value and meaning, from the models of harness.config.run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.console import Console
from harness.errors import unknown

BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "true or false", "null": "null", "object": "table"}
SEVERAL_KINDS = ("objective", "coupling")
"""Parts of a run that have one of several kinds, each with its own keys."""
NOTES = """
default -: the preset of the scale sets it.
paper: CIFAR-10 with iCT-IC, as in Table 1 (network.dropout of iCT-GC is 0); for other objectives and couplings, the paper's runs with them.
Set a key with --set KEY=VALUE; values are JSON or plain text, null for None: --set train.lr=3e-5 --set data.limit=null"""


class Key(NamedTuple):
    """One line of the listing. kind: of an objective or coupling. Values are written as for --set."""

    key: str
    kind: str
    type: str
    default: str
    paper: str
    meaning: str


def config(arguments: argparse.Namespace) -> int:
    """`harness config [KEY]`. Raises HarnessError for an unknown key, with the nearest one."""
    from harness.config.speed import fast_in_words
    from harness.sweep.table import emit, render

    rows, name = list(keys()), arguments.key
    shown = [row for row in rows if name in (None, row.key) or row.key.startswith(f"{name}.")]
    if not shown:
        raise unknown("key", name, dict.fromkeys(row.key for row in rows), where="harness config")
    out = Console()
    heading, *lines = render(Key._fields[:-1], [row[:-1] for row in shown]).split("\n")
    emit(out, heading)
    for line, row in zip(lines, shown, strict=True):
        emit(out, line.append(f"\n    {row.meaning}"))
    emit(out, f"{NOTES}\n--fast stands for these settings, which --set may still change: {fast_in_words()}.")
    return 0


def keys() -> Iterator[Key]:
    """Every key of a Run, in the order of the config; keys of an objective or coupling once for each kind."""
    from harness.config import ablations, presets
    from harness.config.parts import BatchOT, GeneratorAugmented, Independent
    from harness.config.run import Run

    data = "paper", "cifar10"
    runs = [presets.make(*data, coupling, 0) for coupling in (Independent(), BatchOT(), GeneratorAugmented(mu=0.5))]
    runs += [ablations.ect(*data, "short", Independent(), 0)[-1], presets.denoiser(*data, Independent(), 0)]
    values = [run.to_dict() for run in runs]
    paper = values[0] | {f"{part}.{config[part]['kind']}": config[part] for config in values for part in SEVERAL_KINDS}
    schema = Run.model_json_schema()
    yield from _keys(schema, schema["$defs"], paper)


def _keys(model: Mapping[str, Any], models: Mapping[str, Any], paper: Mapping[str, Any], prefix: str = "", kind: str = "") -> Iterator[Key]:
    """The keys of one JSON schema. models: schemas that it refers to. paper: the paper's value of each key, and of each "PART.KIND"."""
    for name, field in model["properties"].items():
        key = f"{prefix}{name}"
        choices = (field, *field.get("oneOf", ()), *field.get("anyOf", ()))
        parts = [models[choice["$ref"].rpartition("/")[2]] for choice in choices if "$ref" in choice]
        for part in parts:
            own = part["properties"]["kind"]["const"] if key in SEVERAL_KINDS else ""
            yield from _keys(part, models, paper.get(f"{key}.{own}" if own else name) or {}, f"{key}.", own)
        if not parts:
            default, value = _text(field["default"]) if "default" in field else "-", _text(paper[name]) if name in paper else ""
            yield Key(key, kind, _type(field), default, value, " ".join(field["description"].split()))


def _type(field: Mapping[str, Any]) -> str:
    """The type of a JSON schema in words: int >= 1, toy or digits, list of float."""
    if choices := field.get("enum") or [_type(choice) for choice in field.get("anyOf", ())]:
        return " or ".join(choices)
    if "const" in field:
        return str(field["const"])
    if "prefixItems" in field:
        return f"{len(field['prefixItems'])} x {_type(field['prefixItems'][0])}"
    if "items" in field:
        return f"list of {_type(field['items'])}"
    return " ".join([TYPES[field["type"]], *(f"{sign} {field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field)])


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
