"Settings of the tools agree, workflows and hooks call what exists, notebooks keep their form, and no placeholder of an address is left."

import configparser
import json
import re
import shlex
import shutil
import subprocess
import tomllib

import pytest
import yaml

from vtg_r1.core.runtime import project_root

ROOT = project_root()
SETTINGS = configparser.ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
INI = SETTINGS["DEFAULT"]
TOML = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_pyproject_and_settings_ini_give_nbdev_the_same_values():
    given = TOML["tool"]["nbdev"]
    assert {name: INI[name] for name in given if name != "allowed_cell_metadata_keys"} == {n: v for n, v in given.items() if isinstance(v, str)}
    assert given["allowed_cell_metadata_keys"] == INI["allowed_cell_metadata_keys"].split()


def test_the_project_table_agrees_with_settings_ini():
    project = TOML["project"]
    assert (project["name"], project["requires-python"]) == (INI["lib_name"], f">={INI['min_python']}")
    assert {"version", "dependencies", "optional-dependencies", "scripts"} <= set(project["dynamic"]), "setup.py reads them from settings.ini"


def steps(path) -> list[dict]:
    "The steps of a workflow's jobs."
    return [step for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_call_make_targets_and_scripts_that_exist(path):
    commands = [shlex.split(part) for step in steps(path) for part in step.get("run", "").split("&&") if part.strip()]
    made = [word for words in commands if words[0] == "make" for word in words[1:] if not word.startswith("-")]
    assert commands and set(made) <= TARGETS
    assert all((ROOT / words[0]).is_file() for words in commands if words[0].startswith(".ci/"))
    assert all(re.fullmatch(r"[\w./-]+@[\w./-]+", step["uses"]) for step in steps(path) if "uses" in step)


def test_a_release_tag_must_be_the_version_in_settings_ini():
    check = next(step["run"] for step in steps(ROOT / ".github/workflows/release.yml") if "settings.ini" in step.get("run", ""))
    for tag, code in ((f"v{INI['version']}", 0), ("v9.9.9", 1)):
        assert subprocess.run(["bash", "-c", check], cwd=ROOT, env={"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}, check=False).returncode == code


def test_hooks_call_tools_that_the_development_environment_has():
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"] for hook in repo["hooks"]]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    needed = {"nbdev_export": "nbdev==", "nbdev_clean": "nbdev==", "ruff": "ruff>="}
    assert tools == set(needed) and all(requirement in INI["dev_requirements"] for requirement in needed.values())


def test_the_dev_container_installs_with_make_install():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make install" and container["customizations"]["vscode"]["settings"][
        "python.defaultInterpreterPath"
    ].startswith(".venv")


def test_notebooks_have_the_form_that_nbdev_writes():
    "Otherwise `make outputs`, `make export` or JupyterLab would change a notebook that nobody has edited."
    from execnb.nbio import dict2nb, nb2str
    from nbdev.clean import clean_nb

    changed = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        notebook = dict2nb(json.loads(text))
        clean_nb(notebook, allowed_cell_metadata_keys=INI["allowed_cell_metadata_keys"].split())
        if nb2str(notebook) != text:
            changed.append(path.name)
    assert changed == [], "run nbdev_clean"


def saved_in_jupyterlab(notebook: str, options: list[str], folder) -> bytes:
    "The file that a Jupyter server with these options writes after JupyterLab has opened a notebook, connected a kernel and saved."
    from jupyter_server.services.contents.largefilemanager import LargeFileManager
    from traitlets.config import Config

    config = Config({"ContentsManager": dict(option.removeprefix("--ContentsManager.").split("=") for option in options)})
    (folder / "nbs").mkdir(exist_ok=True)
    shutil.copy(ROOT / "settings.ini", folder)
    shutil.copy(ROOT / notebook, folder / notebook)
    manager = LargeFileManager(root_dir=str(folder), config=config)
    model = manager.get(notebook)
    model["content"]["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    model["content"]["metadata"]["language_info"] = {"name": "python", "version": "3.11.7"}
    manager.save(model, notebook)
    return (folder / notebook).read_bytes()


@pytest.mark.parametrize("notebook", ["nbs/index.ipynb", "nbs/01_curation.ipynb", "nbs/05_grpo.ipynb"])
def test_reading_a_notebook_in_jupyterlab_leaves_its_file_as_it_was(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the server is started in the project's root
    options = re.findall(r"--ContentsManager\.\S+", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert saved_in_jupyterlab(notebook, options, tmp_path) == (ROOT / notebook).read_bytes()
    left = [path.relative_to(tmp_path) for path in (tmp_path / "nbs").rglob("*") if path.is_file() and path != tmp_path / notebook]
    assert all(subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", path], check=False).returncode == 0 for path in left)
    assert saved_in_jupyterlab(notebook, [], tmp_path) != (ROOT / notebook).read_bytes(), (
        "the comparison proves nothing: without the options the file must change"
    )


def test_no_placeholder_of_an_address_is_left():
    files = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout.decode().split("\0")
    texts = [
        ROOT / f
        for f in files
        if f.endswith((".md", ".ini", ".toml", ".yml", ".yaml", ".cff", ".py", ".ipynb")) and not f.startswith(("tests/", "outputs/"))
    ]
    assert [p for p in texts if p.is_file() and "example.invalid" in p.read_text(encoding="utf-8")] == []
