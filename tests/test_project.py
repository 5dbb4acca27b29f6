"""The rules the package keeps, read from its source: floors, homes, names, habits, imports."""

import ast
import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxsci"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A module imports from lower floors, or from its own. (`residuals` and `solvers` share a floor and
# never import each other.) A new module at the top of the package gets its place here.
FLOORS = {
    "_store": 0,
    "_tree": 0,
    "linear": 1,
    "pde": 1,
    "nn": 1,
    "_residual": 2,
    "_solution": 2,
    "residuals": 3,
    "solvers": 3,
    "_linearization": 4,
    "_adjoint_interface": 4,
    "_adjoint": 4,
    "_estimators": 4,
    "_estimators_contour": 5,
    "_solve": 5,
    "convex": 5,
    "_diagnosis": 5,
    "layers": 6,
    "train": 7,
    "pinn": 8,
    "interop": 9,
    "testing": 9,
    "__init__": 10,
}
STRANGERS = {frozenset({"residuals", "solvers"})}

# The one file that says what the derivative of a solve is.
HOME_OF_DERIVATIVES = "jaxsci/_adjoint.py"
DERIVATIVE_MAKERS = {
    "custom_jvp", "custom_vjp", "filter_custom_jvp", "filter_custom_vjp", "custom_gradient",
    "custom_root", "custom_linear_solve", "primitive_jvps", "primitive_transposes", "Primitive",
    "linear_call", "def_jvp", "def_transpose",
}  # fmt: skip

MAX_LINES = 400
MIN_DOCSTRING = 60


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    """The modules of the package that `path` imports, with line numbers."""
    here = module_name(path).split(".")
    package = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "jaxsci":
                    yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if source.split(".")[0] != "jaxsci":
                continue
            for alias in node.names:
                deeper = f"{source}.{alias.name}"
                yield (deeper if deeper in MODULES else source), node.lineno


def place(module: str) -> str:
    """The floor's name for a module: `jaxsci.pde._fields` → `pde`, `jaxsci` → `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def report(problems: list[str], remedy: str) -> None:
    assert not problems, remedy + "\n  " + "\n  ".join(problems)


def test_imports_go_down_the_floors():
    problems = []
    for path in SOURCES:
        here = place(module_name(path))
        if here not in FLOORS:
            problems.append(f"{relative(path)} has no floor")
            continue
        for module, line in own_imports(path):
            there = place(module)
            at = f"{relative(path)}:{line}: {here} imports {there}"
            if there not in FLOORS:
                problems.append(f"{at}, which has no floor")
            elif here != there and (FLOORS[there] > FLOORS[here] or frozenset({here, there}) in STRANGERS):
                problems.append(at)
    report(problems, "imports go to lower floors only (FLOORS in this file):")


def test_no_import_cycle():
    graph = {
        name: {module for module, _ in own_imports(path) if module != name and module in MODULES}
        for name, path in MODULES.items()
    }
    done: set[str] = set()
    cycles: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            cycles.append(" → ".join((*trail[trail.index(name) :], name)))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
    report(cycles, "import cycles:")


def test_no_import_of_ours_inside_a_function():
    problems = []
    for path in SOURCES:
        top = {node.lineno for node in parse(path).body}
        problems += [
            f"{relative(path)}:{line} imports {module}"
            for module, line in own_imports(path)
            if line not in top
        ]
    report(problems, "imports of jaxsci stand at the top of the file, not inside a function or if:")


def test_one_home_of_custom_derivatives():
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        tree = parse(path)
        relative_imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level > 0]
        ours = [alias for node in relative_imports for alias in node.names]
        for node in ast.walk(tree):
            name = None
            if isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.Name):
                name = node.id
            elif isinstance(node, ast.alias) and node not in ours:
                name = node.name.split(".")[-1]
            if name in DERIVATIVE_MAKERS:
                found.setdefault(relative(path), []).append(name)
    assert set(found) <= {HOME_OF_DERIVATIVES}, (
        f"only {HOME_OF_DERIVATIVES} may define a derivative; others use `attach`: {found}"
    )
    if (ROOT / HOME_OF_DERIVATIVES).exists():
        assert found, f"{HOME_OF_DERIVATIVES} defines no derivative"


def test_habits():
    calls = {
        "hasattr": "ask the type, or give it a method",
        "super": "fields and __init__ stand in one class",
        "print": "progress goes through tqdm or a reporter, messages through logging or results",
        "filterwarnings": "a library leaves the user's warnings alone",
        "simplefilter": "a library leaves the user's warnings alone",
        "eval": "no source text is evaluated",
        "exec": "no source text is evaluated",
    }
    problems = []
    for path in SOURCES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if (last := name.split(".")[-1]) in calls and name in {last, f"warnings.{last}"}:
                    problems.append(f"{relative(path)}:{node.lineno}: {name}(: {calls[last]}")
                if name.endswith("config.update"):
                    problems.append(f"{relative(path)}:{node.lineno}: {name}: the user's setting")
            elif isinstance(node, ast.ExceptHandler):
                caught = None if node.type is None else ast.unparse(node.type)
                silent = all(isinstance(s, ast.Pass) for s in node.body)
                broad = caught in {None, "Exception", "BaseException"}
                if caught is None or (broad and silent):
                    problems.append(
                        f"{relative(path)}:{node.lineno}: except {caught or ''}: name what may be"
                        " raised, and do something about it"
                    )
    report(problems, "habits of the package:")


def test_files_are_short():
    lengths = {relative(p): len(p.read_text("utf-8").splitlines()) for p in SOURCES}
    long = [f"{name}: {n} lines" for name, n in lengths.items() if n >= MAX_LINES]
    report(long, f"a file stays under {MAX_LINES} lines and near 200; split it:")


def all_modules() -> list:
    return [importlib.import_module(name) for name in MODULES]


def own_classes() -> list[type]:
    """Every eqx.Module class that the package defines."""
    found = {}
    for module in all_modules():
        for thing in vars(module).values():
            ours = inspect.isclass(thing) and thing.__module__.split(".")[0] == "jaxsci"
            if ours and issubclass(thing, eqx.Module):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return [found[name] for name in sorted(found)]


def is_abstract(cls: type) -> bool:
    if cls is eqx.Module or cls.__name__.lstrip("_").startswith("Abstract"):
        return True
    if cls.__module__.split(".")[0] == "jaxsci":
        return False
    return inspect.isabstract(cls) or bool(getattr(cls, "__abstractvars__", ()))


def test_abstract_or_final():
    problems = []
    for cls in own_classes():
        name = f"{cls.__module__}.{cls.__qualname__}"
        problems += [
            f"{name} subclasses the concrete {base.__name__}"
            for base in cls.__bases__
            if issubclass(base, eqx.Module) and not is_abstract(base)
        ]
        nothing_abstract = not (inspect.isabstract(cls) or getattr(cls, "__abstractvars__", ()))
        if cls.__name__.lstrip("_").startswith("Abstract") and nothing_abstract:
            problems.append(f"{name} is called Abstract and has nothing abstract")
    report(problems, "a class is abstract (Abstract…) and subclassed, or concrete and final:")


def own_fields(cls: type) -> set[str]:
    """The fields that the class body of `cls` itself declares."""
    if not dataclasses.is_dataclass(cls):
        return set()
    return set(inspect.get_annotations(cls)) & {f.name for f in dataclasses.fields(cls)}


def test_fields_and_init_in_one_class():
    problems = []
    for cls in own_classes():
        ours = [c for c in cls.__mro__ if c.__module__.split(".")[0] == "jaxsci"]
        homes = [c.__qualname__ for c in ours if own_fields(c)]
        # Equinox gives the classes it makes a dataclass __init__; a written one has a source file.
        written = [
            c.__qualname__
            for c in ours
            if inspect.isfunction(init := c.__dict__.get("__init__"))
            and "jaxsci" in Path(init.__code__.co_filename).parts
        ]
        if len({*homes, *written}) > 1:
            problems.append(f"{cls.__module__}.{cls.__qualname__}: fields in {homes}, __init__ in {written}")
    report(problems, "fields and __init__ stand in one class:")


def exported(alias: ast.alias) -> bool:
    """`X as X`; or `AbstractX as X`, for a class that users subclass in a problem statement."""
    return alias.asname is not None and alias.name in {alias.asname, f"Abstract{alias.asname}"}


def public_modules() -> list[str]:
    return [name for name in MODULES if not any(p.startswith("_") for p in name.split(".")[1:])]


def public_names() -> dict[str, object]:
    """The public surface: dotted name → object.

    `from ._x import X as X` in an `__init__.py`; every public function and class of a public module
    that is a file (`jaxsci/testing.py`).
    """
    found: dict[str, object] = {}
    for name in public_modules():
        module, path = importlib.import_module(name), MODULES[name]
        if path.name == "__init__.py":
            names = [
                alias.asname
                for node in ast.walk(parse(path))
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
                if exported(alias)
            ]
        else:
            names = [
                node.name for node in parse(path).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
        for short in names:
            if not short.startswith("_"):
                found[f"{name}.{short}"] = getattr(module, short)
    return found


def test_inits_only_re_export():
    problems = []
    for path in SOURCES:
        if path.name != "__init__.py":
            continue
        for node in parse(path).body:
            text = ast.unparse(node)
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            version = isinstance(node, ast.Assign) and text.startswith("__version__")
            exports = isinstance(node, ast.ImportFrom) and all(
                a.asname is None or exported(a) for a in node.names
            )
            if not (docstring or version or exports):
                problems.append(f"{relative(path)}:{node.lineno}: {text.splitlines()[0]}")
            elif isinstance(node, ast.ImportFrom) and node.level and path.parent != PACKAGE:
                problems += [
                    f"{relative(path)}:{node.lineno}: {a.name} should read `{a.name} as {a.name}`"
                    for a in node.names
                    if a.asname is None
                ]
    report(problems, "an __init__.py holds its docstring and `from ._x import X as X`:")


def test_public_names_have_docstrings():
    problems = []
    for name, thing in public_names().items():
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue  # a constant or a sub-package: described in docs/, which the next test reads
        # Not inspect.getdoc, which would take an inherited one. A dataclass makes "Name(field: …)".
        doc = inspect.cleandoc(vars(thing).get("__doc__") or "") if inspect.isclass(thing) else (
            inspect.getdoc(thing) or ""
        )  # fmt: skip
        if len(doc) < MIN_DOCSTRING or doc.startswith(f"{thing.__name__}("):
            problems.append(f"{name}: {doc!r}")
    report(problems, f"every public name has a docstring of at least {MIN_DOCSTRING} characters:")


def test_public_names_are_documented():
    text = "\n".join(p.read_text("utf-8") for p in sorted((ROOT / "docs").rglob("*.md")))
    words = set(re.findall(r"[\w.]+", text))
    spoken = words | {word.split(".")[-1] for word in words if "." in word}
    problems = [name for name in public_names() if name.split(".")[-1] not in spoken]
    report(problems, "every public name stands in docs/api.md (or another page of docs/):")


IMPORT_PROBE = """
import sys, time
import jax, equinox
start = time.process_time()
import jaxsci
seconds = time.process_time() - start
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing jaxsci starts a JAX backend"
heavy = {"jaxopt", "matplotlib", "scipy.stats", "pandas", "sympy", "asdex"} & set(sys.modules)
assert not heavy, f"importing jaxsci imports {sorted(heavy)}"
assert not jax.config.jax_enable_x64, "importing jaxsci changes jax's configuration"
print(seconds)
"""


def test_import_is_silent_light_and_quick(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JAX_"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path / "pycache")}
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", IMPORT_PROBE],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        (line,) = done.stdout.splitlines()
        seconds.append(float(line))
    # Processor time of a warm import (the first run compiles), which a busy machine leaves alone.
    assert min(seconds) < 1.0, f"import jaxsci adds {seconds} s of CPU to importing jax and equinox"


def tracked_files() -> list[Path]:
    try:
        done = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout: which files belong to the project is not known")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_home():
    homes = re.compile(rb"(?<![\w.~/-])/(?:root|work|home/[a-z]\w*|Users/[A-Za-z]\w*|tmp/v)/")
    problems = []
    for path in tracked_files():
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if homes.search(line) and path != Path(__file__):
                problems.append(f"{relative(path)}:{number}: {line.decode(errors='replace')[:120]}")
    report(problems, "paths of one machine:")


def test_version_is_one_fact():
    import jaxsci

    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = re.sub(r"\.dev\d+$", "", jaxsci.__version__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert f"## {version}" in changelog, f"CHANGELOG.md has no entry for {version}"
