"The documentation: no dead link, nothing left out; README, reference pages and site are made from what is committed."

import ast
import doctest
import html
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

import vtg_r1
from vtg_r1.ablations import published_table
from vtg_r1.cli import app
from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.runtime import project_root
from vtg_r1.runs.verdicts import claim_record

ROOT = project_root()
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PAGES = [
    *NOTEBOOKS,
    *(
        p
        for p in (ROOT / n for n in ("README.md", "perf/README.md", "outputs/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))
        if p.is_file()
    ),
]


def cells(path: Path, kind: str) -> list[str]:
    "Sources of the cells of one kind in a notebook."
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def prose(path: Path) -> str:
    "What a page says in Markdown, code left out."
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n\n".join(cells(path, "markdown"))
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", "``", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def links(text: str) -> list[str]:
    "Targets of Markdown links that stay within the project."
    return [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith(("http:", "https:", "mailto:", "#"))]


def load(path: Path):
    "A Python file as a module."
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    dead = [target for target in links(prose(page)) if not (page.parent / unquote(urlsplit(target).path)).exists()]
    assert not dead, f"{page.relative_to(ROOT)} links to {dead}"


def test_the_link_finder_takes_links_within_the_project_only():
    assert links("see [a](b.ipynb), ![c](../d.png), [e](https://f.g), [h](#i)") == ["b.ipynb", "../d.png"]


def test_every_notebook_has_its_line_in_the_tree():
    index = json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))
    navigation = load(ROOT / "docs/conf.py").navigation(index)
    told = ["/nbs/index", *(page for caption, pages in navigation.items() if caption not in ("Reference", "Beside the notebooks") for page in pages)]
    there = ["/" + p.relative_to(ROOT).with_suffix("").as_posix() for p in NOTEBOOKS]
    assert sorted(told) == there, "the tree in nbs/index.ipynb and the notebooks in nbs/ differ"


def test_readme_is_made_from_the_index_notebook(tmp_path):
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(
        ["make", "-s", "-o", "install", "readme-text", f"README={tmp_path / 'README.md'}"], cwd=ROOT, env=env, check=True, capture_output=True
    )
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == (ROOT / "README.md").read_text(encoding="utf-8"), "run `make readme`"


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_do_not_set_a_look_of_their_own_for_figures(page):
    assert not any("set_theme(" in source for source in cells(page, "code")), "draw with vtg_r1.core.plots.style()"


MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]*\w")  # of what matches, GitHub and JupyterLab make an e-mail link


def markdown_of(page: Path) -> str:
    "The Markdown of a page and of its outputs, without code and link targets."
    text = prose(page)
    if page.suffix == ".ipynb":
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            text += "".join("\n\n" + "".join(o.get("data", {}).get("text/markdown", "")) for o in cell.get("outputs", []))
    return re.sub(r"`[^`\n]+`", "``", re.sub(r"\]\([^)]*\)", "]()", text))


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_metric_becomes_an_email_link(page):
    "Outside code, GitHub and JupyterLab make an e-mail link of R1@0.5."
    assert MAIL.findall(markdown_of(page)) == []


def test_the_search_for_email_links_finds_a_metric_in_plain_text(tmp_path):
    (tmp_path / "page.md").write_text("R1@0.5 rises, `R1@0.7` and [pass](a@b.c) do not, R1@m neither.")
    assert MAIL.findall(markdown_of(tmp_path / "page.md")) == ["R1@0.5"]


# ---- the reference pages ----


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return load(ROOT / "docs/reference.py").pages(ROOT / "vtg_r1")


PUBLIC = [name for name in vtg_r1.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", PUBLIC)
def test_help_tells_arguments_result_and_an_example_that_runs(name):
    documented = getattr(vtg_r1, name)
    text = inspect.getdoc(documented)
    told = re.findall(r"^    (\w+): ", text.split("Args:\n")[1].split("\n\n")[0], re.MULTILINE)
    assert told == list(inspect.signature(documented).parameters)
    assert "Returns:\n" in text or inspect.isclass(documented)
    examples = doctest.DocTestFinder(recurse=False).find(documented, name, globs={})
    results = [doctest.DocTestRunner().run(example) for example in examples]
    assert sum(r.attempted for r in results) > 0 and sum(r.failed for r in results) == 0


def test_the_public_page_shows_what_help_shows(reference):
    sections = dict(zip(*[iter(re.split(r"^## (\w+)$", reference["index"], flags=re.MULTILINE)[1:])] * 2))
    plain = {name: re.sub(r"\\([^A-Za-z0-9\s])", r"\1", section) for name, section in sections.items()}
    for name in PUBLIC:
        lines = [line.strip() for line in inspect.getdoc(getattr(vtg_r1, name)).splitlines()]
        lost = [line for line in lines if line and not line.endswith(":") and line.split(": ", 1)[-1] not in plain[name]]
        assert not lost, name


def test_every_public_name_of_every_module_is_on_its_page(reference):
    modules = [m for m in load(ROOT / "vtg_r1/_modidx.py").d["syms"] if m.split(".")[1] not in ("experiments", "cli")]
    assert len(modules) > 60
    for module in modules:
        page = reference["stages" if module.count(".") == 1 else module.split(".")[1]]
        section = page.split(f"\n## {module}\n")[1].split("\n## ")[0]
        told = set(re.findall(r"^### (\w+)$", section, re.MULTILINE))
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
        listed = re.search(r"^__all__ = (\[.*?\])", source, re.MULTILINE | re.DOTALL)
        names = set(ast.literal_eval(listed[1]) if listed else re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", source, re.MULTILINE))
        assert names == told, module


def test_reference_entries_have_signature_comments_defaults_and_result(reference):
    entry = reference["core"].split("\n### markdown_table\n")[1].split("\n###")[0].split("\n## ")[0]
    assert "markdown_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str" in entry
    assert "- `rows`: cells of each row, in the order of `head`" in entry and "- *returns* without a newline at the end" in entry
    assert '- `cases`: \\{"title", "pictures"' in reference["core"], "the comment behind a type of several lines"
    assert "- `epochs`: Passes over the cold-start set. Default: `1.0`, in the paper `1`." in reference["stages"]


def test_every_command_and_option_is_on_the_command_page(reference):
    def walk(command, path):
        yield path, command
        for name, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{path} {name}")

    sections = dict(zip(*[iter(re.split(r"^#+ `?(vtg-r1[\w -]*|The command line)`?$", reference["cli"], flags=re.MULTILINE)[1:])] * 2))
    commands = dict(walk(typer.main.get_command(app), "vtg-r1"))
    assert len(commands) > 12 and set(commands) - {"vtg-r1"} == set(sections) - {"The command line"}
    for path, command in commands.items():
        options = {option for p in command.params for option in p.opts if option.startswith("--") and not p.hidden}
        section = sections.get(path, sections["The command line"])
        assert [o for o in options if not re.search(rf"{o}(?![\w-])", section)] == [], path
    assert not re.search(r"^\* `\w[\w-]*`: .*\.\.\.$", reference["cli"], re.MULTILINE), "the help of a command is cut short"


def shown_words(markdown: str) -> str:
    "The text of the rendered page, with one space between words."
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("commonmark", {"html": True}).render(markdown)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", rendered)).split())


def test_the_command_page_shows_every_word_of_the_help(reference):
    "Words in angle brackets, such as outputs/<stage>/<run>/, must not be read as HTML, and no control character may be left."
    page = shown_words(reference["cli"])
    helps = [command.help for command in commands_below(typer.main.get_command(app))]
    assert len(helps) > 12 and [text for text in helps if " ".join(text.split()) not in page] == []
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", reference["cli"])
    assert shown_words("runs of outputs/<stage>/") == "runs of outputs//", (
        "the comparison proves nothing: an unescaped word in angle brackets must be lost"
    )


def commands_below(group) -> list:
    "Every command below a group, groups too."
    return [each for command in group.commands.values() for each in (command, *(commands_below(command) if hasattr(command, "commands") else ()))]


@pytest.fixture
def index(tmp_path):
    "The functions of the index notebook as a module that reads results from an empty folder."
    lines = [line for source in cells(ROOT / "nbs/index.ipynb", "code") for line in source.splitlines() if not line.startswith("display(")]
    (tmp_path / "index_code.py").write_text("\n".join(lines), encoding="utf-8")
    module = load(tmp_path / "index_code.py")
    module.root = tmp_path
    return module


def test_index_shows_nothing_where_no_results_are_committed(index):
    assert index.claims_table().data == "" and index.screen().data == ""


def test_index_shows_the_picture_of_the_demo_where_it_is_committed(index, tmp_path):
    (tmp_path / "outputs/reference/screens").mkdir(parents=True)
    (tmp_path / "outputs/reference/screens/demo.png").write_bytes(b"")
    assert "](../outputs/reference/screens/demo.png)" in index.screen().data


def test_index_shows_the_verdicts_and_scores_of_the_claims_grid(index, tmp_path):
    folder = tmp_path / "outputs/reference/claims"
    folder.mkdir(parents=True)
    arms = {"sft": {"label": "SFT only"}, "r1": {"label": "R1"}}
    scored = {
        "sft": {s: {"final/mIoU": 50.0 + s, "final/ood-a/mIoU": 40.0} for s in range(5)},
        "r1": {s: {"final/mIoU": 70.0 + 2 * s, "final/ood-a/mIoU": 45.0} for s in range(5)},
    }
    claims = {
        "C1": {"text": "RL lifts", "effects": [{"name": "in domain", "contrast": {"r1": 1, "sft": -1}, "min_effect": 0.05}]},
        "C4": {"text": "Longer helps", "untestable": "no need", "effects": []},
    }
    write_json(folder / "claims.json", [claim_record(name, claim, scored, arms) for name, claim in claims.items()])
    write_json(folder / "manifest.json", {"device": "a machine"})
    write_json(folder / "metrics.json", {"n_seeds": 5, "runs": 10, "seconds_of_runs": 7200.0})
    for table in (3, 4, 6):
        published_table([{"arm": "sft", "values": [20.87, 8.10, 46.14]}, {"arm": "r1", "values": [30.41, 26.38, 48.78]}], scored, arms).to_csv(
            folder / f"table_{table}.csv"
        )
    said = index.claims_table().data
    assert "| C1 RL lifts | **supported** | in domain: +22.0 [" in said and "| C4 Longer helps | **untestable here** |  |" in said
    assert "over 5 seeds, 10 runs of one thread that took 2.0 hours together on a machine" in said
    assert "| 3 | SFT only | 20.87 / 8.10 / 46.14 | 52.0 ± 2.0 | 40.0 |" in said and said.count("| R1 |") == 3


def test_the_stored_outputs_of_the_index_are_those_of_the_committed_results(index):
    index.root = ROOT
    shown = [
        "".join(o["data"]["text/markdown"])
        for c in json.loads((ROOT / "nbs/index.ipynb").read_text(encoding="utf-8"))["cells"]
        for o in c.get("outputs", [])
    ]
    assert shown == [index.score_table().data, index.claims_table().data, index.map_section().data, index.screen().data], "run `make readme`"
    found = json.loads((ROOT / "outputs/reference/grpo/toy-s0/metrics.json").read_text())
    assert f"| after RL | {found['final/mIoU']:.1f} |" in shown[0] and f"n = {found['n']} held-out" in shown[0]


class Page(HTMLParser):
    "Links, sources and anchors of a page."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.sources, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        at = dict(attrs)
        self.anchors |= {at[k] for k in ("id", "name") if at.get(k)}
        if tag == "a" and at.get("href"):
            self.links.append(at["href"])
        self.sources += [at[k] for k in ("src", "href") if at.get(k) and tag in ("script", "img", "link", "iframe", "source")]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    "The site, built like that of `make docs`: any warning is an error."
    out = tmp_path_factory.mktemp("docs") / "html"
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", str(ROOT / "docs"), str(ROOT), str(out)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_site_holds_every_notebook(site):
    missing = [p for p in NOTEBOOKS if not (site / p.relative_to(ROOT).with_suffix(".html")).is_file()]
    assert not missing and 'url=nbs/index.html"' in (site / "index.html").read_text()


@pytest.mark.slow
def test_site_needs_no_network_and_has_no_dead_link(site):
    pages = {p: Page(p) for p in site.rglob("*.html")}
    remote = {s for page in pages.values() for s in page.sources if s.startswith(("http:", "https:", "//"))}
    assert not remote
    dead = []
    for path, page in pages.items():
        for target in (t for t in [*page.links, *page.sources] if not urlsplit(t).scheme):
            parts = urlsplit(target)
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.exists() or (parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].anchors):
                dead.append((path.relative_to(site).as_posix(), target))
    assert not dead


@pytest.mark.slow
def test_stage_pages_show_the_outputs_of_the_reference_run(site):
    page = (site / "nbs/05_grpo.html").read_text(encoding="utf-8")
    assert "outputs/reference/grpo/toy-s0" in page and page.count("<img") >= 3
    assert "#| export" not in page and "%|█" not in page
    assert "before RL" in page and "<math" in (site / "nbs/parts/train/shared_prefix.html").read_text(encoding="utf-8")


def test_a_published_page_has_the_outputs_of_its_run_and_counts_the_cells_changed_since(tmp_path, monkeypatch):
    conf, outputs = load(ROOT / "docs/conf.py"), load(ROOT / "docs/outputs.py")
    code = lambda id, source, *texts: {
        "cell_type": "code",
        "id": id,
        "metadata": {},
        "source": source,
        "outputs": [{"output_type": "stream", "name": name, "text": text} for name, text in texts],
    }
    title = {"cell_type": "markdown", "id": "t", "metadata": {}, "source": "# 09"}
    run = tmp_path / "grpo/toy"
    run.mkdir(parents=True)
    then = [
        title,
        code("a", "#| eval: false\nold", ("stdout", "x\n"), ("stderr", "50%|█")),
        code("b", "#| eval: false\nsame", ("stdout", "[IPKernelApp] WARNING\nvalue\n")),
        code("c", "lesson", ("stdout", "then")),
        code("d", "#| eval: false\nbar", ("stdout", "99%|█\n")),
    ]
    (run / "09_x.ipynb").write_text(json.dumps({"cells": then}))
    monkeypatch.setattr(conf, "ROOT", tmp_path)
    now = [
        title,
        code("z", "#| default_exp x"),
        code("a", "#| eval: false\nnew"),
        code("b", "#| eval: false\n(same)"),
        code("c", "lesson", ("stdout", "now")),
        code("d", "#| eval: false\nbar", ("stdout", "of JupyterLab")),
        code("e", "#| eval: false\nadded since", ("stdout", "of JupyterLab")),
    ]
    notebook = outputs.filled({"cells": now}, outputs.executed_cells(run, "09_x"))
    assert [["".join(o["text"]) for o in c["outputs"]] for c in notebook["cells"][2:]] == [["x\n"], ["value\n"], ["now"], [], []]
    page = conf.published(notebook, run, "09_x")["cells"]
    assert [c["id"] for c in page] == ["t", "whose-outputs", "a", "b", "c", "d", "e"] and "1 of its cells" in page[1]["source"]
    assert page[2]["source"] == "new"
