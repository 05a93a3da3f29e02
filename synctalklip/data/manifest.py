"""The record of a prepared clip, the jsonl files that list clips and rejections, and the frame labels of pre-training.

Labels are a cluster for every frame, kept as text beside the clips. T video frames at 25 Hz, C clusters.
"""

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError

SPLITS = ("train", "valid", "test", "unseen")
"""`unseen` holds speakers of whom nothing was trained on."""


PREPARATION = 2
"""Version of the preparation, in every line of a manifest. Raise it when prepared files change for the same settings:
older folders are then refused, and made anew by `scripts/prepare.py`."""


LONGEST_NAME = 200
"""Bytes of one part of an id: file systems take 255 with suffix."""


class ManifestError(SyncTalklipError):
    """A manifest line that cannot be used; names file and line."""


@dataclass(frozen=True)
class Clip:
    """One prepared clip. Its files lie under `root`, named by `id`.

    Attributes:
        id: unique name, may hold "/"; begins with that of its corpus and "/" where several are read as one.
        split: one of `SPLITS`.
        frames: T, video frames at 25 Hz.
        samples: sound samples at 16 kHz.
        text: normalised transcript, "" when there is none.
        speaker: "" when unknown.
        source: the raw video this clip was prepared from.
        roi_mode: how the mouth ROI was cut.
        root: folder of the manifest; not part of the record.
        words: (word, start, end) in seconds from the first frame, empty where the corpus does not tell.
        corpus: which of several corpora it belongs to, "" where one is read; not part of the record.
    """

    id: str
    split: str
    frames: int
    samples: int
    text: str = ""
    speaker: str = ""
    source: str = ""
    roi_mode: str = "landmark"
    root: Path = field(default=Path("."), compare=False)
    words: tuple[tuple[str, float, float], ...] = ()
    corpus: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The id within its own folder."""
        return self.id.removeprefix(f"{self.corpus}/") if self.corpus else self.id

    @property
    def faces(self) -> Path:
        """Face crops, (T,96,96,3), mp4."""
        return self.root / "faces" / f"{self.name}.mp4"

    @property
    def rois(self) -> Path:
        """Grey mouth ROIs, (T,96,96), mp4."""
        return self.root / "rois" / f"{self.name}.mp4"

    @property
    def wav(self) -> Path:
        """Sound, 16 kHz mono int16."""
        return self.root / "audio" / f"{self.name}.wav"

    @property
    def track(self) -> Path:
        """Boxes, landmarks and matrices of every frame, npz."""
        return self.root / "tracks" / f"{self.name}.npz"

    def files(self) -> tuple[Path, ...]:
        return self.faces, self.rois, self.wav, self.track


@dataclass(frozen=True)
class Rejected:
    """A clip that could not be used, and why."""

    id: str
    source: str
    reason: str


def write_jsonl(path: str | Path, records: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    text = "".join(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in records)
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def write_manifest(path: str | Path, clips: Iterable[Clip]) -> None:
    """Write the clips sorted by id, so that equal corpora give equal bytes."""

    def record(clip: Clip) -> dict:
        fields = asdict(clip) | {"preparation": PREPARATION}
        del fields["root"], fields["corpus"]
        return fields

    write_jsonl(path, (record(clip) for clip in sorted(clips, key=lambda clip: clip.id)))


def _check_preparation(version: object, root: Path) -> None:
    if version != PREPARATION:
        raise ManifestError(
            f"{root}: was prepared by version {version} of the preparation, and version {PREPARATION} is needed, which "
            f"cuts other pictures; prepare it anew: python scripts/prepare.py data=NAME data.root=FOLDER "
            f"data.prepared={root}, with the data config and the raw videos that it was made of"
        )


def _parse_words(words: Any) -> tuple[tuple[str, float, float], ...]:
    try:
        parsed = tuple((str(word), float(start), float(end)) for word, start, end in words)
    except (TypeError, ValueError):
        raise ValueError(f"has words={words!r:.80}, a list of [word, start, end] is needed") from None
    if not all(0 <= start <= end < math.inf for _, start, end in parsed):
        raise ValueError("has words whose times do not lie in order, in seconds from the first frame")
    return parsed


def is_id(name: str) -> bool:
    """Whether a clip can have this name: its files lie within the prepared folder, on any file system."""
    parts = name.split("/")
    lengths = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    # A suffix, and the marks of a file that is being written, come besides.
    fit = min(lengths) > 0 and max(lengths) <= LONGEST_NAME and sum(lengths) <= 4 * LONGEST_NAME
    return fit and is_text(name) and not {".", ".."} & set(parts) and "\0" not in name and "\\" not in name


def is_text(name: str) -> bool:
    """Whether a name of a file is UTF-8."""
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def _parse(line: bytes, root: Path) -> Clip:
    try:
        record = json.loads(line)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("is no JSON object")
    _check_preparation(record.pop("preparation", 1), root)
    words = _parse_words(record.pop("words", []))
    clip = Clip(**record, words=words, root=root)
    for name in ("id", "split", "text", "speaker", "source", "roi_mode"):
        if not isinstance(getattr(clip, name), str):
            raise ValueError(f"has {name}={getattr(clip, name)!r}, a text is needed")
    if clip.split not in SPLITS:
        raise ValueError(f"has split {clip.split!r:.80}, one of {', '.join(SPLITS)} is needed")
    if not is_id(clip.id):
        raise ValueError(f"has id {clip.id!r:.80}, a name for files within the prepared folder is needed")
    for name in ("frames", "samples"):
        value = getattr(clip, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"has {name}={value!r}, a positive whole number is needed")
    return clip


def read_manifest(source: str | Path | Mapping[str, Any], split: str | None = None, draw: bool = False) -> list[Clip]:
    """Read and check a manifest, or those of several corpora as one.

    Args:
        source: the `manifest.jsonl` of a prepared folder, or that folder, or a mapping with `prepared`, as `cfg.data`;
            where it has `corpora`, those are read, each with its `prepared`.
        split: keep only this split.
        draw: list clips of `train` as often as a training shall meet them, by the `weights` of their corpora.

    Returns:
        Clips in the order of the file, one corpus after the other.

    Raises:
        ManifestError: no such file, a folder of another version of the preparation, a line that is no clip, an id
            twice, a clip whose files are gone, nothing left after `split`, or a weight of no corpus.
    """
    if not isinstance(source, Mapping):
        return _read_folder(Path(source), split)
    corpora = source.get("corpora")
    if not corpora:
        return _read_folder(Path(source["prepared"]), split)
    weights, clips = _weights(corpora, source.get("weights") or {}), []
    for name, corpus in corpora.items():
        found = _read_folder(Path(corpus["prepared"]), split, empty=True)
        for clip, times in zip(found, _spread(weights[name], len(found))):
            named = replace(clip, id=f"{name}/{clip.id}", corpus=name)
            clips += [named] * (times if draw and clip.split == "train" else 1)
    if not clips:
        raise ManifestError(
            f"{', '.join(corpora)}: no clip of split {split or 'any'}; check the split rules of their configs"
        )
    return clips


def assert_one_corpus(data: Mapping[str, Any]) -> None:
    """Refuse several corpora for work that writes into the folder of one.

    Raises:
        ManifestError: names them.
    """
    if data.get("corpora"):
        each = ", ".join(f"data={name}" for name in data["corpora"])
        raise ManifestError(f"{data['name']}: do this for each corpus by itself, {each}")


def _weights(corpora: Collection[str], weights: Mapping[str, Any]) -> dict[str, float]:
    """How often the clips of each corpus come; those of the corpus that comes least come once."""
    wrong = {name: weight for name, weight in weights.items() if name not in corpora or not _is_weight(weight)}
    if wrong:
        raise ManifestError(f"data.weights={wrong}: give a number above 0 to some of {', '.join(corpora)}")
    every = {name: float(weights.get(name, 1)) for name in corpora}
    return {name: weight / min(every.values()) for name, weight in every.items()}


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _spread(weight: float, count: int) -> list[int]:
    """How often each of `count` clips comes, so that the mean is `weight` and no two differ by more than one."""
    ends = [math.floor(place * weight + 1e-9) for place in range(count + 1)]
    return [after - before for before, after in pairwise(ends)]


def _read_folder(path: Path, split: str | None, empty: bool = False) -> list[Clip]:
    """See `read_manifest`; `empty`: a folder may hold no clip of the split."""
    path = path / "manifest.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise ManifestError(f"{path}: there is no such manifest; run scripts/prepare.py first")
    clips: dict[str, Clip] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            clip = _parse(line, path.parent)
        except ManifestError:
            raise
        except (ValueError, TypeError) as error:
            raise ManifestError(f"{path}, line {number}: {error}; run scripts/prepare.py again") from error
        if clip.id in clips:
            raise ManifestError(f"{path}, line {number}: clip {clip.id!r} is listed twice; remove one of the lines")
        clips[clip.id] = clip
    kept = [clip for clip in clips.values() if split is None or clip.split == split]
    if not kept and not empty:
        raise ManifestError(f"{path}: no clip of split {split or 'any'}; check the split rule of the data config")
    for clip in kept:
        for file in clip.files():
            if not file.is_file():
                raise ManifestError(f"{path}: {file} of clip {clip.id!r} is gone; run scripts/prepare.py again")
    return kept


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


def label_line(name: str, row: np.ndarray) -> str:
    """A clip of `labels.txt`: `id<TAB>label label ...`."""
    return f"{name}\t{' '.join(map(str, row.tolist()))}\n"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as they come, atomically."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(lines)

    write_atomically(path, write)


def write_labels(folder: str | Path, lines: Iterable[str], clusters: int, rate: int) -> None:
    """Write `labels.txt`, its lines as of `label_line`, sorted by id, and `info.json` (clusters, rate)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / "labels.txt", lines)
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
