"The fingerprint of a model covers every file that decides its answers. A model that cannot be loaded is refused in one line."

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from vtg_r1.cli import main
from vtg_r1.core.atomic_files import write_json
from vtg_r1.core.runtime import RunError, UserError
from vtg_r1.models.abilities import measure
from vtg_r1.models.loading import (
    TINY,
    TINY_PATH,
    check_model_exists,
    linear_layers,
    load_model,
    load_processor,
    lora_config,
    model_fingerprint,
    producing_run,
    record_policy,
)
from vtg_r1.runs.run import read_manifest, start_run


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY_PATH, tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00002-of-00003.safetensors", "adapter_model.safetensors", "config.json", "chat_template.jinja"]
)
def test_the_fingerprint_changes_with_each_file_that_decides_answers(folder, name):
    before = model_fingerprint(str(folder))
    assert before == model_fingerprint(TINY)
    with open(folder / name, "ab") as f:
        f.write(b" ")
    assert model_fingerprint(str(folder)) != before


def test_the_fingerprint_ignores_files_that_decide_nothing(folder):
    (folder / "README.md").write_text("trained on a Tuesday")
    (folder / "checkpoint-8").mkdir()
    assert model_fingerprint(str(folder)) == model_fingerprint(TINY)


def test_the_fingerprint_of_an_adapter_changes_with_its_base(folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"an update")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    before = model_fingerprint(str(adapter))
    (folder / "model.safetensors").write_bytes(b"retrained")
    assert model_fingerprint(str(adapter)) != before


def test_the_fingerprint_of_a_hub_id_names_its_commit(tmp_path, monkeypatch):
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
def test_a_checkpoints_sampling_settings_that_trl_does_not_set_are_refused(setting):
    "Rollouts would be drawn from other probabilities than the update computes. Settings that TRL sets itself are no obstacle."
    from vtg_r1.models.generation import refuse_own_settings
    from vtg_r1.models.tiny import build_tiny

    model, _ = build_tiny()
    model.generation_config.update(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05, do_sample=True)
    model.generation_config.presence_penalty = 1.5  # for other engines: transformers does not know it
    refuse_own_settings(model, "mine")
    model.generation_config.update(**setting)
    with pytest.raises(UserError, match=f"model mine: its generation_config.json sets {next(iter(setting))}"):
        refuse_own_settings(model, "mine")


# --- a model that cannot be loaded is refused in one line that names the file, the field and the fix ---


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(source, capsys):
    "The one line in which `vtg-r1 check-model` refuses a model."
    capsys.readouterr()
    assert main(["check-model", str(source), "--pixels", "784", "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.strip().count("\n") == 0, err
    return err


def pickled(folder):
    "Replaces the weights in the folder by a pickle."
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapters(folder, base):
    "A folder of LoRA adapters for the embedded model, whose configuration names `base` as their base."
    from peft import get_peft_model

    model = load_model(TINY, "cpu")
    get_peft_model(model, lora_config(model, 4)).save_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=base)
    return folder


def test_weights_as_pickles_are_refused_with_the_line_that_converts_them(folder, capsys):
    pickled(folder)
    line = refusal(folder, capsys)
    assert f"{folder}: holds its weights only as pytorch_model.bin, and only safetensors are loaded" in line
    with pytest.raises(UserError, match="holds its weights only as"):
        check_model_exists(str(folder))  # noticed without reading weights, as in a dry run
    conversion = shlex.split(line.split("Convert it once: ")[1])
    subprocess.run([sys.executable, *conversion[1:]], check=True, capture_output=True)
    assert load_model(str(folder), "cpu").num_parameters() == load_model(TINY, "cpu").num_parameters()


def test_pickles_of_the_hub_are_refused_too(folder, tmp_path, monkeypatch):
    "The message of transformers recommends an option of transformers; ours says how to convert the weights."
    import huggingface_hub.constants as hub

    pickled(folder)
    there = tmp_path / "hub/models--some--model"
    (there / "refs").mkdir(parents=True)
    (there / "refs/main").write_text("c0ffee")
    shutil.copytree(folder, there / "snapshots/c0ffee")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        UserError, match=r"model 'some/model' has no safetensors, and only safetensors are loaded\. Convert it once and give the folder: python"
    ):
        load_model("some/model", "cpu")


CODE = {"AutoConfig": "configuration_mine.Config", "AutoModelForImageTextToText": "modeling_mine.Model"}


def test_code_of_a_model_s_own_is_not_run_and_the_line_says_what_to_do(folder, capsys):
    edit(folder / "config.json", auto_map=CODE)
    load_model(str(folder), "cpu")  # the code is not needed: transformers has a class for its model_type
    edit(folder / "config.json", model_type="mine_chat")
    assert re.search(r"model/config\.json: its auto_map names code .*not run here: give a checkpoint .*-hf", refusal(folder, capsys))
    with pytest.raises(UserError, match="its auto_map names code"):
        check_model_exists(str(folder))


def test_code_of_a_processor_s_own_is_not_run(folder, capsys):
    edit(folder / "processor_config.json", auto_map={"AutoProcessor": "processing_mine.Mine"}, processor_class="Mine")
    assert "model/processor_config.json: its auto_map names code" in refusal(folder, capsys)


@pytest.mark.parametrize("settings", ["{", "[]"])
def test_a_broken_config_is_named(folder, settings, capsys):
    (folder / "config.json").write_text(settings)
    assert re.search(r"model/config\.json: (is|holds) no JSON", refusal(folder, capsys))


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ("{tmp}/gone", "is '{tmp}/gone', and no model is there: put the base back, or write its folder or hub id into the field"),
        (None, "is empty: write the folder or hub id of the model that the adapters were trained on"),
        ("tiny", f"is 'tiny', which has no config.json: write {TINY_PATH}"),  # transformers reads the field, and knows no such name
    ],
)
def test_adapters_without_their_base_name_file_field_and_base(tmp_path, base, problem, capsys):
    ours = adapters(tmp_path / "adapters", base and base.format(tmp=tmp_path))
    said = f"{ours}/adapter_config.json: base_model_name_or_path {problem.format(tmp=tmp_path)}"
    assert said in refusal(ours, capsys)
    for use in (check_model_exists, load_processor, load_model):
        with pytest.raises(UserError, match=re.escape(said)):
            use(str(ours))


def test_adapters_whose_base_is_not_in_the_hubs_cache_name_file_and_field(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refusal(adapters(tmp_path / "adapters", "some/gone-model"), capsys)
    assert f"{tmp_path}/adapters/adapter_config.json: base_model_name_or_path 'some/gone-model' is not in the Hub's cache" in line


def test_adapters_whose_base_cannot_be_loaded_name_file_field_and_problem(folder, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    ours = adapters(tmp_path / "adapters", str(folder))
    named = f"{ours}/adapter_config.json: cannot be loaded on its base_model_name_or_path '{folder}': "
    weights = folder / "model.safetensors"
    lacking = {name: x for name, x in load_file(weights).items() if "layers.1.mlp" not in name}
    save_file(lacking, weights, {"format": "pt"})
    assert f"{named}model {folder}: 3 of its weights are not in its files" in refusal(ours, capsys), "they would be random"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert named in refusal(ours, capsys)
    shutil.copy(TINY_PATH / "model.safetensors", weights)
    pickled(folder)
    assert f"{named}{folder}: holds its weights only as pytorch_model.bin" in refusal(ours, capsys)


def test_adapters_that_do_not_fit_their_configuration_are_refused(tmp_path, capsys):
    ours = adapters(tmp_path / "adapters", str(TINY_PATH))
    edit(ours / "adapter_config.json", r=8)
    assert "the adapters have other shapes than this file and the base give" in refusal(ours, capsys)


def test_weights_of_other_shapes_are_named_with_their_folder(folder, capsys):
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["hidden_size"] *= 2
    edit(folder / "config.json", **settings)
    line = refusal(folder, capsys)
    assert f"{folder}/config.json: does not fit the weights beside it" in line
    assert "the first model.language_model.embed_tokens.weight: [500, 128] in its files, [500, 256] by config.json" in line


def test_of_several_chat_templates_the_default_is_taken(folder):
    own = load_processor(TINY).chat_template
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tools.jinja").write_text("{{ tools }}")
    assert load_processor(str(folder)).chat_template == own
    (folder / "chat_template.jinja").unlink()
    (folder / "additional_chat_templates/video.jinja").write_text(own)
    with pytest.raises(
        UserError, match="has the chat templates tools, video and none that is called default: save the one to use as chat_template.jinja"
    ):
        load_processor(str(folder))
    edit(folder / "processor_config.json", chat_template=[dict(name="tools", template="{{ tools }}"), dict(name="default", template=own)])
    assert load_processor(str(folder)).chat_template == own, "older files hold the templates as a list"
    (folder / "chat_template.jinja").write_text(own)
    assert load_processor(str(folder)).chat_template == own


@pytest.mark.parametrize("settings", [{}, dict(modules_to_save=["up_proj"])], ids=str)
def test_a_model_s_linear_layers_are_the_same_with_adapters_on_them(settings, tmp_path):
    from peft import get_peft_model

    whole = load_model(TINY, "cpu")
    config = lora_config(whole, 4)
    config.target_modules = {name for name in config.target_modules if not settings or not name.endswith("up_proj")}
    config.modules_to_save = settings.get("modules_to_save")
    before = linear_layers(whole)
    get_peft_model(whole, config).save_pretrained(tmp_path)
    assert linear_layers(whole) == before
    loaded = load_model(str(tmp_path), "cpu")
    assert linear_layers(loaded) == before and len(before.names) == 28
    assert measure(loaded, load_processor(str(tmp_path)), ()).as_dict()["linear"]["layers"] == 28
