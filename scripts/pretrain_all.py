"""All iterations of eq. 3, one after the other: python scripts/pretrain_all.py [data=...] [iterations=base]"""

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("pretrain_all")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from omegaconf import OmegaConf

    from synctalklip.checkpoint import write_atomically
    from synctalklip.pipeline.iterations import commands, iteration_table
    from synctalklip.pipeline.phases import run_phases

    root = Path(__file__).resolve().parent.parent
    directory = Path(cfg.run.dir).resolve()
    plan = OmegaConf.to_container(cfg.iterations)
    lines = commands(**plan, corpus=cfg.corpus, out=cfg.out, cluster=cfg.cluster, train=cfg.train)
    phases = run_phases(lines, directory, root, cfg.fresh)
    table = iteration_table(directory, phases)
    write_atomically(directory / "iterations.md", lambda part: part.write_text(table, encoding="utf-8"))
    print(table)


if __name__ == "__main__":
    main()
