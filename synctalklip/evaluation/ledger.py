"""What an evaluation has scored so far, safe against a kill: one line a clip, flushed to the disk as it comes."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import REFUSED_WRITES, reason_of, write_atomically
from synctalklip.data.manifest import Clip
from synctalklip.errors import SyncTalklipError
from synctalklip.evaluation.pairs import Pair
from synctalklip.evaluation.scoring import Scored


def digest(*facts: Any) -> str:
    """A short name for everything that some scores depend on; plain values, in order."""
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def pair_facts(pair: Pair) -> list[Any]:
    """Changes when the record of a clip, of its sound or one of their files does."""
    return [_clip_facts(clip) for clip in dict.fromkeys((pair.clip, pair.sound)) if clip] + [pair.sound is None]


def _clip_facts(clip: Clip) -> list[Any]:
    record = asdict(clip)
    del record["root"]
    return [record, [[file.stat().st_size, file.stat().st_mtime_ns] for file in clip.files()]]


def _line(key: str, scored: Scored) -> str:
    # The order of the columns is kept.
    return json.dumps({"key": key, **asdict(scored)}, ensure_ascii=False) + "\n"


class Ledger:
    """The scored clips of a run by their key.

    Args:
        path: a jsonl file; a line that a kill cut short is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Scored] = {}
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                record = json.loads(line)
                key = record.pop("key")
                self._known[key] = Scored(**record)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue

    def get(self, key: str) -> Scored | None:
        """What was scored under this key, if anything."""
        return self._known.get(key)

    def keep(self, keys: Sequence[str]) -> None:
        """Forget all other keys; leaves a file of whole lines to go on from."""
        self._known = {key: self._known[key] for key in keys if key in self._known}
        text = "".join(_line(key, scored) for key, scored in self._known.items())
        write_atomically(self.path, lambda part: part.write_text(text, encoding="utf-8"))

    def add(self, key: str, scored: Scored) -> None:
        """Write down a clip before the next one is looked at.

        Raises:
            SyncTalklipError: the disk refused it.
        """
        self._known[key] = scored
        try:
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(_line(key, scored))
                stream.flush()
                os.fsync(stream.fileno())
        except REFUSED_WRITES as error:
            raise SyncTalklipError(f"{self.path}: cannot be written ({reason_of(error)}): free some space") from error
