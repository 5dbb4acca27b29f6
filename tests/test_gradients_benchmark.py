"""The verdicts of the benchmark `gradients`: a wrong number is never called right, nor a lost one loud."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import _hazards, gradients
from benchmarks.gradients import Verdict


@pytest.mark.parametrize(
    ("value", "expected", "verdict"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 1e-6], Verdict.RIGHT),
        ([1.0, 2.1], [1.0, 2.0], Verdict.WRONG),
        ([1.0, np.nan], [1.0, 2.0], Verdict.REFUSED),
        ([1.0, np.inf], [1.0, 2.0], Verdict.REFUSED),
        ([1.0, np.nan], [1.0, np.nan], Verdict.RIGHT),  # a lane without a derivative, and it says so
        ([1.0, 3.0], [1.0, np.nan], Verdict.WRONG),  # … and it does not
        ([np.nan, np.nan], [1.0, np.nan], Verdict.REFUSED),  # … and another is lost with it
        ([0.0, 0.0], [0.0, 0.0], Verdict.RIGHT),
        ([], [], Verdict.RIGHT),
    ],
)
def test_verdicts(value, expected, verdict):
    assert gradients._judge(np.array(value), np.array(expected), 1e-4)[0] is verdict


def cells(name, kind, library):
    (hazard,) = (h for h in gradients.HAZARDS if h.name == name)
    return list(gradients._hazard(hazard, kind, library))


def test_singular_is_loud_here_and_silent_there():
    assert [c.verdict for c in cells("singular", "root", "jaxsci")] == [Verdict.LOUD] * 2
    assert cells("singular", "root", "jaxopt")[0].verdict is Verdict.WRONG


def test_the_oracle_of_the_hazards_is_a_root():
    b = jnp.array([0.8, 0.35])
    np.testing.assert_allclose(_hazards.system(_hazards.exact(b), b), 0, atol=1e-14)
