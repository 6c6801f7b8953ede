#!/usr/bin/env python3
"""The server from its start to its end on a small model, beneath a tool that watches it.

    tools/gpu_small_server.py --under "compute-sanitizer --tool memcheck --error-exitcode 9"

`lorax serve` on models/tiny-gemma2 in bfloat16, with memory for two of its four adapters, and few
sequences and rows of a step, so that there are graphs of several sizes, prompts in pieces, and
adapters that come and go. Its clients ask at once for greedy and drawn texts, with everything that
a sampler knows, over all adapters, streamed and whole. Prints what the tool above wrote; exits with
the tool's status, or 1 if an answer was wrong.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_programs

TINY = pathlib.Path("models/tiny-gemma2")  # as its adapters name it
ADAPTERS = [None, "pirate", "caps", "modern", "verse-numbers"]
POOL_BYTES = 5 << 20  # two adapters, in pages of 2 MiB
HOST_BYTES = 64 << 20  # of a CPU, where reading an adapter takes more than it has
DRAWN = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "typical_p": 0.95, "min_p": 0.001,
         "repetition_penalty": 1.2, "frequency_penalty": 0.2, "presence_penalty": 0.1,
         "watermark": True, "top_n_tokens": 3, "decoder_input_details": True}
PROMPT = "And it came to pass in those days, that there went out a decree from Caesar Augustus. "


def bodies(tokens):
    for i in range(10):
        parameters = {"max_new_tokens": tokens + i % 3, "ignore_eos_token": True, "details": True}
        if ADAPTERS[i % 5]:
            parameters["adapter_id"] = ADAPTERS[i % 5]
        if i % 3 == 1:
            parameters.update(DRAWN, seed=i)
        elif i % 3 == 2:
            parameters.update(temperature=0.7, top_p=0.9, best_of=2)
        yield {"inputs": PROMPT * (1 + i % 4), "parameters": parameters}


def ask(port, body, seconds):
    """None, or what is wrong with the answer."""
    streams = "best_of" not in body["parameters"] and body["parameters"]["max_new_tokens"] % 2 == 0
    parameters = dict(body["parameters"])
    if streams:
        parameters.pop("decoder_input_details", None)
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/generate{'_stream' if streams else ''}",
        json.dumps(dict(body, parameters=parameters)).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            answer = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    if streams:
        details = json.loads(re.findall(r"^data:(.*)$", answer, re.M)[-1]).get("details") or {}
    else:
        details = json.loads(answer)["details"]
    if details.get("generated_tokens") != parameters["max_new_tokens"]:
        return f"{details.get('generated_tokens')} tokens of {parameters['max_new_tokens']}"
    return None


def server_below(pid):
    """The process of `lorax` that `pid` is, or has started by way of others."""
    parents, names = {}, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            number, name, parent = re.match(r"(\d+) \((.*)\) \S (\d+)", stat.read_text()).groups()
        except OSError:  # it has ended
            continue
        parents[int(number)], names[int(number)] = int(parent), name
    for candidate in (number for number, name in names.items() if name == "lorax"):
        at = candidate
        while at in parents and at != pid:
            at = parents[at]
        if at == pid:
            return candidate
    return None


def adapter_fraction(device):
    """--adapter-memory-fraction: a share of the GPU's memory, or of what is free."""
    if not device.startswith("cuda"):
        return HOST_BYTES / (os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    done = subprocess.run(["nvidia-smi", "--query-gpu=memory.total",
                           "--format=csv,noheader,nounits"], stdout=subprocess.PIPE, text=True,
                          check=True)
    return POOL_BYTES / (int(done.stdout.split()[0]) << 20)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--under", default="", help="command in front of the program")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--lorax", default=gpu_programs.program("lorax"))
    parser.add_argument("--tokens", type=int, default=8, help="of each text")
    parser.add_argument("--step-tokens", type=int, default=64, help="rows of a step")
    parser.add_argument("--seconds", type=float, default=80, help="for everything")
    options = parser.parse_args()
    begin = time.monotonic()
    command = [*shlex.split(options.under), pathlib.Path(options.lorax).resolve(), "serve",
               "--model-id", TINY, "--adapter-dir", TINY / "adapters", "--device", options.device,
               "--dtype", "bfloat16",
               "--adapter-memory-fraction", f"{adapter_fraction(options.device):.4e}",
               "--max-batch-size", "6", "--max-total-tokens", "160",
               "--max-batch-prefill-tokens", str(options.step_tokens),
               "--max-batch-total-tokens", "1024", "--port", "0"]
    wrong = []
    with tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT,
                                   cwd=gpu_programs.ROOT, env=gpu_programs.environment(),
                                   start_new_session=True)

        def output():
            return pathlib.Path(log.name).read_text(errors="replace")

        def kill():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        watchdog = threading.Timer(options.seconds, kill)
        watchdog.start()

        try:
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", output())):
                if process.poll() is not None:
                    print("no server", flush=True)
                    return process.returncode or 1
                time.sleep(0.1)
            start = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                answers = pool.map(lambda body: ask(found.group(1), body, options.seconds),
                                   bodies(options.tokens))
                faults = list(answers)
            wrong = [fault for fault in faults if fault]
            print(f"{len(faults) - len(wrong)} answers as asked for after "
                  f"{time.monotonic() - start:.1f} s, {start - begin:.1f} s after the start",
                  *wrong, sep="\n", flush=True)
            if server := server_below(process.pid):
                os.kill(server, signal.SIGTERM)
            status = process.wait()
        finally:
            watchdog.cancel()
            kill()
            process.wait()
            print(*(line for line in output().splitlines()
                    if line.startswith("=====") or "lorax: " in line), sep="\n", flush=True)
    return status or (1 if wrong else 0)


if __name__ == "__main__":
    sys.exit(main())
