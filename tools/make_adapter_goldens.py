#!/usr/bin/env python3
"""Writes tests/golden/adapters: adapters of every kind and what PEFT computes with them.

    python3 tools/make_adapter_goldens.py      # in the project's root; torch, transformers, peft

For each base, a checkpoint of tests/golden/data, a folder with

    NAME/                the adapter as PEFT's save_pretrained writes it, or Medusa heads
    requests.json        one request for each adapter, merge, and the base alone
    logits.safetensors   tensor "i" [length, vocab]: request i, float32, eager attention; and
                         "i.speculative" [length, heads, vocab] where Medusa heads are active
    errors.json          for each of these tensors, how far it lies from float64's, at most; and
                         as "TENSOR.bfloat16", "TENSOR.float16" how far what PEFT computes on a
                         base in that type lies from float64's, relative, in the 2-norm
    greedy.json          argmax continuations by full forwards without a cache, which end before a
                         token that is nearly tied with the second best

Every number is computed from the files, loaded again. A kind that fails is reported and left out,
the others are written, and the exit status is 1. So it is if an adapter moves the logits too little
to be tested. On a CPU it takes about a minute.
"""

import argparse
import contextlib
import copy
import json
import math
import os
import pathlib
import shutil
import sys
import traceback
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Gemma2ForCausalLM

BASES = ("gqa-d32-old-keys", "mha-d64-new-keys-untied")  # tied and untied
NEW_TOKENS = 12
PROMPT_LENGTH = 20  # longer than the windows of both bases
MIN_MARGIN = 5e-3
MIN_IDS = 3
MIN_EFFECT = 2e-2
HEADS = 2

INVOCATION = [17, 5, 17]
# More than a kernel's piece of 64, and in no order.
TOKENS = [3 + 37 * i % 250 for i in range(80)]

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# name -> (LoraConfig, dtype of the file)
LORA = {
    "plain": (dict(r=4, lora_alpha=8, target_modules="all-linear"), torch.float32),
    "patterns": (dict(r=1, lora_alpha=2, target_modules=ALL,
                      rank_pattern={"layers.1.*q_proj": 16, "^model.layers.0.self_attn.v_proj": 4,
                                    "(gate|up)_proj": 2},
                      alpha_pattern={"o_proj": 3, r".*\.2\.mlp\..*": 5}), torch.float32),
    "rslora": (dict(r=4, lora_alpha=4, use_rslora=True,
                    target_modules=["q_proj", "v_proj", "mlp.down_proj"]), torch.float32),
    "dora": (dict(r=4, lora_alpha=8, use_dora=True,
                  target_modules=["q_proj", "o_proj", "gate_proj", "down_proj"]), torch.float32),
    "bias": (dict(r=4, lora_alpha=8, lora_bias=True, target_modules=["q_proj", "up_proj"]),
             torch.float32),
    "layers": (dict(r=33, lora_alpha=33, target_modules=["q_proj", "mlp.down_proj"],
                    layers_to_transform=[1, 2], layers_pattern="layers"), torch.float32),
    "exclude": (dict(r=5, lora_alpha=10, target_modules=r".*\.(q|k|v|o)_proj",
                     exclude_modules=r".*layers\.0\..*"), torch.float32),
    "saved-head": (dict(r=1, lora_alpha=2, target_modules=["q_proj"],
                        modules_to_save=["lm_head", "model.norm"]), torch.float32),
    "saved-embedding": (dict(r=1, lora_alpha=2, target_modules=["v_proj"],
                             modules_to_save=["embed_tokens", "input_layernorm"]), torch.float32),
    "head": (dict(r=4, lora_alpha=8, target_modules=["lm_head"]), torch.float32),
    "head-dora": (dict(r=4, lora_alpha=8, use_dora=True, target_modules=["lm_head", "v_proj"]),
                  torch.float32),
    "embedding": (dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"]),
                  torch.float32),
    "embedding-dora": (dict(r=4, lora_alpha=8, use_dora=True, target_modules=["embed_tokens"]),
                       torch.float32),
    "embedding-copy": (dict(r=4, lora_alpha=8, target_modules=["embed_tokens"]), torch.float32),
    "bfloat16": (dict(r=1, lora_alpha=2, target_modules="all-linear"), torch.bfloat16),
    "float16": (dict(r=4, lora_alpha=8, target_modules=["k_proj", "gate_proj"]), torch.float16),
    "medusa-lora": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"]), torch.float32),
    # Of a base in float32: rounded to 16 bits it is another weight.
    "embedding-copy-bfloat16": (dict(r=1, lora_alpha=2, target_modules=["embed_tokens"]),
                                torch.bfloat16),
    "saved-both": (dict(r=1, lora_alpha=2, target_modules=["q_proj"],
                        modules_to_save=["embed_tokens", "lm_head"]), torch.float32),
    "saved-beside": (dict(r=1, lora_alpha=2, target_modules=["q_proj"],
                          modules_to_save=["embed_tokens"]), torch.float32),
    "saved-tied": (dict(r=1, lora_alpha=2, target_modules=["q_proj"], ensure_weight_tying=True,
                        modules_to_save=["embed_tokens", "lm_head"]), torch.float32),
    "lora-tied": (dict(r=2, lora_alpha=4, ensure_weight_tying=True,
                       target_modules=["lm_head", "v_proj"]), torch.float32),
}
LORA.update({
    "tokens": (dict(r=2, lora_alpha=4, target_modules=["v_proj"], trainable_token_indices=TOKENS),
               torch.float32),
    "tokens-bfloat16": (dict(r=2, lora_alpha=4, target_modules=["v_proj"],
                             trainable_token_indices=TOKENS[:40]), torch.bfloat16),
    "tokens-each": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                         trainable_token_indices={"embed_tokens": TOKENS, "lm_head": [9, 4, 7]}),
                    torch.float32),
    "tokens-head": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                         trainable_token_indices={"lm_head": TOKENS[:7]}), torch.float32),
    "tokens-lora-head": (dict(r=2, lora_alpha=4, target_modules=["lm_head", "v_proj"],
                              trainable_token_indices=TOKENS[:50]), torch.float32),
    "tokens-copy": (dict(r=2, lora_alpha=4, target_modules=["q_proj"],
                         trainable_token_indices=TOKENS[:50]), torch.float32),
    "tokens-alone": (dict(token_indices=TOKENS), torch.float32),
    "alora": (dict(r=4, lora_alpha=8, target_modules="all-linear",
                   alora_invocation_tokens=INVOCATION), torch.float32),
    "alora-head": (dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"], lora_bias=True,
                        alora_invocation_tokens=INVOCATION), torch.float32),
})
TIED_ONLY = ("embedding-copy-bfloat16", "saved-both", "saved-beside", "saved-tied", "lora-tied")
MEDUSA = {"medusa-v1": 1, "medusa-v2": 2}
# name -> (members, what PEFT calls combination_type and its arguments)
MERGES = {
    "linear": (["plain", "rslora"], dict(weights=[0.75, 0.5], merge_strategy="linear")),
    "linear-negative": (["plain", "float16"], dict(weights=[1.0, -0.5], merge_strategy="linear")),
    "linear-rslora-first": (["rslora", "plain"],
                            dict(weights=[0.5, 0.25], merge_strategy="linear")),
    "ties-total": (["plain", "rslora", "float16"],
                   dict(weights=[1.0, 0.5, 0.75], merge_strategy="ties", density=0.5,
                        majority_sign_method="total")),
    "ties-frequency": (["plain", "rslora", "float16"],
                       dict(weights=[1.0, 0.5, 0.75], merge_strategy="ties", density=0.8,
                            majority_sign_method="frequency")),
    "dare-linear": (["plain", "rslora"],
                    dict(weights=[0.5, 0.5], merge_strategy="dare_linear", density=1.0)),
    "dare-ties": (["plain", "rslora"],
                  dict(weights=[0.5, 1.0], merge_strategy="dare_ties", density=1.0,
                       majority_sign_method="total")),
}
# For the certificate of 16 bits: what rounding A and B would spoil.
# name -> target_modules of a PEFT `cat` merge of two nearly equal adapters, whose weights cancel
CANCELLING = {
    "cat-cancels": ["q_proj", "o_proj", "gate_proj", "down_proj"],
    "cat-cancels-ends": ["embed_tokens", "lm_head"],
}
CANCELLING_WEIGHTS = [5.0, -5.0]
LORA |= {
    "member": (dict(r=4, lora_alpha=32), torch.float32),  # of those; target_modules from there
    "small-b": (dict(r=4, lora_alpha=800000, target_modules="all-linear"), torch.float32),
    "large": (dict(r=4, lora_alpha=80, target_modules=["v_proj", "up_proj"]), torch.float32),
}
PRECISION = ("small-b", "large")
SIXTEEN = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def seed_of(*parts):
    return zlib.crc32("/".join(map(str, parts)).encode())


def write_json(path, value, indent=None):
    path.write_text(json.dumps(value, indent=indent) + "\n")


def load_base(directory, dtype=torch.float32):
    return Gemma2ForCausalLM.from_pretrained(
        str(directory), dtype=dtype, attn_implementation="eager").eval()


def randomize(model, generator):
    """Non-zero values everywhere, so that whatever is left out shows."""
    def normal(parameter, scale):
        return torch.randn(parameter.shape, generator=generator) * scale

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude_vector" in name or ".modules_to_save." in name:
                parameter.mul_(1 + normal(parameter, 0.3))
            elif "trainable_tokens_delta" in name:
                parameter.copy_(parameter.std() * normal(parameter, 1.0))
            elif "lora_embedding_A" in name:
                parameter.copy_(normal(parameter, 1.0))
            elif "lora_embedding_B" in name:
                parameter.copy_(normal(parameter, 0.05 / math.sqrt(parameter.shape[1])))
            elif "lora_A" in name:
                parameter.copy_(normal(parameter, 1 / math.sqrt(parameter.shape[1])))
            elif "lora_B" in name and name.endswith("bias"):
                parameter.copy_(normal(parameter, 0.2))
            elif "lora_B" in name:
                parameter.copy_(normal(parameter, 0.3 / math.sqrt(parameter.shape[1])))


def change_tensors(directory, change):
    path = directory / "adapter_model.safetensors"
    # Copies, as the originals may be views of the file that is about to be written.
    tensors = change({name: tensor.clone() for name, tensor in load_file(path).items()})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path,
              metadata={"format": "pt"})


def save_lora(name, base_directory, directory, seed):
    arguments, dtype = LORA[name]
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kind = TrainableTokensConfig if "token_indices" in arguments else LoraConfig
    config = kind(task_type="CAUSAL_LM", **arguments)
    model = get_peft_model(load_base(base_directory), config)
    randomize(model, generator)
    # Relative, whatever the place of the project.
    model.peft_config["default"].base_model_name_or_path = (
        f"tests/golden/data/{base_directory.name}")
    if name == "tokens-copy":
        with torch.no_grad():
            weight = model.get_input_embeddings().token_adapter.base_layer.weight
            weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
    if name == "saved-beside":  # as after training the base, too, which the head still uses
        with torch.no_grad():
            weight = model.get_input_embeddings().original_module.weight
            weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(str(directory),
                          save_embedding_layers=True if name in ("saved-beside", "tokens-copy") else "auto")
    (directory / "README.md").unlink(missing_ok=True)
    if dtype != torch.float32:
        change_tensors(directory, lambda tensors: {n: t.to(dtype) for n, t in tensors.items()})
    if name == "small-b":  # as after few steps from B = 0: not all are normal numbers in float16
        change_tensors(directory, lambda tensors: {
            n: t * 1e-5 if "lora_B" in n else t for n, t in tensors.items()})
    if name == "embedding-copy":  # as after training the base itself, too
        def perturb(tensors):
            key = "base_model.model.model.embed_tokens.base_layer.weight"
            noise = torch.randn(tensors[key].shape, generator=generator)
            return {**tensors, key: tensors[key] * (1 + 0.1 * noise)}
        change_tensors(directory, perturb)


def save_cancelling(name, base_directory, directory, seed):
    """Two adapters, the second the first but for one per cent, and their difference times 5."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    arguments, _ = LORA["member"]
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=CANCELLING[name], **arguments)
    model = get_peft_model(load_base(base_directory), config, adapter_name="first")
    randomize(model, generator)
    model.add_adapter("second", copy.deepcopy(config))
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for key, parameter in parameters.items():
            if key.endswith(".first.weight") or key.endswith(".first"):
                noise = torch.randn(parameter.shape, generator=generator)
                parameters[key.replace(".first", ".second")].copy_(parameter * (1 + 0.01 * noise))
    model.add_weighted_adapter(["first", "second"], CANCELLING_WEIGHTS, "merged",
                               combination_type="cat")
    model.peft_config["merged"].base_model_name_or_path = (
        f"tests/golden/data/{base_directory.name}")
    model.save_pretrained(str(directory), selected_adapters=["merged"],
                          save_embedding_layers=False)
    for path in (directory / "merged").iterdir():
        path.rename(directory / path.name)
    (directory / "merged").rmdir()
    (directory / "README.md").unlink(missing_ok=True)


def check_precision(model, dtype):
    """PEFT keeps the factors, and trained tokens, in float32 beside a base in 16 bits."""
    for name, parameter in model.named_parameters():
        is_factor = "lora_A" in name or "lora_B" in name or "lora_embedding" in name
        if parameter.dtype != (torch.float32 if is_factor else dtype) and (
                is_factor or "lora" not in name and "modules_to_save" not in name and
                "trainable_tokens" not in name):
            raise RuntimeError(f"{name} is {parameter.dtype}")


def relative_error(got, exact):
    return ((got.double() - exact).norm() / exact.norm()).item()


def medusa_tensors(version, hidden, vocab, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for head in range(HEADS):
        tensors[f"{head}.0.linear.weight"] = (
            torch.randn(hidden, hidden, generator=generator) / math.sqrt(hidden))
        tensors[f"{head}.0.linear.bias"] = torch.randn(hidden, generator=generator) * 0.3
        if version == 1:
            tensors[f"{head}.1.weight"] = (
                torch.randn(vocab, hidden, generator=generator) / math.sqrt(hidden))
    return tensors


def write_medusa_config(directory, version):
    write_json(directory / "config.json",
               {"base_model_name_or_path": None, "medusa_num_heads": HEADS,
                "medusa_num_layers": 1, "version": float(version)}, 2)


def speculative_of(model, tensors, ids):
    """[length, heads, vocab]: what Medusa heads make of the final hidden states."""
    cap = model.config.final_logit_softcapping
    with torch.no_grad():
        x = model.model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        heads = []
        for head in range(HEADS):
            linear = torch.nn.functional.linear(x, tensors[f"{head}.0.linear.weight"],
                                                tensors[f"{head}.0.linear.bias"])
            block = x + torch.nn.functional.silu(linear)
            if f"{head}.1.weight" in tensors:
                heads.append(block @ tensors[f"{head}.1.weight"].T)
            else:
                heads.append(cap * torch.tanh(model.lm_head(block) / cap))
        return torch.stack(heads, dim=1)


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


@contextlib.contextmanager
def float64():
    """Where transformers computes in float32 whatever the model's type, it takes float64."""
    float32, to_float = torch.float32, torch.Tensor.float
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.Tensor.float = float32, to_float


def greedy(model, prompt):
    ids, smallest = list(prompt), math.inf
    while len(ids) < len(prompt) + NEW_TOKENS:
        top = logits_of(model, ids)[-1].topk(2)
        margin = (top.values[0] - top.values[1]).item()
        if margin < MIN_MARGIN:
            break
        smallest = min(smallest, margin)
        ids.append(top.indices[0].item())
    return ids[len(prompt):], smallest


class Case:
    """One base with its requests."""

    def __init__(self, data, out, name):
        self.base_directory = data / name
        self.directory = out / name
        self.name = name
        self.base = load_base(self.base_directory)
        self.entries = []
        self.failures = []

    def prompt(self, label, attempt):
        generator = torch.Generator().manual_seed(seed_of(self.name, label, "prompt", attempt))
        vocab = self.base.config.vocab_size
        prompt = torch.randint(3, vocab, (PROMPT_LENGTH,), generator=generator).tolist()
        if label.startswith("alora"):  # the last place counts
            for place in (2, 9):
                prompt[place:place + len(INVOCATION)] = INVOCATION
        return prompt

    def path(self, name):
        return f"tests/golden/adapters/{self.name}/{name}"

    def attempt(self, label, function, *arguments):
        try:
            function(label, *arguments)
        except Exception:  # the other kinds shall not be lost
            traceback.print_exc()
            self.failures.append(label)
            print(f"{self.name}/{label}: FAILED", flush=True)

    def add(self, label, fields, model, in_16_bits, medusa=None):
        """Records what `model` computes, and `in_16_bits(base)` on a base in 16 bits; `medusa` are
        the tensors of heads on it."""
        for attempt in range(20):
            prompt = self.prompt(label, attempt)
            ids, margin = greedy(model, prompt)
            if len(ids) >= MIN_IDS:
                break
        else:
            raise RuntimeError("no prompt without near ties")
        logits = logits_of(model, prompt)
        if not torch.isfinite(logits).all():
            raise RuntimeError("logits are not finite")
        tensors = {"": logits}
        if medusa is not None:
            inner = model.get_base_model() if isinstance(model, PeftModel) else model
            tensors[".speculative"] = speculative_of(inner, medusa, prompt)
        with float64():
            exact = copy.deepcopy(model).double()
            heads = medusa and {name: tensor.double() for name, tensor in medusa.items()}
            wanted = {"": exact(input_ids=torch.tensor([prompt]), use_cache=False).logits[0]}
            if medusa is not None:
                inner = exact.get_base_model() if isinstance(exact, PeftModel) else exact
                wanted[".speculative"] = speculative_of(inner, heads, prompt)
        errors = {suffix: (tensors[suffix].double() - value).abs().max().item()
                  for suffix, value in wanted.items()}
        for name, dtype in SIXTEEN.items():
            rounded = in_16_bits(load_base(self.base_directory, dtype)).eval()
            check_precision(rounded, dtype)
            errors[f".{name}"] = relative_error(logits_of(rounded, prompt), wanted[""])
            if medusa is not None:
                inner = rounded.get_base_model() if isinstance(rounded, PeftModel) else rounded
                heads = {key: tensor.to(dtype) for key, tensor in medusa.items()}
                errors[f".speculative.{name}"] = relative_error(
                    speculative_of(inner, heads, prompt), wanted[".speculative"])
        effect = (logits - logits_of(self.base, prompt)).abs().max().item()
        spread = "" if medusa is None else (
            f", heads move {(tensors['.speculative'] - logits[:, None]).abs().max().item():.3f}")
        print(f"{self.name}/{label}: moves the logits by {effect:.3f}, {len(ids)} greedy ids, "
              f"error {errors['']:.2e}, in 16 bits {errors['.bfloat16']:.2e} {errors['.float16']:.2e}, "
              f"margin {margin:.4f}{spread}", flush=True)
        if effect < MIN_EFFECT and label != "base" and label not in MEDUSA:
            raise RuntimeError(f"it moves the logits by {effect} only")
        self.entries.append(({"input_ids": prompt, **fields}, tensors, ids, margin, errors))

    def add_base(self, label):
        self.add(label, {"adapter_id": None}, self.base, lambda base: base)

    def add_lora(self, label):
        directory = self.directory / label
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        save_lora(label, self.base_directory, directory, seed_of(self.name, label))
        model = PeftModel.from_pretrained(load_base(self.base_directory), str(directory)).eval()
        medusa = None
        if label == "medusa-lora":
            config = self.base.config
            medusa = medusa_tensors(2, config.hidden_size, config.vocab_size,
                                    seed_of(self.name, label, "heads"))
            change_tensors(directory, lambda tensors: {**tensors, **medusa})
            write_medusa_config(directory, 2)
        self.add_saved(label, model, medusa)

    def add_cancelling(self, label):
        directory = self.directory / label
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        save_cancelling(label, self.base_directory, directory, seed_of(self.name, label))
        self.add_saved(label, PeftModel.from_pretrained(load_base(self.base_directory),
                                                        str(directory)).eval())

    def add_saved(self, label, model, medusa=None):
        self.add(label, {"adapter_id": self.path(label)}, model,
                 lambda base: PeftModel.from_pretrained(base, str(self.directory / label)), medusa)

    def add_medusa(self, label):
        directory = self.directory / label
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        config = self.base.config
        tensors = medusa_tensors(MEDUSA[label], config.hidden_size, config.vocab_size,
                                 seed_of(self.name, label))
        save_file(tensors, directory / "medusa_lm_head.safetensors", metadata={"format": "pt"})
        write_medusa_config(directory, MEDUSA[label])
        self.add(label, {"adapter_id": self.path(label)}, self.base, lambda base: base, tensors)

    def add_merge(self, label):
        members, parameters = MERGES[label]
        names = [f"member{i}" for i in range(len(members))]
        arguments = {key: parameters[key] for key in ("density", "majority_sign_method")
                     if key in parameters}

        def merge(base):
            model = None
            for name, member in zip(names, members):
                directory = str(self.directory / member)
                if model is None:
                    model = PeftModel.from_pretrained(base, directory, adapter_name=name)
                else:
                    model.load_adapter(directory, adapter_name=name)
            model.add_weighted_adapter(names, parameters["weights"], "merged",
                                       combination_type=parameters["merge_strategy"], **arguments)
            model.set_adapter("merged")
            return model.eval()

        merged = {"ids": [self.path(member) for member in members], **parameters}
        self.add(label, {"merged_adapters": merged}, merge(load_base(self.base_directory)), merge)

    def write(self):
        write_json(self.directory / "requests.json", [entry[0] for entry in self.entries])
        tensors = {f"{i}{suffix}": tensor.contiguous()
                   for i, entry in enumerate(self.entries) for suffix, tensor in entry[1].items()}
        save_file(tensors, self.directory / "logits.safetensors")
        write_json(self.directory / "greedy.json",
                   {"max_new_tokens": NEW_TOKENS,
                    "requests": [{**request, "generated_ids": ids, "min_margin": margin}
                                 for request, _, ids, margin, _ in self.entries]})
        write_json(self.directory / "errors.json",
                   {f"{i}{suffix}": error for i, entry in enumerate(self.entries)
                    for suffix, error in entry[4].items()}, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, default="tests/golden/data")
    parser.add_argument("--out", type=pathlib.Path, default="tests/golden/adapters")
    args = parser.parse_args()
    torch.set_num_threads(min(4, torch.get_num_threads()))  # tiny products gain nothing from more
    failures = []
    for name in BASES:
        try:
            case = Case(args.data, args.out, name)
            case.attempt("base", case.add_base)
            for label in LORA:
                if label == "member" or label in PRECISION:
                    continue
                if label in TIED_ONLY and not case.base.config.tie_word_embeddings:
                    continue
                case.attempt(label, case.add_lora)
            for label in MEDUSA:
                case.attempt(label, case.add_medusa)
            for label in MERGES:
                case.attempt(label, case.add_merge)
            for label in PRECISION:
                case.attempt(label, case.add_lora)
            for label in CANCELLING:
                case.attempt(label, case.add_cancelling)
            case.write()
            failures += [f"{name}/{label}" for label in case.failures]
        except Exception:
            traceback.print_exc()
            failures.append(name)
    total = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{total / 1e6:.2f} MB in {args.out}")
    if failures:
        sys.exit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
