"""Archives as people have them: other layouts of the same data, damaged images, and files that are not what they seem."""

from __future__ import annotations

import codecs
import io
import json
import os
import shutil
import signal
import struct
import tarfile
import threading
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from archives import celeba_folder, church_lmdb, cifar_archive, cifar_rows, imagenet_tree, jpeg, run, stored
from PIL import Image

from harness.cli import main
from harness.data import lmdb_reader
from harness.data.catalogue import info
from harness.data.prepare import _READERS, lsun, prepare
from harness.data.prepare import images as images_module
from harness.data.prepare.images import decode, image_split, resizer, without_damaged
from harness.errors import DamagedFile, HarnessError, MissingFile

# -- layouts


def kaggle_list(base: Path) -> str:
    lines = (base / "list_eval_partition.txt").read_text().split("\n")
    return "image_id,partition\n" + "\n".join(line.replace(" ", ",") for line in lines)


LAYOUTS = ["zip itself", "official root", "kaggle folder", "kaggle zip", "blank lines", "a spreadsheet's mark", "images only"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_celeba_in_every_layout_gives_the_same_set(tmp_path, layout):
    base = celeba_folder(tmp_path / "celeba", zipped=layout == "zip itself")
    expected = stored(run("celeba64", base, tmp_path / "expected").parent, "celeba64", "train")[0]
    source, folder = base, base / "img_align_celeba"
    match layout:
        case "zip itself":
            source = base / "img_align_celeba.zip"
        case "official root":
            (base / "Img").mkdir()
            (base / "Eval").mkdir()
            folder.rename(base / "Img" / "img_align_celeba")
            (base / "list_eval_partition.txt").rename(base / "Eval" / "list_eval_partition.txt")
        case "kaggle folder" | "kaggle zip":
            (base / "list_eval_partition.csv").write_text(kaggle_list(base))
            (base / "list_eval_partition.txt").unlink()
            folder.rename(base / "inner")
            folder.mkdir()
            (base / "inner").rename(folder / "img_align_celeba")
            if layout == "kaggle zip":
                source = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", base))
                shutil.rmtree(base)
        case "blank lines":
            text = (base / "list_eval_partition.txt").read_text()
            (base / "list_eval_partition.txt").write_text("\n" + text.replace("\n", "\n\n", 3) + "\n\n")
        case "a spreadsheet's mark":
            (base / "list_eval_partition.csv").write_bytes(codecs.BOM_UTF8 + kaggle_list(base).replace("\n", "\r\n").encode())
            (base / "list_eval_partition.txt").unlink()
        case "images only":
            source = folder
    run("celeba64", source, tmp_path / "data")
    assert np.array_equal(stored(tmp_path / "data", "celeba64", "train")[0], expected)
    assert len(stored(tmp_path / "data", "celeba64", "heldout")[0]) == 8


def test_an_image_listed_twice_is_refused(tmp_path):
    base = celeba_folder(tmp_path / "celeba")
    with (base / "list_eval_partition.txt").open("a") as file:
        file.write("000001.jpg 2\n")
    with pytest.raises(DamagedFile) as error:
        run("celeba64", base, tmp_path / "data")
    assert error.value.details["where"].endswith(":13") and "000001.jpg" in error.value.details["found"]


@pytest.mark.parametrize("nested", [False, True])
def test_exported_church_equals_the_database(tmp_path, nested):
    """LSUN's export writes KEY.webp, either flat or in folders of the first characters of the key."""
    base = church_lmdb(tmp_path / "lsun")
    run("church64", base / "church_outdoor_train_lmdb", tmp_path / "expected")
    import lmdb

    target = tmp_path / "exported" / "church_outdoor_train"
    with lmdb.open(str(base / "church_outdoor_train_lmdb"), readonly=True, lock=False) as database, database.begin() as view:
        for key, value in view.cursor():
            name = key.decode()
            file = target / (f"{name[-1]}/{name[-2]}" if nested else "") / f"{name}.webp"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(value)
    for number, source in enumerate((tmp_path / "exported", target)):
        folder = run("church64", source, tmp_path / f"data{number}")
        assert np.array_equal(stored(folder.parent, "church64", "train")[0], stored(tmp_path / "expected", "church64", "train")[0])
        assert not (folder / "heldout.npy").exists()


def flat_validation(base: Path) -> dict[str, str]:
    """Moves the validation images into one flat folder; returns the class of each."""
    classes = {}
    for number, file in enumerate(sorted((base / "val").glob("n*/n*.JPEG"), reverse=True), 1):
        name = f"ILSVRC2012_val_{number:08d}"
        classes[name] = file.parent.name
        file.rename(base / "val" / f"{name}.JPEG")
    for folder in (base / "val").glob("n*"):
        shutil.rmtree(folder)
    return classes


def test_a_flat_imagenet_validation_folder_needs_its_classes(tmp_path):
    base = imagenet_tree(tmp_path / "tree")
    run("imagenet32", base, tmp_path / "expected")
    classes = flat_validation(base)
    with pytest.raises(HarnessError) as error:
        run("imagenet32", base, tmp_path / "data")
    assert error.value.details["where"] == str(base / "val") and "LOC_val_solution.csv" in error.value.details["nearest"]
    kaggle = tmp_path / "kaggle"
    (kaggle / "ILSVRC" / "Data").mkdir(parents=True)
    base.rename(kaggle / "ILSVRC" / "Data" / "CLS-LOC")
    lines = [f"{name},{name_of} 85 1 499 272" for name, name_of in classes.items()]
    (kaggle / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines))
    run("imagenet32", kaggle, tmp_path / "data")
    for split in ("train", "heldout"):
        pairs = zip(stored(tmp_path / "data", "imagenet32", split), stored(tmp_path / "expected", "imagenet32", split), strict=True)
        assert all(np.array_equal(actual, expected) for actual, expected in pairs)
    (kaggle / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(lines[1:]))
    with pytest.raises(HarnessError, match="classes"):
        run("imagenet32", kaggle, tmp_path / "other")


def edm_dataset(base: Path, size: int, labels: bool, zipped: bool) -> tuple[Path, np.ndarray, list[int]]:
    """A data set as EDM's dataset tool writes it, with its images (n, C, H, W) and labels in the order of the names."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
    classes = [3, 1, 0, 2, 3]
    names = [f"0000{number % 2}/img{number:08d}.png" for number in range(5)]
    base.mkdir()
    for name, image in zip(names, pixels, strict=True):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(jpeg(image, "PNG"))
    listed = [[name, label] for name, label in zip(reversed(names), reversed(classes), strict=True)] if labels else None
    (base / "dataset.json").write_text(json.dumps({"labels": listed}))
    order = sorted(range(5), key=lambda number: names[number])
    hidden = base / "__MACOSX" / "00000" / "._img00000000.png"  # as the zips of a Mac have them
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"junk of a file manager")
    source = Path(shutil.make_archive(str(base), "zip", base)) if zipped else base
    return source, pixels[order].transpose(0, 3, 1, 2), [classes[number] for number in order]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", list(_READERS))
def test_data_sets_of_edms_tool(tmp_path, name, zipped):
    dataset = info(name)
    source, pixels, classes = edm_dataset(tmp_path / "set", dataset.shape[1], bool(dataset.classes), zipped)
    run(name, source, tmp_path / "data")
    images, labels = stored(tmp_path / "data", name, "train")
    assert np.array_equal(images, pixels) and (labels.tolist() == classes if dataset.classes else labels is None)


@pytest.mark.parametrize("change", ["no labels", "one missing", "one-hot", "not JSON", "wrong size"])
def test_a_damaged_data_set_of_edms_tool(tmp_path, change):
    source, _, _ = edm_dataset(tmp_path / "set", 64 if change == "wrong size" else 32, change != "no labels", zipped=False)
    text = (source / "dataset.json").read_text()
    if change == "one missing":
        (source / "dataset.json").write_text(text.replace("img00000002", "img00000009"))
    elif change == "one-hot":
        (source / "dataset.json").write_text(text.replace('", 3]', '", [0.0, 1.0]]'))
    elif change == "not JSON":
        (source / "dataset.json").write_text(text[:-4])
    with pytest.raises(HarnessError) as error:
        run("cifar10", source, tmp_path / "data")
    assert ("img" if change == "wrong size" else "dataset.json") in error.value.details["where"]


@pytest.mark.parametrize("name", list(_READERS))
def test_what_has_to_be_unpacked_or_is_cut_off_is_named(tmp_path, name):
    """As a download leaves them: a zip in a folder, and a zip whose transfer was interrupted."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "all-images.zip", "w") as archive:
        archive.writestr("readme.txt", "x" * 100)
    with pytest.raises(MissingFile) as missing:
        run(name, folder, tmp_path / "data")
    assert "unpack all-images.zip first" in missing.value.details["found"]
    (tmp_path / "cut.zip").write_bytes((folder / "all-images.zip").read_bytes()[:-30])
    with pytest.raises(DamagedFile) as cut:
        run(name, tmp_path / "cut.zip", tmp_path / "data")
    assert cut.value.details["where"] == str(tmp_path / "cut.zip") and "without its end" in cut.value.details["found"]


def test_a_part_of_the_classes_asks_for_partial(tmp_path):
    with pytest.raises(HarnessError, match="classes") as error:
        run("imagenet32", imagenet_tree(tmp_path / "in"), tmp_path / "data", official=True)
    assert "--partial" in error.value.details["nearest"]


def test_images_are_decoded_and_checked_on_all_cores(monkeypatch):
    """A row is done only once as many rows as there are cores have begun."""
    monkeypatch.setattr(images_module, "cores", lambda: 4)
    together = threading.Barrier(4)

    def row(index):
        together.wait(20)
        return np.full((3, 2, 2), index, np.uint8)

    split = image_split(list("abcdefgh"), lambda: nullcontext(row))
    (images, labels), *more = split.chunks(0)
    assert images[:, 0, 0, 0].tolist() == list(range(8)) and labels is None and not more
    assert without_damaged(split, 1, 0, lambda *_: None).skipped == ()


# -- damaged images


def damage(files: list[Path]) -> list[str]:
    for file in files:
        file.write_bytes(file.read_bytes()[:200])
    return sorted(f"{file.parent.name}/{file.name}" for file in files)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(images_module, "ROWS", 3)


def test_damaged_images_are_skipped_only_if_asked_for(tmp_path, small_blocks, capsys):
    base = imagenet_tree(tmp_path / "in", classes=3, each=5)
    intact = stored(run("imagenet32", base, tmp_path / "intact").parent, "imagenet32", "train")
    files = sorted(file for file in (base / "train").rglob("n*.JPEG"))
    names = damage([files[1], files[7]])
    for allowed in ([], ["--skip-damaged", "1"]):
        arguments = ["prepare", "imagenet32", "--from", str(base), "--partial", "--root", str(tmp_path / "data"), *allowed]
        assert main(arguments) == 2
        shown = capsys.readouterr().err
        assert files[1].name in shown and "--skip-damaged" in shown and not (tmp_path / "data" / "imagenet32").exists()
    arguments = ["prepare", "imagenet32", "--from", str(base), "--partial", "--root", str(tmp_path / "data"), "--skip-damaged", "2"]
    assert main(arguments) == 0
    folder, shown = tmp_path / "data" / "imagenet32", capsys.readouterr().out
    assert "left out as damaged: 2" in shown and all(name in shown for name in names)
    kept = [row for row in range(15) if row not in (1, 7)]
    for actual, expected in zip(stored(tmp_path / "data", "imagenet32", "train"), intact, strict=True):
        assert np.array_equal(actual, expected[kept])
    assert json.loads((folder / "manifest.json").read_text())["skipped"] == names
    with pytest.raises(HarnessError, match="already prepared"):  # what was skipped is part of the set's identity
        (files[1]).write_bytes((base / "train" / "n00000001" / "n00000001_1.JPEG").read_bytes())
        run("imagenet32", base, tmp_path / "data", skip_damaged=2)


def test_the_damaged_images_of_all_splits_are_counted_together(tmp_path):
    base = celeba_folder(tmp_path / "celeba")
    for number, content in ((3, b""), (7, b"no image"), (8, b"")):  # one training image, two held-out images
        (base / "img_align_celeba" / f"{number:06d}.jpg").write_bytes(content)
    with pytest.raises(DamagedFile, match="too many") as error:
        run("celeba64", base, tmp_path / "data", skip_damaged=2)
    assert error.value.details["where"].endswith("000007.jpg") and error.value.details["expected"].startswith("at most 2")
    assert error.value.details["found"] == "2 among the first 8 images, after 1 of another split; 8 bytes that are no image"
    assert len(json.loads((run("celeba64", base, tmp_path / "data", skip_damaged=3) / "manifest.json").read_text())["skipped"]) == 3


def test_official_numbers_allow_for_skipped_images(tmp_path, monkeypatch):
    from dataclasses import replace

    from harness.data import catalogue

    base = celeba_folder(tmp_path / "celeba")
    monkeypatch.setitem(catalogue.REGISTRY, "celeba64", replace(catalogue.REGISTRY["celeba64"], train=4, heldout=8))
    damage([base / "img_align_celeba" / "000006.jpg"])
    folder = prepare("celeba64", base, tmp_path / "data", skip_damaged=3, progress=lambda *_: None)
    assert json.loads((folder / "manifest.json").read_text())["splits"]["heldout"]["count"] == 7
    with pytest.raises(HarnessError, match="single images"):
        run("cifar10", cifar_archive(tmp_path / "c.tar.gz", cifar_rows()), tmp_path / "data", skip_damaged=1)


@pytest.mark.parametrize("byte", [8192 + 12, 4096 + 40, 4096 * 3 + 17])
def test_a_changed_byte_of_an_lmdb_never_ends_this_process(tmp_path, byte):
    church = church_lmdb(tmp_path / "lsun") / "church_outdoor_train_lmdb"
    raw = bytearray((church / "data.mdb").read_bytes())
    raw[byte] ^= 0x5A
    (church / "data.mdb").write_bytes(raw)
    try:
        run("church64", church, tmp_path / "data")
    except HarnessError as error:
        assert str(church) in error.details["where"]


def test_a_process_that_liblmdb_ends_is_a_damaged_file(tmp_path):
    """Liblmdb calls abort() on certain damage: here the reading process gets that signal."""
    church = church_lmdb(tmp_path / "lsun") / "church_outdoor_train_lmdb"
    with lmdb_reader.opened(church) as database:
        assert len(database.keys()) == 9
        database.process.send_signal(signal.SIGABRT)
        with pytest.raises(DamagedFile) as error:
            lsun._checked(church, database.keys)
    assert error.value.details["where"] == str(church / "data.mdb") and str(-signal.SIGABRT) in error.value.details["found"]


# -- pixels


def encoded(array: np.ndarray, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def test_16_bit_grey_is_scaled_and_other_deep_pixels_are_refused():
    values = np.array([[0, 257], [128 * 257 + 100, 65535]], np.uint16)
    assert decode(encoded(values, "PNG"), "here", resizer("exact", 2))[0].tolist() == [[0, 1], [128, 255]]
    for deep in (values.astype(np.int32), values.astype(np.float32)):
        with pytest.raises(HarnessError) as error:
            decode(encoded(deep, "TIFF"), "here", resizer("exact", 2))
        assert error.value.details["where"] == "here" and "bits" in error.value.details["expected"]


# -- what is not a set


def test_a_held_out_part_of_training_images_is_refused(tmp_path):
    base = imagenet_tree(tmp_path / "in")
    shutil.rmtree(base / "val")
    shutil.copytree(base / "train", base / "val")
    with pytest.raises(HarnessError, match="held out") as error:
        run("imagenet32", base, tmp_path / "data")
    assert error.value.details["found"].startswith("12 of 12") and not (tmp_path / "data" / "imagenet32").exists()


def test_a_few_shared_images_are_counted(tmp_path):
    base = imagenet_tree(tmp_path / "in")
    shutil.copy(base / "train" / "n00000000" / "n00000000_0.JPEG", base / "val" / "n00000000" / "n00000000_0.JPEG")
    folder = run("imagenet32", base, tmp_path / "data")
    assert json.loads((folder / "manifest.json").read_text())["heldout_in_train"] == 1


@pytest.mark.parametrize("empty", ["partition", "tree"])
def test_a_set_without_images_is_refused(tmp_path, empty):
    base = celeba_folder(tmp_path / "in") if empty == "partition" else imagenet_tree(tmp_path / "in")
    if empty == "partition":
        (base / "list_eval_partition.txt").write_text("")
    else:
        for file in (base / "train").rglob("*.JPEG"):
            file.unlink()
    with pytest.raises(HarnessError):
        run("celeba64" if empty == "partition" else "imagenet32", base, tmp_path / "data")
    assert not list((tmp_path / "data").glob("*/manifest.json"))


@pytest.mark.parametrize("source", ["pipe", "/dev/zero", "~nobody-of-this-name/x", "x" * 5000, "loop"])
def test_only_files_and_folders_are_opened(tmp_path, source):
    if source == "pipe":
        os.mkfifo(tmp_path / source)
    if source == "loop":
        (tmp_path / source).symlink_to(tmp_path / source)
    where = tmp_path / source if source in ("pipe", "loop") else source
    with pytest.raises(MissingFile):
        run("cifar10", where, tmp_path / "data")


def test_a_pipe_among_the_images_is_not_read(tmp_path):
    base = imagenet_tree(tmp_path / "in")
    os.mkfifo(base / "train" / "n00000000" / "n00000000_x.JPEG")
    run("imagenet32", base, tmp_path / "data")
    assert len(stored(tmp_path / "data", "imagenet32", "train")[0]) == 12


def test_sizes_are_checked_before_memory_is_taken(tmp_path):
    """A compressed archive of a gigabyte of zeros, and array headers that promise more than the file holds."""
    with tarfile.open(tmp_path / "bomb.tar.gz", "w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = 1 << 28
        with (tmp_path / "zeros").open("wb") as file:
            file.truncate(member.size)
        with (tmp_path / "zeros").open("rb") as file:
            archive.addfile(member, file)
    with pytest.raises(DamagedFile) as error:
        run("cifar10", tmp_path / "bomb.tar.gz", tmp_path / "data")
    assert "data_batch_1" in error.value.details["where"] and f"{1 << 28:,}" in error.value.details["found"]
    for member, shape in (("data.npy", "(99999999999999999999, 3072)"), ("data.npy", "('x', 3072)"), ("labels.npy", "(10000000000000,)")):
        arrays = {"data.npy": np.zeros((4, 3072), np.uint8), "labels.npy": np.ones(4, np.int64)}
        with zipfile.ZipFile(tmp_path / "train_data_batch_1.npz", "w") as archive:
            for name, array in arrays.items():
                out = io.BytesIO()
                np.save(out, array)
                raw = out.getvalue()
                if name == member:
                    header = raw[10:128].split(b"'shape': ")[0] + b"'shape': " + shape.encode() + b", }"
                    raw = raw[:8] + struct.pack("<H", 118) + header.ljust(117) + b"\n" + raw[128:]
                archive.writestr(name, raw)
        with pytest.raises(DamagedFile) as error:
            run("imagenet32", tmp_path, tmp_path / "data")
        assert "train_data_batch_1.npz" in error.value.details["where"]


def test_long_and_strange_texts_are_cut_and_shown_as_escapes(tmp_path, capsys):
    base = celeba_folder(tmp_path / "celeba")
    (base / "list_eval_partition.txt").write_text("\x1b[2J" + "x" * 100_000 + " 0 0\n")
    assert main(["prepare", "celeba64", "--from", str(base), "--root", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert len(message) < 1500 and "\x1b" not in message and "\\x1b[2J" in message
