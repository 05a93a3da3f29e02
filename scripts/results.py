"""Run all that RESULTS.md is made of, and write it.

python scripts/results.py data.root=<folder of the GRID corpus>
"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("results")
def main(cfg: DictConfig) -> None:
    import logging
    from pathlib import Path

    from omegaconf import OmegaConf

    from synctalklip.pipeline.results import chosen_phases, expectations, render_results, write_results

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    root = Path(__file__).resolve().parent.parent
    config = OmegaConf.to_container(cfg)
    if cfg.render:
        print(f"results: {render_results(config, root)}")
        return
    if cfg.only or not cfg.write:
        from synctalklip.pipeline.phases import run_phases

        commands, needs = chosen_phases(config)
        print(expectations(config, list(commands), root), flush=True)
        run_phases(commands, Path(cfg.run.dir).resolve(), root, cfg.fresh, needs, keep_going=True)
    if cfg.write or not cfg.only:
        print(f"results: {write_results(config, root)}")


if __name__ == "__main__":
    main()
