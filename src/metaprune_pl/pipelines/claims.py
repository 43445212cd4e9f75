"""Work that several processes share.

Who holds a claim does it, and the claim ends with its holder, however it ends.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim a piece of work for as long as the block lasts, and give whether that succeeded.

    The claim is a lock that the kernel (on a network file system, its server) holds for the open
    file, so `kill -9` and a crash of the machine end it as well, and nobody has to guess from a
    time stamp whether its holder lives. Without locks on the file system (Lustre mounted without
    `flock`), the claim always succeeds: one process then has to do all the work.

    Args:
        path: Lock file; it stays, and says who held it last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield True
