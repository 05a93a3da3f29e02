"""The page on which a person makes a video; it is served to this machine alone."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from synctalklip.app.desk import STATES_AT_REST, Desk, without_folders
from synctalklip.app.figures import faces_of
from synctalklip.app.views import STYLE, alert, show
from synctalklip.cli import build as build_from
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import Synthesizer

HOST = "127.0.0.1"
LARGEST, SPEAKING = ("the largest", "largest"), ("who speaks in the video", "speaking")
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class OnlyHere:
    """Tells the browser to load nothing from elsewhere: an ASGI middleware."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)


def run(cfg: DictConfig) -> None:
    """Serve the page until the process is ended; its files go with it.

    Raises:
        SyncTalklipError: gradio is missing, the port is taken, or as `Synthesizer.from_pretrained`.
    """
    synthesizer = Synthesizer.from_pretrained(
        cfg.checkpoint, device=cfg.device, detector=build_from(cfg.detector), syncnet=cfg.syncnet
    )
    with tempfile.TemporaryDirectory(prefix="synctalklip-") as folder:
        page = serve(cfg, synthesizer, Path(folder))
        print(f"http://{HOST}:{page.server_port}  (Ctrl-C ends it and deletes its files)", flush=True)
        page.block_thread()


def serve(cfg: DictConfig, synthesizer: Synthesizer, folder: Path) -> Any:
    """Start the page in a thread.

    Args:
        cfg: `configs/app.yaml`.
        synthesizer: makes the videos.
        folder: for uploads and results.

    Returns:
        The `gradio.Blocks`, with `server_port` and `close()`.
    """
    # gradio takes these from the environment only.
    os.environ.update(GRADIO_TEMP_DIR=str(folder / "uploads"), GRADIO_ANALYTICS_ENABLED="False")
    try:
        import gradio
        from starlette.middleware import Middleware
    except ImportError:
        raise SyncTalklipError("gradio is not installed; run make app, or pip install 'synctalklip[app]'") from None
    (folder / "jobs").mkdir()
    desk = Desk(synthesizer, folder / "jobs", cfg.text_length, cfg.waiting, cfg.keep_minutes)
    page = build(desk, cfg)
    try:
        page.launch(
            server_name=HOST,
            server_port=cfg.port,
            share=False,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            prevent_thread_lock=True,
            max_file_size=cfg.upload_mb * 2**20,
            allowed_paths=[str(folder / "jobs")],
            app_kwargs={"middleware": [Middleware(OnlyHere)]},
            css=STYLE,
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        )
    except OSError:
        raise SyncTalklipError(f"port {cfg.port} is taken; choose another one with port=") from None
    return page


def build(desk: Desk, cfg: DictConfig) -> Any:
    """The page itself, a `gradio.Blocks`."""
    import gradio

    def look(video: str | None) -> tuple[Any, Any, str]:
        choices, faces, problem = [LARGEST, SPEAKING], [], ""
        if video:
            try:
                faces = [(face, str(place)) for place, face in enumerate(faces_of(video, desk.synthesizer.detector))]
                choices += [(f"{place} from the left", place) for place in range(len(faces))]
            except SyncTalklipError as error:
                problem = alert(without_folders(str(error), Path(video).parent))
        return (
            gradio.Gallery(value=faces, visible=bool(faces)),
            gradio.Radio(choices=choices, value=LARGEST[1]),
            problem,
        )

    def begin(video: str, audio: str, text: str, face: str | int, old: str) -> Iterator[tuple[str, str, Any]]:
        try:
            key = desk.submit(video, audio, text or "", face)
        except SyncTalklipError as error:
            yield old, alert(str(error)), gradio.Button(interactive=False)
            return
        for html, stop in watch(key):
            yield key, html, stop

    def watch(key: str) -> Iterator[tuple[str, Any]]:
        while True:
            job = desk.find(key)
            at_rest = job is None or job.state in STATES_AT_REST
            yield (show(job, desk.place(key)) if job else ""), gradio.Button(interactive=not at_rest)
            if at_rest:
                return
            time.sleep(0.3)

    def choose(event: gradio.SelectData) -> int:
        return event.index

    minute = 60
    with gradio.Blocks(
        title="SyncTalklip", analytics_enabled=False, delete_cache=(minute, int(cfg.keep_minutes * minute))
    ) as page:
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
                text = gradio.Textbox(label="or a text", lines=2, max_length=cfg.text_length, elem_id="text")
        faces = gradio.Gallery(
            label="Faces, from left to right",
            visible=False,
            columns=6,
            height=150,
            allow_preview=False,
            elem_id="faces",
        )
        face = gradio.Radio(choices=[LARGEST, SPEAKING], value=LARGEST[1], label="Whose lips move", elem_id="face")
        with gradio.Row():
            start = gradio.Button("Make the video", variant="primary", elem_id="start")
            stop = gradio.Button("Stop", variant="stop", interactive=False, elem_id="stop")
        view = gradio.HTML(elem_id="view")
        quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        video.change(look, video, [faces, face, view], **quiet)
        faces.select(choose, None, face, **quiet)
        start.click(begin, [video, audio, text, face, key], [key, view, stop], **quiet)
        stop.click(desk.stop, key, None, **quiet)
        page.load(watch, key, [view, stop], **quiet)
    return page
