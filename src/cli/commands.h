// The commands. Each adds its flags to the application; its body runs when it was chosen.
#pragma once

#include <CLI/App.hpp>

namespace lorax::cli {

// Thrown by a command that has said itself why it ends.
struct Exit {
  int status = 1;
};

void add_serve_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_logits_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);
void add_info_command(CLI::App& app);
void add_verify_adapter_command(CLI::App& app);
void add_bench_command(CLI::App& app);

}  // namespace lorax::cli
