"""How the disk does meanwhile: one block is written again and again as a journal writes (in place, direct, synchronous), and
the times when that took long are kept. All nodes of a stack on one machine share its disk, and a disk that stands still
stops them all: no quorum helps. It is printed beside what clients saw, and excuses nothing."""
import mmap
import os
import pathlib
import tempfile
import threading
import time

BLOCK_BYTES = 4096
LONG_S = 0.03


class Disk:
    """start() ... stop(); then `stalls` [(begin, end)] of writes that took longer than LONG_S. Nothing where direct writes are
    not possible."""

    def __init__(self, directory):
        self.stalls = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(pathlib.Path(directory),), daemon=True)

    def start(self):
        self.thread.start()
        return self

    def stop(self):
        self.ending.set()
        self.thread.join()
        return self

    def overlap(self, begin, end):
        """Seconds of begin..end in which a write did not come back."""
        return sum(max(0.0, min(end, b) - max(begin, a)) for a, b in self.stalls)

    def _run(self, directory):
        try:
            number, path = tempfile.mkstemp(prefix="maroon-drill-", dir=directory)
            os.write(number, bytes(BLOCK_BYTES))
            os.fsync(number)
            os.close(number)
            number = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
        except OSError:
            return
        os.unlink(path)
        block = mmap.mmap(-1, BLOCK_BYTES)  # aligned, as direct writes must be
        try:
            while not self.ending.is_set():
                began = time.monotonic()
                os.pwrite(number, block, 0)
                ended = time.monotonic()
                if ended - began > LONG_S:
                    self.stalls.append((began, ended))
                time.sleep(0.01)
        except OSError:
            pass
        finally:
            os.close(number)
