"The package as others install it: quick to import, complete in wheel and source distribution, one set of requirements. Also: form and length of the code."

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from email import message_from_string

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vtg_r1
from vtg_r1.core.runtime import project_root

LIGHT = [
    "vtg_r1",
    "vtg_r1.core.spans",
    "vtg_r1.core.samples",
    "vtg_r1.core.prompts",
    "vtg_r1.rewards",
    "vtg_r1.core.metrics",
    "vtg_r1.data.readers",
    "vtg_r1.data.official_benchmarks",
    "vtg_r1.data.validation",
    "vtg_r1.curation",
    "vtg_r1.sft",
    "vtg_r1.grpo",
    "vtg_r1.core.plots",
    "vtg_r1.runs.verdicts",
    "vtg_r1.runs.run",
    "vtg_r1.cli",
]
CLEAN = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module):
    heavy = ("torch", "transformers", "trl", "pandas", "seaborn", "matplotlib", "nbdev", "fastcore", "datasets", "openai", "av", "decord")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_are_few_listed_by_their_modules_and_imported_when_asked_for():
    "No public name is also that of a module: one would hide the other."
    assert set(vtg_r1.__all__) <= set(dir(vtg_r1)) and len(vtg_r1.__all__) < 20
    modules = {p.stem for p in (project_root() / "vtg_r1").iterdir()}
    for name in set(vtg_r1.__all__) - {"__version__"}:
        module = importlib.import_module(getattr(vtg_r1, name).__module__)
        assert name in module.__all__ and name not in modules and getattr(module, name) is getattr(vtg_r1, name)
    with pytest.raises(AttributeError, match="no attribute 'tiou_rewrad'"):
        vtg_r1.tiou_rewrad
    code = "import sys, vtg_r1; vtg_r1.paper_reward, vtg_r1.grounding_metrics, vtg_r1.read_samples; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_import_takes_under_two_seconds(tmp_path):
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import vtg_r1"], cwd=tmp_path, check=True)
    assert time.monotonic() - start < 2


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    "A source distribution, and the wheel that is built from it alone."
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "-o", str(folder), str(project_root())], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    return next(dist.glob("*.whl"))


def tracked(folder: str) -> set[str]:
    "Files of a folder that git knows; where there is no checkout, all but caches."
    git = subprocess.run(["git", "ls-files", folder], cwd=project_root(), capture_output=True, text=True, check=False)
    if git.returncode == 0:
        return {name for name in git.stdout.splitlines() if (project_root() / name).is_file()}
    return {str(p.relative_to(project_root())) for p in (project_root() / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}


def test_the_wheel_of_the_source_distribution_holds_the_whole_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n for n in tracked("vtg_r1") if not n.startswith("vtg_r1/experiments/")} <= names and not [n for n in names if "/experiments/" in n]
    assert {"vtg_r1/py.typed", "vtg_r1/assets/tiny/model.safetensors"} <= names
    assert not [n for n in names if n.split("/")[0] != "vtg_r1" and ".dist-info/" not in n]


def test_the_source_distribution_holds_notebooks_and_presets_but_no_outputs(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as tar:
        names = {n.split("/", 1)[1] for n in tar.getnames() if "/" in n}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"} <= names
    assert {n for n in tracked("nbs") | tracked("configs") if n.endswith((".ipynb", ".yaml"))} <= names
    assert not [n for n in names if n.startswith("outputs/") or "__pycache__" in n or n.endswith(".pyc")]


def test_twine_accepts_wheel_and_source_distribution(dist):
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, dist.iterdir())], check=True, capture_output=True)


def test_metadata_names_the_extras_and_bounds_trl(wheel):
    with zipfile.ZipFile(wheel) as z:
        name = next(n for n in z.namelist() if n.endswith("/METADATA"))
        meta = message_from_string(z.read(name).decode())
    assert {"demo", "dev", "teacher", "vllm"} == set(meta.get_all("Provides-Extra")) and meta["Requires-Python"] == ">=3.11"
    needed = [Requirement(r) for r in meta.get_all("Requires-Dist")]
    (trl,) = [r.specifier for r in needed if r.name == "trl" and not r.marker]
    assert trl.contains("1.99") and not trl.contains("2.0")
    assert {"gradio"} == {r.name for r in needed if r.marker and r.marker.evaluate({"extra": "demo"}) and not r.marker.evaluate({"extra": ""})}


def test_wheel_works_in_an_environment_without_torch(wheel, tmp_path):
    "The public names, a reward and the command's help need four light packages. All run outside the checkout."
    python = tmp_path / "env/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    for what in (["--no-deps", str(wheel)], ["numpy", "filelock", "pyyaml", "typer"]):
        subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", *what], env=CLEAN, cwd="/", check=True)
    code = "import vtg_r1; [getattr(vtg_r1, name) for name in vtg_r1.__all__]; print(vtg_r1.tiou_reward(['<time>[3, 9]</time>'], [[[3, 9]]]), vtg_r1.__file__)"
    out = subprocess.run([str(python), "-c", code], env=CLEAN, cwd="/", capture_output=True, text=True, check=True)
    assert out.stdout.startswith("[1.0]") and str(tmp_path) in out.stdout
    helped = subprocess.run([str(tmp_path / "env/bin/vtg-r1"), "ground", "--help"], env=CLEAN, cwd="/", capture_output=True, text=True, check=True)
    assert "vtg-r1 ground" in helped.stdout


def settings() -> dict:
    config = configparser.ConfigParser(delimiters=["="], interpolation=None)
    config.read(project_root() / "settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])


def direct() -> list[Requirement]:
    "Every direct dependency of the package, and of the extras that one needs to work on it."
    found = [
        Requirement(r) for key in ("requirements", "teacher_requirements", "demo_requirements", "dev_requirements") for r in settings()[key].split()
    ]
    return [*found, *(Requirement(r.split(";")[0]) for r in re.findall(r'"(decord[^"]+)"', (project_root() / "setup.py").read_text()))]


def test_the_conda_environment_has_every_direct_dependency_at_a_version_that_fits():
    listed = yaml.safe_load((project_root() / "environment.yml").read_text())["dependencies"]
    pinned = [Requirement(r) for r in next(d["pip"] for d in listed if isinstance(d, dict)) if r != "-e ."]
    assert all(str(r.specifier).startswith("==") for r in pinned)
    version = {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in pinned}
    for needed in direct():
        assert needed.specifier.contains(version[canonicalize_name(needed.name)], prereleases=True), needed
    assert set(version) == {canonicalize_name(r.name) for r in direct()}  # and nothing else


def test_ci_runs_make_test_and_the_issue_forms_are_valid():
    steps = yaml.safe_load((project_root() / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["steps"]
    assert [s["run"] for s in steps if "run" in s] == [".ci/run"] and "make test" in (project_root() / ".ci/run").read_text()
    forms = sorted((project_root() / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert forms
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert path.stem == "config" or (form["name"] and all(part["type"] in ("textarea", "input", "dropdown") for part in form["body"])), path


def modules(exported: bool) -> list:
    "The modules that nbdev exports, or those that are written by hand."
    found = sorted((project_root() / "vtg_r1").rglob("*.py"))
    return [p for p in found if ("AUTOGENERATED" in p.read_text()) == exported and p.name != "_modidx.py"]


def test_code_passes_ruff_check_and_ruff_format():
    """ruff finds nothing to change in what is written by hand.

    pyproject.toml excludes vtg_r1 from `ruff format`, so the modules there that are written by hand are named one by one."""
    for command in (["check"], ["format", "--check"], ["format", "--check", *map(str, modules(exported=False))]):
        done = subprocess.run(["ruff", *command], cwd=project_root(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_exported_modules_are_formatted_but_for_the_lines_of_nbdev(tmp_path):
    "ruff would change nothing in them but `__all__` and the number of blank lines."

    def compared(path):
        text = re.sub(r"^__all__ = .*?\]$", "", path.read_text(), count=1, flags=re.MULTILINE | re.DOTALL)
        return [line for line in text.splitlines() if line]

    exported = modules(exported=True)
    assert len(exported) > 30
    for path in exported:
        (tmp_path / path.name).write_text(path.read_text())
    subprocess.run(["ruff", "format", "--quiet", "--config", str(project_root() / "pyproject.toml"), str(tmp_path)], check=True)
    changed = [p.name for p in exported if compared(p) != compared(tmp_path / p.name)]
    assert not changed


def test_functions_have_at_most_60_lines_without_their_docstring():
    "Docstrings are not counted: those of public names list arguments, result and an example."
    long = []
    for path in (project_root() / "vtg_r1").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
                lines = node.end_lineno - node.lineno + 1 - docstring
                if lines > 60:
                    long.append(f"{path.name}: {node.name}, {lines} lines")
    assert not long
