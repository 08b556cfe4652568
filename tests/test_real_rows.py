"""The real rows that figures show: random rows of the data sets as they load."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from report_support import make_results
from torchvision.utils import save_image

from harness.data.catalogue import REGISTRY
from harness.data.datasets import load
from harness.data.examples import MOST, chosen_rows, real_rows
from harness.errors import HarnessError
from harness.reporting import figures_samples
from harness.reporting import load as reader
from harness.reporting.cells import all_cells
from harness.reporting.figures import training_figures
from harness.reporting.values import CellValues


@pytest.mark.parametrize("name", [name for name, dataset in REGISTRY.items() if not dataset.source])
def test_the_kept_rows_are_those_of_the_data_set(name):
    """If this fails because a data set has changed: python -m harness.data.keep_examples"""
    kept = real_rows(name, MOST)
    assert kept is not None
    assert len(kept) == MOST
    try:
        rows = load(name).rows.numpy()
    except HarnessError:
        pytest.skip(f"{name} is not on this machine")
    np.testing.assert_array_equal(kept, rows[chosen_rows(len(rows))])


def test_a_draw_is_random_and_does_not_depend_on_its_length():
    assert list(chosen_rows(1000, 5)) == list(chosen_rows(1000, 50)[:5])
    assert len(set(chosen_rows(1000))) == MOST
    assert 300 < chosen_rows(1000).mean() < 700


def test_rows_of_a_set_that_is_not_prepared_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert real_rows("cifar10", 4) is None
    assert real_rows("no such set", 4) is None


@pytest.mark.parametrize("shape", [(64, 1, 8, 8), (5, 3, 32, 32), (9, 3, 64, 64)])
def test_real_images_stand_in_the_grid_that_training_writes(shape):
    """The oracle is torchvision, by which training writes its grids (see harness.training.evaluation.save_samples)."""
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    scale, buffer = max(1, 32 // shape[-1]), io.BytesIO()
    enlarged = torch.from_numpy(images / 255).float().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    save_image(enlarged, buffer, format="PNG", nrow=max(1, round(len(images) ** 0.5)), padding=scale)
    expected = np.asarray(Image.open(buffer))
    grid = figures_samples.grid_of(images)
    np.testing.assert_array_equal(grid if grid.ndim == 3 else np.repeat(grid[..., None], 3, 2), expected)


def test_figure_8_says_that_real_data_are_not_at_hand(tmp_path, monkeypatch):
    make_results(tmp_path, "table1", "toy", [0])
    monkeypatch.setattr(figures_samples, "real_rows", lambda name, n: None)
    loaded = reader.read(tmp_path)
    figure = next(each for each in training_figures(all_cells("toy", loaded), CellValues(loaded)) if each.name == "figure8-toy")
    assert "no real data" in figure.caption
    assert len(figure.data) == 3
