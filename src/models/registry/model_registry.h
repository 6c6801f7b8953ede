// Which model types there are, and the models that checkpoints describe.
#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "models/model_definition.h"

namespace lorax {

// Reads config.json and, if there, generation_config.json of a checkpoint directory; or, given a
// file, that config.json alone. Throws Error; an unknown model_type is one that lists the known.
std::unique_ptr<ModelDefinition> read_model_definition(const std::filesystem::path& path);

// A released shape by name ("gemma2-2b"). Throws Error that lists the known ones.
std::unique_ptr<ModelDefinition> preset_model_definition(std::string_view name);

}  // namespace lorax
