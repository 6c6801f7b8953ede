// What the AdapterStore must be given: how an adapter is found, read and brought onto the device.
// The store itself knows no file format and no kernel.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace lorax {

// An adapter as it was read: in host memory, immutable from here on.
class HostAdapter {
 public:
  virtual ~HostAdapter() = default;

  // The identity: equal digests mean equal content (configuration and tensors).
  virtual const std::string& digest() const = 0;
  // Bytes it occupies until it is destroyed.
  virtual uint64_t host_bytes() const = 0;
  // Bytes that upload() will allocate for it on the device. Not asked for, and taken as 0, where
  // host and device memory are one: there host_bytes() is all that the adapter takes.
  virtual uint64_t device_bytes() const = 0;
};

// An adapter that the kernels can use. Its destructor gives back all that upload() took.
class ResidentAdapter {
 public:
  virtual ~ResidentAdapter() = default;

  // aLoRA: the tokens from whose last place in a prompt on it acts; empty: always.
  virtual std::span<const int32_t> invocation() const { return {}; }
};

struct AdapterProbe {
  // Differs whenever the content may have changed, e.g. names, sizes and times of the files.
  std::string fingerprint;
  // Upper bound of the host memory that load() takes, its temporary buffers included.
  uint64_t host_bytes = 0;
};

// Each function may throw: the message of the exception goes to those who asked for the adapter.
// An id is whatever the backend makes of it: a path, or the recipe of a merged adapter.
class AdapterBackend {
 public:
  virtual ~AdapterBackend() = default;

  // Looks without reading: quick. Called from several threads at once.
  virtual AdapterProbe probe(const std::string& id) = 0;

  // Reads. May take long; called from several threads at once, never twice at once for one id
  // (except for an id that was refreshed or forgotten while it was read). Must not take more memory
  // than `probe` announced: throws rather, should the files have grown. Never null.
  virtual std::unique_ptr<HostAdapter> load(const std::string& id, const AdapterProbe& probe) = 0;

  // Brings the adapter onto the device and enters it at `slot` of the device's tables; `slot` is
  // free, and stays this adapter's until the result has been destroyed. All copies have finished
  // when it returns. Runs beside the engine's steps, on the store's keeper thread; so does
  // ~ResidentAdapter (but for those that live until ~AdapterStore), hence neither ever runs beside
  // the other or itself. Where host and device memory are one, the result may point into
  // `adapter`, which outlives it; elsewhere it must not. Never null.
  virtual std::unique_ptr<ResidentAdapter> upload(const HostAdapter& adapter, int slot) = 0;
};

}  // namespace lorax
