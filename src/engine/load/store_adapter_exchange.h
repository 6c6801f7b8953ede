// The AdapterExchange of an AdapterStore.
#pragma once

#include "adapters/store/adapter_store.h"
#include "engine/schedule/adapter_exchange.h"

namespace lorax {

class StoreAdapterExchange final : public AdapterExchange {
 public:
  // The store must outlive this and all leases.
  explicit StoreAdapterExchange(AdapterStore& store) : store_(store) {}

  std::unique_ptr<AdapterLease> request(const std::string& id) override;

 private:
  AdapterStore& store_;
};

}  // namespace lorax
