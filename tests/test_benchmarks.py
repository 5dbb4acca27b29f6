"""The benchmark harness on small cases of its own."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import precision, svm
from benchmarks._harness import Better, Row, main, measure, measure_host, stamp

ROOT = Path(__file__).resolve().parent.parent

CASE = '''
"""Two sums against each other."""
import jax.numpy as jnp
from benchmarks._harness import Better, Row, measure

def run(quick):
    n = 10 if quick else 1000
    timing = measure(lambda x: jnp.sum(x), jnp.ones(n), repeats=2)
    yield Row("error", 0.0, "", 1e-6, detail={"n": n} | timing.as_detail())
    yield Row("speed-up", 3.0, "x", 5.0, Better.HIGHER)
    yield Row("not a number", float("nan"), "s", 1.0, detail={"found": jnp.float32(jnp.inf)})
    yield Row("for the reader", 12.0, "MiB")
'''


@pytest.fixture
def cases(tmp_path, monkeypatch):
    """Makes a case of source text; its module is gone again after the test."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = {}

    def add(name: str, source: str) -> dict[str, str]:
        (tmp_path / f"bench_{name}.py").write_text(textwrap.dedent(source))
        made[name] = f"bench_{name}"
        return made

    yield add
    for module in made.values():
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("figure", "target", "better", "holds"),
    [
        (1.0, 2.0, Better.LOWER, True),
        (2.0, 2.0, Better.LOWER, True),
        (3.0, 2.0, Better.LOWER, False),
        (3.0, 2.0, Better.HIGHER, True),
        (1.0, 2.0, Better.HIGHER, False),
        (float("nan"), 2.0, Better.LOWER, False),
        (float("nan"), 2.0, Better.HIGHER, False),
        (1.0, None, Better.LOWER, None),
    ],
)
def test_row_knows_whether_it_holds(figure, target, better, holds):
    assert Row("r", figure, "s", target, better).holds is holds


def test_table_and_check(cases, capsys):
    found = cases("sums", CASE)
    assert main(["sums", "--quick"], found) == 0
    assert main(["sums", "--quick", "--check"], found) == 1
    out = capsys.readouterr().out
    assert "Two sums against each other." in out
    assert "missed: speed-up; not a number" in out
    assert "1 of 3 targets hold" in out
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert lines["error"].endswith("yes") and "<= 1e-06" in lines["error"]
    assert lines["speed-up"].endswith("NO") and ">= 5" in lines["speed-up"]
    assert lines["for the reader"].endswith("MiB")


def test_json_is_stamped_and_strict(cases, tmp_path):
    path = tmp_path / "results" / "sums.json"
    main(["sums", "--quick", "--json", str(path)], cases("sums", CASE))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(path.read_text(), parse_constant=refuse)
    assert report["case"] == "sums" and report["quick"] and report["complete"]
    assert report["versions"]["jax"] == jax.__version__
    assert set(report["versions"]) >= {
        "python",
        "jaxlib",
        "equinox",
        "optimistix",
        "lineax",
        "numpy",
    }
    assert report["device"]["platform"] == "cpu" and report["precision"]["x64"] is True
    assert report["command"][:4] == ["python", "-m", "benchmarks", "sums"]
    assert report["peak_rss_bytes"] > 2**20 and report["date"].endswith("+00:00")
    assert {"commit", "dirty", "seconds", "host", "environment"} <= set(report)
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["error"]["holds"] is True and rows["error"]["detail"]["n"] == 10
    assert rows["speed-up"]["better"] == "higher"
    assert rows["not a number"]["figure"] == "nan"
    assert rows["not a number"]["detail"]["found"] == "inf"
    assert rows["for the reader"]["holds"] is None
    assert [p.name for p in path.parent.iterdir()] == ["sums.json"]


def test_a_failing_case_leaves_its_rows(cases, tmp_path):
    path = tmp_path / "broken.json"
    source = """
    from benchmarks._harness import Row
    def run(quick):
        yield Row("first", 1.0)
        raise FloatingPointError("half-way")
    """
    with pytest.raises(FloatingPointError, match="half-way"):
        main(["broken", "--json", str(path)], cases("broken", source))
    report = json.loads(path.read_text())
    assert report["complete"] is False
    assert [row["name"] for row in report["rows"]] == ["first"]


def test_rows_stream(cases, capsys):
    source = """
    from benchmarks._harness import Row
    def run(quick):
        yield Row("first", 1.0)
        raise KeyboardInterrupt
    """
    with pytest.raises(KeyboardInterrupt):
        main(["slow"], cases("slow", source))
    assert "first" in capsys.readouterr().out


def test_mistakes_are_named(cases, capsys):
    twice = "from benchmarks._harness import Row\ndef run(quick): return [Row('a', 1), Row('a', 2)]"
    with pytest.raises(ValueError, match="two rows named 'a'"):
        main(["twice"], cases("twice", twice))
    with pytest.raises(SystemExit) as stopped:
        main(["missing"], cases("sums", CASE))
    assert stopped.value.code == 2
    assert "no case 'missing'; there are: twice, sums" in capsys.readouterr().err
    untargeted = "from benchmarks._harness import Row\ndef run(quick): return [Row('a', 1)]"
    assert main(["plain", "--check"], cases("plain", untargeted)) == 1
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measure_host(lambda: 1, repeats=0)


def test_measure_compiles_once_and_runs_the_rest():
    traces, weights = [], jnp.linspace(0.0, 1.0, 200)

    def step(x, module, power):
        traces.append(None)
        return module(x) ** power, "label"

    module = eqx.nn.Linear(200, 300, key=jax.random.key(0))
    found = measure(step, weights, module, 2, repeats=3)
    assert len(traces) == 1
    assert found.repeats == 3 and found.compile_s > 0
    assert found.wall_s > 0 and found.wall_spread_s >= 0 and found.cpu_s >= 0
    assert jnp.allclose(found.result[0], module(weights) ** 2)
    # Inputs, the module's arrays included, are arguments of the program and no constants.
    inputs = 8 * (200 + 200 * 300 + 300)
    assert found.memory["argument"] >= inputs
    assert found.peak_bytes >= inputs + 8 * 300
    assert "result" not in found.as_detail()


def test_stamp_has_what_a_reader_needs():
    made = stamp(["x"])
    assert made["host"]["cores"] >= 1 and made["host"]["cpu"]
    json.dumps(made)


def test_command_line_lists_cases():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {p.stem for p in (ROOT / "benchmarks").glob("*.py") if not p.stem.startswith("_")}
    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert listed == (found or {"no"})


def test_solvers_of_the_svm_agree():
    problem = svm._problem(8, 5)
    lam = jnp.asarray(3.0)

    @jax.jit
    def solve(lam, problem):
        found = svm._by_bcd(lam, problem, 100)
        projected, mirror = svm._by_pg(lam, problem, 400), svm._by_md(lam, problem, 400)
        w = problem.x.T @ (problem.y - found) / jnp.exp(lam)
        scores = 1 - problem.y + problem.x @ w
        hinge = jnp.sum(jnp.max(scores, 1) - jnp.sum(problem.y * scores, 1))
        primal = 0.5 * jnp.exp(lam) * jnp.vdot(w, w) + hinge
        return primal, jnp.stack([svm._inner(a, (lam, problem)) for a in (found, projected, mirror)])

    primal, (least, projected, mirror) = solve(lam, problem)
    # Strong duality: the primal objective is the negative of the dual one, up to its constant m.
    np.testing.assert_allclose(primal, 8 - least, rtol=1e-5)
    np.testing.assert_allclose(projected, least, rtol=1e-4)
    assert least < mirror < least + 0.02  # sublinear on the boundary


def test_diabetes_data():
    ridge, _ = precision._problems(True)
    w = np.zeros(10)
    normal, right = jax.jit(lambda w: (jax.hessian(ridge.objective)(w, w), jax.grad(ridge.objective)(w, w)))(
        w
    )
    w = -np.linalg.solve(normal, right) * 77.005 * 442**0.5
    # Published: least-squares coefficients of the standardized data, in the order of the columns.
    np.testing.assert_allclose(w[:4], [-10.01, -239.8, 519.8, 324.4], atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["precision", "svm"])
def test_targets_of_quick_runs(case):
    done = subprocess.run([sys.executable, "-m", "benchmarks", case, "--quick", "--check"], cwd=ROOT)
    assert done.returncode == 0
