"""Which models can share a prefix: log-probabilities, decoded tokens and the whole gradient of a shared pass against plain passes, in float32.

`python tests/test_sharing.py` writes the table of docs/sharing.md; the tests compare the table with what they measure."""

from pathlib import Path

import model_zoo
import numpy as np
import pytest
import torch
from PIL import Image

from vtg_r1.core.prompts import grounding_prompt
from vtg_r1.data.model_inputs import ENCODINGS
from vtg_r1.models import prefix_cache, sharing
from vtg_r1.models.generation import generate, model_inputs
from vtg_r1.models.loading import lora_config
from vtg_r1.models.prefix_cache import NodeStates, TreeLevel, read_prompts, same_prompts, shared_attention, suffixes
from vtg_r1.models.sharing import try_sharing
from vtg_r1.models.templates import processor_frames, prompt_text

LOG_PROBS, GRADIENT = 5e-6, 1e-5  # relative, float32
TABLE = Path(__file__).parents[1] / "docs" / "sharing.md"
# every run of the tests compares passes and gradients of these families; the other families are in the table alone
EXACT = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "internvl", "gemma3", "gemma4", "glm4v", "glm46v")
FRAMES = {0: (4, 56, 84), 1: (6, 84, 56)}  # video → frames, height, width
ASKED = ((0, "when does the red circle appear?"), (1, "the blue square"), (0, "the green cross is gone at the left"))
OF = [0, 0, 1, 2, 2]  # prompt of each response


def build(name: str):
    """A family of the zoo. A family with recurrent layers gets weights of half the size in its language model.

    With the zoo's own weights rounding alone moves the gradient of a plain pass by 1e-4
    (`test_recurrent_layers_round_no_worse_than_a_padded_plain_pass`)."""
    model, processor = model_zoo.build(name)
    if "linear_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        with torch.no_grad():
            for parameter in (p for key, p in model.named_parameters() if p.ndim > 1 and "language_model" in key and "conv1d" not in key):
                parameter.mul_(0.5)
    return model, processor


def asked(time_encoding: str, words: int = 0) -> list[dict]:
    "Two prompts about one video and one about another; the first question gets `words` pairs of further words."
    noise = np.random.default_rng(0)
    videos = {v: [Image.fromarray(noise.integers(0, 256, (h, w, 3), np.uint8)) for _ in range(n)] for v, (n, h, w) in FRAMES.items()}
    prompts = []
    for k, (v, query) in enumerate(ASKED):
        query += " red circle" * words * (k == 0)
        if time_encoding == "native":
            prompts.append(dict(prompt=grounding_prompt(query, None, "full"), video=videos[v], fps=0.5))
        else:
            prompts.append(dict(prompt=grounding_prompt(query, [2.0 * i for i in range(len(videos[v]))], "full"), images=videos[v]))
    return prompts


def answers(processor) -> list[list[int]]:
    "Responses of several lengths, one of a single token."
    ids = processor.tokenizer("the circle appears first, then it is gone; 12.5", add_special_tokens=False)["input_ids"]
    return [ids[:4], ids[3:9], ids[2:3], ids[5:10], ids[1:3]]


def log_probs(logits, response):
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


def plain(model, processor, prompts, responses):
    "Log-probabilities from one pass of transformers per response."
    found = []
    for i, response in zip(OF, responses):
        inputs, ids = dict(model_inputs(processor, [prompts[i]], "cpu")), torch.tensor([response])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
        for name in inputs.keys() & {"attention_mask", "mm_token_type_ids", "token_type_ids"}:
            inputs[name] = torch.cat([inputs[name], torch.full_like(ids, name == "attention_mask")], 1)
        if "position_ids" in inputs:
            last = inputs["position_ids"][..., -1:]
            inputs["position_ids"] = torch.cat([inputs["position_ids"], last + torch.arange(1, len(response) + 1)], -1)
        found.append(log_probs(model(**inputs).logits[0, -len(response) - 1 : -1], response))
    return torch.cat(found)


def shared(model, processor, prompts, responses, spoil=None):
    "Log-probabilities from one pass of all responses as a tree, whose levels are videos, prompts and responses."
    _, first, videos = same_prompts(prompts)
    texts = [prompt_text(processor, prompt) for prompt in prompts]
    read = read_prompts(processor, prefix_cache.base_model(model), texts, processor_frames(prompts), videos)
    if spoil:
        spoil(read)
    width = max(map(len, responses))
    ids = torch.tensor([row + [row[0]] * (width - len(row)) for row in responses])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in responses])
    inputs, labels = suffixes(read, OF, ids, mask)
    with shared_attention(model):
        logits = model(**inputs, use_cache=False).logits[0, -int(mask.sum()) :]
    assert first == [0, 1, 2] and videos == [0, 1, 0] and [len(level.at) for level in inputs["tree"]] == [2, 3, 5]
    assert labels[labels != -100].tolist() == [token for row in responses for token in row]
    return log_probs(logits, [token for row in responses for token in row])


def distances(model, processor, prompts, spoil=None) -> tuple[float, float]:
    "Relative distance of the shared pass from the plain passes: of the log-probabilities, and of the gradient vector."
    responses, trained = answers(processor), [p for p in model.parameters() if p.requires_grad]
    found = []
    for run in (plain(model, processor, prompts, responses), shared(model, processor, prompts, responses, spoil)):
        weights = torch.randn(len(run), generator=torch.Generator().manual_seed(0))
        gradient = torch.autograd.grad((run * weights).sum(), trained, allow_unused=True, materialize_grads=True)
        found.append((run.detach(), torch.cat([g.flatten() for g in gradient])))
    (a, g), (b, h) = found
    assert g.norm() > 0
    return float((b - a).norm() / a.norm()), float((h - g).norm() / g.norm())


def long_enough(model) -> int:
    "Enough words to make a prompt longer than the model's sliding window."
    return getattr(model.config.get_text_config(), "sliding_window", None) or 0


@pytest.mark.parametrize("time_encoding", ENCODINGS)
@pytest.mark.parametrize("name", EXACT)
def test_a_shared_pass_equals_the_plain_passes(name, time_encoding):
    model, processor = build(name)
    verdict = {row[0]: row[1:] for row in verdicts(TABLE.read_text())}[name][ENCODINGS.index(time_encoding)]
    shares = try_sharing(model, processor, time_encoding, gradients=False).shares
    assert shares == (verdict == "exact"), f"docs/sharing.md has {verdict}"
    if not shares:
        pytest.skip("this encoding does not share, as the table says")
    off = distances(model, processor, asked(time_encoding, long_enough(model)))
    assert off[0] < LOG_PROBS and off[1] < GRADIENT


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_5", "gemma3", "internvl"])
def test_a_shared_pass_with_adapters_equals_the_plain_passes(name):
    from peft import get_peft_model

    model, processor = build(name)
    model = get_peft_model(model, lora_config(model, 4))
    with torch.no_grad():
        for parameter in (p for key, p in model.named_parameters() if "lora_B" in key):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    off = distances(model, processor, asked("interleaved", 10))
    assert off[0] < LOG_PROBS and off[1] < GRADIENT


@pytest.mark.parametrize(
    "name, time_encoding", [("qwen3_5", "native"), ("gemma3", "interleaved"), ("gemma4", "interleaved"), ("internvl", "interleaved")]
)
def test_responses_are_those_of_asking_one_by_one(name, time_encoding):
    model, processor = model_zoo.build(name)
    prompts = asked(time_encoding, long_enough(model))
    alone = [text for prompt in prompts for text in generate(model, processor, [prompt], 8, share_prefix=False)]
    assert generate(model, processor, prompts, 8) == alone and len(set(alone)) > 1


def test_recurrent_layers_round_no_worse_than_a_padded_plain_pass(monkeypatch):
    "A plain pass with padding in front begins its chunks of 64 tokens elsewhere: that alone moves the gradient further than sharing does."
    model, processor = model_zoo.build("qwen3_5")
    prompts = asked("interleaved")
    shared_off = distances(model, processor, prompts)[1]

    def padded(*args, read=model_inputs):
        inputs = dict(read(*args))
        return {
            key: torch.nn.functional.pad(x, (7, 0)) if key in ("input_ids", "attention_mask", "mm_token_type_ids") else x for key, x in inputs.items()
        }

    def padded_plain(model, processor, prompts, responses, spoil):
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "model_inputs", padded)
            return plain(model, processor, prompts, responses)

    monkeypatch.setitem(globals(), "shared", padded_plain)
    padded_off = distances(model, processor, prompts)[1]
    assert shared_off < padded_off < 1e-3


# ---- controls: deliberate faults must be noticed ----


def late(prompts):
    "The last token of every prompt is one position too late."
    for positions in prompts.positions:
        positions[:, -1] += 1


def forgotten(monkeypatch):
    "A branch starts from an empty state."
    states = NodeStates.select

    def empty(self, rows):
        own = states(self, rows)
        return NodeStates(own.conv, None if own.recurrent is None else torch.zeros_like(own.recurrent))

    monkeypatch.setattr(NodeStates, "select", empty)


def unconvolved(monkeypatch):
    "A branch remembers its parent's matrix, but not its last tokens."
    states = NodeStates.select

    def empty(self, rows):
        own = states(self, rows)
        return NodeStates(None if own.conv is None else torch.zeros_like(own.conv), own.recurrent)

    monkeypatch.setattr(NodeStates, "select", empty)


def exchanged(monkeypatch):
    "A branch starts from another prompt's state."
    states = NodeStates.select
    monkeypatch.setattr(NodeStates, "select", lambda self, rows: states(self, rows.flip(0)))


def cut_off(monkeypatch):
    "A branch's gradient does not reach the prefix."
    states = NodeStates.select

    def cut(self, rows):
        own = states(self, rows)
        return NodeStates(*(None if x is None else x.detach() for x in (own.conv, own.recurrent)))

    monkeypatch.setattr(NodeStates, "select", cut)


def windowless(monkeypatch):
    "Sliding windows are ignored."
    sees = TreeLevel.sees
    monkeypatch.setattr(TreeLevel, "sees", lambda self, row, window: sees(self, row, None))


def causal_images(monkeypatch):
    "The tokens of an image see only those before them."
    monkeypatch.setattr(TreeLevel, "sees", lambda self, row, window: self.mask)


@pytest.mark.parametrize("name", EXACT)
def test_late_positions_change_log_probabilities_and_gradient(name):
    model, processor = build(name)
    assert min(distances(model, processor, asked("interleaved"), late)) > 1e-3


CONTROLS = [("qwen3_5", forgotten), ("qwen3_5", unconvolved), ("qwen3_5", exchanged), ("gemma3", windowless), ("gemma4", causal_images)]


@pytest.mark.parametrize("name, spoil", CONTROLS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_faulty_tree_is_noticed_and_not_shared(name, spoil, monkeypatch):
    model, processor = build(name)
    spoil(monkeypatch)
    assert min(distances(model, processor, asked("interleaved", long_enough(model)))) > 1e-3
    result = try_sharing(model, processor)
    assert not result.shares and "differ" in result.reason and result.log_prob > 1e-3


def test_a_gradient_cut_at_the_branch_is_noticed_though_the_log_probabilities_are_right(monkeypatch):
    model, processor = build("qwen3_5")
    cut_off(monkeypatch)
    log_prob, gradient = distances(model, processor, asked("interleaved"))
    assert log_prob < LOG_PROBS and gradient > 1e-2
    result = try_sharing(model, processor)
    assert not result.shares and "the gradient by" in result.reason


# ---- a model that cannot share runs without sharing, and a message says so ----


def test_a_model_that_ignores_the_tree_is_asked_one_by_one_and_one_message_says_so(capsys):
    model, processor = build("qwen2_5_vl")
    prompts = asked("interleaved")
    expected = generate(model, processor, prompts, 6)
    model_zoo.keep_tree_out(model)
    sharing._tried.pop(model)
    assert generate(model, processor, prompts, 6) == expected == generate(model, processor, prompts, 6)
    out, said = capsys.readouterr()
    assert not out and said.count("every prompt passes the model by itself, because") == 1 and "Qwen2_5_VLForConditionalGeneration differ" in said


def test_the_self_test_leaves_the_model_and_the_random_numbers_as_they_were():
    model, processor = build("qwen3_5")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state, attention = torch.get_rng_state(), model.config.text_config._attn_implementation
    try_sharing(model, processor)
    assert torch.equal(torch.get_rng_state(), state) and model.config.text_config._attn_implementation == attention
    assert all(p.grad is None for p in model.parameters()) and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---- the table ----


def cell(name: str, time_encoding: str) -> str:
    model, processor = model_zoo.build(name)
    result = try_sharing(model, processor, time_encoding)
    if not result.shares:
        return "stock: " + result.reason.removeprefix(f"a shared pass of {type(model).__name__} fails ").strip("()")
    return f"exact ({result.log_prob:.0e}, {result.decoding:.0e}, {result.gradient:.0e})"


def table() -> str:
    rows = [f"| {name} | " + " | ".join(cell(name, time_encoding) for time_encoding in ENCODINGS) + " |" for name in sorted(model_zoo.FAMILIES)]
    head = [
        "# Which models share a prefix",
        "",
        "To share a prefix is to read the prompt once for all responses of its group, or for all queries about one video.",
        "This page has the self-test of [models/sharing](../nbs/parts/models/sharing.ipynb) on each family's classes in transformers, as tiny models with random weights, in float32. It compares passes behind a shared prefix with plain passes.",
        "In brackets are the largest difference of a log-probability, the same while decoding, and the relative difference of the gradient vector.",
        "*exact*: all three are below 1e-4. *stock*: the model is trained and asked without a shared prefix, for the reason given.",
        "An encoding that shares exactly may still be refused for another reason: it has no clock, or the chat template puts all frames before the text ([models](models.md) names these families, `vtg-r1 check-model` measures yours).",
        "Other projects share the prompt of a group too: [shared_prefix](../nbs/parts/train/shared_prefix.ipynb#who-did-this-before).",
        "`python tests/test_sharing.py` writes this table; `pytest -m long tests/test_sharing.py` measures it again.",
        "",
        "| family | interleaved | native |",
        "|---|---|---|",
    ]
    return "\n".join(head + rows) + "\n"


def verdicts(text: str) -> list[list[str]]:
    "The rows of the table without what stands in brackets."
    return [[part.split(" (")[0].strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_table_has_every_family():
    rows = {row[0]: row[1:] for row in verdicts(TABLE.read_text())[2:]}
    assert rows.keys() == model_zoo.FAMILIES.keys() and all(rows[name][0] == "exact" for name in EXACT)


@pytest.mark.long
def test_the_table_has_the_verdicts_that_are_measured():
    assert verdicts(TABLE.read_text()) == verdicts(table())


if __name__ == "__main__":
    TABLE.write_text(table())
    print(TABLE.read_text())
