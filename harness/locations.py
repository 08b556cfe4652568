"""The folders of the project, its experiments, results and data sets."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The current folder or the parent of the package, whichever has pyproject.toml and experiments/ first; else the current folder."""
    for folder in (Path.cwd(), PACKAGE.parent):
        if (folder / "experiments").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()


def experiments_root() -> Path:
    """$HARNESS_EXPERIMENTS, else experiments/ of the project, else the experiments that were installed with the package."""
    if chosen := os.environ.get("HARNESS_EXPERIMENTS"):
        return Path(chosen)
    folder = project_root() / "experiments"
    return folder if folder.is_dir() else PACKAGE / "installed_experiments"


def results_root() -> Path:
    """$HARNESS_RESULTS, else results/ of the project."""
    return Path(os.environ.get("HARNESS_RESULTS") or project_root() / "results")


def data_root(root: str | Path | None = None) -> Path:
    """`root`, else $HARNESS_DATA, else data/ of the project."""
    return Path(root or os.environ.get("HARNESS_DATA") or project_root() / "data")
