"""The page behind `vtg-r1 demo`: drop a video, type a sentence, see when it happens. Needs the extra `demo` (Gradio)."""

import asyncio
import html
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from ..core.prompts import format_time, tag_text
from ..core.samples import load_samples
from ..core.spans import set_tiou
from ..data.model_inputs import budget_for
from ..data.toyworld import SET_LEVELS, ToyWorldConfig, make_world
from ..models.ground import InferenceConfig, Sampling, control_words, ground, resolve_model
from ..models.loading import TINY, load_model, load_processor
from ..pages.browser_video import digest, preview
from ..video.decoders import VideoError
from ..video.reader import jpeg_uri, probe, read_frames

ASSETS = Path(__file__).parents[1] / "assets" / "pages"
LONGEST_QUERY, MOST_QUERIES = 300, 8  # characters; sentences per question, which `ground` answers with one reading of the video
PLAYLISTS = (b"#extm3u", b"ffconcat", b"<?xml", b"<mpd", b"v=0", b"[playlist]")  # FFmpeg would open the files that such a text names
LOCAL = ["127.0.0.1", "localhost"]


class PageError(Exception):
    "A question that cannot be answered; the message is for the person who asked it."


# --- models ---


@dataclass
class LoadedModel:
    "A model, and how it is asked."

    label: str  # on the page: "before RL", "after RL", or the model's name
    name: str  # as given
    model: Any
    processor: Any
    config: InferenceConfig


def load(name: str, chat_template_kwargs: dict[str, Any]) -> tuple[Any, Any]:
    "Model and processor of any name that `load_model` takes."
    return load_model(name), load_processor(name, chat_template_kwargs)


def load_models(
    names: Sequence[str],  # as `resolve_model` takes them
    load: Callable[[str, dict[str, Any]], tuple[Any, Any]] = load,  # name and arguments of its chat template → model and processor
) -> list[LoadedModel]:
    "One model, or two: before and after RL. A run folder means the model in it."
    if not 1 <= len(names) <= 2:
        raise ValueError(f"the page shows one model, or two (before and after RL); got {len(names)}")
    labels = ["before RL", "after RL"]
    if len(names) == 1:
        labels = [Path(names[0]).name]
    resolved = [resolve_model(name) for name in names]
    return [
        LoadedModel(label, name, *load(path, config.chat_template_kwargs), config) for label, name, (path, config) in zip(labels, names, resolved)
    ]


# --- questions and answers ---


def read_queries(
    text: str | None,  # as typed
    special: Sequence[str],  # control words of the models
) -> list[str]:
    "The sentences of a question, one per line, checked."
    queries = [" ".join(line.split()) for line in (text or "").splitlines() if line.strip()]
    if not queries:
        raise PageError("Type what you are looking for, one sentence per line.")
    if len(queries) > MOST_QUERIES:
        raise PageError(f"These are {len(queries)} sentences; ask at most {MOST_QUERIES} at once.")
    for query in queries:
        if len(query) > LONGEST_QUERY:
            raise PageError(f"A sentence may have {LONGEST_QUERY} characters; “{query[:40]}…” has {len(query)}.")
        if any(word in query for word in special):
            raise PageError(f"“{query[:80]}” holds a control word of the model; write it in plain words.")
    return queries


def check_video(
    path: str | None,  # an uploaded file
    longest: float,  # seconds
) -> float:  # seconds
    "The duration of a video that can be asked about; raises `PageError` and `VideoError`."
    if not path:
        raise PageError("Drop a video first, or pick an example.")
    with open(path, "rb") as f:
        head = f.read(512)
    name = Path(path).name
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(PLAYLISTS):
        raise PageError(f"{name} is a list of videos, not a video.")
    duration = probe(path).duration
    if duration > longest:
        limit = f"this page takes videos of up to {_length_text(longest)}. Cut it, or start the page with a larger --max-minutes."
        raise PageError(f"{name} lasts {_length_text(duration)}; {limit}")
    return duration


def plain_error(error: PageError | VideoError) -> str:
    "An error in plain words, without error numbers and without this machine's folders."
    if isinstance(error, PageError):
        return str(error)
    name = Path(error.path).name
    reason = re.sub(r"\[Errno -?\d+\] ?|:? '[^']*/[^']*'", "", error.reason).replace(str(error.path), name)
    return f"This video cannot be read: {name} {reason}."


def answer(
    models: Sequence[LoadedModel],
    path: str,  # a video; each model reads it once
    queries: Sequence[str],
    truths: Mapping[str, list[list[float]]],  # sentence → [[start, end], …], seconds; [] is not in the video
    sampling: Sampling | None = None,  # as in `ground`
    report: Callable[[int, int], object] = lambda done, total: None,  # told before each model how many answers there are, and of how many
) -> list[
    dict[str, Any]
]:  # {query, truth or None, answers: {model, span or None, spans or None, response, tiou or None, agreement, refused} of each model}
    "One row per sentence."
    rows: list[dict[str, Any]] = [{"query": query, "truth": truths.get(query), "answers": []} for query in queries]
    for number, loaded in enumerate(models):
        report(number * len(queries), len(models) * len(queries))
        for row, a in zip(rows, ground(loaded.model, loaded.processor, path, list(queries), loaded.config, sampling)):
            score = None
            if row["truth"] is not None and a.spans is not None:
                score = set_tiou(a.spans, row["truth"])
            facts = {"agreement": a.agreement, "refused": a.refused}
            row["answers"].append({"model": loaded.label, "span": a.span, "spans": a.spans, "response": a.response, "tiou": score, **facts})
    return rows


def sampled_frames(
    path: str,  # a video
    config: InferenceConfig,  # of the model
) -> list[tuple[float, str]]:  # (second, JPEG as a data URI)
    "The frames that a model sees, at a size for people."
    from PIL import Image

    info = probe(path)
    frames, _ = budget_for(float(info.times[-1] - info.times[0]), config.view(""))
    arrays, times = read_frames(path, frames, 24 * 28 * 28)
    size = max(1, round(96 * info.width / info.height)), 96  # the sides above are multiples of 28, which distorts a picture a little
    return [(float(time), jpeg_uri(Image.fromarray(array).resize(size), quality=72)) for array, time in zip(arrays, times)]


# --- HTML ---


def _text(value: object) -> Markup:
    "Text that stays text in HTML and in Gradio's own templates; HTML of our template is kept."
    if isinstance(value, Markup):
        return value
    escaped = html.escape(str(value))
    return Markup(escaped.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;"))


def _length_text(seconds: float) -> str:
    if seconds < 100:
        return f"{format_time(seconds)} s"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} min"


def _stretch(span: Sequence[float]) -> str:
    return f"{format_time(span[0])}–{format_time(span[1])} s"


def _place(span: Sequence[float], duration: float) -> str:
    "The place of a span on a timeline, as CSS."
    start, end = np.clip(span, 0, duration) / duration * 100
    return f"left:{start:.2f}%;width:{end - start:.2f}%"


def _longest_first(spans: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    "The order in which no span is drawn behind a longer one."
    return sorted(spans, key=lambda span: span[0] - span[1])


_TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, finalize=_text, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.filters |= {"stretch": _stretch, "place": _place, "length_text": _length_text, "seconds": format_time, "longest_first": _longest_first}


def player_html(path: str | None) -> str:
    "The player, or a place for it."
    if not path:
        return '<div class="empty">Your video plays here.</div>'
    return f'<video controls playsinline preload="auto" aria-label="the video" src="gradio_api/file={_text(quote(path))}"></video>'


def error_html(message: str) -> str:
    "An error that screen readers read out at once."
    return f'<p class="problem" role="alert">{_text(message)}</p>'


def answers_html(
    rows: Sequence[dict[str, Any]],  # of `answer`; none before the first question
    duration: float,  # of the video, seconds
    frames: Sequence[tuple[float, str]],  # of `sampled_frames`
) -> str:
    "Timelines, a switch if there are two models, and the frames; those inside the last model's first answer are marked."
    first = rows[0]["answers"] if rows else []
    models = [a["model"] for a in first]
    spans = [span for a in first[-1:] for span in a["spans"] or []]
    marked = [{"time": time, "image": image, "inside": any(start <= time < end for start, end in spans)} for time, image in frames]
    closed = [{**row, "answers": [{**a, "closed": tag_text(a["response"]) is not None} for a in row["answers"]]} for row in rows]
    return _TEMPLATES.get_template("answers.html").render(models=models, rows=closed, duration=duration, frames=marked)


# --- examples ---


@dataclass
class Example:
    "A toy video, its sentences, and when they are true."

    path: str
    truths: dict[str, list[list[float]]]  # sentence → [[start, end], …], seconds; [] is not in the video
    image: Any  # PIL, one frame
    caption: str


def make_examples(
    folder: Path,
    sets: bool = False,  # ask for what comes never, once or twice
) -> list[Example]:
    "New toy videos. No model was trained on them, unless its run had the seed 77: then it knows their scenes in smaller pictures."
    from PIL import Image

    levels = ("direct", *SET_LEVELS) if sets else ToyWorldConfig.levels
    world = make_world(folder, 4, 77, "toy", ToyWorldConfig(size=336, levels=levels))
    examples: dict[str, Example] = {}
    for sample in load_samples(world / "samples.jsonl"):
        if sample.video not in examples:
            path = str(world / "videos" / sample.video)
            frames, _ = read_frames(path, 64, 336 * 336)
            busiest = max(frames, key=lambda frame: (frame.max(-1) > 90).mean())  # the background is dark
            examples[sample.video] = Example(path, {}, Image.fromarray(busiest), f"{format_time(sample.duration)} s")
        examples[sample.video].truths[sample.query] = sample.spans
    return list(examples.values())


# --- the page ---


class DemoApp:
    "The functions of the page's buttons."

    def __init__(
        self,
        models: list[LoadedModel],
        examples: list[Example],
        folder: Path,  # for copies that browsers can play
        longest: float,  # maximum length of a video, seconds
        sampling: Sampling | None = None,  # as in `ground`
    ):
        self.models, self.examples, self.folder, self.longest, self.sampling = models, examples, folder, longest, sampling
        self.truths = {digest(example.path): example.truths for example in examples}
        self.special = sorted({word for loaded in models for word in control_words(loaded.processor)})

    def open_video(self, path: str | None) -> tuple[str, str]:  # player, answers
        "A video was dropped, picked or removed."
        if not path:
            return player_html(None), ""
        try:
            duration = check_video(path, self.longest)
            return player_html(preview(path, self.folder / "playable")), answers_html([], duration, sampled_frames(path, self.models[-1].config))
        except (PageError, VideoError) as e:
            return player_html(None), error_html(plain_error(e))

    def ask(
        self,
        path: str | None,  # the video
        text: str,  # sentences, one per line
        report: Callable[[int, int], object] = lambda done, total: None,  # of `answer`
    ) -> tuple[str, dict[str, Any]]:  # answers as HTML, as data
        "A question was asked."
        try:
            duration = check_video(path, self.longest)
            assert path is not None
            rows = answer(self.models, path, read_queries(text, self.special), self.truths.get(digest(path), {}), self.sampling, report)
            page = answers_html(rows, duration, sampled_frames(path, self.models[-1].config))
            return page, {"video": Path(path).name, "duration": duration, "rows": rows}
        except (PageError, VideoError) as e:
            return error_html(plain_error(e)), {"error": plain_error(e)}


def _uploads_only(file: Any) -> Any:
    "A file component that refuses web addresses, which Gradio itself would fetch for the sender."
    move = file.async_move_resource_to_block_cache

    async def move_upload(path: object) -> object:
        if "://" in str(path):
            raise ValueError("give a file, not an address")
        return await move(path)

    file.async_move_resource_to_block_cache = move_upload
    return file


def _question_side(app: DemoApp) -> tuple[Any, Any, Any, Any]:  # file, gallery, queries, button
    "The side of the page where a video is dropped or picked, and a question typed."
    import gradio as gr

    first, pictures = app.examples[0], [(example.image, example.caption) for example in app.examples]
    file = _uploads_only(gr.File(first.path, label="Drop a video here", elem_id="file", height=140))
    layout: dict[str, Any] = dict(columns=4, rows=1, height=148, allow_preview=False, object_fit="cover", buttons=[], interactive=False)
    gallery = gr.Gallery(pictures, label="or pick an example", elem_id="examples", **layout)
    queries = gr.Textbox(
        "\n".join(first.truths),
        label="What are you looking for? One sentence per line",
        lines=3,
        max_lines=8,
        elem_id="queries",
        max_length=(LONGEST_QUERY + 1) * MOST_QUERIES,
        placeholder="the second red circle",
    )
    return file, gallery, queries, gr.Button("Find it", variant="primary", elem_id="ask")


def _heading(models: Sequence[LoadedModel]) -> str:
    names = ["/".join(Path(loaded.name).parts[-2:]) for loaded in models]  # with its stage: the runs of two stages may have the same name
    title = f"Model: {names[0]}"
    if len(models) > 1:
        title = "Models: " + " and ".join(f"{loaded.label} ({name})" for loaded, name in zip(models, names))
    hint = ""
    if any(loaded.name == TINY for loaded in models):
        hint = " The model tiny knows only coloured shapes, such as “the second red circle”; another is given by --model."
    return f"<h1>When does it happen?</h1><p>Give a video and a sentence, get the seconds. {_text(title)}.{hint}</p>"


# the button waits while the count of videos that are being opened is not zero
_HOLD = """(file) => {{
    const button = document.querySelector('#ask');
    button.opening = (button.opening || 0) + {};
    button.disabled = button.opening > 0;
    return {};
}}"""


# on a phone the answers are below the video, out of sight
_SHOW_ANSWERS = """() => {
    const answers = document.querySelector('#answers');
    if (answers.getBoundingClientRect().top > 0.7 * window.innerHeight) answers.scrollIntoView({behavior: 'smooth'});
    return [];
}"""


def build(app: DemoApp) -> Any:  # gr.Blocks
    "The page."
    import gradio as gr

    player_text, answers_text = app.open_video(app.examples[0].path)
    script = (ASSETS / "demo.js").read_text(encoding="utf-8")
    with gr.Blocks(title="VTG-R1: when does it happen?", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(_heading(app.models), elem_id="top", apply_default_css=False)
        with gr.Row(equal_height=False, elem_id="desk"):
            with gr.Column(scale=2, min_width=300):
                file, gallery, queries, button = _question_side(app)
            with gr.Column(scale=3, min_width=320):
                player = gr.HTML(player_text, elem_id="player", apply_default_css=False)
                answers = gr.HTML(answers_text, elem_id="answers", js_on_load=script, apply_default_css=False)
                data = gr.JSON(visible=False)

        def pick(event: gr.SelectData) -> tuple[str, str]:
            example = app.examples[event.index]
            return example.path, "\n".join(example.truths)

        def ask(path: str | None, text: str, progress: gr.Progress = gr.Progress()) -> tuple[str, dict[str, Any]]:
            return app.ask(path, text, lambda done, total: progress((done, total), unit="answers"))

        asking = button.click(
            ask, [file, queries], [answers, data], api_name="ask", show_progress="minimal", concurrency_id="model", concurrency_limit=1
        )
        asking.then(None, js=_SHOW_ANSWERS, api_visibility="private")
        queries.submit(None, js="() => document.querySelector('#ask').click()", api_visibility="private")
        gallery.select(pick, None, [file, queries], api_visibility="private", show_progress="hidden")
        # an answer about the last video would come too late; one that came before the new video is open would be wiped away
        opened = file.change(
            app.open_video,
            file,
            [player, answers],
            js=_HOLD.format(1, "[file]"),
            trigger_mode="multiple",  # each is counted, and runs after the one before it
            api_visibility="private",
            show_progress="minimal",
            cancels=asking,
        )
        opened.then(None, js=_HOLD.format(-1, "[]"), api_visibility="private")
    return page


class PageGuard:
    "ASGI middleware: an upload has a time limit, and a policy forbids the browser to load anything from elsewhere."

    POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; base-uri 'self'; form-action 'self'"

    def __init__(
        self,
        app: Any,  # an ASGI application
        seconds: float,  # that an upload may take
    ):
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def send_guarded(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                policy = [(b"content-security-policy", self.POLICY.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message["headers"], *policy]
            await send(message)

        limit = self.seconds if scope["path"].endswith("/upload") else None
        try:
            async with asyncio.timeout(limit):
                await self.app(scope, receive, send_guarded)
        except TimeoutError:
            if limit is None:
                raise
            if not begun:
                from starlette.responses import PlainTextResponse

                await PlainTextResponse(f"The upload took longer than {self.seconds:g} s.", 408)(scope, receive, send_guarded)


def theme() -> Any:  # gr.themes.Base
    "Gradio's plainest look with the machine's own fonts, so that the browser fetches nothing."
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


@contextmanager
def running_page(
    models: list[LoadedModel],
    host: str = "127.0.0.1",  # address to listen on
    port: int = 0,  # 0 takes a free one
    max_mb: int = 200,  # of an upload, 2²⁰ bytes
    max_minutes: float = 10,  # of a video
    open_browser: bool = False,
    sampling: Sampling | None = None,  # as in `ground`
) -> Iterator[str]:  # the page's address
    "The page, served by other threads within the block; uploads are in a folder of their own that is removed at the end."
    folder = Path(tempfile.mkdtemp(prefix="vtg-r1-demo-"))
    files = folder / "files"
    files.mkdir()
    os.environ |= {"GRADIO_TEMP_DIR": str(files), "GRADIO_ANALYTICS_ENABLED": "False"}
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL if host in LOCAL else ["*"])
    try:
        examples = make_examples(files / "toyworld", sets=any(loaded.config.answers == "set" for loaded in models))
        page = build(DemoApp(models, examples, files, max_minutes * 60, sampling)).queue(max_size=64)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or None,
            share=False,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=max_mb * 2**20,
            app_kwargs={"middleware": [hosts, Middleware(PageGuard, seconds=120)]},
            theme=theme(),
            css_paths=[ASSETS / "demo.css"],
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
