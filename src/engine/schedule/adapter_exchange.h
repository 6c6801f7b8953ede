// What the scheduler needs of the adapter store: adapters to be asked for, looked at, and held. The
// real one is StoreAdapterExchange; the scheduler's tests have others.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace lorax {

// An adapter that was asked for. It may be used from kReady on, as long as this lives; dropping it
// withdraws the request.
class AdapterLease {
 public:
  enum class State {
    kLoading,  //
    kNoRoom,   // it goes on once others let go of theirs
    kReady,    // for good
    kFailed,   // for good; error() says why
  };

  virtual ~AdapterLease() = default;
  virtual State state() = 0;
  // Precondition: kFailed.
  virtual std::string error() const = 0;
  // Preconditions: kReady.
  virtual int32_t slot() const = 0;
  virtual const std::string& digest() const = 0;
  // aLoRA: the adapter acts from the last place in the prompt on where these tokens stand, and
  // nowhere if they do not. Empty: always.
  virtual std::span<const int32_t> invocation() const { return {}; }
};

class AdapterExchange {
 public:
  virtual ~AdapterExchange() = default;
  // Never blocks. The adapter as it is on disk now, or later.
  virtual std::unique_ptr<AdapterLease> request(const std::string& id) = 0;
};

}  // namespace lorax
