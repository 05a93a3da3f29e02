"""The door of the library: a trained generator that makes any face say anything."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from synctalklip.checkpoint import CONFIG, WEIGHTS, CheckpointError
from synctalklip.cli import CONFIGS, build
from synctalklip.data.detectors import FaceDetector
from synctalklip.generator.fused import TalkingFace
from synctalklip.generator.model import load_generator
from synctalklip.inference.options import Job, Options, Report
from synctalklip.inference.speech import read_speech
from synctalklip.inference.synthesize import asks_who_speaks, synthesize
from synctalklip.progress import Meter, Progress
from synctalklip.syncnet.lse import AnySyncNet, load_syncnet

SHIPPED = CONFIGS.parent
"""The checkpoints that ship lie here, in `checkpoints/`."""
GENERATOR, SYNCNET = "checkpoints/generator_grid", "checkpoints/syncnet_grid"


class Synthesizer:
    """A generator, a face finder and a device, for as many videos as wanted.

    Args:
        model: the generator, in eval mode.
        detector: finds faces.
        checkpoint: where the model came from, for the statement beside each video.
        device: where the model lives.
        syncnet: checkpoint of the SyncNet that says who speaks (face="speaking"); read when it is needed.
    """

    def __init__(
        self,
        model: TalkingFace,
        detector: FaceDetector,
        checkpoint: str | Path | None = None,
        device: torch.device | str = "cpu",
        syncnet: str | Path = SYNCNET,
    ):
        self.model, self.detector, self.checkpoint, self.device = model, detector, checkpoint, device
        self.syncnet = syncnet

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = GENERATOR,
        *,
        hub: bool = False,
        device: torch.device | str | None = None,
        detector: FaceDetector | str = "dlib",
        syncnet: str | Path = SYNCNET,
    ) -> "Synthesizer":
        """Load a trained generator.

        Args:
            source: folder or file of a checkpoint; what ships is found from any working directory. With `hub`, a
                repository of the Hugging Face hub, "owner/name", with `model.safetensors` and `config.json`.
            hub: whether `source` is looked for on the hub. Without it nothing is downloaded.
            device: None takes the GPU where there is one.
            detector: a face finder, or the name of a file in `configs/detector`.
            syncnet: see `Synthesizer`.

        Raises:
            CheckpointError: no such checkpoint, damaged, or of another kind.
        """
        path = download(str(source)) if hub else shipped(source)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        finder: Any = detector
        if isinstance(detector, str):
            finder = build(OmegaConf.load(CONFIGS / "detector" / f"{detector}.yaml"))
        return cls(load_generator(path, device), finder, path, device, syncnet)

    def generate(
        self,
        video: str | Path,
        audio: str | Path | Sequence[Mapping[str, Any]],
        output: str | Path,
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Report:
        """Make the face in `video` say what is heard in `audio`.

        Args:
            video: a video in any container, or a picture.
            audio: anything with a sound track; or, where several faces speak, a list of mappings with face (see
                `Options.face`), audio and, where wanted, from and to, in seconds of the output.
            output: mp4 file; appears when it is complete. `<output>.json` beside it says where it comes from.
            progress: called with frames done, frames in all and seconds left.
            cancelled: asked before every frame; True stops the work and leaves no file.
            options: see `Options`; what is not given is as in `configs/generate.yaml`.

        Returns:
            Counts and times.

        Raises:
            Cancelled: `cancelled` said so.
            SyncTalklipError: a file that cannot be read, no face, or an option that does not exist.
        """
        job = Job(Path(video), read_speech(audio), Path(output), Options.default(**options))
        return self.make(job, progress, cancelled)

    def make(self, job: Job, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None) -> Report:
        """As `generate`, for a job of a list."""
        return synthesize(
            self.model,
            job.video,
            job.audio,
            job.output,
            job.options,
            self.detector,
            self.checkpoint,
            self.device,
            Meter(progress, cancelled),
            self.judge if asks_who_speaks(job.audio, job.options) else None,
        )

    @cached_property
    def judge(self) -> AnySyncNet:
        """The SyncNet that says who speaks; read when it is first asked for."""
        return load_syncnet(shipped(self.syncnet))[0]


def shipped(path: str | Path) -> Path:
    """`path` from the working directory or, where nothing lies there, from the folder of this project."""
    found = [Path(path), SHIPPED / path]
    return next((place for place in found if place.exists()), found[0])


def download(repository: str) -> Path:
    """A checkpoint of the Hugging Face hub, in its local cache.

    Raises:
        CheckpointError: there is no such repository, or no way to it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=[WEIGHTS, CONFIG]))
    # The hub's client, its HTTP library and the file system each report with types of their own.
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{repository}: cannot be had from the hub ({reason}); give owner/name, or a local folder without hub"
        ) from error
