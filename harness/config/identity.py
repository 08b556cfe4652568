"""Hashes of plain values: the identity of a run, the protocol of a measurement. No pydantic, so that the store loads quickly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 1
"""Version of the stored config."""
NOT_IDENTITY = ("checkpoint_every", "keep_steps")
"""Keys that cannot change the result."""
LATER: dict[tuple[str, str], Any] = {
    ("data", "custom"): None,
    ("coupling", "size"): None,
    ("coupling", "within_classes"): False,
    ("network", "channels_per_head"): 64,
    ("objective", "c"): 0.0,
    ("objective", "weighting"): "inverse-gap",
    ("train", "lr_decay_from"): None,
    ("train", "zero_nonfinite"): False,
    ("ema", "sigma_rel"): None,
    ("train", "static_rows"): False,
    ("protocol", "tf32"): "library",
    ("evaluation", "times"): [],
    ("evaluation", "renoising"): "stochastic",
    ("evaluation", "labels"): "data",
}
"""Keys added after the first runs, with the value that these runs had; at this value, a key is omitted from the identity."""

LATER_ABOVE = {"rehearsal": None, "custom": None}
"""As LATER, for keys that are in no part."""


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no white space: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: object, digits: int = 12) -> str:
    """The first hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


def identity_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of a full config dictionary without the keys that cannot change the result."""
    kept = {key: dict(value) if isinstance(value, Mapping) else value for key, value in config.items() if key not in NOT_IDENTITY}
    for key, value in LATER_ABOVE.items():
        if kept.get(key) == value:
            kept.pop(key, None)
    for (part, key), value in LATER.items():
        if isinstance(kept.get(part), dict) and kept[part].get(key, value) == value:
            kept[part].pop(key, None)
    return short_hash(kept, 64)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The values that differ between two config dictionaries, by dotted key: (stored, wanted), "(absent)" for a missing one."""
    changes: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*stored, *wanted}):
        old, new = stored.get(key, "(absent)"), wanted.get(key, "(absent)")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes |= differences(old, new, f"{prefix}{key}.")
        elif old != new:
            changes[prefix + key] = old, new
    return changes
