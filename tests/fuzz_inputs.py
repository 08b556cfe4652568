"""Generated inputs of tests/test_fuzz.py: words, command lines, JSON values, damaged files. All of them follow from a random.Random."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.config import experiments
from harness.config.parts import SCALE_NAMES

WORDS = (
    "", " ", "\n", "a\nb", "\t", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "\udcff", "\u202eabc", "é", "²", "中文", "a" * 300,
    "b" * 5000, "../..", ".", "/", "~nouser/x", "~", "$HOME", "/dev/null", "/dev/zero", "/dev/null/x", "pipe", "loop", "folder", "text",
    "nan", "inf", "-inf", "-1", "0", "1", "2", "1e309", "1e-400", "9" * 20, "9" * 100, "0x10", "1_0", "true", "null", "{}", "[]", "[1,2",
    '"', "'", "%s", "{0}", "=", "a=b", ",", "1,", ",1", "--", "-", "--no-such", ":", ".py:f", "text:f", "*", "[a", "a b", "`x`", "$(x)",
)  # fmt: skip
OTHER_FILES = (b"", b"\x00" * 100, b"[" * 100_000, b"{}", b"null", b"\xff\xfe", b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"\x93NUMPY")
FURTHER_NAMES = ("000001", "000007.released", "step-00000009.json", "step-x.json", "x.json", "old-1", "é\x1b[2J", "n" * 200)
KEYS = (
    "seed", "data.name", "data.limit", "data.labels", "network.kind", "network.width", "network.depth", "network.dropout",
    "network.channel_mult", "noise.rho", "noise.sigma_min", "noise.sigma_max", "objective", "objective.kind", "objective.n1",
    "objective.huber", "coupling", "coupling.kind", "coupling.mu", "coupling.size", "coupling.scope", "coupling.frozen", "coupling.variant",
    "coupling.within_classes", "train", "train.steps", "train.batch", "train.lr", "train.optimizer", "ema.rate", "evaluation.every",
    "evaluation.samples", "init", "init.kind", "protocol.mu", "checkpoint_every", "keep_steps", "scale", "no.such", ".", "a..b", "",
)  # fmt: skip
OPTIONS: dict[str, tuple[str, ...]] = {
    "--scale": ("toy", "digits"),
    "--seeds": ("1", "2", "0,3", "7,"),
    "--results": ("results", "folder"),
    "--records": ("own", "published", "both"),
    "--device": ("cpu",),
    "--coupling": ("good.py:pairs",),
    "--site": ("site.toml",),
    "--workers": ("1",),
    "--what": ("transport",),
    "--t": ("1,5",),
    "--micro-batch": ("4",),
}
SELECTION = ("--results", "--scale", "--seeds", "--set", "--coupling")
COMMANDS: dict[str, tuple[str, ...]] = {
    "plan": (*SELECTION, "--policy", "--device"),
    "sweep": (*SELECTION, "--site", "--workers", "--micro-batch"),
    "reproduce": (*SELECTION, "--records", "--workers"),
    "status": SELECTION,
    "run": ("--results", "--trust"),
    "clear": ("--results",),
    "measure": (*SELECTION, "--what", "--t"),
    "why": ("--results", "--records", "--data"),
    "publish": ("--results", "--scale", "--to"),
    "prepare": ("--from", "--recipe", "--skip-damaged"),
    "doctor": (*SELECTION, "--site"),
    "verify": ("--results",),
    "config": (),
    "help": (),
    "no-such-command": ("--scale",),
}
"""The options that each command is tried with."""


def word(draw: random.Random) -> str:
    """One of WORDS, or a few of them together."""
    return draw.choice(WORDS) if draw.random() < 0.9 else "".join(draw.choices(WORDS, k=draw.randint(2, 4)))


def pair(draw: random.Random) -> str:
    """A word for --set, mostly KEY=VALUE."""
    if draw.random() < 0.1:
        return word(draw)
    return f"{draw.choice(KEYS)}={word(draw) if draw.random() < 0.7 else json.dumps(value(draw))}"


def command_line(draw: random.Random) -> list[str]:
    """A command that trains nothing: sweeps have the policy read-only, and `run` and `measure` name no run that can be trained."""
    command = draw.choice(list(COMMANDS))
    words = [command]
    if command in ("plan", "sweep", "reproduce", "status", "why", "publish", "doctor"):
        words.append(draw.choice(experiments.names()) if draw.random() < 0.7 else word(draw))
    if command == "why":
        words += [draw.choice(SCALE_NAMES), draw.choice(("ic", "gc-0.5", word(draw))), draw.choice(("w2", "fid", word(draw)))]
    if command == "verify":
        words.append("no-such")
    if command in ("run", "clear", "measure", "config", "help", "prepare"):
        names = ("theory", "figure1", "train", "plan", "cifar10", "celeba64")
        words.append(draw.choice(names) if draw.random() < 0.4 else word(draw))
    for option in draw.choices(COMMANDS[command], k=draw.randint(0, 4)) if COMMANDS[command] else ():
        if option == "--trust":
            words.append(option)
            continue
        usual = OPTIONS.get(option, ())
        words += [option, pair(draw) if option == "--set" else draw.choice(usual) if usual and draw.random() < 0.5 else word(draw)]
    if command in ("sweep", "reproduce"):
        words += ["--policy", "read-only", "--executor", draw.choice(("inline", "local"))]
    if command == "prepare":
        words += ["--root", "data"]
    return words


def value(draw: random.Random, depth: int = 0) -> Any:
    """Any JSON value, some of which Python's json alone accepts."""
    kind = draw.randint(0, 9 if depth < 3 else 6)
    match kind:
        case 0:
            return draw.choice((None, True, False))
        case 1:
            return draw.choice((0, 1, -1, 3, 10**9, 10**30, -(10**30), 2**63))
        case 2:
            return draw.choice((0.5, -0.0, 1e300, 1e-300, float("nan"), float("inf"), -float("inf")))
        case 7 | 8:
            return {draw.choice((word(draw), "step", "kind", "metric")): value(draw, depth + 1) for _ in range(draw.randint(0, 3))}
        case 9:
            return [value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    return word(draw)


def changed(draw: random.Random, original: Any) -> Any:
    """A JSON value that differs from the original at one or two places: another value, a missing key, a further key."""
    copy = json.loads(json.dumps(original))
    for _ in range(draw.randint(1, 2)):
        place = copy
        while isinstance(place, dict | list) and place:
            key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
            if isinstance(place[key], dict | list) and place[key] and draw.random() < 0.7:
                place = place[key]
                continue
            if draw.random() < 0.2:
                del place[key]
            elif draw.random() < 0.2 and isinstance(place, dict):
                place[word(draw)] = value(draw)
            else:
                place[key] = value(draw)
            break
    return copy


def damaged(draw: random.Random, content: bytes) -> bytes:
    """Bytes with flipped bits, cut, doubled, with something else in between, or of another format."""
    data = bytearray(content)
    match draw.randint(0, 5):
        case 0:
            return bytes(data[: draw.randint(0, len(data))])
        case 1:
            place = draw.randint(0, len(data))
            data[place:place] = draw.randbytes(draw.randint(1, 50))
        case 2:
            data += data[: draw.randint(0, len(data))]
        case 3:
            return draw.choice(OTHER_FILES)
        case _:
            for _ in range(draw.choice((1, 1, 3, 20))):
                if data:
                    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def spoil(draw: random.Random, folder: Path) -> None:
    """Spoils one file or folder below `folder`."""
    paths = sorted(path for path in folder.rglob("*") if not path.is_symlink())
    if not paths:
        return
    path = draw.choice(paths)
    if path.is_file() and draw.random() < 0.5:
        if path.suffix in (".json", ".jsonl") and draw.random() < 0.6:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            place = draw.randrange(len(lines)) if lines else 0
            lines[place : place + 1] = [json.dumps(changed(draw, json.loads(lines[place])) if draw.random() < 0.8 else value(draw))]
            path.write_text("\n".join(lines) + "\n")
        else:
            path.write_bytes(damaged(draw, path.read_bytes()))
        return
    if path.is_dir() and draw.random() < 0.5:  # something further in it
        path = path / draw.choice(FURTHER_NAMES)
    replacements: list[Callable[[], object]] = [
        lambda: None,
        lambda: path.mkdir(),
        lambda: (path.mkdir(), (path / "inside").touch()),
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path.name),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to(folder),
        lambda: path.symlink_to("nowhere"),
        lambda: path.write_bytes(draw.randbytes(draw.choice((0, 1, 1000)))),
        lambda: path.write_text(json.dumps(value(draw))),
    ]
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    draw.choice(replacements)()
