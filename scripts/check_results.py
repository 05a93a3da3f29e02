"""Measure the shipped weights on GRID again, and compare with what is stated of them.

python scripts/check_results.py data.root=<folder of the GRID corpus>
"""

from omegaconf import DictConfig

from synctalklip.cli import entry, to_dict


@entry("check_results")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from synctalklip.errors import SyncTalklipError
    from synctalklip.pipeline.phases import plan_phases
    from synctalklip.pipeline.run import run_planned
    from synctalklip.tables.shipped import compare, read_stated

    root = Path(__file__).resolve().parent.parent
    config = to_dict(cfg)
    # Weights that are not those of the figures are found before anything runs.
    stated = read_stated(config, root)
    run_planned(config, plan_phases(config), root)
    table, off = compare(config, stated, root)
    print(table)
    if off:
        raise SyncTalklipError(f"{cfg.stated} does not hold here: {', '.join(off)}")


if __name__ == "__main__":
    main()
