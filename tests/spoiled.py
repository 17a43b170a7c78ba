"""Files that look untouched and hold nothing any more: for tests that what was decoded once is not read again."""

from __future__ import annotations

import os
from pathlib import Path


def spoil(folder: Path, pattern: str = "*") -> None:
    """Overwrites every file below a folder with zeros; sizes and modification times stay."""
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    assert files
    for path in files:
        stamp = path.stat()
        path.write_bytes(bytes(stamp.st_size))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
