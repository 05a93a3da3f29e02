"""Train variants of stage 2 with several seeds, evaluate each and write Tables 1, 3 and 4.

python scripts/ablation.py seeds=3 sweep=[synctalklip,no_contrastive,no_lip]
"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("ablation")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from omegaconf import OmegaConf

    from synctalklip.checkpoint import write_atomically
    from synctalklip.pipeline.ablation import check_claims, join_tables, sweep_phases
    from synctalklip.pipeline.phases import run_phases

    root = Path(__file__).resolve().parent.parent
    directory = Path(cfg.run.dir).resolve()
    config = OmegaConf.to_container(cfg, resolve=True)
    commands, needs = sweep_phases(config)
    run_phases(commands, directory, root, cfg.fresh, needs, cfg.at_once, keep_going=True)
    tables = f"{join_tables(config, commands, root)}\n{check_claims(config, root)}"
    write_atomically(directory / "tables.md", lambda part: part.write_text(tables, encoding="utf-8"))
    print(tables)


if __name__ == "__main__":
    main()
