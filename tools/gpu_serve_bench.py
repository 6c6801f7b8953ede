#!/usr/bin/env python3
"""Times the server with many adapters and prints one JSON object.

    tools/gpu_serve_bench.py                       on a GPU: Gemma 2 9b, as docs/benchmarks.md has it
    tools/gpu_serve_bench.py --shape tiny --device cpu ...   anywhere, to try it out

Makes a model folder without weights (random ones: --load-format dummy) and adapters of random
numbers, which differ. Three parts, --only picks:

    streams   closed-loop clients over all adapters in Zipf order, prompts of random ids
    engine    the same requests without HTTP, as many at once: `lorax bench --engine`
    cold      one request after the other beside running streams: time to first token with adapters
              on the device and with adapters that are in host memory only; and the streams' gaps
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_programs

SHAPES = {  # hidden, intermediate, layers, heads, key/value heads, head size, vocabulary, positions
    "tiny": (320, 768, 7, 4, 2, 64, 2048, 1024),
    "2b": (2304, 9216, 26, 8, 4, 256, 256000, 8192),
    "9b": (3584, 14336, 42, 16, 8, 256, 256000, 8192),
}
PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def make_model(folder, shape, layers=None):
    hidden, inner, all_layers, heads, kv_heads, size, vocab, positions = SHAPES[shape]
    tiny = gpu_programs.ROOT / "models/tiny-gemma2"
    config = json.loads((tiny / "config.json").read_text())
    config.update(hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers or all_layers,
                  num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=size,
                  query_pre_attn_scalar=size, vocab_size=vocab, sliding_window=4096,
                  max_position_embeddings=positions)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    pieces = tokenizer["model"]["vocab"]
    pieces.update({f"w{i}": i for i in range(len(pieces), vocab)})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text((tiny / "tokenizer_config.json").read_text())


def projection_shape(name, shape):
    hidden, inner, _, heads, kv_heads, size, _, _ = SHAPES[shape]
    last = name.rpartition(".")[2]
    q, kv = heads * size, kv_heads * size
    return {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden),
            "o_proj": (hidden, q), "gate_proj": (inner, hidden), "up_proj": (inner, hidden),
            "down_proj": (hidden, inner)}[last]


# The upper byte of a bfloat16 number of either sign, near 0.004 in size.
UPPER_BYTES = bytes(0x3b | (byte & 0x80) for byte in range(256))


def write_tensors(path, shape, rank):
    """A and B of every projection in bfloat16; random numbers. Returns their bytes."""
    header, at = {}, 0
    for layer in range(SHAPES[shape][2]):
        for name in PROJECTIONS:
            out, into = projection_shape(name, shape)
            for part, dims in (("lora_A", [rank, into]), ("lora_B", [out, rank])):
                size = 2 * dims[0] * dims[1]
                key = f"base_model.model.model.layers.{layer}.{name}.{part}.weight"
                header[key] = {"dtype": "BF16", "shape": dims, "data_offsets": [at, at + size]}
                at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = bytearray(os.urandom(1 << 20))
    block[1::2] = block[1::2].translate(UPPER_BYTES)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for begin in range(0, at, len(block)):
            file.write(block[:at - begin])
    return at


def make_adapters(folder, count, shape, rank):
    """adapter0, adapter1, ...; returns the bytes of one."""
    def make(i):
        adapter = folder / f"adapter{i}"
        adapter.mkdir(parents=True)
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank,
                  "target_modules": [name.rpartition(".")[2] for name in PROJECTIONS]}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        return write_tensors(adapter / "adapter_model.safetensors", shape, rank)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return max(pool.map(make, range(count)))


class Server:
    def __init__(self, options, model, adapters, *flags):
        command = [options.lorax, "serve", "--model-id", str(model), "--load-format", "dummy",
                   "--device", options.device, "--dtype", "bfloat16", "--adapter-dir",
                   str(adapters), "--port", "0", "--log-format", "json", *map(str, flags)]
        begin = time.monotonic()
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log,
                                        text=True, env=options.environment)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"lorax serve: {self.log.read()}")
        self.ready = json.loads(line)
        self.ready["start_seconds"] = time.monotonic() - begin
        self.port = self.ready["url"].rpartition(":")[2]
        # Its access log must be read, or it would wait.
        self.reader = subprocess.Popen(["cat"], stdin=self.process.stdout,
                                       stdout=subprocess.DEVNULL)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self.reader.wait(10)


def load(options, server, *flags, **more):
    """An http_load that has begun."""
    vocab = SHAPES[options.shape][6]
    command = [options.http_load, "--port", server.port, "--json", "--vocab", str(vocab),
               "--timeout", "600", *map(str, flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=options.environment)


def result_of(process):
    out, _ = process.communicate()
    result = json.loads(out)
    if result["errors"]:
        print("errors:", result["errors"], file=sys.stderr)
    return result


def counts(before, after):
    """What the server counted meanwhile."""
    keys = [key for key in after if key.startswith(("lorax_adapter_hits", "lorax_adapter_loads{",
                                                    "lorax_adapter_load_seconds",
                                                    "lorax_adapter_evictions"))]
    keys += ["lorax_steps", "lorax_preemptions", "lorax_prefix_cache_hit_tokens"]
    return {key.removeprefix("lorax_"): round(after[key] - before[key], 6) for key in keys}


def streams(options, model, adapters):
    server = Server(options, model, adapters, "--max-batch-size", options.concurrency,
                    "--max-total-tokens", options.prompt + options.generate + 16,
                    "--adapter-memory-fraction", options.adapter_fraction, *options.serve_flags)
    try:
        common = ["--prompt-tokens", options.prompt, "--max-tokens", options.generate]
        # Every adapter once, so that all are in host memory.
        warm = result_of(load(options, server, "-c", min(options.adapters, 64), "-n",
                              options.adapters, "--prompt-tokens", 16, "--max-tokens", 1,
                              "--adapters", options.adapters, "--zipf", -1))
        before = server.metrics()
        result = result_of(load(options, server, *common, "-c", options.concurrency, "-n",
                                options.requests, "--bodies", options.requests, "--adapters",
                                options.adapters, "--zipf", 1, "--seed", 7))
        after = server.metrics()
    finally:
        server.stop()
    result["output_tokens_per_second"] = (result["requests"] * options.generate /
                                          result["seconds"])
    return {"server": server.ready, "first_loads_seconds": warm["seconds"], "load": result,
            "counts": counts(before, after)}


def engine(options, model, adapters):
    command = [options.lorax, "bench", "--engine", "--device", options.device, "--dtype", "bfloat16",
               "--shape", model / "config.json", "--batch", options.concurrency, "--requests",
               options.requests, "--prompt", options.prompt, "--generate", options.generate,
               "--adapters", options.adapters, "--adapter-dir", adapters, "--zipf", 1, "--repeat", 1,
               "--json"]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True,
                          env=options.environment, check=True)
    return json.loads(done.stdout)["results"][0]


def cold(options, model, adapters, bytes_each):
    running = 8
    # Device memory for the streams' adapters and a few others.
    resident = running + 6
    total = options.total_memory
    fraction = (resident + 0.5) * max(bytes_each, 2 << 20) / total
    server = Server(options, model, adapters, "--max-batch-size", 16, "--adapter-memory-fraction",
                    fraction, "--max-total-tokens", 1024)
    beside = options.cold_requests + 10
    probe = ["-c", 1, "--prompt-tokens", 32, "--max-tokens", 2, "--pause", 0.06]
    report = {}
    try:
        result_of(load(options, server, "-c", 4, "-n", beside, "--prompt-tokens", 16,
                       "--max-tokens", 1, "--adapters", beside, "--first-adapter", running,
                       "--zipf", -1))
        # The first 2 adapters again and again; then all in turn, each of which had to go meanwhile.
        for name, first, count in (("warm", running, 2), ("cold", running, beside)):
            background = load(options, server, "-c", running, "-n", running, "--prompt-tokens", 64,
                              "--max-tokens", options.cold_tokens, "--adapters", running, "--zipf",
                              -1)
            time.sleep(options.settle)
            before = server.metrics()
            result = result_of(load(options, server, *probe, "-n", options.cold_requests,
                                    "--first-adapter", first, "--adapters", count, "--zipf", -1,
                                    "--seed", 3))
            after = server.metrics()
            under_way = background.poll() is None
            gaps = result_of(background)["event_gap_ms"]
            report[name] = {"first_event_ms": result["first_event_ms"], "stream_gap_ms": gaps,
                            "streams_ran_throughout": under_way,
                            "counts": counts(before, after)}
    finally:
        server.stop()
    report["adapter_bytes"] = bytes_each
    report["added_ms"] = (report["cold"]["first_event_ms"]["p50"] -
                          report["warm"]["first_event_ms"]["p50"])
    report["aim_ms"] = bytes_each / 20e9 * 1e3 + 2
    report["server"] = server.ready
    return report


def gpu_memory():
    done = subprocess.run(["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
                          stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[0]) << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="9b")
    add("--device", default="cuda")
    add("--only", default="streams,engine,cold")
    add("--lorax", help="default: the carried program")
    add("--http-load", help="default: the carried program")
    add("--folder", help="for model and adapters (default: a temporary one in /dev/shm)")
    add("--adapters", type=int, default=200)
    add("--rank", type=int, default=16)
    add("--concurrency", type=int, default=256)
    add("--prompt", type=int, default=512)
    add("--generate", type=int, default=128)
    add("--requests", type=int, default=768)
    add("--adapter-fraction", type=float, default=0.1)
    add("--cold-requests", type=int, default=40)
    add("--cold-tokens", type=int, default=600, help="of each stream beside them")
    add("--settle", type=float, default=1.0, help="seconds until those streams run")
    add("--serve-flags", default="", help="further flags of lorax serve")
    options = parser.parse_args()
    options.lorax = options.lorax or gpu_programs.program("lorax")
    options.http_load = options.http_load or gpu_programs.program("http_load")
    options.environment = gpu_programs.environment()
    options.serve_flags = options.serve_flags.split()
    is_gpu = options.device.startswith("cuda")
    options.total_memory = gpu_memory() if is_gpu else os.sysconf("SC_PHYS_PAGES") * 4096
    report = {"shape": options.shape, "adapters": options.adapters, "rank": options.rank,
              "concurrency": options.concurrency, "prompt": options.prompt,
              "generate": options.generate, "requests": options.requests}
    place = options.folder or ("/dev/shm" if os.path.isdir("/dev/shm") else None)
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = pathlib.Path(name)
        model, adapters = folder / "model", folder / "adapters"
        make_model(model, options.shape)
        bytes_each = make_adapters(adapters, options.adapters, options.shape, options.rank)
        only = options.only.split(",")
        if "streams" in only:
            report["streams"] = streams(options, model, adapters)
            print(json.dumps(report), flush=True)
        if "engine" in only:
            report["engine"] = engine(options, model, adapters)
            print(json.dumps(report["engine"]), flush=True)
        if "cold" in only:
            report["cold"] = cold(options, model, adapters, bytes_each)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
