#include "formats/sha256.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <array>
#include <new>

namespace lorax {
namespace {

// Nothing else can be wrong with digests of bytes that lie in memory.
void check_memory(bool done) {
  if (!done) throw std::bad_alloc();
}

}  // namespace

struct Sha256::Context {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  check_memory(context_->context != nullptr &&
               EVP_DigestInit_ex(context_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::add_bytes(const void* data, size_t bytes) {
  check_memory(EVP_DigestUpdate(context_->context, data, bytes) == 1);
}

void Sha256::add_text(std::string_view text) {
  add_number(text.size());
  add_bytes(text.data(), text.size());
}

void Sha256::add_number(uint64_t value) {
  std::array<unsigned char, 8> bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(value >> (8 * i));
  add_bytes(bytes.data(), bytes.size());
}

std::string Sha256::hex() {
  std::array<unsigned char, 32> digest;
  check_memory(EVP_DigestFinal_ex(context_->context, digest.data(), nullptr) == 1);
  std::string text;
  for (unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace lorax
