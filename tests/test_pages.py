"The demo and the review page: use in a real browser, and attacks from outside."

import asyncio
import concurrent.futures
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from vtg_r1.cli import main
from vtg_r1.core.samples import SampleError, load_samples, write_jsonl
from vtg_r1.data.toyworld import read_scripts, toy_teacher
from vtg_r1.models.loading import TINY_PATH
from vtg_r1.pages.browser_video import preview
from vtg_r1.pages.review import ReviewServer, inside, read_review, review, save_review
from vtg_r1.video.decoders import VideoError
from vtg_r1.video.reader import probe

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
EVIL = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>{{value}}${1+1}"


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if not CHROMIUM:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync.sync_playwright() as p:
        found = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser):
    "A page in a browser of its own; what it fetched stands in `tab.asked`, what failed in it in `tab.errors`."
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.asked, page.errors = [], []
    page.on("request", lambda r: page.asked.append(r.url))
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    yield page
    context.close()


def until(condition, seconds=60):
    "Wait until a condition holds. Polled from here, because the page's content policy forbids polling inside it."
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


# --- demo ---


@pytest.fixture(scope="module")
def second_model(tmp_path_factory) -> str:
    "The embedded model after a small change of its weights: a policy that answers otherwise."
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("model") / "changed"
    shutil.copytree(TINY_PATH, folder)
    torch.manual_seed(0)
    weights = {name: w + 0.12 * w.std() * torch.randn_like(w) if w.numel() > 1 else w for name, w in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="module")
def demo(second_model):
    "The running page: before RL the embedded model, after RL the changed one."
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vtg_r1[demo]'")
    from vtg_r1.models.ground import TINY_INFERENCE
    from vtg_r1.pages.demo import load_models, running_page

    models = load_models([second_model, "tiny"])
    models[0].config = TINY_INFERENCE
    with running_page(models, max_mb=1, max_minutes=1) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.is_dir()
        yield address.rstrip("/")
    assert not folder.parent.exists()


def ask(tab):
    tab.click("#ask")
    tab.locator(".answer:not([hidden]) .verdict").first.wait_for()


@pytest.mark.browser
def test_a_question_waits_until_its_video_is_open(tab, world, monkeypatch):
    "Asked while a slow machine still opens the video, the answer comes, and stays."
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vtg_r1[demo]'")
    from vtg_r1.pages.demo import DemoApp, load_models, running_page

    open_video = DemoApp.open_video

    def slow(self, path):
        time.sleep(3)
        return open_video(self, path)

    monkeypatch.setattr(DemoApp, "open_video", slow)
    video = next((world / "videos").iterdir())
    with running_page(load_models(["tiny"])) as address:
        tab.goto(address)
        tab.locator("#player video").wait_for()
        tab.get_by_label("Remove", exact=False).or_(tab.get_by_label("Clear")).first.click()
        tab.set_input_files("#file input[type=file]", str(video))
        tab.get_by_text(video.stem).first.wait_for()
        tab.locator("#queries textarea").fill("the red circle")
        ask(tab)
        tab.wait_for_timeout(4000)
        assert tab.locator(".answer:not([hidden]) .verdict").count() == 1 and tab.locator("#player video").count() == 1


def second_of(tab) -> float:
    return tab.eval_on_selector("video", "v => v.currentTime")


@pytest.mark.browser
def test_demo_finds_and_plays_the_example(demo, tab):
    tab.goto(demo)
    tab.locator("#player video").wait_for()
    ask(tab)
    sentences = tab.locator(".answers > li")
    assert sentences.count() == tab.locator("#queries textarea").input_value().count("\n") + 1 >= 2
    assert "truth" in sentences.first.inner_text() and "IoU" in sentences.first.inner_text()
    found = tab.locator(".answer:not([hidden]) .span").last
    start, end = (float(found.get_attribute(f"data-{edge}")) for edge in ("start", "end"))
    found.click()
    until(lambda: start <= second_of(tab) <= end + 0.5 and second_of(tab) > 0)
    times = [float(f.get_attribute("data-at")) for f in tab.locator(".frame").all()]
    assert len(times) >= 10 and tab.locator(".frame.inside").count() == sum(start <= t < end for t in times) > 0
    tab.locator(".answer:not([hidden]) summary").first.click()
    assert "<time>" in tab.locator(".answer:not([hidden]) pre").first.inner_text()
    tab.locator(".frame").nth(2).focus()
    tab.keyboard.press("Enter")
    until(lambda: abs(second_of(tab) - times[2]) < 0.4)
    assert not tab.errors and all(url.startswith((demo, "data:", "blob:")) for url in tab.asked)


@pytest.mark.browser
def test_demo_switches_between_before_and_after(demo, tab):
    tab.goto(demo)
    tab.locator("#player video").wait_for()
    ask(tab)
    after = tab.locator(".answers").inner_text()
    tab.get_by_role("radio", name="before RL").click()
    before = tab.locator(".answers").inner_text()
    assert tab.locator(".answer[data-model='1']:not([hidden])").count() == 0 and before != after
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".answers").inner_text() == after
    assert tab.get_by_role("radio", name="after RL").get_attribute("aria-checked") == "true"


@pytest.mark.browser
def test_demo_takes_an_upload_and_says_what_is_wrong(demo, tab, world, tmp_path):
    (tmp_path / "notes.mp4").write_text("these are notes, not a video")
    (tmp_path / "large.mp4").write_bytes(bytes(2 * 2**20))
    good = next((world / "videos").iterdir())
    tab.goto(demo)
    tab.locator("#player video").wait_for()

    def upload(path):
        tab.get_by_label("Remove", exact=False).or_(tab.get_by_label("Clear")).first.click()
        tab.set_input_files("#file input[type=file]", str(path))

    upload(tmp_path / "notes.mp4")
    problem = tab.get_by_role("alert").filter(has_text="This video cannot be read")
    problem.wait_for()
    assert "notes.mp4 is no" in problem.inner_text() and str(tmp_path) not in problem.inner_text() and "/tmp" not in problem.inner_text()
    tab.locator("#queries textarea").fill("the red circle")
    upload(good)
    tab.locator("#player video").wait_for()
    until(lambda: tab.eval_on_selector("video", "v => v.readyState") >= 2)
    ask(tab)
    assert tab.locator(".answers > li").count() == 1 and "truth" not in tab.locator(".answers").inner_text()
    tab.locator("#queries textarea").fill("  \n ")
    tab.click("#ask")
    tab.get_by_text("Type what you are looking for").wait_for()
    tab.locator("#queries textarea").fill(EVIL)
    ask(tab)
    assert tab.locator(".query").inner_text() == EVIL and tab.evaluate("window.hacked") is None
    upload(tmp_path / "large.mp4")
    tab.get_by_text("exceed the maximum allowed size", exact=False).first.wait_for()


@pytest.mark.browser
def test_demo_fits_a_phone(demo, tab):
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.goto(demo)
    tab.locator("#player video").wait_for()
    ask(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    below = "document.querySelector('.answer:not([hidden]) .verdict').getBoundingClientRect().bottom"
    until(lambda: 0 < tab.evaluate(below) < 844)  # the first answer is in sight, without a touch


@pytest.mark.browser
def test_demo_does_not_move_where_the_answers_are_in_sight(demo, tab):
    tab.goto(demo)
    tab.locator("#player video").wait_for()
    ask(tab)
    tab.wait_for_timeout(1500)
    assert tab.evaluate("window.scrollY") == 0


def test_the_demo_reports_how_many_answers_there_are(second_model, world, toy_samples):
    from vtg_r1.pages.demo import answer, load_models

    reports, video = [], str(world / "videos" / toy_samples[0].video)
    rows = answer(load_models([second_model, "tiny"]), video, ["the red circle", "the blue square"], {}, report=lambda *told: reports.append(told))
    assert reports == [(0, 4), (2, 4)] and [len(row["answers"]) for row in rows] == [2, 2]


@pytest.mark.parametrize("limit", [{}, {"fps": 0.5}, {"max_tokens_per_video": 5}], ids=str)
def test_the_demo_shows_the_frames_that_a_model_sees(world, toy_samples, limit):
    from vtg_r1.data.model_inputs import build_prompt
    from vtg_r1.models.ground import TINY_INFERENCE
    from vtg_r1.pages.demo import sampled_frames

    sample, config = toy_samples[0], replace(TINY_INFERENCE, **limit)
    shown = sampled_frames(str(world / "videos" / sample.video), config)
    prompt = build_prompt(sample, config.view(world / "videos"))
    assert 1 < len(shown) == len(prompt["images"]) <= 16
    blocks = prompt["prompt"][-1]["content"]
    assert [f"{s:g}" for s, _ in shown] == [a["text"] for a, b in zip(blocks, blocks[1:]) if b["type"] == "image"]


def test_demo_answers_fifty_at_once(demo, world, toy_samples):
    "Each asks about a video of its own; each answer is the one that the model gives when it is asked alone."
    from gradio_client import Client, handle_file

    from vtg_r1.models.ground import TINY_INFERENCE, ground
    from vtg_r1.models.loading import load_model, load_processor

    model, processor = load_model("tiny"), load_processor("tiny")
    chosen = toy_samples[:10]
    alone = [ground(model, processor, world / "videos" / s.video, [s.query], TINY_INFERENCE)[0].span for s in chosen]
    assert len({str(a) for a in alone}) > 3
    client = Client(demo, verbose=False, httpx_kwargs={"timeout": 120})
    files = {s.video: handle_file(str(world / "videos" / s.video)) for s in chosen}
    jobs = [client.submit(files[chosen[i % 10].video], chosen[i % 10].query, api_name="/ask") for i in range(50)]
    answers = [job.result(timeout=300)[1] for job in jobs]
    assert [a["rows"][0]["answers"][1]["span"] for a in answers] == [alone[i % 10] for i in range(50)]
    assert [a["rows"][0]["query"] for a in answers] == [chosen[i % 10].query for i in range(50)]


def status(address: str, **headers) -> int:
    "Of a GET with the path sent as it is written."
    host, _, path = address.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest("GET", f"/{path}", skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection.getresponse().status


def test_demo_serves_its_own_files_only(demo, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("canary")
    link = Path(os.environ["GRADIO_TEMP_DIR"]) / "link.mp4"
    link.symlink_to(secret)
    for path in (
        "/etc/passwd",
        str(secret),
        f"{Path.cwd()}/README.md",
        f"{Path.cwd()}/settings.ini",
        "../../../../etc/passwd",
        "..%2f..%2fetc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        str(link),
        f"{os.environ['GRADIO_TEMP_DIR']}/../../secret",
    ):
        assert status(f"{demo}/gradio_api/file={path}") in (400, 403, 404), path
    assert status(f"{demo}/", Host="evil.example") == 400 and status(f"{demo}/") == 200
    assert demo.startswith("http://127.0.0.1:")


def running_blocks():
    from gradio.blocks import Blocks

    return next(b for b in Blocks.get_instances() if getattr(b, "is_running", False))


def ask_raw(demo, file) -> str:
    "What the server answers to a question about `file`, sent without Gradio's client: the last event of its stream."
    body = json.dumps({"data": [file, "the red circle"]}).encode()
    call = urllib.request.Request(f"{demo}/gradio_api/call/ask", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=60) as r:
        event = json.load(r)["event_id"]
    with urllib.request.urlopen(f"{demo}/gradio_api/call/ask/{event}", timeout=60) as r:
        return r.read().decode()


def test_demo_refuses_addresses_and_foreign_paths(demo, view):
    "What the interface never sends: a file that was not uploaded, and an address that the server would have to fetch."
    for path in (
        "/etc/passwd",
        f"{view}/video/0",
        "http://203.0.113.1/a.mp4",
        "file:///etc/passwd",
        "../../etc/passwd",
        str(Path.cwd() / "README.md"),
    ):
        said = ask_raw(demo, {"path": path, "meta": {"_type": "gradio.FileData"}})
        assert "event: error" in said and "root:" not in said, path
    file = next(block for block in running_blocks().blocks.values() if getattr(block, "elem_id", "") == "file")
    with pytest.raises(ValueError, match="not an address"), concurrent.futures.ThreadPoolExecutor() as pool:  # Gradio's own would go and fetch it
        pool.submit(asyncio.run, file.async_move_resource_to_block_cache("https://example.org/a.mp4")).result()


def test_demo_says_what_is_wrong_through_its_interface(demo, world):
    from gradio_client import Client, handle_file

    client, file = Client(demo, verbose=False), handle_file(str(next((world / "videos").iterdir())))
    for text, said in (
        ("", "Type what you are looking for"),
        ("a\n" * 9, "at most 8"),
        ("x" * 301, "300 characters"),
        ("the <|image_pad|> circle", "control word"),
    ):
        assert said in client.predict(file, text, api_name="/ask")[1]["error"]
    assert "Drop a video" in client.predict(None, "the red circle", api_name="/ask")[1]["error"]


def test_demo_ends_an_upload_that_takes_too_long(demo):
    "The first bytes of an upload arrive, the others never do."
    from vtg_r1.pages.demo import PageGuard

    app = running_blocks().app
    head, sent = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n', []
    pieces = [{"type": "http.request", "body": head, "more_body": True}]

    async def receive():
        return pieces.pop() if pieces else await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"1000")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/gradio_api/upload",
        "raw_path": b"/gradio_api/upload",
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, PageGuard(app, 0.5)(scope, receive, send)).result()
    assert sent[0]["status"] == 408 and not pieces and time.monotonic() - began < 10
    with urllib.request.urlopen(demo, timeout=20) as r:
        assert "default-src 'self'" in r.headers["Content-Security-Policy"]  # so the guard stands before the running page


def test_demo_tells_of_a_video_that_is_too_long(tmp_path):
    import numpy as np

    from vtg_r1.data.toyworld import write_video
    from vtg_r1.pages.demo import PageError, check_video

    write_video(tmp_path / "long.mp4", np.zeros((70, 56, 56, 3), np.uint8), 1)
    with pytest.raises(PageError, match=r"long.mp4 lasts 70 s; this page takes videos of up to 60 s"):
        check_video(str(tmp_path / "long.mp4"), 60)


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:9,\n/etc/passwd\n", "\ufeff ffconcat version 1.0\nfile private.mp4\n", "<?xml version='1.0'?><MPD/>"]
)
def test_demo_follows_no_playlist(text, tmp_path):
    "FFmpeg opens what a playlist names: files of this machine, whatever the upload is called."
    from vtg_r1.pages.demo import PageError, check_video

    (tmp_path / "a.mp4").write_text(text, encoding="utf-8")
    with pytest.raises(PageError, match=r"a.mp4 is a list of videos, not a video"):
        check_video(str(tmp_path / "a.mp4"), 60)


def test_videos_that_browsers_do_not_play_are_copied_with_their_clock(grey, world, tmp_path):
    import numpy as np

    odd = grey(tmp_path / "odd.mkv", "mpeg4", 30, 10)
    copy = preview(str(odd), tmp_path)
    assert copy != str(odd) and np.allclose(probe(copy).times, probe(odd).times, atol=2e-3)
    assert preview(str(odd), tmp_path) == copy
    good = str(next((world / "videos").iterdir()))
    assert preview(good, tmp_path) == good
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXTINF:3,\n{odd}\n")
    with pytest.raises(VideoError, match="cannot be made playable"):
        preview(str(tmp_path / "list.mp4"), tmp_path)
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be made playable"):
        preview(str(tmp_path / "notes.mp4"), tmp_path)


def test_a_copy_is_upright_on_the_clock_of_the_reader_and_mkv_is_not_webm(grey, tmp_path):
    "A transport stream begins at 1.4 s of its own clock; a phone writes how a film is turned into the header of its track."
    import av

    side = bytearray(grey(tmp_path / "m.mp4", "mpeg4", 8, 10).read_bytes())
    matrix = side.index(b"tkhd") + 44
    side[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big") for v in (0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000))
    (tmp_path / "side.mp4").write_bytes(side)
    for path, size in ((grey(tmp_path / "a.ts", "mpeg2video", 8, 25), (64, 48)), (tmp_path / "side.mp4", (48, 64))):
        copy, info = preview(str(path), tmp_path / "copies"), probe(path)
        with av.open(copy) as f:
            assert [float(p.pts * p.time_base) for p in f.demux(video=0) if p.size] == pytest.approx(info.times.tolist(), abs=1e-3)
        assert (probe(copy).width, probe(copy).height) == (info.width, info.height) == size
    for suffix, played in (("webm", True), ("mkv", False)):
        path = str(grey(tmp_path / f"v.{suffix}", "libvpx-vp9", 8, 10))
        assert (preview(path, tmp_path / "copies") == path) is played


def test_a_copy_that_takes_too_long_leaves_nothing(tmp_path, monkeypatch):
    def run(command, **kwargs):
        Path(command[-1]).write_bytes(b"half a copy")
        raise subprocess.TimeoutExpired(command, 120)

    monkeypatch.setattr("vtg_r1.pages.browser_video.subprocess.run", run)
    (tmp_path / "v.mp4").write_bytes(b"a video")
    with pytest.raises(VideoError, match="longer than two minutes"):
        preview(str(tmp_path / "v.mp4"), tmp_path / "copies")
    assert not list((tmp_path / "copies").iterdir())


# --- review ---


@pytest.fixture(scope="module")
def reviewed(world, tmp_path_factory):
    "Samples with predictions; one query and one teacher response are hostile, and every prediction's response. Their folder, the samples, then what `read_review` makes of the files."
    folder, samples, scripts = tmp_path_factory.mktemp("review"), load_samples(world / "samples.jsonl"), read_scripts(world)
    for s in samples:
        s.teacher = toy_teacher(s, scripts)
    samples[1].query = EVIL
    samples[1].teacher["response"] = EVIL
    write_jsonl(folder / "samples.jsonl", samples)
    write_jsonl(
        folder / "predictions.jsonl", [{"qid": s.qid, "pred": [s.spans[0]] if i % 2 else None, "response": EVIL} for i, s in enumerate(samples)]
    )
    return folder, samples, *read_review([folder / "samples.jsonl", folder / "predictions.jsonl"])


@pytest.fixture(scope="module")
def view(reviewed, world):
    _, _, lines, predictions = reviewed
    server = ReviewServer(lines, predictions, world / "videos", EVIL)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.missing == []
    yield server.address.rstrip("/")
    server.stop()
    thread.join(20)
    assert not thread.is_alive()


def rows_of(tab):
    return tab.locator("#list button[data-qid]")


@pytest.mark.browser
def test_view_filters_sorts_and_plays(view, tab, reviewed):
    _, samples, _, _ = reviewed
    tab.goto(view)
    assert rows_of(tab).count() == len(samples)
    tab.select_option("[name=source]", "toyworld-ordinal")
    assert rows_of(tab).count() == sum(s.source == "toyworld-ordinal" for s in samples) > 0
    tab.select_option("[name=source]", "")
    tab.select_option("[name=lane]", "teacher")
    tab.fill("[name=iou0]", "0.5")
    tab.fill("[name=len1]", "3")
    wanted = [s for s in samples if s.teacher["iou"] >= 0.5 and s.spans[0][1] - s.spans[0][0] <= 3]
    assert 0 < rows_of(tab).count() == len(wanted) < len(samples)
    tab.select_option("[name=sort]", "iou")
    best = sorted(wanted, key=lambda s: s.teacher["iou"])
    assert rows_of(tab).first.get_attribute("data-qid") == best[0].qid
    tab.fill("[name=iou0]", "")
    tab.fill("[name=len1]", "")
    tab.fill("[name=text]", samples[0].query)
    rows_of(tab).first.click()
    assert tab.locator(".lane").count() == 3 and tab.locator(".strip img").count() > 5
    until(lambda: tab.eval_on_selector("video", "v => v.readyState") >= 2)
    tab.locator(".lane .bar.truth").click()
    start, end = (next(s for s in samples if s.qid == rows_of(tab).first.get_attribute("data-qid"))).spans[0]
    until(lambda: start <= second_of(tab) <= end + 0.5 and second_of(tab) > 0)
    assert not tab.errors and all(url.startswith((view, "data:", "blob:")) for url in tab.asked)


@pytest.mark.browser
def test_view_keeps_text_as_text(view, tab):
    tab.goto(view)
    assert tab.inner_text("#title") == EVIL
    rows_of(tab).nth(1).click()
    assert tab.inner_text("#detail h2") == EVIL and tab.locator("#detail pre").first.inner_text() == EVIL
    assert tab.evaluate("window.hacked") is None and tab.locator("img[src=x]").count() == 0


@pytest.mark.browser
def test_static_page_curates_without_a_server(reviewed, world, tab, tmp_path):
    folder, samples, lines, predictions = reviewed
    out = folder / "page with spaces.html"
    assert save_review(out, lines, predictions, world / "videos") == []
    tab.goto(out.as_uri())
    until(lambda: tab.eval_on_selector("video", "v => v.readyState") >= 2)
    tab.keyboard.press("k")
    tab.keyboard.press("n")
    tab.keyboard.press("d")
    tab.keyboard.press("n")
    tab.keyboard.press("k")
    assert "2 marked keep, 1 drop" in tab.inner_text("#count")

    def download(what, kind):
        tab.select_option("[name=what]", what)
        tab.select_option("[name=kind]", kind)
        with tab.expect_download() as got:
            tab.click("#save")
        got.value.save_as(tmp_path / "got")
        return (tmp_path / "got").read_text()

    kept = download("keep", "jsonl")
    assert kept == (folder / "samples.jsonl").read_text().splitlines(True)[0] + (folder / "samples.jsonl").read_text().splitlines(True)[2]
    (tmp_path / "kept.jsonl").write_text(kept)
    assert [s.qid for s in load_samples(tmp_path / "kept.jsonl")] == [samples[0].qid, samples[2].qid]
    assert download("rest", "qids").split() == [s.qid for i, s in enumerate(samples) if i != 1]
    tab.reload()
    assert "2 marked keep, 1 drop" in tab.inner_text("#count")
    tab.set_viewport_size({"width": 390, "height": 844})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390 and not tab.errors


@pytest.mark.browser
def test_widget_shows_in_its_frame(reviewed, world, tab):
    _, samples, _, _ = reviewed
    widget = review(samples[:4], {"mine": [{"qid": s.qid, "pred": [[0, 2]]} for s in samples[:4]]}, world / "videos")
    tab.set_content(f"<!doctype html><p>notebook</p>{widget._repr_html_()}")
    frame = tab.frame_locator("iframe")
    frame.locator("#list button[data-qid]").nth(3).wait_for()
    assert frame.locator(".lane").count() == 3
    until(lambda: frame.locator("video").evaluate("v => v.readyState") >= 2)  # the video stands in the page


def get(address: str, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as r:
            return r.status, r.read(), r.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read(), e.headers


def test_view_serves_its_own_files_only(view, world):
    three = "%D9%A3"  # an Arabic digit three
    for address in (
        *(f"{view}/video/{path}" for path in ("..", "../video/0", "99999", "-1", "0/../../settings.ini", "%2e%2e/0", "0x0", three, "0%00")),
        f"{view}/../etc/passwd",
        f"{view}//etc/passwd",
        f"{view}/%2e%2e/%2e%2e/etc/passwd",
        f"{view}/samples.jsonl",
        f"{view}/video/{world}/videos",
    ):
        assert status(address) == 404, address
    assert status(f"{view}/", Host="evil.example") == 400 and status(f"{view}/", Host="localhost:1") == 200


def test_videos_stay_below_their_root(tmp_path, monkeypatch):
    root, secret = tmp_path / "videos", tmp_path / "secret.mp4"
    root.mkdir()
    secret.write_bytes(b"canary")
    (root / "link.mp4").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path)
    (root / "own.mp4").write_bytes(b"mine")
    (root / "alias.mp4").symlink_to(root / "own.mp4")
    for name in ("../secret.mp4", str(secret), "link.mp4", "folder/secret.mp4", "./../secret.mp4", "a\0b", ".", ""):
        assert inside(root, name) is None, name
    assert inside(root, "alias.mp4") == inside(root, "own.mp4") == root.resolve() / "own.mp4"
    monkeypatch.setenv("VTG_R1_VIDEO_LINKS", str(tmp_path))  # as training reads it
    assert inside(root, "link.mp4") == secret.resolve() and inside(root, "n" * 5000) is None


def test_view_serves_ranges_to_fifty_at_once(view):
    whole = get(f"{view}/video/3")[1]
    size = len(whole)

    def piece(i):
        first = i * size // 60
        code, body, headers = get(f"{view}/video/3", Range=f"bytes={first}-{first + 99}")
        return code == 206 and body == whole[first : first + 100] and headers["Content-Range"].endswith(f"/{size}")

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        assert all(pool.map(piece, range(50)))
    assert get(f"{view}/video/3", Range=f"bytes={size}-")[0] == 416


@pytest.mark.parametrize(
    "row, said",
    [
        ("[1]", "no qid"),
        ("{", "is no JSON"),
        ('{"qid": "a"}', "neither pred nor response"),
        ('{"qid": "a", "pred": [[1]]}', r"no \[start, end\]"),
        ('{"qid": "a", "query": "q"}', "missing"),
        ('{"qid": "a", "video": "../v.mp4", "duration": 9, "query": "q", "spans": [[1, 2]]}', "leaves the video root"),
        ('{"qid": "a", "video": "v.mp4", "duration": 9, "query": "q", "spans": [[1, 2]], "teacher": "me"}', "teacher.*is 'me'"),
        ('{"qid": "a", "video": "v.mp4", "duration": 9, "query": "q", "spans": [[1, 2]], "difficulty": {"x": NaN}}', "not JSON compliant"),
        ('{"qid": "a", "pred": null}\n{"qid": "a", "pred": null}', "is in the file twice"),
        ("", "holds no rows"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, said):
    (tmp_path / "rows.jsonl").write_text(row + "\n")
    with pytest.raises(SampleError, match=said) as e:
        read_review([tmp_path / "rows.jsonl"])
    assert "rows.jsonl" in str(e.value)


def test_lone_surrogates_do_not_break_the_page(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"qid": "a", "pred": [[1, 2]], "response": "\\ud800 half"}\n')
    lines, predictions = read_review([tmp_path / "p.jsonl"])
    assert save_review(tmp_path / "p.html", lines, predictions) == []
    page = (tmp_path / "p.html").read_text()
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["rows"][0]["answers"]["p"]["response"] == "\ud800 half"


# --- command line ---


def test_view_writes_a_page_and_tells_where(reviewed, world, tmp_path, capsys):
    folder, samples, _, _ = reviewed
    files = [str(folder / name) for name in ("samples.jsonl", "predictions.jsonl")]
    assert main(["review", *files, "--videos", str(world / "videos"), "--html", str(tmp_path / "r.html"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"html": str(tmp_path / "r.html"), "queries": len(samples), "lanes": ["predictions"], "missing_videos": []}
    assert main(["review", files[0], "--videos", str(tmp_path), "--html", str(tmp_path / "r.html")]) == 0
    assert "12 of the videos are missing" in capsys.readouterr().err


def test_without_the_extra_review_writes_html_and_its_server_names_the_extra(reviewed, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    file = str(reviewed[0] / "samples.jsonl")
    assert main(["review", file]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'vtg_r1[demo]'" in line and "--html FILE" in line
    assert main(["review", file, "--html", str(tmp_path / "r.html")]) == 0 and (tmp_path / "r.html").is_file()


def test_every_file_is_a_lane_of_its_own(tmp_path):
    "Files of one name, in folders of one name, and names reserved for the truth and the teacher."
    names = ["a/run/p.jsonl", "b/run/p.jsonl", "c/run/p.jsonl", "d/run/p.jsonl", "a/run/teacher.jsonl", "a/run/truth.jsonl"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(tmp_path / name, [{"qid": "q", "pred": [[i, i + 1]]}])
    _, predictions = read_review([tmp_path / name for name in names])
    assert list(predictions) == ["p", "run/p", "run/p (2)", "run/p (3)", "run/teacher", "run/truth"]
    assert [rows["q"]["spans"][0][0] for rows in predictions.values()] == [0, 1, 2, 3, 4, 5]


def test_a_query_may_be_in_two_files_and_its_qid_not_stand_for_two_queries(reviewed, tmp_path):
    _, samples, _, _ = reviewed
    write_jsonl(tmp_path / "rl.jsonl", samples)
    write_jsonl(tmp_path / "scored.jsonl", [replace(s, difficulty={"ious": [0.5]}) for s in samples[:2]])
    assert '"difficulty"' in read_review([tmp_path / "rl.jsonl", tmp_path / "scored.jsonl"])[0][samples[0].qid]
    write_jsonl(tmp_path / "other.jsonl", [replace(samples[0], query="something else")])
    with pytest.raises(SampleError, match=r"other.jsonl: qid .* is another query in a file before it"):
        read_review([tmp_path / "rl.jsonl", tmp_path / "other.jsonl"])


def test_predictions_for_other_queries_are_told(reviewed, tmp_path, capsys):
    folder, samples, _, _ = reviewed
    write_jsonl(tmp_path / "others.jsonl", [{"qid": f"other-{i}", "pred": None} for i in range(3)])
    with pytest.raises(SampleError, match="others: none of its 3 predictions is for a query of the samples"):
        read_review([tmp_path / "others.jsonl", folder / "samples.jsonl"])
    write_jsonl(tmp_path / "some.jsonl", [{"qid": qid, "pred": None} for qid in (samples[0].qid, "other-1", "other-2")])
    assert main(["review", str(folder / "samples.jsonl"), str(tmp_path / "some.jsonl"), "--html", str(tmp_path / "r.html")]) == 0
    assert "some: 2 of 3 predictions are for no query of the samples, such as qid 'other-1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, said",
    [("nowhere.mp4", "no such file"), ("notes.mp4", "is no readable video (Invalid data found when processing input)")],
)
def test_an_unreadable_video_is_told_without_error_numbers_and_folders(tmp_path, name, said):
    from vtg_r1.pages.demo import plain_error

    (tmp_path / "notes.mp4").write_text("these are notes, not a video")
    with pytest.raises(VideoError) as e:
        probe(tmp_path / name)
    assert plain_error(e.value) == f"This video cannot be read: {name} {said}."


@pytest.mark.parametrize(
    "words, said",
    [
        (["review", "nowhere.jsonl"], "nowhere.jsonl"),
        (["review", "settings.ini"], "settings.ini, line 1: is no JSON"),
        (["review", "settings.ini", "--videos", "nowhere"], "--videos nowhere: no such folder"),
        (["demo", "--model", "./nowhere"], "./nowhere"),
        (["demo", "--model", "tiny", "--model", "tiny", "--before", "tiny"], "one model, or two"),
    ],
)
def test_bad_input_is_one_line(words, said, capsys, monkeypatch):
    if words[0] == "demo":
        pytest.importorskip("gradio", reason="gradio is not installed: pip install 'vtg_r1[demo]'")
    monkeypatch.chdir(Path(__file__).parents[1])
    assert main(words) == 2
    out = capsys.readouterr()
    assert said in out.err and out.err.count("\n") == 1 and not out.out


def test_view_serves_until_interrupted(reviewed):
    folder = reviewed[0]
    with subprocess.Popen(
        [sys.executable, "-m", "vtg_r1.cli", "review", str(folder / "samples.jsonl")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            address = child.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:") and get(address)[0] == 200
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 130 and err.strip() == "vtg-r1 review: interrupted"
