"Fixtures that several test files share."

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from vtg_r1.core.samples import load_samples
from vtg_r1.data.toyworld import make_world

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell starts a script's background jobs with Ctrl-C ignored, and the programs that tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (  # the files that take longest, which begin first: with the flags of `make test` both workers then end at about the same time
    "test_stages",
    "test_own_data",
    "test_claims",
    "test_fsdp2",
    "test_distributed",
    "test_recipe",
    "test_resume",
    "test_shared_prefix",
    "test_fuzz",
    "test_faults",
    "test_teacher",
    "test_pictures",
    "test_pages",
    "test_curation",
    "test_datasets",
    "test_nan_guard",
    "test_cli",
    "test_package",
    "test_benchmarks_stage",
    "test_sharing",
    "test_reward_functions",
    "test_decoding",
    "test_docs",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def threads_as_before():
    "Sets the number of torch's threads back after a test: a stage that runs in this process changes it."
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


def quickest(work: Callable[[], object], times: int = 5) -> float:
    "Seconds of processor time of the quickest of several calls. Other work on the core can only make a call slower."

    def seconds() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min(seconds() for _ in range(times))


@pytest.fixture
def quick() -> Callable:
    """Asserts that `work` takes at most `limit` seconds of processor time in one of ten tries.

    The limit is meant for a core that writes and reads 10,000 small JSON objects in 0.046 s. A slower core gets a longer limit in
    proportion: a busy machine was once at half the speed. A faster core gets no shorter limit.
    """

    def check(work: Callable[[], object], limit: float) -> None:
        for _ in range(10):
            slowness = max(1.0, quickest(lambda: [json.loads(json.dumps({"a": [i, i + 0.5], "b": str(i)})) for i in range(10_000)]) / 0.046)
            seconds = quickest(work, 1)
            if seconds <= limit * slowness:
                return
        pytest.fail(f"{seconds:.3f} s of processor time, where {limit} s × {slowness:.1f} are allowed on this core")

    return check


@pytest.fixture(scope="session")
def shared() -> Path:
    "The folder with real annotations and videos that VTG_R1_SHARED names; without that variable the test is skipped."
    folder = os.environ.get("VTG_R1_SHARED")
    if not folder:
        pytest.skip("VTG_R1_SHARED is not set: no real annotations and videos here")
    return Path(folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    "A toy world of twelve videos."
    return make_world(tmp_path_factory.mktemp("toy") / "world", videos=12, seed=5)


@pytest.fixture(scope="session")
def grey() -> Callable:
    "A function that writes a video whose frame i has the grey level `step` · i."

    def write(path: Path, codec: str, n: int, rate: int, size=(64, 48), pix_fmt="yuv420p", step=8) -> Path:
        with av.open(str(path), "w") as out:
            stream = out.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
            for i in range(n):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), step * i, np.uint8), format="rgb24")))
            out.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def toy_samples(world):
    return load_samples(world / "samples.jsonl")


@pytest.fixture(scope="session")
def parse_command() -> Callable:
    "Parses the words of a command line without running the command; returns the command's context."
    import typer

    from vtg_r1.cli import join_pairs
    from vtg_r1.cli.common import app

    def parse(words: list[str]) -> typer.Context:
        name, command, words, context = "vtg-r1", typer.main.get_command(app), join_pairs(words), None
        while True:
            context = command.make_context(name, words, parent=context)
            if not hasattr(command, "commands"):
                return context
            name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])

    return parse


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory):
    "A random two-layer text model and a tokenizer of bytes, made here."
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate([*letters, "<pad>", "<eos>"])}, merges=[]))
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<eos>", pad_token="<pad>", padding_side="left")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=256,
        eos_token_id=257,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
