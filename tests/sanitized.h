/* sanitized.h - SANITIZED where the address sanitizer stands behind malloc. */
#ifndef MLL_TESTS_SANITIZED_H
#define MLL_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif

#endif
