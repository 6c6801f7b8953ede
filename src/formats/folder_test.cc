#include "formats/folder.h"

#include <sys/stat.h>

#include <atomic>
#include <thread>

#include "formats/testing/test_directory.h"

namespace lorax {
namespace {

namespace fs = std::filesystem;

class FolderTest : public TestWithDirectory {
 protected:
  FolderTest() {
    for (const char* name : {"in/a", "in/b", "more", "out"}) {
      fs::create_directories(directory_ / name);
      write_text(std::string(name) + "/file", name);
    }
    here_ = fs::canonical(directory_);
  }
  FileBounds bounds() const { return {{here_ / "in"}, "--dir"}; }
  Folder folder(const FileBounds& bounds) const { return Folder::open(here_ / "in/a", bounds); }
  void link(const std::string& to, const std::string& name) const {
    fs::create_symlink(to, here_ / "in/a" / name);
  }

  fs::path here_;
};

TEST_F(FolderTest, FilesAndFoldersByName) {
  fs::create_directories(here_ / "in/a/sub");
  write_text("in/a/sub/deep", "text");
  for (const FileBounds& where : {FileBounds(), bounds()}) {
    const Folder a = folder(where);
    EXPECT_EQ(a.names(), (std::vector<std::string>{"file", "sub"}));
    EXPECT_EQ(a.read("file", 100), "in/a");
    EXPECT_EQ(a.subfolder("sub").read("deep", 100), "text");
    EXPECT_TRUE(a.has("file") && a.has("sub") && !a.has("none"));
    EXPECT_EQ(a.find("file")->st_size, 4);
    EXPECT_FALSE(a.find("none"));
    expect_error(error_of([&] { a.open_file("none"); }), here_.string(), "a/none: no such file");
    expect_error(error_of([&] { a.open_file("sub"); }), here_.string(), "a/sub: is not a file");
    expect_error(error_of([&] { a.subfolder("file"); }), here_.string(), "is no directory");
    expect_error(error_of([&] { a.read("file", 3); }), here_.string(), "4 bytes are more");
    expect_error(error_of([&] { Folder::open(here_ / "in/none", where); }), here_.string(),
                 "no such directory");
  }
}

TEST_F(FolderTest, LinksWithinTheBoundsAreFollowed) {
  link("../b/file", "beside");
  link((here_ / "in/b/file").string(), "absolute");
  link("beside", "chain");
  link("../b", "folder");
  const Folder a = folder(bounds());
  for (const char* name : {"beside", "absolute", "chain"}) {
    EXPECT_EQ(a.read(name, 100), "in/b") << name;
    EXPECT_EQ(a.find(name)->st_size, 4) << name;
  }
  EXPECT_EQ(a.subfolder("folder").read("file", 100), "in/b");
}

TEST_F(FolderTest, NoLinkLeadsOut) {
  link("../../out/file", "relative");
  link((here_ / "out/file").string(), "absolute");
  link("/proc/self/exe", "magic");
  link("../../out", "folder");
  link("relative", "chain");
  link("loop", "loop");
  const Folder a = folder(bounds());
  for (const char* name : {"relative", "absolute", "magic", "chain"}) {
    EXPECT_FALSE(a.find(name)) << name;
    EXPECT_TRUE(a.has(name)) << name;
    expect_error(error_of([&] { a.open_file(name); }), here_.string(), "lies outside");
  }
  expect_error(error_of([&] { a.subfolder("folder"); }), here_.string(), "lies outside");
  EXPECT_FALSE(a.find("loop"));
  EXPECT_NE(error_of([&] { a.open_file("loop"); }), "no error");
  for (const fs::path& path : {here_ / "out", here_, fs::path("/")}) {
    expect_error(error_of([&] { Folder::open(path, bounds()); }), path.string(), "lies outside");
  }
  const Folder anywhere = folder({});
  EXPECT_EQ(anywhere.read("chain", 100), "out");
}

// A path of which a part has become a link since it was made canonical.
TEST_F(FolderTest, AFolderThatHasBecomeALink) {
  fs::rename(here_ / "in/b", here_ / "in/was_b");
  fs::create_directory_symlink(here_ / "out", here_ / "in/b");
  expect_error(error_of([&] { Folder::open(here_ / "in/b", bounds()); }), here_.string(),
               "lies outside");
}

TEST_F(FolderTest, FurtherRootsAreWithin) {
  link("../../more/file", "further");
  link("../../out/file", "leaves");
  FileBounds where = bounds();
  where.add({{here_ / "more"}, "--further"});
  EXPECT_EQ(folder(where).read("further", 100), "more");
  expect_error(error_of([&] { folder(where).open_file("leaves"); }), here_.string(),
               "lies outside");
  EXPECT_EQ(Folder::open(here_ / "more", where).read("file", 100), "more");
  expect_error(error_of([&] { FileBounds({here_ / "none"}, "--dir"); }), "--dir ",
               "is no directory");
  expect_error(error_of([&] { Folder::open(here_ / "in", FileBounds({}, "")); }), here_.string(),
               "lies outside");
}

TEST_F(FolderTest, NamesThatAreBeginningsAreNotBelow) {
  fs::create_directories(here_ / "in_other");
  write_text("in_other/file", "other");
  link("../../in_other/file", "other");
  expect_error(error_of([&] { folder(bounds()).open_file("other"); }), here_.string(),
               "lies outside");
}

TEST_F(FolderTest, WhatIsNoFileMakesNobodyWait) {
  ASSERT_EQ(::mkfifo((here_ / "in/a/pipe").c_str(), 0600), 0);
  link("/dev/zero", "zero");
  link("pipe", "to_pipe");
  for (const FileBounds& where : {FileBounds(), bounds()}) {
    expect_error(error_of([&] { folder(where).open_file("pipe"); }), here_.string(),
                 "is not a file");
    expect_error(error_of([&] { folder(where).open_file("to_pipe"); }), here_.string(),
                 "is not a file");
    EXPECT_NE(error_of([&] { folder(where).read("zero", 100); }), "no error");
  }
}

// A link that leads now in, now out: whoever looks first and opens then reads the secret.
TEST_F(FolderTest, LinksThatChangeNeverLeadOut) {
  std::atomic<bool> stop = false;
  std::thread swapper([&] {
    for (bool out = false; !stop; out = !out) {
      fs::create_symlink(out ? "../../out/file" : "../b/file", here_ / "in/a/new");
      fs::rename(here_ / "in/a/new", here_ / "in/a/swapped");
    }
  });
  const Folder a = folder(bounds());
  int read = 0;
  int refused = 0;
  for (int i = 0; i < 200'000 && (i < 3000 || read == 0 || refused == 0); ++i) {
    try {
      EXPECT_EQ(a.read("swapped", 100), "in/b");
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  stop = true;
  swapper.join();
  EXPECT_GT(read, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace lorax
