"""What Markov chains showed: its numbers, warnings, pictures and files.

Section 3.2 of Kumar et al. 2019 (MEG) shows its chains as rows of snapshots.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from megjax import checks, plotting
from megjax.io import atomic
from megjax.metrics import mcmc

SHOWN_CHAINS = 64
TIMELINE_CHAINS = 12


class Landscape(NamedTuple):
    """exp(-beta E) of planar data on a square window.

    density: [size, size], the first coordinate first. extent: left, right, bottom, top.
    """

    density: np.ndarray
    extent: tuple[float, float, float, float]


class Trace(NamedTuple):
    """What chains did; T records in `times[-1]` steps, arrays on the host.

    The steps begin after the burn-in; a record is made of every `thin` steps, and of
    those that are left at the end.

    x: samples at the end [num, ...]; before: at the start.
    z: latents at the end [num, k], None outside latent space.
    snapshots: of the first chains at `times` [shown, len(times), ...].
    energy: after every record [num, T + 1], the start included.
    rms: root mean square of the position, likewise; about 1 for latents of the prior.
    acceptance_rate, is_accepted, is_divergent: of proposals, means over a record's [num, T].
    step_size: of the kernel, NaN where there was none.
    landscape: for data in the plane.
    burn_in: steps thrown away before. inverse_temperature: beta of the density.
    draws: positions at every record [num, T, ...], where they are kept.
    target: whose energy it is, "energy" or "ratio". resample: candidates per start.
    effective_share: effective sample size of the candidates over their number.
    target_acceptance: that the step size was tuned for, NaN where it was given.
    """

    x: np.ndarray
    before: np.ndarray
    z: np.ndarray | None
    snapshots: np.ndarray
    times: np.ndarray
    energy: np.ndarray
    rms: np.ndarray
    acceptance_rate: np.ndarray
    is_accepted: np.ndarray
    is_divergent: np.ndarray
    step_size: float
    landscape: Landscape | None = None
    burn_in: int = 0
    thin: int = 1
    inverse_temperature: float = 1.0
    draws: np.ndarray | None = None
    target: str = "energy"
    resample: int = 1
    effective_share: float = math.nan
    target_acceptance: float = math.nan


def summary(trace: Trace) -> dict[str, float]:
    """Numbers of a trace: acceptance, energies, convergence, distance from the prior.

    R-hat and effective sample size are those of the energy over the last half of the
    records. Quantities that do not apply are NaN. Burn-in and thinning are named where
    there was any.
    """
    long = {"burn_in": trace.burn_in, "thin": trace.thin}
    resampled = {"resample": trace.resample, "effective_share": trace.effective_share}
    late = trace.energy[:, trace.energy.shape[1] // 2 :]
    return {
        "num": len(trace.x),
        "target": trace.target,
        "steps": int(trace.times[-1]),
        **(long if trace.burn_in or trace.thin > 1 else {}),
        **(resampled if trace.resample > 1 else {}),
        "inverse_temperature": float(trace.inverse_temperature),
        "step_size": float(trace.step_size),
        **mcmc.acceptance(trace.acceptance_rate, trace.is_accepted, trace.is_divergent),
        "energy_before": float(np.mean(trace.energy[:, 0])),
        "energy_after": float(np.mean(trace.energy[:, -1])),
        "energy_r_hat": mcmc.r_hat(late),
        "late_draws": late.size,
        "energy_effective_sample_size": mcmc.effective_sample_size(late),
        "rms_before": float(np.sqrt(np.mean(trace.rms[:, 0] ** 2))),
        "rms_after": float(np.sqrt(np.mean(trace.rms[:, -1] ** 2))),
    }


def warnings(trace: Trace) -> list[str]:
    """What a reader of the samples must know, one line each; empty when all is well."""
    found, lines = summary(trace), []
    if found["stuck"] > 0:
        lines.append(
            f"{found['stuck']:.0%} of the chains are stuck: no move accepted in the "
            "last half of the steps; lower --step_size or --inverse_temperature"
        )
    if found["acceptance"] < trace.target_acceptance / 2:
        lines.append(
            f"acceptance is {found['acceptance']:.3f}, far below the "
            f"{trace.target_acceptance:.3g} that the step size {found['step_size']:.3g} "
            "was tuned for: give --step_size, add --burn_in, or sample from another "
            "checkpoint"
        )
    elif found["acceptance"] < 0.1:
        lines.append(f"acceptance is only {found['acceptance']:.3f}: lower --step_size")
    if found["divergent"] > 0:
        lines.append(
            f"{found['divergent']:.1%} of the proposals diverged (a NaN or infinite "
            "energy, or an unstable path) and were rejected; lower --step_size"
        )
    # Four standard errors of the root mean square of draws of the prior.
    slack = 0.1 if trace.z is None else max(0.1, 4 / math.sqrt(2 * trace.z.size))
    if trace.z is not None and abs(found["rms_after"] - 1) > slack:
        lines.append(
            f"latents have left the prior: rms(z) = {found['rms_after']:.2f} instead of "
            "1, where the generator was not trained; use --prior=gaussian, fewer "
            "--steps or a lower --inverse_temperature"
        )
    return lines


def write(trace: Trace, out: str | pathlib.Path) -> dict[str, Any]:
    """Writes arrays, pictures and report.json to a directory; returns the report.

    Images and planar data get pictures before and after, a timeline and an animation;
    every trace gets samples.npz and traces.png.
    """
    out = atomic.folder(checks.path(out))
    arrays = {k: v for k, v in trace._asdict().items() if isinstance(v, np.ndarray)}
    atomic.replace(
        out / "samples.npz", lambda file: np.savez_compressed(file, **arrays)
    )
    for name, picture in _pictures(trace).items():
        plotting.write_png(out / f"{name}.png", picture)
    frames = _frames(trace)
    if len(frames) > 1:
        plotting.write_gif(out / "chains.gif", frames)
    report = summary(trace) | {"warnings": warnings(trace)}
    report = {k: v if _is_json(v) else None for k, v in report.items()}
    text = json.dumps(report, indent=2) + "\n"
    atomic.replace(out / "report.json", lambda file: file.write(text.encode()))
    return report


def lines(report: Mapping[str, Any]) -> list[str]:
    """A report as `write` returns it, in words for a terminal."""
    text = [f"energy        {report['energy_before']:.4g} at the start"]
    about = [f"target        {report['target']}"]
    if "resample" in report:
        share = _number(report["effective_share"])
        about += [f"resampled     1 of {report['resample']}, effective share {share}"]
    recorded = []
    if "thin" in report:
        burn_in, every = report["burn_in"], report["thin"]
        recorded = [f"record        one in {every} steps, after {burn_in} of burn-in"]
    if report["steps"]:
        r_hat, size = report["energy_r_hat"], report["energy_effective_sample_size"]
        acceptance = f"{report['acceptance']:.3f}"
        lowest = f"{report['acceptance_lowest']:.3f}"
        change = f"{report['energy_before']:.4g} -> {report['energy_after']:.4g}"
        text = [
            *recorded,
            f"beta          {_number(report['inverse_temperature'])}",
            # A learned proposal has none: it sets the scale of every coordinate.
            f"step size     {_number(report['step_size'], 'learned')}",
            f"acceptance    {acceptance}, lowest chain {lowest}",
            f"energy        {change} in {report['steps']} steps",
            f"rms           {report['rms_before']:.3f} -> {report['rms_after']:.3f}",
            f"R-hat         {_number(r_hat)} of the energy, last half of the steps",
            f"ESS           {_number(size)} of {report['late_draws']} draws, likewise",
        ]
    return about + text + [f"warning: {line}" for line in report["warnings"]]


def _number(value, otherwise="undefined"):
    return otherwise if value is None else format(value, ".4g")


def _is_json(value):
    """JSON has neither NaN nor infinity: such quantities become null."""
    return not isinstance(value, float) or math.isfinite(value)


def _pictures(trace: Trace) -> dict[str, np.ndarray]:
    """Name -> picture, as far as the data can be drawn."""
    moved = len(trace.times) > 1
    found = {}
    if moved:
        panels = {
            "energy": trace.energy,
            "acceptance": trace.acceptance_rate,
            "rms of z" if trace.z is not None else "rms of x": trace.rms,
        }
        thinned = f"record (one in {trace.thin} steps)"
        x_label = thinned if trace.thin > 1 else "step"
        found["traces"] = plotting.traces(panels, x_label=x_label)
    draw = _drawing(trace)
    if draw:
        found["after"] = draw(trace.x)
    if draw and moved:
        found |= {"before": draw(trace.before), "timeline": _timeline(trace)}
    return found


def _drawing(trace: Trace) -> Callable[[np.ndarray], np.ndarray] | None:
    """How to draw samples [N, ...] of this data; None for vectors of other lengths."""
    if trace.landscape:
        return functools.partial(plotting.scatter, **trace.landscape._asdict())
    if trace.x.ndim == 4:
        return lambda x: plotting.image_grid(x[:SHOWN_CHAINS])
    return None


def _timeline(trace: Trace) -> np.ndarray:
    if trace.landscape:
        paths = trace.snapshots[:TIMELINE_CHAINS]
        return plotting.scatter(trace.x, paths=paths, **trace.landscape._asdict())
    # At most 11 columns fit a page.
    every = math.ceil((len(trace.times) - 1) / 10)
    rows = trace.snapshots[:TIMELINE_CHAINS, ::every]
    return plotting.timeline(rows, trace.times[::every])


def _frames(trace: Trace) -> list[np.ndarray]:
    draw = _drawing(trace)
    if draw is None:
        return []
    return [draw(trace.snapshots[:, t]) for t in range(len(trace.times))]
