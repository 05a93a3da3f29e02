"""A small study of three methods, and participants who answer it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from synctalklip.cli import CONFIGS
from synctalklip.data import media
from synctalklip.study.participants import FORMAT, checksum

METHODS = ("truth", "good", "bad")
ASPECTS = ("intelligibility", "synchronisation", "authenticity")


def make_videos(root: Path, clips: int = 5, frames: int = 12) -> None:
    """A folder a method; each clip has its own colour and tone, each method its own brightness."""
    for level, method in enumerate(METHODS):
        for clip in range(clips):
            pictures = np.full((frames, 64, 64, 3), 40 * level + 10 * clip, np.uint8)
            pictures[:, 8:56, 8:56] = np.random.default_rng(clip).integers(0, 255, (frames, 48, 48, 3), np.uint8)
            wave = (8000 * np.sin(np.arange(640 * frames) * 0.05 * (clip + 1))).astype(np.int16)
            media.write_video(root / method / f"clip{clip}.mp4", pictures, wave=wave)


def config(root: Path, *more: str) -> DictConfig:
    folders = [f"ground_truth={root}/truth", f"methods={{Good:{root}/good,Bad:{root}/bad}}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("study", ["run.name=study", f"run.dir={root}/study", "participants=6", *folders, *more])


def answer_file(root: Path, code: str, give: Callable[[dict], int], **changes) -> Path:
    """What the page of a participant saves; `give` rates an item of the key, attention checks are passed."""
    key = json.loads((root / "study/key.json").read_text())
    ratings = []
    for name in key["plans"][code]:
        item = key["items"][name]
        value = {"instructed": item["value"], "swapped": 1}.get(item["kind"]) or give(item)
        watched = int(1000 * item["seconds"]) + 1
        ratings.append(
            {
                "item": name, "answers": dict.fromkeys(ASPECTS, value), "plays": 1, "shown_ms": watched + 3000,
                "decided_ms": 3000,
            }
        )  # fmt: skip
    body = {
        "format": FORMAT, "study": key["study"], "participant": code, "started": 1, "finished": 2, "ratings": ratings
    } | changes  # fmt: skip
    path = root / "study/results" / f"{code}.json"
    path.write_text(json.dumps(body | {"checksum": checksum(body)}))
    return path
