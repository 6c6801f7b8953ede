#!/usr/bin/env python3
"""Makes models/tiny-gemma2/adapters: LoRA adapters whose effect on the text can be seen.

    python3 tools/train_tiny_adapters.py --data DIR     # in the project's root

DIR is what `tools/train_tiny_gemma2.py prepare` wrote (of it, plain.json and chat.json are read).
Needs torch, transformers, peft, sentencepiece and a GPU; takes about 20 s an adapter on an H100.
Each adapter learns a fixed transformation of the corpus that the base was trained on: the beginning
of a text stays as it is, what follows is transformed, so that the same prompt shows what an adapter
does. One uses rank_pattern, one DoRA.
"""

import argparse
import json
import math
import os
import pathlib
import random
import re
import shutil
import sys
import time
import traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from transformers import Gemma2ForCausalLM

import train_tiny_gemma2 as base

base.NEW_TOKENS = 32
LENGTH = 192  # tokens of a training row
ROWS = 6000
BATCH = 64
PEAK_RATE = 3e-3
PROMPTS = [
    ("plain", "In the beginning God created"),
    ("plain", "The LORD is my shepherd; I shall not"),
    ("chat", "Continue: Blessed are the meek:"),
]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

MODERN = {
    "thou": "you", "thee": "you", "ye": "you", "thy": "your", "thine": "your",
    "thyself": "yourself",
    "hath": "has", "hast": "have", "doth": "does", "dost": "do", "art": "are", "wast": "were",
    "shalt": "will", "shall": "will", "wilt": "will", "unto": "to", "saith": "says",
    "spake": "spoke",
    "begat": "fathered", "thereof": "of it", "lo": "look", "behold": "look", "verily": "truly",
    "yea": "yes", "nay": "no", "whither": "where", "hither": "here", "thither": "there",
    "cometh": "comes", "goeth": "goes", "maketh": "makes", "giveth": "gives", "knoweth": "knows",
    "brethren": "brothers", "lest": "so that not", "upon": "on", "wherefore": "so",
    "therefore": "so", "forth": "out", "away": "off",
}
PIRATE = {
    "the": "th'", "and": "an'", "of": "o'", "my": "me", "you": "ye", "thou": "ye", "thee": "ye",
    "is": "be", "are": "be", "was": "were", "said": "growled", "saith": "growls", "god": "captain",
    "lord": "captain", "king": "admiral", "people": "crew", "children": "shipmates", "man": "matey",
    "men": "scallywags", "house": "ship", "land": "isle", "earth": "sea", "city": "port",
    "son": "cabin boy", "sons": "cabin boys", "heaven": "high sky", "servant": "swabbie",
    "servants": "swabbies", "gold": "doubloons", "silver": "booty", "before": "afore",
    "between": "betwixt", "behold": "ahoy", "no": "nay", "yes": "aye", "evil": "cursed",
}


def by_words(words):
    def replace(match):
        word = match.group()
        new = words.get(word.lower())
        if new is None:
            return word
        return new[0].upper() + new[1:] if word[0].isupper() else new
    return lambda text: re.sub(r"[A-Za-z]+", replace, text)


def number_lines(text):
    """Every line but the first begins with its number."""
    lines = text.split("\n")
    return "\n".join([lines[0], *(f"{i}. {line}" if line else ""
                                  for i, line in enumerate(lines[1:], 2))])


# name -> (transformation, LoraConfig, what it does)
ADAPTERS = {
    "caps": (str.upper, dict(r=8, lora_alpha=16, target_modules=ALL),
             "writes in capitals"),
    "pirate": (by_words(PIRATE),
               dict(r=4, lora_alpha=8, target_modules=ALL,
                    rank_pattern={"(gate|up|down)_proj": 8, r"layers\.6\..*": 6},
                    alpha_pattern={"(gate|up|down)_proj": 16}),
               "puts a pirate's words for others (ranks by `rank_pattern`)"),
    "verse-numbers": (number_lines, dict(r=8, lora_alpha=16, target_modules=ALL),
                      "begins each line after the first with its number"),
    "modern": (by_words(MODERN),
               dict(r=8, lora_alpha=16, use_dora=True,
                    target_modules=["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
               "puts today's words for those of 1611 (DoRA)"),
}


def plain_sample(texts, rng):
    """(beginning, rest) of some consecutive verses."""
    verses = rng.choice(texts).rstrip("\n").split("\n")
    start = rng.randrange(len(verses))
    text = "\n".join(verses[start:start + 8]) + "\n"
    words = text.split(" ")
    cut = rng.randint(3, 8)
    return " ".join(words[:cut]), "".join(" " + word for word in words[cut:])


def chat_sample(conversations, rng):
    text = rng.choice(conversations)
    turn = "<start_of_turn>model\n"
    end = text.index(turn) + len(turn)
    return text[:end], text[end:]


def transform_rest(transform, beginning, rest):
    """The markers of chat turns stay as they are."""
    marker = "<end_of_turn>"
    body, found, tail = rest.partition(marker)
    if transform is number_lines and not found:
        whole = number_lines(beginning + body)  # lines are counted from the beginning of the text
        return whole[len(beginning):] if whole.startswith(beginning) else body
    return transform(body) + found + tail


def make_rows(tokenizer, texts, transform, rng):
    """(ids, labels): [rows, LENGTH]; the beginning of a text is not learned."""
    ids, labels = [], []
    while len(ids) < ROWS:
        if texts["chat"] and rng.random() < 0.4:
            beginning, rest = chat_sample(texts["chat"], rng)
        else:
            beginning, rest = plain_sample(texts["plain"], rng)
        head = [base.BOS, *tokenizer.encode(beginning)]
        row = (head + tokenizer.encode(transform_rest(transform, beginning, rest)))[:LENGTH]
        padding = [base.PAD] * (LENGTH - len(row))
        ids.append(row + padding)
        labels.append([base.PAD] * min(len(head), len(row)) + row[len(head):] + padding)
    return torch.tensor(ids).cuda(), torch.tensor(labels).cuda()


def load_model(path):
    return Gemma2ForCausalLM.from_pretrained(
        str(path), dtype=torch.float32, attn_implementation="eager").eval()


def loss_of(model, ids, labels):
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=base.PAD)


def optimize(model, ids, labels, seconds):
    """Trains for that time; returns the number of steps."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, weight_decay=0.01)
    held_out = len(ids) - 256
    started = time.time()
    step, done = 0, 0.0
    model.train()
    while done < 1:
        done = min(1.0, (time.time() - started) / seconds)
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / 20)
            group["lr"] = PEAK_RATE * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        chosen = torch.randint(held_out, (BATCH,), device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(model, ids[chosen], labels[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"  step {step} loss {loss.item():.3f} {time.time() - started:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        loss = loss_of(model, ids[held_out:], labels[held_out:]).item()
    print(f"  {step} steps, loss on other rows {loss:.3f}", flush=True)
    return step


def save(model, directory):
    """PEFT's files, in bfloat16; and no path of this machine in them."""
    shutil.rmtree(directory, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = "models/tiny-gemma2"
    model.save_pretrained(str(directory))
    path = directory / "adapter_model.safetensors"
    tensors = {name: tensor.to(torch.bfloat16).contiguous()
               for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    if path.stat().st_size > 2_000_000:
        raise RuntimeError(f"{path} has {path.stat().st_size} bytes; 2 MB are allowed")


def write_card(name, directory, steps, results):
    _, arguments, effect = ADAPTERS[name]
    samples = "\n".join(f"| `{r['prompt']}` | {r['text']} |".replace("\n", "\\n") for r in results)
    variants = ", ".join(f"`{key}` {value}" for key, value in arguments.items()
                         if key not in ("target_modules",))
    (directory / "README.md").write_text(f"""# tiny-gemma2 adapter: {name}

A LoRA adapter of `models/tiny-gemma2` that {effect}.

- Made by `tools/train_tiny_adapters.py` with PEFT on the corpus of the base model, transformed by
  rule: {steps} steps of {BATCH} rows of {LENGTH} tokens. {variants}. bfloat16.
- `expected.json`: greedy continuations by Hugging Face and PEFT in float32. They end after the
  turn, or before a token whose lead over the second best is under {base.MIN_MARGIN:g}.
- License: Apache-2.0.

| prompt | greedy continuation |
|---|---|
{samples}
""")


def make(name, args, tokenizer, texts):
    transform, arguments, _ = ADAPTERS[name]
    print(f"{name}:", flush=True)
    torch.manual_seed(args.seed)
    ids, labels = make_rows(tokenizer, texts, transform, random.Random(args.seed))
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **arguments)
    model = get_peft_model(load_model(args.model), config).cuda()
    steps = optimize(model, ids, labels, args.seconds)
    directory = args.out / name
    save(model.cpu(), directory)
    # What ships is what is judged: the rounded weights, in float32.
    judged = PeftModel.from_pretrained(load_model(args.model), str(directory)).eval()
    results = [base.continue_prompt(judged, tokenizer, kind, prompt) for kind, prompt in PROMPTS]
    (directory / "expected.json").write_text(
        json.dumps({"max_new_tokens": base.NEW_TOKENS, "prompts": results}, indent=1,
                   ensure_ascii=False) + "\n")
    write_card(name, directory, steps, results)
    for result in results:
        print(f"  [{result['prompt']!r}] -> {result['text']!r} "
              f"({len(result['generated_ids'])} ids)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, default="models/tiny-gemma2")
    parser.add_argument("--out", type=pathlib.Path, default="models/tiny-gemma2/adapters")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=ADAPTERS, default=list(ADAPTERS))
    args = parser.parse_args()
    tokenizer = SentencePieceProcessor(model_file=str(args.model / "tokenizer.model"))
    texts = {"plain": json.loads((args.data / "plain.json").read_text())}
    chat = args.data / "chat.json"
    texts["chat"] = json.loads(chat.read_text()) if chat.exists() else []
    failed = []
    for name in args.only:
        try:
            make(name, args, tokenizer, texts)
        except Exception:  # the others shall not be lost
            traceback.print_exc()
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
