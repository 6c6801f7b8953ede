// A load generator: many keep-alive connections of one thread, each with one request at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lorax {

struct LoadPlan {
  std::string host = "127.0.0.1";
  std::string port = "3000";
  std::string path = "/generate_stream";
  std::vector<std::string> bodies;   // sent in turn as POST; none: GET
  std::vector<std::string> headers;  // "name: value"
  int connections = 64;
  double seconds = 10;        // what is under way then is cut off
  uint64_t requests = 0;      // end after so many, however long it takes; 0: after `seconds`
  double timeout = 120;       // of one request
  double pause = 0;           // between requests of a connection: a random time of up to this
  bool allow_remote = false;  // else only loopback
};

// Times are seconds. Only responses of status 200 count as requests.
struct LoadResult {
  double elapsed = 0;
  uint64_t requests = 0;
  uint64_t events = 0;               // server-sent, those of cut-off responses included
  uint64_t bytes = 0;                // received
  std::vector<double> latencies;     // from sending to the last byte
  std::vector<double> first_events;  // from sending to the end of the first event
  std::vector<double> event_gaps;    // between the events of one response
  std::map<std::string, uint64_t> errors;
};

// Throws std::runtime_error if the host cannot be found or is not allowed.
LoadResult run_load(const LoadPlan& plan);

// The value below which the fraction `p` of the values lies; NaN without values. Reorders them.
double percentile(std::vector<double>& values, double p);

}  // namespace lorax
