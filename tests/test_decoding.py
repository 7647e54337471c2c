"Our decoding loop against that of transformers: the same tokens and the same random numbers, with fewer rows in its passes."

import model_zoo
import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from test_prefix_cache import ask, read
from torch.profiler import ProfilerActivity, profile

from vtg_r1.models import decoding
from vtg_r1.models.decoding import Slots, generate_shared, row_groups, sample_tokens
from vtg_r1.models.loading import lora_config
from vtg_r1.models.prefix_cache import cache_name, shared_decoding
from vtg_r1.models.tiny import build_tiny

ENDS = list(range(100, 160))  # an eighth of the tokens ends a response
WAYS = {
    "temperature": dict(do_sample=True, temperature=0.7, top_k=0, eos_token_id=ENDS),
    "greedy": dict(do_sample=False, eos_token_id=ENDS),
    "cut off": dict(do_sample=True, top_k=0, eos_token_id=[1]),
    "penalty, suppressed tokens and a least length": dict(
        do_sample=True, top_k=9, repetition_penalty=1.3, suppress_tokens=[5, 6], min_new_tokens=3, eos_token_id=ENDS
    ),
}
ROWS = {  # prompt of each row; prompts 0 and 1 ask about one video
    "groups": [i for i in range(3) for _ in range(4)],
    "one row more": [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],
    "uneven and mixed": [2, 0, 0, 1, 0, 2, 0, 0, 0],
    "a prompt without rows": [0, 0, 2, 2],
}
QUERIES = [(0, "the red circle"), (0, "when does the white square appear?"), (1, "blue")]


@pytest.fixture(scope="module")
def videos():
    noise = np.random.default_rng(0)
    return [[Image.fromarray(noise.integers(0, 256, (56, side, 3), np.uint8)) for _ in range(n)] for n, side in ((4, 56), (3, 84))]


@pytest.fixture(scope="module")
def tiny():
    return build_tiny(1)


def with_adapter():
    model, processor = build_tiny(1)
    model = get_peft_model(model, lora_config(model, 4))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    return model, processor


def prompts_of(pair, videos, style="full", encoding="interleaved"):
    model, processor = pair
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.no_grad():
        return read(core, processor, ask(videos, style, encoding, QUERIES))[0]


def theirs(pair, prompts, of, seed, length=16, **how):
    "transformers' loop behind the same cache: (the tokens; the random number drawn next)."
    model, processor = pair
    width = max(len(prompts.ids[i]) for i in of)  # transformers takes the cache to be this long
    padded = [torch.nn.functional.pad(ids, (max(0, width - len(ids)), 0), value=processor.tokenizer.pad_token_id) for ids in prompts.ids]
    masks = [torch.nn.functional.pad(torch.ones_like(ids), (max(0, width - len(ids)), 0)) for ids in prompts.ids]
    positions = [torch.nn.functional.pad(p, (max(0, width - p.shape[1]), 0)) for p in prompts.positions]
    inputs = dict(input_ids=torch.stack([padded[i] for i in of]), attention_mask=torch.stack([masks[i] for i in of]))
    inputs["position_ids"] = torch.stack([positions[i] for i in of], 1)
    if len(positions[0]) == 1:
        inputs["position_ids"] = inputs["position_ids"][0]
    with torch.no_grad(), shared_decoding(model, prompts, of) as cache:
        torch.manual_seed(seed)
        out = model.generate(**inputs, **{cache_name(): cache}, max_new_tokens=length, **how)[:, width:]
    return out, torch.rand(1)


def ours(pair, prompts, of, seed, fixed_shapes=False, compiled=False, length=16, **how):
    model, processor = pair
    with torch.no_grad():
        torch.manual_seed(seed)
        options = dict(fixed_shapes=fixed_shapes, compiled=compiled, max_new_tokens=length)
        out = generate_shared(model, prompts, of, processor.tokenizer.pad_token_id, **options, **how)
    return out, torch.rand(1)


def same(a, b) -> bool:
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_and_random_numbers_are_those_of_transformers(tiny, videos, way, fixed_shapes):
    for encoding, style in (("interleaved", "full"), ("native", "short")):
        prompts = prompts_of(tiny, videos, style, encoding)
        for seed, of in enumerate(ROWS.values()):
            expected = theirs(tiny, prompts, of, seed, **WAYS[way])
            assert same(ours(tiny, prompts, of, seed, fixed_shapes, **WAYS[way]), expected), (encoding, of)
            if way != "greedy":
                other, _ = ours(tiny, prompts, of, seed + 1, fixed_shapes, **WAYS[way])
                assert not torch.equal(other, expected[0])  # another seed gives other tokens


def test_with_an_adapter_the_tokens_are_those_of_transformers(videos):
    pair = with_adapter()
    prompts = prompts_of(pair, videos)
    for fixed_shapes in (False, True):
        found = ours(pair, prompts, ROWS["groups"], 0, fixed_shapes, **WAYS["temperature"])
        assert same(found, theirs(pair, prompts, ROWS["groups"], 0, **WAYS["temperature"]))
        with pair[0].disable_adapter():
            assert not same(found, ours(pair, prompts, ROWS["groups"], 0, fixed_shapes, **WAYS["temperature"]))


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
def test_with_sliding_windows_or_recurrent_states_the_tokens_are_those_of_transformers(family):
    noise = np.random.default_rng(0)
    frames = [[Image.fromarray(noise.integers(0, 256, (56, 56, 3), np.uint8)) for _ in range(3)] for _ in range(2)]
    pair = model_zoo.build(family)
    prompts = prompts_of(pair, frames)
    of, how = ROWS["groups"], dict(do_sample=True, top_k=0, eos_token_id=list(range(20, 60)))
    expected = theirs(pair, prompts, of, 0, **how)
    assert all(same(ours(pair, prompts, of, 0, fixed_shapes, **how), expected) for fixed_shapes in (False, True))


def test_finished_rows_leave_the_batch(tiny, videos):
    prompts, of, rows = prompts_of(tiny, videos), ROWS["groups"], []
    hook = tiny[0].get_input_embeddings().register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    try:
        found, _ = ours(tiny, prompts, of, 3, **WAYS["temperature"])
    finally:
        hook.remove()
    steps = rows[1:]  # after the pass of the prompts
    ends = torch.isin(found, torch.tensor(ENDS))
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, found.shape[1])
    assert len(steps) == int(lengths.max()) == found.shape[1]
    assert steps[0] == len(of) and steps[-1] < len(of) and sum(steps) < 0.8 * len(of) * len(steps)
    assert all(n >= int((lengths > i).sum()) for i, n in enumerate(steps))


def test_swapped_slots_change_the_tokens(tiny, videos, monkeypatch):
    prompts, of = prompts_of(tiny, videos), ROWS["groups"]
    expected = theirs(tiny, prompts, of, 3, **WAYS["temperature"])
    plain = Slots.without

    def swapped(self, finished):
        slots, groups, places = plain(self, finished)
        return slots, groups, places[::-1]

    monkeypatch.setattr(Slots, "without", swapped)
    assert not same(ours(tiny, prompts, of, 3, **WAYS["temperature"]), expected)


def test_nan_probabilities_are_an_error_as_in_transformers(videos):
    pair = build_tiny(1)
    prompts = prompts_of(pair, videos)
    with torch.no_grad():
        pair[0].lm_head.weight[7] = torch.nan
    for loop in (ours, theirs):
        with pytest.raises(RuntimeError, match="probability tensor contains"):
            loop(pair, prompts, ROWS["groups"], 0, **WAYS["temperature"])


def test_nan_is_an_error_where_fewer_tokens_are_drawn_than_lie_between_two_looks(videos, monkeypatch):
    "As on a GPU, where the loop looks at every sixteenth token."
    monkeypatch.setattr(decoding, "_LOOKS", {"cpu": 16})
    pair = build_tiny(1)
    prompts = prompts_of(pair, videos)
    expected = theirs(pair, prompts, ROWS["groups"], 0, length=20, **WAYS["cut off"])
    assert same(ours(pair, prompts, ROWS["groups"], 0, length=20, **WAYS["cut off"]), expected)
    with torch.no_grad():
        pair[0].lm_head.weight[7] = torch.nan
    with pytest.raises(RuntimeError, match="probability tensor contains"):
        ours(pair, prompts, ROWS["groups"], 0, length=10, **WAYS["temperature"])


def test_sample_tokens_draws_what_torch_multinomial_draws():
    probabilities = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.manual_seed(5)
    expected, following = torch.multinomial(probabilities, 1)[:, 0], torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(sample_tokens(probabilities), expected) and torch.equal(torch.rand(1), following)


def test_slots_of_uneven_groups():
    assert row_groups([1, 0, 1, 0]) == [[1, 3], [0, 2]]
    assert row_groups([0, 0, 0, 1]) == [[0], [1], [2], [3]]  # as two groups of three slots, two of the six slots would be copies
    slots = Slots([[0, 1, 2], [3, 4]], 5)
    fewer, prompts, places = slots.without([True, True, True, False, True])
    assert (slots.rows, fewer.rows, prompts, places) == ([0, 1, 2, 3, 4, 3], [3], [1], [3])


def test_with_fixed_shapes_every_pass_has_the_same_shapes(tiny, videos, monkeypatch):
    "A CUDA graph needs them. A CPU records no graph, but its passes have the same shapes too."
    shapes, plain = set(), decoding.DecodingStep.logits

    def seen(self, tokens, positions):
        out = plain(self, tokens, positions)
        shapes.add((tokens.shape, positions.shape, *(layer.keys.shape for layer in self.cache.layers)))
        return out

    monkeypatch.setattr(decoding.DecodingStep, "logits", seen)
    ours(tiny, prompts_of(tiny, videos), ROWS["groups"], 0, True, **WAYS["cut off"])
    assert len(shapes) == 1
    shapes.clear()
    ours(tiny, prompts_of(tiny, videos), ROWS["groups"], 0, False, **WAYS["cut off"])
    assert len(shapes) > 1


WAITS = ("aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero")  # operations in which the host waits for the device


def waits(sample) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        sample()
    return sum(event.count for event in found.key_averages() if event.key in WAITS)


def test_the_number_of_waits_for_the_device_does_not_grow_with_the_tokens(tiny, videos):
    "`WAITS` leaves out the `tolist` by which the loop reads its rows: at every token on a CPU, at every sixteenth on a GPU."
    prompts = prompts_of(tiny, videos)
    how = dict(of=[0, 0, 2], seed=0, **WAYS["cut off"])
    for fixed_shapes in (False, True):
        few, many = (waits(lambda n=n: ours(tiny, prompts, fixed_shapes=fixed_shapes, length=n, **how)) for n in (1, 4))
        assert few == many
    assert waits(lambda: theirs(tiny, prompts, length=4, **how)) > many + 4  # transformers' loop waits with each token


@pytest.fixture
def no_failures():
    "Forgets, before and after the test, which models' passes could not be compiled."

    def forget():
        decoding._report_plain.cache_clear()
        decoding._plain_models.clear()

    forget()
    yield
    forget()


@pytest.fixture
def traced(monkeypatch):
    "The list of graphs that torch traces from our passes; they run without being compiled."
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    run = torch.compile(decoding._pass, dynamic=True, fullgraph=True, backend=backend)
    monkeypatch.setattr(decoding, "_compiled_pass", lambda: run)
    yield graphs
    torch._dynamo.reset()


def test_a_compiled_pass_is_one_graph_for_prompts_of_any_length(tiny, videos, traced):
    "And for any number of rows. The graph is only traced here; `test_inductor` compiles it."
    for frames, of in ((videos, ROWS["uneven and mixed"]), ([video[:-1] for video in videos], [0, 2, 1, 0, 1, 0, 0])):
        prompts, how = prompts_of(tiny, frames), dict(length=4, **WAYS["cut off"])
        assert same(ours(tiny, prompts, of, 0, compiled=True, **how), theirs(tiny, prompts, of, 0, **how))
    assert len(traced) == 1


def test_an_adapter_is_in_the_graph(videos, traced):
    pair, of, how = with_adapter(), ROWS["uneven and mixed"], dict(length=3, **WAYS["cut off"])
    prompts = prompts_of(pair, videos)
    assert same(ours(pair, prompts, of, 0, compiled=True, **how), theirs(pair, prompts, of, 0, **how))
    with pair[0].disable_adapter():
        assert same(ours(pair, prompts, of, 0, compiled=True, **how), theirs(pair, prompts, of, 0, **how))
    with_it, without = (len(graph.graph.nodes) for graph in traced)
    assert with_it > without  # the adapter's own matrix products are in the graph: it is not merged


def test_a_pass_that_cannot_be_compiled_runs_uncompiled_and_says_why(tiny, videos, traced, no_failures, monkeypatch, capsys):
    embed = tiny[0].get_input_embeddings()
    plain = embed.forward
    monkeypatch.setattr(embed, "forward", lambda ids: (torch._dynamo.graph_break(), plain(ids))[1])
    prompts, how = prompts_of(tiny, videos), dict(length=4, **WAYS["cut off"])
    expected = ours(tiny, prompts, ROWS["groups"], 0, **how)
    assert same(ours(tiny, prompts, ROWS["groups"], 0, compiled=True, **how), expected)
    assert not traced and capsys.readouterr().err.count("tokens are decoded by plain passes, because") == 1
    assert list(decoding._plain_models) == [tiny[0]]


def test_a_compiled_pass_with_other_logits_is_not_used(tiny, videos, no_failures, monkeypatch, capsys):
    monkeypatch.setattr(decoding, "_compiled_pass", lambda: lambda *inputs: 1.1 * decoding._pass(*inputs))
    prompts, how = prompts_of(tiny, videos), dict(length=4, **WAYS["cut off"])
    expected = ours(tiny, prompts, ROWS["groups"], 0, **how)
    assert same(ours(tiny, prompts, ROWS["groups"], 0, compiled=True, **how), expected)
    assert "not those of a plain pass" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("adapter", [False, True])
def test_inductor(videos, adapter, no_failures):
    "Passes compiled by inductor (C++ on a CPU) give the tokens of transformers in float32, also when rows leave, and with an unmerged adapter."
    pair = with_adapter() if adapter else build_tiny(1)
    torch._dynamo.reset()
    for encoding, style, name in (("interleaved", "full", "groups"), ("native", "short", "uneven and mixed")):
        prompts = prompts_of(pair, videos, style, encoding)
        expected = theirs(pair, prompts, ROWS[name], 0, **WAYS["temperature"])
        assert same(ours(pair, prompts, ROWS[name], 0, compiled=True, **WAYS["temperature"]), expected)
        assert decoding._report_plain.cache_info().currsize == 0  # no pass was plain
