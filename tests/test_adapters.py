"LoRA on top of a cold start by LoRA: the policy with its adapters off is the reference, and the exported model is merged."

import copy
import dataclasses

import pytest
import torch

from vtg_r1.core.runtime import RunError, set_seed
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.grpo import GRPOParams, grpo_trainer
from vtg_r1.models.loading import load_model, load_processor, lora_config
from vtg_r1.sft import SFTParams, sft_trainer
from vtg_r1.train.preflight import preflight
from vtg_r1.train.trainer import fit, load_policy, merged, save_trained

SMALL = {
    "steps": 2,
    "prompts_per_step": 2,
    "num_generations": 4,
    "per_device_batch_size": 4,
    "learning_rate": 1e-2,
    "max_completion_length": 16,
    "share_prefix": False,
    "lora_rank": 4,
    "warmup_steps": 0,
}


@pytest.fixture(scope="module")
def view(world):
    return VideoInputConfig(str(world / "videos"), 8, 28 * 28, "short")


@pytest.fixture(scope="module")
def cold(world, toy_samples, view, tmp_path_factory):
    "The folder of a cold start by LoRA, merged on export; and the weights of its base."
    set_seed(0)
    folder = tmp_path_factory.mktemp("cold")
    scripts = read_scripts(world)
    taught = [dataclasses.replace(s, teacher=toy_teacher(s, scripts)) for s in toy_samples[:4]]
    model, processor = load_model("tiny", device="cpu"), load_processor("tiny")
    base = copy.deepcopy(model.state_dict())
    params = SFTParams(lora_rank=4, epochs=2, batch_size=4, per_device_batch_size=4, learning_rate=1e-2)
    trainer = sft_trainer(model, processor, taught, view, folder, params)
    fit(trainer, "cold start", {})
    save_trained(trainer, processor, folder / "model")
    return folder / "model", base


def logps(model, batch):
    with torch.no_grad():
        return model(**batch).logits.log_softmax(-1)


def test_an_adapter_on_the_cold_start_has_it_as_its_reference(cold, toy_samples, view, tmp_path):
    "β > 0 needs π_ref. It is the cold start, which is the policy with the adapters off: no second copy in memory."
    folder, base = cold
    start, processor = load_model(str(folder), device="cpu"), load_processor(str(folder))
    assert any(not torch.equal(p, base[n]) for n, p in start.state_dict().items())
    trainer = grpo_trainer(load_model(str(folder), device="cpu"), processor, toy_samples[:4], view, tmp_path, GRPOParams(beta=0.04, **SMALL))
    assert trainer.ref_model is None
    batch = dict(input_ids=torch.tensor([processor.tokenizer("when is the red circle")["input_ids"]]))
    log = fit(trainer, "GRPO", {})
    assert all("kl" in row for row in log) and abs(log[0]["kl"]) < 1e-6
    with torch.no_grad():
        for n, p in trainer.model.named_parameters():
            if "lora_B" in n:
                p.add_(0.05)  # adapters unlike those at the start
    model = trainer.accelerator.unwrap_model(trainer.model)
    now = logps(model, batch)
    with model.disable_adapter():
        torch.testing.assert_close(logps(model, batch), logps(start, batch))
    assert (now - logps(start, batch)).abs().max() > 1e-2


def test_adapters_merge_onto_their_base_read_again(toy_samples, view, tmp_path):
    """4-bit training needs it: its base is quantized, so the adapters are merged onto the base's weights as its files hold them.

    Here the base is not quantized, so both ways of merging give the same weights."""
    set_seed(0)
    processor = load_processor("tiny")
    trainer = grpo_trainer(load_model("tiny", device="cpu"), processor, toy_samples[:4], view, tmp_path, GRPOParams(**SMALL))
    with torch.no_grad():
        for n, p in trainer.model.named_parameters():
            if "lora_B" in n:
                p.normal_(std=0.05)
    trainer.model.is_loaded_in_4bit = True
    again = merged(trainer.model, tmp_path / "model")
    trainer.model.is_loaded_in_4bit = False
    whole = save_trained(trainer, processor, tmp_path / "model")
    kept = load_model(str(tmp_path / "model"), device="cpu").state_dict()
    assert {p.name for p in (tmp_path / "adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    for n, p in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[n], p)
        assert torch.equal(kept[n], p)


@pytest.mark.parametrize("quantize", ["", "4bit"])
def test_a_folder_of_adapters_is_no_policy_to_train(quantize, tmp_path):
    "transformers loads adapters frozen, on a frozen base: such a model can answer, but not be trained."
    from peft import get_peft_model

    adapters = tmp_path / "adapters"
    model = load_model("tiny", device="cpu")
    get_peft_model(model, lora_config(model, 4)).save_pretrained(adapters)
    assert not any(p.requires_grad for p in load_model(str(adapters), device="cpu").parameters())
    with pytest.raises(RunError, match="adapters' holds adapters, .*merge them into their base '.*tiny'"):
        load_policy(str(adapters), quantize)
    assert (
        load_processor(str(adapters)).chat_template == load_processor("tiny").chat_template
    )  # the folder of adapters has no processor: that of the base is read
    report = preflight(SFTParams(model=str(adapters), outputs_dir=str(tmp_path)))
    assert any("holds adapters" in problem for problem in report.problems), "a dry run refuses it as the run does"


def test_4_bits_without_a_gpu_and_other_numbers_of_bits_are_refused():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(RunError, match="needs a GPU and bitsandbytes"):
        load_policy("tiny", "4bit")
    with pytest.raises(RunError, match="must be '' or '4bit'"):
        load_policy("tiny", "3bit")
