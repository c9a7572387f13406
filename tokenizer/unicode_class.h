/* unicode_class.h - what the Llama 3 split pattern asks about a Unicode scalar: is it \p{L}, \p{N},
 * \s, or none of them. The tables are generated (make_unicode.py). */
#ifndef MLL_UNICODE_CLASS_H
#define MLL_UNICODE_CLASS_H

#include <stdint.h>

enum uni_class { UNI_OTHER = 0, UNI_LETTER, UNI_NUMBER, UNI_SPACE };

/* scalar: at most 0x10FFFF. */
enum uni_class uni_class_of(uint32_t scalar);

#endif
