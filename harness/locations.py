"""Locations of the project, its experiments, results and data sets. Environment variables take precedence."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """The folder with pyproject.toml and experiments/: the current folder, else the parent of the package.

    Without either, as for an installed package, the current folder.
    """
    here = Path.cwd()
    return next((folder for folder in (here, PACKAGE.parent) if _is_project(folder)), here)


def experiments_root() -> Path:
    """$HARNESS_EXPERIMENTS, else experiments/ of the project, else the experiments that were installed with the package."""
    if chosen := os.environ.get("HARNESS_EXPERIMENTS"):
        return Path(chosen)
    folder = project_root() / "experiments"
    return folder if folder.is_dir() else PACKAGE / "installed_experiments"


def results_root() -> Path:
    """$HARNESS_RESULTS, else results/ of the project."""
    chosen = os.environ.get("HARNESS_RESULTS")
    return Path(chosen) if chosen else project_root() / "results"


def data_root(root: str | Path | None = None) -> Path:
    """`root`, else $HARNESS_DATA, else data/ of the project."""
    chosen = root or os.environ.get("HARNESS_DATA")
    return Path(chosen) if chosen else project_root() / "data"


def _is_project(folder: Path) -> bool:
    return (folder / "experiments").is_dir() and (folder / "pyproject.toml").is_file()
