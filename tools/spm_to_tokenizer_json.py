#!/usr/bin/env python3
"""Writes a SentencePiece BPE model in Hugging Face's form: tokenizer.model -> tokenizer.json.

The result has the layout of Gemma 2's own tokenizer.json, and Hugging Face's `tokenizers` gives
with it the ids that SentencePiece gives with the model. Needs the `sentencepiece` package (and
`protobuf`, for its model proto).

    tools/spm_to_tokenizer_json.py tokenizer.model tokenizer.json --special '<start_of_turn>'
"""

import argparse
import json

from sentencepiece import sentencepiece_model_pb2 as spm_proto

SPACE = "\u2581"
TAB_BYTE = "<0x09>"
TYPE = spm_proto.ModelProto.SentencePiece


def _read_model(path):
    model = spm_proto.ModelProto()
    with open(path, "rb") as file:
        model.ParseFromString(file.read())
    if model.trainer_spec.model_type != spm_proto.TrainerSpec.BPE:
        raise ValueError(f"{path}: not a BPE model")
    normalizer = model.normalizer_spec
    if normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces:
        raise ValueError(f"{path}: adds or removes spaces, which Gemma's tokenizer.json cannot say; "
                         "train it with add_dummy_prefix and remove_extra_whitespaces off")
    if normalizer.precompiled_charsmap or not normalizer.escape_whitespaces:
        raise ValueError(f"{path}: train it with normalization_rule_name=identity")
    return model


def _is_run(piece):
    """One character, repeated: Gemma's user-defined runs of newlines, tabs and spaces."""
    return piece == piece[0] * len(piece)


def _merges(names, pieces):
    """All pairs of pieces that join to a piece, best score first.

    Among equal scores the longer left part comes first. That is what makes a run of spaces, whose
    pieces are user-defined and all score 0, grow from its left end to the longest piece, as
    SentencePiece's longest match does.
    """
    vocab = {name: index for index, name in enumerate(names)}
    normal = {n for n, p in zip(names, pieces) if p.type == TYPE.NORMAL}
    runs = {n for n, p in zip(names, pieces) if p.type == TYPE.USER_DEFINED and _is_run(n)}
    run_parts = normal | runs | {"\t"}
    found = []
    for name, piece in zip(names, pieces):
        if name not in normal and name not in runs:
            continue
        parts = run_parts if name in runs else normal
        splits = [(name[:i], name[i:]) for i in range(1, len(name))]
        splits = [(a, b) for a, b in splits if a in vocab and b in vocab and {a, b} <= parts]
        splits.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        score = 0.0 if name in runs else piece.score
        found.extend((score, a, b) for a, b in splits)
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [f"{a} {b}" for _, a, b in found]


def _added_tokens(names, pieces, special_tokens):
    missing = set(special_tokens) - set(names)
    if missing:
        raise ValueError(f"special tokens that the model has not: {sorted(missing)}")
    added = []
    for index, (name, piece) in enumerate(zip(names, pieces)):
        if piece.type not in (TYPE.CONTROL, TYPE.UNKNOWN, TYPE.USER_DEFINED):
            continue
        special = piece.type != TYPE.USER_DEFINED or name in special_tokens
        added.append({"id": index, "content": name, "single_word": False, "lstrip": False,
                      "rstrip": False, "normalized": False, "special": special})
    return added


def _post_processor(bos, bos_id):
    def special(type_id):
        return {"SpecialToken": {"id": bos, "type_id": type_id}}

    def sequence(name, type_id):
        return {"Sequence": {"id": name, "type_id": type_id}}

    return {"type": "TemplateProcessing",
            "single": [special(0), sequence("A", 0)],
            "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
            "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}}}


def convert(spm_model_path: str, out_json_path: str, special_tokens: list[str]) -> None:
    """Writes `out_json_path`. `special_tokens` are the user-defined pieces to mark as special, as
    <start_of_turn> is in Gemma; control pieces and the unknown piece always are."""
    model = _read_model(spm_model_path)
    pieces = list(model.pieces)
    names = [piece.piece for piece in pieces]
    # As in Gemma's file: the byte of a tab goes by its character, so that runs of tabs can merge.
    if TAB_BYTE in names and "\t" not in names:
        names[names.index(TAB_BYTE)] = "\t"
    if any(piece.type == TYPE.UNUSED for piece in pieces):
        raise ValueError(f"{spm_model_path}: has unused pieces, which merges cannot say")
    if any(" " in name for name in names):
        raise ValueError(f"{spm_model_path}: a piece holds a space, which merges cannot say")
    trainer = model.trainer_spec
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(names, pieces, special_tokens),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "},
                          "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": _post_processor(trainer.bos_piece, names.index(trainer.bos_piece)),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": trainer.unk_piece,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": trainer.byte_fallback,
            "ignore_merges": False,
            "vocab": {name: index for index, name in enumerate(names)},
            "merges": _merges(names, pieces),
        },
    }
    with open(out_json_path, "w", encoding="utf-8") as file:
        json.dump(tokenizer, file, ensure_ascii=False, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="SentencePiece model to read")
    parser.add_argument("out", help="tokenizer.json to write")
    parser.add_argument("--special", nargs="*", default=["<start_of_turn>", "<end_of_turn>"],
                        help="user-defined pieces to mark as special")
    args = parser.parse_args()
    convert(args.model, args.out, args.special)


if __name__ == "__main__":
    main()
