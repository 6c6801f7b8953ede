#!/usr/bin/env python3
"""Writes tests/data/text: tokenizers, texts, and what Hugging Face's `tokenizers` makes of them.

    tools/make_tokenizer_goldens.py --gemma2 <folder of Gemma 2's tokenizer.json and cases.json>

Needs the packages `sentencepiece`, `protobuf` and `tokenizers`.

    small/     a BPE tokenizer of 1000 pieces with Gemma's special tokens, trained here, in both
               forms; cases.json: texts, and lists of ids to decode
    gemma2/    of Gemma 2's real tokenizer what its cases can reach, so that it gives the same ids:
               tokenizer.json with the real ids, tokenizer.model with the same pieces under new ids
    variants.json   small tokenizers with the less usual options of tokenizer.json, with cases
"""

import argparse
import io
import json
import pathlib
import random
import re

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from spm_to_tokenizer_json import SPACE, convert
from tokenizers import Tokenizer

TURNS = ["<start_of_turn>", "<end_of_turn>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TYPE = spm_proto.ModelProto.SentencePiece
SMALL_SIZE = 1000
LONGEST_RUN = 8

# The first article of the Universal Declaration of Human Rights.
ARTICLE = """\
All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.
Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.
Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.
Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.
Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.
人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।
def equal(a, b):\n    return a.dignity == b.dignity and a.rights == b.rights  # 1948-12-10
"""


def runs(character, shortest):
    return [character * length for length in range(shortest, LONGEST_RUN + 1)]


def train_small(folder):
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ARTICLE.splitlines() * 4), model_writer=model,
        vocab_size=SMALL_SIZE, model_type="bpe", byte_fallback=True, character_coverage=0.995,
        normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_digits=True,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=["<mask>", "[@BOS@]", "<unused0>", "<unused1>", *TURNS,
                              *runs("\n", 1), *runs(SPACE, 2), "<b>", "</b>", *runs("\t", 2)],
        num_threads=1, minloglevel=2)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    convert(str(folder / "tokenizer.model"), str(folder / "tokenizer.json"), TURNS)


def random_character(rng):
    bits = rng.choice((7, 8, 11, 16, 21))
    while True:
        code = rng.randrange(min(1 << bits, 0x110000))
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def random_text(rng, vocab, added):
    def fragment():
        return rng.choice((
            lambda: "".join(random_character(rng) for _ in range(rng.randrange(1, 8))),
            lambda: rng.choice(added),
            lambda: rng.choice(added)[:-1],
            lambda: rng.choice((" ", "\n", "\t", SPACE)) * rng.randrange(1, 3 * LONGEST_RUN),
            lambda: rng.choice(vocab).replace(SPACE, " "),
            lambda: rng.choice(vocab) + rng.choice(vocab),
            lambda: rng.choice(ARTICLE.split(" ")) + " " + rng.choice(ARTICLE.split(" ")),
            lambda: rng.choice("ae =_\0é中😀") * rng.randrange(1, 40),
        ))()
    return "".join(fragment() for _ in range(rng.randrange(1, 6)))


def encode_case(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return {"text": text, **decode_case(tokenizer, ids)}


def decode_case(tokenizer, ids):
    return {"ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False),
            "decoded_skip": tokenizer.decode(ids, skip_special_tokens=True)}


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_small_cases(folder):
    rng = random.Random(1)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = list(loaded["model"]["vocab"])
    added = [token["content"] for token in loaded["added_tokens"]]
    texts = ["", " ", "  a", "All human beings", "<bos><start_of_turn>user\nAll<end_of_turn>\n",
             "\u2581 x \u2581", "\u2581\u2581 x", "x \u2581\u2581\u2581", "\t", "\t\t\tx", "\r\n",
             "<0x41>", "<bos", "<<bos>>", "👩‍👩‍👧", "\U0010FFFF", "e\u0301", "\ufeffx", "\0",
             *ARTICLE.splitlines()]
    texts += [random_text(rng, vocab, added) for _ in range(150)]
    byte_ids = [loaded["model"]["vocab"].get(name, 0) for name in BYTES]
    id_lists = []
    for _ in range(100):
        ids = []
        for _ in range(rng.randrange(1, 6)):
            character = random_character(rng).encode()
            ids += rng.choice((
                [byte_ids[byte] for byte in character],
                [byte_ids[byte] for byte in character[:rng.randrange(1, 5)]],
                [byte_ids[rng.randrange(256)]],
                [rng.randrange(SMALL_SIZE) for _ in range(rng.randrange(4))],
                [rng.randrange(4)]))
        id_lists.append(ids)
    write_json(folder / "cases.json", {
        "texts": [encode_case(tokenizer, text) for text in texts],
        "ids": [decode_case(tokenizer, ids) for ids in id_lists]})


def reachable_pieces(tokenizer, texts):
    """All pieces that any order of merges could make of the texts."""
    vocab = tokenizer["model"]["vocab"]
    longest = max(map(len, vocab))
    reachable = set()
    for text in texts:
        text = text.replace(" ", SPACE)
        for start in range(len(text)):
            ends = range(start + 1, min(start + longest, len(text)) + 1)
            reachable.update(text[start:end] for end in ends if text[start:end] in vocab)
    return reachable


def write_model_form(tokenizer, path):
    """As tokenizer.model, with the pieces numbered anew, since its ids have no gaps.

    Gemma's scores are not in tokenizer.json; the order of its merges is.
    """
    added = {token["content"]: token["special"] for token in tokenizer["added_tokens"]}
    names = {"unk": "<unk>", "bos": "<bos>", "eos": "<eos>", "pad": "<pad>"}
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    first_rank = {}
    for rank, merge in enumerate(tokenizer["model"]["merges"]):
        first_rank.setdefault(merge.replace(" ", ""), rank)
    model = spm_proto.ModelProto()
    for piece in vocab:
        if piece == "<unk>":
            kind = TYPE.UNKNOWN
        elif piece in names.values():
            kind = TYPE.CONTROL
        elif piece in added:
            kind = TYPE.USER_DEFINED
        else:
            kind = TYPE.BYTE if piece in BYTES or piece == "\t" else TYPE.NORMAL
        score = -float(first_rank.get(piece, 0)) if kind == TYPE.NORMAL else 0.0
        model.pieces.add(piece="<0x09>" if piece == "\t" else piece, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = spm_proto.TrainerSpec.BPE
    trainer.byte_fallback = True
    for role, piece in names.items():
        setattr(trainer, f"{role}_piece", piece)
        setattr(trainer, f"{role}_id", vocab.index(piece))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    path.write_bytes(model.SerializeToString(deterministic=True))


def reduce_gemma2(source, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    golden = json.loads((source / "cases.json").read_text(encoding="utf-8"))
    reachable = reachable_pieces(tokenizer, [case["text"] for case in golden["cases"]])
    kept = reachable | set(BYTES) | {token["content"] for token in tokenizer["added_tokens"]}
    model = tokenizer["model"]
    model["vocab"] = {piece: id for piece, id in model["vocab"].items() if piece in kept}
    model["merges"] = [merge for merge in model["merges"] if merge.replace(" ", "") in reachable]
    write_json(folder / "tokenizer.json", tokenizer)
    write_model_form(tokenizer, folder / "tokenizer.model")
    fields = ("text", "ids", "decoded", "decoded_skip")
    write_json(folder / "cases.json", {
        "texts": [{field: case[field] for field in fields} for case in golden["cases"]]})


def added_token(content, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False, **flags}


def variant(added_tokens=(), without=(), **options):
    """A tokenizer of a few pieces; options go where tokenizer.json has them."""
    pieces = ["<unk>", *BYTES, SPACE, "a", "b", "c", "é", "ab", "bc", "abc", SPACE + "a",
              SPACE + "abc", SPACE + SPACE, "aa", "aaaa", "cab"]
    merges = ["a b", "b c", "ab c", "a bc", f"{SPACE} a", f"{SPACE} abc", f"{SPACE}a bc",
              f"{SPACE} {SPACE}", "a a", "aa aa", "c ab"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added_tokens),
        "normalizer": replace, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            back, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece: id for id, piece in enumerate(pieces) if piece not in without},
                  "merges": merges}}
    model = tokenizer["model"]
    for name, value in options.items():
        (model if name in model else tokenizer)[name] = value
    next_id = len(pieces)
    for token in tokenizer["added_tokens"]:
        token["id"] = model["vocab"].get(token["content"], next_id)
        next_id += token["id"] == next_id
    return tokenizer


def variants():
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}

    def strips(start):
        return {"type": "Sequence", "decoders": [
            back, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": start, "stop": 0}]}

    llama = {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE}, replace]},
        "decoder": strips(1)}
    vocab = variant()["model"]["vocab"]
    yield "plain", variant()
    yield "merges are arrays", variant(merges=[m.split(" ") for m in variant()["model"]["merges"]])
    yield "unknowns fused", variant(byte_fallback=False)
    yield "unknowns apart", variant(byte_fallback=False, fuse_unk=False)
    yield "no unknown", variant(byte_fallback=False, unk_token=None)
    yield "some bytes missing", variant(without=["<0xC3>"])
    yield "bytes merge", variant(merges=["<0xE4> <0xB8>", "a b"],
                                 vocab={**vocab, "<0xE4><0xB8>": len(vocab)})
    yield "a merge reached twice", variant(merges=["b c", "a b", "a bc", "c a", "ab c", "abc a"],
                                           vocab={**vocab, "ca": len(vocab),
                                                  "abca": len(vocab) + 1})
    yield "ignore merges", variant(ignore_merges=True, merges=["a b"])
    yield "llama", variant(**llama)
    yield "llama with special tokens", variant(
        [added_token("<s>", special=True), added_token("</s>", special=True)], **llama)
    yield "three spaces stripped", variant(decoder=strips(3))
    yield "no normalizer", variant(normalizer=None)
    yield "left strip", variant(
        [added_token("<x>", lstrip=True), added_token("\n"), added_token("<xx>")])
    yield "right strip", variant(
        [added_token("<x>", rstrip=True), added_token("\n"), added_token("<")])
    yield "both strip", variant(
        [added_token("<x>", lstrip=True, rstrip=True), added_token("a", special=True)])
    yield "normalized tokens", variant(
        [added_token("b c", normalized=True), added_token("c a"),
         added_token("<x>", normalized=True, lstrip=True, special=True)])
    yield "longest match", variant(
        [added_token("abcab"), added_token("bca"), added_token("abc "), added_token("é")])


def variant_cases(name, tokenizer):
    rng = random.Random(name)
    alphabet = ["a", "b", "c", "é", "è", " ", "  ", SPACE, "\n", "\u3000", "x", "中", "<x>", "<xx>",
                "<s>", "</s>", "<", "abc", "b c", "c a", "\U0001F600", "<0x41>"]
    built = Tokenizer.from_str(json.dumps(tokenizer))
    texts = ["", *alphabet]
    texts += ["".join(rng.choice(alphabet) for _ in range(rng.randrange(12))) for _ in range(40)]
    return {"name": name, "tokenizer": tokenizer,
            "texts": [encode_case(built, text) for text in texts]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default="tests/data/text")
    parser.add_argument("--gemma2", type=pathlib.Path, help="write gemma2/ from the files there")
    args = parser.parse_args()
    train_small(args.out / "small")
    write_small_cases(args.out / "small")
    cases = [variant_cases(name, tokenizer) for name, tokenizer in variants()]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (args.out / "variants.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    if args.gemma2:
        reduce_gemma2(args.gemma2, args.out / "gemma2")


if __name__ == "__main__":
    main()
