"""What is said about a video that was made."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What was made.

    Attributes:
        output: the video.
        frames: its length.
        fps: its rate.
        seconds: its length.
        size: (width, height).
        painted: frames whose mouth was painted.
        faces_missing: frames within the speech that stayed as they are because they show no face.
        speech_seconds: length of the speech.
        precision: of the network's arithmetic, "fp32" or "bf16".
        seconds_tracking: time spent on the first pass.
        seconds_painting: time spent on the second pass.
        seconds_by_phase: time spent on decode, detect (the search for faces), landmarks, speech, crop, network, paste,
            encode and other, both passes together. The encoder works beside the rest where there are more cores;
            its time is what was waited for it.
    """

    output: str
    frames: int
    fps: float
    seconds: float
    size: tuple[int, int]
    painted: int
    faces_missing: int
    speech_seconds: float
    precision: str
    seconds_tracking: float
    seconds_painting: float
    seconds_by_phase: dict[str, float]

    def sentence(self) -> str:
        """One line for the terminal."""
        total = self.seconds_tracking + self.seconds_painting
        return (
            f"{self.output}: {self.frames} frames, {self.seconds:.2f} s at {self.fps:.5g} fps, {self.painted} painted, "
            f"{self.faces_missing} without a face left as they are; {total:.1f} s, {self.frames / total:.0f} frames/s "
            f"in {self.precision}: {shares(self.seconds_by_phase)}"
        )


def shares(seconds: Mapping[str, float]) -> str:
    """ "decode 12 %, detect 40 %, ...", in the order given."""
    total = sum(seconds.values())
    return ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in seconds.items())
