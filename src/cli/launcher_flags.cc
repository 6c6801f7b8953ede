#include "cli/launcher_flags.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "base/error.h"
#include "cli/options.h"

namespace lorax::cli {
namespace {

constexpr std::array<std::string_view, 24> kWithoutEffect = {"--source",
                                                             "--waiting-served-ratio",
                                                             "--max-waiting-tokens",
                                                             "--eager-prefill",
                                                             "--adapter-cycle-time-s",
                                                             "--memory-wiggle-room",
                                                             "--backend",
                                                             "--compile",
                                                             "--eager",
                                                             "--compile-max-batch-size",
                                                             "--compile-max-rank",
                                                             "--compile-batch-size",
                                                             "--disable-sgmv",
                                                             "--disable-custom-kernels",
                                                             "--trust-remote-code",
                                                             "--speculation-max-batch-size",
                                                             "--shard-uds-path",
                                                             "--master-addr",
                                                             "--master-port",
                                                             "--huggingface-hub-cache",
                                                             "--weights-cache-override",
                                                             "--predibase-api-token",
                                                             "--ngrok-authtoken",
                                                             "--ngrok-edge"};

// Flags that ask for something unless they have one value.
struct Refused {
  std::string_view flag;
  std::string_view harmless;  // empty: none is
  std::string_view advice;
  bool reads_environment;  // where its variable is not likely to be somebody else's
};

constexpr std::array kRefused = {
    Refused{"--sharded", "false", "a model runs on one device: leave it out", true},
    Refused{"--num-shard", "1", "a model runs on one device: leave it out", true},
    Refused{"--preloaded-adapter-source", "local", "adapters come from --adapter-dir: use local",
            true},
    Refused{"--speculative-tokens", "0", "there is no speculative decoding: leave it out", true},
    Refused{"--embedding-model", "false", "there are no embeddings: leave it out", false},
    Refused{"--merge-adapter-weights", "false",
            "adapters are not merged into the weights: leave it out; --adapter-id alone serves one",
            true},
    Refused{"--quantize", "", "weights are float32, bfloat16 or float16: use --dtype", true},
    Refused{"--revision", "", "give --model-id the directory of that revision", false},
    Refused{"--download-only", "false", "nothing is downloaded: leave it out", false},
    Refused{"--ngrok", "false", "there is no tunnel: leave it out", false},
    Refused{"--otlp-endpoint", "", "no traces are sent: leave it out; /metrics has figures", true},
};

void take(const Refused& refused, std::string value) {
  if (value.empty()) value = "true";  // as a switch
  std::ranges::transform(value, value.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (refused.harmless.empty() || value != refused.harmless) {
    fail("{} {}: {}", refused.flag, value, refused.advice);
  }
}

}  // namespace

void add_launcher_flags(CLI::App& command, std::vector<std::string>& without_effect) {
  const auto add = [&command](std::string_view flag, auto take_value) {
    return command.add_option_function<std::string>(std::string(flag), take_value, "")
        ->expected(0, 1)
        ->group("");  // not in the help text
  };
  for (const std::string_view flag : kWithoutEffect) {
    add(flag, [&without_effect, flag](const std::string&) { without_effect.emplace_back(flag); });
  }
  for (const Refused& refused : kRefused) {
    CLI::Option* option = add(refused.flag, [&without_effect, &refused](const std::string& value) {
      take(refused, value);
      without_effect.emplace_back(refused.flag);
    });
    if (refused.reads_environment) option->envname(environment_name(refused.flag));
  }
}

}  // namespace lorax::cli
