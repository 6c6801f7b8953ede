#include "cli/cli.h"
#include "cli/commit.h"

int main(int argc, char** argv) { return lorax::run_command_line(argc, argv, kCommit); }
