"""A small prepared folder with clips that behave like prepared ones, made in a second, for tests of every stage.

The pictures are smooth random patterns with a dark mouth whose opening follows the loudness of the sound, so that
faces, mouth ROIs, matrices and sound belong together.
"""

from pathlib import Path

import cv2
import numpy as np

from synctalklip.data.manifest import Clip, write_manifest
from synctalklip.data.media import write_video, write_wav
from synctalklip.data.text import train_tokenizer

SOURCE, SIZE = 160, 96
WORDS = {
    "verb": ("bin", "lay", "place", "set"),
    "colour": ("blue", "green", "red", "white"),
    "digit": ("one", "two", "three", "four"),
}


def make_prepared(root: Path, clips: dict[str, int], frames: tuple[int, ...] = (20, 25, 31), seed: int = 0) -> Path:
    """Write a prepared folder with a manifest and a word tokenizer.

    Args:
        root: folder to fill.
        clips: number of clips by split.
        frames: lengths of the clips, taken in turn.
        seed: seed of everything that is drawn.

    Returns:
        `root`.
    """
    records, index = [], 0
    for split, count in clips.items():
        for _ in range(count):
            rng = np.random.default_rng((seed, index))
            text = " ".join(str(rng.choice(words)) for words in WORDS.values())
            length = frames[index % len(frames)]
            clip = Clip(f"s{index % 3}/c{index:03d}", split, length, 640 * length, text, f"s{index % 3}", root=root)
            write_clip(clip, rng)
            records.append(clip)
            index += 1
    write_manifest(root / "manifest.jsonl", records)
    every = [" ".join(words) for words in zip(*WORDS.values(), strict=True)]
    train_tokenizer(every, root / "tokenizer.model", "word")
    return root


def write_clip(clip: Clip, rng: np.random.Generator) -> None:
    """Write faces, ROIs, sound and track of one clip."""
    for file in clip.files():
        file.parent.mkdir(parents=True, exist_ok=True)
    opening = 0.5 + 0.5 * np.sin(np.arange(clip.frames) * rng.uniform(0.3, 0.9) + rng.uniform(0, 6))
    loudness = np.interp(np.arange(clip.samples) / 640, np.arange(clip.frames), opening)
    wave = (rng.standard_normal(clip.samples) * loudness * 3000).astype(np.int16)
    pattern = cv2.resize(
        rng.integers(60, 220, (6, 6, 3)).astype(np.uint8), (SOURCE, SOURCE), interpolation=cv2.INTER_CUBIC
    )
    faces, rois, boxes, matrices = [], [], [], []
    for t in range(clip.frames):
        frame = pattern.copy()
        centre = (80 + 2 * np.sin(t / 5), 108 + 2 * np.cos(t / 7))
        axes = (18, 2 + int(12 * opening[t]))
        cv2.ellipse(frame, (int(centre[0]), int(centre[1])), axes, 0, 0, 360, (20, 20, 60), -1, cv2.LINE_AA)
        left, top = round(centre[0]) - SIZE // 2, round(centre[1]) - 76
        face = frame[top : top + SIZE, left : left + SIZE]
        # The mouth (48, 76) of the crop goes to the middle of the ROI, a little smaller than it is.
        scale = 0.8 + 0.02 * np.sin(t / 3)
        matrix = np.array([[scale, 0, 48 - scale * 48], [0, scale, 48 - scale * 76]], np.float32)
        from_source = matrix.copy()
        from_source[:, 2] -= matrix[:, :2] @ np.array([left, top], np.float32)
        grey = frame @ np.array([0.114, 0.587, 0.299])
        rois.append(cv2.warpAffine(grey.round().astype(np.uint8), from_source, (SIZE, SIZE), flags=cv2.INTER_LINEAR))
        faces.append(face)
        boxes.append((left, top, left + SIZE, top + SIZE))
        matrices.append(matrix)
    write_video(clip.faces, np.stack(faces), crf=10)
    write_video(clip.rois, np.stack(rois), crf=10)
    write_wav(clip.wav, wave)
    np.savez(clip.track, boxes=np.asarray(boxes, np.float32), matrices=np.stack(matrices))
