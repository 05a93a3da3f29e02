"""Geometry by hand and against oracles, tracks of scripted and of real faces, the differentiable ROI paste."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from media_factory import ASTRONAUT_FACE, astronaut, moving_face, picture
from omegaconf import OmegaConf
from skimage.transform import SimilarityTransform
from skimage.transform import warp as skimage_warp

from synctalklip.cli import CONFIGS, build
from synctalklip.data import media
from synctalklip.data.detectors import FaceAlignmentFaces, assert_crop_rule
from synctalklip.data.features import faces_to_rois
from synctalklip.data.geometry import (
    MEAN_FACE,
    STABLE_POINTS,
    FaceError,
    crop_face,
    crop_roi,
    found_boxes,
    geometry,
    paste_face,
    similarities,
    smooth,
)
from synctalklip.data.tracking import choose_face, same_face, track_face

GRID = Path(__file__).resolve().parents[3] / "shared" / "grid"
CANVAS_MOUTH = np.array([129.0, 160.0])


@pytest.fixture(scope="module")
def dlib_faces():
    return build(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))


def canvas_landmarks(total: int = 1, seed: int = 0) -> np.ndarray:
    """(T,68,2) landmarks of a face that is the mean face, mouth around `CANVAS_MOUTH`."""
    draw = np.random.default_rng(seed)
    points = draw.uniform(60, 190, (68, 2))
    points[list(STABLE_POINTS)] = MEAN_FACE
    mouth = draw.uniform(-15, 15, (20, 2))
    points[48:68] = CANVAS_MOUTH + mouth - mouth.mean(axis=0)
    return np.tile(points, (total, 1, 1))


def moved(points: np.ndarray, scale: float, angle: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + shift


def at(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    return matrix[:, :2] @ point + matrix[:, 2]


def test_mean_face_lands_where_the_recipe_says():
    cuts = geometry(canvas_landmarks(3))
    assert np.allclose(cuts.boxes, [47.0, 54.0, 211.0, 218.0], atol=1e-3)
    # The ROI is a plain window of the canvas around the mouth.
    assert np.allclose(cuts.transforms[0], [[1, 0, 48 - 129], [0, 1, 48 - 160]], atol=1e-3)


def test_scaled_shifted_face_moves_box_and_roi_with_it():
    cuts = geometry(moved(canvas_landmarks(2), 2.0, 0.0, (100, -30)))
    assert np.allclose(cuts.boxes, [194, 78, 522, 406], atol=1e-2)
    assert np.allclose(at(cuts.transforms[0], 2 * CANVAS_MOUTH + (100, -30)), 48, atol=1e-2)
    tilted = geometry(moved(canvas_landmarks(2), 1.0, 0.3, (200, 50)))
    side = tilted.boxes[0, 2:] - tilted.boxes[0, :2]
    assert np.allclose(side, 164, atol=1e-2)
    # The mouth ROI is upright for a tilted head, 10 canvas pixels right of the mouth stay 10 right.
    ahead = moved(CANVAS_MOUTH + np.array([10, 0]), 1.0, 0.3, (200, 50))
    assert np.allclose(at(tilted.transforms[0], ahead), (58, 48), atol=1e-2)


@pytest.mark.parametrize("mouth", [(129.0, 160.0), (124.3, 171.6)])
def test_mouth_roi_is_the_one_that_av_hubert_cuts(mouth):
    """Its published formula: the canvas by skimage, of it rows and columns round(centre) - 48 to round(centre) + 48."""
    points = canvas_landmarks(1)
    points[:, 48:68] += np.array(mouth) - CANVAS_MOUTH
    points = moved(points, 1.1, 0.1, (60, 60))
    image = cv2.GaussianBlur(picture((420, 380)), (0, 0), 3)
    canvas = SimilarityTransform.from_estimate(points[0, list(STABLE_POINTS)], MEAN_FACE)
    picture_of_canvas = skimage_warp(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), canvas.inverse, output_shape=(256, 256))
    column, row = (round(value) - 96 // 2 for value in canvas(points[0, 48:68]).mean(axis=0))
    public = picture_of_canvas[row : row + 96, column : column + 96] * 255
    transform = geometry(points).transforms[0].astype(np.float64)
    # Ours keeps the fraction of a pixel that the public one rounds away.
    transform[:, 2] += np.array(mouth) - np.round(mouth)

    def distance(shift: float) -> float:
        moved_by = transform + np.array([[0, 0, shift], [0, 0, shift]])
        return float(np.abs(crop_roi(image, moved_by) - public).mean())

    assert distance(0) < 0.6  # rounding to whole grey levels
    assert distance(0) < 0.5 * min(distance(-0.5), distance(0.5))


def test_similarities_equal_skimage():
    source = np.random.default_rng(1).normal(0, 30, (4, 5, 2)) + 100
    for matrix, points in zip(similarities(source, MEAN_FACE), source, strict=True):
        oracle = SimilarityTransform.from_estimate(points, MEAN_FACE)
        assert np.allclose(matrix, oracle.params[:2], atol=1e-8)


def test_box_does_not_breathe_with_the_jaw():
    still = canvas_landmarks(30)
    talking = still.copy()
    opening = 12 * np.abs(np.sin(np.arange(30)))
    for point in [*range(4, 13), *range(54, 60), *range(64, 68)]:
        talking[:, point, 1] += opening
    assert np.array_equal(geometry(talking).boxes, geometry(still).boxes)


def test_matrices_map_the_face_crop_to_the_roi():
    image = picture((400, 360))
    cuts = geometry(moved(canvas_landmarks(1), 0.9, 0.1, (60, 60)))
    face, roi = crop_face(image, cuts.boxes[0]), crop_roi(image, cuts.transforms[0])
    again = cv2.warpAffine(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), cuts.matrices[0], (96, 96))
    assert np.abs(again[4:-4, 4:-4].astype(int) - roi[4:-4, 4:-4]).mean() < 1.5


def test_crops_by_s3fd_are_those_of_the_public_systems():
    """frame[y1:y2, x1:x2] of whole numbers inside the frame, resized to a square; the ROI stays where it was."""
    image = picture((160, 160))
    cuts = geometry(np.tile(moved(canvas_landmarks(1), 0.5, 0.1, (10, 10)), (2, 1, 1)))
    boxes = np.array([[20.7, 30.2, 110.9, 140.6], [-5.0, 100.5, 60.2, 170.0]], np.float32)
    found = found_boxes(cuts, boxes, 160, 160)
    for crop, box in zip((image[30:140, 20:110], image[100:160, 0:60]), found.boxes):
        public = cv2.resize(crop, (96, 96)).astype(int)
        inside = np.abs(crop_face(image, box).astype(int) - public)[1:-1, 1:-1]  # its border pixels repeat
        assert inside.max() <= 2
    assert np.array_equal(found.transforms, cuts.transforms)
    # The middle of the crop's pixel (30, 60), in the frame and from there in the ROI.
    frame = np.array([19.5 + 30.5 * 90 / 96, 29.5 + 60.5 * 110 / 96])
    assert np.allclose(at(found.matrices[0], np.array([30, 60])), at(cuts.transforms[0], frame), atol=1e-3)
    with pytest.raises(FaceError, match="lies outside"):
        found_boxes(cuts, boxes + 200, 160, 160)


def test_a_crop_rule_needs_its_detector():
    with pytest.raises(FaceError, match="'mouth'; use one of landmarks, s3fd"):
        assert_crop_rule("mouth", ScriptedFaces({}))
    with pytest.raises(FaceError, match="detector=face_alignment"):
        assert_crop_rule("s3fd", ScriptedFaces({}))
    assert FaceAlignmentFaces.finder == "s3fd"


def test_smoothing_has_no_lag_and_keeps_steady_motion():
    ramp = np.arange(40.0)[:, None] * [1.0, -2.0]
    assert np.allclose(smooth(ramp, 11), ramp)
    step = np.repeat([0.0, 1.0], 20)[:, None]
    assert np.allclose(smooth(step, 11), 1 - smooth(step, 11)[::-1])
    noise = np.random.default_rng(0).normal(0, 1, (200, 3))
    assert smooth(noise, 11)[5:-5].std() < 0.4
    for total in (1, 2, 3, 4):
        assert smooth(ramp[:total], 11).shape == (total, 2)
        assert np.allclose(smooth(ramp[:total], 11), ramp[:total])


def test_landmarks_on_one_point_are_an_error():
    with pytest.raises(FaceError, match="fall on one point"):
        geometry(np.full((3, 68, 2), 7.0))


def test_crop_of_whole_pixels_is_exact():
    image = picture((200, 150))
    assert np.array_equal(crop_face(image, [19.5, 9.5, 115.5, 105.5]), image[10:106, 20:116])
    doubled = crop_face(image, [3.5, -42.5, 195.5, 149.5])
    inside = image[2:150, 4:196].astype(float).reshape(74, 2, 96, 2, 3).mean(axis=(1, 3))
    assert np.abs(doubled[22:96].astype(float) - inside).max() <= 1
    # Beyond the frame the border repeats.
    assert np.abs(doubled[:20].astype(int) - doubled[20].astype(int)).max() <= 3


def test_roi_is_grey_by_the_broadcast_weights():
    frame = np.zeros((96, 96, 3), np.uint8)
    frame[:] = (10, 100, 200)
    roi = crop_roi(frame, np.array([[1, 0, 0], [0, 1, 0.0]]))
    assert roi.shape == (96, 96)
    assert np.abs(roi.astype(float) - (0.114 * 10 + 0.587 * 100 + 0.299 * 200)).max() <= 1


@pytest.mark.parametrize("box", [[30.2, 20.7, 170.9, 161.4], [-40, -30, 100, 110], [120, 60, 400, 340]])
def test_paste_changes_the_box_only(box):
    frame = picture((220, 180))
    face = np.full((96, 96, 3), 255, np.uint8)
    pasted = paste_face(frame, np.array(box, np.float32), face, feather=0.1)
    rows, columns = np.mgrid[0:180, 0:220]
    outside = (columns < box[0]) | (columns > box[2]) | (rows < box[1]) | (rows > box[3])
    assert np.array_equal(pasted[outside], frame[outside])
    margin = 0.1 * (box[2] - box[0])
    core = (columns > box[0] + margin) & (columns < box[2] - margin)
    core &= (rows > box[1] + margin) & (rows < box[3] - margin)
    assert (pasted[core] == 255).all()
    # No seam: on the first pixels inside, almost nothing changes.
    change = np.abs(pasted.astype(int) - frame).max(axis=2)
    rim = ~outside & ((columns < box[0] + 1) | (rows < box[1] + 1))
    assert rim.sum() == 0 or change[rim].max() <= 5
    assert frame.max() < 255


def test_paste_undoes_crop():
    frame = cv2.GaussianBlur(picture((220, 180)), (0, 0), 3)
    box = np.array([30.2, 20.7, 160.9, 151.4], np.float32)
    assert np.abs(paste_face(frame, box, crop_face(frame, box), feather=0.0).astype(int) - frame).mean() < 1


def test_paste_beside_the_frame_changes_nothing():
    frame = picture((64, 48))
    assert np.array_equal(paste_face(frame, np.array([200, 10, 300, 110.0]), frame[:, :48], 0.1), frame)


def roi_case(seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    faces = torch.rand(3, 3, 12, 12, generator=draw)
    faces = torch.nn.functional.interpolate(faces, (96, 96), mode="bicubic").clamp(0, 1)
    rois = torch.rand(3, 96, 96, generator=draw)
    turn, scale = 0.1, 1.9
    base = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * scale
    shifts = torch.tensor([[-45.0, -100.0], [20.0, -60.0], [-160.0, 10.0]])
    return faces, torch.cat([base.expand(3, 2, 2), shifts[:, :, None]], dim=2).float(), rois


def naive_paste(faces, matrices, rois):
    """Pixel by pixel, by the definition."""
    out = rois.clone().double()
    grey = 0.114 * faces[:, 0] + 0.587 * faces[:, 1] + 0.299 * faces[:, 2]
    for n in range(len(faces)):
        inverse = np.linalg.inv(np.vstack([matrices[n].double().numpy(), [0, 0, 1]]))
        for row in range(0, 96, 5):
            for column in range(0, 96, 5):
                x, y, _ = inverse @ [column, row, 1]
                if 0 <= x <= 95 and 0 <= y <= 95:
                    left, top = min(int(x), 94), min(int(y), 94)
                    u, v = x - left, y - top
                    corners = grey[n, top : top + 2, left : left + 2].double().numpy()
                    out[n, row, column] = (np.array([1 - v, v]) @ corners) @ np.array([1 - u, u])
    return out[:, ::5, ::5]


def test_faces_to_rois_equals_the_naive_loop():
    faces, matrices, rois = roi_case()
    got = faces_to_rois(faces, matrices, rois)[:, ::5, ::5]
    assert (got - naive_paste(faces, matrices, rois)).abs().max() < 1e-4


def test_faces_to_rois_agrees_with_opencv():
    faces, matrices, _ = roi_case()
    got = faces_to_rois(faces[:1], matrices[:1], torch.zeros(1, 96, 96))
    grey = cv2.cvtColor(faces[0].permute(1, 2, 0).numpy(), cv2.COLOR_BGR2GRAY)
    oracle = cv2.warpAffine(grey, matrices[0].numpy(), (96, 96))
    inside = cv2.warpAffine(np.ones((96, 96), np.float32), matrices[0].numpy(), (96, 96)) > 0.999
    assert inside.mean() > 0.5
    assert np.abs(got[0].numpy() - oracle)[inside].max() < 0.02


def test_no_gradient_comes_from_outside_the_crop():
    faces, matrices, rois = roi_case()
    faces.requires_grad_()
    rois.requires_grad_()
    out = faces_to_rois(faces, matrices, rois)
    with torch.no_grad():
        inside = faces_to_rois(torch.ones_like(faces), matrices, torch.zeros_like(rois)) > 0.5
    assert 0 < inside.float().mean() < 1
    assert torch.equal(out[~inside], rois[~inside])
    (out * ~inside).sum().backward(retain_graph=True)
    assert faces.grad.abs().max() == 0
    assert torch.equal(rois.grad, (~inside).float())
    out.sum().backward()
    # A face pixel that the window does not show gets none either.
    assert (faces.grad.abs().sum(dim=1) > 0).float().mean() < 0.9


def test_choose_the_largest_then_the_most_central():
    small, large = [0, 0, 50, 50, 3], [100, 100, 200, 200, 1]
    assert choose_face(np.array([small, large], np.float32), 300, 300) == 1
    left, centre = [0, 100, 100, 200, 3], [105, 105, 200, 200, 1]
    assert choose_face(np.array([left, centre], np.float32), 300, 300) == 1
    assert choose_face(np.zeros((0, 5), np.float32), 300, 300) is None


def test_keep_to_the_same_face():
    box = np.array([100, 100, 200, 200], np.float32)
    same, larger = [120, 110, 220, 210, 0.1], [400, 0, 700, 300, 5]
    assert same_face(np.array([larger, same], np.float32), box, 0) == 1
    assert same_face(np.array([larger], np.float32), box, 0) is None
    near = [210, 100, 310, 200, 1]
    assert same_face(np.array([larger, near], np.float32), box, 25) == 1
    far = [450, 100, 550, 200, 1]
    assert same_face(np.array([far], np.float32), box, 0) is None
    assert same_face(np.array([far], np.float32), box, 75) == 0


class ScriptedFaces:
    """Finds what it is told for each frame; a frame carries its number as its brightness."""

    finder = "toy"

    def __init__(self, script: dict[int, list], every: int = 5):
        self.script, self.every, self.asked = script, every, []

    def detect(self, frame):
        self.asked.append(int(frame[0, 0, 0]))
        boxes = self.script.get(self.asked[-1], self.script.get("always", []))
        return np.array([[*box, 1.0] for box in boxes], np.float32).reshape(-1, 5)

    def landmarks(self, frame, box):
        points = canvas_landmarks()[0]
        return (box[:2] + (points - (47, 54)) / 164 * (box[2] - box[0])).astype(np.float32)


def numbered(total: int):
    return (np.full((300, 400, 3), number, np.uint8) for number in range(total))


def test_a_face_that_leaves_is_found_again_and_the_gap_is_interpolated():
    before, after = [100, 100, 200, 200], [140, 100, 240, 200]
    script = {number: [before] for number in range(13)} | {number: [after] for number in range(23, 40)}
    faces = ScriptedFaces(script)
    track = track_face(numbered(40), faces)
    # Frame by frame, though detection ran on every fifth.
    assert np.array_equal(track.detected, [n < 13 or n >= 23 for n in range(40)])
    assert track.share == 0.75
    nose = track.landmarks[:, 33, 0]
    assert np.allclose(np.diff(nose[12:24]), 40 / 11, atol=1e-3)
    assert track.landmarks.dtype == np.float32
    assert np.allclose(track.boxes[:13], before, atol=1e-3)
    assert np.allclose(track.boxes[23:], after, atol=1e-3)
    assert np.allclose(np.diff(track.boxes[12:24, 0]), 40 / 11, atol=1e-3)


def test_ends_are_held():
    script = {number: [[100, 100, 200, 200]] for number in range(7, 12)}
    track = track_face(numbered(20), ScriptedFaces(script))
    assert np.flatnonzero(track.detected).tolist() == [7, 8, 9, 10, 11]
    assert np.array_equal(track.landmarks[0], track.landmarks[7])
    assert np.array_equal(track.landmarks[19], track.landmarks[11])


def test_detection_runs_every_few_frames():
    faces = ScriptedFaces({"always": [[100, 100, 200, 200]]}, every=5)
    track = track_face(numbered(21), faces)
    assert faces.asked == [0, 5, 10, 15, 20]
    assert track.detected.all()
    nose = track.landmarks[:, 33]
    assert np.abs(nose - nose[0]).max() < 1e-2


def test_a_larger_face_that_comes_later_is_not_taken():
    first, second = [40, 100, 140, 200], [180, 60, 380, 260]
    script = {"always": [second, first], 0: [first]}
    track = track_face(numbered(12), ScriptedFaces(script))
    assert track.landmarks[:, 33, 0].max() < 140


def test_a_pattern_that_looks_a_little_like_a_face_is_not_chosen():
    # What dlib finds in a JPEG of astronaut(): her face, and a badge that is larger.
    face, badge = [178.5, 82.5, 266.5, 170.5, 1.49], [122.5, 329.5, 227.5, 434.5, 0.09]
    for faces in ([face, badge], [badge, face]):
        chosen = [choose_face(np.array(faces, np.float32), 512, 512, rule) for rule in ("largest", 0)]
        assert chosen == [faces.index(face)] * 2
    assert choose_face(np.array([[*badge[:4], -0.3]], np.float32), 512, 512) == 0


def test_faces_are_counted_from_left_to_right():
    right, left, middle = [200, 10, 300, 110, 4], [0, 100, 50, 150, 1], [60, 0, 190, 130, 5]
    faces = np.array([right, left, middle], np.float32)
    assert [choose_face(faces, 400, 300, rule) for rule in (0, 1, 2)] == [1, 2, 0]
    with pytest.raises(FaceError, match=r"face=3, .* shows 3; .* choose 0 to 2"):
        choose_face(faces, 400, 300, 3)
    with pytest.raises(FaceError, match=r"shows 1; .* choose 0, or face=largest"):
        choose_face(faces[:1], 400, 300, 1)


def test_the_face_beside_is_not_taken_for_one_that_left():
    left, right = [100, 100, 200, 200], [210, 100, 310, 200]
    script = {number: [left, right] if number < 10 or number >= 40 else [right] for number in range(60)}
    track = track_face(numbered(60), ScriptedFaces(script), 0)
    assert track.landmarks[:, 33, 0].max() < 200
    assert np.array_equal(track.detected, [n < 10 or n >= 40 for n in range(60)])
    # The same place, by someone who was not there before: it is the face that comes back.
    script = {number: [left] if number < 10 else [right] for number in range(20)}
    assert track_face(numbered(20), ScriptedFaces(script), 0).detected[-1]


def test_no_face_and_no_frames_are_errors():
    with pytest.raises(FaceError, match="no face was found in 6 frames"):
        track_face(numbered(6), ScriptedFaces({}))
    with pytest.raises(FaceError, match="no frames"):
        track_face([], ScriptedFaces({}))


def test_dlib_follows_a_moving_face(dlib_faces):
    track = track_face(moving_face(18, step=(2.0, 1.0)), dlib_faces)
    assert track.detected.all()
    nose = track.landmarks[:, 33]
    assert np.abs(nose - nose[0] - np.arange(18)[:, None] * [2.0, 1.0]).max() < 4
    cuts = geometry(track.landmarks)
    x1, x2 = ASTRONAUT_FACE[0] - 100, ASTRONAUT_FACE[2] - 100
    assert cuts.boxes[0, 0] < x1 + 10
    assert cuts.boxes[0, 2] > x2 - 10
    # Chin and mouth are inside, the lower half starts at the nose.
    middle = cuts.boxes[0, [1, 3]].mean()
    assert track.landmarks[0, 8, 1] < cuts.boxes[0, 3]
    assert track.landmarks[0, 51, 1] > middle
    assert track.landmarks[0, 27, 1] < middle


def test_dlib_takes_the_larger_of_two_people(dlib_faces):
    one = moving_face(1)[0]
    frame = np.zeros((400, 700, 3), np.uint8)
    frame[:220, :240] = one
    frame[40:370, 300:660] = cv2.resize(one, (360, 330))
    frames = [frame] * 6
    assert len(dlib_faces.detect(frame)) == 2
    assert (track_face(frames, dlib_faces).landmarks[:, :, 0] > 300).all()


def test_dlib_finds_small_faces_and_faces_in_large_frames(dlib_faces):
    small = cv2.resize(astronaut(), None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA)
    (face,) = dlib_faces.detect(small)
    assert np.abs(face[:4] - 0.55 * np.array(ASTRONAUT_FACE)).max() < 12
    large = cv2.resize(astronaut(), None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)
    (face,) = dlib_faces.detect(large)
    assert np.abs(face[:4] - 2.5 * np.array(ASTRONAUT_FACE)).max() < 50


def test_dlib_reads_cut_out_frames_rightly(dlib_faces):
    view = astronaut()[:300, 100:400]
    assert not view.flags["C_CONTIGUOUS"]
    whole = np.ascontiguousarray(view)
    box = dlib_faces.detect(whole)[0]
    assert np.array_equal(dlib_faces.detect(view)[0], box)
    assert np.array_equal(dlib_faces.landmarks(view, box), dlib_faces.landmarks(whole, box))


def test_dlib_sees_no_face_in_noise(dlib_faces):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    assert dlib_faces.detect(noise).shape == (0, 5)


def alignment_config(folder, **changes):
    config = OmegaConf.load(CONFIGS / "detector" / "face_alignment.yaml")
    return OmegaConf.merge(config, {"weights": str(folder)}, changes)


@pytest.fixture(scope="module")
def alignment_weights(tmp_path_factory):
    """Files of the real layout, random inside."""
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save(s3fd().state_dict(), folder / "s3fd-619a316812.pth")
    torch.save(FAN(4).state_dict(), folder / "2DFAN4-11f355bf06.pth.tar")
    return folder


def test_face_alignment_from_a_folder(alignment_weights):
    hub = torch.hub.get_dir()
    faces = build(alignment_config(alignment_weights))
    assert torch.hub.get_dir() == hub
    frame = astronaut()[60:200, 150:290]
    found = faces.detect(frame[:64, :64])
    assert found.dtype == np.float32
    assert found.shape[1] == 5
    points = faces.landmarks(frame, np.array([20, 20, 120, 120], np.float32))
    assert points.shape == (68, 2)
    assert np.isfinite(points).all()


def test_face_alignment_says_which_files_are_missing(tmp_path, alignment_weights, monkeypatch):
    with pytest.raises(FaceError, match=r"s3fd-619a316812\.pth, 2DFAN4-11f355bf06\.pth\.tar.*detector\.weights="):
        build(alignment_config(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(FaceError, match=r"checkpoints: face-alignment weights are missing"):
        FaceAlignmentFaces(5, None, "cpu", 0.5, False)


def test_face_alignment_says_when_a_file_is_broken(tmp_path):
    for name in ("s3fd-619a316812.pth", "2DFAN4-11f355bf06.pth.tar"):
        (tmp_path / name).write_bytes(b"an error page instead of weights")
    with pytest.raises(FaceError, match="cannot be loaded"):
        FaceAlignmentFaces(5, tmp_path, "cpu", 0.5, False)


@pytest.mark.skipif(not GRID.is_dir(), reason="the GRID clips are not beside the repository")
def test_grid_faces_hold_still_and_hold_the_mouth(dlib_faces):
    clip = sorted((GRID / "clips").glob("*.mp4"))[-1]
    track = track_face(media.read_frames(clip), dlib_faces)
    assert track.detected.all()
    cuts = geometry(track.landmarks)
    lips = np.stack([at(matrix, points) for matrix, points in zip(cuts.transforms, track.landmarks[:, 48])])
    assert (np.abs(lips - 48) < 40).all()
    centres = np.stack([at(m, p[48:68].mean(axis=0)) for m, p in zip(cuts.transforms, track.landmarks)])
    assert np.abs(centres - 48).max() < 4
    chin = (track.landmarks[:, 8, 1] - cuts.boxes[:, 1]) / (cuts.boxes[:, 3] - cuts.boxes[:, 1])
    nose = (track.landmarks[:, 33, 1] - cuts.boxes[:, 1]) / (cuts.boxes[:, 3] - cuts.boxes[:, 1])
    assert (chin < 1).all()
    assert (np.abs(nose - 0.52) < 0.08).all()
    assert np.abs(np.diff(cuts.boxes, axis=0)).max() < 3
