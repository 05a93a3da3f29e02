"""Speech of the embedded corpus: espeak-ng called through ctypes, the times of phonemes and words, and from these the
movement of the mouth.

espeak-ng is a GPL-3 library. It is loaded at run time from the optional package `espeakng-loader`.

Each phoneme has its own articulatory target; diphthongs have two. Targets blend by dominance functions that fall off
around each phoneme (coarticulation as in Cohen and Massaro 1993), so a weakly specified articulator follows its
neighbours. Closures of /p b m/ and the lip-to-teeth contact of /f v/ are laid over the blend, because they must be
reached however short the sound is.

Shapes: F frames (or points in time), A articulators (`ARTICULATORS`), P phoneme targets.
"""

import _ctypes
import ctypes
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from synctalklip.errors import SyncTalklipError

SAMPLE_RATE = 16000
STOPS = frozenset("p b t d k g tS dZ t# t2 ?".split())
# espeak reads a lone "a" as the article and names "z" by accent; one name a letter keeps the vocabulary learnable.
RESPELLED = {"a": "eigh", "z": "zed"}

_SYNCHRONOUS, _PHONEME_EVENTS = 2, 1
_UTF8 = 1
_RATE, _PITCH = 1, 3
_WORD, _PHONEME = 1, 7
_STRESS = "'\",%=;"

Segment = tuple[str, float, float]


class SpeechError(SyncTalklipError):
    """espeak-ng is missing or refused the request."""


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _synthesize(text: str, voice: str, rate: int, pitch: int) -> tuple[np.ndarray, int, list[tuple[int, int, str]]]:
    """Run espeak-ng once: native wave, native sample rate, events (type, sample, symbol).

    The library keeps random and wave-phase state between calls, which would make a clip depend on the clips before
    it. So it is loaded afresh for each utterance (0.3 ms).
    """
    try:
        import espeakng_loader
    except ImportError:
        raise SpeechError(
            "espeakng-loader is not installed; install the `corpus` extra (pip install 'synctalklip[corpus]')"
        ) from None
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    waves: list[np.ndarray] = []
    events: list[tuple[int, int, str]] = []

    def receive(wave, count, event) -> int:
        if count > 0:
            waves.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while event[index].type:
            item = event[index]
            symbol = item.id.string.decode() if item.type == _PHONEME else ""
            events.append((item.type, item.sample, symbol))
            index += 1
        return 0

    callback = _Callback(receive)
    try:
        native_rate = library.espeak_Initialize(
            _SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), _PHONEME_EVENTS
        )
        if native_rate <= 0:
            raise SpeechError("espeak-ng did not start: its data folder cannot be read; reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetSynthCallback(callback)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechError(f"espeak-ng has no voice {voice!r}; use a language and a variant such as 'en+f4'")
        library.espeak_SetParameter(_RATE, rate, 0)
        library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode()
        if library.espeak_Synth(data, len(data) + 1, 0, 0, 0, _UTF8, None, None) != 0 or not waves:
            raise SpeechError(f"espeak-ng could not speak {text!r}")
        library.espeak_Synchronize()
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)
    return np.concatenate(waves), native_rate, events


def _closure_start(wave: np.ndarray, burst: int, earliest: int, native_rate: int) -> int:
    """First sample of the silence that ends at a stop's burst; espeak reports the burst, the lips shut before it."""
    quiet = np.abs(wave[earliest : burst + 1].astype(np.int32)) > 40
    loud = np.flatnonzero(quiet[: max(1, len(quiet) - native_rate // 250)])
    start = earliest + (int(loud[-1]) + 1 if len(loud) else 0)
    return start if burst - start > native_rate // 100 else burst


def _segments(wave: np.ndarray, native_rate: int, events: list[tuple[int, int, str]]) -> tuple[list, list[int]]:
    phonemes = [(symbol.strip(_STRESS), sample) for kind, sample, symbol in events if kind == _PHONEME]
    phonemes = [(symbol, sample) for symbol, sample in phonemes if symbol]
    starts = []
    for index, (symbol, sample) in enumerate(phonemes):
        earliest = phonemes[index - 1][1] + native_rate // 66 if index else 0
        is_stop = symbol in STOPS and sample > earliest
        starts.append(_closure_start(wave, sample, earliest, native_rate) if is_stop else sample)
    ends = [*starts[1:], len(wave)]
    segments = [
        (symbol, start / native_rate, end / native_rate)
        for (symbol, _), start, end in zip(phonemes, starts, ends, strict=True)
        if not symbol.startswith("_") and end > start
    ]
    return segments, [sample for kind, sample, _ in events if kind == _WORD]


def _resample(wave: np.ndarray, native_rate: int) -> np.ndarray:
    from scipy.signal import resample_poly

    ratio = Fraction(SAMPLE_RATE, native_rate)
    resampled = resample_poly(wave.astype(np.float64), ratio.numerator, ratio.denominator)
    return np.clip(np.round(resampled), -32768, 32767).astype(np.int16)


def speak(
    text: str, voice: str = "en", rate: int = 200, pitch: int = 50
) -> tuple[np.ndarray, list[Segment], list[Segment]]:
    """Speak words with espeak-ng; the same arguments always give the same samples.

    Args:
        text: words separated by spaces, without punctuation.
        voice: espeak-ng language with an optional variant, such as `en`, `en-us+m3`, `en+f4`.
        rate: words a minute.
        pitch: 0 to 99.

    Returns:
        wave (N,) int16 at 16 kHz without silence around it; phonemes and words as (name, start, end) in seconds. A
        stop starts with its closure, not with its burst.

    Raises:
        SpeechError: the package is missing, the voice is unknown, or the words could not be told apart.
    """
    words = text.split()
    spoken = " ".join(RESPELLED.get(word, word) for word in words)
    wave, native_rate, events = _synthesize(spoken, voice, rate, pitch)
    phonemes, starts = _segments(wave, native_rate, events)
    if len(starts) != len(words):
        raise SpeechError(f"espeak-ng gave {len(starts)} word times for the {len(words)} words of {text!r}")
    end = phonemes[-1][2]
    times = [start / native_rate for start in starts]
    times[0] = phonemes[0][1]
    spans = [(word, start, stop) for word, start, stop in zip(words, times, [*times[1:], end], strict=True)]
    wave = _resample(wave[: round(end * native_rate)], native_rate)
    return wave, phonemes, spans


def say(text: str, voice: str = "en", rate: int = 160, pitch: int = 50) -> np.ndarray:
    """Speak any text, with punctuation and numbers.

    Args:
        text: a text.
        voice: see `speak`.
        rate: words a minute.
        pitch: 0 to 99.

    Returns:
        (N,) int16 at 16 kHz.

    Raises:
        SpeechError: the package is missing, or there is nothing to be heard.
    """
    wave, native_rate, _ = _synthesize(text, voice, rate, pitch)
    if not wave.any():
        raise SpeechError(f"the text {text!r} has nothing to say; type words")
    return _resample(wave, native_rate)


# jaw: 0 shut, 1 wide open. spread: -1 narrow, 1 wide. round: protrusion. upper, lower: lips drawn off the teeth.
# tip: tongue tip at the upper teeth. front: tongue forward, 1 between the teeth. close: lips shut. press: lips
# pressed together. tuck: lower lip against the upper teeth.
ARTICULATORS = ("jaw", "spread", "round", "upper", "lower", "tip", "front", "close", "press", "tuck")
_CLOSE, _PRESS, _TUCK = (ARTICULATORS.index(name) for name in ("close", "press", "tuck"))

#             jaw   spread round upper lower tip   front
_VOWELS = {
    "i:": ((0.14, 0.95, 0.00, 0.40, 0.50, 0.30, 0.55),),
    "i": ((0.17, 0.80, 0.00, 0.36, 0.45, 0.30, 0.50),),
    "I": ((0.26, 0.50, 0.00, 0.32, 0.40, 0.25, 0.45),),
    "I2": ((0.28, 0.42, 0.00, 0.30, 0.36, 0.25, 0.42),),
    "E": ((0.50, 0.45, 0.00, 0.42, 0.52, 0.15, 0.35),),
    "a": ((0.80, 0.38, 0.00, 0.50, 0.60, 0.08, 0.25),),
    "aa": ((0.84, 0.25, 0.00, 0.48, 0.60, 0.06, 0.20),),
    "A:": ((1.00, 0.00, 0.00, 0.42, 0.58, 0.00, 0.00),),
    "0": ((0.74, -0.30, 0.38, 0.40, 0.50, 0.00, 0.00),),
    "V": ((0.62, 0.08, 0.00, 0.34, 0.42, 0.05, 0.15),),
    "O:": ((0.58, -0.60, 0.70, 0.42, 0.45, 0.00, 0.00),),
    "U": ((0.24, -0.55, 0.62, 0.30, 0.30, 0.05, 0.10),),
    "u:": ((0.13, -0.90, 1.00, 0.32, 0.32, 0.10, 0.20),),
    "@": ((0.30, 0.00, 0.00, 0.22, 0.26, 0.15, 0.25),),
    "a#": ((0.36, 0.05, 0.00, 0.24, 0.30, 0.12, 0.25),),
    "3:": ((0.36, -0.15, 0.30, 0.30, 0.34, 0.15, 0.25),),
    "eI": ((0.48, 0.55, 0.00, 0.42, 0.52, 0.15, 0.40), (0.17, 0.85, 0.00, 0.38, 0.45, 0.30, 0.50)),
    "aI": ((0.92, 0.18, 0.00, 0.46, 0.60, 0.05, 0.15), (0.24, 0.70, 0.00, 0.34, 0.42, 0.28, 0.48)),
    "aI2": ((0.80, 0.22, 0.00, 0.44, 0.55, 0.08, 0.20), (0.22, 0.72, 0.00, 0.34, 0.42, 0.28, 0.48)),
    "aU": ((0.90, 0.20, 0.00, 0.46, 0.60, 0.05, 0.15), (0.22, -0.75, 0.85, 0.30, 0.30, 0.05, 0.10)),
    "oU": ((0.50, -0.35, 0.50, 0.36, 0.42, 0.05, 0.15), (0.18, -0.85, 0.92, 0.30, 0.30, 0.05, 0.10)),
    "OI": ((0.58, -0.60, 0.70, 0.42, 0.45, 0.00, 0.00), (0.22, 0.70, 0.00, 0.34, 0.42, 0.28, 0.48)),
    "i@": ((0.18, 0.80, 0.00, 0.38, 0.45, 0.28, 0.50), (0.38, 0.10, 0.00, 0.26, 0.32, 0.15, 0.25)),
    "e@": ((0.48, 0.45, 0.00, 0.42, 0.52, 0.15, 0.35), (0.36, 0.10, 0.00, 0.26, 0.32, 0.15, 0.25)),
    "U@": ((0.22, -0.60, 0.68, 0.30, 0.30, 0.05, 0.10), (0.38, 0.00, 0.10, 0.26, 0.32, 0.15, 0.25)),
    "o@": ((0.62, -0.55, 0.66, 0.42, 0.46, 0.00, 0.00), (0.46, -0.25, 0.35, 0.32, 0.38, 0.05, 0.10)),
    "O@": ((0.66, -0.50, 0.60, 0.42, 0.46, 0.00, 0.00), (0.50, -0.25, 0.32, 0.32, 0.38, 0.05, 0.10)),
    "A@": ((1.00, 0.00, 0.00, 0.42, 0.58, 0.00, 0.00), (0.86, -0.05, 0.05, 0.38, 0.52, 0.04, 0.05)),
}
# Consonants end with their weights on the blend: jaw, lips, tongue.
#        jaw   spread round upper lower tip   front  weights
_CONSONANTS = {
    "p": (0.08, 0.00, 0.00, 0.05, 0.05, 0.15, 0.25, 0.7, 0.3, 0.2),
    "b": (0.13, 0.00, 0.00, 0.10, 0.10, 0.15, 0.25, 0.7, 0.3, 0.2),
    "m": (0.18, 0.05, 0.00, 0.12, 0.12, 0.15, 0.25, 0.7, 0.3, 0.2),
    "f": (0.08, 0.15, 0.00, 0.70, 0.10, 0.15, 0.30, 1.0, 0.9, 0.2),
    "v": (0.14, 0.10, 0.00, 0.52, 0.10, 0.15, 0.30, 1.0, 0.9, 0.2),
    "T": (0.22, 0.15, 0.00, 0.42, 0.42, 0.60, 1.00, 1.2, 0.6, 2.0),
    "D": (0.27, 0.12, 0.00, 0.38, 0.40, 0.55, 0.92, 1.2, 0.6, 2.0),
    "t": (0.12, 0.30, 0.00, 0.36, 0.42, 1.00, 0.60, 1.2, 0.3, 1.5),
    "t#": (0.18, 0.25, 0.00, 0.34, 0.40, 0.95, 0.60, 0.8, 0.3, 1.5),
    "t[": (0.14, 0.28, 0.00, 0.36, 0.42, 1.00, 0.75, 1.2, 0.3, 1.5),
    "d": (0.20, 0.22, 0.00, 0.34, 0.42, 0.95, 0.58, 1.1, 0.3, 1.5),
    "n": (0.26, 0.18, 0.00, 0.32, 0.42, 0.98, 0.55, 0.9, 0.25, 1.5),
    "s": (0.02, 0.60, 0.00, 0.52, 0.66, 0.45, 0.50, 1.8, 0.7, 1.0),
    "z": (0.06, 0.48, 0.00, 0.46, 0.60, 0.45, 0.50, 1.7, 0.7, 1.0),
    "S": (0.06, -0.55, 0.80, 0.70, 0.75, 0.35, 0.35, 1.6, 1.2, 1.0),
    "Z": (0.10, -0.50, 0.72, 0.64, 0.70, 0.35, 0.35, 1.5, 1.2, 1.0),
    "tS": (0.05, -0.50, 0.76, 0.72, 0.76, 0.60, 0.40, 1.6, 1.2, 1.2),
    "dZ": (0.10, -0.45, 0.68, 0.62, 0.68, 0.60, 0.40, 1.5, 1.2, 1.2),
    "k": (0.30, 0.15, 0.00, 0.28, 0.34, 0.00, 0.00, 0.8, 0.2, 1.5),
    "g": (0.38, 0.10, 0.00, 0.28, 0.34, 0.00, 0.00, 0.8, 0.2, 1.5),
    "N": (0.34, 0.08, 0.00, 0.26, 0.32, 0.00, 0.00, 0.7, 0.2, 1.5),
    "l": (0.42, 0.15, 0.00, 0.34, 0.44, 1.00, 0.72, 1.0, 0.4, 2.0),
    "r": (0.22, -0.45, 0.58, 0.36, 0.42, 0.20, 0.10, 0.9, 0.9, 1.0),
    "w": (0.06, -1.00, 1.00, 0.12, 0.12, 0.05, 0.10, 1.2, 1.8, 0.5),
    "w#": (0.08, -0.95, 0.95, 0.16, 0.16, 0.05, 0.10, 1.2, 1.8, 0.5),
    "j": (0.12, 0.85, 0.00, 0.36, 0.44, 0.25, 0.55, 1.0, 0.8, 1.0),
    "h": (0.40, 0.00, 0.00, 0.25, 0.30, 0.10, 0.20, 0.15, 0.1, 0.1),
}
_PRESSED = {"p": 1.0, "b": 0.55, "m": 0.15}
_TUCKED = {"f": 1.0, "v": 0.72}
_REST = (0.02, 0.0, 0.0, 0.0, 0.0, 0.3, 0.4)
_FALL = 0.030  # seconds in which the pull of a phoneme falls to 1/e outside its core
_HOLD = 0.048  # shortest hold of a contact in seconds: longer than one frame at 25 fps
_RAMP = 0.045  # seconds to reach a contact


def _find(symbol: str) -> str:
    """Longest known symbol that starts `symbol`: espeak marks variants by appended signs; `@` when none does."""
    for length in range(len(symbol), 0, -1):
        if symbol[:length] in _VOWELS or symbol[:length] in _CONSONANTS:
            return symbol[:length]
    return "@"


def _targets(phonemes: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets (P,7), weights (P,7) and cores (P,2) in seconds; rest comes before the first and after the last."""
    rest = [1.5] * 7
    rows = [(_REST, rest, (-10.0, phonemes[0][1] - 0.09))]
    for symbol, start, end in phonemes:
        name = _find(symbol)
        if name in _VOWELS:
            parts = _VOWELS[name]
            step = (end - start) / len(parts)
            for index, part in enumerate(parts):
                inset = step * (0.15 if len(parts) > 1 else 0.2)
                first = start + index * step
                rows.append((part, [1.0] * 7, (first + inset, first + step - inset)))
            continue
        values = _CONSONANTS[name]
        jaw, lips, tongue = values[7:]
        inset = (end - start) * 0.25
        rows.append((values[:7], [jaw] + [lips] * 4 + [tongue] * 2, (start + inset, end - inset)))
    rows.append((_REST, rest, (phonemes[-1][2] + 0.10, phonemes[-1][2] + 10.0)))
    targets, weights, cores = zip(*rows, strict=True)
    return np.array(targets), np.array(weights), np.array(cores)


def _hold(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """Smooth 0..1 contact (F,): full from `start` (earlier when the sound is short) to `end`, eased on both sides."""
    end -= 0.008
    start = min(start, end - _HOLD)
    distance = np.maximum(np.maximum(start - times, times - end), 0) / _RAMP
    return 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance, 1))


def articulate(phonemes: Sequence[Segment], times: np.ndarray) -> np.ndarray:
    """Position of each articulator at the given times.

    Args:
        phonemes: (symbol, start, end) in seconds, in order; the mouth is at rest before the first and after the last.
        times: (F,) seconds.

    Returns:
        (F, A) float32, columns as in `ARTICULATORS`.

    Raises:
        ValueError: no phonemes.
    """
    if not phonemes:
        raise ValueError("articulate needs at least one phoneme")
    times = np.asarray(times, dtype=np.float64)
    targets, weights, cores = _targets(phonemes)
    outside = np.maximum(np.maximum(cores[None, :, 0] - times[:, None], times[:, None] - cores[None, :, 1]), 0)
    dominance = np.exp(-outside / _FALL)[:, :, None] * weights[None]
    blend = (dominance * targets[None]).sum(1) / np.maximum(dominance.sum(1), 1e-12)
    moves = np.zeros((len(times), len(ARTICULATORS)))
    moves[:, :7] = blend
    for symbol, start, end in phonemes:
        name = _find(symbol)
        if name in _PRESSED:
            contact = _hold(times, start, end)
            moves[:, _CLOSE] = np.maximum(moves[:, _CLOSE], contact)
            moves[:, _PRESS] = np.maximum(moves[:, _PRESS], contact * _PRESSED[name])
        elif name in _TUCKED:
            contact = _hold(times, start, end)
            moves[:, _TUCK] = np.maximum(moves[:, _TUCK], contact * _TUCKED[name])
    return moves.astype(np.float32)
