"""Where the videos, transcripts and splits of each corpus lie.

A layout is a function with the signature `(root, ...) -> list[SourceClip]`; a data config names it as `_target_`.
Layouts look at names only: no video is opened and no transcript is read.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from synctalklip.data.text import lines_of
from synctalklip.errors import SyncTalklipError

VIDEO_SUFFIXES = (".mp4", ".mpg", ".mpeg", ".avi", ".mov", ".mkv", ".webm")


class LayoutError(SyncTalklipError):
    """A corpus folder that does not look as it should; the message says what was expected."""


@dataclass(frozen=True)
class SourceClip:
    """One clip of a corpus, as found on disk.

    Attributes:
        id: unique, may hold "/"; becomes the name of the prepared files.
        video: the file.
        split: "train", "valid", "test" or "unseen".
        speaker: "" when unknown.
        text: transcript as written, None when it is in `transcript` or the corpus has none.
        transcript: file with the transcript or the times of its words, `.txt` (LRS) or `.align` (GRID).
        audio: file with the sound, None when it is in the video.
    """

    id: str
    video: Path
    split: str
    speaker: str = ""
    text: str | None = None
    transcript: Path | None = None
    audio: Path | None = None


def select(clips: Sequence[SourceClip], split: str | None, limit: int | None) -> list[SourceClip]:
    """Clips of one split, and at most `limit` of them, spread over the splits as the corpus is.

    Raises:
        LayoutError: nothing is left, or an id that occurs twice.
    """
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise LayoutError(f"clip id {twice[0]!r} occurs twice in the corpus; check the lists and folders")
    groups: dict[str, list[SourceClip]] = {}
    for clip in sorted(clips, key=lambda clip: clip.id):
        if split is None or clip.split == split:
            groups.setdefault(clip.split, []).append(clip)
    # A clip's place within its split, in 0..1: the smallest places are an even share of every split.
    placed = [
        ((place + 0.5) / len(group), clip.id, clip) for group in groups.values() for place, clip in enumerate(group)
    ]
    kept = [clip for _, _, clip in sorted(placed, key=lambda item: item[:2])[:limit]]
    if not kept:
        raise LayoutError(f"no clip of split {split or 'any'} to prepare; check data.root, data.split and data.limit")
    return sorted(kept, key=lambda clip: clip.id)


def lrs2(root: str | Path | None, lists: Mapping[str, Sequence[str]]) -> list[SourceClip]:
    """LRS2 and the embedded corpus: `FOLDER/SPEAKER/CLIP.mp4` and `.txt`, one list file a split.

    Args:
        root: folder of the corpus.
        lists: list file without `.txt` -> (folder, split). The first word of a line is SPEAKER/CLIP.
    """
    root = _checked_root(root)
    clips = []
    for name, (folder, split) in lists.items():
        file = root / f"{name}.txt"
        if not file.is_file():
            raise LayoutError(
                f"{file}: the list of split {split} is missing; data.root must be the folder that holds it"
            )
        if not (root / folder).is_dir():
            raise LayoutError(f"{root / folder}: no such folder; data.root must hold the lists and {folder}/")
        for line in lines_of(_text(file)):
            if line.strip():
                path = root / folder / line.split()[0]
                # The clips of `main` carry the names that the lists and the literature use.
                prefix = "" if folder == "main" else f"{folder}/"
                clips.append(_lrs_clip(path.with_name(path.name + ".mp4"), prefix + line.split()[0], split))
    return clips


def lrs3(root: str | Path | None, folders: Mapping[str, str], valid_every: int | None) -> list[SourceClip]:
    """LRS3: `FOLDER/SPEAKER/CLIP.mp4` and `.txt`.

    Args:
        root: folder of the corpus.
        folders: folder -> split.
        valid_every: one of so many clips of `trainval` is valid, None for no valid split.
    """
    root = _checked_root(root)
    clips = []
    for folder, split in folders.items():
        if not (root / folder).is_dir():
            raise LayoutError(f"{root / folder}: no such folder; remove it with ~data.layout.folders.{folder}")
        for place, video in enumerate(_videos(root / folder, "*/*")):
            held_out = folder == "trainval" and valid_every and place % valid_every == 0
            name = video.relative_to(root).with_suffix("").as_posix()
            clips.append(_lrs_clip(video, name, "valid" if held_out else split))
    return clips


def _lrs_clip(video: Path, name: str, split: str) -> SourceClip:
    return SourceClip(name, video, split, speaker=video.parent.name, transcript=video.with_suffix(".txt"))


def vox2(root: str | Path | None, valid_every: int | None) -> list[SourceClip]:
    """VoxCeleb2: `{dev,test}/mp4/SPEAKER/VIDEO/CLIP.mp4`, sound inside or as `aac/SPEAKER/VIDEO/CLIP.m4a`.

    Args:
        root: folder of the corpus.
        valid_every: one of so many clips of `dev` is valid, None for no valid split.
    """
    root = _checked_root(root)
    clips = []
    for folder, split in (("dev", "train"), ("test", "test")):
        for place, video in enumerate(_videos(root / folder / "mp4", "*/*/*")):
            name = video.relative_to(root / folder / "mp4").with_suffix("")
            sound = root / folder / "aac" / name.with_suffix(".m4a")
            held_out = folder == "dev" and valid_every and place % valid_every == 0
            clips.append(
                SourceClip(
                    f"{folder}/{name.as_posix()}",
                    video,
                    "valid" if held_out else split,
                    speaker=name.parts[0],
                    audio=sound if sound.is_file() else None,
                )
            )
    if not clips:
        raise LayoutError(f"{root}: holds no dev/mp4/SPEAKER/VIDEO/CLIP.mp4; data.root must be the folder of VoxCeleb2")
    return clips


def grid(
    root: str | Path | None,
    part: str,
    every: int | None,
    speakers: Sequence[str] | None,
    unseen: Sequence[str] = (),
) -> list[SourceClip]:
    """GRID: either `PART/SPEAKER_CLIP.*` with `transcripts.tsv`, or the corpus itself, `SPEAKER/**/CLIP.mpg`.

    Transcripts come from `transcripts.tsv`, else from `.align` files anywhere below the root, which hold the times of
    the words too.

    Args:
        root: folder of the corpus.
        part: folder of the videos, "clips" or "raw".
        every: of each of `speakers`, one of so many clips (by id) is test, the clip after it valid.
        speakers: whose clips are held out, None for all.
        unseen: speakers of whom all clips are held out, as the split "unseen".
    """
    root = _checked_root(root)
    if (root / part).is_dir():
        videos = _by_name((_grid_name(video.stem), video) for video in _videos(root / part, "*"))
    else:
        # Some releases hold speaker folders inside speaker folders (s1/video/mpg_6000).
        found = (video for folder in sorted(root.glob("s[0-9]*")) for video in _videos(folder, "**/*"))
        videos = _by_name(((video.relative_to(root).parts[0], video.stem), video) for video in found)
    if not videos:
        raise LayoutError(
            f"{root}: holds neither {part}/SPEAKER_CLIP.mp4 nor s1/CLIP.mpg; data.root must be the GRID folder"
        )
    texts = _grid_table(root / "transcripts.tsv")
    aligns = {_grid_align(root, file): file for file in sorted(root.rglob("*.align"))}
    clips: list[SourceClip] = []
    places: Counter[str] = Counter()
    for speaker, stem in sorted(videos, key="_".join):
        place = places[speaker]
        places[speaker] += 1
        split = "train"
        if every and (speakers is None or speaker in speakers):
            split = {0: "test", 1: "valid"}.get(place % every, "train")
        split = "unseen" if speaker in unseen else split
        name = speaker, stem
        transcript = aligns.get(name)
        # Without any transcript the clip is listed with an empty one, and rejected with that reason.
        text = texts.get(name, None if transcript else "")
        clips.append(SourceClip("_".join(name), videos[name], split, speaker, text, transcript))
    return clips


def _by_name(named: Iterable[tuple[tuple[str, str], Path]]) -> dict[tuple[str, str], Path]:
    videos: dict[tuple[str, str], Path] = {}
    for name, video in named:
        other = videos.setdefault(name, video)
        if other is not video:
            raise LayoutError(f"{other} and {video} are one clip, {'_'.join(name)}: take one of them away")
    return videos


def _grid_name(stem: str) -> tuple[str, str]:
    speaker, _, clip = stem.rpartition("_")
    return speaker, clip


def _grid_align(root: Path, file: Path) -> tuple[str, str]:
    if "_" in file.stem:
        return _grid_name(file.stem)
    folders = [part for part in file.relative_to(root).parts[:-1] if part[:1] == "s" and part[1:].isdigit()]
    return (folders[-1] if folders else ""), file.stem


def _grid_table(file: Path) -> dict[tuple[str, str], str]:
    if not file.is_file():
        return {}
    try:
        rows = csv.DictReader(lines_of(_text(file)), delimiter="\t", quoting=csv.QUOTE_NONE)
        return {(row["speaker"], row["id"]): row["transcript"] or "" for row in rows}
    except KeyError as error:
        raise LayoutError(f"{file}: has no column {error}; speaker, id and transcript are needed") from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LayoutError(f"{file}: is no UTF-8 text ({error.reason}, byte {error.start}); convert it") from None


def _checked_root(root: str | Path | None) -> Path:
    if root is None:
        raise LayoutError("data.root is not set; give the folder of the corpus, data.root=...")
    if not Path(root).is_dir():
        raise LayoutError(f"{root}: there is no such folder; set data.root to the folder of the corpus")
    return Path(root)


def _videos(folder: Path, pattern: str) -> Iterable[Path]:
    return sorted(path for path in folder.glob(pattern) if path.suffix.lower() in VIDEO_SUFFIXES)
