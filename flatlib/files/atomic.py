"""Files that survive a kill: written beside their place and moved in whole, several together where
they belong together.
"""

import os
import tempfile
import time
from pathlib import Path

PART, NEW = ".part", ".new"  # half a file, perhaps; a whole one that waits for others
JOURNAL = ".commit"  # names the whole new files of a folder that are to be moved in
STALE = 60.0  # seconds after which half a file belongs to no living writer


class Damaged(ValueError):
    """A file that is there but cannot be what was written."""


def write(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` atomically: readers see the old file or the new one, never a
    part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_together(folder: Path, contents: dict[str, str]) -> None:
    """Write several files of a folder, all or none: a reader by ``read_together`` and a later
    ``finish`` see the old ones until the journal is there, and from then on the new ones.

    Whoever calls it holds a lock that keeps other writers out.
    """
    try:
        for name, content in contents.items():
            write(_waiting(folder, name), content)
        write(folder / JOURNAL, "\n".join(contents))
    except BaseException:
        for name in contents:
            _waiting(folder, name).unlink(missing_ok=True)
        raise
    finish(folder)


def finish(folder: Path) -> None:
    """Complete what a killed ``write_together`` had decided on, undo the rest, remove halves.

    Whoever calls it holds the lock of the writers.
    """
    for name in _decided(folder):
        if _waiting(folder, name).exists():
            os.replace(_waiting(folder, name), folder / name)
    (folder / JOURNAL).unlink(missing_ok=True)
    for file in folder.glob(f".*{NEW}"):
        file.unlink()
    sweep(folder)


def read_together(folder: Path, names: tuple[str, ...]) -> dict[str, str | None]:
    """The texts of several files as they belong together, None where there is no file; needs no
    lock: what is replaced meanwhile is read again.
    """
    for _ in range(100):
        before, texts = _stamps(folder, names), {}
        for name in names:
            waiting = name in _decided(folder) and _read(_waiting(folder, name))
            texts[name] = waiting or _read(folder / name)
        if before == _stamps(folder, names):
            break
    return texts


def sweep(folder: Path) -> None:
    """Remove halves of files that a kill left behind, below a folder whose lock is held; those of
    this minute may be another process's.
    """
    for file in folder.rglob(f".*{PART}"):
        try:
            if time.time() - file.stat().st_mtime > STALE:
                file.unlink()
        except FileNotFoundError:
            pass  # it was moved in, or another sweep was quicker


def _waiting(folder: Path, name: str) -> Path:
    return folder / f".{name}{NEW}"


def _decided(folder: Path) -> list[str]:
    names = (_read(folder / JOURNAL) or "").split("\n")
    if any(name != Path(name).name for name in names):
        raise Damaged(f"{folder / JOURNAL} was not written by flatlib: move it away")
    return [name for name in names if name]


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{path} cannot be read ({error}). Nothing was overwritten") from error


def _stamps(folder: Path, names: tuple[str, ...]) -> list:
    """What tells that a file was replaced: its number and its time."""
    found = [folder / name for name in (JOURNAL, *names)]
    stats = [file.stat() if file.exists() else None for file in found]
    return [stat and (stat.st_ino, stat.st_mtime_ns) for stat in stats]
