#!/usr/bin/env python3
"""Which kernels a step's time goes to, by ncu.

    tools/gpu_profile.py [--shape 9b] [--batch 64] [--prompt 2048] [--adapters 0] [--layers 4]

Runs `lorax bench` with a few of the shape's layers, which are alike, beneath ncu, takes the last
whole step of each kind, and scales what its layers took to all of them. Kernels run one by one there:
what they overlap in a step is not in the times. Prints for each kernel and grid: microseconds of a
step and their share, bytes of device memory per second, and how much of the time tensor cores were busy.
"""

import argparse
import collections
import csv
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_programs
import gpu_serve_bench

TIME, BYTES = "gpu__time_duration.sum", "dram__bytes.sum"
TENSOR = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"


def short_name(name):
    """Without namespaces and arguments."""
    name = re.sub(r"<unnamed>::|\(anonymous namespace\)::", "", name)
    return re.match(r"(?:void )?([\w:]+)", name)[1].rpartition("::")[2]


def profiled(options, model, log):
    """The kernels of a run: dicts of ncu's columns, in the order of their launches."""
    ncu = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    done = subprocess.run(
        [ncu, "--csv", "--page", "raw", "--print-units", "base", "--log-file", log, "--metrics",
         f"{TIME},{BYTES},{TENSOR}", "--clock-control", "none", "--cache-control", "none",
         options.lorax, "bench", "--device", "cuda", "--dtype", "bfloat16", "--shape",
         model / "config.json", "--batch", str(options.batch), "--prompt", str(options.prompt),
         "--generate", "4", "--repeat", "1", "--adapters", str(options.adapters)],
        env=gpu_programs.environment(), stdout=subprocess.PIPE, text=True)
    lines = log.read_text().splitlines()
    table = [line for line in lines if line.startswith('"')]
    if done.returncode != 0 or not table:
        sys.exit("\n".join([done.stdout, *lines[-20:]]))
    return [row for row in csv.DictReader(table) if row["ID"]]  # one row is of units


def steps_of(kernels):
    """{kind: kernels of the last step of that kind}. What follows the last step is left out."""
    steps = []
    for kernel in kernels:
        if "embedding" in kernel["Kernel Name"]:
            steps.append([])
        if steps:
            steps[-1].append(kernel)
    kinds = {}
    for step in steps[:-1]:
        prefills = any("prefill" in kernel["Kernel Name"] for kernel in step)
        kinds["prefill" if prefills else "decode"] = step
    return kinds


def print_step(kind, step, options):
    groups = collections.defaultdict(list)
    for kernel in step:
        groups[short_name(kernel["Kernel Name"]), kernel["Grid Size"]].append(kernel)
    rows = []
    for (name, grid), kernels in groups.items():
        nanoseconds = [float(kernel[TIME].replace(",", "")) for kernel in kernels]
        total = sum(nanoseconds)
        moved = sum(float(kernel[BYTES].replace(",", "")) for kernel in kernels)
        busy = sum(float(kernel[TENSOR]) * time for kernel, time in zip(kernels, nanoseconds)) / total
        layers = gpu_serve_bench.SHAPES[options.shape][2]
        scale = layers / options.layers if len(kernels) >= options.layers // 2 else 1.0
        rows.append((total * scale * 1e-3, name, grid, len(kernels) * scale, moved / total, busy))
    whole = sum(row[0] for row in rows)
    print(f"{kind}, {options.shape}, {options.batch} x {options.prompt}, {options.adapters} adapters: "
          f"{whole:.0f} us in kernels one by one")
    for total, name, grid, count, rate, busy in sorted(rows, reverse=True)[:options.rows]:
        print(f"{total:9.0f} us {total / whole:6.1%}  {count:5.0f} x {name[:44]:44} "
              f"{grid.replace(' ', ''):14} {rate:6.0f} GB/s  tensor {busy:3.0f}%")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="9b", choices=gpu_serve_bench.SHAPES)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--adapters", type=int, default=0)
    parser.add_argument("--rows", type=int, default=14)
    parser.add_argument("--lorax", default=gpu_programs.program("lorax"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        gpu_serve_bench.make_model(folder / "model", options.shape, options.layers)
        kernels = profiled(options, folder / "model", folder / "ncu.csv")
    for kind, step in steps_of(kernels).items():
        print_step(kind, step, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
