// Flags of LoRAX's launcher that have no counterpart here, taken so that its start scripts work.
#pragma once

#include <string>
#include <vector>

#include <CLI/App.hpp>

namespace lorax::cli {

// Adds them, hidden from the help text. One that is given lands in `without_effect` if it changes
// nothing here: because it steers schedules and processes that are LoRAX's own, or because its
// value asks for what is so anyway (--num-shard 1). Any other value is an Error that says what to
// do.
void add_launcher_flags(CLI::App& command, std::vector<std::string>& without_effect);

}  // namespace lorax::cli
