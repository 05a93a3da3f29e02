"""The still part of a speaker: head without a mouth, and what stands behind it.

Drawn once a speaker as float images of the canvas (C x C x 3, BGR 0..255) in face units, then kept as uint8.
The kept images are shared: copy before painting on them.
"""

from functools import lru_cache

import cv2
import numpy as np

from synctalklip.data.synthetic.identity import CANVAS, CENTRE, CHIN, EYES, MOUTH, NOSE, UNIT, Colour, Identity

_SHIFT = 4  # cv2 draws with coordinates in 1/16 pixel


def to_canvas(points: np.ndarray) -> np.ndarray:
    """Face units (..., 2) to canvas pixels (..., 2)."""
    return (np.asarray(points, dtype=np.float64) - CENTRE) * UNIT + CANVAS / 2


def fill(image: np.ndarray, points: np.ndarray, colour: Colour | float) -> None:
    """Fill a polygon given in pixels (K, 2), anti-aliased, in place."""
    cv2.fillPoly(image, [np.round(points * 2**_SHIFT).astype(np.int32)], colour, cv2.LINE_AA, _SHIFT)


def stroke(image: np.ndarray, points: np.ndarray, colour: Colour | float, thickness: int, closed: bool = False) -> None:
    """Draw a line through pixels (K, 2), anti-aliased, in place."""
    path = [np.round(points * 2**_SHIFT).astype(np.int32)]
    cv2.polylines(image, path, closed, colour, thickness, cv2.LINE_AA, _SHIFT)


def ellipse(centre: tuple[float, float], half: tuple[float, float], count: int = 40) -> np.ndarray:
    """Outline (count, 2) of an ellipse in the units of its centre."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + half[0] * np.cos(angle), centre[1] + half[1] * np.sin(angle)], axis=1)


def mask(points: np.ndarray, blur: float = 0.0, size: int = CANVAS) -> np.ndarray:
    """Coverage (C, C) float 0..1 of a polygon in face units, softened by `blur` units."""
    layer = np.zeros((size, size), np.uint8)
    fill(layer, to_canvas(points), 255)
    soft = layer.astype(np.float32) / 255
    return cv2.GaussianBlur(soft, (0, 0), blur * UNIT) if blur else soft


def paint(image: np.ndarray, cover: np.ndarray, colour: Colour) -> None:
    """Blend a colour into a float image (C, C, 3) in place."""
    image += cover[:, :, None] * (np.array(colour, np.float32) - image)


def shifted(points: np.ndarray, distance: float) -> np.ndarray:
    """The points (K, 2), moved down (y grows downwards)."""
    return points + np.array((0.0, distance))


def blend(image: np.ndarray, layer: np.ndarray, cover: np.ndarray) -> None:
    """Lay `layer` over `image` in place, with coverage (H, W) uint8."""
    wide = cv2.cvtColor(cover, cv2.COLOR_GRAY2BGR)
    over = cv2.multiply(layer, wide, scale=1 / 255)
    under = cv2.multiply(image, 255 - wide, scale=1 / 255)
    cv2.add(over, under, dst=image)


def face_outline(person: Identity) -> np.ndarray:
    """Outline (K, 2) of skull and jaw in face units."""
    x = CENTRE[0] + 0.3
    right = [
        (x, 34.0),
        (x + 34, 41),
        (x + 53, 60),
        (x + person.cheek, 92),
        (x + person.cheek - 2, 118),
        (x + (person.cheek + person.jaw) / 2 + 1, 146),
        (x + person.jaw - 4, 168),
        (x + (person.jaw + person.chin) / 2, 186),
        (x + person.chin, 197.5),
        (x, CHIN),
    ]
    left = [(2 * x - px, py) for px, py in right[-2:0:-1]]
    points = np.array([*right, *left])
    # A closed Catmull-Rom spline rounds the corners.
    before, after, beyond = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = np.linspace(0, 1, 8, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (array[:, None] for array in (before, points, after, beyond))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return curve.reshape(-1, 2)


def _grid() -> tuple[np.ndarray, np.ndarray]:
    index = (np.arange(CANVAS, dtype=np.float32) - CANVAS / 2) / UNIT
    return np.meshgrid(index + CENTRE[0], index + CENTRE[1])


def _blob(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    return np.exp(-(((x - centre[0]) / half[0]) ** 2) - ((y - centre[1]) / half[1]) ** 2)


def _shading(person: Identity) -> np.ndarray:
    """Brightness (C, C) of the skin: a dome, sockets, cheeks, nose, the folds around the mouth and the chin."""
    x, y = _grid()
    middle = CENTRE[0] + 0.3
    light = 1.05 - 0.34 * ((x - middle) / 66) ** 4 - 0.10 * ((y - 105) / 95) ** 2
    for side, (ex, ey) in zip((-1, 1), EYES, strict=True):
        light -= 0.20 * _blob(x, y, (ex - side * 2, ey - 6), (17, 8))
        light -= 0.08 * _blob(x, y, (ex, ey + 10), (12, 4))
        light += 0.08 * _blob(x, y, (middle + side * 36, 124), (16, 14))
        light -= 0.16 * _blob(x, y, (middle + side * (person.nose * 0.75), 112), (4.5, 18))
        light -= 0.14 * _blob(x, y, (middle + side * (person.nose + 3.5), NOSE[1] - 4), (3.2, 6))
        light -= 0.09 * _blob(x, y, (middle + side * 27, 149), (4, 11))
        light -= 0.07 * _blob(x, y, (middle + side * 28, 163), (4, 5))
    light += 0.12 * _blob(x, y, (middle, 104), (4, 24)) + 0.12 * _blob(x, y, (middle, 129), (5, 5))
    light += 0.06 * _blob(x, y, (middle, 58), (28, 14))
    light -= 0.17 * _blob(x, y, (middle, NOSE[1] + 5.5), (9, 3.5))
    light -= 0.05 * _blob(x, y, (middle, 149), (2.5, 5))
    light -= 0.12 * _blob(x, y, (middle, 180), (15, 4)) - 0.08 * _blob(x, y, (middle, 191), (12, 6))
    return light


def _skin(person: Identity, rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    image = np.empty((CANVAS, CANVAS, 3), np.float32)
    image[:] = person.skin
    middle = CENTRE[0]
    flush = 0.10 * (_blob(x, y, (middle - 37, 130), (15, 11)) + _blob(x, y, (middle + 37, 130), (15, 11)))
    paint(image, flush + 0.08 * _blob(x, y, (middle, 131), (9, 7)), (90, 90, 200))
    grain = cv2.GaussianBlur(rng.normal(0, 1, (CANVAS, CANVAS)).astype(np.float32), (0, 0), 1.2)
    patch = cv2.GaussianBlur(rng.normal(0, 1, (CANVAS, CANVAS)).astype(np.float32), (0, 0), 9)
    image *= (_shading(person) + 0.035 * grain + 0.35 * patch)[:, :, None]
    if person.freckles > 0.3:
        spots = cv2.GaussianBlur((rng.random((CANVAS, CANVAS)) > 0.985).astype(np.float32), (0, 0), 1.2)
        where = np.minimum(1, _blob(x, y, (middle, 122), (48, 16))) * person.freckles
        paint(image, np.minimum(1, 2.2 * spots) * where * 0.5, tuple(0.6 * value for value in person.skin))
    return image


def _eyes(image: np.ndarray, person: Identity) -> None:
    half, height = person.eye
    dark = tuple(0.22 * value + 6 for value in person.skin)
    for side, (ex, ey) in zip((-1, 1), EYES, strict=True):
        u = np.linspace(-1, 1, 15)
        upper = np.stack([ex + u * half, ey - height * (1 - np.abs(u) ** 2.2) - side * u * 0.5], axis=1)
        lower = np.stack([ex + u * half, ey + height * 0.72 * (1 - np.abs(u) ** 2) - side * u * 0.5], axis=1)
        almond = mask(np.concatenate([upper, lower[::-1]]), 0.25)
        inside = image.copy()
        paint(inside, almond, (224, 228, 232))
        paint(inside, mask(ellipse((ex, ey - 0.4), (4.9, 4.9)), 0.3), tuple(0.45 * v for v in person.iris))
        paint(inside, mask(ellipse((ex, ey - 0.4), (4.1, 4.1)), 0.4), person.iris)
        paint(inside, mask(ellipse((ex, ey - 0.4), (2.0, 2.0)), 0.25), (14, 12, 12))
        paint(inside, 0.5 * mask(shifted(upper, 1.2), 0.9), (60, 60, 70))
        paint(inside, mask(ellipse((ex + 1.5, ey - 2.0), (1.0, 1.0)), 0.2), (250, 250, 250))
        image += almond[:, :, None] * (inside - image)
        lid = np.concatenate([shifted(upper, -1.1), shifted(upper[::-1], 0.5)])
        paint(image, mask(lid, 0.3), dark)
        paint(image, 0.35 * mask(np.concatenate([lower, shifted(lower[::-1], 0.9)]), 0.3), dark)
        crease = shifted(upper, -3.4)
        paint(image, 0.4 * mask(np.concatenate([crease, shifted(crease[::-1], 1.0)]), 0.5), dark)


def _brow_lines(person: Identity) -> list[np.ndarray]:
    """Outlines of the two brows in face units."""
    thickness, height, slope = person.brow
    lines = []
    for side, (ex, ey) in zip((-1, 1), EYES, strict=True):
        u = np.linspace(-1, 1, 12)
        x = ex + side * u * 15
        top = ey - height - slope * (1 - (u - 0.25) ** 2) + 1.2 * u
        width = thickness * (1 - 0.55 * np.maximum(u, 0))
        lines.append(np.concatenate([np.stack([x, top], 1), np.stack([x, top + width], 1)[::-1]]))
    return lines


def _nose(image: np.ndarray, person: Identity) -> None:
    dark = tuple(0.30 * value for value in person.skin)
    x, y = NOSE
    for side in (-1, 1):
        paint(image, 0.85 * mask(ellipse((x + side * person.nose * 0.42, y + 0.6), (2.9, 1.6)), 0.5), dark)
        wing = ellipse((x + side * (person.nose - 1.0), y - 3.2), (1.1, 4.2))
        paint(image, 0.42 * mask(wing, 0.8), dark)
    base = np.stack([np.linspace(x - 6, x + 6, 9), y + 2.4 + 0.9 * np.cos(np.linspace(-np.pi / 2, np.pi / 2, 9))], 1)
    paint(image, 0.45 * mask(np.concatenate([base, shifted(base[::-1], 1.3)]), 0.6), dark)


def _beard(image: np.ndarray, person: Identity, rng: np.random.Generator) -> None:
    x, y = _grid()
    side = np.abs(x - CENTRE[0])
    region = (y > 140 + 10 * np.clip((side - 16) / 12, 0, 1) - 22 * np.clip((side - 30) / 20, 0, 1)).astype(np.float32)
    region *= 1 - np.clip(_blob(x, y, (MOUTH[0], MOUTH[1] + 1), (27, 11)) * 2.0, 0, 1)
    region = np.asarray(cv2.GaussianBlur(region, (0, 0), 3 * UNIT))
    hairs = cv2.GaussianBlur(rng.normal(0, 1, (CANVAS, CANVAS)).astype(np.float32), (0, 0), 0.8) * 0.9
    cover = np.clip(region * person.beard * (0.72 + 0.5 * hairs), 0, 0.92)
    paint(image, cover, tuple(0.75 * value for value in person.hair))


def _glasses(image: np.ndarray) -> None:
    frame = np.zeros((CANVAS, CANVAS), np.uint8)
    for ex, ey in EYES:
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        shape = (
            np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.6,
            np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.6,
        )
        ring = np.stack([ex + 19 * shape[0], ey + 3 + 14 * shape[1]], axis=1)
        stroke(frame, to_canvas(ring), 255, 3, closed=True)
        outer = ex + (19 if ex > CENTRE[0] else -19)
        temple = np.array([(outer, ey - 2), (CENTRE[0] + np.sign(ex - CENTRE[0]) * 64, ey - 4)])
        stroke(frame, to_canvas(temple), 255, 3)
    stroke(frame, to_canvas(np.array([(121.5, 95), (129.3, 93), (137.0, 95)])), 255, 3)
    paint(image, frame.astype(np.float32) / 255 * 0.9, (36, 32, 34))


def _hair_front(person: Identity, rng: np.random.Generator) -> np.ndarray:
    """Coverage (C, C) of the hair over the forehead."""
    if person.hair_style == "bald":
        return np.zeros((CANVAS, CANVAS), np.float32)
    x, y = _grid()
    middle = CENTRE[0] + rng.uniform(-22, 22)
    line = 52 + 8 * ((x - middle) / 40) ** 2 + 2.5 * np.sin(x / 5 + rng.uniform(0, 6))
    line = np.where(np.abs(x - CENTRE[0]) > 56, 118, line)
    top = mask(ellipse((CENTRE[0] + 0.3, 84), (person.cheek + 5, 64)))
    return top * cv2.GaussianBlur((y < line).astype(np.float32), (0, 0), 1.2 * UNIT)


def _hair_texture(person: Identity, rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    strands = cv2.GaussianBlur(rng.normal(0, 1, (CANVAS, CANVAS)).astype(np.float32), (0, 0), 0.9, sigmaY=7)
    gloss = 1.0 + 1.1 * strands + 0.45 * _blob(x, y, (CENTRE[0] - 18, 38), (34, 11))
    return np.array(person.hair, np.float32) * gloss[:, :, None]


@lru_cache(maxsize=32)
def draw_head(person: Identity) -> tuple[np.ndarray, np.ndarray]:
    """The head without a mouth.

    Returns:
        colour (C, C, 3) uint8 and coverage (C, C) uint8.
    """
    rng = np.random.default_rng(person.seed)
    image = _skin(person, rng)
    if person.beard:
        _beard(image, person, rng)
    _eyes(image, person)
    for line in _brow_lines(person):
        paint(image, 0.85 * mask(line, 0.7), tuple(0.7 * value for value in person.hair))
    _nose(image, person)
    cover = mask(face_outline(person), 0.4)
    ears = np.zeros((CANVAS, CANVAS), np.float32)
    for side in (-1, 1):
        ears = np.maximum(ears, mask(ellipse((CENTRE[0] + side * (person.cheek + 1), 112), (6, 14)), 0.4))
    only_ears = np.clip(ears - cover, 0, 1)
    paint(image, only_ears, tuple(0.78 * value for value in person.skin))
    cover = np.maximum(cover, ears)
    hair = _hair_front(person, rng)
    texture = _hair_texture(person, rng)
    image += hair[:, :, None] * (texture - image)
    cover = np.maximum(cover, hair)
    if person.glasses:
        _glasses(image)
    return np.clip(image, 0, 255).astype(np.uint8), np.round(cover * 255).astype(np.uint8)


@lru_cache(maxsize=32)
def draw_back(person: Identity) -> tuple[np.ndarray, np.ndarray]:
    """What moves with the body: neck, shoulders and the hair behind the head; colour and coverage as `draw_head`."""
    rng = np.random.default_rng([person.seed, 1])
    image = np.zeros((CANVAS, CANVAS, 3), np.float32)
    cover = np.zeros((CANVAS, CANVAS), np.float32)
    x, y = CENTRE[0] + 0.3, _grid()[1]
    if person.hair_style == "long":
        tail = np.array([(x - 68, 80), (x + 68, 80), (x + 72, 190), (x + 55, 225), (x - 55, 225), (x - 72, 190)])
        behind = np.maximum(mask(ellipse((x, 88), (person.cheek + 10, 70)), 0.8), mask(tail, 1.5))
        image += behind[:, :, None] * (0.7 * _hair_texture(person, rng) - image)
        cover = np.maximum(cover, behind)
    neck = mask(np.array([(x - 36, 150), (x + 36, 150), (x + 39, 235), (x - 39, 235)]), 1.0)
    shade = (0.80 - 0.30 * np.exp(-(((y - 196) / 16) ** 2)))[:, :, None]
    image += neck[:, :, None] * (np.array(person.skin, np.float32) * shade - image)
    shirt = mask(np.array([(x - 150, 240), (x - 40, 205), (x, 222), (x + 40, 205), (x + 150, 240)]), 1.0)
    folds = cv2.GaussianBlur(rng.normal(0, 1, (CANVAS, CANVAS)).astype(np.float32), (0, 0), 7) * 1.6
    image += shirt[:, :, None] * (np.array(person.shirt, np.float32) * (0.9 + folds[:, :, None]) - image)
    cover = np.maximum.reduce([cover, neck, shirt])
    return np.clip(image, 0, 255).astype(np.uint8), np.round(cover * 255).astype(np.uint8)


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A blurred room (size, size, 3) uint8: a graded wall with a few soft shapes."""
    a, b = rng.uniform(50, 205, (2, 3))
    a, b = (0.45 * colour + 0.55 * colour.mean() for colour in (a, b))
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    turn = rng.uniform(0, 2 * np.pi)
    weight = np.clip(0.5 + (ramp[None] - 0.5) * np.cos(turn) + (ramp[:, None] - 0.5) * np.sin(turn), 0, 1)[:, :, None]
    image = (a * weight + b * (1 - weight)).astype(np.float32)
    for _ in range(int(rng.integers(0, 5))):
        left, top = rng.uniform(-0.2, 0.9, 2) * size
        width, height = rng.uniform(0.1, 0.5, 2) * size
        colour = tuple(float(v) for v in np.clip(image.mean((0, 1)) + rng.normal(0, 28, 3), 20, 235))
        box = np.array([(left, top), (left + width, top), (left + width, top + height), (left, top + height)])
        fill(image, box, colour)
    return np.clip(cv2.GaussianBlur(image, (0, 0), size / 50), 0, 255).astype(np.uint8)
