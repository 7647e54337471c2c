"The package as others install it: light to import, whole in its wheel."

import os
import subprocess
import sys
import time
import zipfile

import pytest

from vtg_r1.runs import project_root

LIGHT = ["vtg_r1", "vtg_r1.spans", "vtg_r1.samples", "vtg_r1.prompts", "vtg_r1.rewards", "vtg_r1.metrics", "vtg_r1.datasets", "vtg_r1.cli"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'trl', 'pandas', 'seaborn', 'nbdev', 'fastcore', 'datasets') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_import_takes_under_two_seconds(tmp_path):
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import vtg_r1"], cwd=tmp_path, check=True)
    assert time.monotonic() - start < 2


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(project_root())], check=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_modules_and_the_embedded_model(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"vtg_r1/grpo.py", "vtg_r1/py.typed", "vtg_r1/assets/tiny/model.safetensors", "vtg_r1/assets/tiny/tokenizer.json"} <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "nbs/", "outputs/"))]


def test_wheel_works_in_an_environment_with_numpy_alone(wheel, tmp_path):
    python = tmp_path / "env/bin/python"
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)], env=clean, cwd=tmp_path, check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", "numpy"], env=clean, cwd=tmp_path, check=True)
    code = "import vtg_r1.rewards, vtg_r1.spans, vtg_r1.metrics; print(vtg_r1.rewards.tiou_reward(['<time>[3, 9]</time>'], [[[3, 9]]]))"
    out = subprocess.run([str(python), "-c", code], env=clean, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[1.0]"
