"""Builds what the runs of a rehearsal need: each data set in its official format, prepared as a real one, and the weights files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.config.run import Run
from harness.data.catalogue import REGISTRY, DatasetInfo, info_of
from harness.data.fashion import DEBIAN, SHA256
from harness.data.prepare import prepare
from harness.errors import HarnessError, MissingFile
from harness.rehearsal import archives
from harness.rehearsal.kinds import HELD_OUT_ROWS, TRAIN_ROWS, needs_stand_in
from harness.rehearsal.weights import write_inception, write_public_weights
from harness.store import stand_ins

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


def build(runs: Sequence[Run], data: Path, sources: Path, real: Path, note: Note) -> Built:
    """Builds and prepares everything that the runs need, below the data folder `data`, which is marked first.

    sources: where the archives go. real: the user's data folder, which is only read: for Fashion-MNIST, and for sets of the user's own.
    A fault of one set or file does not stop the others. Any exception is one, since a rehearsal is about the code of every step. Raises
    HarnessError if the folder cannot be written.
    """
    built, sets = Built(), {run.data.name: info_of(run.data) for run in runs}
    scale = runs[0].scale
    data.mkdir(parents=True, exist_ok=True)
    sources.mkdir(parents=True, exist_ok=True)
    stand_ins.mark(data, scale)
    if any(dataset.needs_inception for dataset in sets.values()):
        with _faults(built, "the Inception network"):
            note("stand-in of the Inception network: TorchScript, 2,048 features, 1,008 probabilities")
            stand_ins.mark(data, scale, write_inception(data / "weights"))
    for name, dataset in sets.items():
        with _faults(built, name):
            _data(dataset, data, sources, real, note)
            built.prepared.append(name)
    for run in {run.init.ref: run for run in runs if run.init and run.init.kind == "edm"}.values():
        assert run.init
        with _faults(built, run.init.ref):
            note(f"stand-in of {run.init.ref}: the format, names and shapes of the public file, untrained")
            write_public_weights(data / "weights" / run.init.ref, run)
    return built


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


def _link_fashion(data: Path, real: Path) -> None:
    """Links to the user's files of Fashion-MNIST. Raises MissingFile if there are none: they have fixed checksums."""
    for folder in (real / "fashion-mnist", real / "FashionMNIST" / "raw", real, DEBIAN):
        files = [next((path for path in (folder / f"{stem}.gz", folder / stem) if path.is_file()), None) for stem in SHA256]
        if all(files):
            target = data / "fashion-mnist"
            target.mkdir(exist_ok=True)
            for path in filter(None, files):
                link = target / path.name
                if not link.exists():
                    link.symlink_to(path.resolve())
            return
    expected = REGISTRY["fashion-mnist"].needs
    raise MissingFile("Fashion-MNIST is not here, and nothing can stand in for it", where=real, found="no idx files", expected=expected)
