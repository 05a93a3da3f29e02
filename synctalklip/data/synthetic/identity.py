"""Who speaks: the drawn parameters of a face and its still picture, on which the mouth is painted frame by frame.

Lengths are in face units: the 256 x 256 canvas of the 68-point mean face (eye corners 54 apart, a mouth 47 wide).
"""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, ...]  # BGR, 0..255

UNIT = 1.56  # canvas pixels in a face unit; the canvas is drawn at twice the size of the frame
CANVAS = 320
CENTRE = (129.0, 116.0)  # face units that land on the middle of the canvas
EYES = ((102.6, 95.0), (156.0, 95.0))
NOSE = (129.3, 137.0)
MOUTH = (129.3, 161.0)
CHIN = 201.0


@dataclass(frozen=True)
class Identity:
    """Everything that tells one speaker's face from another's."""

    name: str
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    cheek: float  # half width at the cheekbones
    jaw: float  # half width at the corners of the mouth
    chin: float  # half width of the chin
    eye: tuple[float, float]  # half width and half height of an eye
    brow: tuple[float, float, float]  # thickness, height above the eye, slope
    nose: float  # half width of the nose
    mouth: float  # half width of the mouth at rest
    lip: tuple[float, float]  # thickness of the upper and of the lower lip
    hair_style: str  # "short", "long" or "bald"
    beard: float  # 0 none to 1 full
    glasses: bool
    shirt: Colour
    freckles: float
    seed: int


_SKINS = (
    (168, 190, 232),
    (150, 176, 222),
    (128, 160, 210),
    (112, 145, 198),
    (92, 124, 176),
    (70, 100, 150),
    (58, 82, 126),
)
_HAIRS = ((28, 30, 34), (30, 44, 66), (44, 70, 104), (84, 128, 172), (58, 62, 122), (150, 152, 156))
_IRISES = ((48, 66, 92), (130, 102, 72), (84, 112, 78), (36, 46, 62), (128, 118, 96))
_SHIRTS = ((120, 70, 50), (60, 60, 140), (70, 110, 70), (50, 50, 55), (170, 165, 160), (110, 60, 110))


def draw_identity(seed: int, index: int) -> Identity:
    """Parameters of speaker `index` of a corpus; neighbours always differ in skin, hair and shape."""
    rng = np.random.default_rng([seed, 7919, index])

    def pick(options: tuple, stride: int = 1):
        return options[(index * stride + seed) % len(options)]

    def jitter(colour: Colour, amount: float) -> Colour:
        return tuple(float(np.clip(value + rng.normal(0, amount), 8, 245)) for value in colour)

    skin = jitter(pick(_SKINS, 3), 4)
    feminine = index % 2 == 1
    red = rng.uniform(0.25, 0.6) if feminine else rng.uniform(0.1, 0.25)
    lips = tuple(float(s * (1 - red) * 0.86 + red * t) for s, t in zip(skin, (86, 70, 176), strict=True))
    lip = (rng.uniform(4.6, 6.2), rng.uniform(6.6, 8.8)) if feminine else (rng.uniform(3.8, 5.2), rng.uniform(5.6, 7.6))
    styles = ("long", "long", "short") if feminine else ("short", "short", "bald")
    return Identity(
        name=f"s{index + 1}",
        skin=skin,
        hair=jitter(pick(_HAIRS, 5), 5),
        iris=jitter(pick(_IRISES, 2), 6),
        lips=lips,
        cheek=rng.uniform(60, 66),
        jaw=rng.uniform(46, 54) + (0 if feminine else 2),
        chin=rng.uniform(17, 23),
        eye=(rng.uniform(10.0, 11.5), rng.uniform(4.4, 5.6)),
        brow=(rng.uniform(2.0, 2.8) if feminine else rng.uniform(2.8, 4.0), rng.uniform(14, 17), rng.uniform(0.5, 3)),
        nose=rng.uniform(9.5, 12.5),
        mouth=rng.uniform(21.5, 25.0),
        lip=lip,
        hair_style=styles[int(rng.integers(3))],
        beard=0.0 if feminine else float(rng.choice((0.0, 0.0, 0.4, 0.75))),
        glasses=bool(index % 5 == 3),
        shirt=pick(_SHIRTS),
        freckles=float(rng.uniform(0, 1) ** 2),
        seed=int(rng.integers(2**31)),
    )


def identities(seed: int, count: int) -> list[Identity]:
    """The first `count` speakers of a corpus."""
    return [draw_identity(seed, index) for index in range(count)]
