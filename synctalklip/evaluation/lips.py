"""The judge that looks at the lips' geometry: landmarks of the generated face beside those of a recording.

Legend: T video frames.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synctalklip.cli import build
from synctalklip.data.clips import ClipReader, store_array, stored_array
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FaceError
from synctalklip.data.landmarks import READING, crop_landmarks, face_box
from synctalklip.data.manifest import Clip, ManifestError
from synctalklip.data.pronunciation import bilabial_times, read_pronunciations
from synctalklip.evaluation.pairs import Pair
from synctalklip.metrics.aperture import aperture, closures, compare_apertures, landmark_distance

log = logging.getLogger(__name__)


def describe_lips(settings: Mapping[str, Any], detector: Mapping[str, Any]) -> dict[str, Any]:
    """What `summary.json` says of this judge: all that its scores depend on.

    Args:
        settings: the node `aperture` of `configs/evaluate.yaml`.
        detector: the node `detector`.

    Raises:
        PronunciationError: the dictionary cannot be read.
    """
    words = read_pronunciations(**_dictionary(settings))
    finder = {key: value for key, value in detector.items() if key not in ("device", "compile")}
    return {
        "name": f"landmarks of {detector['_target_'].rsplit('.', 1)[-1]}",
        "reading": READING,
        "max_lag": settings["max_lag"],
        "finder": _short(finder),
        "pronunciations": _short(words),
    }


def _dictionary(settings: Mapping[str, Any]) -> dict[str, str]:
    return {"path": settings["pronunciations"]} if settings["pronunciations"] else {}


def _short(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]


class LipJudge:
    """Compares lips with those of the recording of the same sound.

    Args:
        settings: the node `aperture` of `configs/evaluate.yaml`.
        detector: the node `detector`.
        finder: the detector itself, where it is built already.
    """

    def __init__(
        self, settings: Mapping[str, Any], detector: Mapping[str, Any], finder: FaceDetector | None = None
    ) -> None:
        self.finder = finder or build(dict(detector))
        self.max_lag = settings["max_lag"]
        self.pronunciations = read_pronunciations(**_dictionary(settings))
        self.cache = f"landmarks_{_short([describe_lips(settings, detector)['finder'], READING])}"

    def score(self, pair: Pair, reader: ClipReader, faces: np.ndarray) -> dict[str, float | int]:
        """The columns of a clip; none where no face is found in its recording.

        With the sound of another clip, the lips are compared with that clip's recording as long as both last, and
        neither spread nor LMD is given: they belong to another face.

        Args:
            pair: face and sound; the sound is none but silence.
            reader: of the pair.
            faces: (T,96,96,3) uint8 BGR that are judged.
        """
        assert pair.sound is not None
        own = pair.sound == pair.clip
        try:
            box = face_box(reader.faces(0), self.finder)
            real = self.recorded(pair.clip, reader.faces(0), box)
            spoken = real
            if not own:
                said = ClipReader([pair.sound]).faces(0)
                spoken = self.recorded(pair.sound, said, face_box(said, self.finder))
        except FaceError as error:
            log.warning("clip %s: %s", pair.clip.id, error)
            return {}
        lips = real if faces is reader.faces(0) else crop_landmarks(faces, box, self.finder)
        ours, theirs = aperture(lips), aperture(spoken)
        count = min(len(ours), len(theirs))
        row: dict[str, float | int] = {}
        movement = compare_apertures(ours[:count], theirs[:count], self.max_lag)
        if movement is not None:
            row |= {"lip_correlation": movement.correlation, "lip_lag": movement.lag, "lip_lag_size": abs(movement.lag)}
        if movement is not None and own:
            row |= {"lip_spread": movement.spread, "lmd": landmark_distance(lips, real)}
        sounds = bilabial_times(pair.sound.words, self.pronunciations)
        row["lips_closed"], row["bilabials"] = closures(ours, aperture(real), sounds)
        return row

    def recorded(self, clip: Clip, faces: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Landmarks of a recording, (T,68,2): every method is compared with them, so they are read once and kept."""
        path = Path(clip.root) / "cache" / self.cache / f"{clip.id}.npy"
        stored = stored_array(path, clip.faces)
        if stored is not None and stored.shape == (clip.frames, 68, 2):
            return np.asarray(stored)
        landmarks = crop_landmarks(faces, box, self.finder)
        try:
            store_array(path, landmarks, clip.faces, "make the prepared folder writable")
        except ManifestError as error:
            log.warning("%s; the landmarks are read again next time", error)
        return landmarks
