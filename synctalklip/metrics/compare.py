"""Strips of several evaluations side by side, from the face crops they saved."""

from omegaconf import DictConfig

from synctalklip.data import media
from synctalklip.metrics.errors import MetricError
from synctalklip.metrics.strip import draw_strip, evenly, write_strips
from synctalklip.metrics.table import check_comparable, load_run


def compare(cfg: DictConfig) -> None:
    """Draw the strips of `configs/compare.yaml` into `cfg.output`.

    Raises:
        MetricError: the runs hold different clips, a clip is unknown, or its face crops were not saved.
    """
    runs = [load_run(path) for path in cfg.runs]
    if not runs:
        raise MetricError("compare needs at least one run: runs=[folder,...]")
    check_comparable(runs)
    ids = list(cfg.clips or [runs[0].ids[i] for i in evenly(len(runs[0].ids), cfg.count)])
    strips = []
    for name in ids:
        rows = []
        for run in runs:
            path = run.path / "faces" / f"{name}.mp4"
            if not path.is_file():
                raise MetricError(f"{path} is missing: evaluate this run again with faces.save=true")
            rows.append((run.summary["name"], media.read_video(path, fps=None)))
        strips.append(draw_strip(rows, cfg.frames))
    write_strips(cfg.output, strips)
