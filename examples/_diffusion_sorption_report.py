"""Errors, tables and pictures of the diffusion–sorption demo."""

import json
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import matplotlib
import numpy as np

from jaxsci import layers

# Relative L2 errors of the paper, at its full scale (8000 samples, 4050 steps of a larger network) [%].
PUBLISHED = {"soft": 85.93, "hard": 7.55, "boxes": 3.60}

LABELS = {
    "soft": "soft penalty",
    "hard": "single hard constraint",
    "boxes": "independent boxes",
    "lifted": "single, exact initial values",
    "windows": "partition of unity (ours)",
}


def relative_l2(values, truth, t) -> np.ndarray:
    """‖u − u*‖/‖u*‖ over x and t > 0, per sample; the integral in t by its steps."""
    weight = np.diff(t)[:, None]
    square = lambda v: np.sum(weight * np.asarray(v)[..., 1:, :] ** 2, axis=(-2, -1))
    return np.sqrt(square(values - truth) / square(truth))


@eqx.filter_jit
def _predict(problem, kind, network, batch):
    def one(*sample):
        equation, found = problem(kind, network, *sample)
        size = problem.size(equation, found.values, sample[0])
        return found, size, layers.interface_jump(found.values, problem.setting.experts)

    return jax.vmap(one)(*batch)


def predictions(problem, kind, network, samples, size: int = 8):
    """The constrained solutions of all samples, their row norms and their interface jumps."""
    parts = [
        jax.tree.map(np.asarray, _predict(problem, kind, network, [a[i : i + size] for a in samples]))
        for i in range(0, samples[0].shape[0], size)
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def errors(problem, kind, network) -> tuple[dict, np.ndarray]:
    """Figures over the test set, and the predicted fields."""
    test = problem.data.test
    samples = (test.initial, test.diffusivity, test.freundlich)
    found, rows, jump = predictions(problem, kind, network, samples)
    each = relative_l2(found.values, test.solution, problem.data.t)
    summary = {
        "relative_l2_mean": float(each.mean()),
        "relative_l2_max": float(each.max()),
        "relative_l2_std": float(each.std()),
        "converged_share": float(np.mean(found.converged)),
        "solver_steps_mean": float(np.mean(found.steps)),
        "solver_steps_max": int(np.max(found.steps)),
        "equation_residual": float(rows.mean()),
        "interface_jump": float(jump.mean()),
    }
    return summary, found.values


def figures(problem, kind, network, held_out) -> dict:
    """What is logged during training; only `held_out_loss`, which needs no solutions, has an effect."""
    _, rows, _ = predictions(problem, kind, network, held_out)
    return errors(problem, kind, network)[0] | {"held_out_loss": float(rows.mean())}


def measured(problem, kind, result) -> dict:
    """What one training run came to."""
    summary, values = errors(problem, kind, result.best)
    history = result.evaluations
    return {
        **summary,
        "seconds_per_step": result.seconds_per_step,
        "compile_seconds": result.compile_seconds,
        "steps": result.step,
        "skipped_steps": result.skipped_steps,
        "train_converged_share": float(np.mean(result.history["converged"])),
        "curve": {k: np.asarray(history[k]).tolist() for k in ("step", "relative_l2_mean")},
        "values": values,
    }


def trivial(problem) -> dict:
    """Errors of predictors that know nothing: constant in time, and the mean of the solutions."""
    test = problem.data.test
    constant = np.broadcast_to(test.initial[:, None], test.solution.shape)
    mean = np.broadcast_to(test.solution.mean(0), test.solution.shape)
    error = lambda u: float(relative_l2(u, test.solution, problem.data.t).mean())
    return {"initial_value": error(constant), "mean_solution": error(mean)}


def write(problem, runs: dict[str, list[dict]], folder: Path) -> None:
    """The table, metrics.json and the pictures."""
    started = time.strftime("%Y-%m-%d %H:%M")
    keys = [k for k in runs["windows"][0] if k not in ("values", "curve")]
    models = {
        kind: {k: statistics.median(run[k] for run in many) for k in keys} for kind, many in runs.items()
    }
    for kind, many in runs.items():
        models[kind]["seeds"] = [run["relative_l2_mean"] for run in many]
    meta = problem.data.meta
    facts = {
        "stiff_solver_seconds_per_sample": meta["seconds_per_sample"],
        "reference_refinement_error": meta["refinement_error"]["cells"],
        "trivial": trivial(problem),
    }
    _table(models, facts)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"models": models, **facts, "written": started, "jax": jax.__version__}
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))
    _pictures(problem, runs, folder)
    print(f"Pictures and metrics.json are in {folder}/")


def _table(models, facts) -> None:
    head = f"{'model':28s} {'rel. L2 mean':>12s} {'± samples':>10s} {'worst':>8s} {'paper':>8s}"
    print(f"\n{head} {'rows':>9s} {'jump':>9s} {'solver steps':>13s} {'converged':>10s} {'s/step':>8s}")
    for kind, m in models.items():
        print(
            f"{LABELS[kind]:28s} {100 * m['relative_l2_mean']:10.2f} % {100 * m['relative_l2_std']:8.2f} %"
            f" {100 * m['relative_l2_max']:6.2f} % {_published(kind):>8s} {m['equation_residual']:9.1e}"
            f" {m['interface_jump']:9.1e} {m['solver_steps_mean']:6.1f} ≤ {m['solver_steps_max']:4.0f}"
            f" {100 * m['converged_share']:8.1f} % {m['seconds_per_step']:8.3f}"
        )
        if len(m["seeds"]) > 1:
            print(" " * 28, "seeds:", ", ".join(f"{100 * e:.2f} %" for e in m["seeds"]))
    known = facts["trivial"]
    print(f"{'initial value for all t':28s} {100 * known['initial_value']:10.2f} %")
    print(f"{'mean of the solutions':28s} {100 * known['mean_solution']:10.2f} %")
    print(
        f"stiff solver: {facts['stiff_solver_seconds_per_sample']:.3f} s per sample;"
        f" refinement error of the reference {facts['reference_refinement_error']:.1e}\n"
    )


def _published(kind: str) -> str:
    return f"{PUBLISHED[kind]:.2f} %" if kind in PUBLISHED else "–"


def _pictures(problem, runs, folder: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    data, sample = problem.data, problem.data.test.initial.shape[0] // 2
    truth = data.test.solution[sample]
    figure, axes = plt.subplots(3, len(runs), figsize=(3.4 * len(runs), 8), layout="constrained")
    boundaries = np.linspace(0, 1, problem.setting.experts + 1)[1:-1]
    for column, (kind, many) in enumerate(runs.items()):
        u = many[0]["values"][sample]
        panels = (("prediction", u), ("reference", truth), ("|error|", np.abs(u - truth)))
        for row, (name, field) in enumerate(panels):
            axis = axes[row, column]
            # One logarithmic scale for all errors, so that the models can be compared.
            scale = matplotlib.colors.Normalize(0, 1) if row < 2 else matplotlib.colors.LogNorm(1e-4, 1e-1)
            shown = np.maximum(field, 1e-12).T
            mesh = axis.pcolormesh(data.t, data.x, shown, norm=scale, cmap=("viridis", "magma")[row == 2])
            if column == len(runs) - 1:
                figure.colorbar(mesh, ax=axes[row], extend="both" if row == 2 else "neither")
            if kind in ("boxes", "windows"):
                for x in boundaries:
                    axis.axhline(x, color="white", lw=0.7, ls=":")
            axis.set_title(f"{LABELS[kind]}\n{name}" if row == 0 else name, fontsize=9)
            axis.set(xlabel="t [s]" if row == 2 else None, ylabel="x [m]" if column == 0 else None)
    figure.savefig(folder / "fields.png", dpi=120)
    plt.close(figure)
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, many in runs.items():
        curves = np.array([run["curve"]["relative_l2_mean"] for run in many])
        axis.semilogy(many[0]["curve"]["step"], 100 * np.median(curves, axis=0), label=LABELS[kind])
    axis.set(xlabel="training step", ylabel="relative L2 error on unseen initial values [%]")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(folder / "error.png", dpi=120)
    plt.close(figure)
