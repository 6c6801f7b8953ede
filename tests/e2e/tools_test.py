"""tools/benchmarks and tools/compare_builds: python3 tools_test.py path/to/lorax"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = "lorax"
RECORD = {"id": "a.decode", "date": "2026-11-20", "commit": "1234567", "machine": "box",
          "command": "lorax bench", "case": "decode", "figure": [10.0, 12.0], "unit": "ms"}


class Records(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        (self.root / "bench/results").mkdir(parents=True)
        (self.root / "docs").mkdir()
        self.page = self.root / "docs/benchmarks.md"
        self.file = self.root / "bench/results/a.json"
        (self.root / "bench/machines.json").write_text('{"box": "a box", "crate": "a crate"}')
        (self.root / "bench/results/preface.md").write_text("# Benchmarks\n")

    def write(self, *records, **fields):
        self.file.write_text(json.dumps({"topic": "cpu", "title": "Steps", "records": records, **fields}))

    def run_tool(self, *arguments, stdin=""):
        return subprocess.run([ROOT / "tools/benchmarks", "--root", self.root, *arguments], input=stdin,
                              capture_output=True, text=True)

    def made(self):
        """The page's table rows."""
        done = self.run_tool()
        self.assertEqual(done.returncode, 0, done.stderr)
        return [line for line in self.page.read_text().splitlines() if line.startswith("| ")]

    def test_errors_name_file_record_and_field(self):
        without = {name: value for name, value in RECORD.items() if name != "unit"}
        for wrong, words in [
                (without, "record a.decode: unit: missing"),
                ({**RECORD, "unit": "furlongs"}, "record a.decode: unit: must be one of"),
                ({**RECORD, "figure": "12 ms"}, "record a.decode: figure: must be a number"),
                ({**RECORD, "figure": []}, "record a.decode: figure: must be a number"),
                ({**RECORD, "date": "2026-13-01"}, "record a.decode: date: must be a date"),
                ({**RECORD, "machine": "mine"}, "record a.decode: machine: mine is not in"),
                ({**RECORD, "ratio": 1.2}, "record a.decode: ratio: unknown field"),
                ({**RECORD, "peers": [{"name": "p", "figure": 3}]}, "peers[0]: version: missing"),
                ({**RECORD, "limit": {"name": "C"}}, "limit: must have one of figure, share"),
                ({**RECORD, "base": {"name": "b", "id": "gone"}}, "base: id: no record gone of that unit"),
                ({**RECORD, "target": {"of": "peer", "at_least": 2}}, "target: of: the record has no peer"),
                ({**RECORD, "id": "A b"}, "id: must be lower-case"), (17, "record 1: must be an object")]:
            self.write(wrong)
            done = self.run_tool("--check")
            self.assertEqual(done.returncode, 1, words)
            self.assertIn("a.json: ", done.stderr)
            self.assertIn(words, done.stderr)
        self.write(RECORD, RECORD)
        self.assertIn("record a.decode: id: there is another one", self.run_tool("--check").stderr)
        self.write(RECORD, {**RECORD, "id": "a.more"})
        self.assertIn("record a.more: case: that of a.decode", self.run_tool("--check").stderr)

    def test_check_fails_on_an_edited_page(self):
        self.write(RECORD)
        self.made()
        self.assertEqual(self.run_tool("--check").returncode, 0)
        self.page.write_text(self.page.read_text().replace("10.0 to 12.0", "9.0"))
        done = self.run_tool("--check")
        self.assertEqual(done.returncode, 1)
        self.assertIn("docs/benchmarks.md is not what bench/results gives", done.stderr)

    def test_ratios_are_of_pairs_or_of_medians(self):
        def peer(figure):
            return [{"name": "peer", "version": "1", "figure": figure}]
        rate = {**RECORD, "id": "a.rate", "case": "rate", "unit": "tokens/s", "figure": 30}
        self.write({**RECORD, "peers": peer([20.0, 18.0])}, {**rate, "peers": peer([10, 14, 15])})
        self.assertIn("| decode | 10.0 to 12.0 ms | 18.0 to 20.0 (1.50 to 2.00 x) |", self.made())
        self.assertIn("| rate | 30 tokens/s | 10 to 15 (2.14 x) |", self.made())

    def test_targets_say_where_they_are_missed(self):
        self.write({**RECORD, "target": {"of": "figure", "at_most": 11}},
                   {**RECORD, "id": "a.b", "case": "b", "limit": {"name": "C", "share": 0.8},
                    "target": {"of": "limit", "at_least": 0.8}},
                   {**RECORD, "id": "a.c", "case": "c", "base": {"name": "b", "id": "a.b"},
                    "target": {"of": "base", "at_most": 0.99}})
        rows = self.made()
        self.assertIn("| decode | 10.0 to 12.0 (aim: at most 11, missed) | |", rows)
        self.assertIn("| b | 10.0 to 12.0 | 0.80 (aim: at least 0.8) |", rows)
        self.assertIn("| c | 10.0 to 12.0; 1.00 x b (aim: at most 0.99, missed) | |", rows)

    def test_the_newest_of_a_case_is_shown_and_nothing_superseded(self):
        self.write({**RECORD, "id": "a.new", "date": "2026-11-21", "figure": 7}, RECORD,
                   {**RECORD, "id": "a.crate", "machine": "crate", "case": "old", "superseded": "others"})
        self.assertEqual(self.made()[-2:], ["| ms | lorax.cpp |", "| decode | 7 |"])
        self.assertNotIn("crate", self.page.read_text())

    def bench(self, *results, **fields):
        return json.dumps({"shape": "gemma2-2b", "dtype": "bfloat16", **fields, "results": results})

    def test_add_makes_a_record_and_adds_runs(self):
        def result(phase, milliseconds):
            return {"phase": phase, "batch": 4, "prompt": 32, "adapters": 0, "ms_per_step": milliseconds,
                    "ratio_of_bytes": 0.5}
        flags = ["add", "new", "--id", "new.decode", "--machine", "box", "--commit", "abcdef0", "--command",
                 "lorax bench", "--phase", "decode"]
        done = self.run_tool(*flags, stdin=self.bench(result("decode", 5)))
        self.assertIn("--topic and --title make it", done.stderr)
        flags += ["--topic", "cpu", "--title", "New"]
        for milliseconds, peer in ((5.00004, "8"), (4, "10")):
            output = self.bench(result("prefill", 90), result("decode", milliseconds))
            done = self.run_tool(*flags, "--peer", "p", "--peer-version", "2", "--peer-figure", peer,
                                 stdin=output)
            self.assertEqual(done.returncode, 0, done.stderr)
        record, = json.loads((self.root / "bench/results/new.json").read_text())["records"]
        self.assertEqual(record["figure"], [5.0, 4.0])
        self.assertEqual(record["limit"], {"name": "read", "share": [0.5, 0.5]})
        self.assertEqual(record["peers"], [{"name": "p", "version": "2", "figure": [8.0, 10.0]}])
        self.assertIn("| gemma2-2b, bfloat16, decode, batch 4, prompt 32 | 4.0 to 5.0 | 0.50 | "
                      "8.0 to 10.0 (1.60 to 2.50 x) |", self.made())
        before = self.file.with_name("new.json").read_text()
        for output, extra, words in [
                (self.bench(result("decode", 3), interrupted=True), [], "interrupted"),
                (self.bench(result("decode", 3), result("decode", 4)), [], "2 results fit"),
                (self.bench(result("decode", 3)), ["--take", "tokens_per_s"], "the result has phase"),
                (self.bench(result("decode", 3)), ["--commit", "0000000"], "commit: abcdef0 there and 0000000"),
                ("no JSON", [], "standard input is not what lorax bench --json prints")]:
            done = self.run_tool(*flags, *extra, stdin=output)
            self.assertEqual(done.returncode, 1, words)
            self.assertIn(words, done.stderr)
        self.assertEqual(self.file.with_name("new.json").read_text(), before)

    def test_add_takes_what_the_program_prints(self):
        output = subprocess.run([PROGRAM, "bench", "--shape", ROOT / "models/tiny-gemma2", "--prompt", "8",
                                 "--generate", "4", "--repeat", "1", "--json"], capture_output=True,
                                text=True, check=True).stdout
        for phase, take, unit in (("decode", "ms_per_step", "ms"), ("prefill", "tokens_per_s", "tokens/s")):
            done = self.run_tool("add", "new", "--id", f"new.{phase}", "--machine", "box", "--commit",
                                 "abcdef0", "--command", "lorax bench", "--phase", phase, "--take", take,
                                 "--topic", "cpu", "--title", "New", stdin=output)
            self.assertEqual(done.returncode, 0, done.stderr)
            record = json.loads((self.root / "bench/results/new.json").read_text())["records"][-1]
            self.assertEqual(record["unit"], unit)
            expected = next(item[take] for item in json.loads(output)["results"] if item["phase"] == phase)
            self.assertAlmostEqual(record["figure"] / expected, 1, delta=1e-3)


class CompareBuilds(unittest.TestCase):
    def compare(self, *flags):
        return subprocess.run([ROOT / "tools/compare_builds", PROGRAM, PROGRAM, "--requests", "24", "--seconds",
                               "300", "--dtypes", "float32", *flags], capture_output=True, text=True)

    def test_a_build_is_like_itself(self):
        done = self.compare()
        self.assertEqual((done.returncode, done.stdout.splitlines()[-1:]), (0, ["no difference"]), done)
        self.assertIn("float32: 24 requests", done.stdout)
        self.assertIn("logits: 5 checkpoints", done.stdout)

    def test_arithmetic_and_wire_are_compared(self):
        for flags, what in (("--dtype bfloat16", "logits of gqa-d32-old-keys in float32"),
                            ("--max-stop-sequences 1", "status 422"),
                            ("--prefix-caching false", "cached_tokens"),
                            ("--served-model-name other", "x-model-id")):
            done = self.compare("--new-flags", flags, "--requests", "100", "--show", "1000")
            self.assertEqual(done.returncode, 1, done)
            self.assertIn(what, done.stdout)

    def test_what_cannot_be_compared_is_no_difference(self):
        done = self.compare("--new-flags", "--max-batch-size 0")
        self.assertEqual(done.returncode, 2, done)
        self.assertIn("--max-batch-size", done.stderr)


if __name__ == "__main__":
    PROGRAM = str(pathlib.Path(sys.argv.pop(1)).resolve())
    unittest.main(verbosity=2)
