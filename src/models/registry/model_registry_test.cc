#include "models/registry/model_registry.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "formats/json_file.h"
#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace json = boost::json;
using Ids = std::vector<int32_t>;

class ModelRegistryTest : public TestWithDirectory {
 protected:
  // The ids that end a text, of a checkpoint whose two files give these.
  Ids eos_ids(const char* of_config, const char* of_generation) {
    json::object config = read_json_file("models/tiny-gemma2/config.json").get_object();
    config["eos_token_id"] = json::parse(of_config);
    write_text("config.json", json::serialize(config));
    write_text("generation_config.json",
               json::serialize(json::object{{"eos_token_id", json::parse(of_generation)}}));
    return read_model_definition(directory_)->info().eos_token_ids;
  }
};

// Those of both files, the config's first, each once.
TEST_F(ModelRegistryTest, IdsThatEndATextAreThoseOfBothFiles) {
  EXPECT_EQ(eos_ids("1", "null"), (Ids{1}));
  EXPECT_EQ(eos_ids("null", "[7, 3]"), (Ids{7, 3}));
  EXPECT_EQ(eos_ids("1", "[1, 6]"), (Ids{1, 6}));
  EXPECT_EQ(eos_ids("[6, 1, 6]", "[1, 5, 5]"), (Ids{6, 1, 5}));
}

}  // namespace
}  // namespace lorax
