#include "base/out_of_memory.h"

#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <new>

#include "base/memory_info.h"

namespace lorax {
namespace {

constexpr std::string_view kOutOfMemory = "out of memory";

double gibibytes(uint64_t bytes) { return static_cast<double>(bytes) / (1u << 30); }

// A whole reserve in one piece would be a mapping of its own, which a limit that has become lower
// takes for itself. Pieces lie where small allocations come from.
constexpr size_t kPieces = 64;
constexpr size_t kPieceBytes = size_t{64} << 10;

class Reserve {
 public:
  bool release() noexcept {
    const std::lock_guard lock(mutex_);
    bool gave = false;
    for (void*& piece : pieces_) {
      gave |= piece != nullptr;
      std::free(piece);
      piece = nullptr;
    }
    return gave;
  }

  bool refill() noexcept {
    const std::lock_guard lock(mutex_);
    for (void*& piece : pieces_) {
      if (piece == nullptr) piece = std::malloc(kPieceBytes);
      if (piece == nullptr) return false;
    }
    return true;
  }

 private:
  std::mutex mutex_;
  std::array<void*, kPieces> pieces_ = {};
};

Reserve reserve;  // of the process, as the handler of operator new is
bool is_set_aside = false;

void give_reserve() {
  if (!reserve.release()) throw std::bad_alloc();
}

}  // namespace

OutOfMemory::OutOfMemory(uint64_t bytes)
    : Error(fmt::format("cannot allocate {:.2f} GiB ({} bytes): {}", gibibytes(bytes), bytes,
                        describe_memory_limits())) {}

bool is_out_of_memory(const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    return true;
  } catch (const OutOfMemory&) {
    return true;
  } catch (...) {
    return false;
  }
}

std::string message_of(const std::exception_ptr& error) noexcept {
  try {
    try {
      std::rethrow_exception(error);
    } catch (const std::bad_alloc&) {
      return std::string(kOutOfMemory);
    } catch (const std::exception& exception) {
      return exception.what()[0] != '\0' ? exception.what() : "unknown error";
    } catch (...) {
      return "unknown error";
    }
  } catch (...) {
    return "no memory";  // short enough to need none
  }
}

std::string describe_out_of_memory(const std::exception_ptr& error) noexcept {
  try {
    std::string text = message_of(error);
    if (text == kOutOfMemory) text = fmt::format("{}: {}", kOutOfMemory, describe_memory_limits());
    return text +
           ". Raise what limits it, or take less: a smaller model, fewer tokens "
           "(--max-batch-total-tokens, --max-total-tokens, --max-batch-prefill-tokens), a smaller "
           "--adapter-memory-fraction, or --max-batch-size";
  } catch (...) {
    return "no memory";
  }
}

std::string describe_memory_limits(const std::filesystem::path& root) {
  const MemoryLimits limits = memory_limits(root);
  std::string text;
  const auto add = [&text](std::string_view name, const MemoryLimit& limit) {
    text += fmt::format("{}{} {:.2f} GiB, of which {:.2f} are left", text.empty() ? "" : "; ", name,
                        gibibytes(limit.bytes), gibibytes(limit.left));
  };
  if (limits.address_space) {
    add("the limit of this process's address space (RLIMIT_AS, ulimit -v) is",
        *limits.address_space);
  }
  if (limits.cgroup) add("its control group (memory.max) may take", *limits.cgroup);
  if (limits.machine) add("the machine has", *limits.machine);
  return text.empty() ? "the system names no limit" : text;
}

void set_memory_reserve_aside() {
  if (!reserve.refill()) throw std::bad_alloc();
  is_set_aside = true;
  std::set_new_handler(give_reserve);
}

bool release_memory_reserve() noexcept { return reserve.release(); }

bool has_memory_reserve() noexcept { return !is_set_aside || reserve.refill(); }

}  // namespace lorax
