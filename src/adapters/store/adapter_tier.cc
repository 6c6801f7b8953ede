#include "adapters/store/adapter_tier.h"

#include <iterator>

#include "base/check.h"

namespace lorax {

void AdapterTier::reserve(uint64_t bytes) {
  LORAX_CHECK(bytes <= free(), "{} of {} bytes used, {} wanted", used_, budget_, bytes);
  used_ += bytes;
}

void AdapterTier::release(uint64_t bytes) {
  LORAX_CHECK(bytes <= used_ - idle_bytes_);
  used_ -= bytes;
}

void AdapterTier::add(AdapterEntry& entry, Place& place, uint64_t bytes) {
  LORAX_CHECK(!place.present);
  busy_.push_back(&entry);
  place = {.self = std::prev(busy_.end()), .bytes = bytes, .present = true, .idle = false};
}

void AdapterTier::remove(Place& place) {
  set_idle(place, false);
  busy_.erase(place.self);
  place = {};
}

void AdapterTier::set_idle(Place& place, bool idle) {
  if (!place.present || place.idle == idle) return;
  if (idle) {
    idle_.splice(idle_.end(), busy_, place.self);
    idle_bytes_ += place.bytes;
  } else {
    busy_.splice(busy_.end(), idle_, place.self);
    idle_bytes_ -= place.bytes;
  }
  place.idle = idle;
}

void AdapterTier::touch(Place& place) {
  if (place.present && place.idle) idle_.splice(idle_.end(), idle_, place.self);
}

}  // namespace lorax
