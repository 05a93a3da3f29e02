"""Frames forwards and backwards."""

from fractions import Fraction
from itertools import islice

import av
import cv2
import numpy as np
import pytest

from synctalklip.data import media
from synctalklip.inference.timeline import SourceReader, frame_plan, ping_pong

SIZE = (64, 48)


def numbered(count):
    """Frames whose grey level tells their number."""
    return [np.full((SIZE[1], SIZE[0], 3), 20 + 2 * index, np.uint8) for index in range(count)]


def numbers(frames, source):
    """Which frames of `source` these are."""
    levels = np.array([frame.planes[0].mean() for frame in media.read_pictures(source, None)])
    assert (np.diff(levels) > 0.5).all()
    return [int(np.abs(levels - frame.planes[0].mean()).argmin()) for frame in frames]


def stored(frames):
    """All pixels of some pictures."""
    return np.array([np.concatenate([plane.ravel() for plane in frame.planes]) for frame in frames])


def overwrite(frame):
    for plane in frame.planes:
        plane[:] = 255


@pytest.mark.parametrize(
    ("suffix", "fps"), [(".mp4", Fraction(30000, 1001)), (".mkv", 25), (".mkv", Fraction(60000, 1001))]
)
@pytest.mark.parametrize("budget_frames", [1000, 7, 1])
def test_order_is_the_same_whatever_fits_into_memory(tmp_path, suffix, fps, budget_frames):
    video = tmp_path / f"video{suffix}"
    media.write_video(video, numbered(100), fps, crf=5)
    reader = SourceReader(video, media.as_rate(fps), 100, budget_frames * SIZE[0] * SIZE[1] * 3 // 2)
    got = numbers(islice(reader.read(), 420), video)
    assert got == [ping_pong(index, 100) for index in range(420)]


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "libx264"), (".mpg", "mpeg1video")])
def test_containers_whose_stamps_are_not_those_of_single_frames(tmp_path, suffix, codec):
    video = tmp_path / f"video{suffix}"
    with av.open(str(video), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for index, frame in enumerate(numbered(80)):
            picture = av.VideoFrame.from_ndarray(frame, format="bgr24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    forwards = stored(media.read_pictures(video, 25))
    order = [ping_pong(index, 80) for index in range(160)]
    got = stored(islice(SourceReader(video, Fraction(25), 80, 9 * forwards[0].nbytes).read(), 160))
    np.testing.assert_array_equal(got, forwards[order])


def test_backwards_equals_forwards_pixel_by_pixel(tmp_path):
    video = tmp_path / "video.mp4"
    rng = np.random.default_rng(0)
    media.write_video(video, rng.integers(0, 255, (80, 48, 64, 3), np.uint8), 25)
    forwards = stored(media.read_pictures(video, 25))
    backwards = stored(islice(SourceReader(video, Fraction(25), 80, 9 * forwards[0].nbytes).read(), 80, 158))
    np.testing.assert_array_equal(backwards, forwards[78:0:-1])


def test_part_of_a_video_and_a_container_without_search(tmp_path, monkeypatch):
    video = tmp_path / "video.mp4"
    media.write_video(video, numbered(60), 25, crf=5)
    monkeypatch.setattr(SourceReader, "_seek", lambda *_: None)
    got = numbers(islice(SourceReader(video, Fraction(25), 40, 8 * 4608).read(), 90), video)
    assert got == [ping_pong(index, 40) for index in range(90)]


@pytest.mark.parametrize("budget_frames", [1000, 1])
@pytest.mark.parametrize("longer", ["loop", "freeze", "cut"])
def test_other_orders(tmp_path, longer, budget_frames):
    video = tmp_path / "video.mp4"
    media.write_video(video, numbered(9), 25, crf=5)
    reader = SourceReader(video, Fraction(25), 9, budget_frames * SIZE[0] * SIZE[1] * 3 // 2, longer)
    expected = [frame.source for frame in frame_plan(9, 22, Fraction(25), longer)]
    got = []
    for frame in islice(reader.read(), 22):
        got.append(frame.copy())
        overwrite(frame)
    assert numbers(got, video) == expected


def test_picture(tmp_path):
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), numbered(4)[3])
    assert numbers(islice(SourceReader(picture, Fraction(25), 1, 10**6).read(), 5), picture) == [0] * 5


def test_kept_frames_may_be_written_into(tmp_path):
    video = tmp_path / "video.mp4"
    media.write_video(video, numbered(5), 25, crf=5)
    seen = []
    for frame in islice(SourceReader(video, Fraction(25), 5, 10**8).read(), 20):
        seen.append(frame.copy())
        overwrite(frame)
    assert numbers(seen, video) == [ping_pong(index, 5) for index in range(20)]
