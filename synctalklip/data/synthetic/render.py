"""Moving pictures of a speaker: the mouth, jaw, eyelids and head painted over the still portrait, frame by frame.

Shapes: T frames, C canvas side, S frame side; images are (H, W, 3) uint8 BGR.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from synctalklip.data.synthetic.identity import CANVAS, CENTRE, EYES, UNIT, Identity
from synctalklip.data.synthetic.mouth import mouth_shape, paint_mouth
from synctalklip.data.synthetic.portrait import (
    blend,
    draw_back,
    draw_background,
    draw_head,
    fill,
    stroke,
    to_canvas,
)

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
