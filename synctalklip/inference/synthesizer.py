"""The door of the library: a trained generator that makes any face say anything, in one video or in a list of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from synctalklip.checkpoint import CONFIG, WEIGHTS, CheckpointError
from synctalklip.cli import CONFIGS, build
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.manifest import read_manifest
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.fused import TalkingFace
from synctalklip.generator.model import load_generator
from synctalklip.inference.options import Job, Options, Report, make_statement, sidecar_of
from synctalklip.inference.speech import read_speech
from synctalklip.inference.synthesize import asks_who_speaks, synthesize
from synctalklip.progress import Meter, Progress
from synctalklip.syncnet.lse import AnySyncNet, load_syncnet

JOB_KEYS = ("video", "audio", "output")
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


def read_jobs(path: str | Path, options: Options) -> list[Job]:
    """Read a list of jobs.

    Args:
        path: jsonl; each line holds video, audio, output (paths start at the list's folder) and, where a job
            differs from the rest, options by name. Audio is a file, or a list of the parts of several faces, each with
            face, audio and, where wanted, from and to.
        options: of all jobs.

    Raises:
        SyncTalklipError: no such file, a line that is no job, or two jobs with one output.
    """
    path = Path(path)
    if not path.is_file():
        raise SyncTalklipError(f"{path}: there is no such list of jobs")
    jobs: dict[Path, Job] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            video, audio, output = (entry.pop(key) for key in JOB_KEYS)
            video, output = path.parent / video, path.parent / output
            job = Job(video, read_speech(audio, path.parent), output, options.replace(**entry))
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise SyncTalklipError(
                f"{path}, line {number}: is no job ({error}); write an object with {', '.join(JOB_KEYS)}"
            ) from error
        except SyncTalklipError as error:
            raise SyncTalklipError(f"{path}, line {number}: {error}") from error
        if output in jobs:
            raise SyncTalklipError(f"{path}, line {number}: {output} is the output of an earlier line too")
        jobs[output] = job
    if not jobs:
        raise SyncTalklipError(f"{path}: holds no job; write one a line, with {', '.join(JOB_KEYS)}")
    return list(jobs.values())


def swap_jobs(prepared: str | Path, split: str, count: int, folder: str | Path, options: Options) -> list[Job]:
    """Faces of a corpus that say what others of it say.

    Args:
        prepared: folder of a prepared corpus; its raw videos are the inputs.
        split: of this split.
        count: so many jobs, the faces spread evenly over the split.
        folder: where the videos go.
        options: of all jobs.

    Raises:
        SyncTalklipError: the split holds less than two clips.
    """
    clips = read_manifest(Path(prepared) / "manifest.jsonl", split)
    if len(clips) < 2:
        raise SyncTalklipError(f"{prepared}: split {split} holds {len(clips)} clips; two are needed to swap speech")
    jobs = []
    for number in range(min(count, len(clips))):
        place = number * len(clips) // min(count, len(clips))
        face, speech = clips[place], clips[(place + len(clips) // 2) % len(clips)]
        name = f"{face.id}_says_{speech.id}.mp4".replace("/", "_")
        jobs.append(Job(Path(face.source), Path(speech.source), Path(folder) / name, options))
    return jobs


def is_done(job: Job, checkpoint: str | Path | None) -> bool:
    """Whether the output of `job` stands, made from these very inputs, options and checkpoint."""
    sidecar = sidecar_of(job.output)
    if not (job.output.is_file() and sidecar.is_file()):
        return False
    try:
        stated: dict[str, Any] = json.loads(sidecar.read_text())
    except ValueError:
        return False
    wanted = make_statement(job.video, job.audio, checkpoint, job.options)
    return all(stated.get(key) == value for key, value in wanted.items())


def run_jobs(
    jobs: Sequence[Job], checkpoint: str | Path | None, make: Callable[[Job], None], say: Callable[[str], None]
) -> None:
    """Make each job that is not done; one that fails does not stop the others.

    Raises:
        SyncTalklipError: after the last job, if some failed; their reasons were said.
    """
    failed = 0
    for number, job in enumerate(jobs, 1):
        title = f"[{number}/{len(jobs)}] {job.output}"
        try:
            if is_done(job, checkpoint):
                say(f"{title}: done before")
                continue
            make(job)
        except SyncTalklipError as error:
            failed += 1
            say(f"{title}: failed, {error}")
    if failed:
        raise SyncTalklipError(f"{failed} of {len(jobs)} jobs failed, see above; run the same command for these again")
