"""Read prepared clips, the one way for training, validation, evaluation and inference.

T video frames at 25 Hz.
"""

import contextlib
import os
import wave
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synctalklip.checkpoint import reason_of
from synctalklip.data import features, media
from synctalklip.data.manifest import Clip, ManifestError

# Channels, bytes a sample, samples a second.
PREPARED_SOUND = (1, 2, media.SAMPLE_RATE)
# What a track holds for each frame; a side of a box in pixels, and a determinant, below which there is no face.
TRACK_SHAPES = {"boxes": (4,), "matrices": (2, 3)}
SMALLEST_SIZE = {"boxes": 1.0, "matrices": 1e-3}
LARGEST_COORDINATE = 1e5
# File systems round the time stamps they store.
STAMP_TOLERANCE_NS = 10**9


class ClipReader:
    """The stored arrays of clips by index.

    Args:
        clips: records of a manifest.
        cache: keep every array that was decoded in memory; for corpora that fit. Each worker process of a
            data loader keeps its own, so that n workers hold up to n copies.
        disk_cache: keep decoded mouth ROIs and faces as `<root>/cache/{rois,faces}/<id>.npy`, made at first use
            and mapped from then on: 9 and 28 kB a frame, 0.8 and 2.5 GB an hour of video, shared by all processes
            through the system's page cache.
    """

    def __init__(self, clips: Sequence[Clip], cache: bool = False, disk_cache: bool = False):
        self.clips = list(clips)
        self.disk_cache = disk_cache
        self._cache: dict[tuple[str, int], Any] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.clips)

    def _get(self, name: str, index: int, read: Callable[[Clip], Any]) -> Any:
        if self._cache is None:
            return read(self.clips[index])
        key = (name, index)
        if key not in self._cache:
            self._cache[key] = read(self.clips[index])
        return self._cache[key]

    def rois(self, index: int) -> np.ndarray:
        """Mouth ROIs, (T,96,96) uint8 grey."""
        return self._pictures("rois", index)

    def faces(self, index: int) -> np.ndarray:
        """Face crops, (T,96,96,3) uint8 BGR."""
        return self._pictures("faces", index)

    def _pictures(self, name: str, index: int) -> np.ndarray:
        # A mapped array holds a file open, so it is not kept in memory besides.
        return _mapped(self.clips[index], name) if self.disk_cache else self._get(name, index, _DECODERS[name])

    def wave(self, index: int) -> np.ndarray:
        """Sound, (N,) int16 at 16 kHz."""
        return self._get("wave", index, lambda clip: _read_wave(clip.wav))

    def boxes(self, index: int) -> np.ndarray:
        """Face boxes in source pixels, (T,4) float32 x1, y1, x2, y2."""
        return self._track(index)["boxes"]

    def matrices(self, index: int) -> np.ndarray:
        """Maps from face crop to ROI pixels, (T,2,3) float32."""
        return self._track(index)["matrices"]

    def logfbank(self, index: int) -> torch.Tensor:
        """Stacked, aligned and normalised log filterbank, (T,104) float32."""
        return self._get("logfbank", index, lambda clip: features.audio_features(self.wave(index), clip.frames))

    def mfcc(self, index: int) -> torch.Tensor:
        """MFCC at 100 Hz, cut or zero-padded to the video, (4T,13) float32."""

        return self._get("mfcc", index, lambda clip: clip_mfcc(self.wave(index), clip.frames))

    def _track(self, index: int) -> dict[str, np.ndarray]:
        def read(clip: Clip) -> dict[str, np.ndarray]:
            try:
                with np.load(clip.track) as stored:
                    arrays = {name: stored[name] for name in ("boxes", "matrices")}
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                raise ManifestError(f"{clip.track}: is damaged; delete it and run scripts/prepare.py again") from error
            return {name: _checked(clip, name, array) for name, array in arrays.items()}

        return self._get("track", index, read)


def clip_mfcc(wave: np.ndarray, frames: int) -> torch.Tensor:
    """MFCC of sound (N,) at 100 Hz, cut or zero-padded to a video of `frames`, (4T,13) float32."""
    mfcc = features.mfcc(wave)[: 4 * frames]
    return torch.nn.functional.pad(mfcc, (0, 0, 0, 4 * frames - len(mfcc)))


def _checked(clip: Clip, name: str, array: np.ndarray) -> np.ndarray:
    """Boxes or matrices of a track, float32; what a warp would crash on, or draw nonsense from, is refused."""
    shape = (clip.frames, *TRACK_SHAPES[name])
    if array.shape[1:] != shape[1:] or array.dtype.kind not in "fiu":
        raise ManifestError(
            f"{clip.track}: {name} are {array.shape} {array.dtype}, {shape} numbers are needed; delete it and run "
            "scripts/prepare.py again"
        )
    array = _of_length(clip, clip.track, array).astype(np.float32)
    within = (np.abs(array) < LARGEST_COORDINATE).all(axis=tuple(range(1, array.ndim)))
    # Of what is not within, NaN included, the size does not matter.
    usable = np.where(within.reshape(-1, *[1] * (array.ndim - 1)), array, 0)
    if name == "boxes":
        size = (usable[:, 2:] - usable[:, :2]).min(axis=1)
    else:
        size = np.abs(np.linalg.det(usable[:, :, :2]))
    sound = within & (size > SMALLEST_SIZE[name])
    if not sound.all():
        frame = int(np.argmin(sound))
        raise ManifestError(
            f"{clip.track}: {name} of frame {frame} cannot be: {array[frame].tolist()}; delete it and run "
            "scripts/prepare.py again"
        )
    return array


def _of_length(clip: Clip, file: Any, array: np.ndarray) -> np.ndarray:
    if len(array) != clip.frames:
        raise ManifestError(
            f"{file}: holds {len(array)} frames, the manifest says {clip.frames}; delete it and run "
            "scripts/prepare.py again"
        )
    return array


def _read_wave(path: Path) -> np.ndarray:
    """Sound as prepared, without a decoder; a file of any other kind goes to the decoder, which says what is wrong."""
    try:
        with wave.open(str(path), "rb") as stored:
            kind = stored.getnchannels(), stored.getsampwidth(), stored.getframerate()
            frames = stored.readframes(stored.getnframes()) if kind == PREPARED_SOUND else b""
            sound = np.frombuffer(frames, "<i2")
            if len(sound) and len(sound) == stored.getnframes():
                return sound.astype(np.int16)
    except (OSError, EOFError, ValueError, wave.Error):
        pass
    return media.read_audio(path)


def _decoded_rois(clip: Clip) -> np.ndarray:
    return _of_length(clip, clip.rois, media.read_gray(clip.rois))


def _decoded_faces(clip: Clip) -> np.ndarray:
    return _of_length(clip, clip.faces, media.read_video(clip.faces, fps=None))


_DECODERS: dict[str, Callable[[Clip], np.ndarray]] = {"rois": _decoded_rois, "faces": _decoded_faces}
_DIMENSIONS = {"rois": 3, "faces": 4}


def _mapped(clip: Clip, name: str) -> np.ndarray:
    """Pictures out of the disk cache, which is filled where it lacks them or the video is another one."""
    path, video = clip.root / "cache" / name / f"{clip.name}.npy", getattr(clip, name)
    stored = stored_array(path, video)
    if stored is not None and (stored.dtype, stored.ndim, len(stored)) == (np.uint8, _DIMENSIONS[name], clip.frames):
        return stored
    pictures = _DECODERS[name](clip)
    store_array(path, pictures, video, "set disk_cache=false")
    return pictures


def stored_array(path: Path, source: Path) -> np.ndarray | None:
    """An array that `store_array` wrote, mapped; what is changed in it does not reach the file.

    Returns:
        None where it is not there, cut short, or `source` is another one.
    """
    try:
        if abs(path.stat().st_mtime_ns - source.stat().st_mtime_ns) < STAMP_TOLERANCE_NS:
            return np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError):
        pass
    return None


def store_array(path: Path, array: np.ndarray, source: Path, remedy: str) -> None:
    """Write an array that was made from the file `source`, whose time stamp it carries; safe among processes.

    Raises:
        ManifestError: the disk refused it; `remedy` says how to do without.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    stamp = source.stat().st_mtime_ns
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, array)
        os.utime(part, ns=(stamp, stamp))
        part.replace(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({reason_of(error)}): free some space, or {remedy}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
