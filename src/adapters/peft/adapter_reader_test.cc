#include "adapters/peft/adapter_reader.h"

#include <cmath>
#include <limits>
#include <thread>

#include "adapters/peft/testing/test_adapter.h"

namespace lorax {
namespace {

constexpr const char* kQ0 = "model.layers.0.self_attn.q_proj";
constexpr const char* kQ1 = "model.layers.1.self_attn.q_proj";
constexpr const char* kPlain = R"("r": 2, "lora_alpha": 8, "target_modules": ["q_proj"])";
const std::string kPrefix = "base_model.model.";

class AdapterReader : public TestWithAdapter {
 protected:
  Tensors q_tensors(int64_t rank) const {
    Tensors tensors;
    add_lora(tensors, kQ0, rank);
    add_lora(tensors, kQ1, rank, 1.0f);
    return tensors;
  }
  Tensors embedding_tensors() const {
    Tensors tensors;
    const std::string name = kPrefix + "model.embed_tokens.lora_embedding_";
    tensors[name + "A"] = numbers({2, FakeModel::kVocab});
    tensors[name + "B"] = numbers({FakeModel::kHidden, 2});
    return tensors;
  }
  // Instead of adapter_model.safetensors two shards with an index.
  void write_shards(const Tensors& a, const Tensors& b) const {
    std::filesystem::remove(directory_ / "adapter_model.safetensors");
    write_tensors("a.safetensors", a);
    write_tensors("b.safetensors", b);
    std::map<std::string, std::string> places;
    for (const auto& [name, tensor] : a) places[name] = "a.safetensors";
    for (const auto& [name, tensor] : b) places[name] = "b.safetensors";
    places.begin()->second = "a.safetensors";
    std::string map;
    for (const auto& [name, file] : places) {
      map += fmt::format("{}\"{}\": \"{}\"", map.empty() ? "" : ", ", name, file);
    }
    write_text("adapter_model.safetensors.index.json",
               fmt::format("{{\"weight_map\": {{{}}}}}", map));
  }
};

TEST_F(AdapterReader, ReadsValuesRankAndScale) {
  write_adapter(kPlain, q_tensors(2));
  const Adapter adapter = read();
  EXPECT_EQ(adapter.kind, AdapterKind::kLora);
  ASSERT_EQ(adapter.lora.size(), 2u);
  const LoraWeights& weights = adapter.lora.at(model_.index(kQ1));
  EXPECT_EQ(weights.rank, 2);
  EXPECT_EQ(weights.scale, 4.0f);
  EXPECT_EQ(weights.a.shape, (std::vector<int64_t>{2, 8}));
  EXPECT_EQ(weights.a.floats(), numbers({2, 8}, 1.0f).floats());
  EXPECT_EQ(weights.b.floats(), numbers({12, 2}, -1.0f).floats());
  EXPECT_FALSE(weights.bias || weights.magnitude);
  EXPECT_EQ(adapter.bytes(), 2u * (16 + 24) * 4);
  EXPECT_EQ(adapter.ranks(), std::set<int64_t>{2});
  EXPECT_TRUE(adapter.warnings.empty());
  const std::string text = describe(adapter, model_.modules());
  EXPECT_NE(text.find("modules 2: 2 x q_proj"), std::string::npos) << text;
}

constexpr const char* kTokens =
    R"("r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [9, 4, 19])";
const std::string kDelta = ".token_adapter.trainable_tokens_delta";

TEST_F(AdapterReader, RowsOfTokensInTheOrderOfTheirIdsAndForTheTiedHead) {
  Tensors tensors = q_tensors(2);
  tensors[kPrefix + "model.embed_tokens" + kDelta] = numbers({3, FakeModel::kHidden});
  write_adapter(kTokens, tensors);
  const Adapter adapter = read();
  ASSERT_EQ(adapter.tokens.size(), 2u);
  for (const char* name : {"model.embed_tokens", "lm_head"}) {
    const TokenWeights& own = adapter.tokens.at(model_.index(name));
    EXPECT_EQ(own.ids, (std::vector<int32_t>{4, 9, 19}));
    const std::vector<float> rows = own.rows.floats();
    EXPECT_EQ(rows[0], 8.0f / 16.0f);  // the second row of the file
    EXPECT_EQ(rows[8], 0.0f);          // the first
    EXPECT_EQ(rows[16], 0.0f);         // the third: 16 values later
  }
  EXPECT_EQ(adapter.bytes(), 2u * (16 + 24) * 4 + 3 * 8 * 4);  // not of the vocabulary; once
  EXPECT_NE(describe(adapter, model_.modules()).find("tokens 3 of lm_head"), std::string::npos);
  model_ = FakeModel(/*tied=*/false);
  EXPECT_EQ(read().tokens.size(), 1u);
}

TEST_F(AdapterReader, TokensThatPeftOrThisProgramCannotUse) {
  const auto keys = [](const char* targets, const char* tokens, const char* more = "") {
    return fmt::format(R"("r": 2, "target_modules": {}, "trainable_token_indices": {}{})", targets,
                       tokens, more);
  };
  Tensors tensors = q_tensors(2);
  const auto expect = [&](const std::string& config, const char* text) {
    write_adapter(config, tensors);
    expect_error(error(), directory_.string(), text);
  };
  expect(keys(R"(["q_proj"])", "[20]"), "token 20 is trained and the base model has 20 rows");
  expect(keys(R"(["q_proj"])", "[3, 3]"), "token 3 is trained twice");
  expect(keys(R"(["q_proj"])", R"({"o_proj": [3]})"), "only those of the embedding and the head");
  expect(keys(R"(["q_proj"])", R"({"nothing": [3]})"), "which the base model does not have");
  expect(keys(R"(["q_proj"])", R"({"embed_tokens": [3], "lm_head": [4]})",
              R"(, "ensure_weight_tying": true)"),
         "PEFT cannot load it either");
  tensors[kPrefix + "model.embed_tokens.weight"] = constant({20, 8}, 1.0f);
  expect(keys(R"(["q_proj"])", "[3]", R"(, "modules_to_save": ["embed_tokens"])"),
         "both modules_to_save and trainable_token_indices");
  tensors = embedding_tensors();
  expect(keys(R"(["embed_tokens"])", "[3]"), "both target_modules and trainable_token_indices");
}

TEST_F(AdapterReader, AdaptersOfTokensAlone) {
  Tensors tensors;
  tensors[kPrefix + "model.embed_tokens.trainable_tokens_delta"] = numbers({1, 8});
  tensors[kPrefix + "lm_head.trainable_tokens_delta"] = numbers({1, 8});
  write_tensors("adapter_model.safetensors", tensors);
  write_text("adapter_config.json",
             R"({"peft_type": "TRAINABLE_TOKENS", "target_modules": "model.embed_tokens",
                 "token_indices": [7], "init_weights": true})");
  const Adapter adapter = read();
  EXPECT_EQ(adapter.kind, AdapterKind::kTrainableTokens);
  EXPECT_TRUE(adapter.lora.empty());
  EXPECT_EQ(adapter.tokens.size(), 2u);
  tensors[kPrefix + "lm_head.trainable_tokens_delta"] = numbers({1, 8}, 1.0f);
  write_tensors("adapter_model.safetensors", tensors);
  expect_error(error(), directory_.string(), "differ from those of model.embed_tokens");
}

TEST_F(AdapterReader, AVocabularyThatGrewIsSaidToHaveGrown) {
  Tensors tensors = q_tensors(2);
  tensors[kPrefix + "lm_head.weight"] = numbers({FakeModel::kVocab + 1, FakeModel::kHidden});
  write_adapter(kPlain, tensors);
  expect_error(error(), directory_.string(), "has 21 rows and the base model's vocabulary 20");
  write_adapter(std::string(kPlain) + R"(, "modules_to_save": ["lm_head"])", tensors);
  expect_error(error(), directory_.string(), "the adapter's vocabulary grew");
}

TEST_F(AdapterReader, AnALoraOfWhatPeftCannotLoad) {
  write_adapter(R"("r": 2, "target_modules": ["embed_tokens"], "alora_invocation_tokens": [3])",
                embedding_tensors());
  expect_error(error(), directory_.string(), "alora_invocation_tokens is set");
}

TEST_F(AdapterReader, KeepsTheTypeOfTheFile) {
  for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    Tensors tensors = q_tensors(2);
    for (auto& [name, tensor] : tensors) tensor = as(dtype, tensor);
    write_adapter(kPlain, tensors);
    const Adapter adapter = read();
    const HostTensor& a = adapter.lora.at(model_.index(kQ0)).a;
    EXPECT_EQ(a.dtype, dtype);
    EXPECT_EQ(a.floats(), numbers({2, 8}).floats());
  }
}

TEST_F(AdapterReader, RanksAndAlphasByPattern) {
  Tensors tensors;
  add_lora(tensors, kQ0, 2);
  add_lora(tensors, kQ1, 4);
  write_adapter(
      std::string(kPlain) +
          R"(, "rank_pattern": {"layers.1.*q_proj": 4}, "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 3}, "use_rslora": true)",
      tensors);
  const Adapter adapter = read();
  EXPECT_FLOAT_EQ(adapter.lora.at(model_.index(kQ0)).scale, 3.0f / std::sqrt(2.0f));
  EXPECT_EQ(adapter.lora.at(model_.index(kQ1)).rank, 4);
  EXPECT_FLOAT_EQ(adapter.lora.at(model_.index(kQ1)).scale, 4.0f);
}

TEST_F(AdapterReader, MagnitudesUnderBothNames) {
  Tensors tensors = q_tensors(2);
  tensors[kPrefix + kQ0 + ".lora_magnitude_vector"] = constant({12}, 2.0f);
  tensors[kPrefix + kQ1 + ".lora_magnitude_vector.weight"] = constant({12}, 3.0f);
  write_adapter(std::string(kPlain) + R"(, "use_dora": true)", tensors);
  const Adapter adapter = read();
  EXPECT_EQ(adapter.lora.at(model_.index(kQ0)).magnitude.floats()[11], 2.0f);
  EXPECT_EQ(adapter.lora.at(model_.index(kQ1)).magnitude.floats()[11], 3.0f);
  write_adapter(kPlain, tensors);
  expect_error(error(), directory_.string(),
               "lora_magnitude_vector (and 1 more) belongs to nothing");
}

TEST_F(AdapterReader, BiasOfB) {
  Tensors tensors = q_tensors(2);
  for (const char* name : {kQ0, kQ1}) {
    tensors[kPrefix + name + ".lora_B.bias"] = constant({12}, 0.25f);
  }
  write_adapter(std::string(kPlain) + R"(, "lora_bias": true, "bias": "lora_only")", tensors);
  EXPECT_EQ(read().lora.at(model_.index(kQ0)).bias.floats(), std::vector<float>(12, 0.25f));
}

TEST_F(AdapterReader, CopyOfTheBaseThatIsEqualIsDropped) {
  Tensors tensors = embedding_tensors();
  tensors[kPrefix + "model.embed_tokens.base_layer.weight"] = constant({20, 8}, 0.5f);
  write_adapter(R"("r": 2, "target_modules": ["embed_tokens"])", tensors);
  const Adapter adapter = read();
  EXPECT_TRUE(adapter.replaced.empty());
  EXPECT_EQ(adapter.lora.at(0).a.shape, (std::vector<int64_t>{2, 20}));
  EXPECT_EQ(adapter.lora.at(0).b.shape, (std::vector<int64_t>{8, 2}));
}

TEST_F(AdapterReader, CopyThatDiffersReplacesAlsoATiedHead) {
  Tensors tensors = embedding_tensors();
  tensors[kPrefix + "model.embed_tokens.base_layer.weight"] = constant({20, 8}, 0.75f);
  write_adapter(R"("r": 2, "target_modules": ["embed_tokens"])", tensors);
  const Adapter tied = read();
  ASSERT_EQ(tied.replaced.size(), 2u);
  EXPECT_EQ(tied.replaced.at(0).data, tied.replaced.at(model_.index("lm_head")).data);
  EXPECT_EQ(tied.bytes(), (20u * 8 + 2 * 20 + 2 * 8) * 4);  // the shared one counts once
  EXPECT_EQ(tied.warnings.size(), 1u);
  const FakeModel untied(false);
  const Adapter alone = read_adapter(directory_, untied.base());
  ASSERT_EQ(alone.replaced.size(), 1u);
  EXPECT_TRUE(alone.replaced.contains(0));
  EXPECT_EQ(alone.digest, tied.digest);
}

// PEFT copies both into one weight, the head's last.
TEST_F(AdapterReader, OfTwoCopiesOfATiedWeightTheHeadsCounts) {
  Tensors tensors = q_tensors(2);
  tensors[kPrefix + "model.embed_tokens.weight"] = constant({20, 8}, 0.75f);
  tensors[kPrefix + "lm_head.weight"] = constant({20, 8}, 0.25f);
  write_adapter(kPlain, tensors);
  const Adapter adapter = read();
  ASSERT_EQ(adapter.replaced.size(), 2u);
  for (const auto& [module, weight] : adapter.replaced) EXPECT_EQ(weight.floats()[0], 0.25f);
  tensors[kPrefix + "lm_head.weight"] = constant({20, 8}, FakeModel::kWeight);
  write_adapter(kPlain, tensors);
  EXPECT_TRUE(read().replaced.empty());
}

TEST_F(AdapterReader, SavedModulesAndTheBasesCopyBesideThem) {
  Tensors tensors = q_tensors(2);
  const std::string embedding = kPrefix + "model.embed_tokens.";
  tensors[embedding + "weight"] = numbers({20, 8});
  tensors[embedding + "modules_to_save.weight"] = numbers({20, 8});
  tensors[embedding + "original_module.weight"] = constant({20, 8}, FakeModel::kWeight);
  const std::string config = std::string(kPlain) + R"(, "modules_to_save": ["embed_tokens"])";
  write_adapter(config, tensors);
  const Adapter plain = read();
  ASSERT_EQ(plain.replaced.size(), 1u);
  EXPECT_EQ(plain.replaced.at(0).floats(), numbers({20, 8}).floats());
  // The base's own weight, which the head still uses.
  tensors[embedding + "original_module.weight"] = constant({20, 8}, 0.75f);
  write_adapter(config, tensors);
  const Adapter changed = read();
  ASSERT_EQ(changed.replaced.size(), 2u);
  EXPECT_EQ(changed.replaced.at(0).floats(), numbers({20, 8}).floats());
  EXPECT_EQ(changed.replaced.at(model_.index("lm_head")).floats()[0], 0.75f);
}

TEST_F(AdapterReader, TiedSavedModules) {
  Tensors tensors = q_tensors(2);
  tensors[kPrefix + "model.embed_tokens.weight"] = numbers({20, 8});
  const std::string tie = R"(, "ensure_weight_tying": true)";
  for (const char* names :
       {R"(["embed_tokens"])", R"(["lm_head"])", R"(["lm_head", "embed_tokens"])"}) {
    write_adapter(fmt::format("{}{}, \"modules_to_save\": {}", kPlain, tie, names), tensors);
    const Adapter adapter = read();
    ASSERT_EQ(adapter.replaced.size(), 2u) << names;
    EXPECT_EQ(adapter.replaced.at(0).data, adapter.replaced.at(model_.index("lm_head")).data);
  }
  // Of an untied base the key means nothing.
  write_adapter(std::string(kPlain) + tie + R"(, "modules_to_save": ["embed_tokens"])", tensors);
  const FakeModel untied(false);
  EXPECT_EQ(read_adapter(directory_, untied.base()).replaced.size(), 1u);
}

TEST_F(AdapterReader, TiedLora) {
  for (const char* targets :
       {R"(["embed_tokens"])", R"(["lm_head"])", R"(".*embed_tokens|lm_head")"}) {
    write_adapter(
        fmt::format(R"("r": 2, "ensure_weight_tying": true, "target_modules": {})", targets),
        embedding_tensors());
    const Adapter adapter = read();
    ASSERT_EQ(adapter.lora.size(), 2u) << targets;
    const LoraWeights& head = adapter.lora.at(model_.index("lm_head"));
    EXPECT_EQ(head.a.shape, (std::vector<int64_t>{2, 8}));
    EXPECT_EQ(head.b.shape, (std::vector<int64_t>{20, 2}));
    EXPECT_EQ(head.b.floats()[3], adapter.lora.at(0).a.floats()[21]);  // [1, 1]
  }
}

TEST_F(AdapterReader, TyingOfAnAdapterWithoutEmbeddingMeansNothing) {
  write_adapter(std::string(kPlain) + R"(, "ensure_weight_tying": true)", q_tensors(2));
  EXPECT_EQ(read().lora.size(), 2u);
  EXPECT_TRUE(read().replaced.empty());
}

TEST_F(AdapterReader, KeysToIgnore) {
  write_adapter(std::string(kPlain) + R"(, "from_the_future": {"x": NaN})", q_tensors(2));
  expect_error(error(), directory_.string(), "--ignore-adapter-config-key from_the_future");
  BaseModel base = model_.base();
  const std::vector<std::string> ignored = {"from_the_future"};
  base.ignored_config_keys = ignored;
  const Adapter adapter = read_adapter(directory_, base);
  ASSERT_EQ(adapter.warnings.size(), 1u);
  EXPECT_NE(adapter.warnings[0].find("from_the_future"), std::string::npos);
}

TEST_F(AdapterReader, ModulesToSave) {
  Tensors tensors = q_tensors(2);
  tensors[kPrefix + "lm_head.weight"] = numbers({20, 8});
  tensors[kPrefix + "model.norm.weight"] = numbers({8});
  write_adapter(std::string(kPlain) + R"(, "modules_to_save": ["lm_head", "model.norm"])", tensors);
  const Adapter adapter = read();
  ASSERT_EQ(adapter.replaced.size(), 2u);  // a tied embedding stays as it is
  EXPECT_EQ(adapter.replaced.at(model_.index("model.norm")).floats(), numbers({8}).floats());
}

TEST_F(AdapterReader, TensorsThatDoNotFit) {
  Tensors tensors = q_tensors(2);
  tensors.erase(kPrefix + kQ1 + ".lora_B.weight");
  write_adapter(kPlain, tensors);
  expect_error(error(), directory_.string(),
               "model.layers.1.self_attn.q_proj.lora_B.weight is missing; LoRA of rank 2 on "
               "model.layers.1.self_attn.q_proj needs it, of shape [12, 2]");
  tensors = q_tensors(3);
  write_adapter(kPlain, tensors);
  expect_error(error(), directory_.string(), "has shape [3, 8]; LoRA of rank 2");
  tensors = q_tensors(2);
  add_lora(tensors, "model.layers.1.self_attn.k_proj", 2);
  write_adapter(kPlain, tensors);
  expect_error(error(), directory_.string(),
               "k_proj.lora_A.weight (and 1 more) belongs to nothing");
  tensors = q_tensors(2);
  tensors[kPrefix + kQ0 + ".lora_C.weight"] = numbers({2, 2});
  write_adapter(kPlain, tensors);
  expect_error(error(), directory_.string(), "q_proj.lora_C.weight belongs to nothing");
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -INFINITY}) {
    tensors = q_tensors(2);
    std::vector<float> values(24, 1.0f);
    values[23] = bad;
    tensors[kPrefix + kQ1 + ".lora_B.weight"] = HostTensor::from_floats(values, {12, 2});
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (auto& [name, tensor] : tensors) tensor = as(dtype, tensor);
      write_adapter(kPlain, tensors);
      expect_error(error(), directory_.string(), "q_proj.lora_B.weight holds a NaN or an infinity");
    }
  }
}

TEST_F(AdapterReader, MedusaBothVersionsAndCombined) {
  const auto heads = [](bool outputs) {
    Tensors tensors;
    for (const char* head : {"0", "1"}) {
      tensors[std::string(head) + ".0.linear.weight"] = numbers({8, 8});
      tensors[std::string(head) + ".0.linear.bias"] = numbers({8});
      if (outputs) tensors[std::string(head) + ".1.weight"] = numbers({20, 8});
    }
    return tensors;
  };
  write_text("config.json", R"({"medusa_num_heads": 2, "medusa_num_layers": 1, "version": 2.0})");
  write_tensors("medusa_lm_head.safetensors", heads(false));
  const Adapter two = read();
  EXPECT_EQ(two.kind, AdapterKind::kMedusa);
  EXPECT_EQ(two.medusa->version, 2);
  EXPECT_FALSE(two.medusa->heads.at(1).output);
  write_tensors("medusa_lm_head.safetensors", heads(true));
  const Adapter one = read();
  EXPECT_EQ(one.medusa->version, 1);
  EXPECT_EQ(one.medusa->heads.at(1).output.floats(), numbers({20, 8}).floats());
  EXPECT_NE(one.digest, two.digest);
  write_adapter(kPlain, q_tensors(2));
  const Adapter both = read();  // of two files
  EXPECT_EQ(both.kind, AdapterKind::kMedusaLora);
  EXPECT_EQ(both.medusa->heads.size(), 2u);
  EXPECT_EQ(both.lora.size(), 2u);
  write_text("config.json", R"({"medusa_num_heads": 3})");
  expect_error(error(), directory_.string(), "tensor 2.0.linear.weight is missing");
  write_text("config.json", R"({"medusa_num_heads": 2, "hidden_size": 9})");
  expect_error(error(), directory_.string(), "hidden_size is 9; it must be 8");
  write_text("config.json", R"({"medusa_num_heads": 0})");
  expect_error(error(), directory_.string(), "medusa_num_heads is 0");
}

TEST_F(AdapterReader, DigestIsOfContent) {
  write_adapter(kPlain, q_tensors(2));
  const std::string whole = read().digest;
  EXPECT_EQ(whole.size(), 64u);
  Tensors first, second;
  for (const auto& [name, tensor] : q_tensors(2)) (first.empty() ? first : second)[name] = tensor;
  write_shards(first, second);
  EXPECT_EQ(read().digest, whole);  // whatever the files are
  Tensors other = q_tensors(2);
  other[kPrefix + kQ0 + ".lora_A.weight"] = numbers({2, 8}, 0.5f);
  write_adapter(kPlain, other);
  EXPECT_NE(read().digest, whole);
  write_adapter(R"("r": 2, "lora_alpha": 9, "target_modules": ["q_proj"])", q_tensors(2));
  EXPECT_NE(read().digest, whole);
}

TEST_F(AdapterReader, SameNameInTwoFiles) {
  const Tensors tensors = q_tensors(2);
  write_adapter(kPlain, tensors);
  write_shards(tensors, tensors);
  expect_error(error(), directory_.string(), "is in both a.safetensors and b.safetensors");
}

// PEFT opens none of these.
TEST_F(AdapterReader, ForeignFilesAreNoneOfItsBusiness) {
  write_adapter(kPlain, q_tensors(2));
  const std::string digest = read().digest;
  write_tensors("value_head.safetensors", {{"v_head.summary.weight", numbers({1, 8})}});
  write_tensors("model.safetensors", q_tensors(4));
  write_text("broken.safetensors", "nothing");
  write_text("adapter_model.bin", "pickle");
  write_text("optimizer.pt", "pickle");
  write_text("config.json", "{\"model_type\": ");
  write_text("adapter_model.safetensors.index.json", "not looked at");
  std::filesystem::create_symlink("nowhere", directory_ / "dangling.safetensors");
  EXPECT_EQ(read().digest, digest);
}

TEST_F(AdapterReader, ShardsByTheirIndex) {
  Tensors first, second;
  for (const auto& [name, tensor] : q_tensors(2)) (first.empty() ? first : second)[name] = tensor;
  write_adapter(kPlain, q_tensors(2));
  write_shards(first, second);
  EXPECT_EQ(read().lora.size(), 2u);
  std::filesystem::remove(directory_ / "b.safetensors");
  expect_error(error(), directory_.string(), "has no b.safetensors, which adapter_model.safetens");
  write_text("adapter_model.safetensors.index.json",
             R"({"weight_map": {"a": "../a.safetensors"}})");
  expect_error(error(), directory_.string(), "is not the name of a file beside the index");
  std::filesystem::remove(directory_ / "adapter_model.safetensors.index.json");
  expect_error(error(), directory_.string(),
               "has no adapter_model.safetensors; if a.safetensors holds its weights, rename it");
}

TEST_F(AdapterReader, DirectoriesThatAreNoAdapters) {
  expect_error(error(), directory_.string(), "is no adapter");
  write_text("config.json", R"({"model_type": "gemma2"})");
  expect_error(error(), directory_.string(), "is no adapter");
  write_text("adapter_config.json", fmt::format("{{\"peft_type\": \"LORA\", {}}}", kPlain));
  expect_error(error(), directory_.string(), "its weights are missing");
  write_text("adapter_model.bin", "pickle");
  expect_error(error(), directory_.string(), "adapter_model.bin, a pickle, which could run code");
  expect_error(error_of([&] { read_adapter(directory_ / "no", model_.base()); }),
               (directory_ / "no").string(), "no such directory");
  write_tensors("adapter_model.safetensors", q_tensors(2));
  for (const char* text : {"", "[1]", "{", "{\"peft_type\": \"LORA\", \"r\": 0}"}) {
    write_text("adapter_config.json", text);
    EXPECT_NE(error(), "no error") << text;
  }
}

// Each of an adapter's files, by a link to where it lay before.
TEST_F(AdapterReader, FilesOutOfBoundsAreNotRead) {
  write_adapter(kPlain, q_tensors(2));
  const std::filesystem::path outside = directory_ / "outside";
  const std::filesystem::path inside = std::filesystem::canonical(directory_) / "inside";
  std::filesystem::create_directories(outside);
  std::filesystem::create_directories(inside);
  const FileBounds bounds({inside}, "--adapter-dir");
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
      std::filesystem::copy_file(directory_ / file, inside / file,
                                 std::filesystem::copy_options::overwrite_existing);
    }
    EXPECT_EQ(error_of([&] { read_adapter(inside, model_.base(), bounds); }), "no error");
    std::filesystem::rename(inside / name, outside / name);
    std::filesystem::create_symlink("../outside/" + std::string(name), inside / name);
    expect_error(error_of([&] { read_adapter(inside, model_.base(), bounds); }), inside.string(),
                 "lies outside");
    EXPECT_EQ(error_of([&] { read_adapter(inside, model_.base()); }), "no error");
    std::filesystem::remove(inside / name);
  }
}

TEST_F(AdapterReader, WarnsOfAnotherBase) {
  write_adapter(std::string(kPlain) + R"(, "base_model_name_or_path": "google/gemma-2-2b")",
                q_tensors(2));
  ASSERT_EQ(read().warnings.size(), 1u);
  EXPECT_NE(read().warnings[0].find("google/gemma-2-2b"), std::string::npos);
}

TEST_F(AdapterReader, ChangesWhileReadingAreSeen) {
  write_adapter(kPlain, q_tensors(2));
  const auto changed = [&](auto change) {
    const DirectorySnapshot snapshot(directory_);
    change();
    return error_of([&] { snapshot.check_unchanged(); });
  };
  EXPECT_EQ(changed([] {}), "no error");
  expect_error(changed([&] { write_tensors("adapter_model.safetensors", q_tensors(2)); }),
               directory_.string(), "adapter_model.safetensors changed");
  EXPECT_EQ(changed([&] { write_tensors("new.safetensors", q_tensors(2)); }), "no error");
  EXPECT_EQ(changed([&] { write_text("optimizer.pt", ""); }), "no error");
  expect_error(changed([&] { write_tensors("medusa_lm_head.safetensors", q_tensors(2)); }),
               directory_.string(), "files were added");
  expect_error(changed([&] { std::filesystem::remove(directory_ / "adapter_config.json"); }),
               directory_.string(), "adapter_config.json changed");
}

// Something happens in the midst of a read: when the copy of the base's weight is looked at.
class InterruptedModel final : public BaseWeights {
 public:
  explicit InterruptedModel(const FakeModel& model, std::function<void()> event)
      : model_(model), event_(std::move(event)) {}
  bool equals(size_t module, const HostTensor& weight) const override {
    event_();
    return model_.equals(module, weight);
  }
  std::optional<size_t> tied_to(size_t module) const override { return model_.tied_to(module); }

 private:
  const FakeModel& model_;
  const std::function<void()> event_;
};

TEST_F(AdapterReader, AChangeWhileItReadsSpoilsWhatWasRead) {
  Tensors tensors = embedding_tensors();
  tensors[kPrefix + "model.embed_tokens.base_layer.weight"] = constant({20, 8}, 0.5f);
  write_adapter(R"("r": 2, "target_modules": ["embed_tokens"])", tensors);
  int looks = 0;
  const auto read_while = [&](std::function<void()> event) {
    const InterruptedModel weights(model_, [&] {
      ++looks;
      event();
    });
    const BaseModel base = {model_.modules(), &weights, ""};
    return error_of([&] { read_adapter(directory_, base); });
  };
  EXPECT_EQ(read_while([] {}), "no error");
  expect_error(read_while([&] { write_tensors("adapter_model.safetensors", tensors); }),
               directory_.string(), "adapter_model.safetensors changed");
  EXPECT_EQ(looks, 2);
}

// A writer replaces values in place, again and again: no reader may see two versions at once.
TEST_F(AdapterReader, NeverMixesVersions) {
  const auto tensors = [&](float value) {
    Tensors all = q_tensors(2);
    for (auto& [name, tensor] : all) tensor = constant(tensor.shape, value);
    return all;
  };
  write_adapter(kPlain, tensors(0.0f));
  std::jthread writer([&](const std::stop_token& stop) {
    for (int i = 1; !stop.stop_requested(); ++i) {
      write_tensors("adapter_model.safetensors", tensors(static_cast<float>(i)));
      std::this_thread::sleep_for(std::chrono::milliseconds(i % 50));
    }
  });
  int whole = 0;
  for (int i = 0; i < 100; ++i) {
    try {
      const Adapter adapter = read();
      const float value = adapter.lora.begin()->second.a.floats()[0];
      for (const auto& [index, weights] : adapter.lora) {
        for (float v : weights.a.floats()) ASSERT_EQ(v, value);
        for (float v : weights.b.floats()) ASSERT_EQ(v, value);
      }
      ++whole;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(whole, 0);
}

}  // namespace
}  // namespace lorax
