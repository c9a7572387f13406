/* prompt.h - stage 3: a request becomes token ids.
 *
 * The chat template of Llama-3.2-Vision is written out here; the file of a model only says that
 * there is one. A known other one (the embedded model's, which never adds a system block) is told
 * by its hash; an unknown one is reported to the log and rendered as Llama-3.2-Vision's. Only the
 * template, and the text of a raw prompt, yield special tokens: what a message holds is ordinary
 * text, whatever it spells. Between two special tokens the text is tokenized as a whole, so that
 * harmless text gives the ids that tokenizing the rendered prompt gives. */
#ifndef MLL_PROMPT_H
#define MLL_PROMPT_H

#include "bpe.h"
#include "mllama.h"

#define PROMPT_DEFAULT_DATE "26 Jul 2024"

struct prompt;

struct prompt_log {
    void (*line)(void *user, const char *line); /* NULL: silent */
    void *user;
};

/* Looks for a chat template in dir: chat_template.jinja, else chat_template.json, else the key of
 * tokenizer_config.json. Borrows bpe. image_token: the configuration's; the tokenizer's <|image|>
 * must be the same (MLL_ERR_IMAGE_TOKEN_TOKENIZER); -1 leaves that out. */
enum mll_status prompt_open(struct prompt **prompt, const char *dir, const struct bpe *bpe,
                            int image_token, struct prompt_log log, struct mll_error *err);
void prompt_close(struct prompt *prompt);
bool prompt_has_template(const struct prompt *prompt);

/* Appends the ids of a request's raw prompt, messages or text to ids. MLL_ERR_IMAGE_COUNT where its
 * image tokens are not as many as its images, MLL_ERR_CHAT where messages cannot be rendered. */
enum mll_status prompt_build(const struct prompt *prompt, struct bpe_ids *ids,
                             const struct mll_request *request, struct mll_error *err);

#endif
