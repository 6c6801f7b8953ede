// For LD_PRELOAD: paths with "hung" in them belong to a mount that does not answer as long as there
// is a file that HUNG_WHILE names.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

extern "C" char* realpath(const char* path, char* resolved) {
  using Function = char* (*)(const char*, char*);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "realpath"));
  const char* name = std::getenv("HUNG_WHILE");
  while (path != nullptr && std::strstr(path, "hung") != nullptr && name != nullptr &&
         access(name, F_OK) == 0) {
    usleep(10'000);
  }
  return real(path, resolved);
}
