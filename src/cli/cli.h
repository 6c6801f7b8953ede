// The command line: `lorax <command> [flags]`, `lorax help [<command>]`.
#pragma once

namespace lorax {

// Runs one command. Returns the exit code: 0, or 1 after one line on standard error that says what
// is wrong and what to do. `commit`: of the sources, for --version.
int run_command_line(int argc, char** argv, const char* commit);

}  // namespace lorax
