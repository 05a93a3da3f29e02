"""What the page shows of a job, as HTML."""

from html import escape
from pathlib import Path
from urllib.parse import quote

from synctalklip.app.desk import DONE, REFUSED, STOPPED, WAITING, Job
from synctalklip.app.figures import Figures
from synctalklip.inference.options import sidecar_of

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

STYLE = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
.job { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 16px; overflow-wrap: anywhere; }
.job progress { width: 100%; height: 14px; accent-color: #2563eb; }
.job .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 280px), 1fr)); gap: 16px; }
.job figure { margin: 0; position: relative; }
.job video, .job img { width: 100%; max-height: 480px; object-fit: contain; background: #000; border-radius: 6px; }
.job figcaption { font-weight: 600; margin-bottom: 6px; }
.job .mark { background: #b45309; color: #fff; border-radius: 4px; padding: 1px 8px; font-size: 0.9em; }
.job table { border-collapse: collapse; width: 100%; margin: 16px 0 8px; }
.job td { border-top: 1px solid var(--border-color-primary); padding: 6px 8px 6px 0; }
.job td:last-child { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.job a { text-decoration: underline; margin-right: 16px; }
.alert { border-left: 4px solid #dc2626; padding: 8px 12px; overflow-wrap: anywhere; }
"""


def alert(sentence: str) -> str:
    """One sentence that says what is wrong."""
    return f'<div class="alert" role="alert">{escape(sentence)}</div>'


def show(job: Job, before: int) -> str:
    """A job as it stands.

    Args:
        job: to show.
        before: jobs before it.
    """
    if job.state == REFUSED:
        return alert(job.sentence)
    if job.state == STOPPED:
        return _box("<p>Stopped. Nothing was made.</p>")
    if job.state == WAITING:
        return _box(f"<p>Waiting: {before} before this one.</p><progress></progress>")
    return _result(job) if job.state == DONE else _box(_progress(*job.frames))


def _box(content: str) -> str:
    return f'<div class="job">{content}</div>'


def _progress(done: int, total: int, left: float) -> str:
    if not done:
        return "<p>Reading the files ...</p><progress></progress>"
    if done == total:
        return "<p>All frames are done; measuring the result ...</p><progress></progress>"
    # Every frame is looked at first and painted later.
    return (
        f"<p>{100 * done // max(1, total)} %: {done} of {total} frames followed and painted, {_time(left)} left</p>"
        f'<progress max="{total}" value="{done}"></progress>'
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _address(path: Path) -> str:
    return f"gradio_api/file={quote(str(path))}"


def _result(job: Job) -> str:
    assert job.figures is not None
    is_picture = job.video.suffix.lower() in PICTURES
    source = f'<img src="{_address(job.video)}" alt="source">' if is_picture else _video(job.video)
    sidecar = sidecar_of(job.output)
    return _box(
        f'<div class="pair"><figure><figcaption>Source</figcaption>{source}</figure>'
        f'<figure><figcaption>Result <span class="mark">generated</span></figcaption>'
        f"{_video(job.output)}</figure></div>"
        f"{_table(job.figures)}"
        f'<a href="{_address(job.output)}" download="generated.mp4">Save the video</a>'
        f'<a href="{_address(sidecar)}" download="{sidecar.name}">Save its statement of origin</a>'
        f"<details><summary>Statement of origin</summary><pre style='white-space: pre-wrap'>"
        f"{escape(sidecar.read_text())}</pre></details>"
    )


def _video(path: Path) -> str:
    return f'<video src="{_address(path)}" controls playsinline preload="metadata"></video>'


def _table(figures: Figures) -> str:
    rows = [("Frames with a painted mouth", f"{figures.painted} of {figures.frames}")]
    if figures.offset is not None:
        rows.append(("Lips and sound apart (LSE offset, 25 fps)", f"{figures.offset} frames"))
        rows.append(("LSE-D, lower is better", f"{figures.distance:.2f}"))
        rows.append(("LSE-C, higher is better", f"{figures.confidence:.2f}"))
    if figures.opening is not None:
        rows.append(("Lip opening, share of the eyes' distance", f"{figures.opening:.3f} ± {figures.movement:.3f}"))
    return f"<table>{''.join(f'<tr><td>{escape(name)}</td><td>{value}</td></tr>' for name, value in rows)}</table>"
