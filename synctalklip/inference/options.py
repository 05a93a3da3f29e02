"""How a video is made, what is stated about its origin, and what is reported of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from synctalklip.checkpoint import file_hash
from synctalklip.cli import CONFIGS
from synctalklip.data.encode import CODECS
from synctalklip.device import PRECISIONS
from synctalklip.errors import SyncTalklipError
from synctalklip.inference.speech import METHODS, Speech, assert_face, state_speech

SILENT_OPTIONS = ("batch_size", "buffer_mb")
"""Options that leave the video as it is."""


@dataclass(frozen=True)
class Options:
    """How a video is made; the values that hold by default are in `configs/generate.yaml`.

    Attributes:
        face: which face of several speaks, chosen in each shot anew: "largest"; "speaking", the one whose lips move
            with the sound of the video; or its place from left to right, from 0, in the first frame that shows so many.
        longer: what a speech that is longer than the video is seen with: "bounce" plays it forwards and backwards,
            "loop" from the start again, "freeze" holds its last frame, "cut" ends both; a picture is always held.
        shorter: what follows a speech that is shorter than the video: "cut", or "keep" the rest as it is.
        vad: how pauses of the speech are found, in which the lips rest: "silero", "energy", "auto" for silero where its
            package is installed, or "none" to paint from any sound.
        audio_track: which of several sound tracks of the speech's file is spoken, from 0; None for the one marked as
            default, else the first.
        audio_offset_ms: the lips at time t say what the speech says at t + offset.
        identity: the frame that shows the mouth: "first" is the first of each shot with a face, "closed" the one
            of each shot whose lips are closest together; the index of a frame counts for its shot.
        sampling: speech at times between two embeddings: "linear" or "nearest".
        longest_gap: seconds without a detected face that are painted nevertheless.
        crop_rule: how face crops are cut, one of `geometry.CROP_RULES`.
        smoothing: seconds of the moving mean of the face box, as in preparation.
        shape: what of the painted half is shown: "face", without the corners beside the chin, or "box", all of it.
        feather: width of the soft edge inside the painted region, as a fraction of the box.
        still_fps: frames a second of a picture.
        batch_size: frames painted at once.
        speech_chunk: embeddings encoded at once (25 a second).
        speech_context: embeddings of context on both sides of a piece.
        buffer_mb: decoded frames that may be held to play a video backwards.
        quality: of the encoded video, the encoder's crf: lower is better, 0 is lossless with h264.
        codec: of the video, one of `data.encode.CODECS`.
        precision: of the network's arithmetic: "fp32", "bf16", or "auto" for bf16 where the device computes in it.
    """

    face: str | int
    longer: str
    shorter: str
    vad: str
    audio_track: int | None
    audio_offset_ms: float
    identity: str | int
    sampling: str
    longest_gap: float
    crop_rule: str
    smoothing: float
    shape: str
    feather: float
    still_fps: float
    batch_size: int
    speech_chunk: int
    speech_context: int
    buffer_mb: int
    quality: float
    codec: str
    precision: str

    def __post_init__(self) -> None:
        choices = {
            "longer": ("bounce", "loop", "freeze", "cut"),
            "shorter": ("cut", "keep"),
            "vad": METHODS,
            "sampling": ("linear", "nearest"),
            "precision": PRECISIONS,
            "shape": ("face", "box"),
            "codec": tuple(CODECS),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise SyncTalklipError(f"{name}={getattr(self, name)}: choose {' or '.join(allowed)}")
        numbers = [field.name for field in fields(self) if field.type in (int, float, "int", "float")]
        for name in numbers:
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise SyncTalklipError(f"{name}={getattr(self, name)}: must be a number")
        assert_face(self.face)
        if self.identity not in ("first", "closed") and type(self.identity) is not int:
            raise SyncTalklipError(
                f"identity={self.identity}: choose first, closed, or the index of a frame with a face"
            )
        if self.audio_track is not None and not (type(self.audio_track) is int and self.audio_track >= 0):
            raise SyncTalklipError(f"audio_track={self.audio_track}: choose 0, 1, ... or null for the default track")
        most = CODECS[self.codec].most
        if not 0 <= self.quality <= most:
            raise SyncTalklipError(f"quality={self.quality}: choose 0 (best) to {most}; 17 is visually lossless")
        for name in ("still_fps", "batch_size", "speech_chunk", "speech_context", "buffer_mb"):
            if getattr(self, name) <= 0:
                raise SyncTalklipError(f"{name}={getattr(self, name)}: must be above 0")

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changes: Any) -> "Options":
        """Pick the options out of a configuration that holds other keys too."""
        names = [field.name for field in fields(cls)]
        unknown = sorted(set(changes) - set(names))
        if unknown:
            raise SyncTalklipError(f"{', '.join(unknown)}: no such option; choose from {', '.join(names)}")
        return cls(**{name: changes.get(name, config[name]) for name in names})

    @classmethod
    def default(cls, **changes: Any) -> "Options":
        """The options of `configs/generate.yaml` with `changes`."""
        return cls.from_config(cast(DictConfig, OmegaConf.load(CONFIGS / "generate.yaml")), **changes)

    def replace(self, **changes: Any) -> "Options":
        """The same options with `changes`.

        Raises:
            SyncTalklipError: names an option that does not exist.
        """
        return Options.from_config(asdict(self), **changes)


@dataclass(frozen=True)
class Job:
    """One video to make."""

    video: Path
    audio: Speech
    output: Path
    options: Options


def make_statement(
    video: str | Path, audio: Speech | str, checkpoint: str | Path | None, options: Options
) -> dict[str, Any]:
    """What `<output>.json` and the video's comment say about the origin of a video."""
    return {
        "generated": True,
        "note": "The mouth in this video was generated by a program; the words were not spoken by this person.",
        "generator": "SyncTalklip",
        "checkpoint": checkpoint and Path(checkpoint).name,
        "checkpoint_sha256": checkpoint and file_hash(checkpoint),
        "video": Path(video).name,
        "video_sha256": file_hash(video),
        **state_speech(audio),
        "options": {name: value for name, value in asdict(options).items() if name not in SILENT_OPTIONS},
    }


def sidecar_of(output: str | Path) -> Path:
    """`<output>.json`."""
    return Path(f"{output}.json")


@dataclass(frozen=True)
class Report:
    """What was made.

    Attributes:
        output: the video.
        frames: its length.
        fps: its rate.
        seconds: its length.
        size: (width, height).
        shots: of each shot the second at which it starts and the faces that speak, see `faces.Found`.
        video_track: which of the video tracks of its file was shown, from 0.
        audio_track: which of the sound tracks of its file was spoken, from 0.
        painted: frames in which a mouth was painted.
        faces_missing: frames within the speech in which a face that speaks is not seen and stayed as it is.
        speech_seconds: length of the speech.
        vad: how its pauses were found, "silero", "energy" or "none".
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
    shots: list[dict[str, Any]]
    video_track: int | None
    audio_track: int | None
    painted: int
    faces_missing: int
    speech_seconds: float
    vad: str
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
