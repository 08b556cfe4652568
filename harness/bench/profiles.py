"""The settings of training whose speed is compared. To compare another one, add a line to PROFILES."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.config import speed
from harness.config.run import Run, varied
from harness.errors import HarnessError, unknown
from harness.training.compilation import compile_fault


@dataclass(frozen=True)
class Profile:
    """Settings under a name. settings: from a run to the values of its part `train` that differ from `speed.FP32`."""

    name: str
    settings: Callable[[Run], Mapping[str, Any]]

    def applied(self, run: Run) -> Run:
        """The run with these settings."""
        return varied(run, train={**speed.FP32, **self.settings(run)})


FP32 = Profile("fp32", lambda run: {})
PROFILES = (
    FP32,
    Profile("channels_last", lambda run: {"channels_last": True}),
    Profile("bf16 channels_last", lambda run: {"precision": "bf16", "channels_last": True}),
    Profile("compiled", lambda run: {"precision": "bf16", "channels_last": True, "compile": True}),
    Profile("fast", lambda run: speed.fast_settings(run.to_dict())),
)
"""The profiles, from the paper's to the fastest; `fast` is --fast."""


def chosen_profiles(text: str) -> tuple[Profile, ...]:
    """The profiles that an option names, separated by commas, and fp32. Raises HarnessError for a name that is none."""
    known = {profile.name: profile for profile in PROFILES}
    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names:
        if name not in known:
            raise unknown("profile", name, known, where="--profiles")
    if not names:
        raise HarnessError("no profile", where="--profiles", found=text, expected=f"some of {', '.join(known)}")
    return tuple(profile for profile in PROFILES if profile.name in (FP32.name, *names))


def usable(profiles: Sequence[Profile], run: Run, device: torch.device, compile_here: bool) -> tuple[list[Profile], list[str]]:
    """The profiles that can be measured with this run, and a note for each that cannot, or equals an earlier one.

    compile_here: measure those that compile the network; on a CPU this takes minutes.
    """
    kept: dict[str, Profile] = {}
    notes = []
    for profile in profiles:
        settings = profile.applied(run).train
        fault = ""
        if run.network.kind in ("mlp", "linear") and settings.channels_last:
            fault = "points have no channels"
        elif (same := next((name for name, other in kept.items() if other.applied(run).train == settings), None)) is not None:
            fault = f"it is {same} here"
        elif settings.compile and not compile_here:
            fault = f"it compiles the network, which takes minutes on a CPU; --profiles '{profile.name}' measures it"
        elif settings.compile and (cause := compile_fault(device.type)):
            fault = f"torch.compile does not work here: {cause}"
        if fault:
            notes.append(f"{profile.name}: not measured, {fault}")
        else:
            kept[profile.name] = profile
    return list(kept.values()), notes
