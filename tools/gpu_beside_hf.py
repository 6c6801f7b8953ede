#!/usr/bin/env python3
"""Our steps beside those of Hugging Face transformers and PEFT, on one GPU, one after the other.

    python3 tools/gpu_beside_hf.py [--shape 9b] [--cases 1x1024,64x2048] [--adapters 0,1,64]

Random weights of the real shape in bfloat16. Hugging Face runs eager attention (the one that has
Gemma 2's soft-cap without compiling) with its default cache; a batch's cache is that of one prompt,
repeated, so that its prefill needs no room for all scores at once. With several adapters PEFT gets
`adapter_names`, a row each. Then `lorax bench` measures the same cases. Needs torch, transformers 5
and peft.
"""

import argparse
import gc
import json
import pathlib
import subprocess
import sys
import time

import torch
from transformers import DynamicCache, Gemma2ForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_certificate
import gpu_programs

STEPS = 8  # of decode, timed


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work, times):
    """The median."""
    seconds = []
    for _ in range(times):
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[times // 2]


def make_model(config, device):
    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = Gemma2ForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
    return model


@torch.no_grad()
def measure(model, config, batch, prompt, adapters, device):
    """Seconds of a prefill of one prompt, and of a decode step of `batch` sequences."""
    named = {}
    if adapters == 0 and hasattr(model, "disable_adapter_layers"):
        model.disable_adapter_layers()
    elif adapters > 0:
        model.enable_adapter_layers()
        model.set_adapter("adapter0")
    ids = torch.randint(3, config.vocab_size, (1, prompt), device=device)
    state = {}

    def prefill():
        state["cache"] = DynamicCache(config=config)
        model(input_ids=ids, past_key_values=state["cache"], use_cache=True, logits_to_keep=1)

    prefill()
    prefill_seconds = seconds_of(prefill, 3)
    cache = state["cache"]
    if batch > 1:
        cache.batch_repeat_interleave(batch)
    if adapters > 1:
        named["adapter_names"] = [f"adapter{i % adapters}" for i in range(batch)]
    token = torch.randint(3, config.vocab_size, (batch, 1), device=device)

    def step():
        model(input_ids=token, past_key_values=cache, use_cache=True, **named)

    step()
    return prefill_seconds, seconds_of(step, STEPS)


def ours(options, batch, prompt, adapters):
    command = [options.lorax, "bench", "--device", options.lorax_device, "--dtype", "bfloat16",
               "--shape", options.lorax_shape or f"gemma2-{options.shape}", "--batch", str(batch),
               "--prompt", str(prompt), "--generate", str(2 * STEPS), "--adapters", str(adapters),
               "--rank", str(gpu_certificate.RANK), "--repeat", "2", "--json"]
    report = subprocess.run(command, check=True, env=gpu_programs.environment(),
                            stdout=subprocess.PIPE, text=True).stdout
    return {case["phase"]: case["ms_per_step"] for case in json.loads(report)["results"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="9b", choices=gpu_certificate.SHAPES)
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--cases", default="1x1024,64x2048", help="sequences x tokens of a prompt")
    parser.add_argument("--adapters", default="0,1,64", help="distinct ones in the batch")
    parser.add_argument("--lorax", default=gpu_programs.program("lorax"))
    parser.add_argument("--lorax-device", default="cuda")
    parser.add_argument("--lorax-shape", help="a config.json instead of the shape's preset")
    parser.add_argument("--torch-device", default="cuda")
    options = parser.parse_args()
    device = options.torch_device
    cases = [tuple(map(int, case.split("x"))) for case in options.cases.split(",")]
    counts = sorted(map(int, options.adapters.split(",")))
    wanted = [(batch, prompt, count) for batch, prompt in cases for count in counts
              if count <= batch]

    config = gpu_certificate.make_config(options.shape, options.layers)
    model = make_model(config, device)
    model = gpu_certificate.add_adapters(model, max(count for _, _, count in wanted), seed=1)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()  # PEFT makes float32 ones
    theirs = {case: measure(model, config, *case, device) for case in wanted}
    del model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

    print(f"{'phase':8} {'batch':>6} {'prompt':>7} {'adapters':>8} {'lorax ms':>10} {'HF ms':>10} "
          f"{'ratio':>7}")
    for (batch, prompt, count), (prefill, decode) in theirs.items():
        our = ours(options, batch, prompt, count)
        rows = [("decode", our["decode"], decode)]
        if batch == 1:
            rows.insert(0, ("prefill", our["prefill"], prefill))
        for phase, milliseconds, seconds in rows:
            print(f"{phase:8} {batch:6} {prompt:7} {count:8} {milliseconds:10.2f} "
                  f"{seconds * 1e3:10.2f} {seconds * 1e3 / milliseconds:7.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
