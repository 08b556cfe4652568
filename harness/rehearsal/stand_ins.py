"""Builds what the runs of a rehearsal need: each data set in its official format, prepared as a real one, and the weights files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from harness.config.custom_data import MANIFEST
from harness.config.run import Run
from harness.data.arrays import checksum, open_split, read_manifest, sampled_checksum, split_files
from harness.data.catalogue import REGISTRY, DatasetInfo, info_of
from harness.data.datasets import balanced_order
from harness.data.fashion import DEBIAN, SHA256
from harness.data.prepare import prepare
from harness.errors import HarnessError, MissingFile
from harness.metrics.inception import FILE, weights_status
from harness.rehearsal import archives
from harness.rehearsal.kinds import HELD_OUT_ROWS, TRAIN_ROWS, needs_stand_in
from harness.rehearsal.weights import write_inception, write_public_weights
from harness.store import stand_ins
from harness.store.files import write_json
from harness.sweep.table import emit

CLASSES = 4
"""Classes of the small ImageNet tree."""

Note = Callable[[str], None]
Builder = Callable[[Path], Path]
BUILDERS: dict[str, tuple[str, Builder]] = {
    "cifar10": (
        "cifar-10-python.tar.gz",
        lambda path: archives.cifar_archive(path, archives.cifar_rows(-(-TRAIN_ROWS // 5), held_out=HELD_OUT_ROWS)),
    ),
    "imagenet32": (
        "the down-sampled ImageNet in ten batches",
        lambda path: archives.downsampled_batches(path, 32, -(-TRAIN_ROWS // 10), HELD_OUT_ROWS),
    ),
    "imagenet64": (
        "the ILSVRC2012 tree",
        lambda path: archives.imagenet_tree(path, CLASSES, TRAIN_ROWS // CLASSES, HELD_OUT_ROWS // CLASSES),
    ),
    "celeba64": (
        "img_align_celeba with its partition list",
        lambda path: archives.celeba_folder(path, TRAIN_ROWS + HELD_OUT_ROWS, train=TRAIN_ROWS),
    ),
    "church64": ("LSUN's LMDB folders", lambda path: archives.church_lmdb(path, TRAIN_ROWS, HELD_OUT_ROWS)),
    "ffhq64": ("FFHQ's pngs", lambda path: archives.ffhq_folder(path, TRAIN_ROWS)),
}
"""Data set -> what is built in words, and the function that builds it at a path. Every set that is prepared has one."""


@dataclass
class Built:
    """What became of it. prepared: the data sets that are ready. faults: data set or weights file -> why it is not."""

    prepared: list[str] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Real:
    """What a smoke test takes from the user's data folder. prepared: sets of which it takes the first images. inception: the network."""

    prepared: frozenset[str] = frozenset()
    inception: bool = False


def found(runs: Sequence[Run], real: Path) -> Real:
    """What a smoke test can take from the user's data folder `real`: sets that Inception measures, and its weights.

    Raises HarnessError for a set that is damaged, and for Fashion-MNIST if it is needed and not there.
    """
    sets = {run.data.name: info_of(run.data) for run in runs}
    if any(dataset.base == "fashion-mnist" for dataset in sets.values()):
        _fashion_files(real)
    prepared = set()
    for name, dataset in sets.items():
        if dataset.needs_inception and (dataset.custom or (real / name / MANIFEST).exists()):
            read_manifest(dataset, real)
            prepared.add(name)
    wanted = any(dataset.needs_inception for dataset in sets.values())
    return Real(frozenset(prepared), wanted and weights_status(real / "weights" / FILE)[1])


def build(runs: Sequence[Run], data: Path, sources: Path, real: Path, note: Note, take: Real = Real()) -> Built:
    """Builds and prepares everything that the runs need, below the data folder `data`, which is marked first.

    sources: where the archives go. real: the user's data folder, which is only read: for Fashion-MNIST, for sets of the user's own, and for
    what `take` says. A fault of one set or file does not stop the others. Any exception is one, since a rehearsal is about the code of
    every step. Raises HarnessError if the folder cannot be written.
    """
    built, sets = Built(), {run.data.name: info_of(run.data) for run in runs}
    scale = runs[0].scale
    data.mkdir(parents=True, exist_ok=True)
    sources.mkdir(parents=True, exist_ok=True)
    stand_ins.mark(data, scale)
    if any(dataset.needs_inception for dataset in sets.values()):
        with _faults(built, "the Inception network"):
            if take.inception:
                note("the Inception network: yours")
                (data / "weights").mkdir(exist_ok=True)
                (data / "weights" / FILE).symlink_to((real / "weights" / FILE).resolve())
            else:
                _stand_in_of_inception(data, scale, note)
    for name, dataset in sets.items():
        with _faults(built, name):
            if name in take.prepared:
                note(f"{name}: the first images of yours")
                copy_first_images(dataset, real, data)
            else:
                _data(dataset, data, sources, real, note)
            built.prepared.append(name)
    for run in {run.init.ref: run for run in runs if run.init and run.init.kind == "edm"}.values():
        assert run.init
        with _faults(built, run.init.ref):
            note(f"stand-in of {run.init.ref}: the format, names and shapes of the public file, untrained")
            write_public_weights(data / "weights" / run.init.ref, run)
    return built


def _stand_in_of_inception(data: Path, scale: str, note: Note) -> None:
    note("stand-in of the Inception network: TorchScript, 2,048 features, 1,008 probabilities")
    stand_ins.mark(data, scale, write_inception(data / "weights"))


def print_note(console: Console, text: str) -> None:
    """A `Note` for a console."""
    emit(console, f"prepare: {text}")


def copy_first_images(dataset: DatasetInfo, real: Path, data: Path) -> None:
    """Prepares at most TRAIN_ROWS and HELD_OUT_ROWS images of a set below the data folder `data`: its first ones, of each class alike.

    Raises HarnessError for a set in `real` that is missing or damaged.
    """
    folder, manifest = data / dataset.name, read_manifest(dataset, real)
    folder.mkdir()
    splits = {}
    for split, most in (("train", TRAIN_ROWS), ("heldout", HELD_OUT_ROWS)):
        if split not in manifest["splits"]:
            continue
        stored = open_split(dataset, split, real)
        chosen = np.arange(len(stored.rows)) if stored.labels is None else balanced_order(stored.labels)
        chosen = np.sort(chosen[:most])
        arrays = [stored.rows[chosen], *([] if stored.labels is None else [stored.labels[chosen]])]
        files = {}
        for name, array in zip(split_files(dataset, split, len(chosen)), arrays, strict=True):
            path = folder / name
            np.save(path, array)
            files[name] = {"bytes": path.stat().st_size, "sha256": checksum(path), "sampled": sampled_checksum(path)}
        splits[split] = {"count": len(chosen), "files": files}
    write_json(folder / MANIFEST, {**manifest, "official": False, "splits": splits})


@contextmanager
def _faults(built: Built, what: str) -> Iterator[None]:
    try:
        yield
    except HarnessError as error:
        built.faults[what] = " ".join(str(error).split())
    except Exception as error:
        built.faults[what] = f"{type(error).__name__}: {error}"


def _data(dataset: DatasetInfo, data: Path, sources: Path, real: Path, note: Note) -> None:
    """One data set, through `harness prepare` where a stand-in is built."""
    name = dataset.name
    if dataset.base == "fashion-mnist":
        note(f"{name}: the real files, whose checksums the harness fixes")
        _link_fashion(data, real)
        return
    if dataset.custom:
        note(f"{name}: the prepared set of your own")
        (data / name).symlink_to((real / name).resolve(), target_is_directory=True)
        return
    if not needs_stand_in(dataset):
        note(f"{name}: real, as always at this scale")
        return
    if name not in BUILDERS:
        raise HarnessError(f"nothing stands in for {name}", where=name, expected=f"one of {', '.join(BUILDERS)}")
    text, builder = BUILDERS[name]
    note(f"{name}: building {text}, then harness prepare {name} --from it --partial")
    source = builder(sources / ("cifar-10-python.tar.gz" if name == "cifar10" else name))
    prepare(name, source, data, official=False, progress=lambda split, done, total: None)
    if source.is_dir():
        shutil.rmtree(source)
    else:
        source.unlink()


def _fashion_files(real: Path) -> list[Path]:
    """The user's files of Fashion-MNIST. Raises MissingFile if there are none: they have fixed checksums."""
    for folder in (real / "fashion-mnist", real / "FashionMNIST" / "raw", real, DEBIAN):
        files = [next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None) for stem in SHA256]
        if all(files):
            return list(filter(None, files))
    expected = REGISTRY["fashion-mnist"].needs
    raise MissingFile("Fashion-MNIST is not here, and nothing can stand in for it", where=real, found="no idx files", expected=expected)


def _link_fashion(data: Path, real: Path) -> None:
    """Links to the user's files of Fashion-MNIST. Raises as `_fashion_files`."""
    target = data / "fashion-mnist"
    for path in _fashion_files(real):
        target.mkdir(exist_ok=True)
        link = target / path.name
        if not link.exists():
            link.symlink_to(path.resolve())
