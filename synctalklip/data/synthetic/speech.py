"""Speech of the embedded corpus: espeak-ng called through ctypes, with the times of its phonemes and words.

espeak-ng is a GPL-3 library. It is loaded at run time from the optional package `espeakng-loader`.
"""

import _ctypes
import ctypes
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
