#!/usr/bin/env python3
"""Our steps beside those of Hugging Face transformers and PEFT, on one GPU, one after the other.

    python3 tools/gpu_beside_hf.py [--shape 9b] [--cases 1x1024,1x2048,1x8160,64x2048]
                                   [--adapters 0,1,64] [--seconds 150]

Random weights of the real shape in bfloat16. Hugging Face runs eager attention (the one that has
Gemma 2's soft-cap without compiling) with its default cache; a batch's cache is that of one prompt,
repeated, so that its prefill needs no room for all scores at once. Without adapters PEFT is not
there; with several it gets `adapter_names`, a row each. `lorax bench` measures the same cases
before. A case that Hugging Face has no memory or --seconds left for stays empty. Needs torch,
transformers 5 and peft.
"""

import argparse
import copy
import gc
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # caches grow by steps
import torch
from transformers import DynamicCache, Gemma2ForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_certificate
import gpu_programs

MOST_STEPS = 8  # of decode, timed; and prefills
CASE_SECONDS = 6.0  # after which no further one begins


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(work):
    """The median."""
    seconds = []
    while len(seconds) < MOST_STEPS and sum(seconds) < CASE_SECONDS:
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]


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


def with_adapters(model, count, device):
    """The model with PEFT's adapters up to "adapter{count - 1}". All but the first are its copies:
    PEFT's own way to add one goes through all that there are, which takes minutes for 64."""
    if not hasattr(model, "peft_config"):
        with torch.device(device):
            model = gpu_certificate.add_adapters(model, 1, seed=1)
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()  # PEFT makes float32 ones
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for i in range(len(model.peft_config), count):
        model.peft_config[f"adapter{i}"] = model.peft_config["adapter0"]
        for layer in layers:
            for value in [*vars(layer).values(), *layer.children()]:
                if isinstance(value, (dict, torch.nn.ModuleDict)) and "adapter0" in value:
                    value[f"adapter{i}"] = copy.deepcopy(value["adapter0"])
    return model


class Peer:
    """Cases must come with ever more adapters."""

    def __init__(self, config, device):
        self.model, self.config, self.device = make_model(config, device), config, device

    @torch.no_grad()
    def measure(self, batch, prompt, adapters):
        """Seconds of a prefill of one prompt, and of a decode step of `batch` sequences."""
        if adapters > 0:
            self.model = with_adapters(self.model, adapters, self.device)
        model = self.model
        ids = torch.randint(3, self.config.vocab_size, (1, prompt), device=self.device)
        state = {}

        def prefill():
            state["cache"] = DynamicCache(config=self.config)
            model(input_ids=ids, past_key_values=state["cache"], use_cache=True, logits_to_keep=1)

        prefill()
        prefill_seconds = seconds_of(prefill) if batch == 1 else None
        cache = state["cache"]
        named = {}
        if batch > 1:
            cache.batch_repeat_interleave(batch)
            if adapters > 1:
                named["adapter_names"] = [f"adapter{i % adapters}" for i in range(batch)]
        token = torch.randint(3, self.config.vocab_size, (batch, 1), device=self.device)

        def step():
            model(input_ids=token, past_key_values=cache, use_cache=True, **named)

        step()
        return {"prefill": prefill_seconds, "decode": seconds_of(step)}


def ours(options, batch, prompts, counts):
    """{(batch, prompt, adapters, phase): milliseconds}"""
    command = [options.lorax, "bench", "--device", options.lorax_device, "--dtype", "bfloat16",
               "--shape", options.lorax_shape or f"gemma2-{options.shape}", "--batch", str(batch),
               "--prompt", ",".join(map(str, prompts)), "--generate", "16", "--adapters",
               ",".join(map(str, counts)), "--rank", str(gpu_certificate.RANK), "--repeat", "2",
               "--json"]
    report = json.loads(subprocess.run(command, check=True, env=gpu_programs.environment(),
                                       stdout=subprocess.PIPE, text=True).stdout)
    print(f"{report['device']}: C {report.get('copy_gb_per_s', 0):.0f} GB/s, "
          f"P {report.get('matmul_tflop_per_s', 0):.0f} TFLOP/s", flush=True)
    return {(batch, case["prompt"], case["adapters"], case["phase"]): case["ms_per_step"]
            for case in report["results"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="9b", choices=gpu_certificate.SHAPES)
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--cases", default="1x1024,1x2048,1x8160,64x2048",
                        help="sequences x tokens of a prompt")
    parser.add_argument("--adapters", default="0,1,64", help="distinct ones in the batch")
    parser.add_argument("--seconds", type=float, default=150, help="until no further case begins")
    parser.add_argument("--lorax", default=gpu_programs.program("lorax"))
    parser.add_argument("--lorax-device", default="cuda")
    parser.add_argument("--lorax-shape", help="a config.json instead of the shape's preset")
    parser.add_argument("--torch-device", default="cuda")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    cases = [tuple(map(int, case.split("x"))) for case in options.cases.split(",")]
    counts = sorted(map(int, options.adapters.split(",")))
    wanted = [(batch, prompt, count) for count in counts for batch, prompt in cases
              if count <= batch]

    our = {}
    for batch in sorted({batch for batch, _ in cases}):
        our |= ours(options, batch, [prompt for b, prompt in cases if b == batch],
                    [count for count in counts if count <= batch])
    config = gpu_certificate.make_config(options.shape, options.layers)
    peer = Peer(config, options.torch_device)
    print(f"{'phase':8} {'batch':>6} {'prompt':>7} {'adapters':>8} {'lorax ms':>10} {'HF ms':>10} "
          f"{'ratio':>7}", flush=True)
    for case in wanted:
        why, theirs = "no time left", {}
        if time.monotonic() < end:
            try:
                theirs = peer.measure(*case)
            except torch.cuda.OutOfMemoryError:
                why = "out of memory"
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for phase in ["prefill", "decode"] if case[0] == 1 else ["decode"]:
            milliseconds = our[(*case, phase)]
            told = why
            if phase in theirs:
                told = f"{theirs[phase] * 1e3:10.2f} {theirs[phase] * 1e3 / milliseconds:7.1f}"
            print(f"{phase:8} {case[0]:6} {case[1]:7} {case[2]:8} {milliseconds:10.2f} {told}",
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
