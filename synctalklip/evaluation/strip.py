"""Picture strips: the same frames of a clip, one row a method; several evaluations beside each other."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from omegaconf import DictConfig

from synctalklip.checkpoint import write_atomically
from synctalklip.data import media
from synctalklip.errors import MetricError
from synctalklip.tables.table import check_comparable, load_run

LABEL_WIDTH = 132
GAP = 4
BAND = 24


def evenly(count: int, wanted: int) -> np.ndarray:
    """`wanted` indices (fewer if there are fewer) spread over 0..count-1, ends included."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int))


def _label(text: str, height: int) -> np.ndarray:
    panel = np.full((height, LABEL_WIDTH, 3), 255, np.uint8)
    lines = textwrap.wrap(text, 18)[:3]
    for number, line in enumerate(lines):
        place = (4, height // 2 + 14 * number - 7 * (len(lines) - 1))
        cv2.putText(panel, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return panel


def draw_strip(rows: Sequence[tuple[str, np.ndarray]], frames: int) -> np.ndarray:
    """One clip: each row holds the same evenly spaced frames of one method.

    Args:
        rows: label and (T,H,W,3) uint8 BGR; all of one shape.
        frames: pictures in a row.

    Returns:
        uint8 BGR picture.

    Raises:
        MetricError: the rows differ in shape.
    """
    shapes = {pictures.shape for _, pictures in rows}
    if len(shapes) != 1:
        raise MetricError(f"a strip needs rows of one shape, got {sorted(shapes)}")
    count, height, _, _ = shapes.pop()
    chosen = evenly(count, frames)
    lines = [np.hstack([_label(label, height), *pictures[chosen]]) for label, pictures in rows]
    return np.vstack(lines)


def side_by_side(rows: Sequence[tuple[str, np.ndarray]], scale: int) -> np.ndarray:
    """Frames of a video that shows all methods next to each other, each under its name.

    Args:
        rows: label and (T,H,W,3) uint8 BGR; all of one shape.
        scale: enlargement of the pictures.

    Returns:
        (T,H',W',3) uint8 BGR.

    Raises:
        MetricError: the rows differ in shape.
    """
    shapes = {pictures.shape for _, pictures in rows}
    if len(shapes) != 1:
        raise MetricError(f"a comparison needs videos of one shape, got {sorted(shapes)}")
    columns = []
    for label, pictures in rows:
        large = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
        band = np.full((BAND, large.shape[2], 3), 255, np.uint8)
        width = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)[0][0]
        size = min(0.45, (large.shape[2] - 8) / max(width, 1))
        cv2.putText(band, label, (4, BAND - 8), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([np.broadcast_to(band, (len(large), *band.shape)), large], axis=1))
    return np.concatenate(columns, axis=2)


def write_strips(path: str | Path, strips: Sequence[np.ndarray]) -> None:
    """Write several clips' strips below each other into a PNG; narrower ones are filled with white."""
    width = max(strip.shape[1] for strip in strips)
    padded = [
        cv2.copyMakeBorder(s, 0, GAP, 0, width - s.shape[1], cv2.BORDER_CONSTANT, value=(255, 255, 255)) for s in strips
    ]
    done, data = cv2.imencode(".png", np.vstack(padded))
    if not done:
        raise MetricError(f"{path}: the picture strip could not be encoded")
    write_atomically(path, lambda part: part.write_bytes(data.tobytes()))


def compare(cfg: DictConfig) -> None:
    """Draw the strips of `configs/compare.yaml` into `cfg.output`, and the same clips into the video `cfg.video`.

    Both are made from the face crops that the evaluations saved.

    Raises:
        MetricError: the runs hold different clips, a clip is unknown, or its face crops were not saved.
    """
    runs = [load_run(path) for path in cfg.runs]
    if not runs:
        raise MetricError("compare needs at least one run: runs=[folder,...]")
    check_comparable(runs)
    ids = list(cfg.clips or [runs[0].ids[i] for i in evenly(len(runs[0].ids), cfg.count)])
    strips, shown, sounds = [], [], []
    for name in ids:
        rows = []
        for run in runs:
            path = run.path / "faces" / f"{name}.mp4"
            if not path.is_file():
                raise MetricError(f"{path} is missing: evaluate this run again with faces.save=true")
            rows.append((run.summary["name"], media.read_video(path, fps=None)))
        strips.append(draw_strip(rows, cfg.frames))
        frames = side_by_side(rows, cfg.scale)
        shown.append(frames)
        # All rows of a clip say the same; the sound is cut or filled to its pictures.
        samples = len(frames) * media.SAMPLE_RATE // media.FPS
        heard = media.read_audio(runs[0].path / "faces" / f"{name}.mp4")[:samples]
        sounds.append(np.pad(heard, (0, samples - len(heard))))
    write_strips(cfg.output, strips)
    if cfg.video:
        # Also outside its folder the video says what it shows.
        statement = {"comment": json.dumps({"generated": True, "rows": [run.summary["name"] for run in runs]})}
        media.write_video(cfg.video, np.concatenate(shown), wave=np.concatenate(sounds), metadata=statement)
