"What `vtg-r1 push` would send: safetensors and a model card made from the manifest, without names of private folders."

import json
import re

import pytest

from vtg_r1.cli import main
from vtg_r1.models.tiny import build_tiny
from vtg_r1.runs.run import start_run
from vtg_r1.train.trainer import save_policy


@pytest.fixture
def run(tmp_path):
    "A finished run with a model. Its model folder also has two files that must not be sent."
    run = start_run(
        "grpo", "mine", {"seed": 3, "model": "Qwen/Qwen2.5-VL-3B-Instruct", "annotations": "/home/somebody/rl.jsonl", "steps": 2}, tmp_path
    )
    source = tmp_path / "rl.jsonl"
    source.write_text("{}\n")
    run.add_input(source, "annotations")
    run.add_input(source, "reward /home/somebody/my_rewards.py:boundary")
    save_policy(*build_tiny(0), run.path / "model")
    (run.path / "model/optimizer.pt").write_bytes(b"pickle")
    (run.path / "model/.secret").write_text("token")
    run.save_metrics({"final/mIoU": 41.25, "n": 12, "seed": 3})
    run.finish()
    return run


def test_a_dry_run_shows_exactly_what_would_be_sent(run, capsys):
    assert main(["push", str(run.path), "me/mine", "--dry-run"]) == 0
    out = capsys.readouterr().out
    sizes = {name: int(size.replace(",", "")) for size, name in re.findall(r"^ *([\d,]+)  (\S+)$", out, re.MULTILINE)}
    sent = set(sizes)
    present = {p.name for p in (run.path / "model").iterdir()}
    assert sent == present - {"optimizer.pt", ".secret"} | {"README.md"} and "model.safetensors" in sent
    assert {line.split()[1] for line in out.splitlines() if line.strip().startswith("stays")} == {"optimizer.pt", ".secret"}
    for text in (
        "| final/mIoU | 41.25 |",
        "seed 3",
        "base_model: Qwen/Qwen2.5-VL-3B-Instruct",
        "| annotations | rl.jsonl |",
        json.loads((run.path / "manifest.json").read_text())["inputs"]["annotations"]["sha256"],
    ):
        assert text in out
    assert "somebody" not in out and run.manifest["host"] not in out.replace("\n", " ").split()
    assert all(size == (run.path / "model" / name).stat().st_size for name, size in sizes.items() if name != "README.md")
    assert f"dry run: {len(sent)} files, {sum(sizes.values()):,d} bytes would go to model me/mine" in out


@pytest.mark.parametrize("key, named", [("models/mine@3f1c", True), ("models/mine", True), ("9f86d081884c7d65", False)])
def test_a_folder_with_one_slash_is_no_base_model_of_the_hub(run, key, named):
    from vtg_r1.pages.hub import card

    run.record(parameters={**run.manifest["parameters"], "model": "models/mine"}, policy={"path": "models/mine", "key": key})
    assert ("base_model: models/mine" in card(run.path, "me/mine")) == named


def test_only_finished_runs_with_safetensors_are_sent(run, tmp_path, capsys):
    (run.path / "model/model.safetensors").rename(run.path / "model/pytorch_model.bin")
    assert main(["push", str(run.path), "me/mine", "--dry-run"]) == 2 and "no .safetensors there" in capsys.readouterr().err
    start_run("grpo", "going", {"seed": 0}, tmp_path)
    assert main(["push", str(tmp_path / "grpo/going"), "me/mine", "--dry-run"]) == 2 and "the run is running" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "none"), "me/mine"]) == 2 and "no run there" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mine", "me/", "/mine", "me/you/mine", "me/my model", "me /mine", "me/a--b", "me/mine.git", "me/é"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_name_that_the_hub_does_not_take_is_refused_before_the_run_is_read(tmp_path, name, dry_run, capsys):
    assert main(["push", str(tmp_path / "no run there"), name, *["--dry-run"] * dry_run]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"vtg-r1 push: repository {name!r}: write OWNER/NAME") and err.count("\n") == 1


def test_a_hub_that_cannot_be_reached_is_named_in_the_error(run, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["push", str(run.path), "me/mine"]) == 1
    assert "the Hub did not take it" in capsys.readouterr().err


def test_an_answer_of_the_hub_in_several_lines_is_one_line(run, capsys, monkeypatch):
    from httpx import HTTPError

    def refuse(*args):
        raise HTTPError("403 Forbidden.\n\nYou may not write\nto this namespace.")

    monkeypatch.setattr("vtg_r1.pages.hub.push", refuse)
    assert main(["push", str(run.path), "me/mine"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "403 Forbidden. You may not write to this namespace." in err


def test_the_card_keeps_a_prompt_that_begins_with_a_slash_and_notes_a_resume(run):
    from vtg_r1.pages.hub import card

    run.record(parameters={**run.manifest["parameters"], "system_prompt": "/no_think Find it, a/b"}, resumed=["earlier"])
    text = card(run.path, "me/mine")
    assert "/no_think Find it, a/b" in text and "somebody" not in text and " s since it was last resumed." in text
