"""A perceptual study: python scripts/study.py make ... builds its page, collect ... writes Table 5."""

import sys

from omegaconf import DictConfig

from synctalklip.cli import entry

ACTIONS = ("make", "collect")


@entry("study")
def main(cfg: DictConfig) -> None:
    from synctalklip.errors import SyncTalklipError

    if cfg.action == "make":
        from synctalklip.study.make import make

        print(make(cfg))
    elif cfg.action == "collect":
        from synctalklip.study.collect import collect

        print(collect(cfg))
    else:
        raise SyncTalklipError(f"study: say what to do, {' or '.join(ACTIONS)}: python scripts/study.py make ...")


if __name__ == "__main__":
    # Hydra takes key=value only; the bare name of an action is easier to type.
    sys.argv[1:] = [f"action={word}" if word in ACTIONS else word for word in sys.argv[1:]]
    main()
