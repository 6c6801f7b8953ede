#!/usr/bin/env python3
"""How near to Hugging Face in float32 we compute in 16 bits, beside Hugging Face in the same dtype.

    python3 tools/gpu_certificate.py [--shape 2b] [--prompts 1,100,4097,8000] [--adapters 2]
                                     [--dtype float16] [--factors float32]
                                     [--batches 0,4,1]

Writes a checkpoint of the real shape with random weights (activations and scores of realistic
size), runs eager Hugging Face in float32 and in --dtype and `lorax logits` in --dtype on the same
prompts, and prints ||x - float32|| / ||float32|| of the last positions' logits for both. Ours come
one by one, as decode steps, behind the prefill of what is in front of them. With --adapters,
every prompt runs without adapter and with one of that many of PEFT's, of rank 16 on all seven
projections, which --factors float32 keeps in float32 beside a base in 16 bits, as PEFT does;
"cancelling" are such, too, of rank 16 whose halves nearly cancel. Ours run as one mixed batch, or in the order of the table as many at a time as --batches
says, once for each of its numbers. Passes if ours is at most 1.05 times Hugging Face's for
every prompt and batch. Needs torch, transformers 5 and peft, a GPU that holds the model in float32 (2b 10 GB,
9b 37 GB) beside the scores of the longest prompt, and room for the checkpoint (2b 5 GB, 9b 19 GB).
"""

import argparse
import contextlib
import gc
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gpu_programs

SHAPES = {  # hidden, intermediate, layers, heads, key/value heads, query_pre_attn_scalar
    "2b": (2304, 9216, 26, 8, 4, 256),
    "9b": (3584, 14336, 42, 16, 8, 256),
}
SHARD_BYTES = 4 << 30
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK = 16


def say(*words):
    print(*words, flush=True)


def make_config(shape, layers):
    hidden, intermediate, real_layers, heads, kv_heads, scalar = SHAPES[shape]
    config = Gemma2Config(
        vocab_size=256000, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers or real_layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=256, query_pre_attn_scalar=scalar,
        max_position_embeddings=8192, sliding_window=4096, attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0, rms_norm_eps=1e-6, tie_word_embeddings=True,
        hidden_activation="gelu_pytorch_tanh")
    config._attn_implementation = "eager"
    return config


def make_model(config, seed, device):
    """Float32, every weight representable in bfloat16 and float16."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = Gemma2ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.normal_(0.0, 0.3)  # of norms: 1 + w
            else:
                weight.normal_(0.0, weight.shape[1] ** -0.5)
                if "q_proj" in name:
                    weight.mul_(2.0)  # attention that looks somewhere
            weight.copy_(weight.bfloat16().half())
    return model


def write_checkpoint(model, config, folder):
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "num_key_value_heads", "head_dim", "query_pre_attn_scalar",
             "max_position_embeddings", "sliding_window", "attn_logit_softcapping",
             "final_logit_softcapping", "rms_norm_eps", "tie_word_embeddings",
             "hidden_activation", "layer_types")
    saved = {name: getattr(config, name) for name in names}
    saved.update(model_type="gemma2", architectures=["Gemma2ForCausalLM"], attention_bias=False,
                 dtype="bfloat16", bos_token_id=2, eos_token_id=1, pad_token_id=0,
                 rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    (folder / "config.json").write_text(json.dumps(saved))
    shards, size = [{}], 0
    for name, weight in model.named_parameters():
        if size > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = weight.detach().bfloat16().cpu().contiguous()
        size += shards[-1][name].nbytes
    index = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(shard, file))
    if len(shards) == 1:
        (folder / file).rename(folder / "model.safetensors")
    else:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def add_adapters(model, count, seed, factors):
    """The model with PEFT's adapters "adapter0", ... in it."""
    if count == 0:
        return model
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PROJECTIONS)
    model = get_peft_model(model, config, adapter_name="adapter0").eval()
    for i in range(1, count):
        model.add_adapter(f"adapter{i}", config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:  # changes of a third of what they change
                weight.normal_(0.0, weight.shape[1] ** -0.5 * (0.3 if "lora_B" in name else 1.0))
                if factors == "16-bit":
                    weight.copy_(weight.bfloat16().half())
                elif factors == "cancelling" and "lora_A" in name:
                    weight[RANK // 2:] = -5.0 * weight[:RANK // 2]
                    weight[:RANK // 2] *= 5.0 * (1 + 0.01 * torch.randn_like(weight[RANK // 2:]))
                elif factors == "cancelling":
                    weight[:, RANK // 2:] = weight[:, :RANK // 2]
    return model


def using(model, adapter):
    if adapter is not None:
        model.set_adapter(f"adapter{adapter}")
    elif hasattr(model, "disable_adapter"):
        return model.disable_adapter()
    return contextlib.nullcontext()


@torch.no_grad()
def last_logits(model, requests, rows, device):
    results = []
    for prompt, adapter in requests:
        ids = torch.tensor([prompt], device=device)
        with using(model, adapter):
            out = model(input_ids=ids, use_cache=False, logits_to_keep=min(rows, len(prompt)))
        results.append(out.logits[0].float().cpu())
        del out
        if device == "cuda":
            torch.cuda.empty_cache()
    return results


def relative(x, reference):
    return ((x.double() - reference.double()).norm() / reference.double().norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="2b", choices=SHAPES)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--prompts", default="1,100,4097,8000", help="their lengths")
    parser.add_argument("--adapters", type=int, default=0, help="distinct adapters")
    parser.add_argument("--factors", default="16-bit",
                        choices=["16-bit", "float32", "cancelling"], help="of adapters")
    parser.add_argument("--rows", type=int, default=64, help="last positions that are compared")
    parser.add_argument("--batches", default="0",
                        help="requests of a step of ours; 0: all of them")
    parser.add_argument("--chunk", type=int, help="tokens of a prompt per step of ours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lorax", default=gpu_programs.program("lorax"))
    parser.add_argument("--lorax-device", default="cuda")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--scratch", help="a folder with room for the checkpoint")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    device = options.torch_device
    memory = pathlib.Path("/dev/shm")
    scratch = options.scratch or (memory if memory.is_dir() else None)
    folder = pathlib.Path(tempfile.mkdtemp(dir=scratch, prefix="certificate-"))
    start = time.monotonic()

    def step(what):
        say(f"{time.monotonic() - start:6.1f} s  {what}")

    try:
        config = make_config(options.shape, options.layers)
        model = make_model(config, options.seed, device)
        generator = torch.Generator().manual_seed(options.seed)
        lengths = [int(length) for length in options.prompts.split(",")]
        prompts = [[2, *torch.randint(3, 256000, (n - 1,), generator=generator).tolist()]
                   for n in lengths]
        step("model made")
        write_checkpoint(model, config, folder)
        model = add_adapters(model, options.adapters, options.seed, options.factors)
        names = [f"adapter{i}" for i in range(options.adapters)]
        adapters = [folder / "adapters" / name for name in names]
        requests = [(prompt, None) for prompt in prompts]
        if adapters:
            model.save_pretrained(folder / "adapters", selected_adapters=names)
            requests += [(prompt, i % len(adapters)) for i, prompt in enumerate(prompts)]
        step("checkpoint written")
        reference = last_logits(model, requests, options.rows, device)
        step("Hugging Face, float32")
        # The parameters only: the rotary frequencies stay float32, as after from_pretrained.
        for name, weight in model.named_parameters():
            if "lora_" in name and options.factors != "16-bit":
                continue
            weight.data = weight.data.to(getattr(torch, options.dtype))
        theirs = last_logits(model, requests, options.rows, device)
        step(f"Hugging Face, {options.dtype}")
        del model
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()

        (folder / "requests.json").write_text(json.dumps(
            [{"input_ids": prompt, "adapter_id": None if i is None else str(adapters[i])}
             for prompt, i in requests]))
        command = [options.lorax, "logits", "--model-id", folder, "--device", options.lorax_device,
                   "--dtype", options.dtype, "--requests", folder / "requests.json", "--out",
                   folder / "logits.safetensors", "--last", str(options.rows),
                   "--decode", str(options.rows - 1)]
        if options.chunk:
            command += ["--chunk", str(options.chunk)]
        batches = [int(batch) for batch in options.batches.split(",")]
        ours = {}
        for batch in batches:
            subprocess.run([*command, *(["--batch", str(batch)] if batch else [])], check=True,
                           env=gpu_programs.environment())
            ours[batch] = load_file(folder / "logits.safetensors")
            step(f"lorax, {options.dtype}, {batch or 'all'} at a time")

        passed = True
        say(f"{'tokens':>8} {'adapter':>8} {'Hugging Face':>13}  ours, and its ratio, by batch: " +
            ", ".join(str(batch or "all") for batch in batches))
        for i, (prompt, adapter) in enumerate(requests):
            their_error = relative(theirs[i], reference[i])
            columns = []
            for batch in batches:
                our_error = relative(ours[batch][str(i)], reference[i])
                ratio = our_error / their_error
                passed = passed and ratio <= 1.05  # also false for NaN
                columns.append(f"{our_error:11.3e} {ratio:6.3f}")
            say(f"{len(prompt):8} {'-' if adapter is None else adapter:>8} {their_error:13.3e}  " +
                "  ".join(columns))
        say("certificate: " + ("passed" if passed else "FAILED"))
        return 0 if passed else 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
