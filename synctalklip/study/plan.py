"""Who rates which videos in which order: balanced by construction, drawn from the seed and the participant's code."""

import random
from collections.abc import Sequence

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
