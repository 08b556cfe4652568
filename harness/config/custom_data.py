"""Data sets that users prepare from their own images: the names that they may have, and what the manifest of a set says. No torch.

`harness prepare NAME --from FOLDER --size 32` writes <data>/NAME/manifest.json last, with an entry `custom` besides those of every prepared
set; a folder whose manifest has it is such a set.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.config.parts import REHEARSAL_PREFIX, CustomData, Features
from harness.config.validation import validated
from harness.errors import DamagedFile, HarnessError, UnknownName, nearest
from harness.locations import data_root, read_regular

MANIFEST = "manifest.json"
ENTRY = "custom"
CLASSIFIER = "classifier.pt"
"""The weights of the classifier of a set, in its folder."""
LONGEST_NAME = 40
HOW = "harness prepare NAME --from FOLDER --size 32, for images of your own"
"""What to do where a name is that of no data set."""
TAKEN = ("all", "baselines", "gaussian-2d", "gaussian-64d", "mixture-of-2", "mixture-of-8", "noise", "weights")
"""Names of folders below the data folder, of rows of tables and of the theory's closed forms, which a data set must not have."""
_OWN = "values compare with others of this data set and this network only, not with the paper's"
FEATURES_IN_WORDS: Mapping[Features, str] = {
    "inception": "Inception, as clean-fid defines it",
    "classifier": f"a small classifier trained on the labels of this data set: {_OWN}",
    "random": f"a fixed random network, which knows no objects: {_OWN}",
}
"""What measures a set of the user's own, for doctor, prepare and the notes of tables."""
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_AMBIGUOUS = re.compile(rf"(seeds?|coupling)-.*|{REHEARSAL_PREFIX}.*")
_MOST_BYTES = 64 << 20


def check_name(name: str) -> None:
    """Raises HarnessError for a name that would be no good name of a folder, of a run or of a file of the report."""
    expected = f"lower-case letters, digits and single hyphens, a letter first, at most {LONGEST_NAME} characters"
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        close = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:LONGEST_NAME].rstrip("-")
        raise HarnessError("not a name for a data set", where="NAME", found=name, expected=expected, nearest=close or "my-images")
    if name in TAKEN or _AMBIGUOUS.fullmatch(name):
        what = "this name means something else here"
        raise HarnessError(what, where="NAME", found=name, expected="another name", nearest=f"my-{name}"[:LONGEST_NAME])


def custom_set(name: str, root: Path | None = None) -> CustomData | None:
    """The user's data set of that name below `root`, by default the data folder; None where there is none.

    Raises DamagedFile for a manifest that cannot be read or does not describe one.
    """
    if not _NAME.fullmatch(name):
        return None
    path = (root or data_root()) / name / MANIFEST
    try:
        status = path.stat()
    except OSError:
        return None
    return _read(path, status.st_mtime_ns, status.st_size)


def custom_names(root: Path | None = None) -> list[str]:
    """The names of the user's data sets, sorted; damaged ones are left out."""
    names = []
    for path in sorted((root or data_root()).glob(f"*/{MANIFEST}")):
        try:
            found = custom_set(path.parent.name, root)
        except HarnessError:
            continue
        names += [path.parent.name] if found else []
    return names


def content_sha256(splits: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a prepared set. splits: the entry of its manifest, with the SHA-256 of each file."""
    sums = [f"{split}/{file} {entry['sha256']}\n" for split in sorted(splits) for file, entry in sorted(splits[split]["files"].items())]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


@lru_cache(maxsize=256)
def _read(path: Path, changed: int, size: int) -> CustomData | None:
    """changed, size: of the file, so that one that has changed is read again."""
    try:
        manifest = json.loads(read_regular(path, _MOST_BYTES))
        if ENTRY not in manifest:
            return None
        splits = manifest["splits"]
        values = {
            "shape": tuple(manifest["shape"]),
            "classes": manifest[ENTRY]["classes"],
            "features": manifest[ENTRY]["features"],
            "train": splits["train"]["count"],
            "heldout": splits["heldout"]["count"] if "heldout" in splits else 0,
            "sha256": content_sha256(splits),
        }
        return validated(CustomData, values, path)
    except HarnessError as error:
        cause = f"{error.what}, {error.details.get('where', '')}: {error.details.get('found', '')}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        cause = repr(error)
    advice = f"move {path.parent} away, then harness prepare {path.parent.name} --from FOLDER --size N"
    raise DamagedFile("damaged manifest", where=path, found=cause, expected="what prepare wrote", nearest=advice)


def unknown_set(name: str, known: list[str], what: str = "data set", where: object = None) -> UnknownName:
    """The error for a name that is that of no data set. known: those of the catalogue, or of a scale, to which the user's are added."""
    choices = [*known, *custom_names()]
    close = nearest(name, choices) or HOW
    return UnknownName(f"unknown {what} {name!r}", where=where, found=name, expected="one of " + ", ".join(choices), nearest=close)
