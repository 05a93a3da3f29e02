"""Any video or picture and any speech in, a talking video out.

Two passes over the source: the first follows the faces and keeps landmarks only, the second paints. Memory
does not grow with the length of the video.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from synctalklip.data import media
from synctalklip.data.detectors import FaceDetector
from synctalklip.data.geometry import crop_face
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.fused import FusedGenerator, TalkingFace, paste_lower, speech_features_of
from synctalklip.inference.faces import FacePlan, FirstPass
from synctalklip.inference.options import Options, Report, make_statement, sidecar_of
from synctalklip.inference.speech import SPEAKING, Speech, Voice, choose_method, files_of, read_speech, read_voices
from synctalklip.inference.timeline import (
    SAMPLE_RATE,
    PlannedFrame,
    SourceReader,
    SpeechEmbeddings,
    frame_plan,
    output_frames,
)
from synctalklip.inference.writing import write
from synctalklip.progress import Meter, Stopwatch
from synctalklip.syncnet.lse import AnySyncNet


def synthesize(
    model: TalkingFace,
    video: str | Path,
    audio: Speech | str,
    output: str | Path,
    options: Options,
    detector: FaceDetector,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    meter: Meter | None = None,
    syncnet: AnySyncNet | None = None,
) -> Report:
    """Make the face in `video` say what is heard in `audio`.

    The painted region is the lower half of the face box; all else keeps the pixels of the source. The
    frame rate is the source's own, the sound is the speech. Beside the video, `<output>.json` states that
    it is generated, by which checkpoint and from which inputs; so does the comment in the video file.

    Args:
        model: the generator, in eval mode.
        video: a video in any container, or a picture.
        audio: anything with a sound track, or the parts of several faces.
        output: mp4 file; appears when it is complete.
        options: see `Options`.
        detector: finds faces.
        checkpoint: file of the model, for the statement.
        device: where the model lives.
        meter: told of every frame.
        syncnet: says who speaks, see `asks_who_speaks`.

    Returns:
        Counts and times.

    Raises:
        SyncTalklipError: a file that cannot be read, holds no sound or shows no face.
    """
    watch, meter = Stopwatch(), meter or Meter()
    speech = read_speech(audio)
    if Path(output).resolve() in {Path(video).resolve(), *(path.resolve() for path in files_of(speech))}:
        raise SyncTalklipError(f"{output}: is an input too and would be lost; name another output")
    media.assert_writable(output, options.codec)
    voices = read_voices(speech, options.face, options.audio_track, options.vad)
    shown = media.probe(video)
    if shown.frames == 1:
        # A picture has no length that could be played again or cut. GIF, AVIF and video of one frame do state a rate.
        options, shown = options.replace(longer="freeze"), replace(shown, fps=None)
    fps = media.as_rate(shown.fps or options.still_fps)
    samples = max(round(voice.stop * SAMPLE_RATE) for voice in voices)
    spoken = output_frames(samples, fps)
    meter.expect(min(spoken, shown.frames or spoken) + spoken)
    rules = list(dict.fromkeys(voice.face for voice in voices))
    found = FirstPass(video, shown, fps, detector, options, syncnet, watch, meter).find(rules, spoken)
    # Faces are found in square pixels and painted in those of the file.
    scale = np.tile(shown.stored_scale, 2).astype(np.float32)
    faces = {rule: replace(face, boxes=face.boxes * scale) for rule, face in found.faces.items()}
    tracked = watch.total()

    plan = list(frame_plan(found.total, spoken, fps, options.longer, options.shorter))
    source = SourceReader(video, fps, found.total, options.buffer_mb * 2**20, options.longer)
    painter = Painter(model, voices, faces, options, watch, device)
    statement = make_statement(video, speech, checkpoint, options)
    meter.expect(len(plan))
    frames = meter.watch(painter.paint(zip(plan, watch.watch(source.read(), "decode"))))
    size = write(
        output, frames, fps, speech, shown, len(plan) if options.longer == "cut" else None, options, statement, watch
    )

    report = Report(
        output=str(output),
        frames=len(plan),
        fps=float(fps),
        seconds=float(len(plan) / fps),
        size=size,
        shots=found.shots,
        video_track=shown.video_track,
        audio_track=media.probe(speech, options.audio_track).audio_track if isinstance(speech, Path) else None,
        painted=painter.painted,
        faces_missing=painter.missing,
        speech_seconds=samples / SAMPLE_RATE,
        vad=choose_method(options.vad),
        precision=painter.fused.precision.name,
        seconds_tracking=tracked,
        seconds_painting=watch.total() - tracked,
        seconds_by_phase=watch.seconds(),
    )
    sidecar = json.dumps({**statement, **asdict(report)}, indent=1) + "\n"
    media.write_bytes(sidecar_of(output), sidecar.encode())
    return report


def asks_who_speaks(speech: Speech, options: Options) -> bool:
    """Whether a job needs a SyncNet."""
    faces = [options.face] if isinstance(speech, Path) else [part.face for part in speech]
    return SPEAKING in faces


class Painter:
    """Second pass: paints every face that speaks.

    Args:
        model: the generator, in eval mode.
        voices: what is said.
        faces: by the rule of a voice.
        options: see `Options`.
        watch: told of every phase.
        device: where the model lives.

    Attributes:
        painted: frames so far in which a mouth was painted.
        missing: frames so far in which somebody speaks and does not show the face.
    """

    def __init__(
        self,
        model: TalkingFace,
        voices: Sequence[Voice],
        faces: Mapping[str | int, FacePlan],
        options: Options,
        watch: Stopwatch,
        device: torch.device | str = "cpu",
    ):
        self.voices, self.faces, self.options, self.watch = voices, faces, options, watch
        self.fused = FusedGenerator(model, options.precision, device)
        self.offset = Fraction(options.audio_offset_ms) / 1000
        settings = options.speech_chunk, options.speech_context, options.sampling, device, speech_features_of(model)
        self.speech = [SpeechEmbeddings(model.encode_speech, voice.wave, *settings) for voice in voices]
        self.painted = self.missing = 0

    def paint(self, frames: Iterable[tuple[PlannedFrame, media.Picture]]) -> Iterator[media.Picture]:
        """The frames of the output, in batches behind the scenes.

        Args:
            frames: each planned frame with its picture, which is painted.
        """
        for batch in _batches(frames, self.options.batch_size, self.options.buffer_mb * 2**20):
            planned = [each for each, _ in batch]
            painted, missing = set(), set()
            for voice, speech in zip(self.voices, self.speech):
                seen = self.faces[voice.face].painted
                speaks = [place for place, each in enumerate(planned) if voice.covers(each.time)]
                chosen = [place for place in speaks if seen[planned[place].source]]
                self._paint_voice(voice, speech, [batch[place] for place in chosen])
                painted.update(chosen)
                missing.update(set(speaks) - set(chosen))
            self.painted, self.missing = self.painted + len(painted), self.missing + len(missing)
            yield from (picture for _, picture in batch)

    def _paint_voice(
        self, voice: Voice, speech: SpeechEmbeddings, batch: Sequence[tuple[PlannedFrame, media.Picture]]
    ) -> None:
        """Paint the face of a voice where it speaks."""
        if not batch:
            return
        planned = [each for each, _ in batch]
        faces = self.faces[voice.face]
        boxes = [faces.boxes[each.source] for each in planned]
        identities = faces.identities[[faces.shot[each.source] for each in planned]]
        with self.watch.phase("crop"):
            regions = [picture.region(box) for (_, picture), box in zip(batch, boxes)]
            boxes = [box - np.tile(region.origin, 2) for region, box in zip(regions, boxes)]
            crops = np.stack([crop_face(region.pixels, box) for region, box in zip(regions, boxes)])
        with self.watch.phase("speech"):
            embeddings = speech([each.time - voice.start + self.offset for each in planned if each.time is not None])
        with self.watch.phase("network"):
            painted = self.fused(crops, identities, embeddings)
        with self.watch.phase("paste"):
            for region, box, lower in zip(regions, boxes, painted):
                region.put(paste_lower(region.pixels, box, lower, self.options.feather, self.options.shape))


def _batches(items: Iterable[tuple[PlannedFrame, media.Picture]], size: int, budget: int) -> Iterator[list]:
    """Groups of `size`, or fewer where the frames of a group would not fit into `budget` bytes."""
    batch: list[tuple[PlannedFrame, media.Picture]] = []
    for item in items:
        batch.append(item)
        if len(batch) >= min(size, budget // item[1].nbytes):
            yield batch
            batch = []
    if batch:
        yield batch
