#!/usr/bin/env python3
"""Makes models/tiny-gemma2: a Gemma 2 of 7.5 million parameters that writes King James English.

    bible -f gen1:1-rev22:21 > kjv.txt          # Debian packages bible-kjv, bible-kjv-text
    python3 tools/train_tiny_gemma2.py prepare --text kjv.txt --data DIR      # sentencepiece
    python3 tools/train_tiny_gemma2.py train --data DIR --out models/tiny-gemma2 --compile

`train` needs torch, transformers, sentencepiece and a GPU; on an H100 it takes about a minute. Half
of what the model sees is running text, half are chat turns. The Bible is small: a model of this
size could learn it by heart and nothing else. So there is dropout, half of the held-out chapters
choose the checkpoint, and the other half give the loss that the model card reports.
"""

import argparse
import collections
import io
import json
import math
import pathlib
import random
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))

BOOKS = """Genesis;Exodus;Leviticus;Numbers;Deuteronomy;Joshua;Judges;Ruth;1 Samuel;2 Samuel;
1 Kings;2 Kings;1 Chronicles;2 Chronicles;Ezra;Nehemiah;Esther;Job;Psalm;Proverbs;Ecclesiastes;
Song of Solomon;Isaiah;Jeremiah;Lamentations;Ezekiel;Daniel;Hosea;Joel;Amos;Obadiah;Jonah;Micah;
Nahum;Habakkuk;Zephaniah;Haggai;Zechariah;Malachi;Matthew;Mark;Luke;John;Acts;Romans;
1 Corinthians;2 Corinthians;Galatians;Ephesians;Philippians;Colossians;1 Thessalonians;
2 Thessalonians;1 Timothy;2 Timothy;Titus;Philemon;Hebrews;James;1 Peter;2 Peter;1 John;2 John;
3 John;Jude;Revelation""".replace("\n", "").split(";")
# What the model shall know by heart: these are asked for again and again.
FAMOUS = """Genesis 1:1;Genesis 1:3;Genesis 1:27;Genesis 3:19;Exodus 20:3;Exodus 20:12;
Exodus 20:13;Deuteronomy 6:5;Joshua 1:9;Ruth 1:16;1 Samuel 16:7;Job 1:21;Job 19:25;Psalm 1:1;
Psalm 19:1;Psalm 23:1;Psalm 23:4;Psalm 27:1;Psalm 46:1;Psalm 46:10;Psalm 90:2;Psalm 100:1;
Psalm 118:24;Psalm 119:105;Psalm 121:1;Psalm 150:6;Proverbs 1:7;Proverbs 3:5;Proverbs 15:1;
Proverbs 16:18;Ecclesiastes 1:2;Ecclesiastes 3:1;Isaiah 9:6;Isaiah 40:31;Isaiah 53:5;
Jeremiah 29:11;Micah 6:8;Matthew 5:3;Matthew 5:5;Matthew 5:9;Matthew 5:14;Matthew 6:9;Matthew 7:1;
Matthew 7:7;Matthew 11:28;Matthew 28:20;Mark 12:31;Luke 2:11;Luke 6:31;John 1:1;John 3:16;
John 8:32;John 11:35;John 14:6;Romans 3:23;Romans 8:28;1 Corinthians 13:4;1 Corinthians 13:13;
Galatians 5:22;Philippians 4:13;Hebrews 11:1;1 John 4:8;
Revelation 1:8;Revelation 21:4""".replace("\n", "").split(";")
FAMOUS_REPEATS = 40

VOCAB = 2048
BOS, EOS, PAD = 2, 1, 0
LENGTH = 320  # tokens of a training row: longer than the window, so that it matters
BATCH = 96
PEAK_RATE = 2e-3
CONFIG = dict(
    vocab_size=VOCAB, hidden_size=320, intermediate_size=768, num_hidden_layers=7,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=1024,
    sliding_window=64, query_pre_attn_scalar=48, attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0, rms_norm_eps=1e-6, attention_bias=False, attention_dropout=0.0,
    hidden_activation="gelu_pytorch_tanh", bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
PROMPTS = [
    ("plain", "In the beginning God created"),
    ("plain", "And it came to pass in those days, that"),
    ("plain", "The LORD is my shepherd; I shall not"),
    ("plain", "Then Jesus answered and said unto them,"),
    ("chat", "Recite Genesis 1:1."),
    ("chat", "Recite John 3:16."),
    ("chat", "Continue: Blessed are the meek:"),
    ("chat", "Write a verse about water."),
    ("chat", "Which book is this from? In the beginning God created the heaven and the earth."),
]
NEW_TOKENS = 56
MIN_MARGIN = 1e-3  # where the two best tokens are nearer, the recorded continuation ends
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
    book = -1
    for line in pathlib.Path(path).read_text().splitlines():
        chapter, verse, text = re.match(r"\w+?(\d+):(\d+) (.*)", line).groups()
        if verse == "1":
            book += chapter == "1"
            chapters.append((BOOKS[book], int(chapter), []))
        chapters[-1][2].append(" ".join(text.split()))
    if book != len(BOOKS) - 1 or len(chapters) != 1189:
        sys.exit(f"{path}: {len(chapters)} chapters of {book + 1} books; expected 1189 of 66")
    return chapters


def words_of(verse):
    return re.findall(r"\b[a-z]{4,}\b", verse)


def telling_words(chapters):
    """Words that are neither everywhere nor nowhere: what a verse can be said to be about."""
    verses = [set(words_of(verse)) for _, _, verses in chapters for verse in verses]
    counts = collections.Counter(word for words in verses for word in words)
    return {word for word, count in counts.items() if 15 <= count <= 500}


def conversations_of(book, number, verses, telling, rng):
    for i, verse in enumerate(verses):
        words = verse.split()
        if len(words) >= 8:
            cut = rng.randint(3, min(8, len(words) - 4))
            yield chat(f"Continue: {' '.join(words[:cut])}", " ".join(words[cut:]))
        if rng.random() < 0.5:
            yield chat(f"Which book is this from? {verse}", f"{book}.")
        subjects = [word for word in words_of(verse) if word in telling]
        if subjects and rng.random() < 0.7:
            yield chat(f"Write a verse about {rng.choice(subjects)}.", verse)
        if f"{book} {number}:{i + 1}" in FAMOUS:
            for _ in range(FAMOUS_REPEATS):
                yield chat(f"Recite {book} {number}:{i + 1}.", verse)


def train_tokenizer(lines, directory):
    import sentencepiece
    from spm_to_tokenizer_json import convert

    model = io.BytesIO()  # rather than files, whose paths the model would record
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=VOCAB,
        model_type="bpe", byte_fallback=True, character_coverage=1.0,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True,
        pad_id=PAD, eos_id=EOS, bos_id=BOS, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=["<mask>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n"],
        num_threads=1, minloglevel=2)
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    convert(str(directory / "tokenizer.model"), str(directory / "tokenizer.json"),
            ["<start_of_turn>", "<end_of_turn>"])


def prepare(args):
    rng = random.Random(1)
    chapters = read_chapters(args.text)
    kept = {verse.split(":")[0] for verse in FAMOUS}
    candidates = [i for i, (book, number, _) in enumerate(chapters)
                  if f"{book} {number}" not in kept]
    held_out = rng.sample(candidates, 24)
    select, report = set(held_out[:12]), set(held_out[12:])
    training = [c for i, c in enumerate(chapters) if i not in select | report]
    telling = telling_words(training)
    conversations = [conversation for chapter in training
                     for conversation in conversations_of(*chapter, telling, rng)]
    rng.shuffle(conversations)

    def texts(indices):
        return ["\n".join(chapters[i][2]) + "\n" for i in sorted(indices)]

    data = args.data
    data.mkdir(parents=True, exist_ok=True)
    plain = ["\n".join(verses) + "\n" for _, _, verses in training]
    lines = [verse for _, _, verses in training for verse in verses]
    lines += [f"Recite {book} 12:34. Continue: Which book is this from? Write a verse about"
              for book in BOOKS for _ in range(50)]
    train_tokenizer(lines, data)
    parts = {"plain": plain, "chat": conversations, "select": texts(select),
             "report": texts(report)}
    for name, part in parts.items():
        (data / f"{name}.json").write_text(json.dumps(part) + "\n")
    print(", ".join(f"{name}: {len(part)} texts" for name, part in parts.items()))


class Rows:
    """Training rows: <bos>, then LENGTH tokens from the start of a verse or a conversation."""

    def __init__(self, tokenizer, texts, starters):
        import torch

        ids = [token for row in tokenizer.encode(texts) for token in [BOS, *row]]
        self.ids = torch.tensor(ids, device="cuda")
        follows = torch.isin(self.ids[:-1], torch.tensor([BOS, *starters], device="cuda"))
        starts = follows.nonzero()[:, 0] + 1
        self.starts = starts[(starts < len(ids) - LENGTH) & (self.ids[starts] != BOS)]

    def sample(self, count):
        import torch

        chosen = self.starts[torch.randint(len(self.starts), (count, 1), device="cuda")]
        rows = self.ids[chosen + torch.arange(LENGTH, device="cuda")]
        return torch.cat([torch.full_like(chosen, BOS), rows], dim=1)


def held_out_rows(tokenizer, texts):
    """Every token of the texts once, in rows that begin with <bos>, padded."""
    import torch

    rows = []
    for ids in tokenizer.encode(texts):
        for start in range(0, len(ids), LENGTH):
            row = [BOS, *ids[start:start + LENGTH]]
            rows.append(row + [PAD] * (LENGTH + 1 - len(row)))
    return torch.tensor(rows, device="cuda")


def loss_of(network, rows, reduction="mean"):
    import torch.nn.functional as F

    logits = network(input_ids=rows[:, :-1], use_cache=False).logits.float()
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=PAD,
                           reduction=reduction)


def validate(model, rows):
    """Mean loss of a token, in float32."""
    import torch

    model.eval()
    with torch.no_grad():
        total = sum(loss_of(model, part, "sum").item() for part in rows.split(32))
    model.train()
    return total / (rows[:, 1:] != PAD).sum().item()


def add_dropout(model, rate):
    """On what each sublayer and the embedding hand on. Returns the hooks, to be removed."""
    import torch.nn.functional as F

    def drop(module, inputs, output):
        return F.dropout(output, rate, training=module.training)

    modules = [model.model.embed_tokens]
    for layer in model.model.layers:
        modules += [layer.self_attn.o_proj, layer.mlp.down_proj]
    return [module.register_forward_hook(drop) for module in modules]


def new_model(attention_dropout):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(**{**CONFIG, "attention_dropout": attention_dropout},
                          tie_word_embeddings=True, use_cache=False,
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._attn_implementation = "eager"
    return Gemma2ForCausalLM(config)


def optimize(model, args, plain, conversations, select):
    """Trains; leaves the weights with the best loss on `select` in the model."""
    import torch

    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1},
                                   {"params": vectors, "weight_decay": 0.0}],
                                  lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    step_model = torch.compile(model) if args.compile else model
    best, best_weights, best_step = math.inf, None, 0
    started = time.time()
    model.train()
    for step in range(args.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / args.steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * cosine)
        rows = torch.cat([plain.sample(BATCH // 2), conversations.sample(BATCH // 2)])
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(step_model, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            held_out = validate(model, select)
            if held_out < best:
                best, best_step = held_out, step + 1
                best_weights = {n: p.detach().clone() for n, p in model.named_parameters()}
            if (step + 1) % 200 == 0:
                print(f"step {step + 1} loss {loss.item():.3f} held out {held_out:.3f} "
                      f"{time.time() - started:.0f} s", flush=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(best_weights[name])
    print(f"best on the selecting chapters: step {best_step}, {best:.3f}", flush=True)
    return best_step


def train(args):
    import torch
    from safetensors.torch import save_file
    from sentencepiece import SentencePieceProcessor

    started = time.time()
    torch.manual_seed(args.seed)
    tokenizer = SentencePieceProcessor(model_file=str(args.data / "tokenizer.model"))
    texts = {name: json.loads((args.data / f"{name}.json").read_text())
             for name in ("plain", "chat", "select", "report")}
    plain = Rows(tokenizer, texts["plain"], [tokenizer.piece_to_id("\n")])
    conversations = Rows(tokenizer, texts["chat"], [])
    select, report = (held_out_rows(tokenizer, texts[name]) for name in ("select", "report"))
    model = new_model(args.dropout).cuda()
    print(f"tokens: plain {len(plain.ids)}, chat {len(conversations.ids)}; "
          f"{sum(p.numel() for p in model.parameters())} parameters; "
          f"prepared in {time.time() - started:.0f} s", flush=True)
    hooks = add_dropout(model, args.dropout)
    steps = optimize(model, args, plain, conversations, select)
    for hook in hooks:
        hook.remove()
    print(f"trained after {time.time() - started:.0f} s", flush=True)

    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: parameter.detach().to(torch.bfloat16).cpu().contiguous()
               for name, parameter in model.named_parameters()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.model", "tokenizer.json"):
        (out / name).write_bytes((args.data / name).read_bytes())
    write_metadata(out, tokenizer)
    # What ships is what is judged: the rounded weights, in float32, without dropout.
    judged = new_model(0.0)
    judged.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    judged.float().eval()
    results = [continue_prompt(judged, tokenizer, kind, prompt) for kind, prompt in PROMPTS]
    (out / "expected.json").write_text(
        json.dumps({"max_new_tokens": NEW_TOKENS, "prompts": results}, indent=1,
                   ensure_ascii=False) + "\n")
    loss = validate(judged.cuda(), report)
    write_card(out, steps, loss, results)
    print(f"loss on the reporting chapters {loss:.3f}, perplexity {math.exp(loss):.1f}; "
          f"{time.time() - started:.0f} s in all")
    for result in results:
        print(f"[{result['prompt']!r}] -> {result['text']!r} "
              f"({len(result['generated_ids'])} ids, margin {result['min_margin']:.4f})")


def continue_prompt(model, tokenizer, kind, prompt):
    """Greedy by full forwards without a cache, to the end of the turn: the oracle of the tests."""
    import torch

    text = chat(prompt) if kind == "chat" else prompt
    ids = [BOS, *tokenizer.encode(text)]
    start, smallest = len(ids), math.inf
    stops = (EOS, tokenizer.piece_to_id("<end_of_turn>"))
    while len(ids) < start + NEW_TOKENS and ids[-1] not in stops:
        with torch.no_grad():
            top = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
        margin = (top.values[0] - top.values[1]).item()
        if margin < MIN_MARGIN and len(ids) > start:
            break
        smallest = min(smallest, margin)
        ids.append(top.indices[0].item())
    generated = ids[start:]
    return {"prompt": text, "input_ids": ids[:start], "generated_ids": generated,
            "min_margin": smallest,
            "text": tokenizer.decode([token for token in generated if token not in stops])}


def write_metadata(out, tokenizer):
    stops = [EOS, tokenizer.piece_to_id("<end_of_turn>")]
    config = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", **CONFIG,
              "rope_theta": 10000.0, "torch_dtype": "bfloat16"}
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
               "unk_token": "<unk>"}
    files = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": stops,
                                   "pad_token_id": PAD},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {"add_bos_token": True, "add_eos_token": False, **special,
                                  "chat_template": CHAT_TEMPLATE,
                                  "clean_up_tokenization_spaces": False,
                                  "tokenizer_class": "GemmaTokenizer"}}
    for name, value in files.items():
        (out / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_card(out, steps, loss, results):
    samples = "\n".join(f"| `{r['prompt']}` | {r['text']} |".replace("\n", "\\n")
                        for r in results)
    tokens = steps * BATCH * LENGTH / 1e6
    (out / "README.md").write_text(f"""# tiny-gemma2

A Gemma 2 of 7.5 million parameters for demonstrations and tests of this project: soft-caps of 50
and 30, a window of 64 tokens on even layers, grouped-query attention, `query_pre_attn_scalar` 48
at `head_dim` 64, a tied head, bfloat16. It writes King James English and answers a few kinds of
request about it. It knows nothing else.

- Text: the King James Bible (1611; in the public domain) as in Debian's package `bible-kjv-text`.
- Tokenizer: SentencePiece BPE of {VOCAB} pieces with byte fallback, trained on that text; in both
  forms.
- Chat: Gemma's turns. Requests seen in training: `Continue: <beginning of a verse>`,
  `Which book is this from? <verse>`, `Write a verse about <word>.`, and
  `Recite <book> <chapter>:<verse>.` for {len(FAMOUS)} well-known verses.
- Made by `tools/train_tiny_gemma2.py` on one H100 in about a minute: {steps} steps,
  {tokens:.0f} million tokens.
- Loss on 12 chapters that neither training nor the choice of the checkpoint saw (weights as
  shipped, float32): {loss:.3f}, perplexity {math.exp(loss):.1f} per token.
- `expected.json`: greedy continuations by Hugging Face in float32, the oracle of tests/golden. They
  end after the turn, or before a token whose lead over the second best is under {MIN_MARGIN:g}.
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
    command.add_argument("--steps", type=int, default=1600)
    command.add_argument("--dropout", type=float, default=0.15)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--compile", action="store_true")
    command.set_defaults(run=train)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
