#!/usr/bin/env python3
"""Writes tests/golden/data: tiny random Gemma 2 checkpoints and what Hugging Face computes on them.

    python3 tools/make_goldens.py --out tests/golden/data

Needs torch and transformers. For each case: config.json, generation_config.json, weights,
requests.json (for `lorax logits`), logits.safetensors (float32, eager attention), greedy.json
(argmax continuations by full forwards, with the smallest margin met, and the relative error of
Hugging Face's own bfloat16 run). ablation.md says how far the logits move when one feature of the
definition is changed: a feature that moves nothing would not be tested, so that is an error.
"""

import argparse
import json
import math
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM
from transformers.models.gemma2 import modeling_gemma2

NEW_TOKENS = 24
PROMPT_LENGTHS = (1, 7, 40, 90)
MIN_MARGIN = 2e-3

BASE = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=256,
    sliding_window=16,
    query_pre_attn_scalar=24,
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)

# name -> (changes to BASE, how config.json is spelled, stored dtype, shards)
CASES = {
    "gqa-d32-old-keys": (dict(), "old", torch.float32, 1),
    "mha-d64-new-keys-untied": (
        dict(num_key_value_heads=4, head_dim=64, query_pre_attn_scalar=100, tie_word_embeddings=False,
             rope_theta=5000.0, num_hidden_layers=3, sliding_window=13),
        "new", torch.float32, 1),
    "mqa-d128-sharded-bfloat16": (
        dict(num_key_value_heads=1, head_dim=128, query_pre_attn_scalar=144, num_hidden_layers=2,
             hidden_size=72, vocab_size=301),
        "old", torch.bfloat16, 3),
    "gqa-d256-float16": (
        dict(num_attention_heads=2, num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256,
             num_hidden_layers=2, sliding_window=32),
        "new", torch.float16, 1),
    "full-first-untied": (
        dict(num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False,
             num_hidden_layers=3, intermediate_size=200,
             layer_types=["full_attention", "sliding_attention", "full_attention"]),
        "new", torch.float32, 2),
}


def hf_config(changes):
    fields = {**BASE, **changes}
    theta = fields.pop("rope_theta")
    layers = fields["num_hidden_layers"]
    types = fields.pop("layer_types", None) or [
        "full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    config = Gemma2Config(
        **fields, layer_types=types, hidden_activation="gelu_pytorch_tanh", attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": theta}, use_cache=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=2)
    config._attn_implementation = "eager"
    return config


def written_config(changes, spelling, dtype):
    """config.json as transformers 4.42 ("old") or 5 ("new") spells it."""
    fields = {**BASE, **changes}
    theta = fields.pop("rope_theta")
    tied = fields.pop("tie_word_embeddings")
    types = fields.pop("layer_types", None)
    out = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False,
           "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, **fields}
    name = str(dtype).removeprefix("torch.")
    if spelling == "old":
        out.update(torch_dtype=name, rope_theta=theta, hidden_act="gelu_pytorch_tanh")
        if not tied:
            out["tie_word_embeddings"] = False
    else:
        layers = fields["num_hidden_layers"]
        out.update(dtype=name, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=tied,
                   rope_parameters={"rope_type": "default", "rope_theta": theta},
                   layer_types=types or ["full_attention" if i % 2 else "sliding_attention"
                                         for i in range(layers)])
    return out


def random_model(config, seed, dtype):
    """Weights large enough that scores and logits reach their caps; values as stored in `dtype`."""
    generator = torch.Generator().manual_seed(seed)
    model = Gemma2ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(0.2 * noise)
            elif "q_proj" in name or "k_proj" in name:
                parameter.copy_(noise * 2.2 / math.sqrt(parameter.shape[1]))
            elif "embed" in name or "lm_head" in name:
                parameter.copy_(noise * 0.9)
            else:
                parameter.copy_(noise / math.sqrt(parameter.shape[1]))
            parameter.copy_(parameter.to(dtype).float())
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def greedy(model, prompt):
    ids = list(prompt)
    margin = math.inf
    for _ in range(NEW_TOKENS):
        top = logits_of(model, ids)[-1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return ids[len(prompt):], margin


def relative_error(model, ids, expected):
    """Of Hugging Face in bfloat16, weights converted too."""
    low = Gemma2ForCausalLM(model.config).eval()
    low.load_state_dict(model.state_dict())
    low = low.to(torch.bfloat16)
    return ((logits_of(low, ids) - expected).norm() / expected.norm()).item()


def make_prompts(vocab_size, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab_size, (n,), generator=generator).tolist() for n in PROMPT_LENGTHS]


def build_case(changes, dtype):
    """The first seed whose greedy choices are never nearly tied."""
    config = hf_config(changes)
    for seed in range(1, 200):
        model = random_model(config, seed, dtype)
        prompts = make_prompts(config.vocab_size, seed)
        continuations = [greedy(model, prompt) for prompt in prompts]
        if min(margin for _, margin in continuations) > MIN_MARGIN:
            return model, prompts, continuations
    sys.exit("no seed without near ties")


def save_weights(model, directory, dtype, shards, tied):
    state = {name: tensor.to(dtype).contiguous().clone() for name, tensor in model.state_dict().items()
             if not (tied and name == "lm_head.weight")}
    if shards == 1:
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(state)
    files = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: state[name] for name in names[shard::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        files.update({name: file for name in part})
    total = sum(t.numel() * t.element_size() for t in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=None) + "\n")


def ablations(model, changes, prompts):
    """Feature -> how far the logits of the longest prompt move when it is changed."""
    ids = prompts[-1]
    expected = logits_of(model, ids)

    def moved(other_changes=None, patch=None):
        other = Gemma2ForCausalLM(hf_config({**changes, **(other_changes or {})})).float().eval()
        state = dict(model.state_dict())
        if other.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        other.load_state_dict(state, strict=False)
        other.tie_weights()
        undo = patch(other) if patch else None
        result = (logits_of(other, ids) - expected).abs().max().item()
        if undo:
            undo()
        return result

    config = model.config
    flipped = ["full_attention" if t == "sliding_attention" else "sliding_attention"
               for t in config.layer_types]

    def patch_gelu(other):
        for layer in other.model.layers:
            layer.mlp.act_fn = torch.nn.GELU()

    def patch_norm(other):
        original = modeling_gemma2.Gemma2RMSNorm.forward

        def without_one(self, x):
            return (self._norm(x.float()) * self.weight.float()).type_as(x)

        modeling_gemma2.Gemma2RMSNorm.forward = without_one

        def undo():
            modeling_gemma2.Gemma2RMSNorm.forward = original

        return undo

    def patch_embedding(other):
        # Undoes the normaliser: the model multiplies by sqrt(hidden) after this.
        scale = config.hidden_size ** -0.5
        weight = other.model.embed_tokens.weight
        head = other.lm_head.weight.clone()
        other.lm_head.weight = torch.nn.Parameter(head)
        other.model.embed_tokens.weight = torch.nn.Parameter(weight * scale)

    window = config.sliding_window
    rows = {
        "no attention soft-cap": moved(dict(attn_logit_softcapping=None)),
        "no final soft-cap": moved(dict(final_logit_softcapping=None)),
        "no window": moved(dict(sliding_window=100000)),
        "window + 1": moved(dict(sliding_window=window + 1)),
        "window - 1": moved(dict(sliding_window=window - 1)),
        "sliding and full layers swapped": moved(dict(layer_types=flipped)),
        "rope_theta x 2": moved(dict(rope_theta=2 * {**BASE, **changes}["rope_theta"])),
        "exact gelu": moved(patch=patch_gelu),
        "norm weight without 1 +": moved(patch=patch_norm),
        "embedding not normalised": moved(patch=patch_embedding),
    }
    if config.query_pre_attn_scalar != config.head_dim:
        rows["scale by head_dim"] = moved(dict(query_pre_attn_scalar=config.head_dim))
    if not config.tie_word_embeddings:
        rows["head tied"] = moved(dict(tie_word_embeddings=True))
    return rows


def write_case(root, name):
    changes, spelling, dtype, shards = CASES[name]
    directory = root / name
    directory.mkdir(parents=True, exist_ok=True)
    model, prompts, continuations = build_case(changes, dtype)
    write_json(directory / "config.json", written_config(changes, spelling, dtype))
    write_json(directory / "generation_config.json",
               {"bos_token_id": 2, "eos_token_id": [1, 107], "pad_token_id": 0})
    save_weights(model, directory, dtype, shards, model.config.tie_word_embeddings)
    write_json(directory / "requests.json",
               [{"input_ids": prompt, "adapter_id": None} for prompt in prompts])
    logits = [logits_of(model, prompt) for prompt in prompts]
    save_file({str(i): tensor.contiguous() for i, tensor in enumerate(logits)},
              directory / "logits.safetensors")
    requests = [{"input_ids": prompt, "generated_ids": ids, "min_margin": round(margin, 5),
                 "bf16_relative_error": relative_error(model, prompt, expected)}
                for prompt, (ids, margin), expected in zip(prompts, continuations, logits)]
    write_json(directory / "greedy.json", {"max_new_tokens": NEW_TOKENS, "requests": requests})
    biggest = max(tensor.abs().max().item() for tensor in logits)
    print(f"{name}: margin {min(m for _, m in continuations):.4f}, largest logit {biggest:.2f}, "
          f"bf16 error {requests[-1]['bf16_relative_error']:.4f}", flush=True)
    return ablations(model, changes, prompts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    root = parser.parse_args().out
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    tables = {name: write_case(root, name) for name in CASES}
    features = sorted({feature for rows in tables.values() for feature in rows})
    lines = ["# Largest change of a logit when one feature is changed", "",
             "Written by tools/make_goldens.py; the 90-token prompt of each case.", "",
             "| feature | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]
    dead = []
    for feature in features:
        values = [rows.get(feature) for rows in tables.values()]
        lines.append(f"| {feature} | " +
                     " | ".join("" if v is None else f"{v:.4f}" for v in values) + " |")
        if max(v for v in values if v is not None) < 1e-2:
            dead.append(feature)
    (root / "ablation.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    if dead:
        sys.exit(f"these features matter nowhere: {', '.join(dead)}")


if __name__ == "__main__":
    main()
