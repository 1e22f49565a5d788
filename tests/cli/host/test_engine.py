"""`llb engine`: a download needs a yes; list, install and use with a package index on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llb.hardware import installed_version
from llb.policy.engine_build.choice import VULKAN
from tests.cli.conftest import CommandHost
from tests.engine.builds import package_index
from tests.engine.builds.package_index import add_package, serve_index

VERSION = installed_version()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("index")
    add_package(root, VULKAN, "xllamacpp", VERSION, {"xllamacpp/__init__.py": package_index.WORKING})
    with serve_index(root) as address:
        yield address


@pytest.fixture
def host(tmp_path: Path, index: str) -> CommandHost:
    return CommandHost(tmp_path / "home", LLB_ENGINE_INDEX=index, PIP_CONFIG_FILE=os.devnull)


def test_on_a_host_without_a_gpu_there_is_nothing_to_do(host: CommandHost) -> None:
    done = host.run_command("engine", "install")
    assert done.stdout == "No other build is faster on this host: llama.cpp stays on the CPU.\n"
    listed = host.run_json_command("engine", "list")
    assert listed["suitable"] == ["cpu"]
    assert [(build["variant"], build["state"], build["in_use"]) for build in listed["builds"]] == [
        ("cpu", "installed", True)
    ]
    assert not host.home.exists()


def test_without_a_terminal_nothing_is_downloaded_and_the_command_is_told(
    host: CommandHost, index: str
) -> None:
    done = host.run_command("engine", "install", VULKAN, stdin="y\n", expected_status=1)
    assert f"{VULKAN} {VERSION}, about 70 MB, from {index}/{VULKAN}/" in done.stderr
    assert "The hashes of its files are not known to llb." in done.stderr
    assert f"To install it: LLB_ENGINE={VULKAN} llb engine install" in done.stderr
    assert not [*(host.home / "engines").glob("vulkan-*")]


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_a_no_on_a_terminal(host: CommandHost, answer: str) -> None:
    with host.open_terminal("engine", "install", VULKAN) as terminal:
        terminal.expect("Download and install it? [y/N]")
        terminal.write(answer)
        assert terminal.wait() == 1
    assert not [*(host.home / "engines").glob("vulkan-*")]


@pytest.mark.parametrize("name", ["cuda", "CU128", "../x"])
def test_an_unknown_build(host: CommandHost, name: str) -> None:
    assert "is not a build of llama.cpp" in host.run_failing_command("engine", "install", name)
    assert "is not a build of llama.cpp" in host.run_failing_command(
        "engine", "install", env={"LLB_ENGINE": name}
    )
    assert "is not installed" in host.run_failing_command("engine", "use", name)


def test_the_variable_says_no(host: CommandHost) -> None:
    done = host.run_command("engine", "install", VULKAN, "--yes", env={"LLB_ENGINE": "cpu"})
    assert "nothing was installed" in done.stdout
    assert not host.home.exists()


def test_the_variable_says_yes(host: CommandHost) -> None:
    done = host.run_command("engine", "install", env={"LLB_ENGINE": VULKAN})
    number = VERSION.rpartition(".")[2]
    assert done.stdout.startswith(f"llama.cpp {number} computes with {VULKAN} on Pretended GPU.")
    [installed, added] = host.run_json_command("engine", "list")["builds"]
    assert (installed["variant"], installed["in_use"]) == ("cpu", False)
    assert (added["variant"], added["state"], added["devices"]) == (VULKAN, "verified", ["Pretended GPU"])
    assert added["size_bytes"] > 0
    assert VULKAN in host.run_command("engine").stdout
    # Where people look.
    doctor = host.run_json_command("doctor", "--port", "0")
    details = [finding["detail"] for finding in doctor["findings"] if finding["check"] == "engine"]
    assert details[0].startswith(f"llama.cpp {VERSION}, build {VULKAN}, computes on Pretended GPU (gpu)")

    host.run_command("engine", "use", "cpu")
    assert host.run_json_command("engine", "list")["chosen"] == "cpu"
    assert [build["in_use"] for build in host.run_json_command("engine", "list")["builds"]] == [True, False]
    host.run_command("engine", "use", "auto")
    assert [build["in_use"] for build in host.run_json_command("engine", "list")["builds"]] == [False, True]


def test_a_build_that_was_refused_cannot_be_used(host: CommandHost) -> None:
    directory = host.home / "engines" / f"{VULKAN}-{VERSION}"
    directory.mkdir(parents=True)
    (directory / "REFUSED").write_text("libvulkan.so.1: cannot open shared object file\n")
    assert host.run_failing_command("engine", "use", VULKAN) == (
        f"'{VULKAN}' cannot be used: libvulkan.so.1: cannot open shared object file. "
        f"Run: llb engine install {VULKAN}."
    )
