"A policy's key is that of everything that decides its answers."

import json
import shutil

import pytest

from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.runtime import RunError
from vtg_r1.models.loading import TINY, TINY_PATH, model_fingerprint, producing_run, record_policy
from vtg_r1.runs.run import read_manifest, start_run


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY_PATH, tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00002-of-00003.safetensors", "adapter_model.safetensors", "config.json", "chat_template.jinja"]
)
def test_each_file_that_decides_counts(folder, name):
    before = model_fingerprint(str(folder))
    assert before == model_fingerprint(TINY)
    with open(folder / name, "ab") as f:
        f.write(b" ")
    assert model_fingerprint(str(folder)) != before


def test_what_decides_nothing_does_not_count(folder):
    (folder / "README.md").write_text("trained on a Tuesday")
    (folder / "checkpoint-8").mkdir()
    assert model_fingerprint(str(folder)) == model_fingerprint(TINY)


def test_an_adapter_is_another_policy_on_another_base(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"an update")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    before = model_fingerprint(str(adapter))
    (folder / "model.safetensors").write_bytes(b"retrained")
    assert model_fingerprint(str(adapter)) != before


def test_a_hub_id_is_known_by_its_commit(tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    assert hub.HF_HUB_CACHE == str(tmp_path) and model_fingerprint("some/model") == "some/model"
    there = tmp_path / "models--some--model"
    (there / "snapshots" / "c0ffee").mkdir(parents=True)
    (there / "snapshots" / "c0ffee" / "config.json").write_text("{}")
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("c0ffee")
    assert model_fingerprint("some/model") == "some/model@c0ffee"


def test_a_policy_is_noted_with_the_run_that_made_it_and_may_not_change_under_a_run(folder, tmp_path):
    ours = tmp_path / "grpo" / "mine"
    shutil.copytree(folder, ours / "model")
    write_json(ours / "manifest.json", {"stage": "grpo", "status": "finished"})
    assert producing_run(str(ours / "model")) == ours and producing_run(str(folder)) is None and producing_run("some/hub-id") is None
    run = start_run("sft", "a", {"seed": 0}, tmp_path)
    record_policy(run, str(ours / "model"))
    noted = read_manifest(run.path)["policy"]
    assert noted["key"] == model_fingerprint(TINY) and noted["run"].endswith("grpo/mine") and noted["path"].endswith("grpo/mine/model")
    again = start_run("sft", "a", {"seed": 0}, tmp_path, resume=True)
    record_policy(again, str(folder))  # the same weights at another place
    (folder / "model.safetensors").write_bytes(b"trained anew")
    with pytest.raises(RunError, match="has changed since this run began"):
        record_policy(again, str(folder))
