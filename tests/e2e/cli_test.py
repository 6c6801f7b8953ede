"""The command line as users and scripts call it: python3 cli_test.py path/to/lorax"""

import json
import math
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LORAX = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ROOT / "build/release/lorax").resolve()
TINY = ROOT / "models/tiny-gemma2"
GOLDENS = ROOT / "tests/golden/data"
SHAPES = {
    "2b": (2304, 9216, 26, 8, 4, 256, 256), "9b": (3584, 14336, 42, 16, 8, 256, 256),
    "27b": (4608, 36864, 46, 32, 16, 128, 144)}


def lorax(*args, stdin="", check=True):
    done = subprocess.run([LORAX, *map(str, args)], input=stdin, capture_output=True, text=True,
                          timeout=300)
    if check and done.returncode != 0:
        raise AssertionError(f"{args}: {done.returncode}: {done.stderr}")
    return done


def wait_until_it_catches(pid, number):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        if int(status.split("SigCgt:")[1].split()[0], 16) >> (number - 1) & 1:
            return
        time.sleep(0.02)
    raise AssertionError(f"no handler of signal {number}")


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        count = math.prod(info["shape"])
        body = data[8 + length + begin:8 + length + end]
        tensors[name] = (info["shape"], struct.unpack(f"<{count}f", body))
    return tensors


def write_safetensors(path, header, data_bytes):
    """The header as given; the data section is a hole."""
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + data_bytes)


def gemma2_tensors(shape, vocab=256000):
    hidden, inner, layers, heads, kv_heads, d, _ = shape
    yield "model.embed_tokens.weight", [vocab, hidden]
    for i in range(layers):
        prefix = f"model.layers.{i}."
        yield prefix + "self_attn.q_proj.weight", [heads * d, hidden]
        yield prefix + "self_attn.k_proj.weight", [kv_heads * d, hidden]
        yield prefix + "self_attn.v_proj.weight", [kv_heads * d, hidden]
        yield prefix + "self_attn.o_proj.weight", [hidden, heads * d]
        yield prefix + "mlp.gate_proj.weight", [inner, hidden]
        yield prefix + "mlp.up_proj.weight", [inner, hidden]
        yield prefix + "mlp.down_proj.weight", [hidden, inner]
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{prefix}{norm}_layernorm.weight", [hidden]
    yield "model.norm.weight", [hidden]


def write_sparse_checkpoint(directory, shape, shards):
    """A checkpoint of a real size in sparse files, sharded as released, with its old config keys."""
    hidden, inner, layers, heads, kv_heads, d, scalar = shape
    (directory / "config.json").write_text(json.dumps({
        "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False,
        "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": d,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": hidden, "intermediate_size": inner, "max_position_embeddings": 8192,
        "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": kv_heads,
        "query_pre_attn_scalar": scalar, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "sliding_window": 4096, "torch_dtype": "float32", "vocab_size": 256000,
        "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}))
    tensors = list(gemma2_tensors(shape))
    weight_map = {}
    per_shard = -(-len(tensors) // shards)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, size in tensors[shard * per_shard:(shard + 1) * per_shard]:
            end = offset + 4 * math.prod(size)
            header[name] = {"dtype": "F32", "shape": size, "data_offsets": [offset, end]}
            weight_map[name] = file
            offset = end
        write_safetensors(directory / file, header, offset)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map}))


class Base(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.dir = pathlib.Path(temporary.name)

    def copy_tiny(self):
        path = self.dir / "model"
        shutil.copytree(TINY, path)
        return path

    def assert_error(self, args, *parts, stdin=""):
        done = lorax(*args, stdin=stdin, check=False)
        self.assertEqual(done.returncode, 1, f"{args}: {done.stderr}")
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        for part in parts:
            self.assertIn(part, done.stderr)


class GenerateTest(Base):
    def test_greedy_ids_are_hugging_faces(self):
        expected = json.loads((TINY / "expected.json").read_text())["prompts"]
        for prompt in expected[:3]:
            ids = ",".join(map(str, prompt["input_ids"]))
            out = lorax("generate", "--model-id", TINY, "--dtype", "float32", "--input-ids", ids,
                        "--max-new-tokens", len(prompt["generated_ids"]), "--temperature", 0,
                        "--ignore-eos", "--json").stdout
            self.assertEqual(json.loads(out)["generated_ids"], prompt["generated_ids"])

    def test_a_text_prompt_gets_bos_and_its_text_back(self):
        prompt = json.loads((TINY / "expected.json").read_text())["prompts"][1]
        args = ("generate", "--model-id", TINY, "--dtype", "float32", "--prompt", prompt["prompt"],
                "--max-new-tokens", 20)
        answer = json.loads(lorax(*args, "--json").stdout)
        self.assertEqual(answer["input_ids"], prompt["input_ids"])
        self.assertEqual(answer["generated_ids"], prompt["generated_ids"][:20])
        self.assertEqual(len(answer["logprobs"]), 20)
        self.assertTrue(all(p <= 0 for p in answer["logprobs"]))
        self.assertEqual(answer["finish_reason"], "length")
        self.assertGreater(answer["timings"]["decode_tokens_per_second"], 0)
        streamed = lorax(*args).stdout
        self.assertEqual(streamed, answer["generated_text"] + "\n")
        self.assertTrue(prompt["text"].startswith(answer["generated_text"]))

    def test_chat_ends_at_end_of_turn(self):
        prompt = json.loads((TINY / "expected.json").read_text())["prompts"][-1]
        answer = json.loads(lorax("generate", "--model-id", TINY, "--dtype", "float32", "--prompt",
                                  prompt["prompt"], "--json").stdout)
        self.assertEqual(answer["finish_reason"], "eos_token")
        self.assertEqual(answer["generated_text"], prompt["text"])

    def test_sampling_is_reproducible(self):
        def sample(seed, *more):
            return json.loads(lorax(
                "generate", "--model-id", TINY, "--prompt", "And", "--max-new-tokens", 20,
                "--temperature", 1.2, "--seed", seed, "--json", *more).stdout)["generated_ids"]

        self.assertEqual(sample(1), sample(1))
        self.assertNotEqual(sample(1), sample(2))
        self.assertEqual(sample(1, "--top-k", 1), sample(2, "--top-k", 1))
        self.assertEqual(sample(1, "--top-p", 1e-6), sample(2, "--top-p", 1e-6))
        self.assertEqual(sample(1, "--typical-p", 1e-6), sample(2, "--typical-p", 1e-6))
        self.assertEqual(sample(1, "--min-p", 1), sample(2, "--min-p", 1))
        self.assertEqual(sample(5, "--threads", 1), sample(5, "--threads", 2))
        self.assertEqual(sample(5, "--watermark"), sample(5, "--watermark"))
        self.assertNotEqual(sample(5, "--watermark"), sample(5))

    def test_penalties(self):
        def repeated(*more):
            ids = json.loads(lorax(
                "generate", "--model-id", TINY, "--prompt", "And", "--max-new-tokens", 40,
                "--ignore-eos", "--json", *more).stdout)["generated_ids"]
            return len(ids) - len(set(ids))

        plain = repeated()
        self.assertGreater(plain, 5)
        for flag, value in (("--repetition-penalty", 1.5), ("--frequency-penalty", 2),
                            ("--presence-penalty", 2)):
            self.assertLess(repeated(flag, value), plain, flag)

    def test_ids_without_a_tokenizer(self):
        case = GOLDENS / "gqa-d32-old-keys"
        expected = json.loads((case / "greedy.json").read_text())["requests"][1]
        ids = ",".join(map(str, expected["input_ids"]))
        answer = json.loads(lorax("generate", "--model-id", case, "--input-ids", ids,
                                  "--max-new-tokens", 24, "--ignore-eos", "--json").stdout)
        self.assertEqual(answer["generated_ids"], expected["generated_ids"])


class LogitsTest(Base):
    def test_packed_and_chunked_logits(self):
        case = GOLDENS / "mqa-d128-sharded-bfloat16"
        out = self.dir / "logits.safetensors"
        lorax("logits", "--model-id", case, "--dtype", "float32", "--requests",
              case / "requests.json", "--out", out)
        ours = read_safetensors(out)
        expected = read_safetensors(case / "logits.safetensors")
        self.assertEqual(sorted(ours), sorted(expected))
        for name, (shape, values) in expected.items():
            self.assertEqual(ours[name][0], shape)
            worst = max(abs(a - b) for a, b in zip(ours[name][1], values))
            self.assertLess(worst, 2e-4)
        for chunk in (1, 16, 33):
            chunked = self.dir / f"chunked{chunk}.safetensors"
            lorax("logits", "--model-id", case, "--dtype", "float32", "--requests",
                  case / "requests.json", "--out", chunked, "--chunk", chunk)
            self.assertEqual(chunked.read_bytes(), out.read_bytes())
            decoded = self.dir / f"decoded{chunk}.safetensors"
            lorax("logits", "--model-id", case, "--dtype", "float32", "--requests",
                  case / "requests.json", "--out", decoded, "--decode", chunk)
            self.assertEqual(decoded.read_bytes(), out.read_bytes())
            last = self.dir / f"last{chunk}.safetensors"
            lorax("logits", "--model-id", case, "--dtype", "float32", "--requests",
                  case / "requests.json", "--out", last, "--chunk", chunk, "--last", 20)
            for name, ((rows, vocab), values) in read_safetensors(last).items():
                self.assertEqual(rows, min(20, ours[name][0][0]))
                self.assertEqual(list(values), list(ours[name][1])[-rows * vocab:])

    def test_batches(self):
        case = GOLDENS / "gqa-d32-old-keys"
        def logits(name, *options):
            out = self.dir / f"{name}.safetensors"
            lorax("logits", "--model-id", case, "--dtype", "float32", "--requests",
                  case / "requests.json", "--out", out, *options)
            return out.read_bytes()
        together = logits("together", "--last", 3)
        self.assertGreater(len(json.loads((case / "requests.json").read_text())), 2)
        for batch in (1, 2, 100):
            self.assertEqual(logits(f"batch{batch}", "--last", 3, "--batch", batch), together)
        self.assert_error(("logits", "--model-id", case, "--requests", case / "requests.json",
                           "--out", self.dir / "none", "--batch", 0), "--batch")

    def test_float16(self):
        case = GOLDENS / "gqa-d256-float16"
        expected = read_safetensors(case / "logits.safetensors")
        errors = {}
        for dtype in ("float16", "bfloat16"):
            out = self.dir / f"{dtype}.safetensors"
            lorax("logits", "--model-id", case, "--dtype", dtype, "--requests",
                  case / "requests.json", "--out", out)
            ours = read_safetensors(out)
            errors[dtype] = max(abs(a - b) for name in expected
                                for a, b in zip(ours[name][1], expected[name][1]))
        self.assertGreater(errors["float16"], 0.0)
        self.assertLess(errors["float16"], errors["bfloat16"] / 4)  # three more bits

    def test_bad_requests(self):
        out = self.dir / "out.safetensors"
        requests = self.dir / "requests.json"

        def check(text, *parts):
            requests.write_text(text)
            self.assert_error(("logits", "--model-id", TINY, "--requests", requests, "--out", out),
                              *parts)

        check("[", "not valid JSON")
        check("[]", "list of requests")
        check('[{"input_ids": []}]', "request 0", "empty")
        check('[{"input_ids": [1, 99999]}]', "99999", "vocabulary")
        check('[{"input_ids": [-1]}]', "-1")
        check('[{"input_ids": [1.5]}]', "1.5")
        check('[{"ids": [1]}]', "ids")
        check('[{"input_ids": [1], "adapter_id": "no/such"}]', "no/such", "adapter_config.json")
        check('[{"input_ids": [1], "adapter_id": 7}]', "adapter_id", "7")
        check('[{"input_ids": [1], "adapter_id": "a", "merged_adapters": {"ids": ["b"]}}]',
              "merged_adapters", "adapter_id")
        check('[{"input_ids": [1], "merged_adapters": {"ids": []}}]', "ids", "empty")
        check('[{"input_ids": [1], "merged_adapters": {"ids": ["a"], "merge_strategy": "sum"}}]',
              "sum", "dare_ties")
        check('[{"input_ids": [1], "merged_adapters": {"ids": ["a"], "scale": 1}}]', "scale")
        check(json.dumps([{"input_ids": [5] * 1025}]), "1025", "1024")
        self.assertFalse(out.exists())
        requests.write_text('[{"input_ids": [1]}]')
        self.assert_error(("logits", "--model-id", TINY, "--requests", requests, "--out",
                           self.dir / "no/such/out"), "no/such/out")


class AdapterTest(Base):
    """Adapters as PEFT saves them (tests/golden/adapters) and those of models/tiny-gemma2."""

    CASE = ROOT / "tests/golden/adapters/gqa-d32-old-keys"
    BASE = GOLDENS / "gqa-d32-old-keys"
    TINY_ADAPTERS = TINY / "adapters"

    def test_one_batch_of_all_kinds_gives_pefts_logits(self):
        out = self.dir / "logits.safetensors"
        lorax("logits", "--model-id", self.BASE, "--dtype", "float32", "--requests",
              self.CASE / "requests.json", "--out", out)
        ours = read_safetensors(out)
        expected = read_safetensors(self.CASE / "logits.safetensors")
        self.assertEqual(sorted(ours), sorted(expected))
        for name, (shape, values) in expected.items():
            self.assertEqual(ours[name][0], shape)
            worst = max(abs(a - b) for a, b in zip(ours[name][1], values))
            self.assertLess(worst, 2e-4, name)
        chunked = self.dir / "chunked.safetensors"
        lorax("logits", "--model-id", self.BASE, "--dtype", "float32", "--requests",
              self.CASE / "requests.json", "--out", chunked, "--chunk", 7)
        self.assertEqual(chunked.read_bytes(), out.read_bytes())

    def test_prompts_and_adapters_pair_up(self):
        prompts, adapters, texts = [], [], []
        for name in ("caps", "pirate"):
            expected = json.loads((self.TINY_ADAPTERS / name / "expected.json").read_text())
            prompts.append(expected["prompts"][0]["prompt"])
            adapters.append(self.TINY_ADAPTERS / name)
            texts.append(expected["prompts"][0]["generated_ids"])
        args = ["generate", "--model-id", TINY, "--dtype", "float32", "--ignore-eos", "--json",
                "--max-new-tokens", 20]
        for prompt, adapter in zip(prompts, adapters):
            args += ["--prompt", prompt, "--adapter-id", adapter]
        results = json.loads(lorax(*args).stdout)["results"]
        for result, adapter, ids in zip(results, adapters, texts):
            self.assertEqual(result["adapter_id"], str(adapter))
            self.assertEqual(result["generated_ids"], ids[:20])

        shared = lorax("generate", "--model-id", TINY, "--prompt", "And", "--adapter-id",
                       "__base_model__", "--adapter-id", adapters[0], "--max-new-tokens", 5).stdout
        self.assertIn("[base model] And", shared)
        self.assertIn("[caps] And", shared)
        self.assert_error(("generate", "--model-id", TINY, "--prompt", "a", "--prompt", "b",
                           "--prompt", "c", "--adapter-id", adapters[0], "--adapter-id",
                           adapters[1]), "3 prompts", "2 adapters")

    def test_verify_adapter(self):
        for name in ("pirate", "modern"):
            out = lorax("verify-adapter", "--model-id", TINY, "--adapter-id",
                        self.TINY_ADAPTERS / name).stdout
            self.assertIn("kind lora", out)
            self.assertIn("fits", out)
            difference = float(out.split("differs_from_merged_by ")[1].split()[0])
            self.assertLess(difference, 1e-3)
        out = lorax("verify-adapter", "--model-id", self.BASE, "--adapter-id",
                    self.CASE / "cat-cancels").stdout
        self.assertRegex(out, r"\nbfloat16 changes products by at most 0\.\d+ \(model\..*\): "
                              r"16 of 16 modules in three parts\n")
        self.assertIn("\nranks 8\n", out)
        for name in ("embedding-dora", "head-dora", "saved-embedding", "bias", "medusa-lora"):
            lorax("verify-adapter", "--model-id", self.BASE, "--adapter-id", self.CASE / name)
        self.assert_error(("verify-adapter", "--model-id", self.BASE, "--adapter-id",
                           self.TINY_ADAPTERS / "caps"), "model.layers.")

    def test_damaged_adapters(self):
        def damaged(change):
            copy = self.dir / "damaged"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.TINY_ADAPTERS / "caps", copy)
            change(copy)
            return ("generate", "--model-id", TINY, "--prompt", "And", "--adapter-id", copy)

        def configure(**values):
            def change(folder):
                path = folder / "adapter_config.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
            return change

        self.assert_error(damaged(lambda f: (f / "adapter_config.json").write_text("{")),
                          "adapter_config.json", "not valid JSON")
        self.assert_error(damaged(lambda f: (f / "adapter_model.safetensors").unlink()),
                          "safetensors")
        self.assert_error(damaged(configure(peft_type="IA3")), "peft_type", "IA3")
        self.assert_error(damaged(configure(r=9)), "lora_A", "9")
        self.assert_error(damaged(configure(r=0)), "r ", "0")
        self.assert_error(damaged(configure(new_feature=3)), "new_feature")
        self.assert_error(damaged(configure(target_modules=["q_proj"])),
                          "down_proj.lora_A", "belongs to nothing")

    def test_bench_with_adapters(self):
        out = json.loads(lorax("bench", "--shape", TINY / "config.json", "--prompt", 8, "--generate",
                               3, "--batch", 4, "--adapters", "0,2", "--rank", 5, "--targets",
                               "q_proj,down_proj", "--repeat", 1, "--json").stdout)
        decodes = [row for row in out["results"] if row["phase"] == "decode"]
        self.assertEqual([row["adapters"] for row in decodes], [0, 2])
        self.assertTrue(all(row["attention_tflop_per_s"] > 0 for row in out["results"]))
        self.assertGreater(decodes[1]["adapter_gb"], 0)
        self.assert_error(("bench", "--shape", TINY / "config.json", "--adapters", 1, "--targets",
                           "nope"), "nope", "q_proj")


class TokenizeTest(Base):
    TEXTS = ["In the beginning", "", " two  spaces ", "caf\u00e9 \U0001f600\n\n", "<start_of_turn>user\n"]

    def test_round_trip_in_both_forms(self):
        ids = json.loads(lorax("tokenize", "--model-id", TINY, "--json",
                               stdin=json.dumps(self.TEXTS)).stdout)
        self.assertEqual(ids[1], [])
        back = json.loads(lorax("tokenize", "--model-id", TINY, "--json", "--decode",
                                stdin=json.dumps(ids)).stdout)
        self.assertEqual(back, self.TEXTS)
        only_model = self.dir / "spm"
        only_model.mkdir()
        shutil.copy(TINY / "tokenizer.model", only_model)
        other = json.loads(lorax("tokenize", "--model-id", only_model, "--json",
                                 stdin=json.dumps(self.TEXTS)).stdout)
        self.assertEqual(other, ids)

    def test_bad_input(self):
        self.assert_error(("tokenize", "--model-id", TINY, "--json"), "JSON", stdin="{")
        self.assert_error(("tokenize", "--model-id", TINY, "--json"), "array", stdin="{}")
        self.assert_error(("tokenize", "--model-id", TINY, "--json"), "strings", stdin="[1]")
        self.assert_error(("tokenize", "--model-id", TINY, "--json", "--decode"), "token id",
                          stdin="[[999999]]")
        self.assert_error(("tokenize", "--model-id", self.dir), "tokenizer.json")


class InfoTest(Base):
    def test_tiny(self):
        info = json.loads(lorax("info", "--model-id", TINY, "--json").stdout)
        self.assertEqual(info["model_type"], "gemma2")
        self.assertEqual(len(info["eos_token_ids"]), 2)
        self.assertEqual(info["checkpoint_dtype"], "bfloat16")

    def test_real_shapes_in_sparse_files(self):
        for name, shards in (("2b", 3), ("9b", 8), ("27b", 24)):
            directory = self.dir / name
            directory.mkdir()
            write_sparse_checkpoint(directory, SHAPES[name], shards)
            info = json.loads(lorax("info", "--model-id", directory, "--json", "--dtype",
                                    "bfloat16").stdout)
            parameters = sum(math.prod(size) for _, size in gemma2_tensors(SHAPES[name]))
            self.assertAlmostEqual(info["weight_bytes"] / (2 * parameters), 1.0, places=2)

    def test_weights_larger_than_memory(self):
        write_sparse_checkpoint(self.dir, SHAPES["27b"], 24)
        self.assert_error(("generate", "--model-id", self.dir, "--input-ids", "2", "--json",
                           "--dtype", "float32"), "GB", "memory", "bfloat16")


class BadCheckpointTest(Base):
    def generate(self, path, *more):
        return ("generate", "--model-id", path, "--input-ids", "2,5", "--max-new-tokens", "2",
                "--json", *more)

    def edit_config(self, path, **changes):
        file = path / "config.json"
        config = json.loads(file.read_text())
        for key, value in changes.items():
            config.pop(key) if value is None else config.update({key: value})
        file.write_text(json.dumps(config))

    def test_directories_and_configs(self):
        self.assert_error(self.generate(self.dir / "none"), "none", "no such directory")
        self.assert_error(self.generate(self.dir), "config.json")
        path = self.copy_tiny()
        self.edit_config(path, model_type="llama")
        self.assert_error(self.generate(path), "llama", "known: gemma2")
        self.edit_config(path, model_type="gemma2", head_dim=None)
        self.assert_error(self.generate(path), "head_dim")
        self.edit_config(path, head_dim=64, num_hidden_layers=8)
        self.assert_error(self.generate(path), "model.layers.7", "missing")
        self.edit_config(path, num_hidden_layers=6)
        self.assert_error(self.generate(path), "model.layers.6", "not part of this model")
        self.edit_config(path, num_hidden_layers=7, vocab_size=2049)
        self.assert_error(self.generate(path), "embed_tokens", "[2048, 320]", "[2049, 320]")
        (path / "config.json").write_text('{"model_type":')
        self.assert_error(self.generate(path), "config.json", "JSON")

    def test_damaged_safetensors(self):
        path = self.copy_tiny()
        file = path / "model.safetensors"
        whole = file.read_bytes()
        for size in (0, 5, 8, 100, len(whole) - 1):
            file.write_bytes(whole[:size])
            self.assert_error(self.generate(path), "model.safetensors")
        file.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
        self.assert_error(self.generate(path), "header")
        file.unlink()
        self.assert_error(self.generate(path), "model.safetensors", "download")
        (path / "pytorch_model.bin").write_bytes(b"")
        self.assert_error(self.generate(path), "safe_serialization")

    def test_missing_shard(self):
        path = self.dir / "sharded"
        shutil.copytree(GOLDENS / "full-first-untied", path)
        (path / "model-00002-of-00002.safetensors").unlink()
        self.assert_error(self.generate(path), "model-00002-of-00002.safetensors", "download")

    def test_prompts_and_flags(self):
        run = ("generate", "--model-id", TINY)
        self.assert_error((*run, "--prompt", ""), "--prompt")
        self.assert_error((*run, "--input-ids", "1,x"), "--input-ids")
        self.assert_error((*run, "--input-ids", "4000000"), "4000000")
        self.assert_error((*run, "--input-ids", ",".join(["5"] * 1025)), "1025", "1024")
        self.assert_error((*run, "--prompt", "a", "--max-new-tokens", "1024"), "--max-new-tokens")
        self.assert_error((*run, "--prompt", "a", "--temperature", "-1"), "temperature")
        for flag, value in (("--top-p", "0"), ("--typical-p", "1.1"), ("--min-p", "-1"),
                            ("--repetition-penalty", "0"), ("--frequency-penalty", "3"),
                            ("--presence-penalty", "nan")):
            self.assert_error((*run, "--prompt", "a", flag, value), flag[2:].replace("-", "_"))
        self.assert_error((*run, "--prompt", "a", "--dtype", "int8"), "--dtype", "float16")
        for device in ("tpu", "cuda:", "cuda:x", "cuda:99", "cudax", "gpu"):
            self.assert_error((*run, "--prompt", "a", "--device", device), f"--device {device}")
        self.assert_error((*run, "--prompt", "a", "--nonsense"), "nonsense")
        path = self.copy_tiny()
        (path / "tokenizer.json").unlink()
        (path / "tokenizer.model").unlink()
        self.assert_error(("generate", "--model-id", path, "--prompt", "a"), "tokenizer.json")


class DummyWeightsTest(Base):
    """--load-format dummy: a folder without weights."""

    def setUp(self):
        super().setUp()
        self.path = self.copy_tiny()
        (self.path / "model.safetensors").unlink()

    def test_generate(self):
        run = ("generate", "--model-id", self.path, "--prompt", "And it", "--max-new-tokens", 5,
               "--ignore-eos", "--json")
        first = json.loads(lorax(*run, "--load-format", "dummy").stdout)
        self.assertEqual(len(first["generated_ids"]), 5)
        again = json.loads(lorax(*run, "--load-format", "dummy").stdout)
        self.assertEqual(first["generated_ids"], again["generated_ids"])
        self.assert_error((*run, "--load-format", "safetensors"), "model.safetensors")
        self.assert_error((*run, "--load-format", "pt"), "--load-format")

    def test_serve_says_where_memory_goes(self):
        process = subprocess.Popen(
            [LORAX, "serve", "--model-id", self.path, "--load-format", "dummy", "--port", "0",
             "--log-format", "json", "--cuda-memory-fraction", "0.5"],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, 30)
        self.addCleanup(process.terminate)
        ready = json.loads(process.stdout.readline())
        self.assertEqual(ready["adapter_bytes"], 0)
        self.assertGreater(ready["weight_bytes"], 7e6)
        parts = sum(ready[f"{part}_bytes"] for part in
                    ("elsewhere", "weight", "workspace", "graph", "adapter", "kv"))
        self.assertLessEqual(parts, ready["memory_limit_bytes"])

    def test_memory_fractions(self):
        for fraction in ("0", "1.5", "x"):
            self.assert_error(("generate", "--model-id", TINY, "--prompt", "a",
                               "--cuda-memory-fraction", fraction), "--cuda-memory-fraction")


class BenchTest(Base):
    def test_json(self):
        out = lorax("bench", "--shape", TINY, "--prompt", "16,32", "--generate", 4, "--batch", "1,2",
                    "--repeat", 1, "--json").stdout
        results = json.loads(out)["results"]
        self.assertEqual(len(results), 8)
        for row in results:
            self.assertGreater(row["tokens_per_s"], 0)
            self.assertGreater(row["read_gb_per_s"], 0)

    def test_unknown_shape(self):
        self.assert_error(("bench", "--shape", "gemma2-3b"), "gemma2-2b")


    def test_lines_come_as_cases_end_and_an_interrupt_prints_what_there_is(self):
        for more in ([], ["--json"]):
            # Long enough that no machine comes to its end.
            process = subprocess.Popen([LORAX, "bench", "--shape", TINY, "--prompt", "16",
                                        "--batch", "1,2", "--repeat", "1000", "--generate", "512",
                                        *more], stdout=subprocess.PIPE, text=True)
            self.addCleanup(process.stdout.close)
            if not more:
                for expected in ("prompt 16, batch 1,2", "GB of weights", "phase"):
                    self.assertIn(expected, process.stdout.readline())
            else:
                wait_until_it_catches(process.pid, signal.SIGINT)
            process.send_signal(signal.SIGINT)
            rest = process.stdout.read()
            self.assertEqual(process.wait(60), -signal.SIGINT)
            if more:
                self.assertTrue(json.loads(rest)["interrupted"])


class FirstErrorsTest(Base):
    """What somebody meets who has not read the manual."""

    def test_models_that_are_none(self):
        (self.dir / "models").mkdir()
        tiny = self.copy_tiny()
        for args in (("serve", "--port", "0"), ("generate", "--prompt", "a"), ("info",),
                     ("tokenize",), ("verify-adapter", "--adapter-id", "x"),
                     ("logits", "--requests", "r.json", "--out", "o")):
            run = (*args, "--model-id")
            self.assert_error((*run, "google/gemma-2-2b-it"), "hf download google/gemma-2-2b-it")
            self.assert_error((*run, self.dir / "modle"), f"did you mean {self.dir / 'model'}?")
            self.assert_error((*run, self.dir / "models"), "is empty")
            self.assert_error((*run, tiny / "model.safetensors"), "is a file", str(tiny))
            (self.dir / "g.gguf").write_bytes(b"GGUF")
            self.assert_error((*run, self.dir / "g.gguf"), "GGUF")

    def test_git_lfs_pointers(self):
        pointer = ("version https://git-lfs.github.com/spec/v1\n"
                   "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
                   "size 17525357\n")
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            path = self.copy_tiny()
            (path / name).write_text(pointer)
            self.assert_error(("serve", "--port", "0", "--model-id", path), name, "git lfs pull")
            shutil.rmtree(path)

    def test_commands_and_flags_that_are_not_known(self):
        self.assert_error(("srve",), '"srve"', "did you mean serve?", "lorax --help")
        self.assert_error(("frobnicate",), '"frobnicate"')
        self.assert_error(("help", "srve"), "did you mean serve?")
        self.assert_error(("serve", "--model-di", TINY), "--model-di", "--model-id?",
                          "lorax serve --help")
        self.assert_error(("serve", "--model-id", TINY, "--max-totl-tokens=5"),
                          "did you mean --max-total-tokens?")
        self.assert_error(("generate", "--model-id", TINY, "words"), 'unexpected argument "words"',
                          "lorax generate --help")
        self.assert_error(("--verbos", "info", "--model-id", TINY), "--verbos", "lorax --help")
        self.assert_error(("info",), "--model-id is required", "lorax info --help")

    def test_launcher_flags_that_ask_for_nothing(self):
        process = subprocess.Popen(
            [LORAX, "serve", "--model-id", TINY, "--port", "0", "--log-format", "json",
             "--sharded", "false", "--num-shard", "1", "--trust-remote-code",
             "--preloaded-adapter-source", "local", "--speculative-tokens", "0"],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait, 30)
        self.addCleanup(process.terminate)
        self.assertEqual(json.loads(process.stdout.readline())["without_effect"],
                         ["--trust-remote-code", "--sharded", "--num-shard",
                          "--preloaded-adapter-source", "--speculative-tokens"])

    def test_launcher_flags_that_ask_for_something(self):
        for flag, value in (("--sharded", "true"), ("--num-shard", "2"), ("--quantize", "awq"),
                            ("--revision", "main"), ("--preloaded-adapter-source", "hub"),
                            ("--otlp-endpoint", "http://127.0.0.1:4317")):
            self.assert_error(("serve", "--model-id", TINY, flag, value), f"{flag} {value}: ")

    def test_names_of_dtypes(self):
        for name in ("fp16", "bf16", "fp32", "half", "auto"):
            lorax("generate", "--model-id", TINY, "--prompt", "a", "--max-new-tokens", 1,
                  "--dtype", name)

    def test_every_command_reads_the_models_variable(self):
        environment = {**os.environ, "MODEL_ID": str(TINY)}
        for args in (["info"], ["tokenize"], ["generate", "--prompt", "a", "--max-new-tokens", "1"]):
            subprocess.run([LORAX, *args], env=environment, check=True, capture_output=True,
                           input=b"a", timeout=60)


class HelpTest(Base):
    def test_help_in_all_its_forms(self):
        self.assertEqual(lorax().stdout, lorax("--help").stdout)
        self.assertEqual(lorax("help").stdout, lorax("--help").stdout)
        self.assertEqual(lorax("help", "serve").stdout, lorax("serve", "--help").stdout)

    def test_help(self):
        text = lorax("--help").stdout
        for command in ("generate", "logits", "tokenize", "info", "bench"):
            self.assertIn(command, text)
            self.assertIn("--help", lorax(command, "--help").stdout)
        self.assertRegex(lorax("--version").stdout, r"\d+\.\d+")


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main(verbosity=2)
