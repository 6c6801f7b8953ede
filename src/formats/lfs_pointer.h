// Git LFS pointers: the few lines that a clone without git-lfs has in a large file's place.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"

namespace lorax {

// Throws Error that says how to fetch the file `origin` if its text, or the beginning of it, is a
// pointer.
inline void refuse_lfs_pointer(std::string_view text, const std::string& origin) {
  if (!text.starts_with("version https://git-lfs.github.com/spec/") &&
      !text.starts_with("version https://hawser.github.com/spec/")) {
    return;
  }
  fail("{}: is a Git LFS pointer, not the file itself: run \"git lfs pull\", or download it again",
       origin);
}

}  // namespace lorax
