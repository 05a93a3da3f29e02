"""The judge that looks at the lips' geometry: landmarks of the generated face beside those of a recording.

First when the lips have to close: the sounds p, b and m of words whose times are known. Then landmarks of face crops
that hold still: the 68-point predictor answers to where its box lies, and on crops of 96x96 pixels its noise is as
large as the motion of the lips; one box a clip, enlarged crops, and the median over boxes that differ a little take
most of it away. Then the judge.

Legend: T video frames.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from synctalklip.cli import build
from synctalklip.data.clips import ClipReader, store_array, stored_array
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import FaceError
from synctalklip.data.manifest import Clip, ManifestError
from synctalklip.data.tracking import choose_face
from synctalklip.errors import SyncTalklipError
from synctalklip.evaluation.methods import Pair
from synctalklip.metrics.openness import aperture, closures, compare_apertures, landmark_distance

log = logging.getLogger(__name__)

BILABIALS = frozenset("PBM")
SHIPPED = Path(__file__).with_name("pronunciations.dict")
"""The 51 words of GRID, from the CMU Pronouncing Dictionary."""


class PronunciationError(SyncTalklipError):
    """A pronouncing dictionary that cannot be read; names file and line."""


def read_pronunciations(path: str | Path = SHIPPED) -> dict[str, tuple[str, ...]]:
    """A dictionary in the format of the CMU Pronouncing Dictionary: `word SOUND SOUND ...` a line, in ARPAbet.

    Comments begin with `;;;` or `#`; of several pronunciations, `word(2)` and so on, the first is taken.

    Returns:
        Sounds, without their stress, by lower-case word.

    Raises:
        PronunciationError: there is no such file, it is no text, or a line has no sounds.
    """
    path = Path(path)
    found: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PronunciationError(
            f"{path}: cannot be read as a pronouncing dictionary ({error}); give one in the format of cmudict.dict"
        ) from error
    for number, line in enumerate(lines, 1):
        word, *sounds = re.sub(r"(;;;|\s#|^#).*", "", line).split() or [""]
        if not word:
            continue
        if not sounds:
            raise PronunciationError(f"{path}, line {number}: {word!r} has no sounds; write 'word SOUND SOUND ...'")
        word = re.sub(r"\(\d+\)$", "", word).lower()
        found.setdefault(word, tuple(sound.rstrip("012") for sound in sounds))
    return found


def bilabial_times(
    words: Iterable[tuple[str, float, float]], pronunciations: Mapping[str, tuple[str, ...]]
) -> list[tuple[float, float]]:
    """Start and end of every p, b and m, in seconds.

    The sounds of a word share its time evenly, which is exact for the first and the last sound at one of their ends.

    Args:
        words: (word, start, end) in seconds; words that the dictionary lacks are left out.
        pronunciations: see `read_pronunciations`.
    """
    times = []
    for word, start, end in words:
        sounds = pronunciations.get(word, ())
        step = (end - start) / max(1, len(sounds))
        times += [
            (start + place * step, start + (place + 1) * step)
            for place, sound in enumerate(sounds)
            if sound in BILABIALS
        ]
    return times


SCALE = 3
"""Crops are enlarged so many times: face and landmark finders know no faces of 96 pixels."""
BORDER = 72
"""Pixels of repeated edge around an enlarged crop; a face finder wants to see what is beside a face."""
LOOKS = 5
"""Frames in which the face is looked for, evenly spread."""
SHIFT, GROWTH = 4.0, 0.05
"""How far the boxes of the other readings are moved, in enlarged pixels, and how much larger and smaller they are."""
READING = f"crops x {SCALE}, one box a clip, median of 7 boxes"
"""How landmarks are read, for footnotes."""


def face_box(faces: np.ndarray, detector: FaceDetector) -> np.ndarray:
    """The box that the landmarks of a clip are read in: the median of those that the detector finds.

    Args:
        faces: (T,96,96,3) uint8 BGR, of the recording: a generated face is read where the real one stands.
        detector: finds faces.

    Returns:
        (4,) float32 x1, y1, x2, y2 in pixels of the enlarged crop.

    Raises:
        FaceError: it finds no face in any of the frames that were looked at.
    """
    boxes = []
    for place in np.unique(np.linspace(0, len(faces) - 1, LOOKS).round().astype(int)):
        picture = enlarged(faces[place])
        found = detector.detect(picture)
        index = choose_face(found, picture.shape[1], picture.shape[0])
        if index is not None:
            boxes.append(found[index, :4])
    if not boxes:
        raise FaceError("no face is found in its face crops; use another detector, or aperture.measure=false")
    return np.median(boxes, axis=0).astype(np.float32)


def crop_landmarks(faces: np.ndarray, box: np.ndarray, detector: FaceDetector) -> np.ndarray:
    """Landmarks of every frame, each the median over seven boxes.

    Args:
        faces: (T,96,96,3) uint8 BGR.
        box: see `face_box`.
        detector: finds landmarks.

    Returns:
        (T,68,2) float64 x, y in pixels of the 96x96 crop.
    """
    boxes = _readings(np.asarray(box, np.float64))
    points = [
        np.median([detector.landmarks(picture, one) for one in boxes], axis=0) for picture in map(enlarged, faces)
    ]
    # Pixel centres lie at whole numbers, before and after the enlargement.
    return (np.asarray(points, np.float64) - BORDER + 0.5) / SCALE - 0.5


def enlarged(face: np.ndarray) -> np.ndarray:
    """The picture that is read: a crop (96,96,3) enlarged inside a border, (432,432,3) uint8."""
    large = cv2.resize(face, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(large, BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REPLICATE)


def _readings(box: np.ndarray) -> list[np.ndarray]:
    """The box itself, moved to four sides, larger and smaller."""
    moves = [(0, 0), (SHIFT, 0), (-SHIFT, 0), (0, SHIFT), (0, -SHIFT)]
    grown = (box[2:] - box[:2]).mean() * GROWTH / 2
    sizes = [np.array([-grown, -grown, grown, grown]), np.array([grown, grown, -grown, -grown])]
    return [box + np.array([x, y, x, y]) for x, y in moves] + [box + size for size in sizes]


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
        path = Path(clip.root) / "cache" / self.cache / f"{clip.name}.npy"
        stored = stored_array(path, clip.faces)
        if stored is not None and stored.shape == (clip.frames, 68, 2):
            return np.asarray(stored)
        landmarks = crop_landmarks(faces, box, self.finder)
        try:
            store_array(path, landmarks, clip.faces, "make the prepared folder writable")
        except ManifestError as error:
            log.warning("%s; the landmarks are read again next time", error)
        return landmarks
