"""The page behind `vtg-r1 demo`: drop a video, type a sentence, see when it happens. Needs the extra `demo` (Gradio)."""

import asyncio
import html
import os
import re
import shutil
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..models.ground import InferenceConfig, control_words, ground, resolve_model
from ..models.loading import TINY, load_model, load_processor
from ..pages.browser_video import digest, preview
from ..core.prompts import tag_text, format_time
from ..core.samples import load_samples
from ..core.spans import tiou
from ..data.toyworld import ToyWorldConfig, make_world
from ..video.decoders import VideoError
from ..video.reader import jpeg_uri, probe, read_frames

ASSETS = Path(__file__).parents[1] / "assets" / "pages"
LONGEST_QUERY, MOST_QUERIES = 300, 8  # characters; sentences asked at once, which is what `predict` reads a video once for
PLAYLISTS = (b"#extm3u", b"ffconcat", b"<?xml", b"<mpd", b"v=0", b"[playlist]")  # FFmpeg would go on to the files that such a text names


class PageError(Exception):
    "What is wrong with a question, in words for the person who asked it."


# --- models ---


@dataclass
class LoadedModel:
    "A model, and how it is asked."

    label: str  # on the page: "before RL", "after RL", or the model's name
    name: str  # as given
    model: object
    processor: object
    config: InferenceConfig


def load(name: str) -> tuple:  # (model, processor)
    "A model by any name, and its processor."
    return load_model(name), load_processor(name)


def load_policies(names: list[str], load=load) -> list[LoadedModel]:  # as `resolve_model` takes them; a function from a name to model and processor
    "One model, or two: before and after RL. A run folder stands for the model in it."
    if not 1 <= len(names) <= 2:
        raise ValueError(f"the page shows one model, or two (before and after RL); got {len(names)}")
    labels = [Path(names[0]).name] if len(names) == 1 else ["before RL", "after RL"]
    asked = [resolve_model(name) for name in names]
    return [LoadedModel(label, name, *load(path), config) for label, name, (path, config) in zip(labels, names, asked)]


# --- questions and answers ---


def read_queries(text: str | None, special: list[str]) -> list[str]:  # as typed; control words of the models
    "The sentences of a question, one a line, checked."
    queries = [" ".join(line.split()) for line in (text or "").splitlines() if line.strip()]
    if not queries:
        raise PageError("Type what you are looking for, one sentence a line.")
    if len(queries) > MOST_QUERIES:
        raise PageError(f"These are {len(queries)} sentences; ask at most {MOST_QUERIES} at once.")
    for query in queries:
        if len(query) > LONGEST_QUERY:
            raise PageError(f"A sentence may have {LONGEST_QUERY} characters; “{query[:40]}…” has {len(query)}.")
        if any(token in query for token in special):
            raise PageError(f"“{query[:80]}” holds a control word of the model; write it in plain words.")
    return queries


def check_video(path: str | None, longest: float) -> float:  # `longest` and the result in seconds
    "The duration of a video that can be asked about; raises `PageError` and `VideoError`."
    if not path:
        raise PageError("Drop a video first, or pick an example.")
    with open(path, "rb") as f:
        if f.read(512).lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(PLAYLISTS):
            raise PageError(f"{Path(path).name} is a list of videos, not a video.")
    info = probe(path)
    if info.duration > longest:
        raise PageError(
            f"{Path(path).name} lasts {_clock(info.duration)}; this page takes videos of up to {_clock(longest)}. Cut it, or start the page with a larger --max-minutes."
        )
    return info.duration


def unreadable(e: VideoError) -> PageError:
    "The same in plain words, without error numbers and without this machine's folders."
    name = Path(e.path).name
    reason = re.sub(r"\[Errno -?\d+\] ?|:? '[^']*/[^']*'|; backend '.*", "", e.reason).replace(e.path, name)
    return PageError(f"This video cannot be read: {name} {reason}.")


def _words(e: Exception) -> str:
    return str(unreadable(e) if isinstance(e, VideoError) else e)


def answer(
    policies: list[LoadedModel], path: str, queries: list[str], truths: dict[str, list]
) -> list[dict]:  # truths: sentence → [start, end], seconds
    "One row a sentence: {query, truth or None, answers: one {model, span or None, response, tiou or None} a model}. A model reads the video once for all of them."
    rows = [{"query": q, "truth": truths.get(q), "answers": []} for q in queries]
    for policy in policies:
        said = ground(policy.model, policy.processor, path, queries, policy.config)
        for row, a in zip(rows, said):
            score = tiou(a.span, row["truth"]) if a.span and row["truth"] else None
            row["answers"].append({"model": policy.label, "span": a.span, "response": a.response, "tiou": score})
    return rows


def sampled_frames(path: str, frames: int) -> tuple[list[str], list[float]]:  # data URIs, seconds
    "The frames that a model sees, at a size for people."
    from PIL import Image

    arrays, times = read_frames(path, frames, 24 * 28 * 28)
    info = probe(path)
    size = max(1, round(96 * info.width / info.height)), 96  # the sides above are multiples of 28, which bends a picture a little
    return [jpeg_uri(Image.fromarray(a).resize(size), quality=72) for a in arrays], times.tolist()


# --- what the browser gets ---


def _text(value) -> str:
    "Text that stays text: in HTML, and in Gradio's own templates."
    escaped = html.escape(str(value))
    return escaped.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def _clock(seconds: float) -> str:
    return f"{format_time(seconds)} s" if seconds < 100 else f"{int(seconds // 60)}:{int(seconds % 60):02d} min"


def player_html(path: str | None) -> str:
    "The player, or the place for it."
    if not path:
        return '<div class="empty">Your video plays here.</div>'
    return f'<video controls playsinline preload="auto" aria-label="the video" src="gradio_api/file={_text(quote(path))}"></video>'


def error_html(message: str) -> str:
    "What went wrong, read out by screen readers at once."
    return f'<p class="problem" role="alert">{_text(message)}</p>'


def _place(span: list[float], duration: float) -> str:
    "Where a span lies on a timeline, as CSS."
    start, end = np.clip(span, 0, duration) / duration * 100
    return f"left:{start:.2f}%;width:{end - start:.2f}%"


def _answer_html(row: dict, said: dict, duration: float, number: int, shown: bool) -> str:
    "One model's answer to one sentence: its timeline, and its reasoning folded beside it."
    span = said["span"]
    words = f"{format_time(span[0])}–{format_time(span[1])} s" if span else ""
    mark = f'<i class="truth" style="{_place(row["truth"], duration)}"></i>' if row["truth"] else ""
    found = (
        (
            f'<button class="found" data-start="{span[0]}" data-end="{span[1]}" style="{_place(span, duration)}" '
            f'title="play {words}" aria-label="{_text(row["query"])}: {words}, play it"></button>'
        )
        if span
        else ""
    )
    verdict = f"<b>{words}</b>" if span else "<b>No span in its answer</b>"
    if row["truth"]:
        true = f"{format_time(row['truth'][0])}–{format_time(row['truth'][1])} s"
        verdict += f' <span class="aside">truth {true}, IoU {said["tiou"] or 0:.2f}</span>'
    closed = tag_text(said["response"]) is not None
    return (
        f'<div class="said" data-model="{number}"{"" if shown else " hidden"}><p class="verdict">{verdict}</p><div class="track">{mark}{found}<i class="now"></i></div>'
        f"<details><summary>Reasoning</summary><pre>{_text(said['response'] or '(it said nothing)')}</pre>"
        f"{'' if closed else '<p>There is no closed &lt;time&gt; block in it.</p>'}</details></div>"
    )


def answers_html(rows: list[dict], duration: float, images: list[str], times: list[float]) -> str:  # of `answer`; seconds; of `sampled_frames`
    "Timelines, a switch between models where there are two, and the frames the model saw."
    last = len(rows[0]["answers"]) - 1 if rows else 0
    labels = [a["model"] for a in rows[0]["answers"]] if last else []
    switch = "".join(
        f'<button role="radio" aria-checked="{str(i == last).lower()}" data-show="{i}">{_text(label)}</button>' for i, label in enumerate(labels)
    )
    items = "".join(
        f'<li{" class=chosen" if i == 0 else ""}><p class="query">{_text(row["query"])}</p>{"".join(_answer_html(row, a, duration, k, k == last) for k, a in enumerate(row["answers"]))}</li>'
        for i, row in enumerate(rows)
    )
    parts = [
        f'<div class="switch" role="radiogroup" aria-label="Whose answers">{switch}</div>' if switch else "",
        f'<ol class="answers">{items}</ol>' if rows else "",
    ]
    if rows:
        key = '<i class="key"></i>the answer' + (' <i class="key truth"></i>the truth' if any(r["truth"] for r in rows) else "")
        parts.append(f'<p class="axis"><span>0 s</span><span>{_clock(duration)}</span></p><p class="legend">{key}</p>')
    first = rows[0]["answers"][last]["span"] if rows else None
    return f'<div class="vtg" data-duration="{duration}">{"".join(parts)}{strip_html(images, times, first)}</div>'


def strip_html(images: list[str], times: list[float], span: list[float] | None) -> str:  # of `sampled_frames`; seconds
    "The sampled frames with their seconds; those inside `span` are marked."

    def frame(image: str, t: float) -> str:
        inside = span is not None and span[0] <= t < span[1]
        return (
            f'<li><button class="frame{" inside" if inside else ""}" data-at="{t:.3f}" aria-label="frame at {format_time(t)} s{", inside the answer" if inside else ""}">'
            f'<img alt="" src="{image}"><span>{format_time(t)} s</span></button></li>'
        )

    return f'<p class="strip-title">What the model saw: {len(images)} frames</p><ol class="strip">{"".join(map(frame, images, times))}</ol>'


# --- examples ---


@dataclass
class Example:
    "A toy video, its sentences, and when they are true."

    path: str
    truths: dict[str, list[float]]  # sentence → [start, end], seconds
    image: object  # PIL, one frame
    caption: str


def make_examples(folder: Path) -> list[Example]:
    "Toy videos that no model was trained on, made on the spot."
    from PIL import Image

    world = make_world(folder, 4, 77, "toy", ToyWorldConfig(size=336))
    of = {}
    for s in load_samples(world / "samples.jsonl"):
        of.setdefault(s.video, []).append(s)
    found = []
    for name, samples in of.items():
        path = str(world / "videos" / name)
        frames, _ = read_frames(path, 64, 336 * 336)
        busiest = max(frames, key=lambda frame: (frame.max(-1) > 90).mean())  # the ground is dark
        truths = {s.query: s.spans[0] for s in samples}
        found.append(Example(path, truths, Image.fromarray(busiest), f"{format_time(samples[0].duration)} s"))
    return found


# --- the page ---


class DemoApp:
    "What the page's buttons do."

    def __init__(self, policies: list[LoadedModel], examples: list[Example], folder: Path, longest: float):
        self.policies, self.examples, self.folder, self.longest = policies, examples, folder, longest
        self.frames = policies[-1].config.frames
        self.known = {digest(e.path): e.truths for e in examples}
        self.special = sorted({word for p in policies for word in control_words(p.processor)})

    def opened(self, path: str | None):  # → player, answers
        "A video was dropped, picked or removed."
        if not path:
            return player_html(None), ""
        try:
            duration = check_video(path, self.longest)
            return player_html(preview(path, self.folder / "playable")), answers_html([], duration, *sampled_frames(path, self.frames))
        except (PageError, VideoError) as e:
            return player_html(None), error_html(_words(e))

    def asked(self, path: str | None, text: str):  # → answers, the same as data
        "A question was asked."
        try:
            duration = check_video(path, self.longest)
            queries = read_queries(text, self.special)
            rows = answer(self.policies, path, queries, self.known.get(digest(path), {}))
            return answers_html(rows, duration, *sampled_frames(path, self.frames)), {"video": Path(path).name, "duration": duration, "rows": rows}
        except (PageError, VideoError) as e:
            return error_html(_words(e)), {"error": _words(e)}


def _no_addresses(block):
    "Let a file component take uploads only: Gradio itself would fetch a web address for whoever sends one."
    keep = block.async_move_resource_to_block_cache

    async def kept(path):
        if "://" in str(path):
            raise ValueError("give a file, not an address")
        return await keep(path)

    block.async_move_resource_to_block_cache = kept
    return block


def _question_side(desk: DemoApp) -> tuple:  # file, gallery, queries, button
    "Where a video is dropped or picked, and a question typed."
    import gradio as gr

    first = desk.examples[0] if desk.examples else None
    file = _no_addresses(gr.File(first and first.path, label="Drop a video here", elem_id="file", height=140))
    gallery = gr.Gallery(
        [(e.image, e.caption) for e in desk.examples],
        label="or pick an example",
        columns=4,
        rows=1,
        height=148,
        allow_preview=False,
        object_fit="cover",
        buttons=[],
        interactive=False,
        elem_id="examples",
        visible=bool(first),
    )
    queries = gr.Textbox(
        "\n".join(first.truths) if first else "",
        label="What are you looking for? One sentence a line",
        lines=3,
        max_lines=8,
        elem_id="queries",
        max_length=(LONGEST_QUERY + 1) * MOST_QUERIES,
        placeholder="the second red circle",
    )
    return file, gallery, queries, gr.Button("Find it", variant="primary", elem_id="ask")


def build(desk: DemoApp):  # a gr.Blocks
    "The page."
    import gradio as gr

    two = len(desk.policies) > 1
    given = ["/".join(Path(p.name).parts[-2:]) for p in desk.policies]  # with its stage: the runs of two stages may share a name
    names = " and ".join(f"{p.label} ({name})" if two else p.label for p, name in zip(desk.policies, given))
    hint = " It knows toy sentences only, such as “the second red circle”." if any(p.name == TINY for p in desk.policies) else ""
    shown = desk.opened(desk.examples[0].path if desk.examples else None)
    with gr.Blocks(title="VTG-R1: when does it happen?", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(
            f"<h1>When does it happen?</h1><p>Give a video and a sentence, get the seconds. {'Models' if two else 'Model'}: {_text(names)}.{hint}</p>",
            elem_id="top",
            apply_default_css=False,
        )
        with gr.Row(equal_height=False, elem_id="desk"):
            with gr.Column(scale=2, min_width=300):
                file, gallery, queries, button = _question_side(desk)
            with gr.Column(scale=3, min_width=320):
                player = gr.HTML(shown[0], elem_id="player", apply_default_css=False)
                answers = gr.HTML(shown[1], elem_id="answers", js_on_load=(ASSETS / "demo.js").read_text(encoding="utf-8"), apply_default_css=False)
                data = gr.JSON(visible=False)

        def picked(event: gr.SelectData):
            example = desk.examples[event.index]
            return example.path, "\n".join(example.truths)

        asking = {
            "fn": desk.asked,
            "inputs": [file, queries],
            "outputs": [answers, data],
            "show_progress": "minimal",
            "concurrency_id": "model",
            "concurrency_limit": 1,
        }
        asked = [button.click(api_name="ask", **asking), queries.submit(api_visibility="private", **asking)]
        gallery.select(picked, None, [file, queries], api_visibility="private", show_progress="hidden")
        file.change(
            desk.opened, file, [player, answers], api_visibility="private", show_progress="minimal", cancels=asked
        )  # an answer about the last video comes too late
    return page


class PageGuard:
    "ASGI middleware: an upload ends in time, and the browser is told to load nothing from elsewhere."

    POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; form-action 'self'"

    def __init__(self, app, seconds: float):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = False

        async def sending(message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", self.POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        if not scope["path"].endswith("/upload"):
            return await self.app(scope, receive, sending)
        try:
            async with asyncio.timeout(self.seconds):
                await self.app(scope, receive, sending)
        except TimeoutError:
            if not begun:
                from starlette.responses import PlainTextResponse

                await PlainTextResponse(f"The upload took longer than {self.seconds:g} s.", 408)(scope, receive, sending)


def theme():
    "Gradio's plainest look with the machine's own fonts: nothing is fetched."
    import gradio as gr

    plain = gr.themes.Base(primary_hue="teal", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return plain.set(
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        body_text_color_subdued="#475569",
        body_text_color_subdued_dark="#cbd5e1",
        block_label_text_color="#334155",
        block_title_text_color="#334155",
    )


def serve(policies: list[LoadedModel], ready=print, **how) -> None:  # `ready` is a function of the address
    "Serve the page until interrupted; `ready` is told its address, the rest is as `start` takes it."
    page, folder, address = start(policies, **how)
    try:
        ready(address)
        threading.Event().wait()
    finally:
        stop(page, folder)


def start(
    policies: list[LoadedModel],
    host: str = "127.0.0.1",  # address to listen on
    port: int | None = None,  # None takes a free one
    max_mb: int = 200,  # of an upload, 2²⁰ bytes
    max_minutes: float = 10,  # of a video
    browser: bool = False,  # open it there
):  # → page, folder, address
    "Start the page in threads of its own; what is uploaded lies in a folder of its own until `stop`."
    folder = Path(tempfile.mkdtemp(prefix="vtg-r1-demo-"))
    files = folder / "files"
    files.mkdir()
    os.environ |= {"GRADIO_TEMP_DIR": str(files), "GRADIO_ANALYTICS_ENABLED": "False"}
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    known = ["127.0.0.1", "localhost"] if host in ("127.0.0.1", "localhost") else ["*"]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=known), Middleware(PageGuard, seconds=120)]
    try:
        desk = DemoApp(policies, make_examples(files / "toyworld"), files, max_minutes * 60)
        page = build(desk).queue(max_size=64)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=browser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=max_mb * 2**20,
            app_kwargs={"middleware": guards},
            theme=theme(),
            css_paths=[ASSETS / "demo.css"],
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return page, folder, address


def stop(page, folder: Path) -> None:
    "Close a page of `start`, and remove what was uploaded."
    page.close(verbose=False)
    shutil.rmtree(folder, ignore_errors=True)
