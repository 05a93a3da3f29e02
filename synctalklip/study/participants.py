"""The participants of a study: their codes, who rates which videos in which order (balanced by construction, drawn from
the seed and the code), and the file that each saves: its form, its checksum, and what makes it unusable.
"""

import json
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import reason_of
from synctalklip.errors import MetricError

# No vowels, so that no code is a word, and nothing that is mistaken for something else.
CODE_LETTERS = "BCDFGHJKMNPQRSTVWXZ23456789"
CODE_LENGTH = 4


def participant_codes(count: int, seed: str) -> list[str]:
    """Different short codes; more participants keep the codes that fewer would get."""
    rng = random.Random(f"{seed}/codes")
    codes: dict[str, None] = {}
    while len(codes) < count:
        codes["".join(rng.choices(CODE_LETTERS, k=CODE_LENGTH))] = None
    return list(codes)


def assign(clips: int, methods: int, participants: int, clips_each: int, methods_each: int) -> list[list[list[int]]]:
    """Balanced assignment, a cyclic Latin square where everyone sees every clip once.

    Each participant takes the next `clips_each` clips on a circle of all clips, and each visit of a clip takes the
    next `methods_each` methods on a circle of all methods, which starts one further for every clip. So after any
    number of participants two clips differ by at most one visit, and the methods of a clip by at most one rating.

    Args:
        clips: number of clips.
        methods: number of methods, the ground truth counted.
        participants: number of plans.
        clips_each: different clips that a participant sees.
        methods_each: how often a participant sees one clip, each time by another method.

    Returns:
        For each participant and clip number the numbers of the methods; empty for clips that he does not see.
    """
    visits, plans, start = [0] * clips, [], 0
    for _ in range(participants):
        plan: list[list[int]] = [[] for _ in range(clips)]
        for clip in (number % clips for number in range(start, start + clips_each)):
            first = clip + visits[clip] * methods_each
            plan[clip] = [(first + step) % methods for step in range(methods_each)]
            visits[clip] += 1
        plans.append(plan)
        start = (start + clips_each) % clips
    return plans


def shuffled(plan: Sequence[Sequence[int]], rng: random.Random) -> list[tuple[int, int]]:
    """A random order of (clip, method) in which no clip comes twice in a row where that can be avoided.

    Clips come in rounds: no clip is seen a second time before all were seen once.
    """
    left = {clip: rng.sample(methods, len(methods)) for clip, methods in enumerate(plan) if methods}
    order: list[tuple[int, int]] = []
    while left:
        turn = rng.sample(sorted(left), len(left))
        if order and turn[0] == order[-1][0]:
            turn.append(turn.pop(0))
        order += [(clip, left[clip].pop()) for clip in turn]
        left = {clip: methods for clip, methods in left.items() if methods}
    return order


def with_checks(order: Sequence[str], checks: Sequence[str], rng: random.Random) -> list[str]:
    """Put one attention check into each of as many equal stretches of the order, never in front of all videos."""
    mixed = list(order)
    checks = rng.sample(checks, len(checks))
    for number in reversed(range(len(checks))):
        first, last = (len(order) * end // len(checks) for end in (number, number + 1))
        mixed.insert(rng.randint(max(1, first), max(1, last)), checks[number])
    return mixed


FORMAT = 1
SCALE = (1, 2, 3, 4, 5)
LARGEST_FILE = 2**22
LATEST_TIME = 2**53
LONGEST_SAID = 60
# A video may end a little before the length in its header.
SHORTEST_WATCH = 0.9


class Unusable(Exception):
    """Why a participant's file cannot be counted."""


@dataclass(frozen=True)
class Answers:
    """One participant's checked file.

    Attributes:
        path: the file.
        participant: code.
        finished: milliseconds since 1970.
        ratings: one dictionary a video, in the order seen: item, answers, plays, shown_ms, decided_ms.
    """

    path: Path
    participant: str
    finished: int
    ratings: list[dict[str, Any]]


def load_key(path: str | Path) -> dict[str, Any]:
    """Read the key that `make` wrote.

    Raises:
        MetricError: missing, or not such a key.
    """
    try:
        key = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MetricError(
            f"{path} cannot be read ({reason_of(error)}): run scripts/study.py make, or give key=file"
        ) from error
    if not isinstance(key, dict) or key.get("format") != FORMAT or "plans" not in key:
        raise MetricError(f"{path} is no key of a study in this format: give the key.json that study.py make wrote")
    return key


def checksum(body: dict[str, Any]) -> str:
    """CRC-32 of the body as compact JSON with sorted keys; the page computes the same (`page/study.js`).

    It finds damaged and hand-edited files. It is no signature: who knows it can forge a file.
    """
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def read_answers(path: Path, key: dict[str, Any]) -> Answers:
    """Read and check one participant's file.

    Args:
        path: JSON file.
        key: see `load_key`.

    Raises:
        Unusable: with the reason.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise Unusable("is far larger than an answer file")
        body = json.loads(path.read_bytes())
    except OSError as error:
        raise Unusable(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Unusable("is no JSON file, or was cut") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise Unusable(f"is no answer file of format {FORMAT}")
    if body.get("study") != key["study"]:
        raise Unusable(f"belongs to study {said(body.get('study'))}, not to {key['study']!r}")
    if body.get("participant") not in list(key["plans"]):
        raise Unusable(f"participant {said(body.get('participant'))} has no plan in this study")
    _check_form(body, list(key["aspects"]))
    stored = body.pop("checksum", None)
    if stored != checksum(body):
        raise Unusable("was changed after it was saved: its checksum does not fit")
    _check_items(body, key)
    return Answers(path, body["participant"], body["finished"], body["ratings"])


def said(value: object) -> str:
    """What a file holds, for a sentence in a report: short, on one line, and no markup whatever it is."""
    shown = repr(value)
    shown = shown if len(shown) <= LONGEST_SAID else f"{shown[:LONGEST_SAID]}..."
    return re.sub(r"[^\w .,:+/'-]", "?", shown)


def _whole(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LATEST_TIME


def _check_form(body: dict[str, Any], aspects: list[str]) -> None:
    ratings = body.get("ratings")
    if not isinstance(ratings, list) or not _whole(body.get("started")) or not _whole(body.get("finished")):
        raise Unusable("lacks ratings, started or finished")
    if body["finished"] < body["started"]:
        raise Unusable("ends before it starts")
    for number, rating in enumerate(ratings, 1):
        if not isinstance(rating, dict) or not isinstance(rating.get("item"), str):
            raise Unusable(f"rating {number} names no video")
        answers = rating.get("answers")
        if not isinstance(answers, dict) or sorted(answers) != sorted(aspects):
            raise Unusable(f"rating {number} does not answer {', '.join(aspects)}")
        if any(not _whole(value) or value not in SCALE for value in answers.values()):
            raise Unusable(f"rating {number} has a value that is none of {', '.join(map(str, SCALE))}")
        if not _whole(rating.get("plays"), 1) or not all(_whole(rating.get(k)) for k in ("shown_ms", "decided_ms")):
            raise Unusable(f"rating {number} lacks plays, shown_ms or decided_ms")


def _check_items(body: dict[str, Any], key: dict[str, Any]) -> None:
    plan, rated = key["plans"][body["participant"]], [rating["item"] for rating in body["ratings"]]
    for item in rated:
        if item not in key["items"]:
            raise Unusable(f"video {said(item)} is not in this study")
        if item not in plan:
            raise Unusable(f"video {item} is not in the plan of participant {body['participant']}")
    if len(set(rated)) < len(rated):
        twice = next(item for item in rated if rated.count(item) > 1)
        raise Unusable(f"video {twice} is rated {rated.count(twice)} times")
    if len(rated) < len(plan):
        raise Unusable(f"is incomplete: {len(rated)} of {len(plan)} videos rated")
    if rated != plan:
        raise Unusable(f"the videos are not in the order of participant {body['participant']}")
    for rating in body["ratings"]:
        watched = rating["shown_ms"] - rating["decided_ms"]
        if watched < SHORTEST_WATCH * 1000 * key["items"][rating["item"]]["seconds"]:
            raise Unusable(f"video {rating['item']} was rated after {watched / 1000:.1f} s, before it can have ended")
