"""The wheel and the sdist hold every module, and the installed wheel imports."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = [name for name in ("hatchling", "pip") if importlib.util.find_spec(name) is None]

pytestmark = pytest.mark.skipif(
    bool(NEEDED), reason=f"{NEEDED} not installed: pip install -e '.[test]' brings them"
)

MODULES = {p.relative_to(ROOT).as_posix() for p in (ROOT / "jaxsci").rglob("*.py")}

IMPORT_ALL = """
import importlib, json, pkgutil
import jaxsci
found = {"jaxsci": jaxsci.__file__}
for info in pkgutil.walk_packages(jaxsci.__path__, "jaxsci."):
    found[info.name] = importlib.import_module(info.name).__file__
print(json.dumps(found))
"""


def run(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", str(directory), cwd=ROOT)
    return directory


def test_every_module_is_in_the_wheel(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= MODULES, f"missing: {sorted(MODULES - names)}"
    assert "jaxsci/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    strangers = {name.split("/")[0] for name in names if ".dist-info/" not in name} - {"jaxsci"}
    assert not strangers, f"the wheel would install {strangers} beside jaxsci"


def test_every_module_is_in_the_sdist(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = MODULES | {"pyproject.toml", "README.md", "LICENSE", "Makefile", "tests/conftest.py"}
    assert names >= expected, f"missing: {sorted(expected - names)}"
    assert not {name for name in names if "__pycache__" in name}


def test_the_installed_wheel_imports(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    home = tmp_path / "clean"
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
        "--no-deps", "--no-index", str(wheel), cwd=tmp_path)  # fmt: skip
    # The dependencies of the environment that runs the tests. A directory named in a .pth file
    # has its own .pth files left alone, so an editable jaxsci there stays out of sight.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(str(python), "-c", where).strip())
    (site / "dependencies.pth").write_text(
        "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) + "\n"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    found = json.loads(run(str(python), "-c", IMPORT_ALL, cwd=tmp_path, env=clean))
    modules = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".py")]
    assert len(found) == len(modules), "a folder without __init__.py hides its modules"
    elsewhere = {name: file for name, file in found.items() if site not in Path(file).parents}
    assert not elsewhere, "imported from somewhere else than the installed wheel"
