"""Moving pictures of a speaker: the mouth from its articulators; mouth, jaw, eyelids and head painted over the still
portrait, frame by frame.

Shapes: T frames, A articulators, K points of a line, C canvas side, S frame side; images are (H, W, 3) uint8 BGR.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from synctalklip.data.synthetic.identity import CANVAS, CENTRE, EYES, MOUTH, UNIT, Identity
from synctalklip.data.synthetic.portrait import (
    blend,
    draw_back,
    draw_background,
    draw_head,
    ellipse,
    fill,
    shifted,
    stroke,
    to_canvas,
)
from synctalklip.data.synthetic.speech import ARTICULATORS

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


FPS = 25
FACE_SHARE = 0.78  # frame pixels in a face unit, for a frame of 160 pixels


class Renderer:
    """Paints the frames of one clip; the still layers are drawn once, here.

    Args:
        person: who speaks.
        size: side S of the square frames in pixels.
        rng: source of the background, the light and the motion of this clip.
    """

    def __init__(self, person: Identity, size: int, rng: np.random.Generator) -> None:
        self.person, self.size, self.rng = person, size, rng
        self.head, self.cover = draw_head(person)
        self.back, self.back_cover = draw_back(person)
        self.background = draw_background(size, rng)
        self.noise = rng.normal(0, 1.6, (size + 32, size + 32, 3)).astype(np.int16)
        index = np.arange(CANVAS, dtype=np.float32)
        self.map_x, self.map_y = np.meshgrid(index, index)
        units_x = (self.map_x - CANVAS / 2) / UNIT + CENTRE[0]
        units_y = (self.map_y - CANVAS / 2) / UNIT + CENTRE[1]
        self.first_row = int((138 - CENTRE[1]) * UNIT + CANVAS / 2)
        fall = np.clip((units_y - 140) / 52, 0, 1)
        side = np.clip(1 - ((units_x - CENTRE[0]) / 82) ** 2, 0, 1)
        self.jaw_map = (fall * fall * (3 - 2 * fall) * side * UNIT)[self.first_row :]
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        self.ramp_x, self.ramp_y = np.meshgrid(ramp, ramp)
        self.out_x, self.out_y = np.meshgrid(*(np.arange(size, dtype=np.float32),) * 2)

    def _drop_jaw(self, drop: float) -> tuple[np.ndarray, np.ndarray]:
        head, cover = self.head.copy(), self.cover.copy()
        row = self.first_row
        source_y = self.map_y[row:] - drop * self.jaw_map
        head[row:] = cv2.remap(self.head, self.map_x[row:], source_y, cv2.INTER_LINEAR)
        cover[row:] = cv2.remap(self.cover, self.map_x[row:], source_y, cv2.INTER_LINEAR)
        return head, cover

    def _blink(self, head: np.ndarray, shut: float) -> None:
        half, height = self.person.eye
        lid = tuple(0.80 * value for value in self.person.skin)
        lash = tuple(0.25 * value for value in self.person.skin)
        u = np.linspace(-1, 1, 15)
        for side, (ex, ey) in zip((-1, 1), EYES, strict=True):
            slope = -side * u * 0.5
            upper = ey - (height + 0.6) * (1 - np.abs(u) ** 2.2) + slope
            lower = ey + height * 0.72 * (1 - np.abs(u) ** 2) + slope
            edge = upper + (lower - upper) * shut
            x = ex + u * (half + 0.3)
            outline = np.concatenate([np.stack([x, upper], 1), np.stack([x, edge], 1)[::-1]])
            fill(head, to_canvas(outline), lid)
            stroke(head, to_canvas(np.stack([x, edge], 1)), lash, 2)

    def frame(self, moves: np.ndarray, pose: "Pose", index: int) -> np.ndarray:
        """Paint one frame.

        Args:
            moves: articulators (A,).
            pose: head, lids and light of this frame.
            index: frame number, which picks the sensor noise.

        Returns:
            (S, S, 3) uint8 BGR.
        """
        shape = mouth_shape(moves, self.person)
        head, cover = self._drop_jaw(shape.jaw)
        paint_mouth(head, self.person, shape, moves)
        if pose.blink > 0.05:
            self._blink(head, pose.blink)
        map_x, map_y = self._camera(pose, 1.0)
        body_x, body_y = self._camera(pose, 0.35)
        image = self.background.copy()
        blend(
            image,
            cv2.remap(self.back, body_x, body_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
            cv2.remap(self.back_cover, body_x, body_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        )
        blend(
            image,
            cv2.remap(head, map_x, map_y, cv2.INTER_LINEAR),
            cv2.remap(cover, map_x, map_y, cv2.INTER_LINEAR),
        )
        gain = pose.light[0] + pose.light[1] * self.ramp_x + pose.light[2] * self.ramp_y
        image = cv2.multiply(image, cv2.merge([gain] * 3), dtype=cv2.CV_8U)
        row, column = (index * 13) % 32, (index * 7) % 32
        noise = self.noise[row : row + self.size, column : column + self.size]
        return cv2.add(image, noise, dtype=cv2.CV_8U)

    def _camera(self, pose: "Pose", share: float) -> tuple[np.ndarray, np.ndarray]:
        """Canvas coordinates (S, S) x and y that each frame pixel shows; `share` damps the motion (body)."""
        zoom = UNIT / (FACE_SHARE * self.size / 160 * (1 + share * (pose.scale - 1)))
        angle = share * pose.roll
        cos, sin = np.float32(zoom * np.cos(angle)), np.float32(zoom * np.sin(angle))
        half = (self.size - 1) / 2
        x = self.out_x - np.float32(half + share * pose.shift[0] * self.size)
        y = self.out_y - np.float32(half + share * pose.shift[1] * self.size)
        source_x, source_y = cos * x + sin * y, cos * y - sin * x
        if share == 1.0:
            # Points near the nose stand out of the face plane and slide further when the head turns.
            depth = np.maximum(0, 1 - (source_x / 105) ** 2 - (source_y / 150) ** 2)
            source_x = source_x - np.float32(pose.yaw * UNIT) * depth
            source_y = source_y - np.float32(pose.pitch * UNIT) * depth
        return source_x + CANVAS / 2, source_y + CANVAS / 2


@dataclass(frozen=True)
class Pose:
    """Head, lids and light of one frame: shifts in frame sides, roll in radians, yaw and pitch in face units."""

    shift: tuple[float, float]
    roll: float
    scale: float
    yaw: float
    pitch: float
    blink: float
    light: tuple[float, float, float]


def _wander(rng: np.random.Generator, frames: int, amount: float, period: float) -> np.ndarray:
    """Slow smooth motion (T,) around 0: three sines with periods near `period` seconds."""
    times = np.arange(frames) / FPS
    waves = [
        np.sin(2 * np.pi * (times / (period * rng.uniform(0.6, 1.7)) + rng.uniform())) * rng.uniform(0.3, 1)
        for _ in range(3)
    ]
    return amount * np.sum(waves, axis=0) / 2


def draw_poses(rng: np.random.Generator, frames: int) -> list[Pose]:
    """Random head motion, blinks and light of a clip of `frames` frames."""
    shift = np.stack([rng.uniform(-0.03, 0.03) + _wander(rng, frames, 0.014, 2.0) for _ in range(2)], axis=1)
    roll = rng.normal(0, 0.025) + _wander(rng, frames, 0.03, 2.5)
    scale = rng.uniform(0.96, 1.03) + _wander(rng, frames, 0.012, 3.0)
    yaw = rng.normal(0, 1.6) + _wander(rng, frames, 2.4, 2.2)
    pitch = rng.normal(0, 0.8) + _wander(rng, frames, 1.4, 2.0)
    blink = np.zeros(frames)
    start = rng.uniform(0, 3.5) * FPS
    while start < frames:
        blink = np.maximum(blink, np.clip(1.25 - np.abs(np.arange(frames) - start) / 2.6, 0, 1))
        start += rng.uniform(2.0, 5.0) * FPS
    level = rng.uniform(0.88, 1.08) + _wander(rng, frames, 0.02, 2.0)
    light_x = rng.uniform(-0.16, 0.16) + _wander(rng, frames, 0.03, 3.0)
    light_y = rng.uniform(-0.08, 0.05) + _wander(rng, frames, 0.02, 3.0)
    return [
        Pose(tuple(shift[t]), roll[t], scale[t], yaw[t], pitch[t], blink[t], (level[t], light_x[t], light_y[t]))
        for t in range(frames)
    ]


def render(moves: np.ndarray, person: Identity, rng: np.random.Generator, size: int = 160) -> np.ndarray:
    """Film a speaker whose mouth makes the given movements.

    Args:
        moves: articulators (T, A) of each frame, from `articulate`.
        person: who speaks.
        rng: source of background, light, head motion and blinks.
        size: side S of the frames in pixels.

    Returns:
        (T, S, S, 3) uint8 BGR at 25 fps.
    """
    renderer = Renderer(person, size, rng)
    poses = draw_poses(rng, len(moves))
    return np.stack([renderer.frame(moves[t], poses[t], t) for t in range(len(moves))])
