"""Weights as a safetensors file: tensors under EDM's names, the facts about the model in its metadata, a model card beside it.

A safetensors file holds tensors and text, and reading it runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.config.baselines import stored_job
from harness.config.run import Run
from harness.core.consistency import Preconditioned
from harness.errors import FOREIGN, DamagedFile, HarnessError, MissingFile
from harness.sharing.facts import FORMAT, WHICH, card
from harness.store.files import write_atomic
from harness.training import model
from harness.training.edm_weights import load_into

SUFFIX = ".safetensors"
KEY = "consistency-harness"
"""The entry of the file's metadata with the facts about the model, as JSON."""


def card_path(path: Path) -> Path:
    """Where the model card of a file of weights lies: FILE.md beside FILE.safetensors."""
    return path.with_suffix(".md")


def write_weights(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any], run: Run) -> None:
    """Writes the card, then the weights, each completely or not at all. Raises HarnessError on a full or unwritable disk."""
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
    content = safetensors.torch.save(tensors, metadata={"format": "pt", KEY: json.dumps(facts)})
    write_atomic(card_path(path), card(facts, run, path.name).encode())
    write_atomic(path, content)


def read_weights(path: Path) -> tuple[Run, Preconditioned, dict[str, Any]]:
    """The run, the network (on the CPU, in eval mode, without gradients) and the facts of a file that `write_weights` wrote.

    Raises MissingFile, DamagedFile, or HarnessError for a file of other software, for a config that is not valid or not the run's, and for
    tensors that do not fit the network or are not finite.
    """
    if not path.is_file():
        raise MissingFile("no such file of weights", where=path, expected=f"a {SUFFIX} file that harness export wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, *FOREIGN) as error:
        expected = f"a {SUFFIX} file that harness export wrote"
        raise DamagedFile("the weights cannot be read", where=path, found=error, expected=expected) from None
    facts = _facts(metadata, path)
    run = stored_job(facts["config"], facts["run"], where=path)
    if not isinstance(run, Run):
        raise HarnessError("baselines have no trained model", where=path, found=facts["run"], expected="the weights of a trained run")
    network = model.preconditioned(run)
    load_into(network, tensors, path)
    return run, network.eval().requires_grad_(False), facts


def _facts(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The facts in a file's metadata, with the entries that are needed, in their types."""
    expected = f"a {SUFFIX} file that harness export wrote"
    if KEY not in metadata:
        found = f"metadata of {', '.join(sorted(metadata)) or 'nothing'}"
        raise HarnessError("these weights do not say of which run they are", where=path, found=found, expected=expected)
    try:
        facts = json.loads(metadata[KEY])
        if facts["format"] != FORMAT:
            newer = "a newer version of the harness may read it"
            raise HarnessError("another format of weights", where=path, found=facts["format"], expected=FORMAT, nearest=newer)
        is_whole = isinstance(facts["config"], dict) and isinstance(facts["run"], str) and facts["weights"] in WHICH
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedFile("the metadata of the weights are damaged", where=path, found=error, expected=expected) from None
    if not is_whole or type(facts.get("step")) is not int:
        raise DamagedFile("the metadata of the weights are damaged", where=path, found="other entries", expected=expected)
    return dict(facts)
