"""Any video and any speech in, a talking video out; with a toy model and a toy face finder."""

import json
import subprocess
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import skimage.data
import torch
from hydra.utils import instantiate
from media_factory import astronaut, flat_video, make_media, sound_file, squeezed, two_tracks
from omegaconf import OmegaConf

from synctalklip.avsyncnet.model import AVHubertConfig
from synctalklip.cli import CONFIGS
from synctalklip.data import media
from synctalklip.data.encode import DiskError, MediaError
from synctalklip.data.geometry import FaceError, geometry
from synctalklip.data.manifest import Clip, write_manifest
from synctalklip.errors import SyncTalklipError
from synctalklip.generator.model import TalkingFaceGenerator
from synctalklip.inference import synthesize as module
from synctalklip.inference.faces import FirstPass, identity_frame
from synctalklip.inference.options import Job, Options
from synctalklip.inference.synthesize import sidecar_of, synthesize
from synctalklip.inference.synthesizer import is_done, read_jobs, run_jobs, swap_jobs
from synctalklip.progress import Meter, Stopwatch

OPTIONS = Options.default()
NTSC = Fraction(60000, 1001)
SIZE = (161, 121)


class ToyModel:
    """Paints a frame white where the speech is loud and black where it is silent."""

    def encode_speech(self, audio, padding_mask):
        # In silence the 26 filters of each 10 ms are equal.
        filters = audio.reshape(1, 4, 26, -1)
        return (filters.std(2) > 1e-3).any(1).float()[:, :, None]

    def __call__(self, faces, speech):
        return speech[:, :1, None, None].expand(len(faces), 3, 96, 96)


class ToyFaces:
    """A face in the middle of every frame that is not dark."""

    every = 1

    finder = "toy"

    def detect(self, frame):
        height, width = frame.shape[:2]
        there = frame.mean() > 20
        return np.array([[width * 0.3, height * 0.2, width * 0.7, height * 0.9, 1.0]], np.float32)[: int(there)]

    def landmarks(self, frame, box):
        x1, y1, x2, _ = box
        points = np.full((68, 2), 0.5)
        points[[33, 36, 39, 42, 45]] = [(0.5, 0.55), (0.25, 0.35), (0.4, 0.35), (0.6, 0.35), (0.75, 0.35)]
        points[48:] = (0.5, 0.75)
        return (points * (x2 - x1) + (x1, y1)).astype(np.float32)


def picture(seed=0, size=SIZE):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 200, (8, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def make(tmp_path):
    """Run `synthesize` on made-up inputs; gives the report and the frames before they are encoded."""

    def make(frames, wave, fps=25, rate=16000, model=None, **options):
        video, audio, output = tmp_path / "video.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4"
        media.write_video(video, frames, fps, pixel_format="yuv444p")
        media.write_wav(audio, wave, rate)
        raw = []
        original = module.Painter.paint

        def recording(*arguments):
            for frame in original(*arguments):
                raw.append(frame.bgr())
                yield frame

        module.Painter.paint = recording
        try:
            chosen = Options.default(**options)
            report = synthesize(model or ToyModel(), video, audio, output, chosen, ToyFaces())
        finally:
            module.Painter.paint = original
        return report, raw

    make.folder = tmp_path
    return make


def test_public_weights_paint_the_boxes_that_s3fd_found(tmp_path):
    media.write_video(tmp_path / "v.mp4", [picture()] * 3, 25)

    def boxes_of(rule, detector):
        watch = Stopwatch()
        video, options = tmp_path / "v.mp4", Options.default(crop_rule=rule)
        first = FirstPass(video, media.probe(video), Fraction(25), detector, options, None, watch, Meter())
        return first.find(["largest"], 3).faces["largest"].boxes

    faces = ToyFaces()
    with pytest.raises(FaceError, match="needs the boxes of S3FD"):
        boxes_of("s3fd", faces)
    faces.finder = "s3fd"
    assert np.array_equal(boxes_of("s3fd", faces), np.tile(np.float32([47.5, 23.5, 112.5, 108.5]), (3, 1)))
    boxes = boxes_of("landmarks", faces)
    assert np.allclose(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])


def source_of(make, fps):
    return media.read_video(make.folder / "video.mp4", fps)


def silence(rows):
    return np.zeros(rows * 640, np.int16)


def click(rows, row):
    wave = silence(rows)
    wave[row * 640 + 320] = 20000
    return wave


def lips(frame):
    """Brightness of the middle of the painted half."""
    box = geometry(ToyFaces().landmarks(frame, ToyFaces().detect(frame)[0, :4])[None]).boxes[0]
    x, y = (box[0] + box[2]) / 2, box[1] + 0.75 * (box[3] - box[1])
    return float(frame[round(y), round(x)].mean())


def streams(path):
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        frames = sum(1 for _ in container.decode(video))
        return video.average_rate, frames, audio.codec.name, audio.sample_rate, dict(container.metadata)


@pytest.mark.parametrize("row", [0, 7, 19])
def test_a_click_moves_the_lips_of_its_very_frame(make, row):
    _, frames = make([picture()] * 20, click(20, row))
    white = [index for index, frame in enumerate(frames) if lips(frame) > 127]
    assert white == [row]


@pytest.mark.parametrize("fps", [30, 50, NTSC])
def test_other_rates_keep_the_time_of_the_click(make, fps):
    report, frames = make([picture()] * round(2 * fps), click(50, 20), fps, sampling="nearest")
    assert len(frames) == report.frames == round(2 * fps)
    white = [index for index, frame in enumerate(frames) if lips(frame) > 127]
    assert white == [index for index in range(len(frames)) if -1 <= (index / Fraction(fps) - Fraction(4, 5)) * 50 < 1]


def test_linear_sampling_blends(make):
    _, frames = make([picture()] * 50, click(25, 10), 50)
    assert [round(lips(frames[index])) for index in (18, 19, 20, 21, 22)] == [0, 128, 255, 128, 0]


def test_offset_reads_the_speech_later(make):
    _, frames = make([picture()] * 20, click(20, 10), audio_offset_ms=80)
    assert [index for index, frame in enumerate(frames) if lips(frame) > 127] == [8]


@pytest.mark.parametrize("fps", [25, 30, NTSC])
def test_output_has_the_rate_of_the_source_and_the_speech(make, fps):
    report, _ = make([picture()] * round(fps), np.zeros(44100, np.int16), fps, rate=44100)
    rate, frames, codec, sound, metadata = streams(make.folder / "out.mp4")
    assert (rate, frames, codec, sound) == (fps, round(fps), "aac", 44100)
    assert report.seconds == pytest.approx(1, abs=0.02)
    assert len(media.read_audio(make.folder / "out.mp4")) == pytest.approx(16000, abs=700)
    assert json.loads(metadata["comment"])["generated"] is True


@pytest.mark.parametrize("shape", ["face", "box"])
def test_only_the_lower_half_of_the_box_changes(make, shape):
    shown = [picture(seed) for seed in range(4)]
    _, frames = make(shown, silence(4), shape=shape)
    pictures = media.read_pictures(make.folder / "video.mp4", 25)
    for source, frame in zip([picture.bgr() for picture in pictures], frames):
        x1, y1, x2, y2 = geometry(ToyFaces().landmarks(source, ToyFaces().detect(source)[0, :4])[None]).boxes[0]
        changed = (frame != source).any(2)
        rows, columns = np.nonzero(changed)
        assert changed.any()
        # Colour is stored for 2 x 2 pixels and blended with its neighbours where it is shown.
        assert rows.min() >= (y1 + y2) / 2 - 3
        assert rows.max() <= y2 + 3
        assert columns.min() >= x1 - 3
        assert columns.max() <= x2 + 3
        # Black on grey: what lies beside the chin keeps its collar in the shape of a face only.
        side, half = x2 - x1, (y1 + y2) / 2
        beside = changed[
            round(y2 - 0.08 * side) : round(y2 - 0.03 * side), round(x1 + 0.05 * side) : round(x1 + 0.12 * side)
        ]
        assert beside.any() == (shape == "box")
        middle = frame[
            round(half + 0.1 * side) : round(half + 0.3 * side), round(x1 + 0.3 * side) : round(x2 - 0.3 * side)
        ]
        assert (middle <= 3).all()


def test_odd_size_is_kept_to_the_pixel_before_encoding(make):
    report, frames = make([picture()] * 3, silence(3))
    assert frames[0].shape == (SIZE[1], SIZE[0], 3)
    assert report.size == SIZE
    assert media.probe(make.folder / "out.mp4").width == SIZE[0] + 1


def fades(count):
    """Frames that are told apart by their brightness."""
    return [np.full((SIZE[1], SIZE[0], 3), 40 + 10 * index, np.uint8) for index in range(count)]


def test_long_speech_plays_the_video_back_and_forth(make):
    report, frames = make(fades(6), silence(20))
    levels = [frame[0, 0].mean() for frame in frames]
    assert report.frames == 20
    assert np.argsort(levels[:6]).tolist() == [0, 1, 2, 3, 4, 5]
    assert levels[5:11] == levels[:6][::-1]
    assert levels[10:20] == levels[:10]


@pytest.mark.parametrize(("tail", "frames", "painted"), [("cut", 4, 4), ("keep", 10, 4)])
def test_short_speech(make, tail, frames, painted):
    report, raw = make(fades(10), silence(4), shorter=tail)
    assert (report.frames, report.painted, report.faces_missing) == (frames, painted, 0)
    source = source_of(make, 25)
    for index in range(4, frames):
        np.testing.assert_array_equal(raw[index], source[index])
    assert streams(make.folder / "out.mp4")[1] == frames


def test_frames_without_a_face_stay_as_they_are(make):
    dark = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    shown = [picture()] * 5 + [dark] * 3 + [picture()] * 5 + [dark] * 12 + [picture()] * 5
    loud = np.random.default_rng(0).integers(-3000, 3000, 30 * 640).astype(np.int16)
    report, frames = make(shown, loud, longest_gap=0.2)
    assert (report.painted, report.faces_missing) == (18, 12)
    source = source_of(make, 25)
    same = [np.array_equal(frame, original) for frame, original in zip(frames, source)]
    assert same == [False] * 13 + [True] * 12 + [False] * 5
    assert json.loads(sidecar_of(report.output).read_text())["faces_missing"] == 12


def test_stereo_speech_in_a_video_container(make):
    with av.open(str(make.folder / "speech.mkv"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2 * 44100), np.int16), "s16", "stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    make(fades(3), silence(1))
    output = make.folder / "stereo.mp4"
    report = synthesize(ToyModel(), make.folder / "video.mp4", make.folder / "speech.mkv", output, OPTIONS, ToyFaces())
    assert report.speech_seconds == pytest.approx(1, abs=0.06)
    assert streams(output)[3] == 44100


def test_bad_inputs_are_named_and_leave_no_file(make):
    make(fades(3), silence(1))
    video, audio = make.folder / "video.mp4", make.folder / "speech.wav"
    dark, output = make.folder / "dark.mp4", make.folder / "new.mp4"
    media.write_video(dark, [np.zeros((64, 64, 3), np.uint8)] * 5)
    for wrong_video, wrong_audio, reason in [
        (video, video, "no audio track"),
        (dark, audio, r"dark\.mp4: no face was found"),
        (make.folder / "gone.mp4", audio, "no such file"),
        (audio, audio, "no video track"),
        (output, audio, "is an input too"),
        (video, output, "is an input too"),
    ]:
        with pytest.raises(SyncTalklipError, match=reason):
            synthesize(ToyModel(), wrong_video, wrong_audio, output, OPTIONS, ToyFaces())
        assert not output.exists()
        assert not sidecar_of(output).exists()


def test_kind_of_the_output_is_checked_before_the_work(make):
    make(fades(3), silence(1))
    finder = ToyFaces()
    finder.detect = None
    with pytest.raises(SyncTalklipError, match=r"new\.webm: '\.webm' is no kind of video file"):
        synthesize(
            ToyModel(), make.folder / "video.mp4", make.folder / "speech.wav", make.folder / "new.webm", OPTIONS, finder
        )


def test_identity_rules():
    landmarks = np.zeros((4, 68, 2), np.float32)
    landmarks[:, 45] = (10, 0)
    landmarks[:, 65:68, 1] = np.array([5, 3, 1, 2])[:, None]
    painted = np.array([False, True, True, True])
    assert identity_frame("first", landmarks, painted) == 1
    assert identity_frame("closed", landmarks, painted) == 2


def test_identity_by_index_must_show_a_face(make):
    dark = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    make([dark, *fades(3)], silence(4), identity=2)
    with pytest.raises(SyncTalklipError, match=r"identity=0: .* \(0 to 3\)"):
        make([dark, *fades(3)], silence(4), identity=0)


@pytest.mark.parametrize(
    "change",
    [
        {"longer": "twice"},
        {"shorter": "loop"},
        {"vad": "ear"},
        {"identity": "best"},
        {"sampling": "cubic"},
        {"batch_size": 0},
        {"batch_size": "x"},
        {"quality": 60},
        {"tial": "cut"},
        {"audio_track": -1},
        {"audio_track": "en"},
        {"shape": "round"},
        {"face": "left"},
        {"face": -1},
        {"face": True},
        {"precision": "fp16"},
    ],
)
def test_wrong_options_are_named(change):
    with pytest.raises(SyncTalklipError, match=next(iter(change))):
        Options.default(**change)


def tiny_generator():
    torch.manual_seed(0)
    config = AVHubertConfig(
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        resnet_width=4,
        conv_pos=8,
        conv_pos_groups=2,
    )
    return TalkingFaceGenerator(
        config, width=0.1, least_channels=4, residuals="few", output="paint", speech="bottleneck", roi_mode="landmark"
    ).eval()


def test_photograph_with_the_real_model_and_finder(tmp_path):
    photograph, audio, output = tmp_path / "astronaut.png", tmp_path / "speech.wav", tmp_path / "out.mp4"
    cv2.imwrite(str(photograph), skimage.data.astronaut()[:, :, ::-1])
    media.write_wav(audio, np.random.default_rng(0).integers(-3000, 3000, 16000).astype(np.int16))
    detector = instantiate(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))
    report = synthesize(tiny_generator(), photograph, audio, output, OPTIONS, detector)
    assert (report.frames, report.painted, report.fps, report.size) == (25, 25, 25.0, (512, 512))
    frames = media.read_video(output, None).astype(float)
    away = np.abs(frames - skimage.data.astronaut()[:, :, ::-1]).mean(3)
    assert away[:, 300:].mean() < 5
    assert away[:, 110:190, 190:260].mean() > 10


def test_a_picture_is_one_in_any_container(make):
    report, frames = make([picture()], silence(10), fps=1)
    assert (report.frames, report.fps, report.painted) == (10, 25, 10)
    assert len(frames) == 10


def test_a_picture_without_a_face_is_refused_in_its_own_words(make):
    with pytest.raises(FaceError, match="no face was found in the only frame; a face must be seen from the front"):
        make([np.zeros((120, 160, 3), np.uint8)], silence(3))


class TwoFaces(ToyFaces):
    """A face in each half of the frame whose pixels are not dark; the right one is larger."""

    def detect(self, frame):
        height, width = frame.shape[:2]
        left = [width * 0.05, height * 0.2, width * 0.3, height * 0.7, 1.0]
        right = [width * 0.55, height * 0.2, width * 0.95, height * 0.95, 1.0]
        halves = frame[:, : width // 2], frame[:, width // 2 :]
        boxes = [box for box, half in zip((left, right), halves) if half.mean() > 20]
        return np.array(boxes, np.float32).reshape(-1, 5)


@pytest.mark.parametrize(("face", "side"), [("largest", 1), (0, 0), (1, 1)])
def test_one_of_two_faces_speaks(tmp_path, face, side):
    video, audio = tmp_path / "two.mp4", tmp_path / "speech.wav"
    shown = [picture(size=(320, 120)) for _ in range(12)]
    for frame in shown[5:8]:
        frame[:, 160 * side : 160 * (side + 1)] = 0
    media.write_video(video, shown, pixel_format="yuv444p", crf=0)
    media.write_wav(audio, silence(12))
    chosen = OPTIONS.replace(face=face, longest_gap=0.0, quality=0)
    report = synthesize(ToyModel(), video, audio, tmp_path / "out.mp4", chosen, TwoFaces())
    assert (report.painted, report.faces_missing) == (9, 3)
    source, made = media.read_video(video, None).astype(int), media.read_video(tmp_path / "out.mp4", None)
    changed = np.abs(made - source).reshape(12, 120, 2, 160, 3).max((1, 3, 4)) > 60
    assert changed[:, side].tolist() == [True] * 5 + [False] * 3 + [True] * 4
    assert not changed[:, 1 - side].any()


def test_too_few_faces_are_counted(tmp_path):
    media.write_video(tmp_path / "two.mp4", [picture(size=(320, 120))] * 3)
    media.write_wav(tmp_path / "speech.wav", silence(3))
    options, inputs = OPTIONS.replace(face=2), (tmp_path / "two.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4")
    with pytest.raises(FaceError, match=r"two\.mp4: face=2, .* shows 2; .* choose 0 to 1"):
        synthesize(ToyModel(), *inputs, options, TwoFaces())


@pytest.mark.parametrize(("chosen", "track", "hertz"), [(None, 1, 1000), (0, 0, 300)])
def test_the_default_sound_track_is_spoken_or_the_chosen_one(tmp_path, chosen, track, hertz):
    media.write_video(tmp_path / "video.mp4", [picture()] * 5)
    speech, output = two_tracks(tmp_path / "speech.mkv", default=1), tmp_path / "out.mp4"
    options = OPTIONS.replace(audio_track=chosen)
    report = synthesize(ToyModel(), tmp_path / "video.mp4", speech, output, options, ToyFaces())
    heard = media.read_audio(output, 16000).astype(float)
    assert np.argmax(np.abs(np.fft.rfft(heard))) / len(heard) * 16000 == pytest.approx(hertz, abs=20)
    said = json.loads(sidecar_of(report.output).read_text())
    assert (said["audio_track"], said["video_track"]) == (track, 0)


@pytest.mark.parametrize(
    ("layout", "rate", "written"),
    [
        ("mono", 16000, ("mono", 16000)),
        ("stereo", 44100, ("stereo", 44100)),
        ("5.1(side)", 48000, ("5.1", 48000)),
        ("stereo", 96000, ("stereo", 96000)),
        ("stereo", 37800, ("stereo", 48000)),
    ],
)
def test_the_speech_keeps_its_channels_and_rate(tmp_path, layout, rate, written):
    media.write_video(tmp_path / "video.mp4", [picture()] * 5)
    channels = av.AudioLayout(layout).nb_channels
    time = np.arange(rate // 5)[:, None] / rate
    sides = 8000 * np.sin(2 * np.pi * 400 * time * np.arange(1, channels + 1))
    speech = sound_file(tmp_path / "speech.mkv", sides, rate, layout)
    report = synthesize(ToyModel(), tmp_path / "video.mp4", speech, tmp_path / "out.mp4", OPTIONS, ToyFaces())
    heard = media.read_sound(report.output)
    assert (heard.layout, heard.rate) == written
    spectrum = np.abs(np.fft.rfft(heard.samples[: heard.rate // 5].astype(float), axis=0))
    pitches = [400 * number for number in range(1, channels + 1)]
    for channel in set(range(channels)) - {3}:  # the fourth is the low one, from which AAC takes what is high
        assert np.argmax(spectrum[:, channel]) * 5 == pitches[channel]


def test_pixels_that_are_not_square_are_shown_as_they_were(tmp_path):
    aspect = Fraction(2)
    shown = np.ascontiguousarray(astronaut()[:320])
    video = make_media(tmp_path / "video.mp4", [squeezed(shown, aspect)] * 2, aspect=aspect)
    media.write_wav(tmp_path / "speech.wav", click(2, 0))
    finder = instantiate(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))
    options = OPTIONS.replace(quality=4)
    report = synthesize(ToyModel(), video, tmp_path / "speech.wav", tmp_path / "out.mp4", options, finder)
    assert report.painted == 2
    before, after = media.probe(video), media.probe(report.output)
    assert (after.pixel_aspect, after.width, after.height) == (aspect, before.width, before.height)
    made = media.read_video(report.output)[0].astype(int)
    rows, columns = np.nonzero(np.abs(made - media.read_video(video)[0]).max(2) > 60)
    # The mouth of the face in square pixels lies here.
    assert abs(columns.mean() - 222) < 12
    assert abs(rows.mean() - 150) < 20
    assert np.ptp(columns) < 110


@pytest.mark.parametrize(("size", "matrix", "red"), [((1280, 720), 1, (63, 102, 240)), ((704, 576), 6, (81, 90, 240))])
def test_what_is_not_painted_keeps_its_colour(tmp_path, size, matrix, red):
    bars = [red, (120, 100, 150), (200, 120, 130), (90, 150, 100)]
    video = flat_video(tmp_path / "video.mp4", bars, size, None)
    media.write_wav(tmp_path / "speech.wav", silence(2))
    options = OPTIONS.replace(quality=0)
    report = synthesize(ToyModel(), video, tmp_path / "speech.wav", tmp_path / "out.mp4", options, ToyFaces())
    stored = []
    for path in (video, report.output):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            stored.append(frame.to_ndarray())
    assert frame.colorspace == matrix
    upper = slice(size[1] // 5)
    assert np.array_equal(stored[0][upper], stored[1][upper])
    before, after = media.read_video(video)[0], media.read_video(report.output)[0]
    # Edges of a bar, too.
    assert np.array_equal(before[upper][:-4], after[upper][:-4])


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "aac"), ("mp3", "libmp3lame"), ("mkv", "ac3")])
def test_sound_that_mp4_can_hold_is_copied(tmp_path, suffix, codec):
    time = np.arange(44100) / 44100
    sides = np.stack([8000 * np.sin(2 * np.pi * (300 + 700 * time) * time), 6000 * np.sin(900 * time)], 1)
    speech = sound_file(tmp_path / f"speech.{suffix}", sides, 44100, "stereo", codec)
    media.write_video(tmp_path / "video.mp4", [picture()] * 5)
    report = synthesize(ToyModel(), tmp_path / "video.mp4", speech, tmp_path / "out.mp4", OPTIONS, ToyFaces())
    packets = []
    for path in (speech, report.output):
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            packets.append([bytes(packet)[-100:] for packet in container.demux(stream) if packet.size])
    assert packets[0] == packets[1]
    before, after = media.read_sound(speech).samples, media.read_sound(report.output).samples
    length = min(len(before), len(after))
    assert length > 43000
    shifts = [np.abs(before[3000:40000].astype(int) - after[3000 + by : 40000 + by]).mean() for by in range(-50, 51)]
    assert abs(int(np.argmin(shifts)) - 50) <= 44  # 1 ms: Matroska's clock
    assert min(shifts) < 2


def test_time_is_told_by_phase(make):
    report, _ = make(fades(6), silence(6))
    phases = report.seconds_by_phase
    names = ["decode", "detect", "landmarks", "crop", "speech", "network", "paste", "encode", "other"]
    assert list(phases) == names
    assert all(value > 0 for value in phases.values())
    assert sum(phases.values()) == pytest.approx(report.seconds_tracking + report.seconds_painting, rel=0.05)
    assert json.loads(sidecar_of(report.output).read_text())["seconds_by_phase"] == phases
    said = report.sentence()
    assert all(f"{name} " in said for name in names)


MEMORY = """
import resource, sys
import numpy as np
sys.path[:0] = {tests!r}
from test_synthesize import OPTIONS, ToyFaces, ToyModel
from synctalklip.data import media
from synctalklip.inference.synthesize import synthesize
folder, seconds = {folder!r}, int(sys.argv[1])
video, audio = folder + "/video.mp4", folder + "/speech.wav"
still = np.full((240, 320, 3), 90, np.uint8)
media.write_video(video, (still for _ in range(seconds * 25 // 2)), 25)
media.write_wav(audio, np.zeros(seconds * 16000, np.int16))
options = OPTIONS.replace(buffer_mb=4)
report = synthesize(ToyModel(), video, audio, folder + "/out.mp4", options, ToyFaces())
assert report.frames == seconds * 25
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_length(tmp_path):
    from pathlib import Path

    script = tmp_path / "measure.py"
    script.write_text(
        MEMORY.format(tests=[str(Path(__file__).parents[0]), str(Path(__file__).parents[1])], folder=str(tmp_path))
    )
    peaks = [
        int(subprocess.run([sys.executable, script, str(seconds)], check=True, capture_output=True).stdout)
        for seconds in (4, 16)
    ]
    # The 300 frames more would take 66 MiB decoded.
    assert peaks[1] - peaks[0] < 25, peaks


def test_jobs(make, tmp_path):
    make(fades(3), silence(2))
    lines = [
        {"video": "video.mp4", "audio": "speech.wav", "output": "a.mp4"},
        {"video": "gone.mp4", "audio": "speech.wav", "output": "b.mp4"},
        {"video": "video.mp4", "audio": "speech.wav", "output": "c.mp4", "shorter": "keep"},
    ]
    listed = tmp_path / "jobs.jsonl"
    listed.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    jobs = read_jobs(listed, OPTIONS)
    assert [job.options.shorter for job in jobs] == ["cut", "cut", "keep"]
    made, said = [], []

    def run(job):
        synthesize(ToyModel(), job.video, job.audio, job.output, job.options, ToyFaces())
        made.append(job.output.name)

    with pytest.raises(SyncTalklipError, match="1 of 3 jobs failed"):
        run_jobs(jobs, None, run, said.append)
    with pytest.raises(SyncTalklipError, match="1 of 3 jobs failed"):
        run_jobs(jobs, None, run, said.append)
    assert made == ["a.mp4", "c.mp4"]
    assert sum("done before" in line for line in said) == 2
    assert any(r"gone.mp4: there is no such file" in line for line in said)
    other = Job(jobs[0].video, jobs[0].audio, jobs[0].output, OPTIONS.replace(audio_offset_ms=40))
    assert not is_done(other, None)


@pytest.mark.parametrize("line", ["{", "[]", '{"video": "a"}', '{"video": 1, "audio": "b", "output": "c"}'])
def test_a_bad_line_of_jobs_is_named(tmp_path, line):
    listed = tmp_path / "jobs.jsonl"
    listed.write_text('{"video": "a", "audio": "b", "output": "c"}\n' + line)
    with pytest.raises(SyncTalklipError, match=r"jobs\.jsonl, line 2: is no job"):
        read_jobs(listed, OPTIONS)


def test_jobs_must_not_share_an_output(tmp_path):
    listed = tmp_path / "jobs.jsonl"
    listed.write_text('{"video": "a", "audio": "b", "output": "c"}\n' * 2)
    with pytest.raises(SyncTalklipError, match="earlier line"):
        read_jobs(listed, OPTIONS)


def test_swapped_speech(tmp_path):
    clips = [Clip(f"s1/{name}", "test", 3, 1920, source=f"raw/{name}.mp4", root=tmp_path) for name in "abcd"]
    for clip in clips:
        for file in (clip.faces, clip.rois, clip.wav, clip.track):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    write_manifest(tmp_path / "manifest.jsonl", clips)
    jobs = swap_jobs(tmp_path, "test", 2, tmp_path / "out", OPTIONS)
    assert [(job.video.name, job.audio.name, job.output.name) for job in jobs] == [
        ("a.mp4", "c.mp4", "s1_a_says_s1_c.mp4"),
        ("c.mp4", "a.mp4", "s1_c_says_s1_a.mp4"),
    ]
    write_manifest(tmp_path / "manifest.jsonl", clips[:1])
    with pytest.raises(SyncTalklipError, match="holds 1 clips"):
        swap_jobs(tmp_path, "test", 2, tmp_path / "out", OPTIONS)


def test_no_face_error_is_a_face_error(make):
    with pytest.raises(FaceError):
        make([np.zeros((64, 64, 3), np.uint8)] * 3, silence(3))


@pytest.mark.parametrize(("codec", "tag"), [("h264", "avc1"), ("hevc", "hvc1"), ("av1", "av01")])
def test_any_codec_is_visually_lossless_by_default(make, codec, tag):
    shown = [picture(seed, (320, 240)) for seed in range(8)]
    _, frames = make(shown, silence(8), codec=codec)
    with av.open(str(make.folder / "out.mp4")) as container:
        track = container.streams.video[0]
        assert (track.codec.canonical_name, track.codec_tag) == (codec, tag)
        made = [frame.to_ndarray(format="bgr24") for frame in container.decode(track)]
    assert len(made) == len(frames) == 8
    error = np.mean((np.array(made, float) - np.array(frames)) ** 2)
    assert 10 * np.log10(255**2 / error) > 38


def test_quality_is_a_choice(make):
    sizes = []
    for quality in (0, 18, 40):
        make([picture(seed) for seed in range(8)], silence(8), quality=quality)
        sizes.append((make.folder / "out.mp4").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1] > 3 * sizes[2]


def test_a_folder_that_takes_no_files_is_named_before_the_work(make):
    media.write_video(make.folder / "v.mp4", [picture()] * 2)
    media.write_wav(make.folder / "s.wav", silence(2))
    inputs = make.folder / "v.mp4", make.folder / "s.wav", make.folder / "s.wav" / "made" / "out.mp4"
    with pytest.raises(DiskError, match=r"s\.wav is no folder that takes files; choose another folder"):
        synthesize(None, *inputs, OPTIONS, None)


def test_a_container_that_cannot_hold_the_codec_is_named(make):
    media.write_video(make.folder / "v.mp4", [picture()] * 2)
    media.write_wav(make.folder / "s.wav", silence(2))
    inputs = make.folder / "v.mp4", make.folder / "s.wav", make.folder / "out.avi"
    with pytest.raises(MediaError, match=r"out\.avi: \.avi files hold no hevc; end it in \.mp4 or \.mkv"):
        synthesize(ToyModel(), *inputs, OPTIONS.replace(codec="hevc"), ToyFaces())
