"""Official archives and folders to checked uint8 arrays: streamed, with progress; an interrupted preparation continues when run again."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from harness.data.arrays import MANIFEST, open_split, read_manifest
from harness.data.catalogue import DatasetInfo, info
from harness.data.prepare import celeba, cifar, folders, lsun, writer
from harness.data.prepare.source import Source, listing
from harness.errors import HarnessError, MissingFile
from harness.locations import data_root

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
    progress: writer.Progress | None = None,
) -> Path:
    """Turns an official archive or folder into <root>/<name>/ and returns that folder. After a crash, the same call continues.

    recipe: how images are resized (harness.data.prepare.images); None: the data set's own. official: the numbers of images and the
    published checksums must agree; False accepts any subset in the same format. progress: called as (split, done, total); a bar by
    default. A set that is already prepared is verified completely and kept; a damaged one is replaced once the new one is complete.

    Raises HarnessError for an unknown name, a missing, damaged or unsafe archive, a wrong size or number of images, a full disk, and for
    a valid set that was prepared from another source or with another recipe; valid data are never touched.
    """
    dataset = info(name)
    if name not in _READERS:
        sets = ", ".join(_READERS)
        raise HarnessError(f"{name} needs no preparation", where=name, found=dataset.needs, expected=f"one of {sets}")
    path = Path(source).expanduser()
    if not path.exists():
        raise MissingFile("no such archive or folder", where="--from", found=path, expected=dataset.needs)
    opened = _READERS[name](path.resolve(), dataset, recipe, official)
    fingerprint = listing((name, dataset.shape, opened.recipe, official, opened.listing))
    for split, part in opened.splits.items():
        expected = getattr(dataset, split)
        if official and part.exact and part.count != expected:
            advice = "the complete set, or --partial for a part of it"
            raise HarnessError(f"wrong number of {split} images", where=path, found=part.count, expected=expected, nearest=advice)
    folder = data_root(root) / name
    with writer.workspace(folder) as partial:
        if _is_prepared(dataset, folder, fingerprint):
            shutil.rmtree(partial, ignore_errors=True)
            return folder
        writer.check_space(opened, dataset, partial)
        facts = {"source": path.name, "recipe": opened.recipe, "official": official, **opened.facts}
        with contextlib.nullcontext(progress) if progress else _bar(name) as show:
            writer.write(opened, dataset, folder, partial, fingerprint, facts, show)
    return folder


def _is_prepared(dataset: DatasetInfo, folder: Path, fingerprint: str) -> bool:
    """True for a complete, valid set from this source; False for none or a damaged one. Raises HarnessError for one from another source."""
    if not (folder / MANIFEST).exists():
        return False
    try:
        manifest = read_manifest(dataset, folder.parent)
        for split in manifest["splits"]:
            open_split(dataset, split, folder.parent, full=True)
    except HarnessError:
        return False
    if manifest.get("fingerprint") != fingerprint:
        origin = {key: manifest.get(key) for key in ("source", "recipe", "official")}
        advice = "another $HARNESS_DATA; or remove that folder first"
        raise HarnessError(f"{dataset.name} is already prepared from another source", where=folder, found=origin, nearest=advice)
    return True


@contextlib.contextmanager
def _bar(name: str) -> Iterator[writer.Progress]:
    """A progress bar for each split on a terminal; elsewhere a line every ten seconds, and one at the end."""
    console = Console(stderr=True)
    printed: dict[str, float] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {split: bars.add_task(f"{name} {split}", visible=False) for split in ("train", "heldout")}

        def show(split: str, done: int, total: int) -> None:
            bars.update(tasks[split], completed=done, total=total, visible=True)
            if not console.is_terminal and (done == total or time.monotonic() - printed.get(split, -10) >= 10):
                printed[split] = time.monotonic()
                console.print(f"{name} {split}: {done:,} of {total:,}", highlight=False)

        yield show
