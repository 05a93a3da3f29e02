"""What a distance between sound and lips knows of time: the offset it finds, and its answer to a wrong mouth.

T frames, N frames or windows of a clip. Tables hold the distance of sound i to lips j.
"""

import numpy as np


def window_distances(distances: np.ndarray, frames: int) -> np.ndarray:
    """Mean distance of windows of consecutive frames, as SyncNet compares them.

    Args:
        distances: (T,T) of single frames.
        frames: of a window.

    Returns:
        (N,N), N = T - frames + 1, of the window that begins with sound i to that which begins with lips j.

    Raises:
        ValueError: the clip is shorter than a window.
    """
    windows = len(distances) - frames + 1
    if windows < 1:
        raise ValueError(f"{len(distances)} frames hold no window of {frames}")
    table = np.asarray(distances, np.float64)
    pieces = (table[k : k + windows, k : k + windows] for k in range(frames))
    return sum(pieces, np.zeros((windows, windows))) / frames


def offset_counts(distances: np.ndarray) -> dict[str, float]:
    """Sums over one clip for the offset accuracy, the bias, and own against next.

    The lips found for a sound are the nearest of the clip; the offset is by how many frames they come later than its
    own. A sound that comes 3 frames late gives -3, as `syncnet.lse`.

    Args:
        distances: (N,N).

    Returns:
        `found0`, `found1`: sounds whose lips are found, and found within 1 frame, of `sounds`. `offset_sum`: of the
        `near` sounds whose lips are found within 2 frames; farther ones are no bias but a miss. `nearer`: pairs of a
        sound and the lips of the frame before or behind it, of `neighbours`, that are farther apart than its own.
    """
    table = np.asarray(distances, np.float64)
    offsets = table.argmin(axis=1) - np.arange(len(table))
    near = np.abs(offsets) <= 2
    own = table.diagonal()
    nearer = np.sum(own[1:] < table.diagonal(-1)) + np.sum(own[:-1] < table.diagonal(1))
    return {
        "found0": float(np.sum(offsets == 0)),
        "found1": float(np.sum(np.abs(offsets) <= 1)),
        "sounds": float(len(table)),
        "offset_sum": float(offsets[near].sum()),
        "near": float(near.sum()),
        "nearer": float(nearer),
        "neighbours": float(2 * (len(table) - 1)),
    }


def answer_counts(real: np.ndarray, wrong: np.ndarray, first: int, frames: int) -> dict[str, float]:
    """Sums over one window in which the lips were replaced by a wrong mouth.

    Args:
        real: (T,T) distances of the recorded clip. wrong: (T,T) of the clip with the wrong mouth.
        first: first frame of the window. frames: how many it has.

    Returns:
        `entropy_real`, `entropy_wrong`: cross-entropy over the sounds of the clip on minus the distance, of the
        recorded and of the wrong lips of the window, and `farther`, frames whose wrong lips are farther from their
        sound than the recorded ones, all of `inside` frames. `change_inside`, `change_outside`: by how much the
        distance of own sound and lips changed in the window, and on as many frames outside it, which show what they
        showed, on average.
    """
    real, wrong = (np.asarray(table, np.float64) for table in (real, wrong))
    window = np.zeros(len(real), bool)
    window[first : first + frames] = True
    change = np.abs(wrong.diagonal() - real.diagonal())
    return {
        "entropy_real": float(_cross_entropy(real)[window].sum()),
        "entropy_wrong": float(_cross_entropy(wrong)[window].sum()),
        "farther": float(np.sum(wrong.diagonal()[window] > real.diagonal()[window])),
        "inside": float(window.sum()),
        "change_inside": float(change[window].sum()),
        "change_outside": float(change[~window].mean() * window.sum()),
    }


def _cross_entropy(distances: np.ndarray) -> np.ndarray:
    """Of each mouth over the sounds, (T,)."""
    return distances.diagonal() + np.logaddexp.reduce(-distances, axis=0)
