"""Several evaluations beside each other, as strips of frames and as a video with sound, from the faces they saved."""

import json

import numpy as np
from omegaconf import DictConfig

from synctalklip.data import media
from synctalklip.errors import MetricError
from synctalklip.evaluation.strip import draw_strip, evenly, side_by_side, write_strips
from synctalklip.tables.runs import check_comparable, load_run


def compare(cfg: DictConfig) -> None:
    """Draw the strips of `configs/compare.yaml` into `cfg.output`, and the same clips into the video `cfg.video`.

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
