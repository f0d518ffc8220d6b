"""A run as one HTML page: curves, pictures, what was measured, settings.

Read from the run's directory alone, trained to its end or not: no checkpoint is
restored and nothing runs. The page needs no network and no other file.
"""

import base64
import html
import io
import json
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

from megjax import checks, plotting
from megjax.training import checkpoint, evaluate, metric_writer

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8884; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }
.curves figure { width: 30%; min-width: 16rem; }
figcaption { font-size: .9rem; opacity: .8; }
img { max-width: 100%; background: #fff; }
table { border-collapse: collapse; margin-right: 2rem; display: inline-table;
  vertical-align: top; }
td, th { padding: .1rem .8rem .1rem 0; text-align: left; }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; }
"""

SIZES = (".png", ".gif")
LARGEST = 8 * 2**20
"""Bytes of a picture that is still put into the page."""


def page(workdir: str | pathlib.Path) -> str:
    """The page of a run.

    Raises FileNotFoundError where the directory holds no run, ValueError where what it
    holds is damaged.
    """
    workdir = checks.path(workdir)
    record, lines = checkpoint.claimed(workdir), metric_writer.read(workdir)
    settings = _text(json.dumps(record.values, indent=2, sort_keys=True))
    parts = [
        f"<p>{_text(_summary(record, lines))}</p>",
        *_section("Samples", _pictures(workdir)),
        *_section("Measured", _measured(workdir, lines)),
        *_section("Training", _curves(lines), "curves"),
        "<h2>Settings</h2><details><summary>All fields of the config</summary>",
        f"<pre>{settings}</pre></details>",
    ]
    title = _text(workdir.resolve().name)
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
    )
    body = "\n".join(parts)
    return f"{head}\n<body><h1>{title}</h1>\n{body}\n</body></html>\n"


def _summary(record: checkpoint.Record, lines: list[dict[str, float]]) -> str:
    train = record.values.get("train")
    # What a hand has changed is shown as it is.
    train = train if isinstance(train, dict) else {}
    return (
        f"Config {record.config}, examples of shape {list(record.shape)}, seed "
        f"{train.get('seed')}; {lines[-1]['step'] if lines else 0} of "
        f"{train.get('num_steps')} iterations."
    )


def _section(title: str, parts: Iterator[str], style: str = "") -> list[str]:
    """The parts below a heading; nothing where there are none."""
    parts = list(parts)
    head = f'<h2>{title}</h2><div class="{style}">'
    return [head, *parts, "</div>"] if parts else []


def _pictures(workdir: pathlib.Path) -> Iterator[str]:
    """What the last evaluation, `sample.py` and `evaluate.py` have left."""
    last = {}
    for path in sorted((workdir / "pictures").glob("*.png")):
        last[re.sub(r"_\d+$", "", path.stem)] = path
    samples = [workdir / "samples" / f"{name}.png" for name in ("before", "after")]
    others = [
        path
        for folder in ("samples", "evaluation")
        for path in sorted((workdir / folder).glob("*"))
        if path.suffix in SIZES and path not in samples
    ]
    for path in [*last.values(), *samples, *others]:
        if path.is_file() and path.stat().st_size <= LARGEST:
            kind, content = path.suffix[1:], path.read_bytes()
            yield _figure(f"{path.parent.name}/{path.name}", kind, content)


def _curves(lines: list[dict[str, float]]) -> Iterator[str]:
    """One curve for each number that the log has more than once."""
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    for name in names:
        found = [(line["step"], line[name]) for line in lines if name in line]
        steps, values = np.array(found, np.float64).T
        if np.sum(np.isfinite(values)) > 1 and plotting.is_installed():
            picture = plotting.curves(
                {name: (steps, values)}, x_label="iteration", y_label=""
            )
            buffer = io.BytesIO()
            plotting.write_png(buffer, picture)
            yield _figure(name, "png", buffer.getvalue())


def _measured(workdir, lines) -> Iterator[str]:
    """Tables: the last evaluation in training, and those of `evaluate.py`."""
    groups: dict[str, dict[str, float]] = {}
    for line in lines:
        for name, value in line.items():
            if "/" in name:
                group, _, metric = name.partition("/")
                groups.setdefault(f"{group}, in training", {})[metric] = value
    for name, entry in evaluate.read(workdir / "evaluation").items():
        if isinstance(entry, dict) and isinstance(entry.get("metrics"), dict):
            groups[f"{name}, step {entry.get('step')}"] = entry["metrics"]
    for name, metrics in groups.items():
        yield _table(name, metrics)


def _table(caption: str, metrics: Mapping[str, object]) -> str:
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{_number(value)}</td></tr>"
        for name, value in metrics.items()
    )
    return f'<table><tr><th colspan="2">{_text(caption)}</th></tr>{rows}</table>'


def _figure(caption: str, kind: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{_text(caption)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else _text(value)


def _text(value: object) -> str:
    """A value as text in HTML: names of a run may be a stranger's."""
    return html.escape(str(value))
