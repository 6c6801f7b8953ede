#include "server/api/api_keys.h"

#include <algorithm>
#include <map>
#include <new>
#include <optional>
#include <set>
#include <utility>

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <boost/json/value.hpp>

#include "base/error.h"
#include "formats/json_file.h"
#include "formats/printable.h"

namespace lorax {
namespace {

namespace json = boost::json;

constexpr uint64_t kMaxFileBytes = uint64_t{16} << 20;
constexpr size_t kMaxNameBytes = 64;

bool is_sound(std::string_view key) {
  return !key.empty() && std::ranges::all_of(key, [](char c) { return c > ' ' && c <= '~'; });
}

bool is_name(std::string_view name) {
  const auto is_fine = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= kMaxNameBytes && std::ranges::all_of(name, is_fine);
}

std::array<uint8_t, 32> digest_of(std::string_view key) {
  std::array<uint8_t, 32> digest = {};
  // All digests that fail for want of memory would be equal.
  if (::SHA256(reinterpret_cast<const uint8_t*>(key.data()), key.size(), digest.data()) ==
      nullptr) {
    throw std::bad_alloc();
  }
  return digest;
}

std::optional<std::array<uint8_t, 32>> parse_digest(std::string_view hex) {
  std::array<uint8_t, 32> digest = {};
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  for (size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    const bool is_digit = c >= '0' && c <= '9';
    const char lower = static_cast<char>(c | 0x20);
    if (!is_digit && (lower < 'a' || lower > 'f')) return std::nullopt;
    const int value = is_digit ? c - '0' : lower - 'a' + 10;
    digest[i / 2] = static_cast<uint8_t>(digest[i / 2] << 4 | value);
  }
  return digest;
}

}  // namespace

// One reading of the file.
class ApiKeys::FileReader {
 public:
  FileReader(const std::filesystem::path& file, const std::vector<Entry>& before)
      : origin_(printable(file.string())) {
    for (const Entry& entry : before) usage_[entry.tenant->name] = entry.tenant->usage;
  }

  std::vector<Entry> read(const json::value& value, std::vector<Entry> entries) {
    const json::object* top = value.if_object();
    const json::value* keys = top != nullptr ? top->if_contains("keys") : nullptr;
    if (keys == nullptr || !keys->is_array() || top->size() != 1) {
      fail(R"({}: must be an object of one list: {{"keys": [{{"name": ..., "key": ...}}]}})",
           origin_);
    }
    if (keys->get_array().empty()) fail("{}: keys is empty; it must name at least one", origin_);
    for (const json::value& item : keys->get_array()) {
      where_ = fmt::format("{}: keys[{}]", origin_, index_++);
      Entry entry = read_entry(item);
      for (const Entry& other : entries) {
        if (other.tenant->name == entry.tenant->name) {
          fail("{}: name \"{}\" stands twice", where_, entry.tenant->name);
        }
        if (other.digest == entry.digest) {
          fail("{}: the key is also that of {}; each needs its own", where_,
               other.tenant->name.empty() ? "--api-key" : other.tenant->name);
        }
      }
      entries.push_back(std::move(entry));
    }
    return entries;
  }

 private:
  Entry read_entry(const json::value& value) const {
    if (!value.is_object()) fail("{}: must be an object", where_);
    const json::object& object = value.get_object();
    auto tenant = std::make_shared<Tenant>();
    std::optional<Digest> digest;
    for (const auto& [field, content] : object) {
      if (field == "name") {
        tenant->name = read_name(content);
      } else if (field == "key" || field == "key_sha256") {
        if (digest) fail("{}: has both key and key_sha256; leave one out", where_);
        digest = field == "key" ? read_key(content) : read_digest(content);
      } else if (field == "adapters") {
        tenant->adapters = read_adapters(content);
      } else if (field == "max_concurrent_requests") {
        tenant->limits.max_concurrent_requests = read_limit(field, content);
      } else if (field == "max_tokens_per_minute") {
        tenant->limits.max_tokens_per_minute = read_limit(field, content);
      } else {
        fail(
            "{}: {} is no field of a key; fields are name, key, key_sha256, adapters, "
            "max_concurrent_requests and max_tokens_per_minute",
            where_, printable(field));
      }
    }
    if (tenant->name.empty()) fail("{}: name is missing", where_);
    if (!digest) fail("{}: key is missing", where_);
    const auto known = usage_.find(tenant->name);
    if (known != usage_.end()) tenant->usage = known->second;
    return {*digest, std::move(tenant)};
  }

  std::string read_name(const json::value& value) const {
    if (!value.is_string() || !is_name(value.get_string())) {
      fail("{}: name must be 1 to {} letters, digits, '.', '_' or '-'", where_, kMaxNameBytes);
    }
    return std::string(value.get_string());
  }

  Digest read_key(const json::value& value) const {
    if (!value.is_string() || !is_sound(value.get_string())) {
      fail("{}: key must be visible ASCII without spaces, and not empty", where_);
    }
    return digest_of(value.get_string());
  }

  Digest read_digest(const json::value& value) const {
    std::optional<Digest> digest;
    if (value.is_string()) digest = parse_digest(value.get_string());
    if (!digest) fail("{}: key_sha256 must be 64 hexadecimal digits", where_);
    return *digest;
  }

  std::vector<std::string> read_adapters(const json::value& value) const {
    std::vector<std::string> adapters;
    const json::array* list = value.if_array();
    for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
      const json::string* name = (*list)[i].if_string();
      if (name == nullptr || name->empty()) list = nullptr;
      if (list != nullptr) adapters.emplace_back(*name);
    }
    if (list == nullptr) {
      fail("{}: adapters must be a list of names, such as [\"pirate\", \"team/*\"]", where_);
    }
    return adapters;
  }

  int64_t read_limit(std::string_view field, const json::value& value) const {
    constexpr int64_t kMost = int64_t{1} << 40;
    if (!value.is_int64() || value.get_int64() < 1 || value.get_int64() > kMost) {
      fail("{}: {} must be a whole number of at least 1; leave it out for no limit", where_, field);
    }
    return value.get_int64();
  }

  std::string origin_;
  std::string where_;
  size_t index_ = 0;
  std::map<std::string, std::shared_ptr<TenantUsage>> usage_;
};

ApiKeys::ApiKeys(std::string_view key) {
  if (!key.empty()) {
    if (!is_sound(key)) fail("an API key must be visible ASCII without spaces, and not empty");
    fixed_.push_back({digest_of(key), std::make_shared<Tenant>()});
  }
  entries_ = std::make_shared<const std::vector<Entry>>(fixed_);
}

size_t ApiKeys::load(const std::filesystem::path& file) {
  const json::value value = read_json_file(file, kMaxFileBytes);
  const std::lock_guard lock(mutex_);
  entries_ =
      std::make_shared<const std::vector<Entry>>(FileReader(file, *entries_).read(value, fixed_));
  return entries_->size();
}

bool ApiKeys::empty() const {
  const std::lock_guard lock(mutex_);
  return entries_->empty();
}

std::shared_ptr<const Tenant> ApiKeys::find(std::string_view key) const {
  std::shared_ptr<const std::vector<Entry>> entries;
  {
    const std::lock_guard lock(mutex_);
    entries = entries_;
  }
  const Digest digest = digest_of(key);
  std::shared_ptr<const Tenant> found;
  for (const Entry& entry : *entries) {
    if (CRYPTO_memcmp(digest.data(), entry.digest.data(), digest.size()) == 0) found = entry.tenant;
  }
  return found;
}

}  // namespace lorax
