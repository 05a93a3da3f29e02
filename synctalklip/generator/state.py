"""The folder that a stage 2 run resumes from: written whole beside the old one, then swapped in."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from synctalklip.checkpoint import REFUSED_WRITES, CheckpointError, reason_of
from synctalklip.errors import SyncTalklipError

STATE_FILE = "state.json"


class StateFolder:
    """`path` holds the last complete state; a kill at any moment leaves one to go on from.

    Args:
        path: the folder; `<name>.new` and `<name>.old` beside it are used while it is replaced.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._new = self.path.with_name(self.path.name + ".new")
        self._old = self.path.with_name(self.path.name + ".old")

    def write(self, fill: Callable[[Path], None], state: Mapping[str, Any]) -> None:
        """Replace the state.

        Args:
            fill: writes its files into the folder it is given.
            state: plain values, written last as `state.json`.

        Raises:
            SyncTalklipError: the disk refused a file; the state before is still there.
        """
        try:
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir(parents=True)
            fill(self._new)
            (self._new / STATE_FILE).write_text(json.dumps(state, indent=1))
            shutil.rmtree(self._old, ignore_errors=True)
            if self.path.exists():
                self.path.rename(self._old)
            self._new.rename(self.path)
            shutil.rmtree(self._old, ignore_errors=True)
        except REFUSED_WRITES as error:
            raise SyncTalklipError(
                f"{self.path}: cannot be written ({reason_of(error)}): free some space and run again"
            ) from error

    def read(self) -> dict[str, Any] | None:
        """What was written as `state`, or None where no state was ever completed.

        Raises:
            CheckpointError: the folder is there but damaged.
        """
        if not self.path.exists() and self._old.exists():
            # Killed between the two renames.
            self._old.rename(self.path)
        if not self.path.exists():
            return None
        try:
            return json.loads((self.path / STATE_FILE).read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.path / STATE_FILE}: is missing or damaged; delete the folder to start the run anew"
            ) from error
