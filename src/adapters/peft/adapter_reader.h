// From an adapter's directory to an Adapter.
#pragma once

#include <filesystem>

#include "adapters/peft/adapter.h"
#include "adapters/peft/adapter_files.h"
#include "adapters/peft/base_model.h"

namespace lorax {

// Reads the LoRA adapter (adapter_config.json), Medusa heads (config.json with medusa_num_heads) or
// both that the directory holds (adapter_files.h says in which files). Every key and tensor must be
// understood and fit the base. Takes memory for each tensor once. Throws Error, of
// one line that names the file, key or tensor and says what to do; also if the directory changes
// while it is read, or one of its files lies out of bounds. Thread-safe.
Adapter read_adapter(const std::filesystem::path& directory, const BaseModel& base,
                     const FileBounds& bounds = {});

// The same from files that are already open.
Adapter read_adapter_files(const AdapterFiles& files, const BaseModel& base);

}  // namespace lorax
