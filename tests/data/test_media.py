"""Decoding and encoding, on real files of every awkward kind."""

import contextlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from media_factory import (
    flat_video,
    float_wav,
    full_disk,
    grey_steps,
    make_media,
    picture,
    sound_file,
    squeezed,
    tone,
    two_tracks,
)

from synctalklip.data import media
from synctalklip.data.media import DiskError, MediaError

GRID = Path(__file__).resolve().parents[3] / "shared" / "grid"
needs_grid = pytest.mark.skipif(not GRID.is_dir(), reason="the GRID clips are not beside the repository")


def numbers(frames: np.ndarray, step: int = 3) -> list[int]:
    """Which of `grey_steps` each frame is."""
    return [round((float(frame.mean()) - 20) / step) for frame in frames]


def loudest(wave: np.ndarray, rate: int = 16000) -> float:
    """Frequency in Hz of the strongest partial."""
    return float(np.argmax(np.abs(np.fft.rfft(wave.astype(float)))) * rate / len(wave))


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), 25, 30, 50, Fraction(60000, 1001)])
def test_any_constant_rate_becomes_25_by_the_nearest_frame(tmp_path, fps):
    count = round(fps * 1)
    path = make_media(tmp_path / "a.mp4", grey_steps(count), fps)
    got = numbers(media.read_video(path))
    assert len(got) == 25
    for tick, number in enumerate(got):
        assert abs(number / fps - Fraction(tick, 25)) <= 1 / (2 * Fraction(fps)) + Fraction(1, 1000)
    assert numbers(media.read_video(path, fps=None)) == list(range(count))
    assert float(media.probe(path).fps) == pytest.approx(float(fps), abs=1e-3)


def test_variable_rate_follows_the_time_stamps(tmp_path):
    times = [0, 0.04, 0.08, 0.28, 0.29, 0.30, 0.40]
    got = numbers(media.read_video(make_media(tmp_path / "a.mp4", grey_steps(7, step=20), times=times)), step=20)
    nearest = [int(np.abs(np.array(times) - tick / 25).argmin()) for tick in range(len(got))]
    assert got == nearest
    assert len(got) >= 10


def test_avi_with_bidirectional_frames_keeps_its_order(tmp_path):
    path = tmp_path / "b.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * index, np.uint8), format="bgr24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = [round(frame.mean() / 20) for frame in media.read_frames(path)]
    assert shown == list(range(12))


def test_colour_matrix_is_written_for_players(tmp_path):
    path = tmp_path / "c.mp4"
    media.write_video(path, [np.full((64, 64, 3), 90, np.uint8)] * 2)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == 6  # SMPTE 170M, the matrix of BT.601


def test_broken_clock_is_an_error(tmp_path):
    path = make_media(tmp_path / "a.mkv", grey_steps(3), times=[0, 0.04, 4000])
    with pytest.raises(MediaError, match=r"a\.mkv: a hole of 4000 s"):
        media.read_video(path)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_phone_video_is_upright(tmp_path, rotation):
    upright = picture((64, 48))
    stored = np.rot90(upright, -rotation // 90)
    path = make_media(tmp_path / "phone.mp4", [stored] * 3, rotation=rotation)
    frame = media.read_video(path)[0]
    assert np.abs(frame.astype(int) - upright).mean() < 6
    good, oracle = cv2.VideoCapture(str(path)).read()
    assert good
    assert np.abs(frame.astype(int) - oracle).mean() < 6
    info = media.probe(path)
    assert (info.width, info.height, info.rotation) == (64, 48, rotation % 360)


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("aspect", [Fraction(16, 15), Fraction(2), Fraction(8, 9)])
def test_pixels_that_are_not_square_become_so(tmp_path, aspect, rotation):
    upright = picture((576, 288))
    stored = squeezed(np.ascontiguousarray(np.rot90(upright, -rotation // 90)), aspect)
    path = make_media(tmp_path / "a.mp4", [stored] * 2, rotation=rotation, aspect=aspect)
    frame, info = media.read_video(path)[0], media.probe(path)
    assert frame.shape == upright.shape
    assert np.abs(frame.astype(int) - upright).mean() < 6
    assert (info.width, info.height) == (576, 288)
    assert info.pixel_aspect == (1 / aspect if rotation else aspect)
    kept, _ = (picture.bgr() for picture in media.read_pictures(path))
    assert kept.shape[:2] == np.rot90(stored, rotation // 90).shape[:2]
    scale = info.stored_scale
    assert (round(576 * scale[0]), round(288 * scale[1])) == kept.shape[1::-1]
    media.write_video(tmp_path / "again.mp4", [kept], pixel_aspect=info.pixel_aspect)
    again = media.probe(tmp_path / "again.mp4")
    assert (again.width, again.height, again.pixel_aspect) == (576, 288, info.pixel_aspect)


def test_a_senseless_shape_of_pixels_is_taken_for_square(tmp_path):
    path = make_media(tmp_path / "a.mp4", [picture((64, 48))], aspect=Fraction(1, 500))
    assert media.read_video(path).shape == (1, 48, 64, 3)


BARS = {1: [(63, 102, 240), (173, 42, 26)], 6: [(81, 90, 240), (145, 54, 34)]}
"""Red and green at full strength in the coefficients of BT.709 and BT.601, by the formulas of both standards."""


@pytest.mark.parametrize(
    ("size", "tag", "matrix"),
    [((1280, 720), None, 1), ((704, 576), None, 6), ((1280, 720), 6, 6), ((64, 64), 1, 1), ((720, 1280), None, 1)],
)
def test_colours_are_those_of_players(tmp_path, size, tag, matrix):
    path = flat_video(tmp_path / "a.mp4", BARS[matrix], size, tag)
    frame = media.read_video(path)[0].astype(int)
    for place, colour in ((size[0] // 8, (0, 0, 255)), (-size[0] // 8, (0, 255, 0))):
        assert np.abs(frame[:, place] - colour).max() <= 2
    assert media.probe(path).colour.matrix == matrix


@pytest.mark.parametrize("matrix", [1, 6])
def test_colours_are_written_with_their_tags(tmp_path, matrix):
    path = flat_video(tmp_path / "a.mp4", BARS[matrix], (64, 64), matrix)
    frames = media.read_video(path)
    media.write_video(tmp_path / "b.mp4", frames, crf=0, colour=media.probe(path).colour)
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace == matrix
    for number, place in enumerate((8, 56)):
        stored = frame.to_ndarray()
        assert abs(int(stored[0, place]) - BARS[matrix][number][0]) <= 1
    assert np.abs(media.read_video(tmp_path / "b.mp4").astype(int) - frames)[:, :, 8:24].max() <= 2


def test_odd_sizes_are_extended_by_their_edge(tmp_path):
    frame = picture((97, 65))
    media.write_video(tmp_path / "odd.mp4", [frame] * 2, crf=0)
    got = media.read_video(tmp_path / "odd.mp4")
    assert got.shape == (2, 66, 98, 3)
    assert np.abs(got[0][:65, :97].astype(int) - frame).mean() < 4
    media.write_video(tmp_path / "exact.mp4", [frame], crf=0, pixel_format="yuv444p")
    exact = media.read_video(tmp_path / "exact.mp4")
    assert exact.shape == (1, 65, 97, 3)
    assert np.abs(exact[0].astype(int) - frame).max() <= 4


@pytest.mark.parametrize("fps", [25, 30, 50])
def test_one_frame(tmp_path, fps):
    path = make_media(tmp_path / "one.mp4", grey_steps(1), fps)
    assert media.read_video(path).shape == (1, 48, 64, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_image_is_a_video_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"face.{suffix}"
    cv2.imwrite(str(path), picture((64, 48)))
    (frame,) = media.read_video(path)
    assert np.abs(frame.astype(int) - picture((64, 48))).mean() < 6
    info = media.probe(path)
    assert (info.fps, info.frames, info.sample_rate) == (None, 1, None)


def test_frames_stream_and_belong_to_the_reader(tmp_path):
    frames = media.read_frames(make_media(tmp_path / "a.mp4", grey_steps(12), fps=12))
    first, second = next(frames), next(frames)
    assert first.mean() == second.mean()
    first[:] = 0
    assert second.mean() > 0


def test_grey_and_colour_survive_storage(tmp_path):
    colour = picture((96, 96))
    grey = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)
    media.write_video(tmp_path / "grey.mp4", [grey] * 3, crf=12)
    got = media.read_gray(tmp_path / "grey.mp4")
    assert got.shape == (3, 96, 96)
    assert np.abs(got[1].astype(int) - grey).mean() < 1.5
    media.write_video(tmp_path / "colour.mp4", [colour] * 3, crf=12, pixel_format="yuv444p")
    assert np.abs(media.read_video(tmp_path / "colour.mp4")[1].astype(int) - colour).mean() < 2.5


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (44100, 1), (8000, 1), (48000, 2), (16000, 1)])
def test_any_sound_becomes_16_kHz_mono(tmp_path, rate, channels):
    path = make_media(tmp_path / "a.mp4", grey_steps(25), sound=tone(1, rate, 440, channels), rate=rate)
    wave = media.read_audio(path)
    assert wave.dtype == np.int16
    assert abs(len(wave) - 16000) <= 2
    assert abs(loudest(wave) - 440) < 2
    assert wave[2000:14000].astype(float).std() == pytest.approx(16384 / 2**0.5, rel=0.05)
    assert media.probe(path).sample_rate == rate
    assert abs(len(media.read_audio(path, sample_rate=None)) - rate) <= 2


@pytest.mark.parametrize(
    ("suffix", "default", "shown"), [("mp4", None, 0), ("mp4", 1, 1), ("mkv", None, 0), ("mkv", 0, 0), ("mkv", 1, 1)]
)
def test_of_several_tracks_the_one_that_players_take(tmp_path, suffix, default, shown):
    path = two_tracks(tmp_path / f"two.{suffix}", default)
    assert loudest(media.read_audio(path)) == pytest.approx((300, 1000)[shown], abs=2)
    assert media.read_video(path).mean() == pytest.approx((50, 150)[shown], abs=3)
    info = media.probe(path)
    assert (info.audio_track, info.video_track) == (shown, shown)


def test_a_sound_track_can_be_chosen(tmp_path):
    path = two_tracks(tmp_path / "two.mkv", default=1)
    assert loudest(media.read_audio(path, audio_index=0)) == pytest.approx(300, abs=2)
    assert media.probe(path, audio_index=0).audio_track == 0
    with pytest.raises(MediaError, match=r"two\.mkv: audio_track=2, but it holds 2 sound tracks"):
        media.read_audio(path, audio_index=2)


def test_stereo_is_mixed_down(tmp_path):
    sides = np.concatenate([tone(1, 16000, 300), tone(1, 16000, 1000)])
    path = make_media(tmp_path / "a.mkv", grey_steps(25), sound=sides, rate=16000, sound_codec="flac")
    spectrum = np.abs(np.fft.rfft(media.read_audio(path)[:16000].astype(float)))
    assert spectrum[300] == pytest.approx(spectrum[1000], rel=0.05)
    assert spectrum[300] > 100 * spectrum[600]


def voice(samples: int) -> np.ndarray:
    """(N,) int16, now loud and now soft."""
    time = np.arange(samples) / 16000
    return (9000 * np.sin(2 * np.pi * 440 * time) * np.sin(2 * np.pi * 2 * time) ** 2).astype(np.int16)


@pytest.mark.parametrize(
    ("layout", "shares"),
    [
        ("stereo", [1, 1]),
        ("stereo", [1, -1]),
        ("stereo", [1, -0.9]),
        ("stereo", [1, 0]),
        ("stereo", [0, 1]),
        ("5.1", [0, 0, 1, 0, 0, 0]),
        ("5.1(side)", [0, 0, 1, 0, 0, 0]),
        ("5.1", [1, 0, 0, 0, 0, 0]),
        ("5.1", [0, 0, 0, 1, 0, 0]),
        ("5.1", [0.1, -0.1, 1, 0.1, 0.1, 0.1]),
        ("7.1", [0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_a_voice_is_as_loud_as_in_its_channel(tmp_path, layout, shares):
    said = voice(32000)
    path = sound_file(tmp_path / "a.mkv", said[:, None] * np.array(shares), 16000, layout)
    heard = media.read_audio(path)
    level = 20 * np.log10(heard.astype(float).std() / said.astype(float).std())
    assert abs(level) < 1
    assert np.corrcoef(heard, said)[0, 1] > 0.99


def test_a_voice_that_turns_to_opposite_phase_stays(tmp_path):
    said = voice(96000)
    sides = np.stack([said, np.concatenate([said[:48000], -said[48000:]])], axis=1)
    heard = media.read_audio(sound_file(tmp_path / "a.mkv", sides, 16000, "stereo")).astype(float)
    for second in range(6):
        part = slice(16000 * second, 16000 * (second + 1))
        assert abs(20 * np.log10(heard[part].std() / said[part].astype(float).std())) < 3


def test_silence_stays_silent(tmp_path):
    path = sound_file(tmp_path / "a.mkv", np.zeros((16000, 6)), 16000, "5.1")
    assert not media.read_audio(path).any()


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mkv", "flac")])
def test_late_sound_is_padded_and_early_sound_is_cut(tmp_path, suffix, codec):
    click = np.zeros((1, 16000))
    click[0, 8000:8080] = 0.9
    late = make_media(
        tmp_path / f"late.{suffix}", grey_steps(50), sound=click, rate=16000, sound_start=0.3, sound_codec=codec
    )
    assert np.abs(media.read_audio(late)).argmax() == pytest.approx(16000 * 0.8, abs=200)
    early = make_media(
        tmp_path / f"early.{suffix}",
        grey_steps(50),
        times=[0.3 + tick / 25 for tick in range(50)],
        sound=click,
        rate=16000,
        sound_codec=codec,
    )
    assert np.abs(media.read_audio(early)).argmax() == pytest.approx(16000 * 0.2, abs=200)
    assert len(media.read_video(early)) == 50


def test_sound_and_picture_written_together_come_back_together(tmp_path):
    click = np.zeros(32000, np.int16)
    click[16000:16080] = 25000
    frames = [np.full((48, 64, 3), 200 if tick == 25 else 20, np.uint8) for tick in range(50)]
    with media.VideoWriter(tmp_path / "a.mp4", 25, (64, 48), 16000, metadata={"comment": "made by a test"}) as writer:
        for tick, frame in enumerate(frames):
            writer.write(frame)
            # Pieces of any length.
            writer.write_audio(click[tick * 640 : tick * 640 + 333])
            writer.write_audio(click[tick * 640 + 333 : (tick + 1) * 640])
    assert np.abs(media.read_audio(tmp_path / "a.mp4")).argmax() == pytest.approx(16000, abs=100)
    assert len(media.read_audio(tmp_path / "a.mp4")) == 32000
    assert media.read_video(tmp_path / "a.mp4").mean(axis=(1, 2, 3)).argmax() == 25
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["comment"] == "made by a test"


def test_a_hole_in_the_sound_is_silence(tmp_path):
    with av.open(str(tmp_path / "hole.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0, 16000):
            block = np.full((1, 4000), 9000, np.int16)
            sound = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 16000, start, Fraction(1, 16000)
            container.mux(stream.encode(sound))
    wave = media.read_audio(tmp_path / "hole.mkv")
    assert len(wave) == 20000
    assert (wave[:4000] == 9000).all()
    assert (wave[4000:16000] == 0).all()
    assert (wave[16000:] == 9000).all()


def test_wav_is_exact(tmp_path):
    wave = np.random.default_rng(0).integers(-32768, 32767, 5001).astype(np.int16)
    media.write_wav(tmp_path / "a.wav", wave)
    assert np.array_equal(media.read_audio(tmp_path / "a.wav"), wave)


def test_sound_beyond_full_scale_is_clipped(tmp_path):
    wave = media.read_audio(float_wav(tmp_path / "loud.wav", 3 * tone(0.5, 16000)[0]))
    assert (wave.max(), wave.min()) == (32767, -32768)
    assert abs(loudest(wave) - 440) < 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_sound_is_an_error(tmp_path, bad):
    sound = tone(0.5, 16000)[0]
    sound[4000] = bad
    with pytest.raises(MediaError, match=r"bad\.wav: the sound holds NaN or infinite samples near 0\.[12]"):
        media.read_audio(float_wav(tmp_path / "bad.wav", sound))


def whole(tmp_path, **options) -> bytes:
    frames = [picture((64, 48), seed) for seed in range(100)]
    return make_media(tmp_path / "whole.mp4", frames, sound=tone(4), **options).read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda _: None, "there is no such file"),
        (lambda _: b"", "the file is empty"),
        (lambda _: bytes(5000), "cannot be read as video or sound"),
        (lambda _: b"this is no video\n" * 100, "cannot be read as video or sound"),
        (lambda folder: whole(folder)[:20000], "cannot be read as video or sound"),
        (lambda folder: (data := whole(folder, faststart=True))[: len(data) // 2], "cut short|broken after"),
    ],
    ids=["missing", "empty", "zeros", "text", "cut", "cut_faststart"],
)
def test_broken_files_are_named_with_their_reason(tmp_path, content, reason):
    path = tmp_path / "broken.mp4"
    data = content(tmp_path)
    if data is not None:
        path.write_bytes(data)
    for read in (media.read_video, media.read_audio, media.read_gray):
        with pytest.raises(MediaError, match=rf"broken\.mp4: .*({reason})") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_cut_wav_is_an_error(tmp_path):
    media.write_wav(tmp_path / "a.wav", np.ones(64000, np.int16))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:1000])
    with pytest.raises(MediaError, match=r"cut\.wav: .*cut short"):
        media.read_audio(tmp_path / "cut.wav")


def with_lengths(path: Path, riff: int, data: int) -> Path:
    """Write other lengths into the header of a wav file."""
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[4:8], content[place : place + 4] = riff.to_bytes(4, "little"), data.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        (0x7FFFF024, 0x7FFFF000),
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (2000000036, 2000000000),
        (0, 0),
        (36, 0),
        (2**32 - 1, 2**32 - 1),
    ],
    ids=hex,
)
def test_wav_of_a_streaming_writer_is_read_to_its_end(tmp_path, riff, data):
    wave = np.random.default_rng(0).integers(-32768, 32767, 20001).astype(np.int16)
    media.write_wav(tmp_path / "a.wav", wave)
    with_lengths(tmp_path / "a.wav", riff, data)
    assert np.array_equal(media.read_audio(tmp_path / "a.wav"), wave)
    assert media.probe(tmp_path / "a.wav").duration == pytest.approx(20001 / 16000)


@pytest.mark.parametrize("data", [40004, 80000, 1_999_999_999])
def test_wav_that_lacks_what_its_header_promises_is_cut(tmp_path, data):
    media.write_wav(tmp_path / "cut.wav", np.ones(20001, np.int16))
    with_lengths(tmp_path / "cut.wav", data + 36, data)
    with pytest.raises(MediaError, match=rf"cut\.wav: holds 40002 of {data} bytes of sound: the file is cut short"):
        media.read_audio(tmp_path / "cut.wav")


@pytest.mark.parametrize(("samples", "rate"), [(1, 48000), (8, 48000), (3, 44100), (1, 8000)])
def test_sound_of_a_few_samples_is_no_crash(tmp_path, samples, rate):
    media.write_wav(tmp_path / "a.wav", np.ones(samples, np.int16), rate)
    # A sample or two may vanish in the resampler: then it is an error of this project, and no other.
    with contextlib.suppress(MediaError):
        assert len(media.read_audio(tmp_path / "a.wav")) <= 4


def test_cut_mpeg_is_what_is_left_of_it_and_a_stump_is_an_error(tmp_path):
    with av.open(str(tmp_path / "whole.mpg"), "w") as container:
        stream = container.add_stream("mpeg1video", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for level in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * level, np.uint8), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    whole = (tmp_path / "whole.mpg").read_bytes()
    assert len(media.read_video(tmp_path / "whole.mpg")) == 50
    (tmp_path / "cut.mpg").write_bytes(whole[: len(whole) // 2])
    assert 0 < len(media.read_video(tmp_path / "cut.mpg")) < 50
    (tmp_path / "stump.mpg").write_bytes(whole[:30])
    with pytest.raises(MediaError, match=r"stump\.mpg"):
        media.read_video(tmp_path / "stump.mpg")


def test_wav_without_samples_is_an_error(tmp_path):
    media.write_wav(tmp_path / "none.wav", np.zeros(0, np.int16))
    with pytest.raises(MediaError, match=r"none\.wav: "):
        media.read_audio(tmp_path / "none.wav")


def test_missing_tracks_are_errors(tmp_path):
    silent = make_media(tmp_path / "silent.mp4", grey_steps(5))
    with pytest.raises(MediaError, match=r"silent\.mp4: has no audio track"):
        media.read_audio(silent)
    media.write_wav(tmp_path / "a.wav", np.ones(16000, np.int16))
    with pytest.raises(MediaError, match=r"a\.wav: has no video track"):
        media.read_video(tmp_path / "a.wav")
    assert media.probe(tmp_path / "a.wav") == media.MediaInfo(None, 0, 0, 0, 0, 16000, 1.0, audio_track=0)


def test_full_disk_leaves_no_half_file_and_keeps_the_old_one(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"old")
    frames = [np.random.default_rng(tick).integers(0, 255, (96, 96, 3)).astype(np.uint8) for tick in range(60)]
    with full_disk(), pytest.raises(DiskError, match=r"a\.mp4: cannot be written .*free some space"):
        media.write_video(tmp_path / "a.mp4", frames)
    with full_disk(), pytest.raises(DiskError, match=r"a\.wav: cannot be written"):
        media.write_wav(tmp_path / "a.wav", np.zeros(30000, np.int16))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"old"


def test_interrupted_writer_leaves_nothing(tmp_path):
    def frames():
        yield from grey_steps(3)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        media.write_video(tmp_path / "a.mp4", frames(), wave=np.zeros(100, np.int16))
    assert list(tmp_path.iterdir()) == []


def test_writer_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(MediaError, match="no frame was written"):
        media.write_video(tmp_path / "a.mp4", [])
    with pytest.raises(MediaError, match="no frame was written"), media.VideoWriter(tmp_path / "a.mp4", 25, (64, 48)):
        pass
    with pytest.raises(MediaError, match=r"got a frame \(32, 32, 3\)"):
        media.write_video(tmp_path / "a.mp4", [picture((64, 48)), picture((32, 32))])
    with pytest.raises(MediaError, match="expected one row of int16"):
        media.write_wav(tmp_path / "a.wav", np.zeros(10))
    with pytest.raises(MediaError, match=r"end it in \.mkv, \.mov, \.mp4"):
        media.write_video(tmp_path / "a.xyz", grey_steps(2))
    assert list(tmp_path.iterdir()) == []


def test_equal_input_gives_equal_bytes(tmp_path):
    frames, wave = [picture((64, 48), seed) for seed in range(5)], (1000 * tone(0.2, 16000)[0]).astype(np.int16)
    for name in ("a", "b"):
        media.write_video(tmp_path / f"{name}.mp4", frames, wave=wave)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@needs_grid
def test_grid_as_distributed():
    for path in sorted((GRID / "raw").glob("*.mpg"))[:3]:
        info = media.probe(path)
        assert (info.fps, info.width, info.height, info.sample_rate) == (25, 360, 288, 44100)
        assert media.read_video(path).shape == (75, 288, 360, 3)
        assert abs(len(media.read_audio(path)) - 2.98 * 16000) < 1600


@needs_grid
def test_raw_and_converted_grid_clips_agree():
    raw = GRID / "raw" / "s1_bbaf2n.mpg"
    clip = GRID / "clips" / "s1_bbaf2n.mp4"
    if not (raw.is_file() and clip.is_file()):
        pytest.skip("s1_bbaf2n is not in both folders")
    a, b = (media.read_video(path)[::10].astype(int) for path in (raw, clip))
    assert np.abs(a - b).mean() < 4
    a, b = (media.read_audio(path)[:40000].astype(float) for path in (raw, clip))
    shifts = {shift: np.corrcoef(a[800:-800], np.roll(b, shift)[800:-800])[0, 1] for shift in range(-400, 401, 8)}
    assert abs(max(shifts, key=shifts.get)) <= 320
