/* test_no_memory.c - every allocation of a call fails once: the call says NO_MEMORY, and repeated
 * without failure it works.
 *
 * The program's own malloc, calloc and realloc stand in front of glibc's, for libpng and libjpeg
 * too. Not under the address sanitizer, which brings its own. */
#include "beam.h"
#include "bpe.h"
#include "chat.h"
#include "image.h"
#include "preprocess.h"
#include "prompt.h"
#include "../unit/sampler_rig.h"
#include "sanitized.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef SANITIZED

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

static long until_failure = -1; /* allocations that still succeed; negative: all */
static bool failed;

static bool fails(void)
{
    if (until_failure < 0)
        return false;
    failed = failed || until_failure == 0;
    return until_failure-- == 0;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    return fails() ? NULL : __libc_realloc(p, size);
}

/* Runs call with its first, second, ... allocation failing until none is left to fail. */
static void sweep(const char *name, enum mll_status (*call)(const void *arg), const void *arg)
{
    for (long n = 0;; n++) {
        failed = false;
        until_failure = n;
        enum mll_status status = call(arg);
        until_failure = -1;
        cr_assert(status == MLL_OK || (failed && status == MLL_ERR_NO_MEMORY),
                  "%s, allocation %ld: %s", name, n, mll_status_name(status));
        if (!failed)
            break;
    }
}

struct file {
    uint8_t bytes[20000];
    size_t size;
};

static enum mll_status decode(const void *arg)
{
    const struct file *f = arg;
    struct image img;
    enum mll_status status = img_decode(&img, f->bytes, f->size, "test", NULL, NULL);
    cr_assert((img.rgb != NULL) == (status == MLL_OK));
    img_free(&img);
    return status;
}

Test(no_memory, decoding_an_image)
{
    static const char *const names[] = {"c6_d16_i.png", "c3_d04_key1.png", "exif_late.png",
                                        "chunks.png",   "base_420.jpg",    "exif_6.jpg",
                                        "cmyk_prog.jpg"};
    static struct file file;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, MLL_SOURCE_DIR "/tests/golden/images/%s", names[i]);
        FILE *f = fopen(path, "rb");
        cr_assert(f != NULL);
        file.size = fread(file.bytes, 1, sizeof file.bytes, f);
        fclose(f);
        sweep(names[i], decode, &file);
    }
}

static enum mll_status make_tiles(const void *arg)
{
    static const struct cfg_preprocess cfg = {
        .size = 8, .max_tiles = 4, .std = {1, 1, 1}, .rescale = 1};
    struct tiles tiles;
    enum mll_status status = pre_tiles(&tiles, arg, &cfg, NULL);
    cr_assert((tiles.pixels != NULL) == (status == MLL_OK));
    pre_tiles_free(&tiles);
    return status;
}

Test(no_memory, cutting_tiles)
{
    static uint8_t rgb[50 * 30 * 3];
    sweep("pre_tiles", make_tiles, &(struct image){.w = 50, .h = 30, .rgb = rgb});
}

static enum mll_status open_sampler(const void *arg)
{
    struct rig rig;
    enum mll_status status = rig_open(&rig, 100, 10, arg, NULL, 0, NULL);
    if (status == MLL_OK)
        rig_close(&rig);
    return status;
}

static enum mll_status open_beams(const void *arg)
{
    struct beam_search *b;
    (void)arg;
    enum mll_status status = beam_open(&b, 3, 100, 5, false, NULL, 0, NULL);
    beam_close(b);
    return status;
}

Test(no_memory, sampler_and_beams)
{
    struct mll_sampling sampling = {
        .do_sample = true, .temperature = 1, .top_p = 1, .repetition_penalty = 2};
    sweep("smp_open", open_sampler, &sampling);
    sweep("beam_open", open_beams, NULL);
}

#define SMALL MLL_SOURCE_DIR "/tests/golden/tokenizer/small/tokenizer.model"

static enum mll_status open_tokenizer(const void *arg)
{
    struct bpe *bpe = NULL;
    enum mll_status status = bpe_open(&bpe, arg, NULL);
    if (status == MLL_OK)
        bpe_close(bpe);
    return status;
}

static enum mll_status encode(const void *arg)
{
    struct bpe_ids ids = {0};
    char text[1000];
    memset(text, 'a', sizeof text); /* a piece that needs the lists */
    enum mll_status status = bpe_encode(arg, &ids, text, sizeof text, true, NULL);
    if (status == MLL_OK)
        status = bpe_add_post_processor(arg, &ids, NULL);
    bpe_ids_free(&ids);
    return status;
}

Test(no_memory, tokenizer)
{
    struct bpe *bpe;
    sweep("tokenizer.json", open_tokenizer,
          MLL_SOURCE_DIR "/tests/fuzz/corpus/tokenizer_file/all.json");
    sweep("tokenizer.model", open_tokenizer, SMALL);
    cr_assert(bpe_open(&bpe, SMALL, NULL) == MLL_OK);
    sweep("bpe_encode", encode, bpe);
    bpe_close(bpe);
}

static enum mll_status ask(const void *arg)
{
    static const char text[] = "{\"messages\": [{\"role\": \"user\", \"content\": ["
                               "{\"type\": \"image\", \"url\": \"data:;base64,AAAA\"},"
                               "{\"type\": \"text\", \"text\": \"What?\"}]}]}";
    struct chat chat;
    struct bpe_ids ids = {0};
    MLL_TRY(chat_parse(&chat, text, sizeof text - 1, "test", NULL));
    struct mll_request request = {
        .messages = chat.messages, .n_messages = chat.n_messages, .n_images = chat.n_images};
    enum mll_status status = prompt_build(arg, &ids, &request, NULL);
    bpe_ids_free(&ids);
    chat_free(&chat);
    return status;
}

Test(no_memory, chat_and_prompt)
{
    struct bpe *bpe;
    struct prompt *prompt;
    cr_assert(bpe_open(&bpe, SMALL, NULL) == MLL_OK);
    cr_assert(prompt_open(&prompt, MLL_SOURCE_DIR "/models/receipts-tiny", bpe, -1,
                          (struct prompt_log){0}, NULL) == MLL_OK);
    sweep("chat", ask, prompt);
    prompt_close(prompt);
    bpe_close(bpe);
}

#else

Test(no_memory, not_under_a_sanitizer)
{
    cr_skip_test("the address sanitizer has its own malloc");
}

#endif
