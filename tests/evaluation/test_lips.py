"""When lips have to close; the geometry of rendered lips, from pixels to columns: every needle moves the right way."""

from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf

from synctalklip.cli import CONFIGS, build
from synctalklip.data.clips import ClipReader
from synctalklip.data.geometry import crop_face, geometry
from synctalklip.data.manifest import Clip
from synctalklip.data.media import write_video
from synctalklip.data.synthetic.corpus import VOCABULARY
from synctalklip.data.synthetic.identity import draw_identity
from synctalklip.data.synthetic.render import render
from synctalklip.data.synthetic.speech import ARTICULATORS
from synctalklip.data.tracking import track_face
from synctalklip.evaluation import lips as lips_module
from synctalklip.evaluation.lips import (
    BILABIALS,
    LipJudge,
    PronunciationError,
    bilabial_times,
    crop_landmarks,
    describe_lips,
    enlarged,
    face_box,
    read_pronunciations,
)
from synctalklip.evaluation.methods import Pair
from synctalklip.metrics.openness import aperture


def test_the_shipped_dictionary_has_the_words_of_grid():
    words = read_pronunciations()
    assert set(words) == set(VOCABULARY)
    assert words["seven"] == ("S", "EH", "V", "AH", "N")
    closing = {word for word, sounds in words.items() if BILABIALS & set(sounds)}
    assert closing == {"bin", "place", "blue", "by", "b", "m", "p", "please"}


def test_times_by_hand():
    words = [("bin", 0.9, 1.2), ("at", 1.2, 1.4), ("m", 1.4, 1.6), ("bimbo", 2.0, 3.0)]
    times = bilabial_times(words, read_pronunciations())
    assert times == [pytest.approx((0.9, 1.0)), pytest.approx((1.5, 1.6))]


def test_a_dictionary_in_cmudicts_format(tmp_path):
    path = tmp_path / "words.dict"
    path.write_text(";;; comment\nA  AH0\nA(1)  EY1\nbamboo B AE0 M B UW1 # wood\n\n")
    assert read_pronunciations(path) == {"a": ("AH",), "bamboo": ("B", "AE", "M", "B", "UW")}
    assert len(bilabial_times([("bamboo", 0, 1)], read_pronunciations(path))) == 3
    path.write_text("bamboo\n")
    with pytest.raises(PronunciationError, match=r"words\.dict, line 1: 'bamboo' has no sounds"):
        read_pronunciations(path)
    with pytest.raises(PronunciationError, match="cannot be read as a pronouncing dictionary"):
        read_pronunciations(tmp_path / "gone.dict")


FRAMES = 36
SHUT = (10, 24)  # frames with pressed lips
# "b" and "m" while the lips are pressed, and a "p" while they are wide open.
WORDS = (("b", 9.2 / 25, 13.0 / 25), ("m", 20.2 / 25, 25.0 / 25), ("p", 31.2 / 25, 34.8 / 25))
SETTINGS = {"max_lag": 6, "pronunciations": None}
DETECTOR = OmegaConf.to_container(OmegaConf.load(CONFIGS / "detector" / "dlib.yaml"))


@pytest.fixture(scope="module")
def finder():
    return build(dict(DETECTOR))


def moves(seed: int) -> np.ndarray:
    """Articulators of a mouth that opens and shuts in a rhythm of its own, (T,A)."""
    rng = np.random.default_rng(seed)
    opening = 0.55 + 0.45 * np.sin(np.arange(FRAMES) * rng.uniform(0.5, 0.9) + rng.uniform(0, 6))
    made = np.zeros((FRAMES, len(ARTICULATORS)))
    for name, share in (("jaw", 1.0), ("upper", 0.5), ("lower", 0.6)):
        made[:, ARTICULATORS.index(name)] = share * opening
    if seed == 1:
        made[29:34, ARTICULATORS.index("jaw")] = 1
    for frame in SHUT if seed == 1 else (4, 31):
        made[frame - 1 : frame + 1, ARTICULATORS.index("close")] = 1
        made[frame - 1 : frame + 1, ARTICULATORS.index("jaw")] = 0.05
    return made


@pytest.fixture(scope="module")
def clips(tmp_path_factory, finder):
    """Two sentences of one person as prepared clips, and what their jaws did."""
    root, made = tmp_path_factory.mktemp("lips"), []
    for seed in (1, 2):
        frames = render(moves(seed), draw_identity(5, 0), np.random.default_rng(seed), 160)
        cuts = geometry(track_face(frames, finder).landmarks)
        clip = Clip(f"clip{seed}", "test", FRAMES, 640 * FRAMES, f"sentence {seed}", words=WORDS, root=root)
        clip.faces.parent.mkdir(exist_ok=True)
        faces = np.stack([crop_face(frame, box) for frame, box in zip(frames, cuts.boxes)])
        write_video(clip.faces, faces, crf=4, pixel_format="yuv444p")
        made.append(clip)
    return made


@pytest.fixture
def judge(finder) -> LipJudge:
    return LipJudge(SETTINGS, DETECTOR, finder)


def score(judge: LipJudge, clip: Clip, faces: np.ndarray | None = None, sound: Clip | None = None) -> dict:
    pair = Pair(clip, sound or clip)
    reader = pair.reader()
    return judge.score(pair, reader, reader.faces(0) if faces is None else faces)


def test_aperture_of_crops_follows_the_jaw(clips, finder):
    faces = ClipReader(clips[:1]).faces(0)
    read = aperture(crop_landmarks(faces, face_box(faces, finder), finder))
    jaw = moves(1)[:, ARTICULATORS.index("jaw")]
    assert np.corrcoef(read, jaw)[0, 1] > 0.85


def test_median_of_boxes_depends_less_on_the_box(clips, finder):
    """The same frame read from boxes that a detector could as well have given."""
    face = ClipReader(clips[:1]).faces(0)[5:6]
    box = face_box(ClipReader(clips[:1]).faces(0), finder)
    boxes = box + np.random.default_rng(0).uniform(-5, 5, (12, 4))
    single = [aperture(finder.landmarks(enlarged(face[0]), one)[None])[0] for one in boxes]
    median = [aperture(crop_landmarks(face, one, finder))[0] for one in boxes]
    assert np.std(median) < 0.8 * np.std(single)


def test_a_recording_agrees_with_itself(clips, judge):
    row = score(judge, clips[0])
    assert [row["lip_correlation"], row["lip_spread"]] == pytest.approx([1, 1])
    assert (row["lip_lag"], row["lip_lag_size"], row["lmd"]) == (0, 0, 0)
    assert (row["lips_closed"], row["bilabials"]) == (2, 3)


def test_lips_of_another_sentence_still_lips_and_late_lips_score_less(clips, judge):
    own, other = (ClipReader([clip]).faces(0) for clip in clips)
    wrong = score(judge, clips[0], other)
    assert wrong["lip_correlation"] < 0.6
    assert wrong["lmd"] > 0.5
    still = score(judge, clips[0], np.repeat(own[:1], FRAMES, axis=0))
    assert abs(still["lip_correlation"]) < 0.3
    assert still["lip_spread"] < 0.2
    late = score(judge, clips[0], np.concatenate([own[:1].repeat(3, axis=0), own[:-3]]))
    assert (late["lip_lag"], late["lip_lag_size"]) == (3, 3)
    early = score(judge, clips[0], np.concatenate([own[3:], own[-1:].repeat(3, axis=0)]))
    assert (early["lip_lag"], early["lip_lag_size"]) == (-3, 3)


def test_closure_tells_a_mouth_that_stays_open(clips, judge):
    own = ClipReader(clips[:1]).faces(0)
    widest = int(moves(1)[:, 0].argmax())
    shut = own[SHUT[0]]
    assert score(judge, clips[0], own[widest : widest + 1].repeat(FRAMES, axis=0))["lips_closed"] == 0
    assert score(judge, clips[0], shut[None].repeat(FRAMES, axis=0))["lips_closed"] == 3


def test_another_sound_is_judged_by_the_recording_that_says_it(clips, judge):
    """The face of the first clip made to say the second: right lips are those of the second."""
    own, other = (ClipReader([clip]).faces(0) for clip in clips)
    right, leaking = (score(judge, clips[0], faces, sound=clips[1]) for faces in (other, own))
    assert right["lip_correlation"] > 0.9 > 0.6 > leaking["lip_correlation"]
    assert "lmd" not in right
    assert "lip_spread" not in right
    assert right["bilabials"] == 3


def test_recordings_are_read_once(clips, finder, judge, monkeypatch):
    score(judge, clips[1])
    read = []
    monkeypatch.setattr(lips_module, "crop_landmarks", lambda *given: read.append(given) or 1 / 0)
    assert score(judge, clips[1])["lip_correlation"] == pytest.approx(1)
    assert not read


def test_a_clip_without_a_face_has_no_columns(clips, judge, tmp_path):
    blank = replace(clips[0], id="blank", root=tmp_path)
    blank.faces.parent.mkdir()
    write_video(blank.faces, np.full((FRAMES, 96, 96, 3), 90, np.uint8))
    assert score(judge, blank) == {}


def test_what_scores_depend_on_is_described():
    described = describe_lips(SETTINGS, DETECTOR)
    assert described["name"] == "landmarks of DlibFaces"
    assert describe_lips(SETTINGS, DETECTOR | {"threshold": 0.5})["finder"] != described["finder"]
