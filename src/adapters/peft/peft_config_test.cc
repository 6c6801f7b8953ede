#include "adapters/peft/peft_config.h"

#include <boost/json/value.hpp>

#include "adapters/peft/peft_targets.h"
#include "adapters/peft/testing/fake_model.h"
#include "formats/json_file.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

// Single quotes for double ones, and peft_type.
PeftConfig parse(std::string keys) {
  std::ranges::replace(keys, '\'', '"');
  const boost::json::value value =
      parse_json(fmt::format("{{\"peft_type\": \"LORA\", {}}}", keys), "test");
  return parse_peft_config(value.get_object(), "test");
}

std::string error(const std::string& keys) {
  return error_of([&] { parse(keys); });
}

PeftTargets resolve(const std::string& keys) {
  static const FakeModel model;
  return resolve_peft_targets(parse(keys), model.modules(), "test");
}

// "q_proj k_proj": the targeted modules of layer 1 and outside of layers, by their last part.
std::string targets(const std::string& keys) {
  static const FakeModel model;
  std::string names;
  for (const TargetedModule& target : resolve(keys).lora) {
    const std::string& name = model.modules()[target.module].name;
    if (name.find(".0.") != std::string::npos) continue;
    if (!names.empty()) names += ' ';
    names += name.substr(name.rfind('.') + 1);
  }
  return names;
}

TEST(PeftConfig, WhatPeftSaves) {
  const PeftConfig config = parse(R"(
    'alora_invocation_tokens': null, 'alpha_pattern': {}, 'arrow_config': null,
    'auto_mapping': {'base_model_class': 'Gemma2ForCausalLM'}, 'base_model_name_or_path': 'base',
    'bias': 'none', 'corda_config': null, 'ensure_weight_tying': false, 'eva_config': null,
    'exclude_modules': null, 'fan_in_fan_out': false, 'inference_mode': true,
    'init_lora_weights': true, 'kasa_config': null, 'layer_replication': null,
    'layers_pattern': null, 'layers_to_transform': null, 'loftq_config': {}, 'lora_alpha': 32,
    'lora_bias': false, 'lora_dropout': 0.05, 'lora_ga_config': null, 'megatron_config': null,
    'megatron_core': 'megatron.core', 'modules_to_save': null, 'monteclora_config': null,
    'peft_version': '0.21.2', 'qalora_group_size': 16, 'r': 16, 'rank_pattern': {},
    'revision': null, 'target_modules': ['v_proj', 'q_proj'], 'target_parameters': null,
    'task_type': 'CAUSAL_LM', 'trainable_token_indices': null, 'use_bdlora': null,
    'use_dora': false, 'use_qalora': false, 'use_rslora': true, 'velora_config': null)");
  EXPECT_EQ(config.r, 16);
  EXPECT_EQ(config.lora_alpha, 32.0);
  EXPECT_TRUE(config.use_rslora);
  EXPECT_EQ(config.target_modules.names, (std::vector<std::string>{"v_proj", "q_proj"}));
  EXPECT_EQ(config.base_model_name_or_path, "base");
  EXPECT_TRUE(config.warnings.empty());
}

TEST(PeftConfig, KeysWithEffectThatAreNotImplemented) {
  for (const char* keys :
       {"'layer_replication': [[0, 1]]", "'target_parameters': ['x']", "'use_qalora': true",
        "'use_bdlora': {'nblocks': 2}", "'arrow_config': {'top_k': 1}", "'kasa_config': {'k': 1}",
        "'next_years_feature': 0", "'monteclora_config': {'num_samples': 8}"}) {
    const std::string key = std::string(keys).substr(1, std::string(keys).find('\'', 1) - 1);
    expect_error(error(keys), "test: " + key, "does not implement");
  }
  EXPECT_EQ(error("'megatron_config': {'a': 1}, 'velora_config': {'num_groups': 2}, "
                  "'lora_dropout': 0.1, 'ensure_weight_tying': true"),
            "no error");
  EXPECT_EQ(error("'merge_weights': false, 'enable_lora': null, 'new': [], 'newer': ''"),
            "no error");
}

TEST(PeftConfig, TrainableTokens) {
  EXPECT_EQ(parse("'trainable_token_indices': [3, 1]").trainable_tokens,
            (decltype(PeftConfig::trainable_tokens){{"embed_tokens", {3, 1}}}));
  EXPECT_EQ(parse("'trainable_token_indices': {'lm_head': [2], 'e': [5]}").trainable_tokens,
            (decltype(PeftConfig::trainable_tokens){{"lm_head", {2}}, {"e", {5}}}));
  for (const char* value : {"[]", "[-1]", "[1.5]", "3", "'all'", "{'a': []}", "{'': [1]}"}) {
    expect_error(error(fmt::format("'trainable_token_indices': {}", value)),
                 "test: trainable_token_indices is", "it must be");
  }
}

TEST(PeftConfig, Invocations) {
  EXPECT_EQ(parse("'alora_invocation_tokens': [3, 1]").alora_invocation,
            (std::vector<int32_t>{3, 1}));
  EXPECT_TRUE(parse("'alora_invocation_tokens': []").alora_invocation.empty());
  expect_error(error("'alora_invocation_tokens': [-1]"), "test: alora_invocation_tokens is",
               "must be a list of token ids");
  for (const char* other :
       {"'use_dora': true", "'modules_to_save': ['lm_head']", "'trainable_token_indices': [1]"}) {
    expect_error(error(fmt::format("'alora_invocation_tokens': [1], {}", other)),
                 "test: alora_invocation_tokens", "cannot be combined with");
  }
}

TEST(PeftConfig, ValuesThatAreNone) {
  for (const char* keys : {"'r': 0",
                           "'r': 513",
                           "'r': 8.5",
                           "'r': '8'",
                           "'r': true",
                           "'lora_alpha': '1'",
                           "'use_dora': 1",
                           "'bias': 'some'",
                           "'target_modules': 3",
                           "'target_modules': [1]",
                           "'exclude_modules': {}",
                           "'rank_pattern': {'q': 0}",
                           "'rank_pattern': ['q']",
                           "'rank_pattern': {'q': 1.5}",
                           "'alpha_pattern': {'q': null}",
                           "'layers_to_transform': 'all'",
                           "'layers_to_transform': [-1]",
                           "'modules_to_save': 'lm_head'",
                           "'modules_to_save': ['']",
                           "'task_type': 'SEQ_CLS'",
                           "'use_dora': true, 'lora_bias': true",
                           "'layers_pattern': 'layers'",
                           "'target_modules': 'a', 'layers_to_transform': [1]",
                           "'target_modules': 'all-linear', 'layers_to_transform': 1"}) {
    const std::string message = error(keys);
    EXPECT_TRUE(message.starts_with("test: ")) << keys << ": " << message;
  }
  expect_error(error_of([] {
                 parse_peft_config(parse_json(R"({"peft_type": "IA3"})", "test").get_object(),
                                   "test");
               }),
               "test: peft_type is \"IA3\"", "LORA");
}

TEST(PeftConfig, InitialisationsThatChangeTheBase) {
  for (const char* name :
       {"pissa", "pissa_niter_16", "olora", "corda", "lora_ga", "loftq", "new"}) {
    expect_error(error(fmt::format("'init_lora_weights': '{}'", name)), "test: init_lora_weights",
                 name);
  }
  for (const char* value : {"true", "false", "'gaussian'", "'eva'", "'orthogonal'", "'mica'"}) {
    EXPECT_EQ(error(fmt::format("'init_lora_weights': {}", value)), "no error");
  }
}

TEST(PeftTargets, NamesAndExpressions) {
  EXPECT_EQ(targets("'target_modules': ['q_proj', 'mlp.up_proj']"), "q_proj up_proj");
  EXPECT_EQ(targets("'target_modules': ['proj', 'o_proj']"), "o_proj");  // endings begin at a dot
  EXPECT_EQ(targets("'target_modules': 'all-linear'"),
            "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj");
  EXPECT_EQ(targets("'target_modules': '.*[kv]_proj|lm_head'"), "k_proj v_proj lm_head");
  EXPECT_EQ(targets("'target_modules': ['embed_tokens', 'lm_head']"), "embed_tokens lm_head");
  EXPECT_EQ(targets("'target_modules': null"), "q_proj v_proj");
  EXPECT_EQ(
      targets("'target_modules': 'all-linear', 'exclude_modules': ['self_attn.q_proj', 'v_proj']"),
      "k_proj o_proj gate_proj up_proj down_proj");
  EXPECT_EQ(targets("'target_modules': ['q_proj'], 'exclude_modules': '.*\\\\.0\\\\..*'"),
            "q_proj");
  EXPECT_EQ(targets("'target_modules': ['q_proj', 'lm_head'], 'modules_to_save': ['lm_head']"),
            "q_proj");
}

TEST(PeftTargets, Layers) {
  EXPECT_EQ(resolve("'target_modules': ['q_proj'], 'layers_to_transform': 1").lora.size(), 1u);
  EXPECT_EQ(resolve("'target_modules': ['q_proj'], 'layers_to_transform': []").lora.size(), 2u);
  EXPECT_EQ(targets("'target_modules': ['q_proj', 'lm_head'], 'layers_to_transform': [1]"),
            "q_proj lm_head");  // lm_head is a whole name
  EXPECT_EQ(targets("'target_modules': ['q_proj', 'embed_tokens'], 'layers_to_transform': [1]"),
            "q_proj");
  EXPECT_EQ(targets("'target_modules': ['q_proj', 'lm_head'], 'layers_to_transform': [1], "
                    "'layers_pattern': 'h'"),
            "lm_head");
  EXPECT_EQ(targets("'target_modules': ['q_proj'], 'layers_to_transform': [1], 'layers_pattern': "
                    "['h', 'lay.rs']"),
            "q_proj");
}

TEST(PeftTargets, PatternsInTheirOrder) {
  const PeftTargets found = resolve(
      "'target_modules': ['q_proj', 'k_proj'], 'r': 8, 'lora_alpha': 16, 'rank_pattern': "
      "{'^q_proj': 1, 'layers.1.self_attn.(q|k)_proj': 2, 'q_proj': 3, '_proj': 4}, "
      "'alpha_pattern': {'.*': 4}");
  ASSERT_EQ(found.lora.size(), 4u);
  EXPECT_EQ(found.lora[0].rank, 3);  // layer 0 q: a name ends at its pattern and begins at a dot
  EXPECT_EQ(found.lora[1].rank, 8);  // layer 0 k: "_proj" is no whole part
  EXPECT_EQ(found.lora[2].rank, 2);
  EXPECT_EQ(found.lora[3].rank, 2);
  EXPECT_EQ(found.lora[3].scale, 2.0f);
  EXPECT_EQ(found.warnings.size(), 2u);  // of "^q_proj" and "_proj"
}

// Each alternative of a pattern is one: bound to the parts of a name on both sides.
TEST(PeftTargets, AlternativesOfAPattern) {
  const PeftTargets found = resolve(
      "'target_modules': ['q_proj', 'k_proj', 'v_proj'], 'r': 8, "
      "'rank_pattern': {'q_proj|v_proj': 2, 'q|1.self_attn.k_proj|k': 4}, "
      "'alpha_pattern': {'k_proj|nothing': 32, 'q_proj|v_proj|_proj': 2}");
  ASSERT_EQ(found.lora.size(), 6u);
  for (size_t i = 0; i < 6; i += 3) {
    EXPECT_EQ(found.lora[i].rank, 2) << "q_proj of layer " << i / 3;
    EXPECT_EQ(found.lora[i].scale, 1.0f);
    EXPECT_EQ(found.lora[i + 1].rank, i == 0 ? 8 : 4) << "k_proj of layer " << i / 3;
    EXPECT_EQ(found.lora[i + 1].scale, i == 0 ? 4.0f : 8.0f);
    EXPECT_EQ(found.lora[i + 2].rank, 2) << "v_proj of layer " << i / 3;
    EXPECT_EQ(found.lora[i + 2].scale, 1.0f);
  }
  EXPECT_EQ(found.warnings.size(), 0u);
}

TEST(PeftTargets, SavedModules) {
  EXPECT_EQ(resolve("'modules_to_save': ['norm']").saved.size(), 5u);  // PEFT asks for no dot
  EXPECT_EQ(resolve("'modules_to_save': ['model.norm']").saved.size(), 1u);
  EXPECT_EQ(resolve("'modules_to_save': ['mlp']").saved.size(), 6u);
  expect_error(error_of([] { resolve("'modules_to_save': ['_proj']"); }),
               "test: ", "taken in by both target_modules and modules_to_save");
}

TEST(PeftTargets, SelectionsThatCannotBe) {
  const auto refused = [](const std::string& keys) { return error_of([&] { resolve(keys); }); };
  expect_error(refused("'target_modules': ['nothing']"), "test: ", "no module of the base model");
  expect_error(refused("'target_modules': ['norm']"), "test: ", "selects model.norm");
  expect_error(refused("'target_modules': ['mlp']"), "test: ", "selects model.layers.0.mlp");
  expect_error(refused("'target_modules': ['embed_tokens'], 'lora_bias': true"),
               "test: ", "embeddings cannot have one");
  expect_error(refused("'target_modules': '(['"), "test: target_modules: the pattern", "set");
  expect_error(refused("'rank_pattern': {'(a': 1}"), "test: rank_pattern: the pattern", "");
  expect_error(refused("'target_modules': '([a-z._0-9]|[a-z._0-9]+)+[!?]'"), "test: target_modules",
               "simpler");
  expect_error(refused("'lora_alpha': 1e300"), "test: ", "too large");
}

}  // namespace
}  // namespace lorax
