"""Keys, which are no artifacts: 32 random bytes in a file that its owner alone may read, or from the environment.

A key is never logged, and stands in no message, reply or artifact; what is said of it is where it lies.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from pipeline.errors import WhorlError

DRAW_KEY = "WHORL_DRAW_KEY"
"""The environment's own draw key, 64 hex digits; goes before any file."""
DRAW_KEY_FILE = "WHORL_DRAW_KEY_FILE"
"""Names another file for the draw key than ``draw.key`` in the user's own configuration."""

_BYTES = 32
_DIGITS = re.compile(rb"[0-9a-fA-F]{64}\n?")
_WANTED = "64 hex digits"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeyFileError(WhorlError):
    """A key cannot be read or written, is open to others than its owner, or is no key."""


class KeyFile:
    """A key in a file of its own: 64 hex digits, mode 0600, made on first use.

    Args:
        path: the file; its folder is made, with mode 0700, where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        """The 32 bytes of the key.

        Raises:
            KeyFileError: the file is missing, no regular file, open to its group or to others, or holds no key.
        """
        mode, content = self._content()
        if mode & _OTHERS:
            raise KeyFileError(
                f"{self.path}: its mode is {mode:04o}, which opens it to others than its owner, where 0600 was expected. "
                "If nobody else has read it, chmod 600 is enough; otherwise it needs a new key too."
            )
        return _parsed(content, str(self.path))

    def read_or_make(self) -> bytes:
        """The key, made where there is no file; processes that make one at once agree on the first.

        Raises:
            KeyFileError: as for ``read``, or the file cannot be made.
        """
        if not os.path.lexists(self.path):
            self._make()
        return self.read()

    def rotate(self) -> None:
        """Puts a new key in the place of the old one, at once and whole; makes the file where there is none.

        Raises:
            KeyFileError: the file cannot be written, or what is there is no key and is left as it is.
        """
        if os.path.lexists(self.path):
            _parsed(self._content()[1], str(self.path))
        target = Path(os.path.realpath(self.path))  # a link stays one
        with self._written(target) as temporary:
            temporary.replace(target)

    def _make(self) -> None:
        with self._written(self.path) as temporary:
            try:
                # Unlike a rename, a link gives way to a file that is there; unlike opening with O_EXCL, it is never seen half written.
                os.link(temporary, self.path)
            except FileExistsError:
                return

    @contextmanager
    def _written(self, target: Path) -> Iterator[Path]:
        """A new key under a temporary name beside the target, gone afterwards where it was not renamed."""
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{secrets.token_hex(_BYTES)}\n")
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        except OSError as error:
            raise KeyFileError(
                f"{self.path}: a key cannot be written there ({error.strerror or error}), where a folder that can be written was expected."
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _content(self) -> tuple[int, bytes]:
        """The file's permissions and its first bytes, one more than a key has; never waits on a pipe."""
        try:
            with open(self.path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise KeyFileError(f"{self.path}: this is no regular file, where one with {_WANTED} was expected.")
                return stat.S_IMODE(mode), file.read(2 * _BYTES + 2)
        except OSError as error:
            raise KeyFileError(
                f"{self.path}: cannot be read ({error.strerror or error}), where a file with {_WANTED} was expected."
            ) from error


def draw_key() -> bytes:
    """The key of keyed draws: the environment's, or that of its file, which is made on first use.

    Raises:
        KeyFileError: the environment's is no key, or see ``KeyFile.read_or_make``.
    """
    given = os.environ.get(DRAW_KEY)
    return draw_key_file().read_or_make() if given is None else _parsed(os.fsencode(given), DRAW_KEY)


def draw_key_file() -> KeyFile:
    """Where the draw key is when the environment has none: ``$WHORL_DRAW_KEY_FILE``, or ``whorl/draw.key`` in ``$XDG_CONFIG_HOME``.

    Raises:
        KeyFileError: the file's name is empty, or there is no home folder.
    """
    try:
        if (named := os.environ.get(DRAW_KEY_FILE)) is not None:
            if not named:
                raise KeyFileError(f"{DRAW_KEY_FILE}: is empty, where the name of a file was expected.")
            return KeyFile(Path(named).expanduser())
        base = os.environ.get("XDG_CONFIG_HOME", "")
        # The XDG Base Directory Specification: what is not absolute is to be ignored.
        return KeyFile((Path(base) if os.path.isabs(base) else Path.home() / ".config") / "whorl" / "draw.key")
    except RuntimeError as error:
        raise KeyFileError(
            f"{DRAW_KEY_FILE}: there is no home folder to keep the draw key in, so the name of a file was expected."
        ) from error


def rotate_draw_key() -> Path:
    """Replaces the draw key in its file, and no other key; returns which file that is.

    Raises:
        KeyFileError: the environment has a key, which goes before the file's; or see ``KeyFile.rotate``.
    """
    if DRAW_KEY in os.environ:
        raise KeyFileError(
            f"{DRAW_KEY}: the environment gives the key, so a new one in a file would not be used; set another {_WANTED} there."
        )
    file = draw_key_file()
    file.rotate()
    return file.path


def derive_seed(key: bytes, purpose: str) -> int:
    """A seed of 128 bits for ``pipeline.random``, by BLAKE2b of the purpose under the key: as secret as the key itself."""
    digest = blake2b(purpose.encode(), key=key, digest_size=16, person=b"whorl seed").digest()
    return int.from_bytes(digest, "little")


def _parsed(content: bytes, where: str) -> bytes:
    if not _DIGITS.fullmatch(content):
        raise KeyFileError(f"{where}: holds something else than a key (not shown), where {_WANTED} were expected.")
    return bytes.fromhex(content.decode())
