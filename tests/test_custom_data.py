"""A user's own images: sources, colours, sizes, classes and held-out images become a data set that every command takes by its name."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_support import make_run

from harness import cli
from harness.config import custom_data, presets
from harness.config.baselines import baseline_jobs, stored_job
from harness.config.derived import BATCHES, LEAST_IMAGES, MOST_COARSE, RULES, derived, level_sides
from harness.config.experiments import OtherData, expand
from harness.config.parts import BatchOT, CustomData, GeneratorAugmented, Independent
from harness.config.run import Run, varied
from harness.config.selection import Selection
from harness.core.networks import build
from harness.core.randomness import generator
from harness.data import datasets
from harness.data.catalogue import REGISTRY, check_content, info
from harness.data.prepare import custom, images, prepare_custom
from harness.errors import DamagedFile, HarnessError, MissingFile
from harness.metrics import set_classifier
from harness.metrics.extractors import extractor
from harness.metrics.quality import frechet, moments, root
from harness.metrics.random_network import RandomExtractor
from harness.reporting import load, produce
from harness.reporting.cells import all_cells
from harness.reporting.experiment_table import experiment_table
from harness.reporting.figure_requests import training
from harness.reporting.paper_claims import claims
from harness.reporting.publish import publish
from harness.reporting.values import CellValues
from harness.reporting.verdicts import Evidence
from harness.sweep.doctor import absent
from harness.sweep.network_size import network_size
from harness.sweep.plan import wanted_jobs


def silent(split, done, total):
    pass


def pixels(count: int, size: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def folder_of(path, arrays, name="{i:03d}.png"):
    for i, array in enumerate(arrays):
        file = path / name.format(i=i, c=i % 3, c2=i % 2)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(array))
    return path


def prepared(name, source, root, size=8, **options):
    return prepare_custom(name, source, root, **{"size": size, "progress": silent, **options})


def rows(root, name, split="train"):
    return np.load(root / name / f"{split}.npy")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("HARNESS_DATA", str(folder))
    return folder


@pytest.fixture
def textures(data, tmp_path):
    """A prepared set of 60 images of 8 x 8 in three classes."""
    prepared("textures", folder_of(tmp_path / "images", pixels(60), "c{c}/{i:03d}.png"), data, labels="from-folders")
    return data


# -- sources


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "compressed npz", "Parquet", "Parquet shards"])
def test_every_source_gives_the_pixels_of_its_images(tmp_path, data, kind):
    arrays, classes = pixels(30), np.arange(30) % 4 + 3
    if kind == "folder":
        source = folder_of(tmp_path / "a folder", arrays, "below/{i:03d}.png")
        (source / "below" / "._000.png").write_bytes(b"of a file manager")
        (source / "readme.txt").write_text("no image")
    elif kind == "zip":
        source = tmp_path / "images.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for i, array in enumerate(arrays):
                archive.writestr(f"all/{i:03d}.png", png(array))
            archive.writestr("__MACOSX/all/000.png", b"of a file manager")
    elif kind.endswith("npz"):
        source = tmp_path / "images.npz"
        (np.savez if kind == "npz" else np.savez_compressed)(source, arrays, classes)
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        encoded = [{"bytes": png(array), "path": f"{i}.png"} for i, array in enumerate(arrays)]
        table = arrow.table({"label": classes, "image": encoded})
        source = tmp_path / "images.parquet"
        if kind == "Parquet":
            parquet.write_table(table, source, row_group_size=4)
        else:
            source = tmp_path / "shards"
            source.mkdir()
            for shard in range(3):
                parquet.write_table(table.slice(10 * shard, 10), source / f"train-0000{shard}-of-00003.parquet")
    folder = prepared("mine", source, data, heldout="0")
    assert np.array_equal(rows(data, "mine"), arrays.transpose(0, 3, 1, 2))
    holds_classes = kind not in ("folder", "zip")
    assert info("mine").classes == (4 if holds_classes else 0) and info("mine").heldout == 0
    if holds_classes:
        assert np.load(folder / "train_labels.npy").tolist() == (classes - 3).tolist()
        unlabelled = prepared("no-classes", source, data, heldout="0", labels="none")
        assert not (unlabelled / "train_labels.npy").exists()


def test_parquet_without_its_reader_is_one_message(tmp_path, data, monkeypatch):
    (tmp_path / "images.parquet").write_bytes(b"PAR1")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr("harness.data.prepare.pictures.importlib.import_module", missing)
    with pytest.raises(HarnessError) as error:
        prepared("mine", tmp_path / "images.parquet", data)
    assert "parquet" in error.value.details["nearest"] and not list(data.iterdir())


def test_a_flipped_bit_of_an_npz_is_found(tmp_path, data):
    np.savez(tmp_path / "a.npz", np.full((30, 8, 8, 3), 90, np.uint8))
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[3000] ^= 4
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(DamagedFile):
        prepared("mine", tmp_path / "a.npz", data)


# -- colours and sizes


def saved(mode: str, value, **options) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (8, 8), value).save(out, options.pop("form", "PNG"), **options)
    return out.getvalue()


def palette(**options) -> bytes:
    image, out = Image.new("P", (8, 8), 1), io.BytesIO()
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(out, "PNG", **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved("RGB", (1, 2, 3)), (1, 2, 3)),
        (saved("L", 77), (77, 77, 77)),
        (saved("1", 1), (255, 255, 255)),
        (saved("I;16", 65535), (255, 255, 255)),
        (saved("I;16", 257 * 9), (9, 9, 9)),
        (saved("RGBA", (10, 20, 30, 255)), (10, 20, 30)),
        (saved("RGBA", (10, 20, 30, 0)), (255, 255, 255)),
        (saved("RGBA", (55, 155, 255, 51)), (215, 235, 255)),  # 255 - (255 - v) / 5
        (saved("LA", (100, 0)), (255, 255, 255)),
        (palette(), (10, 20, 30)),
        (palette(transparency=1), (255, 255, 255)),
        (saved("CMYK", (0, 0, 0, 255), form="TIFF"), (0, 0, 0)),
    ],
    ids=["rgb", "grey", "bits", "white16", "grey16", "opaque", "clear", "part-clear", "grey-clear", "palette", "palette-clear", "cmyk"],
)
def test_one_rule_for_the_colours(tmp_path, data, content, expected):
    for i in range(LEAST_IMAGES):
        (tmp_path / f"{i}{'.tif' if content[:2] == b'II' else '.png'}").write_bytes(content)
    prepared("mine", tmp_path, data, heldout="0", channels=3)
    assert rows(data, "mine")[0].reshape(3, -1).T.tolist() == [list(expected)] * 64


def test_a_photo_is_turned_as_its_camera_says(tmp_path, data):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 250
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for i in range(LEAST_IMAGES):
        Image.fromarray(upright[::-1, ::-1]).save(tmp_path / f"{i}.png", exif=exif)
    prepared("mine", tmp_path, data, heldout="0")
    assert np.array_equal(rows(data, "mine")[0], upright.transpose(2, 0, 1))


def test_images_that_are_all_grey_have_one_channel_and_a_colour_among_them_is_refused(tmp_path, data, monkeypatch):
    grey = folder_of(tmp_path / "grey", pixels(40)[..., 0])
    prepared("grey", grey, data)
    assert info("grey").shape == (1, 8, 8) and rows(data, "grey").shape == (36, 1, 8, 8)
    monkeypatch.setattr(custom, "PROBED", 2)
    (grey / "020.png").write_bytes(png(np.full((8, 8, 3), (255, 0, 0), np.uint8)))
    with pytest.raises(HarnessError) as error:
        prepared("colour", grey, data)
    assert "020.png" in error.value.details["where"] and "--channels 3" in error.value.details["nearest"]
    prepared("luma", grey, data, channels=1, heldout="0")
    assert (rows(data, "luma")[20] == 76).all(), "0.299 * 255"
    prepared("rgb", grey, data, channels=3)
    assert info("rgb").shape == (3, 8, 8)


def test_mixed_sizes_are_cut_to_squares_and_never_enlarged(tmp_path, data):
    for i in range(LEAST_IMAGES + 1):
        wide = np.zeros((16, 32 + 2 * i, 3), np.uint8)
        wide[:, 8 + i : 24 + i] = 200  # its middle square
        (tmp_path / f"{i:02d}.png").write_bytes(png(wide))
    prepared("mine", tmp_path, data, heldout="0", recipe="square-box")
    assert (rows(data, "mine") == 200).all()
    (tmp_path / "03.png").write_bytes(png(pixels(1, 7)[0]))
    with pytest.raises(HarnessError) as error:
        prepared("small", tmp_path, data, heldout="0")
    assert "03.png" in error.value.details["where"] and error.value.details["found"] == "7x7"
    folder = prepared("small", tmp_path, data, skip_damaged=1, heldout="0")
    assert rows(data, "small").shape == (LEAST_IMAGES, 3, 8, 8)
    assert json.loads((folder / "manifest.json").read_text())["skipped"] == ["03.png"]


# -- classes and held-out images


def test_the_folder_of_an_image_below_all_that_they_share_is_its_class(tmp_path, data):
    for name in ("rose", "a b", "ünï"):
        folder_of(tmp_path / "flowers" / "jpg" / name / "more", pixels(10))
    folder = prepared("mine", tmp_path, data, labels="from-folders", heldout="0")
    assert json.loads((folder / "manifest.json").read_text())["custom"]["class_names"] == ["a b", "rose", "ünï"]
    assert Counter(np.load(folder / "train_labels.npy").tolist()) == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize("heading", ["file,label\n", ""])
def test_classes_from_a_file_by_name_or_path(tmp_path, data, heading):
    source = folder_of(tmp_path / "images", pixels(24), "below/{i:03d}.png")
    lines = [f"{'below/' * (i % 2)}{i:03d}.png,{10 if i % 4 else 9}\n" for i in reversed(range(24))]
    (source / "labels.csv").write_text(heading + "".join(lines))
    folder = prepared("mine", source, data, labels="labels.csv", heldout="0")
    assert np.load(folder / "train_labels.npy").tolist() == [1 if i % 4 else 0 for i in range(24)], "9 comes before 10"


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["000.png,a", "001.png"], "001.png"),
        (["nothing.png,a", *(f"{i:03d}.png,{i % 2}" for i in range(20)), "other.png,1"], "other.png"),
        ([f"{i:03d}.png,{i % 2}" for i in range(19)], "019.png"),
        (["000.png,1", *(f"{i:03d}.png,{i % 2}" for i in range(20))], "000.png"),
        ([f"{i:03d}.png,rose" for i in range(20)], "1 class of"),
        ([f"{i:03d}.png,{i}" for i in range(20)], "20 classes of"),
    ],
)
def test_a_file_of_labels_that_does_not_fit_is_refused(tmp_path, data, lines, named):
    source = folder_of(tmp_path / "images", pixels(20))
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(HarnessError) as error:
        prepared("mine", source, data, labels=str(tmp_path / "labels.csv"))
    assert named in error.value.details["found"] and not list(data.iterdir())


@given(st.lists(st.integers(0, 4), min_size=20, max_size=80), st.integers(0, 100))
def test_each_class_has_its_share_of_the_held_out_images(classes, percent):
    names = [f"{i}.png" for i in range(len(classes))]
    count = round(percent / 100 * len(classes))
    held = custom.held_out(names, classes, count)
    assert held.sum() == count
    for label, members in Counter(classes).items():
        of_class = sum(held[i] for i in range(len(classes)) if classes[i] == label)
        assert abs(of_class - members * count / len(classes)) <= 1
    assert np.array_equal(held, custom.held_out(names, classes, count))


def test_held_out_and_training_images_are_all_images_once(textures):
    train, held = rows(textures, "textures"), rows(textures, "textures", "heldout")
    assert (len(train), len(held)) == (54, 6)
    everything = {row.tobytes() for row in pixels(60).transpose(0, 3, 1, 2)}
    assert {row.tobytes() for row in train} | {row.tobytes() for row in held} == everything
    assert Counter(np.load(textures / "textures" / "heldout_labels.npy").tolist()) == {0: 2, 1: 2, 2: 2}
    assert datasets.load("textures", "heldout").classes == 3 and datasets.verify("textures") == "textures: 54 train, 6 heldout"


# -- what is refused, and what survives


@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("Textures", (), "NAME"),
        ("my/set", (), "NAME"),
        ("weights", (), "NAME"),
        ("seed-4", (), "NAME"),
        ("cifar10", (), None),
        ("mine", ("--size", "37"), "--size"),
        ("mine", ("--size", "2"), "--size"),
        ("mine", ("--heldout", "half"), "--heldout"),
        ("mine", ("--heldout", "100%"), "--heldout"),
        ("mine", ("--heldout", "nan%"), "--heldout"),
        ("mine", ("--heldout", "90%"), "images"),
        ("mine", ("--labels", "from-folders"), "images"),
        ("mine", ("--labels", "absent.csv"), "--labels"),
        ("mine", ("--recipe", "bilinear"), "recipe"),
        ("mine", ("--partial",), None),
        ("mine", ("--features", "classifier"), "--features"),
    ],
)
def test_a_wrong_option_is_one_message_and_leaves_nothing(tmp_path, data, capsys, name, options, key):
    source = folder_of(tmp_path / "images", pixels(20))
    size = () if "--size" in options else ("--size", "8")
    assert cli.main(["prepare", name, "--from", str(source), *size, *options]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message and not list(data.iterdir())
    assert key is None or any(line.split()[0] == "where:" and key in line for line in message.splitlines()[1:])


@pytest.mark.parametrize("content", ["nothing", "text", "archive", "broken"])
def test_a_source_without_images_is_one_message_and_leaves_nothing(tmp_path, data, content):
    source = tmp_path / "source"
    source.mkdir()
    if content == "text":
        (source / "a.txt").write_text("no image")
    elif content == "archive":
        (source / "images.zip").write_bytes(b"PK")
    elif content == "broken":
        folder_of(source, pixels(20))
        (source / "004.png").write_bytes((source / "004.png").read_bytes()[:60])
    with pytest.raises(DamagedFile if content == "broken" else MissingFile) as error:
        prepared("mine", source, data)
    assert not (data / "mine").exists()
    if content == "broken":
        assert "004.png" in error.value.details["where"]
        assert prepared("mine", source, data, skip_damaged=1).is_dir() and info("mine").train + info("mine").heldout == 19


def test_a_name_without_a_size_is_a_question_about_the_catalogue(data, tmp_path, capsys):
    assert cli.main(["prepare", "cifra10", "--from", str(tmp_path)]) == 2
    assert "cifar10" in capsys.readouterr().err
    assert cli.main(["prepare", "cifar10", "--from", str(tmp_path), "--size", "16"]) == 2
    assert "--size" in capsys.readouterr().err


def test_an_interrupted_preparation_continues(tmp_path, data, monkeypatch):
    monkeypatch.setattr(images, "ROWS", 8)
    source = folder_of(tmp_path / "images", pixels(40))

    def stop(split, done, total):
        if done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepared("mine", source, data, progress=stop)
    assert custom_data.custom_set("mine") is None
    with pytest.raises(HarnessError):
        info("mine")
    seen = []
    prepared("mine", source, data, progress=lambda split, done, total: seen.append((split, done)))
    assert seen[0] == ("train", 16)
    whole = tmp_path / "whole"
    prepared("mine", source, whole)
    assert all(np.array_equal(rows(data, "mine", split), rows(whole, "mine", split)) for split in ("train", "heldout"))
    assert custom_data.custom_set("mine", whole) == custom_data.custom_set("mine")


@pytest.mark.parametrize("change", [{"size": 4}, {"heldout": "20%"}, {"features": "inception"}, {"labels": "none"}])
def test_a_valid_set_is_not_replaced_by_another(textures, tmp_path, change):
    before = (textures / "textures" / "manifest.json").read_bytes()
    options = {"labels": "from-folders", **change}
    with pytest.raises(HarnessError, match="already prepared"):
        prepared("textures", tmp_path / "images", textures, **options)
    assert (textures / "textures" / "manifest.json").read_bytes() == before
    prepared("textures", tmp_path / "images", textures, labels="from-folders")


def test_a_folder_of_the_users_own_in_the_data_folder_is_left_as_it_is(data):
    source = folder_of(data / "textures", pixels(20))
    with pytest.raises(HarnessError, match="no prepared data set"):
        prepared("textures", source, data)
    assert len(list(source.iterdir())) == 20 and prepared("others", source, data).is_dir()


@pytest.mark.parametrize("damage", ["{", '{"custom": {}}', "[]", '{"custom": {"classes": -1, "features": "random"}}'])
def test_a_damaged_manifest_is_one_message(textures, damage, capsys):
    (textures / "textures" / "manifest.json").write_text(damage)
    assert cli.main(["plan", "table1", "--data", "textures"]) == 2
    message = capsys.readouterr().err
    assert "manifest.json" in message or "textures" in message
    assert "Traceback" not in message


# -- identity


def test_another_set_under_the_same_name_is_another_run(textures, tmp_path):
    (old,) = expand("table1", "digits", [0], data=["textures"])[:1]
    assert old.data.custom == custom_data.custom_set("textures") == info("textures").custom
    assert stored_job(old.to_dict(), old.id) == old
    (job,) = baseline_jobs([old])
    assert stored_job(job.to_dict(), job.id) == job
    (textures / "textures").rename(textures / "before")
    prepared("textures", folder_of(tmp_path / "other", pixels(60, seed=1), "c{c}/{i:03d}.png"), textures, labels="from-folders")
    (new,) = expand("table1", "digits", [0], data=["textures"])[:1]
    assert new.id != old.id and baseline_jobs([new])[0].id != job.id
    assert new.model_copy(update={"data": old.data}) == old, "nothing else differs"
    check_content("textures", new.data.custom)
    with pytest.raises(HarnessError, match="not the one"):
        check_content("textures", old.data.custom)


def test_sets_of_the_catalogue_have_no_entry_of_a_users_set():
    for scale in presets.PRESETS_BY_SCALE:
        assert all(run.data.custom is None for run in expand("table1", scale, [0]))
    with pytest.raises(HarnessError):
        check_content("digits", described(100))


# -- the derived network and schedule


def described(train: int, size: int = 16, channels: int = 3, classes: int = 0) -> CustomData:
    return CustomData(shape=(channels, size, size), classes=classes, train=train, heldout=0, features="random", sha256="0" * 64)


@given(st.sampled_from(sorted(RULES)), st.integers(1, 600), st.integers(LEAST_IMAGES, 10**7), st.sampled_from([1, 3]))
def test_every_size_has_a_network_that_fits_or_the_nearest_size_that_has(scale, size, train, channels):
    try:
        sides = level_sides(size)
    except HarnessError as error:
        assert level_sides(int(error.details["nearest"]))
        return
    assert sides[-1] <= MOST_COARSE and all(2 * after == before for before, after in pairwise(sides))
    run = derived("mine", described(train, size, channels), next(iter(presets.scale(scale).presets.values())))
    assert network_size(run).parameters > 0 and len(run.network.channel_mult) == len(sides)
    assert run.train.batch <= max(1, train // BATCHES) and run.evaluation.samples <= train and run.noise.sigma_data == 0.5


@pytest.mark.parametrize(("scale", "size", "channels"), [("digits", 8, 1), ("digits", 9, 3), ("fashion", 28, 1)])
def test_the_network_takes_such_images(scale, size, channels):
    run = derived("mine", described(100, size, channels), next(iter(presets.scale(scale).presets.values())))
    network = build(run.network, (channels, size, size), 0, generator(0, "init"), None)
    x = torch.zeros(2, channels, size, size)
    assert network(x, torch.ones(2)).shape == x.shape
    assert network_size(run).parameters == sum(parameter.numel() for parameter in network.parameters())


def test_the_rules_give_the_presets_of_sets_of_the_same_size():
    """Where the catalogue has images of that kind, the derived network is the preset's, apart from what is tuned by hand."""
    digits = derived("mine", described(1437, 8, 1), presets.DIGITS)
    assert (
        digits.network == presets.DIGITS.network and digits.train == presets.DIGITS.train and digits.evaluation == presets.DIGITS.evaluation
    )
    fashion = derived("mine", described(60_000, 32, 1), presets.FASHION)
    assert fashion.network == presets.FASHION.network and fashion.train == presets.FASHION.train
    cifar = derived("mine", described(50_000, 32), presets.PAPER["cifar10"])
    assert varied(cifar, network={"dropout": (0.3, 0.3, 0.3)}).network == presets.PAPER["cifar10"].network
    assert (cifar.train, cifar.evaluation) == (presets.PAPER["cifar10"].train, presets.PAPER["cifar10"].evaluation)


# -- selection


WITH_IMAGES = ("table1", "sweep_mu", "schedule", "scaling", "mechanism", "longer", "table2", "table3", "figure2", "figure3", "figure4")


@pytest.mark.parametrize("experiment", [*WITH_IMAGES, "theory", "why_mu"])
def test_every_experiment_about_images_takes_a_users_set(textures, experiment):
    for scale in ("digits", "fashion"):
        runs = [job for job in wanted_jobs(Selection(experiment, scale, seeds=(0,), data=("textures",))) if isinstance(job, Run)]
        assert {run.data.name for run in runs} == {"textures"} and all(run.data.custom for run in runs)
        assert {need for run in runs for need in run.needs} <= {run.id for run in runs}


@pytest.mark.parametrize(("experiment", "scale"), [("figure1", "digits"), ("rare_class", "digits"), ("table2", "paper")])
def test_an_experiment_about_data_of_its_own_refuses_other_sets(textures, experiment, scale):
    with pytest.raises(OtherData):
        expand(experiment, scale, [0], data=["textures"])


def test_data_also_selects_among_the_sets_of_a_scale():
    (name,) = {run.data.name for run in expand("table1", "paper", [0], data=["church64"])}
    assert name == "church64"
    some = expand("table1", "paper", [0], data=["imagenet32", "cifar10"])
    everything = {run.id for run in expand("table1", "paper", [0])}
    assert len(some) == 6 and {run.id for run in some} <= everything
    assert {run.data.name for run in expand("figure1", "digits", [0], data=["two-moons"])} == {"two-moons"}
    with pytest.raises(HarnessError) as error:
        expand("table1", "paper", [0], data=["cifar1"])
    assert error.value.details["nearest"] == "cifar10"
    with pytest.raises(OtherData, match="fewer"):
        expand("table3", "paper", [0], data=["cifar10", "church64"])


def test_a_scale_of_points_refuses_images(textures):
    with pytest.raises(HarnessError) as error:
        expand("table1", "toy", [0], data=["textures"])
    assert error.value.details["nearest"] == "--scale digits"


@pytest.mark.parametrize(
    ("option", "key"), [("data.name=textures", "data.name"), ("train.batch=64", "train.batch"), ("data.limit=55", "data.limit")]
)
def test_a_plan_refuses_what_does_not_fit_a_users_set(textures, option, key):
    data = () if key == "data.name" else ("textures",)
    with pytest.raises(HarnessError) as error:
        wanted_jobs(Selection("table1", overrides=(option,), data=data))
    assert error.value.details["where"] == key


def test_the_names_of_files_and_commands_have_the_set():
    chosen = Selection("table1", data=("textures",))
    assert chosen.suffix() == "-textures" and chosen.changes() == ("data set textures",)
    assert chosen.command("harness sweep") == "harness sweep table1 --data textures"
    two = Selection("table1", data=("a", "b-c")), Selection("table1", data=("a-b", "c"))
    assert len({selection.suffix() for selection in (*two, Selection("table1", data=("a-b-c",)))}) == 3


# -- features


def test_the_random_network_is_the_same_everywhere_and_ranks_known_samples():
    measure = RandomExtractor(1, 8)
    assert measure.sha256 == "9faa195e0283fc12f32cbe9e8b9d84706f01c7beb4c30ab4c4df0e74efb89b99"
    assert RandomExtractor(3, 8).protocol() != measure.protocol() != RandomExtractor(1, 16).protocol()
    train, held = datasets.load("digits"), datasets.load("digits", "heldout")
    real = torch.from_numpy(measure.extract(train.rows).features)
    whole, part = measure.extract(held.rows).features, measure.extract(held.rows[:7]).features
    assert np.allclose(whole[:7], part, atol=1e-5) and measure.extract(held.rows).probs.shape == (360, 1)
    draw = generator(0, "measure")
    noise = torch.randn(360, 1, 8, 8, generator=draw)
    mean, cov = moments(train.batch(range(len(train))).flatten(1))
    fit = (mean + noise.flatten(1).double() @ root(cov)).view(-1, 1, 8, 8).float()
    blurred = (held.batch(range(360)) + 0.3 * noise).clamp(-1, 1)

    def distance(x: torch.Tensor) -> float:
        levels = ((x.clamp(-1, 1) + 1) / 2 * 255).round().to(torch.uint8)
        return frechet(*moments(real), *moments(torch.from_numpy(measure.extract(levels).features)))

    distances = [distance(x) for x in (held.batch(range(360)), blurred, fit, noise)]
    assert distances == sorted(distances) and distances[0] < 0.5 * distances[1]


def test_a_classifier_is_trained_once_on_the_labels(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(set_classifier, "STEPS", 40)
    monkeypatch.setattr(custom, "LEAST_LABELLED", 50)
    dark, bright = pixels(60) // 4, 255 - pixels(60, seed=1) // 4
    source = folder_of(tmp_path / "images", [image for pair in zip(dark, bright, strict=True) for image in pair], "c{c2}/{i:03d}.png")
    command = ["prepare", "lights", "--from", str(source), "--size", "8", "--labels", "from-folders"]
    assert cli.main(command) == 0 and "100.0%" in capsys.readouterr().out
    measure, digest = extractor("lights"), (data / "lights" / "classifier.pt").read_bytes()
    assert measure.protocol()["network"] == "set-classifier" and info("lights").features == "classifier"
    found = measure.extract(datasets.load("lights").rows)
    assert found.probs.shape == (108, 2) and (found.probs.argmax(1) == datasets.load("lights").labels.numpy()).mean() > 0.95
    (data / "lights" / "classifier.pt").unlink()
    assert absent(expand("table1", "digits", [0], data=["lights"])) == ["no classifier of lights"]
    with pytest.raises(MissingFile):
        extractor("lights")
    assert cli.main(command) == 0 and extractor("lights").protocol() == measure.protocol(), "trained again to the same weights"
    assert (data / "lights" / "classifier.pt").read_bytes() == digest
    (data / "lights" / "classifier.pt").write_bytes(digest[:-1])
    with pytest.raises(DamagedFile):
        extractor("lights")


def test_the_manifest_decides_what_measures(textures, tmp_path):
    assert isinstance(extractor("textures"), RandomExtractor) and not info("textures").needs_inception
    assert absent(expand("table1", "digits", [0], data=["textures"])) == []
    prepared("seen", tmp_path / "images", textures, features="inception")
    assert info("seen").needs_inception and absent(expand("table1", "digits", [0], data=["seen"]))
    with pytest.raises(MissingFile):
        extractor("seen")


# -- the report


def test_published_records_are_reported_where_the_set_is_not_and_are_no_evidence_for_the_paper(textures, tmp_path, monkeypatch):
    root = tmp_path / "results"
    for run in expand("table1", "digits", [0], data=["textures"]):
        make_run(root, run)
    publish(Selection("table1", data=("textures",), results=root), root, allow_uncommitted=True)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    loaded = load.read(root, "published")
    values = CellValues(loaded)
    (cells,) = (cells for cells in produce._experiments("digits", loaded) if cells.name == "table1")
    table = experiment_table(cells, values)
    assert table.name == "table1-digits-textures" and set(table.data.data) == {"textures"} and table.data["mean"].notna().any()
    assert any("random network" in note for note in table.notes)
    everything = all_cells("digits", loaded)
    assert {cell.key for cell in everything.cells} == {"ic", "ot", "gc-0.5"}, "the derived settings count as plain"
    assert {request.name for request in training(everything, values)} >= {"convergence-digits-textures", "figure8-digits-textures"}
    of_paper, of_set = (Evidence(shown, values, pd.DataFrame()) for shown in (everything, cells))
    claim = claims()[0]
    assert of_paper.data(claim) == ["digits"] and of_set.data(claim) == ["textures"]


# -- from images to the table


FEW = ["--set", "train.steps=6", "--set", "evaluation.every=3", "--set", "evaluation.samples=24", "--set", "evaluation.resamplings=2"]


def test_from_a_folder_of_images_to_table_1(tmp_path, data, monkeypatch, capsys):
    source = folder_of(tmp_path / "images", pixels(60))
    assert cli.main(["prepare", "textures", "--from", str(source), "--size", "8"]) == 0
    assert "harness reproduce table1 --data textures" in capsys.readouterr().out
    results = tmp_path / "results"
    common = ["table1", "--data", "textures", "--seeds", "1", *FEW, "--results", str(results)]
    assert cli.main(["reproduce", *common, "--executor", "inline", "--quiet", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "random network" in printed and "data set textures" in printed
    runs = {run.coupling.kind: run for run in Selection("table1", "digits", (0,), tuple(FEW[1::2]), data=("textures",)).runs()}
    assert set(runs) == {coupling.kind for coupling in (Independent(), BatchOT(), GeneratorAugmented())}
    loaded = load.read(results)
    assert loaded.runs.keys() == {run.id for run in runs.values()} and set(loaded.frame.metric) >= {"fid", "kid", "precision"}
    assert "is" not in set(loaded.frame.metric), "a random network knows no classes"
    (baselines,) = loaded.baselines
    final = loaded.frame[loaded.frame.final & (loaded.frame.metric == "fid")]
    (protocol,) = set(final.protocol)
    assert baselines.protocols[protocol]["reference"]["features"]["network"] == "random-network"
    assert {row["row"] for row in baselines.rows} == {"noise", "gaussian-fit", "train-resampled"}, "six held-out images are too few"
    # the records describe the set, so that they are reported where it is not
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    assert cli.main(["report", *common]) == 0 and "textures" in capsys.readouterr().out
    available = produce._experiments("digits", loaded)
    assert all(cells.selection.data in ((), ("textures",)) for cells in available)
    assert all_cells("digits", loaded).data == ["textures"] and "textures" not in REGISTRY
