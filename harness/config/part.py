"""The base of all parts of a configuration, and the ranges of their numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Choice = Literal["paper", "released"]
# Strict, so that true is not 1. The upper limits lie far beyond any experiment and below what overflows, or takes for ever.
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Size = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Rate = Annotated[float, Field(ge=0, lt=1, strict=True)]
NoiseLevel = Annotated[float, Field(ge=1e-9, le=1e6, strict=True)]
LogMean = Annotated[float, Field(ge=-20, le=20, strict=True)]
LogSpread = Annotated[float, Field(gt=0, le=20, strict=True)]


class Part(BaseModel):
    """A frozen piece of a run; unknown keys are refused. The docstring of a field is its help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False)
