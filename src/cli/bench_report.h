// What `lorax bench` prints: its header at once and a line per case as soon as it is measured, or
// one JSON object at the end.
#pragma once

#include <string>
#include <string_view>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

namespace lorax::cli {

// Of one thread.
class BenchReport {
 public:
  explicit BenchReport(bool as_json);
  // Clears the progress that may stand on the terminal.
  ~BenchReport();
  BenchReport(const BenchReport&) = delete;
  BenchReport& operator=(const BenchReport&) = delete;

  // A line above the cases; nothing with JSON.
  void say(std::string_view line);
  // What is under way, on standard error if that is a terminal; the next line takes its place.
  void progress(std::string_view what);
  // A case: its line in the table and its entry in "results".
  void add(std::string_view line, boost::json::object entry);
  // With JSON, prints the object with its results; "interrupted" says that there would be more.
  void finish(boost::json::object about, bool interrupted);

 private:
  const bool as_json_;
  const bool draws_progress_;
  size_t drawn_ = 0;  // characters of progress on the terminal
  boost::json::array results_;
};

}  // namespace lorax::cli
