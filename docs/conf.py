"""The documentation site: the notebooks as they are committed, with their outputs, and reference pages made from the code. Nothing is executed, and nothing is fetched, when it is built or when it is read."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]


def beside(name: str) -> ModuleType:
    "The module of a Python file in this folder."
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, stage_outputs = beside("reference"), beside("outputs")

project, author, copyright = "VTG-R1", "The VTG-R1 team", "2026, The VTG-R1 team"
extensions = ["myst_nb"]
root_doc = "nbs/index"
BESIDE = [
    p
    for p in (
        "docs/reproduce",
        "docs/models",
        "docs/engines",
        "docs/sharing",
        "docs/formats",
        "perf/README",
        "outputs/README",
        "CONTRIBUTING",
        "CHANGELOG",
        "SECURITY",
    )
    if (ROOT / f"{p}.md").is_file()
]
REFERENCE_PAGES = ("index", "cli", "stages", "core", "runs", "video", "data", "models", "train", "pages")  # made by docs/reference.py
include_patterns = ["nbs/**", "docs/reference/*.md", *(f"{p}.md" for p in BESIDE)]
exclude_patterns = [".*", "**/.*", "_*", "build", "dist", "docs/static", "examples", "outputs/[!R]*", "tests", "vtg_r1"]

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "image/svg+xml", None)]
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
smartquotes_action = "qe"  # quotes and ellipses; `--option` in a sentence stays what one types

html_theme = "furo"
html_title = "VTG-R1"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "monokai"


def navigation(index: dict) -> dict[str, list[str]]:
    "Pages by caption, in the order of the tree that the index shows."
    tree = next(text for c in index["cells"] if "\n  index.ipynb " in (text := "".join(c["source"])))
    stages = [name for name in re.findall(r"^  (\w+)\.ipynb ", tree, re.MULTILINE) if name != "index"]
    pages: dict[str, list[str]] = {"Stages": [f"/nbs/{n}" for n in stages]}
    folder = caption = ""
    for line in tree.splitlines():
        if head := re.match(r"  (\w+)/  ", line):  # parts/, experiments/
            folder = caption = head[1]
        elif head := re.match(r"    (\w+)/$", line):  # a package of the parts
            folder, caption = f"parts/{head[1]}", head[1]
        elif names := re.match(r" {4,6}(\w+(?:, \w+)*)  ", line):
            pages.setdefault(caption.capitalize(), []).extend(f"/nbs/{folder}/{n}" for n in names[1].split(", "))
    return {**pages, "Reference": [f"/docs/reference/{p}" for p in REFERENCE_PAGES], "Beside the notebooks": [f"/{p}" for p in BESIDE]}


def toctrees(index: dict) -> dict:
    "The cell that gives the site its navigation; it is not in the index itself, which is a README too."
    text = "\n\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n" + "\n".join(pages) + "\n```" for caption, pages in navigation(index).items()
    )
    return {"cell_type": "markdown", "id": "navigation", "metadata": {}, "source": text}


def without_directives(cell: dict) -> dict:
    "A code cell without nbdev's directives; a cell that is exported to the package gets the tag `export`."
    lines = "".join(cell["source"]).split("\n")
    directives = [line for line in lines if line.startswith("#|")]
    tags = ["export"] if any("export" in d for d in directives) else []
    return {
        **cell,
        "source": "\n".join(line for line in lines if line not in directives),
        "metadata": {**cell["metadata"], "tags": [*cell["metadata"].get("tags", []), *tags]},
    }


def note(run: Path, edited: int) -> dict:
    "A cell that names the run whose outputs a page shows."
    about = json.loads((run / "manifest.json").read_text(encoding="utf-8")) if (run / "manifest.json").is_file() else {}
    where = f" on {about['device']}" if about.get("device") else ""
    since = f" {edited} of its cells have been edited since." if edited else ""
    text = f"The outputs of the cells that take long are those of the committed run `{run.relative_to(ROOT).as_posix()}`{where}.{since}"
    return {"cell_type": "markdown", "id": "whose-outputs", "metadata": {}, "source": f"```{{note}}\n{text}\n```"}


def to_pages(text: str, up: str) -> str:
    "Links to executed reference notebooks lead to the pages that show their outputs."
    return re.sub(r"\]\((?:\.\./)+outputs/reference/[^)]*?(\d\d_\w+\.ipynb)\)", rf"]({up}\1)", text)


def published(notebook: dict, run: Path | None, name: str) -> dict:
    "A notebook as its page shows it."
    executed = stage_outputs.executed_cells(run, name)
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            if "".join(cell["source"]).startswith(("#| default_exp", "#| hide")):
                continue
            cell = without_directives(cell)
            if name == "index":
                cell["metadata"]["tags"].append("remove-input")
        cells.append(cell)
    if executed:
        cells.insert(1, note(run, stage_outputs.edited_since(notebook, executed)))
    if name == "index":
        cells.append(toctrees(notebook))
    return {**notebook, "cells": cells}


def on_start(app) -> None:
    "Make the reference pages from the code."
    reference.write_pages(ROOT, ROOT / "docs/reference")


def on_source(app, docname: str, source: list[str]):
    "Prepare a notebook before it is parsed."
    if app.env.doc2path(docname).suffix == ".ipynb":
        name = docname.rsplit("/", 1)[-1]
        source[0] = to_pages(json.dumps(published(json.loads(source[0]), stage_outputs.reference_run(name), name)), "../" * (docname.count("/") - 1))


def mathml(display: str):
    "A visitor that writes a formula as MathML, which browsers show without a script."

    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit


def on_finished(app, error):
    "The site's root leads to the index."
    if not error:
        (Path(app.outdir) / "index.html").write_text(
            '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=nbs/index.html"><a href="nbs/index.html">VTG-R1</a>\n',
            encoding="utf-8",
        )


def setup(app):
    "Called by Sphinx."
    app.add_html_math_renderer("mathml", (mathml("inline"), None), (mathml("block"), None))
    app.connect("builder-inited", on_start)
    app.connect("source-read", on_source)
    app.connect("build-finished", on_finished)
