# lorax_library(<floor> [DEPS ...]): the one library of the folder it is called in.
# Every *.cc of the folder belongs to it, except the *_test.cc, which form the test program
# <floor>_test. Names use '_' for '/': device/cpu is lorax_device_cpu.
function(lorax_library floor)
  cmake_parse_arguments(ARG "" "" "DEPS;TEST_DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.cc)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  add_library(lorax_${floor} STATIC ${sources})
  target_include_directories(lorax_${floor} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(lorax_${floor} PUBLIC ${ARG_DEPS})
  # Coverage of the libraries steers the fuzzers; kernels have nothing to steer.
  if(LORAX_FUZZ AND NOT floor MATCHES "^device")
    target_compile_options(lorax_${floor} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
  if(LORAX_TESTS AND tests)
    add_executable(${floor}_test ${tests})
    # Optimizing the tests themselves takes most of the time that they compile.
    target_compile_options(${floor}_test PRIVATE $<$<CONFIG:Release>:-O1>
                           $<$<CONFIG:RelWithDebInfo>:-O0>)
    target_link_libraries(${floor}_test PRIVATE lorax_${floor} ${ARG_TEST_DEPS} GTest::gtest_main)
    gtest_discover_tests(${floor}_test WORKING_DIRECTORY ${PROJECT_SOURCE_DIR}
                         DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300)
  endif()
endfunction()
