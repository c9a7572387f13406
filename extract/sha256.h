/* sha256.h - SHA-256 (FIPS 180-4) of a block of memory, as 64 hexadecimal digits. */
#ifndef MLL_SHA256_H
#define MLL_SHA256_H

#include <stddef.h>

void sha256_hex(char out[65], const void *bytes, size_t size);

#endif
