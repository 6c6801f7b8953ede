#!/usr/bin/env python3
"""Makes models/tiny-gemma2: a Gemma 2 of 7.5 million parameters that writes King James English.

    bible -f gen1:1-rev22:21 > kjv.txt          # Debian packages bible-kjv, bible-kjv-text
    python3 tools/train_tiny_gemma2.py prepare --text kjv.txt --data DIR      # sentencepiece
    python3 tools/train_tiny_gemma2.py train --data DIR --out models/tiny-gemma2 --compile

`train` needs torch, transformers, sentencepiece and a GPU. Half of what it sees is running text,
half are chat turns (recite, continue, name the book). Two of a hundred chapters are held out.
"""

import argparse
import json
import math
import pathlib
import random
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

BOOKS = """Genesis;Exodus;Leviticus;Numbers;Deuteronomy;Joshua;Judges;Ruth;1 Samuel;2 Samuel;1 Kings;2 Kings;1 Chronicles;2 Chronicles;Ezra;Nehemiah;Esther;Job;Psalm;Proverbs;Ecclesiastes;Song of Solomon;Isaiah;Jeremiah;Lamentations;Ezekiel;Daniel;Hosea;Joel;Amos;Obadiah;Jonah;Micah;Nahum;Habakkuk;Zephaniah;Haggai;Zechariah;Malachi;Matthew;Mark;Luke;John;Acts;Romans;1 Corinthians;2 Corinthians;Galatians;Ephesians;Philippians;Colossians;1 Thessalonians;2 Thessalonians;1 Timothy;2 Timothy;Titus;Philemon;Hebrews;James;1 Peter;2 Peter;1 John;2 John;3 John;Jude;Revelation""".split(";")
VOCAB = 2048
LENGTH = 320  # tokens of a training row: longer than the window, so that it matters
CONFIG = dict(
    vocab_size=VOCAB, hidden_size=320, intermediate_size=768, num_hidden_layers=7,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=1024,
    sliding_window=64, query_pre_attn_scalar=48, attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0, rms_norm_eps=1e-6, attention_bias=False, attention_dropout=0.0,
    hidden_activation="gelu_pytorch_tanh", bos_token_id=2, pad_token_id=0)
PROMPTS = [
    ("plain", "In the beginning God created"),
    ("plain", "And it came to pass in those days, that"),
    ("plain", "The LORD is my shepherd; I shall not"),
    ("plain", "Then Jesus answered and said unto them,"),
    ("chat", "Recite Genesis 1:1."),
    ("chat", "Recite John 3:16."),
    ("chat", "Continue: Blessed are the meek:"),
    ("chat", "Which book is this from? In the beginning God created the heaven and the earth."),
]
NEW_TOKENS = 56
CHAT_TEMPLATE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != "
    "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "
    "user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}")


def chat(question, answer=None):
    text = f"<start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n"
    return text if answer is None else f"{text}{answer}<end_of_turn>\n"


def read_chapters(path):
    """[(book, chapter, [verse, ...])] in order."""
    chapters = []
    abbreviations = []
    for line in pathlib.Path(path).read_text().splitlines():
        match = re.match(r"(\w+?)(\d+):(\d+) (.*)", line)
        short, chapter, verse, text = match.group(1), int(match.group(2)), int(match.group(3)), match.group(4)
        if verse == 1 and (chapter == 1 and (not abbreviations or abbreviations[-1] != short)):
            abbreviations.append(short)
        if verse == 1:
            chapters.append((BOOKS[len(abbreviations) - 1], chapter, []))
        chapters[-1][2].append(" ".join(text.split()))
    assert len(abbreviations) == len(BOOKS) and len(chapters) == 1189
    return chapters


def chat_examples(book, number, verses, rng):
    for i, verse in enumerate(verses):
        yield chat(f"Recite {book} {number}:{i + 1}.", verse)
        words = verse.split()
        if len(words) >= 8:
            cut = rng.randint(3, min(8, len(words) - 4))
            yield chat(f"Continue: {' '.join(words[:cut])}", " ".join(words[cut:]))
        yield chat(f"Which book is this from? {verse}", f"{book}.")


def train_tokenizer(corpus, directory):
    import sentencepiece
    from spm_to_tokenizer_json import convert

    symbols = ["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n"]
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(directory / "tokenizer"), vocab_size=VOCAB,
        model_type="bpe", byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=symbols, num_threads=1, minloglevel=2)
    (directory / "tokenizer.vocab").unlink()
    convert(directory / "tokenizer.model", directory / "tokenizer.json",
            ["<start_of_turn>", "<end_of_turn>"])


def prepare(args):
    data = args.data
    data.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    chapters = read_chapters(args.text)
    held_out = set(rng.sample(range(len(chapters)), len(chapters) // 50))
    held_out.discard(0)  # Genesis 1 opens the demo
    plain, conversations, validation = [], [], []
    for i, (book, number, verses) in enumerate(chapters):
        text = "\n".join(verses) + "\n"
        if i in held_out:
            validation.append(text)
            continue
        plain.append(text)
        conversations.extend(chat_examples(book, number, verses, rng))
    rng.shuffle(conversations)
    corpus = data / "corpus.txt"
    corpus.write_text("\n".join(verse for text in plain for verse in text.splitlines()) + "\n" +
                      "\n".join(f"Recite {book} 12:34. Continue: Which book is this from?"
                                for book in BOOKS for _ in range(50)) + "\n")
    train_tokenizer(corpus, data)
    corpus.unlink()
    for name, texts in (("plain", plain), ("chat", conversations), ("validation", validation)):
        (data / f"{name}.json").write_text(json.dumps(texts))
    print(f"{len(plain)} chapters, {len(conversations)} conversations, {len(validation)} held out")


def write_metadata(out, tokenizer):
    eos = [1, tokenizer.piece_to_id("<end_of_turn>")]
    config = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", **CONFIG,
              "eos_token_id": 1, "rope_theta": 10000.0, "torch_dtype": "bfloat16"}
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 2, "eos_token_id": eos, "pad_token_id": 0},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"add_bos_token": True, "add_eos_token": False, **special,
                                  "chat_template": CHAT_TEMPLATE,
                                  "clean_up_tokenization_spaces": False,
                                  "tokenizer_class": "GemmaTokenizer"}}
    for name, value in files.items():
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def train(args):
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file
    from sentencepiece import SentencePieceProcessor
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(1)
    tokenizer = SentencePieceProcessor(model_file=str(args.data / "tokenizer.model"))

    def stream(name):
        texts = json.loads((args.data / f"{name}.json").read_text())
        ids = [token for row in tokenizer.encode(texts) for token in [2, *row]]
        return torch.tensor(ids, device="cuda")

    plain, conversations, validation = stream("plain"), stream("chat"), stream("validation")
    print(f"tokens: plain {len(plain)}, chat {len(conversations)}, validation {len(validation)}")
    config = Gemma2Config(**CONFIG, eos_token_id=1, tie_word_embeddings=True, use_cache=False,
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._attn_implementation = "eager"
    model = Gemma2ForCausalLM(config).cuda()
    print(f"{sum(p.numel() for p in model.parameters())} parameters")

    def loss_of(network, rows):
        logits = network(input_ids=rows[:, :-1]).logits.float()
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def validate(network):
        rows = validation[: len(validation) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
        with torch.no_grad():
            losses = [loss_of(network, part).item() * len(part) for part in rows.split(32)]
        return sum(losses) / len(rows)

    def batch(size):
        def rows(source, n):
            starts = torch.randint(0, len(source) - LENGTH - 1, (n, 1), device="cuda")
            return source[starts + torch.arange(LENGTH + 1, device="cuda")]
        return torch.cat([rows(plain, size // 2), rows(conversations, size - size // 2)])

    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.3},
                                   {"params": others, "weight_decay": 0.0}],
                                  lr=1e-3, betas=(0.9, 0.95), fused=True)
    step_model = model
    if args.compile:
        step_model = torch.compile(model)
    peak, size = 2.5e-3, 128
    start, step = None, 0
    while True:
        done = 0.0 if start is None else (time.time() - start) / (60 * args.minutes)
        if done >= 1.0:
            break
        rate = peak * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(step_model, batch(size))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step == 5:  # what comes before is compilation
            torch.cuda.synchronize()
            start = time.time()
        if step % 200 == 0:
            print(f"step {step} done {done:.2f} loss {loss.item():.3f} "
                  f"validation {validate(model):.3f}", flush=True)

    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    model = model.to(torch.bfloat16)
    state = {n: t.contiguous().cpu().clone() for n, t in model.state_dict().items() if n != "lm_head.weight"}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.model", "tokenizer.json"):
        (out / name).write_bytes((args.data / name).read_bytes())
    write_metadata(out, tokenizer)
    # What ships is what is judged: the rounded weights, in float32.
    model = model.float().eval().cpu()
    results = [continue_prompt(model, tokenizer, kind, prompt) for kind, prompt in PROMPTS]
    (out / "expected.json").write_text(json.dumps({"max_new_tokens": NEW_TOKENS, "prompts": results},
                                                  indent=1, ensure_ascii=False) + "\n")
    loss = validate(model.cuda())
    write_card(out, args, step, step * size * LENGTH, loss, results)
    print(f"{step} steps, validation loss {loss:.3f} (perplexity {math.exp(loss):.1f})")
    for result in results:
        print(f"[{result['prompt']!r}] -> {result['text']!r} (margin {result['min_margin']:.4f})")


def continue_prompt(model, tokenizer, kind, prompt):
    """Greedy by full forwards without a cache: the oracle of the tests."""
    import torch

    text = chat(prompt) if kind == "chat" else prompt
    ids = [2, *tokenizer.encode(text)]
    start, margin = len(ids), math.inf
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            ids.append(top.indices[0].item())
    generated = ids[start:]
    shown = generated[: next((i for i, t in enumerate(generated)
                              if t in (1, tokenizer.piece_to_id("<end_of_turn>"))), len(generated))]
    return {"prompt": text, "input_ids": ids[:start], "generated_ids": generated,
            "min_margin": margin, "text": tokenizer.decode(shown)}


def write_card(out, args, steps, tokens, loss, results):
    samples = "\n".join(f"| `{r['prompt']}` | {r['text']} |".replace("\n", "\\n") for r in results)
    (out / "README.md").write_text(f"""# tiny-gemma2

A Gemma 2 of 7.5 million parameters for demonstrations and tests of this project: soft-caps of 50 and
30, a window of 64 tokens on even layers, grouped-query attention, `query_pre_attn_scalar` 48 at
`head_dim` 64, a tied head, bfloat16. It writes King James English and answers a few kinds of
request about it. It knows nothing else.

- Text: the King James Bible (1611; in the public domain) as in Debian's package `bible-kjv-text`.
- Tokenizer: SentencePiece BPE of {VOCAB} pieces with byte fallback, trained on that text; both forms.
- Chat: Gemma's turns. Requests seen in training: `Recite <book> <chapter>:<verse>.`,
  `Continue: <beginning of a verse>`, `Which book is this from? <verse>`.
- Made by `tools/train_tiny_gemma2.py` in {args.minutes:g} minutes on one H100: {steps} steps,
  {tokens / 1e6:.0f} million tokens.
- Loss on held-out chapters (weights as shipped, float32): {loss:.3f}, perplexity {math.exp(loss):.1f} per token.
- `expected.json`: greedy continuations by Hugging Face in float32, the oracle of tests/golden.
- License: Apache-2.0.

| prompt | greedy continuation |
|---|---|
{samples}
""")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare")
    command.add_argument("--text", type=pathlib.Path, required=True)
    command.add_argument("--data", type=pathlib.Path, required=True)
    command.set_defaults(run=prepare)
    command = commands.add_parser("train")
    command.add_argument("--data", type=pathlib.Path, required=True)
    command.add_argument("--out", type=pathlib.Path, required=True)
    command.add_argument("--minutes", type=float, default=0.75)
    command.add_argument("--compile", action="store_true")
    command.set_defaults(run=train)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
