/* test_tokenizer_errors.c - every defect of a tokenizer file has its own status and says where. */
#include "bpe.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMALL MLL_SOURCE_DIR "/tests/golden/tokenizer/small/"

static char *read_text(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    char *text = calloc(1, 1 << 20);
    *size = fread(text, 1, (1 << 20) - 1, f);
    fclose(f);
    return text;
}

/* Opens bytes as a file; they must be refused with code, the message holding expected. */
static void check_bytes(const char *bytes, size_t size, enum mll_status code, const char *expected)
{
    char path[] = "/tmp/test_tokenizer_XXXXXX";
    int fd = mkstemp(path);
    cr_assert(write(fd, bytes, size) == (ssize_t)size);
    close(fd);
    struct bpe *bpe = NULL;
    struct mll_error err = {0};
    enum mll_status status = bpe_open(&bpe, path, &err);
    cr_expect(status == code && err.code == code, "expected %s, found %s: %s",
              mll_status_name(code), mll_status_name(status), err.message);
    cr_expect(strstr(err.message, expected) && strstr(err.message, path), "'%s' not in: %s",
              expected, err.message);
    if (status == MLL_OK)
        bpe_close(bpe);
    unlink(path);
}

/* The small vocabulary's file with the first from replaced by to. */
static void check_changed(const char *file, const char *from, const char *to, enum mll_status code,
                          const char *expected)
{
    size_t size;
    char *text = read_text(file, &size), *at = strstr(text, from);
    cr_assert(at, "'%s' is not in %s", from, file);
    size_t tail = size - (size_t)(at - text) - strlen(from);
    memmove(at + strlen(to), at + strlen(from), tail);
    memcpy(at, to, strlen(to));
    check_bytes(text, size - strlen(from) + strlen(to), code, expected);
    free(text);
}

static const struct {
    const char *from, *to;
    enum mll_status code;
    const char *expected;
} changes[] = {
    {"\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}", MLL_ERR_TOKENIZER_NORMALIZER,
     "NFC"},
    {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", MLL_ERR_TOKENIZER_MODEL, "WordPiece"},
    {"\"dropout\":null", "\"dropout\":0.1", MLL_ERR_TOKENIZER_MODEL, "dropout"},
    {"\"end_of_word_suffix\":null", "\"end_of_word_suffix\":\"</w>\"", MLL_ERR_TOKENIZER_MODEL,
     "end_of_word_suffix"},
    {"\"vocab\":", "\"words\":", MLL_ERR_TOKENIZER_MODEL, "'vocab'"},
    {"\"model\":", "\"modem\":", MLL_ERR_TOKENIZER_FILE, "'model'"},
    {"\\\\p{N}{1,3}", "\\\\p{N}", MLL_ERR_TOKENIZER_SPLIT, "p{N}|"},
    {"\"behavior\":\"Isolated\"", "\"behavior\":\"Removed\"", MLL_ERR_TOKENIZER_SPLIT, "Removed"},
    {"\"use_regex\":false", "\"use_regex\":true", MLL_ERR_TOKENIZER_SPLIT, "GPT-2"},
    {"\"type\":\"Split\"", "\"type\":\"Digits\"", MLL_ERR_TOKENIZER_SPLIT, "Digits"},
    {"\"type\":\"Sequence\"", "\"type\":\"Metaspace\"", MLL_ERR_TOKENIZER_SPLIT, "Metaspace"},
    {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"Fuse\"",
     MLL_ERR_TOKENIZER_DECODER, "Fuse"},
    {"TemplateProcessing", "BertProcessing", MLL_ERR_TOKENIZER_TEMPLATE, "BertProcessing"},
    {"\"ids\":[900]", "\"ids\":[99999]", MLL_ERR_TOKENIZER_TEMPLATE, "99999"},
    {"\"ids\":[900]", "\"ids\":[]", MLL_ERR_TOKENIZER_TEMPLATE, "no ids"},
    {"{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", "{}", MLL_ERR_TOKENIZER_TEMPLATE, "step 1"},
    {"\"lstrip\":false", "\"lstrip\":true", MLL_ERR_TOKENIZER_ADDED, "lstrip"},
    {"\"content\":\"<|eot_id|>\"", "\"content\":\"<|image|>\"", MLL_ERR_TOKENIZER_ADDED,
     "same text"},
    {"\"content\":\"<|eot_id|>\"", "\"text\":\"<|eot_id|>\"", MLL_ERR_TOKENIZER_ADDED,
     "added_tokens[9]"},
    {"\"id\":900,\"content\":\"<|begin_of_text|>\"", "\"id\":900,\"content\":\"!\"",
     MLL_ERR_TOKENIZER_ADDED, "the vocabulary gives it 0"},
    {"\"id\":909", "\"id\":908", MLL_ERR_TOKENIZER_DUPLICATE_ID, "<|eom_id|>"},
    {"\"!\":0", "\"!\":1", MLL_ERR_TOKENIZER_DUPLICATE_ID, "id 1"},
    {"\"!\":0", "\"!\":-1", MLL_ERR_TOKENIZER_ID, "-1"},
    {"\"!\":0", "\"!\":1000000", MLL_ERR_TOKENIZER_ID, "1000000"},
    {"\"!\":0", "\"!\":0.5", MLL_ERR_TOKENIZER_ID, "not an integer"},
    {"\"!\":0", "\"!\":\"0\"", MLL_ERR_TOKENIZER_ID, "not an integer"},
    {"\"!\":0", "\"!\":99999999999999999999", MLL_ERR_TOKENIZER_ID, "not an integer"},
    {"\"!\":0", "\"!!\":0", MLL_ERR_TOKENIZER_BYTE, "0x21"},
    {"\"!\":0", "\"! \":0", MLL_ERR_TOKENIZER_TOKEN, "'! '"},
    {"\"!\":0", "\"\\u4e00\":0", MLL_ERR_TOKENIZER_TOKEN, "not byte-level"},
    {"\"!\":0", "\"\":0", MLL_ERR_TOKENIZER_TOKEN, "0 bytes"},
    {"\"!\":0", "\"\\\"\":0", MLL_ERR_TOKENIZER_DUPLICATE_TOKEN, "two ids"},
    {"\"!\":0", "\"!\":0 \"x\":5", MLL_ERR_TOKENIZER_JSON, "model.vocab"},
    {"\"!\":0", "\"\\x\":0", MLL_ERR_TOKENIZER_JSON, "model.vocab"},
    {"\"!\":0", "\"\\ud800\":0", MLL_ERR_TOKENIZER_JSON, "model.vocab"},
    {"\"merges\":[[", "\"merges\":[5,[", MLL_ERR_TOKENIZER_MERGE, "merge 0"},
    {"\"merges\":[[", "\"merges\":[[\"a\"],[", MLL_ERR_TOKENIZER_MERGE, "merge 0"},
    {"\"merges\":[[", "\"merges\":[\"ab\",[", MLL_ERR_TOKENIZER_MERGE, "merge 0"},
    {"\"merges\":[[", "\"merges\":[[\"a\",\"zqzq\"],[", MLL_ERR_TOKENIZER_MERGE_PART, "zqzq"},
    {"\"merges\":[[", "\"merges\":[[\"\",\"a\"],[", MLL_ERR_TOKENIZER_MERGE_PART, "left part"},
    {"\"merges\":[[", "\"merges\":[[\"Q\",\"X\"],[", MLL_ERR_TOKENIZER_MERGE_RESULT, "'Q' and 'X'"},
    {"\"merges\":[[", "\"merges\":{},\"other\":[[", MLL_ERR_TOKENIZER_JSON, "model.merges"},
    {"\"version\":\"1.0\"", "\"version\":1,\"version\":2", MLL_ERR_TOKENIZER_JSON, "duplicate"},
    {"\"version\":\"1.0\"", "\"version\":\"\xff\"", MLL_ERR_TOKENIZER_JSON, "not JSON"},
};

Test(tokenizer_errors, each_defect_of_tokenizer_json_has_its_status)
{
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        check_changed(SMALL "tokenizer.json", changes[i].from, changes[i].to, changes[i].code,
                      changes[i].expected);
}

Test(tokenizer_errors, a_repeated_merge_names_both)
{
    size_t size;
    char *text = read_text(SMALL "tokenizer.json", &size), again[256];
    const char *merges = strstr(text, "\"merges\":[") + strlen("\"merges\":[");
    snprintf(again, sizeof again, "\"merges\":[%.*s,", (int)(strchr(merges, ']') + 1 - merges),
             merges);
    free(text);
    check_changed(SMALL "tokenizer.json", "\"merges\":[", again, MLL_ERR_TOKENIZER_MERGE,
                  "merge 1 repeats merge 0");
}

/* The first lines of the file are "IQ== 0", "Ig== 1". */
static const struct {
    const char *to;
    enum mll_status code;
    const char *expected;
} lines[] = {
    {"IQ==0\n", MLL_ERR_TOKENIZER_LINE, "line 1 "},
    {"I*== 0\n", MLL_ERR_TOKENIZER_LINE, "'I*=='"},
    {"IQ= 0\n", MLL_ERR_TOKENIZER_LINE, "'IQ='"},
    {"\n", MLL_ERR_TOKENIZER_LINE, "line 1 "},
    {"IQ== x\n", MLL_ERR_TOKENIZER_RANK, "line 1"},
    {"IQ== -1\n", MLL_ERR_TOKENIZER_RANK, "line 1"},
    {"IQ== 900\n", MLL_ERR_TOKENIZER_RANK, "below 900"},
    {"IQ== 1\n", MLL_ERR_TOKENIZER_DUPLICATE_ID, "id 1"},
    {"Ig== 0\n", MLL_ERR_TOKENIZER_DUPLICATE_TOKEN, "two ids"},
    {"ISFxcQ== 0\n", MLL_ERR_TOKENIZER_BYTE, "0x21"},
};

Test(tokenizer_errors, each_defect_of_tokenizer_model_has_its_status)
{
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        check_changed(SMALL "tokenizer.model", "IQ== 0\n", lines[i].to, lines[i].code,
                      lines[i].expected);
    check_bytes("", 0, MLL_ERR_TOKENIZER_BYTE, "0x00");
}

Test(tokenizer_errors, nesting_without_end_is_refused)
{
    size_t size = 200000;
    char *text = malloc(size + 1);
    memset(text, '[', size);
    memcpy(text, "{\"a\":", 5);
    check_bytes(text, size, MLL_ERR_TOKENIZER_JSON, "depth");
    free(text);
}

Test(tokenizer_errors, a_file_cut_anywhere_is_refused)
{
    size_t size;
    char *text = read_text(SMALL "tokenizer.json", &size);
    for (size_t n = size - 2; n > 0; n = n * 9 / 10) {
        char path[] = "/tmp/test_tokenizer_XXXXXX";
        int fd = mkstemp(path);
        cr_assert(write(fd, text, n) == (ssize_t)n);
        close(fd);
        struct bpe *bpe;
        struct mll_error err;
        cr_expect(bpe_open(&bpe, path, &err) == MLL_ERR_TOKENIZER_JSON, "cut at %zu", n);
        unlink(path);
    }
    free(text);
}

Test(tokenizer_errors, what_is_no_file_is_said_to_be_none)
{
    struct bpe *bpe;
    struct mll_error err;
    cr_expect(bpe_open(&bpe, "/nonexistent/dir", &err) == MLL_ERR_NOT_FOUND);
    cr_expect(bpe_open(&bpe, MLL_SOURCE_DIR "/engine", &err) == MLL_ERR_NOT_FOUND);
    cr_expect(strstr(err.message, "no tokenizer.json and no tokenizer.model"), "%s", err.message);
    cr_expect(bpe_open(&bpe, "/dev/null", &err) == MLL_ERR_FILE_NOT_REGULAR);
}
