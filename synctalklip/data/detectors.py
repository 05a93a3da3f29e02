"""Face finders and landmark finders behind one protocol.

H, W height and width in pixels, N faces of a frame. Boxes are x1, y1, x2, y2 in pixels of the frame.
"""

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from synctalklip.data.geometry import CROP_RULES, S3FD, FaceError


class FaceDetector(Protocol):
    """Finds faces and their 68 landmarks (iBUG order).

    Attributes:
        every: frames from one detection to the next while a face is followed.
        finder: name of the network or method whose boxes they are.
    """

    every: int

    @property
    def finder(self) -> str: ...

    def detect(self, frame: np.ndarray) -> np.ndarray:
        """Faces of a frame, (H,W,3) uint8 BGR -> (N,5) float32 x1, y1, x2, y2, score."""
        ...

    def landmarks(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Landmarks of the face in a box, (H,W,3) uint8 BGR, (4,) or (5,) -> (68,2) float32 x, y."""
        ...


def assert_crop_rule(rule: str, detector: FaceDetector) -> None:
    """Refuse a rule that does not exist, or whose boxes this detector does not find.

    Raises:
        FaceError: see above.
    """
    if rule not in CROP_RULES:
        raise FaceError(f"crop_rule is '{rule}'; use one of {', '.join(CROP_RULES)}")
    if rule == S3FD and getattr(detector, "finder", None) != S3FD:
        raise FaceError("crop_rule=s3fd needs the boxes of S3FD; add detector=face_alignment, with its weights")


class DlibFaces:
    """dlib's HOG face finder and 68-point shape predictor, as in AV-HuBERT's preparation.

    The weights come with the package face_recognition_models; they were trained on iBUG 300-W, whose terms are
    non-commercial.

    Args:
        every: see `FaceDetector`.
        upsample: how often a frame without a face is looked at again at twice the size, for small faces.
        max_side: the longer side of the picture that is searched first; larger frames are shrunk to it.
        threshold: least score; higher finds fewer false faces.
    """

    finder = "hog"

    def __init__(self, every: int, upsample: int, max_side: int, threshold: float):
        import dlib

        self.every = every
        self.upsample = upsample
        self.max_side = max_side
        self.threshold = threshold
        self._dlib = dlib
        self._finder = dlib.get_frontal_face_detector()
        self._predictor = dlib.shape_predictor(str(_dlib_predictor()))

    def detect(self, frame: np.ndarray) -> np.ndarray:
        """See `FaceDetector.detect`."""
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        scale = min(1.0, self.max_side / max(grey.shape))
        for _ in range(self.upsample + 1):
            look = grey
            if scale != 1:
                kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
                look = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=kind)
            # dlib reads padded rows wrongly without a word.
            boxes, scores, _ = self._finder.run(np.ascontiguousarray(look), 0, self.threshold)
            if boxes:
                edges = [[box.left(), box.top(), box.right() + 1, box.bottom() + 1] for box in boxes]
                # Box edges lie between pixels: -0.5 is the left edge of the first one.
                boxes = np.array(edges, np.float32) / scale - 0.5
                return np.column_stack([boxes, np.array(scores, np.float32)])
            scale *= 2
        return np.zeros((0, 5), np.float32)

    def landmarks(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        """See `FaceDetector.landmarks`."""
        x1, y1, x2, y2 = (round(float(value) + 0.5) for value in box[:4])
        grey = np.ascontiguousarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
        shape = self._predictor(grey, self._dlib.rectangle(x1, y1, x2 - 1, y2 - 1))
        return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def _dlib_predictor() -> Path:
    # Importing the package would need pkg_resources; only its files are wanted.
    found = importlib.util.find_spec("face_recognition_models")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder) / "models" / "shape_predictor_68_face_landmarks.dat"
        if file.is_file():
            return file
    raise FaceError(
        "shape_predictor_68_face_landmarks.dat is missing: install face_recognition_models, or use "
        "detector=face_alignment"
    )


class FaceAlignmentFaces:
    """The S3FD face finder and the FAN landmark network of the package face-alignment.

    Args:
        every: see `FaceDetector`.
        weights: folder with the two weight files; None is the cache of torch.hub. Nothing is downloaded.
        device: "cpu" or "cuda".
        threshold: least score of a face.
        compile: use torch.compile (worth it on a GPU only).

    Raises:
        FaceError: weight files that are missing or unreadable.
    """

    finder = S3FD

    def __init__(self, every: int, weights: str | Path | None, device: str, threshold: float, compile: bool):
        import face_alignment
        from face_alignment import api
        from face_alignment.detection.sfd import sfd_detector
        from torch import hub

        self.every = every
        folder = Path(weights) if weights is not None else Path(hub.get_dir()) / "checkpoints"
        names = [Path(url).name for url in (sfd_detector.models_urls["s3fd"], api.models_urls["2DFAN-4"])]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FaceError(
                f"{folder}: face-alignment weights are missing here: {', '.join(missing)}; put them there or name "
                "their folder with detector.weights=..."
            )
        try:
            with _hub_cache(folder):
                self._network = face_alignment.FaceAlignment(
                    face_alignment.LandmarksType.TWO_D,
                    device=device,
                    flip_input=False,
                    compile=compile,
                    face_detector_kwargs={"path_to_detector": str(folder / names[0]), "filter_threshold": threshold},
                )
        # torch.load reports a broken file by many types.
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise FaceError(
                f"{folder}: the face-alignment weights cannot be loaded ({reason}); copy them again"
            ) from error

    def detect(self, frame: np.ndarray) -> np.ndarray:
        """See `FaceDetector.detect`."""
        faces = self._network.face_detector.detect_from_image(np.ascontiguousarray(frame[:, :, ::-1]))
        return np.array(faces, np.float32).reshape(-1, 5)

    def landmarks(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        """See `FaceDetector.landmarks`."""
        face = [*(float(value) for value in box[:4]), 1.0]
        rgb = np.ascontiguousarray(frame[:, :, ::-1])
        (points,) = self._network.get_landmarks_from_image(rgb, detected_faces=[face])
        return np.asarray(points, np.float32)


@contextlib.contextmanager
def _hub_cache(folder: Path) -> Iterator[None]:
    """Let torch.hub take its files from `folder`, whatever its name."""
    from torch import hub

    usual = hub.get_dir()
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "checkpoints").symlink_to(folder.resolve())
        hub.set_dir(directory)
        try:
            yield
        finally:
            hub.set_dir(usual)
