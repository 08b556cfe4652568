"""`harness config`: every key of a run with its type, default, the paper's value and meaning, from the models of harness.config.run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.commands.common import console
from harness.errors import unknown

BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
ANY_KIND = ("objective", "coupling")
"""Parts of which a run has one of several kinds, each with keys of its own."""

NOTES = """\
default -: set by the preset of the scale.
paper: CIFAR-10 with iCT-IC, as in Table 1 (network.dropout of iCT-GC is 0); of other objectives and couplings, the paper's own runs.
Set a key with --set KEY=VALUE; values are JSON or plain text, null for None: --set train.lr=3e-5 --set data.limit=null"""


@dataclass(frozen=True)
class Key:
    """One line of the listing; texts as they are written after --set KEY=."""

    name: str
    kind: str
    """Of a part that has several kinds: the kind whose key it is."""
    type: str
    default: str
    paper: str
    meaning: str


def config(arguments: argparse.Namespace) -> int:
    """`harness config [KEY]`. Raises HarnessError for an unknown key, with the nearest one."""
    from harness.sweep.table import emit, render

    rows, name = list(keys()), arguments.key
    shown = [row for row in rows if name in (None, row.name) or row.name.startswith(f"{name}.")]
    if not shown:
        raise unknown("key", name, list(dict.fromkeys(row.name for row in rows)), where="harness config")
    lines = render(
        ["key", "of kind", "type", "default", "paper"], [[row.name, row.kind, row.type, row.default, row.paper] for row in shown]
    )
    heading, *rest = lines.split("\n")
    out = console()
    emit(out, heading)
    for line, row in zip(rest, shown, strict=True):
        emit(out, line.append(f"\n    {row.meaning}"))
    emit(out, f"\n{NOTES}")
    return 0


def keys() -> Iterator[Key]:
    """Every key of a Run, in the order of the config; keys of a kind of objective or coupling once per kind."""
    from harness.config import ablations, presets
    from harness.config.run import BatchOT, GeneratorAugmented, Independent, Run

    where = "paper", "cifar10"
    runs = [presets.make(*where, coupling, 0) for coupling in (Independent(), BatchOT(), GeneratorAugmented(mu=0.5))]
    runs += [ablations.ect(*where, "short", Independent(), 0)[-1], presets.denoiser(*where, Independent(), 0)]
    schema = Run.model_json_schema()
    paper = {f"{part}.{run.to_dict()[part]['kind']}": run.to_dict()[part] for run in runs for part in ANY_KIND}
    yield from _keys(schema, schema["$defs"], "", "", runs[0].to_dict(), paper)


def _keys(model: Mapping, models: Mapping, prefix: str, kind: str, values: Any, of_kind: Mapping) -> Iterator[Key]:
    """The keys of one JSON schema; values: the paper's. of_kind: the paper's values of "PART.KIND"."""
    for name, field in model["properties"].items():
        key = f"{prefix}{name}"
        parts = [
            models[part["$ref"].rsplit("/", 1)[-1]] for part in (field, *field.get("oneOf", ()), *field.get("anyOf", ())) if "$ref" in part
        ]
        value = values.get(name, "") if isinstance(values, Mapping) else ""
        for part in parts:
            own = part["properties"]["kind"]["const"] if key in ANY_KIND else ""
            yield from _keys(part, models, f"{key}.", own, of_kind.get(f"{key}.{own}") if own else value, of_kind)
        if not parts:
            default = _text(field["default"]) if "default" in field else "-"
            yield Key(key, kind, _type(field), default, "" if value == "" else _text(value), " ".join(field.get("description", "").split()))


def _type(field: Mapping) -> str:
    """int >= 1, "a" or "b", list of float."""
    if "anyOf" in field:
        return " or ".join(_type(choice) for choice in field["anyOf"])
    if choices := field.get("enum"):
        return " or ".join(choices)
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        members = field.get("prefixItems") or [field["items"]]
        return f"{len(members)} x {_type(members[0])}" if "prefixItems" in field else f"list of {_type(members[0])}"
    names = {"integer": "int", "number": "float", "string": "text", "boolean": "true or false", "null": "null", "object": "table"}
    bounds = [f"{sign} {field[bound]:g}" for bound, sign in BOUNDS.items() if bound in field]
    return " ".join([names[field["type"]], *bounds])


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
