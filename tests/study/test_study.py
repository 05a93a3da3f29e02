"""The perceptual study without its page: plans, blinding, what is refused, and the table."""

import csv
import itertools
import json
import math
import random
import shutil
from collections import Counter

import numpy as np
import pytest
from study_factory import answer_file, config, make_videos

from synctalklip.data import media
from synctalklip.errors import MetricError
from synctalklip.study import participants
from synctalklip.study.collect import Ratings, agreement, collect
from synctalklip.study.make import make

GIVEN = {"Ground truth": 5, "Good": 4, "Bad": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    make_videos(root)
    make(config(root))
    return root


@pytest.fixture
def study(made, tmp_path):
    """A study that was made, in a folder of its own; its codes."""
    root = shutil.copytree(made, tmp_path / "own")
    return root, list(json.loads((root / "study/key.json").read_text())["plans"])


def give(item: dict) -> int:
    return GIVEN[item["method"]]


def test_every_video_of_every_method_is_rated_equally_often():
    plans = participants.assign(clips=4, methods=3, participants=12, clips_each=2, methods_each=1)
    seen = Counter((clip, method) for one in plans for clip, methods in enumerate(one) for method in methods)
    assert set(seen.values()) == {2}
    assert len(seen) == 12
    assert all(sum(map(len, one)) == 2 for one in plans)


@pytest.mark.parametrize(("clips", "methods", "clips_each", "methods_each"), [(7, 4, 7, 1), (5, 3, 2, 2), (9, 5, 4, 3)])
def test_a_study_that_is_stopped_early_is_balanced_too(clips, methods, clips_each, methods_each):
    plans = participants.assign(clips, methods, 23, clips_each, methods_each)
    visits, ratings = np.zeros(clips, int), np.zeros((clips, methods), int)
    for one in plans:
        for clip, shown in enumerate(one):
            assert len(set(shown)) == len(shown) == (methods_each if shown else 0)
            visits[clip] += bool(shown)
            ratings[clip, shown] += 1
        assert np.ptp(visits) <= 1
        assert np.ptp(ratings, axis=1).max() <= 1


def test_checks_are_spread_and_never_first():
    for seed in range(50):
        order = participants.with_checks(list("abcdefgh"), ["X", "Y"], random.Random(seed))
        assert [name for name in order if name.islower()] == list("abcdefgh")
        first, second = sorted(order.index(check) for check in "XY")
        assert 1 <= first <= 4 < second


def test_more_participants_keep_the_codes_that_were_handed_out():
    assert participants.participant_codes(30, "1")[:10] == participants.participant_codes(10, "1")
    assert len(set(participants.participant_codes(2000, "1"))) == 2000


def test_no_clip_comes_twice_in_a_row():
    for seed in range(50):
        order = participants.shuffled([[0, 1], [0, 1], [0, 1]], random.Random(seed))
        assert sorted(order) == [(clip, method) for clip in range(3) for method in range(2)]
        assert all(a[0] != b[0] for a, b in itertools.pairwise(order))


def test_the_page_does_not_know_what_it_shows(study):
    root, codes = study
    page = root / "study/page"
    told = "".join(path.read_text() for path in page.iterdir() if path.is_file())
    assert not any(word in told for word in ("Good", "Bad", "Ground truth", "clip0", "swapped"))
    names = {path.stem for path in (page / "videos").iterdir()}
    key = json.loads((root / "study/key.json").read_text())
    assert names == set(key["items"])
    assert len(codes) == 6
    # Two clips are for practice and checks, one for swapped sound, two are rated by three methods.
    assert Counter(item["kind"] for item in key["items"].values()) == {
        "practice": 2, "swapped": 1, "instructed": 1, "rated": 6,
    }  # fmt: skip
    for order in key["plans"].values():
        assert [key["items"][name]["kind"] for name in order[:2]] == ["practice", "practice"]


def test_all_methods_are_encoded_alike(study):
    root, _ = study
    infos = [media.probe(path) for path in (root / "study/page/videos").iterdir()]
    assert len({(info.width, info.height, info.fps, info.frames, info.sample_rate) for info in infos}) == 1


def test_the_table_by_hand(study):
    root, codes = study
    for code in codes:
        answer_file(root, code, give)
    text = str(collect(config(root, "bootstrap.samples=50")))
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "5.00 ± 0.00 [5.00, 5.00]" in rows["Ground truth"]
    assert "**4.00** ± 0.00" in rows["Good"]
    assert "1.00 ± 0.00" in rows["Bad"]
    assert "alpha (ordinal): INTL 1.00" in text
    counts = [int(rows[name].split("|")[2]) for name in GIVEN]
    assert sum(counts) == 6 * 2
    assert (root / "study/table5.tex").is_file()
    with open(root / "study/ratings.csv") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_mean_spread_and_interval_of_ratings_that_differ(study):
    root, codes = study
    for code, value in zip(codes, (2, 3, 4, 2, 3, 4)):
        answer_file(root, code, lambda item, value=value: value if item["method"] == "Good" else 1)
    text = str(collect(config(root, "add_published=true")))
    with open(root / "study/table5.csv") as file:
        rows = {(row["method"], row["source"] != ""): row for row in csv.DictReader(file)}
    with open(root / "study/ratings.csv") as file:
        given = [int(row["synchronisation"]) for row in csv.DictReader(file) if row["method"] == "Good"]
    good = rows["Good", False]
    assert float(good["SYNC"]) == pytest.approx(np.mean(given))
    assert float(good["SYNC sd"]) == pytest.approx(np.std(given, ddof=1))
    assert float(good["SYNC low"]) < np.mean(given) < float(good["SYNC high"])
    assert float(rows["TalkLip", True]["AUTH"]) == 3.25
    assert "| Ground truth † | – | 3.53 | 4.85 | 4.96 |" in text


def test_the_interval_holds_for_other_raters_and_other_clips():
    rng = np.random.default_rng(0)
    key = {"methods": ["m"], "aspects": {"a": {}}, "items": {}}
    covered = 0
    for _ in range(100):
        ratings = Ratings([], key)
        ratings.raters, ratings.clips = ["r"] * 20, ["c"] * 20
        people, clips = rng.normal(0, 0.5, 20), rng.normal(0, 0.5, 20)
        ratings.values = (3 + people[:, None] + clips + rng.normal(0, 0.5, (20, 20)))[None, None]
        score = ratings.scores(200, seed=1)["m"]["a"]
        covered += score.low <= 3 <= score.high
    # Resampling the 400 ratings one by one covers 3 in less than half of the cases.
    assert 87 <= covered <= 100


def test_careless_raters_are_excluded_with_their_reason(study):
    root, codes = study
    careful, asleep, hasty, monotone, fooled, _ = codes
    answer_file(root, careful, give)
    file = json.loads(answer_file(root, asleep, give).read_text())
    key = json.loads((root / "study/key.json").read_text())
    for rating in file["ratings"]:
        if key["items"][rating["item"]]["kind"] == "instructed":
            rating["answers"] = dict.fromkeys(rating["answers"], 5)
    answer_file(root, asleep, give, ratings=file["ratings"])
    synced = json.loads(answer_file(root, fooled, give).read_text())["ratings"]
    swapped = {name for name, item in key["items"].items() if item["kind"] == "swapped"}
    synced = [r | {"answers": r["answers"] | {"synchronisation": 5}} if r["item"] in swapped else r for r in synced]
    answer_file(root, fooled, give, ratings=synced)
    fast = json.loads(answer_file(root, hasty, give).read_text())["ratings"]
    fast = [rating | {"decided_ms": 100} for rating in fast]
    answer_file(root, hasty, give, ratings=fast)
    answer_file(root, monotone, lambda item: 3)
    text = str(collect(config(root, "bootstrap.samples=10")))
    assert "by 1 participants" in text
    assert f"Excluded: {asleep}, failed 1 attention check." in text
    assert f"Excluded: {fooled}, failed 1 attention check." in text
    assert f"Excluded: {hasty}, too fast: 0.1 s" in text
    assert f"Excluded: {monotone}, no variance: 1 different value" in text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda body: body | {"study": "another"}, "belongs to study 'another'"),
        # What a participant wrote is cut, and no markup of the report.
        (
            lambda body: body | {"study": "<img src=x onerror=alert(1)> | a\n# b"},
            "'?img src?x onerror?alert?1?? ? a?n? b'",
        ),
        (lambda body: body | {"participant": "z" * 5000}, f"participant '{'z' * 59}... has no plan"),
        (lambda body: body | {"participant": "ZZZZ"}, "has no plan"),
        (lambda body: body | {"ratings": body["ratings"][:-1]}, "is incomplete"),
        (lambda body: body | {"ratings": body["ratings"][::-1]}, "not in the order"),
        (lambda body: body | {"ratings": [*body["ratings"], body["ratings"][0]]}, "is rated 2 times"),
        (lambda body: body | {"ratings": [r | {"shown_ms": r["decided_ms"]} for r in body["ratings"]]}, "before it"),
        (
            lambda body: body | {"ratings": [r | {"item": "zz"} for r in body["ratings"]]},
            "video 'zz' is not in this study",
        ),
        (lambda body: body | {"ratings": [r | {"plays": True} for r in body["ratings"]]}, "lacks plays"),
        (lambda body: body | {"finished": 0}, "ends before it starts"),
        (
            lambda body: body | {"ratings": [r | {"answers": dict.fromkeys(r["answers"], 6)} for r in body["ratings"]]},
            "none of 1",
        ),
        (lambda body: body | {"ratings": [r | {"answers": {"x": 9}} for r in body["ratings"]]}, "does not answer"),
    ],
)
def test_files_that_cannot_be_counted_are_rejected_and_the_others_are_not(study, damage, reason):
    root, codes = study
    answer_file(root, codes[0], give)
    path = answer_file(root, codes[1], give)
    body = json.loads(path.read_text())
    body.pop("checksum")
    changes = damage(body)
    answer_file(root, codes[1], give, **changes)
    text = str(collect(config(root, "bootstrap.samples=10")))
    assert "by 1 participants" in text
    (rejected,) = map(json.loads, (root / "study/rejected.jsonl").read_text().splitlines())
    assert rejected["file"] == f"{codes[1]}.json"
    assert reason in rejected["reason"]


def test_a_participant_counts_once(study):
    root, codes = study
    first = answer_file(root, codes[0], give)
    shutil.copy(first, root / f"study/results/{codes[0]} (1).json")
    kept = first.read_text()
    again = json.loads(answer_file(root, codes[0], lambda item: 3, finished=9).read_text())
    (root / "study/results/again.json").write_text(json.dumps(again))
    first.write_text(kept)
    text = str(collect(config(root, "bootstrap.samples=10")))
    assert "by 1 participants" in text
    assert f"{codes[0]}.json is a copy of {codes[0]} (1).json" in text
    assert "again.json is a second file of this participant" in text


@pytest.mark.parametrize("content", [b"", b"[" * 100000, b"\xff\xfe", b"[]", b"NaN", b'{"format": 1}', b"9" * 5000])
def test_hostile_files_do_not_stop_the_others(study, content):
    root, codes = study
    answer_file(root, codes[0], give)
    (root / "study/results/hostile.json").write_bytes(content)
    text = str(collect(config(root, "bootstrap.samples=10")))
    assert "by 1 participants" in text
    assert "Rejected: hostile.json" in text


def test_an_edited_file_is_found(study):
    root, codes = study
    path = answer_file(root, codes[0], give)
    path.write_text(path.read_text().replace('"plays": 1', '"plays": 2'))
    (root / "study/results/broken.json").write_text("{")
    with pytest.raises(MetricError, match="nobody is left") as error:
        collect(config(root))
    assert "no JSON file, or was cut" in str(error.value)
    rejected = (root / "study/rejected.jsonl").read_text()
    assert "was changed after it was saved" in rejected


def test_krippendorff_of_a_published_table():
    # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units, nominal 0.743.
    x = math.nan
    table = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, x, x, x],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, x, 3],
            [x, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, x],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, x],
        ]
    )
    assert agreement(table, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert math.isnan(agreement(np.full((2, 3), 4.0), "ordinal"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "good/clip1.mp4").unlink(), "clip1.mp4 is missing"),
        (lambda root: media.write_video(root / "good/clip1.mp4", np.zeros((12, 64, 64, 3), np.uint8)), "lacks sound"),
        (
            lambda root: media.write_video(
                root / "good/clip1.mp4", np.zeros((12, 32, 64, 3), np.uint8), wave=np.zeros(7680, np.int16)
            ),
            "64x32",
        ),
        (
            lambda root: media.write_video(
                root / "good/clip1.mp4", np.zeros((40, 64, 64, 3), np.uint8), wave=np.zeros(25600, np.int16)
            ),
            "lasts 1.60 s",
        ),
    ],
)
def test_videos_that_would_give_a_method_away_are_refused(tmp_path, change, reason):
    make_videos(tmp_path)
    change(tmp_path)
    # With this seed the clip is rated; one that is kept for practice is not compared.
    with pytest.raises(MetricError, match=reason):
        make(config(tmp_path, "seed=2"))


def test_a_second_study_does_not_overwrite_the_first(study):
    root, _ = study
    make(config(root))
    with pytest.raises(MetricError, match="holds study"):
        make(config(root, "participants=7"))
