"""Read prepared clips, the one way for training, validation, evaluation and inference.

T video frames at 25 Hz.
"""

import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from synctalklip.data import features, media
from synctalklip.data.manifest import Clip, ManifestError


class ClipReader:
    """The stored arrays of clips by index.

    Args:
        clips: records of a manifest.
        cache: keep every array that was decoded in memory; for corpora that fit.
    """

    def __init__(self, clips: Sequence[Clip], cache: bool = False):
        self.clips = list(clips)
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
        return self._get("rois", index, lambda clip: _of_length(clip, clip.rois, media.read_gray(clip.rois)))

    def faces(self, index: int) -> np.ndarray:
        """Face crops, (T,96,96,3) uint8 BGR."""
        return self._get(
            "faces", index, lambda clip: _of_length(clip, clip.faces, media.read_video(clip.faces, fps=None))
        )

    def wave(self, index: int) -> np.ndarray:
        """Sound, (N,) int16 at 16 kHz."""
        return self._get("wave", index, lambda clip: media.read_audio(clip.wav))

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

        def read(clip: Clip) -> torch.Tensor:
            mfcc = features.mfcc(self.wave(index))[: 4 * clip.frames]
            return torch.nn.functional.pad(mfcc, (0, 0, 0, 4 * clip.frames - len(mfcc)))

        return self._get("mfcc", index, read)

    def _track(self, index: int) -> dict[str, np.ndarray]:
        def read(clip: Clip) -> dict[str, np.ndarray]:
            try:
                with np.load(clip.track) as stored:
                    arrays = {name: stored[name] for name in ("boxes", "matrices")}
            except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
                raise ManifestError(f"{clip.track}: is damaged; delete it and run scripts/prepare.py again") from error
            return {name: _of_length(clip, clip.track, array) for name, array in arrays.items()}

        return self._get("track", index, read)


def _of_length(clip: Clip, file: Any, array: np.ndarray) -> np.ndarray:
    if len(array) != clip.frames:
        raise ManifestError(
            f"{file}: holds {len(array)} frames, the manifest says {clip.frames}; delete it and run "
            "scripts/prepare.py again"
        )
    return array
