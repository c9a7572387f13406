# The CUDA compiler, where there is one, and how it is called. Sets MLL_WITH_CUDA.
#
# MLL_CUDA AUTO (default): CUDA where this machine has both nvcc and a driver, for its own cards only,
# which is soon built. ON: for every architecture of the list below, whatever the machine has. OFF:
# never. The compiler may be nvcc 11.8 to 13 or clang (-DCMAKE_CUDA_COMPILER=clang++-19).
set(MLL_CUDA AUTO CACHE STRING "CUDA kernels: AUTO, ON or OFF")
set_property(CACHE MLL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(MLL_CUDA_ARCHITECTURES "" CACHE STRING "instead of the list, e.g. 70-real;89 or native")
option(MLL_FORCE_ARCH700 "Run the code path of sm_70 on every card, to check it there" OFF)
set(MLL_WITH_CUDA OFF)

if(MLL_CUDA STREQUAL "AUTO")
  # the driver, or what WSL has in its place
  if(NOT EXISTS /proc/driver/nvidia/version AND NOT EXISTS /dev/dxg)
    return()
  endif()
elseif(NOT MLL_CUDA)
  return()
endif()

# Not every distribution of CUDA puts nvcc on PATH.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(MLL_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
  mark_as_advanced(MLL_NVCC)
  if(MLL_NVCC)
    set(CMAKE_CUDA_COMPILER ${MLL_NVCC})
  elseif(MLL_CUDA STREQUAL "AUTO")
    message(STATUS "CUDA: a GPU but no nvcc; building for the CPU only")
    return()
  else()
    message(FATAL_ERROR "MLL_CUDA=ON, but there is no nvcc on PATH or under /usr/local/cuda: "
      "install the CUDA toolkit (11.8 to 13), or name a compiler with -DCMAKE_CUDA_COMPILER=")
  endif()
endif()

# The list depends on the compiler's version, which is known afterwards only: until then none.
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
# Kernels use no C++ runtime: the C compiler links, against the static CUDA runtime, which
# kernels/CMakeLists.txt names.
set(CMAKE_CUDA_LINKER_PREFERENCE_PROPAGATES 0)
set(CMAKE_CUDA_RUNTIME_LIBRARY None)

set(nvcc_13 OFF)
if(CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA")
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 11.8)
    message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is too old: 11.8 to 13 are supported")
  elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
    set(nvcc_13 ON)
  endif()
endif()
if(MLL_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${MLL_CUDA_ARCHITECTURES})
elseif(MLL_CUDA STREQUAL "AUTO")
  set(CMAKE_CUDA_ARCHITECTURES native)
elseif(nvcc_13)
  # It has no Volta; 75 runs the code of sm_70. 90 also comes as PTX, for later cards.
  set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 89-real 90)
else()
  set(CMAKE_CUDA_ARCHITECTURES 70-real 80-real 89)
endif()
if(CMAKE_CUDA_ARCHITECTURES STREQUAL "native" AND CMAKE_CUDA_ARCHITECTURES_NATIVE)
  set(CMAKE_CUDA_ARCHITECTURES ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
endif()
if(nvcc_13 AND CMAKE_CUDA_ARCHITECTURES MATCHES "(^|;)70")
  message(FATAL_ERROR "nvcc ${CMAKE_CUDA_COMPILER_VERSION} cannot compile for the sm_70 of a V100: "
    "install CUDA 11.8 to 12.9, or build for the CPU with -DMLL_CUDA=OFF")
endif()
# "75 80 89 90 90-virtual", for `mllama info` and for errors
set(names "")
foreach(arch IN LISTS CMAKE_CUDA_ARCHITECTURES)
  if(arch MATCHES "^[0-9]+$")
    list(APPEND names ${arch} ${arch}-virtual)
  else()
    string(REPLACE "-real" "" arch ${arch})
    list(APPEND names ${arch})
  endif()
endforeach()
list(JOIN names " " MLL_CUDA_ARCH_NAMES)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_ID} ${CMAKE_CUDA_COMPILER_VERSION} for sm "
  "${MLL_CUDA_ARCH_NAMES}")
set(MLL_WITH_CUDA ON)

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
# nvcc's stubs hold static pointers to kernels; guarding their initialisation, which writes the same
# value from any thread, would need the C++ runtime.
set(no_cxx -fno-exceptions,-fno-threadsafe-statics)
set(werror $<BOOL:${MLL_WERROR}>)
if(CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA")
  set(options -Xcompiler=-Wall,-Wextra,${no_cxx} -Xptxas=-warn-spills
    $<${werror}:--Werror=all-warnings> $<${werror}:-Xptxas=-Werror>)
else()
  set(options -Wall -Wextra -fno-exceptions -fno-threadsafe-statics
    -Wno-unused-parameter -Wno-pass-failed -Wno-unknown-cuda-version
    $<${werror}:-Werror>)
endif()
set(MLL_CUDA_OPTIONS $<$<COMPILE_LANGUAGE:CUDA>:${options}>)
