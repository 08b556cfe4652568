"""What every command line of the project shares, below all of them: the parser, the scales, how seeds are written."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from harness.errors import HarnessError, nearest


class Parser(argparse.ArgumentParser):
    """Tells a wrong command line like any other bad input, with the nearest choice."""

    def error(self, message: str) -> NoReturn:
        options = [option for action in self._actions for option in action.option_strings]
        if found := re.search(r"invalid choice: '?([^'\s]*)'? \(choose from (.*)\)", message):
            choices = re.findall(r"[\w-]+", found[2])
            where = message.partition(":")[0].removeprefix("argument ")
            expected = "one of " + ", ".join(choices)
            raise HarnessError("no such choice", where=where, found=found[1], expected=expected, nearest=nearest(found[1], choices))
        if found := re.search(r"unrecognized arguments: (\S+)", message):
            close = nearest(found[1], options) or f"{self.prog} --help"
            raise HarnessError("no such argument", where=self.prog, found=found[1], nearest=close)
        raise HarnessError(message, where=self.prog, nearest=f"{self.prog} --help")


def seeds(text: str) -> list[int]:
    """A count, or a list with commas, to seeds. Raises HarnessError for anything else."""
    parts = [part for part in text.split(",") if part.strip()]
    if not parts or not all(part.strip().isdigit() for part in parts):
        raise HarnessError("seeds are a count or a list", where="--seeds", found=text, expected="3, or 0,1,2, or 7, for seed 7 alone")
    found = [int(part) for part in parts]
    if "," in text:
        return list(dict.fromkeys(found))
    if not found[0]:
        raise HarnessError("no seeds", where="--seeds", found=text, expected="a count of 1 or more", nearest=1)
    return list(range(found[0]))
