#include "cli/interrupt.h"

#include <signal.h>

#include <array>
#include <cstdio>

namespace lorax::cli {
namespace {

constexpr std::array<int, 2> kSignals = {SIGINT, SIGTERM};

volatile sig_atomic_t noted = 0;

void note(int signal) { noted = signal; }

void handle(void (*handler)(int), int flags) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  sigemptyset(&action.sa_mask);
  for (int signal : kSignals) sigaction(signal, &action, nullptr);
}

}  // namespace

Interrupt::Interrupt() {
  noted = 0;
  handle(note, SA_RESTART | static_cast<int>(SA_RESETHAND));
}

Interrupt::~Interrupt() { handle(SIG_DFL, 0); }

bool Interrupt::has_come() const { return noted != 0; }

void Interrupt::end_if_come() const {
  if (!has_come()) return;
  const int signal = noted;
  std::fflush(stdout);
  handle(SIG_DFL, 0);
  raise(signal);
}

}  // namespace lorax::cli
