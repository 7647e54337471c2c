"""The order of the package's folders: a module imports from its own folder and from the layers below it.

Imports inside functions count too. A name of `vtg_r1.__all__` is imported from its module, not from the top, which lies above all layers. A folder, or a stage at the top of the package, is called a room here. Stages may import each other without cycles."""

import ast
from pathlib import Path

import pytest

from vtg_r1.core.runtime import project_root

PACKAGE = project_root() / "vtg_r1"
STAGES = ("curation", "rewards", "sft", "difficulty", "grpo", "ablations", "benchmarks")
LAYERS = [{"core"}, {"runs", "video"}, {"data"}, {"models"}, {"train", "pages"}, {*STAGES}, {"cli", "experiments"}]  # rooms, the lowest first


def module_names(package: Path) -> dict[str, Path]:
    "Dotted name → file of every module, without the package's own name."
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if path.name != "_modidx.py":
            found[".".join(parts).removesuffix(".__init__").replace("__init__", "")] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> list[tuple[str, str]]:
    "(module, name) of every import of the package's own modules; the name is empty where the module itself is taken."
    found = []
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [p for p in package if p]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(a.name.removeprefix("vtg_r1."), "") for a in node.names if a.name.startswith("vtg_r1.")]
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package[: len(package) - node.level + 1]
        elif (node.module or "").split(".")[0] == "vtg_r1":
            base = []
        else:
            continue
        module = ".".join([*base, *(node.module or "").removeprefix("vtg_r1").strip(".").split(".")]).strip(".")
        for a in node.names:
            inner = f"{module}.{a.name}".strip(".")
            found.append((inner, "") if inner in known else (module, a.name))
    return found


def room(module: str) -> str:
    "The folder of a module; a stage is a room of its own."
    return module.split(".")[0]


def level(module: str) -> int:
    return next(i for i, rooms in enumerate(LAYERS) if room(module) in rooms)


def problems(package: Path) -> list[str]:
    "Imports that run upward, sideways into another room of the same layer, or to the top of the package; cycles; and private names of other modules."
    names = module_names(package)
    edges: dict[str, set[str]] = {name: set() for name in names}
    found = []
    for name, path in names.items():
        for target, taken in imports(name, path, set(names)):
            if not target and name and taken not in ("", "__version__"):
                found.append(f"{name} takes {taken} from the top of the package")
            if target == name or not target:
                continue
            if taken.startswith("_") and taken != "__version__":
                found.append(f"{name} takes the private name {taken} from {target}")
            if not name:
                continue  # vtg_r1/__init__.py imports only when a name is asked for
            edges[name].add(target)
            if level(target) > level(name) or (level(target) == level(name) and room(target) != room(name) and room(name) not in STAGES):
                found.append(f"{name} imports {target}, which does not lie below it")
    return found + [f"cycle: {' → '.join(cycle)}" for cycle in cycles(edges)]


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    "Cycles of imports, at least one where modules import each other in a circle."
    done, found = set(), []

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append([*trail[trail.index(name) :], name])
            return
        if name in done:
            return
        for target in sorted(edges.get(name, ())):
            visit(target, [*trail, name])
        done.add(name)

    for name in sorted(edges):
        visit(name, [])
    return found


def test_imports_run_downward():
    assert problems(PACKAGE) == []


def test_the_top_of_the_package_holds_only_stages():
    assert {p.stem for p in PACKAGE.glob("*.py")} == {"__init__", "_modidx", *STAGES}


@pytest.mark.parametrize(
    ("where", "line", "problem"),
    [
        ("core/low.py", "def f():\n    from vtg_r1.train.high import g", "core.low imports train.high"),
        ("core/low.py", "def f():\n    from ..train import high", "core.low imports train.high"),
        ("core/low.py", "import vtg_r1.grpo", "core.low imports grpo"),
        ("core/low.py", "def f():\n    from vtg_r1 import tiou_reward", "core.low takes tiou_reward from the top"),
        ("core/low.py", "from .. import tiou_reward", "core.low takes tiou_reward from the top"),
        ("video/low.py", "from ..runs.run import start", "video.low imports runs.run"),
        ("train/high.py", "from ..core.low import _secret", "takes the private name _secret"),
        ("core/other.py", "def f():\n    from .low import x", "cycle: core.low → core.other → core.low"),
    ],
)
def test_the_search_finds_every_kind_of_wrong_import(where, line, problem, tmp_path):
    for path, text in {"core/low.py": "from .other import y", "core/other.py": "", "train/high.py": "from ..core.low import x"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    for path in ("runs/run.py", "grpo.py", "video/reader.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("")
    assert problems(tmp_path) == []
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "\n" + line + "\n")
    assert any(problem in p for p in problems(tmp_path))
