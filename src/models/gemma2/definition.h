// Gemma 2's entry in the registry.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include <boost/json/object.hpp>

#include "models/model_definition.h"

namespace lorax {

std::unique_ptr<ModelDefinition> read_gemma2_definition(const boost::json::object& config,
                                                        std::string_view origin, ModelInfo info);
std::unique_ptr<ModelDefinition> preset_gemma2_definition(std::string_view name);

}  // namespace lorax
