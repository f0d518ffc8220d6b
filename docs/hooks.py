"""What the site adds to its pages: README, RESULTS, and the API reference.

Loaded by mkdocs (a hook) and by mkdocstrings (an extension of griffe).
"""

import html
import pathlib
import re

import griffe
from latex2mathml import converter
from mkdocs.structure.files import File

import megjax

ROOT = pathlib.Path(__file__).parent.parent
GROUPS = {
    "Models, samples, estimators": ("api", "sampling", "estimators"),
    "Learners and losses": ("learners", "losses", "networks", "training"),
    "Samplers": ("samplers", "densities"),
    "Energies, metrics, data": ("energies", "metrics", "data", "types"),
}
NAMES = r"[a-z]\w*(?:, [a-z]\w*)*"
DOCTEST = re.compile(r"(?m)^>>> .*(?:\n.+)*")
CELL = re.compile(r"(<div[^>]*jp-MarkdownOutput[^>]*>)(.*?)(?=</div>)", re.DOTALL)
FORMULA = re.compile(r"<(pre|code)\b.*?</\1>|\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)
OUTSIDE = re.compile(
    r"\[([^]]+)\]\((?:examples/|CONTRIBUTING|CHANGELOG|CITATION)[^)]*\)"
)
MATHJAX = re.compile(r"<script [^>]*mathjax.*?</script>", re.DOTALL)


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: examples are code, arguments and fields lists."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            paragraphs = obj.docstring.value.split("\n\n")
            text = "\n\n".join(listed(paragraph) for paragraph in paragraphs)
            obj.docstring.value = DOCTEST.sub(r"```python\n\g<0>\n```", text)


def listed(paragraph: str) -> str:
    """A paragraph that tells of arguments, "name: what it is.", as a list of them."""
    if not re.match(rf"{NAMES}: ", paragraph):
        return paragraph
    return re.sub(rf"(?:^|(?<=[.;]) |\n *)({NAMES}): ", r"\n- **\1**: ", paragraph)


def on_files(files, config):
    """Adds README, RESULTS and a page for each group of public names."""
    for name, page in {
        "index.md": "README.md",
        "results/index.md": "RESULTS.md",
    }.items():
        files.append(File.generated(config, name, content=from_root(page, name)))
    for title, page in reference_pages().items():
        files.append(File.generated(config, reference_path(title), content=page))
    return files


def on_config(config):
    """Names the reference in the navigation."""
    pages = [{title: reference_path(title)} for title in GROUPS]
    for section in config.nav:
        if "API" in section:
            section["API"].extend(pages)
    return config


def on_page_content(content, **_):
    """Formulas of the tutorials as MathML: browsers show it without a download."""
    cells = CELL.sub(lambda cell: cell[1] + FORMULA.sub(mathml, cell[2]), content)
    return MATHJAX.sub("", cells)


def mathml(found: re.Match) -> str:
    """What FORMULA has found, code as it is."""
    if found[1]:
        return found[0]
    display = "block" if found[2] else "inline"
    return converter.convert(html.unescape(found[2] or found[3]), display=display)


def from_root(page: str, name: str) -> str:
    """A page of the checkout's root, with links as they are from docs/NAME."""
    text = OUTSIDE.sub(r"\1", (ROOT / page).read_text())
    up = "../" * name.count("/")
    text = text.replace("](RESULTS.md)", f"]({up}results/index.md)")
    return text.replace("](docs/", f"]({up}")


def reference_path(title: str) -> str:
    """reference/front_door.md of "Front door"."""
    return f"reference/{re.sub(r'[^a-z]+', '_', title.lower())}.md"


def reference_pages() -> dict[str, str]:
    """Title -> page. Raises ValueError where a public name has no group."""
    pages, left = {}, dict(megjax._HOME)
    for title, packages in GROUPS.items():
        own = [n for n, home in left.items() if home.split(".")[1] in packages]
        directives = [
            f"::: {left.pop(n)}.{n}\n    options:\n      heading: megjax.{n}"
            for n in sorted(own, key=str.lower)
        ]
        pages[title] = "\n\n".join([f"# {title}", *directives]) + "\n"
    if left:
        raise ValueError(f"no group in docs/hooks.py has {sorted(left)}")
    return pages
