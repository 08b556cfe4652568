"""`make setup`: a complete environment in a folder whose path has a space, repaired where it was half done, from the indices of the site;
where it cannot work, one sentence. No package is downloaded: the folder has a project and a lock of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BACKEND = """
import zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "project-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        wheel.writestr("installed_project.py", "VALUE = 3")
        wheel.writestr("project-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: project\\nVersion: 1\\n")
        wheel.writestr("project-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("project-1.dist-info/RECORD", "installed_project.py,,\\nproject-1.dist-info/METADATA,,\\n"
                       "project-1.dist-info/WHEEL,,\\nproject-1.dist-info/RECORD,,\\n")
    return name

build_wheel = build_editable
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "project"
version = "1"
"""


@pytest.fixture
def set_up():
    spec = importlib.util.spec_from_file_location("set_up", ROOT / ".ci" / "set_up.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path) -> Path:
    """A checkout without packages: the real Makefile and script, and a project that installs in a moment."""
    folder = tmp_path / "a folder"
    (folder / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / ".ci" / "set_up.py", folder / ".ci")
    (folder / "requirements.lock").write_text("")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "harness").mkdir()
    (folder / "harness" / "__init__.py").touch()
    (folder / "harness" / "module.py").touch()
    return folder


def make_setup(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess:
    """make setup, without any index. path: of the commands; by default with the uv of this environment."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin" if path is None else path
    environment = {"PATH": path, "HOME": str(folder.parent), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    command = ["make", "setup", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


def is_complete(folder: Path) -> bool:
    """The project can be imported by the environment, which has pip."""
    python = folder / ".venv" / "bin" / "python"
    tried = [subprocess.run([python, "-c", f"import {name}"], cwd="/").returncode for name in ("installed_project", "pip")]
    return tried == [0, 0] and (folder / ".venv" / ".ready").exists()


@pytest.mark.slow
@pytest.mark.parametrize("before", ["without pip", "a Python that is gone"])
def test_an_environment_is_made_and_a_half_done_one_repaired(project, before):
    if before == "without pip":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    else:
        (project / ".venv" / "bin").mkdir(parents=True)
        (project / ".venv" / "bin" / "python").symlink_to("/no/such/python3")
    done = make_setup(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert is_complete(project) and "Ready" in done.stdout
    assert "Setting up" not in make_setup(project).stdout, "once"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def without_venv(path: Path) -> Path:
    """A Python like Debian's without python3-venv: venv leaves a Python without pip and fails, and there is no virtualenv."""
    return executable(
        path,
        f"""#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit 1;;
  "-m ensurepip"*|"-m virtualenv"*|"-m pip"*) exit 1;;
esac
exec {sys.executable} "$@"
""",
    )


def test_the_published_records_are_drawn_once_and_need_not_be(tmp_path, set_up, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(set_up, "PYTHON", sys.executable)
    monkeypatch.setenv("HARNESS_RESULTS", str(tmp_path / "elsewhere"))
    report = tmp_path / "harness" / "report.py"
    report.parent.mkdir()
    report.write_text(
        "import os, sys; assert sys.argv[1:] == ['--records', 'published'] and 'HARNESS_RESULTS' not in os.environ;"
        "open('calls', 'a').write('x'); sys.exit(not os.path.isdir('results/tables'))"
    )
    set_up.draw_published()  # no published records
    (tmp_path / "results" / "published").mkdir(parents=True)
    assert not (tmp_path / "calls").exists()
    set_up.draw_published()
    assert "could not be drawn" in capsys.readouterr().out
    (tmp_path / "results" / "tables").mkdir()
    set_up.draw_published()
    assert "could not be drawn" not in capsys.readouterr().out and (tmp_path / "calls").read_text() == "xx"
    (tmp_path / "results" / "figures").mkdir()
    set_up.draw_published()
    assert (tmp_path / "calls").read_text() == "xx", "there are figures already"


def test_a_python_that_cannot_make_environments_is_reported_with_the_fix(project, set_up, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "executable", str(without_venv(project.parent / "python3")))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for _ in range(2):  # the second finds what the first left
        with pytest.raises(SystemExit) as ended:
            set_up.make_environment()
        assert "apt-get install python3" in ended.value.code and "virtualenv" in ended.value.code and "uv" in ended.value.code
    minor = ".".join(map(str, sys.version_info[:2]))
    assert f"python{minor}-venv" in ended.value.code


def test_uv_makes_the_environment_where_venv_cannot(project, set_up, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "executable", str(without_venv(project.parent / "python3")))
    uv = executable(project.parent / "tools" / "uv", '#!/bin/sh\necho "$@" > uv.txt\n')
    monkeypatch.setenv("PATH", f"{uv.parent}:/usr/bin:/bin")
    set_up.make_environment()
    assert "venv" in (words := (project / "uv.txt").read_text().split()) and "--seed" in words and words[-1] == ".venv"


@pytest.mark.parametrize(
    "library, version, refused", [("glibc", "2.17", True), ("glibc", "2.28", False), ("glibc", "2.41", False), ("", "", True)]
)
def test_old_glibc_and_other_c_libraries_are_refused_before_anything_is_installed(set_up, monkeypatch, library, version, refused):
    monkeypatch.setattr(set_up.sys, "platform", "linux")
    monkeypatch.setattr(set_up.platform, "libc_ver", lambda: (library, version))
    reason = set_up.unsupported()
    assert (reason is not None) == refused
    if refused:
        assert "glibc 2.28" in reason and version in reason and "container" in reason


def test_an_old_python_is_refused_and_another_named(set_up, monkeypatch, tmp_path):
    monkeypatch.setattr(set_up.sys, "version_info", (3, 9, 2, "final", 0))
    executable(tmp_path / "python3.13", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "3.9.2" in set_up.unsupported() and "3.11" in set_up.unsupported() and "make PYTHON=python3.13 setup" in set_up.unsupported()


def test_macs(set_up, monkeypatch):
    monkeypatch.setattr(set_up.sys, "platform", "darwin")
    monkeypatch.setattr(set_up.platform, "machine", lambda: "x86_64")
    assert "Intel" in set_up.unsupported()
    monkeypatch.setattr(set_up.platform, "machine", lambda: "arm64")
    for version, refused in (("13.6.1", True), ("14.0", False), ("26.1", False)):
        monkeypatch.setattr(set_up.platform, "mac_ver", lambda version=version: (version, ("", "", ""), "arm64"))
        assert ("macOS 14" in (set_up.unsupported() or "")) == refused


def test_processors_and_pythons_without_wheels(set_up, monkeypatch):
    assert set_up.unsupported() is None
    monkeypatch.setattr(set_up.platform, "machine", lambda: "ppc64le")
    assert "ppc64le" in set_up.unsupported()
    monkeypatch.setattr(set_up.sys, "implementation", types.SimpleNamespace(name="pypy"))
    assert "pypy" in set_up.unsupported() and "make PYTHON=" in set_up.unsupported()


@pytest.mark.parametrize(
    "of_site, expected",
    [
        ({"PIP_INDEX_URL": "u:a"}, {"UV_DEFAULT_INDEX": "u:a"}),
        ({"PIP_INDEX_URL": "u:a", "UV_INDEX_URL": "u:b"}, {"UV_DEFAULT_INDEX": None, "UV_INDEX_URL": "u:b"}),
        ({"PIP_INDEX_URL": "u:a", "UV_DEFAULT_INDEX": "u:b"}, {"UV_DEFAULT_INDEX": "u:b", "PIP_INDEX_URL": "u:a"}),
        ({"PIP_EXTRA_INDEX_URL": "u:a  u:b"}, {"UV_INDEX": "u:a u:b", "UV_INDEX_STRATEGY": "unsafe-best-match"}),
        ({"UV_DEFAULT_INDEX": "site=u:b"}, {"PIP_INDEX_URL": "u:b", "UV_DEFAULT_INDEX": "site=u:b", "UV_INDEX_STRATEGY": None}),
        ({"UV_INDEX": "u:a u:b"}, {"PIP_EXTRA_INDEX_URL": "u:a u:b"}),
        ({"PIP_FIND_LINKS": "/a /b", "PIP_NO_INDEX": "1"}, {"UV_FIND_LINKS": "/a,/b", "UV_NO_INDEX": "1"}),
        ({}, {"UV_DEFAULT_INDEX": None, "PIP_INDEX_URL": None, "UV_INDEX": None}),
    ],
)
def test_the_indices_of_a_site_hold_for_pip_and_uv(set_up, monkeypatch, of_site, expected):
    monkeypatch.setattr(set_up, "PYTHON", "/bin/true")  # no pip, as before the environment is complete
    environment = dict(of_site)
    set_up.indices(environment)
    assert {name: environment.get(name) for name in expected} == expected


def test_an_index_in_pips_configuration_file_reaches_uv(set_up, monkeypatch, tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = u:site\n")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setattr(set_up, "PYTHON", sys.executable)
    environment = dict(os.environ)
    set_up.indices(environment)
    assert environment["UV_DEFAULT_INDEX"] == "u:site"


def test_the_script_can_be_read_by_an_old_python():
    """It is what says that a Python is too old."""
    import ast

    text = (ROOT / ".ci" / "set_up.py").read_text()
    assert ast.parse(text, feature_version=(3, 6)).body
    with pytest.raises(SyntaxError):  # the check notices newer syntax
        ast.parse(text + "\nif (size := 1):\n    pass\n", feature_version=(3, 6))


def test_byte_code_is_kept_even_where_python_is_told_to_write_none(project):
    assert make_setup(project).returncode == 0
    assert len([*(project / "harness" / "__pycache__").glob("module.*.pyc")]) == 1


def test_a_harness_that_cannot_be_imported_is_not_ready(project):
    (project / "harness" / "module.py").write_text("import no_such_package")
    done = make_setup(project)
    assert done.returncode == 2 and not (project / ".venv" / ".ready").exists()
    assert "No module named 'no_such_package'" in done.stderr and "the harness cannot be imported" in done.stderr
