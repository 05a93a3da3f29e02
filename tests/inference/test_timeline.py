"""When frames are shown and what the speech says then."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from synctalklip.data.features import audio_features
from synctalklip.inference.timeline import (
    SpeechEmbeddings,
    fill_short_gaps,
    frame_plan,
    output_frames,
    ping_pong,
)

NTSC = Fraction(60000, 1001)


def test_ping_pong_never_shows_an_end_twice():
    assert [ping_pong(index, 4) for index in range(13)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert [ping_pong(index, 2) for index in range(5)] == [0, 1, 0, 1, 0]
    assert {ping_pong(index, 1) for index in range(5)} == {0}


@pytest.mark.parametrize(
    ("samples", "fps", "frames"),
    [(640 * 75, 25, 75), (640 * 75 + 1, 25, 76), (16000, 30, 30), (16000, NTSC, 60), (1, 25, 1)],
)
def test_output_covers_the_speech(samples, fps, frames):
    assert output_frames(samples, Fraction(fps)) == frames


def test_plan_of_a_short_speech_cuts_or_keeps():
    cut = list(frame_plan(10, 4, Fraction(25), shorter="cut"))
    assert [frame.source for frame in cut] == [0, 1, 2, 3]
    assert [frame.time for frame in cut] == [Fraction(index, 25) for index in range(4)]
    keep = list(frame_plan(10, 4, Fraction(25), shorter="keep"))
    assert keep[:4] == cut
    assert [(frame.source, frame.time) for frame in keep[4:]] == [(index, None) for index in range(4, 10)]


def test_plan_of_a_long_speech_plays_back_and_forth_at_the_same_pace():
    plan = list(frame_plan(3, 60, NTSC))
    assert len(plan) == 60
    assert [frame.source for frame in plan[:6]] == [0, 1, 2, 1, 0, 1]
    assert plan[30].time == 30 / NTSC


@pytest.mark.parametrize(
    ("longer", "shown"),
    [
        ("bounce", [0, 1, 2, 1, 0, 1, 2, 1]),
        ("loop", [0, 1, 2, 0, 1, 2, 0, 1]),
        ("freeze", [0, 1, 2, 2, 2, 2, 2, 2]),
        ("cut", [0, 1, 2]),
    ],
)
def test_plan_of_a_long_speech(longer, shown):
    plan = list(frame_plan(3, 8, Fraction(25), longer))
    assert [frame.source for frame in plan] == shown
    assert [frame.time for frame in plan] == [Fraction(index, 25) for index in range(len(shown))]


def test_gaps():
    detected = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1, 0], bool)
    assert fill_short_gaps(detected, 2).tolist() == [False, *[True] * 4, *[False] * 3, True, False]
    assert fill_short_gaps(detected, 0).tolist() == detected.tolist()


def noise(rows, seed=0):
    return np.random.default_rng(seed).integers(-3000, 3000, rows * 640).astype(np.int16)


def identity_encoder(audio, padding_mask):
    assert audio.shape[0] == len(padding_mask) == 1
    assert audio.shape[2] == padding_mask.shape[1]
    return audio.transpose(1, 2)


def at_rows(rows):
    return [Fraction(row, 25) for row in rows]


def test_embeddings_at_25_fps_are_the_rows_of_training():
    wave = noise(30)
    speech = SpeechEmbeddings(identity_encoder, wave, 500, 50, "linear")
    assert torch.equal(speech(at_rows(range(30))), audio_features(wave, 30))


def test_pieces_equal_the_whole():
    wave = noise(40)[:-300]
    calls = []

    def encode(audio, mask):
        calls.append(audio.shape[2])
        return identity_encoder(audio, mask)

    speech = SpeechEmbeddings(encode, wave, 7, 2, "linear")
    got = torch.cat([speech(at_rows([row])) for row in range(40)])
    torch.testing.assert_close(got, audio_features(wave, 40), rtol=0, atol=1e-4)
    assert calls == [9, 11, 11, 11, 11, 7]


def test_between_rows():
    wave = noise(10)
    rows = audio_features(wave, 10)
    linear = SpeechEmbeddings(identity_encoder, wave, 4, 2, "linear")
    torch.testing.assert_close(linear([Fraction(15, 100)])[0], torch.lerp(rows[3], rows[4], 0.75), atol=1e-4, rtol=0)
    nearest = SpeechEmbeddings(identity_encoder, wave, 500, 2, "nearest")
    assert torch.equal(nearest([Fraction(15, 100), Fraction(13, 100)]), rows[[4, 3]])


def test_ends_are_held():
    wave = noise(5)
    speech = SpeechEmbeddings(identity_encoder, wave, 500, 2, "linear")
    rows = audio_features(wave, 5)
    assert torch.equal(speech([Fraction(-1), Fraction(9)]), rows[[0, 4]])
