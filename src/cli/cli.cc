#include "cli/cli.h"

#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "base/nearest_word.h"
#include "base/out_of_memory.h"
#include "base/standard_files.h"
#include "cli/commands.h"
#include "cli/version.h"

namespace lorax {
namespace {

int report(std::string_view message) {
  print_error("lorax: ");
  print_error(message);
  print_error("\n");
  return 1;
}

std::string last_words(const std::exception_ptr& error) {
  return is_out_of_memory(error) ? describe_out_of_memory(error) : message_of(error);
}

// What comes before the command's name in `arguments` are flags of lorax itself.
std::vector<std::string>::iterator find_command(std::vector<std::string>& arguments) {
  return std::ranges::find_if(arguments, [](const std::string& word) { return word[0] != '-'; });
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

std::vector<std::string> flag_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// The first argument that the command, or lorax itself, does not know; its value comes after it.
std::string unknown_argument(const CLI::App& command, const std::string& name,
                             const std::vector<std::string>& unknown) {
  const auto flag = std::ranges::find_if(
      unknown, [](const std::string& word) { return word.size() > 1 && word[0] == '-'; });
  if (flag == unknown.end()) {
    return fmt::format("{}: unexpected argument \"{}\"; see {} --help", name, unknown.front(),
                       name);
  }
  const std::string given = flag->substr(0, flag->find('='));
  const std::vector<std::string> names = flag_names(command);
  return fmt::format("{}: unknown flag {}{}; see {} --help", name, given,
                     did_you_mean(given, names), name);
}

// A flag that is not known comes before one that is missing: it may be that one, mistyped.
std::string describe(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<CLI::App*> parsed = app.get_subcommands();
  const bool is_command = !parsed.empty() && app.remaining().empty();
  const CLI::App& command = is_command ? *parsed.front() : app;
  const std::string name = is_command ? "lorax " + command.get_name() : "lorax";
  const std::vector<std::string> unknown = command.remaining();
  if (!unknown.empty()) return unknown_argument(command, name, unknown);
  return fmt::format("{}: {}; see {} --help", name, error.what(), name);
}

// "lorax help COMMAND" is "lorax COMMAND --help", and lorax alone is "lorax --help".
void translate_help(std::vector<std::string>& arguments) {
  if (arguments.empty()) arguments = {"--help"};
  if (arguments.front() != "help") return;
  arguments.erase(arguments.begin());
  arguments.resize(std::min<size_t>(arguments.size(), 1));
  arguments.push_back("--help");
}

int parse_and_run(CLI::App& app, std::vector<std::string> arguments) {
  translate_help(arguments);
  const auto command = find_command(arguments);
  const std::vector<std::string> names = command_names(app);
  if (command != arguments.end() && std::ranges::find(names, *command) == names.end()) {
    return report(fmt::format("unknown command \"{}\"{}; see lorax --help", *command,
                              did_you_mean(*command, names)));
  }
  std::ranges::reverse(arguments);  // as CLI11 wants them
  try {
    app.parse(std::move(arguments));
  } catch (const CLI::Success& help_or_version) {
    return app.exit(help_or_version);
  } catch (const CLI::ParseError& error) {
    return report(describe(app, error));
  } catch (const cli::Exit& exit) {
    return exit.status;
  } catch (...) {
    return report(last_words(std::current_exception()));
  }
  return 0;
}

int build_and_run(int argc, char** argv, const char* commit) {
  CLI::App app(
      "Runs Gemma 2 with LoRA adapters on CPUs and NVIDIA GPUs, exact to Hugging Face and PEFT.",
      "lorax");
  app.set_version_flag("--version", [commit] { return cli::describe_version(commit); });
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  app.footer("lorax help COMMAND, or lorax COMMAND --help, lists a command's flags.");
  cli::add_serve_command(app);
  cli::add_generate_command(app);
  cli::add_logits_command(app);
  cli::add_tokenize_command(app);
  cli::add_info_command(app);
  cli::add_verify_adapter_command(app);
  cli::add_bench_command(app);
  return parse_and_run(app, {argv + 1, argv + std::max(argc, 1)});
}

}  // namespace

int run_command_line(int argc, char** argv, const char* commit) {
  open_standard_files();
  try {
    return build_and_run(argc, argv, commit);
  } catch (...) {
    return report(last_words(std::current_exception()));
  }
}

}  // namespace lorax
