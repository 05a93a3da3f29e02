"""The whole pipeline in miniature, through the scripts: raw video in, a table and a talking face out."""

import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import pytest

from synctalklip.data.manifest import read_manifest
from synctalklip.data.media import probe

pytestmark = pytest.mark.trains

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TINY_FAIRSEQ = "fairseq.optimization.max_update=2 fairseq.dataset.max_tokens=150"
BEST = "checkpoints/checkpoint_best.pt"
# A process for every command, as a user's shell has; torch and fairseq are imported once for all of them.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "fairseq.tasks", "fairseq.models", "fairseq.criterions"])


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """An empty folder in which every command is run, as in a fresh clone."""
    return tmp_path_factory.mktemp("end_to_end")


def command_line(workplace: Path, log: Path, name: str, arguments: list[str]) -> None:
    """What a process of `scripts/<name>.py` does; its output goes to `log`."""
    os.chdir(workplace)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.argv = [str(SCRIPTS / f"{name}.py"), *arguments]
    sys.path[0] = str(SCRIPTS)
    runpy.run_path(sys.argv[0], run_name="__main__")


def run(workplace, command, exit_code=0):
    name, *arguments = command.split()
    log = workplace / "log"
    process = PROCESSES.Process(target=command_line, args=(workplace, log, name, arguments))
    process.start()
    process.join()
    said = log.read_text()
    assert process.exitcode == exit_code, f"{command}\n{said[-4000:]}"
    return said


def test_from_nothing_to_a_table_and_a_video(workplace):
    out = workplace / "outputs"
    run(workplace, "make_corpus clips.train=6 clips.val=2 clips.test=2 identities=2")
    run(workplace, "prepare")
    assert len(read_manifest(workplace / "data/prepared/synthetic")) == 10
    run(workplace, "train_tokenizer")
    run(workplace, "cluster clusters=5")
    run(workplace, f"train_avsyncnet experiment=avsyncnet/pretrain_tiny run.name=pretrain {TINY_FAIRSEQ}")
    start = f"init_from={out}/pretrain/{BEST}"
    run(workplace, f"train_avsyncnet experiment=avsyncnet/finetune_tiny run.name=expert {start} {TINY_FAIRSEQ}")
    run(workplace, f"train_avsyncnet experiment=avsyncnet/reader_tiny run.name=reader {TINY_FAIRSEQ}")
    run(workplace, "train_syncnet run.name=syncnet train.steps=2 train.batch_size=2 train.frames=20")
    run(workplace, f"learn_distance run.name=distance checkpoint={out}/expert/{BEST} train.passes=2")
    assert "own nearer than next" in run(workplace, f"table2 models={{learned:{out}/distance/{BEST}}}")
    expert = f"expert.path={out}/distance/{BEST}"
    run(workplace, f"train_generator experiment=generator/tiny run.name=generator {expert} trainer.steps=2")
    generator = out / "generator/checkpoints/generator.pt"
    judges = f"syncnet.path={out}/syncnet/syncnet.pt readers.WER.path={out}/reader/{BEST}"
    for name, generated in {"truth": "ground_truth", "model": generator}.items():
        run(workplace, f"evaluate run.name={name} generated={generated} {judges}")
    table = run(workplace, f"table runs=[{out}/truth,{out}/model]")
    assert all(column in table for column in ("PSNR", "SSIM", "LSE-D", "LSE-C", "WER"))
    assert (out / "model/strip.png").stat().st_size > 0

    clip, other = read_manifest(workplace / "data/prepared/synthetic", "test")
    run(workplace, f"generate video={clip.source} audio={other.source} output=said.mp4 checkpoint={generator}")
    video, speech = probe(workplace / "said.mp4"), probe(workplace / other.source)
    assert (video.width, video.height, video.fps) == (160, 160, 25)
    assert abs(video.duration - speech.duration) < 0.1
    assert not (workplace / "outputs/generate").exists()
    assert json.loads((workplace / "said.mp4.json").read_text())["generated"] is True

    # The expert may not judge what it trained.
    cheat = f"evaluate run.name=cheat generated={generator} readers.WER.path={out}/expert/{BEST}"
    assert "was an expert of" in run(workplace, cheat, exit_code=1)
