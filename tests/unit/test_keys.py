"""Keys really made, raced for, rotated and refused on disk; and that nothing said of one gives it away."""

import os
import stat
import subprocess
import sys
import threading
from hashlib import blake2b
from pathlib import Path

import pytest

from pipeline.errors import WhorlError
from pipeline.keys import KeyFile, KeyFileError, derive_seed, draw_key, draw_key_file, rotate_draw_key

DIGITS = "0f" * 32


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own, and an environment that names no key."""
    for name in ("WHORL_DRAW_KEY", "WHORL_DRAW_KEY_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _write(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_key_is_made_on_first_use_for_its_owner_alone(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        key = draw_key()
    finally:
        os.umask(before)
    path = home / ".config" / "whorl" / "draw.key"
    assert len(key) == 32 and draw_key() == key and path.read_text() == f"{key.hex()}\n"
    assert _mode(path) == 0o600 and _mode(path.parent) == 0o700
    assert os.listdir(path.parent) == ["draw.key"], "nothing temporary is left"


def test_no_two_keys_are_alike(tmp_path: Path) -> None:
    assert len({KeyFile(tmp_path / f"{number}.key").read_or_make() for number in range(20)}) == 20


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.config/whorl/draw.key"),
        ({"XDG_CONFIG_HOME": "{tmp}/config"}, "config/whorl/draw.key"),
        ({"XDG_CONFIG_HOME": "config"}, "home/.config/whorl/draw.key"),
        ({"XDG_CONFIG_HOME": ""}, "home/.config/whorl/draw.key"),
        ({"XDG_CONFIG_HOME": "{tmp}/config", "WHORL_DRAW_KEY_FILE": "{tmp}/mine"}, "mine"),
        ({"WHORL_DRAW_KEY_FILE": "~/mine"}, "home/mine"),
    ],
)
def test_the_file_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert draw_key_file().path == tmp_path / expected
    assert draw_key().hex() == (tmp_path / expected).read_text().strip()


def test_the_environment_s_key_goes_before_any_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHORL_DRAW_KEY", DIGITS.upper())
    assert draw_key() == bytes([15]) * 32
    assert not home.exists(), "no file is made where none is used"
    with pytest.raises(KeyFileError, match="^WHORL_DRAW_KEY: .* would not be used"):
        rotate_draw_key()


NO_KEYS = {
    "empty": b"",
    "short": DIGITS[:-1].encode(),
    "long": DIGITS.encode() + b"0",
    "raw bytes": bytes(range(200, 232)),
    "no hex": b"g" + DIGITS[1:].encode(),
    "two lines": DIGITS.encode() + b"\n\n",
    "spaces": b" " + DIGITS.encode(),
    "full width": ("０" * 64).encode(),
}


@pytest.mark.parametrize("content", NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    path = _write(tmp_path / "mine", content)
    monkeypatch.setenv("WHORL_DRAW_KEY_FILE", str(path))
    for use in (draw_key, rotate_draw_key):
        with pytest.raises(KeyFileError) as caught:
            use()
        assert str(caught.value) == f"{path}: holds something else than a key (not shown), where 64 hex digits were expected."
        assert path.read_bytes() == content, "it may be a file that somebody needs"
    monkeypatch.setenv("WHORL_DRAW_KEY", os.fsdecode(content))
    with pytest.raises(KeyFileError) as caught:
        draw_key()
    assert str(caught.value) == "WHORL_DRAW_KEY: holds something else than a key (not shown), where 64 hex digits were expected."


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o644, 0o666, 0o601])
def test_a_file_that_is_open_to_others_is_refused_until_it_is_closed_or_rotated(tmp_path: Path, mode: int) -> None:
    file = KeyFile(_write(tmp_path / "mine", DIGITS.encode(), mode))
    with pytest.raises(KeyFileError, match=rf"mine: its mode is {mode:04o}, .* 0600 was expected") as caught:
        file.read_or_make()
    assert DIGITS not in str(caught.value)
    file.rotate()
    assert _mode(file.path) == 0o600 and file.read().hex() != DIGITS


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_its_owner_is_taken(tmp_path: Path, mode: int) -> None:
    assert KeyFile(_write(tmp_path / "mine", f"{DIGITS}\n".encode(), mode)).read() == bytes([15]) * 32


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    _write(tmp_path / "file", b"")
    for name, said in (("pipe", "no regular file"), (".", "directory"), ("dangling", "No such file"), ("file/mine", "cannot be written")):
        with pytest.raises(KeyFileError, match=rf"{said}.* expected"):
            KeyFile(tmp_path / name).read_or_make()
    with pytest.raises(KeyFileError, match="mine: cannot be read"):
        KeyFile(tmp_path / "mine").read()
    monkeypatch.setenv("WHORL_DRAW_KEY_FILE", "")
    with pytest.raises(KeyFileError, match="^WHORL_DRAW_KEY_FILE: is empty"):
        draw_key()
    assert issubclass(KeyFileError, WhorlError), "the command prints it, with exit status 2"


def test_processes_that_make_a_key_at_once_agree(tmp_path: Path) -> None:
    """Each waits for a line, so that both are past their imports when they begin."""
    code = (
        "import sys; from pathlib import Path; from pipeline.keys import KeyFile\n"
        "for line in sys.stdin: print(KeyFile(Path(line.strip())).read_or_make().hex(), flush=True)"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for number in range(40):
        path = tmp_path / f"{number}" / "draw.key"
        for process in both:
            assert process.stdin is not None
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
        first, second = (process.stdout.readline().strip() for process in both if process.stdout is not None)
        assert first == second == path.read_text().strip() and len(first) == 64
    for process in both:
        process.communicate()
        assert process.returncode == 0


def test_threads_that_are_all_past_the_look_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The race itself: every one has seen that there is no file before any makes it."""
    barrier, found, look = threading.Barrier(8), list[bytes](), os.path.lexists

    def wait(path: Path) -> bool:
        there = look(path)
        barrier.wait(timeout=60)
        return there

    monkeypatch.setattr("pipeline.keys.os.path.lexists", wait)
    threads = [threading.Thread(target=lambda: found.append(KeyFile(tmp_path / "draw.key").read_or_make())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and os.listdir(tmp_path) == ["draw.key"]


def test_a_rotated_key_is_another_and_the_file_is_never_without_one(tmp_path: Path) -> None:
    file, seen, done = KeyFile(tmp_path / "draw.key"), list[bytes](), threading.Event()
    first = file.read_or_make()

    def watch() -> None:
        while not done.is_set():
            seen.append(file.read())

    watcher = threading.Thread(target=watch)
    watcher.start()
    keys = [first]
    for _ in range(50):
        file.rotate()
        keys.append(file.read())
    done.set()
    watcher.join()
    assert len(set(keys)) == 51 and seen and set(seen) <= set(keys)
    assert _mode(file.path) == 0o600 and os.listdir(tmp_path) == ["draw.key"]


def test_rotating_makes_a_key_where_there_is_none_and_keeps_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(tmp_path / "there" / "draw.key")
    KeyFile(tmp_path / "there" / "draw.key").rotate()
    before = KeyFile(link).read()
    KeyFile(link).rotate()
    assert link.is_symlink() and KeyFile(link).read() == KeyFile(tmp_path / "there" / "draw.key").read() != before


def test_rotating_the_draw_key_touches_no_other(home: Path) -> None:
    bank = KeyFile(home / ".config" / "whorl" / "bank.key")
    before, draw = bank.read_or_make(), draw_key()
    assert rotate_draw_key() == home / ".config" / "whorl" / "draw.key"
    assert bank.read() == before and draw_key() != draw


def test_a_key_file_shows_its_path_at_most(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "draw.key")
    key = file.read_or_make()
    shown = f"{file!r} {file} {vars(file)}"
    assert key.hex() not in shown and repr(key) not in shown


def test_a_seed_is_of_its_key_and_purpose_alone() -> None:
    key = bytes(range(32))
    seeds = [derive_seed(key, "bank"), derive_seed(key, "bank/class"), derive_seed(bytes(32), "bank")]
    assert len(set(seeds)) == 3 and derive_seed(key, "bank") == seeds[0]
    assert all(0 <= seed < 2**128 for seed in seeds) and max(seeds) >= 2**64
    assert seeds[0].to_bytes(16, "little") == blake2b(b"bank", key=key, digest_size=16, person=b"whorl seed").digest()
