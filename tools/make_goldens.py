#!/usr/bin/env python3
"""Writes tests/golden/data: tiny random Gemma 2 checkpoints and what Hugging Face computes on them.

    python3 tools/make_goldens.py --out tests/golden/data

Needs torch and transformers 5; takes a minute or two on a CPU. A case is a folder of

    config.json, generation_config.json, model*.safetensors   the checkpoint, in old or new spelling
    requests.json        prompts, as `lorax logits` reads them
    logits.safetensors   tensor "i" [length, vocab]: request i, float32, eager attention
    greedy.json          argmax continuations by full forwards without a cache; the smallest margin
                         of a best token over the second; and how far Hugging Face's own bfloat16
                         and float16 logits are from its float32 ones: |bf16 - f32| / |f32|

ablation.md says how far the logits move when one feature of the definition is changed. A feature
that moves them nowhere would go untested, so that is an error.
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
MIN_MARGIN = 5e-3  # far above float32 rounding, so that greedy ids can be compared exactly
MIN_EFFECT = 1e-2  # far above the tolerance of the tests

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

# name -> (changes to BASE, spelling of config.json, stored dtype, shards)
CASES = {
    "gqa-d32-old-keys": (
        dict(hidden_size=32, intermediate_size=96, num_hidden_layers=6), "old", torch.float32, 1),
    "gqa-d64-deep": (
        dict(hidden_size=48, intermediate_size=96, num_hidden_layers=6, num_attention_heads=8,
             head_dim=64, query_pre_attn_scalar=48, vocab_size=512, rope_theta=2500.0),
        "old", torch.float32, 1),
    "mha-d64-new-keys-untied": (
        dict(num_key_value_heads=4, head_dim=64, query_pre_attn_scalar=100, num_hidden_layers=3,
             sliding_window=13, rope_theta=5000.0, tie_word_embeddings=False),
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
        dict(num_attention_heads=8, num_key_value_heads=4, num_hidden_layers=3,
             intermediate_size=200, tie_word_embeddings=False,
             layer_types=["full_attention", "sliding_attention", "full_attention"]),
        "new", torch.float32, 2),
}


def split_fields(changes):
    """BASE with changes, less rope_theta and layer_types, which the spellings treat differently."""
    fields = {**BASE, **changes}
    theta = fields.pop("rope_theta")
    types = fields.pop("layer_types", None) or [
        "full_attention" if i % 2 else "sliding_attention"
        for i in range(fields["num_hidden_layers"])]
    return fields, theta, types


def hf_config(changes):
    fields, theta, types = split_fields(changes)
    config = Gemma2Config(
        **fields, layer_types=types, hidden_activation="gelu_pytorch_tanh", attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": theta}, use_cache=False,
        pad_token_id=0, eos_token_id=1, bos_token_id=2)
    config._attn_implementation = "eager"
    return config


def written_config(changes, spelling, dtype):
    """config.json as transformers 4.42 ("old") or 5 ("new") spells it."""
    fields, theta, types = split_fields(changes)
    tied = fields.pop("tie_word_embeddings")
    config = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2",
              "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2,
              "eos_token_id": 1, "pad_token_id": 0, **fields}
    dtype_name = str(dtype).removeprefix("torch.")
    if spelling == "old":
        config.update(torch_dtype=dtype_name, rope_theta=theta, hidden_act="gelu_pytorch_tanh",
                      cache_implementation="hybrid", transformers_version="4.42.4")
        if not tied:
            config["tie_word_embeddings"] = False
    else:
        config.update(dtype=dtype_name, hidden_activation="gelu_pytorch_tanh", layer_types=types,
                      rope_parameters={"rope_type": "default", "rope_theta": theta},
                      tie_word_embeddings=tied, use_bidirectional_attention=None,
                      transformers_version="5.17.0")
    return config


def scale_and_mean(name, parameter, config):
    """Of the normal distribution that a weight is drawn from.

    Chosen so that every feature matters and yet float32 rounding is not blown up: the first head of
    the first layer has scores beyond the soft-cap, the largest logits feel theirs, and the layers'
    outputs outweigh the embedding, or a tied head would merely repeat the last token.
    """
    fan_in = parameter.shape[-1]
    if "post_" in name:
        return 0.2, 1.0
    if name == "model.norm.weight":
        return 0.2, 6.0
    if "norm" in name:
        return 0.2, 0.0
    if "embed_tokens" in name or "lm_head" in name:
        return 0.5 / math.sqrt(fan_in), 0.0
    if "q_proj" in name:
        scores = torch.full((config.num_attention_heads, 1), 2.0)
        if "layers.0." in name:
            scores[0] = 14.0
        scores *= math.sqrt(config.query_pre_attn_scalar / config.head_dim / fan_in)
        return scores.repeat_interleave(config.head_dim, dim=0), 0.0
    if "gate_proj" in name:
        return 0.7 / math.sqrt(fan_in), 0.0
    return 1.0 / math.sqrt(fan_in), 0.0


def random_model(config, seed, dtype):
    """A model in float32 whose values can be stored in `dtype` as they are."""
    generator = torch.Generator().manual_seed(seed)
    model = Gemma2ForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale, mean = scale_and_mean(name, parameter, config)
            values = torch.randn(parameter.shape, generator=generator) * scale + mean
            parameter.copy_(values.to(dtype))
    return model


def load(directory, dtype):
    return Gemma2ForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager").eval()


def logits_of(model, ids):
    with torch.no_grad():
        input_ids = torch.tensor([ids], device=model.device)
        return model(input_ids=input_ids, use_cache=False).logits[0].float().cpu()


def greedy(model, prompt):
    ids = list(prompt)
    margin = math.inf
    for _ in range(NEW_TOKENS):
        top = logits_of(model, ids)[-1].topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return ids[len(prompt):], margin


def make_prompts(vocab_size, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab_size, (n,), generator=generator).tolist()
            for n in PROMPT_LENGTHS]


def build_case(changes, dtype):
    """Of the first seed whose greedy choices are never nearly tied."""
    config = hf_config(changes)
    for seed in range(1, 200):
        model = random_model(config, seed, dtype)
        prompts = make_prompts(config.vocab_size, seed)
        continuations = []
        for prompt in prompts:
            continuations.append(greedy(model, prompt))
            if continuations[-1][1] < MIN_MARGIN:
                break
        else:
            return model, prompts, continuations
    sys.exit("no seed without near ties")


def save_weights(model, directory, dtype, shards):
    state = {name: tensor.to(dtype).contiguous().clone()
             for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
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
    total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    write_json(directory / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}, 1)


def write_json(path, value, indent=None):
    path.write_text(json.dumps(value, indent=indent) + "\n")


def without_one(self, x):
    return (self._norm(x.float()) * self.weight.float()).type_as(x)


def ablations(model, changes, prompt):
    """Feature -> how far the logits of a prompt move when it is changed."""
    expected = logits_of(model, prompt)
    config = model.config

    def moved(other_changes=None, patch=None):
        other = Gemma2ForCausalLM(hf_config({**changes, **(other_changes or {})})).float().eval()
        state = dict(model.state_dict())
        if other.config.tie_word_embeddings:
            del state["lm_head.weight"]
        other.load_state_dict(state, strict=False)
        if patch:
            patch(other)
        return (logits_of(other, prompt) - expected).abs().max().item()

    def use_exact_gelu(other):
        for layer in other.model.layers:
            layer.mlp.act_fn = torch.nn.GELU()

    def drop_normaliser(other):
        other.model.embed_tokens.embed_scale.fill_(1.0)

    def drop_one_plus(other):
        for module in other.modules():
            if isinstance(module, modeling_gemma2.Gemma2RMSNorm):
                module.forward = without_one.__get__(module)

    window = config.sliding_window
    swapped = ["full_attention" if kind == "sliding_attention" else "sliding_attention"
               for kind in config.layer_types]
    rows = {
        "nothing (must be 0)": moved(),
        "no attention soft-cap": moved(dict(attn_logit_softcapping=None)),
        "no final soft-cap": moved(dict(final_logit_softcapping=None)),
        "no window": moved(dict(sliding_window=100000)),
        "window + 1": moved(dict(sliding_window=window + 1)),
        "window - 1": moved(dict(sliding_window=window - 1)),
        "sliding and full layers swapped": moved(dict(layer_types=swapped)),
        "rope_theta doubled": moved(dict(rope_theta=2 * {**BASE, **changes}["rope_theta"])),
        "exact gelu": moved(patch=use_exact_gelu),
        "norm weight without 1 +": moved(patch=drop_one_plus),
        "embedding not normalised": moved(patch=drop_normaliser),
    }
    if config.query_pre_attn_scalar != config.head_dim:
        rows["scores scaled by head_dim"] = moved(dict(query_pre_attn_scalar=config.head_dim))
    if not config.tie_word_embeddings:
        rows["head tied"] = moved(dict(tie_word_embeddings=True))
    return rows


def errors_in(directory, dtype, prompts, logits):
    model = load(directory, dtype)
    return [((logits_of(model, prompt) - expected).norm() / expected.norm()).item()
            for prompt, expected in zip(prompts, logits)]


def write_case(root, name):
    changes, spelling, dtype, shards = CASES[name]
    directory = root / name
    directory.mkdir(parents=True, exist_ok=True)
    model, prompts, continuations = build_case(changes, dtype)
    write_json(directory / "config.json", written_config(changes, spelling, dtype), 2)
    write_json(directory / "generation_config.json",
               {"bos_token_id": 2, "eos_token_id": [1, 107], "pad_token_id": 0}, 2)
    save_weights(model, directory, dtype, shards)
    write_json(directory / "requests.json",
               [{"input_ids": prompt, "adapter_id": None} for prompt in prompts])
    logits = [logits_of(model, prompt) for prompt in prompts]
    save_file({str(i): tensor.contiguous() for i, tensor in enumerate(logits)},
              directory / "logits.safetensors")

    # Read back as a user would: config.json and the weights must say what was meant.
    reloaded = load(directory, torch.float32)
    apart = max((logits_of(reloaded, prompt) - expected).abs().max().item()
                for prompt, expected in zip(prompts, logits))
    if apart > 1e-4:
        sys.exit(f"{name}: the files give other logits than the model, by {apart}")
    errors = {dtype: errors_in(directory, dtype, prompts, logits)
              for dtype in (torch.bfloat16, torch.float16)}
    write_json(directory / "greedy.json", {"max_new_tokens": NEW_TOKENS, "requests": [
        {"input_ids": prompt, "generated_ids": ids, "min_margin": margin,
         "bf16_relative_error": bf16, "f16_relative_error": f16}
        for prompt, (ids, margin), bf16, f16 in zip(prompts, continuations, *errors.values())]})

    report = (f"{name}: margin {min(margin for _, margin in continuations):.4f}, largest logit "
              f"{max(tensor.abs().max().item() for tensor in logits):.1f}, different ids per "
              f"continuation {[len(set(ids)) for ids, _ in continuations]}, bfloat16 error "
              f"{[round(error, 4) for error in errors[torch.bfloat16]]}, float16 error "
              f"{[round(error, 5) for error in errors[torch.float16]]}, reloaded {apart:.1e}")
    if torch.cuda.is_available():  # the same arithmetic in another order: what rounding alone does
        reloaded.cuda()
        spread = max((logits_of(reloaded, prompt) - expected).abs().max().item()
                     for prompt, expected in zip(prompts, logits))
        report += f", float32 CUDA against CPU {spread:.1e}"
    print(report, flush=True)
    return ablations(model, changes, prompts[-1])


def write_table(path, tables):
    """Returns the features that matter in no case."""
    features = list(dict.fromkeys(feature for rows in tables.values() for feature in rows))
    lines = ["# How far the logits move when one feature is changed", "",
             f"Largest absolute difference over a prompt of {PROMPT_LENGTHS[-1]} tokens, by "
             "tools/make_goldens.py.", "",
             "| feature | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]
    for feature in features:
        cells = [f"{rows[feature]:.4f}" if feature in rows else "" for rows in tables.values()]
        lines.append(f"| {feature} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return [feature for feature in features[1:]
            if max(rows.get(feature, 0.0) for rows in tables.values()) < MIN_EFFECT]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    root = parser.parse_args().out
    torch.set_num_threads(min(4, torch.get_num_threads()))  # tiny products gain nothing from more
    torch.backends.cuda.matmul.allow_tf32 = False
    tables = {name: write_case(root, name) for name in CASES}
    dead = write_table(root / "ablation.md", tables)
    moved = max(next(iter(rows.values())) for rows in tables.values())
    if moved > 1e-4:
        sys.exit(f"the ablations' own copy of a model differs by {moved}")
    if dead:
        sys.exit(f"these features matter nowhere: {', '.join(dead)}")


if __name__ == "__main__":
    main()
