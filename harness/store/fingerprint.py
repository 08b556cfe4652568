"""The fingerprint of the code that can change a result: a hash of its syntax trees, the same after a change of wording or formatting.

It covers `core`, `data`, `metrics` with the weights of its classifiers, `training`, and of `config` the curriculum. It leaves out the rest:

* `config`: every value that it computes is stored in a run's config, whose hash is the run's identity; only the curriculum is evaluated
  again at each training step;
* `store`, `sweep`: they write and schedule results but compute none;
* `stats`, `reporting`, `theory`: they work on records, and what they make is made again by each report or measurement.

Docstrings, comments, type annotations and white space are left out, so that the fingerprint changes only with what the code does.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tarfile
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath

from harness.locations import PACKAGE
from harness.store.git import CHECKOUT, git

PARTS: Mapping[str, tuple[str, ...]] = {
    "core": ("core",),
    "data": ("data",),
    "metrics": ("metrics",),
    "training": ("training",),
    "config": ("config/curriculum.py",),
}
"""The parts that messages name, with their files and folders below the package."""
DIGITS = 12
_SKIPPED = frozenset({"annotation", "returns", "type_comment", "type_params", "kind", "ctx", "type_ignores"})
"""Fields of a syntax tree without an effect, or derived from the rest."""
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}
"""The fields of each type of node that count."""


def current() -> str:
    """The fingerprint of the code of this process's package; 12 hex digits."""
    return combined(parts())


@cache
def parts() -> Mapping[str, str]:
    """The fingerprint of each part of PARTS, 12 hex digits each."""
    paths = [PACKAGE / place for places in PARTS.values() for place in places]
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return of_files({file.relative_to(PACKAGE).as_posix(): file.read_bytes() for file in files if _counts(file.name)})


def of_commit(commit: str, root: Path = CHECKOUT) -> str | None:
    """The fingerprint of the code in a commit; None if the commit or git is not available, or the commit has no such code."""
    of_parts = parts_of_commit(commit, root)
    return None if of_parts is None else combined(of_parts)


@cache
def parts_of_commit(commit: str, root: Path = CHECKOUT) -> Mapping[str, str] | None:
    """`parts` of the code in a commit; None as for `of_commit`."""
    wanted = [f"{PACKAGE.name}/{place}" for places in PARTS.values() for place in places]
    names = git("ls-tree", "--name-only", "--full-tree", commit, *wanted, root=root)
    if not names:  # `git archive` fails if one of the paths is absent, as in commits before it existed
        return None
    archive = git("archive", "--format=tar", commit, *names.decode().splitlines(), root=root)
    if archive is None:
        return None
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member) if member.isfile() and _counts(member.name) else None
            if content is not None:
                files[PurePosixPath(member.name).relative_to(PACKAGE.name).as_posix()] = content.read()
    return of_files(files)


def of_files(files: Mapping[str, bytes]) -> Mapping[str, str]:
    """The fingerprint of each part. files: contents by path below the package; those of no part are left out."""
    content = {part: hashlib.sha256() for part in PARTS}
    for path in sorted(files):
        for part, places in PARTS.items():
            if any(path == place or path.startswith(f"{place}/") for place in places):
                content[part].update(f"{path} {_digest(path.endswith('.py'), files[path])}\n".encode())
    return {part: digest.hexdigest()[:DIGITS] for part, digest in content.items()}


def combined(of_parts: Mapping[str, str]) -> str:
    """The fingerprint of the whole from those of its parts."""
    return hashlib.sha256("".join(f"{part} {of_parts[part]}\n" for part in sorted(of_parts)).encode()).hexdigest()[:DIGITS]


def differing(of_parts: Mapping[str, str], others: Mapping[str, str]) -> tuple[str, ...]:
    """The parts whose fingerprints differ, in the order of PARTS; parts that only one side has differ as well."""
    return tuple(part for part in [*PARTS, *sorted({*of_parts, *others} - {*PARTS})] if of_parts.get(part) != others.get(part))


def _counts(name: str) -> bool:
    """Whether a file counts: not byte code, nor anything that an editor or a tool leaves."""
    path = PurePosixPath(name)
    return path.suffix != ".pyc" and not any(part.startswith((".", "__pycache__")) for part in path.parts) and not path.name.endswith("~")


@lru_cache(maxsize=4096)
def _digest(is_python: bool, content: bytes) -> str:
    """The hash of one file: of its syntax tree, or of its bytes. The files that several commits share are parsed once."""
    if is_python:
        try:
            text: list[str] = []
            _write(ast.parse(content), text)
            content = "".join(text).encode()
        except (SyntaxError, ValueError):
            pass
    return hashlib.sha256(content).hexdigest()


def _write(node: ast.AST, text: list[str]) -> None:
    """Appends a syntax tree as text that all versions of Python agree on: fields that are absent, None or empty are left out."""
    kind = type(node)
    text.append(kind.__name__)
    for name in _fields(kind):
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            text.append(f"({name}:")
            _write(value, text)
            text.append(")")
        elif isinstance(value, list):
            items = [item for item in value if not _does_nothing(item)] if name == "body" else value
            text += [f"({name}:"] if items else []
            for item in items:
                if isinstance(item, ast.AST):
                    _write(item, text)
                else:
                    text.append(repr(item))
                text.append(",")
            text += [")"] if items else []
        elif value is not None or kind is ast.Constant:
            text.append(f"({name}:{value!r})")


def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(name for name in kind._fields if name not in _SKIPPED)
    return _FIELDS[kind]


def _does_nothing(statement: ast.AST) -> bool:
    """Whether a statement is a docstring, another constant, or `pass`."""
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
