"""Each example runs in its smallest setting and writes what it says."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the pictures need matplotlib: pip install -e '.[examples]'")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, monkeypatch, *arguments) -> int:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return ended.value.code


def experts(monkeypatch, folder, *arguments):
    """The metrics of a smoke run."""
    monkeypatch.setenv("JAXSCI_CACHE", str(folder / "cache"))
    out = folder / "out"
    code = run("diffusion_sorption_experts", monkeypatch, "--smoke", "--out", str(out), *arguments)
    assert code == 0
    return json.loads((out / "metrics.json").read_text())


def test_diffusion_sorption_experts(monkeypatch, tmp_path):
    metrics = experts(monkeypatch, tmp_path)
    assert list(metrics["models"]) == ["soft", "hard", "boxes", "windows"]
    for figures in metrics["models"].values():
        for name in ("relative_l2_mean", "relative_l2_max", "seconds_per_step", "converged_share"):
            assert np.isfinite(figures[name])
        assert figures["relative_l2_mean"] <= figures["relative_l2_max"]
    assert 0.5 < metrics["trivial"]["initial_value"] < 1.0
    for picture in ("fields.png", "error.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--rich",), ("--lifted", "--seeds", "2")], ids=" ".join)
def test_two_runs_agree(arguments, monkeypatch, tmp_path):
    first = experts(monkeypatch, tmp_path, *arguments)
    resumed = experts(monkeypatch, tmp_path, *arguments)
    again = experts(monkeypatch, tmp_path, *arguments, "--restart")
    for kind, figures in first["models"].items():
        for name in ("relative_l2_mean", "relative_l2_max", "solver_steps_mean", "interface_jump"):
            assert figures[name] == resumed["models"][kind][name] == again["models"][kind][name]


def test_scipy_solver_differentiable(monkeypatch, tmp_path):
    assert run("scipy_solver_differentiable", monkeypatch, "--smoke", "--out", str(tmp_path)) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["gradient_error"] < 1e-6
    assert metrics["mass_error"] < 1e-5
    assert (tmp_path / "cable.png").stat().st_size > 10_000


def smoke(name, monkeypatch, folder, picture):
    """The metrics of a smoke run."""
    assert run(name, monkeypatch, "--smoke", "--out", str(folder)) == 0
    assert (folder / picture).stat().st_size > 10_000
    return json.loads((folder / "metrics.json").read_text())


def test_deq_classifier(monkeypatch, tmp_path):
    metrics = smoke("deq_classifier", monkeypatch, tmp_path, "spirals.png")
    assert list(metrics) == ["implicit", "neumann", "one_step"]
    for figures in metrics.values():
        assert figures["converged_share"] == 1
        assert figures["anderson_steps"] < figures["plain_steps"]


def test_qp_layer(monkeypatch, tmp_path):
    metrics = smoke("qp_layer", monkeypatch, tmp_path, "decisions.png")
    assert metrics["converged_share"] == 1 and metrics["gradient_error"] < 1e-6


def test_hyperparameters(monkeypatch, tmp_path):
    metrics = smoke("hyperparameters", monkeypatch, tmp_path, "hyperparameters.png")
    assert metrics["gradient_error"] < 1e-5
    assert metrics["gradient"]["validation"] < metrics["grid"]["validation"]


def test_learned_relaxation(monkeypatch, tmp_path):
    metrics = smoke("learned_relaxation", monkeypatch, tmp_path, "learned_relaxation.png")
    assert metrics["difference_of_solutions"] < 1e-6
    assert metrics["sweeps_learned"] < max(metrics["sweeps_fixed"].values())


def test_burgers_pinn(monkeypatch, tmp_path):
    metrics = smoke("burgers_pinn", monkeypatch, tmp_path, "burgers_pinn.png")
    assert metrics["error"] < 1e-2


def test_inverse_pinn(monkeypatch, tmp_path):
    """The viscosity is off by what its standard error says."""
    metrics = smoke("inverse_pinn", monkeypatch, tmp_path, "inverse_pinn.png")
    assert metrics["relative_error"] < 4 * metrics["relative_standard_error"] < 0.05


def test_metalic(monkeypatch, tmp_path):
    pytest.importorskip("tinygp", reason="bandits need tinygp: pip install 'jaxsci[bandit]'")
    metrics = smoke("metalic", monkeypatch, tmp_path, "metalic.png")
    assert len(metrics["errors"]) == 11 and all(0 < e < 10 for e in metrics["errors"].values())
    assert metrics["best alone"] in metrics["errors"]


def test_your_equation(monkeypatch, tmp_path):
    metrics = smoke("your_equation", monkeypatch, tmp_path, "your_equation.png")
    # It is used up on the way, and more so with a larger rate.
    assert 0 < metrics["at_outlet"] < 1 and metrics["slope_in_rate"] < 0


def test_convection_lagrangian(monkeypatch, tmp_path):
    metrics = smoke("convection_lagrangian", monkeypatch, tmp_path, "convection.png")
    assert metrics["Lagrangian"]["error"] < 1e-5 and metrics["Eulerian"]["error"] > 0.1


@pytest.mark.slow
def test_moving_shock(monkeypatch, tmp_path):
    metrics = smoke("moving_shock", monkeypatch, tmp_path, "moving_shock.png")
    assert metrics["ν = 0.01"]["mean error"] < 0.05 and metrics["ν = 0"]["mean error"] < 5e-3
    assert metrics["shock"]["position error"] < 5e-3 and abs(metrics["shock"]["speed"] - 10) < 1e-2


@pytest.mark.slow
def test_rotation(monkeypatch, tmp_path):
    assert smoke("rotation", monkeypatch, tmp_path, "rotation.png")["error"] < 0.02


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("kovasznay_pinn", 0.05),
        pytest.param("wave_pinn", 0.05, marks=pytest.mark.slow),
        pytest.param("holes_pinn", 0.8, marks=pytest.mark.slow),
        pytest.param("ten_dimensions", 0.8, marks=pytest.mark.slow),
    ],
)
def test_network_of(name, most, monkeypatch, tmp_path):
    assert smoke(name, monkeypatch, tmp_path, f"{name}.png")["error"] < most
