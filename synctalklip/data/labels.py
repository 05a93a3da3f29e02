"""Frame labels of pre-training: a cluster for every frame, kept as text beside the clips.

T video frames at 25 Hz, C clusters.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synctalklip.checkpoint import write_atomically
from synctalklip.data.manifest import Clip
from synctalklip.errors import SyncTalklipError

VIDEO_RATE = 25
NUM_SPECIAL = 4
"""Frame labels are fairseq dictionary ids: cluster + 4 special symbols."""


class DatasetError(SyncTalklipError):
    """Clips, labels or settings that no batch can be made of."""


@dataclass(frozen=True)
class FrameLabels:
    """Cluster of every frame, by clip id.

    Attributes:
        clusters: C.
        rate: labels per second, 100 (MFCC) or 25 (model features).
    """

    name: str
    clusters: int
    rate: int
    labels: dict[str, np.ndarray] = field(repr=False)

    @property
    def classes(self) -> int:
        """Size of the softmax: the clusters and the four special symbols."""
        return self.clusters + NUM_SPECIAL

    def targets(self, clip: Clip) -> np.ndarray:
        """Ids at 25 Hz, (T',) int64: every 4th label of a rate of 100."""
        return self.labels[clip.id][:: self.rate // VIDEO_RATE][: clip.frames].astype(np.int64) + NUM_SPECIAL

    def fits(self, clip: Clip) -> bool:
        """Whether labels and video last equally long within 0.1 s."""
        if clip.id not in self.labels:
            return False
        return abs(clip.frames / VIDEO_RATE - len(self.labels[clip.id]) / self.rate) < 0.1


def write_labels(folder: str | Path, labels: dict[str, np.ndarray], clusters: int, rate: int) -> None:
    """Write `labels.txt` (`id<TAB>label label ...`, sorted by id) and `info.json` (clusters, rate)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{name}\t{' '.join(map(str, row.tolist()))}\n" for name, row in sorted(labels.items()))
    write_atomically(folder / "labels.txt", lambda part: part.write_text(lines, encoding="utf-8"))
    info = json.dumps({"clusters": clusters, "rate": rate}) + "\n"
    write_atomically(folder / "info.json", lambda part: part.write_text(info, encoding="utf-8"))


def label_classes(folder: str | Path) -> int:
    """`FrameLabels.classes` without reading the labels.

    Raises:
        DatasetError: files are missing or damaged.
    """
    return _read_info(folder)[0] + NUM_SPECIAL


def _read_info(folder: str | Path) -> tuple[int, int]:
    """Clusters and rate."""
    path, info_path = Path(folder) / "labels.txt", Path(folder) / "info.json"
    if not path.is_file() or not info_path.is_file():
        raise DatasetError(f"{folder}: no labels.txt and info.json there; make them with scripts/cluster.py")
    try:
        info = json.loads(info_path.read_text(encoding="utf-8"))
        clusters, rate = int(info["clusters"]), int(info["rate"])
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(folder, error) from error
    if rate < 1 or rate % VIDEO_RATE:
        raise DatasetError(f"{info_path}: label rate {rate} is no multiple of {VIDEO_RATE} a second (100 or 25)")
    return clusters, rate


def _damaged(folder: str | Path, error: Exception) -> DatasetError:
    return DatasetError(f"{folder}: damaged labels ({error}); make them anew with scripts/cluster.py")


def read_labels(folder: str | Path) -> FrameLabels:
    """Read what `write_labels` wrote.

    Raises:
        DatasetError: files are missing or no text, a line is malformed, a clip is listed twice, or a label is
            outside 0..clusters-1.
    """
    clusters, rate = _read_info(folder)
    path = Path(folder) / "labels.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise _damaged(folder, error) from error
    labels = {}
    for number, line in enumerate(lines, start=1):
        name, tab, row = line.partition("\t")
        try:
            values = np.array(row.split(), dtype=np.int32)
        except ValueError:
            values = np.zeros(0, np.int32)
        if not tab or not len(values):
            raise DatasetError(f"{path}: line {number} is not 'id<TAB>label label ...'")
        if values.min() < 0 or values.max() >= clusters:
            raise DatasetError(f"{path}: line {number} has a label outside 0..{clusters - 1}")
        if name in labels:
            raise DatasetError(f"{path}: line {number} lists clip {name!r} a second time; remove one of the lines")
        labels[name] = values
    return FrameLabels(Path(folder).name, clusters, rate, labels)
