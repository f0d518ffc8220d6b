"""Pictures as uint8 arrays [H, W, 3]: image grids, planar densities, curves, traces.

Arrays go in and arrays come out; nothing here keeps state or opens a window. Without
the extra `plot` figures are one white pixel, and no file is written.
"""

import functools
import importlib.util
import logging
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np

LOG = logging.getLogger(__name__)
TILE = 48
"""Smallest side in pixels to which the images of a grid are enlarged."""

GAP = 2
DPI = 100
BACKGROUND = 255
COLOURS = ("#1f6fb4", "#d1495b", "#2a9d6f", "#e08e2b", "#6b4fa0", "#555555")


@functools.cache
def is_installed() -> bool:
    """Whether pictures can be made; says once in the log where they cannot."""
    found = all(importlib.util.find_spec(name) for name in ("matplotlib", "PIL"))
    if not found:
        LOG.warning('no pictures are written: pip install "megjax[plot]"')
    return found


def _figure_fn(draw):
    """A function that draws with matplotlib; without it, one white pixel."""

    @functools.wraps(draw)
    def drawn(*args, **kwargs):
        if not is_installed():
            return np.full((1, 1, 3), BACKGROUND, np.uint8)
        return draw(*args, **kwargs)

    return drawn


def pixels(x: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] in [-1, 1] as uint8 [N, H', W', 3].

    One channel is grey and three are colours. Other numbers of channels (stacked
    digits) become a mosaic of grey images, row by row. Values outside [-1, 1] are
    clipped, NaN is black. Raises ValueError unless x has four axes.
    """
    x = np.asarray(x, np.float32)
    if x.ndim != 4:
        raise ValueError(f"images have shape {x.shape}: want [N, height, width, C].")
    x = np.nan_to_num(np.clip(x, -1, 1), nan=-1.0)
    if x.shape[-1] not in (1, 3):
        x = _mosaic(x)
    x = np.round((x + 1) * 127.5).astype(np.uint8)
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def image_grid(
    x: np.ndarray, *, columns: int | None = None, scale: int | None = None
) -> np.ndarray:
    """Images [N, H, W, C] in [-1, 1] side by side, row by row.

    columns: by default those of a near-square grid. scale: integer enlargement without
    smoothing, by default to a side of at least 48 pixels, so that small images are
    visible.
    """
    tiles = pixels(x)
    if not len(tiles):
        raise ValueError("no images to show: want [N, height, width, C] with N > 0.")
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    scale = scale or math.ceil(TILE / min(tiles.shape[1:3]))
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    rows = math.ceil(len(tiles) / columns)
    height, width = tiles.shape[1] + GAP, tiles.shape[2] + GAP
    canvas = np.full((rows * height + GAP, columns * width + GAP, 3), BACKGROUND, "u1")
    for i, tile in enumerate(tiles):
        top, left = i // columns * height + GAP, i % columns * width + GAP
        canvas[top : top + len(tile), left : left + tile.shape[1]] = tile
    return canvas


@_figure_fn
def timeline(x: np.ndarray, steps: Sequence[int], *, title: str = "") -> np.ndarray:
    """Chains of images [chains, T, H, W, C], one row per chain, steps [T] below."""
    x = np.asarray(x)
    chains, times = x.shape[:2]
    picture = image_grid(x.reshape(-1, *x.shape[2:]), columns=times)
    canvas, axes = _framed(picture, left=52, bottom=40, top=26 if title else 8)
    tile = (picture.shape[1] - GAP) / times
    axes.set_xticks((np.arange(times) + 0.5) * tile, [str(step) for step in steps])
    tile = (picture.shape[0] - GAP) / chains
    axes.set_yticks((np.arange(chains) + 0.5) * tile, np.arange(1, chains + 1))
    axes.set(xlabel="step", ylabel="chain", title=title)
    axes.tick_params(length=0)
    return _rendered(canvas)


@_figure_fn
def heatmap(
    values: np.ndarray,
    *,
    extent: Sequence[float],
    label: str = "density",
    title: str = "",
) -> np.ndarray:
    """A function on the plane, values [size, size] with the first coordinate first.

    extent: (left, right, bottom, top), the outer edges of the cells.
    """
    canvas, axes = _figure(5.6, 4.8)
    image = _density(axes, values, extent)
    canvas.figure.colorbar(image, ax=axes, label=label)
    axes.set(xlabel="$x_1$", ylabel="$x_2$", title=title)
    return _rendered(canvas)


@_figure_fn
def scatter(
    points: np.ndarray,
    *,
    extent: Sequence[float],
    density: np.ndarray | None = None,
    paths: np.ndarray | None = None,
    rejected: np.ndarray | None = None,
    title: str = "",
) -> np.ndarray:
    """Points [N, 2] of the plane, over a density and with chains where given.

    extent: (left, right, bottom, top) of the window. density: [size, size] on it, the
    first coordinate first. paths: [chains, T, 2], drawn as lines that start at a dot.
    rejected: more points [M, 2], in red.
    """
    canvas, axes = _figure(4.8, 4.8)
    if density is not None:
        # Twice the range, so that points stand out on the darkest cell.
        _density(axes, density, extent).set_clim(0, 2 * max(np.max(density), 1e-30))
    size = np.clip(3000 / max(len(points), 1), 1, 12)
    axes.scatter(*np.asarray(points).T, s=size, c=COLOURS[0], linewidths=0, alpha=0.7)
    if rejected is not None:
        axes.scatter(*np.asarray(rejected).T, s=size, c=COLOURS[1], linewidths=0)
    for i, path in enumerate([] if paths is None else np.asarray(paths)):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(*path.T, color=colour, linewidth=0.8, alpha=0.8)
        axes.plot(*path[0], "o", color=colour, markersize=3)
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
    axes.set(xlabel="$x_1$", ylabel="$x_2$", title=title)
    return _rendered(canvas)


@_figure_fn
def aligned(
    data: np.ndarray,
    samples: np.ndarray,
    energies: np.ndarray,
    *,
    extent: Sequence[float],
    limits: tuple[float, float],
) -> np.ndarray:
    """Data in red and samples in blue, beside the energy, blue where it is low.

    data, samples: [N, 2] each. energies: [size, size] on the window, the first
    coordinate first; beyond `limits` their colour does not change.
    """
    canvas, (left, right) = _figure(9.6, 4.5, columns=2)
    for points, colour, label in ((data, "#d62728", "data"), (samples, "#1f3fd4", "G")):
        left.scatter(*points.T, s=3, c=colour, linewidths=0, alpha=0.6, label=label)
    left.legend(frameon=False, markerscale=4, loc="upper right")
    left.set(title="data and samples")
    image = right.imshow(
        np.asarray(energies).T, origin="lower", extent=extent, cmap="RdYlBu_r"
    )
    image.set_clim(*limits)
    canvas.figure.colorbar(image, ax=right, label="energy (nats)", extend="both")
    right.set(title="energy")
    for axes in (left, right):
        axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal")
        axes.set(xlabel="$x_1$", ylabel="$x_2$")
    return _rendered(canvas)


@_figure_fn
def curves(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> np.ndarray:
    """Named curves (x [N], y [N]) in one frame; labels carry the units."""
    canvas, axes = _figure(6.4, 4.0)
    for i, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, color=COLOURS[i % len(COLOURS)], label=name, linewidth=1.5)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.set_xscale("log" if log_x else "linear")
    axes.set_yscale("log" if log_y else "linear")
    if len(lines) > 1:
        axes.legend(frameon=False)
    _plain(axes)
    return _rendered(canvas)


@_figure_fn
def traces(panels: Mapping[str, np.ndarray], *, x_label: str = "step") -> np.ndarray:
    """Traces [chains, draws] of named quantities, one panel each, over a shared axis.

    Every panel shows up to 32 chains and the mean over all of them. The longest starts
    at step 0 and all end at the same step.
    """
    last = max(np.shape(values)[1] for values in panels.values())
    canvas, axes = _figure(7.0, 1.0 + 1.9 * len(panels), rows=len(panels))
    for frame, (name, values) in zip(np.atleast_1d(axes), panels.items()):
        values = np.asarray(values)
        steps = np.arange(last - values.shape[1], last)
        alpha = max(0.15, 1 / (1 + len(values)))
        frame.plot(steps, values[:32].T, color=COLOURS[0], linewidth=0.6, alpha=alpha)
        label = f"mean of {len(values)} chains"
        frame.plot(steps, values.mean(axis=0), color=COLOURS[1], label=label)
        frame.set_ylabel(name)
        _plain(frame)
    np.atleast_1d(axes)[0].legend(frameon=False, loc="best", fontsize=8)
    np.atleast_1d(axes)[-1].set_xlabel(x_label)
    return _rendered(canvas)


@_figure_fn
def ranks(panels: Mapping[str, np.ndarray], *, num_bins: int = 20) -> np.ndarray:
    """Rank histograms of traces [chains, draws], one panel each (Vehtari et al. 2021).

    Every chain, of at most 8, is a line: its draws' ranks among all draws shown. Chains
    that sample one distribution give lines that are flat but for noise.
    """
    canvas, axes = _figure(7.0, 1.0 + 1.9 * len(panels), rows=len(panels))
    for frame, (name, values) in zip(np.atleast_1d(axes), panels.items()):
        values = np.asarray(values)[:8]
        order = np.argsort(values, axis=None, kind="stable")
        place = np.empty(values.size)
        place[order] = np.arange(values.size) / values.size
        for i, chain in enumerate(place.reshape(values.shape)):
            share = np.histogram(chain, num_bins, (0, 1))[0] * num_bins / len(chain)
            edges = np.linspace(0, 1, num_bins + 1)
            frame.stairs(share, edges, baseline=None, color=COLOURS[i % 6])
        frame.axhline(1, color=COLOURS[-1], linewidth=0.8, linestyle="--")
        frame.set_ylim(bottom=0)
        frame.set_ylabel(name)
        _plain(frame)
    np.atleast_1d(axes)[-1].set_xlabel("rank among all draws, as a share")
    return _rendered(canvas)


def write_png(path: str | pathlib.Path | IO[bytes], picture: np.ndarray) -> None:
    """Writes a picture uint8 [H, W, 3]; nothing without the extra `plot`."""
    if not is_installed():
        return
    import PIL.Image

    PIL.Image.fromarray(picture).save(path, format="png", optimize=True)


def write_gif(
    path: str | pathlib.Path,
    frames: Sequence[np.ndarray],
    *,
    milliseconds: int = 150,
    pause: int = 1500,
) -> None:
    """Writes pictures of one size as an endless animation; nothing without `plot`.

    milliseconds: shown per frame; pause: shown for the first and the last.
    """
    if not is_installed():
        return
    import PIL.Image

    images = [PIL.Image.fromarray(frame).quantize(128, dither=0) for frame in frames]
    durations = [milliseconds] * len(images)
    durations[0] = durations[-1] = pause
    images[0].save(
        path,
        format="gif",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
    )


def _mosaic(x):
    """[N, H, W, C] -> [N, rows H, columns W, 1], one cell per channel."""
    num, height, width, channels = x.shape
    columns = math.ceil(math.sqrt(channels))
    rows = math.ceil(channels / columns)
    x = np.pad(x, [(0, 0)] * 3 + [(0, rows * columns - channels)], constant_values=-1)
    x = x.reshape(num, height, width, rows, columns).transpose(0, 3, 1, 4, 2)
    return x.reshape(num, rows * height, columns * width, 1)


def _figure(width, height, rows=1, columns=1):
    """A canvas of width x height inches, and its axes."""
    from matplotlib import figure
    from matplotlib.backends import backend_agg

    drawn = figure.Figure((width, height), dpi=DPI, layout="constrained")
    axes = drawn.subplots(rows, columns, sharex=True)
    return backend_agg.FigureCanvasAgg(drawn), axes


def _framed(picture, *, left, bottom, top):
    """A canvas that shows a picture pixel by pixel, with margins for labels."""
    from matplotlib import figure
    from matplotlib.backends import backend_agg

    height, width = picture.shape[:2]
    total = (width + left + 8, height + bottom + top)
    drawn = figure.Figure((total[0] / DPI, total[1] / DPI), dpi=DPI)
    box = (left / total[0], bottom / total[1], width / total[0], height / total[1])
    axes = drawn.add_axes(box)
    extent = (0, width, height, 0)
    axes.imshow(picture, extent=extent, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    return backend_agg.FigureCanvasAgg(drawn), axes


def _density(axes, values, extent):
    return axes.imshow(
        np.asarray(values).T, origin="lower", extent=extent, cmap="Greys", vmin=0
    )


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5)


def _rendered(canvas):
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
