"""NVIDIA's driver: what CUDA and the management library say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from llb.hardware.engine_command import engine_environment
from llb.policy.engine_build.choice import GpuFacts, HostFacts

# A driver with two GPUs, of which the second is integrated.
_LIBCUDA = r"""
#include <stdio.h>
#include <stdlib.h>
int cuInit(unsigned flags) { return getenv("CUDA_FAILS") ? atoi(getenv("CUDA_FAILS")) : 0; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Fake %d", device); return 0; }
int cuDeviceGetPCIBusId(char *id, int size, int device) {
  snprintf(id, size, "0000:0%d:00.0", device + 1);
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1ul << 34; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 18 ? device : attribute == 75 ? 12 - 4 * device : 1 + device;
  return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize("failure", ["0", "100", "999"])
def test_what_cuda_says(tmp_path: Path, failure: str) -> None:
    (tmp_path / "cuda.c").write_text(_LIBCUDA)
    library = tmp_path / "libcuda.so.1"
    compiler = shutil.which("cc")
    assert compiler is not None
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    environment = engine_environment(os.environ) | {"LD_LIBRARY_PATH": str(tmp_path), "CUDA_FAILS": failure}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llb.hardware.host_facts"],
        env=environment,
        capture_output=True,
        check=True,
    )
    facts = msgspec.json.decode(done.stdout, type=HostFacts)
    # 100: all GPUs are hidden. 999: the driver does not work.
    assert facts.cuda == (None if failure == "999" else (13, 0))
    if failure == "0":
        assert facts.gpus[:2] == tuple(
            GpuFacts(
                vendor="nvidia",
                name=f"Fake {number}",
                address=f"0000:0{number + 1}:00.0",
                memory_total_bytes=2**34,
                integrated=bool(number),
                capability=(12 - 4 * number, 1 + number),
            )
            for number in range(2)
        )
