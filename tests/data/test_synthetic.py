"""The embedded corpus: speech with true times, mouths that say it, and the files of the LRS2 layout."""

import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dlib
import numpy as np
import pytest

from synctalklip.data.media import probe, read_audio, read_video
from synctalklip.data.synthetic.corpus import (
    GRAMMAR,
    VOCABULARY,
    ClipPlan,
    CorpusError,
    CorpusSettings,
    grid_sentences,
    make_clip,
    make_corpus,
    plan_corpus,
    sentence_id,
)
from synctalklip.data.synthetic.identity import draw_identity, identities
from synctalklip.data.synthetic.render import mouth_shape, render
from synctalklip.data.synthetic.speech import _CONSONANTS, _VOWELS, ARTICULATORS, SpeechError, articulate, speak

SETTINGS = CorpusSettings(
    clips={"train": 4, "val": 1, "test": 1},
    identities=3,
    seed=5,
    unseen_identities=0,
    frame_size=160,
    rate=(165, 210),
    silence=(0.1, 0.2),
)
SHAPE = {name: index for index, name in enumerate(ARTICULATORS)}


@pytest.fixture(scope="module")
def clips():
    """One clip each of four speakers, with bilabials, open vowels and rounding."""
    sentences = (
        "bin blue by r one please",
        "place red by b nine now",
        "lay white at m two soon",
        "set blue by o five again",
    )
    return [
        (index, make_clip(ClipPlan("train", index, sentence), SETTINGS)) for index, sentence in enumerate(sentences)
    ]


@pytest.fixture(scope="module")
def landmarks(clips):
    """The 68 points that dlib's default detector and predictor find in each frame: a list of (T, 68, 2)."""
    folder = Path(importlib.util.find_spec("face_recognition_models").submodule_search_locations[0])
    detector = dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(str(folder / "models" / "shape_predictor_68_face_landmarks.dat"))
    tracks = []
    for _, clip in clips:
        track = []
        for frame in clip.frames:
            image = np.ascontiguousarray(frame[..., ::-1])
            faces = detector(image, 0)
            assert len(faces) == 1, "the default detector must find exactly one face in every frame"
            track.append([(point.x, point.y) for point in predictor(image, faces[0]).parts()])
        tracks.append(np.array(track, dtype=float))
    return tracks


def _during(clip, symbols: str) -> np.ndarray:
    """Frames (T,) whose middle lies in the inner half of one of the phonemes."""
    times = (np.arange(len(clip.frames)) + 0.5) / 25
    chosen = np.zeros(len(times), bool)
    for name, start, end in clip.phonemes:
        if name in symbols.split():
            inset = (end - start) / 4
            chosen |= (times >= start + inset) & (times < end - inset)
    return chosen


# Sentences and plan


def test_sentences_follow_the_grammar_and_are_balanced():
    sentences = grid_sentences(np.random.default_rng(0), 200)
    assert len(set(sentences)) == 200
    for slot, words in enumerate(GRAMMAR.values()):
        counts = Counter(sentence.split()[slot] for sentence in sentences)
        assert set(counts) == set(words)
        assert max(counts.values()) - min(counts.values()) <= 2


def test_sentence_ids_are_those_of_grid_and_unique():
    assert sentence_id("bin blue at f two now") == "bbaf2n"
    assert sentence_id("place white in z zero please") == "pwizzp"
    sentences = grid_sentences(np.random.default_rng(1), 3000)
    assert len({sentence_id(sentence) for sentence in sentences}) == 3000


def test_splits_share_no_sentence_and_train_covers_every_word():
    plans = plan_corpus(replace(SETTINGS, clips={"train": 60, "val": 30, "test": 30}))
    assert len({plan.sentence for plan in plans}) == 120
    words = {word for plan in plans if plan.split == "train" for word in plan.sentence.split()}
    assert words == set(VOCABULARY)
    for split in ("train", "val", "test"):
        assert {plan.speaker for plan in plans if plan.split == split} == {0, 1, 2}


def test_unseen_identities_say_the_test_clips_and_nothing_else():
    plans = plan_corpus(replace(SETTINGS, unseen_identities=2, clips={"train": 9, "val": 3, "test": 6}))
    assert {plan.speaker for plan in plans if plan.split == "test"} == {3, 4}
    assert {plan.speaker for plan in plans if plan.split != "test"} == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clips": {"train": 1}}, "clips"),
        ({"clips": {"train": 64000, "val": 0, "test": 0}}, "clips"),
        ({"identities": 0}, "identities"),
        ({"frame_size": 64}, "frame_size"),
        ({"rate": (300, 200)}, "rate"),
        ({"silence": (0.2, 0.1)}, "silence"),
    ],
)
def test_bad_settings_name_the_key(change, named):
    with pytest.raises(CorpusError, match=named):
        replace(SETTINGS, **change)


# Speech


def test_speech_does_not_depend_on_what_was_spoken_before():
    first = speak("bin blue at f two now", "en+m3", 200, 40)[0]
    speak("place red in j six again", "en-us+f4", 180, 70)
    again = speak("bin blue at f two now", "en+m3", 200, 40)[0]
    assert first.dtype == np.int16
    np.testing.assert_array_equal(first, again)


def test_speech_times_are_ordered_and_inside_the_wave():
    wave, phonemes, words = speak("set green with z zero please", "en+f2", 190, 50)
    assert [name for name, _, _ in words] == "set green with z zero please".split()
    for segments in (phonemes, words):
        starts, ends = np.array([start for _, start, _ in segments]), np.array([end for _, _, end in segments])
        assert (ends > starts).all()
        np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-9)
        assert starts[0] >= 0
        assert ends[-1] <= len(wave) / 16000 + 1e-3


@pytest.mark.parametrize("voice", ["en", "en-us+f3", "en-gb-scotland+m1"])
def test_letters_are_spoken_by_their_names_in_every_accent(voice):
    spoken = {word: [name for name, _, _ in speak(word, voice)[1]] for word in ("a", "z")}
    assert spoken["a"] == ["eI"]
    assert spoken["z"] == ["z", "E", "d"]


def test_phoneme_times_match_the_sound():
    wave, phonemes, _ = speak("set blue at p two soon", "en", 180, 50)
    level, hiss = {}, {}
    for name, start, end in phonemes:
        piece = wave[round(start * 16000) : round(end * 16000)].astype(float)
        # The first half of a stop is its closure; of any other sound the middle is used.
        piece = piece[: len(piece) // 2] if name in ("p", "t") else piece[len(piece) // 4 : -len(piece) // 4]
        level.setdefault(name, []).append(np.sqrt(np.mean(piece**2)))
        hiss.setdefault(name, []).append(np.mean(np.abs(np.diff(piece))) / (np.mean(np.abs(piece)) + 1))
    vowels = min(level["E"] + level["u:"] + level["i:"])
    assert level["p"][0] < 0.1 * vowels
    assert max(level["t"][:2]) < 0.1 * vowels
    assert min(hiss["s"]) > 2 * max(hiss["u:"] + hiss["E"])


def test_an_unknown_voice_and_a_missing_package_are_said_clearly(monkeypatch):
    with pytest.raises(SpeechError, match="en-gb-none"):
        speak("bin", "en-gb-none")
    monkeypatch.setitem(__import__("sys").modules, "espeakng_loader", None)
    with pytest.raises(SpeechError, match="espeakng-loader is not installed"):
        speak("bin")


# Articulation


def test_every_phoneme_has_its_own_target():
    targets = [*_VOWELS.values(), *((values[:7],) for values in _CONSONANTS.values())]
    # /p b m/ and /f v/ differ in press and tuck as well, but already here.
    assert len(set(targets)) == len(targets)


def test_short_bilabials_close_completely_and_open_vowels_open():
    phonemes = [("A:", 0.10, 0.20), ("b", 0.20, 0.225), ("A:", 0.225, 0.40)]
    for offset in np.linspace(0, 0.04, 9):
        # Wherever the frames of 40 ms fall, one of them shows the closure.
        moves = articulate(phonemes, np.arange(14) / 25 + offset)
        assert moves[:, SHAPE["close"]].max() > 0.95
    moves = articulate(phonemes, np.array([0.0, 0.12, 0.32]))
    assert moves[0, SHAPE["jaw"]] < 0.1
    assert moves[1:, SHAPE["jaw"]].min() > 0.8
    assert moves[1:, SHAPE["close"]].max() < 0.05


def test_movement_is_smooth_and_anticipates():
    phonemes = [("s", 0.1, 0.2), ("u:", 0.2, 0.35), ("n", 0.35, 0.42)]
    times = np.arange(0, 0.6, 0.005)
    moves = articulate(phonemes, times)
    assert np.abs(np.diff(moves, axis=0)).max() < 0.25
    assert np.isfinite(moves).all()
    alone = articulate([("s", 0.1, 0.2)], np.array([0.18]))[0, SHAPE["round"]]
    before_u = articulate(phonemes, np.array([0.18]))[0, SHAPE["round"]]
    assert before_u > alone + 0.1


def test_an_unknown_phoneme_falls_back_to_its_base():
    times = np.array([0.15])
    np.testing.assert_array_equal(articulate([("i:;", 0.1, 0.2)], times), articulate([("i:", 0.1, 0.2)], times))
    assert np.isfinite(articulate([("¿", 0.1, 0.2)], times)).all()


# Pictures


def test_identities_differ():
    people = identities(1, 8)
    assert len({person.skin for person in people}) == 8
    assert [person.name for person in people] == [f"s{index}" for index in range(1, 9)]
    assert people[3] == draw_identity(1, 3)


def test_lips_seen_by_the_default_landmarks_follow_the_articulation(clips, landmarks):
    for (speaker, clip), points in zip(clips, landmarks, strict=True):
        shapes = [mouth_shape(moves, draw_identity(SETTINGS.seed, speaker)) for moves in clip.moves]
        opening = points[:, 66, 1] - points[:, 62, 1]
        width = np.linalg.norm(points[:, 54] - points[:, 48], axis=1)
        chin = points[:, 8, 1] - points[:, 27, 1]
        assert np.corrcoef(opening, [shape.gap for shape in shapes])[0, 1] > 0.7
        assert np.corrcoef(width, [shape.half for shape in shapes])[0, 1] > 0.6
        assert np.corrcoef(chin, [shape.jaw for shape in shapes])[0, 1] > 0.5


def test_lips_are_shut_on_bilabials_and_open_on_open_vowels(clips, landmarks):
    shut, wide = [], []
    for (_, clip), points in zip(clips, landmarks, strict=True):
        opening = points[:, 66, 1] - points[:, 62, 1]
        shut.extend(opening[_during(clip, "p b m")])
        wide.extend(opening[_during(clip, "aI A@ aU")])
    assert len(shut) >= 6
    assert len(wide) >= 8
    # The predictor puts the inner points of pressed lips up to 4 pixels apart.
    assert np.mean(shut) < 3.5
    assert np.mean(wide) > 8


@pytest.mark.parametrize("index", range(4))
def test_pixels_between_the_lips_show_only_when_they_part(index):
    person = draw_identity(SETTINGS.seed, index)
    rest, closed, open_, round_ = (
        articulate([(symbol, 0.1, 0.3)], np.array([time]))
        for symbol, time in (("b", -1.0), ("b", 0.2), ("A:", 0.2), ("u:", 0.2))
    )
    # The same random state gives the same head, light and background, so only the mouth differs.
    base, shut, wide, narrow = (
        render(moves, person, np.random.default_rng(3))[0].astype(int) for moves in (rest, closed, open_, round_)
    )

    def darker(image: np.ndarray) -> int:
        return int((image[90:140, 50:110].sum(2) < base[90:140, 50:110].sum(2) - 120).sum())

    assert darker(shut) < 40
    assert darker(wide) > 200
    assert darker(wide) > 3 * darker(narrow)
    np.testing.assert_array_equal(shut[:60], wide[:60])


def test_sound_and_picture_have_one_length_and_words_hold_the_sound(clips):
    for _, clip in clips:
        assert clip.wave.dtype == np.int16
        assert len(clip.wave) == 640 * len(clip.frames)
        assert clip.frames.shape[1:] == (160, 160, 3)
        power = clip.wave.astype(float) ** 2
        first, last = (round(time * 16000) for time in (clip.words[0][1], clip.words[-1][2]))
        outside = np.concatenate([power[:first], power[last:]])
        assert len(outside) >= 0.2 * 16000
        for _, start, end in clip.words:
            assert power[round(start * 16000) : round(end * 16000)].mean() > 100 * outside.mean()


# Files


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    counts = make_corpus(SETTINGS, folder)
    return folder, counts


def test_files_are_those_of_the_lrs2_layout(corpus):
    folder, counts = corpus
    assert counts["made"] == 6
    named = []
    for split, count in SETTINGS.clips.items():
        names = [line.split()[0] for line in (folder / f"{split}.txt").read_text().splitlines()]
        assert len(names) == count
        named.extend(names)
    found = sorted(str(path.relative_to(folder / "main").with_suffix("")) for path in folder.rglob("*.mp4"))
    assert found == sorted(named)
    assert not list(folder.rglob(".*"))
    for name in named:
        video = folder / "main" / f"{name}.mp4"
        lines = video.with_suffix(".txt").read_text().splitlines()
        words = lines[0].removeprefix("Text:  ").split()
        assert len(words) == 6
        table = [line.split() for line in lines[lines.index("WORD START END ASDSCORE") + 1 :]]
        assert [row[0] for row in table] == words
        info = probe(video)
        assert info.fps == 25
        assert (info.width, info.height, info.sample_rate) == (160, 160, 16000)
        times = [float(time) for row in table for time in row[1:3]]
        assert times == sorted(times)
        assert times[-1] < len(read_video(video)) / 25


def test_written_files_hold_the_clip(corpus):
    folder, _ = corpus
    plan = plan_corpus(SETTINGS)[0]
    clip = make_clip(plan, SETTINGS)
    path = folder / "main" / f"{plan.name}.mp4"
    frames = read_video(path)
    assert frames.shape == clip.frames.shape
    error = np.mean((frames.astype(float) - clip.frames) ** 2)
    assert 10 * np.log10(255**2 / error) > 30
    wave = read_audio(path)[: len(clip.wave)].astype(float)
    lags = range(-20, 21)
    middle = clip.wave[1000 : len(wave) - 1000].astype(float)
    scores = [
        np.corrcoef(middle, wave[1000 + lag : len(wave) - 1000 + lag or None][: len(middle)])[0, 1] for lag in lags
    ]
    assert lags[int(np.argmax(scores))] == 0
    assert max(scores) > 0.95


def test_equal_files_at_any_number_of_workers(corpus, tmp_path):
    make_corpus(SETTINGS, tmp_path, workers=2)
    assert _contents(tmp_path) == _contents(corpus[0])


def test_a_stopped_run_makes_only_what_is_missing(corpus):
    folder, _ = corpus
    before = _contents(folder)
    victims = sorted(folder.rglob("*.mp4"))[:2]
    victims[0].unlink()
    victims[1].with_suffix(".txt").unlink()
    kept = sorted(folder.rglob("*.mp4"))[-1]
    stamp = kept.stat().st_mtime_ns
    counts = make_corpus(SETTINGS, folder)
    assert (counts["made"], counts["kept"]) == (2, 4)
    assert kept.stat().st_mtime_ns == stamp
    assert _contents(folder) == before


def test_a_folder_with_another_corpus_is_refused(corpus):
    folder, _ = corpus
    with pytest.raises(CorpusError, match="seed"):
        make_corpus(replace(SETTINGS, seed=6), folder)
    assert json.loads((folder / "corpus.json").read_text())["seed"] == SETTINGS.seed


def test_another_seed_gives_another_corpus():
    plan = plan_corpus(SETTINGS)[0]
    other = replace(SETTINGS, seed=6)
    assert plan_corpus(other)[0] != plan
    assert not np.array_equal(make_clip(plan, other).frames[0], make_clip(plan, SETTINGS).frames[0])
