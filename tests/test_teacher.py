"The teacher asks a real server on this machine, through a proxy that injects the faults of a paid endpoint."

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vtg_r1.core.samples import load_samples
from vtg_r1.curation import CurationParams
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.data.readers import read_dataset
from vtg_r1.data.teacher import Log, Teacher, TeacherError, annotate, request, request_key, with_teacher
from vtg_r1.data.toyworld import make_world
from vtg_r1.models.loading import model_path

pytest.importorskip("openai", reason="the teacher's extra is not installed: pip install 'vtg_r1[teacher]'")
pytest.importorskip("uvicorn", reason="transformers' server is not installed: pip install 'transformers[serving]'")
import httpx  # noqa: E402

pytestmark = pytest.mark.slow
KEY = "sk-do-not-write-this-down"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("world") / "w", videos=3, seed=0)
    return load_samples(folder / "samples.jsonl"), VideoInputConfig(str(folder / "videos"), frames=4, pixels=28 * 28, style="short")


@pytest.fixture(scope="module")
def server():
    "`transformers serve` with the embedded tiny model: its base url and the model's name."
    folder, port = model_path("tiny"), free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", folder, "--port", str(port), "--device", "cpu"]
    with subprocess.Popen(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(240):
                try:
                    if httpx.get(f"http://localhost:{port}/health").status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.5)
                assert process.poll() is None, "transformers serve ended before it answered"
            yield f"http://localhost:{port}", folder
        finally:
            process.terminate()


class Proxy:
    "Stands between client and server. `faults` says what happens to the n-th request. `paid` has a hash of each request that the server answered."

    def __init__(self, upstream: str):
        self.faults, self.paid, self.seen, self.keys, self.held, self.lock = {}, [], 0, set(), threading.Event(), threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                proxy.handle(self, upstream)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("localhost", 0), Handler)
        self.url = f"http://localhost:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def handle(self, h, upstream):
        body = h.rfile.read(int(h.headers["content-length"]))
        with self.lock:
            self.seen += 1
            fault = self.faults.get(self.seen, "")
            self.keys.add(h.headers.get("authorization"))
        if fault in ("429", "500", "401", "400"):
            return self.send(h, int(fault), b'{"error": {"message": "injected for ' + KEY.encode() + b'"}}', {"retry-after": "0"})
        if fault == "hold":  # as with "time-out", the request does not reach the server
            self.held.set()
            return time.sleep(8)
        if fault == "time-out":
            return time.sleep(4)
        answer = httpx.post(upstream + h.path, content=body, headers={"content-type": "application/json"}, timeout=120)
        assert answer.status_code == 200, answer.text
        with self.lock:
            self.paid.append(hashlib.sha256(body).hexdigest())
        self.send(h, 200, answer.content[: len(answer.content) // 2] if fault == "truncated" else answer.content)

    def send(self, h, status, body, headers=None):
        try:
            h.send_response(status)
            for k, v in {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}.items():
                h.send_header(k, v)
            h.end_headers()
            h.wfile.write(body)
        except OSError:
            pass  # the client is gone


@pytest.fixture
def proxy(server):
    p = Proxy(server[0])
    yield p
    p.http.shutdown()


@pytest.fixture
def teacher(server, proxy, monkeypatch):
    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    return Teacher(server[1], proxy.url, key_env="TEST_TEACHER_KEY", max_length=8, temperature=0.0, timeout=2.0, concurrency=1)


def test_faults_are_survived_and_only_a_cut_off_answer_is_paid_twice(world, teacher, proxy, tmp_path):
    samples, view = world[0][:6], world[1]
    proxy.faults = {1: "429", 3: "500", 4: "time-out", 6: "truncated"}
    tally = annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)
    assert (tally.sent, tally.known, tally.failed, tally.stopped) == (6, 0, 0, "")
    # the answer whose body was cut off is asked for, and paid, a second time
    assert proxy.seen == 6 + 4 and len(proxy.paid) == 6 + 1 and len(set(proxy.paid)) == 6
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    lost = [r for r in rows if "lost" in r]
    assert len(lost) == 2 and all(r["usage"]["completion_tokens"] == 8 for r in lost)
    assert KEY not in (tmp_path / "log.jsonl").read_text() and proxy.keys == {f"Bearer {KEY}"}
    annotated = list(with_teacher(samples, teacher, view, tmp_path / "log.jsonl"))
    assert [s.qid for s in annotated] == [s.qid for s in samples] and all(s.teacher["usage"]["prompt_tokens"] > 0 for s in annotated)
    again = annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)
    assert (again.sent, again.known) == (0, 6) and len(proxy.paid) == 7


RUN = """
import sys, json
from vtg_r1.data.model_inputs import VideoInputConfig
from vtg_r1.core.samples import load_samples
from vtg_r1.data.teacher import Teacher, annotate
a = json.loads(sys.argv[1])
annotate(load_samples(a["samples"])[:6], Teacher(**a["teacher"]), VideoInputConfig(**a["view"]), a["log"], progress=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_without_paying_again(how, world, teacher, proxy, tmp_path):
    samples, view = world[0][:6], world[1]
    proxy.faults = {4: "hold"}
    facts = dict(samples=str(Path(view.video_root).parent / "samples.jsonl"), teacher=vars(teacher), view=vars(view), log=str(tmp_path / "log.jsonl"))
    with subprocess.Popen([sys.executable, "-c", RUN, json.dumps(facts)], env=dict(os.environ), stderr=subprocess.DEVNULL) as process:
        assert proxy.held.wait(60)
        process.send_signal(how)
        assert process.wait(30) != 0
    assert len(proxy.paid) == 3
    with open(tmp_path / "log.jsonl", "a") as f:
        f.write('{"key": "torn')  # a kill in the middle of a line
    tally = annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)
    assert (tally.known, tally.sent) == (3, 3) and len(proxy.paid) == len(set(proxy.paid)) == 6


@pytest.mark.shared
def test_real_videos_are_annotated_in_spite_of_faults(shared, teacher, proxy, tmp_path):
    data = shared / "data"
    published = [("charades_sta", "charades_sta/charades_sta_test.txt"), ("activitynet", "activitynet_captions/val_2.json")]
    samples = [
        s
        for name, file in published
        for s in read_dataset(name, data / "annotations" / file, past_end="clip")[0]
        if (data / "videos" / s.video).is_file()
    ]
    assert len(samples) == 11
    proxy.faults = {2: "429", 5: "truncated"}
    view = VideoInputConfig(str(data / "videos"), frames=4, pixels=56 * 56, style="short")
    tally = annotate(samples, replace(teacher, concurrency=2, timeout=30.0), view, tmp_path / "log.jsonl", progress=False)
    assert tally.sent + tally.known == 11 and not tally.failed
    assert tally.sent == len(set(proxy.paid)) == len({(s.video, s.query) for s in samples})  # equal sentences on one video are asked for once
    found = list(with_teacher(samples, teacher, view, tmp_path / "log.jsonl"))
    assert all(s.teacher["usage"]["prompt_tokens"] > 16 and isinstance(s.teacher["response"], str) for s in found)


def test_concurrent_requests_ask_once_for_equal_samples(world, teacher, proxy, tmp_path):
    samples, view = world
    twice = samples[:5] + [replace(s, qid=s.qid + "_again") for s in samples[:5]]
    tally = annotate(iter(twice), replace(teacher, concurrency=3), view, tmp_path / "log.jsonl", progress=False)
    assert tally.sent + tally.known == 10 and len(proxy.paid) == len(set(proxy.paid)) == 5
    assert all(s.teacher for s in with_teacher(twice, teacher, view, tmp_path / "log.jsonl"))


def test_budgets_stop_the_run_before_they_are_exceeded(world, teacher, proxy, tmp_path):
    samples, view = world[0][:6], world[1]
    annotate(samples[:1], teacher, view, tmp_path / "log.jsonl", progress=False)
    with Log(tmp_path / "log.jsonl") as log:
        one = log.tokens_in + log.tokens_out
    careful = replace(teacher, concurrency=4, budget_tokens=3 * one + 10)
    tally = annotate(samples, careful, view, tmp_path / "log.jsonl", progress=False)
    with Log(tmp_path / "log.jsonl") as log:
        spent = log.tokens_in + log.tokens_out
    assert "budget" in tally.stopped and one < spent <= careful.budget_tokens and tally.sent + tally.known == len(proxy.paid) < 6
    priced = replace(teacher, input_price_per_mtok=1000.0, output_price_per_mtok=1000.0, budget_money=0.0001)
    assert "budget" in annotate(samples, priced, view, tmp_path / "other.jsonl", progress=False).stopped and not (tmp_path / "other.jsonl").exists()


def with_client(monkeypatch, create):
    "Requests are answered by this function, without a server."
    from contextlib import contextmanager
    from types import SimpleNamespace

    @contextmanager
    def client(teacher):
        yield SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create))), ""

    monkeypatch.setattr("vtg_r1.data.teacher._client", client)


def test_a_lost_answer_is_not_asked_for_again_beyond_the_budget(world, tmp_path, monkeypatch):
    "Each attempt may be charged 8 tokens: two fit into 20, and the request has six attempts."
    import openai

    def create(**request):
        raise openai.APITimeoutError(httpx.Request("POST", "http://localhost"))

    with_client(monkeypatch, create)
    careful = Teacher("m", "u", key_env="", max_length=8, budget_tokens=20)
    tally = annotate(world[0][:1], careful, world[1], tmp_path / "log.jsonl", progress=False)
    with Log(tmp_path / "log.jsonl") as log:
        assert log.tokens_in + log.tokens_out == 16
    assert "budget" in tally.stopped and tally.failed == 1


def test_an_interrupt_behind_the_last_sample_ends_the_attempts_too(world, tmp_path, monkeypatch):
    import openai

    busy = httpx.Response(429, request=httpx.Request("POST", "http://localhost"), headers={"retry-after": "60"})

    def create(messages, **request):
        if world[0][0].query in str(messages):
            time.sleep(0.5)
            raise KeyboardInterrupt
        raise openai.RateLimitError("busy", response=busy, body=None)

    with_client(monkeypatch, create)
    other = next(s for s in world[0] if world[0][0].query not in s.query)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        annotate([world[0][0], other], Teacher("m", "u", key_env="", attempts=2), world[1], tmp_path / "log.jsonl", progress=False)
    assert time.monotonic() - began < 30


def test_a_refused_sample_is_not_asked_again_and_a_wrong_or_missing_key_ends_the_run(world, teacher, proxy, tmp_path, monkeypatch):
    samples, view = world[0][:3], world[1]
    proxy.faults = {1: "401"}
    with pytest.raises(TeacherError, match="check base_url") as e:
        annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)
    assert KEY not in str(e.value)
    proxy.faults, proxy.seen = {1: "400"}, 0
    tally = annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)
    assert (tally.sent, tally.failed) == (2, 1) and KEY not in (tmp_path / "log.jsonl").read_text()
    assert [s.teacher is None for s in with_teacher(samples, teacher, view, tmp_path / "log.jsonl")] == [True, False, False]
    again = annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)
    assert (again.sent, again.known, again.failed) == (0, 2, 1) and "injected" in again.reasons[samples[0].qid]
    missing = [replace(samples[0], qid="gone", video="gone.mp4")]
    assert "gone.mp4" in annotate(missing, teacher, view, tmp_path / "log.jsonl", progress=False).reasons["gone"]
    monkeypatch.delenv("TEST_TEACHER_KEY")
    with pytest.raises(TeacherError, match="TEST_TEACHER_KEY"):
        annotate(samples, teacher, view, tmp_path / "log.jsonl", progress=False)


def test_a_dead_server_costs_nothing(world, teacher, tmp_path):
    dead = replace(teacher, base_url=f"http://localhost:{free_port()}/v1", attempts=1)
    with pytest.raises(TeacherError, match="run again"):
        annotate(world[0], dead, world[1], tmp_path / "log.jsonl", progress=False)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_sample_without_an_answer_does_not_stop_the_others(world, teacher, proxy, tmp_path):
    proxy.faults = {2: "500", 3: "500"}
    tally = annotate(world[0][:4], replace(teacher, attempts=2), world[1], tmp_path / "log.jsonl", progress=False)
    assert (tally.sent, tally.failed, len(tally.reasons)) == (3, 1, 1) and "no answer in 2 attempts" in tally.reasons[world[0][1].qid]
    assert annotate(world[0][:4], teacher, world[1], tmp_path / "log.jsonl", progress=False).sent == 1


def test_a_log_has_one_writer_and_another_file_is_refused(tmp_path):
    with Log(tmp_path / "log.jsonl"), pytest.raises(TeacherError, match="is writing to this log"):
        Log(tmp_path / "log.jsonl")
    (tmp_path / "other.jsonl").write_text('{"qid": "a"}\n')
    with pytest.raises(TeacherError, match="no log"):
        Log(tmp_path / "other.jsonl")


def test_a_request_has_the_address_of_the_video_or_its_frames(world, teacher):
    sample, view = world[0][0], world[1]
    by_url = replace(teacher, video_url="https://videos.example/set one/")
    content = request(replace(sample, video="a b.mp4"), by_url, view)["messages"][-1]["content"]
    assert (
        content[0] == {"type": "video_url", "video_url": {"url": "https://videos.example/set one/a%20b.mp4"}} and content[1]["text"] == sample.query
    )
    frames = request(sample, teacher, view)["messages"][-1]["content"]
    assert sum(p["type"] == "image_url" for p in frames) == 4


def test_a_video_of_the_same_name_in_another_folder_is_another_request(world, teacher, tmp_path):
    "One log serves both folders. An answer in a log of 0.1.0, whose keys have only the video's name, is not paid for again."
    samples, view = world
    first, second = samples[0], next(s for s in samples if s.video != samples[0].video)
    other = replace(view, video_root=str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    shutil.copy(Path(view.video_root) / second.video, tmp_path / "other" / first.video)
    assert annotate([first], teacher, view, tmp_path / "log.jsonl", progress=False).sent == 1
    assert annotate([first], teacher, other, tmp_path / "log.jsonl", progress=False).sent == 1
    assert annotate([first], teacher, view, tmp_path / "log.jsonl", progress=False).known == 1
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    with Log(tmp_path / "old.jsonl") as log:
        log.add(
            {
                "key": request_key(first, teacher, view, by_name=True),
                "qid": first.qid,
                "model": "m",
                "response": "<time>[1, 2]</time>",
                "usage": usage,
            }
        )
    assert annotate([first], teacher, view, tmp_path / "old.jsonl", progress=False).known == 1
    assert [s.teacher["span"] for s in with_teacher([first], teacher, view, tmp_path / "old.jsonl")] == [[1, 2]]


def test_requests_of_other_frames_have_other_keys(world, teacher):
    sample, view = world[0][0], world[1]
    limited = [replace(view, fps=1.0), replace(view, fps=2.0), replace(view, max_tokens_per_video=8), replace(view, max_tokens_per_video=4)]
    views = [view, *limited, replace(limited[2], min_pixels=1568), replace(limited[2], pixels_per_token=1024)]
    assert len({request_key(sample, teacher, v) for v in views}) == len(views)
    assert request_key(sample, teacher, replace(view, min_pixels=1568)) == request_key(sample, teacher, view)
    with pytest.raises(TeacherError, match="take 'interleaved'"):
        request(sample, teacher, replace(view, time_encoding="native"))


def test_the_stage_asks_an_endpoint_once_and_stores_no_key(server, proxy, tmp_path, monkeypatch):
    "01_curation with the real server. A second run asks for nothing, and the key is in no file."
    from vtg_r1.curation import main

    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    facts = dict(
        outputs_dir=str(tmp_path),
        toy_videos=2,
        teacher="endpoint",
        teacher_model=server[1],
        teacher_url=proxy.url,
        teacher_key_env="TEST_TEACHER_KEY",
        teacher_max_length=32,
        frames=16,
        prompt_style="short",
        rl_min_iou=0.0,
        input_price_per_mtok=1.0,
        output_price_per_mtok=10.0,
        budget_money=1.0,
    )
    run = main(CurationParams(**facts, run_name="a"))
    samples = load_samples(run / "rl.jsonl")
    assert len(proxy.paid) == len(samples) > 0 and all(s.teacher["usage"]["prompt_tokens"] for s in samples)
    assert any(s.teacher["span"] for s in samples), [s.teacher["response"] for s in samples]
    main(CurationParams(**facts, run_name="b"))
    assert len(proxy.paid) == len(samples)
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_the_key_is_in_no_output_and_no_file(server, proxy, tmp_path, monkeypatch, capfd):
    "The server repeats the key in every refusal. What the command prints and what the failed run leaves (log, manifest, executed notebook) must not hold it."
    from vtg_r1.cli import main

    monkeypatch.setenv("TEST_TEACHER_KEY", KEY)
    proxy.faults = {1: "429", 2: "400", 3: "401"}  # one tried again, one given up for good, one that ends the run
    facts = dict(
        outputs_dir=tmp_path,
        run_name="a",
        toy_videos=2,
        teacher="endpoint",
        teacher_model=server[1],
        teacher_url=proxy.url,
        teacher_key_env="TEST_TEACHER_KEY",
        teacher_concurrency=1,
        prompt_style="short",
    )
    assert main(["run", "nbs/01_curation.ipynb", *(word for name, value in facts.items() for word in ("-p", name, str(value)))]) == 1
    said, (log,), run = "".join(capfd.readouterr()), (tmp_path / "teacher").glob("*.jsonl"), tmp_path / "curation" / "a"
    assert proxy.keys == {f"Bearer {KEY}"} and "check base_url" in said
    for text in (said, log.read_text(), (run / "01_curation.ipynb").read_text()):
        assert "injected for [key]" in text  # each has the message, without the key
    assert KEY not in said and json.loads((run / "manifest.json").read_text())["status"] == "failed"
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
