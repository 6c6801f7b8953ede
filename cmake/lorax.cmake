# lorax_library(<floor> [ROOMS] [DEPS ...] [TEST_DEPS ...]): the one library of the folder it is
# called in, and with ROOMS of those inside it.
# Every *.cc of the folder belongs to it, except the *_test.cc, which form the test program
# <floor>_test. Names use '_' for '/': device/cpu is lorax_device_cpu.
function(lorax_library floor)
  cmake_parse_arguments(ARG "ROOMS" "" "DEPS;TEST_DEPS" ${ARGN})
  if(ARG_ROOMS)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cc)
  else()
    file(GLOB sources CONFIGURE_DEPENDS *.cc)
  endif()
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

# lorax_test_instruction_sets(<test program> <filter>): adds one test per instruction set below the
# best, which runs what the filter picks with the CPU's kernels forced down to it; skipped where the
# processor lacks it. The program has tests/device/instruction_set_main.cc for its main().
# Not under sanitizers, where the slower ones take minutes.
function(lorax_test_instruction_sets program filter)
  if(LORAX_SANITIZE)
    return()
  endif()
  foreach(name scalar sse4 avx2 avx512)
    add_test(NAME ${program}.${name} COMMAND ${program} --gtest_filter=${filter} --gtest_brief=1
             WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(${program}.${name} PROPERTIES ENVIRONMENT LORAX_CPU_ISA=${name}
                         SKIP_RETURN_CODE 77 TIMEOUT 300)
  endforeach()
endfunction()
