"""What `make setup` does: creates .venv, or repairs one that is half done, and installs the versions of requirements.lock into it.

    python3 .ci/set_up.py

Runs with any Python 3.6 or newer, without further packages, so that it can say what a machine lacks. uv installs, or pip where there is no
uv. The package indices that a site has set for either of them (PIP_INDEX_URL, pip.conf, UV_DEFAULT_INDEX, ...) hold for both.
"""

import os
import platform
import re
import shutil
import subprocess
import sys

OLDEST, NEWEST = (3, 11), (3, 14)
GLIBC = (2, 28)
MACOS = (14, 0)
PROCESSORS = ("x86_64", "amd64", "aarch64", "arm64")
VENV = ".venv"
PYTHON = os.path.join(VENV, "bin", "python")
IMPORT_ALL = """
import importlib, pkgutil, harness
for module in pkgutil.walk_packages(harness.__path__, "harness."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
# pip's name of an option, uv's variables (the first is set; any of them keeps it as it is), what separates several values for uv
TRANSLATIONS = (
    ("index-url", ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), " "),
    ("extra-index-url", ("UV_INDEX", "UV_EXTRA_INDEX_URL"), " "),
    ("find-links", ("UV_FIND_LINKS",), ","),
    ("trusted-host", ("UV_INSECURE_HOST",), " "),
    ("no-index", ("UV_NO_INDEX",), " "),
    ("cert", ("SSL_CERT_FILE",), " "),
)


def main():
    reason = unsupported()
    if reason:
        sys.exit(reason)
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Setting up {VENV} with Python {version} and the versions of requirements.lock; torch alone is several GB, once")
    if sys.version_info[:2] > NEWEST:
        print(f"Python {version} is newer than {dotted(NEWEST)}, the newest with a wheel for every package; some may have to be built")
    make_environment()
    install()
    compile_modules()
    draw_published()
    print(f"Ready: {VENV}/bin/harness --help")


def unsupported():
    """One sentence that says why the packages cannot be installed here, and what helps; None where they can."""
    if sys.version_info[:2] < OLDEST:
        names = [f"python{OLDEST[0]}.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
        other = next((name for name in names if shutil.which(name)), names[-3])
        return f"Python {dotted(OLDEST)} or newer is needed, found {dotted(sys.version_info[:3])}; name one: make PYTHON={other} setup"
    if sys.implementation.name != "cpython":
        return f"the wheels of torch are for CPython, and this is {sys.implementation.name}; name another: make PYTHON=python3.12 setup"
    if os.name != "posix":
        return "the harness starts its runs with fork, which Windows does not have; it works in WSL2"
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return "torch has no wheels for Macs with an Intel processor since version 2.3; use a Mac with an Apple processor, or Linux"
    if sys.platform == "darwin" and numbers(platform.mac_ver()[0]) < MACOS:
        return (
            f"the wheels of torch need macOS {dotted(MACOS)} or newer, and this system has {platform.mac_ver()[0]}; update it, or use Linux"
        )
    if platform.machine().lower() not in PROCESSORS:
        return f"torch has no wheels for this processor ({platform.machine()}), only for x86_64 and 64-bit ARM; use another machine"
    if sys.platform.startswith("linux"):
        library, version = platform.libc_ver()
        glibc = numbers(version)
        if library != "glibc":
            return f"the wheels of torch need glibc {dotted(GLIBC)} or newer, which this system lacks; use a container with Debian 12, say"
        if glibc < GLIBC:
            return (
                f"the wheels of torch need glibc {dotted(GLIBC)} or newer, and this system has {version}; use a container with a newer "
                "system (for example Debian 12 in apptainer), or a newer node"
            )
    return None


def dotted(version):
    return ".".join(map(str, version))


def numbers(version):
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def make_environment():
    """Makes .venv complete: a Python that runs and is not too old, and pip."""
    if os.path.lexists(PYTHON) and not works(PYTHON, "-c", "import sys"):
        print(f"the Python of {VENV} does not run; {VENV} is made again")
        shutil.rmtree(VENV)
    if os.path.lexists(PYTHON):
        if not works(PYTHON, "-c", f"import sys; sys.exit(sys.version_info[:2] < {OLDEST})"):
            sys.exit(f"{VENV} has a Python older than {dotted(OLDEST)}; remove it and start again: rm -r {VENV}")
    elif works(sys.executable, "-m", "venv", VENV):
        return
    if works(PYTHON, "-m", "pip", "--version") or works(PYTHON, "-m", "ensurepip", "--upgrade"):
        return
    uv = shutil.which("uv")
    if uv and works(uv, "venv", "--quiet", "--clear", "--seed", "--python", sys.executable, VENV):
        return
    if works(sys.executable, "-m", "virtualenv", "--clear", VENV):
        return
    minor = dotted(sys.version_info[:2])
    sys.exit(
        "this Python cannot make a virtual environment with pip, which is a package of its own in Debian and Ubuntu; one of these helps:\n"
        f"  apt-get install python{minor}-venv\n"
        f"  {sys.executable} -m pip install --user virtualenv\n"
        f"  install uv (its manual says how)\n"
        f"then start again: make setup"
    )


def install():
    """Installs the locked packages, and this project as it stands in this folder."""
    environment = dict(os.environ, VIRTUAL_ENV=os.path.abspath(VENV))
    indices(environment)
    command = installer(environment)
    all_modules = ["--no-compile"] if PYTHON in command else []  # pip would compile all, in minutes; `compile_modules` takes those in use
    for arguments in (all_modules + ["-r", "requirements.lock"], ["--no-deps", "--no-build-isolation", "--editable", "."]):
        if subprocess.call(command + ["--quiet"] + arguments, env=environment):
            sys.exit("not installed: the lines above say why; after it is corrected, `make setup` continues")


def compile_modules():
    """Imports every module of the harness once, which keeps their byte code and that of the packages that they import.

    Each process would otherwise compile 4,000 modules, in ten seconds, where PYTHONDONTWRITEBYTECODE is set, as in many containers.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if subprocess.call([PYTHON, "-c", IMPORT_ALL], env=environment):
        sys.exit("the packages are installed, but the harness cannot be imported: the lines above say why")


def draw_published():
    """Writes the report of the published records, whose figures take most of its time, unless there are figures already.

    The next report draws no figure again that would be the same (see harness/reporting/figure_cache.py).
    """
    if not os.path.isdir(os.path.join("results", "published")) or os.path.lexists(os.path.join("results", "figures")):
        return
    environment = {name: value for name, value in os.environ.items() if name not in ("HARNESS_RESULTS", "HARNESS_EXPERIMENTS")}
    print("Drawing the figures of the published records, once")
    command = [PYTHON, os.path.join("harness", "report.py"), "--records", "published"]
    if subprocess.call(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        print("The figures could not be drawn; this says why: " + " ".join(command))


def installer(environment):
    """The command that installs packages into .venv: uv of .venv or of this machine, uv that pip can install, or else pip."""
    local = os.path.join(VENV, "bin", "uv")
    for uv in (local, shutil.which("uv")):
        if uv and works(uv, "--version") and recent(uv):
            return [uv, "pip", "install"]
    pip = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.call(pip + ["--quiet", "uv"], env=environment) == 0 and works(local, "--version"):
        return [local, "pip", "install"]
    print("uv could not be installed; pip installs, which takes longer")
    return pip


def recent(uv):
    """Whether a uv knows UV_DEFAULT_INDEX and UV_INDEX, as since 0.4.23."""
    text = subprocess.run([uv, "--version"], stdout=subprocess.PIPE, universal_newlines=True, check=False).stdout
    return numbers(text) >= (0, 5)


def indices(environment):
    """Sets for uv what a site has set for pip, and for pip what it has set for uv. What is set for a program itself is kept."""
    of_pip = settings_of_pip(environment)
    for option, names, separator in TRANSLATIONS:
        value = of_pip.get(option)
        if value and not any(environment.get(name) for name in names):
            environment[names[0]] = value if option == "cert" else separator.join(value.split())
            if option == "extra-index-url":  # pip takes the best version of all indices
                environment.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    for option, names, _ in TRANSLATIONS[:2]:
        urls = next((environment[name] for name in names if environment.get(name)), "")
        if urls and not of_pip.get(option):  # uv may give an index a name: name=URL
            environment["PIP_" + option.upper().replace("-", "_")] = " ".join(re.sub(r"^[\w.-]+=(?=\w+:)", "", url) for url in urls.split())


def settings_of_pip(environment):
    """pip's options by name: those of its configuration files, and above them those of PIP_* variables."""
    command = [PYTHON, "-m", "pip", "config", "list"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True, check=False)
    lines = re.findall(r"^(global|install)\.([\w-]+)='(.*)'$", done.stdout, re.MULTILINE)
    settings = {option: value for section in ("global", "install") for where, option, value in lines if where == section}
    variables = {option: environment.get("PIP_" + option.upper().replace("-", "_")) for option, _, _ in TRANSLATIONS}
    settings.update({option: value for option, value in variables.items() if value})
    return settings


def works(*command):
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    main()
