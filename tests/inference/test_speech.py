"""Who speaks, when, and where the lips rest; with a toy model and toy faces."""

import json

import numpy as np
import pytest
import torch
from test_synthesize import OPTIONS, SIZE, ToyFaces, ToyModel, TwoFaces, fades, lips, make, picture, silence

from synctalklip.data import media
from synctalklip.data.features import SYNC_FRAMES
from synctalklip.errors import SyncTalklipError
from synctalklip.inference import speech as resting
from synctalklip.inference.faces import sound_of_shot, ticks, who_speaks
from synctalklip.inference.speech import Part, read_speech, read_voices, rest
from synctalklip.inference.synthesize import sidecar_of, synthesize
from synctalklip.inference.synthesizer import is_done, read_jobs
from synctalklip.inference.timeline import output_frames

__all__ = ["make"]
TWO = (320, 120)


def noise(rows, level, seed=0):
    return (np.random.default_rng(seed).standard_normal(rows * 640) * level).astype(np.int16)


def bursts(rows, seed=0):
    """A sound that is loud in some rows and soft in the others, and which they are."""
    loud = np.random.default_rng(seed).random(rows) < 0.5
    return (noise(rows, 1).astype(float) + noise(rows, 1000, 1) * np.repeat(loud, 640)).astype(np.int16), loud


class Brightness:
    """A SyncNet whose lips are as open as the face is bright, and whose sound is as open as it is loud."""

    ends = "overlap"

    def windows(self, frames, samples):
        return frames - SYNC_FRAMES + 1

    def embed_clip(self, faces, mfcc):
        bright = np.asarray(faces, float).mean((1, 2, 3))
        energy = np.asarray(mfcc)[: 4 * len(faces), 0]
        energy = np.pad(energy, (0, 4 * len(faces) - len(energy)), mode="edge").reshape(-1, 4).max(1)
        return self._windows(bright), self._windows(energy)

    def _windows(self, values):
        values = (values - values.mean()) / (values.std() + 1e-9)
        return torch.tensor(np.lib.stride_tricks.sliding_window_view(values, SYNC_FRAMES).copy(), dtype=torch.float32)


def talking(background, loud, side):
    """Frames of two faces, of which the one on a side opens its mouth where the sound is loud and the other at will."""
    rng = np.random.default_rng(side + 5)
    for row in loud:
        frame = background.copy()
        for number, (x1, y1, x2, y2) in enumerate([(30, 50, 80, 84), (200, 50, 290, 110)]):
            opened = row if number == side else rng.random() < 0.5
            frame[y1:y2, x1:x2] = 115 + 10 * opened
        yield frame


def changed_sides(folder):
    """Of each frame, whether its left and its right half were painted."""
    source, made = (media.read_video(folder / name, None).astype(int) for name in ("video.mp4", "out.mp4"))
    length = min(len(source), len(made))
    change = np.abs(made[:length] - source[:length]).reshape(length, TWO[1], 2, TWO[0] // 2, 3)
    return change.max((1, 3, 4)) > 60


def test_the_face_whose_lips_fit_the_sound_speaks_in_each_shot(tmp_path):
    sound, loud = bursts(70)
    first, second = picture(0, TWO), picture(3, TWO)
    shown = [*talking(first, loud[:35], 0), *talking(second, loud[35:], 1)]
    media.write_video(tmp_path / "video.mp4", shown, wave=sound, pixel_format="yuv444p", crf=0)
    media.write_wav(tmp_path / "speech.wav", silence(70))
    inputs = (tmp_path / "video.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4")
    options = OPTIONS.replace(face="speaking", quality=0)
    report = synthesize(ToyModel(), *inputs, options, TwoFaces(), syncnet=Brightness())
    assert report.shots == [{"start": 0.0, "faces": [0]}, {"start": 1.4, "faces": [1]}]
    assert changed_sides(tmp_path).tolist() == [[True, False]] * 35 + [[False, True]] * 35
    assert json.loads(sidecar_of(inputs[2]).read_text())["shots"] == report.shots


def test_a_silent_or_short_shot_is_given_to_the_largest_face():
    faces, sizes = {0: np.zeros((40, 96, 96, 3), np.uint8), 1: np.zeros((40, 96, 96, 3), np.uint8)}, {0: 10.0, 1: 20.0}
    assert who_speaks(None, faces, silence(40), sizes) == 1
    assert who_speaks(None, {key: each[:9] for key, each in faces.items()}, noise(9, 1000), sizes) == 1


def test_sound_and_frames_of_a_shot_are_of_one_time():
    assert ticks(10, 50) == [0, 2, 4, 6, 8]
    assert ticks(4, 12.5) == [0, 0, 1, 2, 2, 2, 3, 3]
    assert len(ticks(10_000, 25)) == 750
    wave = np.arange(16_000).astype(np.int16)
    assert sound_of_shot(wave, 5, 2, 25).tolist() == wave[3200:4480].tolist()
    assert sound_of_shot(wave, 24, 2, 25)[640:].tolist() == [0] * 640


def test_a_video_without_sound_cannot_say_who_speaks(tmp_path):
    media.write_video(tmp_path / "video.mp4", [picture(0, TWO)] * 12)
    media.write_wav(tmp_path / "speech.wav", silence(12))
    inputs = (tmp_path / "video.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4")
    with pytest.raises(SyncTalklipError, match=r"video\.mp4: has no audio track"):
        synthesize(ToyModel(), *inputs, OPTIONS.replace(face="speaking"), TwoFaces(), syncnet=Brightness())


def test_several_faces_speak_their_own_sound_at_their_own_time(tmp_path):
    media.write_video(tmp_path / "video.mp4", [picture(0, TWO)] * 30, pixel_format="yuv444p", crf=0)
    media.write_wav(tmp_path / "left.wav", noise(20, 3000))
    media.write_wav(tmp_path / "right.wav", noise(5, 3000, 1))
    listed = [
        {"face": 0, "audio": "left.wav", "to": 0.4},
        {"face": 1, "audio": "right.wav", "from": 0.6, "to": 1.0},
    ]
    line = {"video": "video.mp4", "audio": listed, "output": "out.mp4", "quality": 0, "shorter": "keep"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    (job,) = read_jobs(tmp_path / "jobs.jsonl", OPTIONS)
    report = synthesize(ToyModel(), job.video, job.audio, job.output, job.options, TwoFaces())
    assert (report.frames, report.painted, report.faces_missing) == (30, 20, 0)
    still = [[False, False]]
    assert changed_sides(tmp_path).tolist() == [[True, False]] * 10 + still * 5 + [[False, True]] * 10 + still * 5
    # The right lips rest when their sound has ended.
    made, source = media.read_video(job.output, None).astype(int), media.read_video(job.video, None)
    lighter = [(made[index] - source[index])[:, TWO[0] // 2 :].sum() > 0 for index in (15, 19, 21, 24)]
    assert lighter == [True, True, False, False]
    heard = np.abs(media.read_audio(job.output).astype(int)).reshape(-1)[: 25 * 640].reshape(25, 640).max(1) > 1000
    assert heard.tolist() == [True] * 10 + [False] * 5 + [True] * 5 + [False] * 5
    assert is_done(job, None)
    stated = json.loads(sidecar_of(job.output).read_text())["audio"]
    assert [(part["face"], part["audio"], part["from"], part["to"]) for part in stated] == [
        (0, "left.wav", 0.0, 0.4),
        (1, "right.wav", 0.6, 1.0),
    ]


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        ([], "give a file, or a list"),
        (3, "give a file, or a list"),
        ([{"face": 0}], "is no part"),
        ([{"face": 0, "audio": "a.wav", "till": 3}], "is no part"),
        ([{"face": "left", "audio": "a.wav"}], "face=left: choose largest, speaking"),
        ([{"face": 0, "audio": "a.wav", "from": 2, "to": 1}], "0 <= from < to"),
        ([{"face": 0, "audio": "a.wav", "from": -1}], "0 <= from < to"),
        ([{"face": 0, "audio": "a.wav", "from": "x"}], "0 <= from < to"),
    ],
)
def test_wrong_parts_are_named(audio, reason):
    with pytest.raises(SyncTalklipError, match=reason):
        read_speech(audio)


def test_the_sound_of_a_part_may_not_be_the_output(tmp_path):
    parts = (Part(0, tmp_path / "out.mp4"),)
    with pytest.raises(SyncTalklipError, match="is an input too"):
        synthesize(ToyModel(), tmp_path / "video.mp4", parts, tmp_path / "out.mp4", OPTIONS, ToyFaces())


def with_pauses():
    """Loud for 10 rows, a room's noise for 20, loud for 5, a plosive's closure of 3, loud for 5."""
    wave = noise(43, 3000)
    for first, last in ((10, 30), (35, 38)):
        wave[first * 640 : last * 640] = noise(last - first, 10)
    return wave


def test_lips_rest_in_a_pause_and_move_through_a_closure(make):
    wave = with_pauses()
    open_lips = {
        vad: [lips(frame) > 127 for frame in make([picture()] * 43, wave, vad=vad)[1]] for vad in ("energy", "none")
    }
    assert open_lips["none"] == [True] * 43
    # A tenth of a second beside the speech is kept.
    assert open_lips["energy"] == [True] * 13 + [False] * 14 + [True] * 16
    # What is heard stays as it is.
    assert media.read_audio(make.folder / "out.mp4")[15 * 640 : 25 * 640].any()


def test_rest_leaves_speech_alone_and_silences_silence():
    wave = with_pauses()
    quiet = rest(wave, "energy")
    assert not quiet[int(12.5 * 640) : int(27.5 * 640)].any()
    assert (quiet[: int(12.5 * 640)] == wave[: int(12.5 * 640)]).all()
    assert (quiet[int(27.5 * 640) :] == wave[int(27.5 * 640) :]).all()
    assert not rest(silence(3), "energy").any()
    assert rest(wave, "none") is wave


def test_silero_is_used_where_it_is_installed(monkeypatch):
    wave = with_pauses()
    monkeypatch.setattr(resting.importlib.util, "find_spec", lambda name: None)
    assert resting.choose_method("auto") == "energy"
    with pytest.raises(SyncTalklipError, match="vad=silero: the package is not installed"):
        rest(wave, "silero")
    monkeypatch.setattr(resting.importlib.util, "find_spec", lambda name: name == "silero_vad")
    monkeypatch.setattr(resting, "_silero", lambda wave: [(0, 6400), (19200, len(wave))])
    assert np.array_equal(rest(wave), rest(wave, "energy"))


@pytest.mark.parametrize(
    ("longer", "levels"), [("loop", [0, 1, 2, 0, 1, 2, 0]), ("freeze", [0, 1, 2, 2, 2, 2, 2]), ("cut", [0, 1, 2])]
)
def test_long_speech(make, longer, levels):
    report, frames = make(fades(3), silence(7), longer=longer)
    assert report.frames == len(levels)
    shown = [frame[0, 0].mean() for frame in frames]
    assert [shown[:3].index(level) for level in shown] == levels
    seconds = len(media.read_audio(make.folder / "out.mp4")) / 16000
    assert seconds == pytest.approx(len(levels) / 25, abs=0.03)


def test_a_picture_lasts_as_long_as_the_speech(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "face.png"), picture())
    media.write_wav(tmp_path / "speech.wav", silence(7))
    inputs = (tmp_path / "face.png", tmp_path / "speech.wav", tmp_path / "out.mp4")
    report = synthesize(ToyModel(), *inputs, OPTIONS.replace(longer="cut"), ToyFaces())
    assert (report.frames, report.painted, report.size) == (output_frames(7 * 640, 25), 7, SIZE)


def test_every_shot_is_painted_from_its_own_face(tmp_path):
    """A cut to a face that is 2.5 times as large, as from a medium shot to a close-up."""

    class Cut(ToyFaces):
        def detect(self, frame):
            height, width = frame.shape[:2]
            size = 0.7 if frame[0, 0, 0] > 127 else 0.28
            edge = (1 - size) / 2
            box = [width * edge, height * 0.15, width * (1 - edge), height * 0.15 + width * size, 1.0]
            return np.array([box], np.float32)

    shown = [picture(seed, (160, 160)) for seed in [0] * 12 + [3] * 13]
    for index, frame in enumerate(shown):
        frame[:8, :8] = 255 * (index >= 12)
    media.write_video(tmp_path / "video.mp4", shown, pixel_format="yuv444p", crf=5)
    media.write_wav(tmp_path / "speech.wav", silence(25))
    seen = []

    class Model(ToyModel):
        def __call__(self, faces, speech):
            seen.extend(faces[:, 3:].mean((1, 2, 3)).tolist())
            return super().__call__(faces, speech)

    inputs = (tmp_path / "video.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4")
    report = synthesize(Model(), *inputs, OPTIONS, Cut())
    assert (report.painted, report.faces_missing) == (25, 0)
    assert report.shots == [{"start": 0.0, "faces": ["largest"]}, {"start": 0.48, "faces": ["largest"]}]
    assert len(set(np.round(seen[:12], 4))) == len(set(np.round(seen[12:], 4))) == 1
    assert seen[0] != seen[12]


def test_a_face_does_not_say_two_things_at_once(tmp_path):
    media.write_wav(tmp_path / "a.wav", silence(25))
    first, second = Part(0, tmp_path / "a.wav"), Part(0, tmp_path / "a.wav", 0.5)
    with pytest.raises(SyncTalklipError, match=r"face 0 has two parts from 0\.50 to 1\.00 s"):
        read_voices((first, second), "largest", None, "none")
    later, other = Part(0, tmp_path / "a.wav", 1.0), Part(1, tmp_path / "a.wav", 0.5)
    assert len(read_voices((first, later, other), "largest", None, "none")) == 3
