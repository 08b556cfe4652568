"""Official archives and folders to checked uint8 arrays: streamed, with progress; an interrupted preparation continues when run again."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.config.custom_data import ENTRY, MANIFEST, check_name, custom_set
from harness.config.parts import Features
from harness.console import Console
from harness.data.arrays import open_split, read_manifest
from harness.data.catalogue import REGISTRY, DatasetInfo, info, of_custom
from harness.data.prepare import celeba, cifar, custom, dataset_json, folders, lsun, writer
from harness.data.prepare.images import ImageSplit, without_damaged
from harness.data.prepare.source import PARTIAL, Source, SplitSource, listing
from harness.errors import HarnessError, MissingFile
from harness.locations import data_root, may_write
from harness.store.files import read_json

_READERS: dict[str, Callable[[Path, DatasetInfo, str | None, bool], Source]] = {
    "cifar10": cifar.read,
    "imagenet32": folders.read_imagenet,
    "celeba64": celeba.read,
    "church64": lsun.read,
    "ffhq64": folders.read_ffhq,
    "imagenet64": folders.read_imagenet,
}


def prepare(
    name: str,
    source: str | Path,
    root: str | Path | None = None,
    *,
    recipe: str | None = None,
    official: bool = True,
    skip_damaged: int = 0,
    progress: writer.Progress | None = None,
) -> Path:
    """Turns an official archive or folder into <root>/<name>/ and returns that folder. After a crash, the same call continues.

    recipe: how images are resized (harness.data.prepare.images); None: the data set's own. official: the numbers of images and the
    published checksums must agree; False accepts any subset in the same format. skip_damaged: leave out up to this many images that cannot
    be decoded, which a first pass over all images finds; their names become part of the set's identity and of its manifest. progress:
    called as (split, done, total); a bar by default. A set that is already prepared is verified completely and kept; a damaged one is
    replaced once the new one is complete.

    Raises HarnessError for an unknown name, a missing, damaged or unsafe archive, a wrong size or number of images, a full disk, and for
    a valid set that was prepared from another source or with another recipe; valid data are never touched.
    """
    dataset = info(name)
    if dataset.custom:
        fix, expected = f"harness prepare {name} --from FOLDER --size {dataset.shape[1]}", "pixels per side"
        raise HarnessError("images of your own need a size", where="--size", found="none", expected=expected, nearest=fix)
    if name not in _READERS:
        sets = ", ".join(_READERS)
        raise HarnessError(f"{name} needs no preparation", where=name, found=dataset.needs, expected=f"one of {sets}")
    path = _existing(source, dataset.needs)
    reader = dataset_json.read if dataset_json.is_dataset(path) else _READERS[name]
    return _convert(reader(path, dataset, recipe, official), dataset, path, root, official, skip_damaged, progress)


def prepare_custom(
    name: str,
    source: str | Path,
    root: str | Path | None = None,
    *,
    size: int,
    labels: str | None = None,
    heldout: str = custom.HELDOUT,
    channels: int | None = None,
    recipe: str = custom.RECIPE,
    features: Features | None = None,
    skip_damaged: int = 0,
    progress: writer.Progress | None = None,
) -> Path:
    """Turns a user's images into the data set <root>/<name>/ and returns that folder; continues and verifies as `prepare`.

    source: a folder or zip of images, an npz with arr_0, or Parquet files. size: pixels per side. labels, heldout, channels, recipe: see
    harness.data.prepare.custom. features: what is to measure its images; a classifier is trained afterwards, by
    harness.metrics.set_classifier. Raises HarnessError as `prepare`, for a name of the catalogue, and for images from which no set can be
    made.
    """
    check_name(name)
    if name in REGISTRY:
        raise HarnessError("this name belongs to the catalogue", where="NAME", found=name, expected="another name", nearest=f"my-{name}")
    folder = data_root(root) / name
    if folder.exists() and not (folder / MANIFEST).exists() and any(file.suffix != ".npy" for file in folder.iterdir()):
        what, advice = "this folder is no prepared data set, and nothing is written into it", f"another name, such as my-{name}"
        raise HarnessError(what, where=folder, found=next(folder.iterdir()).name, expected="a name that is free", nearest=advice)
    path = _existing(source, "a folder or zip of images, an .npz, or Parquet files")
    dataset, opened = custom.read(name, path, size, labels, heldout, channels, recipe, features)
    return _convert(opened, dataset, path, root, False, skip_damaged, progress)


def _convert(
    opened: Source,
    dataset: DatasetInfo,
    path: Path,
    root: str | Path | None,
    official: bool,
    skip_damaged: int,
    progress: writer.Progress | None,
) -> Path:
    """Writes an opened source; see `prepare` for the arguments."""
    name = dataset.name
    if empty := [split for split in ("train", *opened.splits) if split not in opened.splits or not opened.splits[split].count]:
        raise HarnessError(f"no {empty[0]} images", where=path, found="none", expected="at least one", nearest=dataset.fix)
    with _shown(name, progress) as show:
        opened = _without_damaged(opened, skip_damaged, path, show)
    skipped = [image for part in opened.splits.values() for image in part.skipped]
    fingerprint = listing((name, dataset.shape, opened.recipe, official, opened.listing, *skipped))
    for split, part in opened.splits.items():
        expected = getattr(dataset, split) - len(part.skipped)
        if official and part.exact and part.count != expected:
            raise HarnessError(f"wrong number of {split} images", where=path, found=part.count, expected=expected, nearest=PARTIAL)
    folder = data_root(root) / name
    if not may_write(folder.parent) and _is_prepared(dataset, folder, fingerprint):
        return folder  # of another account: read, not replaced
    with writer.workspace(folder) as unfinished:
        if _is_prepared(dataset, folder, fingerprint):
            shutil.rmtree(unfinished, ignore_errors=True)
            return folder
        writer.check_space(opened, dataset, unfinished)
        facts = {"source": path.name, "recipe": opened.recipe, "official": official, **opened.facts}
        facts |= {"skipped": skipped} if skipped else {}
        with _shown(name, progress) as show:
            writer.write(opened, dataset, folder, unfinished, fingerprint, facts, show)
    return folder


def skipped_images(folder: Path) -> list[str]:
    """The names of the damaged images that were left out of the prepared set in `folder`. Raises HarnessError for a damaged manifest."""
    return [str(name) for name in read_json(folder / MANIFEST).get("skipped", [])]


def _existing(source: str | Path, expected: str) -> Path:
    """The file or folder, resolved. Raises HarnessError for anything else: a pipe or a device would never end."""
    try:
        path = Path(source).expanduser().resolve()
        if path.is_file() or path.is_dir():
            return path
        description = f"{path}, which is neither a file nor a folder" if path.exists() else str(path)
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a loop of links, an unknown ~user
        description = f"{source} ({error})"
    raise MissingFile("no such archive or folder", where="--from", found=description, expected=expected)


def _without_damaged(source: Source, most: int, path: Path, show: writer.Progress) -> Source:
    """The source without up to `most` damaged images. Raises HarnessError for more, and if the source has no images to leave out."""
    if not most:
        return source
    splits: dict[str, SplitSource] = {}
    for split, part in source.splits.items():
        if not isinstance(part, ImageSplit):
            kind = "batches of images"
            raise HarnessError("only single images can be skipped", where=path, found=kind, expected="a source of encoded images")
        already = sum(len(other.skipped) for other in splits.values())
        splits[split] = without_damaged(part, most, already, partial(show, f"{split}, check"))
    return replace(source, splits=splits)


def _is_prepared(dataset: DatasetInfo, folder: Path, fingerprint: str) -> bool:
    """True for a complete, valid set from this source; False for none or a damaged one. Raises HarnessError for one from another source."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        before = None if dataset.name in REGISTRY else custom_set(dataset.name, folder.parent)  # it may have another shape or no classes
        dataset = of_custom(dataset.name, before) if before else dataset
        manifest = read_manifest(dataset, folder.parent)
        for split in manifest["splits"]:
            open_split(dataset, split, folder.parent, full=True)
    except HarnessError:
        return False
    if manifest.get("fingerprint") != fingerprint:
        origin = {key: manifest.get(key) for key in ("source", "recipe", "official")}
        origin |= {key: value for key, value in manifest.get(ENTRY, {}).items() if key not in ("rule", "class_names")}
        advice = f"another {'name' if before else '$HARNESS_DATA'}; or remove that folder first"
        raise HarnessError(f"{dataset.name} is already prepared from another source", where=folder, found=origin, nearest=advice)
    return True


def _shown(name: str, progress: writer.Progress | None) -> AbstractContextManager[writer.Progress]:
    return contextlib.nullcontext(progress) if progress else _bar(name)


@contextlib.contextmanager
def _bar(name: str) -> Iterator[writer.Progress]:
    """A progress bar for each split on a terminal; elsewhere a line every ten seconds, and one at the end."""
    console = Console(stderr=True)
    printed: dict[str, float] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bars.add_task(f"{name} {split}")
            bars.update(tasks[split], completed=done, total=total)
            if not console.is_terminal and (done == total or time.monotonic() - printed.get(split, -10) >= 10):
                printed[split] = time.monotonic()
                console.print(f"{name} {split}: {done:,} of {total:,}", highlight=False)

        yield show
