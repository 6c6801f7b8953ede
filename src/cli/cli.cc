#include "cli/cli.h"

#include <fmt/format.h>

#include <exception>
#include <new>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "cli/commands.h"
#include "cli/version.h"

namespace lorax {
namespace {

int report(std::string_view message) {
  fmt::print(stderr, "lorax: {}\n", message);
  return 1;
}

}  // namespace

int run_command_line(int argc, char** argv, const char* commit) {
  CLI::App app(
      "Runs Gemma 2 with LoRA adapters on CPUs and NVIDIA GPUs, exact to Hugging Face and PEFT.",
      "lorax");
  app.set_version_flag("--version", [commit] { return cli::describe_version(commit); });
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  cli::add_serve_command(app);
  cli::add_generate_command(app);
  cli::add_logits_command(app);
  cli::add_tokenize_command(app);
  cli::add_info_command(app);
  cli::add_verify_adapter_command(app);
  cli::add_bench_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    return report(fmt::format("{}; see lorax --help", error.what()));
  } catch (const std::bad_alloc&) {
    return report("out of memory; use a smaller model, batch or context");
  } catch (const std::exception& error) {
    return report(error.what());
  }
  return 0;
}

}  // namespace lorax
