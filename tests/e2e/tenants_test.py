"""Two API keys of one server, and files that lead out of it: python3 tenants_test.py path/to/lorax"""

import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import unittest

from live_server import ROOT, TINY, LiveServer

LORAX = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ROOT / "build/release/lorax").resolve()
ALICE = {"name": "alice", "key": "key-of-alice", "adapters": ["pirate", "team/*"]}
BOB = {"name": "bob", "key": "key-of-bob", "max_concurrent_requests": 2}
PROMPT = "In the beginning God created the heaven and the earth. And the earth was without form."


def bearer(key):
    return {"Authorization": f"Bearer {key['key']}"}


class Base(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(os.path.realpath(tempfile.mkdtemp(prefix="lorax-tenants-")))
        self.addCleanup(shutil.rmtree, self.folder)
        self.adapters = self.folder / "adapters"
        self.adapters.mkdir()
        for name in ("pirate", "caps", "team/red"):
            shutil.copytree(TINY / "adapters" / name.replace("team/red", "modern"),
                            self.adapters / name)
        self.keys = self.folder / "keys.json"

    def write_keys(self, *keys):
        new = self.folder / "new.json"
        new.write_text(json.dumps({"keys": keys}))
        new.rename(self.keys)

    def serve(self, *flags):
        server = LiveServer(LORAX, "--adapter-dir", self.adapters, "--threads", 1, *flags)
        self.addCleanup(server.__exit__)
        return server

    def wait_until(self, condition, what):
        end = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.05)


def generate(server, key, adapter="", tokens=2, prompt=PROMPT, **more):
    return server.post("/generate", {"inputs": prompt, "parameters": {
        "adapter_id": adapter, "max_new_tokens": tokens, **more}}, bearer(key) if key else None)


class KeysTest(Base):
    def test_each_key_sees_its_own(self):
        self.write_keys(ALICE, BOB)
        server = self.serve("--api-key-file", self.keys)
        names = {}
        for key in (ALICE, BOB):
            status, _, body = server.get("/v1/models", bearer(key))
            self.assertEqual(status, 200)
            names[key["name"]] = [model["id"] for model in body["data"]]
        self.assertEqual(names["alice"], ["tiny-gemma2", "pirate", "team/red"])
        self.assertEqual(names["bob"], ["tiny-gemma2", "caps", "pirate", "team/red"])
        self.assertEqual(generate(server, ALICE, "team/red")[0], 200)
        self.assertEqual(generate(server, BOB, "caps")[0], 200)
        hidden, none = (generate(server, ALICE, name)[2] for name in ("caps", "nope"))
        self.assertEqual(hidden["error"].replace("caps", "nope"), none["error"])
        self.assertEqual(server.get("/v1/models", None)[0], 401)
        self.assertEqual(generate(server, {"key": "key-of-carol"})[0], 401)
        for key in (ALICE, BOB):
            self.assertNotIn(key["key"], server.output())

    def test_limits(self):
        self.write_keys(ALICE | {"max_tokens_per_minute": 30}, BOB)
        server = self.serve("--api-key-file", self.keys)
        self.assertEqual(generate(server, ALICE, tokens=20)[0], 200)
        status, headers, body = generate(server, ALICE)
        self.assertEqual((status, body["error_type"]), (429, "overloaded"))
        self.assertTrue(1 <= int(headers["Retry-After"]) <= 60, headers["Retry-After"])
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            statuses = list(pool.map(lambda _: generate(server, BOB, tokens=200,
                                                        ignore_eos_token=True)[0], range(12)))
        self.assertEqual(set(statuses), {200, 429})
        self.assertEqual(generate(server, BOB)[0], 200)

    def test_prefixes_are_a_keys_own(self):
        def hits(server):
            return server.metric("lorax_prefix_cache_hit_tokens")
        self.write_keys(ALICE, BOB)
        for flags, is_shared in (((), False), (("--share-prefixes",), True)):
            server = self.serve("--api-key-file", self.keys, *flags)
            generate(server, ALICE)
            self.assertEqual(hits(server), 0)
            generate(server, BOB)
            self.assertEqual(hits(server) > 0, is_shared)
            before = hits(server)
            generate(server, ALICE)
            self.assertGreater(hits(server), before)
            before = hits(server)
            generate(server, ALICE, cache_salt="pepper")
            self.assertEqual(hits(server), before)
            generate(server, ALICE, cache_salt="pepper")
            self.assertGreater(hits(server), before)
            server.stop()

    def test_reload(self):
        self.write_keys(ALICE)
        server = self.serve("--api-key-file", self.keys)
        self.assertEqual(generate(server, BOB)[0], 401)
        self.write_keys(ALICE | {"adapters": ["caps"]}, BOB)
        self.wait_until(lambda: generate(server, BOB)[0] == 200, "the change is not seen")
        self.assertEqual(generate(server, ALICE, "pirate")[0], 424)
        self.assertEqual(generate(server, ALICE, "caps")[0], 200)
        self.keys.write_text('{"keys": [{"name": "carol", "key": "secret of carol"}]}')
        server.process.send_signal(signal.SIGUSR1)
        self.wait_until(lambda: "is not taken" in server.output(), "no word of the bad file")
        self.assertEqual(generate(server, BOB)[0], 200)
        self.assertNotIn("secret of carol", server.output())
        server.process.send_signal(signal.SIGUSR1)
        self.wait_until(lambda: server.output().count("is not taken") >= 2, "SIGUSR1 is not seen")
        self.assertEqual(server.stop(), 0)

    def test_a_flood_of_one_key_leaves_the_other_its_share(self):
        self.write_keys(ALICE, {"name": "bob", "key": BOB["key"]})
        server = self.serve("--api-key-file", self.keys, "--max-batch-size", 4)
        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            flood = [pool.submit(generate, server, BOB, ("caps", "pirate", "")[i % 3], 100,
                                 f"{i} {PROMPT}", ignore_eos_token=True) for i in range(36)]
            self.wait_until(lambda: server.metric("lorax_queue_length") > 20, "no flood")
            self.assertEqual(generate(server, ALICE, "pirate", 20)[0], 200)
            self.assertGreater(sum(not one.done() for one in flood), 12)
            self.assertTrue(all(one.result()[0] == 200 for one in flood))

    def test_a_file_that_is_not_right_at_the_start(self):
        self.keys.write_text('{"keys": []}')
        with self.assertRaisesRegex(AssertionError, "at least one"):
            self.serve("--api-key-file", self.keys)

    def test_status_without_a_key_names_no_adapter(self):
        self.write_keys(ALICE, BOB)
        server = self.serve("--api-key-file", self.keys)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(generate, server, BOB, "caps", 400, ignore_eos_token=True)

            def label(key):
                text = server.get("/metrics", bearer(key) if key else None)[2].decode()
                return 'running_lora_adapters="caps"' in text
            self.wait_until(lambda: label(BOB) or running.done(), "no adapter runs")
            self.assertFalse(running.done())
            self.assertFalse(label(None))
            self.assertFalse(label(ALICE))
            running.result()
        server.stop()
        server = self.serve("--api-key-file", self.keys, "--protect-status")
        for path in ("/metrics", "/docs", "/api-doc/openapi.json", "/info"):
            self.assertEqual(server.get(path)[0], 401, path)
            self.assertEqual(server.get(path, bearer(ALICE))[0], 200, path)
        self.assertEqual(server.get("/health")[0], 200)


class NamesTest(Base):
    def test_no_absolute_path_goes_to_clients(self):
        shutil.copytree(self.adapters / "pirate", self.adapters / "broken")
        (self.adapters / "broken/adapter_config.json").write_text("{")
        shutil.copytree(self.adapters / "pirate", self.adapters / "template")
        (self.adapters / "template/chat_template.jinja").write_text("{% nonsense %}")
        server = self.serve("--allow-runtime-adapters")
        server.post("/v1/load_lora_adapter", {"lora_name": "alias", "lora_path": "caps"})
        chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        answers = [server.get(path) for path in ("/v1/models", "/info", "/docs", "/v1/models/alias")]
        answers += [generate(server, None, name) for name in ("broken", "pirate", "nope", "alias")]
        answers += [server.post("/v1/chat/completions", chat | {"model": name})
                    for name in ("template", "broken", "")]
        answers.append(server.post("/generate", {"inputs": "x", "parameters": {
            "merged_adapters": {"ids": ["broken", "pirate"], "weights": [1, 1]}}}))
        self.assertIn(424, [status for status, _, _ in answers])
        for _, headers, body in answers:
            text = f"{dict(headers)} {body}"
            for path in (self.folder, TINY, ROOT):
                self.assertNotIn(str(path), text)
        self.assertEqual(answers[5][1]["x-model-id"], "tiny-gemma2")
        self.assertEqual(server.post("/v1/load_lora_adapter",
                                     {"lora_name": "pirate", "lora_path": "caps"})[0], 400)

    def test_served_names_and_hosts(self):
        server = self.serve("--served-model-name", "bible", "scripture", "--allowed-host",
                            "127.0.0.1", "api.example")
        models = server.get("/v1/models")[2]["data"]
        self.assertEqual([model["id"] for model in models[:2]], ["bible", "scripture"])
        body = {"model": "scripture", "prompt": "a", "max_tokens": 1}
        self.assertEqual(server.post("/v1/completions", body)[2]["model"], "bible")
        self.assertEqual(server.post("/v1/completions", body | {"model": "tiny-gemma2"})[0], 404)
        self.assertEqual(server.get("/health", {"Host": "api.example:80"})[0], 200)
        self.assertEqual(server.post("/v1/completions", body, {"Host": "evil.example"})[0], 403)


class FilesTest(Base):
    def test_nothing_outside_is_read(self):
        secret = self.folder / "secret"
        shutil.copytree(self.adapters / "pirate", secret)
        (secret / "chat_template.jinja").write_text("{{ raise_exception('of the secret') }}")
        for name in ("adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"):
            shutil.copytree(self.adapters / "pirate", self.adapters / name)
            (self.adapters / name / name).unlink(missing_ok=True)
            (self.adapters / name / name).symlink_to(secret / name)
        shutil.copytree(self.adapters / "pirate", self.adapters / "pipe")
        (self.adapters / "pipe/adapter_model.safetensors").unlink()
        os.mkfifo(self.adapters / "pipe/adapter_model.safetensors")
        chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        server = self.serve()
        for name in ("adapter_config.json", "adapter_model.safetensors", "pipe"):
            self.assertEqual(generate(server, None, name)[0], 424, name)
        status, _, body = server.post("/v1/chat/completions", chat | {"model": "chat_template.jinja"})
        self.assertEqual(status, 400, body)
        self.assertNotIn("of the secret", str(body))
        names = [model["id"] for model in server.get("/v1/models")[2]["data"]]
        self.assertNotIn("adapter_config.json", names)
        server.stop()
        server = self.serve("--adapter-root", secret)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            self.assertEqual(generate(server, None, name)[0], 200, name)
        body = server.post("/v1/chat/completions", chat | {"model": "chat_template.jinja"})[2]
        self.assertIn("of the secret", str(body))


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main(verbosity=2)
