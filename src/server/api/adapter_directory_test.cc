#include "server/api/adapter_directory.h"

#include <sys/stat.h>

#include "adapters/merge/merge_recipe.h"
#include "formats/testing/test_directory.h"
#include "server/api/api_error.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class AdapterDirectoryTest : public TestWithDirectory {
 protected:
  AdapterDirectoryTest() {
    root_ = directory_ / "adapters";
    add("pirate");
    add("team/red");
    fs::create_directories(root_ / "empty");
    fs::create_directories(directory_ / "outside");
    write_text("outside/adapter_config.json", "{}");
  }

  void add(const std::string& name) const {
    fs::create_directories(root_ / name);
    write_text("adapters/" + name + "/adapter_config.json", "{}");
  }

  // The kind and the text of the ApiError.
  template <typename Function>
  static void expect_api_error(Function function, ErrorKind kind, std::string_view part) {
    try {
      function();
      ADD_FAILURE() << "no error";
    } catch (const ApiError& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      expect_error(error.what(), "", part);
    }
  }

  std::vector<std::string> names(const AdapterDirectory& adapters) const {
    std::vector<std::string> names;
    for (const AdapterDirectory::Entry& entry : adapters.list()) names.push_back(entry.name);
    return names;
  }

  fs::path root_;
};

TEST_F(AdapterDirectoryTest, NamesAreFoldersBelow) {
  const AdapterDirectory adapters(root_);
  EXPECT_EQ(adapters.resolve("pirate"), fs::canonical(root_ / "pirate"));
  EXPECT_EQ(adapters.resolve("team/red"), fs::canonical(root_ / "team/red"));
  EXPECT_EQ(adapters.name_of(adapters.resolve("team/red")), "team/red");
  EXPECT_EQ(adapters.name_of("/elsewhere"), "/elsewhere");
  MergeRecipe recipe;
  recipe.ids = {adapters.resolve("team/red"), adapters.resolve("pirate")};
  recipe.parameters.weights = {1.0, 1.0};
  EXPECT_EQ(adapters.name_of(id_of(recipe)), "team/red,pirate");
}

TEST_F(AdapterDirectoryTest, NamesThatCanBeNone) {
  const AdapterDirectory adapters(root_);
  for (const std::string name : {"/", "/etc", "..", "../outside", "team/../pirate", "./pirate",
                                 "pirate/", "team//red", ".", "a\nb", "a\x7f", "\xff", ""}) {
    SCOPED_TRACE(name);
    expect_api_error([&] { adapters.resolve(name); }, ErrorKind::kValidation, "adapter \"");
  }
  expect_api_error([&] { adapters.resolve(std::string("pirate\0x", 8)); }, ErrorKind::kValidation,
                   "control character");
  expect_api_error([&] { adapters.resolve(std::string(256, 'a')); }, ErrorKind::kValidation,
                   "more than 255 bytes");
}

TEST_F(AdapterDirectoryTest, WhatIsNotThere) {
  const AdapterDirectory adapters(root_);
  expect_api_error([&] { adapters.resolve("nobody"); }, ErrorKind::kUnknownModel, "does not exist");
  expect_api_error([&] { adapters.resolve("pirate/adapter_config.json"); },
                   ErrorKind::kUnknownModel, "is no adapter");
  expect_api_error([&] { adapters.resolve("empty"); }, ErrorKind::kUnknownModel, "is no adapter");
  const AdapterDirectory none(std::nullopt);
  expect_api_error([&] { none.resolve("pirate"); }, ErrorKind::kUnknownModel, "--adapter-dir");
  EXPECT_TRUE(none.list().empty());
  expect_error(error_of([&] { AdapterDirectory(directory_ / "nothing"); }), "--adapter-dir",
               "no directory");
}

TEST_F(AdapterDirectoryTest, LinksMustStayBelow) {
  fs::create_directory_symlink(directory_ / "outside", root_ / "leaves");
  fs::create_directory_symlink(root_ / "pirate", root_ / "stays");
  fs::create_directory_symlink(root_, root_ / "loop");
  const AdapterDirectory adapters(root_);
  expect_api_error([&] { adapters.resolve("leaves"); }, ErrorKind::kValidation,
                   "does not lie below");
  expect_api_error([&] { adapters.resolve("loop"); }, ErrorKind::kValidation, "does not lie below");
  EXPECT_EQ(adapters.resolve("stays"), adapters.resolve("pirate"));
  EXPECT_EQ(names(adapters), (std::vector<std::string>{"pirate", "stays", "team/red"}));
}

// A folder is an adapter's by files within the bounds alone.
TEST_F(AdapterDirectoryTest, FilesMustStayBelowToo) {
  fs::create_directories(root_ / "thief");
  fs::create_symlink(directory_ / "outside/adapter_config.json",
                     root_ / "thief/adapter_config.json");
  fs::create_directories(root_ / "heads");
  write_text("outside/config.json", R"({"medusa_num_heads": 3})");
  fs::create_symlink(directory_ / "outside/config.json", root_ / "heads/config.json");
  fs::create_directories(root_ / "pipe");
  ASSERT_EQ(::mkfifo((root_ / "pipe/adapter_config.json").c_str(), 0600), 0);
  const AdapterDirectory adapters(root_);
  for (const char* name : {"thief", "heads", "pipe"}) {
    expect_api_error([&] { adapters.resolve(name); }, ErrorKind::kUnknownModel, "is no adapter");
  }
  EXPECT_EQ(names(adapters), (std::vector<std::string>{"pirate", "team/red"}));
}

TEST_F(AdapterDirectoryTest, FurtherRoots) {
  fs::create_directory_symlink(directory_ / "outside", root_ / "linked");
  fs::create_directories(root_ / "files");
  fs::create_symlink(directory_ / "outside/adapter_config.json",
                     root_ / "files/adapter_config.json");
  AdapterDirectory adapters(root_, "", {directory_ / "outside"});
  EXPECT_EQ(names(adapters), (std::vector<std::string>{"files", "linked", "pirate", "team/red"}));
  EXPECT_EQ(adapters.folder_of(adapters.resolve("linked")), "outside");
  fs::create_directories(directory_ / "outside/far");
  write_text("outside/far/adapter_config.json", "{}");
  fs::create_directory_symlink(directory_ / "outside/far", root_ / "near");
  const std::string id = adapters.resolve("near");
  EXPECT_EQ(id, fs::canonical(directory_ / "outside/far"));
  EXPECT_EQ(adapters.folder_of(id), "far");
  EXPECT_EQ(adapters.add_alias("x", (fs::canonical(directory_) / "outside/far").string(), false),
            id);
  expect_error(error_of([&] { AdapterDirectory(root_, "", {directory_ / "none"}); }),
               "--adapter-root ", "is no directory");
}

TEST_F(AdapterDirectoryTest, MessagesForClientsHaveNoRoots) {
  const AdapterDirectory adapters(root_);
  const std::string id = adapters.resolve("team/red");
  EXPECT_EQ(adapters.without_roots(id + "/a.json: bad; " + id + ": worse"),
            "team/red/a.json: bad; team/red: worse");
  EXPECT_EQ(adapters.folder_of(id), "team/red");
}

TEST_F(AdapterDirectoryTest, AnAliasHidesNoFolder) {
  AdapterDirectory adapters(root_);
  expect_api_error([&] { adapters.add_alias("pirate", "team/red", false); }, ErrorKind::kValidation,
                   "choose another name");
  expect_api_error([&] { adapters.add_alias("team/red", "pirate", true); }, ErrorKind::kValidation,
                   "choose another name");
  adapters.add_alias("blue", "pirate", false);
  EXPECT_EQ(adapters.resolve("blue"), adapters.resolve("pirate"));
  add("blue");  // comes later
  EXPECT_EQ(adapters.resolve("blue"), fs::canonical(root_ / "blue"));
  adapters.remove_alias("blue");
  EXPECT_EQ(adapters.resolve("blue"), fs::canonical(root_ / "blue"));
}

TEST_F(AdapterDirectoryTest, ListFindsLoraAndMedusa) {
  fs::create_directories(root_ / "heads");
  write_text("adapters/heads/config.json", R"({"medusa_num_heads": 3})");
  fs::create_directories(root_ / "model");
  write_text("adapters/model/config.json", R"({"model_type": "gemma2"})");
  fs::create_directories(root_ / "a/b/c/d/e");
  write_text("adapters/a/b/c/d/adapter_config.json", "{}");
  write_text("adapters/a/b/c/d/e/adapter_config.json", "{}");
  const AdapterDirectory adapters(root_);
  EXPECT_EQ(names(adapters),
            (std::vector<std::string>{"a/b/c/d", "a/b/c/d/e", "heads", "pirate", "team/red"}));
  const AdapterDirectory::Entry entry = adapters.list()[3];
  EXPECT_EQ(entry.path, adapters.resolve("pirate"));
  EXPECT_GT(entry.created, 1'600'000'000);
}

TEST_F(AdapterDirectoryTest, WhatCanBeUsedIsListedOnce) {
  std::string deep;
  for (int i = 1; i <= AdapterDirectory::kMaxDepth; ++i) deep += i == 1 ? "d" : "/d";
  for (const std::string& name : {deep, deep + "/d"}) {
    fs::create_directories(root_ / name);
    write_text("adapters/" + name + "/adapter_config.json", "{}");
  }
  fs::create_directory_symlink(root_ / "pirate", root_ / "a-link");
  fs::create_directory_symlink(root_ / "team", root_ / "team/loop");
  fs::create_directory_symlink(root_, root_ / "all");
  const AdapterDirectory adapters(root_);
  EXPECT_EQ(names(adapters), (std::vector<std::string>{"a-link", deep, "pirate", "team/red"}));
  EXPECT_EQ(adapters.resolve("a-link"), adapters.resolve("pirate"));
  expect_api_error([&] { adapters.resolve(deep + "/d"); }, ErrorKind::kValidation,
                   "more than 8 folders");
}

TEST_F(AdapterDirectoryTest, Aliases) {
  AdapterDirectory adapters(root_);
  EXPECT_EQ(names(adapters).size(), 2u);
  const std::string id = adapters.resolve("team/red");
  EXPECT_EQ(adapters.add_alias("rouge", "team/red", false), id);
  EXPECT_EQ(adapters.resolve("rouge"), id);
  EXPECT_EQ(adapters.name_of(id), "rouge");
  EXPECT_EQ(names(adapters), (std::vector<std::string>{"pirate", "rouge", "team/red"}));
  expect_api_error([&] { adapters.add_alias("rouge", "pirate", false); }, ErrorKind::kValidation,
                   "The lora adapter 'rouge' has already been loaded.");
  adapters.add_alias("rouge", (fs::canonical(root_) / "pirate").string(), true);
  EXPECT_EQ(adapters.resolve("rouge"), adapters.resolve("pirate"));
  EXPECT_EQ(adapters.remove_alias("rouge"), adapters.resolve("pirate"));
  expect_api_error([&] { adapters.remove_alias("rouge"); }, ErrorKind::kUnknownModel,
                   "The lora adapter 'rouge' cannot be found.");
  expect_api_error([&] { adapters.add_alias("x", "../outside", false); }, ErrorKind::kValidation,
                   "does not lie below");
  expect_api_error([&] { adapters.add_alias("x", "nothing", false); }, ErrorKind::kUnknownModel,
                   "does not exist");
  expect_api_error([&] { adapters.add_alias("a\nb", "pirate", false); }, ErrorKind::kValidation,
                   "control character");
}

TEST_F(AdapterDirectoryTest, AnAdapterThatVanishes) {
  const AdapterDirectory adapters(root_);
  adapters.resolve("pirate");
  fs::remove_all(root_ / "pirate");
  expect_api_error([&] { adapters.resolve("pirate"); }, ErrorKind::kUnknownModel, "does not exist");
}

}  // namespace
}  // namespace lorax
