#include "server/api/foreign_fields.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <map>
#include <ranges>

#include <fmt/format.h>
#include <boost/json/parse.hpp>

#include "server/api/api_error.h"

namespace lorax {
namespace {

namespace json = boost::json;

// A field, and the values beside those of asks_for_nothing() that ask for nothing, as a JSON list.
struct KnownField {
  std::string_view name;
  std::string_view nothing = "[]";
};

// Of a label, which changes no answer: any value is taken, and reported.
constexpr std::string_view kLabel = "label";
// Of what only shapes something that is not asked for, such as a tool call: any value.
constexpr std::string_view kAny = "any";

// OpenAI's completions and chat completions.
constexpr KnownField kOpenAi[] = {
    {"messages"},
    {"prompt"},
    {"model"},
    {"audio"},
    {"best_of", "[1]"},
    {"echo", "[false]"},
    {"frequency_penalty", "[0]"},
    {"function_call", R"(["none", "auto"])"},
    {"functions"},
    {"logit_bias"},
    {"logprobs", "[false]"},
    {"max_completion_tokens"},
    {"max_tokens"},
    {"metadata", kLabel},
    {"modalities", R"([["text"]])"},
    {"moderation"},
    {"n", "[1]"},
    {"parallel_tool_calls", kAny},
    {"prediction"},
    {"presence_penalty", "[0]"},
    {"prompt_cache_key", kLabel},
    {"prompt_cache_retention", kLabel},
    {"reasoning_effort", R"(["none"])"},
    {"response_format", R"([{"type": "text"}])"},
    {"safety_identifier", kLabel},
    {"seed"},
    {"service_tier", R"(["auto", "default"])"},
    {"stop"},
    {"store", "[false]"},
    {"stream", "[false]"},
    {"stream_options"},
    {"suffix"},
    {"temperature"},
    {"tool_choice", R"(["none", "auto"])"},
    {"tools"},
    {"top_logprobs", "[0]"},
    {"top_p", "[1]"},
    {"user", kLabel},
    {"verbosity", R"(["medium"])"},
    {"web_search_options"},
};

// LoRAX's and TGI's.
constexpr KnownField kLorax[] = {
    {"inputs"},
    {"parameters"},
    {"adapter_id", R"(["__base_model__"])"},
    {"adapter_source"},
    {"api_token"},
    {"merged_adapters"},
    {"apply_chat_template", "[false]"},
    {"decoder_input_details", "[false]"},
    {"details", "[false]"},
    {"do_sample", "[false]"},
    {"grammar"},
    {"guideline"},
    {"ignore_eos_token", "[false]"},
    {"max_new_tokens"},
    {"repetition_penalty", "[1]"},
    {"return_full_text", "[false]"},
    {"return_k_alternatives", "[0]"},
    {"schema"},
    {"tool_prompt"},
    {"top_k", "[0, -1]"},
    {"top_n_tokens", "[0]"},
    {"truncate"},
    {"typical_p", "[1]"},
    {"watermark", "[false]"},
};

// vLLM's.
constexpr KnownField kVllm[] = {
    {"add_generation_prompt", "[true]"},
    {"add_special_tokens", "[false]"},
    {"allowed_token_ids"},
    {"bad_words"},
    {"chat_template"},
    {"chat_template_kwargs"},
    {"continue_final_message", "[false]"},
    {"detokenize", "[true]"},
    {"documents"},
    {"early_stopping", "[false]"},
    {"ec_transfer_params"},
    {"enable_response_messages", "[false]"},
    {"guided_backend"},
    {"guided_choice"},
    {"guided_decoding"},
    {"guided_decoding_backend"},
    {"guided_grammar"},
    {"guided_json"},
    {"guided_json_object", "[false]"},
    {"guided_regex"},
    {"guided_whitespace_pattern"},
    {"ignore_eos", "[false]"},
    {"include_reasoning", kAny},
    {"include_stop_str_in_output", "[false]"},
    {"kv_transfer_params"},
    {"length_penalty", "[1]"},
    {"logits_processors"},
    {"logprob_token_ids"},
    {"lora_int_id"},
    {"lora_name"},
    {"lora_request"},
    {"media_io_kwargs"},
    {"min_p", "[0]"},
    {"min_tokens", "[0]"},
    {"mm_processor_kwargs"},
    {"multi_modal_data"},
    {"priority", "[0]"},
    {"prompt_adapter_request"},
    {"prompt_embeds"},
    {"prompt_logprobs"},
    {"prompt_token_ids"},
    {"repetition_detection"},
    {"request_id", kLabel},
    {"return_prompt_text", "[false]"},
    {"return_token_ids", "[false]"},
    {"return_tokens_as_token_ids", "[false]"},
    {"session_id", kLabel},
    {"skip_special_tokens", "[true]"},
    {"spaces_between_special_tokens", kAny},
    {"stop_token_ids"},
    {"structural_tag"},
    {"structured_outputs"},
    {"thinking_token_budget"},
    {"truncate_prompt_tokens"},
    {"truncation_side", R"(["left"])"},
    {"use_beam_search", "[false]"},
    {"vllm_xargs"},
    {"watermarking", "[false]"},
};

// SGLang's.
constexpr KnownField kSglang[] = {
    {"audio_data"},
    {"bootstrap_host"},
    {"bootstrap_port"},
    {"bootstrap_room"},
    {"custom_labels", kLabel},
    {"custom_logit_processor"},
    {"custom_params"},
    {"data_parallel_rank"},
    {"disagg_prefill_dp_rank"},
    {"ebnf"},
    {"extra_key"},
    {"image_data"},
    {"images_config"},
    {"input_embeds"},
    {"input_ids"},
    {"json_schema"},
    {"logprob_start_len", "[-1]"},
    {"lora_path"},
    {"max_dynamic_patch"},
    {"min_dynamic_patch"},
    {"min_new_tokens", "[0]"},
    {"ngram_corpus_id"},
    {"no_stop_trim", "[false]"},
    {"regex"},
    {"return_cached_tokens_details", "[false]"},
    {"return_hidden_states", "[false]"},
    {"return_logprob", "[false]"},
    {"return_routed_experts", "[false]"},
    {"return_text_in_logprobs", kAny},
    {"rid", kLabel},
    {"routed_dp_rank"},
    {"routed_experts_start_len", "[0]"},
    {"sampling_params"},
    {"separate_reasoning", kAny},
    {"session_params"},
    {"stop_regex"},
    {"stream_reasoning", kAny},
    {"text"},
    {"token_ids_logprob"},
    {"top_logprobs_num", "[0]"},
    {"use_audio_in_video", "[false]"},
    {"video_data"},
};

// llama.cpp's server's.
constexpr KnownField kLlamaCpp[] = {
    {"adaptive_decay", kAny},
    {"adaptive_target", "[-1]"},
    {"backend_sampling", kAny},
    {"cache_prompt", kAny},
    {"chat_format"},
    {"dry_allowed_length", kAny},
    {"dry_base", kAny},
    {"dry_multiplier", "[0]"},
    {"dry_penalty_last_n", kAny},
    {"dry_sequence_breakers", kAny},
    {"dynatemp_exponent", kAny},
    {"dynatemp_range", "[0]"},
    {"grammar_lazy", "[false]"},
    {"grammar_triggers"},
    {"id_slot", "[-1]"},
    {"input_extra"},
    {"input_prefix"},
    {"input_suffix"},
    {"lora"},
    {"min_keep", "[0]"},
    {"mirostat", "[0]"},
    {"mirostat_eta", kAny},
    {"mirostat_tau", kAny},
    {"n_cache_reuse", kAny},
    {"n_discard", "[0]"},
    {"n_indent", "[0]"},
    {"n_keep", "[0]"},
    {"n_predict", "[-1]"},
    {"n_probs", "[0]"},
    {"parse_tool_calls", kAny},
    {"penalize_nl", "[false]"},
    {"penalty_prompt"},
    {"post_sampling_probs", "[false]"},
    {"preserved_tokens"},
    {"reasoning_budget", "[-1, 0]"},
    {"reasoning_format", R"(["none", "auto"])"},
    {"repeat_last_n", "[0, -1, 64]"},
    {"repeat_penalty", "[1]"},
    {"response_fields"},
    {"return_progress", "[false]"},
    {"return_tokens", "[false]"},
    {"samplers"},
    {"slot_id", "[-1]"},
    {"speculative.n_max", kAny},
    {"speculative.n_min", kAny},
    {"speculative.p_min", kAny},
    {"sse_ping_interval", kLabel},
    {"system_prompt"},
    {"t_max_predict_ms", "[0]"},
    {"t_max_prompt_ms", "[0]"},
    {"tfs_z", "[1]"},
    {"thinking_forced_open", "[false]"},
    {"timings_per_token", "[false]"},
    {"top_n_sigma", "[0, -1]"},
    {"typ_p", "[1]"},
    {"xtc_probability", "[0]"},
    {"xtc_threshold", kAny},
};

// Of the generation of Transformers, which clients of all of these pass on.
constexpr KnownField kTransformers[] = {
    {"bad_words_ids"},
    {"diversity_penalty", "[0]"},
    {"encoder_repetition_penalty", "[1]"},
    {"epsilon_cutoff", "[0]"},
    {"eta_cutoff", "[0]"},
    {"force_words_ids"},
    {"max_length"},
    {"max_time"},
    {"min_length", "[0]"},
    {"no_repeat_ngram_size", "[0]"},
    {"num_beam_groups", "[1]"},
    {"num_beams", "[1]"},
    {"num_return_sequences", "[1]"},
    {"penalty_alpha", "[0]"},
    {"stop_sequences"},
    {"stop_strings"},
    {"top_a", "[0]"},
};

// Of messages, beside "role" and "content". The chat template may know them: see chat_request.cc.
constexpr KnownField kMessage[] = {
    {"annotations", kAny},
    {"audio"},
    {"documents"},
    {"function_call"},
    {"images"},
    {"name", kLabel},
    {"prefix", "[false]"},
    {"reasoning", kLabel},
    {"reasoning_content", kLabel},
    {"refusal"},
    {"task"},
    {"thinking", kLabel},
    {"tool_call_id", kLabel},
    {"tool_calls"},
    {"tools"},
    {"videos"},
    {"weight", kLabel},
};

constexpr KnownField kStreamOptions[] = {
    {"continuous_usage_stats", "[false]"},
    {"include_obfuscation", "[false]"},
};

using Known = std::map<std::string_view, std::string_view>;

const Known& known_at(FieldPlace place) {
  static const Known request = [] {
    Known known;
    const auto add = [&](const auto& fields) {
      for (const KnownField& field : fields) known.emplace(field.name, field.nothing);
    };
    add(kOpenAi), add(kLorax), add(kVllm), add(kSglang), add(kLlamaCpp), add(kTransformers);
    return known;
  }();
  const auto map_of = [](const auto& fields) {
    Known known;
    for (const KnownField& field : fields) known.emplace(field.name, field.nothing);
    return known;
  };
  static const Known message = map_of(kMessage);
  static const Known stream_options = map_of(kStreamOptions);
  switch (place) {
    case FieldPlace::kRequest:
      return request;
    case FieldPlace::kMessage:
      return message;
    default:
      return stream_options;
  }
}

// Numbers by their value; fields of objects that are null count as missing.
bool is_same(const json::value& value, const json::value& known) {
  if (value.is_number() && known.is_number()) {
    return value.to_number<double>() == known.to_number<double>();
  }
  if (!value.is_object()) return value == known;
  json::object given = value.get_object();
  for (auto field = given.begin(); field != given.end();) {
    field = field->value().is_null() ? given.erase(field) : std::next(field);
  }
  return json::value(given) == known;
}

bool is_listed(std::string_view list, const json::value& value) {
  return std::ranges::any_of(json::parse(list).as_array(),
                             [&](const json::value& known) { return is_same(value, known); });
}

// Names of one thing in several APIs.
constexpr std::string_view kSynonyms[][2] = {
    {"max_tokens", "max_new_tokens"},
    {"max_completion_tokens", "max_new_tokens"},
    {"n_predict", "max_new_tokens"},
    {"max_new_tokens", "max_tokens"},
    {"n_predict", "max_tokens"},
    {"truncate", "truncate_prompt_tokens"},
    {"truncate_prompt_tokens", "truncate"},
    {"ignore_eos", "ignore_eos_token"},
    {"repeat_penalty", "repetition_penalty"},
    {"typ_p", "typical_p"},
    {"min_new_tokens", "min_tokens"},
    {"n_probs", "top_logprobs"},
    {"top_n_tokens", "return_k_alternatives"},
    {"top_logprobs", "return_k_alternatives"},
    {"return_k_alternatives", "top_logprobs"},
    {"prompt_logprobs", "decoder_input_details"},
    {"decoder_input_details", "prompt_logprobs"},
    {"return_full_text", "echo"},
    {"echo", "return_full_text"},
    {"num_return_sequences", "n"},
    {"stop_sequences", "stop"},
    {"stop_strings", "stop"},
    {"model", "adapter_id"},
    {"lora_request", "adapter_id"},
    {"lora_path", "adapter_id"},
    {"lora_name", "adapter_id"},
    {"lora", "adapter_id"},
    {"prompt", "inputs"},
    {"inputs", "prompt"},
};

std::string advice(std::string_view name, const std::function<bool(std::string_view)>& is_read) {
  for (const auto& [foreign, own] : kSynonyms) {
    if (foreign == name && is_read(own)) return fmt::format("use `{}`", own);
  }
  return "leave it out";
}

}  // namespace

bool asks_for_nothing(const json::value& value) {
  if (value.is_null()) return true;
  if (value.is_string()) return value.get_string().empty();
  if (value.is_array()) return value.get_array().empty();
  if (!value.is_object()) return false;
  return std::ranges::all_of(value.get_object(),
                             [](const auto& field) { return field.value().is_null(); });
}

bool asks_for_something(FieldPlace place, std::string_view name, const json::value& value) {
  const Known& known = known_at(place);
  const auto field = known.find(name);
  if (field == known.end() || asks_for_nothing(value)) return false;
  if (field->second == kLabel || field->second == kAny) return false;
  return !is_listed(field->second, value);
}

bool is_known_default(FieldPlace place, std::string_view name, const json::value& value) {
  const Known& known = known_at(place);
  const auto field = known.find(name);
  if (field == known.end()) return false;
  return field->second != kLabel || asks_for_nothing(value);
}

void take_unread(const json::object& object, FieldPlace place, std::string_view prefix,
                 const std::function<bool(std::string_view)>& is_read, IgnoredFields& ignored,
                 const std::function<std::string(std::string_view)>& hint) {
  for (const auto& [key, value] : object) {
    const std::string_view name = key;
    if (is_read(name)) continue;
    const std::string path = std::string(prefix) + std::string(name);
    if (asks_for_something(place, name, value)) {
      std::string what = hint ? hint(name) : "";
      if (what.empty()) what = advice(name, is_read);
      refuse(path,
             fmt::format("`{}` is not supported here, so it is refused rather than ignored; {}",
                         path, what));
    }
    if (!is_known_default(place, name, value)) ignored.push_back(path);
  }
}

std::string ignored_header(const IgnoredFields& ignored) {
  constexpr size_t kMostBytes = 1024;
  std::string header;
  for (const std::string& path : ignored) {
    if (header.size() + path.size() > kMostBytes)
      return header + (header.empty() ? "..." : ", ...");
    if (!header.empty()) header += ", ";
    for (const char c : path) {
      const bool is_plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                            std::string_view("_-.[]").find(c) != std::string_view::npos;
      header += is_plain ? c : '?';
    }
  }
  return header;
}

}  // namespace lorax
