"""The speed profile --fast: the settings of training that it stands for. They are part of a run's identity like all others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.config.parts import SCALE_NAMES

FP32: Mapping[str, Any] = {"precision": "fp32", "channels_last": False, "compile": False, "static_rows": False}
"""The settings of `train` with which faster ones are compared, the paper's: fp32, eager, contiguous."""
BF16: Mapping[str, Any] = {"precision": "bf16", "channels_last": True, "static_rows": True}
"""Those of --fast at the larger scales without compilation, which takes minutes on a CPU."""
FAST = "fast=true"
"""--fast as one of the overrides of --set."""
COMPILED_SCALES = ("fashion", "paper")
"""Scales that --fast compiles and trains in bf16. At the digits scale, compiling takes as long as a run, and bf16 is slower than fp32,
because the layers are narrow."""


def fast_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `train` that --fast sets in a run's plain config: none for points, whose networks are too small to gain from it."""
    if config["network"]["kind"] in ("mlp", "linear"):
        return {}
    if config["scale"] not in COMPILED_SCALES:
        return {"channels_last": True}
    return {**BF16, "compile": True}


def fast_in_words() -> str:
    """What --fast sets, for `harness config`."""
    parts = []
    for scales in (COMPILED_SCALES, [name for name in SCALE_NAMES if name not in COMPILED_SCALES]):
        settings = fast_settings({"scale": scales[0], "network": {"kind": "ddpmpp"}})
        values = [f"train.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
        parts.append(f"{' and '.join(scales)} scale{'s' * (len(scales) > 1)}: {', '.join(values)}")
    return "; ".join(parts) + "; networks for points stay as they are"
