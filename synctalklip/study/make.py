"""Build the page of a study: blinded videos, one plan a participant, and the key that stays with the researcher."""

import csv
import hashlib
import importlib.resources
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from synctalklip.checkpoint import file_hash
from synctalklip.cli import to_dict
from synctalklip.data import media
from synctalklip.data.encode import write_bytes
from synctalklip.errors import MetricError
from synctalklip.study.participants import FORMAT, SCALE, assign, load_key, participant_codes, shuffled, with_checks

PRACTICE = 2
# Of the width: lips are gone, a head is still seen.
BLUR = 1 / 40


@dataclass(frozen=True)
class Item:
    """One video of the page.

    Attributes:
        kind: "rated", "practice", "instructed" or "swapped".
        method: whose video it is.
        clip: id of the clip.
        sound_of: clip whose sound is heard; the same one but for swapped sound.
        blurred: shown as the bad example.
        note: what the participant reads beside it.
        value: the answer that an instructed item asks for in every row.
        seconds: length.
    """

    kind: str
    method: str
    clip: str
    sound_of: str
    seconds: float
    blurred: bool = False
    note: str = ""
    value: int | None = None


@dataclass(frozen=True)
class Made:
    """What `make` wrote."""

    folder: Path
    study: str
    participants: int
    videos_each: int
    ratings: Counter[int]

    def __str__(self) -> str:
        low, high = min(self.ratings), max(self.ratings)
        times = f"{low} times" if low == high else f"{low} to {high} times"
        return (
            f"study {self.study}: {self.participants} participants, {self.videos_each} videos each; every video of "
            f"every method is rated {times} if all take part\npage: {self.folder / 'page' / 'index.html'}\n"
            f"codes to hand out, in this order: {self.folder / 'participants.csv'}\n"
            f"key, for you alone: {self.folder / 'key.json'}"
        )


def make(cfg: DictConfig) -> Made:
    """Build the study of `configs/study.yaml` in `cfg.run.dir`.

    A second run with the same settings and videos finishes what a killed one left.

    Raises:
        MetricError: a video is missing or does not fit the ground truth, there are too few clips for the plan, or
            the folder holds another study.
        MediaError: a video that cannot be read.
    """
    folders = _folders(cfg)
    rng = random.Random(f"{cfg.seed}/roles")
    clips = _clips(cfg, folders)
    clips = rng.sample(clips, len(clips))
    reserved = clips[: PRACTICE + cfg.checks.swapped]
    rated = clips[len(reserved) :][: cfg.limit]
    clips_each = len(rated) if cfg.clips_each is None else cfg.clips_each
    if not (0 < clips_each <= len(rated) and 0 < cfg.methods_each <= len(folders)):
        raise MetricError(
            f"{cfg.ground_truth}: {len(clips)} clips, of which {len(reserved)} are kept for practice and checks, and "
            f"{len(folders)} methods do not give each participant {clips_each} clips by {cfg.methods_each} methods: "
            "give more videos, or a smaller clips_each or methods_each"
        )
    lengths = _checked_lengths(cfg, folders, reserved, rated)
    items = _items(cfg, list(folders), reserved, rated, lengths)
    names = {_opaque(cfg.seed, folders, item): item for item in items}
    plans = _plans(cfg, names, list(folders), rated, clips_each)
    key = _key(cfg, list(folders), names, plans)
    folder = Path(cfg.run.dir)
    _assert_same_study(folder / "key.json", key["study"])
    for name, item in tqdm(names.items(), desc="videos", unit="video"):
        _render(folder / "page" / "videos" / f"{name}.mp4", folders[item.method], item)
    write_site(cfg, folder, key)
    shown = Counter(name for order in plans.values() for name in order)
    ratings = Counter(shown[name] for name, item in names.items() if item.kind == "rated")
    return Made(folder, key["study"], len(plans), len(next(iter(plans.values()))), ratings)


def _folders(cfg: DictConfig) -> dict[str, Path]:
    """Name -> folder, the ground truth first."""
    if cfg.participants < 1 or cfg.checks.value not in SCALE:
        raise MetricError(
            f"participants={cfg.participants} with checks.value={cfg.checks.value} make no study: give at least one "
            f"participant, and a value from {SCALE[0]} to {SCALE[-1]}"
        )
    if cfg.ground_truth is None or not cfg.methods:
        raise MetricError("study make needs folders of <id>.mp4: ground_truth=folder 'methods={Name:folder,...}'")
    folders = {cfg.ground_truth_name: Path(cfg.ground_truth)}
    for name, folder in cfg.methods.items():
        if str(name) in folders:
            raise MetricError(f"methods: {name!r} is the name of the ground truth; choose another one")
        folders[str(name)] = Path(folder)
    for folder in folders.values():
        if not folder.is_dir():
            raise MetricError(f"{folder} is no folder: give folders of <id>.mp4")
    return folders


def _clips(cfg: DictConfig, folders: dict[str, Path]) -> list[str]:
    truth = Path(cfg.ground_truth)
    found = sorted(path.relative_to(truth).with_suffix("").as_posix() for path in truth.rglob("*.mp4"))
    clips = found if cfg.clips is None else [str(clip) for clip in cfg.clips]
    paths = [folder / f"{clip}.mp4" for folder in folders.values() for clip in clips]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MetricError(
            f"{missing[0]} is missing ({len(missing)} of {len(paths)} videos are): every method needs every clip; "
            "generate it, or name the clips to use with clips=[id,...]"
        )
    return clips


def _checked_lengths(
    cfg: DictConfig, folders: dict[str, Path], reserved: list[str], rated: list[str]
) -> dict[tuple[str, str], float]:
    """Seconds of every video that is shown. A method must not be known by the size or length of its videos."""
    truth, lengths = cfg.ground_truth_name, {}
    for clip in tqdm([*reserved, *rated], desc="checking", unit="clip"):
        real = media.probe(folders[truth] / f"{clip}.mp4")
        for name, folder in folders.items():
            if clip in reserved and name != truth:
                continue
            path = folder / f"{clip}.mp4"
            info = media.probe(path)
            if info.sample_rate is None or info.frames == 0:
                raise MetricError(f"{path} lacks sound or pictures: participants rate both together; mux them")
            if (info.width, info.height) != (real.width, real.height):
                raise MetricError(
                    f"{path} has frames of {info.width}x{info.height}, the ground truth of {real.width}x{real.height}: "
                    "generate at the size of the source video"
                )
            seconds, expected = (float(video.frames / (video.fps or media.FPS)) for video in (info, real))
            if abs(seconds - expected) > cfg.length_tolerance:
                raise MetricError(
                    f"{path} lasts {seconds:.2f} s, the ground truth {expected:.2f} s: generate it whole, or raise "
                    "length_tolerance"
                )
            lengths[name, clip] = round(seconds, 2)
    return lengths


def _items(
    cfg: DictConfig, methods: list[str], reserved: list[str], rated: list[str], lengths: dict[tuple[str, str], float]
) -> list[Item]:
    truth = methods[0]
    good, bad, *swapped = reserved

    def real(kind: str, clip: str, sound_of: str, **more: Any) -> Item:
        return Item(kind, truth, clip, sound_of, lengths[truth, clip], **more)

    items = [
        real("practice", good, good, note=cfg.text.good_example),
        real("practice", bad, good, note=cfg.text.bad_example, blurred=True),
    ]
    items += [real("swapped", clip, good) for clip in swapped]
    if cfg.checks.instructed:
        note = cfg.text.instruction.replace("{value}", str(cfg.checks.value))
        items.append(real("instructed", bad, bad, note=note, value=cfg.checks.value))
    items += [Item("rated", method, clip, clip, lengths[method, clip]) for clip in sorted(rated) for method in methods]
    return items


def _opaque(seed: int, folders: dict[str, Path], item: Item) -> str:
    """A file name that says nothing to who does not have the source video."""
    digests = [file_hash(folders[item.method] / f"{clip}.mp4") for clip in (item.clip, item.sound_of)]
    text = "/".join([str(seed), *digests, *map(str, asdict(item).values())])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plans(
    cfg: DictConfig, names: dict[str, Item], methods: list[str], rated: list[str], clips_each: int
) -> dict[str, list[str]]:
    practice = [name for name, item in names.items() if item.kind == "practice"]
    checks = [name for name, item in names.items() if item.kind in ("instructed", "swapped")]
    by_pair = {(item.clip, item.method): name for name, item in names.items() if item.kind == "rated"}
    assigned = assign(len(rated), len(methods), cfg.participants, clips_each, cfg.methods_each)
    plans = {}
    for code, numbers in zip(participant_codes(cfg.participants, str(cfg.seed)), assigned):
        rng = random.Random(f"{cfg.seed}/{code}")
        order = [by_pair[rated[clip], methods[method]] for clip, method in shuffled(numbers, rng)]
        plans[code] = practice + with_checks(order, checks, rng)
    return plans


def _key(cfg: DictConfig, methods: list[str], names: dict[str, Item], plans: dict[str, list[str]]) -> dict[str, Any]:
    key = {
        "format": FORMAT,
        "title": cfg.text.title,
        "seed": cfg.seed,
        "aspects": OmegaConf.to_container(cfg.aspects),
        "methods": methods,
        "items": {name: asdict(item) for name, item in names.items()},
        "plans": plans,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return {"study": digest[:12], **key}


def _assert_same_study(path: Path, study: str) -> None:
    if not path.is_file():
        return
    other = load_key(path)["study"]
    if other != study:
        raise MetricError(
            f"{path.parent} holds study {other}, made from other videos or settings; its answers would not fit any "
            "more: give another run.name, or delete the folder"
        )


def _render(path: Path, folder: Path, item: Item) -> None:
    """Every method through the same encoder, rate and sound, so that nothing but the picture tells them apart."""
    if path.is_file():
        return
    frames = list(media.read_frames(folder / f"{item.clip}.mp4"))
    samples = len(frames) * media.SAMPLE_RATE // media.FPS
    wave = media.read_audio(folder / f"{item.sound_of}.mp4")
    # A foreign sound that ended early would be known by the silence.
    wave = wave[:samples] if item.sound_of == item.clip else np.resize(wave, samples)
    media.write_video(path, _blurred(frames) if item.blurred else frames, wave=wave)


def _blurred(frames: list[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield cv2.GaussianBlur(frame, (0, 0), BLUR * frame.shape[1])


PAGE_FILES = ("index.html", "style.css", "study.js")


def write_site(cfg: DictConfig, folder: Path, key: dict[str, Any]) -> None:
    """Write `page/` beside its videos, `participants.csv`, an empty `results/` and `key.json`.

    Args:
        cfg: `configs/study.yaml`.
        folder: of the study.
        key: what each video is, and the plan of each participant.
    """
    template = importlib.resources.files("synctalklip.study") / "page"
    for name in PAGE_FILES:
        write_bytes(folder / "page" / name, (template / name).read_bytes())
    data = json.dumps(_page_data(cfg, key), ensure_ascii=False, indent=1)
    write_bytes(folder / "page" / "data.js", f"window.STUDY = {data};\n".encode())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["code", "page"])
    writer.writerows([code, f"index.html?code={code}"] for code in key["plans"])
    write_bytes(folder / "participants.csv", table.getvalue().encode())
    (folder / "results").mkdir(exist_ok=True)
    write_bytes(folder / "key.json", json.dumps(key, ensure_ascii=False, indent=1).encode())


def _page_data(cfg: DictConfig, key: dict[str, Any]) -> dict[str, Any]:
    """What the page may know: neither methods, nor clips, nor which video is a hidden check."""
    first = next(iter(key["plans"].values()))
    seconds = sum(key["items"][name]["seconds"] + cfg.seconds_to_answer for name in first)
    practice = sum(item["kind"] == "practice" for item in key["items"].values())
    text = to_dict(cfg.text)
    facts = {"{videos}": str(len(first) - practice), "{minutes}": str(max(1, round(seconds / 60)))}
    for mark, value in facts.items():
        text["introduction"] = [paragraph.replace(mark, value) for paragraph in text["introduction"]]
    items = {
        name: {"note": item["note"], "practice": item["kind"] == "practice"} for name, item in key["items"].items()
    }
    return {
        "study": key["study"],
        "format": FORMAT,
        "scale": list(SCALE),
        "text": text,
        "aspects": key["aspects"],
        "items": dict(sorted(items.items())),
        "plans": key["plans"],
    }
