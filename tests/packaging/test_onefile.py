"""llb.pyz: what its builder writes, and its start. A small program takes the place of llb."""

from __future__ import annotations

import ast
import errno
import json
import lzma
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.packaging.stored_xz import store
from tools.onefile import wheels
from tools.onefile.archive import BOOTSTRAP, write_program_file
from tools.onefile.bootstrap import llb_bootstrap as bootstrap
from tools.onefile.bootstrap.llb_bootstrap import BootstrapError

ROOT = Path(__file__).parents[2]
TAG = f"cp3{sys.version_info.minor}"
# Reports what it was started with; `wait` keeps it running until its standard input ends.
MAIN = """
import json, sys
from pathlib import Path

def main(program_file):
    import packaged
    report = {"arguments": sys.argv[1:], "file": str(program_file), "path": sys.path}
    print(json.dumps({**report, "packaged": packaged.__file__}), flush=True)
    if sys.argv[1:] == ["wait"]:
        sys.stdin.read()
    return 3 if sys.argv[1:] == ["fail"] else 0
"""
FILES = {
    "llb/__init__.py": b"",
    "llb/__main__.py": MAIN.encode(),
    "packaged.py": b"VALUE = 1\n",
    "of_minor/native.so": b"\x7fELF" + bytes(range(256)) * 64,
}


def write_file(
    target: Path, *, version: str = "1.0.0", glibc: tuple[int, int] = (2, 5), **more: bytes
) -> Path:
    others = {**FILES, "of_minor/native.so": b"of another Python"}
    write_program_file(
        target,
        {TAG: {**FILES, **more}, "cp399": {**others, **more}},
        version=version,
        glibc=glibc,
        documents={"LICENSE": b"a licence"},
    )
    return target


@pytest.fixture(scope="session")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    path = write_file(folder / "llb.pyz")
    folder.chmod(0o500)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def released_trees() -> Iterator[None]:
    yield
    release_all()


def environment(cache: Path) -> dict[str, str]:
    return {"LLB_CACHE_DIR": str(cache), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


def run(command: list[str], cache: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(cache), capture_output=True, text=True, timeout=60, **options
    )


def prepare(program_file: Path, cache: Path) -> Path:
    return bootstrap.prepare(program_file, environment(cache))


def release_all() -> None:
    while bootstrap._held:
        os.close(bootstrap._held.pop())


# --- the file ----------------------------------------------------------------------------------------


def test_the_same_contents_give_the_same_bytes(tmp_path: Path, program_file: Path) -> None:
    again = write_file(tmp_path / "again.pyz")
    assert again.read_bytes() == program_file.read_bytes()
    assert os.access(again, os.X_OK)
    changed = write_file(tmp_path / "changed.pyz", more=b"")
    assert bootstrap.read_manifest(changed).build != bootstrap.read_manifest(again).build


@pytest.mark.parametrize("size", [1, 1 << 16, (3 << 16) + 5])
def test_a_stored_file_of_xz_is_one(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert lzma.decompress(store(content)) == content


def test_the_bootstrap_compiles_with_old_pythons() -> None:
    source = (BOOTSTRAP / "__main__.py").read_text()
    tree = ast.parse(source, feature_version=(3, 4))
    # Python 2 has neither annotations nor f-strings, and starts without an import from the future.
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign)]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert source.isascii()


def test_every_locked_package_has_hashes_and_a_supported_marker() -> None:
    locked = wheels.read_lock(ROOT / "requirements.lock")
    assert len(locked) > 40
    assert all(each.hashes and all(text.startswith("sha256:") for text in each.hashes) for each in locked)
    names = {each.name for each in locked if wheels.is_wanted(each.requirement, 11)}
    assert "xllamacpp" in names
    assert "colorama" not in names


class FakeWheel(SimpleNamespace):
    name: str
    requirements: list[Requirement]


def test_only_what_the_program_needs_is_packed() -> None:
    found: Any = [
        FakeWheel(name="server", requirements=[Requirement("loop; sys_platform == 'linux'")]),
        FakeWheel(
            name="loop", requirements=[Requirement("server"), Requirement("backport; python_version<'3.12'")]
        ),
        FakeWheel(name="backport", requirements=[]),
        FakeWheel(name="builder", requirements=[]),
    ]
    roots = [Requirement("Server>=1")]
    assert [each.name for each in wheels.select_runtime(roots, found, 11)] == ["backport", "loop", "server"]
    assert [each.name for each in wheels.select_runtime(roots, found, 13)] == ["loop", "server"]
    with pytest.raises(wheels.BuildError, match="the lock lacks missing"):
        list(wheels.select_runtime([Requirement("missing")], found, 11))


def test_the_tags_of_a_wheel_say_the_oldest_glibc() -> None:
    names = ["a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl", "a-1-py3-none-any.whl"]
    assert [wheels.Wheel(Path(name)).glibc for name in names] == [(2, 17), (0, 0)]


# --- the start ---------------------------------------------------------------------------------------


def test_it_runs_and_is_unpacked_once(program_file: Path, cache: Path) -> None:
    first = run([str(program_file), "models", "--json"], cache, cwd="/")
    assert first.returncode == 0, first.stderr
    report = json.loads(first.stdout)
    [tree] = [path for path in cache.iterdir() if path.is_dir()]
    assert report["arguments"] == ["models", "--json"]
    assert report["file"] == str(program_file)
    assert report["path"][0] == str(tree / "site-packages")
    assert not [path for path in report["path"][1:] if "-packages" in path or path == str(program_file)]
    assert (tree / "site-packages/of_minor/native.so").read_bytes() == FILES["of_minor/native.so"]
    unpacked = [path for path in tree.rglob("*") if "__pycache__" not in path.parts]
    assert {path.stat().st_mode & 0o077 for path in (cache, tree, *unpacked)} == {0}
    before = (tree / "site-packages/packaged.py").stat()
    second = run([sys.executable, str(program_file), "fail"], cache)
    assert (second.returncode, second.stderr) == (3, "")
    assert (tree / "site-packages/packaged.py").stat() == before


def test_starts_at_the_same_time_take_turns(program_file: Path, cache: Path) -> None:
    with ThreadPoolExecutor(4) as workers:
        done = list(workers.map(lambda _: run([sys.executable, str(program_file)], cache), range(4)))
    assert [(each.returncode, each.stderr) for each in done] == [(0, "")] * 4
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_what_is_missing_or_short_or_replaced_is_written_again(program_file: Path, cache: Path) -> None:
    site = prepare(program_file, cache)
    (site / "packaged.py").unlink()
    (site / "llb/__main__.py").write_bytes(b"")
    native = site / "of_minor/native.so"
    native.unlink()
    native.symlink_to("/bin/true")
    untouched = (site / "llb/__init__.py").stat()
    assert prepare(program_file, cache) == site
    assert {name: (site / name).read_bytes() for name in FILES} == FILES
    assert not native.is_symlink()
    assert (site / "llb/__init__.py").stat() == untouched


def test_contents_are_compared_after_a_boot(program_file: Path, cache: Path) -> None:
    site = prepare(program_file, cache)
    zeroed = bytes(len(FILES["packaged.py"]))
    (site / "packaged.py").write_bytes(zeroed)
    prepare(program_file, cache)
    assert (site / "packaged.py").read_bytes() == zeroed
    (site.parent / ".checked").write_text("another boot")
    prepare(program_file, cache)
    assert (site / "packaged.py").read_bytes() == FILES["packaged.py"]


def test_an_interrupted_start_is_completed(
    program_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(program_file, cache)
    release_all()
    for name in (".in-use", ".checked", "site-packages/packaged.py"):
        (site.parent / name).unlink()
    # Of a killed process: the file has its size, the contents never reached the disk.
    (site / "llb/__main__.py").write_bytes(bytes(len(MAIN)))
    prepare(program_file, cache)
    assert {name: (site / name).read_bytes() for name in FILES} == FILES


def test_other_versions_are_removed_once_no_process_uses_them(
    program_file: Path, cache: Path, tmp_path: Path
) -> None:
    newer = write_file(tmp_path / "newer.pyz", version="1.1.0")
    with subprocess.Popen(
        [sys.executable, str(program_file), "wait"],
        env=environment(cache),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        old = Path(json.loads(running.stdout.readline())["packaged"]).parents[1]
        left = cache / ".removing-0.9.0"
        (left / "site-packages").mkdir(parents=True)
        foreign = cache / "notes"
        foreign.mkdir()
        prepare(newer, cache)
        assert old.is_dir()
        assert not left.exists()
        assert running.stdin is not None
        running.stdin.close()
        assert running.wait(20) == 0
    site = prepare(newer, cache)
    assert not old.exists()
    assert foreign.is_dir()
    assert site.is_dir()


# --- what cannot start -------------------------------------------------------------------------------


def refusal(program_file: Path, cache: Path) -> str:
    with pytest.raises(BootstrapError) as raised:
        prepare(program_file, cache)
    return str(raised.value)


def test_a_refused_start_is_a_sentence_and_a_status(program_file: Path, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    done = run([sys.executable, str(program_file)], in_the_way / "cache")
    assert done.returncode == 1
    assert done.stderr == (
        f"llb: The cache directory {in_the_way}/cache cannot be created (Not a directory). "
        "Name another one with LLB_CACHE_DIR.\n"
    )


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o777, "every user can write to {parent}"), (0o770, "the group of {parent} can write to it")],
)
def test_a_directory_that_others_write_to_is_refused(
    program_file: Path, tmp_path: Path, mode: int, said: str
) -> None:
    parent = tmp_path / "shared"
    parent.mkdir()
    os.chown(parent, -1, 12345) if os.geteuid() == 0 else None
    parent.chmod(mode)
    if mode == 0o770 and os.geteuid() != 0:
        pytest.skip("the group of this user's files may be its own")
    assert said.format(parent=parent) in refusal(program_file, parent / "cache")
    parent.chmod(mode | 0o1000)
    assert prepare(program_file, parent / "cache").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(program_file: Path, cache: Path) -> None:
    cache.mkdir()
    os.chown(cache, 12345, 12345)
    assert f"{cache} belongs to another user" in refusal(program_file, cache)


def test_a_tree_that_others_could_have_made_is_refused(program_file: Path, cache: Path) -> None:
    """While the cache directory was open to others, one of them may have put a tree there."""
    tree = prepare(program_file, cache).parent
    release_all()
    tree.chmod(0o777)
    assert f"{tree} was not made by this user, or others can write to it" in refusal(program_file, cache)
    tree.chmod(0o700)
    elsewhere = cache.with_name("elsewhere")
    tree.rename(elsewhere)
    tree.symlink_to(elsewhere)
    assert "remove it" in refusal(program_file, cache)
    tree.unlink()
    elsewhere.rename(tree)
    if os.geteuid() == 0:
        os.chown(tree, 12345, 12345)
        assert "was not made by this user" in refusal(program_file, cache)
        os.chown(tree, 0, 0)
    assert prepare(program_file, cache).is_dir()


def test_a_noexec_or_full_file_system_is_refused(
    program_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statvfs = os.statvfs
    monkeypatch.setattr(
        os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_NOEXEC, f_bavail=1, f_frsize=4096)
    )
    assert "is mounted noexec" in refusal(program_file, cache)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=0, f_bavail=1, f_frsize=4096))
    assert f"The cache directory {cache} has no room for the" in refusal(program_file, cache)
    monkeypatch.setattr(os, "statvfs", statvfs)

    def write(_path: Path, _content: bytes) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(bootstrap, "_write", write)
    assert "has no room" in refusal(program_file, cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_damaged_file_is_refused(program_file: Path, cache: Path, tmp_path: Path) -> None:
    content = bytearray(program_file.read_bytes())
    start = content.index(b"\xfd7zXZ")
    content[start + 40] ^= 0xFF
    damaged = tmp_path / "damaged.pyz"
    damaged.write_bytes(content)
    assert refusal(damaged, cache) == f"{damaged} is damaged: download it again."
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_another_python_or_system_is_refused(
    program_file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_new = write_file(tmp_path / "new.pyz", glibc=(9, 9))
    assert refusal(needs_new, cache).startswith(
        "This file needs glibc 9.9 or newer, this system has glibc 2."
    )
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert "This file is for Linux on x86_64, this is Linux on aarch64." in refusal(program_file, cache)
    version = SimpleNamespace(major=3, minor=14)
    monkeypatch.setattr(sys, "version_info", version)
    assert refusal(program_file, cache).startswith("This file has packages for Python 3.11 and 3.99, this is")
    assert not cache.exists()


def test_the_cache_directory() -> None:
    named = bootstrap.cache_directory
    assert named({"LLB_CACHE_DIR": "/c", "XDG_CACHE_HOME": "/x"}) == Path("/c")
    assert named({"XDG_CACHE_HOME": "/x"}) == Path("/x/llb")
    assert named({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/llb"
