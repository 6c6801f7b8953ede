"""`lorax serve` as users of its Python clients see it: clients_test.py path/to/lorax [names]

Needs lorax-client and openai (tools/setup_e2e). The expected texts are Hugging Face's, as shipped
with the model.
"""

import asyncio
import json
import pathlib
import re
import sys
import unittest

import lorax
import lorax.errors
import openai

from live_server import LiveServer, ROOT, TINY

LORAX = ROOT / "build/release/lorax"
ADAPTERS = ("pirate", "caps", "modern", "verse-numbers")
PROMPT = "In the beginning God created"


def expected(folder):
    """(prompt, text, tokens) of each shipped case that ends by its number of tokens."""
    cases = json.loads((folder / "expected.json").read_text())
    for case in cases["prompts"]:
        if len(case["generated_ids"]) == cases["max_new_tokens"]:
            yield case["prompt"], case["text"], cases["max_new_tokens"]


class ClientsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = LiveServer(LORAX, "--adapter-dir", TINY / "adapters", "--dtype", "float32",
                                "--allow-runtime-adapters")
        cls.addClassCleanup(cls.server.__exit__)
        cls.lorax = lorax.Client(cls.server.url, timeout=120)
        cls.openai = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)

    def chat(self, model="", **parameters):
        return self.openai.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Continue: Blessed are the meek:"}],
            temperature=0, **{"max_completion_tokens": 12, **parameters})


class LoraxClientTest(ClientsTest):
    def test_texts_of_the_base_and_of_every_adapter(self):
        for adapter in (None, *ADAPTERS):
            folder = TINY / "adapters" / adapter if adapter else TINY
            count = 0
            for prompt, text, tokens in expected(folder):
                answer = self.lorax.generate(prompt, adapter_id=adapter, max_new_tokens=tokens)
                self.assertEqual(answer.generated_text, text, (adapter, prompt))
                self.assertEqual(answer.details.finish_reason.value, "length")
                self.assertEqual(answer.details.generated_tokens, tokens)
                self.assertIsNone(answer.details.seed)
                count += 1
            self.assertGreater(count, 0, adapter)

    def test_stream_adds_up(self):
        for adapter in (None, "pirate"):
            answer = self.lorax.generate(PROMPT, adapter_id=adapter, max_new_tokens=24)
            events = list(self.lorax.generate_stream(PROMPT, adapter_id=adapter,
                                                     max_new_tokens=24))
            text = "".join(event.token.text for event in events if not event.token.special)
            self.assertEqual(text, answer.generated_text)
            self.assertEqual(events[-1].generated_text, answer.generated_text)
            self.assertEqual(events[-1].details.generated_tokens, 24)
            self.assertEqual([event.token.id for event in events],
                             [token.id for token in answer.details.tokens])
            self.assertTrue(all(event.generated_text is None for event in events[:-1]))

    def test_async(self):
        async def run():
            client = lorax.AsyncClient(self.server.url, timeout=120)
            whole = await asyncio.gather(*(
                client.generate(PROMPT, adapter_id=adapter, max_new_tokens=16)
                for adapter in ADAPTERS))
            streamed = []
            async for event in client.generate_stream(PROMPT, adapter_id="pirate",
                                                      max_new_tokens=16):
                streamed.append(event.token.text)
            return whole, "".join(streamed)

        whole, streamed = asyncio.run(run())
        alone = [self.lorax.generate(PROMPT, adapter_id=adapter, max_new_tokens=16).generated_text
                 for adapter in ADAPTERS]
        self.assertEqual([answer.generated_text for answer in whole], alone)
        self.assertGreater(len(set(alone)), 2)
        self.assertEqual(streamed, alone[0])

    def test_merged_adapters(self):
        def generate(weights, **parameters):
            merged = lorax.MergedAdapters(ids=["pirate", "pirate"], weights=weights, density=0.0,
                                          **parameters)
            return self.lorax.generate(PROMPT, merged_adapters=merged,
                                       max_new_tokens=16).generated_text

        pirate = self.lorax.generate(PROMPT, adapter_id="pirate", max_new_tokens=16).generated_text
        base = self.lorax.generate(PROMPT, max_new_tokens=16).generated_text
        self.assertEqual(generate([0.0, 0.0]), base)
        self.assertEqual(generate([1.0, 0.0], merge_strategy="linear"), pirate)

    def test_details(self):
        answer = self.lorax.generate(PROMPT, max_new_tokens=4, decoder_input_details=True,
                                     return_k_alternatives=3)
        details = answer.details
        self.assertEqual(details.prompt_tokens, len(details.prefill))
        self.assertIsNone(details.prefill[0].logprob)
        self.assertTrue(all(token.logprob < 0 for token in details.prefill[1:]))
        for token in details.tokens:
            self.assertEqual(len(token.alternative_tokens), 3)
            self.assertEqual(token.alternative_tokens[0].id, token.id)  # greedy
            self.assertAlmostEqual(token.alternative_tokens[0].logprob, token.logprob, 5)

    def test_sampling_and_seeds(self):
        def sample(seed=None):
            return self.lorax.generate(PROMPT, do_sample=True, temperature=1.5, max_new_tokens=16,
                                       seed=seed)

        self.assertEqual(sample(7).generated_text, sample(7).generated_text)
        first = sample()
        again = sample(first.details.seed)
        self.assertEqual(first.generated_text, again.generated_text)
        best = self.lorax.generate(PROMPT, do_sample=True, temperature=1.5, max_new_tokens=8,
                                   best_of=2)
        self.assertEqual(len(best.details.best_of_sequences), 1)

    def test_stop_strings(self):
        answer = self.lorax.generate(PROMPT, max_new_tokens=50, stop_sequences=["earth,"])
        self.assertTrue(answer.generated_text.endswith("earth,"))
        self.assertEqual(answer.details.finish_reason.value, "stop_sequence")
        events = list(self.lorax.generate_stream(PROMPT, max_new_tokens=50,
                                                 stop_sequences=["earth,"]))
        self.assertEqual(events[-1].generated_text, answer.generated_text)

    def test_errors(self):
        cases = [
            (lorax.errors.GenerationError, "does not exist", {"adapter_id": "nobody"}),
            (lorax.errors.ValidationError, "absolute path", {"adapter_id": "/etc"}),
            (lorax.errors.ValidationError, "not supported",
             {"adapter_id": "pirate", "adapter_source": "hub"}),
            (lorax.errors.ValidationError, "must be <=", {"max_new_tokens": 1 << 30}),
            (lorax.errors.ValidationError, "stop sequences", {"stop_sequences": list("abcdef")}),
        ]
        for kind, part, parameters in cases:
            with self.assertRaisesRegex(kind, part):
                self.lorax.generate(PROMPT, **parameters)
            with self.assertRaisesRegex(kind, part):
                list(self.lorax.generate_stream(PROMPT, **parameters))
        with self.assertRaisesRegex(lorax.errors.ValidationError, "not supported"):
            self.lorax.generate(PROMPT, response_format={"type": "json_object",
                                                         "schema": {"type": "object"}})


class OpenAiClientTest(ClientsTest):
    def test_completions(self):
        prompt, text, tokens = next(expected(TINY / "adapters/pirate"))
        answer = self.openai.completions.create(model="pirate", prompt=prompt, max_tokens=tokens,
                                                temperature=0)
        self.assertEqual(answer.choices[0].text, text)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.model, "pirate")
        self.assertEqual(answer.usage.completion_tokens, tokens)
        self.assertEqual(answer.usage.total_tokens, tokens + answer.usage.prompt_tokens)
        self.assertTrue(answer.id.startswith("cmpl-"))

    def test_prompts_of_every_form(self):
        ids = json.loads((TINY / "expected.json").read_text())["prompts"][0]["input_ids"]
        texts = []
        for prompt in (PROMPT, [PROMPT], ids, [ids, ids]):
            answer = self.openai.completions.create(model="", prompt=prompt, max_tokens=8,
                                                    temperature=0)
            self.assertEqual(len(answer.choices), 2 if prompt == [ids, ids] else 1)
            texts += [choice.text for choice in answer.choices]
        self.assertEqual(len(set(texts)), 1, texts)

    def test_completion_stream(self):
        whole = self.openai.completions.create(model="caps", prompt=PROMPT, max_tokens=16,
                                               temperature=0)
        chunks = list(self.openai.completions.create(
            model="caps", prompt=PROMPT, max_tokens=16, temperature=0, stream=True,
            stream_options={"include_usage": True}))
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks[:-1]),
                         whole.choices[0].text)
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, 16)

    def test_echo_and_logprobs(self):
        answer = self.openai.completions.create(model="", prompt=PROMPT, max_tokens=4,
                                                temperature=0, echo=True, logprobs=2)
        choice = answer.choices[0]
        self.assertTrue(choice.text.startswith(PROMPT))
        count = answer.usage.total_tokens
        logprobs = choice.logprobs
        self.assertEqual([len(logprobs.tokens), len(logprobs.token_logprobs),
                          len(logprobs.top_logprobs), len(logprobs.text_offset)], [count] * 4)
        self.assertIsNone(logprobs.token_logprobs[0])
        self.assertEqual(max(logprobs.top_logprobs[-1].values()), logprobs.token_logprobs[-1])
        scored = self.openai.completions.create(model="", prompt=PROMPT, max_tokens=0, echo=True,
                                                logprobs=0)
        self.assertEqual(scored.choices[0].logprobs.token_logprobs,
                         logprobs.token_logprobs[:-4])

    def test_chat(self):
        for model in ("", "pirate"):
            answer = self.chat(model)
            self.assertEqual(answer.object, "chat.completion")
            self.assertEqual(answer.choices[0].message.role, "assistant")
            self.assertTrue(answer.choices[0].message.content)
            chunks = list(self.chat(model, stream=True))
            self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            self.assertEqual(text, answer.choices[0].message.content)
            self.assertEqual(chunks[-1].choices[0].finish_reason, answer.choices[0].finish_reason)
        self.assertNotEqual(self.chat("").choices[0].message.content,
                            self.chat("pirate").choices[0].message.content)

    def test_chat_takes_systems_and_parts(self):
        answer = self.openai.chat.completions.create(model="", max_tokens=4, messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Speak."}])
        self.assertEqual(answer.usage.completion_tokens, 4)

    def test_chat_logprobs_and_choices(self):
        answer = self.chat(n=2, logprobs=True, top_logprobs=2, stop="\n")
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        for choice in answer.choices:
            for token in choice.logprobs.content:
                self.assertEqual(len(token.top_logprobs), 2)
                self.assertEqual(token.top_logprobs[0].token, token.token)
        sampled = self.openai.completions.create(model="", prompt=PROMPT, max_tokens=16, n=4,
                                                 temperature=1.5, seed=3)
        self.assertGreater(len({choice.text for choice in sampled.choices}), 1)
        again = self.openai.completions.create(model="", prompt=PROMPT, max_tokens=16, n=4,
                                               temperature=1.5, seed=3)
        self.assertEqual([choice.text for choice in sampled.choices],
                         [choice.text for choice in again.choices])

    def complete(self, prompt=PROMPT, **parameters):
        own = {"max_tokens": 12, "temperature": 0}
        extra = {key: value for key, value in parameters.items() if key not in ("stop", "echo")}
        rest = {key: value for key, value in parameters.items() if key in ("stop", "echo")}
        return self.openai.completions.create(model="", prompt=prompt, extra_body=extra,
                                              **{**own, **rest})

    def test_tokens_that_end_a_text_and_that_may_not(self):
        tokens = self.lorax.generate(PROMPT, max_new_tokens=12).details.tokens
        texts = [token.text for token in tokens]
        stop = next(i for i in range(3, 12) if tokens[i].id not in
                    [token.id for token in tokens[:i]])
        answer = self.complete(stop_token_ids=[tokens[stop].id])
        self.assertEqual(answer.choices[0].text, "".join(texts[:stop]))
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.completion_tokens, stop + 1)
        longer = self.complete(stop_token_ids=[tokens[stop].id], min_tokens=stop + 1)
        self.assertGreater(longer.usage.completion_tokens, stop + 1)
        self.assertTrue(longer.choices[0].text.startswith("".join(texts[:stop])))
        late = self.complete(stop=[texts[0].strip()], min_tokens=4)
        self.assertGreater(late.usage.completion_tokens, 4)
        self.assertEqual(self.complete(stop=[texts[0].strip()]).usage.completion_tokens, 1)

    def test_what_may_be_chosen(self):
        self.assertEqual(self.complete(allowed_token_ids=[268]).choices[0].text, " a" * 12)
        text = self.complete().choices[0].text
        word = text.split()[0]
        without = self.complete(bad_words=[word]).choices[0].text
        self.assertIn(word, text)
        self.assertNotIn(word, without.split())
        with self.assertRaisesRegex(openai.APIStatusError, "no token is left"):
            self.complete(allowed_token_ids=[268], bad_words=["a"])

    # Hugging Face's, in float32: of each token behind bos its own and the two most likely.
    PROMPT_LOGPROBS = [
        (1161, -5.0333, [5, 307], [-0.5982, -1.8279]), (267, -0.9932, [267, 308], [-0.9932, -1.5305]),
        (1844, -3.1218, [1554, 461], [-2.1102, -2.2002]),
        (1273, -0.0021, [1273, 1988], [-0.0021, -6.7934]),
        (407, -5.3104, [277, 387], [-0.0939, -3.2238]), (289, -0.4092, [289, 488], [-0.4092, -3.2022]),
        (584, -0.0238, [584, 852], [-0.0238, -5.347]), (293, -0.0042, [293, 423], [-0.0042, -5.5577])]

    def test_prompt_logprobs(self):
        choice = self.complete(prompt_logprobs=2).choices[0]
        self.assertIsNone(choice.prompt_logprobs[0])
        self.assertEqual(len(choice.prompt_logprobs), 1 + len(self.PROMPT_LOGPROBS))
        for given, (own, logprob, ids, logprobs) in zip(choice.prompt_logprobs[1:],
                                                        self.PROMPT_LOGPROBS):
            self.assertEqual(set(given), {str(id) for id in [own, *ids]})
            self.assertAlmostEqual(given[str(own)]["logprob"], logprob, 3)
            for rank, (id, value) in enumerate(zip(ids, logprobs), 1):
                self.assertAlmostEqual(given[str(id)]["logprob"], value, 3)
                self.assertEqual(given[str(id)]["rank"], rank)
        cut = self.complete(truncate_prompt_tokens=4)
        self.assertEqual(cut.usage.prompt_tokens, 4)

    def test_a_message_that_goes_on(self):
        messages = [{"role": "user", "content": "Recite."},
                    {"role": "assistant", "content": "In the beginning God created "}]
        answer = self.openai.chat.completions.create(
            model="", messages=messages, temperature=0, max_completion_tokens=4,
            extra_body={"continue_final_message": True, "add_generation_prompt": False})
        prompt = ("<bos><start_of_turn>user\nRecite.<end_of_turn>\n<start_of_turn>model\n"
                  "In the beginning God created")
        plain = self.openai.completions.create(model="", prompt=prompt, temperature=0, max_tokens=4)
        self.assertEqual(answer.choices[0].message.content, plain.choices[0].text)
        self.assertEqual(answer.usage.prompt_tokens, plain.usage.prompt_tokens)

    def test_what_is_not_done_is_refused_or_reported(self):
        for field, value in [("grammar", "root ::= x"), ("use_beam_search", True), ("regex", "a"),
                             ("lora_request", {"lora_name": "x"}), ("max_new_tokens", 3)]:
            with self.assertRaisesRegex(openai.BadRequestError, field):
                self.complete(**{field: value})
        answer = self.openai.completions.with_raw_response.create(
            model="", prompt="a", max_tokens=1, extra_body={"best_wishes": 1, "use_beam_search": False})
        self.assertEqual(answer.headers["x-ignored-fields"], "best_wishes")
        self.chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
                  tool_choice="none")

    def test_logit_bias(self):
        answer = self.openai.completions.create(model="", prompt=PROMPT, max_tokens=4,
                                                temperature=0, logit_bias={"268": 100})
        self.assertEqual(answer.choices[0].text, " a a a a")

    def test_stop_is_cut_off(self):
        answer = self.openai.completions.create(model="", prompt=PROMPT, max_tokens=50,
                                                temperature=0, stop=["earth,", "zzz"])
        self.assertTrue(answer.choices[0].text.endswith("the "), answer.choices[0].text)
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_models(self):
        models = {model.id: model for model in self.openai.models.list()}
        self.assertLessEqual(set(ADAPTERS), set(models))
        self.assertEqual(models["pirate"].parent, TINY.name)
        self.assertEqual(models["pirate"].root, "pirate")
        self.assertEqual(self.openai.models.retrieve("pirate").id, "pirate")

    def test_adapters_at_run_time(self):
        status, _, text = self.server.post("/v1/load_lora_adapter",
                                           {"lora_name": "sailor", "lora_path": "pirate"})
        self.assertEqual((status, text),
                         (200, b"Success: LoRA adapter 'sailor' added successfully."))
        self.assertEqual(self.chat("sailor").choices[0].message.content,
                         self.chat("pirate").choices[0].message.content)
        status, _, _ = self.server.post("/v1/unload_lora_adapter", {"lora_name": "sailor"})
        self.assertEqual(status, 200)
        with self.assertRaises(openai.NotFoundError):
            self.chat("sailor")

    def test_async(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none",
                                          max_retries=0) as client:
                return await asyncio.gather(*(
                    client.completions.create(model=model, prompt=PROMPT, max_tokens=8,
                                              temperature=0)
                    for model in ADAPTERS * 4))

        texts = [answer.choices[0].text for answer in asyncio.run(run())]
        self.assertEqual(texts, texts[:len(ADAPTERS)] * 4)
        self.assertGreater(len(set(texts)), 2)

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.chat("gpt-4")
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertEqual(caught.exception.param, "model")
        for part, parameters in [
                ("temperature", {"temperature": -1}), ("must be <=", {"max_tokens": 1 << 30}),
                ("suffix", {"suffix": "x"}), ("token id", {"prompt": [1 << 30]}),
                ("best_of", {"best_of": 2, "stream": True})]:
            with self.assertRaisesRegex(openai.BadRequestError, part):
                self.openai.completions.create(**{"model": "", "prompt": "a", **parameters})
        with self.assertRaisesRegex(openai.BadRequestError, "not supported"):
            self.chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
        with self.assertRaisesRegex(openai.BadRequestError, "image_url"):
            self.openai.chat.completions.create(model="", messages=[{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}]}])


class DocumentTest(ClientsTest):
    def test_curl_lines_name_this_server(self):
        status, headers, page = self.server.get("/docs")
        self.assertEqual(status, 200)
        self.assertIn("text/html", headers["Content-Type"])
        lines = re.findall(r"<pre>curl (?:-N )?([^\s<]+)", page.decode())
        self.assertGreater(len(lines), 15)
        self.assertTrue(all(line.startswith(self.server.url) for line in lines), lines)
        for line in lines:
            path = line.removeprefix(self.server.url)
            self.assertNotEqual(self.server.request("OPTIONS", path)[0], 404, path)

    def test_openapi(self):
        status, _, document = self.server.get("/api-doc/openapi.json")
        self.assertEqual((status, document["openapi"]), (200, "3.1.0"))
        self.assertIn("/metrics", document["paths"])


if __name__ == "__main__":
    if len(sys.argv) > 1 and pathlib.Path(sys.argv[1]).is_file():
        LORAX = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
