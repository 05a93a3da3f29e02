"""From landmarks to face boxes, mouth ROIs and the maps between them.

T frames, N faces, H, W height and width in pixels. Coordinates are x, y with pixel centres at whole numbers (as
in OpenCV), so a box around the pixels 0..95 has the edges -0.5 and 95.5. The "canvas" is the 256x256 picture of
the mean face in which AV-HuBERT cuts its mouth ROI.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from synctalklip.errors import SyncTalklipError

FACE_SIZE = 96
ROI_SIZE = 96
# Where the centre of the mouth comes to lie. AV-HuBERT (avhubert/preparation/align_mouth.py) cuts the pixels c - 48 to
# c + 47 of the canvas around a mouth at c, so the mouth is at 48, half a pixel behind the middle of the ROI.
ROI_CENTRE = ROI_SIZE / 2
# Outer and inner eye corners and nose base: they do not move when the mouth does (AV-HuBERT preparation).
STABLE_POINTS = (33, 36, 39, 42, 45)
MEAN_FACE = np.array([[128.870, 137.303], [92.522, 94.369], [112.772, 94.944], [145.525, 94.535], [166.677, 93.566]])
MOUTH_POINTS = slice(48, 68)
# The face crop on the canvas: chin and mouth inside, the lower half begins at the nose.
FACE_CENTRE = np.array([129.0, 136.0])
FACE_SIDE = 164.0
# How mouth ROIs are cut: aligned by landmarks (AV-HuBERT), or the middle of the frame (the public TalkLip recipe).
ROI_MODES = ("landmark", "center88")
# How face crops are cut: around the mean face by landmarks, or as TalkLip and Wav2Lip saw them in their training.
LANDMARKS, S3FD = "landmarks", "s3fd"
CROP_RULES = (LANDMARKS, S3FD)
# Side of an LRS frame; the recipe looks at the 88x88 pixels in its middle.
CENTRE_FRAME = 160


class FaceError(SyncTalklipError):
    """No usable face, or face files that are missing; the message says what to do."""


@dataclass(frozen=True)
class Geometry:
    """Where face crop and mouth ROI lie in every frame.

    Attributes:
        boxes: (T,4) float32, x1, y1, x2, y2 of the square face crop in source pixels.
        transforms: (T,2,3) float32, source pixels -> ROI pixels.
        matrices: (T,2,3) float32, face-crop pixels -> ROI pixels.
    """

    boxes: np.ndarray
    transforms: np.ndarray
    matrices: np.ndarray


def smooth(points: np.ndarray, window: int) -> np.ndarray:
    """Centred moving mean over time, without lag.

    The ends are read off a straight line fitted to the first and last window, so that steady motion stays
    steady there. A clip that is shorter than the window is smoothed with the longest odd window that fits.

    Args:
        points: (T,...).
        window: frames, odd; an even number is taken one smaller.

    Returns:
        (T,...) float64.
    """
    total = len(points)
    half = (min(window, total) - 1) // 2
    values = np.asarray(points, np.float64).reshape(total, -1)
    if half < 1:
        return values.reshape(points.shape)
    size = 2 * half + 1
    sums = np.cumsum(np.vstack([np.zeros_like(values[:1]), values]), axis=0)
    means = (sums[size:] - sums[:-size]) / size
    steps = np.arange(-half, half + 1.0)
    weights = steps / (steps**2).sum()
    first = means[0] + steps[:half, None] * (weights @ values[:size])
    last = means[-1] + steps[half + 1 :, None] * (weights @ values[-size:])
    return np.vstack([first, means, last]).reshape(points.shape)


def similarities(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity transforms (rotation, scale, shift; no mirror).

    Args:
        source: (T,K,2) points of every frame.
        target: (K,2) where they belong.

    Returns:
        (T,2,3) float64 with target = M @ [x, y, 1].

    Raises:
        FaceError: points of a frame that coincide.
    """
    centre, aim = source.mean(axis=1, keepdims=True), target.mean(axis=0)
    x, y = np.moveaxis(source - centre, -1, 0)
    u, v = (target - aim).T
    spread = (x**2 + y**2).sum(axis=1)
    if not (np.isfinite(spread).all() and (spread > 1e-6).all()):
        raise FaceError("the landmarks of a frame fall on one point: no face can be aligned; use another detector")
    a = (x * u + y * v).sum(axis=1) / spread
    b = (x * v - y * u).sum(axis=1) / spread
    linear = np.stack([np.stack([a, -b], axis=-1), np.stack([b, a], axis=-1)], axis=1)
    shift = aim - np.einsum("tij,tj->ti", linear, centre[:, 0])
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def apply(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map (T,...,2) points by (T,2,3) matrices."""
    linear, shift = matrices[:, :, :2], matrices[:, :, 2]
    flat = points.reshape(len(points), -1, 2)
    return (np.einsum("tij,tkj->tki", linear, flat) + shift[:, None]).reshape(points.shape)


def geometry(landmarks: np.ndarray, window: int = 11, mouth_window: int = 5) -> Geometry:
    """Face boxes and mouth ROIs from landmarks.

    Box and scale come from the smoothed stable points only: a box that breathes with the jaw would tell the
    generator what the hidden mouth does. The ROI follows the mean of the mouth points as in AV-HuBERT, to a fraction
    of a pixel where AV-HuBERT rounds to whole ones.

    Args:
        landmarks: (T,68,2) in source pixels, no gaps.
        window: frames of the moving mean of the stable points.
        mouth_window: frames of the moving mean of the mouth centre.

    Raises:
        FaceError: landmarks that fall on one point.
    """
    stable = smooth(landmarks[:, STABLE_POINTS], window)
    to_canvas = similarities(stable, MEAN_FACE)
    scale = np.hypot(to_canvas[:, 0, 0], to_canvas[:, 1, 0])

    # Inverse of a similarity: the transposed linear part over the squared scale.
    back = to_canvas[:, :, :2].transpose(0, 2, 1) / (scale**2)[:, None, None]
    centres = np.einsum("tij,tj->ti", back, FACE_CENTRE - to_canvas[:, :, 2])
    half = (FACE_SIDE / scale / 2)[:, None]
    boxes = np.concatenate([centres - half, centres + half], axis=1)

    mouths = smooth(landmarks[:, MOUTH_POINTS].mean(axis=1), mouth_window)
    transforms = to_canvas.copy()
    transforms[:, :, 2] += ROI_CENTRE - apply(to_canvas, mouths)

    pixel = (2 * half / FACE_SIZE)[:, :, None]
    corner = (boxes[:, :2] + pixel[:, :, 0] / 2)[:, :, None]
    linear = transforms[:, :, :2]
    matrices = np.concatenate([linear * pixel, linear @ corner + transforms[:, :, 2:]], axis=2)
    return Geometry(*(array.astype(np.float32) for array in (boxes, transforms, matrices)))


def found_boxes(cuts: Geometry, boxes: np.ndarray, width: int, height: int) -> Geometry:
    """The same mouth ROIs with the face crops of the public systems: the detector's own boxes, frame by frame.

    Whole pixels inside the frame, not square, neither smoothed nor padded (Sxjdwang/TalkLip, utils/data_avhubert.py;
    Rudrabha/Wav2Lip, preprocess.py).

    Args:
        cuts: what `geometry` gave.
        boxes: (T,4) x1, y1, x2, y2 that S3FD found.
        width: of the frames. height: of the frames.
    """
    # Their crop is frame[y1:y2, x1:x2]; the edges of its pixels are half a pixel outside their centres.
    low, high = np.trunc(np.clip(boxes, 0, None)), [width, height] * 2
    edges = np.minimum(low, high).astype(np.float64) - 0.5
    pixel = (edges[:, 2:] - edges[:, :2]) / FACE_SIZE
    if not (pixel > 0).all():
        raise FaceError("the face found in a frame lies outside it; use crop_rule=landmarks")
    linear = cuts.transforms[:, :, :2].astype(np.float64)
    corner = np.einsum("tij,tj->ti", linear, edges[:, :2] + pixel / 2) + cuts.transforms[:, :, 2]
    matrices = np.concatenate([linear * pixel[:, None], corner[:, :, None]], axis=2)
    return Geometry(edges.astype(np.float32), cuts.transforms, matrices.astype(np.float32))


def centre_rois(cuts: Geometry, width: int, height: int) -> Geometry:
    """The same face crops with the mouth ROIs of TalkLip (Sxjdwang/TalkLip, utils/data_avhubert.py).

    The frame, or the square in the middle of one that is not square, is resized to 160x160; the ROI is its middle
    96x96, so that the middle 88x88 of the ROI is that of the frame. It only shows the mouth in frames that were cut
    around the face, as those of LRS were.

    Args:
        cuts: what `geometry` gave.
        width: of the frames. height: of the frames.
    """
    side = min(width, height)
    scale = CENTRE_FRAME / side
    corner = np.array([(width - side) / 2, (height - side) / 2])
    transform = np.zeros((len(cuts.boxes), 2, 3))
    transform[:, [0, 1], [0, 1]] = scale
    # Pixel centres lie at whole numbers, so the edges of a picture are half a pixel outside.
    transform[:, :, 2] = (0.5 - corner) * scale - 0.5 - (CENTRE_FRAME - ROI_SIZE) / 2
    boxes = cuts.boxes.astype(np.float64)
    pixel = (boxes[:, 2:] - boxes[:, :2]) / FACE_SIZE
    matrices = np.zeros_like(transform)
    matrices[:, [0, 1], [0, 1]] = scale * pixel
    matrices[:, :, 2] = scale * (boxes[:, :2] + pixel / 2) + transform[:, :, 2]
    return Geometry(cuts.boxes, transform.astype(np.float32), matrices.astype(np.float32))


def _warp(frame: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Warp to (size,size); a picture that shrinks is sampled several times a pixel and averaged, against aliasing.

    Args:
        frame: (H,W,3) or (H,W) uint8.
        matrix: (2,3) from frame pixels to output pixels.
        size: side of the output.
    """
    shrink = 1 / np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    fine = max(1, round(float(shrink)))
    matrix = np.asarray(matrix, np.float64) * fine
    matrix[:, 2] += (fine - 1) / 2
    out = cv2.warpAffine(
        frame, matrix, (size * fine, size * fine), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return out if fine == 1 else cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA)


def crop_face(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Cut a face; beyond the frame its border pixels repeat.

    Args:
        frame: (H,W,3) uint8.
        box: (4,) x1, y1, x2, y2.

    Returns:
        (96,96,3) uint8.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    scale_x, scale_y = FACE_SIZE / (x2 - x1), FACE_SIZE / (y2 - y1)
    matrix = np.array([[scale_x, 0, -x1 * scale_x - 0.5], [0, scale_y, -y1 * scale_y - 0.5]])
    return _warp(frame, matrix, FACE_SIZE)


def crop_roi(frame: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Cut a mouth ROI.

    Args:
        frame: (H,W,3) uint8 BGR or (H,W) grey.
        transform: (2,3) source pixels -> ROI pixels.

    Returns:
        (96,96) uint8 grey.
    """
    roi = _warp(frame, transform, ROI_SIZE)
    return cv2.cvtColor(roi, cv2.COLOR_BGR2GRAY) if roi.ndim == 3 else roi


def paste_face(
    frame: np.ndarray, box: np.ndarray, face: np.ndarray, feather: float, opacity: np.ndarray | None = None
) -> np.ndarray:
    """Put a face back at full resolution with a soft edge; only pixels inside the box change.

    Args:
        frame: (H,W,3) uint8.
        box: (4,) x1, y1, x2, y2 that `face` fills; need not be square.
        face: (h,w,3) uint8.
        feather: width of the soft edge as a share of the box, 0 for a hard one.
        opacity: (h,w) float32 in 0..1, how much of each pixel of `face` is seen; None for all of it.

    Returns:
        A new (H,W,3) uint8.
    """
    out = frame.copy()
    x1, y1, x2, y2 = (float(value) for value in box)
    # Pixels whose centres lie inside the box and the frame.
    left, right = max(0, int(np.ceil(x1))), min(frame.shape[1], int(np.floor(x2)) + 1)
    upper, lower = max(0, int(np.ceil(y1))), min(frame.shape[0], int(np.floor(y2)) + 1)
    if left >= right or upper >= lower:
        return out
    scale_x, scale_y = (x2 - x1) / face.shape[1], (y2 - y1) / face.shape[0]
    matrix = np.array([[scale_x, 0, x1 + scale_x / 2 - left], [0, scale_y, y1 + scale_y / 2 - upper]])
    size = right - left, lower - upper
    pasted = cv2.warpAffine(face, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    columns = _soft_edge(np.arange(left, right), x1, x2, feather * (x2 - x1))
    rows = _soft_edge(np.arange(upper, lower), y1, y2, feather * (y2 - y1))
    weight = rows[:, None] * columns[None]
    if opacity is not None:
        weight *= cv2.warpAffine(opacity, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = weight[:, :, None]
    region = out[upper:lower, left:right]
    region[:] = np.rint(region + weight * (pasted.astype(np.float32) - region)).astype(np.uint8)
    return out


def _soft_edge(positions: np.ndarray, start: float, end: float, width: float) -> np.ndarray:
    """Weights of pixels along one axis: 0 at both ends, 1 from `width` inward, float32."""
    if width <= 0:
        return np.ones(len(positions), np.float32)
    ramp = np.clip(np.minimum(positions - start, end - positions) / width, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)
