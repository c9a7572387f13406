# libmllama: the modules below the public header as one library, with its CMake package and
# pkg-config file; and what else `cmake --install` puts in place. A shared library exports the mll_
# symbols of mllama.h only (they are marked, everything is compiled hidden).
include(CMakePackageConfigHelpers)

set(objects "")
foreach(module base loader tokenizer kernels engine)
  list(APPEND objects $<TARGET_OBJECTS:mll_${module}>)
endforeach()
add_library(libmllama ${objects})
set_target_properties(libmllama PROPERTIES OUTPUT_NAME mllama LINKER_LANGUAGE C
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} EXCLUDE_FROM_ALL OFF)
target_include_directories(libmllama INTERFACE
  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/mllama>
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/engine>)
target_link_libraries(libmllama PRIVATE PkgConfig::JANSSON PNG::PNG JPEG::JPEG m
  Threads::Threads $<$<BOOL:${MLL_WITH_CUDA}>:CUDA::cudart_static>)
if(MLL_SANITIZE)
  target_link_options(libmllama PRIVATE -fsanitize=${MLL_SANITIZE})
endif()

install(TARGETS libmllama EXPORT mllamaTargets)
install(FILES engine/mllama.h engine/base.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mllama)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/mllama)
install(EXPORT mllamaTargets NAMESPACE mllama:: DESTINATION ${package})
configure_package_config_file(cmake/mllamaConfig.cmake.in mllamaConfig.cmake
  INSTALL_DESTINATION ${package})
write_basic_package_version_file(mllamaConfigVersion.cmake COMPATIBILITY SameMinorVersion)
# found from where the file lies, so that an installed tree can be moved
file(RELATIVE_PATH pc_to_prefix /x/${CMAKE_INSTALL_LIBDIR}/pkgconfig /x)
set(pc_cuda_libs "")
if(MLL_WITH_CUDA)
  set(pc_cuda_libs "${CUDA_cudart_static_LIBRARY} -ldl -lrt -lpthread")
endif()
configure_file(cmake/mllama.pc.in mllama.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/mllamaConfig.cmake
  ${PROJECT_BINARY_DIR}/mllamaConfigVersion.cmake DESTINATION ${package})
install(FILES ${PROJECT_BINARY_DIR}/mllama.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(DIRECTORY models/receipts-tiny DESTINATION ${CMAKE_INSTALL_DATADIR}/mllama OPTIONAL)
