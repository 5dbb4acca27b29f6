"""What the examples of physics-informed networks write: metrics and a picture of solution, error and loss."""

import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def metrics_of(found) -> dict:
    """Of what `pinn.fit` or `pinn.march` returned."""
    return {"seconds": found.seconds, "compile_seconds": found.compile_seconds}


def losses(found) -> np.ndarray:
    """The loss after each step, slab after slab."""
    parts = getattr(found, "slabs", (found,))
    return np.concatenate([part.history["loss"] for part in parts])


def report(out: Path, name: str, found, points, u, exact, labels: tuple[str, str], **more) -> dict:
    """Writes metrics.json and a picture of one field at points in two coordinates.

    `u` and `exact` have the shape (n, fields); the picture shows the first field, the error is the largest.
    """
    gap = np.linalg.norm(u - exact, axis=0) / np.linalg.norm(exact, axis=0)
    metrics = {"error": float(gap.max())} | metrics_of(found) | more
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    wrong = np.log10(np.abs(u[:, 0] - exact[:, 0]) + 1e-16)
    for ax, z, title in ((left, u[:, 0], "solution"), (middle, wrong, "log₁₀ |error|")):
        low = np.quantile(z, 0.02) if ax is middle else None
        image = ax.tripcolor(points[:, 0], points[:, 1], z, shading="gouraud", vmin=low)
        figure.colorbar(image, ax=ax)
        ax.set(title=title, xlabel=labels[0], ylabel=labels[1])
    right.semilogy(losses(found))
    right.set(title=f"loss; error {metrics['error']:.1e} in {metrics['seconds']:.0f} s", xlabel="step")
    figure.savefig(out / f"{name}.png", dpi=120)
    plt.close(figure)
    print(json.dumps(metrics, indent=2))
    return metrics
