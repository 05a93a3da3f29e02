"""The page on which a person makes a video; it is served to this machine alone."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from omegaconf import DictConfig

from synctalklip.app.desk import DONE, REFUSED, WAITING, Desk, Job, without_folders
from synctalklip.app.look import Figures, faces_of
from synctalklip.cli import build as build_from
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Synthesizer

HOST = "127.0.0.1"
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
LARGEST: tuple[str, str | int] = ("the largest", "largest")
SPEAKING: tuple[str, str | int] = ("who speaks in the video", "speaking")
STYLE = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
.dark { color-scheme: dark; }
#faces .gallery-container, #faces .grid-wrap { height: auto !important; min-height: 0 !important; overflow: hidden; }
#faces .grid-container { grid-template-columns: repeat(auto-fill, 96px); padding-top: 24px; }
#faces .thumbnail-item { width: 96px; height: 96px; }
#problem .html-container, #view .html-container { padding: 0 !important; }
.job { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 16px; overflow-wrap: anywhere; }
.job progress { appearance: none; border: 0; width: 100%; height: 12px; border-radius: 6px; overflow: hidden; }
.job progress, .job progress::-webkit-progress-bar { background: var(--border-color-primary); }
.job progress::-webkit-progress-value { background: #2563eb; }
.job progress::-moz-progress-bar { background: #2563eb; }
.job .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 16px; }
.job figure { margin: 0; }
.job video, .job img { width: 100%; max-height: 480px; object-fit: contain; background: #000; border-radius: 6px; }
.job figcaption { font-weight: 600; margin-bottom: 6px; }
.job .mark { background: #b45309; color: #fff; border-radius: 4px; padding: 1px 8px; font-size: 0.9em; }
.job table { border-collapse: collapse; width: 100%; margin: 16px 0 8px; }
.job table, .job tr { border: 0 !important; }
.job td { border: solid var(--border-color-primary) !important; border-width: 1px 0 0 !important; padding: 6px 0; }
.job td:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-left: 8px; }
.job .links { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 12px 0; }
.job .links a { text-decoration: underline; margin: 0; padding: 0; }
.job summary { cursor: pointer; }
.job pre { white-space: pre-wrap; max-height: 320px; overflow: auto; }
.alert { border-left: 4px solid #dc2626; padding: 8px 12px; overflow-wrap: anywhere; }
"""


class OnlyHere:
    """Tells the browser to load nothing from elsewhere: an ASGI middleware."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, with_policy)


def run(cfg: DictConfig) -> None:
    """Serve the page until the process is ended; its files go with it.

    Raises:
        SyncTalklipError: gradio is missing, the port is taken, or as `Synthesizer.from_pretrained`.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    synthesizer = Synthesizer.from_pretrained(
        cfg.checkpoint, device=cfg.device, detector=build_from(cfg.detector), syncnet=cfg.syncnet
    )
    with tempfile.TemporaryDirectory(prefix="synctalklip-") as folder, served(cfg, synthesizer, Path(folder)) as page:
        print(f"http://{HOST}:{page.server_port}  (Ctrl-C ends it and deletes its files)", flush=True)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


@contextmanager
def served(cfg: DictConfig, synthesizer: Synthesizer, folder: Path) -> Iterator[Any]:
    """Serve the page in a thread; at the end all work is stopped.

    Args:
        cfg: `configs/app.yaml`.
        synthesizer: makes the videos.
        folder: empty, for uploads and results.

    Yields:
        The `gradio.Blocks`, with `server_port`.

    Raises:
        SyncTalklipError: gradio is missing, or the port is taken.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if find_spec("gradio") is None:
        raise SyncTalklipError("gradio is not installed; run make app, or pip install 'synctalklip[app]'")
    desk = Desk(synthesizer, folder, cfg.text_length, cfg.waiting, cfg.keep_minutes)
    # gradio takes these from the environment only.
    os.environ.update(GRADIO_TEMP_DIR=str(desk.uploads), GRADIO_ANALYTICS_ENABLED="False")
    page = build(desk, cfg)
    try:
        _launch(page, cfg, desk.folder)
        yield page
    finally:
        desk.close()
        page.close(verbose=False)


def _launch(page: Any, cfg: DictConfig, results: Path) -> None:
    import gradio
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # A page elsewhere must not reach this one by a name of its own for this address.
    middleware = [Middleware(OnlyHere), Middleware(TrustedHostMiddleware, [HOST, "localhost"])]
    theme = gradio.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    # The theme's own are hard to see: white letters on its buttons, circles on its dark ground.
    theme.set(
        checkbox_border_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_cancel_background_fill="#dc2626",
        button_cancel_background_fill_hover="#b91c1c",
    )
    try:
        page.launch(
            server_name=HOST,
            server_port=cfg.port,
            share=False,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            prevent_thread_lock=True,
            max_file_size=int(cfg.upload_mb * 2**20),
            allowed_paths=[str(results)],
            app_kwargs={"middleware": middleware},
            css=STYLE,
            theme=theme,
        )
    except OSError as error:
        raise SyncTalklipError(f"port {cfg.port} is taken; choose another one with port=") from error


def build(desk: Desk, cfg: DictConfig) -> Any:
    """The page itself, a `gradio.Blocks`."""
    import gradio

    def look(video: str | None) -> tuple[Any, Any, str]:
        choices, faces, problem = [LARGEST, SPEAKING], [], ""
        if video:
            try:
                for place, picture in enumerate(faces_of(video, desk.synthesizer.detector)):
                    faces.append((picture, str(place + 1)))
                    choices.append((f"face {place + 1}", place))
            except SyncTalklipError as error:
                problem = alert(without_folders(str(error), Path(video).parent))
        return (
            gradio.Gallery(value=faces, visible=bool(faces)),
            gradio.Radio(choices=choices, value=LARGEST[1]),
            problem,
        )

    def begin(video: str | None, audio: str | None, text: str | None, face: str | int, old: str) -> tuple[str, str]:
        try:
            return desk.submit(video, audio, text or "", face), ""
        except SyncTalklipError as error:
            return old, alert(str(error))

    def watch(key: str) -> Iterator[tuple[str, Any, Any]]:
        last = None
        while True:
            job = desk.find(key)
            is_open = job is not None and job.is_open
            html = "" if job is None else show(job, desk.place(key))
            if html == last:
                # Without any answer it would not be seen that who asked has gone.
                yield gradio.skip(), gradio.skip(), gradio.skip()
            else:
                yield html, gradio.Button(interactive=not is_open), gradio.Button(interactive=is_open)
            if not is_open:
                return
            last = html
            time.sleep(0.3)

    def choose(event: gradio.SelectData) -> int:
        return int(event.index)

    with gradio.Blocks(title="SyncTalklip", analytics_enabled=False) as page:
        key = gradio.BrowserState("", storage_key="synctalklip")
        gradio.Markdown(
            "# SyncTalklip\nA face and a speech in, a talking video out. All of it stays on this machine; files are "
            f"deleted after {cfg.keep_minutes} minutes. Ask the people whose faces and voices you use."
        )
        with gradio.Row():
            video = gradio.File(
                label=f"Face: a video or a picture, up to {cfg.upload_mb} MB", elem_id="video", height=150
            )
            with gradio.Column():
                audio = gradio.File(label="Speech: a sound file", elem_id="audio", height=150)
                text = gradio.Textbox(
                    label="or a text, in English", lines=2, max_length=cfg.text_length, elem_id="text"
                )
        faces = gradio.Gallery(
            label="Faces, from left to right: choose one",
            visible=False,
            allow_preview=False,
            fit_columns=False,
            buttons=[],
            elem_id="faces",
        )
        face = gradio.Radio(choices=[LARGEST, SPEAKING], value=LARGEST[1], label="Whose lips move", elem_id="face")
        problem = gradio.HTML(elem_id="problem")
        with gradio.Row():
            start = gradio.Button("Make the video", variant="primary", elem_id="start")
            stop = gradio.Button("Stop", variant="stop", interactive=False, elem_id="stop")
        view = gradio.HTML(elem_id="view")
        quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        shown = [view, start, stop]
        video.change(look, video, [faces, face, problem], **quiet)
        faces.select(choose, None, face, **quiet)
        start.click(begin, [video, audio, text, face, key], [key, problem], **quiet).then(watch, key, shown, **quiet)
        stop.click(desk.stop, key, None, **quiet)
        page.load(watch, key, shown, **quiet)
    return page


def alert(sentence: str) -> str:
    """One sentence that says what is wrong, as HTML."""
    return f'<div class="alert" role="alert">{escape(sentence)}</div>'


def show(job: Job, before: int) -> str:
    """A job as it stands, as HTML.

    Args:
        job: to show.
        before: jobs before it.
    """
    if job.state == REFUSED:
        return alert(job.sentence)
    if job.state == DONE:
        return _box(_result(job))
    if job.state == WAITING:
        return _box(f"<p>Waiting: {before} before this one</p><progress></progress>")
    return _box(_progress(*job.frames) if job.is_open else "<p>Stopped</p>")


def _box(content: str) -> str:
    return f'<div class="job">{content}</div>'


def _progress(done: int, total: int, left: float) -> str:
    if not done:
        return "<p>Reading the files ...</p><progress></progress>"
    if done == total:
        return "<p>All frames are done; measuring the result ...</p><progress></progress>"
    minutes, seconds = divmod(round(left), 60)
    # Every frame is looked at first and painted later.
    return (
        f"<p>{100 * done // total} %: {done} of {total} frames followed and painted, "
        f"{f'{minutes} min ' if minutes else ''}{seconds} s left</p>"
        f'<progress max="{total}" value="{done}"></progress>'
    )


def _result(job: Job) -> str:
    assert job.figures is not None
    assert job.source is not None
    source = f'<img src="{_address(job.source)}" alt="source">' if job.source.suffix == ".png" else _video(job.source)
    return (
        f'<div class="pair"><figure><figcaption>Source</figcaption>{source}</figure>'
        f'<figure><figcaption>Result <span class="mark">generated</span></figcaption>'
        f"{_video(job.output)}</figure></div>"
        f"{_table(job.figures)}"
        f'<div class="links"><a href="{_address(job.output)}" download="generated.mp4">Save the video</a>'
        f'<a href="{_address(job.sidecar)}" download="{job.sidecar.name}">Save its statement of origin</a></div>'
        f"<details><summary>Statement of origin</summary><pre>{escape(job.sidecar.read_text())}</pre></details>"
    )


def _video(path: Path) -> str:
    return f'<video src="{_address(path)}" controls playsinline preload="metadata"></video>'


def _address(path: Path) -> str:
    return f"gradio_api/file={quote(str(path))}"


def _table(figures: Figures) -> str:
    rows = [("Frames with a painted mouth", f"{figures.painted} of {figures.frames}")]
    if figures.offset is not None:
        rows.append(("Lips and sound apart (LSE offset, 25 fps)", f"{figures.offset} frames"))
        rows.append(("LSE-D, lower is better", f"{figures.distance:.2f}"))
        rows.append(("LSE-C, higher is better; near 0 the offset says little", f"{figures.confidence:.2f}"))
    if figures.opening is not None:
        rows.append(("Lip aperture, share of the eyes' distance", f"{figures.opening:.3f} ± {figures.movement:.3f}"))
    return f"<table>{''.join(f'<tr><td>{escape(name)}</td><td>{value}</td></tr>' for name, value in rows)}</table>"
