"""Packaging that pyproject.toml cannot express: the wheel contains experiments/, and a build leaves no files in the checkout."""

import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithExperiments(build_py):
    """Copies experiments/*.py to harness/installed_experiments; an editable install reads those of the checkout."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "harness" / "installed_experiments"
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted((ROOT / "experiments").glob("*.py")):
                shutil.copyfile(path, target / path.name)


with tempfile.TemporaryDirectory(prefix="harness-build-") as scratch:
    setup(
        cmdclass={"build_py": BuildWithExperiments},
        options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}},
    )
