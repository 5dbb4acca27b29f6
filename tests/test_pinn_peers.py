"""The benchmark `pinn_peers`: our own part of it, and how it judges the others'."""

import math

import pytest

from benchmarks import pinn_peers


def test_own_part(monkeypatch):
    for library in ("DEEPXDE", "JINNS"):
        monkeypatch.setenv(
            f"JAXSCI_{library}_PYTHON", "false"
        )  # a program in place of Python that has neither
    rows = {row.name: row for row in pinn_peers.run(quick=True)}
    assert math.isnan(rows["jinns: not installed: pip install jinns"].figure)
    (step,) = (row for name, row in rows.items() if name.endswith("Adam: jaxsci"))
    assert 0 < step.figure < 1e3 and step.detail["steps"] > 10
    # The mean square of the residual of −sin πx is a little above π²/8, and the network adds to it.
    assert 0.5 < step.detail["loss"] < 20
    end = rows["jaxsci, float64: error at the end"]
    assert 0 < end.figure < 1
    assert not any("beside" in name for name in rows)


@pytest.mark.parametrize(("loss", "agrees"), [(1.5 * (1 + 1e-6), True), (1.51, False)])
def test_only_the_same_problem_counts(monkeypatch, loss, agrees):
    found = {"compile_s": 0.0, "marks": [[i, 0.002 * i, 0.001 * i] for i in range(0, 60, 10)]}
    given = {"jaxsci": 1.5, "DeepXDE": loss}
    monkeypatch.setattr(pinn_peers, "_run", lambda library, _: found | {"loss": given[library]})
    peers = {"jaxsci": None, "DeepXDE": None, "jinns": "not installed"}
    rows = {row.name: row for row in pinn_peers._compared("case", {}, peers, quick=True)}
    assert rows["case, Adam: jaxsci"].figure == pytest.approx(1.0)  # ms of processor time
    assert rows["case, Adam: jaxsci"].detail["wall_ms"] == pytest.approx(2.0)
    assert math.isnan(rows["case, Adam: DeepXDE on JAX"].figure) is not agrees
    assert math.isnan(rows["case, Adam: beside fastest"].figure) is not agrees


def test_time_to_an_error():
    found = {"compile_s": 2.0, "path": [(5, 1.0, 0.1), (10, 3.0, 9e-3), (15, 4.0, 2e-2)]}
    assert pinn_peers._until(found, 1e-2) == 5.0
    assert pinn_peers._until(found, 1e-3) == math.inf
