"""The record of a prepared clip, and the jsonl files that list clips and rejections."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import write_atomically
from synctalklip.errors import SyncTalklipError

SPLITS = ("train", "valid", "test", "unseen")
"""`unseen` holds speakers of whom nothing was trained on."""


PREPARATION = 2
"""Version of the preparation, in every line of a manifest. Raise it when prepared files change for the same settings:
older folders are then refused, and made anew by `scripts/prepare.py`."""


class ManifestError(SyncTalklipError):
    """A manifest line that cannot be used; names file and line."""


@dataclass(frozen=True)
class Clip:
    """One prepared clip. Its files lie under `root`, named by `id`.

    Attributes:
        id: unique name, may hold "/".
        split: one of `SPLITS`.
        frames: T, video frames at 25 Hz.
        samples: sound samples at 16 kHz.
        text: normalised transcript, "" when there is none.
        speaker: "" when unknown.
        source: the raw video this clip was prepared from.
        roi_mode: how the mouth ROI was cut.
        root: folder of the manifest; not part of the record.
        words: (word, start, end) in seconds from the first frame, empty where the corpus does not tell.
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

    @property
    def faces(self) -> Path:
        """Face crops, (T,96,96,3), mp4."""
        return self.root / "faces" / f"{self.id}.mp4"

    @property
    def rois(self) -> Path:
        """Grey mouth ROIs, (T,96,96), mp4."""
        return self.root / "rois" / f"{self.id}.mp4"

    @property
    def wav(self) -> Path:
        """Sound, 16 kHz mono int16."""
        return self.root / "audio" / f"{self.id}.wav"

    @property
    def track(self) -> Path:
        """Boxes, landmarks and matrices of every frame, npz."""
        return self.root / "tracks" / f"{self.id}.npz"

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
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_manifest(path: str | Path, clips: Iterable[Clip]) -> None:
    """Write the clips sorted by id, so that equal corpora give equal bytes."""

    def record(clip: Clip) -> dict:
        fields = asdict(clip) | {"preparation": PREPARATION}
        del fields["root"]
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


def _parse(line: bytes, root: Path) -> Clip:
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("is no JSON object")
    _check_preparation(record.pop("preparation", 1), root)
    words = _parse_words(record.pop("words", []))
    clip = Clip(**record, words=words, root=root)
    for name in ("id", "split", "text", "speaker", "source", "roi_mode"):
        if not isinstance(getattr(clip, name), str):
            raise ValueError(f"has {name}={getattr(clip, name)!r}, a text is needed")
    if not clip.id or clip.split not in SPLITS:
        raise ValueError(f"has id {clip.id!r} and split {clip.split!r}; the split is one of {', '.join(SPLITS)}")
    for name in ("frames", "samples"):
        value = getattr(clip, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"has {name}={value!r}, a positive whole number is needed")
    return clip


def read_manifest(path: str | Path, split: str | None = None) -> list[Clip]:
    """Read and check a manifest.

    Args:
        path: the `manifest.jsonl` of a prepared folder, or that folder.
        split: keep only this split.

    Returns:
        Clips in the order of the file.

    Raises:
        ManifestError: no such file, a folder of another version of the preparation, a line that is no clip, an id
            twice, a clip whose files are gone, or nothing left after `split`.
    """
    path = Path(path)
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
    if not kept:
        raise ManifestError(f"{path}: no clip of split {split or 'any'}; check the split rule of the data config")
    for clip in kept:
        for file in clip.files():
            if not file.is_file():
                raise ManifestError(f"{path}: {file} of clip {clip.id!r} is gone; run scripts/prepare.py again")
    return kept
