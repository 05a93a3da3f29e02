"""Worker processes that survive the death of one of them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from synctalklip.errors import SyncTalklipError

Item = TypeVar("Item")


@dataclass(frozen=True)
class WorkerDied:
    """What stands in for a result when its worker was killed or crashed; `code` is the process's exit code."""

    code: int | None


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: Connection
    item: int | None = None
    ready: bool = False


def _end_with_parent() -> None:
    """A worker that outlives a killed run would write beside the next one."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _serve(connection: Connection, make_task: Callable[[], Callable[[Any], Any]]) -> None:
    # Ctrl-C is the parent's business: it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        task = make_task()
        connection.send((True, None))
        while True:
            connection.send((True, task(connection.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        connection.send((False, error))


def part_of(items: Sequence[Item], shard: str | None) -> list[Item]:
    """One of several parts of a work, so that machines can share it.

    Args:
        items: all of it, in the same order everywhere.
        shard: "3/16" is the third of sixteen parts, which are as equal as they can be; None is all of it.

    Raises:
        SyncTalklipError: `shard` is no part.
    """
    if shard is None:
        return list(items)
    number, slash, count = str(shard).partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SyncTalklipError(f"shard={shard}: write 3/16 for the third of sixteen parts")
    return list(items[int(number) - 1 :: int(count)])


def run_in_workers(
    make_task: Callable[[], Callable[[Any], Any]], items: Sequence[Any], workers: int
) -> Iterator[tuple[int, Any]]:
    """Apply a task to items in processes, results in the order in which they are done.

    A process that dies costs the item it worked on; a new process takes its place.

    Args:
        make_task: called once in each process; returns the task. Both must be picklable.
        items: picklable.
        workers: processes.

    Yields:
        Index of the item and its result, or `WorkerDied`.

    Raises:
        Exception: what `make_task` or the task raised; all work ends.
        SyncTalklipError: a process that died before its first item.
    """
    # Not by a fork of this process, whose threads would be lost: of one that has only imported what takes long.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "av", "cv2"])
    team: dict[Connection, _Worker] = {}
    following = iter(range(len(items)))

    def hire() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, make_task), daemon=True)
        process.start()
        theirs.close()
        team[ours] = _Worker(process, ours)

    def dismiss(worker: _Worker) -> int | None:
        del team[worker.connection]
        worker.connection.close()
        worker.process.join()
        return worker.process.exitcode

    try:
        for _ in range(min(workers, len(items))):
            hire()
        while team:
            connection: Any
            for connection in wait(list(team)):
                worker = team[connection]
                try:
                    good, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    item, ready, code = worker.item, worker.ready, dismiss(worker)
                    if not ready or item is None:
                        raise SyncTalklipError(
                            f"a worker process died before its first item (exit code {code}); use fewer workers or "
                            "free some memory"
                        ) from None
                    hire()
                    yield item, WorkerDied(code)
                    continue
                if not good:
                    raise value
                if worker.ready and worker.item is not None:
                    yield worker.item, value
                worker.ready = True
                worker.item = next(following, None)
                if worker.item is None:
                    dismiss(worker)
                else:
                    connection.send(items[worker.item])
    finally:
        for worker in team.values():
            worker.process.terminate()
            worker.process.join()
