#include "adapters/store/adapter_tier.h"

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

void AdapterTier::add(Place& place, uint64_t bytes) {
  LORAX_CHECK(!place.present && place.node.size() == 1);
  place.self = place.node.begin();
  busy_.splice(busy_.end(), place.node);
  place.bytes = bytes;
  place.present = true;
  place.idle = false;
}

void AdapterTier::remove(Place& place) {
  set_idle(place, false);
  place.node.splice(place.node.end(), busy_, place.self);
  place.bytes = 0;
  place.present = false;
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
