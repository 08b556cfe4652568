"""Trained models as they are used and exported: samples at addressed noise, files of them, weights that load again."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from sharing_support import finished, image_run
from theory_support import assert_refused
from train_support import tiny_run

from harness.cli import main
from harness.config.parts import Custom, Denoising, Evaluation, Protocol
from harness.core.networks import build
from harness.core.randomness import generator
from harness.data import datasets
from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.metrics.features import quantise
from harness.sharing import samples as files
from harness.sharing import targets
from harness.sharing.model import BATCH, load, of_folder
from harness.sharing.weights import KEY
from harness.store.runs import RunFolder, Store
from harness.training.evaluation import generate_samples


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def points(root):
    """A model of points in the plane."""
    return of_folder(finished(root, tiny_run("gc", steps=4)))


@pytest.fixture(scope="module")
def images(root):
    """An unconditional model of digits."""
    return of_folder(finished(root, image_run()))


@pytest.fixture(scope="module")
def classes(root):
    """A conditional model of digits, whose evaluation has two further steps."""
    evaluation = Evaluation(every=2, samples=16, times=(5.0, 0.8), renoising="stochastic")
    return of_folder(finished(root, image_run(labels=True, evaluation=evaluation, seed=1)))


def addressed(shape: tuple[int, ...], step: int, row: int) -> torch.Tensor:
    """The noise of one row by the definition of an address: SHA-256 of seed, stream, step and block."""
    digest = hashlib.sha256(f"0/eval/{step}/{row // 250}".encode()).digest()
    draws = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(250, *shape, generator=draws)[row % 250]


def by_formula(model, x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Equation (3) for points, from the network F, in float64 but for F."""
    sd, s0 = 0.5, 0.002
    out = model.network.model((x / math.sqrt(sd**2 + sigma**2)).float(), torch.full((len(x),), math.log(sigma) / 4), None)
    skip, scale = sd**2 / (sd**2 + (sigma - s0) ** 2), sd * (sigma - s0) / math.sqrt(sd**2 + sigma**2)
    return skip * x.double() + scale * out.double()


def test_a_sample_is_the_function_at_the_addressed_noise(points):
    for seed, row in ((0, 0), (0, 251), (3, 40)):
        z = addressed((2,), 16 * seed, row)[None]
        assert torch.equal(points.noise(1, seed, row), z)
        expected = by_formula(points, 80.0 * z, 80.0)
        torch.testing.assert_close(points.sample(1, seed=seed, first=row).double(), expected, atol=1e-5, rtol=1e-5)


def test_further_steps_add_noise_and_apply_the_function_again(points):
    z, fresh = addressed((2,), 0, 7)[None], addressed((2,), 1, 7)[None]
    once = by_formula(points, 80.0 * z, 80.0)
    expected = by_formula(points, once + math.sqrt(2.0**2 - 0.002**2) * fresh, 2.0)
    torch.testing.assert_close(points.sample(1, first=7, times=(2.0,)).double(), expected, atol=1e-4, rtol=1e-4)


def test_a_row_has_the_same_bits_in_any_number_of_calls(images):
    whole = images.sample(3 * BATCH + 20)
    parts = [(0, 7), (7, 53), (60, 100), (160, 10)]
    assert torch.equal(torch.cat([images.sample(n, first=first) for first, n in parts]), whole)
    assert not torch.equal(images.sample(20, seed=1), whole[:20])


@pytest.mark.parametrize("steps", [1, 3])
def test_samples_are_those_of_the_runs_own_evaluation(classes, steps):
    generate = generate_samples(classes.run, datasets.load("digits"), classes.network, steps)
    torch.testing.assert_close(classes.sample(60, steps=steps), generate(0, range(60)), atol=1e-4, rtol=1e-4)


def test_the_function_is_differentiable_and_denoise_is_not(points):
    x = torch.randn(5, 2, requires_grad=True)
    points(x, 0.7).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    levels = torch.tensor([0.1, 0.7, 1.0, 2.0, 3.0])
    assert not points.denoise(x, levels).requires_grad
    torch.testing.assert_close(points.denoise(x, levels)[1:2], points.denoise(x[1:2], 0.7))
    torch.testing.assert_close(points.denoise(x, 0.002), x.detach())


def test_a_trajectory_is_the_line_to_the_endpoint(points):
    z, x = points.noise(6), torch.randn(6, 2)
    path = points.trajectory(z, x, t_max=5.0, steps=8)
    ramp = np.linspace(5.0 ** (1 / 7), 0.002 ** (1 / 7), 9) ** 7
    np.testing.assert_allclose(path.levels, ramp, rtol=1e-5)
    end = points.denoise(x + 5.0 * z, 5.0)
    for level, at in zip(path.levels, path.points, strict=True):
        torch.testing.assert_close(at, end + level.float() * z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(points.trajectory(z).points[-1], points.sample(6), atol=0.02, rtol=0)


def test_the_trajectory_of_a_denoiser_solves_the_ode(root):
    model = of_folder(finished(root, tiny_run("ic", steps=4, objective=Denoising())))
    z = model.noise(3)
    path = model.trajectory(z, t_max=2.0, steps=400)
    coarse = model.trajectory(z, t_max=2.0, steps=200)
    torch.testing.assert_close(path.points[-1], coarse.points[-1], atol=2e-3, rtol=0)
    k, step = 200, path.levels[201] - path.levels[199]
    slope = (path.points[201] - path.points[199]) / step  # dx/dt = (x - D(x, t)) / t
    velocity = (path.points[k] - model.denoise(path.points[k], float(path.levels[k]))) / float(path.levels[k])
    torch.testing.assert_close(slope.float(), velocity, atol=0.02, rtol=0.02)
    with assert_refused(found="a denoiser"):
        model.sample(3)


def test_classes_balanced_given_and_as_in_the_data(classes):
    one = [of for _, of in classes.blocks(range(120), labels="balanced")]
    assert torch.equal(torch.cat(one), torch.arange(120) % 10)
    given = [3, 9, 0, 7]
    z = classes.noise(4, first=58)
    labels = torch.nn.functional.one_hot(torch.tensor(given), 10).float()
    expected = classes.network(80.0 * z, torch.full((4,), 80.0), labels)
    torch.testing.assert_close(classes.sample(4, labels=given, first=58), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(classes.sample(4, labels=torch.tensor(given), first=58), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(classes.sample(2, labels=3)[1], classes.sample(2, labels=[1, 3])[1], atol=1e-4, rtol=1e-4)
    drawn = torch.cat([of for _, of in classes.blocks(range(3000))])
    rows = torch.cat([torch.randint(1437, (250,), generator=generator(0, "labels", 0, block)) for block in range(12)])
    assert torch.equal(drawn, datasets.load("digits").labels[rows])


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"n": 0}, "n"),
        ({"n": 4, "seed": -1}, "seed"),
        ({"n": 4, "first": -1}, "first"),
        ({"n": 4, "steps": 4}, "steps"),
        ({"n": 4, "steps": 0}, "steps"),
        ({"n": 4, "times": (1.0, 2.0)}, "times"),
        ({"n": 4, "times": (math.nan,)}, "times"),
        ({"n": 4, "steps": 3, "times": (1.0,)}, "times"),
        ({"n": 4, "labels": 10}, "labels"),
        ({"n": 4, "labels": [1, 2]}, "labels"),
        ({"n": 4, "labels": 0.5}, "labels"),
        ({"n": 4, "labels": "even"}, "labels"),
    ],
)
def test_what_a_model_cannot_sample_is_refused(classes, arguments, where):
    with assert_refused(where=where):
        classes.sample(**arguments)


def test_wrong_calls_are_refused(points, classes):
    with assert_refused(where="labels"):
        points.sample(4, labels=1)
    with assert_refused(where="x", expected="(n, 2)"):
        points.denoise(torch.zeros(3, 3), 1.0)
    for sigma in (-1.0, torch.ones(2), math.nan):
        with assert_refused(where="sigma"):
            points.denoise(torch.zeros(3, 2), sigma)
    with assert_refused(where="labels"):
        classes.denoise(torch.zeros(3, 1, 8, 8), 1.0)
    with assert_refused(where="t_max"):
        points.trajectory(points.noise(2), t_max=100.0)
    with assert_refused(where="x"):
        points.pixels(points.sample(2))


def export(*arguments: object, results: Path) -> int:
    return main(["export", *map(str, arguments), "--results", str(results), "--device", "cpu"])


def test_npz_is_what_adms_evaluator_reads(root, classes, tmp_path):
    target = tmp_path / "samples.npz"
    assert export(classes.run.id, "--samples", 510, "--balanced", "--to", target, results=root) == 0
    with zipfile.ZipFile(target) as archive, archive.open("arr_0.npy") as file:  # as the evaluator streams it
        assert archive.getinfo("arr_0.npy").compress_type == zipfile.ZIP_STORED
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        assert shape == (510, 8, 8, 1) and not fortran and dtype == np.uint8
        assert len(file.read()) == 510 * 64
        facts = json.loads(archive.read("export.json"))
    content = np.load(target)
    assert np.array_equal(content["arr_1"], np.arange(510) % 10) and content["arr_1"].dtype == np.int64
    levels = quantise(classes.sample(510, labels="balanced"))
    assert np.array_equal(content["arr_0"], levels.permute(0, 2, 3, 1))
    assert facts["samples"] == {
        **{"n": 510, "steps": 1, "times": [], "seed": 0, "labels": "balanced"},
        **{"sample_range": "paper", "quantisation": "paper"},
    }
    assert facts["model"]["run"] == classes.run.id and facts["exported"]["fingerprint"]
    again = tmp_path / "again.npz"
    assert export(classes.run.id[:20], "--samples", 510, "--balanced", "--to", again, results=root) == 0
    assert again.read_bytes() == target.read_bytes()


def test_png_files_hold_the_same_pixels_with_their_labels(root, classes, tmp_path):
    assert export(classes.run.id, "--samples", 70, "--steps", 2, "--to", tmp_path / "images", results=root) == 0
    assert export(classes.run.id, "--samples", 70, "--steps", 2, "--to", tmp_path / "images.npz", results=root) == 0
    content = np.load(tmp_path / "images.npz")
    names = sorted(path.name for path in (tmp_path / "images").glob("*.png"))
    assert names == [f"{i:06d}.png" for i in range(70)]
    pixels = np.stack([np.asarray(Image.open(tmp_path / "images" / name)) for name in names])
    assert np.array_equal(pixels, content["arr_0"][..., 0])
    rows = [line.split(",") for line in (tmp_path / "images" / "labels.csv").read_text().splitlines()]
    assert rows[0] == ["file", "label"] and [int(label) for _, label in rows[1:]] == content["arr_1"].tolist()
    facts = json.loads((tmp_path / "images" / "export.json").read_text())
    assert facts["samples"]["times"] == [5.0] and facts["samples"]["renoising"] == "stochastic"


def test_given_classes_belong_to_the_samples_of_all_batches(classes, tmp_path):
    given = np.arange(510) // 100
    files.write_samples(classes, 510, tmp_path / "s.npz", labels=given)
    content = np.load(tmp_path / "s.npz")
    assert np.array_equal(content["arr_1"], given)
    last = quantise(classes.sample(10, labels=[5] * 10, first=500))
    assert np.array_equal(content["arr_0"][500:], last.permute(0, 2, 3, 1))


def test_rgb_images_keep_their_channels(tmp_path, images, monkeypatch):
    """Colours, by a stand-in for the samples of a model: PNG and npz keep their order."""
    values = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    part = files.Part(quantise(values).permute(0, 2, 3, 1).numpy(), None)
    files._write_images(tmp_path, iter([part]))
    for i in range(3):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{i:06d}.png")), part.values[i])
    assert not (tmp_path / "labels.csv").exists()


def test_points_are_written_as_arrays(root, points, tmp_path):
    for name in ("points.npy", "points.npz"):
        assert export(points.run.id, "--samples", 60, "--seed", 2, "--to", tmp_path / name, results=root) == 0
    expected = points.sample(60, seed=2).numpy()
    assert np.array_equal(np.load(tmp_path / "points.npy"), expected)
    content = np.load(tmp_path / "points.npz")
    assert np.array_equal(content["arr_0"], expected) and content["arr_0"].dtype == np.float32 and "arr_1" not in content


def test_the_released_protocol_quantises_each_batch_of_an_evaluation(root, tmp_path):
    run = image_run(protocol=Protocol(sample_range="released", quantisation="released"))
    model = of_folder(finished(root, run))
    assert export(run.id, "--samples", 520, "--to", tmp_path / "s.npz", results=root) == 0
    x = model.sample(520)
    parts = [quantise(part, "released", "released") for part in (x[:500], x[500:])]
    assert np.array_equal(np.load(tmp_path / "s.npz")["arr_0"], torch.cat(parts).permute(0, 2, 3, 1))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_existing_targets_are_replaced_only_if_asked_and_only_if_they_are_exports(root, images, tmp_path, capsys):
    folder, file = tmp_path / "images", tmp_path / "s.npz"
    for target in (folder, file):
        assert export(images.run.id, "--samples", 5, "--to", target, results=root) == 0
        assert export(images.run.id, "--samples", 3, "--to", target, results=root) == 2
        assert "the target exists" in capsys.readouterr().err
        assert export(images.run.id, "--samples", 3, "--to", target, "--overwrite", results=root) == 0
    assert len(list(folder.glob("*.png"))) == 3 and len(np.load(file)["arr_0"]) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    assert export(images.run.id, "--samples", 3, "--to", tmp_path / "mine", "--overwrite", results=root) == 2
    assert export(images.run.id, "--samples", 3, "--to", tmp_path / "mine" / "thesis.tex", "--overwrite", results=root) == 2
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "precious"
    assert names(tmp_path) == ["images", "mine", "s.npz"], "nothing temporary is left"


@pytest.mark.parametrize("target", ["images", "s.npz"])
def test_nothing_is_left_of_an_export_that_fails(root, images, tmp_path, monkeypatch, target, capsys):
    assert export(images.run.id, "--samples", 4, "--to", tmp_path / target, results=root) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()

    def full(part, n):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_counted", lambda parts, progress: (full(part, 0) if i else part for i, part in enumerate(parts)))
    assert export(images.run.id, "--samples", 600, "--to", tmp_path / target, "--overwrite", results=root) == 2
    assert "No space left" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert names(tmp_path) == [target]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to export"),
        (["--samples", "5"], "no target for the samples"),
        (["--samples", "0", "--to", "s.npz"], "a number of samples out of range"),
        (["--samples", "5", "--to", "nowhere/s.npz"], "the folder of the target does not exist"),
        (["--samples", "5", "--to", "s.zip"], "an unknown kind of file"),
        (["--samples", "5", "--to", "s.npy"], "images are written as a folder or npz"),
        (["--samples", "5", "--to", "s.npz", "--steps", "2"], "no noise levels for this number of steps"),
        (["--samples", "5", "--to", "s.npz", "--times", "1,5"], "noise levels that do not descend"),
        (["--samples", "5", "--to", "s.npz", "--balanced"], "this model is not conditional"),
        (["--balanced", "--weights", "w.safetensors"], "this option does not apply here"),
        (["--weights", "w.pt"], "weights are written as safetensors"),
        (["--weights", "nowhere/w.safetensors"], "the folder of the target does not exist"),
    ],
)
def test_bad_input_has_one_message_and_writes_nothing(root, images, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert export(images.run.id, *arguments, results=root) == 2
    error = capsys.readouterr().err
    assert error.startswith(message) and "Traceback" not in error
    assert names(tmp_path) == []


def test_runs_that_are_not_finished_unknown_or_ambiguous_are_refused(root, images, classes, tmp_path, capsys):
    begun = image_run(seed=7)
    RunFolder.create(root, begun.id, begun.to_dict())
    for name, message in ((begun.id, "this run is not finished"), ("digits-ic", "the name of the run is ambiguous"), ("x", "unknown run")):
        assert export(name, "--samples", 5, "--to", tmp_path / "s.npz", results=root) == 2
        assert capsys.readouterr().err.startswith(message)
    assert names(tmp_path) == []


def test_an_unwritable_folder_is_refused_before_anything_is_computed(root, images, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "may_write", lambda folder: folder != tmp_path)  # root, as whom CI runs, may write everywhere
        patch.setattr(files, "write_samples", lambda *arguments, **options: pytest.fail("computed"))
        for arguments in (("--samples", 5, "--to", tmp_path / "s.npz"), ("--weights", tmp_path / "w.safetensors")):
            assert export(images.run.id, *arguments, results=root) == 2
            assert "no permission to write there" in capsys.readouterr().err
    assert export(images.run.id, "--samples", 5, "--to", "/proc/s.npz", results=root) == 2, "where not even root may"


def test_the_code_of_a_run_is_not_executed(tmp_path, capsys):
    """The file of a coupling may come from somebody else; samples and weights need the network alone."""
    mark = tmp_path / "executed"
    code = tmp_path / "mine.py"
    code.write_text(f"open({str(mark)!r}, 'w')\n\ndef pairs(x, z, sigma, predict):\n    return x, z\n")
    settings = Custom(source=f"{code}:pairs", sha256=hashlib.sha256(code.read_bytes()).hexdigest())
    run = tiny_run(settings, steps=4)
    finished(tmp_path / "results", run)
    for there in (True, False):
        target = tmp_path / f"{there}.npz"
        assert export(run.id, "--samples", 5, "--to", target, results=tmp_path / "results") == 0
        code.unlink(missing_ok=True)
    assert not mark.exists()


@pytest.mark.parametrize("which", ["ema", "online"])
def test_weights_load_again_bit_for_bit(root, classes, tmp_path, which):
    path = tmp_path / "w.safetensors"
    assert export(classes.run.id, "--weights", path, "--which", which, results=root) == 0
    model, again = of_folder(RunFolder(classes.source), which=which), load(path, Store(root))
    assert again.run == model.run and again.facts["weights"] == which
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor), name
    assert torch.equal(again.sample(30, labels="balanced"), model.sample(30, labels="balanced"))
    other = "online" if which == "ema" else "ema"
    assert not torch.equal(model.sample(5), of_folder(RunFolder(classes.source), which=other).sample(5))
    with assert_refused(found=which, expected=other):
        load(path, Store(root), which=other)
    samples = [tmp_path / f"{name}.npz" for name in ("file", "run")]
    for source, target in zip((path, classes.run.id), samples, strict=True):
        assert export(source, "--samples", 5, "--balanced", "--which", which, "--to", target, results=root) == 0
    assert np.array_equal(np.load(samples[0])["arr_0"], np.load(samples[1])["arr_0"])


def test_tensors_keep_edms_names(root, images, tmp_path):
    path = tmp_path / "w.safetensors"
    assert export(images.run.id, "--weights", path, results=root) == 0
    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
    assert {"model.map_layer0.weight", "model.enc.8x8_conv.weight", "model.enc.8x8_block0.conv0.weight"} <= stored
    assert stored == set(images.network.state_dict())


def test_the_model_card_names_config_protocol_metrics_and_code(root, images, tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    assert export(images.run.id, "--weights", path, results=root) == 0
    assert "w.md" in capsys.readouterr().out
    card = (tmp_path / "w.md").read_text()
    half = 4.302652729911275 * 0.03 / 3**0.5  # Student's t with 2 degrees of freedom
    assert f"| fid | 0.5 | [{0.5 - half:.4g}, {0.5 + half:.4g}] | 16 | 3 | `abcdefabcdef` |" in card
    assert "class_share" not in card and "| fid | 9 " not in card
    assert "a classifier of this data set, not Inception" in card
    assert "fingerprint of the code: 0123456789ab" in card and "- `sample_range`: paper" in card
    config = json.loads(card.partition("```json\n")[2].partition("```")[0])
    assert config == images.run.to_dict()
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()[KEY])
    assert facts["config"] == config and facts["metrics"][0]["low"] == pytest.approx(0.5 - half)
    text = card + json.dumps(facts)
    assert not any(private in text for private in (os.uname().nodename, str(root), str(tmp_path)))


def test_damaged_and_foreign_weights_are_refused(root, images, tmp_path):
    path = tmp_path / "w.safetensors"
    assert export(images.run.id, "--weights", path, results=root) == 0
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(metadata[KEY])

    def written(tensors: dict, metadata: dict) -> Path:
        save_file(tensors, tmp_path / "other.safetensors", metadata)
        return tmp_path / "other.safetensors"

    def with_facts(**changes) -> dict:
        return metadata | {KEY: json.dumps(facts | changes)}

    store, name = Store(root), next(name for name in tensors if name.endswith("weight"))
    assert torch.equal(load(written(tensors, metadata), store).sample(2), images.sample(2))
    with pytest.raises(MissingFile):
        load(tmp_path / "absent.safetensors", store)
    with assert_refused(found="format"):
        load(written(tensors, {"format": "pt"}), store)
    for text in ("NaN", "{", "[]", "{}"):
        with pytest.raises(DamagedFile):
            load(written(tensors, metadata | {KEY: text}), store)
    for changes in ({"format": 99}, {"config": []}, {"weights": "best"}, {"config": {**facts["config"], "seed": 5}}):
        with pytest.raises(HarnessError):
            load(written(tensors, with_facts(**changes)), store)
    with pytest.raises(HarnessError, match="1 missing"):
        load(written({key: value for key, value in tensors.items() if key != name}, metadata), store)
    with pytest.raises(HarnessError, match="not finite"):
        load(written(tensors | {name: tensors[name] / 0}, metadata), store)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"PK\x03\x04" + content):
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        with pytest.raises(DamagedFile):
            load(tmp_path / "damaged.safetensors", store)


def test_weights_of_a_file_are_not_exported_again(root, images, tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    assert export(images.run.id, "--weights", path, results=root) == 0
    assert export(path, "--weights", tmp_path / "v.safetensors", results=root) == 2
    assert export(images.run.id, "--weights", path, results=root) == 2
    assert names(tmp_path) == ["w.md", "w.safetensors"]


def test_the_network_of_the_fixture_is_built_as_its_config_says(images):
    """A guard of the fixtures: their networks are not the identity, so the samples above depend on the weights."""
    network = build(images.run.network, (1, 8, 8), 0, generator(0, "init"), None)
    assert {f"model.{name}" for name in network.state_dict()} == set(images.network.state_dict())
    assert images.sample(4).std() > 0.01
