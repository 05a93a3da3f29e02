"""Cuts are found, and faces are followed in every shot anew."""

import numpy as np
import pytest
from media_factory import picture
from test_face import ScriptedFaces

from synctalklip.data.geometry import FaceError
from synctalklip.data.shots import ALL, CutFinder, follow_shots, thumbnail
from synctalklip.data.tracking import track_face

MEDIUM, CLOSE = [150, 60, 210, 120], [100, 20, 250, 170]


def frames_of(scenes):
    """Frames of (picture, ...) that carry their number as `ScriptedFaces` reads it."""
    for number, scene in enumerate(scenes):
        frame = np.clip(scene, 0, 255).astype(np.uint8)
        frame[0, 0, 0] = number
        yield frame


def scene(seed):
    rng = np.random.default_rng(seed)
    return np.kron(rng.integers(30, 220, (6, 8, 3)), np.ones((50, 50, 1))).astype(float)


def script(boxes):
    return ScriptedFaces(dict(enumerate(boxes)))


def cuts(scenes):
    finder = CutFinder()
    return [number for number, frame in enumerate(frames_of(scenes)) if finder.step(thumbnail(frame))]


def test_a_face_of_another_size_after_a_cut_is_followed():
    scenes = [scene(0)] * 12 + [scene(1)] * 13
    faces = script([[MEDIUM]] * 12 + [[CLOSE]] * 13)
    first, second = follow_shots(frames_of(scenes), faces, ["largest"])
    assert [(shot.start, shot.length) for shot in (first, second)] == [(0, 12), (12, 13)]
    assert first.tracks["largest"].detected.all()
    assert second.tracks["largest"].detected.all()
    # One track for all never takes the close-up for the same face.
    assert not track_face(frames_of(scenes), faces).detected[12:].any()


def test_what_is_a_cut():
    still, other = scene(0), scene(1)
    assert cuts([still] * 9 + [other] * 9 + [still]) == [9, 18]
    # A fade in, a flash of light, a slow dissolve.
    assert cuts([still * level / 9 for level in range(10)]) == []
    assert cuts([still * 0.5] * 5 + [still * 0.5 + 60] + [still * 0.5] * 5) == []
    assert cuts([still + (other - still) * part / 30 for part in range(31)]) == []


def test_a_moving_camera_is_no_cut():
    wide = np.concatenate([picture((320, 240), seed) for seed in range(3)], axis=1)
    moving = [wide[:, 12 * step : 12 * step + 320] for step in range(40)]
    assert cuts(moving)[1:] == []


def test_a_flash_of_another_picture_does_not_end_a_shot():
    scenes = [scene(0)] * 8 + [scene(1)] * 3 + [scene(0)] * 8
    faces = script([[MEDIUM]] * 8 + [[CLOSE]] * 3 + [[MEDIUM]] * 8)
    (shot,) = follow_shots(frames_of(scenes), faces, ["largest"])
    assert shot.length == 19
    assert np.flatnonzero(~shot.tracks["largest"].detected).tolist() == [8, 9, 10]


def test_after_a_dissolve_the_next_face_is_followed():
    scenes = [scene(0) + (scene(1) - scene(0)) * np.clip((number - 10) / 20, 0, 1) for number in range(50)]
    faces = script([[MEDIUM]] * 15 + [[]] * 10 + [[CLOSE]] * 25)
    first, second = follow_shots(frames_of(scenes), faces, ["largest"])
    assert second.start == 27
    assert second.tracks["largest"].detected.all()
    assert np.flatnonzero(first.tracks["largest"].detected).tolist() == list(range(15))


def test_a_face_that_leaves_the_same_picture_does_not_become_another():
    faces = script([[MEDIUM]] * 10 + [[CLOSE]] * 40)
    (shot,) = follow_shots(frames_of([scene(0)] * 50), faces, ["largest"])
    assert np.flatnonzero(shot.tracks["largest"].detected).tolist() == list(range(10))


def test_several_faces_of_each_shot():
    left, right = [40, 60, 120, 140], [250, 60, 330, 140]
    scenes = [scene(0)] * 12 + [scene(1)] * 12
    faces = script([[]] * 2 + [[right, left]] * 10 + [[left]] * 12)
    asked = follow_shots(frames_of(scenes), faces, [0, 1])
    assert [sorted(shot.tracks) for shot in asked] == [[0, 1], [0]]
    every = follow_shots(frames_of(scenes), faces, [ALL])
    for shot, same in zip(asked, every):
        assert sorted(shot.tracks) == sorted(same.tracks)
        for face, track in shot.tracks.items():
            np.testing.assert_array_equal(track.landmarks, same.tracks[face].landmarks)
    assert asked[0].tracks[0].landmarks[:, :, 0].max() < 160 < asked[0].tracks[1].landmarks[:, :, 0].min()
    with pytest.raises(FaceError, match=r"face=2, .* shows 2"):
        follow_shots(frames_of(scenes), faces, [2])
