"A policy's key is that of everything that decides its answers."

import json
import shutil

import pytest

from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.runtime import RunError, UserError
from vtg_r1.models.loading import TINY, TINY_PATH, load_model, model_fingerprint, producing_run, record_policy
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


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    "Saved under other names, as another version or framework leaves them: transformers would fill them with random numbers."
    from safetensors.torch import load_file, save_file

    from vtg_r1.models.tiny import build_tiny

    model, processor = build_tiny()
    for folder in ("whole", "renamed"):
        model.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
    file = tmp_path / "renamed/model.safetensors"
    weights = {name.replace("layers.1.mlp.", "layers.1.ffn."): weight for name, weight in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})
    assert load_model(str(tmp_path / "whole"), "cpu").num_parameters() == model.num_parameters()  # tied weights are not missing
    with pytest.raises(
        UserError, match=r"3 of its weights are not in its files, e\.g\. .*layers\.1\.mlp\.down_proj.*3 in its files .*layers\.1\.ffn"
    ):
        load_model(str(tmp_path / "renamed"), "cpu")


@pytest.mark.parametrize("setting", [dict(sequence_bias=[[[74], 5.0]]), dict(num_return_sequences=3), dict(min_p=0.5)], ids=str)
def test_rollouts_are_not_drawn_by_a_checkpoint_s_own_settings(setting):
    "The update would compute other probabilities than those that were drawn from. What TRL sets itself is no obstacle."
    from vtg_r1.models.generation import refuse_own_settings
    from vtg_r1.models.tiny import build_tiny

    model, _ = build_tiny()
    model.generation_config.update(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05, do_sample=True)
    model.generation_config.presence_penalty = 1.5  # for other engines: transformers does not know it
    refuse_own_settings(model, "mine")
    model.generation_config.update(**setting)
    with pytest.raises(UserError, match=f"model mine: its generation_config.json sets {next(iter(setting))}"):
        refuse_own_settings(model, "mine")
