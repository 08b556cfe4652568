"""The command new: the file of an experiment of one's own."""

from __future__ import annotations

import argparse
import keyword
import re

from harness.config import experiments
from harness.errors import HarnessError, printable
from harness.locations import experiments_root
from harness.store.files import create_new, disk_errors

TEMPLATE = '''"""TITLE: one line, which becomes the title of the table.

Further lines say what is varied, and what you expect.
"""

from harness.config import presets
from harness.config.parts import GeneratorAugmented, Independent
from harness.config.run import varied

# Optional: training seeds (else those of the scale), and how the table is read. Every row is compared with the row `against`, paired by
# training seed; ic, ot and gc-0.5 are names of rows without changes.
SEEDS = 3
REPORT = {"against": "ic", "notes": ["What a reader of the table has to know."]}

# What is varied, each against the scale's preset. `harness config` lists every key of a run, with its default and the paper's value.
VARIANTS = [
    {},  # the preset itself
    {"ema": {"rate": 0.999}},
    {"noise": {"rho": 5.0}},
]


def runs(scale, seeds):
    """All runs: seed by seed, so that complete comparisons come early. Runs that exist already are not trained again."""
    data = presets.scale(scale).table1[:1]  # the main data set of the scale
    plain = presets.grid(scale, [Independent(), GeneratorAugmented(mu=0.5)], seeds, data)
    return [varied(run, **changes) for run in plain for changes in VARIANTS]
'''


def new(arguments: argparse.Namespace) -> int:
    """`harness new experiment NAME`: writes a commented file, and prints the commands that use it."""
    name = arguments.name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name, re.ASCII) or keyword.iskeyword(name):
        expected = "lower-case letters, digits and _, beginning with a letter, at most 60"
        raise HarnessError("not a name of an experiment", where="NAME", found=printable(arguments.name, 80), expected=expected)
    path = experiments_root() / f"{name}.py"
    if name in experiments.names():
        raise HarnessError("there is an experiment of this name", where=path, found=name, expected="a name that is still free")
    with disk_errors(path.parent, "create a folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
    text = TEMPLATE.replace("TITLE", name.replace("_", " ").capitalize(), 1)
    with disk_errors(path):
        created = create_new(path, text.encode())
    if not created:
        raise HarnessError("there is a file of this name", where=path, found=path.name, expected="a name that is still free")
    print(f"{path}\nEdit VARIANTS, then: harness plan {name}; harness reproduce {name}")
    return 0
