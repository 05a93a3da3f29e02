"""Table 2: `scripts/table2.py 'models={with:a.pt,without:b.pt}'` -> WER and alignment, with intervals."""

from omegaconf import DictConfig

from synctalklip.cli import entry, to_dict


@entry("table2")
def main(cfg: DictConfig) -> None:
    from synctalklip.avsyncnet.decode import Generation
    from synctalklip.data.manifest import read_manifest
    from synctalklip.device import choose_device
    from synctalklip.evaluation.gates import WrongMouths
    from synctalklip.evaluation.table2 import compare, tables, write

    clips = [clip for clip in read_manifest(cfg.data.prepared, cfg.split) if clip.text]
    device = choose_device(cfg.device)
    generation = Generation(**to_dict(cfg.generation))
    wrong = WrongMouths(**cfg.wrong_mouths) if cfg.wrong_mouths else None
    syncnets = to_dict(cfg.syncnets) if cfg.syncnets else {}
    results = compare(to_dict(cfg.models), clips, generation, cfg.batch_frames, device, wrong, syncnets)
    described = f"{cfg.data.name}, {cfg.split} split, {len(clips)} clips; beam {generation.beam}"
    made = tables(results, described, cfg.bootstrap.samples, cfg.permutations, cfg.seed)
    print(write(results, made, cfg.run.dir, cfg.formats))


if __name__ == "__main__":
    main()
