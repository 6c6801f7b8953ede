#include "engine/load/store_adapter_exchange.h"

#include <utility>

namespace lorax {
namespace {

// A ticket until the adapter is ready, a pin from then on.
class StoreLease final : public AdapterLease {
 public:
  explicit StoreLease(AdapterTicket ticket) : ticket_(std::move(ticket)) {}

  State state() override {
    if (pin_) return State::kReady;
    switch (ticket_.state()) {
      case AdapterTicket::State::kLoading:
        return State::kLoading;
      case AdapterTicket::State::kNoRoom:
        return State::kNoRoom;
      case AdapterTicket::State::kFailed:
        return State::kFailed;
      case AdapterTicket::State::kReady:
        break;
    }
    pin_ = ticket_.try_pin();
    ticket_.reset();
    return State::kReady;
  }
  std::string error() const override { return ticket_.error(); }
  int32_t slot() const override { return pin_.slot(); }
  const std::string& digest() const override { return pin_.digest(); }
  std::span<const int32_t> invocation() const override { return pin_.adapter().invocation(); }

 private:
  AdapterTicket ticket_;
  AdapterPin pin_;
};

}  // namespace

std::unique_ptr<AdapterLease> StoreAdapterExchange::request(const std::string& id) {
  return std::make_unique<StoreLease>(store_.request(id));
}

}  // namespace lorax
