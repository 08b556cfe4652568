"""What all tests share: one CPU thread, results in a temporary folder, patience on a busy machine."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before torch or NumPy are loaded, here and in children
    os.environ.setdefault(name, "1")

# tests of a full disk cut every file that is written meanwhile, and a cut .pyc would spoil the environment
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

settings.register_profile("harness", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("harness")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with every run of Table 1 at the digits scale, for tests of the report."""
    from report_support import make_results

    root = tmp_path_factory.mktemp("results")
    make_results(root, "table1", "digits")
    return root


@pytest.fixture(scope="session", autouse=True)
def _results_in_a_temporary_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_RESULTS", str(tmp_path_factory.mktemp("results")))
        yield
