/* check.h - what mll_check and mll_open both look at beyond single files. */
#ifndef MLL_CHECK_H
#define MLL_CHECK_H

#include "bpe.h"
#include "config.h"

#define CHECK_IMAGE_TEXT "<|image|>"

/* Do the tokenizer's ids fit the embedding, and is its <|image|> the configuration's image token?
 */
void check_tokenizer(const struct cfg *cfg, const struct bpe *bpe, struct defects *d);

#endif
