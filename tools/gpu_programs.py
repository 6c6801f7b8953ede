"""Where the carried programs of build/gpu are and how they find their libraries."""

import glob
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build/gpu"
ARCHIVE = ROOT / "build/gpu.tar.xz"  # of the folder, to be carried
PROGRAMS = {  # name: place in the build folder
    "lorax": "lorax",
    "device_ops_test": "tests/device/device_ops_test",
    "golden_test": "tests/golden/golden_test",
    "differential_test": "tests/differential/differential_test",
    "device_bench": "bench/device_bench",
    "http_load": "bench/http_load",
}


def program(name):
    if not FOLDER.exists() and ARCHIVE.exists():
        subprocess.run(["tar", "-xJf", ARCHIVE, "-C", FOLDER.parent], check=True)
    return str(FOLDER / "bin" / name)


def environment():
    """Of a carried program: its own libraries, and the machine's cuBLASLt, from CUDA or PyTorch."""
    places = [str(FOLDER / "lib")]
    patterns = ["/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/x86_64-linux/lib"]
    patterns += [f"{path}/nvidia/*/lib" for path in sys.path if path]
    for pattern in patterns:
        for place in sorted(glob.glob(pattern)):
            if glob.glob(place + "/libcublasLt.so.13"):
                places.append(place)
    old = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ, LD_LIBRARY_PATH=":".join(places + ([old] if old else [])))
