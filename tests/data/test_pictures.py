"""Frames as they are stored: looked at in part, painted in part, the rest untouched."""

import av
import cv2
import numpy as np
import pytest
from media_factory import make_media

from synctalklip.data import media


def scene(size=(212, 148), seed=0):
    """Soft colours with hard, saturated edges."""
    rng = np.random.default_rng(seed)
    frame = cv2.resize(rng.integers(30, 220, (8, 8, 3)).astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)
    frame[20:70, 31:97] = (0, 0, 255)
    frame[60:101, 90:151] = (255, 40, 0)
    return frame


def stored_as(path, pixel_format, size=(212, 148)):
    """A lossless file in any format of pixels."""
    codec, options = ("libx264", {"qp": "0"}) if pixel_format.startswith("yuvj") else ("ffv1", {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25, options, width=size[0], height=size[1], pix_fmt=pixel_format)
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(scene(size), format="bgr24")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    return path


def first(path):
    return next(media.read_pictures(path, None))


@pytest.mark.parametrize(
    ("pixel_format", "tolerance"),
    [("yuv420p", 0), ("yuv420p10le", 4), ("yuv422p", 30), ("yuv444p", 60), ("bgr0", 60)],
)
def test_a_picture_shows_what_the_file_shows(tmp_path, pixel_format, tolerance):
    path = stored_as(tmp_path / "a.mkv", pixel_format)
    picture, frame = first(path), media.read_video(path)[0]
    difference = np.abs(picture.bgr().astype(int) - frame).max(2)
    # At hard edges of colour alone 4:2:0 knows less than the finer formats.
    assert difference.max() <= 4 if tolerance <= 4 else np.percentile(difference, 85) <= 3
    assert difference.mean() <= max(tolerance / 10, 1)
    assert picture.size == (212, 148)


def test_full_range_is_brought_to_the_range_of_video(tmp_path):
    path = stored_as(tmp_path / "a.mkv", "yuvj420p")
    with av.open(str(path)) as container:
        full = next(container.decode(video=0)).to_ndarray().astype(float)
    height, width = 148, 212
    bright, colour = full[:height], full[height:].reshape(2, height // 2, width // 2)
    # ITU-T H.273: 219 steps from 16 on, 224 around 128, in place of 255.
    wanted = [16 + bright * 219 / 255, *(128 + (colour - 128) * 224 / 255)]
    for plane, limited in zip(first(path).planes, wanted):
        assert np.abs(plane - limited).max() <= 1


@pytest.mark.parametrize("box", [(40, 30, 120, 110), (-30, -20, 60, 90), (150.5, 70.2, 400, 300), (300, 10, 400, 60)])
def test_a_region_is_a_part_of_the_whole(tmp_path, box):
    picture = first(stored_as(tmp_path / "a.mkv", "yuv420p"))
    region, whole = picture.region(box), picture.bgr()
    x, y = region.origin.astype(int)
    height, width = region.pixels.shape[:2]
    assert min(height, width) >= 2
    part = whole[y : y + height, x : x + width]
    # Colour at its own edge is blended from fewer pixels; that is margin.
    inner = np.zeros((height, width), bool)
    x1, y1, x2, y2 = np.clip(np.array(box) - np.tile(region.origin, 2), -2, 500).round().astype(int)
    inner[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
    assert np.array_equal(region.pixels[inner], part[inner])


@pytest.mark.parametrize("rotation", [0, 90, 180])
def test_only_what_is_painted_changes(tmp_path, rotation):
    picture = first(make_media(tmp_path / "a.mp4", [scene()], rotation=rotation))
    before, region = picture.copy(), picture.region((41, 33, 121, 113))
    x, y = region.origin.astype(int)
    painted = region.pixels.copy()
    painted[51 - y : 91 - y, 61 - x : 101 - x] = (20, 200, 90)
    region.put(painted)
    for number, (plane, old) in enumerate(zip(picture.planes, before.planes)):
        changed = np.zeros(plane.shape, bool)
        changed[(slice(51, 91), slice(61, 101)) if number == 0 else (slice(25, 46), slice(30, 51))] = True
        assert np.array_equal(plane[~changed], old[~changed])
    shown = picture.bgr()
    assert np.abs(shown[55:87, 65:97].astype(int) - (20, 200, 90)).max() <= 2
    # A second look sees what was painted.
    assert np.abs(picture.region((60, 50, 100, 90)).pixels.astype(int).mean() - shown[42:98, 52:108].mean()) < 40


@pytest.mark.parametrize("size", [(97, 65), (96, 65), (97, 64)])
def test_odd_sizes_are_extended_and_shown_as_they_are(tmp_path, size):
    cv2.imwrite(str(tmp_path / "a.png"), cv2.GaussianBlur(scene(size), (9, 9), 3))
    picture, frame = first(tmp_path / "a.png"), media.read_video(tmp_path / "a.png")[0]
    assert picture.size == size
    assert picture.planes[0].shape == (size[1] + size[1] % 2, size[0] + size[0] % 2)
    shown = picture.bgr()
    assert shown.shape == frame.shape
    assert np.abs(shown.astype(int) - frame).mean() < 3
    with media.VideoWriter(tmp_path / "b.mp4", 25, picture.size, crf=0) as writer:
        writer.write_stored(picture.frame())
    written = next(media.read_pictures(tmp_path / "b.mp4", None))
    assert all(np.array_equal(a, b) for a, b in zip(written.planes, picture.planes))
