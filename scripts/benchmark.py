"""Measure the speed of a stage: python scripts/benchmark.py stage1, stage2, inference or sync"""

import importlib
import sys
from pathlib import Path

from omegaconf import DictConfig

from synctalklip.cli import entry

# Stage -> module of `synctalklip.benchmark`, function.
STAGES = {
    "stage1": ("stage1", "run"),
    "stage2": ("stage2", "run"),
    "inference": ("inference", "run"),
    "sync": ("inference", "run_sync"),
}


@entry("benchmark")
def main(cfg: DictConfig) -> None:
    from synctalklip.checkpoint import write_atomically
    from synctalklip.errors import SyncTalklipError

    if cfg.stage not in STAGES:
        raise SyncTalklipError(f"stage {cfg.stage!r} is none of {', '.join(STAGES)}")
    module, function = STAGES[cfg.stage]
    report = getattr(importlib.import_module(f"synctalklip.benchmark.{module}"), function)(cfg)
    output = Path(cfg.run.dir) / f"{cfg.stage}.md"
    write_atomically(output, lambda part: part.write_text(report + "\n", encoding="utf-8"))
    print(report)


if __name__ == "__main__":
    # Hydra takes key=value only; the bare name of a stage is easier to type.
    sys.argv[1:] = [f"stage={word}" if word in STAGES else word for word in sys.argv[1:]]
    main()
