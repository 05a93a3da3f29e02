"""Decoded frames: as pixels to look at, or as video stores them, to be painted in part.

H, W height and width in pixels, upright.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from synctalklip.data.encode import EXACT_COLOUR, Colour

# A stored pixel that is longer than this is a damaged tag.
LARGEST_ASPECT = 4
# Around a region: the converter blends colour over two pixels, a crop reads one more.
MARGIN = 8
# A converter is made anew for each size of its pictures.
STEP = 32
_READER, _WRITER = VideoReformatter(), VideoReformatter()


class FramePixels:
    """Pixels of the decoded frames of a track, upright, in the colours that players show.

    Args:
        stream: the track.
        pixel_format: "bgr24" or "gray".
        square: whether pixels that are not square are made so, by adding columns or rows.
    """

    def __init__(self, stream: av.VideoStream, pixel_format: str, square: bool = True):
        self.pixel_format = pixel_format
        self.aspect = stored_aspect(stream) if square else Fraction(1)
        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H,W,3) uint8 BGR or (H,W) grey, contiguous."""
        width, height = square_size(frame.width, frame.height, self.aspect)
        # A pool of threads for every small frame costs 25 times the conversion.
        picture = self._converter.reformat(
            frame,
            width,
            height,
            self.pixel_format,
            src_colorspace=Colour.of(frame).converter,
            interpolation=EXACT_COLOUR,
            threads=1,
        )
        # Rows of a decoded frame may be padded: contiguous copies are what cv2 and dlib read rightly.
        return np.ascontiguousarray(np.rot90(picture.to_ndarray(), turns(frame)))


class Picture:
    """An upright frame in 8-bit 4:2:0, as video is stored: what is not painted goes from file to file as it is.

    Sizes that 4:2:0 cannot hold (odd) are extended by repeating the last column or row.

    Args:
        planes: brightness (H,W) and two of colour (H/2,W/2), uint8, limited range.
        size: width and height that are shown, H and W or one less.
        colour: how they are stored.
    """

    def __init__(self, planes: Sequence[np.ndarray], size: tuple[int, int], colour: Colour):
        self.planes, self.size, self.colour = list(planes), size, colour

    @property
    def nbytes(self) -> int:
        """Memory that the pixels take."""
        return sum(plane.nbytes for plane in self.planes)

    def copy(self) -> "Picture":
        """One that can be painted apart."""
        return Picture([plane.copy() for plane in self.planes], self.size, self.colour)

    def frame(self) -> av.VideoFrame:
        """For an encoder."""
        return _frame_of(self.planes)

    def bgr(self) -> np.ndarray:
        """All pixels that are shown, (H,W,3) uint8."""
        width, height = self.size
        return self.region((0, 0, width, height)).pixels[:height, :width].copy()

    def region(self, box: Sequence[float] | np.ndarray) -> "Region":
        """The pixels of a box and somewhat more around it, as far as the picture goes.

        Args:
            box: (4,) x1, y1, x2, y2.
        """
        height, width = self.planes[0].shape
        rows, columns = _stretch(box[1], box[3], height), _stretch(box[0], box[2], width)
        planes = [self.planes[0][rows, columns], *(plane[_half(rows), _half(columns)] for plane in self.planes[1:])]
        return Region(self, rows, columns, _to_bgr(_frame_of(planes), self.colour))


class Region:
    """Part of a picture, to be looked at and painted.

    Attributes:
        pixels: (h,w,3) uint8 BGR.
        origin: (2,) x and y of its first pixel in the picture.
    """

    def __init__(self, picture: Picture, rows: slice, columns: slice, pixels: np.ndarray):
        self._picture, self._rows, self._columns, self.pixels = picture, rows, columns, pixels
        self.origin = np.array([columns.start, rows.start], np.float32)

    def put(self, pixels: np.ndarray) -> None:
        """Write the pixels that differ from `pixels` into the picture, with the colour of the 2 x 2 around each."""
        # `any` over an axis of three takes ten times as long.
        differ = pixels != self.pixels
        changed = differ[:, :, 0] | differ[:, :, 1] | differ[:, :, 2]
        blocks = changed[::2, ::2] | changed[::2, 1::2] | changed[1::2, ::2] | changed[1::2, 1::2]
        painted = _planes_of(_to_stored(av.VideoFrame.from_ndarray(pixels, format="bgr24"), self._picture.colour))
        places = (self._rows, self._columns), *[(_half(self._rows), _half(self._columns))] * 2
        for plane, place, new, where in zip(self._picture.planes, places, painted, (changed, blocks, blocks)):
            np.copyto(plane[place], new, where=where)
        self.pixels = pixels


class FramePictures:
    """Decoded frames of a track as pictures.

    Args:
        stream: the track.
    """

    def __init__(self, stream: av.VideoStream):
        self._pixels = FramePixels(stream, "bgr24", square=False)
        self._converter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Picture:
        """The frame upright; other formats than 8-bit 4:2:0 of even sizes are converted."""
        colour = Colour.of(frame)
        turned = turns(frame)
        if frame.width % 2 or frame.height % 2:
            pixels = self._pixels(frame)
            height, width = pixels.shape[:2]
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            stored = _to_stored(av.VideoFrame.from_ndarray(pixels, format="bgr24"), colour)
            return Picture([plane.copy() for plane in _planes_of(stored)], (width, height), colour)
        stored = self._converter.reformat(
            frame,
            format="yuv420p",
            src_colorspace=colour.converter,
            dst_colorspace=colour.converter,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT_COLOUR,
            threads=1,
        )
        planes = [np.array(np.rot90(plane, turned), order="C") for plane in _planes_of(stored)]
        return Picture(planes, (planes[0].shape[1], planes[0].shape[0]), colour)


def _stretch(first: float, last: float, length: int) -> slice:
    """Where a region begins and ends along one axis: at even places, with a margin, of one of few lengths."""
    start = min(max(0, 2 * int((first - MARGIN) // 2)), length - 2)
    stop = start + STEP * math.ceil((last + MARGIN - start) / STEP)
    return slice(start, min(max(stop, start + 2), length))


def _half(places: slice) -> slice:
    return slice(places.start // 2, places.stop // 2)


def _frame_of(planes: Sequence[np.ndarray]) -> av.VideoFrame:
    height, width = planes[0].shape
    flat = np.concatenate([plane.reshape(-1) for plane in planes])
    return av.VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")


def _planes_of(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views of the planes of an 8-bit frame."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    ]


def _to_bgr(frame: av.VideoFrame, colour: Colour) -> np.ndarray:
    converted = _READER.reformat(
        frame, format="bgr24", src_colorspace=colour.converter, interpolation=EXACT_COLOUR, threads=1
    )
    return converted.to_ndarray()


def _to_stored(frame: av.VideoFrame, colour: Colour) -> av.VideoFrame:
    return _WRITER.reformat(
        frame, format="yuv420p", dst_colorspace=colour.converter, interpolation=EXACT_COLOUR, threads=1
    )


def turns(frame: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise that show the frame upright."""
    return round(frame.rotation / 90) % 4


def stored_aspect(stream: av.VideoStream) -> Fraction:
    """Width of a stored pixel over its height; 1 where the file says nothing, or nothing that makes sense."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT else Fraction(1)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels; none of the stored ones is lost."""
    return max(width, round(width * aspect)), max(height, round(height / aspect))
