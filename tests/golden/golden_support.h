// What the tests against Hugging Face and PEFT share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <boost/json/value.hpp>

#include "engine/load/loaded_adapters.h"
#include "engine/load/loaded_model.h"
#include "formats/safetensors.h"

namespace lorax::golden {

std::vector<int32_t> ids_of(const boost::json::value& list);

// The folders in a folder, by name.
std::vector<std::filesystem::path> folders(const std::filesystem::path& folder);

LoadedModel load(const std::string& device, const std::filesystem::path& path, DType dtype);

// The float32 tensor of that name. Fails the test if there is none.
std::vector<float> reference(const SafetensorsFile& file, const std::string& name);

// Largest absolute difference; NaN if either holds one.
double largest_difference(const std::vector<float>& a, const std::vector<float>& b);

// ||got - want|| / ||want||.
double relative_error(const std::vector<float>& got, const std::vector<float>& want);

struct Request {
  std::vector<int32_t> input_ids;
  std::string adapter;  // id of LoadedAdapters; "" for the base
};

struct Logits {
  std::vector<float> logits;       // [length, V]
  std::vector<float> speculative;  // [length, heads, V]
};

// Of all requests as one packed batch. `adapters` may be null if none names one.
std::vector<Logits> packed_logits(LoadedModel& loaded, const LoadedAdapters* adapters,
                                  const std::vector<Request>& requests);

// What an engine generates for all requests at once: greedy, so many tokens of each. Ids of
// adapters are those of ModelAdapterBackend.
std::vector<std::vector<int32_t>> greedy_ids(LoadedModel& loaded,
                                             const std::vector<Request>& requests,
                                             const std::vector<size_t>& tokens);

}  // namespace lorax::golden
