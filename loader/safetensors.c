/* safetensors.c - the one place where the header's reader and writer are compiled. */
#define ST_IMPLEMENTATION
#define ST_WRITE_IMPLEMENTATION
#include "safetensors.h"
#include "safetensors_write.h"
