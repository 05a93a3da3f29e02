"""Frame labels of a prepared corpus: `iteration=1`, then `iteration=2 checkpoint=... layer=9 clusters=100`."""

import json
from pathlib import Path

from omegaconf import DictConfig

from synctalklip.cli import entry


@entry("cluster")
def main(cfg: DictConfig) -> None:
    from synctalklip.avsyncnet.clustering import KMeansSettings, cluster, features_of
    from synctalklip.checkpoint import file_hash
    from synctalklip.data.manifest import read_manifest

    features, rate = features_of(cfg.iteration, cfg.checkpoint, cfg.layer, cfg.batch_frames, cfg.workers)
    clips = read_manifest(cfg.data)
    folder = Path(cfg.data.prepared) / "labels" / cfg.name
    settings = KMeansSettings(clusters=cfg.clusters, **cfg.fit)
    source = f"{cfg.iteration} {cfg.layer} {cfg.checkpoint and file_hash(cfg.checkpoint)}"
    done = cluster(features, clips, settings, rate, folder, cfg.seed, source, cfg.shard)
    if done is None:
        print(f"{folder}: shard={cfg.shard} is done; after all parts, the same command without shard")
        return
    (Path(cfg.run.dir) / "clusters.json").write_text(json.dumps(done, indent=2) + "\n")
    print(
        f"{folder}: {done['frames']} labels, {done['used_clusters']} of {cfg.clusters} clusters in use, "
        f"perplexity {done['perplexity']:.1f}"
    )


if __name__ == "__main__":
    main()
