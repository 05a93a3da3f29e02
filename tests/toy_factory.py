"""A toy corpus whose mouths open with the sound, written as a prepared folder."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from synctalklip.data.manifest import Clip, read_manifest, write_manifest
from synctalklip.data.media import write_video, write_wav

FRAMES = 40


def toy_clip(seed: int, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Faces (T,96,96,3) uint8 and sound (640T,) int16 that are driven by one random curve."""
    rng = np.random.default_rng(seed)
    knots = rng.random((2, frames // 3 + 2))
    opening, width = (np.interp(np.arange(frames) / 3, np.arange(knots.shape[1]), row) for row in knots)
    skin = rng.integers(120, 200, 3)
    faces = np.empty((frames, 96, 96, 3), np.uint8)
    for face, o, w in zip(faces, opening, width):
        face[:] = skin
        axes = (int(10 + 12 * w), int(1 + 13 * o))
        cv2.ellipse(face, (48, 70), axes, 0, 0, 360, (40, 40, 90), -1, cv2.LINE_AA)
    faces = np.clip(faces + rng.normal(0, 3, faces.shape), 0, 255).astype(np.uint8)
    time = np.arange(640 * frames) / 640
    loud = np.interp(time, np.arange(frames) + 0.5, opening)
    pitch = 300 + 1200 * np.interp(time, np.arange(frames) + 0.5, width)
    wave = np.sin(2 * np.pi * np.cumsum(pitch) / 16000) * (0.02 + loud) * 8000 + rng.normal(0, 60, len(time))
    return faces, wave.astype(np.int16)


def write_clip(root: Path, name: str, split: str, seed: int, text: str = "bin blue at f two now") -> Clip:
    """One prepared clip; its ROI is the grey face crop, so the matrices are the identity."""
    faces, wave = toy_clip(seed)
    grey = np.stack([cv2.cvtColor(face, cv2.COLOR_BGR2GRAY) for face in faces])
    clip = Clip(name, split, len(faces), len(wave), text, "toy", f"{name}.mp4", "landmark", root=root)
    for file in clip.files():
        file.parent.mkdir(parents=True, exist_ok=True)
    write_video(clip.faces, faces, crf=8, pixel_format="yuv444p")
    write_video(clip.rois, grey, crf=8)
    write_wav(clip.wav, wave)
    matrices = np.tile(np.eye(2, 3, dtype=np.float32), (len(faces), 1, 1))
    # Edges lie half a pixel outside the centres of the first and last pixel: columns 20..115, rows 10..105.
    boxes = np.tile(np.array([19.5, 9.5, 115.5, 105.5], np.float32), (len(faces), 1))
    np.savez(clip.track, boxes=boxes, matrices=matrices, landmarks=np.zeros((len(faces), 68, 2), np.float32))
    return clip


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared folder: 24 training, 6 validation and 3 test clips of 40 frames."""
    root = tmp_path_factory.mktemp("toy")
    splits = {"train": 24, "valid": 6, "test": 3}
    names = [(split, i) for split, count in splits.items() for i in range(count)]
    clips = [write_clip(root, f"{split}_{i}", split, seed) for seed, (split, i) in enumerate(names)]
    write_manifest(root / "manifest.jsonl", clips)
    assert len(read_manifest(root)) == len(names)
    return root
