#include "cli/bench_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include <boost/json/serialize.hpp>

namespace lorax::cli {

BenchReport::BenchReport(bool as_json)
    : as_json_(as_json), draws_progress_(isatty(STDERR_FILENO) != 0) {}

BenchReport::~BenchReport() { progress(""); }

void BenchReport::say(std::string_view line) {
  progress("");
  if (as_json_) return;
  fmt::print("{}\n", line);
  std::fflush(stdout);  // a pipe's reader waits for it, too
}

void BenchReport::progress(std::string_view what) {
  if (!draws_progress_ || (what.empty() && drawn_ == 0)) return;
  fmt::print(stderr, "\r{:{}}\r{}", "", drawn_, what);
  std::fflush(stderr);
  drawn_ = what.size();
}

void BenchReport::add(std::string_view line, boost::json::object entry) {
  say(line);
  results_.push_back(std::move(entry));
}

void BenchReport::finish(boost::json::object about, bool interrupted) {
  progress("");
  if (!as_json_) return;
  if (interrupted) about["interrupted"] = true;
  about["results"] = std::move(results_);
  fmt::print("{}\n", boost::json::serialize(about));
  std::fflush(stdout);
}

}  // namespace lorax::cli
