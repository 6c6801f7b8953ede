#!/usr/bin/env python3
"""Adapters that change some tokens, or act from some tokens on, over HTTP.

    python3 tests/e2e/tokens_test.py build/release/lorax

The base model itself says what must come out: an adapter that swaps the rows of two tokens swaps
these tokens in every text, and an aLoRA is the base without its invocation and the plain adapter
where the prompt begins with it.
"""

import json
import pathlib
import shutil
import struct
import sys
import tempfile
import unittest

from live_server import TINY, LiveServer

PROGRAM = None
PROMPT = "In the beginning"


def read_rows(path, name, rows):
    """The bytes of some rows of a tensor, and its type and width."""
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        entry = json.loads(file.read(length))[name]
        width = entry["shape"][1]
        size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // entry["shape"][0]
        found = []
        for row in rows:
            file.seek(8 + length + entry["data_offsets"][0] + row * size)
            found.append(file.read(size))
    return found, entry["dtype"], width


def write_swap(folder, first, second):
    """An adapter of the type TRAINABLE_TOKENS in which each of two tokens has the other's row."""
    rows, dtype, width = read_rows(TINY / "model.safetensors", "model.embed_tokens.weight",
                                   [second, first])
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "TRAINABLE_TOKENS", "task_type": "CAUSAL_LM",
         "target_modules": ["embed_tokens"], "token_indices": [first, second],
         "init_weights": True}))
    data = b"".join(rows)
    tensors = {f"base_model.model.{module}.trainable_tokens_delta":
               {"dtype": dtype, "shape": [2, width], "data_offsets": [i * len(data),
                                                                      (i + 1) * len(data)]}
               for i, module in enumerate(("model.embed_tokens", "lm_head"))}
    header = json.dumps(tensors).encode()
    header += b" " * (-len(header) % 8)
    (folder / "adapter_model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header + data + data)


def write_alora(folder, invocation):
    shutil.copytree(TINY / "adapters/pirate", folder)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    config["alora_invocation_tokens"] = invocation
    file.write_text(json.dumps(config))


class TokensTest(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.temporary.name)
        self.addCleanup(self.temporary.cleanup)

    def serve(self):
        server = LiveServer(PROGRAM, "--adapter-dir", self.folder, "--dtype", "float32")
        self.addCleanup(server.__exit__)
        return server

    def ids(self, server, adapter=None):
        parameters = {"max_new_tokens": 24, "details": True}
        if adapter:
            parameters["adapter_id"] = adapter
        status, _, body = server.post("/generate", {"inputs": PROMPT, "parameters": parameters})
        self.assertEqual(status, 200, body)
        return [token["id"] for token in body["details"]["tokens"]]

    def test_two_tokens_with_each_others_rows(self):
        with LiveServer(PROGRAM, "--dtype", "float32") as server:
            base = self.ids(server)
        first = base[3]
        second = next(i for i in range(300, 400) if i not in base)
        write_swap(self.folder / "swap", first, second)
        server = self.serve()
        swapped = {first: second, second: first}
        self.assertEqual(self.ids(server, "swap"), [swapped.get(i, i) for i in base])
        self.assertEqual(self.ids(server), base)

    def test_an_alora_acts_from_its_invocation_on(self):
        shutil.copytree(TINY / "adapters/pirate", self.folder / "pirate")
        write_alora(self.folder / "never", [499, 498, 497])
        write_alora(self.folder / "always", [2])  # with which every prompt begins
        server = self.serve()
        base, pirate = self.ids(server), self.ids(server, "pirate")
        self.assertNotEqual(base, pirate)
        self.assertEqual(self.ids(server, "never"), base)
        self.assertEqual(self.ids(server, "always"), pirate)


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
