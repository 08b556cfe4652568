"""docs/tutorial.ipynb: it has no stored outputs, and every cell of it works, by `jupyter nbconvert --execute`."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image
from sweep_support import ROOT

pytestmark = pytest.mark.timeout(900)  # eight runs, on a machine that may be busy with others
PATH = ROOT / "docs" / "tutorial.ipynb"
FASTER = {"STEPS = 800": "STEPS = 24", "SEEDS = 3": "SEEDS = 2"}
"""Settings of the notebook, and those of the test."""


def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, as_version=4)


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert len(cells) <= 14, "few cells"
    nbformat.validate(notebook())


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> dict[str, list]:
    """The outputs of each cell of the notebook, by its id."""
    folder, content = tmp_path_factory.mktemp("notebook"), notebook()
    (parameters,) = [cell for cell in content.cells if "parameters" in cell.metadata.get("tags", ())]
    for before, after in FASTER.items():
        assert before in parameters.source
        parameters.source = parameters.source.replace(before, after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_TRUST", "")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        nbformat.write(content, folder / "tutorial.ipynb")
        command = [sys.executable, "-m", "jupyter", "nbconvert", "--execute", "--to", "notebook", "--output", "executed.ipynb"]
        done = subprocess.run([*command, "tutorial.ipynb"], cwd=folder, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr[-2000:]
        content = nbformat.read(folder / "executed.ipynb", as_version=4)
    assert len(list((folder / "tutorial-results" / "runs").iterdir())) == 8, "four models, two seeds"
    return {cell.source.partition("\n")[0]: cell.outputs for cell in content.cells if cell.cell_type == "code"}


def outputs(executed: dict[str, list], beginning: str) -> list:
    (found,) = [value for source, value in executed.items() if source.startswith(beginning)]
    return found


def printed(executed: dict[str, list], beginning: str) -> str:
    return "".join(output.get("text", "") for output in outputs(executed, beginning))


def shown(executed: dict[str, list], beginning: str) -> str:
    return outputs(executed, beginning)[-1]["data"]["text/plain"]


def picture(executed: dict[str, list], beginning: str) -> np.ndarray:
    (data,) = [output["data"]["image/png"] for output in outputs(executed, beginning) if "image/png" in output.get("data", {})]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))


def test_it_trains_and_samples(executed):
    assert "step 24/24" in printed(executed, "run = ")
    assert shown(executed, "run = ").startswith("TrainedModel(eight-gaussians-gc-0.5-s0-")
    assert "largest change at the lowest level: 0" in printed(executed, "noisy = ")
    assert shown(executed, "comparison = ") == "8"
    assert printed(executed, "comparison = ").count("done already") == 1, "the run of section 2 is not trained again"


def test_its_figures_show_something(executed):
    for beginning in ("from harness.data", "harness.figure"):
        pixels = picture(executed, beginning)
        assert pixels.shape[1] > 400 and 0.005 < (pixels < 128).mean() < 0.5


def test_it_reads_a_table_and_a_verdict(executed):
    table = shown(executed, "table = ")
    assert all(name in table for name in ("iCT-IC", "iCT-OT", "iCT-GC (mu=0.5)", "half-swapped", "difference"))
    verdicts = printed(executed, "verdicts = ")
    assert all(text in verdicts for text in ("C1", "C2", "2 seeds"))
    assert any(outcome in verdicts for outcome in ("supported", "contradicted", "equivalent", "inconclusive"))
    assert "half-swapped" in shown(executed, "records = ")
