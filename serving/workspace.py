"""Folders to work in, gone when the work is over, also where the process at work was killed. Knows no work."""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

SPARE_BYTES = 1_073_741_824


class Workspace:
    """A folder of this process's own below `root`. What dead processes have left there goes when a new one begins.

    Each process holds a lock on its folder, which the kernel takes back when it dies, however it dies.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        with _held(root):  # one begins at a time: a folder that has no lock yet is not taken for a dead one's
            for left in root.iterdir():
                _remove_if_dead(left)
            self.path = Path(tempfile.mkdtemp(dir=root))
            self._lock_fd = _lock(self.path)

    @asynccontextmanager
    async def room(self) -> AsyncGenerator[Path, None]:
        """An empty folder, removed afterwards with all that is in it."""
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self.path))
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    @property
    def free_bytes(self) -> int:
        """What the disk has left."""
        return shutil.disk_usage(self.path).free

    def has_room_for(self, num_bytes: int) -> bool:
        """Whether a file of that size leaves enough for what is made of it, and for others."""
        return self.free_bytes >= num_bytes + SPARE_BYTES

    def close(self) -> None:
        """Removes the folder of this process."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)


def _remove_if_dead(folder: Path) -> None:
    with suppress(BlockingIOError):
        lock_fd = _lock(folder, fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock_fd)


@contextmanager
def _held(folder: Path) -> Generator[None, None, None]:
    lock_fd = _lock(folder)
    try:
        yield
    finally:
        os.close(lock_fd)


def _lock(folder: Path, flags: int = 0) -> int:
    """A descriptor that holds the lock for as long as it is open."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
