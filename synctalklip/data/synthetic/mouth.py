"""The mouth: its shape from the articulators, and its picture.

Shapes: A articulators, K points of a line, C canvas side; images are (H, W, 3) uint8 BGR.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from synctalklip.data.synthetic.articulation import ARTICULATORS
from synctalklip.data.synthetic.identity import CANVAS, CENTRE, MOUTH, UNIT, Identity
from synctalklip.data.synthetic.portrait import blend, ellipse, fill, shifted, stroke, to_canvas

JAW_DROP = 16.0  # face units the chin travels at jaw = 1
_INDEX = {name: index for index, name in enumerate(ARTICULATORS)}
_BOX = (int((MOUTH[0] - 46 - CENTRE[0]) * UNIT + CANVAS / 2), int((MOUTH[1] - 24 - CENTRE[1]) * UNIT + CANVAS / 2))
_BOX_SIZE = (int(92 * UNIT), int(68 * UNIT))

Place = Callable[[np.ndarray], np.ndarray]  # points around the middle of the mouth in face units, to pixels


@dataclass(frozen=True)
class MouthShape:
    """The lips in face units, relative to the middle of the mouth; y grows downwards."""

    half: float  # half width between the corners
    inner_top: float  # lower edge of the upper lip, at the middle
    inner_bottom: float  # upper edge of the lower lip, at the middle
    top: float  # thickness of the upper lip
    bottom: float  # thickness of the lower lip
    corner: float  # y of the corners
    jaw: float  # y travel of the lower teeth
    round: float

    @property
    def gap(self) -> float:
        """Opening between the lips at the middle."""
        return self.inner_bottom - self.inner_top


def mouth_shape(moves: np.ndarray, person: Identity) -> MouthShape:
    """Lips of one frame from its articulators (A,)."""
    get = {name: float(moves[index]) for name, index in _INDEX.items()}
    jaw = get["jaw"] * JAW_DROP
    open_top = -(0.2 + 5.6 * get["upper"] + 0.06 * jaw)
    open_bottom = 0.2 + 5.4 * get["lower"] + 0.92 * jaw
    # Lips that are pushed forward leave a smaller, rounder hole.
    squeeze = 1 - 0.35 * get["round"]
    seam = 0.30 * jaw
    tuck = get["tuck"]
    open_bottom = open_bottom * squeeze * (1 - tuck) + (0.4 + 0.1 * jaw) * tuck
    open_top *= squeeze
    shut = get["close"]
    inner_top = open_top * (1 - shut) + seam * shut
    inner_bottom = max(open_bottom * (1 - shut) + seam * shut, inner_top)
    thin = 1 - 0.34 * get["press"]
    swell = 1 + 0.38 * get["round"]
    stretch = 1 - 0.12 * max(get["spread"], 0)
    return MouthShape(
        half=person.mouth * (1 + 0.24 * get["spread"] - 0.12 * get["round"] - 0.06 * get["jaw"]),
        inner_top=inner_top,
        inner_bottom=inner_bottom,
        top=person.lip[0] * thin * swell * stretch * (1 - 0.12 * get["upper"]),
        bottom=person.lip[1] * thin * swell * stretch * (1 - 0.5 * tuck),
        corner=0.25 * jaw - 0.3 - 1.4 * max(get["spread"], 0),
        jaw=jaw,
        round=get["round"],
    )


def _lip_lines(shape: MouthShape) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Outer top, inner top, inner bottom and outer bottom lines (K, 2) in face units around the middle."""
    u = np.linspace(-1, 1, 25)
    x = shape.half * u
    arch = 1 - np.abs(u) ** (2.4 - 0.4 * shape.round)
    inner = np.clip(1 - (u / 0.86) ** 2, 0, 1) ** (0.62 - 0.10 * shape.round)
    level = shape.corner * (1 - arch)
    inner_top = level * (1 - inner) + shape.inner_top * inner
    inner_bottom = level * (1 - inner) + shape.inner_bottom * inner
    inner_bottom = np.maximum(inner_bottom, inner_top)
    bow = 1 - 0.24 * np.exp(-((u / 0.13) ** 2)) * (1 - 0.5 * shape.round)
    outer_top = inner_top - shape.top * bow * (1 - np.abs(u) ** 1.7)
    outer_bottom = inner_bottom + shape.bottom * (1 - np.abs(u) ** 2.2)
    top, inside, below, bottom = (np.stack([x, y], axis=1) for y in (outer_top, inner_top, inner_bottom, outer_bottom))
    return top, inside, below, bottom


def paint_mouth(head: np.ndarray, person: Identity, shape: MouthShape, moves: np.ndarray) -> None:
    """Paint lips and what shows between them on the canvas (C, C, 3) in place, for the articulators (A,)."""
    left, top = _BOX
    width, height = _BOX_SIZE
    view = head[top : top + height, left : left + width]
    middle = to_canvas(np.array(MOUTH)) - (left, top)

    def place(points: np.ndarray) -> np.ndarray:
        return points * UNIT + middle

    lines = _lip_lines(shape)
    outer_top, inner_top, inner_bottom, outer_bottom = (place(line) for line in lines)
    _lip_shadow(view, lines, place)
    lips = person.lips
    fill(view, np.concatenate([outer_top, outer_bottom[::-1]]), lips)
    _lip_light(view, person, lines, shape, place)
    if shape.gap > 0.25:
        _cavity(view, person, np.concatenate([inner_top, inner_bottom[::-1]]), shape, moves, place)
    seam = tuple(0.42 * value for value in lips)
    stroke(view, inner_top, seam, 2)
    if shape.gap > 0.5:
        stroke(view, inner_bottom, tuple(0.62 * value for value in lips), 1)
    corners = np.stack([inner_top[0], inner_top[-1]])
    for corner in corners:
        fill(view, ellipse(tuple(corner), (2.2, 1.6), 12), tuple(0.45 * value for value in person.skin))


def _lip_shadow(view: np.ndarray, lines: tuple, place: Place) -> None:
    """Soft dark skin around the lips, so that the lips stand out of the face."""
    rim = np.concatenate([shifted(lines[0], -0.8), shifted(lines[3][::-1], 3.6)])
    layer = np.zeros(view.shape[:2], np.uint8)
    fill(layer, place(rim), 70)
    layer = np.asarray(cv2.blur(layer, (9, 9)))
    keep = cv2.cvtColor(255 - layer, cv2.COLOR_GRAY2BGR)
    view[:] = cv2.multiply(view, keep, scale=1 / 255)


def _lip_light(view: np.ndarray, person: Identity, lines: tuple, shape: MouthShape, place: Place) -> None:
    """A darker upper lip, a lit band on the lower one; wet light grows with protrusion."""
    outer_top, inner_top, inner_bottom, outer_bottom = lines
    lips = person.lips
    fill(view, place(np.concatenate([outer_top, inner_top[::-1]])), tuple(0.86 * value for value in lips))
    inset = slice(4, -4)
    upper, lower = inner_bottom[inset], outer_bottom[inset]
    band = np.concatenate([upper + 0.28 * (lower - upper), (upper + 0.72 * (lower - upper))[::-1]])
    fill(view, place(band), tuple(min(255, 1.10 * value + 6) for value in lips))
    inset = slice(8, -8)
    upper, lower = inner_bottom[inset], outer_bottom[inset]
    gloss = np.concatenate([upper + 0.38 * (lower - upper), (upper + 0.56 * (lower - upper))[::-1]])
    fill(view, place(gloss), tuple(min(255, value * 1.16 + 14 + 26 * shape.round) for value in lips))


def _cavity(
    view: np.ndarray, person: Identity, hole: np.ndarray, shape: MouthShape, moves: np.ndarray, place: Place
) -> None:
    """Throat, lower teeth, tongue and upper teeth, seen through the hole between the lips."""
    inside = np.empty_like(view)
    inside[:] = (26, 18, 52)
    tip, front = float(moves[_INDEX["tip"]]), float(moves[_INDEX["front"]])
    ivory, shaded = (206, 218, 226), (168, 182, 194)
    floor = shape.jaw + 1.6
    reach = person.mouth * 0.74
    lower_teeth = ellipse((0, floor + 5.5), (reach * 0.86, 5.4))
    upper_teeth = np.array([(-1, -12), (1, -12), (0.92, -0.4), (0.5, 1.0), (0, 1.5), (-0.5, 1.0), (-0.92, -0.4)]) * (
        reach,
        1,
    )
    tongue_y = (floor + 1.0 - 0.16 * shape.jaw - 1.5 * front) * (1 - tip) + (3.0 + 0.25 * shape.jaw) * tip
    tongue = ellipse((0, tongue_y + 3.0), (reach * (0.66 - 0.10 * tip), 4.0 + 0.10 * shape.jaw + 1.5 * front))
    red = (92 + 30 * front, 84 + 26 * front, 172 + 40 * front)
    fill(inside, place(tongue), red)
    stroke(inside, place(np.array([(0, tongue_y), (0, tongue_y + 6)])), tuple(0.8 * v for v in red), 1)
    fill(inside, place(lower_teeth), shaded)
    if tip > 0.6:
        fill(inside, place(shifted(tongue, -1.2)), red)
    fill(inside, place(upper_teeth), ivory)
    for share in (-0.66, -0.33, 0.0, 0.33, 0.66):
        slit = np.array([(share * reach, -12), (share * reach, 1.0 - abs(share))])
        stroke(inside, place(slit), (176, 188, 198), 1)
    between = min(1.0, (front - 0.65) / 0.3)
    if between > 0:
        blade = ellipse((0, 1.6 + 0.30 * shape.jaw), (reach * 0.60, (2.4 + 0.12 * shape.jaw) * between))
        fill(inside, place(blade), red)
    stroke(inside, shifted(hole[: len(hole) // 2], 1.5), (70, 62, 90), 2)
    cover = np.zeros(view.shape[:2], np.uint8)
    fill(cover, hole, 255)
    blend(view, inside, cover)
